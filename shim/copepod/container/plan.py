"""From a spec to the ordered steps of a child: what becomes a mount, a namespace, a limit.

It is pure: it opens nothing and knows the machine only by what it is given. It refuses, with
InvalidArgument, what can't be or would reach out of the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import job as j
from copepod.child import mounts, ops, rootfs
from copepod.container import mount_options, plan_dev, plan_mounts, plan_process, plan_sysctl
from copepod.linux import mount as m
from copepod.linux import ns
from copepod.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.cgroupfs import Hierarchy
    from copepod.spec import Process, RootfsMount, Spec


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan has to know of the node. `unified`: where cgroup v2 is mounted, "" if the
    node is run with version 1; then `hierarchies` are those of version 1."""

    unified: str = ""
    hierarchies: tuple[Hierarchy, ...] = ()


def create(
    spec: Spec,
    container_id: str,
    bundle: str,
    root_mounts: Sequence[RootfsMount],
    machine: Machine,
    *,
    sandbox: bool = False,
    terminal: bool = False,
    own_network: bool = True,
) -> j.Job:
    """Gives the job of a container's first process; stdio, fds and the like are the caller's to
    fill in. `own_network`: a new network namespace is made by the child and not given to it.
    Raises InvalidArgument or Unimplemented."""
    if spec.process is None:
        raise errors.InvalidArgument("config.json has no process: there is nothing to run")
    _refuse(spec)
    names = namespaces(spec, own_network=own_network)
    program = plan_process.program(spec.process, container_id, spec.linux, joins=False)
    in_userns = bool(names.uid_map) or any(one.kind == "user" for one in names.joins)
    root = _root_path(spec, bundle)
    outside, clones = _outside(spec, bundle, root, root_mounts, in_userns)
    setup_dev = not _dev_is_bound(spec)
    hooks = spec.hooks
    return j.Job(
        kind="sandbox" if sandbox else "create",
        bundle=bundle,
        namespaces=names,
        program=program,
        outside=outside,
        inside=(
            *((ops.PutRoot(),) if in_userns or not root_mounts else ()),
            *plan_mounts.inside(spec, bundle, machine, clones),
            *(plan_dev.nodes(spec, in_userns) if setup_dev else ()),
            *_names(spec),
            *(_terminal(spec.process, console=setup_dev) if terminal else ()),
        ),
        last=_last(spec, spec.process),
        proc_mounts=plan_mounts.procfs(spec),
        places=plan_mounts.places(spec),
        terminal=terminal,
        hooks_outside=bool(hooks and (hooks.prestart or hooks.create_runtime)),
        container_hooks=plan_process.hooks(hooks.create_container if hooks else ()),
        start_hooks=plan_process.hooks(hooks.start_container if hooks else ()),
    )


def _root_path(spec: Spec, bundle: str) -> str:
    path = spec.root.path or "rootfs"
    return path if path.startswith("/") else f"{bundle}/{path}"


def _refuse(spec: Spec) -> None:
    linux = spec.linux
    kinds = [one.type for one in linux.namespaces]
    for kind in kinds:
        if kind not in ns.KINDS:
            raise errors.InvalidArgument(f"linux.namespaces: there is no namespace type {kind!r}")
        if kinds.count(kind) > 1:
            raise errors.InvalidArgument(f"linux.namespaces: {kind} is there more than once")
    mount = linux.namespace("mount")
    if mount is None or mount.path:
        raise errors.InvalidArgument(
            "linux.namespaces: a container needs a mount namespace of its own, new and without a "
            "path: its root file system is mounted nowhere else"
        )
    if (linux.uid_mappings or linux.gid_mappings) and "user" not in kinds:
        raise errors.InvalidArgument(
            "linux.uidMappings and gidMappings need a user namespace in linux.namespaces"
        )
    if (spec.hostname or spec.domainname) and "uts" not in kinds:
        raise errors.InvalidArgument("hostname and domainname need a uts namespace")
    if linux.net_devices:
        raise errors.Unimplemented("linux.netDevices: Copepod moves no network devices")
    if linux.intel_rdt is not None:
        raise errors.Unimplemented("linux.intelRdt: Copepod sets no resctrl groups")
    time = linux.namespace("time")
    if linux.time_offsets and (time is None or time.path):
        raise errors.InvalidArgument("linux.timeOffsets need a time namespace, a new one")


