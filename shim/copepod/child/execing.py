"""A process that joins a running container: `kubectl exec`.

The container may be hostile, and whatever is in its pid namespace can be looked at from there. So
a process in between, which no namespace of the container shows, joins, finds the program and gives
up its privileges; only then is the one born that the container sees.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from copepod.child import going, hiding, labels, main, ops, payload, privs
from copepod.child.dev import Terminal, own_null
from copepod.child.privs import Step
from copepod.linux import mount as m
from copepod.linux import ns, pidfd
from copepod.linux.path import O_PATH, open_in_root

if TYPE_CHECKING:
    from copepod.child.going import Engine
    from copepod.child.job import Context, Job
    from copepod.child.wire import Wire


def start(context: Context, wire: Wire, engine: Engine | None) -> None:
    """Is the process in between, and then the one that stays."""
    job = context.job
    privs.outside(job.program)
    # The program is looked up through the root of the container's first process while we are
    # still outside: the engine maps its code by a path of the node's /proc.
    context.root = _root(job)
    found = main.look_up(job, context.root, job.program.env)
    code = main.obtain(context, found, wire, engine)
    env = payload.environment(context.root, job.program)
    os.close(context.root)
    labels.prepare(context, executes=found.kind == "native")
    if context.hidden:
        context.sources[ops.NULL] = ops.null()
    _join(job, job.join_flags & ~(ns.CLONE_NEWPID if context.unseen else 0))
    if context.hidden:
        # A view of its own, so that the container's other processes keep their /proc.
        _private_mounts()
    context.root = os.open("/", O_PATH | os.O_DIRECTORY)
    if context.hidden:
        hiding.cover(context.root, context.hidden, job.proc_mounts)
        main.do(job.last, context)
    context.null = own_null(context.root, context.null)
    context.cwd = _working_directory(context.root, job.program.cwd)
    if job.terminal:
        _terminal(job, context)
    os.close(context.root)
    main.finish(context, wire)
    main.be_born(wire)
    main.take_session(context)
    going.run(context, wire, found, code, env, engine)


def _root(job: Job) -> int:
    try:
        root = os.open(f"/proc/{job.init_pid}/root", O_PATH | os.O_DIRECTORY)
        # As long as the process is not reaped nobody else can have its number.
        pidfd.send_signal(job.init_pidfd, 0)
        return root
    except OSError as error:
        raise Step("open the container's root (has it ended?)", error) from None


def _join(job: Job, flags: int) -> None:
    try:
        ns.setns(job.init_pidfd, flags)
        os.close(job.init_pidfd)
        if flags & ns.CLONE_NEWUSER:
            os.setgroups(())
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
    except OSError as error:
        raise Step("join the container's namespaces (has it ended?)", error) from None


def _working_directory(root: int, path: str) -> int:
    """Opens the cwd of a process that joins a container; nothing is made there."""
    try:
        return open_in_root(root, path or "/", O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise Step(f"working directory {path}", error) from None


def _private_mounts() -> None:
    try:
        ns.unshare(ns.CLONE_NEWNS)
        m.mount("", "/", "", m.MS_SLAVE | m.MS_REC)
    except OSError as error:
        raise Step("give a wasm guest its own view of the mounts", error) from None


def _terminal(job: Job, context: Context) -> None:
    program = job.program
    op = Terminal(program.identity.uid, program.console_size, console=False)
    try:
        op.run(context)
    except OSError as error:
        raise Step("terminal", error) from None
