"""A forked child's whole life: walls, payload, privileges; the end of it is in going.py.

It never returns into the shim's code: every way out is os._exit or execve. After pivot_root it
imports nothing and trusts no path.
"""

from __future__ import annotations

import fcntl
import gc
import os
import termios
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.child import (
    dev,
    going,
    hiding,
    hooks,
    join,
    labels,
    payload,
    privs,
    signals,
    toolbox,
)
from copepod.child.going import FAILED
from copepod.child.job import Context
from copepod.child.privs import Step
from copepod.child.wire import Wire
from copepod.linux import fds, ns, prctl, sibling

if TYPE_CHECKING:
    import socket

    from copepod.child.going import Engine
    from copepod.child.job import Job, Op
    from copepod.child.payload import Payload


def run(job: Job, groups: tuple[int, ...], sock: socket.socket, engine: Engine | None) -> NoReturn:
    """Is the child, which is yet to enter `groups`. Whatever happens is told over the wire, if it
    still can be."""
    try:
        gc.disable()
        wire = Wire(sock)
        try:
            _start(job, groups, wire, engine)
        except BaseException as error:
            report(wire, error)
    finally:
        os._exit(FAILED)


def report(wire: Wire, error: BaseException) -> None:
    """Says what went wrong: (step, errno, path, sentence), or an error of ours by its class."""
    if isinstance(error, Step):
        wire.say("failed", error.what, *_words(error.what, error.error, error.text))
    elif isinstance(error, errors.Error):
        wire.say("error", type(error).__name__, str(error))
    elif isinstance(error, OSError):
        wire.say("failed", "container", *_words("build the container", error, ""))
    else:
        text = f"copepod: unexpected {type(error).__name__} in the container: {error}"
        wire.say("error", "Internal", text)


def _words(what: str, error: OSError, text: str) -> tuple[str, str, str]:
    path = os.fsdecode(error.filename) if error.filename else ""
    where = f" ({path})" if path and path not in what else ""
    why = error.strerror or str(error)
    return str(error.errno or 0), path, f"{what}{where}: {why}" + (f": {text}" if text else "")


def do(ops: tuple[Op, ...], context: Context) -> None:
    """Runs them in order; a failure is told by what the operation says of itself."""
    for op in ops:
        try:
            op.run(context)
        except OSError as error:
            raise Step(op.describe(), error) from None


def _start(job: Job, groups: tuple[int, ...], wire: Wire, engine: Engine | None) -> None:
    signals.default()
    # Nobody who shares our pid namespace may look into us; execve ends it (prctl(2)).
    prctl.prctl(prctl.PR_SET_DUMPABLE, 0)
    keep = [wire.fileno(), *groups, *(fd for fd in job.stdio if fd >= 0)]
    if job.init_pidfd >= 0:
        keep.append(job.init_pidfd)
    if min(job.stdio) < 0:
        keep.append(dev.null_mount())
    fds.close_all_but(keep)
    fds.occupy_stdio()
    context = Context(job)
    one, two, three = (fds.above_stdio(fd) for fd in job.stdio)
    context.stdio = (one, two, three)
    if min(context.stdio) < 0:
        context.null = dev.node_null()
    if job.program.cpus_at_first is not None:
        privs.affinity(job.program.cpus_at_first)
    join.enter_cgroups(groups)
    if job.program.cpus_at_first is None and job.program.cpus is None:
        privs.any_cpu()
    if job.kind == "exec" or job.namespaces.middle:
        os.setpgid(0, 0)  # by its group the shim finds a child that we did not live to tell of
    if job.kind == "exec":
        from copepod.child import execing  # which needs us; the shim has imported it long ago

        execing.start(context, wire, engine)
    else:
        _create(context, wire, engine)


def _create(context: Context, wire: Wire, engine: Engine | None) -> None:
    job = context.job
    names = job.namespaces
    privs.outside(job.program)
    ns.unshare(ns.CLONE_NEWNS)
    do(job.outside, context)
    if job.waits:
        join.enter_network(wire)
    join.enter_by_path(names.joins)
    join.enter_user(names, wire)
    join.make(names)
    if names.middle:
        join.make_for_child(names)
        be_born(wire)
    do(job.inside, context)
    if job.hooks_outside:
        wire.say("hooks")
        wire.hear("hooked")
    state = hooks.state(job.hook_state, "creating", os.getpid())
    hooks.run("createContainer", job.container_hooks, state)
    # As the shim hands out code it writes the device rules: what is a device is opened before.
    context.null = dev.own_null(context.root, context.null)
    found: Payload | None = None
    code: tuple[object, str] = (None, "")
    if job.kind != "sandbox":
        found = look_up(job, context.root, job.program.env)
        code = obtain(context, found, wire, engine)
    env = payload.environment(context.root, job.program)
    labels.prepare(context, executes=found is not None and found.kind == "native")
    if context.hidden:
        hiding.cover(context.root, context.hidden, job.proc_mounts)
    do(job.last, context)
    finish(context, wire)
    take_session(context)
    going.run(context, wire, found, code, env, engine)


