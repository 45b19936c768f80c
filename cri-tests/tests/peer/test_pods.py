"""Pods through CRI: two containers that share a network and a volume, their logs and their end."""

from pathlib import Path

import pytest

from rig import procs
from rig.cri import Pods
from rig.runs import Runner

pytestmark = pytest.mark.peer


def test_two_containers_share_the_network_and_a_volume(
    pods: Pods, runner: Runner, tmp_path: Path
) -> None:
    pod = pods.run("pair")
    image, args = runner.guest("count", "50")
    counting = pod.start("counting", image, args[1:], command=args[:1])
    image, args = runner.guest("write", "/shared/note", "from the second")
    writing = pod.start("writing", image, args[1:], command=args[:1], volumes={tmp_path: "/shared"})
    assert writing.wait_exited()["exitCode"] == 0, writing.log
    image, args = runner.guest("read", "/shared/note")
    reading = pod.start("reading", image, args[1:], command=args[:1], volumes={tmp_path: "/shared"})
    assert reading.wait_log("from the second")
    counting.wait_log("line 1")
    sandbox = pod.pid
    for kind in ("net", "ipc", "uts"):
        assert procs.namespace(counting.pid, kind) == procs.namespace(sandbox, kind)
    assert procs.namespace(counting.pid, "net") != procs.namespace(pod.node.pid, "net")
    assert procs.parent(counting.pid) == procs.parent(sandbox), "one shim serves the pod"
    assert pod.inspect()["status"]["network"]["ip"]
    pod.remove()


def test_stop_ends_by_sigterm_within_its_grace(pods: Pods, runner: Runner) -> None:
    pod = pods.run("stopped")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 1")
    container.stop(grace=60)
    assert container.status["exitCode"] == 143
    pod.remove()


def test_stats_are_of_the_container(pods: Pods, runner: Runner) -> None:
    pod = pods.run("measured")
    image, args = runner.guest("count", "20")
    container = pod.start("counting", image, args[1:], command=args[:1])
    container.wait_log("line 1")
    (stats,) = pod.node.crictl_json("stats", "-o", "json", "--id", container.id)["stats"]
    assert int(stats["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    assert int(stats["memory"]["workingSetBytes"]["value"]) > 0
    pod.remove()


def test_a_pod_whose_containers_never_started_is_removed(pods: Pods, runner: Runner) -> None:
    pod = pods.run("unstarted")
    image, args = runner.guest("hello")
    pod.create("waiting", image, args[1:], command=args[:1])
    pod.remove()
