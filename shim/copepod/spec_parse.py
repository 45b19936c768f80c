"""From JSON to the dataclasses of spec.py and spec_resources.py, by tables.

It reads no file and checks types only; the one thing it raises is InvalidArgument, whose sentence
names the field as a path (`linux.namespaces[2].type`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from copepod import errors
from copepod import spec as s
from copepod import spec_resources as r

Reader = Callable[[Any], Any]


class _Bad(Exception):
    """A value of the wrong shape; each level of the document prepends its name to `path`."""

    def __init__(self, what: str) -> None:
        self.what, self.path = what, ""


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _Bad(f"is {_kind(value)} where a string belongs")
    if "\0" in value:
        raise _Bad("has a NUL byte")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise _Bad("is no valid Unicode")  # the kernel takes bytes, and half a pair has none
    return value


def _int(value: Any) -> int:
    if type(value) is not int:
        raise _Bad(f"is {_kind(value)} where a whole number belongs")
    return value


def _count(value: Any) -> int:
    if _int(value) < 0:
        raise _Bad("is negative")
    return value  # type: ignore[no-any-return]


def _id(value: Any) -> int:
    """A user or group: the last number means "unchanged" to setresuid(2), and that is root."""
    if _count(value) >= 0xFFFFFFFF:
        raise _Bad("is no id: they go from 0 to 4294967294")
    return value  # type: ignore[no-any-return]


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _Bad(f"is {_kind(value)} where true or false belongs")
    return value


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _list(item: Reader) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _Bad(f"is {_kind(value)} where a list belongs")
        done: list[Any] = []
        try:
            done.extend(map(item, value))  # extend keeps what it got before a failure
        except _Bad as bad:
            bad.path = f"[{len(done)}]{bad.path}"
            raise
        return tuple(done)

    return read


def _map(item: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Bad(f"is {_kind(value)} where an object belongs")
        done: dict[str, Any] = {}
        for key, one in value.items():
            try:
                done[_text(key)] = item(one)
            except _Bad as bad:
                bad.path = f"[{key!r}]{bad.path}"
                raise
        return done

    return read


def _object(cls: Callable[..., Any], _names: dict[str, str] | None = None, **fields: Reader) -> Any:
    """Reads an object into `cls`; `_names` holds the JSON names that are not plain camelCase.

    A null counts as absent: Go writes nil pointers and slices that way.
    """
    names = _names or {}
    table = {names.get(name) or _camel(name): (name, reader) for name, reader in fields.items()}

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _Bad(f"is {_kind(value)} where an object belongs")
        done: dict[str, Any] = {}
        for key, one in value.items():
            known = table.get(key)
            if known is None or one is None:
                continue
            try:
                done[known[0]] = known[1](one)
            except _Bad as bad:
                bad.path = f".{key}{bad.path}"
                raise
        return cls(**done)

    return read


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name)


def _parse(data: bytes, what: str, reader: Reader) -> Any:
    try:
        return reader(json.loads(data))
    except _Bad as bad:
        where = bad.path.lstrip(".") or "the document"
        raise errors.InvalidArgument(f"{what}: {where} {bad.what}") from None
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"{what} is not JSON: {error}") from None


def spec(data: bytes) -> s.Spec:
    """Takes a whole config.json."""
    return _parse(data, "config.json", _SPEC)  # type: ignore[no-any-return]


def process(data: bytes) -> s.Process:
    """Takes the JSON of one process."""
    return _parse(data, "the process spec", _PROCESS)  # type: ignore[no-any-return]


def resources(data: bytes) -> r.Resources:
    """Takes the JSON of linux.resources."""
    return _parse(data, "the resources", _RESOURCES)  # type: ignore[no-any-return]


_texts = _list(_text)

_DEVICE_RULE = _object(r.DeviceRule, allow=_bool, type=_text, major=_int, minor=_int, access=_text)
_MEMORY = _object(
    r.Memory,
    {"kernel_tcp": "kernelTCP", "disable_oom_killer": "disableOOMKiller"},
    limit=_int,
    reservation=_int,
    swap=_int,
    kernel=_int,
    kernel_tcp=_int,
    swappiness=_int,
    disable_oom_killer=_bool,
    use_hierarchy=_bool,
    check_before_update=_bool,
)
_CPU = _object(
    r.CPU,
    {},
    **dict.fromkeys(("shares", "quota", "burst", "period", "idle"), _int),
    **dict.fromkeys(("realtime_runtime", "realtime_period"), _int),
    **dict.fromkeys(("cpus", "mems"), _text),
)
_THROTTLES = _list(_object(r.ThrottleDevice, major=_int, minor=_int, rate=_int))
_BLOCK_IO = _object(
    r.BlockIO,
    {
        "throttle_read_iops_device": "throttleReadIOPSDevice",
        "throttle_write_iops_device": "throttleWriteIOPSDevice",
    },
    weight=_int,
    leaf_weight=_int,
    weight_device=_list(
        _object(r.WeightDevice, major=_int, minor=_int, weight=_int, leaf_weight=_int)
    ),
    throttle_read_bps_device=_THROTTLES,
    throttle_write_bps_device=_THROTTLES,
    throttle_read_iops_device=_THROTTLES,
    throttle_write_iops_device=_THROTTLES,
)
_RESOURCES = _object(
    r.Resources,
    {"block_io": "blockIO"},
    devices=_list(_DEVICE_RULE),
    memory=_MEMORY,
    cpu=_CPU,
    pids=_object(r.Pids, limit=_int),
    block_io=_BLOCK_IO,
    hugepage_limits=_list(_object(r.HugepageLimit, page_size=_text, limit=_count)),
    network=_object(
        r.Network,
        {"class_id": "classID"},
        class_id=_count,
        priorities=_list(_object(r.InterfacePriority, name=_text, priority=_count)),
    ),
    rdma=_map(_object(r.Rdma, hca_handles=_count, hca_objects=_count)),
    unified=_map(_text),
)

_ID_MAPS = _list(
    _object(
        s.IDMapping,
        {"container_id": "containerID", "host_id": "hostID"},
        container_id=_count,
        host_id=_count,
        size=_count,
    )
)
_PROCESS = _object(
    s.Process,
    {"exec_cpu_affinity": "execCPUAffinity"},
    terminal=_bool,
    console_size=_object(s.Box, height=_count, width=_count),
    user=_object(
        s.User,
        uid=_id,
        gid=_id,
        umask=_count,
        additional_gids=_list(_id),
        username=_text,
    ),
    args=_texts,
    env=_texts,
    cwd=_text,
    capabilities=_object(
        s.Capabilities,
        {},
        **dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _texts),
    ),
    rlimits=_list(_object(s.Rlimit, type=_text, hard=_count, soft=_count)),
    no_new_privileges=_bool,
    apparmor_profile=_text,
    oom_score_adj=_int,
    scheduler=_object(
        s.Scheduler,
        policy=_text,
        nice=_int,
        priority=_int,
        flags=_texts,
        runtime=_count,
        deadline=_count,
        period=_count,
    ),
    selinux_label=_text,
    io_priority=_object(s.IOPriority, {"class_": "class"}, class_=_text, priority=_int),
    exec_cpu_affinity=_object(s.CPUAffinity, initial=_text, final=_text),
)
_HOOKS = _list(_object(s.Hook, path=_text, args=_texts, env=_texts, timeout=_int))
_SECCOMP = _object(
    s.Seccomp,
    default_action=_text,
    default_errno_ret=_count,
    architectures=_texts,
    flags=_texts,
    listener_path=_text,
    listener_metadata=_text,
    syscalls=_list(
        _object(
            s.SeccompRule,
            names=_texts,
            action=_text,
            errno_ret=_count,
            args=_list(
                _object(s.SeccompArg, index=_count, value=_count, value_two=_count, op=_text)
            ),
        )
    ),
)
_LINUX = _object(
    s.Linux,
    uid_mappings=_ID_MAPS,
    gid_mappings=_ID_MAPS,
    sysctl=_map(_text),
    resources=_RESOURCES,
    cgroups_path=_text,
    namespaces=_list(_object(s.Namespace, type=_text, path=_text)),
    devices=_list(
        _object(
            s.Device,
            path=_text,
            type=_text,
            major=_int,
            minor=_int,
            file_mode=_count,
            uid=_id,
            gid=_id,
        )
    ),
    net_devices=_map(_object(s.NetDevice, name=_text)),
    seccomp=_SECCOMP,
    rootfs_propagation=_text,
    masked_paths=_texts,
    readonly_paths=_texts,
    mount_label=_text,
    intel_rdt=_object(
        s.IntelRdt,
        {"clos_id": "closID"},
        clos_id=_text,
        schemata=_texts,
        l3_cache_schema=_text,
        mem_bw_schema=_text,
    ),
    memory_policy=_object(s.MemoryPolicy, mode=_text, nodes=_text, flags=_texts),
    personality=_object(s.Personality, domain=_text, flags=_texts),
    time_offsets=_map(_object(s.TimeOffset, secs=_int, nanosecs=_count)),
)
_SPEC = _object(
    s.Spec,
    oci_version=_text,
    process=_PROCESS,
    root=_object(s.Root, path=_text, readonly=_bool),
    hostname=_text,
    domainname=_text,
    mounts=_list(
        _object(
            s.Mount,
            destination=_text,
            type=_text,
            source=_text,
            options=_texts,
            uid_mappings=_ID_MAPS,
            gid_mappings=_ID_MAPS,
        )
    ),
    hooks=_object(
        s.Hooks,
        prestart=_HOOKS,
        create_runtime=_HOOKS,
        create_container=_HOOKS,
        start_container=_HOOKS,
        poststart=_HOOKS,
        poststop=_HOOKS,
    ),
    annotations=_map(_text),
    linux=_LINUX,
)
