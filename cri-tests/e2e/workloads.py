"""Rows about what makes pods: Deployments and Jobs; and about where the scheduler puts them."""

from e2e.kit import Kube
from e2e.manifests import (
    LISTEN,
    PORT,
    Object,
    container,
    deployment,
    job,
    native,
    pod,
    server,
    service,
)

READY = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1}}


def deployments(kube: Kube) -> str:
    """a Deployment of three wasm replicas beside a native one: scaled and rolled"""
    wasm = pod("wasm", server("first", **READY), annotations=LISTEN)
    httpd = native("trap 'exit 0' TERM; httpd -f -p 8080 & wait")
    kube.apply(
        deployment(3, wasm),
        deployment(1, pod("linux", httpd, runtime=None)),
        service("wasm"),
    )
    _rolled(kube, "wasm", 3)
    _rolled(kube, "linux", 1)
    assert _answers(kube) == {"first"}
    for replicas in (5, 2, 3):
        kube.kubectl("scale", "deployment/wasm", f"--replicas={replicas}")
        _rolled(kube, "wasm", replicas)
        _endpoints(kube, replicas)
    kube.apply(deployment(3, pod("wasm", server("second", **READY), annotations=LISTEN)))
    _rolled(kube, "wasm", 3)
    assert _answers(kube) == {"second"}
    kube.kubectl("rollout", "undo", "deployment/wasm")
    _rolled(kube, "wasm", 3)
    assert _answers(kube) == {"first"}
    return "3, 5, 2, 3 replicas; rolled to the second and back"


def _rolled(kube: Kube, name: str, replicas: int) -> None:
    kube.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=150)
    kube.until(f"{replicas} pods of {name}", lambda: len(kube.pods(name)) == replicas)


def _answers(kube: Kube) -> set[str]:
    """What the replicas say, each under its own name."""
    names = [one["metadata"]["name"] for one in kube.pods("wasm")]
    said = [kube.fetch(name).split() for name in names]
    assert [words[0] for words in said] == names, said
    return {words[1] for words in said}


def _endpoints(kube: Kube, wanted: int) -> None:
    """Waits until the Service has that many ready addresses."""

    def there() -> bool:
        slices = kube.get("endpointslices", "--selector=kubernetes.io/service-name=wasm")["items"]
        ends = [end for one in slices for end in one.get("endpoints") or []]
        return sum(bool(end["conditions"].get("ready")) for end in ends) == wanted

    kube.until(f"{wanted} endpoints", there)


def failing_job(kube: Kube) -> str:
    """a Job that fails with its exit code, which its failure policy reads"""
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}}
    policy = {"podFailurePolicy": {"rules": [rule]}, "backoffLimit": 3}
    kube.apply(job(pod("fails", container("exit", "7")), **policy))
    kube.wait("job/fails", "condition=Failed")
    (one,) = kube.get("pods", "--selector=job-name=fails")["items"]
    code = one["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    conditions = kube.get("job", "fails")["status"]["conditions"]
    (reason,) = {each["reason"] for each in conditions if each["type"] == "Failed"}
    assert (code, reason) == (7, "PodFailurePolicy"), (code, reason)
    return f"exit code {code}, {reason}"


def parallel_job(kube: Kube) -> str:
    """a Job of four completions, two at a time, and one that runs out of time"""
    kube.apply(
        job(pod("works", container("hello")), completions=4, parallelism=2),
        job(pod("late", container("spin")), activeDeadlineSeconds=3),
    )
    kube.wait("job/works", "condition=Complete")
    kube.wait("job/late", "condition=Failed")
    status = kube.get("job", "works")["status"]
    assert status["succeeded"] == 4, status
    return "4 succeeded, 1 DeadlineExceeded"


def scheduling(kube: Kube) -> str:
    """node selector, toleration and overhead through the RuntimeClass"""
    node, taint = ("node", kube.cluster.name), "copepod.test/wasm=only:NoSchedule"
    kube.kubectl("label", *node, "copepod.test/wasm=yes")
    kube.kubectl("taint", *node, taint)
    classes = [_class("e2e-here", "yes"), _class("e2e-elsewhere", "no")]
    pods = {"here": "e2e-here", "elsewhere": "e2e-elsewhere", "plain": "copepod"}
    try:
        kube.apply(*classes)
        kube.apply(*(pod(name, container(), runtime=kind) for name, kind in pods.items()))
        kube.phase("here", "Succeeded")
        for name in ("elsewhere", "plain"):
            kube.wait(f"pod/{name}", "condition=PodScheduled=False")
        reasons = {name: _why_not(kube, name) for name in ("elsewhere", "plain")}
        spec = kube.get("pod", "here")["spec"]
    finally:
        kube.kubectl("taint", *node, f"{taint}-")
        kube.kubectl("label", *node, "copepod.test/wasm-")
        for one in classes:
            kube.kubectl("delete", "runtimeclass", one["metadata"]["name"], "--ignore-not-found")
    assert "node affinity/selector" in reasons["elsewhere"], reasons
    assert "taint" in reasons["plain"], reasons
    assert spec["overhead"] == {"memory": "24Mi"}, spec
    return "one runs; one fits no node by its selector, one by a taint"


def _class(name: str, wanted: str) -> Object:
    toleration = {"key": "copepod.test/wasm", "operator": "Exists", "effect": "NoSchedule"}
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": "copepod",
        "overhead": {"podFixed": {"memory": "24Mi"}},
        "scheduling": {
            "nodeSelector": {"copepod.test/wasm": wanted},
            "tolerations": [toleration],
        },
    }


def _why_not(kube: Kube, name: str) -> str:
    conditions = kube.get("pod", name)["status"]["conditions"]
    return next(str(one["message"]) for one in conditions if one["type"] == "PodScheduled")


ROWS = (deployments, failing_job, parallel_job, scheduling)
