"""The stopwatch of the benchmark: runs inside the cell and times program starts, pair by pair.

It decides nothing: a job on standard input says what to run, the times go to standard output. Run
as `python -m rig.timing`; a process of its own, so that no nsenter is in the measured time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 120.0


def timed(argv: Sequence[str], code: int = 0) -> tuple[float, str]:
    """Seconds from fork to exit, and the output; SystemExit when the code is another."""
    began = time.perf_counter()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds, done.stdout.strip()


def fill(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Puts values for {n} and the outputs of earlier steps."""
    return [word.format_map(values) if "{" in word else word for word in argv]


def once(side: Mapping[str, Any], number: str) -> list[float]:
    """Runs one side's steps, timed, and its undoing, not timed; gives the seconds of each step."""
    values = {"n": number}
    seconds = []
    for step in side["steps"]:
        took, out = timed(fill(step["argv"], values))
        seconds.append(took)
        values[step.get("keeps", "_")] = out
    for argv in side["undo"]:
        timed(fill(argv, values))
    return seconds


def main() -> None:
    """Reads {"rounds", "sides": {name: {"steps", "undo"}}}; writes {name: [[seconds]]}.

    The sides take turns, and each round another one goes first, so that the machine's mood is
    shared. One round before is not counted: caches are warm in what is.
    """
    job = json.load(sys.stdin)
    sides: dict[str, Any] = job["sides"]
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    for turn in range(-1, job["rounds"]):
        names = list(sides)
        offset = turn % len(names)
        for name in names[offset:] + names[:offset]:
            seconds = once(sides[name], f"{name}-{turn + 1}")
            if turn >= 0:
                found[name].append(seconds)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
