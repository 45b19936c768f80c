"""The mounts of a spec as steps of the plan. Pure, like all of the plan.

It refuses a mount without a destination, and id maps without a bind to put them on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import cgroupfs, idmap, mounts, ops
from copepod.child import job as j
from copepod.container import mount_options
from copepod.linux import mount as m
from copepod.values import replace

if TYPE_CHECKING:
    from copepod.container.mount_options import Options
    from copepod.container.plan import Machine
    from copepod.spec import IDMapping, Mount, Spec


def id_map(mappings: tuple[IDMapping, ...]) -> str:
    """Gives the lines of a uid_map (user_namespaces(7))."""
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def containerd_maps(data: tuple[str, ...]) -> tuple[tuple[str, ...], idmap.Maps | None]:
    """Takes containerd's `uidmap=` and `gidmap=` (inside:outside:count, more after commas) out of
    the data of a root file system's mount, and gives the rest and the maps."""
    lines = {
        word.partition("=")[0]: word.partition("=")[2].replace(":", " ").replace(",", "\n") + "\n"
        for word in data
        if word.startswith(("uidmap=", "gidmap="))
    }
    if not lines:
        return data, None
    if len(lines) != 2:
        raise errors.InvalidArgument("the root file system has uidmap= or gidmap=, but not both")
    rest = tuple(word for word in data if not word.startswith(("uidmap=", "gidmap=")))
    return rest, idmap.Maps(lines["uidmap"], lines["gidmap"])


def is_bind(one: Mount) -> bool:
    """Whether the mount shows something of the node; the type may say so, or an option."""
    return one.type in ("bind", "rbind") or mount_options.parse(one.options).bind


def _options(one: Mount) -> Options:
    return mount_options.parse(one.options)


def _recursive(one: Mount) -> bool:
    return one.type == "rbind" or _options(one).recursive


def _source(one: Mount, bundle: str) -> str:
    return one.source if one.source.startswith("/") else f"{bundle}/{one.source}"


def clones(
    spec: Spec, bundle: str, in_userns: bool
) -> tuple[tuple[mounts.Clone, ...], tuple[mounts.Clone, ...]]:
    """Gives the sources to take hold of before the mount namespace is cut off from the node's
    (those with shared propagation) and after it (user namespaces, id maps)."""
    shared: list[mounts.Clone] = []
    later: list[mounts.Clone] = []
    whole = spec.linux.rootfs_propagation in ("shared", "rshared")
    for number, one in enumerate(spec.mounts):
        options = _options(one)
        mapped = bool(options.idmap or one.uid_mappings or one.gid_mappings)
        if not is_bind(one):
            if mapped:
                raise errors.InvalidArgument(
                    f"mounts[{number}] {one.destination}: only a bind mount can be id-mapped"
                )
            continue
        # Mounts get out to the node only where the whole root is meant to be shared. Elsewhere
        # what is shared is so behind the cut, as in runc.
        own = options.propagation
        is_shared = whole and (not own or any(kind & m.MS_SHARED for kind in own))
        if not (is_shared or mapped or in_userns):
            continue
        clone = mounts.Clone(
            str(number),
            _source(one, bundle),
            _recursive(one),
            _maps(spec, one, options) if mapped else None,
        )
        (shared if is_shared else later).append(clone)
    return tuple(shared), tuple(later)


def _maps(spec: Spec, one: Mount, options: Options) -> idmap.Maps:
    """The mount's own maps, or else those of the container (config.md, idmap)."""
    uid = one.uid_mappings or spec.linux.uid_mappings
    gid = one.gid_mappings or spec.linux.gid_mappings
    if not (uid and gid):
        raise errors.InvalidArgument(
            f"mount {one.destination}: an id-mapped mount needs uidMappings and gidMappings"
        )
    return idmap.Maps(id_map(uid), id_map(gid), options.idmap == "ridmap")


def inside(spec: Spec, bundle: str, machine: Machine, taken: frozenset[str]) -> tuple[j.Op, ...]:
    """Gives the spec's mounts, in its order."""
    steps: list[j.Op] = []
    for number, one in enumerate(spec.mounts):
        if not one.destination:
            raise errors.InvalidArgument(f"mounts[{number}] has no destination")
        destination = one.destination
        if not destination.startswith("/"):
            destination = f"/{destination}"
        if is_bind(one):
            steps.append(_bind(spec, one, destination, bundle, str(number), taken))
        elif one.type in ("cgroup", "cgroup2"):
            steps.append(_cgroup(spec, one, destination, machine))
        else:
            steps.append(_file_system(spec, one, destination))
    return tuple(steps)


