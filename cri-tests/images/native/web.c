/* A web server of one page, in the place of nginx and httpd: PROGRAM PORT NAME. critest looks for a
 * "master process" by nginx's title, for its pid file, and for httpd's name in its log. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char page[] =
    "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
    "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head>"
    "<body><h1>Welcome to nginx!</h1><h1>It works!</h1></body></html>\n";

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static void answer(int fd) {
    char request[4096];
    struct timeval limit = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (read(fd, request, sizeof request) > 0 && write(fd, page, sizeof page - 1) < 0) perror("write");
    close(fd);
}

static void end(int signum) {
    (void)signum;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[2], "nginx") && !strstr(argv[0], "master process")) {
        char *titled[] = {"nginx: master process nginx", argv[1], argv[2], 0};
        execv(argv[0], titled);
        perror(argv[0]);
        return 1;
    }
    int fd = listen_on(argc > 1 ? atoi(argv[1]) : 80);
    FILE *file = fopen("/var/run/nginx.pid", "w");
    signal(SIGTERM, end);
    signal(SIGQUIT, end);
    signal(SIGPIPE, SIG_IGN);
    if (file) {
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
    }
    printf("%s: serving\n", argc > 2 ? argv[2] : "web");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, 0, 0);
        if (peer >= 0) answer(peer);
    }
}
