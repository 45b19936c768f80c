"""AppArmor profiles and SELinux labels of a process, where the kernel has them.

A label that is demanded and can't be given is an error, never silently nothing. The attribute
files are opened in the node's own /proc, before the container's could stand in for it
(CVE-2019-16884).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child.privs import Step

if TYPE_CHECKING:
    from copepod.child.job import Context

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"
_ATTR = "/proc/self/attr"


def prepare(context: Context, *, executes: bool) -> None:
    """Opens what `apply` writes to. `executes`: the label is for the program of an execve to
    come; a process that stays the same changes its own."""
    program = context.job.program
    if program.apparmor and program.apparmor != "unconfined":
        if not _says(_APPARMOR, "Y"):
            raise errors.FailedPrecondition(
                f"process.apparmorProfile {program.apparmor!r}: this kernel runs without AppArmor"
            )
        file, verb = ("exec", "exec") if executes else ("current", "changeprofile")
        folder = f"{_ATTR}/apparmor" if os.path.exists(f"{_ATTR}/apparmor") else _ATTR
        context.labels.append((_open(f"{folder}/{file}"), f"{verb} {program.apparmor}"))
    if program.selinux:
        if not os.path.exists(_SELINUX):
            raise errors.FailedPrecondition(
                f"process.selinuxLabel {program.selinux!r}: this kernel runs without SELinux"
            )
        # Keys that the process makes carry its label, too (keyrings(7), proc_pid_attr(5)).
        context.labels.append((_open(f"{_ATTR}/keycreate"), program.selinux))
        file = "exec" if executes else "current"
        context.labels.append((_open(f"{_ATTR}/{file}"), program.selinux))


def _says(path: str, word: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() == word
    except OSError:
        return False


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Step("open the process's security attribute", error) from None


def apply(context: Context) -> None:
    """Writes the labels. What is written for an execve is inherited by a fork in between."""
    for fd, text in context.labels:
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise Step(f"apply the security label {text!r}", error) from None
        os.close(fd)
    context.labels.clear()
