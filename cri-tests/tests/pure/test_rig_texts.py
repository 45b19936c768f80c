"""What the rig writes and reads without a containerd: configurations, archives, reports."""

import io
import json
import tarfile
import tomllib
from pathlib import Path

import pytest

from rig import config, critest, guests, oci, registry
from rig.containerd import Release
from rig.oci import Entry, Image

pytestmark = pytest.mark.pure

SETTINGS = config.Settings(Path("/h"), Path("/r/runc"), Path("/cni"), True)


@pytest.mark.parametrize(
    ("major", "plugin"), [(1, "io.containerd.grpc.v1.cri"), (2, "io.containerd.cri.v1.runtime")]
)
def test_both_handlers_are_configured(major: int, plugin: str) -> None:
    parsed = tomllib.loads(config.render(SETTINGS, major))
    cri = parsed["plugins"][plugin]
    assert parsed["version"] == major + 1
    assert cri["restrict_oom_score_adj"] is True
    runtimes = cri["containerd"]["runtimes"]
    assert runtimes["copepod"]["runtime_type"] == "io.containerd.copepod.v1"
    assert runtimes["copepod"]["pod_annotations"] == ["copepod.dev/*"]
    assert runtimes["runc"]["options"] == {"BinaryName": "/r/runc"}


@pytest.mark.parametrize(
    ("version", "takes"),
    [("1.6.20", False), ("1.6.39", True), ("1.7.6", False), ("1.7.24", True), ("2.4.2", True)],
)
def test_wasm_layers_by_version(version: str, takes: bool) -> None:
    assert Release("debian", version, Path("/")).wasm_layers is takes


def test_an_archive_holds_what_was_added(tmp_path: Path) -> None:
    written = oci.Archive()
    tar = oci.tar_layer([Entry("app.wasm", b"\0asm"), Entry("link", link="app.wasm")])
    image = Image(
        "h.test/one:tag", (tar, oci.wasm_layer(b"\0asm", title="app.wasm")), {"User": "7"}
    )
    digest = written.add(image)
    written.write_folder(tmp_path)
    manifest = json.loads((tmp_path / "blobs" / digest.replace(":", "/")).read_text())
    config_path = tmp_path / "blobs" / manifest["config"]["digest"].replace(":", "/")
    body = json.loads(config_path.read_text())
    assert body["config"]["User"] == "7"
    assert body["rootfs"]["diff_ids"] == [oci.digest(tar.data)], "wasm layers are no diffs"
    assert manifest["layers"][1]["annotations"] == {oci.TITLE: "app.wasm"}
    assert registry.names(tmp_path) == {("one", "tag"): digest}
    with tarfile.open(fileobj=io.BytesIO(tar.data)) as layer:
        assert layer.getnames() == ["app.wasm", "link"]


def test_the_same_image_has_the_same_bytes() -> None:
    image = Image("h.test/one:tag", (oci.tar_layer([Entry("a", b"1")]),))
    assert oci.Archive().add(image) == oci.Archive().add(image)


def test_a_report_of_critest_is_read(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="[BeforeSuite]" status="passed"/>'
        '<testcase name="[It] [k8s.io] Pod  should run" status="passed" time="1.5"/>'
        '<testcase name="[It] [k8s.io] Pod should stop" status="failed"><failure message="no"/>'
        '</testcase><testcase name="[It] [k8s.io] SELinux" status="skipped"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    specs = critest.read_report(report)
    assert {name: spec.outcome for name, spec in specs.items()} == {
        "Pod should run": "passed",
        "Pod should stop": "failed",
        "SELinux": "skipped",
    }
    assert specs["Pod should stop"].why == "no"


def test_a_module_with_a_missing_import_is_a_module() -> None:
    data = guests.importing("env", "nobody")
    assert data.startswith(b"\0asm\x01\0\0\0")
    assert b"nobody" in data


def test_precompiled_code_has_the_engines_mark() -> None:
    assert guests.precompiled()[:8] == b"\x7fELF\x02\x01\x01\xc8"