def be_born(wire: Wire) -> None:
    """Forks the process that stays; this one tells its pid and is gone. The shim is the other's
    parent, which says nothing before the shim knows of it."""
    pid = sibling.fork()
    if pid:
        wire.say("pid", str(pid))
        os._exit(0)
    wire.hear("adopted")


def look_up(job: Job, root: int, env: tuple[str, ...]) -> Payload:
    """Finds the program, and refuses a native one where the node's operator wants wasm only."""
    program = job.program
    found = payload.find(root, program.args, env, program.cwd)
    if found.kind == "native" and not job.native_allowed:
        raise errors.PermissionDenied(
            f'exec {found.path}: this node runs wasm only (native = "deny" in Copepod\'s '
            "config.toml), and the file is a native program"
        )
    return found


def obtain(
    context: Context, found: Payload, wire: Wire, engine: Engine | None
) -> tuple[object, str]:
    """Asks the shim for the compiled code of a wasm file, or of an image's layer, and maps it.

    Gives it with the export to call, "" for the usual one. Once, a file that the engine does not
    take may be made again.
    """
    if found.kind == "native":
        return None, ""
    if engine is None:
        raise errors.Internal("copepod: no engine was loaded before the fork")
    if found.kind == "wasm":
        wire.say("found", found.name, found.entry, fds=(found.fd,))
        os.close(found.fd)
    else:
        wire.say("missing", found.name, found.entry, found.searched)
    context.guest = True
    # While the shim looks for the compiled code:
    context.arguments = hiding.erase_start()
    engine.prepare()
    if not wire.has_news():
        engine.prepare_more()
    for last in (False, True):
        (kind, entry, *own), received = wire.hear("module")
        if own:
            toolbox.admit(context)
        before = _open_fds()
        try:
            loaded = engine.load(received[0], kind, toolbox=context.toolbox)
            # It keeps the file: the guest's memory starts as a private mapping of it.
            context.held = _open_fds() - before
            return loaded, found.entry or entry
        except LookupError as error:
            if last:
                raise errors.DataLoss(str(error)) from None
            wire.say("unusable", str(error))
        finally:
            os.close(received[0])
            if not last:
                context.hidden = wire.hear_all("proc", len(context.job.proc_mounts))
    raise AssertionError  # the second round returns or raises


def _open_fds() -> frozenset[int]:
    """Gives the numbers of all open fds; one of a listing itself is closed again by then."""
    return frozenset(fd for fd in map(int, os.listdir("/proc/self/fd")) if fds.is_open(fd))


def take_session(context: Context) -> None:
    """Leads a session of its own, with the terminal on stdin as the controlling one."""
    os.setsid()
    if context.job.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if context.toolbox:
            toolbox.keep_ctrl_d(0)


def finish(context: Context, wire: Wire) -> None:
    """From the root's privileges to the user's: stdio, scheduling, seccomp, identity."""
    job = context.job
    program = job.program
    stdio = context.stdio
    if context.slave >= 0:
        wire.say("console", fds=(context.master,))
        os.close(context.master)
        stdio = (context.slave,) * 3
    fds.set_stdio(stdio, context.null)
    for fd in {fd for fd in stdio if fd >= 0}:
        os.close(fd)
    labels.apply(context)
    prctl.join_session_keyring(program.keyring)
    privs.scheduling(program)
    privs.own_stdio(program.identity)
    if not program.identity.no_new_privs:
        # Only CAP_SYS_ADMIN may do this without no_new_privs, and it is about to go (seccomp(2)).
        going.confine(job)
    privs.become(context)
    # A change of ids or capabilities may have made us dumpable by the kernel's own rules.
    prctl.prctl(prctl.PR_SET_DUMPABLE, 0)
    # No fd of the node, not even of a directory, is there when the container's own code runs.
    shown = {context.network} - {-1}
    fds.close_all_but((0, 1, 2, wire.fileno(), *context.held, *shown))
