"""The rows of the Kubernetes suite and the objects that they are made of, without a cluster."""

import json
import re
from pathlib import Path

import pytest

from e2e import manifests, suite
from e2e.manifests import Object
from rig import kube, kube_files
from rig.kube_files import Files

pytestmark = pytest.mark.pure


def test_every_row_has_a_name_of_its_own() -> None:
    titles = [suite.title(row) for row in suite.rows()]
    assert len(titles) == len(set(titles)) > 20
    assert all(row.__doc__ for row in suite.rows())
    for row in suite.rows():  # the name of a namespace (RFC 1123)
        assert re.fullmatch("[a-z]([-a-z0-9]{0,50}[a-z0-9])?", row.__name__.replace("_", "-"))


def _pods(one: Object) -> list[Object]:
    return [one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]]


def test_runtime_class_alone_makes_a_pod_ours() -> None:
    ours = manifests.pod("a", manifests.container("hello"))
    for one in (ours, manifests.deployment(3, ours), manifests.job(ours)):
        for spec in _pods(one):
            assert spec["runtimeClassName"] == manifests.RUNTIME_CLASS
            assert {each["imagePullPolicy"] for each in spec["containers"]} == {"Never"}
    assert "runtimeClassName" not in manifests.pod("a", runtime=None)["spec"]


def test_a_deployment_selects_its_pods() -> None:
    made = manifests.deployment(1, manifests.pod("web", manifests.server()))["spec"]
    assert made["template"]["metadata"]["labels"].items() >= made["selector"]["matchLabels"].items()
    assert made["template"]["spec"]["restartPolicy"] == "Always"


def test_the_kubelet_lives_in_the_cell() -> None:
    files = Files(Path("/cell/kubernetes"), kube.ADDRESS, "cell")
    made = json.dumps(kube_files._kubelet(files, Path("/cell/c.sock"), "cell"))
    assert '"cgroupRoot": "/cell"' in made
    assert '"unix:///cell/c.sock"' in made
    assert json.loads(made)["authentication"]["anonymous"] == {"enabled": False}


def test_the_runtime_class_is_the_packaged_one() -> None:
    text = (suite.PACKAGING / "runtimeclass.yaml").read_text()
    assert f"name: {manifests.RUNTIME_CLASS}" in text
