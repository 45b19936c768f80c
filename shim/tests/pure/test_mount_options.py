"""The words of a mount's options, sorted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod.container import mount_options
from copepod.container.mount_options import Attrs, parse
from copepod.linux import mount as m

pytestmark = pytest.mark.pure

WORDS = [
    *mount_options._ATTRS,
    *mount_options._SUPER,
    *mount_options._PROPAGATION,
    *(f"r{word}" for word in (*mount_options._ATTRS, *mount_options._PROPAGATION)),
    *("bind", "rbind", "defaults", "tmpcopyup", "idmap", "ridmap", "size=1m", "newinstance"),
]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("bind", "bind", True),
        ("rbind", "recursive", True),
        ("nosuid nodev", "attrs", Attrs(m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV, 0)),
        ("ro rw", "attrs", Attrs(0, m.MOUNT_ATTR_RDONLY)),
        ("rw ro", "attrs", Attrs(m.MOUNT_ATTR_RDONLY, 0)),
        ("ro rw", "supers", ()),
        ("ro sync", "supers", ("ro", "sync")),
        ("noatime", "attrs", Attrs(m.MOUNT_ATTR_NOATIME, m.MOUNT_ATTR__ATIME)),
        ("rro", "rec_attrs", Attrs(m.MOUNT_ATTR_RDONLY, 0)),
        ("rrw", "rec_attrs", Attrs(0, m.MOUNT_ATTR_RDONLY)),
        ("rprivate slave", "propagation", (m.MS_PRIVATE | m.MS_REC, m.MS_SLAVE)),
        ("size=1m relatime mode=755", "data", ("size=1m", "mode=755")),
        ("ridmap", "idmap", "ridmap"),
        ("tmpcopyup", "copyup", True),
        ("z Z defaults", "data", ()),
    ],
)
def test_words(words: str, field: str, value: object) -> None:
    assert getattr(parse(tuple(words.split())), field) == value


def test_flags_of_mount_2() -> None:
    options = parse(("ro", "nosuid", "strictatime", "sync", "mand"))
    assert options.mount_flags() == (
        m.MS_RDONLY | m.MS_NOSUID | m.MS_STRICTATIME | m.MS_SYNCHRONOUS | m.MS_MANDLOCK
    )


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=12).map(tuple))
def test_no_bit_is_set_and_cleared(words: tuple[str, ...]) -> None:
    options = parse(words)
    for attrs in (options.attrs, options.rec_attrs):
        both = attrs.set & attrs.clear
        # The access time is a field: to set it, all of it is cleared (mount_setattr(2)).
        assert both & ~m.MOUNT_ATTR__ATIME == 0
        if attrs.set & m.MOUNT_ATTR__ATIME:
            assert attrs.clear & m.MOUNT_ATTR__ATIME == m.MOUNT_ATTR__ATIME
    assert set(options.data) <= set(words)
