"""Rows about what an administrator applies: the node installer by kustomize, and the chart.

The node that is installed on is a Debian in a folder, so that nothing of this machine is touched;
the pods that then run here are served by the cell's own shim.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e import installer_image
from e2e.kit import Kube
from e2e.manifests import RUNTIME_CLASS, Object, container, pod
from rig import images, tools
from rig.kube import VERSION
from rig.paths import CHECKOUT
from rig.shell import Done

K8S = CHECKOUT / "packaging" / "k8s"
LABEL = "copepod.dev/runtime"
SHIM = "/opt/copepod/bin/containerd-shim-copepod-v1"
CONFIG = "etc/containerd/config.toml"
INSTALLER = "app.kubernetes.io/component=installer"
QUIETLY = ("--ignore-not-found", "--timeout=120s")


def kustomize(kube: Kube) -> str:
    """the installer's DaemonSet (kustomize): a node is set up, labelled, used, and as it was"""
    space = "--namespace=copepod"
    with _node(kube) as root:
        before = (_seen(kube, root) / CONFIG).read_bytes()
        folder = _overlay(kube, root)
        try:
            kube.cluster.kubectl("apply", "-k", folder)
            seen = _installed(kube, root, space, "copepod-installer")
            words = ("delete", "daemonset", "copepod-installer", "--cascade=foreground")
            kube.cluster.kubectl(space, *words, "--timeout=120s", timeout=150)
            assert _label(kube) is None, _label(kube)
            _uninstalled(_seen(kube, root), before)
        finally:
            kube.cluster.kubectl("delete", "-k", folder, *QUIETLY, timeout=150)
    return seen


def chart(kube: Kube) -> str:
    """the Helm chart: lint, the same node set up and used, all deleted at once"""
    helm = tools.ensure("helm") / "helm"
    home = {"HOME": str(kube.cluster.cell.home)}
    space = f"--namespace={kube.namespace}"
    with _node(kube) as root:
        before = (_seen(kube, root) / CONFIG).read_bytes()
        values = ["--set", f"installer.hostRoot={root},runtimeClass.overhead.memory=24Mi"]
        lint: list[str | Path] = [helm, "lint", "--strict", K8S / "chart", *values]
        linted = kube.cluster.cell.call(lint, env=home)
        assert "0 chart(s) failed" in linted.out, linted.text
        words: list[str | Path] = ["template", "wasm", K8S / "chart", space, *values]
        words.append(f"--kube-version={VERSION}")  # ours was built without a version of its own
        text = kube.cluster.cell.call([helm, *words], env=home).out
        try:
            kube.kubectl("apply", "-f", "-", stdin=text)
            seen = _installed(kube, root, space, "wasm-installer")
            overhead = kube.get("runtimeclass", RUNTIME_CLASS)["overhead"]
            assert overhead == {"podFixed": {"memory": "24Mi"}}, overhead
        finally:
            kube.kubectl("delete", "-f", "-", *QUIETLY, stdin=text, timeout=150)
        gone = ("wait", "pods", f"--selector={INSTALLER}", "--for=delete", "--timeout=120s")
        kube.kubectl(*gone, timeout=150)
        _uninstalled(_seen(kube, root), before)
    return seen


@contextmanager
def _node(kube: Kube) -> Iterator[Path]:
    """The installer's image in containerd, a node in a folder; afterwards the runtime class is
    again the one of the other rows, and the node bears no label."""
    cell = kube.cluster.cell
    work = cell.home / "installer"
    work.mkdir()
    archive = images.archive(work / "image.tar", [installer_image.make(work)])
    kube.cluster.node.import_image(archive, namespace="k8s.io")
    shutil.rmtree(work)
    kube.cluster.kubectl("delete", "runtimeclass", RUNTIME_CLASS)
    try:
        with installer_image.node_root(cell, "node") as root:
            yield root
    finally:
        kube.cluster.kubectl("label", "node", kube.cluster.name, f"{LABEL}-")
        kube.cluster.kubectl("apply", "-k", K8S / "runtimeclass")


def _overlay(kube: Kube, root: Path) -> Path:
    """A copy of packaging/k8s and, in it, what an administrator would write: another root."""
    top = kube.cluster.cell.home / "k8s"
    shutil.copytree(K8S, top)
    settings = [{"name": "HOST_ROOT", "value": str(root)}]
    spec: Object = {
        "containers": [{"name": "installer", "env": settings}],
        "volumes": [{"name": "host", "hostPath": {"path": str(root)}}],
    }
    patch: Object = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "copepod-installer", "namespace": "copepod"},
        "spec": {"template": {"spec": spec}},
    }
    body = {"resources": ["../installer"], "patches": [{"patch": json.dumps(patch)}]}
    (top / "here").mkdir()
    (top / "here" / "kustomization.yaml").write_text(json.dumps(body))  # JSON is YAML
    return top / "here"


def _installed(kube: Kube, root: Path, space: str, name: str) -> str:
    """Waits until the installer says that it is done; looks at the node, and runs a pod."""
    rollout = ("rollout", "status", f"daemonset/{name}", "--timeout=150s")
    done = kube.cluster.kubectl(space, *rollout, timeout=180, check=False)
    log = kube.cluster.kubectl(space, "logs", f"daemonset/{name}", check=False)
    assert done.code == 0, f"{done.text}\n{log.text}"
    assert _label(kube) == "ready", log.text
    said = _inside(kube, root, SHIM, "-v").out.strip()
    assert "io.containerd.copepod.v1" in said, said
    text = (_seen(kube, root) / CONFIG).read_text()
    assert f'runtime_path = "{SHIM}"' in text, text
    status = json.loads(
        _inside(kube, root, "/opt/copepod/bin/copepod", "node", "status", "--json").out
    )
    assert (status["configured"], status["by_us"]) == (True, True), status
    kube.apply(pod("uses", container("hello", "from the new node")))
    kube.phase("uses", "Succeeded")
    assert "from the new node" in kube.log("uses")
    selector = kube.get("pod", "uses")["spec"]["nodeSelector"]
    assert selector == {LABEL: "ready"}, selector
    return f"{said}; {log.out.strip().splitlines()[-1]}"


def _uninstalled(root: Path, before: bytes) -> None:
    assert (root / CONFIG).read_bytes() == before
    left = [str(path) for path in root.rglob("*copepod*")]
    assert not left, left


def _seen(kube: Kube, root: Path) -> Path:
    """The node's root from outside the cell, which alone has it mounted."""
    return Path(f"/proc/{kube.cluster.cell.pid}/root{root}")


def _label(kube: Kube) -> str | None:
    labels: dict[str, str] = kube.cluster.get("node", kube.cluster.name)["metadata"]["labels"]
    return labels.get(LABEL)


def _inside(kube: Kube, root: Path, *words: str) -> Done:
    return kube.cluster.cell.call(["chroot", root, *words], timeout=60)


ROWS = (kustomize, chart)
