"""The end of a forked child's life: "ready", "go", and what then runs.

Behind all walls and without its privileges; what it still does is on the container's own account.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn, Protocol

from copepod import errors
from copepod.child import hiding, hooks, pause, privs, signals, toolbox
from copepod.child.privs import Step
from copepod.linux import prctl, seccomp

if TYPE_CHECKING:
    from copepod.child.job import Context, Job
    from copepod.child.payload import Payload
    from copepod.child.wire import Wire

FAILED = 125  # the exit status of a child that could not become a container; nobody sees it


class Guest(Protocol):
    """Compiled code, linked: what engine.run.link gives."""

    def run(self) -> int:
        """Runs it to its exit code."""


class Engine(Protocol):
    """The engine's room as the child needs it; the shim imported it before the fork."""

    def prepare(self) -> None:
        """Does what needs no code yet, while that is looked for."""

    def prepare_more(self) -> None:
        """The same for what only some code will need, as long as there is none."""

    def load(self, fd: int, kind: str, *, toolbox: bool = False) -> object:
        """Maps compiled code; raises LookupError if the file has to be made again. `toolbox`: it
        is the node's own, with settings of its own."""

    def link(
        self,
        loaded: object,
        args: list[str],
        env: list[str],
        cwd: str,
        entry: str,
        folders: dict[str, str],
    ) -> Guest:
        """Resolves the imports; no code of the guest runs. `folders` to read in, by the guest's
        names for them, come to those that its settings name."""


def run(
    context: Context,
    wire: Wire,
    found: Payload | None,
    code: tuple[object, str],
    env: tuple[str, ...],
    engine: Engine | None,
) -> NoReturn:
    """Says that it is ready, waits for the word, and becomes what was asked for."""
    job = context.job
    _check_access(job, found)
    guest = _link(context, code, env, engine)
    image = pause.open_image() if found is None else -1
    # Not before: whoever builds walls needs more files, and more memory, than is behind them.
    privs.limits(job.program)
    wire.say("ready", _kind_of(found))
    wire.hear("go")
    # What a startContainer hook runs is the container's, and under the filter like all of it.
    state = hooks.state(job.hook_state, "created", os.getpid())
    hooks.run("startContainer", job.start_hooks, state, env, lambda: _confine_late(job))
    if found is None:
        _wait(job, wire, image)
    elif guest is None:
        _execve(job, found, env)
    else:
        hiding.rename(context.arguments, job.program.args)
        _run_guest(job, wire, found, guest)
    os._exit(FAILED)


def _check_access(job: Job, found: Payload | None) -> None:
    """As the user that it will be run by: is there a way to a native program?"""
    if found is None or found.kind != "native":
        return
    if not os.access(found.path, os.X_OK, effective_ids=True):
        user = job.program.identity
        raise errors.PermissionDenied(
            f"exec {found.path}: permission denied for user {user.uid}:{user.gid}"
        )


def _kind_of(found: Payload | None) -> str:
    """What is missing in the root is a layer of the image: wasm."""
    if found is None:
        return "sandbox"
    return "native" if found.kind == "native" else "wasm"


def _link(
    context: Context, code: tuple[object, str], env: tuple[str, ...], engine: Engine | None
) -> Guest | None:
    """Makes a wasm guest ready to run; native and sandbox processes have nothing to link."""
    loaded, entry = code
    if loaded is None or engine is None:
        return None
    program = context.job.program
    folders: dict[str, str] = {}
    if context.toolbox:
        env = (*env, toolbox.environment(context))
        folders = toolbox.folders(context)
    return engine.link(loaded, list(program.args), list(env), program.cwd, entry, folders)


def confine(job: Job, flags: int = 0) -> None:
    """Puts the seccomp filter on, with more `flags` of seccomp(2)."""
    if not job.filter:
        return
    try:
        seccomp.set_mode_filter(job.filter, job.filter_flags | flags)
    except OSError as error:
        raise Step("load the seccomp filter", error) from None


def _confine_late(job: Job, flags: int = 0) -> None:
    """With no_new_privs it takes no right to put the filter on: as late as possible, since all
    that is called after it the profile has to allow."""
    if job.program.identity.no_new_privs:
        confine(job, flags)


def _wait(job: Job, wire: Wire, image: int) -> NoReturn:
    _confine_late(job)
    pause.become(image)
    # No such program for this machine: the wire is still ours to close.
    prctl.set_name("copepod-pause")
    wire.close()
    pause.wait()
    os._exit(FAILED)


def _run_guest(job: Job, wire: Wire, found: Payload, guest: Guest) -> NoReturn:
    prctl.set_name(os.path.basename(found.name) or "wasm")
    signals.prepare_guest()
    signals.watch()
    # The thread is there first, since a profile may forbid to make one; it is filtered, too.
    _confine_late(job, seccomp.SECCOMP_FILTER_FLAG_TSYNC)
    wire.close()
    os._exit(guest.run())


def _execve(job: Job, found: Payload, env: tuple[str, ...]) -> None:
    words = dict(word.split("=", 1) for word in env)
    signals.unblock_all()
    _confine_late(job)
    try:
        os.execve(found.path, job.program.args, words)
    except OSError as error:
        text = ""
        if error.errno == 2:
            text = "the file is there, so its interpreter or dynamic loader is not"
        raise Step(f"exec {found.path}", error, text) from None
