"""The Python guest: a component whose first argument says what to do, as in the other guests.

What it needs is imported here: componentize-py runs the imports when it builds the component, and
no module can be found after that.
"""

# mypy: ignore-errors
# wit_world is made when the component is built.

import encodings.idna  # noqa: F401  a codec that the look-up of a name wants
import os
import socket
import sys
import time
import urllib.parse

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import exit as wasi_exit
from wit_world.imports import outgoing_handler
from wit_world.imports import wasi_http_types as http


def hello(*_):
    print("hello from Python in wasm")
    for number, arg in enumerate(sys.argv):
        print(f"arg {number}: {arg}")
    for name, value in os.environ.items():
        print(f"env: {name}={value}")


def leave(code):
    sys.stdout.flush()
    wasi_exit.exit_with_code(int(code))  # sys.exit, as componentize-py has it, knows 0 and 1


def write(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")


def read(path):
    with open(path) as file:
        print(file.read(), end="")


def echo():
    for line in sys.stdin:
        print(line, end="", flush=True)


def clock_and_random():
    print("time", int(time.time()))
    for _ in range(2):
        print("random", os.urandom(8).hex())


def count(milliseconds):
    number = 0
    while True:
        print("line", number, flush=True)
        number += 1
        time.sleep(int(milliseconds) / 1000)


def lookup(name):
    for *_, address in socket.getaddrinfo(name, 0, socket.AF_INET, socket.SOCK_STREAM):
        print("address", address[0])


def connect(name, port, text):
    with socket.create_connection((name, int(port))) as peer:
        peer.sendall(text.encode())
        peer.shutdown(socket.SHUT_WR)
        while data := peer.recv(4096):
            print(data.decode(), end="")


def serve(port):
    listener = socket.socket()
    listener.bind(("0.0.0.0", int(port)))
    listener.listen()
    print("serving", flush=True)
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(peer.makefile("rb").readline())


def fetch(url):
    """GET over wasi:http."""
    parts = urllib.parse.urlsplit(url)
    request = http.OutgoingRequest(http.Fields.from_list([]))
    request.set_scheme(http.Scheme_Http())
    request.set_authority(parts.netloc)
    request.set_path_with_query(parts.path)
    # A resource must go before the one that it came from: the ends of `with` are in that order.
    with outgoing_handler.handle(request, None) as future:
        with future.subscribe() as ready:
            ready.block()
        answer = future.get()
        if not isinstance(answer, Ok) or not isinstance(answer.value, Ok):
            raise OSError(str(answer))
        with answer.value.value as response, response.consume() as body, body.stream() as stream:
            print("status", response.status())
            print(stream.blocking_read(4096).decode(), end="")


VERBS = {
    "hello": hello,
    "exit": leave,
    "write": write,
    "read": read,
    "echo": echo,
    "time": clock_and_random,
    "count": count,
    "lookup": lookup,
    "connect": connect,
    "serve": serve,
    "fetch": fetch,
}


class Run(exports.Run):
    def run(self):
        verb, *rest = sys.argv[1:] or ["hello"]
        VERBS[verb](*rest)
        sys.stdout.flush()
