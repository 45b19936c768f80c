"""Containers that attack: one test for each way out that a container runtime has once had."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.container import spawn
from copepod.engine.profile import Profile
from copepod.image import sealed
from copepod.image.cache import Cache
from copepod.linux import caps
from enginekit import harness, make
from fakes import walls
from fakes.walls import bind, cri, nothing_is_left, read, run  # noqa: F401

pytestmark = walls.needs

ROOT = Path(__file__).parents[3]
FAKES = ROOT / "shim/tests/fakes"


@pytest.mark.parametrize(("protect", "answer"), [(False, "written"), (True, "refused EROFS")])
def test_the_runtime_cannot_be_rewritten_through_its_exe(
    tmp_path: Path, protect: bool, answer: str
) -> None:
    """CVE-2019-5736. The first case shows that the attack works without the protection."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler: the hostile loader can't be built")
    root = _hostile_root(tmp_path, cc)
    # A runtime of our own, so that the machine's is never at risk and can be idle.
    runtime = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), runtime)
    spec = cri("/entrypoint", root__path=str(root))
    (tmp_path / "config.json").write_text(json.dumps(spec))
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [runtime, FAKES / "protected_driver.py", tmp_path, str(protect), str(writing)],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONHOME": sys.base_prefix},
            pass_fds=[writing],
            capture_output=True,
            text=True,
            timeout=walls.TIMEOUT,
            check=False,
        )
        os.close(writing)
        assert done.returncode == 0, done.stderr
        out = walls.read_all(reading)
    finally:
        os.close(reading)
    assert out == f"grabbed\n{answer}\n"


def test_a_script_that_names_us_as_its_interpreter() -> None:
    bundle = walls.Bundle(cri("/entrypoint"))
    script = Path(bundle.path, "upper/entrypoint")
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    with pytest.raises(errors.InvalidArgument, match="one through /proc"):
        asyncio.run(_run(bundle))


def _hostile_root(folder: Path, cc: str) -> Path:
    root = folder / "root"
    for name in ("proc", "dev", "sys", "lib64", "lib", "etc"):
        (root / name).mkdir(parents=True)
    subprocess.run([cc, "-O", "-static", "-o", root / "evil", FAKES / "evil.c"], check=True)
    # Whatever loader the node's interpreter asks for is ours.
    shown = subprocess.run(
        ["readelf", "-l", os.path.realpath(sys.executable)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"interpreter: (\S+?)\]", shown.stdout)
    assert found
    loader = root / found[1].lstrip("/")
    loader.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "evil", loader)
    # One script more, so that the look at the program's own interpreter does not see it.
    for name, interpreter in (("entrypoint", "/second"), ("second", "/proc/self/exe")):
        (root / name).write_text(f"#!{interpreter}\n")
        (root / name).chmod(0o755)
    return root


@pytest.mark.parametrize("number", range(3, 12))
def test_no_working_directory_through_a_leaked_fd(number: int) -> None:
    """CVE-2024-21626."""
    with pytest.raises(errors.StepFailed, match=f"/proc/self/fd/{number}"):
        run(cri("true", process__cwd=f"/proc/self/fd/{number}"))


@contextmanager
def flipping(folder: Path, outside: Path) -> Iterator[None]:
    """While it lasts, `folder`/a is now a directory, now a link that leads outside."""
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    pid = os.fork()
    if pid == 0:
        try:
            from copepod.linux import libc

            names = os.fsencode(folder / "a"), os.fsencode(folder / "link")
            exchange = 2  # RENAME_EXCHANGE of renameat2(2)
            call = libc.function("renameat2", *[ctypes.c_void_p] * 5)
            while True:
                call(libc.AT_FDCWD, names[0], libc.AT_FDCWD, names[1], exchange)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_mount_target_that_becomes_a_link_meanwhile(tmp_path: Path) -> None:
    """CVE-2021-30465: whatever the race, nothing is made or mounted outside of the root."""
    volume, outside, source = (tmp_path / name for name in ("volume", "outside", "source"))
    for one in (volume, outside, source):
        one.mkdir()
    (source / "secret").touch()
    spec = cri("sh", "-c", "ls /volume/a/b /volume/link/b /volume/a/c /volume/link/c; true")
    spec["mounts"] += [
        bind(volume, "/volume"),
        bind(source, "/volume/a/b"),
        bind(source, "/volume/a/c/d"),
    ]
    seen: set[int | str] = set()
    with flipping(volume, outside):
        for _ in range(25):
            try:
                seen.add(run(spec).code)
            except errors.StepFailed as error:
                seen.add(error.step.split()[0])
    assert list(outside.iterdir()) == []
    assert 0 in seen


