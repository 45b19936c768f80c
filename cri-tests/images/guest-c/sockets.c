/* net.h over wasi:sockets 0.2, for the component: wasi-libc of preview 1 has no calls for it. The
 * imports are written as the component model's canonical ABI lowers them; what comes back in
 * memory is read at the offsets that it defines. */
#include "net.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FROM(interface, name) \
    __attribute__((import_module("wasi:" interface "@0.2.12"), import_name(name)))
#define SOCKET "[method]tcp-socket."

typedef int32_t handle;
enum { IPV4 = 0, WOULD_BLOCK = 8 };
/* ip-socket-address, flat: a tag, then the longer of its two cases. */
#define ADDRESS \
    int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, \
        int32_t, int32_t
#define FLAT(port, ip) IPV4, port, ip[0], ip[1], ip[2], ip[3], 0, 0, 0, 0, 0, 0

FROM("sockets/instance-network", "instance-network") handle instance_network(void);
FROM("sockets/tcp-create-socket", "create-tcp-socket") void create_tcp(int32_t family, void *out);
FROM("sockets/tcp", SOCKET "start-bind") void start_bind(handle, handle network, ADDRESS, void *out);
FROM("sockets/tcp", SOCKET "finish-bind") void finish_bind(handle, void *out);
FROM("sockets/tcp", SOCKET "start-listen") void start_listen(handle, void *out);
FROM("sockets/tcp", SOCKET "finish-listen") void finish_listen(handle, void *out);
FROM("sockets/tcp", SOCKET "accept") void accept_one(handle, void *out);
FROM("sockets/tcp", SOCKET "start-connect")
void start_connect(handle, handle network, ADDRESS, void *out);
FROM("sockets/tcp", SOCKET "finish-connect") void finish_connect(handle, void *out);
FROM("sockets/tcp", SOCKET "shutdown") void shut_down(handle, int32_t how, void *out);
FROM("sockets/tcp", SOCKET "subscribe") handle socket_ready(handle);
FROM("sockets/tcp", "[resource-drop]tcp-socket") void drop_socket(handle);
FROM("sockets/ip-name-lookup", "resolve-addresses")
void resolve(handle network, const char *name, size_t length, void *out);
FROM("sockets/ip-name-lookup", "[method]resolve-address-stream.resolve-next-address")
void next_address(handle, void *out);
FROM("sockets/ip-name-lookup", "[method]resolve-address-stream.subscribe")
handle addresses_ready(handle);
FROM("io/streams", "[method]input-stream.blocking-read")
void blocking_read(handle, int64_t most, void *out);
FROM("io/streams", "[method]output-stream.blocking-write-and-flush")
void blocking_write(handle, const void *data, size_t length, void *out);
FROM("io/streams", "[resource-drop]input-stream") void drop_input(handle);
FROM("io/streams", "[resource-drop]output-stream") void drop_output(handle);
FROM("io/poll", "[method]pollable.block") void block(handle);
FROM("io/poll", "[resource-drop]pollable") void drop_pollable(handle);

/* wasi:cli/run. With a `_start` in its place, wasm-ld would wrap each export, cabi_realloc too, in
 * the start and the end of a program. */
FROM("cli/exit", "exit-with-code") void exit_with_code(int32_t);
extern int __main_void(void);
__attribute__((export_name("wasi:cli/run@0.2.12#run"))) int32_t run(void) {
    int code = __main_void();
    if (fflush(NULL) != 0) code = 1;
    if (code > 1) exit_with_code(code);
    return code; /* result<_, _>: 1 is an error */
}

/* What lists are returned in. */
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(
    void *old, size_t old_size, size_t align, size_t new_size) {
    (void)old_size, (void)align; /* malloc's alignment is enough for bytes */
    void *found = realloc(old, new_size);
    if (!found) abort();
    return found;
}

/* result<handles, error-code>: a tag, then at 4 the handles or the code. */
typedef struct {
    uint8_t failed;
    union {
        uint8_t code;
        handle handles[3];
    };
} made;

/* result<_, error-code> */
typedef struct {
    uint8_t failed, code;
} status;

/* result<list<u8>, stream-error> */
typedef struct {
    uint8_t failed;
    char *data;
    size_t length;
} bytes;

