"""Bytes on the disk, wrong: segments of the log, and the file of a shard's state.

What is served afterwards is what was confirmed, or the shard is refused by name. Only an end of the log of which nothing can be
told from what was never written may be missing (see `_excuse`). Each state is opened in a child process: what LMDB does to a page
that it trusts may end a process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.fuzz.target import Counts, Tick
from tests.support.damaged_log import KEY, RECORDS, SHARDS, append, log_of, place_of, shards_of, small_segments, value_of
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.log.segment import FRAME_BYTES, SALT_BYTES
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.store import ShardStore
from tidegate.shard.store.worker_store import WorkerStore

RECORDED = range(1, RECORDS + 1)
CHECKPOINTED = 30
"""Records up to this one are in the states, too."""
ROWS = 800
CHILD_S = 20


def wrong_file(path: Path, chance: Random) -> None:
    """Flipped bits, zeros, random bytes, a lost end, a part that stands elsewhere too."""
    data = bytearray(path.read_bytes())
    at, length = chance.randrange(len(data)), chance.choice((1, 8, 512, 4_096))
    match chance.randrange(8):
        case 0:
            del data[at:]
        case 1:
            data[at : at + length] = bytes(len(data[at : at + length]))
        case 2:
            data[at : at + length] = chance.randbytes(len(data[at : at + length]))
        case 3:
            source = chance.randrange(len(data))
            data[at : at + length] = data[source : source + len(data[at : at + length])].ljust(len(data[at : at + length]), b"\0")
        case _:
            for _ in range(chance.choice((1, 1, 1, 3))):
                where = chance.randrange(len(data))
                data[where] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


class _Place(NamedTuple):
    """Of a record, in the log."""

    path: str
    start: int
    end: int
    head: int


def _write_log(data: Path) -> dict[int, _Place]:
    """As a worker leaves it that was killed some records after a checkpoint; where these are."""

    async def run() -> None:
        store = WorkerStore.open(data, 1, 0, SHARDS, print)
        append(store, 1, CHECKPOINTED)
        await store.checkpointer.finish()
        append(store, CHECKPOINTED + 1, RECORDED[-1])
        await store.close()

    with small_segments():
        asyncio.run(run())
    places = {}
    for record in RECORDED[CHECKPOINTED:]:
        path, start, end = place_of(data, record)
        places[record] = _Place(path.name, start, end, start if record % 2 else end - FRAME_BYTES)
    return places


def _expected(shard: int, seq: int) -> dict[str, bytes]:
    records = [record for record in RECORDED if shard in shards_of(record)][:seq]
    values = {f"key {record}": b"there" for record in records}
    return values | {"newest": value_of(records[-1])} if records else {}


def logs(chance: Random, frames: int, tick: Tick) -> Counts:
    """Recovery gives what was confirmed, or refuses shards; what nothing can tell apart from what was never written may be
    missing, and nothing else."""
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        good, wrong = Path(folder) / "good", Path(folder) / "wrong"
        places = _write_log(good)
        states = [LmdbState(good / "shards" / f"{shard:04d}", shard) for shard in SHARDS]
        for done in range(frames):
            shutil.copytree(log_of(good), log_of(wrong))
            hurt = chance.choice([path for _, path in list_segments(log_of(wrong))])
            was = hurt.read_bytes()
            if chance.random() < 0.05:
                hurt.unlink()
            else:
                for _ in range(chance.choice((1, 1, 1, 2))):
                    if hurt.stat().st_size:
                        wrong_file(hurt, chance)
            found, lost = _recovered(wrong, states)
            if lost:
                found = _excuse(lost, places, hurt, was)
            counts[found] += 1
            shutil.rmtree(wrong)
            tick(done + 1)
        for state in states:
            state.close()
    return counts


def _recovered(data: Path, states: list[LmdbState]) -> tuple[str, list[int]]:
    """What became of it, and which records are not served and not refused. The states stay as they are."""
    try:
        recovery = Recovery(data, states, 2, 0)
        recovery.read(writing=False)
    except OperatorError:
        return "refused", []
    lost = set()
    recalled = recovery.memtables()
    for shard, (seq, memtable) in recalled.items():
        store = ShardStore(states[shard])
        store.active = memtable
        assert dict(store.scan(KEY)) == _expected(shard, seq), f"shard {shard} is served as it never was, at {seq}"
        lost.update([record for record in RECORDED if shard in shards_of(record)][seq:])
    return "whole" if len(recalled) == len(states) else "shards refused", sorted(lost)


def _excuse(lost: list[int], places: dict[int, _Place], hurt: Path, was: bytes) -> str:
    """Why nothing can tell that these records were confirmed. Raises AssertionError where something could."""
    now, first = hurt.read_bytes() if hurt.exists() else b"", lost[0]
    assert len(now) == len(was), f"{lost} went unnoticed with the end of {hurt.name}"
    assert first in places, f"{lost} went unnoticed, which the states had"
    assert places[first].path == hurt.name, f"{lost} went unnoticed, of a segment that was not hurt"
    wrong_bits = {
        record: (int.from_bytes(was[place.start : place.end]) ^ int.from_bytes(now[place.start : place.end])).bit_count()
        for record, place in places.items()
        if place.path == hurt.name and record <= first
    }
    # Where the last record is cannot be known if the one before it in its row is lost, too.
    assert wrong_bits.pop(first) > 1 or any(wrong_bits.values()), f"a wrong bit in record {first} went unnoticed"
    for record, later in places.items():
        head = slice(later.head, later.head + SALT_BYTES)  # By its salt a frame is known.
        assert record <= first or was[head] != now[head], f"{lost} went unnoticed, although {record} was begun"
    return "without the last record" if first == RECORDED[-1] else "without an end that is lost in both rows"


def _write_state(path: Path) -> dict[bytes, bytes]:
    chance, state = Random(1), LmdbState(path, 0)
    rows = {KEY + b"k%d" % number: chance.randbytes(chance.choice((3, 40, 400, 5_000))) for number in range(ROWS)}
    batch = state.begin()
    batch.put_many(sorted(rows.items()))
    batch.set_applied_seq(7)
    batch.commit()
    state.close()
    return rows


def states(chance: Random, frames: int, tick: Tick) -> Counts:
    """A state that is read gives the rows that were written, or is refused; and no process ends of it."""
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        good, wrong = Path(folder) / "good", Path(folder) / "wrong"
        rows = _write_state(good)
        for done in range(frames):
            shutil.copytree(good, wrong)
            wrong_file(wrong / "data.mdb", chance)
            counts[in_child(lambda: _read_state(wrong, rows))] += 1
            shutil.rmtree(wrong)
            tick(done + 1)
    return counts


def _read_state(path: Path, rows: dict[bytes, bytes]) -> str:
    try:
        state = LmdbState(path, 0)
        if state.applied_seq == 0 and not dict(state.scan(b"", b"\xff" * 20, False)):
            return "empty"
        for key, value in rows.items():
            assert state.get(key) == value, f"{key!r} is served wrong"
        assert dict(state.scan(KEY, KEY + b"\xff", False)) == rows
    except OperatorError:
        return "refused"
    return "harmless"


OUTCOMES = ("harmless", "refused", "empty", "accepted", "failed")


def in_child(body: Callable[[], str]) -> str:
    """What the body says, in a process that it may end. Raises AssertionError where it raises, or the process is ended."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.alarm(CHILD_S)
            code = OUTCOMES.index(body())
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), f"a process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.WEXITSTATUS(status)
    assert code < len(OUTCOMES), "see the traceback above"
    return OUTCOMES[code]
