"""A cgroup file system in memory that refuses what the kernel refuses, where code depends on it."""

from __future__ import annotations

import errno
import os

from copepod.container.cgroup_tree import Files

V1_FILES = {
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "devices": {"devices.allow": "", "devices.deny": "", "devices.list": "a *:* rwm\n"},
    "memory": {
        "memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory.memsw.limit_in_bytes": str((1 << 63) - 4096),
        "memory.soft_limit_in_bytes": "",
        "memory.usage_in_bytes": "0",
        "memory.swappiness": "60",
        "memory.oom_control": "",
    },
    "cpu": {
        "cpu.shares": "1024",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_burst_us": "0",
        "cpu.rt_period_us": "1000000",
        "cpu.rt_runtime_us": "0",
        "cpu.idle": "0",
    },
    "cpuacct": {},
    "pids": {"pids.max": "max"},
    "blkio": {
        "blkio.bfq.weight": "100",
        "blkio.bfq.weight_device": "",
        **{
            f"blkio.throttle.{kind}_{unit}_device": ""
            for kind in ("read", "write")
            for unit in ("bps", "iops")
        },
    },
    "hugetlb": {"hugetlb.2MB.limit_in_bytes": "", "hugetlb.2MB.rsvd.limit_in_bytes": ""},
    "net_cls": {"net_cls.classid": "0"},
    "net_prio": {"net_prio.ifpriomap": ""},
    "freezer": {"freezer.state": "THAWED\n"},
    "rdma": {"rdma.max": ""},
    "name=systemd": {},
}
V2_CORE = {
    "cgroup.procs": "",
    "cgroup.controllers": "",
    "cgroup.subtree_control": "",
    "cgroup.type": "domain\n",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cgroup.kill": "",
}
V2_FILES = {
    "cpu": {"cpu.weight": "100", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.idle": "0"},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "memory": {
        "memory.max": "max",
        "memory.high": "max",
        "memory.low": "0",
        "memory.swap.max": "max",
        "memory.current": "0",
        "memory.oom.group": "0",
    },
    "pids": {"pids.max": "max"},
    "io": {"io.weight": "default 100", "io.max": ""},
    "hugetlb": {"hugetlb.2MB.max": "max", "hugetlb.2MB.rsvd.max": "max"},
    "rdma": {"rdma.max": ""},
}


class FakeFiles(Files):
    """Directories and files of the hierarchies given to `mount`; `log` is what was written."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, str]] = {}  # directory to its files
        self.controllers: dict[str, tuple[str, ...]] = {}  # mount point to v1 controllers, () is v2
        self.log: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}  # a file's name to the errno of writing it
        self.busy: dict[str, int] = {}  # a directory to how often rmdir is refused
        self.owners: dict[str, int] = {}
        self.others: set[str] = {"/run/systemd/system"}

    def mount(self, point: str, *controllers: str) -> None:
        """A hierarchy of version 1 with these controllers, of version 2 with none given."""
        self.controllers[point] = controllers
        self.mkdir(point, root=True)

    def chown(self, path: str, uid: int) -> None:
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.owners[path] = uid

    def _mount_of(self, path: str) -> str:
        found = [p for p in self.controllers if path == p or path.startswith(p + "/")]
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such mount", path)
        return max(found, key=len)

    def mkdir(self, path: str, *, root: bool = False) -> None:
        if path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        above = os.path.dirname(path)
        if not root and above not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        controllers = self.controllers[self._mount_of(path)]
        if controllers:
            self.files[path] = {"cgroup.procs": ""}
            for name in controllers:
                self.files[path] |= V1_FILES[name]
            if root and "cpuset" in controllers:
                self.files[path] |= {"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n"}
            return
        self.files[path] = dict(V2_CORE)
        if not root:
            self._enabled(path, self.files[above]["cgroup.subtree_control"].split())

    def _enabled(self, path: str, names: list[str]) -> None:
        self.files[path]["cgroup.controllers"] = " ".join(names)
        for name in names:
            for file, value in V2_FILES[name].items():
                self.files[path].setdefault(file, value)

    def rmdir(self, path: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if self.busy.get(path, 0) > 0:
            self.busy[path] -= 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        if self.children(path) or self.files[path]["cgroup.procs"]:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        del self.files[path]

    def children(self, path: str) -> list[str]:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return [other for other in self.files if os.path.dirname(other) == path]

    def exists(self, path: str) -> bool:
        directory, name = os.path.split(path)
        return path in self.others or path in self.files or name in self.files.get(directory, ())

    def read(self, path: str) -> str:
        directory, name = os.path.split(path)
        try:
            return self.files[directory][name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None

    def write(self, path: str, value: str) -> None:
        directory, name = os.path.split(path)
        self.read(path)
        if name in self.refuse:
            raise OSError(self.refuse[name], os.strerror(self.refuse[name]), path)
        self._check(directory, name, value)
        self.log.append((path, value))
        if name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            value = str(_bytes(value))  # the kernel shows -1 as what it means
        if name == "cgroup.subtree_control":
            self._pass_on(directory, value.split())
        else:
            self.files[directory][name] = value

    def _check(self, directory: str, name: str, value: str) -> None:
        files = self.files[directory]
        invalid = OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"{directory}/{name}")
        limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        if name == limit and swap in files and _bytes(value) > _bytes(files[swap]):
            raise invalid
        if name == swap and _bytes(value) < _bytes(files[limit]):
            raise invalid
        if name == limit and _bytes(value) < int(files["memory.usage_in_bytes"]):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        if name in ("cpu.shares", "cpu.weight") and files["cpu.idle"] == "1":
            raise invalid
        if name == "cpu.cfs_burst_us" and int(value) > max(int(files["cpu.cfs_quota_us"]), 0):
            raise invalid
        if name == "cpu.max.burst":
            quota = files["cpu.max"].split()[0]
            if quota == "max" or int(value) > int(quota):
                raise invalid

    def _pass_on(self, directory: str, words: list[str]) -> None:
        files = self.files[directory]
        names = [word.removeprefix("+") for word in words]
        if files["cgroup.procs"] and self.children(directory):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory)
        if not set(names) <= set(files["cgroup.controllers"].split()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        enabled = files["cgroup.subtree_control"].split()
        files["cgroup.subtree_control"] = " ".join(dict.fromkeys([*enabled, *names]))
        for child in self.children(directory):
            self._enabled(child, files["cgroup.subtree_control"].split())


def _bytes(value: str) -> int:
    number = int(value)
    return (1 << 63) - 4096 if number < 0 else number
