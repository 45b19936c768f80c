"""Paths inside a root: whatever links there are, nothing outside is touched."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copepod.child import wire
from copepod.linux import path

pytestmark = pytest.mark.pure

NAME = st.sampled_from(["a", "b", "c", ".."])
PATH = st.lists(NAME, min_size=1, max_size=5).map("/".join)
TARGET = st.builds(lambda absolute, text: "/" * absolute + text, st.booleans(), PATH)


@contextmanager
def tree() -> Iterator[tuple[Path, int]]:
    """A root inside of a folder, so that what escapes is seen."""
    outer = Path(tempfile.mkdtemp())
    root = outer / "x/y/root"
    root.mkdir(parents=True)
    fd = os.open(root, os.O_PATH)
    try:
        yield root, fd
    finally:
        os.close(fd)
        shutil.rmtree(outer)


def outside(root: Path) -> list[str]:
    outer = root.parents[2]
    return sorted(str(one) for one in outer.rglob("*") if not one.is_relative_to(root))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(PATH, TARGET), max_size=4), TARGET, st.booleans())
def test_links_lead_nowhere_else(links: list[tuple[str, str]], wanted: str, is_dir: bool) -> None:
    with tree() as (root, fd):
        for name, target in links:
            place = root / name.replace("..", "d")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(target)
            except OSError:
                continue
        before = outside(root)
        make = path.make_dir if is_dir else path.make_file
        try:
            made = make(fd, wanted)
        except OSError:
            made = -1
        if made >= 0:
            place = Path(os.readlink(f"/proc/self/fd/{made}"))
            assert place.is_relative_to(root)
            os.close(made)
        assert outside(root) == before


def test_a_dangling_link_is_made_where_it_leads_inside() -> None:
    with tree() as (root, fd):
        (root / "var").mkdir()
        (root / "var/run").symlink_to("/run")
        os.close(path.make_dir(fd, "/var/run/secrets/token"))
        os.close(path.make_file(fd, "/var/run/secrets/file"))
        (root / "hosts").symlink_to("../../etc/hosts")
        os.close(path.make_file(fd, "hosts"))
        assert (root / "run/secrets/token").is_dir()
        assert (root / "run/secrets/file").is_file()
        assert (root / "etc/hosts").is_file()


def test_a_file_in_the_way_and_links_without_end() -> None:
    with tree() as (root, fd):
        (root / "file").touch()
        (root / "loop").symlink_to("loop/x")
        with pytest.raises(NotADirectoryError):
            path.make_dir(fd, "/file/below")
        with pytest.raises(NotADirectoryError):
            path.make_dir(fd, "/file")
        with pytest.raises(OSError, match="levels of symbolic links"):
            path.make_dir(fd, "/loop/y")


def test_magic_links_are_refused() -> None:
    slash = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError, match="levels of symbolic links"):
            path.open_in_root(slash, f"/proc/self/fd/{slash}", os.O_PATH)
    finally:
        os.close(slash)


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
def test_messages_come_back_as_they_were(words: list[str]) -> None:
    sent = wire.encode(*words)
    clean = tuple(
        word.encode("utf-8", "surrogatepass").replace(b"\0", b" ").decode("utf-8", "surrogatepass")
        for word in words
    )
    assert wire.decode(sent) == clean


def test_an_overlong_field_is_cut() -> None:
    assert len(wire.encode("tag", "x" * 100_000)) < wire.MAX_MESSAGE


def test_news_on_the_wire_are_seen_and_stay_there() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    high = socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000))
    child = wire.Wire(high)
    assert not child.has_news()
    ours.send(wire.encode("go", "now"))
    assert child.has_news()
    assert child.hear("go") == (("now",), [])
    assert not child.has_news()
    ours.close()
    assert child.has_news()
    with pytest.raises(ConnectionError):
        child.hear("go")
    child.close()
    theirs.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
