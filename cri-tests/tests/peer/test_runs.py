"""`ctr run`: what a container prints, reads, writes and ends with."""

from pathlib import Path

import pytest

from rig import images
from rig.runs import Runner

pytestmark = pytest.mark.peer

ENDINGS = [
    pytest.param("hello", (), "", 0, id="0"),
    pytest.param("exit", ("3",), "", 3, id="3"),
    pytest.param("count", ("20",), "SIGKILL", 137, id="SIGKILL"),
    pytest.param("count", ("20",), "SIGTERM", 143, id="SIGTERM"),
]


@pytest.mark.parametrize(("verb", "rest", "signal", "code"), ENDINGS)
def test_the_exit_code_comes_through(
    runner: Runner, verb: str, rest: tuple[str, ...], signal: str, code: int
) -> None:
    name = runner.new_name()
    image, args = runner.guest(verb, *rest)
    with runner.start(image, *args, name=name) as running:
        if signal:
            running.expect("line 1")
            runner.kill(name, signal)
        assert running.wait(60).code == code


def test_a_trap_is_134_with_its_reason_on_stderr(runner: Runner) -> None:
    if runner.runtime != "copepod":
        pytest.skip("a trap is wasm's")
    done = runner.run(images.C_ROOTFS, images.MODULE, "trap")
    assert done.code == 134
    assert "unreachable" in done.err
    assert "unreachable" not in done.out


def test_a_loop_that_never_calls_the_host_ends_by_a_signal(runner: Runner) -> None:
    if runner.runtime != "copepod":
        pytest.skip("a loop in wasm")
    name = runner.new_name()
    with runner.start(images.C_ROOTFS, images.MODULE, "spin", name=name) as running:
        runner.wait_running(name)
        runner.kill(name, "SIGTERM")
        assert running.wait(60).code == 143


def test_args_and_environment_arrive(runner: Runner) -> None:
    image, args = runner.guest("hello")
    done = runner.run(image, *args, flags=("--env", "COLOUR=red"))
    assert done.code == 0, done.text
    assert "COLOUR=red" in done.out


def test_a_go_program_runs(runner: Runner) -> None:
    if runner.runtime != "copepod":
        pytest.skip("a wasm program")
    done = runner.run(images.GO_ROOTFS, images.MODULE, "hello", "world")
    assert done.code == 0, done.text
    assert "hello from Go in wasm" in done.out
    assert "arg 2: world" in done.out


def test_stdin_is_read_to_its_end(runner: Runner) -> None:
    image, args = runner.guest("echo")
    with runner.start(image, *args, stdin=True) as running:
        running.send(b"one\n")
        running.expect("one")
        # Only now: ctr forgets an end of file that it reads before the task is there.
        running.end_input()
        done = running.wait(30)
    assert (done.code, done.out) == (0, "one\n")


def test_ten_megabytes_of_output_arrive_whole(runner: Runner) -> None:
    image, args = runner.guest("flood", str(10 << 20))
    done = runner.run(image, *args)
    assert done.code == 0, done.text
    assert len(done.out) == 10 << 20


def test_a_volume_is_read_and_written(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mount = ("--mount", f"type=bind,src={tmp_path},dst=/data,options=rbind:rw")
    image, args = runner.guest("read", "/data/in")
    assert runner.run(image, *args, flags=mount).out == "from the host\n"
    image, args = runner.guest("write", "/data/out", "from the guest")
    done = runner.run(image, *args, flags=mount)
    assert done.code == 0, done.text
    assert (tmp_path / "out").read_text() == "from the guest\n"


def test_a_read_only_volume_is_not_written(runner: Runner, tmp_path: Path) -> None:
    mount = ("--mount", f"type=bind,src={tmp_path},dst=/data,options=rbind:ro")
    image, args = runner.guest("write", "/data/out", "no")
    assert runner.run(image, *args, flags=mount).code != 0
    assert not (tmp_path / "out").exists()
