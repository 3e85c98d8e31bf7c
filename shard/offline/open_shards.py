"""The shards of a data directory that no service uses, each with what the logs have beyond its state. Nothing is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.shard.offline.check import LOGS_OF_ALL_STARTS, ReadState, state_path
from tidegate.shard.offline.rows import Row, laid_over
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.state.data_file import DATA_FILE, FORMAT, format_of
from tidegate.shard.store.state.pages import PageFile


class OpenShard(NamedTuple):
    shard: int
    seq: int
    """Of its newest commit."""
    state: ReadState
    memtable: Memtable
    """What is in the logs only."""

    def rows(self) -> Iterator[Row]:
        """In order, all but what says what this is."""
        return laid_over(self.state.rows(), self.memtable)


def open_shards(operation: str, data: Path, shards: int, stack: contextlib.ExitStack) -> list[OpenShard]:
    """All of them; `stack` closes them. Raises OperatorError, ValueError and lmdb.Error for what is damaged: look with `Check`
    before."""
    states = []
    for shard in range(shards):
        with PageFile(state_path(data, shard) / DATA_FILE) as pages:
            if format_of(pages) != FORMAT:
                hint = f"run `tidegate upgrade {data}` before"
                raise OperatorError(operation, state_path(data, shard), "it is of an older format", hint)
        states.append(state := ReadState(state_path(data, shard), shard, checksums=True))
        stack.callback(state.close)
    recovery = Recovery(data, states, LOGS_OF_ALL_STARTS, 0)  # type: ignore[arg-type]  # It begins no batch.
    recovery.read(writing=False)
    for damage in recovery.damaged.values():
        raise damage
    newer = recovery.memtables()
    return [OpenShard(state.shard, newer[state.shard][0], state, newer[state.shard][1]) for state in states]
