"""A snapshot becomes a file, from a stream that holds what a test says; with real servers: service/test_snapshots.py."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, cast

import pytest

from tidegate.shard.replicated import snapshot_fetching
from tidegate.shard.replicated.mark import encode_mark
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.snapshot import SnapshotManifest, SnapshotName, SnapshotPiece, StreamSize, encode_manifest
from tidegate.shard.replicated.snapshot_fetching import fetch_snapshot
from tidegate.shard.replicated.snapshot_stream import Listed, SnapshotStream
from tidegate.shard.store.interface import ShardDamaged, ShardLeftBehind

CREATED = "2026-11-30T00:00:00Z"
NAME = SnapshotName(12, 1, "a")
MIB = 1 << 20


class Held:
    """One snapshot of `plain`, which says to be of a file of so many bytes."""

    def __init__(self, plain: bytes, file_bytes: int, piece_bytes: int) -> None:
        packed = zlib.compress(plain, 1)
        self._pieces = [packed[at : at + piece_bytes] for at in range(0, len(packed), piece_bytes)]
        entries = [SnapshotPiece(at, len(each), hashlib.sha256(each).digest()) for at, each in enumerate(self._pieces)]
        mark = encode_mark(StreamPlace(12, 12, 12, 1, b"w" * 16, 7, CREATED))
        digest = hashlib.sha256(plain).digest()
        self._manifest = encode_manifest(SnapshotManifest(3, mark, 9, file_bytes, digest, entries, 1, "me"))

    async def listed(self, shard: int) -> dict[SnapshotName, Listed]:
        return {NAME: Listed(1, len(self._pieces))}

    async def manifest(self, shard: int, name: SnapshotName) -> bytes:
        return self._manifest

    async def piece(self, sequence: int) -> bytes:
        return self._pieces[sequence]


def fetch(held: Held, file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most memory that it has taken, in bytes."""

    async def size(*_: Any) -> tuple[StreamSize, str]:
        return StreamSize(10, 20, 1_000), CREATED

    monkeypatch.setattr(snapshot_fetching, "size_of", size)
    behind = ShardLeftBehind(3, "claim", "shard 3", "what follows is gone", 0)
    tracemalloc.start()
    try:
        fetch_snapshot(asyncio.run, cast("Any", None), cast("SnapshotStream", held), "stream", behind, file, lambda _: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece_bytes", [7_919, MIB])
def test_a_piece_that_unpacks_to_a_thousand_times_as_much_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    plain = bytes(64 * MIB) + b"end"
    held = Held(plain, len(plain), piece_bytes)
    assert fetch(held, tmp_path / "file", monkeypatch) < 8 * MIB
    assert (tmp_path / "file").read_bytes() == plain


def test_one_that_unpacks_to_more_than_its_file_is_given_up_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardDamaged, match=f"it unpacks to more than the {2 * MIB} bytes that were taken"):
        fetch(Held(bytes(64 * MIB), 2 * MIB, MIB), tmp_path / "file", monkeypatch)
    assert (tmp_path / "file").stat().st_size <= 2 * MIB
