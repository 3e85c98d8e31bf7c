"""What a service says of itself, read into records."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import tidegate
from tidegate.router.system import SystemCalls
from tidegate.runtime.client.answers import ClassInfo, ProcessStatus, ServiceStatus, ServiceTopology
from tidegate.runtime.limits import SLOTS
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Topology

CALLS = SystemCalls(SlotTable(Topology(3, (0, 1, 0, 1), ("ipc://a", None), streams=("/a.str", None))))


def answer(method: str, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(CALLS.answer(method, lambda: {"name": "router"})), type=kind)


def test_the_topology_of_a_router_is_read_with_every_shard_in_the_order_of_their_slots() -> None:
    topology = answer("topology", ServiceTopology)
    assert (topology.epoch, topology.slots) == (3, SLOTS)
    assert [(place.slots[0], place.worker, place.endpoint) for place in topology.shards] == [
        (0, 0, "ipc://a"), (4_096, 1, None), (8_192, 0, "ipc://a"), (12_288, 1, None),
    ]  # fmt: skip
    assert [place.stream for place in topology.shards] == ["/a.str", None, "/a.str", None]


def test_a_router_that_has_not_heard_from_its_supervisor_says_starting() -> None:
    status = answer("status", ServiceStatus)
    assert (status.state, status.processes, status.router) == ("starting", (), {"name": "router"})
    assert answer("classes", dict[str, ClassInfo]) == {}


def test_what_a_newer_service_says_in_addition_is_left_out() -> None:
    told = {"name": "worker 0", "state": "ready", "mood": "good", "statistics": {"calls": 3}}
    process = msgspec.convert(told, ProcessStatus)
    assert (process.name, process.state, process.pid, process.statistics["calls"]) == ("worker 0", "ready", None, 3)
    with pytest.raises(AttributeError):
        process.state = "lost"  # type: ignore[misc]  # wrong on purpose


@pytest.mark.parametrize(
    "name", ["ClassInfo", "MethodInfo", "ObjectQuarantine", "ProcessStatus", "ServiceProblem", "ServiceStatus", "ServiceTopology"]
)
def test_every_record_that_users_touch_is_a_public_name(name: str) -> None:
    assert name in tidegate.__all__
    assert getattr(tidegate, name).__doc__
