"""What goes on when containerd or the shim dies."""

import os
import signal

import pytest

from rig import procs
from rig.cri import Container, Pods
from rig.piped import Piped
from rig.runs import Runner
from rig.shell import until, wait_exit

pytestmark = pytest.mark.peer


def numbers(container: Container) -> list[int]:
    """The numbers that a counting guest has logged."""
    words = [line.split() for line in container.log.splitlines()]
    return [int(word[1]) for word in words if len(word) == 2 and word[0] == "line"]


@pytest.mark.parametrize("hard", [False, True], ids=["restarted", "killed"])
def test_containers_go_on_without_containerd(pods: Pods, runner: Runner, hard: bool) -> None:
    pod = pods.run("going-on")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 5")
    pid = container.pid
    pods.node.restart(hard=hard)
    assert container.status["state"] == "CONTAINER_RUNNING"
    assert container.pid == pid
    listed = pods.node.ctr("tasks", "ps", container.id, namespace="k8s.io")
    assert str(pid) in listed.out
    seen = numbers(container)[-1]
    until("the log to go on", lambda: numbers(container)[-1] > seen + 20)
    container.stop(grace=60)
    assert container.status["exitCode"] == 143
    pod.remove()


def test_a_container_that_ends_while_containerd_is_down_is_reported(
    pods: Pods, runner: Runner
) -> None:
    pod = pods.run("ended-alone")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 1")
    pid = container.pid
    pods.node.kill()
    os.kill(pid, signal.SIGKILL)
    assert wait_exit(pid, 20)
    pods.node.start()
    assert container.wait_exited()["exitCode"] in (137, 255)
    pod.remove()


def test_a_killed_shim_is_reported_and_leaves_nothing(pods: Pods, runner: Runner) -> None:
    pod = pods.run("shimless")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 1")
    pids = [container.pid, pod.pid]
    shim = procs.parent(pids[0])
    os.kill(shim, signal.SIGKILL)
    assert container.wait_exited()["exitCode"] in (137, 255)
    assert all(wait_exit(pid, 20) for pid in pids), "the shim's containers end with it"
    pod.remove()


def test_containerd_reports_the_exit_of_a_killed_shims_container(runner: Runner) -> None:
    node, name = runner.node, runner.new_name()
    image, args = runner.guest("count", "20")
    with Piped(node.cell.inside(node.ctr_argv("events", namespace=runner.namespace))) as events:
        runner.detach(image, *args, name=name)
        events.expect("/tasks/start")
        os.kill(procs.parent(runner.pid(name)), signal.SIGKILL)
        events.expect("/tasks/exit")
        events.expect("/tasks/delete")
        (exited,) = [line for line in events.out.splitlines() if "/tasks/exit" in line]
    assert f'"container_id":"{name}"' in exited
    assert '"exit_status":137' in exited or '"exit_status":255' in exited
    node.ctr("containers", "rm", name, namespace=runner.namespace)


def test_a_killed_container_is_137(pods: Pods, runner: Runner) -> None:
    pod = pods.run("killed")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 1")
    os.kill(container.pid, signal.SIGKILL)
    assert container.wait_exited()["exitCode"] == 137
    pod.remove()
