/* net.h in WASI preview 1, which can accept on a socket that it was given and no more. */
#include "net.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 3 }; /* the first of LISTEN_FDS */

int net_lookup(const char *name) {
    fprintf(stderr, "guest: %s: preview 1 looks up no names\n", name);
    return 1;
}

int net_connect(const char *name, int port, const char *text) {
    (void)text;
    fprintf(stderr, "guest: %s:%d: preview 1 makes no connections\n", name, port);
    return 1;
}

int net_serve(int port, const char *body) {
    (void)port; /* copepod.dev/listen says it */
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        int fd = accept(LISTENER, NULL, NULL);
        if (fd < 0) return perror("guest: accept"), 1;
        char request[REQUEST_ROOM] = "", reply[REPLY_ROOM];
        for (size_t length = 0; length < sizeof request - 1 && !net_whole(request);) {
            ssize_t got = recv(fd, request + length, sizeof request - 1 - length, 0);
            if (got <= 0) break;
            length += (size_t)got;
            request[length] = 0;
        }
        size_t left = net_reply(reply, request, body);
        for (const char *next = reply; left > 0;) {
            ssize_t sent = send(fd, next, left, 0);
            if (sent <= 0) break;
            next += sent, left -= (size_t)sent;
        }
        close(fd);
    }
}
