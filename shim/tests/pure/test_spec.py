"""The reader of config.json: every field lands where it belongs, and bad shapes are named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors, spec

pytestmark = pytest.mark.pure

NAMES = [
    "process",
    "root",
    "mounts",
    "linux",
    "hooks",
    "annotations",
    "user",
    "args",
    "namespaces",
    "resources",
    "seccomp",
    "type",
    "path",
    "memory",
    "limit",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_parsed_or_refused_with_a_sentence(document: Any) -> None:
    try:
        parsed: object = spec.parse(json.dumps(document).encode())
    except errors.InvalidArgument as error:
        parsed = error
    assert isinstance(parsed, spec.Spec) or str(parsed).startswith("config.json")


@given(st.binary(max_size=40))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (spec.parse, spec.parse_process, spec.parse_resources):
        try:
            parse(data)
        except errors.InvalidArgument:
            pass


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"linux": {"namespaces": [{"type": "pid"}, {"type": 3}]}}, "linux.namespaces[1].type is"),
        ({"process": {"user": {"uid": -1}}}, "process.user.uid is negative"),
        ({"process": {"user": {"uid": 2**32 - 1}}}, "process.user.uid is no id: they go from 0 to"),
        ({"process": {"user": {"gid": 2**32 - 1}}}, "process.user.gid is no id"),
        ({"process": {"user": {"additionalGids": [1, 2**40]}}}, "user.additionalGids[1] is no id"),
        ({"linux": {"devices": [{"uid": 2**32 - 1}]}}, "linux.devices[0].uid is no id"),
        ({"process": {"user": {"uid": "root"}}}, "process.user.uid is a string where a whole"),
        ({"process": {"args": ["a\0b"]}}, "process.args[0] has a NUL byte"),
        ({"process": {"args": ["a\ud800b"]}}, "process.args[0] is no valid Unicode"),
        ({"linux": {"sysctl": {"a.b": 1}}}, "linux.sysctl['a.b'] is a number where a string"),
        ({"mounts": {}}, "mounts is an object where a list belongs"),
        ({"root": {"readonly": 1}}, "root.readonly is a number where true or false belongs"),
        ([], "the document is a list where an object belongs"),
    ],
)
def test_the_wrong_field_is_named(document: Any, sentence: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"^config\.json: ") as caught:
        spec.parse(json.dumps(document).encode())
    assert sentence in str(caught.value)


def test_names_that_are_not_plain_camel_case() -> None:
    linux = {
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "resources": {
            "memory": {"disableOOMKiller": True, "kernelTCP": 7, "checkBeforeUpdate": True},
            "blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}]},
            "network": {"classID": 5},
            "unified": {"memory.high": "1"},
        },
        "intelRdt": {"closID": "c"},
        "timeOffsets": {"boottime": {"secs": -3, "nanosecs": 4}},
    }
    process = {
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0"},
        "oomScoreAdj": -998,
    }
    parsed = spec.parse(json.dumps({"linux": linux, "process": process}).encode())
    assert parsed.linux.uid_mappings == (spec.IDMapping(0, 100000, 65536),)
    resources = parsed.linux.resources
    assert resources is not None
    assert resources.memory is not None
    assert resources.memory.disable_oom_killer is True
    assert resources.memory.kernel_tcp == 7
    assert resources.block_io is not None
    assert resources.block_io.throttle_read_iops_device[0].rate == 9
    assert resources.network is not None
    assert resources.network.class_id == 5
    assert parsed.linux.intel_rdt is not None
    assert parsed.linux.intel_rdt.clos_id == "c"
    assert parsed.linux.time_offsets["boottime"] == spec.TimeOffset(-3, 4)
    assert parsed.process is not None
    assert parsed.process.io_priority == spec.IOPriority("IOPRIO_CLASS_BE", 4)
    assert parsed.process.exec_cpu_affinity == spec.CPUAffinity("0", "")
    assert parsed.process.oom_score_adj == -998


def test_null_is_absent_and_unknown_is_ignored() -> None:
    parsed = spec.parse(b'{"process": null, "mounts": null, "zos": 3, "linux": {"sysctl": null}}')
    assert parsed == spec.Spec()
    assert parsed.linux.namespace("pid") is None
