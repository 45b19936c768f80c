"""Hundreds of containers that are created, entered, paused, killed and deleted in random order.

Shims and containers are killed with SIGKILL on the way; at the end every task is gone and the
counts are what they were. The seed is printed, so that a failure can be had again.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable

from rich.console import Console

from rig import images, leaks, procs
from rig.cell import Cell
from rig.containerd import Containerd
from rig.runs import Runner
from rig.shell import RigError, until, wait_exit

STUCK = 30.0  # seconds that an ended task may take to be deleted


class Soak:
    """The cycles of one seed against one containerd."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.runner, self.node = runner, runner.node
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()

    def ctr(self, *words: str, check: bool = False) -> str:
        """Any ctr call in the soak's namespace; it may fail where the container was just killed."""
        done = self.node.ctr(*words, namespace=self.runner.namespace, check=check)
        return done.out

    def cycle(self) -> None:
        """One container's life."""
        name = self.runner.new_name()
        native = self.random.random() < 0.6
        image, args = (images.BUSYBOX, ["sh", "-c", "trap 'exit 9' TERM; sleep 1000000 & wait"])
        if not native:
            image, args = self.runner.guest("count", "50")
        self.runner.detach(image, *args, name=name)
        pid = self.runner.wait_running(name)
        steps: list[Callable[[str, int], None]] = [self.pause, self.pids, self.metrics]
        if native:
            steps += [self.exec_true, self.exec_killed, self.exec_true]
        for step in self.random.sample(steps, self.random.randrange(len(steps) + 1)):
            step(name, pid)
            self.done[step.__name__] += 1
        ending = self.random.choice([self.term, self.kill, self.kill_process, self.kill_shim])
        ending(name, pid)
        self.done[ending.__name__] += 1
        if not wait_exit(pid, STUCK):
            raise RigError(f"{name}: process {pid} is still there after {ending.__name__}")
        self.delete(name)

    def delete(self, name: str) -> None:
        """Deletes task and container; a task that stays is the error that is looked for."""

        def gone() -> bool:
            self.ctr("tasks", "rm", "-f", name)
            return name not in self.ctr("tasks", "ls", "-q").split()

        until(f"{name}'s task to be deleted", gone, STUCK)
        self.ctr("containers", "rm", name, check=True)

    def exec_true(self, name: str, _: int) -> None:
        """An exec that ends by itself."""
        self.ctr("tasks", "exec", "--exec-id", self.runner.new_name(), name, "true", check=True)

    def exec_killed(self, name: str, _: int) -> None:
        """An exec that is still there when its container ends."""
        log = f"file://{self.node.cell.home}/exec.log"  # ctr leaves its FIFOs behind otherwise
        words = ["tasks", "exec", "--detach", "--log-uri", log]
        words += ["--exec-id", self.runner.new_name(), name]
        self.ctr(*words, "sleep", "1000000", check=True)

    def pause(self, name: str, _: int) -> None:
        """Freeze and thaw."""
        self.ctr("tasks", "pause", name, check=True)
        self.ctr("tasks", "resume", name, check=True)

    def pids(self, name: str, _: int) -> None:
        """A list of its processes."""
        self.ctr("tasks", "ps", name, check=True)

    def metrics(self, name: str, _: int) -> None:
        """Its metrics."""
        self.ctr("tasks", "metrics", name, check=True)

    def term(self, name: str, _: int) -> None:
        """SIGTERM by way of containerd."""
        self.ctr("tasks", "kill", "-s", "SIGTERM", name, check=True)

    def kill(self, name: str, _: int) -> None:
        """SIGKILL to everything by way of containerd."""
        self.ctr("tasks", "kill", "-a", "-s", "SIGKILL", name, check=True)

    def kill_process(self, _: str, pid: int) -> None:
        """SIGKILL past everybody's back."""
        os.kill(pid, signal.SIGKILL)

    def kill_shim(self, _: str, pid: int) -> None:
        """The shim is gone; containerd has its container cleaned up."""
        os.kill(procs.parent(pid), signal.SIGKILL)


def main(wanted: str, cycles: int, seed: int) -> int:
    """Runs and prints what was done; 1 when something was stuck or left behind."""
    console = Console()
    failed = 0
    console.print(f"soak: {cycles} cycles, seed {seed}")
    with Cell() as cell, Containerd(cell, wanted) as node:
        catalogue = [images.busybox(), *images.good_wasm(layers=False)]
        node.import_image(images.archive(cell.home / "images.tar", catalogue), namespace=cell.name)
        soak = Soak(Runner(node, "copepod"), seed)
        soak.cycle()
        before = leaks.take(node)
        for number in range(cycles):
            try:
                soak.cycle()
            except RigError as error:
                failed += 1
                console.print(f"cycle {number}: {error}", style="red", markup=False)
        try:
            leaks.settled(node, before)
        except AssertionError as error:
            failed += 1
            console.print(str(error), style="red", markup=False)
        console.print("  ".join(f"{name} {count}" for name, count in sorted(soak.done.items())))
        console.print(f"counts: {leaks.take(node).totals()}")
    console.print(f"{cycles + 1 - failed} passed, {failed} failed")
    return 1 if failed else 0
