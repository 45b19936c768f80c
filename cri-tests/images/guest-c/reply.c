/* What the C guest answers, whichever way the bytes travel. */
#include "net.h"

#include <stdio.h>
#include <string.h>

static int http(const char *request) { return !strncmp(request, "GET ", 4); }

int net_whole(const char *request) { return strstr(request, http(request) ? "\r\n\r\n" : "\n") != NULL; }

size_t net_reply(char *reply, char *request, const char *body) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n";
    size_t length = 0;
    request[strcspn(request, "\r\n")] = 0;
    const char *text = body ? body : request;
    if (http(request)) length = (size_t)snprintf(reply, REPLY_ROOM, head, strlen(text) + 1);
    int more = snprintf(reply + length, REPLY_ROOM - length, "%s\n", text);
    size_t all = length + (size_t)more;
    return all < REPLY_ROOM ? all : REPLY_ROOM - 1;
}
