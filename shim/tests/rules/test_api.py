"""What is generated is what the .proto files say, and its names are containerd's."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from copepod_api import any as packing
from copepod_api import (
    cgroup_v1_pb2,
    cgroup_v2_pb2,
    events_pb2,
    events_service_ttrpc,
    runc_options_pb2,
    runtimeoptions_pb2,
    sandbox_v1_ttrpc,
    task_v2_pb2,
    task_v2_ttrpc,
    task_v3_pb2,
    task_v3_ttrpc,
    types_pb2,
)

API = pathlib.Path(__file__).parents[3] / "api"


def test_generating_again_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(API / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (cgroup_v1_pb2.Metrics, "io.containerd.cgroups.v1.Metrics"),
        (cgroup_v2_pb2.Metrics, "io.containerd.cgroups.v2.Metrics"),
        (events_pb2.TaskExit, "containerd.events.TaskExit"),
        (events_pb2.TaskOOM, "containerd.events.TaskOOM"),
        (runc_options_pb2.Options, "containerd.runc.v1.Options"),
        (runc_options_pb2.ProcessDetails, "containerd.runc.v1.ProcessDetails"),
        (runtimeoptions_pb2.Options, "runtimeoptions.v1.Options"),
        (types_pb2.MountCapabilities, "containerd.types.MountCapabilities"),
    ],
)
def test_names_that_travel(message: type[events_pb2.TaskExit], name: str) -> None:
    assert packing.pack(message()).type_url == name


def test_services_have_containerds_names() -> None:
    assert task_v2_ttrpc.TaskBase.SERVICE == "containerd.task.v2.Task"
    assert task_v3_ttrpc.TaskBase.SERVICE == "containerd.task.v3.Task"
    assert sandbox_v1_ttrpc.SandboxBase.SERVICE == "containerd.runtime.sandbox.v1.Sandbox"
    assert events_service_ttrpc.EventsBase.SERVICE == "containerd.services.events.ttrpc.v1.Events"


def test_both_task_services_take_the_same_messages() -> None:
    v2, v3 = (
        {method.name: (method.input_type, method.output_type) for method in service.methods}
        for service in (
            task_v2_pb2.DESCRIPTOR.services_by_name["Task"],
            task_v3_pb2.DESCRIPTOR.services_by_name["Task"],
        )
    )
    assert v2 == v3
    assert len(v2) == 17


@given(
    st.text(), st.integers(0, 2**32 - 1), st.sampled_from(["", "type.googleapis.com/", "a/b/c/"])
)
def test_any_comes_back_whatever_stands_before_the_name(text: str, pid: int, prefix: str) -> None:
    message = events_pb2.TaskStart(container_id=text, pid=pid)
    packed = packing.pack(message)
    packed.type_url = prefix + packed.type_url
    assert packing.unpack(packed, events_pb2.TaskStart) == message
    with pytest.raises(ValueError, match=r"expected containerd\.events\.TaskExit, found"):
        packing.unpack(packed, events_pb2.TaskExit)


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (any_pb2.Any(), "found an empty Any"),
        (any_pb2.Any(type_url="containerd.events.TaskStart", value=b"\xff"), "can't be parsed"),
    ],
)
def test_any_that_is_not_it(packed: any_pb2.Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        packing.unpack(packed, events_pb2.TaskStart)
