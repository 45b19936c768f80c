/* A hostile container's program, for the tests: see test_walls_hostile.py.

As the dynamic loader of the container it is run, by the kernel, in place of any program of the
node that the container gets executed; it keeps hold of that program's file and becomes itself
again, and then tries to write into the file until nobody runs it any more. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int grab(void) {
    int fd = open("/proc/self/exe", O_PATH);
    if (fd < 0) {
        printf("no exe %d\n", errno);
        return 1;
    }
    dup2(fd, 9);
    execl("/evil", "/evil", "write", (char *)0);
    printf("no exec %d\n", errno);
    return 1;
}

static int overwrite(void) {
    printf("grabbed\n");
    fflush(stdout);
    for (int tries = 0; tries < 500; tries++) {
        int fd = open("/proc/self/fd/9", O_WRONLY);
        if (fd >= 0) {
            printf("written\n");
            return 0;
        }
        if (errno != ETXTBSY) {
            printf("refused %s\n", strerrorname_np(errno));
            return 0;
        }
        usleep(20000);
    }
    printf("busy\n");
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "write"))
        return overwrite();
    return grab();
}
