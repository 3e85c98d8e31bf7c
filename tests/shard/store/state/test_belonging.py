"""Objects in a state to which they do not belong: nothing of it may be served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import SLOT_KEY_BYTES, object_key, shard_of_key
from tidegate.runtime.limits import SLOTS
from tidegate.shard.store.logs import LogMark
from tidegate.shard.store.names import OWN_FIRST
from tidegate.shard.store.state.belonging import check_belonging, shards_beyond
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.memory_state import MemoryState


def state_with(shard: int, *keys: bytes) -> MemoryState:
    state = MemoryState(shard)
    batch = state.begin()
    batch.put_many([(key, b"row") for key in sorted((*keys, OWN_FIRST + b"of the state itself"))])
    batch.commit()
    return state


def key_of_slot(slot: int) -> bytes:
    return slot.to_bytes(SLOT_KEY_BYTES, "big") + object_key("Counter", "c")[SLOT_KEY_BYTES:]


@pytest.fixture(autouse=True)
def _folder_of_states(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()


@pytest.mark.parametrize("shards", [1, 2, 8, 4_096])
def test_states_that_have_objects_of_their_slots_only_are_served(shards: int, tmp_path: Path) -> None:
    first = [key_of_slot(shard * SLOTS // shards) for shard in range(shards)]
    last = [key_of_slot((shard + 1) * SLOTS // shards - 1) for shard in range(shards)]
    states = [state_with(shard, *keys) for shard, keys in enumerate(zip(first, last, strict=True))]
    check_belonging(tmp_path, [*states, state_with(0)], shards)


@pytest.mark.parametrize(("shards", "shard"), [(16, 0), (16, 3), (4, 1)])
def test_an_object_of_another_shard_is_found_wherever_it_stands(shards: int, shard: int, tmp_path: Path) -> None:
    own = key_of_slot((2 * shard + 1) * SLOTS // (2 * shards))
    for other in {0, shard - 1, shard + 1, shards - 1} & set(range(shards)) - {shard}:
        foreign = key_of_slot((2 * other + 1) * SLOTS // (2 * shards))
        assert (shard_of_key(own, shards), shard_of_key(foreign, shards)) == (shard, other)
        for keys in ((foreign,), (own, foreign)):
            with pytest.raises(
                OperatorError, match=f"shard {shard} has an object that belongs to shard {other}, if there are {shards}"
            ):
                check_belonging(tmp_path, [state_with(shard, *keys)], shards)


@pytest.mark.parametrize("objects", [0, 1])
def test_a_shard_that_there_could_not_be_is_refused_if_it_has_an_object(objects: int, tmp_path: Path) -> None:
    """Without any it may have been made by a start with a wrong number."""
    state = LmdbState(tmp_path / "shards" / "0005", 5, map_bytes=1 << 24)
    batch = state.begin()
    batch.set_applied_seq(1)
    batch.set_log(LogMark(1, 0, 0).encode())
    batch.put_many([(object_key("Counter", f"c{number}"), b"header") for number in range(objects)])
    batch.commit()
    state.close()
    (tmp_path / "shards" / "0006").mkdir()
    (tmp_path / "shards" / "0007").write_bytes(b"no folder")
    (tmp_path / "shards" / "0005.before").mkdir()
    assert shards_beyond(tmp_path, 4) == [5] * objects
    assert shards_beyond(tmp_path, 8) == []
    if objects:
        with pytest.raises(OperatorError, match="it has a shard 5, and is said to have 4"):
            check_belonging(tmp_path, [], 4)