def test_masked_paths_with_a_replaced_null_device(tmp_path: Path) -> None:
    """CVE-2025-31133: the cover is the node's null device, whatever the image has."""
    bundle = walls.Bundle(cri("sh", "-c", "cat /proc/keys | wc -c"))
    upper = Path(bundle.path, "upper/dev")
    upper.mkdir()
    (upper / "null").symlink_to("/proc/sys/kernel/core_pattern")
    spec = bundle.spec
    spec["mounts"] = [one for one in spec["mounts"] if not one["destination"].startswith("/dev")]
    spec["mounts"].append(bind(upper, "/dev"))
    bundle.write()
    assert asyncio.run(_run(bundle)) == "0\n"


async def _run(bundle: walls.Bundle, **fields: Any) -> str:
    reading, writing = os.pipe()
    try:
        process = await spawn.create(
            bundle.order((-1, writing, writing), **fields), walls.no_module
        )
        await process.start()
        os.close(writing)
        writing = -1
        out = walls.read_all(reading)
        walls.ended(process)
        return out
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
        bundle.close()


@pytest.mark.parametrize("target", ["/proc/version", "/proc/sys/kernel/core_pattern"])
def test_a_console_that_leads_into_proc(target: str) -> None:
    """CVE-2025-52565."""
    bundle = walls.Bundle(cri("true"))
    upper = Path(bundle.path, "upper/dev")
    upper.mkdir()
    (upper / "console").symlink_to(target)
    (upper / "pts").mkdir()
    spec = bundle.spec
    spec["mounts"] = [one for one in spec["mounts"] if one["destination"] != "/dev"]
    bundle.write()
    with pytest.raises(errors.StepFailed, match="inside /proc"):
        asyncio.run(_run(bundle, terminal=True))


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (bind("/etc", "/proc"), "only a proc file system"),
        (bind("/etc/hosts", "/proc/self/attr/exec"), "inside /proc"),
        (bind("/etc/hosts", "/proc/sys/kernel/core_pattern"), "inside /proc"),
        ({"destination": "/proc", "type": "tmpfs"}, "only a proc file system"),
        # One file of a real /proc in the place of another is as much of a lie.
        (bind("/proc/version", "/proc/self/attr/exec"), "inside /proc"),
        (bind("/proc/version", "/proc/sys/kernel/core_pattern"), "inside /proc"),
        ({"destination": "/proc/fs", "type": "proc"}, "inside /proc"),
        (bind("/etc/hosts", "/"), "can't replace the root"),
        (bind("/etc/hosts", "/tmp/.."), "can't replace the root"),
    ],
)
def test_nothing_is_put_over_proc(mount: dict[str, Any], words: str) -> None:
    """CVE-2019-16884, CVE-2019-19921: programs, and we, have to be able to trust /proc."""
    spec = cri("true")
    spec["mounts"].append(mount)
    with pytest.raises(errors.StepFailed, match=words):
        run(spec)


def test_what_lxcfs_covers_may_be_covered(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    spec = cri("cat", "/proc/meminfo")
    spec["mounts"].append(bind(tmp_path / "meminfo", "/proc/meminfo"))
    assert run(spec).out == "MemTotal: 1 kB\n"


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_proc_or_sys_that_is_a_link_in_the_image(name: str) -> None:
    """CVE-2023-27561."""
    bundle = walls.Bundle(cri("true"))
    upper = Path(bundle.path, "upper")
    (upper / "elsewhere").mkdir()
    (upper / name).symlink_to("/elsewhere")
    with pytest.raises(errors.StepFailed, match="ordinary directory"):
        asyncio.run(_run(bundle))


def test_a_fake_proc_gets_none_of_our_writes(tmp_path: Path) -> None:
    """CVE-2025-52881: parameters are written through the node's /proc, before the pivot."""
    bundle = walls.Bundle(cri("true", linux__sysctl={"net.ipv4.ip_unprivileged_port_start": "81"}))
    fake = Path(bundle.path, "upper/proc/sys/net/ipv4")
    fake.mkdir(parents=True)
    file = fake / "ip_unprivileged_port_start"
    file.touch()
    spec = bundle.spec
    spec["mounts"] = [one for one in spec["mounts"] if one["type"] != "proc"]
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
    bundle.write()

    async def scenario() -> str:
        process = await spawn.create(bundle.order(), walls.no_module)
        try:
            # Seen from the node: what the container's network namespace has.
            script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
            command = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "sh", "-c", script]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        finally:
            process.kill(signal.SIGKILL)
            walls.ended(process)

    assert asyncio.run(scenario()) == "81\n"
    assert file.read_text() == ""
    bundle.close()


