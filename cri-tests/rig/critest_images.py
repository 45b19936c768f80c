"""The images that critest asks for, made from Debian's static busybox and a few lines of C.

They have the names and the traits that the specs look at, nothing else. The one that critest
names by a digest cannot be made: that spec fails for every runtime here.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from rig import guests, images, oci
from rig.oci import Entry, Image

E2E = "registry.k8s.io/e2e-test-images"
STAGING = "gcr.io/k8s-staging-cri-tools"
HOSTS = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
HOST_PORT = "12003"  # critest's consts: the port of its web server in the host's network
PAUSES = ("registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9")


def _web(name: str, title: str, port: str = "80") -> Image:
    program = f"/usr/sbin/{title}"
    entry = Entry(program[1:], guests.native("web").read_bytes())
    return images.busybox(name, extra=[entry], Cmd=[program, port, title])


# Makes an image of tools: takes a name and further entries.
Tools = Callable[[str, Iterable[Entry]], Image]


def _busybox(name: str, extra: Iterable[Entry]) -> Image:
    return images.busybox(name, extra=extra)


def users(tools: Tools = _busybox) -> list[Image]:
    """The images that name a user, made of `tools`."""
    base = tools(images.BUSYBOX, ())
    grouped = {
        "etc/passwd": images.PASSWD + "default-user:x:1000:1000::/home:/bin/sh\n",
        "etc/group": images.GROUP
        + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
    }
    extra = [Entry(path, text.encode(), 0o644) for path, text in grouped.items()]
    users = {
        "test-image-user-uid": "1002",
        "test-image-user-username": "www-data",
        "test-image-user-uid-group": "1003:users",
        "test-image-user-username-group": "www-data:100",
    }
    found = [
        images.with_user(base, f"{STAGING}/{name}:latest", user) for name, user in users.items()
    ]
    group = tools(f"{STAGING}/test-image-predefined-group:latest", extra)
    return [*found, images.with_user(group, group.name, "1000")]


def _marked(*names: str, labelled: bool = True) -> list[Image]:
    """Small images; without `labelled` they are one image under several names."""
    layers = images.pause().layers
    return [Image(name, layers, {"Cmd": ["/pause"]}, labelled=labelled) for name in names]


def catalogue() -> list[Image]:
    """All of them."""
    setuid = Entry("nnp", guests.native("nonewprivs").read_bytes(), 0o4755)
    return [
        images.pause(),
        images.busybox(f"{E2E}/busybox:1.29-2"),
        _web(f"{E2E}/nginx:1.14-2", "nginx"),
        _web(f"{E2E}/httpd:2.4.39-4", "httpd"),
        _web(f"{STAGING}/hostnet-nginx-{oci.machine()}:latest", "nginx", HOST_PORT),
        images.busybox(f"{E2E}/nonewprivs:1.3", extra=[setuid], Cmd=["/nnp"]),
        *users(),
        *_marked(f"{STAGING}/test-image-latest:latest", f"{STAGING}/test-image-tag:test"),
        *_marked(f"{STAGING}/test-image-tag:all"),
        *_marked(*(f"{STAGING}/test-image-{number}:latest" for number in (1, 2, 3))),
        *_marked(*(f"{STAGING}/test-image-tags:{tag}" for tag in (1, 2, 3)), labelled=False),
        *(
            Image(name, images.pause().layers, {"Entrypoint": ["/pause"]}, labelled=False)
            for name in PAUSES
        ),
    ]


def layout(folder: Path, found: Iterable[Image]) -> Path:
    """Writes images as the registry's folder; gives it."""
    archive = oci.Archive()
    for image in found:
        archive.add(image)
    archive.write_folder(folder)
    return folder
