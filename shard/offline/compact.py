"""Writes data files again without the pages that hold nothing. LMDB never gives them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tidegate.shard.offline.check import state_path
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state.data_file import DATA_FILE, MAP_BYTES_MAX, compact, find_damage, format_of, open_environment
from tidegate.shard.store.state.pages import PageFile


class Compacted(NamedTuple):
    shard: int
    before_bytes: int
    after_bytes: int


def compact_all(data: Path, shards: int, progress: Callable[[str, float], object]) -> Iterator[Compacted]:
    """One shard after the other. Raises OSError, lmdb.Error, and ShardDamaged for a shard that is; then its file is as it was."""
    for shard in range(shards):
        place = state_path(data, shard)
        file = place / DATA_FILE
        progress(f"shard {shard} of {shards}", 0.0)
        if not file.exists():
            continue
        try:
            with PageFile(file) as pages:
                if (damage := find_damage(pages, checksums=format_of(pages) > 1)) is not None:
                    raise ShardDamaged(shard, "compact", place, str(damage))
        except ValueError as error:
            raise ShardDamaged(shard, "compact", place, str(error)) from error
        before = file.stat().st_size
        with contextlib.closing(open_environment(place, MAP_BYTES_MAX, readonly=True)) as env:
            compact(place, env, MAP_BYTES_MAX).close()
        yield Compacted(shard, before, file.stat().st_size)
