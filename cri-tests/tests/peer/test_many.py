"""Many containers, one after another: the counts stay what they were."""

import pytest

from rig import procs
from rig.cri import Pods
from rig.runs import Runner

pytestmark = pytest.mark.peer


def test_a_hundred_runs_leave_the_same_counts(runner: Runner) -> None:
    image, args = runner.guest("exit", "3")
    codes = [runner.run(image, *args).code for _ in range(100)]
    assert codes == [3] * 100


def test_twenty_containers_of_one_pod_leave_the_shim_as_it_was(pods: Pods, runner: Runner) -> None:
    pod = pods.run("busy")
    image, args = runner.guest("hello")

    def once(name: str) -> None:
        container = pod.start(name, image, args[1:], command=args[:1])
        assert container.wait_exited()["exitCode"] == 0
        container.remove()

    once("first")
    shim = procs.parent(pod.pid)
    before = procs.descriptors(shim), procs.threads(shim)
    for number in range(20):
        once(f"again-{number}")
    after = procs.descriptors(shim), procs.threads(shim)
    # containerd keeps one connection to the shim for each container that it has known.
    assert after[0] <= before[0] + 2
    if pods.handler == "copepod":
        assert after[1] == before[1] == 1
    pod.remove()
