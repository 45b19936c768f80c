// The C guest of the engine's tests: the first word says what to do.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int deep(volatile int *count) {
  volatile int here[64] = {0};
  *count += 1;
  return deep(count) + here[*count % 64];
}

static char *volatile kept;

static int divide(int by) { return 10 / by; }

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (!strcmp(what, "exit")) return atoi(argv[2]);
  if (!strcmp(what, "abort")) abort();
  if (!strcmp(what, "trap")) __builtin_trap();
  if (!strcmp(what, "divide")) return divide(argc - 2);
  if (!strcmp(what, "deep")) {
    int count = 0;
    return deep(&count);
  }
  if (!strcmp(what, "grow")) {
    size_t step = 16 << 20, total = 0;
    for (;;) {
      char *more = malloc(step);
      if (!more) {
        printf("grown %zu MiB, then %s\n", total >> 20, strerror(errno));
        return 0;
      }
      memset(more, 1, step);
      kept = more;
      total += step;
      if (total > ((size_t)2 << 30)) return 2;
    }
  }
  if (!strcmp(what, "spin")) {
    volatile uint32_t count = 0;
    for (;;) count += 1;
  }
  if (!strcmp(what, "relative") || !strcmp(what, "open")) {
    FILE *file = fopen(argv[2], argc > 3 ? argv[3] : "r");
    char line[64] = "";
    if (file) fgets(line, sizeof line, file);
    printf("%s\n", file ? line : strerror(errno));
    return 0;
  }
  printf("hello from C, no newline at the end");
  return 0;
}
