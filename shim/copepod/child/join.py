"""Namespaces of a fresh child: joined by path or by pidfd, made, and their maps asked for.

The order is the kernel's: what is joined with the node's privileges comes before a user
namespace, what a user namespace is to own is made after it (user_namespaces(7)).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

from copepod.child.privs import Step
from copepod.linux import cgroup, ns

if TYPE_CHECKING:
    from copepod.child.job import Join, Namespaces
    from copepod.child.wire import Wire

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def enter_cgroups(fds: tuple[int, ...]) -> None:
    """Moves this process into the groups behind the fds, as linux.cgroup opens them."""
    try:
        for fd in fds:
            cgroup.enter(fd)
            os.close(fd)
    except OSError as error:
        raise Step("enter the cgroup", error) from None


def enter_network(wire: Wire) -> None:
    """Joins the network namespace that the shim makes meanwhile."""
    _, (fd,) = wire.hear("network")
    try:
        ns.setns(fd, ns.CLONE_NEWNET)
    except OSError as error:
        raise Step("join the new network namespace", error) from None
    os.close(fd)


def enter_by_path(joins: tuple[Join, ...]) -> None:
    """Joins namespaces by path: all are opened before the first is entered, since a user or mount
    namespace changes what a path means."""
    opened = []
    for join in joins:
        try:
            fd = os.open(join.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Step(f"open the {join.kind} namespace {join.path}", error) from None
        opened.append((fd, join))
    for fd, join in opened:
        try:
            ns.setns(fd, ns.KINDS[join.kind][0], join.path)
        except OSError as error:
            text = "is it a namespace of that kind?" if error.errno == 22 else ""
            raise Step(f"join the {join.kind} namespace {join.path}", error, text) from None
        os.close(fd)


def enter_user(namespaces: Namespaces, wire: Wire) -> None:
    """Makes the user namespace, lets the shim write its maps, becomes its root."""
    if namespaces.new_user:
        try:
            ns.unshare(ns.CLONE_NEWUSER)
        except OSError as error:
            raise Step("make the user namespace", error) from None
        wire.say("map")
        wire.hear("mapped")
    elif not any(join.kind == "user" for join in namespaces.joins):
        return
    try:
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise Step("become root of the user namespace (is 0 mapped?)", error) from None


def make(namespaces: Namespaces) -> None:
    """Makes the other namespaces; a new network one gets its loopback."""
    try:
        ns.unshare(namespaces.unshare)
    except OSError as error:
        raise Step("make the namespaces", error) from None
    if namespaces.unshare & ns.CLONE_NEWNET:
        try:
            loopback_up()
        except OSError as error:
            raise Step("bring the loopback interface up", error) from None


def make_for_child(namespaces: Namespaces) -> None:
    """Makes those that only the next child is born into: time, with its offsets, and pid."""
    try:
        if namespaces.new_time:
            ns.unshare(ns.CLONE_NEWTIME)
            if namespaces.time_offsets:
                fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, namespaces.time_offsets.encode())
                os.close(fd)
        if namespaces.new_pid:
            ns.unshare(ns.CLONE_NEWPID)
    except OSError as error:
        raise Step("make the pid or time namespace", error) from None


def loopback_up() -> None:
    """`ip link set lo up` (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("h", answer, 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
