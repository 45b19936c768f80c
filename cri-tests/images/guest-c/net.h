/* TCP and name look-up of the C guest; preview1.c and sockets.c each have their own. A function that
 * gives an int gives the guest's exit code. */
#include <stddef.h>

enum { REQUEST_ROOM = 8192, REPLY_ROOM = 2 * REQUEST_ROOM };

/* Prints the IPv4 addresses of a name. */
int net_lookup(const char *name);

/* Sends a text, says that this was all, and prints what comes back. */
int net_connect(const char *name, int port, const char *text);

/* Answers each connection on a port, for ever: with `body`, or the request's first line if NULL. */
int net_serve(int port, const char *body);

/* True when a request is all there: a line, or for HTTP its head. */
int net_whole(const char *request);

/* Writes the answer to a request into REPLY_ROOM bytes, as HTTP if that is what it is; gives its
 * length. It cuts the request after its first line. */
size_t net_reply(char *reply, char *request, const char *body);
