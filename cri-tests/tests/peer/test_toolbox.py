"""The toolbox through CRI: what kubectl exec and kubectl cp do with an image of one .wasm file."""

import os
import shlex
from pathlib import Path

import pytest

from rig import images
from rig.cri import Container, Pods
from rig.paths import CHECKOUT
from rig.runs import Runner
from rig.terminal import Terminal

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        not (CHECKOUT / "build/guests/toolbox.wasm").exists(),
        reason="the toolbox is not built: `make toolbox`, which wants a Go of 1.21 or newer",
    ),
]
LIMIT = 60.0


def counting(pods: Pods, runner: Runner, name: str, image: str = images.C_ROOTFS) -> Container:
    """A pod whose only container is a guest that counts for a while; no command beside it."""
    if runner.runtime != "copepod":
        pytest.skip("what an image lacks only Copepod brings")
    pod = pods.run(name)
    container = pod.start("guest", image, ["count", "200"], command=[images.MODULE])
    container.wait_log("line 1")
    return container


def streamed(container: Container, *words: str) -> str:
    """The command line of a streamed `crictl exec`, for a shell on the node."""
    flags, *command = words
    argv = container.node.crictl_argv("exec", *flags.split(), container.id, *command)
    return shlex.join(argv)


def test_tools_of_an_image_that_has_none(pods: Pods, runner: Runner) -> None:
    container = counting(pods, runner, "tools")
    assert "etc" in container.exec("ls", "/").out.split()
    said = container.exec("sh", "-c", "cd /etc && ls | grep -c hosts; echo $0").out
    assert said.split() == ["1", "sh"]
    ended = container.exec("sh", "-c", "exit 3", check=False)
    assert "exited with 3" in ended.text
    assert container.exec("cat", "/etc/hostname").out == container.exec("hostname").out
    assert "count 200" in container.exec("ps").out
    assert container.exec("id", "-u").out.strip() == "0"
    assert "exited with 1" in container.exec("test", "-d", "/nowhere", check=False).text
    refused = container.exec("bash", check=False)
    assert refused.code != 0
    assert "bash in $PATH" in refused.text
    container.pod.remove()


def test_an_image_of_a_wasm_layer(pods: Pods, runner: Runner) -> None:
    if not runner.node.release.wasm_layers:
        pytest.skip("this containerd can't unpack wasm layers")
    container = counting(pods, runner, "layer", images.C_LAYER)
    assert container.exec("/bin/sh", "-c", "echo $((6 * 7))").out.strip() == "42"
    container.pod.remove()


def test_copies_go_both_ways_as_kubectl_cp_makes_them(
    pods: Pods, runner: Runner, tmp_path: Path
) -> None:
    container = counting(pods, runner, "copy")
    cell = container.node.cell
    (tmp_path / "in/deep").mkdir(parents=True)
    data = os.urandom(3 << 20)
    (tmp_path / "in/deep/data").write_bytes(data)
    (tmp_path / "in/link").symlink_to("deep/data")
    (tmp_path / "out").mkdir()
    home = shlex.quote(str(tmp_path))
    into = streamed(container, "-i", "tar", "-xmf", "-", "-C", "/tmp")
    container.exec("mkdir", "-p", "/tmp")
    cell.call(["sh", "-c", f"tar cf - -C {home} in | {into}"], timeout=LIMIT)
    listed = container.exec("find", "/tmp/in", "-type", "f", "-size", "+1M").out
    assert listed.strip() == "/tmp/in/deep/data"
    back = streamed(container, "", "tar", "cf", "-", "/tmp/in")
    cell.call(["sh", "-c", f"{back} | tar xf - -C {home}/out"], timeout=LIMIT)
    assert (tmp_path / "out/tmp/in/deep/data").read_bytes() == data
    assert os.readlink(tmp_path / "out/tmp/in/link") == "deep/data"
    container.pod.remove()


def test_a_shell_on_a_terminal(pods: Pods, runner: Runner) -> None:
    container = counting(pods, runner, "terminal")
    node = container.node
    argv = node.cell.inside(node.crictl_argv("exec", "-it", container.id, "sh"))
    with Terminal(argv) as terminal:
        terminal.expect("/ # ")
        terminal.type("cd /etc\r")
        terminal.expect("/etc # ")
        terminal.type("echo a$((1 + 1)) | tr a b; if\r")
        terminal.expect("> ")
        terminal.type("true; then nosuch; fi\r")
        terminal.expect("b2\r\n")
        terminal.expect("nosuch: not found")
        terminal.expect("/etc # ")
        terminal.type("if )\r")
        terminal.expect("/etc # ")
        terminal.type("cat > /tmp/typed\rhello\r\x04")
        terminal.expect("/etc # ")
        terminal.type("cat /tmp/typed; echo code $?\r")
        terminal.expect("hello\r\ncode 0")
        terminal.expect("/etc # ")
        terminal.type("\x04")
        assert terminal.wait() == 0
    container.pod.remove()
