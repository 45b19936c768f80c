"""Starts a hostile container from a program of the tests' own and goes away; run as a script.

argv: bundle directory, whether to protect this program's file, the fd of the container's stdout.
"""

from __future__ import annotations

import asyncio
import os
import sys


async def main(bundle: str, stdout: int) -> None:
    from copepod import spec as s
    from copepod.container import spawn

    async def no_module(found: spawn.Found) -> spawn.Module:
        raise AssertionError(found)

    order = spawn.Order(
        id="hostile",
        namespace="test",
        bundle=bundle,
        spec=s.load(f"{bundle}/config.json"),
        rootfs=(),
        stdio=(-1, stdout, stdout),
        terminal=False,
        cgroup_fds=[],
    )
    process = await spawn.create(order, no_module)
    await process.start()
    print(process.pid, flush=True)


if __name__ == "__main__":
    from copepod.linux import selfexe

    folder, protect, fd = sys.argv[1:]
    if protect == "True" and not selfexe.is_protected():
        os.set_inheritable(int(fd), True)
        selfexe.execute_protected([sys.executable, __file__, *sys.argv[1:]], dict(os.environ))
    asyncio.run(main(folder, int(fd)))
    os._exit(0)
