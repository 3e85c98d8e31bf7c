"""Slot table: slot to shard to worker."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.limits import SLOTS
from tidegate.runtime.wire.slots import SlotTable, slot_range, topology_from_reply, topology_reply
from tidegate.runtime.wire.supervisor_messages import Topology

TOPOLOGY = Topology(5, (0, 1, 2, 0, 1, 2, 0, 1), ("ipc://a", None, "ipc://c"))


@pytest.mark.parametrize("shards", [1, 2, 16, 4_096])
def test_ranges_cover_every_slot_once_and_agree_with_the_rule(shards: int) -> None:
    ranges = [slot_range(shard, shards) for shard in range(shards)]
    assert [slot for first, last in ranges for slot in range(first, last + 1)] == list(range(SLOTS))
    for shard, (first, last) in enumerate(ranges):
        assert shard_of_slot(first, shards) == shard_of_slot(last, shards) == shard


def test_an_object_is_found_at_the_worker_that_owns_its_shard() -> None:
    table = SlotTable(TOPOLOGY)
    assert len(table.worker_by_slot) == SLOTS
    for name in map(str, range(500)):
        shard = slot_of("C", name) * 8 // SLOTS
        assert table.worker_of("C", name) == shard % 3
        assert table.endpoints[shard % 3] == ("ipc://a", None, "ipc://c")[shard % 3]


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_a_client_reads_out_of_the_reply_what_went_in(codec: Any) -> None:
    reply = codec.decode(codec.encode(topology_reply(SlotTable(TOPOLOGY))))
    assert topology_from_reply(reply) == TOPOLOGY
    assert reply["shards"][1] == {"shard": 1, "slots": [2_048, 4_095], "worker": 1, "endpoint": None, "stream": None}


@pytest.mark.parametrize(
    ("owners", "endpoints"), [((), ()), ((0, 0, 0), ("a",)), ((0, 1), ("a",)), ((0, -1), ("a",)), ((0,) * 8_192, ("a",))]
)
def test_a_topology_that_leaves_slots_without_owner_is_refused(owners: tuple[int, ...], endpoints: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        SlotTable(Topology(1, owners, endpoints))


@pytest.mark.parametrize(
    "reply", [None, 7, [], {}, {"epoch": 1, "shards": []}, {"epoch": 1, "shards": [{}]}, {"epoch": 1, "shards": 3},
              {"epoch": None, "shards": [{"shard": 0, "worker": 0, "endpoint": None}]},
              {"epoch": 1, "shards": [{"shard": 0, "worker": "x", "endpoint": None}]},
              {"epoch": 1, "shards": [{"shard": 0, "worker": 10**12, "endpoint": None}]}]
)  # fmt: skip
def test_a_reply_that_is_no_topology_is_a_value_error(reply: Any) -> None:
    with pytest.raises(ValueError):
        topology_from_reply(reply)
