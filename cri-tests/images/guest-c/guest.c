/* The C guest: one WASI preview 1 program whose first argument says what to do.
 * It has the same commands as the Go guest, and the ones that only C can: trap and spin. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void nap(long milliseconds) {
    struct timespec length = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&length, &length) != 0 && errno == EINTR) {
    }
}

static int fail(const char *what) {
    fprintf(stderr, "guest: %s: %s\n", what, strerror(errno));
    return 1;
}

static int hello(int argc, char **argv) {
    printf("hello from C in wasm\n");
    for (int i = 0; i < argc; i++) printf("arg %d: %s\n", i, argv[i]);
    for (char **entry = environ; *entry; entry++) printf("env: %s\n", *entry);
    return 0;
}

static int copy_out(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return fail(path);
    for (int c; (c = getc(file)) != EOF;) putchar(c);
    fclose(file);
    return 0;
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "a");
    if (!file) return fail(path);
    fprintf(file, "%s\n", text);
    return fclose(file) == 0 ? 0 : fail(path);
}

/* Prints a number per line for ever, `milliseconds` apart. */
static int count(long milliseconds) {
    for (long i = 0;; i++) {
        printf("line %ld\n", i);
        fflush(stdout);
        nap(milliseconds);
    }
}

static int flood(long bytes) {
    char line[4096];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (long sent = 0; sent < bytes; sent += sizeof line) fwrite(line, 1, sizeof line, stdout);
    return 0;
}

static int echo_input(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "hello";
    const char *first = argc > 2 ? argv[2] : "0";
    if (!strcmp(verb, "hello")) return hello(argc, argv);
    if (!strcmp(verb, "exit")) return atoi(first);
    if (!strcmp(verb, "trap")) __builtin_trap();
    if (!strcmp(verb, "spin")) for (volatile long i = 0;; i++) {}
    if (!strcmp(verb, "sleep")) return nap(atol(first) * 1000), 0;
    if (!strcmp(verb, "count")) return count(atol(first));
    if (!strcmp(verb, "flood")) return flood(atol(first));
    if (!strcmp(verb, "echo")) return echo_input();
    if (!strcmp(verb, "read")) return copy_out(first);
    if (!strcmp(verb, "write")) return write_file(first, argc > 3 ? argv[3] : "");
    fprintf(stderr, "guest: unknown command %s\n", verb);
    return 64;
}