/* result<option<ip-address>, error-code>; the address is aligned to 2. */
typedef struct {
    uint8_t failed, unused, some, unused_too, family, unused_three, ip[16];
} address;

static int fail(const char *what, int code) {
    fprintf(stderr, "guest: %s: wasi:sockets error %d\n", what, code);
    return 1;
}

static void wait_for(handle pollable) {
    block(pollable);
    drop_pollable(pollable);
}

static int look_up(const char *name, uint8_t ip[4], int print) {
    made stream;
    resolve(instance_network(), name, strlen(name), &stream);
    if (stream.failed) return fail(name, stream.code);
    for (int found = 0;;) {
        address next;
        next_address(stream.handles[0], &next);
        if (next.failed && next.some != WOULD_BLOCK) return fail(name, next.some);
        if (next.failed) {
            wait_for(addresses_ready(stream.handles[0]));
        } else if (!next.some) {
            return found ? 0 : fail(name, 0);
        } else if (next.family == IPV4) {
            if (!found++) memcpy(ip, next.ip, 4);
            if (print)
                printf("address %d.%d.%d.%d\n", next.ip[0], next.ip[1], next.ip[2], next.ip[3]);
        }
    }
}

int net_lookup(const char *name) {
    uint8_t ip[4];
    return look_up(name, ip, 1);
}

static int write_all(handle output, const char *data, size_t length) {
    while (length) {
        size_t part = length < 4096 ? length : 4096; /* the most that the interface takes */
        bytes done;
        blocking_write(output, data, part, &done);
        if (done.failed) return 1;
        data += part, length -= part;
    }
    return 0;
}

int net_connect(const char *name, int port, const char *text) {
    uint8_t ip[4];
    if (look_up(name, ip, 0)) return 1;
    made socket, streams;
    status begun;
    create_tcp(IPV4, &socket);
    if (socket.failed) return fail("create-tcp-socket", socket.code);
    handle own = socket.handles[0];
    start_connect(own, instance_network(), FLAT(port, ip), &begun);
    if (begun.failed) return fail("start-connect", begun.code);
    wait_for(socket_ready(own));
    finish_connect(own, &streams);
    if (streams.failed) return fail("finish-connect", streams.code);
    handle input = streams.handles[0], output = streams.handles[1];
    if (write_all(output, text, strlen(text))) return fail("write", 0);
    shut_down(own, 1, &begun);
    for (bytes got;;) {
        blocking_read(input, 4096, &got);
        if (got.failed) break; /* the end, too, is an error: closed */
        fwrite(got.data, 1, got.length, stdout);
        free(got.data);
    }
    return fflush(stdout);
}

static void answer(handle input, handle output, const char *body) {
    char request[REQUEST_ROOM] = "", reply[REPLY_ROOM];
    for (size_t length = 0; length < sizeof request - 1 && !net_whole(request);) {
        bytes got;
        blocking_read(input, (int64_t)(sizeof request - 1 - length), &got);
        if (got.failed) break;
        memcpy(request + length, got.data, got.length);
        length += got.length;
        request[length] = 0;
        free(got.data);
    }
    write_all(output, reply, net_reply(reply, request, body));
}

int net_serve(int port, const char *body) {
    const uint8_t any[4] = {0, 0, 0, 0};
    made socket, one;
    status done;
    create_tcp(IPV4, &socket);
    if (socket.failed) return fail("create-tcp-socket", socket.code);
    handle own = socket.handles[0];
    start_bind(own, instance_network(), FLAT(port, any), &done);
    if (!done.failed) finish_bind(own, &done);
    if (done.failed) return fail("bind", done.code);
    start_listen(own, &done);
    if (!done.failed) finish_listen(own, &done);
    if (done.failed) return fail("listen", done.code);
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        accept_one(own, &one);
        if (one.failed && one.code != WOULD_BLOCK) return fail("accept", one.code);
        if (one.failed) {
            wait_for(socket_ready(own));
            continue;
        }
        answer(one.handles[1], one.handles[2], body);
        drop_input(one.handles[1]);
        drop_output(one.handles[2]);
        drop_socket(one.handles[0]);
    }
}
