"""Rows about a wasm container that runs: probes, limits, users, metrics, signals and its end."""

import json
import time

from e2e.kit import Kube
from e2e.manifests import LISTEN, PORT, SHELL, Object, container, native, pod, server
from rig import images

FAST = {"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1}


def exec_probe(kube: Kube) -> str:
    """readiness by an exec probe, of a native file and of the module"""
    ready = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **FAST}
    alive = {"exec": {"command": [images.MODULE, "exit", "0"]}, **FAST, "failureThreshold": 3}
    probes: Object = {"readinessProbe": ready, "livenessProbe": alive}
    kube.apply(pod("probed", container("sleep", "600", image=SHELL, **probes)))
    kube.until("the start", lambda: kube.status("probed").get("started"))
    assert not kube.status("probed")["ready"]
    kube.exec("probed", "touch", "/tmp/ready")
    kube.ready("probed")
    kube.exec("probed", "rm", "/tmp/ready")
    kube.wait("pod/probed", "condition=Ready=False")
    assert kube.status("probed")["restartCount"] == 0
    return "not ready, ready, not ready"


def network_probes(kube: Kube) -> str:
    """a wasm server: readiness by TCP, liveness by HTTP, restarted when that fails"""
    ready = {"tcpSocket": {"port": PORT}, **FAST}
    alive = {"httpGet": {"path": "/healthz", "port": PORT}, **FAST}
    one = server("/tmp/sick", readinessProbe=ready, livenessProbe=alive)
    kube.apply(pod("web", one, annotations=LISTEN, restartPolicy="Always"))
    kube.ready("web")
    said = kube.fetch("web")
    assert said == "web /tmp/sick\n", said
    kube.exec("web", "touch", "/tmp/sick")
    kube.until("a restart", lambda: kube.status("web").get("restartCount") == 1)
    kube.ready("web")
    ended = kube.status("web")["lastState"]["terminated"]
    return f"restarted after exit code {ended['exitCode']}, answers: {said.strip()}"


def security_context(kube: Kube) -> str:
    """a user, a read-only root, no capabilities, the runtime's seccomp profile"""
    walls: Object = {
        "runAsUser": 65534,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    look = native("id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status", name="look")
    write = container("write", "/tmp/file", "text")
    kube.apply(pod("walls", *({**one, "securityContext": walls} for one in (write, look))))
    kube.phase("walls", "Failed")
    assert kube.ended("walls")["exitCode"] == 1
    said = kube.log("walls", "-c", "main")
    # The engine has no word of WASI for EROFS and says that of any other error.
    assert "/tmp/file: Read-only file system" in said or "/tmp/file: I/O error" in said, said
    seen = kube.log("walls", "-c", "look").split()
    wanted = ["65534", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert seen == wanted, seen
    return said.strip()


def metrics(kube: Kube) -> str:
    """metrics: /stats/summary and /metrics/resource show the wasm container"""
    kube.apply(pod("busy", container("spin", resources={"limits": {"cpu": "200m"}})))
    kube.ready("busy")
    base = f"/api/v1/nodes/{kube.cluster.name}/proxy"

    def numbers() -> tuple[int, int] | None:
        summary = json.loads(kube.kubectl("get", "--raw", f"{base}/stats/summary").out)
        for one in summary["pods"]:
            if one["podRef"]["namespace"] == kube.namespace:
                for found in one.get("containers", []):
                    cpu = found.get("cpu", {}).get("usageNanoCores", 0)
                    memory = found.get("memory", {}).get("workingSetBytes", 0)
                    return (cpu, memory) if cpu and memory else None
        return None

    cpu, memory = kube.until("the container's use of CPU and memory", numbers)
    label = f'container="main",namespace="{kube.namespace}",pod="busy"'
    lines = kube.kubectl("get", "--raw", f"{base}/metrics/resource").out.splitlines()
    kinds = [line.partition("{")[0] for line in lines if label in line]
    assert "container_memory_working_set_bytes" in kinds, kinds
    assert "container_cpu_usage_seconds_total" in kinds, kinds
    return f"{cpu / 1e6:.0f} m of a CPU, {memory / 2**20:.1f} MiB; {len(kinds)} metrics"


def graceful_end(kube: Kube) -> str:
    """delete: SIGTERM ends a wasm server and a busy guest within seconds, exit code 143"""
    finalizers = {"finalizers": ["copepod.test/look"]}
    spec = pod(
        *("end", server(name="server"), container("spin", name="spin")),
        annotations={"copepod.dev/listen.server": str(PORT)},
        terminationGracePeriodSeconds=60,
    )
    spec["metadata"].update(finalizers)
    kube.apply(spec)
    kube.ready("end")
    kube.until("an answer", lambda: kube.fetch("end"))
    began = time.monotonic()
    kube.kubectl("delete", "pod", "end", "--wait=false")
    names = ("server", "spin")
    try:
        kube.until("both ends", lambda: all(_ended(kube, "end", name) for name in names))
        took = time.monotonic() - began
        codes = [kube.ended("end", name)["exitCode"] for name in names]
    finally:
        patch = '{"metadata":{"finalizers":null}}'
        kube.kubectl("patch", "pod", "end", "--type=merge", "--patch", patch)
    kube.wait("pod/end", "delete")
    assert codes == [143, 143], codes
    assert took < 15, f"{took:.1f} s"
    return f"exit codes {codes}, seen after {took:.1f} s"


def _ended(kube: Kube, name: str, container: str) -> bool:
    return "terminated" in kube.status(name, container)["state"]


def out_of_memory(kube: Kube) -> str:
    """a memory limit: a native neighbour is killed for it, the guest goes on"""
    limits: Object = {"resources": {"limits": {"memory": "64Mi"}}}
    hungry = native("exec tail /dev/zero", name="hungry", **limits)
    kube.apply(pod("memory", container("sleep", "600", **limits), hungry))
    kube.until("the end of one", lambda: _ended(kube, "memory", "hungry"))
    ended = kube.ended("memory", "hungry")
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
    assert "running" in kube.status("memory")["state"]
    return f"{ended['reason']}, exit code {ended['exitCode']}"


def containerd_restart(kube: Kube) -> str:
    """containerd is killed and started again: the pod goes on, logs and exec too"""
    kube.apply(pod("stays", container("count", "200", image=SHELL)))
    kube.wait_log("stays", "line 1\n")
    kube.cluster.node.restart(hard=True)
    kube.cluster.node.wait_cri()
    last = kube.log("stays").split()[-1]
    kube.until("later lines", lambda: f"line {int(last) + 5}\n" in kube.log("stays"))
    done = kube.until("exec", lambda: kube.exec("stays", images.MODULE, "exit", "5").code == 5)
    assert done
    assert kube.status("stays")["restartCount"] == 0
    return f"line {last} and later ones, no restart"


ROWS = (
    exec_probe,
    network_probes,
    security_context,
    metrics,
    graceful_end,
    out_of_memory,
    containerd_restart,
)
