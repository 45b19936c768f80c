"""Rows about talking with a running wasm container: logs, exec, attach, cp, port-forward, debug."""

import re

from e2e.kit import Kube
from e2e.manifests import LISTEN, PORT, SHELL, container, pod, server
from rig import debian, images


def logs(kube: Kube) -> str:
    """logs: of both streams, the last lines, followed, and of the container before"""
    counting = container("count", "100", name="counting")
    failing = container("read", "/nowhere", name="failing")
    kube.apply(pod("logs", counting, failing, restartPolicy="OnFailure"))
    kube.until("line 5", lambda: "line 5\n" in kube.log("logs", "-c", "counting"))
    with kube.start("logs", "--follow", "--tail=2", "logs", "-c", "counting") as following:
        following.expect("line ")
        first = int(following.out.split()[1])
        following.expect(f"line {first + 6}\n")
    kube.until("a restart", lambda: kube.status("logs", "failing").get("restartCount", 0) > 0)
    said = "guest: /nowhere: No such file or directory"
    before = ("-c", "failing", "--previous")
    kube.until("the log of the container before", lambda: said in kube.log("logs", *before))
    return f"followed from line {first}; before: {said}"


def execute(kube: Kube) -> str:
    """exec: a module and a native file of the image, exit codes, standard input"""
    kube.apply(pod("exec", container("sleep", "600", image=SHELL)))
    kube.ready("exec")
    hello = kube.exec("exec", images.MODULE, "hello", "you")
    assert "arg 2: you" in hello.out, hello.text
    codes = [kube.exec("exec", images.MODULE, "exit", "7").code]
    codes.append(kube.exec("exec", "sh", "-c", "exit 9").code)
    assert codes == [7, 9], codes
    native = kube.exec("exec", "tr", "a-z", "A-Z", flags=("-i",), stdin="to native\n")
    wasm = kube.exec("exec", images.MODULE, "echo", flags=("-i",), stdin="to wasm\n")
    assert (native.out, wasm.out) == ("TO NATIVE\n", "to wasm\n"), (native.text, wasm.text)
    missing = kube.exec("exec", "/nowhere")
    assert missing.code != 0, missing.text
    assert "/nowhere" in missing.text, missing.text
    return f"exit codes {codes}; {missing.err.strip().rpartition(': ')[2]}"


def attach(kube: Kube) -> str:
    """attach: a guest that reads standard input until its end"""
    kube.apply(pod("echo", container("echo", stdin=True, stdinOnce=True)))
    kube.ready("echo")
    with kube.start("attach", "-i", "echo", stdin=True) as attached:
        attached.send(b"hello guest\n")
        attached.expect("hello guest")
        attached.end_input()
        kube.phase("echo", "Succeeded")
    return kube.log("echo").strip()


def copy(kube: Kube) -> str:
    """cp: into a wasm container and back, with the image's tar"""
    kube.apply(pod("files", container("sleep", "600", image=SHELL)))
    kube.ready("files")
    there, back = (kube.cluster.cell.home / name for name in ("there", "back"))
    there.write_text("carried by tar\n")
    kube.kubectl("cp", str(there), "files:/tmp/file")
    assert kube.exec("files", images.MODULE, "read", "/tmp/file").out == "carried by tar\n"
    kube.kubectl("cp", "files:/tmp/file", str(back))
    text = back.read_text()
    there.unlink()
    back.unlink()
    return text.strip()


def port_forward(kube: Kube) -> str:
    """port-forward to a wasm server"""
    curl = debian.need_command("curl", "curl")
    kube.apply(pod("web", server("forwarded"), annotations=LISTEN))
    kube.ready("web")
    with kube.start("port-forward", "pod/web", f":{PORT}") as forward:
        forward.expect("Forwarding from 127.0.0.1:")
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.out)
        assert found
        url = f"http://127.0.0.1:{found[1]}/"

        def fetch() -> str:
            done = kube.cluster.cell.call([curl, "-sS", "--max-time", "5", url], check=False)
            return done.out

        said = str(kube.until("an answer", fetch, 20))
    assert said == "web forwarded\n", said
    return said.strip()


def debug(kube: Kube) -> str:
    """debug: a native ephemeral container in a wasm pod"""
    kube.apply(pod("sick", container("sleep", "600")))
    kube.ready("sick")
    words = ("--image", images.BUSYBOX, "--container=doctor", "--image-pull-policy=Never")
    kube.kubectl("debug", "sick", *words, "--", "sh", "-c", "hostname; exit 3")

    def ended() -> int:
        found = kube.get("pod", "sick")["status"].get("ephemeralContainerStatuses", [])
        return int(found[0]["state"].get("terminated", {}).get("exitCode", 0)) if found else 0

    code = kube.until("the debugger's end", ended)
    said = kube.log("sick", "-c", "doctor")
    assert (code, said) == (3, "sick\n"), (code, said)
    return f"hostname {said.strip()}, exit code {code}"


ROWS = (logs, execute, attach, copy, port_forward, debug)
