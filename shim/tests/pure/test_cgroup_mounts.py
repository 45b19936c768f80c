"""Where groups are: mountinfo and /proc/self/cgroup of real machines, and paths that mean harm."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.container import cgroup_mounts
from copepod.container.cgroup_mounts import Mount

pytestmark = pytest.mark.pure

V1_ALONE = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_TOGETHER = """\
30 23 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
36 30 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
37 30 0:34 / /sys/fs/cgroup/net_cls,net_prio rw shared:17 - cgroup cgroup rw,net_cls,net_prio
38 30 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
99 30 0:33 /sub /mnt/bind\\040here rw - cgroup cgroup rw,cpu,cpuacct
"""
V2_ALONE = """\
26 22 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_each_controller_mounted_alone() -> None:
    mounts = cgroup_mounts.parse_mountinfo(V1_ALONE)
    assert mounts.version == 1
    assert set(mounts.v1) == {"cpu", "cpuacct", "name=systemd"}
    assert mounts.v1["cpu"] == Mount("/sys/fs/cgroup/cpu")
    assert mounts.unified == Mount("/sys/fs/cgroup/unified")


def test_controllers_mounted_together_share_a_place() -> None:
    mounts = cgroup_mounts.parse_mountinfo(V1_TOGETHER)
    assert mounts.v1["cpu"] == mounts.v1["cpuacct"] == Mount("/sys/fs/cgroup/cpu,cpuacct")
    assert mounts.unified is None
    assert mounts.version == 1


@pytest.mark.parametrize(
    "more",
    [
        "",
        # A VPN client's own mount in the version 2 tree.
        "50 26 0:60 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n",
        # A container engine inside a container with a named hierarchy only.
        "50 26 0:60 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
    ],
)
def test_a_unified_machine(more: str) -> None:
    assert cgroup_mounts.parse_mountinfo(V2_ALONE + more).version == 2


def test_escaped_characters() -> None:
    line = "1 2 0:3 /a\\040b /c\\134d rw - cgroup2 cgroup2 rw\n"
    assert cgroup_mounts.parse_mountinfo(line).unified == Mount("/c\\d", "/a b")


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    cgroup_mounts.parse_mountinfo(text)
    cgroup_mounts.parse_own(text)


def test_own_groups() -> None:
    own = cgroup_mounts.parse_own("4:cpu,cpuacct:/a:b\n1:name=systemd:/init.scope\n0::/u\n")
    assert own == {"cpu": "/a:b", "cpuacct": "/a:b", "name=systemd": "/init.scope", "": "/u"}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
        ("//a/./b/", "/a/b"),
        ("/../../a", "/a"),
        ("a/../../../b", "b"),
        ("", "the-id"),
    ],
)
def test_clean(path: str, want: str) -> None:
    assert cgroup_mounts.clean(path, "the-id") == want


@pytest.mark.parametrize("path", ["/", "/..", ".", "../", "/a\0b", "/a\nb"])
def test_refused_paths(path: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="cgroupsPath"):
        cgroup_mounts.clean(path, "id")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1))
def test_no_path_leads_out_of_the_mount(path: str) -> None:
    try:
        inner = cgroup_mounts.clean(path, "id")
    except errors.InvalidArgument:
        return
    for own in ("/", "/system.slice/containerd.service"):
        where = cgroup_mounts.directory(Mount("/sys/fs/cgroup/x"), inner, own)
        assert where.startswith("/sys/fs/cgroup/x/")
        assert os.path.normpath(where) == where


def test_relative_starts_at_the_own_group() -> None:
    mount = Mount("/sys/fs/cgroup/pids")
    assert cgroup_mounts.directory(mount, "a/b", "/own") == "/sys/fs/cgroup/pids/own/a/b"
    assert cgroup_mounts.directory(mount, "/a/b", "/own") == "/sys/fs/cgroup/pids/a/b"


def test_a_mount_that_shows_a_part_of_the_hierarchy() -> None:
    mount = Mount("/sys/fs/cgroup/pids", "/docker/1")
    assert cgroup_mounts.directory(mount, "a", "/docker/1/own") == "/sys/fs/cgroup/pids/own/a"
    assert cgroup_mounts.directory(mount, "a", "/docker/12") == "/sys/fs/cgroup/pids/a"
    assert cgroup_mounts.directory(mount, "/a", "/docker/1") == "/sys/fs/cgroup/pids/a"


@pytest.mark.parametrize(
    ("path", "scope"),
    [("a.slice:cri:id", True), (":cri:id", True), ("/a:b:c", False), ("a:b", False), ("", False)],
)
def test_systemd_shape(path: str, scope: bool) -> None:
    assert cgroup_mounts.is_scope(path) is scope
