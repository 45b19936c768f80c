/* The C guest: one program whose first argument says what to do. It has the same commands as the Go
 * guest, and the ones that only C can: trap, grow and those of net.h. It is built as a WASI preview 1
 * module (preview1.c) and as a component (sockets.c). */
#include "net.h"

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

/* The time of day, and eight random bytes twice. */
static int clock_and_random(void) {
    printf("time %lld\n", (long long)time(NULL));
    for (int line = 0; line < 2; line++) {
        unsigned char bytes[8];
        if (getentropy(bytes, sizeof bytes) != 0) return fail("getentropy");
        printf("random ");
        for (size_t i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
        printf("\n");
    }
    return 0;
}

/* Asks for memory until there is no more, and goes on: says how much it got, and stays. */
static int grow(void) {
    static char *volatile kept;
    size_t total = 0;
    for (char *more; (more = malloc(1 << 20)); total += 1 << 20) {
        memset(more, 1, 1 << 20);
        kept = more;
    }
    printf("grown %zu MiB, then %s, %d\n", total >> 20, strerror(errno), kept != NULL);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "hello";
    const char *first = argc > 2 ? argv[2] : "0";
    const char *second = argc > 3 ? argv[3] : "";
    if (!strcmp(verb, "hello")) return hello(argc, argv);
    if (!strcmp(verb, "exit")) return atoi(first);
    if (!strcmp(verb, "trap")) __builtin_trap();
    if (!strcmp(verb, "spin")) for (volatile long i = 0;; i++) {}
    if (!strcmp(verb, "sleep")) return nap(atol(first) * 1000), 0;
    if (!strcmp(verb, "count")) return count(atol(first));
    if (!strcmp(verb, "flood")) return flood(atol(first));
    if (!strcmp(verb, "echo")) return echo_input();
    if (!strcmp(verb, "read")) return copy_out(first);
    if (!strcmp(verb, "write")) return write_file(first, second);
    if (!strcmp(verb, "time")) return clock_and_random();
    if (!strcmp(verb, "grow")) return grow();
    if (!strcmp(verb, "serve")) {
        if (argc > 4) printf("%s\n", argv[4]); /* a title, for those who look for it */
        return net_serve(atoi(first), argc > 3 ? second : NULL);
    }
    if (!strcmp(verb, "connect")) return net_connect(first, atoi(second), argc > 4 ? argv[4] : "");
    if (!strcmp(verb, "lookup")) return net_lookup(first);
    fprintf(stderr, "guest: unknown command %s\n", verb);
    return 64;
}
