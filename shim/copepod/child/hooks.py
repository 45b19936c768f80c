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

if TYPE_CHECKING:
    from copepod.child.job import Hook

_OUTPUT_MAX = 4096


def run(kind: str, hooks: tuple[Hook, ...], state: bytes) -> None:
    """Runs them in order; raises FailedPrecondition at the first that fails, with what it said."""
    for hook in hooks:
        _run(kind, hook, state)


def _run(kind: str, hook: Hook, state: bytes) -> None:
    given, output = (os.memfd_create(name) for name in ("state", "output"))
    os.pwrite(given, state, 0)
    pid = os.fork()
    if pid == 0:
        _become(hook, given, output)
    waiting = os.pidfd_open(pid)
    ended, _, _ = select.select([waiting], [], [], hook.timeout)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    text = os.pread(output, _OUTPUT_MAX, 0).decode("utf-8", "replace").strip()
    for fd in (waiting, given, output):
        os.close(fd)
    if not ended:
        raise errors.FailedPrecondition(
            f"{kind} hook {hook.path}: not done after {hook.timeout} s, killed"
        )
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise errors.FailedPrecondition(f"{kind} hook {hook.path}: exit status {code}: {text}")


def _become(hook: Hook, given: int, output: int) -> None:
    try:
        os.dup2(given, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signals.unblock_all()
        env = dict(word.split("=", 1) for word in hook.env if "=" in word)
        os.execve(hook.path, hook.args or (hook.path,), env)
    except OSError as error:
        os.write(2, f"exec: {error.strerror}".encode())
    finally:
        os._exit(127)
