"""A copy of a shard's data file, made between two checkpoints: what it has, and whether it is whole."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.logs import LOG_KEY
from tidegate.shard.store.state.data_file import DATA_FILE, FORMAT, META_KEY, map_to_read, open_environment, unpack_meta
from tidegate.shard.store.state.pages import CRC_BYTES, PageFile, Verifier


class StateCopy:
    """In a directory of its own, which nobody else uses. It is removed by whoever opens the state next, if not before."""

    def __init__(self, shard: int, directory: Path) -> None:
        self.shard = shard
        self.file = directory / DATA_FILE
        self.mark = b""
        """What it says of its log, and up to which commit it is: once it was looked through."""
        self.commit = 0

    def look_through(self) -> None:
        """Every page and row. Blocks, for a second or so for some hundred MB; raises ShardDamaged, or OperatorError."""
        try:
            with PageFile(self.file) as pages:
                if (damage := next(Verifier(pages, checksums=True).run(), None)) is not None:
                    raise self._damaged(str(damage))
            place = self.file.parent
            with contextlib.closing(open_environment(place, map_to_read(place), readonly=True)) as env, env.begin() as txn:
                version, shard, self.commit = unpack_meta((txn.get(META_KEY) or b"")[:-CRC_BYTES])
                self.mark = (txn.get(LOG_KEY) or b"")[:-CRC_BYTES]
        except (OSError, ValueError, lmdb.Error) as error:
            raise OperatorError(
                "read a copy of", f"shard {self.shard}", str(error), "check the disk; it is tried again"
            ) from error
        if (version, shard) != (FORMAT, self.shard):
            raise self._damaged(f"it says that it is of shard {shard}, in format {version}")

    def remove(self) -> None:
        shutil.rmtree(self.file.parent, ignore_errors=True)

    def _damaged(self, problem: str) -> ShardDamaged:
        return ShardDamaged(self.shard, "copy store", self.file, problem)
