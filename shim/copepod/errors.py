"""What can go wrong, as types, and the one place where a type becomes a gRPC status code.

It knows no wire format and prints nothing: ttrpc and the launcher take `to_status`'s answer.
"""

from __future__ import annotations

import errno as _errno
import os

# google.rpc.Code numbers: the codes that containerd's errdefs tells apart (errgrpc).
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
DATA_LOSS = 15


class Error(Exception):
    """A failure that a user may read: one sentence that says what, where and what to do."""

    code = UNKNOWN

    def __str__(self) -> str:
        return self.args[0] if self.args else type(self).__name__


class InvalidArgument(Error):
    """The request, the spec or the image asks for something that can't be."""

    code = INVALID_ARGUMENT


class NotFound(Error):
    """No such task, exec or process; containerd takes it as "already gone"."""

    code = NOT_FOUND


class AlreadyExists(Error):
    """The id is in use."""

    code = ALREADY_EXISTS


class PermissionDenied(Error):
    """The node's policy or the kernel refuses."""

    code = PERMISSION_DENIED


class ResourceExhausted(Error):
    """A limit of the node or of the container is reached."""

    code = RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    """The task is not in a state that allows the request."""

    code = FAILED_PRECONDITION


class Unimplemented(Error):
    """Copepod does not do this."""

    code = UNIMPLEMENTED


class Unavailable(Error):
    """A peer (containerd, systemd) does not answer; trying again may help."""

    code = UNAVAILABLE


class Internal(Error):
    """A defect in Copepod or a broken promise of the kernel."""

    code = INTERNAL


class DataLoss(Error):
    """Bytes on disk are not what their digest says."""

    code = DATA_LOSS


class StepFailed(Error):
    """A step of building the container's walls failed.

    `step` is what was being done ("mount", "chdir"), `errno` the kernel's answer or 0,
    `path` what it was done to or "", `text` a whole sentence where the plain one is not enough.
    """

    def __init__(self, step: str, errno: int = 0, path: str = "", text: str = "") -> None:
        self.step, self.errno, self.path, self.text = step, errno, path, text
        super().__init__(text or self._sentence())

    def _sentence(self) -> str:
        where = f" {self.path}" if self.path else ""
        why = f": {os.strerror(self.errno)}" if self.errno else ""
        return f"{self.step}{where}{why}"

    @property
    def code(self) -> int:  # type: ignore[override]  # a constant in the parent, derived here
        """The status code that fits the kernel's answer."""
        return _ERRNO_CODES.get(self.errno, UNKNOWN)


_ERRNO_CODES = {
    _errno.ENOENT: NOT_FOUND,
    _errno.EPERM: PERMISSION_DENIED,
    _errno.EACCES: PERMISSION_DENIED,
    _errno.ENOMEM: RESOURCE_EXHAUSTED,
    _errno.EMFILE: RESOURCE_EXHAUSTED,
    _errno.ENFILE: RESOURCE_EXHAUSTED,
    _errno.ENOSPC: RESOURCE_EXHAUSTED,
    _errno.EDQUOT: RESOURCE_EXHAUSTED,
    _errno.EINVAL: INVALID_ARGUMENT,
    _errno.ELOOP: INVALID_ARGUMENT,
    _errno.ENOTDIR: INVALID_ARGUMENT,
    _errno.ENOEXEC: INVALID_ARGUMENT,
    _errno.ENOSYS: UNIMPLEMENTED,
    _errno.EOPNOTSUPP: UNIMPLEMENTED,
}


def to_status(error: BaseException) -> tuple[int, str]:
    """Gives (code, message) for any exception, in the terms of google.rpc.Status.

    The message is shown to people (`kubectl describe pod`), so an unexpected exception names its
    type and says that it is Copepod's fault.
    """
    if isinstance(error, Error):
        return error.code, str(error)
    if isinstance(error, TimeoutError):
        return DEADLINE_EXCEEDED, str(error) or "the time allowed for the call is over"
    if isinstance(error, OSError) and error.errno:
        name = f" {error.filename!r}" if error.filename else ""
        return _ERRNO_CODES.get(error.errno, UNKNOWN), f"{os.strerror(error.errno)}{name}"
    return INTERNAL, f"copepod: unexpected {type(error).__name__}: {error}"
