"""Changes to the text of a TOML file that leave every other byte as it is.

It adds and removes one marked block and one entry of the root's `imports`, and trusts itself with
nothing else: the caller parses the result and compares.
"""

from __future__ import annotations

import tomllib
from typing import Any

from copepod import errors

BEGIN = "# BEGIN copepod: written by `copepod node install`, removed by `copepod node uninstall`"
END = "# END copepod"


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The parsed file; errors.InvalidArgument says where it is broken (TOML 1.0)."""
    text = decode(data, name)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.InvalidArgument(
            f"{name} is not valid TOML: {error}; repair it first, nothing was changed"
        ) from error


def decode(data: bytes, name: str) -> str:
    """The file's text; errors.InvalidArgument when it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise errors.InvalidArgument(
            f"{name} is not UTF-8 text (byte {error.start}); nothing was changed"
        ) from error


def quote(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def newline(text: str) -> str:
    """The line ending that a file uses."""
    return "\r\n" if "\r\n" in text else "\n"


def append_block(text: str, body: str) -> str:
    """`text` with `body` between our marks as its last lines."""
    end = newline(text)
    lines = [BEGIN, *body.strip("\n").split("\n"), END]
    glue = "" if not text else end if text.endswith("\n") else end * 2
    return text + glue + end.join(lines) + end


def find_block(text: str) -> tuple[int, int] | None:
    """Where our block begins and ends, the empty line before it included; None without one."""
    begin = text.find(BEGIN)
    if begin < 0:
        return None
    stop = text.find(END, begin)
    if stop < 0:
        raise errors.InvalidArgument(
            "the block that begins with '# BEGIN copepod' has lost its '# END copepod'; "
            "remove it by hand"
        )
    stop += len(END)
    for ending in ("\r\n", "\n"):
        if text.startswith(ending, stop):
            stop += len(ending)
            break
    end = newline(text)
    if text[:begin].endswith(end * 2) or text[:begin] == end:
        begin -= len(end)
    return begin, stop


def remove_block(text: str) -> str:
    """`text` without our block; the same text when there is none."""
    found = find_block(text)
    return text if found is None else text[: found[0]] + text[found[1] :]


def add_import(text: str, entry: str) -> str:
    """`text` with `entry` as the last of the root's `imports`, which is made when missing.

    A new key goes to the first line after the comments and the `version` that open a file: the
    root's keys must stand before the first table.
    """
    value = _find_root_value(text, "imports")
    end = newline(text)
    if value is None:
        at = _after_head(text)
        glue = end if at and not text[:at].endswith("\n") else ""
        return f"{text[:at]}{glue}imports = [{quote(entry)}]{end}{text[at:]}"
    start, stop = value
    array = tomllib.loads(f"x = {text[start:stop]}")["x"]
    if not isinstance(array, list):
        raise errors.InvalidArgument("`imports` is not a list; nothing was changed")
    close = stop - 1
    if not array:
        return f"{text[: start + 1]}{quote(entry)}{text[start + 1 :]}"
    last, comma = _last_item(text, start + 1, close)
    return f"{text[:last]}{'' if comma else ','} {quote(entry)}{text[last:]}"


def _after_head(text: str) -> int:
    at = 0
    head = 0
    for line in text.splitlines(keepends=True):
        word = line.strip()
        if word and not word.startswith("#"):
            if word.split("=")[0].strip() != "version":
                return head
            return at + len(line)
        at += len(line)
        if not word:
            head = at
    return head


def _find_root_value(text: str, key: str) -> tuple[int, int] | None:
    """Start and end of the value of a bare root key, found by walking the file's tokens."""
    at = 0
    while at < len(text):
        at = _skip_blank(text, at)
        if at >= len(text) or text[at] == "[":
            return None
        equals = _skip_key(text, at)
        name = text[at:equals].strip().strip("\"'")
        start = equals + 1
        while text[start] in " \t":
            start += 1
        stop = _skip_value(text, start)
        if name == key:
            return start, stop
        at = stop
    return None


def _skip_blank(text: str, at: int) -> int:
    """Past white space and comments."""
    while at < len(text):
        if text[at] == "#":
            at = _line_end(text, at)
        elif text[at] in " \t\r\n":
            at += 1
        else:
            break
    return at


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _skip_key(text: str, at: int) -> int:
    while text[at] != "=":
        at = _skip_string(text, at) if text[at] in "\"'" else at + 1
    return at


def _skip_string(text: str, at: int) -> int:
    """Past a string of any of TOML's four kinds that begins at `at`."""
    mark = text[at]
    if text.startswith(mark * 3, at):
        at += 3
        while not text.startswith(mark * 3, at):
            at += 2 if mark == '"' and text[at] == "\\" else 1
        at += 3
        while at < len(text) and text[at] == mark:  # up to two quotes may stand before the end
            at += 1
        return at
    at += 1
    while text[at] != mark:
        at += 2 if mark == '"' and text[at] == "\\" else 1
    return at + 1


def _skip_value(text: str, at: int) -> int:
    """Past a value: brackets are counted, strings and comments stepped over."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char in "\"'":
            at = _skip_string(text, at)
            if not depth:
                return at
            continue
        if char == "#":
            if not depth:
                return at
            at = _line_end(text, at)
            continue
        depth += (char in "[{") - (char in "]}")
        at += 1
        if not depth and (char in "]}" or at >= len(text) or text[at] in "\r\n"):
            return at
    return at


def _last_item(text: str, at: int, close: int) -> tuple[int, bool]:
    """Where an array's last item ends, and whether a comma follows it (at that place)."""
    end, comma = at, False
    while True:
        at = _skip_blank(text, at)
        if at >= close:
            return end, comma
        if text[at] == ",":
            at += 1
            end, comma = at, True
            continue
        at = _skip_string(text, at) if text[at] in "\"'" else at + 1
        end, comma = at, False
