"""What the command line tool prints: one line per fact, coloured where a person looks on.

It keeps no state; rich is imported when the first coloured line is printed, not before.
"""

from __future__ import annotations

import sys

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "skip": ("-", "dim")}


def say(text: str) -> None:
    """A plain line."""
    print(text, flush=True)


def ok(text: str) -> None:
    """Something is as it should be, or was done."""
    line("ok", text)


def warn(text: str, advice: str = "") -> None:
    """Something to know or to do, on standard output: it belongs to the report."""
    line("warn", text, advice)


def fail(text: str, advice: str = "") -> None:
    """Something is wrong; `advice` says what to do."""
    line("fail", text, advice)


def error(text: str) -> None:
    """The sentence that a failed command ends with, on standard error."""
    print(f"copepod: {text}", file=sys.stderr, flush=True)


def line(kind: str, text: str, advice: str = "") -> None:
    """A line with its mark; words instead of signs where the output is no terminal."""
    mark, style = _MARKS[kind]
    tail = f"\n    → {advice}" if advice else ""
    if not sys.stdout.isatty():
        print(f"{kind:<4} {text}{tail}", flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    shown = Text.assemble((f"{mark} ", style), text)
    if advice:
        shown.append(tail, "cyan")
    Console(soft_wrap=True, highlight=False).print(shown)


def ask(question: str, default: bool | None = None) -> bool:
    """A yes or no of a person; False where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return bool(default)
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False
