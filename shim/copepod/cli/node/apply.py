"""Writing a plan down, with a record and backups, and taking it back.

Whatever fails half-way is rolled back before the error is told. It restarts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass

from copepod import errors
from copepod.cli.node import check, runtime, tomltext
from copepod.cli.node.detect import Containerd
from copepod.cli.node.plan import Change, Plan
from copepod.cli.system import System

FOLDER = "/var/lib/copepod/node"
RECORD = f"{FOLDER}/install.json"


@dataclass(slots=True)
class Written:
    """A file that an installation changed: enough to put it back byte for byte."""

    path: str
    backup: str | None  # None: there was no file
    after: str  # SHA-256 of what was written
    imports: str = ""  # the entry that was added to the root's `imports`


def install(system: System, node: Containerd, plan: Plan) -> None:
    """Writes the plan's files, asks containerd what it makes of them, rolls back if it objects.

    Raises errors.FailedPrecondition with containerd's objection, errors.PermissionDenied when a
    file can't be written.
    """
    if plan.trial is not None:
        _judge(check.dump_text(system, node, plan.trial, node.config), plan, node)
    record = read_record(system)
    folders = [*record[1]]
    done: list[Change] = []
    try:
        for change in plan.changes:
            folders += _make_folders(system, os.path.dirname(change.path))
            written = _note(system, record[0], change, plan)
            record = ([*(one for one in record[0] if one.path != change.path), written], folders)
            _write_record(system, *record)
            done.append(change)
            _put(system, change.path, change.after)
        if plan.trial is None:
            _judge(check.dump(system, node, node.config), plan, node)
    except OSError as error:
        _roll_back(system, done)
        raise _denied(error) from error
    except BaseException:
        _roll_back(system, done)
        raise


def _judge(after: dict[str, object], plan: Plan, node: Containerd) -> None:
    if wrong := check.compare(plan.before, after, plan.wanted):
        raise errors.FailedPrecondition(
            f"`containerd config dump` shows that {wrong} with the new {plan.target}; "
            f"the files are as they were and {node.title} was not restarted"
        )


def _note(system: System, known: list[Written], change: Change, plan: Plan) -> Written:
    """What the record says of a change; a second installation keeps the first one's backup."""
    digest = _digest(change.after or b"")
    imports = plan.target if change.path != plan.target else ""
    for one in known:
        if one.path == change.path and change.before and one.after == _digest(change.before):
            return Written(one.path, one.backup, digest, imports or one.imports)
    if change.before is None:
        return Written(change.path, None, digest, imports)
    backup = f"{FOLDER}/{change.path.strip('/').replace('/', '-')}.{_digest(change.before)[:12]}"
    _make_folders(system, FOLDER)
    system.write(backup, change.before)
    return Written(change.path, backup, digest, imports)


def uninstall(system: System, node: Containerd, target: str) -> list[str]:
    """Puts back every file of the record, else takes our block out of `target`.

    Gives the files that were changed. A file that was edited since the installation loses our
    block and our `imports` entry only.
    """
    known, folders = read_record(system)
    paths = {one.path: one for one in known}
    paths.setdefault(target, Written(target, None, ""))
    changes = []
    for one in paths.values():
        data = system.read(one.path)
        if data is not None and (after := _undone(system, one, data)) != data:
            changes.append(Change(one.path, data, after))
    before = check.dump(system, node, node.config)
    try:
        for change in changes:
            _put(system, change.path, change.after)
        _judge_removal(system, node, before)
    except OSError as error:
        _roll_back(system, changes)
        raise _denied(error) from error
    except BaseException:
        _roll_back(system, changes)
        raise
    for one in known:
        if one.backup:
            system.remove(one.backup)
    system.remove(RECORD)
    for folder in sorted({*folders, FOLDER}, key=len, reverse=True):
        _remove_folder(system, folder)
    return [change.path for change in changes]


def _judge_removal(system: System, node: Containerd, before: dict[str, object]) -> None:
    after = check.dump(system, node, node.config)
    generated = runtime.NAME in runtime.runtimes(after)  # by a template, until the next start
    wrong = check.compare(before, after, None)
    if wrong and not (generated and node.flavour != "containerd"):
        raise errors.FailedPrecondition(
            f"`containerd config dump` shows that {wrong}; the files are as they were"
        )


def _undone(system: System, one: Written, data: bytes) -> bytes | None:
    """What a file should hold without us; None when it should not be there."""
    if one.after == _digest(data):
        return system.read(one.backup) if one.backup else None
    old = tomltext.decode(data, one.path)
    text = tomltext.remove_block(old)
    if one.imports:
        entry = tomltext.quote(one.imports)
        for found in (f"imports = [{entry}]\n", f", {entry}", f" {entry}", entry):
            if found in text:
                text = text.replace(found, "", 1)
                break
    only_ours = not one.backup and not text.replace("version = ", "").strip("0123456789 \n")
    return None if only_ours and text != old else text.encode()


def read_record(system: System) -> tuple[list[Written], list[str]]:
    """The files that were changed and the directories that were made; empty without a record."""
    data = system.read(RECORD)
    if data is None:
        return [], []
    try:
        record = json.loads(data)
        return [Written(**one) for one in record["files"]], list(record["folders"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.DataLoss(
            f"{RECORD} is damaged ({error}); remove it, and `copepod node uninstall` takes only "
            "the marked block out"
        ) from error


def _write_record(system: System, files: list[Written], folders: list[str]) -> None:
    _make_folders(system, FOLDER)
    record = {"version": 1, "files": [asdict(one) for one in files], "folders": folders}
    system.write(RECORD, json.dumps(record, indent=2).encode() + b"\n")


def _make_folders(system: System, folder: str) -> list[str]:
    """Makes a directory and its parents; gives those that were missing, outermost first."""
    missing = []
    while not system.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        system.path(one).mkdir(mode=0o755)
    return missing[::-1]


def _remove_folder(system: System, folder: str) -> None:
    try:
        system.path(folder).rmdir()
    except OSError:
        pass  # somebody uses it by now


def _put(system: System, path: str, data: bytes | None) -> None:
    if data is None:
        system.remove(path)
    else:
        system.write(path, data)


def _roll_back(system: System, done: list[Change]) -> None:
    for change in reversed(done):
        try:
            _put(system, change.path, change.before)
        except OSError:
            pass  # the error that led here is the one to tell; the backup stays in the record


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _denied(error: OSError) -> errors.PermissionDenied:
    return errors.PermissionDenied(
        f"{error.filename or 'a file'} can't be written: {error.strerror}; the files are as they "
        "were (is the file system read-only, or the file immutable?)"
    )
