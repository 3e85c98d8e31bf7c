"""Bytes on the disk, wrong: segments of the log, and the file of a shard's state.

What is served afterwards is what was confirmed, up to some instant, or the shard is refused by name. Each state is opened in a
child process: what LMDB does to a page that it trusts may end a process.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.target import Counts, Tick
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import CommitLog, list_segments
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.lmdb_state import LmdbState
from tidegate.shard.store.logs import log_path
from tidegate.shard.store.memory_state import MemoryState
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.recovery import recover
from tidegate.shard.store.store import ShardStore

KEY = b"\0\1" + b"object".ljust(14)
RECORDS = 40
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


def _write_log(data_dir: Path) -> None:
    log = CommitLog(log_path(data_dir, 1, 0), segment_bytes=4_096, segment_bytes_first=4_096, segments_max=100)
    for seq in range(1, RECORDS + 1):
        writes: dict[str, bytes | None] = {"n": b"%d" % seq, f"k{seq}": bytes((seq,)) * 150}
        log.append(encode_record(CommitRecord(0, [ShardCommit(0, seq, [ObjectWrites(KEY, False, writes)])])))
    log.close()


def _prefix(seq: int) -> dict[str, bytes]:
    values = {f"k{number}": bytes((number,)) * 150 for number in range(1, seq + 1)}
    return values | {"n": b"%d" % seq} if seq else values


def logs(chance: Random, frames: int, tick: Tick) -> Counts:
    """Recovery gives what was confirmed up to some record, or refuses the shard."""
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        good = Path(folder) / "good"
        _write_log(good)
        for done in range(frames):
            data = Path(folder) / "wrong"
            shutil.copytree(good, data)
            segments = [path for _, path in list_segments(log_path(data, 1, 0))]
            hurt = chance.choice(segments)
            if chance.random() < 0.05:
                hurt.unlink()
            else:
                wrong_file(hurt, chance)
            counts[_recovered(data)] += 1
            shutil.rmtree(data)
            tick(done + 1)
    return counts


def _recovered(data: Path) -> str:
    state = MemoryState(0)
    try:
        report = recover(data, [state], 2, 0)
    except OperatorError:
        return "refused"
    if report.damaged:
        return "shard refused"
    seq = state.applied_seq
    assert dict(ShardStore(state).scan(KEY)) == _prefix(seq), f"served what was never confirmed so, at {seq}"
    return "whole" if seq == RECORDS else "without the last" if seq == RECORDS - 1 else "short"


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
