"""`copepod cache ls|prune|verify`: what is compiled on this node.

The rules of the cache are image.cache's; this prints and asks.
"""

from __future__ import annotations

import argparse
import json
import re
import time

from copepod import config, errors
from copepod.cli import out
from copepod.cli.system import System
from copepod.image.cache import Cache, Entry

_SIZE = re.compile(r"(\d+)\s*([KMGT]?)i?B?", re.IGNORECASE)


def ls(args: argparse.Namespace, system: System) -> int:
    """Lists the entries, the one used longest ago first."""
    entries = _cache(system).ls()
    if args.json:
        print(json.dumps([entry._asdict() for entry in entries], indent=2))
        return 0
    now = time.time()
    for entry in entries:
        age = _age(now - entry.used)
        out.say(f"{entry.digest[:16]}  {_human(entry.size):>9}  {age:>9} ago  {entry.key}")
    total = sum(entry.size for entry in entries)
    out.say(f"{len(entries)} modules, {_human(total)} of {_human(_settings().cache_max_bytes)}")
    return 0


def prune(args: argparse.Namespace, system: System) -> int:
    """Drops entries, those used longest ago first, until the wanted size is left."""
    limit = 0 if args.all else parse_size(args.size) if args.size else None
    dropped = _cache(system).prune(limit)
    size = sum(entry.size for entry in dropped)
    out.say(f"dropped {len(dropped)} modules, {_human(size)}; they are compiled again when wanted")
    return 0


def verify(args: argparse.Namespace, system: System) -> int:
    """Reads every entry and compares it with its own checksum; 1 if one is damaged."""
    bad = _cache(system).verify(remove=args.remove)
    for entry, why in bad:
        out.fail(f"{entry.path}: {why}", "" if args.remove else "remove it with --remove")
    if not bad:
        out.ok("every entry is what it was written as")
    return 1 if bad and not args.remove else 0


def _settings() -> config.Config:
    return config.load()


def _cache(system: System) -> Cache:
    settings = _settings()
    if system.euid() != 0:
        raise errors.PermissionDenied(f"{settings.cache_dir} is root's alone: run this as root")
    return Cache(settings.cache_dir, settings.cache_max_bytes)


def parse_size(text: str) -> int:
    """Bytes of "500M", "2GiB" or "1000"; K is 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise errors.InvalidArgument(f"{text!r} is no size: write 500M or 2G")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


def total(entries: list[Entry]) -> str:
    """The size of all entries, for people."""
    return _human(sum(entry.size for entry in entries))


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
