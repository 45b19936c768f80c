"""copepod.toml(5) and the packages' config.toml name the keys that the code takes, no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from copepod import config, errors
from copepod.config import Config
from copepod.engine import limits

ROOT = Path(__file__).parents[3]
MAN = ROOT / "docs/man/copepod.toml.5"
FILE = ROOT / "packaging/files/config.toml"
# A value for each setting of the guest; what its ceiling is asked with.
EXAMPLES = {
    **dict.fromkeys(("memory", "stack"), "1Mi"),
    **dict.fromkeys(("table-elements", "tables", "instances", "fuel"), "10"),
    "time-limit": "30s", "wasm-features": "gc=off", "preopens": "/tmp", "network": "off",
    "listen": "8080", "entry": "serve", "coredump": "/core", "profiling": "none",
    "compiler": "winch",
}  # fmt: skip


def of_the_node() -> dict[str, Any]:
    """Each key of the node alone, with its default."""
    return {
        f"{table}.{key}".lstrip("."): getattr(Config(), field)
        for table, keys in config._TABLES.items()
        for key, field in keys.items()
    }


def capped(key: str) -> bool:
    try:
        limits.node({"max": {key: EXAMPLES[key]}})
    except errors.InvalidArgument:
        return False
    return True


def page() -> dict[str, str]:
    """The page's keys, each with its paragraph; those of one list share theirs."""
    found: dict[str, str] = {}
    text = re.sub(r"^\.SH.*$", "", MAN.read_text(), flags=re.MULTILINE).replace("\\-", "-")
    for part in text.split("\n.TP\n.B ")[1:]:
        first, *others = part.split("\n.TQ\n.B ")
        found |= {key.split("\n")[0]: part for key in (first, *others)}
    return found


def test_the_page_has_every_key_and_no_other() -> None:
    guest = {f"guest.{key}" for key in limits.KNOBS}
    ceilings = {f"guest.max.{key}" for key in limits.KNOBS if capped(key)}
    assert len(ceilings) > 2
    assert set(page()) == {*of_the_node(), *guest, *ceilings}


def test_the_page_says_the_defaults() -> None:
    for key, default in of_the_node().items():
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert (shown or "guests/toolbox.wasm") in page()[key], key


def test_the_pages_example_is_valid() -> None:
    text = MAN.read_text().partition(".nf\n")[2].partition(".fi")[0].replace("\\-", "-")
    found = config.parse(text)
    assert found != Config()
    node = limits.node(found.guest)
    assert (bool(node.defaults), bool(node.ceilings)) == (True, True)


def test_the_file_changes_nothing() -> None:
    assert limits.node(config.parse(FILE.read_text()).guest) == limits.NO_NODE
    assert Config(**{**vars_of(config.parse(FILE.read_text())), "guest": {}}) == Config()


def test_what_the_file_comments_out_are_the_defaults() -> None:
    plain = re.sub(r"^#(\w)", r"\1", FILE.read_text(), flags=re.MULTILINE)
    found = config.parse(plain)
    assert Config(**{**vars_of(found), "guest": {}}) == Config()
    asked = limits.node(found.guest)
    assert not asked.ceilings
    assert limits.parse({}, asked) == limits.Knobs()


def test_the_file_names_every_key() -> None:
    text = FILE.read_text()
    for key in of_the_node():
        assert re.search(rf"^#{key.rpartition('.')[2]} = ", text, re.MULTILINE), key
    guest, ceilings = text.partition("[guest]")[2].split("[guest.max]")
    words = [set(re.findall(r"[a-z-]+", part)) for part in (guest, ceilings)]
    for key in limits.KNOBS:
        assert key in words[0], key
        assert (key in words[1]) == capped(key), key


def vars_of(found: Config) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Config.__slots__}
