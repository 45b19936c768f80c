"""The fork of a container's first process, or of one that joins it: into the right pid namespace,
with everything imported, by a process that stays where it is.

It knows what a child needs and not what it is for.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.child import going, hiding, main, signals
from copepod.container.talk import Talk
from copepod.linux import caps, cgroup, libc, ns, procfs, sibling, sigmask
from copepod.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from copepod.child.job import Job
    from copepod.engine.limits import Knobs


class Engine:
    """The engine's room for the child: imported, and its library mapped, before the fork."""

    def __init__(self, limits: Knobs | None, toolbox: Knobs | None = None) -> None:
        from copepod.engine import capi, run
        from copepod.engine.limits import Knobs, Preopen

        capi.library()
        capi.pin_name_lookup()
        self._run, self._preopen, self._knobs = run, Preopen, limits or Knobs()
        self._toolbox = toolbox or Knobs()
        self._ahead: run.Ahead | None = None

    def prepare(self) -> None:
        self._ahead = self._run.Ahead(self._knobs.profile(), self._knobs.tiers()[0])

    def prepare_more(self) -> None:
        if self._ahead is not None:
            self._ahead.link()

    def load(self, fd: int, kind: str, *, toolbox: bool = False) -> object:
        if toolbox and self._knobs is not self._toolbox:
            self._knobs, self._ahead = self._toolbox, None
        try:
            return self._run.load(fd, kind, self._knobs.profile(), self._ahead)
        except self._run.Unusable as error:
            raise LookupError(str(error)) from None

    def link(
        self,
        loaded: object,
        args: list[str],
        env: list[str],
        cwd: str,
        entry: str,
        folders: dict[str, str],
    ) -> going.Guest:
        knobs = self._knobs
        if folders:
            more = tuple(
                self._preopen(path, name, writable=False) for name, path in folders.items()
            )
            knobs = replace(knobs, preopens=(*knobs.preopens, *more))
        options = self._run.Options(args=args, env=env, cwd=cwd, entry=entry or None, knobs=knobs)
        guest: going.Guest = self._run.link(loaded, options)  # type: ignore[arg-type]  # ours
        return guest


def fork(job: Job, engine: Engine | None) -> Talk:
    """Forks the child, into its pid namespace where it has one; all signals are blocked
    meanwhile, so that no handler of ours runs in it."""
    prepare()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with sigmask.all_blocked(), _pid_namespace(job):
            pid, groups = cgroup.fork(job.cgroup_fds)
            if pid == 0:
                _be_child(job, groups, theirs, engine)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Talk(ours, pid, middle=is_middle(job))


def _be_child(
    job: Job, groups: tuple[int, ...], sock: socket.socket, engine: Engine | None
) -> NoReturn:
    try:
        main.run(job, groups, sock, engine)
    finally:
        os._exit(going.FAILED)


def is_middle(job: Job) -> bool:
    """Whether the forked process makes another one that stays in its place."""
    return job.kind == "exec" or job.namespaces.middle


@contextmanager
def _pid_namespace(job: Job) -> Iterator[None]:
    """Children that are forked inside are born into the wanted pid namespace; this process stays
    where it is (pid_namespaces(7)), and is set back in any case."""
    if job.kind == "exec":
        # Joined by the process in between: it must not be seen in the container's /proc.
        yield
        return
    names = job.namespaces
    if names.middle or not (names.new_pid or names.pid_path):
        yield
        return
    with ns.pid_kept():  # whose end only the parent comes to: the child leaves by os._exit
        try:
            if names.new_pid:
                ns.unshare(ns.CLONE_NEWPID)
            else:
                _enter_pid(names.pid_path)
        except OSError as error:
            text = f"pid namespace {names.pid_path}".rstrip() + f": {error.strerror}"
            raise errors.StepFailed("pid", error.errno or 0, names.pid_path, text) from None
        yield


def _enter_pid(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ns.setns(fd, ns.CLONE_NEWPID, path)
    finally:
        os.close(fd)


@cache
def prepare() -> None:
    """Once in a shim's life: nothing that the child needs is still to be imported or looked up."""
    import resource  # noqa: F401  # for the child, which imports nothing

    from copepod.child import execing  # noqa: F401

    libc.prepare()
    caps.last()
    cgroup.prepare()
    sibling.prepare()
    try:
        procfs.prepare()
    except OSError:
        pass  # a node where no memory may be made executable: guests are told, others need it not
    signals.ending()
    hiding.start_places()
