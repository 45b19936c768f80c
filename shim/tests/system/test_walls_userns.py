"""User and time namespaces, and id-mapped mounts, on a real kernel."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod import spec as s
from copepod.container import spawn
from fakes import walls
from fakes.walls import bind, cri, nothing_is_left, run  # noqa: F401

pytestmark = walls.needs

BASE = 100_000
MAP = [{"containerID": 0, "hostID": BASE, "size": 65_536}]


def userns(*args: str, **changes: Any) -> dict[str, Any]:
    spec = cri(*args, **changes)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}
    return spec


def mapped(bundle: walls.Bundle) -> tuple[s.RootfsMount, ...]:
    """The root as containerd asks for it where the snapshotter can map ids."""
    os.chown(f"{bundle.path}/upper", BASE, BASE)
    (one,) = bundle.mounts()
    maps = f"uidmap=0:{BASE}:65536", f"gidmap=0:{BASE}:65536"
    return (s.RootfsMount(one.type, one.source, "", (*one.options, *maps)),)


async def inside(spec: dict[str, Any], resolve: Any = walls.no_module) -> walls.Result:
    """Runs a container on an id-mapped root."""
    bundle = walls.Bundle(spec)
    reading, writing = os.pipe()
    try:
        order = bundle.order((-1, writing, writing), rootfs=mapped(bundle))
        process = await spawn.create(order, resolve)
        await process.start()
        os.close(writing)
        writing = -1
        return walls.Result(walls.read_all(reading), walls.ended(process))
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
        bundle.close()


def test_root_inside_is_nobody_outside(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    spec = userns(
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin /etc/passwd;"
        "touch /made && stat -c %u /made; echo x > /dev/null && echo written; cat /proc/self/mounts"
        " | wc -l; mount -t tmpfs none /tmp && echo mounted; stat -c %u /seen/file; hostname",
    )
    for sets in spec["process"]["capabilities"].values():
        sets.append("CAP_SYS_ADMIN")
    spec["mounts"].append(bind(tmp_path, "/seen"))
    lines = asyncio.run(inside(spec)).out.splitlines()
    assert lines[0] == "0"
    assert [line.split() for line in lines[1:3]] == [["0", str(BASE), "65536"]] * 2
    assert lines[3:7] == ["0:0", "0:0", "0", "written"]
    assert lines[8:] == ["mounted", "65534", "box"]  # the node's root is nobody here


def test_what_it_makes_belongs_to_the_mapped_user() -> None:
    async def scenario() -> tuple[int, int]:
        bundle = walls.Bundle(userns("sh", "-c", "touch /made; sleep 1000"))
        order = bundle.order(rootfs=mapped(bundle))
        init = await spawn.create(order, walls.no_module)
        await init.start()
        found = await walls.joined(bundle, order, init, "sh", "-c", "id -u; touch /joined")
        assert found == walls.Result("0\n", 0)
        owners = [os.stat(f"{bundle.path}/upper/{name}").st_uid for name in ("made", "joined")]
        init.kill(signal.SIGKILL)
        walls.ended(init)
        bundle.close()
        return owners[0], owners[1]

    assert asyncio.run(scenario()) == (BASE, BASE)


def test_a_volume_that_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    spec = userns("sh", "-c", "stat -c %u /vol/theirs; touch /vol/ours; stat -c %u /vol/ours")
    spec["mounts"].append(
        bind(tmp_path, "/vol", "rbind", "idmap") | {"uidMappings": MAP, "gidMappings": MAP}
    )
    assert asyncio.run(inside(spec)) == walls.Result("0\n0\n", 0)
    assert os.stat(tmp_path / "ours").st_uid == 0


def test_a_mapped_volume_without_a_user_namespace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = cri("stat", "-c", "%u", "/vol/file")
    maps = [{"containerID": 0, "hostID": 7000, "size": 10}]
    spec["mounts"].append(
        bind(tmp_path, "/vol", "rbind", "ridmap") | {"uidMappings": maps, "gidMappings": maps}
    )
    assert run(spec).out == "7000\n"


def test_containers_of_a_pod_share_the_sandboxes_user_namespace() -> None:
    async def scenario() -> walls.Result:
        bundle = walls.Bundle(userns("/pause"))
        sandbox = await spawn.create(
            bundle.order(sandbox=True, rootfs=mapped(bundle)), walls.no_module
        )
        await sandbox.start()
        spec = cri(
            "sh", "-c", "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/net; hostname"
        )
        del spec["hostname"]
        names = {"network": "net", "ipc": "ipc", "uts": "uts", "user": "user"}
        spec["linux"]["namespaces"] = [
            {"type": kind, "path": f"/proc/{sandbox.pid}/ns/{name}"} for kind, name in names.items()
        ] + [{"type": kind} for kind in ("pid", "mount", "cgroup")]
        spec["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}
        try:
            found = await inside(spec)
            assert os.readlink(f"/proc/{sandbox.pid}/ns/net") in found.out
            return found
        finally:
            sandbox.kill(signal.SIGTERM)
            assert walls.ended(sandbox) == 0
            bundle.close()

    lines = asyncio.run(scenario()).out.splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(BASE), "65536"]
    assert lines[3] == "box"


def test_a_wasm_guest_sees_no_process_there_either(tmp_path: Path) -> None:
    from system.test_walls_wasm import HELLO, NOENT, opening, resolving

    tmp_path.chmod(0o755)
    for data, code in ((HELLO, 5), (opening("proc/self/mem"), NOENT), (opening("proc/stat"), 0)):
        (tmp_path / "guest.wasm").write_bytes(data)
        spec = userns("/mod/guest.wasm")
        spec["mounts"].append(bind(tmp_path, "/mod"))
        assert asyncio.run(inside(spec, resolving([]))).code == code


def test_what_is_masked_is_masked_for_a_guest_that_joins(tmp_path: Path) -> None:
    from system.test_walls_wasm import reading, resolving

    tmp_path.chmod(0o755)
    names = ("version", "filesystems")
    for name in names:
        (tmp_path / name).write_bytes(reading(f"proc/{name}"))
    spec = userns("sleep", "1000", linux__maskedPaths=["/proc/version"])
    spec["mounts"].append(bind(tmp_path, "/mod"))

    async def scenario() -> list[int]:
        bundle = walls.Bundle(spec)
        order = bundle.order(rootfs=mapped(bundle))
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            return [
                (
                    await walls.joined(bundle, order, init, f"/mod/{name}", resolve=resolving([]))
                ).code
                for name in names
            ]
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()

    assert asyncio.run(scenario()) == [0, 99]


def test_a_user_namespace_without_maps() -> None:
    spec = cri("true")
    spec["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(errors.InvalidArgument, match=r"needs linux\.uidMappings"):
        run(spec)


def test_maps_that_the_kernel_refuses() -> None:
    spec = userns("true")
    spec["linux"]["uidMappings"] = MAP * 2
    with pytest.raises(OSError, match="Invalid argument"):
        run(spec)


def test_time_namespace_and_its_offsets() -> None:
    spec = cri("cat", "/proc/uptime")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 100_000_000, "nanosecs": 5}}
    assert float(run(spec).out.split()[0]) > 100_000_000


def test_exec_joins_the_time_namespace() -> None:
    async def scenario() -> str:
        spec = cri("sleep", "1000")
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 100_000_000}}
        bundle = walls.Bundle(spec)
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            return (await walls.joined(bundle, order, init, "cat", "/proc/uptime")).out
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()

    assert float(asyncio.run(scenario()).split()[0]) > 100_000_000
