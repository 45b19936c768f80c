"""Edits of TOML text: what is added is there, and every other byte stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cli_fakes as fakes
from copepod import errors
from copepod.cli.node import tomltext

BLOCK = '[plugins."x".copepod]\n  a = 1\n'

FILES = [
    fakes.DOCKER, fakes.KUBEADM_DEBIAN_12, fakes.WITHOUT_RUNTIMES, fakes.VERSION_1,
    fakes.DEFAULT_2_0, fakes.DEFAULT_2_3, fakes.MANY_IMPORTS, fakes.K3S_1_33, fakes.MICROK8S, b"",
    b"# only a comment", b"version = 3", b"\n\n# c\n\nversion = 3 # three\nroot = '/x'\n",
    b"version = 2\r\n[plugins.y]\r\n",
    b'a = """x\n[no.table]\nimports = [\n"""\nimports = ["q"]\n', b'imports = []\n', b"imports=[ ]",
    b"imports = ['a' , 'b' # c\n # d\n ] # e\nz = {imports = [1]}\n",
    b'title = "imports = [\\"x\\"]"\n[t]\nimports = ["not the root\'s"]\n',
]  # fmt: skip


@pytest.mark.parametrize("data", FILES)
def test_block_comes_and_goes(data: bytes) -> None:
    text = data.decode()
    new = tomltext.append_block(text, BLOCK)
    assert new.startswith(text)
    assert tomllib.loads(new)["plugins"]["x"]["copepod"] == {"a": 1}
    assert tomltext.remove_block(new).rstrip("\r\n") == text.rstrip("\r\n")
    if text.endswith("\n") or not text:
        assert tomltext.remove_block(new) == text


@pytest.mark.parametrize("data", FILES)
def test_import_is_added_to_the_root(data: bytes) -> None:
    text = data.decode()
    old = tomllib.loads(text)
    new = tomltext.add_import(text, "/etc/c.toml")
    assert tomllib.loads(new) == {**old, "imports": [*old.get("imports", []), "/etc/c.toml"]}
    places = (at for at in range(len(text) + 1) if new[:at] == text[:at])
    assert any(new.endswith(text[at:]) for at in places)  # one insertion and nothing else


_scalars = st.one_of(
    st.integers(), st.booleans(), st.text(st.characters(codec="utf-8", exclude_categories=["C"]))
)


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return tomltext.quote(value) if isinstance(value, str) else str(value)


@settings(deadline=None)
@given(
    keys=st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), _scalars, max_size=5),
    imports=st.one_of(st.none(), st.lists(st.text("abc#]'\"\\/*.", max_size=6), max_size=4)),
    wide=st.booleans(),
    comma=st.booleans(),
)
def test_import_among_any_values(
    keys: dict[str, object], imports: list[str] | None, wide: bool, comma: bool
) -> None:
    keys.pop("imports", None)
    lines = [f"{key} = {_literal(value)} # ] {key}" for key, value in keys.items()]
    if imports is not None:
        space = "\n  # a ] comment\n  " if wide else " "
        items = f",{space}".join(tomltext.quote(one) for one in imports)
        end = "," if comma and imports else ""
        lines.insert(len(lines) // 2, f"imports = [{space}{items}{end}{space}]")
    text = "\n".join([*lines, "[table]", "imports = 3", ""])
    new = tomllib.loads(tomltext.add_import(text, "/new"))
    assert new == {**tomllib.loads(text), "imports": [*(imports or []), "/new"]}


def test_broken_files_are_named() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"config\.toml is not valid TOML: .*line 2"):
        tomltext.parse(fakes.BROKEN, "config.toml")
    with pytest.raises(errors.InvalidArgument, match=r"not UTF-8 text .byte 1"):
        tomltext.parse(b"a\xff", "config.toml")
    with pytest.raises(errors.InvalidArgument, match="lost its '# END copepod'"):
        tomltext.remove_block(tomltext.BEGIN + "\n[x]\n")
