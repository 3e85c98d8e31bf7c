"""Brings a data directory that no service uses to the newest formats. A start of the service does the same, shard by shard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.shard.offline.check import state_path
from tidegate.shard.store.state.data_file import (
    DATA_FILE,
    FORMAT,
    FORMAT_WITHOUT_CHECKSUMS,
    META_KEY,
    add_checksums,
    format_of,
    open_environment,
    unpack_meta,
)
from tidegate.shard.store.state.pages import MAP_BYTES_MAX, PageFile, Verifier

Progress = Callable[[str, float], object]


class Upgraded(NamedTuple):
    shard: int
    before: int
    """The number of the format that it had."""


def upgrade(data: Path, shards: int, progress: Progress) -> Iterator[Upgraded]:
    """Those shards that were of an older format, each as it is done: all of it, or it is as it was. Raises OperatorError for one
    that is damaged or of a newer format; then those before it are done."""
    for shard in range(shards):
        place = state_path(data, shard)
        progress(f"shard {shard} of {shards}", shard / shards)
        try:
            version = _format(place, shard)
            if version == FORMAT_WITHOUT_CHECKSUMS:
                add_checksums(place, shard, MAP_BYTES_MAX)
                yield Upgraded(shard, version)
        except FileNotFoundError:  # Never served yet.
            continue
        except (ValueError, OSError, lmdb.Error) as error:
            hint = f"see `tidegate check {data}`; there must be room for a second file of a shard"
            raise OperatorError("upgrade", f"shard {shard} ({place})", str(error), hint) from error


def _format(place: Path, shard: int) -> int:
    """Raises ValueError for what is not whole, or not known."""
    with PageFile(place / DATA_FILE) as pages:
        version = format_of(pages)
        if (damage := next(Verifier(pages, checksums=version > FORMAT_WITHOUT_CHECKSUMS).run(), None)) is not None:
            raise ValueError(str(damage))
    if version not in (FORMAT, FORMAT_WITHOUT_CHECKSUMS):
        raise ValueError(f"format {version} is of a newer version of Tidegate; this one knows {FORMAT}")
    if version == FORMAT_WITHOUT_CHECKSUMS:
        with contextlib.closing(open_environment(place, MAP_BYTES_MAX, readonly=True)) as env, env.begin() as txn:
            if unpack_meta(txn.get(META_KEY))[1] != shard:
                raise ValueError("it holds another shard")
    return version
