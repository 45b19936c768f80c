"""Rows about what a wasm container is given, how it ends, and what is said when it cannot start."""

from e2e.kit import Kube
from e2e.manifests import Object, config, container, env, native, pod, volume
from rig import images


def env_and_volumes(kube: Kube) -> str:
    """env, downward API, configMap and secret as environment and as volumes"""
    kube.apply(
        config("ConfigMap", "settings", greeting="from a config map"),
        config("Secret", "keys", token="from a secret"),
    )
    sources: list[tuple[Object, Object]] = [
        volume("settings", "/etc/settings", configMap={"name": "settings"}),
        volume("keys", "/etc/keys", secret={"secretName": "keys"}),
        volume("info", "/etc/info", downwardAPI={"items": [_field("name", "metadata.name")]}),
    ]
    paths = {"greeting": "/etc/settings/greeting", "token": "/etc/keys/token"}
    paths |= {"name": "/etc/info/name", "account": f"{ACCOUNT}/namespace"}
    readers = [
        container("read", path, name=name, volumeMounts=[mount for _, mount in sources])
        for name, path in paths.items()
    ]
    variables = {
        "PLAIN": "plain text",
        "POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "ADDRESS": {"fieldRef": {"fieldPath": "status.podIP"}},
        "MEMORY": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
        "GREETING": {"configMapKeyRef": {"name": "settings", "key": "greeting"}},
        "TOKEN": {"secretKeyRef": {"name": "keys", "key": "token"}},
    }
    limits = {"limits": {"memory": "128Mi", "cpu": "1"}}
    hello = container("hello", name="hello", env=env(variables), resources=limits)
    kube.apply(pod("given", hello, *readers, volumes=[source for source, _ in sources]))
    kube.phase("given", "Succeeded")
    said = kube.log("given", "-c", "hello")
    address = kube.get("pod", "given")["status"]["podIP"]
    wanted = ("PLAIN=plain text", "POD=given", f"ADDRESS={address}", "MEMORY=128")
    for one in (*wanted, "GREETING=from a config map", "TOKEN=from a secret"):
        assert f"env: {one}\n" in said, f"no {one} in:\n{said}"
    for name, text in {"greeting": "from a config map", "token": "from a secret"}.items():
        assert kube.log("given", "-c", name) == text
    assert kube.log("given", "-c", "name") == "given"
    assert kube.log("given", "-c", "account") == kube.namespace
    return "6 variables, 4 files"


ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def _field(path: str, field: str) -> Object:
    return {"path": path, "fieldRef": {"fieldPath": field}}


def wasm_layer(kube: Kube) -> str:
    """an image whose layer is the module itself"""
    kube.apply(pod("layer", container("hello", image=images.C_LAYER, command=["/"])))
    kube.phase("layer", "Succeeded")
    assert "hello from C in wasm" in kube.log("layer")
    return images.C_LAYER


def exit_codes(kube: Kube) -> str:
    """exit codes: 0, 7, and 134 for a trap, with its backtrace as the message"""
    policy: Object = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    ends = {"zero": ("exit", "0"), "seven": ("exit", "7"), "trap": ("trap",)}
    kube.apply(pod("ends", *(container(*args, name=name, **policy) for name, args in ends.items())))
    kube.phase("ends", "Failed")
    found = {name: kube.ended("ends", name) for name in ends}
    codes = {name: one["exitCode"] for name, one in found.items()}
    assert codes == {"zero": 0, "seven": 7, "trap": 134}, codes
    assert found["zero"]["reason"] == "Completed"
    message = str(found["trap"].get("message", ""))
    assert "trapped" in message, f"no trap in {message!r}"
    return f"{codes}; {message.splitlines()[0]}"


def last_words(kube: Kube) -> str:
    """a termination message written by the guest"""
    kube.apply(pod("words", container("write", "/dev/termination-log", "good bye")))
    kube.phase("words", "Succeeded")
    message = str(kube.ended("words")["message"])
    assert message == "good bye\n", message
    return message.strip()


def _refusal(kube: Kube, spec: Object, *words: str) -> str:
    """Applies a pod that cannot start; gives the sentence that its status shows."""
    name = spec["metadata"]["name"]
    kube.apply(spec)

    def reason() -> str:
        state = kube.status(name).get("state", {})
        shown: Object = state.get("waiting") or state.get("terminated") or {}
        text = str(shown.get("message", ""))
        return text if all(word in text for word in words) else ""

    found = str(kube.until(f"{words} in the status of {name}", reason, 40))
    assert "Traceback" not in found
    return found.rpartition("failed to create shim task: ")[2]


def no_such_file(kube: Kube) -> str:
    """a start error: its reason stands in the pod's status"""
    spec = pod("lost", container(command=["/nowhere.wasm"]))
    return _refusal(kube, spec, "/nowhere.wasm")


def bad_annotation(kube: Kube) -> str:
    """an annotation that is refused: its key stands in the pod's status"""
    spec = pod("knob", container("hello"), annotations={"copepod.dev/fuel": "lots"})
    return _refusal(kube, spec, "copepod.dev/fuel")


def init_and_sidecar(kube: Kube) -> str:
    """a native init container and a native sidecar beside wasm"""
    source, mount = volume("shared", "/shared", emptyDir={})
    mounts: Object = {"volumeMounts": [mount]}
    first = native("echo from init > /shared/file", name="init", **mounts)
    loop = "trap 'exit 0' TERM; while :; do cp /shared/file /shared/copy; sleep 1 & wait $!; done"
    probe: Object = {"startupProbe": {"exec": {"command": ["test", "-e", "/shared/copy"]}}}
    beside = native(loop, name="sidecar", restartPolicy="Always", **probe, **mounts)
    main = container("read", "/shared/copy", **mounts)
    kube.apply(pod("beside", main, initContainers=[first, beside], volumes=[source]))
    kube.phase("beside", "Succeeded")
    said = kube.log("beside")
    assert said == "from init\n", said
    return said.strip()


ROWS = (
    env_and_volumes,
    wasm_layer,
    exit_codes,
    last_words,
    no_such_file,
    bad_annotation,
    init_and_sidecar,
)
