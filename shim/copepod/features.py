"""What the `-info` call answers: containerd's RuntimeInfo with the OCI features document.

The document tells what the code can do, so that the kubelet offers it (recursive read-only mounts,
user namespaces); it looks at nothing on the node, since containerd asks often.

Source: containerd api/types/runtime_info.proto; OCI runtime-spec features.md, features-linux.md.
"""

from __future__ import annotations

from copepod import __version__
from copepod.answers import RUNTIME, varint

TYPE_URL = b"types.containerd.io/opencontainers/runtime-spec/1/features/Features"

FEATURES = b"""{
 "ociVersionMin": "1.0.0", "ociVersionMax": "1.2.1",
 "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart",
  "poststop"],
 "mountOptions": ["async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec",
  "idmap", "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec",
  "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow",
  "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap",
  "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid",
  "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave",
  "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave",
  "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable"],
 "linux": {
  "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
  "capabilities": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
   "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
   "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
   "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
   "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
   "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
   "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
   "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
   "CAP_CHECKPOINT_RESTORE"],
  "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true},
  "seccomp": {"enabled": true},
  "apparmor": {"enabled": true},
  "selinux": {"enabled": true},
  "intelRdt": {"enabled": false},
  "mountExtensions": {"idmap": {"enabled": true}}
 },
 "annotations": {"dev.copepod.wasm": "wasip1"}
}"""


def runtime_info() -> bytes:
    """Gives RuntimeInfo{name=1, version=2{version=1}, features=4 Any} in bytes."""
    name = RUNTIME.encode()
    features = _field(1, TYPE_URL) + _field(2, FEATURES)
    return _field(1, name) + _field(2, _field(1, __version__.encode())) + _field(4, features)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(value)) + value
