"""The words of a mount's `options`, sorted into what each system call takes.

It is pure and refuses nothing: a word that is no known flag belongs to the file system (mount(8),
"filesystem-independent mount options"; OCI config.md, "Linux mount options").
"""

from __future__ import annotations

from functools import cache

from copepod.linux import mount as m
from copepod.values import dataclass

# word -> (attributes to set, attributes to clear)
_ATTRS = {
    "ro": (m.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, m.MOUNT_ATTR_RDONLY),
    "nosuid": (m.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, m.MOUNT_ATTR_NOSUID),
    "nodev": (m.MOUNT_ATTR_NODEV, 0),
    "dev": (0, m.MOUNT_ATTR_NODEV),
    "noexec": (m.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, m.MOUNT_ATTR_NOEXEC),
    "nodiratime": (m.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
    # The access times are one field: to set a value, the old one has to be cleared.
    "relatime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
    "noatime": (m.MOUNT_ATTR_NOATIME, m.MOUNT_ATTR__ATIME),
    "strictatime": (m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME),
    "atime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
}
# Flags of the file system and not of the mount, by the name that fsconfig(2) knows.
_SUPER = {
    "ro": (True, "ro", m.MS_RDONLY),
    "rw": (False, "ro", m.MS_RDONLY),
    "sync": (True, "sync", m.MS_SYNCHRONOUS),
    "async": (False, "sync", m.MS_SYNCHRONOUS),
    "dirsync": (True, "dirsync", m.MS_DIRSYNC),
    "lazytime": (True, "lazytime", m.MS_LAZYTIME),
    "nolazytime": (False, "lazytime", m.MS_LAZYTIME),
    "iversion": (True, "", m.MS_I_VERSION),
    "noiversion": (False, "", m.MS_I_VERSION),
    "mand": (True, "", m.MS_MANDLOCK),
    "nomand": (False, "", m.MS_MANDLOCK),
    "silent": (True, "", m.MS_SILENT),
    "loud": (False, "", m.MS_SILENT),
}
_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "slave": m.MS_SLAVE,
    "shared": m.MS_SHARED,
    "unbindable": m.MS_UNBINDABLE,
}
_MS_OF_ATTR = (
    (m.MOUNT_ATTR_RDONLY, m.MS_RDONLY),
    (m.MOUNT_ATTR_NOSUID, m.MS_NOSUID),
    (m.MOUNT_ATTR_NODEV, m.MS_NODEV),
    (m.MOUNT_ATTR_NOEXEC, m.MS_NOEXEC),
    (m.MOUNT_ATTR_NODIRATIME, m.MS_NODIRATIME),
    (m.MOUNT_ATTR_NOSYMFOLLOW, m.MS_NOSYMFOLLOW),
    (m.MOUNT_ATTR_NOATIME, m.MS_NOATIME),
    (m.MOUNT_ATTR_STRICTATIME, m.MS_STRICTATIME),
)
_NOTHING = frozenset(
    [
        "defaults",
        "remount",
        "norelatime",
        "nostrictatime",
        "rnorelatime",
        "rnostrictatime",
        "z",
        "Z",
        "",
    ]
)


@dataclass(frozen=True, slots=True)
class Attrs:
    """What mount_setattr(2) takes."""

    set: int = 0
    clear: int = 0

    def add(self, pair: tuple[int, int]) -> Attrs:
        """The later word wins."""
        return Attrs(self.set & ~pair[1] | pair[0], self.clear & ~pair[0] | pair[1])

    def __bool__(self) -> bool:
        return bool(self.set or self.clear)


@dataclass(frozen=True, slots=True)
class Options:
    """One mount's options. `propagation` is an MS_ flag, with MS_REC for the r-forms.

    `supers` and `ms_flags` say the same of the file system: names for fsconfig(2), bits of
    mount(2). `idmap` is "", "idmap" or "ridmap".
    """

    bind: bool = False
    recursive: bool = False
    attrs: Attrs = Attrs()
    rec_attrs: Attrs = Attrs()
    supers: tuple[str, ...] = ()
    ms_flags: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    copyup: bool = False
    idmap: str = ""

    def mount_flags(self) -> int:
        """The MS_ flags of mount(2) for a file system of its own."""
        flags = self.ms_flags
        for attr, ms in _MS_OF_ATTR:
            if self.attrs.set & attr:
                flags |= ms
        return flags


@cache
def parse(words: tuple[str, ...]) -> Options:
    """Sorts the words; of two that contradict each other the later wins, as in mount(8)."""
    bind = recursive = copyup = False
    attrs, rec_attrs, idmap = Attrs(), Attrs(), ""
    supers: dict[str, int] = {}
    propagation: list[int] = []
    data: list[str] = []
    for word in words:
        if word in ("bind", "rbind"):
            bind, recursive = True, recursive or word == "rbind"
        elif word in ("idmap", "ridmap"):
            idmap = word
        elif word == "tmpcopyup":
            copyup = True
        elif word in _ATTRS or word in _SUPER:
            attrs = attrs.add(_ATTRS.get(word, (0, 0)))
            if word in _SUPER:
                on, _, flag = _SUPER[word]
                supers[word if on else ""] = flag if on else 0
                if not on:
                    supers = {name: bit for name, bit in supers.items() if bit != _SUPER[word][2]}
        elif word in _PROPAGATION:
            propagation.append(_PROPAGATION[word])
        elif word[:1] == "r" and word[1:] in _PROPAGATION:
            propagation.append(_PROPAGATION[word[1:]] | m.MS_REC)
        elif word[:1] == "r" and word[1:] in _ATTRS:
            rec_attrs = rec_attrs.add(_ATTRS[word[1:]])
        elif word not in _NOTHING:
            data.append(word)
    names = tuple(_SUPER[name][1] for name in supers if name and _SUPER[name][1])
    ms_flags = 0
    for bit in supers.values():
        ms_flags |= bit
    return Options(
        bind,
        recursive,
        attrs,
        rec_attrs,
        names,
        ms_flags,
        tuple(propagation),
        tuple(data),
        copyup,
        idmap,
    )