def namespaces(spec: Spec, *, own_network: bool = True) -> j.Namespaces:
    """Gives what is made and what is joined."""
    linux = spec.linux
    flags, joins = 0, []
    for one in linux.namespaces:
        if one.type == "pid":
            continue
        if one.path:
            joins.append(j.Join(one.type, one.path))
        elif one.type not in ("user", "time", "mount") and (own_network or one.type != "network"):
            flags |= ns.KINDS[one.type][0]
    # Everything that the node owns is joined before the user namespace takes that right away.
    joins.sort(key=lambda one: one.kind == "user")
    user, pid, time = (linux.namespace(kind) for kind in ("user", "pid", "time"))
    if user is not None:
        flags |= ns.CLONE_NEWNS  # a second one, owned by the user namespace
    new_user = user is not None and not user.path
    if new_user and not (linux.uid_mappings and linux.gid_mappings):
        raise errors.InvalidArgument(
            "linux.namespaces: a new user namespace needs linux.uidMappings and gidMappings"
        )
    new_time = time is not None and not time.path
    new_pid = pid is not None and not pid.path
    middle = new_time or (user is not None and new_pid)
    return j.Namespaces(
        unshare=flags,
        joins=tuple(joins),
        new_user=new_user,
        new_pid=new_pid,
        new_time=new_time,
        pid_path=pid.path if pid else "",
        middle=middle,
        uid_map=plan_mounts.id_map(linux.uid_mappings),
        gid_map=plan_mounts.id_map(linux.gid_mappings),
        time_offsets=_offsets(spec),
    )


def _offsets(spec: Spec) -> str:
    for clock in spec.linux.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise errors.InvalidArgument(f"linux.timeOffsets: the clock {clock!r} has no offset")
    return "".join(
        f"{clock} {offset.secs} {offset.nanosecs}\n"
        for clock, offset in spec.linux.time_offsets.items()
    )


def _outside(
    spec: Spec, bundle: str, root: str, root_mounts: Sequence[RootfsMount], in_userns: bool
) -> tuple[tuple[j.Op, ...], frozenset[str]]:
    """What runs with the node's privileges: the root, and hold of sources that need them.

    Gives also the keys of the sources taken.
    """
    shared, later = plan_mounts.clones(spec, bundle, in_userns)
    if in_userns:
        later += plan_dev.clones(spec) if not _dev_is_bound(spec) else ()
    taken = frozenset(clone.key for clone in (*shared, *later))
    steps: tuple[j.Op, ...] = (
        *shared,
        ops.Detach(),
        *(_rootfs_mount(one, root) for one in root_mounts),
        ops.OpenRoot(root, clone=in_userns or not root_mounts),
        *later,
    )
    return steps, taken


def _rootfs_mount(one: RootfsMount, root: str) -> rootfs.RootfsMount:
    options = mount_options.parse(one.options)
    target = f"{root}/{one.target.lstrip('/')}" if one.target else root
    data, maps = plan_mounts.containerd_maps(options.data)
    return rootfs.RootfsMount(
        type=one.type,
        source=one.source,
        target=target,
        bind=options.bind or one.type == "bind",
        recursive=options.recursive,
        attributes=mounts.Attributes(options.attrs.set, options.attrs.clear),
        flags=options.mount_flags(),
        data=data,
        maps=maps,
    )


def _dev_is_bound(spec: Spec) -> bool:
    """A /dev that is bound from the node is complete; nothing is to be made in it."""
    return any(
        one.destination.rstrip("/") == "/dev"
        and (one.type == "bind" or mount_options.parse(one.options).bind)
        for one in spec.mounts
    )


def _names(spec: Spec) -> tuple[j.Op, ...]:
    steps: list[j.Op] = []
    if spec.hostname or spec.domainname:
        steps.append(ops.Hostname(spec.hostname, spec.domainname))
    if spec.linux.sysctl:
        steps.append(ops.Sysctls(plan_sysctl.sysctls(spec)))
    return tuple(steps)


def _terminal(process: Process, *, console: bool) -> tuple[j.Op, ...]:
    """Not later: while the device rules are written nothing can be opened for a moment."""
    size = plan_process.console_size(process)
    return (plan_dev.Terminal(process.user.uid, size, console=console),)


def _last(spec: Spec, process: Process) -> tuple[j.Op, ...]:
    """What comes after the program has been found: all that makes the root smaller. Device rules
    are written meanwhile, so that no device may be opened in it."""
    steps: list[j.Op] = [ops.WorkingDirectory(process.cwd or "/")]
    if spec.linux.readonly_paths:
        steps.append(ops.ReadonlyPaths(spec.linux.readonly_paths))
    if spec.linux.masked_paths:
        steps.append(ops.MaskedPaths(spec.linux.masked_paths, spec.linux.mount_label))
    frozen = plan_mounts.frozen(spec)
    if spec.root.readonly:
        frozen += ("/",)
    if frozen:
        steps.append(ops.Freeze(frozen))
    steps.append(ops.Pivot(_root_propagation(spec)))
    return tuple(steps)


def _root_propagation(spec: Spec) -> int:
    """What is set at the end, as in runc; private is what the root is anyway."""
    word = spec.linux.rootfs_propagation
    if not word:
        return 0
    given = mount_options.parse((word,)).propagation
    if not given:
        raise errors.InvalidArgument(f"linux.rootfsPropagation: there is no {word!r}")
    return 0 if given[0] & m.MS_PRIVATE else given[0]
