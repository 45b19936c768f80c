"""`ctr run` with one runtime or the other: what both test suites and benchmarks share.

It names nothing of containerd's state: ids and namespaces only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rig import images
from rig.config import RUNTIME_TYPE
from rig.containerd import Containerd
from rig.piped import Piped
from rig.shell import Done, until

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Runner:
    """`ctr run` on one node with one runtime, "copepod" or "runc", in a namespace of the cell's."""

    node: Containerd
    runtime: str

    @property
    def namespace(self) -> str:
        """Also the top cgroup of what runs: ctr's default cgroup path is /<namespace>/<id>."""
        return self.node.cell.name

    def flags(self) -> list[str]:
        """ctr's flags that choose the runtime."""
        if self.runtime == "copepod":
            return ["--runtime", RUNTIME_TYPE]
        return ["--runc-binary", str(self.node.runc)]

    def argv(
        self, image: str, *args: str, flags: Sequence[str] = (), name: str = "", keep: bool = False
    ) -> list[str]:
        """The argv of a foreground `ctr run`, to be run in the cell."""
        head = ["run", *([] if keep else ["--rm"]), *self.flags(), *flags]
        words = [*head, image, name or self.new_name(), *args]
        return self.node.ctr_argv(*words, namespace=self.namespace)

    @staticmethod
    def new_name() -> str:
        """A container id that this process has not used."""
        return f"c{next(_numbers)}"

    def run(
        self,
        image: str,
        *args: str,
        flags: Sequence[str] = (),
        timeout: float = 60.0,
        stdin: str | None = None,
    ) -> Done:
        """Runs to the end; the exit code is the container's, or 1 when ctr failed."""
        argv = self.argv(image, *args, flags=flags)
        return self.node.cell.call(argv, timeout=timeout, stdin=stdin, check=False)

    def start(
        self, image: str, *args: str, flags: Sequence[str] = (), name: str = "", stdin: bool = False
    ) -> Piped:
        """Starts a foreground run; the caller reads what it prints."""
        argv = self.argv(image, *args, flags=flags, name=name)
        return Piped(self.node.cell.inside(argv), stdin=stdin)

    def pid(self, name: str) -> int:
        """The pid of a running task; 0 while there is none."""
        listed = self.node.ctr("tasks", "ls", namespace=self.namespace).out
        for words in map(str.split, listed.splitlines()):
            if words[0] == name and words[2] == "RUNNING":
                return int(words[1])
        return 0

    def wait_running(self, name: str) -> int:
        """Waits until the task runs; gives its pid."""
        return until(f"{name} to run", lambda: self.pid(name))

    def detach(self, image: str, *args: str, name: str, flags: Sequence[str] = ()) -> None:
        """`ctr run` that returns when the container runs; its output goes nowhere."""
        words = ["run", "--detach", "--null-io", *self.flags(), *flags, image, name, *args]
        self.node.ctr(*words, namespace=self.namespace)

    def kill(self, name: str, signal: str) -> None:
        """`ctr tasks kill`."""
        self.node.ctr("tasks", "kill", "-s", signal, name, namespace=self.namespace)

    def guest(self, verb: str, *rest: str, image: str = images.C_ROOTFS) -> tuple[str, list[str]]:
        """The image and args that do `verb` with this runtime: a wasm guest, or busybox's words."""
        if self.runtime == "copepod":
            return image, [images.MODULE, verb, *rest]
        first = rest[0] if rest else "0"
        script = {
            "hello": "echo hello from busybox; env",
            "exit": f"exit {first}",
            "count": f'i=0; while :; do echo "line $i"; i=$((i+1)); usleep {first}000; done',
            "sleep": f"sleep {first} & wait",
            "echo": "cat",
            "flood": f"yes | head -c {first}",
            "read": f"cat {first}",
            "write": f"echo {' '.join(rest[1:])} >> {first}",
        }[verb]
        return images.BUSYBOX, ["sh", "-c", f"trap 'exit 143' TERM; {script}"]
