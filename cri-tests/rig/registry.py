"""A read-only image registry on the cell's loopback, which stands for the public ones.

It serves one OCI layout folder by the pull half of the OCI distribution specification, and takes
nothing: no push, no login. Run as `python -m rig.registry FOLDER PORT`.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rig.cell import Cell
from rig.oci import MANIFEST, digest
from rig.paths import CRI_TESTS
from rig.shell import Daemon, RigError, until

PORT = 5000
_REQUEST = re.compile(r"/v2/(?P<name>[\w./-]+)/(?P<kind>manifests|blobs)/(?P<ref>[\w.:-]+)")


def names(folder: Path) -> dict[tuple[str, str], str]:
    """(repository without its host, tag) -> manifest digest, from the layout's index."""
    found = {}
    for one in json.loads((folder / "index.json").read_text())["manifests"]:
        repository, _, tag = one["annotations"]["io.containerd.image.name"].rpartition(":")
        found[repository.partition("/")[2], tag] = one["digest"]
    return found


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    tags = names(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.rstrip("/") == "/v2":
                self._send(200, "application/json", b"{}", body)
                return
            match = _REQUEST.fullmatch(path)
            blob = self._blob(match) if match else None
            if blob is None or not match:
                self._send(404, "application/json", b'{"errors":[]}', body)
                return
            manifest = match["kind"] == "manifests"
            self._send(200, MANIFEST if manifest else "application/octet-stream", blob, body)

        def _blob(self, match: re.Match[str]) -> bytes | None:
            reference = match["ref"]
            if match["kind"] == "manifests" and ":" not in reference:
                reference = tags.get((match["name"], reference), "")
            file = folder / "blobs" / reference.replace(":", "/")
            return file.read_bytes() if ":" in reference and file.is_file() else None

        def _send(self, code: int, kind: str, data: bytes, body: bool) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if code == 200:
                self.send_header("Docker-Content-Digest", digest(data))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


class Registry:
    """The registry as a process in a cell; a context manager."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self._cell = cell
        self._folder = folder
        self._daemon: Daemon | None = None

    def __enter__(self) -> "Registry":
        argv = [sys.executable, "-m", "rig.registry", str(self._folder), str(PORT)]
        log = self._cell.home / "registry.log"
        env = {"PYTHONPATH": str(CRI_TESTS)}
        self._daemon = Daemon(self._cell.inside(argv), log, env=env)
        until("the registry to listen", self._listens, timeout=15)
        return self

    def _listens(self) -> bool:
        assert self._daemon
        if not self._daemon.alive():
            raise RigError(f"the registry ended:\n{self._daemon.tail()}")
        return "serving" in self._daemon.log.read_text()

    def __exit__(self, *_: object) -> None:
        if self._daemon:
            self._daemon.stop()

    def redirect(self, certs: Path, *hosts: str) -> None:
        """Makes containerd take images of these hosts from here (its hosts.toml)."""
        url = f"http://127.0.0.1:{PORT}"
        text = f'server = "{url}"\n\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
        for host in hosts:
            (certs / host).mkdir(parents=True, exist_ok=True)
            (certs / host / "hosts.toml").write_text(text)


def main(folder: str, port: str) -> None:
    """Serves until it is killed."""
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), _handler(Path(folder)))
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
