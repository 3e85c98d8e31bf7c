"""Writes data files again without the pages that hold nothing. LMDB never gives them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb

from tidegate.shard.offline.check import state_path
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.state.data_file import DATA_FILE, FORMAT_WITHOUT_CHECKSUMS, compact, format_of, open_environment
from tidegate.shard.store.state.pages import MAP_BYTES_MAX, PageFile, Verifier


class Compacted(NamedTuple):
    shard: int
    before_bytes: int
    after_bytes: int


def compact_all(data: Path, shards: int, progress: Callable[[str, float], object]) -> Iterator[Compacted]:
    """One shard after the other, each looked through before, however large it is. Raises OSError, lmdb.Error, and ShardDamaged
    for a shard that is; then its file is as it was."""
    for shard in range(shards):
        place = state_path(data, shard)
        file = place / DATA_FILE
        what = f"shard {shard} of {shards}"
        progress(what, 0.0)
        if not file.exists():
            continue
        before = file.stat().st_size
        try:
            checksums = _check(file, partial(progress, what))
            with contextlib.closing(open_environment(place, MAP_BYTES_MAX, readonly=True)) as env:
                compact(place, env, MAP_BYTES_MAX, checksums=checksums).close()
        except (ValueError, lmdb.CorruptedError) as error:
            raise ShardDamaged(shard, "compact", place, str(error)) from error
        yield Compacted(shard, before, file.stat().st_size)


def _check(file: Path, progress: Callable[[float], object]) -> bool:
    """Whether its rows have checksums. Raises ValueError for a file that is damaged."""
    with PageFile(file) as pages:
        checksums = format_of(pages) > FORMAT_WITHOUT_CHECKSUMS
        verifier = Verifier(pages, checksums=checksums)
        verifier.on_page = lambda done: progress(done / max(1, pages.pages))
        if (damage := next(verifier.run(), None)) is not None:
            raise ValueError(str(damage))
    return checksums