def test_a_joining_process_shows_the_container_nothing_before_its_program() -> None:
    """CVE-2016-9962: held just before execve, it has no right, fd or memory that others lack."""

    async def scenario() -> tuple[str, str]:
        bundle = walls.Bundle(cri("sleep", "1000"))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        wanted = walls.exec_order(bundle, order, init, ["true"], (-1, -1, -1))
        waiting = await spawn.exec_(wanted, walls.no_module)
        try:
            inside = read(f"/proc/{waiting.pid}/status").partition("NSpid:")[2].split()[1]
            look = await walls.joined(
                bundle,
                order,
                init,
                *("sh", "-c"),
                f"cd /proc/{inside}; grep -E 'Cap|NoNew' status; for i in exe cwd root fd/0 ns/mnt;"
                " do readlink $i && echo FOUND; done; cat environ maps; ls fd; dd if=mem count=1",
            )
            links = {os.readlink(f"/proc/{waiting.pid}/fd/{fd}") for fd in (0, 1, 2)}
            assert links == {"/dev/null"}
            return look.out, read(f"/proc/{waiting.pid}/status")
        finally:
            for process in (waiting, init):
                process.kill(signal.SIGKILL)
                walls.ended(process)
            bundle.close()

    out, status = asyncio.run(scenario())
    assert "FOUND" not in out
    assert out.count("Permission denied") >= 3
    sets = dict(re.findall(r"^(Cap\w+):\s*(\w+)$", out, re.MULTILINE))
    allowed = f"{caps.mask(walls.CAPS):016x}"
    assert (sets["CapPrm"], sets["CapEff"], sets["CapBnd"]) == (allowed,) * 3
    assert sets["CapInh"] == "0" * 16
    assert re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE)


def test_no_capability_is_left_inheritable() -> None:
    """CVE-2022-24769."""
    out = run(cri("grep", "Cap", "/proc/self/status")).out
    assert re.search(r"^CapInh:\s*0{16}$", out, re.MULTILINE)
    assert re.search(r"^CapAmb:\s*0{16}$", out, re.MULTILINE)


def test_the_usual_ways_out_of_a_root_are_closed() -> None:
    """Escape by chroot(2) and `..`, by the cgroup's release agent, by the kernel's settings."""
    text = (
        "mkdir -p /x/y; ls /proc/1/root/../.. | head -3;"
        "echo /x > /sys/fs/cgroup/memory/release_agent;"
        "echo '|/x' > /proc/sys/kernel/core_pattern;"
        "cat /proc/keys /proc/timer_list | wc -c"
    )
    out = run(cri("sh", "-c", text)).out
    assert out.startswith("bin\n")
    assert "core_pattern: Read-only file system" in out
    assert "release_agent" in out
    assert out.endswith("0\n")


def test_a_huge_or_endless_program_name_harms_nobody() -> None:
    for args in (["x" * 100_000], ["/" + "a/" * 3000]):
        with pytest.raises((errors.Error, OSError)):
            run(cri(*args))


def test_a_fifo_or_device_as_the_program_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o777)
    spec = cri("/there/fifo")
    spec["mounts"].append(bind(tmp_path, "/there"))
    with pytest.raises(errors.PermissionDenied, match="not a regular file"):
        run(spec)
    with pytest.raises(errors.PermissionDenied, match="not a regular file"):
        run(cri("/dev/zero"))


# Looks for compiled code that somebody has open, and opens it for writing.
CODE = """
for file in /proc/[0-9]*/fd/*; do
    case $(readlink $file) in *.cwasm*) echo found; : >>$file && echo written;; esac
done
"""


@pytest.mark.parametrize("protect", [False, True])
def test_compiled_code_cannot_be_rewritten_by_who_may_trace(tmp_path: Path, protect: bool) -> None:
    """It is run in all pods of the image. The first case shows that the attack works without."""
    module = make.wat('(module (func (export "_start") (loop $l (br $l))))')
    (tmp_path / "spin.wasm").write_bytes(module)
    cache = Cache(str(tmp_path / "cache"))
    profile = Profile()

    async def resolve(found: spawn.Found) -> spawn.Module:
        os.close(found.fd)
        code = harness.compiled(module, profile, cache)
        return spawn.Module(sealed.seal(cache.root, code) if protect else code, "core")

    async def scenario() -> walls.Result:
        spec = cri("sleep", "1000")
        spec["mounts"].append(bind(tmp_path, "/mod"))
        allowed = [*walls.CAPS, "CAP_SYS_PTRACE"]
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), allowed)
        spec["process"]["capabilities"] = capabilities
        bundle = walls.Bundle(spec)
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        stdio = (-1, -1, -1)
        guest = await spawn.exec_(
            walls.exec_order(bundle, order, init, ["/mod/spin.wasm"], stdio), resolve
        )
        try:
            await guest.start()
            return await walls.joined(bundle, order, init, "sh", "-c", CODE)
        finally:
            for process in (guest, init):
                process.kill(signal.SIGKILL)
                walls.ended(process)
            bundle.close()

    try:
        out = asyncio.run(scenario()).out
    finally:
        sealed.forget()
    assert out.startswith("found\n")
    assert ("written" in out) is not protect
    assert ("Read-only file system" in out) is protect
