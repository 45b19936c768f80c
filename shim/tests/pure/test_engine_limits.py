"""Annotations and the node's table: every knob read, refused by its name, capped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.engine import limits
from copepod.engine.limits import Knobs, Preopen


def parse(**annotations: str) -> Knobs:
    return limits.parse({"copepod.dev/" + k.replace("_", "-"): v for k, v in annotations.items()})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("memory", "64Mi", 64 << 20),
        ("memory", "1.5Gi", 3 << 29),
        ("memory", "100k", 100_000),
        ("table-elements", "10", 10),
        ("tables", "0", 0),
        ("instances", "3", 3),
        ("fuel", "1000000", 1_000_000),
        ("time-limit", "500ms", 0.5),
        ("time-limit", "1.5h", 5400.0),
        ("stack", "4Mi", 4 << 20),
        ("wasm-features", "gc=off, threads=off,simd=on", ("gc", "threads")),
        ("preopens", "", ()),
        ("preopens", "/data:ro", (Preopen("/data", "/data", False),)),
        (
            "preopens",
            "/,/srv/in:/in:ro, /w:.",
            (Preopen("/", "/"), Preopen("/srv/in", "/in", False), Preopen("/w", ".")),
        ),
        ("preopens", "/tmp:rw", (Preopen("/tmp", "/tmp"),)),
        ("network", "off", False),
        (
            "listen",
            "8080,127.0.0.1:9000,[::1]:9001,:80",
            (("", 8080), ("127.0.0.1", 9000), ("::1", 9001), ("", 80)),
        ),
        ("entry", "serve", "serve"),
        ("coredump", "/tmp/core", "/tmp/core"),
        ("profiling", "perfmap", "perfmap"),
        ("compiler", "winch", "winch"),
    ],
)
def test_values(key: str, text: str, value: object) -> None:
    knobs = limits.parse({f"copepod.dev/{key}": text, "other.dev/memory": "x"})
    assert getattr(knobs, limits.KNOBS[key].field) == value
    assert limits.node({key: text}).defaults == {key: value}


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("memory", "lots", "a size such as 64Mi"),
        ("memory", "0", "a size such as 64Mi"),
        ("memory", "-1", "a size such as 64Mi"),
        ("memory", "99999999999999999Ti", "a size such as 64Mi"),
        ("tables", "x", "a whole number"),
        ("fuel", "0", "a whole number above 0"),
        ("time-limit", "10", "a time such as 500ms"),
        ("time-limit", "0s", "a time such as 500ms"),
        ("stack", "1Gi", "from 64Ki to 64Mi"),
        ("wasm-features", "magic=off", "'magic' is none of exceptions, "),
        ("wasm-features", "gc", "on or off"),
        ("preopens", "data", "'data' is not PATH"),
        ("preopens", "/a:/b:/c", "is not PATH"),
        ("preopens", "/a:", "is not PATH"),
        ("network", "yes", "on or off"),
        ("listen", "0", "is not PORT"),
        ("listen", "example.com:80", "is not PORT"),
        ("listen", "::1:80", "is not PORT"),
        ("listen", "1..2:80", "is not PORT"),
        ("listen", "10.0.0.256:80", "is not PORT"),
        ("listen", "[::1::]:80", "is not PORT"),
        ("entry", "", "a text"),
        ("coredump", "core", "an absolute path"),
        ("profiling", "vtune", "one of none, perfmap, jitdump"),
        ("compiler", "llvm", "one of tiered, cranelift, winch"),
        ("memroy", "1Gi", "there is no such key"),
    ],
)
def test_refusals_name_the_key(key: str, text: str, why: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=why) as caught:
        limits.parse({f"copepod.dev/{key}": text})
    assert str(caught.value).startswith(f"annotation copepod.dev/{key}: ")
    with pytest.raises(errors.InvalidArgument, match=f"guest.{key}: "):
        limits.node({key: text})


def test_keys_of_other_rooms_are_left_alone() -> None:
    others = frozenset({"http-port"})
    assert limits.parse({"copepod.dev/http-port": "80"}, others=others) == Knobs()


def test_a_container_of_its_own() -> None:
    asked = {
        "copepod.dev/listen.server": "80",
        "copepod.dev/stack.server": "2Mi",
        "copepod.dev/stack": "4Mi",
    }
    server = limits.parse(asked, container="server")
    assert (server.listen, server.stack) == ((("", 80),), 2 << 20)
    other = limits.parse(asked, container="other")
    assert (other.listen, other.stack) == ((), 4 << 20)
    with pytest.raises(errors.InvalidArgument, match=r"copepod\.dev/listen\.server"):
        limits.parse({"copepod.dev/listen.server": "no"}, container="other")


def test_defaults_and_ceilings() -> None:
    node = limits.node({"memory": "64Mi", "max": {"memory": "128Mi", "time-limit": "1m"}})
    assert limits.parse({}, node).memory == 64 << 20
    assert limits.parse({}, node).time_limit == 60
    assert limits.parse({"copepod.dev/memory": "128Mi"}, node).memory == 128 << 20
    with pytest.raises(errors.InvalidArgument, match=r"memory: 268435456 is above .* 134217728"):
        limits.parse({"copepod.dev/memory": "256Mi"}, node)


def test_a_ceiling_above_a_default_leaves_it_alone() -> None:
    """A stack of 64 MiB is refused in a container whose RLIMIT_STACK is the usual 8 MiB."""
    assert limits.parse({}, limits.node({"max": {"stack": "64Mi"}})).stack == 1 << 20
    low = limits.node({"max": {"stack": "256Ki"}})
    assert limits.parse({}, low).stack == 256 << 10
    with pytest.raises(errors.InvalidArgument, match="stack: 1048576 is above"):
        limits.parse({"copepod.dev/stack": "1Mi"}, low)


def test_what_the_node_has_off_stays_off() -> None:
    node = limits.node({"max": {"network": "off", "wasm-features": "threads=off"}})
    knobs = limits.parse({"copepod.dev/wasm-features": "threads=on,gc=off"}, node)
    assert (knobs.network, knobs.disabled) == (False, ("gc", "threads"))
    with pytest.raises(errors.PermissionDenied, match="this node has it off"):
        limits.parse({"copepod.dev/network": "on"}, node)
    allowed = limits.node({"network": "off"})
    assert limits.parse({"copepod.dev/network": "on"}, allowed).network is True


def test_nothing_listens_without_a_network() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"listen: the guest's network is off"):
        parse(listen="80", network="off")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"max": "1"}, "guest.max must be a table"),
        ({"max": {"entry": "x"}}, "guest.max.entry: this has no ceiling"),
        ({"max": {"nonsense": "x"}}, "guest.max.nonsense: there is no such key"),
        ({"network": True}, "guest.network: on or off is needed, it is True"),
    ],
)
def test_a_bad_node_table_is_refused(table: dict[str, object], why: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=why):
        limits.node(table)


@given(st.integers(1 << 20, 1 << 50))
def test_the_control_groups_memory_bounds_the_guests(size: int) -> None:
    share = limits.guest_share(size)
    assert size // 2 <= share < size
    assert limits.parse({}, cgroup_memory=size).memory == share
    asked = {"copepod.dev/memory": "1Mi"}
    assert limits.parse(asked, cgroup_memory=size).memory == min(1 << 20, share)


def test_the_profile_follows() -> None:
    profile = parse(fuel="5", time_limit="1s", stack="2Mi", wasm_features="simd=off").profile()
    assert (profile.fuel, profile.epoch, profile.stack) == (True, True, 2 << 20)
    assert profile.disabled == ("relaxed-simd", "simd")
    assert Knobs().profile().key() == type(profile)().key()


@pytest.mark.parametrize(
    ("compiler", "tiers"),
    [("tiered", ("cranelift", "winch")), ("winch", ("winch",)), ("cranelift", ("cranelift",))],
)
def test_tiers(compiler: str, tiers: tuple[str, ...]) -> None:
    assert parse(compiler=compiler).tiers() == tiers


@given(st.dictionaries(st.sampled_from(sorted(limits.KNOBS)), st.text(max_size=30)))
def test_any_text_is_knobs_or_one_sentence(asked: dict[str, str]) -> None:
    try:
        answer: object = limits.parse({f"copepod.dev/{key}": value for key, value in asked.items()})
    except errors.InvalidArgument as error:
        answer = str(error)
    assert isinstance(answer, Knobs) or answer
