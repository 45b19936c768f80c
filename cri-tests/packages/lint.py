"""lintian, rpmlint, and whether the packages ask for the libraries that they are linked with."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from rig import debian
from rig.paths import CHECKOUT
from rig.shell import run

TIMEOUT = 300.0
# Whose package brings a library: Debian's name, and the rpm's.
OWNERS = {
    "libc.so.6": ("libc6", "glibc"),
    "libgcc_s.so.1": ("libgcc-s1", "libgcc"),
    "libstdc++.so.6": ("libstdc++6", "libstdc++"),
}
GLIBC = re.compile(r"^(ld-linux|lib(dl|m|pthread|rt)\.so)")


def debs(packages: Path) -> str:
    """Errors and warnings count; what is as it should be stands in lintian-overrides."""
    program = debian.need_command("lintian", "lintian")
    found = sorted(packages.glob("*.deb"))
    words = ["nice", program, "--allow-root", "--fail-on=error,warning", *map(str, found)]
    done = run(words, timeout=TIMEOUT, check=False)
    assert done.code == 0, done.text
    assert not done.out.strip(), done.out
    return f"{len(found)} packages"


def rpms(packages: Path) -> str:
    """What is as it should be stands in rpmlint.toml."""
    program = debian.need_command("rpmlint", "rpmlint")
    found = sorted(packages.glob("*.rpm"))
    words = ["nice", program, "-c", f"{CHECKOUT}/packaging/rpmlint.toml", *map(str, found)]
    done = run(words, timeout=TIMEOUT, check=False)
    said = f"{len(found)} packages and 0 specfiles checked; 0 errors, 0 warnings"
    assert done.code == 0, done.text
    assert said in done.out, done.text
    return f"{len(found)} packages"


def needs(packages: Path, tree: Callable[[], Path]) -> str:
    """Every NEEDED of a bundled library is bundled or in a package that is depended on."""
    debian.need("binutils", "rpm")
    linked = set()
    for path in tree().rglob("*.so"):
        said = run(["objdump", "-p", path]).out
        linked |= set(re.findall(r"^\s*NEEDED\s+(\S+)", said, re.MULTILINE))
    wanted = {"libc.so.6" if GLIBC.match(name) else name for name in linked}
    assert wanted, "no library is linked with anything"
    assert wanted <= OWNERS.keys(), wanted
    (deb,) = packages.glob("*_amd64.deb")
    (rpm,) = packages.glob("*.x86_64.rpm")
    asked = run(["dpkg-deb", "-f", deb, "Depends"]).out.replace(",", " ").split()
    required = run(["rpm", "-qp", "--requires", rpm]).out.split()
    for name in wanted:
        assert OWNERS[name][0] in asked, (name, asked)
        assert OWNERS[name][1] in required, (name, required)
    return ", ".join(sorted(wanted))
