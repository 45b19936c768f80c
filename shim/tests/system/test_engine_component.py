"""Components of WASI 0.2 run for real: stdio, exit codes, traps, sockets, refusals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from copepod.engine import capi, component, component_objects, objects, run
from copepod.engine.limits import Knobs
from copepod.engine.profile import Profile
from enginekit import make
from enginekit.harness import child, compiled, guest

pytestmark = pytest.mark.system


@pytest.mark.parametrize("tier", ["cranelift", "winch"])
@pytest.mark.parametrize(
    ("how", "code"), [("(i32.const 0)", 0), ("(i32.const 1)", 1), ("(unreachable)", 134)]
)
def test_hello(tier: str, how: str, code: int) -> None:
    outcome = guest(make.text("hello", how=how), tier=tier)
    assert (outcome.code, outcome.out) == (code, b"hello from a component\n")
    trapped = b"copepod: the guest trapped: wasm `unreachable` instruction executed\n"
    assert outcome.err.startswith(trapped if code == 134 else b"")
    assert (b"deliberate_end" in outcome.err) == (code == 134)


def test_an_exported_function_by_name() -> None:
    module = make.text("hello", how="(i32.const 1)")
    assert guest(module, entry="again").code == 1
    outcome = guest(module, entry="never")
    assert outcome.code == 200
    assert b"no function 'never' to start with; it exports wasi:cli/run@0.2.0" in outcome.err


def test_exit_with_code() -> None:
    assert guest(make.text("exit")) == (42, b"", b"")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "does not export wasi:cli/run@0.2, so there is nothing to run; it exports nothing"),
        (
            '(import "wasi:nn/graph@0.2.0" (instance)) (import "my:own/thing" (instance))'
            '(instance $i) (export "wasi:cli/run@0.2.0" (instance $i))',
            "imports wasi:nn/graph@0.2.0, my:own/thing, which Copepod does not provide",
        ),
        (
            '(instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i))',
            "the component serves HTTP",
        ),
    ],
)
def test_refused_at_link(body: str, sentence: str) -> None:
    outcome = guest(make.wat(f"(component {body})"))
    assert outcome.code == 200, outcome
    assert sentence in outcome.err.decode()


def test_outgoing_http_needs_the_network() -> None:
    module = make.wat("""(component
      (import "wasi:http/outgoing-handler@0.2.3" (instance))
      (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))""")
    outcome = guest(module, knobs=Knobs(network=False))
    assert outcome.code == 200
    assert b"imports wasi:http/outgoing-handler, but its network is off" in outcome.err
    assert guest(module).code == 134  # its interface has no function run


def test_a_function_that_an_interface_lacks_ends_with_its_name() -> None:
    module = make.wat("""(component
      (import "wasi:cli/exit@0.2.0" (instance (export "vanish" (func))))
      (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))""")
    outcome = guest(module)
    assert outcome.code == 134
    assert b"vanish" in outcome.err


def _resource(name: str) -> str:
    return f'(export "{name}" (type (sub resource)))'


def _function(name: str, result: str, param: str = "") -> str:
    return f'(export "{name}" (func {param} (result {result})))'


# One member of each interface whose members can be asked for by themselves.
MEMBERS = {
    "wasi:cli/environment": _function("get-arguments", "(list string)"),
    "wasi:cli/exit": '(export "exit" (func (param "status" (result))))',
    "wasi:cli/terminal-input": _resource("terminal-input"),
    "wasi:cli/terminal-output": _resource("terminal-output"),
    "wasi:clocks/monotonic-clock": _function("now", "u64"),
    "wasi:filesystem/types": _resource("descriptor"),
    "wasi:http/types": _resource("fields"),
    "wasi:io/error": _resource("error"),
    "wasi:io/poll": _resource("pollable"),
    "wasi:io/streams": _resource("input-stream"),
    "wasi:random/insecure": _function("get-insecure-random-u64", "u64"),
    "wasi:random/insecure-seed": _function("insecure-seed", "(tuple u64 u64)"),
    "wasi:random/random": _function("get-random-bytes", "(list u8)", '(param "len" u64)'),
    "wasi:sockets/ip-name-lookup": _resource("resolve-address-stream"),
    "wasi:sockets/network": _resource("network"),
    "wasi:sockets/tcp": _resource("tcp-socket"),
    "wasi:sockets/udp": _resource("udp-socket"),
}


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.12"])
def test_what_we_say_is_provided_links(version: str) -> None:
    def work() -> int:
        for name, member in MEMBERS.items():
            data = make.wat(f'(component (import "{name}@{version}" (instance {member})))')
            engine = Profile().engine()
            module = objects.Module.compile(engine, data, len(data), "component")
            component.check_imports(module, engine)
            linker = component_objects.ComponentLinker(engine)
            linker.define_wasi()
            linker.instantiate(objects.Store(engine), module)
        return 0

    assert set(MEMBERS) <= component.PROVIDED
    assert child(work) == (0, b"", b"")


def test_world() -> None:
    def work() -> int:
        engine = Profile().engine()
        for body, expected in (
            ('(instance $i) (export "wasi:cli/run@0.2.1" (instance $i))', "command"),
            ('(instance $i) (export "wasi:http/incoming-handler@0.2.1" (instance $i))', "http"),
            ('(instance $i) (export "my:own/thing" (instance $i))', "library"),
        ):
            data = make.wat(f"(component {body})")
            module = objects.Module.compile(engine, data, len(data), "component")
            if component.world(module, engine) != expected:
                return 1
        return 0

    assert child(work) == (0, b"", b"")


class TestTheEngineStillDeniesSockets:
    """When one of these fails the trick in capi.allow_sockets is no longer needed or no longer
    right: on a new engine look first for setters of its own, then for the bytes' new place.
    """

    def test_the_c_api_has_no_setter_for_tcp(self) -> None:
        with open(capi.find_library(), "rb") as file:
            names = set(re.findall(rb"\0(wasi_config_\w+)", file.read()))
        assert b"wasi_config_allow_ip_name_lookup" in names
        assert names & {b"wasi_config_allow_tcp", b"wasi_config_allow_udp"} == set()

    def test_inherit_network_alone_denies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def only_inherit(config: int) -> bool:
            capi.library().wasi_config_inherit_network(config)
            capi.library().wasi_config_allow_ip_name_lookup(config, True)
            return True

        monkeypatch.setattr(capi, "allow_sockets", only_inherit)
        assert guest(make.text("sockets")) == (1, b"", b"")

    def test_the_trick_opens_them(self) -> None:
        assert capi.build_id(capi.find_library()) in capi.LAYOUTS
        assert guest(make.text("sockets")) == (0, b"", b"")

    def test_network_off_denies(self) -> None:
        assert guest(make.text("sockets"), knobs=Knobs(network=False)) == (1, b"", b"")

    @pytest.mark.parametrize("shift", [None, 1, 8])
    def test_another_layout_is_refused_not_written_to(
        self, monkeypatch: pytest.MonkeyPatch, shift: int | None
    ) -> None:
        known = capi.build_id(capi.find_library())
        layout = capi.LAYOUTS[known]
        other = {} if shift is None else {known: layout._replace(sockets=layout.sockets + shift)}
        monkeypatch.setattr(capi, "LAYOUTS", other)
        outcome = guest(make.text("sockets"))
        assert outcome.code == 200
        assert b"this build of the wasm engine is not one that Copepod knows" in outcome.err
        assert guest(make.text("hello", how="(i32.const 0)")).code == 0


class TestFileCallsStayOnTheGuestsThread:
    """The other private byte: as above, on a new engine look first for a setter."""

    def threads(self) -> int:
        """Runs a guest that opens files; gives the threads of the process at its end."""

        def work() -> int:
            fd = compiled(make.c("probe").read_bytes())
            options = run.Options(["probe", "open", "/etc/passwd"])
            run.link(run.load(fd, "core", Profile()), options).run()
            with open("/proc/self/status") as file:
                return int(file.read().split("Threads:")[1].split()[0])

        return child(work).code

    def test_the_byte_saves_a_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        few = self.threads()
        monkeypatch.setattr(capi, "LAYOUTS", {})
        assert few < self.threads()

    @pytest.mark.parametrize("shift", [-24, -8, 8, 16, 32])
    def test_another_layout_is_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, shift: int
    ) -> None:
        known = capi.build_id(capi.find_library())
        layout = capi.LAYOUTS[known]
        moved = {known: layout._replace(blocking=layout.blocking + shift)}
        monkeypatch.setattr(capi, "LAYOUTS", moved)
        assert guest(make.c("probe")).code == 0

        def work() -> int:
            return int(capi.block_in_place(capi.library().wasi_config_new()))

        assert child(work).code == 0


@pytest.mark.parametrize("pinned", [True, False])
def test_name_lookup_loads_no_code_of_the_image(tmp_path: Path, pinned: bool) -> None:
    """Without the pin the image's module is loaded, so the test can tell."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler here: apt-get install gcc libc6-dev")
    library = "/usr/lib/libnss_evil.so.2"
    for folder in ("etc", "usr/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "etc/nsswitch.conf").write_text("hosts: evil\n")
    (tmp_path / "etc/hosts").write_text("127.0.0.1 here\n")
    source = Path(make.__file__).with_name("nss.c")
    command = [compiler, "-shared", "-fPIC", "-o", f"{tmp_path}{library}", str(source)]
    subprocess.run(command, check=True, timeout=60)

    script = (
        "import os, socket, sys\nfrom copepod.engine import capi\n"
        f"{'capi.pin_name_lookup()' if pinned else ''}\n"
        f"os.chroot({str(tmp_path)!r})\nos.chdir('/')\n"
        "print(socket.getaddrinfo(b'here', 80)[0][4][0])\n"
    )
    # A fresh process: this one may have looked names up, and glibc keeps what it read then.
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == (b"127.0.0.1\n" if pinned else b""), done.stderr
    assert (tmp_path / "loaded").exists() != pinned


def test_load_pins_the_name_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def pin() -> None:
        os._exit(77)

    monkeypatch.setattr(capi, "pin_name_lookup", pin)
    assert guest(make.text("exit")).code == 77


def test_a_c_program_behind_the_adapter(tmp_path: Path) -> None:
    jco = shutil.which("jco")
    if not jco:
        pytest.skip("no jco here: npm install -g @bytecodealliance/jco")
    adapter = next(Path(jco).resolve().parents[1].rglob("*preview1.command.wasm"))
    target = tmp_path / "component.wasm"
    options = ["--adapt", f"wasi_snapshot_preview1={adapter}", "-o", str(target)]
    subprocess.run([jco, "new", str(make.c("probe")), *options], check=True, timeout=120)
    (tmp_path / "f").write_text("data")
    assert guest(target).out == b"hello from C, no newline at the end"
    assert guest(target, "exit", "0").code == 0
    assert guest(target, "exit", "3").code == 1  # WASI 0.2's exit knows success and failure only
    assert guest(target, "open", str(tmp_path / "f")).out == b"data\n"
    outcome = guest(target, "divide")
    assert outcome.code == 134
    assert b"integer divide by zero" in outcome.err


def test_options_of_a_run_are_plain_data() -> None:
    assert run.Options(["a"]).knobs == Knobs()
