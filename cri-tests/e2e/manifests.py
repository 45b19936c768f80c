"""Kubernetes objects as the rows write them, with what all of them share filled in.

It knows no row and asks no cluster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rig import guests, images
from rig.oci import Entry, Image

RUNTIME_CLASS = "copepod"
PORT = 8080
HTTP = f"{images.HOST}/guest-http:1"
# The C guest in a root file system with a shell: for what runs beside the guest by exec.
SHELL = f"{images.HOST}/guest-c:shell"

Object = dict[str, Any]


def catalogue() -> list[Image]:
    """All images of the rows, imported into containerd before the first one."""
    http, c = guests.wasm_http().read_bytes(), guests.wasm_c().read_bytes()
    programs = {HTTP: http, SHELL: c}
    return [
        images.pause(),
        images.busybox(),
        *images.good_wasm(layers=True),
        *(
            images.busybox(name, extra=[Entry("guest.wasm", data)], Entrypoint=[images.MODULE])
            for name, data in programs.items()
        ),
    ]


def container(*args: str, image: str = images.C_ROOTFS, name: str = "main", **more: Any) -> Object:
    """A container; `args` follow the image's entry point."""
    base = {"name": name, "image": image, "imagePullPolicy": "Never"}
    return {**base, **({"args": list(args)} if args else {}), **more}


def native(script: str, name: str = "native", **more: Any) -> Object:
    """A Linux container that runs a shell script."""
    return container(image=images.BUSYBOX, name=name, command=["sh", "-c", script], **more)


def server(*args: str, **more: Any) -> Object:
    """The HTTP guest on PORT; its pod needs `LISTEN` among its annotations."""
    return container(*args, image=HTTP, ports=[{"containerPort": PORT}], **more)


LISTEN = {"copepod.dev/listen": str(PORT)}


def pod(
    name: str,
    *containers: Object,
    runtime: str | None = RUNTIME_CLASS,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A pod that is not restarted, of our runtime class unless `runtime` says otherwise."""
    base: Object = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 10}
    if runtime:
        base["runtimeClassName"] = runtime
    meta = {"name": name, "labels": {"app": name}, "annotations": dict(annotations or {})}
    body = {**base, "containers": list(containers), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def _template(source: Object, policy: str) -> Object:
    meta = {key: value for key, value in source["metadata"].items() if key != "name"}
    return {"metadata": meta, "spec": {**source["spec"], "restartPolicy": policy}}


def deployment(replicas: int, of: Object, **spec: Any) -> Object:
    """A Deployment of a pod, under the pod's name."""
    name = of["metadata"]["name"]
    body = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": _template(of, "Always"),
    }
    meta = {"name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {**body, **spec},
    }


def job(of: Object, **spec: Any) -> Object:
    """A Job of a pod, under the pod's name, without a second attempt."""
    body = {"backoffLimit": 0, "template": _template(of, "Never"), **spec}
    meta = {"name": of["metadata"]["name"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": body}


def service(app: str) -> Object:
    """A Service of the pods with that label."""
    body = {"selector": {"app": app}, "ports": [{"port": PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": app}, "spec": body}


def config(kind: str, name: str, **data: str) -> Object:
    """A ConfigMap or a Secret."""
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data}


def volume(name: str, path: str, **source: Any) -> tuple[Object, Object]:
    """A pod's volume and a container's mount of it."""
    return {"name": name, **source}, {"name": name, "mountPath": path}


def env(values: Mapping[str, Any]) -> Sequence[Object]:
    """Environment: plain values, and sources (valueFrom)."""
    return [
        {"name": name, "value": value}
        if isinstance(value, str)
        else {"name": name, "valueFrom": value}
        for name, value in values.items()
    ]
