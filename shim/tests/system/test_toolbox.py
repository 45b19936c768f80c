"""The toolbox as users meet it: an exec into a container whose image has no such command."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.config import Config
from copepod.container import spawn
from copepod.container.resolver import Resolver
from copepod.engine.limits import Knobs
from copepod.image import sealed, toolbox
from fakes import walls
from fakes.walls import bind, cri, nothing_is_left  # noqa: F401

pytestmark = [
    *walls.needs,
    pytest.mark.skipif(
        not os.path.exists(toolbox.path(Config())),
        reason="the toolbox is not built: `make toolbox`, which wants a Go of 1.21 or newer",
    ),
]

# As in the scratch images that the toolbox is for: one static program and nothing else.
ONLY = "/only"
# Better code is made behind a start: a test that takes longer would leave that at work.
QUICK = Knobs(compiler="winch")
Inside = Callable[..., Awaitable[walls.Result]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all tests."""
    return tmp_path_factory.mktemp("toolbox-cache")


def within(
    cache: Path,
    scenario: Callable[[Inside, spawn.Process, walls.Bundle], Awaitable[Any]],
    config: Config | None = None,
    **changes: Any,
) -> Any:
    """Runs the scenario with a container that sleeps and has no command but busybox at /only."""

    async def main() -> Any:
        bundle = walls.Bundle(cri(f"{ONLY}/sleep", "1000", process__env=["A=b"], **changes))
        bundle.spec["mounts"].append(bind(f"{walls.rootfs()}/bin", ONLY, "rbind", "ro"))
        bundle.spec["mounts"].append(
            {"destination": "/bin", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}
        )
        bundle.write()
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        node = config or Config(cache_dir=str(cache))

        async def inside(*args: str, **more: Any) -> walls.Result:
            resolver = Resolver(node, "/nowhere.sock", order, Knobs(), [], QUICK)
            return await walls.joined(bundle, order, init, *args, resolve=resolver, **more)

        try:
            return await scenario(inside, init, bundle)
        finally:
            init.kill(signal.SIGKILL)
            assert walls.ended(init) == 137
            bundle.close()
            sealed.forget()

    return asyncio.run(main())


def test_a_shell_and_its_tools(cache: Path) -> None:
    script = """
        set -e
        mkdir -p /tmp/a/b; cd /tmp/a; echo one > f; cp f g; mv g b/h; cat f b/h | wc -l
        tar cf /tmp/a.tar b; rm -r b; tar xf /tmp/a.tar; cat b/h
        find . -type f | sort; ls; pwd; x=$(seq 3 | tail -n 1); echo "$x $A"
        grep -c n f | while read n; do echo "n=$n"; done
        id -u; hostname; uname -s
        exit 7
    """

    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> walls.Result:
        return await inside("sh", "-c", script)

    found = within(cache, scenario)
    lines = found.out.split("\n")
    assert lines[:7] == ["2", "one", "./b/h", "./f", "b", "f", "/tmp/a"]
    assert lines[7:] == ["3 b", "n=1", "0", "box", "Linux", ""]
    assert found.code == 7