def _attributes(options: Options, *, readonly: bool = True) -> mounts.Attributes:
    own = options.attrs.set if readonly else options.attrs.set & ~m.MOUNT_ATTR_RDONLY
    return mounts.Attributes(
        own,
        options.attrs.clear,
        options.rec_attrs.set,
        options.rec_attrs.clear,
        options.propagation,
    )


def _bound(spec: Spec, options: Options) -> mounts.Attributes:
    """In a private root nothing comes in from the node, whatever the mount itself says."""
    found = _attributes(options)
    if spec.linux.rootfs_propagation != "rprivate":
        return found
    return replace(found, propagation=(m.MS_PRIVATE | m.MS_REC, *found.propagation))


def _bind(
    spec: Spec, one: Mount, destination: str, bundle: str, key: str, taken: frozenset[str]
) -> mounts.Bind:
    if not one.source:
        raise errors.InvalidArgument(f"mount {one.destination}: a bind mount needs a source")
    options = _options(one)
    if options.data:
        # The kernel would take no notice of them: a wish, or a wall, that isn't there.
        raise errors.InvalidArgument(
            f"mount {one.destination}: a bind mount has no options {','.join(options.data)}"
        )
    return mounts.Bind(
        source=_source(one, bundle),
        destination=destination,
        recursive=_recursive(one),
        attributes=_bound(spec, options),
        exact="remount" not in one.options,
        key=key if key in taken else "",
    )


def _is_late(one: Mount) -> bool:
    """Mounts in which more is made before they may become read-only."""
    return one.type == "tmpfs" or one.destination.rstrip("/") == "/dev"


def _file_system(spec: Spec, one: Mount, destination: str) -> mounts.FileSystem:
    if not one.type:
        raise errors.InvalidArgument(f"mount {one.destination}: it has neither type nor bind")
    options = _options(one)
    late = _is_late(one)
    data = options.data
    if spec.linux.mount_label and one.type not in ("proc", "sysfs", "mqueue"):
        data = (*data, f"context={spec.linux.mount_label}")
    flags = options.mount_flags()
    return mounts.FileSystem(
        type=one.type,
        source=one.source,
        destination=destination,
        attributes=_attributes(options, readonly=not late),
        supers=tuple(name for name in options.supers if not (late and name == "ro")),
        flags=flags & ~m.MS_RDONLY if late else flags,
        data=data,
        copyup=options.copyup and one.type == "tmpfs",
    )


def frozen(spec: Spec) -> tuple[str, ...]:
    """Gives the destinations that become read-only at the end."""
    return tuple(
        one.destination
        for one in spec.mounts
        if not is_bind(one) and _is_late(one) and _options(one).attrs.set & m.MOUNT_ATTR_RDONLY
    )


def places(spec: Spec) -> tuple[str, ...]:
    """Gives where the spec mounts something or makes what is there read-only."""
    mounted = (one.destination for one in spec.mounts)
    return tuple(dict.fromkeys((*mounted, *spec.linux.readonly_paths)))


def procfs(spec: Spec) -> tuple[j.ProcMount, ...]:
    """Gives the proc file systems of the spec, which a wasm guest sees in another form."""
    return tuple(
        j.ProcMount(one.destination, _options(one).attrs.set, _options(one).data)
        for one in spec.mounts
        if one.type == "proc" and not is_bind(one)
    )


def masks_of_procfs(spec: Spec) -> tuple[j.Op, ...]:
    """Gives the masks that lie in those, for whoever is shown them in another form."""
    tops = tuple(f"{one.destination.rstrip('/')}/" for one in procfs(spec))
    paths = tuple(path for path in spec.linux.masked_paths if path.startswith(tops))
    return (ops.MaskedPaths(paths, spec.linux.mount_label),) if paths else ()


def _cgroup(spec: Spec, one: Mount, destination: str, machine: Machine) -> j.Op:
    options = _options(one)
    namespace = spec.linux.namespace("cgroup") is not None
    attributes = _attributes(options)
    if machine.unified:
        data = options.data if one.type == "cgroup2" else ()
        return cgroupfs.CgroupV2(destination, machine.unified, namespace, attributes, data)
    return cgroupfs.CgroupV1(destination, machine.hierarchies, namespace, attributes)
