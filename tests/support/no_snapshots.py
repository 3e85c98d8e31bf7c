"""In the place of snapshots, for logs of tests that take none."""

from __future__ import annotations

from pathlib import Path

from tidegate.shard.store.snapshots import Heard, KeptSnapshot


class NoSnapshots:
    def listen(self, heard: Heard) -> None:
        """Nobody wishes."""

    def kept(self, shard: int, mark: bytes) -> KeptSnapshot | None:
        return None

    def is_due(self, shard: int) -> bool:
        return False

    def take(self, shard: int, file: Path, mark: bytes, commit: int) -> KeptSnapshot:
        raise AssertionError(shard)