def test_exit_codes_are_those_of_posix(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        for code, words in [
            (0, ["true"]),
            (1, ["false"]),
            (1, ["test", "-d", "/nowhere"]),
            (0, ["/bin/test", "-d", "/tmp"]),
            (1, ["grep", "absent", "/etc/passwd"]),
            (2, ["grep", "x", "/nowhere"]),
            (1, ["cat", "/nowhere"]),
            (2, ["ls", "--wrong"]),
            (127, ["sh", "-c", "nowhere"]),
            (126, ["sh", "-c", f"{ONLY}/busybox"]),
            (127, ["env", "nowhere"]),
            (2, ["sh", "-c", "if"]),
        ]:
            found = await inside(*words)
            assert found.code == code, (words, found)

    within(cache, scenario)


def test_it_is_the_execs_user_in_its_directory(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        who = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
        found = await inside("id", user=who)
        assert found.out == "uid=1000(app) gid=1000 groups=1000,5\n"
        found = await inside("sh", "-c", "pwd; echo $A; env", cwd="/tmp", env=["A=z"], user=who)
        assert found.out.split("\n")[:2] == ["/tmp", "z"]
        assert "COPEPOD" not in found.out
        found = await inside("sh", "-c", "echo x > /etc/passwd", user=who)
        assert (found.code, "ermission denied" in found.out) == (1, True)
        await inside("touch", "/tmp/mine", user=who)
        assert os.stat(f"{bundle.path}/upper/tmp/mine").st_uid == 1000

    within(cache, scenario)


def test_ps_shows_the_container_and_hides_the_engine(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        found = await inside("ps")
        _, *lines = found.out.splitlines()
        assert [line.split()[0] for line in lines] == ["1"]
        assert lines[0].endswith(f"{ONLY}/sleep 1000")
        found = await inside("ls", "/proc/self/")
        assert found.code != 0
        found = await inside("sh", "-c", "echo /proc/[0-9]*")
        assert found.out == "/proc/1\n"
        # One that may trace could reach other engines: it sees no process at all.
        tracer = {name: ["CAP_SYS_PTRACE"] for name in ("bounding", "effective", "permitted")}
        found = await inside("sh", "-c", "echo /proc/[0-9]*", capabilities=tracer)
        assert found.out == "/proc/[0-9]*\n"

    within(cache, scenario)


def test_it_ends_with_its_container_and_by_signals(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        order = bundle.order()
        wanted = walls.exec_order(bundle, order, init, ["sleep", "1000"], (-1, -1, -1))
        resolver = Resolver(
            Config(cache_dir=str(cache)), "/nowhere.sock", order, Knobs(), [], QUICK
        )
        process = await spawn.exec_(wanted, resolver)
        await process.start()
        process.kill(signal.SIGTERM)
        assert walls.ended(process) == 143

    within(cache, scenario)


def test_a_terminal_has_a_prompt_and_ctrl_d_ends_it(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> str:
        order = bundle.order()
        wanted = walls.exec_order(bundle, order, init, ["sh"], (-1, -1, -1), terminal=True)
        resolver = Resolver(
            Config(cache_dir=str(cache)), "/nowhere.sock", order, Knobs(), [], QUICK
        )
        process = await spawn.exec_(wanted, resolver)
        await process.start()
        os.write(process.console, b"cd /tmp\necho w$((1+1))\nif true\nthen (\nexit 9\n)\nfi\n\x04")
        out = walls.read_all(process.console)
        os.close(process.console)
        assert walls.ended(process) == 9
        return out

    out = within(cache, scenario)
    assert "/ # " in out
    assert "/tmp # " in out
    assert "w2" in out


def test_what_the_image_has_is_the_images(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        found = await inside("sh", "-c", "echo $0; cat /proc/self/comm", env=[f"PATH={ONLY}"])
        assert found.out == "sh\ncat\n"  # busybox
        for name in ("nowhere", "/opt/sh", "sh#main"):
            with pytest.raises(errors.Error):
                await inside(name)

    within(cache, scenario)


def status(text: str) -> dict[str, str]:
    """The lines of a /proc/<pid>/status."""
    return {name: value.strip() for name, _, value in (x.partition(":") for x in text.split("\n"))}


def test_it_says_what_it_may(cache: Path) -> None:
    """As the kernel says it of a native process in the same place: of what an execve leaves."""

    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        few = {name: ["CAP_KILL", "CAP_NET_RAW"] for name in ("bounding", "effective", "permitted")}
        ambient = {**few, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
        for more in (
            {},
            {"capabilities": {**few, "effective": []}},
            {"capabilities": {**few, "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}},
            {"capabilities": few, "noNewPrivileges": False},
            {"user": {"uid": 1000, "gid": 5}},
            {"user": {"uid": 1000, "gid": 5}, "noNewPrivileges": False, "capabilities": ambient},
        ):
            theirs = await inside(f"{ONLY}/cat", "/proc/self/status", **more)
            ours = status((await inside("cat", "/proc/self/status", **more)).out)
            wanted = status(theirs.out)
            for name in ("Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"):
                assert ours[name] == wanted[name], (name, ours, wanted)
            assert ours["Uid"] == wanted["Uid"]
            assert ours["Seccomp"] == wanted["Seccomp"] == "0"
        for name in ("uid_map", "gid_map"):
            theirs = await inside(f"{ONLY}/cat", f"/proc/self/{name}")
            assert (await inside("cat", f"/proc/self/{name}")).out == theirs.out
        # Nothing else of it is there.
        assert (await inside("cat", "/proc/self/mem")).code == 1

    within(cache, scenario)


def test_it_shows_processes_sockets_and_ipc(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        for words in (["pgrep", "sle"], ["pgrep", "-x", "sleep"], ["pidof", "sleep"]):
            assert (await inside(*words)).out == "1\n", words
        assert (await inside("pgrep", "-lf", "sleep 10")).out == f"1 {ONLY}/sleep 1000\n"
        for words in (["pgrep", "-x", "sle"], ["pidof", "slee"]):
            assert (await inside(*words)).code == 1, words
        found = await inside("netstat", "-ln")
        assert (found.code, found.out.count("\n")) == (0, 1), found
        assert "lo:" in (await inside("cat", "/proc/net/dev")).out
        for beyond in ("/proc/net/../status", "/proc/net/../mem", "/proc/net/../../1/status"):
            assert "Name:" not in (await inside("cat", beyond)).out
        found = await inside("ipcs", "-m")
        assert "Shared Memory Segments" in found.out
        assert found.out.splitlines()[-1].split()[:2] == ["key", "shmid"], found

    within(cache, scenario)


def test_its_way_to_the_network_leads_nowhere_else(cache: Path) -> None:
    """A tracer in the container can go through another process's directory and descriptors."""
    caps = [*walls.CAPS, "CAP_SYS_PTRACE"]
    tracer = dict.fromkeys(("bounding", "effective", "permitted"), caps)
    script = (
        "for a in cwd $(cd /proc/$0; echo fd/[3-9]* fd/1?); do cat /proc/$0/$a/../../1/stat; done"
    )

    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> None:
        order = bundle.order()
        words = ["sleep", "1000"]
        wanted = walls.exec_order(bundle, order, init, words, (-1, -1, -1), capabilities=tracer)
        node = Config(cache_dir=str(cache))
        process = await spawn.exec_(
            wanted, Resolver(node, "/nowhere.sock", order, Knobs(), [], QUICK)
        )
        await process.start()
        try:
            (pid,) = (await inside(f"{ONLY}/pidof", "sleep", capabilities=tracer)).out.split()[:1]
            seen = await inside(f"{ONLY}/ls", f"/proc/{pid}/cwd/", capabilities=tracer)
            found = await inside(f"{ONLY}/sh", "-c", script, pid, capabilities=tracer)
        finally:
            process.kill(signal.SIGTERM)
            assert walls.ended(process) == 143
        assert "tcp" in seen.out, seen
        assert "(" not in found.out, found

    within(cache, scenario, process__capabilities=tracer)


def test_it_copies_in_blocks(cache: Path) -> None:
    script = """
        cd /tmp; seq 1000 > f
        dd if=f of=g bs=100 skip=1 count=2 status=none; wc -c < g
        dd if=f of=g bs=10 seek=1 count=1 conv=notrunc 2>&1; head -c 14 g; wc -c < g
        dd if=nowhere of=g
    """

    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> walls.Result:
        return await inside("sh", "-c", script)

    found = within(cache, scenario)
    head = "".join(f"{number}\n" for number in range(1, 1001))[100:110]
    assert found.code == 1
    assert found.out == (
        f"200\n1+0 records in\n1+0 records out\n10 bytes copied\n{head}1\n2\n200\n"
        "dd: nowhere: No such file or directory\n"
    )


# What an image is made of that has the toolbox itself: /bin/sh and /bin/ls are the module.
def own(cache: Path, *args: str, tail: bytes = b"", **changes: Any) -> walls.Result:
    """Runs a container whose own program is the toolbox, with `tail` behind its last byte."""
    folder = cache / f"own-{len(tail)}"
    folder.mkdir(exist_ok=True)
    module = Path(toolbox.path(Config())).read_bytes() + tail
    for name in ("sh", "ls"):
        (folder / name).write_bytes(module)
    spec = cri(*args, **changes)
    spec["mounts"].append(bind(folder, "/bin", "rbind", "ro"))
    node = Config(cache_dir=str(cache))

    async def main() -> walls.Result:
        async def resolve(found: spawn.Found) -> spawn.Module:
            wanted = walls.Bundle(spec)
            try:
                resolver = Resolver(node, "/nowhere.sock", wanted.order(), QUICK, [])
                return await resolver(found)
            finally:
                wanted.close()
                sealed.forget()

        return await walls.run_async(spec, resolve=resolve)

    return asyncio.run(main())


def test_a_container_that_has_it_is_told_the_same(cache: Path) -> None:
    script = "id; hostname; cat /proc/self/status /proc/net/dev; env; ls /proc/self/"
    found = own(cache, "/bin/sh", "-c", script, process__user={"uid": 1000, "gid": 7})
    lines = found.out.splitlines()
    assert lines[:2] == ["uid=1000(app) gid=7 groups=7", "box"]
    assert status(found.out)["CapBnd"] == "00000000a80425fb"
    assert "lo:" in found.out
    assert "COPEPOD" not in found.out
    assert found.code != 0
    # Anything else is a guest as all others.
    found = own(cache, "/bin/sh", "-c", "id; cat /proc/self/status", tail=b"\0\2\1x")
    assert "the host has not said whose process this is" in found.out
    assert "/proc/self/status: No such file" in found.out


def test_what_is_masked_in_the_image_is_not_in_its_shell(cache: Path) -> None:
    found = own(cache, "/bin/sh", "-c", "ls", linux__maskedPaths=["/bin/ls"])
    assert (found.out, found.code) == ("/bin/sh: ls: Permission denied\n", 126)
    assert own(cache, "/bin/sh", "-c", "ls -d /bin").out == "/bin\n"


def test_a_read_only_file_system_is_called_that(cache: Path) -> None:
    """The engine says EIO: it has no name for EROFS. Once it has, the shim need not tell."""
    script = """
        cd /tmp; touch a /bin/a ../etc/a; mkdir /bin/b; rm /etc/passwd
        dd if=/etc/passwd of=/bin/c; cp /etc/passwd /bin/d
        echo x > /bin/e
    """

    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> walls.Result:
        return await inside("sh", "-c", script)

    found = within(cache, scenario, linux__readonlyPaths=["/etc"])
    *said, last = found.out.splitlines()
    assert [line.removesuffix(": Read-only file system") for line in said] == [
        "touch: /bin/a",
        "touch: ../etc/a",
        "mkdir: can't create directory '/bin/b'",
        "rm: can't remove '/etc/passwd'",
        "dd: /bin/c",
        "cp: /bin/d",
    ]
    assert "I/O error" in last


def test_it_can_be_switched_off_and_may_be_absent(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> str:
        with pytest.raises(errors.Error) as caught:
            await inside("sh")
        return str(caught.value)

    off = Config(cache_dir=str(cache), toolbox_enabled=False)
    assert "toolbox" not in within(cache, scenario, off)
    absent = Config(cache_dir=str(cache), toolbox_path="/nowhere/toolbox.wasm")
    said = within(cache, scenario, absent)
    assert "sh in $PATH" in said
    assert "toolbox can't be used: /nowhere/toolbox.wasm" in said


def test_the_list_of_names_is_the_binarys(cache: Path) -> None:
    async def scenario(inside: Inside, init: spawn.Process, bundle: walls.Bundle) -> str:
        # Called by a name that it does not have, it reads the tool from its first argument.
        name = toolbox.NAMES
        toolbox.NAMES = name | {"toolbox"}
        try:
            return (await inside("toolbox", "--list")).out
        finally:
            toolbox.NAMES = name

    assert set(within(cache, scenario).split()) == toolbox.NAMES
