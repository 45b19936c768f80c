"""What the processes of a container show of the node, and what is left to read of ended ones."""

import os
from pathlib import Path

import pytest

from rig import images
from rig.containerd import Containerd
from rig.cri import Pods
from rig.paths import SHIM_DIR
from rig.runs import Runner
from rig.shell import until

pytestmark = pytest.mark.peer

SHARED = {"security_context": {"namespace_options": {"pid": 0}}}


def environment(pid: int) -> str:
    """A process's environment as the kernel tells the node's root."""
    return Path(f"/proc/{pid}/environ").read_bytes().decode()


def test_no_process_shows_containerds_environment(
    pods: Pods, runner: Runner, node: Containerd
) -> None:
    """Ours are forks of a shim that containerd started: what it was started with is in them."""
    secrets = (str(SHIM_DIR), "NOTIFY_SOCKET", "TTRPC_ADDRESS")
    assert secrets[0] in environment(node.pid)
    assert secrets[1] in environment(node.pid)
    pod = pods.run("environ", linux=SHARED)
    image, args = runner.guest("count", "50")
    guest = pod.start("guest", image, args[1:], command=args[:1], linux=SHARED)
    # With CAP_SYS_PTRACE: nothing but its absence keeps another's environment from it.
    powers = {"security_context": {"capabilities": {"add_capabilities": ["ALL"]}}}
    native = pod.start(
        "native", images.BUSYBOX, command=["sleep", "1000"], linux={**SHARED, **powers}
    )
    guest.wait_log("line 1")
    if runner.runtime == "copepod":
        # The sandbox's process is the first one in there.
        said = guest.exec(images.MODULE, "read", "/proc/1/environ", check=False)
        assert not any(secret in said.text for secret in secrets)
    script = "cat /proc/*/environ /proc/*/task/*/environ | tr '\\0' '\\n'"
    seen = native.exec("sh", "-c", script, check=False).out
    assert "PATH=" in seen
    for pid in (pod.pid, guest.pid, native.pid):
        seen += environment(pid)
    assert not any(secret in seen for secret in secrets)
    pod.remove()


def test_metrics_are_there_until_the_task_is_deleted(runner: Runner) -> None:
    name = runner.new_name()
    image, args = runner.guest("count", "20")
    runner.detach(image, *args, name=name)
    os.kill(runner.wait_running(name), 9)

    def state() -> str:
        listed = runner.node.ctr("tasks", "ls", namespace=runner.namespace).out
        return next(line.split()[2] for line in listed.splitlines() if line.startswith(name))

    until("its end", lambda: state() == "STOPPED")
    shown = runner.node.ctr("tasks", "metrics", name, namespace=runner.namespace).out
    assert "cpuacct.usage" in shown or "cpu.usage_usec" in shown
    runner.node.ctr("tasks", "rm", name, namespace=runner.namespace)
    runner.node.ctr("containers", "rm", name, namespace=runner.namespace)
