"""What the first Create would otherwise import and look up, done before it comes.

A shim goes through it before it answers, the zygote through `create` once for all of its shims:
that starts no thread and leaves no file open.
"""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.config import Config


def create() -> None:
    """Makes ready for Create and Start of a container, as this node makes them."""
    import encodings.ascii  # of ctypes' structures and of sha256's hexdigest  # noqa: F401

    import copepod_api.any
    import copepod_api.events_service_pb2  # noqa: F401
    from copepod import spec_parse  # noqa: F401
    from copepod.container import cgroup_oom, devices, fork, spawn  # noqa: F401
    from copepod.engine import capi, run  # noqa: F401
    from copepod.engine.limits import Knobs
    from copepod.image import cache, digests  # noqa: F401
    from copepod.net import links, netns  # noqa: F401

    if spawn.machine().unified:
        from copepod.container import cgroup_v2  # noqa: F401
    else:
        from copepod.container import cgroup_v1, cgroup_v1_limits  # noqa: F401
    fork.prepare()
    capi.library()
    capi.pin_name_lookup()
    knobs = Knobs()
    for tier in knobs.tiers():
        knobs.profile().at(tier).key()
    links.prepare()
    _plug_heap()


@cache
def _plug_heap() -> None:
    """After all that leaves holes; once for the zygote and all of its shims."""
    from copepod.linux import heap

    heap.plug()


def shim(settings: Config) -> None:
    """Opens what a shim keeps open for its containers; no failure here is one of theirs yet."""
    from copepod.child import dev
    from copepod.image import sealed

    sealed.prepare(settings.cache_dir)
    try:
        dev.null_mount()
    except OSError:
        pass
