"""OCI hooks that run in the node's namespaces: prestart, createRuntime, poststart, poststop.

Each gets the container's state as JSON on stdin (runtime.md, "State"), runs alone and is bounded
by its own timeout. What a failure means is said by the lifecycle: before the start it ends the
container, after it, it is only told.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child.hooks import state
from copepod.container import waiting

if TYPE_CHECKING:
    from copepod.spec import Hook, Spec

_SAID_MAX = 4096


def common(container_id: str, bundle: str, spec: Spec) -> bytes:
    """Gives the state's JSON but for what changes, as `child.hooks.state` takes it."""
    document = {
        "ociVersion": spec.oci_version or "1.0.2",
        "id": container_id,
        "bundle": bundle,
        "annotations": spec.annotations,
    }
    return json.dumps(document).encode()


async def before_pivot(spec: Spec, container_id: str, bundle: str, pid: int) -> None:
    """Runs prestart and createRuntime; raises FailedPrecondition at the first that fails."""
    if spec.hooks is None:
        return
    text = state(common(container_id, bundle, spec), "creating", pid)
    for kind, wanted in (
        ("prestart", spec.hooks.prestart),
        ("createRuntime", spec.hooks.create_runtime),
    ):
        for hook in wanted:
            await run(kind, hook, text)


async def poststart(spec: Spec, container_id: str, bundle: str, pid: int) -> None:
    """Runs the poststart hooks; raises at the first that fails, and the caller ends the
    container then, as the lifecycle demands."""
    if spec.hooks is not None:
        text = state(common(container_id, bundle, spec), "running", pid)
        for hook in spec.hooks.poststart:
            await run("poststart", hook, text)


async def poststop(spec: Spec, container_id: str, bundle: str) -> list[str]:
    """Runs all poststop hooks, whatever fails, and gives the sentences of those that did."""
    failures = []
    if spec.hooks is not None:
        text = state(common(container_id, bundle, spec), "stopped", 0)
        for hook in spec.hooks.poststop:
            try:
                await run("poststop", hook, text)
            except errors.Error as error:
                failures.append(str(error))
    return failures


async def run(kind: str, hook: Hook, text: bytes) -> None:
    """Runs one hook with `text` on stdin; raises FailedPrecondition with what it said.

    stdin and output are memory files: a hook that neither reads nor stops writing holds nobody.
    """
    given, output = (os.memfd_create(name) for name in ("state", "output"))
    try:
        os.pwrite(given, text, 0)
        pid = _spawn(kind, hook, given, output)
        status = await waiting.ended(pid, hook.timeout)
        words = os.pread(output, _SAID_MAX, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(given)
        os.close(output)
    if status is None:
        raise errors.FailedPrecondition(
            f"{kind} hook {hook.path}: not done after {hook.timeout} s, killed"
        )
    if status:
        raise errors.FailedPrecondition(f"{kind} hook {hook.path}: exit status {status}: {words}")


def _spawn(kind: str, hook: Hook, given: int, output: int) -> int:
    try:
        return os.posix_spawn(
            hook.path,
            hook.args or (hook.path,),
            dict(word.split("=", 1) for word in hook.env if "=" in word),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise errors.FailedPrecondition(f"{kind} hook {hook.path}: {error.strerror}") from None
