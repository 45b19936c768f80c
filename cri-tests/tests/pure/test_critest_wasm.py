"""What CRI's suite with wasm images is judged by, and that the page about it says the same."""

import re

import pytest

from rig.critest import Spec
from rig.critest_wasm import CANT, judge
from rig.paths import CHECKOUT

pytestmark = pytest.mark.pure


def test_the_page_has_each_spec_that_cant_and_its_reason() -> None:
    page = (CHECKOUT / "docs/critest-wasm.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", page.partition("|---|---|")[2], re.M)
    assert dict(rows) == dict(CANT)
    assert f"{len(CANT)} can't" in page


def test_what_runc_passes_must_pass_unless_it_cant() -> None:
    cant = next(iter(CANT))

    def specs(**outcomes: str) -> dict[str, Spec]:
        return {name: Spec(name, outcome, "") for name, outcome in outcomes.items()}

    runc = specs(a="passed", b="failed", c="skipped", **{cant: "passed"})
    assert judge(runc, specs(a="passed", b="failed", c="skipped", **{cant: "failed"})) == {}
    assert judge(runc, specs(a="skipped", c="failed", **{cant: "failed"})) == {"a": "skipped"}
    assert judge(runc, specs(a="passed")) == {cant: "it is not in our report"}
    (why,) = judge(runc, specs(a="passed", **{cant: "passed"})).values()
    assert why.startswith("it passes")
