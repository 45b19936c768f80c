"""seccomp profiles of the spec as BPF: compiled by libseccomp in a child, kept on the node.

The same profile comes with every pod, so its program is kept in memory and below /run/copepod,
named by the digest of the profile and of what compiled it. It loads no filter: the container's
process does. A listener is refused: nobody here would listen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.container import waiting
from copepod.digest import sha256
from copepod.linux import fds
from copepod.linux import seccomp as kernel

if TYPE_CHECKING:
    from copepod.spec import Seccomp

KEPT = "/run/copepod/seccomp"
_ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in (
        *("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO"),
        *("TRACE", "ALLOW", "LOG"),
    )
)
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": kernel.SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": kernel.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}
_DIGEST = 32
_PATIENCE = 60.0  # seconds; a profile of the size of containerd's takes 0.15
_programs: dict[Seccomp, bytes] = {}
_WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"


async def compiled(profile: Seccomp | None) -> tuple[bytes, int]:
    """Gives (program, flags of seccomp(2)); an empty program for no profile.

    Raises InvalidArgument for what the profile can't mean, Unimplemented for a listener.
    """
    if profile is None or (not profile.default_action and not profile.syscalls):
        return b"", 0
    check(profile)
    return await _program(profile), flags(profile)


def flags(profile: Seccomp) -> int:
    """As in runc, a profile that says nothing of flags gets SPEC_ALLOW: the mitigation of
    speculation that a filter switches on otherwise costs more than it gives a container."""
    if profile.flags is None:
        return kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    bits = 0
    for name in profile.flags:
        # Nobody waits for notifications here, so there is nothing to make killable.
        bits |= _FLAGS.get(name, 0)
    return bits


def check(profile: Seccomp) -> None:
    """Raises for names that libseccomp does not have; pure."""
    if profile.listener_path:
        raise errors.Unimplemented(
            "linux.seccomp.listenerPath: Copepod hands no system calls to another process"
        )
    for name in profile.flags or ():
        if name not in _FLAGS and name != _WAIT_KILLABLE:
            raise errors.InvalidArgument(f"linux.seccomp.flags: there is no flag {name!r}")
    _check_action(profile.default_action, "linux.seccomp.defaultAction")
    for number, rule in enumerate(profile.syscalls):
        where = f"linux.seccomp.syscalls[{number}]"
        _check_action(rule.action, f"{where}.action")
        for one in rule.args:
            if one.op.removeprefix("SCMP_CMP_") not in _OPERATORS:
                raise errors.InvalidArgument(f"{where}.args: there is no operator {one.op!r}")
            if one.index > 5:
                raise errors.InvalidArgument(
                    f"{where}.args: a system call has no {one.index + 1}th"
                )


def _check_action(action: str, where: str) -> None:
    if action == "SCMP_ACT_NOTIFY":
        raise errors.Unimplemented(
            f"{where}: SCMP_ACT_NOTIFY needs a listener, which Copepod lacks"
        )
    if action not in _ACTIONS:
        raise errors.InvalidArgument(f"{where}: there is no action {action!r}")


async def _program(profile: Seccomp) -> bytes:
    program = _programs.get(profile)
    if program is None:
        from copepod import __version__

        what = f"{__version__}\n{_library()}\n{os.uname().machine}\n{profile!r}"
        name = sha256(what.encode("utf-8", "surrogatepass")).hexdigest()
        program = _kept(name)
        if program is None:
            program = await _in_child(profile)
            _keep(name, program)
        _programs[profile] = program
    return program


def _library() -> str:
    """Which libseccomp compiles: its file's real name has the version; found without loading it."""
    import sysconfig

    folders = (
        f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
        "/usr/lib64",
        "/usr/lib",
        "/lib",
    )
    for folder in folders:
        path = os.path.realpath(f"{folder}/libseccomp.so.2")
        if os.path.exists(path):
            return path
    return ""


def _kept(name: str) -> bytes | None:
    """A torn or foreign file is no file: the program ends with its own digest."""
    try:
        fd = os.open(f"{KEPT}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        data = os.read(fd, 1 << 20)
    finally:
        os.close(fd)
    program, digest = data[:-_DIGEST], data[-_DIGEST:]
    return program if program and sha256(program).digest() == digest else None


def _keep(name: str, program: bytes) -> None:
    """Where the node can't keep it (a full or read-only /run), the next shim compiles again."""
    staged = f"{KEPT}/.{name}.{os.getpid()}"
    try:
        os.makedirs(KEPT, mode=0o700, exist_ok=True)
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, program + sha256(program).digest())
        finally:
            os.close(fd)
        os.rename(staged, f"{KEPT}/{name}")
    except OSError:
        pass


async def _in_child(profile: Seccomp) -> bytes:
    """The library and its binding stay out of the shim's memory; a child has them for a moment, in
    which the shim answers others."""
    file = os.memfd_create("copepod-seccomp", os.MFD_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _compile(profile, file)
        status = await waiting.ended(pid, _PATIENCE)
        answer = os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
    if status is None:
        late = f"-the profile is not compiled after {_PATIENCE:.0f} s: is the node overloaded?"
        answer = late.encode() + b" The next start tries again"
    if answer[:1] != b"+":
        said = answer[1:].decode("utf-8", "replace") or "the compiler of the profile died"
        raise errors.InvalidArgument(f"linux.seccomp: {said}")
    return answer[1:]


def _compile(profile: Seccomp, fd: int) -> NoReturn:
    try:
        fds.close_all_but((0, 1, 2, fd))
        try:
            from copepod.container import seccomp_compile

            answer = b"+" + seccomp_compile.program(profile)
        except BaseException as error:
            answer = b"-" + str(error).encode("utf-8", "replace")
        while answer:
            answer = answer[os.write(fd, answer) :]
    finally:
        os._exit(0)
