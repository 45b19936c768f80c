"""docs/guests.md and the engine's table of settings say the same."""

from __future__ import annotations

import re
from pathlib import Path

from copepod.engine import limits, profile

PAGE = Path(__file__).parents[3] / "docs" / "guests.md"


def rows() -> dict[str, list[str]]:
    text = PAGE.read_text().partition("## Settings")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in table}


def test_every_setting_has_a_line_and_its_example_is_valid() -> None:
    assert set(rows()) == set(limits.KNOBS)
    for key, row in rows().items():
        example = re.findall("`([^`]*)`", row[1])[0]
        assert limits.parse({f"copepod.dev/{key}": example}) is not None


def test_defaults_and_ceilings_are_the_codes() -> None:
    for key, row in rows().items():
        ceiling = row[3].strip() if len(row) > 4 else ""
        assert (ceiling == "yes") == limits.KNOBS[key].ceiling, key
        default = re.fullmatch("`([^`]*)`", row[2])
        if default and default[1] != "_start":
            knobs = limits.parse({f"copepod.dev/{key}": default[1]})
            assert knobs == limits.Knobs(), key


def test_every_feature_is_named() -> None:
    for name in profile.FEATURES:
        assert f"`{name}`" in rows()["wasm-features"][-1]
