"""OCI hooks that run in the container's namespaces: createContainer and startContainer.

It runs one program after the other with the state's JSON on stdin and bounds each by its
timeout; hooks in the node's namespaces are the shim's (container/hooks.py).
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import signals
from copepod.child.privs import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from copepod.child.job import Hook

_OUTPUT_MAX = 4096


def state(common: bytes, status: str, pid: int) -> bytes:
    """Gives the container's state (runtime.md, "State") from the JSON of what doesn't change; the
    pid is what the hook's own pid namespace has."""
    return common[:-1] + b', "status": "%s", "pid": %d}' % (status.encode(), pid)


def run(
    kind: str,
    hooks: tuple[Hook, ...],
    text: bytes,
    env: tuple[str, ...] = (),
    confine: Callable[[], None] | None = None,
) -> None:
    """Runs them in order; raises FailedPrecondition at the first that fails, with what it said.

    `env` is for hooks that name none; `confine` is called in the hook's process.
    """
    for hook in hooks:
        _run(kind, hook, text, env, confine)


def _run(
    kind: str, hook: Hook, text: bytes, env: tuple[str, ...], confine: Callable[[], None] | None
) -> None:
    given, output = (os.memfd_create(name) for name in ("state", "output"))
    os.pwrite(given, text, 0)
    pid = os.fork()
    if pid == 0:
        _become(hook, given, output, env, confine)
    waiting = os.pidfd_open(pid)
    ended, _, _ = select.select([waiting], [], [], hook.timeout)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    said = os.pread(output, _OUTPUT_MAX, 0).decode("utf-8", "replace").strip()
    for fd in (waiting, given, output):
        os.close(fd)
    if not ended:
        raise errors.FailedPrecondition(
            f"{kind} hook {hook.path}: not done after {hook.timeout} s, killed"
        )
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise errors.FailedPrecondition(f"{kind} hook {hook.path}: exit status {code}: {said}")


def _become(
    hook: Hook,
    given: int,
    output: int,
    env: tuple[str, ...],
    confine: Callable[[], None] | None,
) -> None:
    try:
        os.dup2(given, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signals.unblock_all()
        words = dict(word.split("=", 1) for word in hook.env or env if "=" in word)
        if confine is not None:
            confine()
        os.execve(hook.path, hook.args or (hook.path,), words)
    except OSError as error:
        os.write(2, f"exec: {error.strerror}".encode())
    except Step as step:
        os.write(2, f"{step.what}: {step.error.strerror}".encode())
    finally:
        os._exit(127)
