"""The newest snapshot that is whole becomes a file: by a host that has too little of a shard's stream to go on from.

Guarantee: the file is what was put, byte for byte, and was accepted by whoever asked; or there is none, with what was wrong with
each snapshot that there is.

On a thread of its own: `run` has something done where the servers are spoken with, and blocks.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from nats.aio.client import Client

from tidegate.shard.replicated.snapshot import SnapshotManifest, SnapshotName, decode_manifest, to_begin_with
from tidegate.shard.replicated.snapshot_stream import SnapshotStream, size_of
from tidegate.shard.replicated.snapshot_taking import READ_BYTES, RunThere
from tidegate.shard.store.interface import ShardDamaged, ShardLeftBehind, ShardUnwritable

PROGRESS_S = 5.0
TRIES = 3
"""A snapshot may be removed while it is fetched, since there are newer ones by then."""

logger = logging.getLogger("tidegate")
Accept = Callable[[SnapshotManifest], None]
"""Looks at the file. Raises OperatorError where it cannot be used."""


class _Unusable(Exception):
    """A snapshot, with what is wrong with it."""


class _Unpacker:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def unpacked(self, piece: bytes) -> Iterator[bytes]:
        """No more than `READ_BYTES` at once: what a piece unpacks to may be a thousand times as large. Raises zlib.error."""
        while plain := self._stream.decompress(piece, READ_BYTES):
            yield plain
            piece = self._stream.unconsumed_tail

    @property
    def has_ended(self) -> bool:
        return self._stream.eof


def fetch_snapshot(
    run: RunThere, client: Client, snapshots: SnapshotStream, stream: str, behind: ShardLeftBehind, file: Path, accept: Accept
) -> SnapshotManifest:
    """Into a new file. `stream` is that of the shard that was left behind. Raises ShardDamaged where none can be used, or
    the disk fails; another OperatorError where the servers do not answer."""
    shard = behind.shard
    wrong: dict[SnapshotName, str] = {}
    for _ in range(TRIES):
        size, created = run(size_of(client, stream))
        found = _found(run, snapshots, shard, wrong)
        for name, manifest in to_begin_with(found.items(), created, size.first, behind.has):
            if name in wrong:
                continue
            try:
                _write(run, snapshots, shard, manifest, file)
                accept(manifest)
            except ShardUnwritable:
                raise
            except (_Unusable, ShardDamaged) as error:
                wrong[name] = error.problem if isinstance(error, ShardDamaged) else str(error)
                logger.error("shard %d: its snapshot %s cannot be used: %s", shard, name, wrong[name])
            else:
                return manifest
        if not found.keys() - wrong.keys():
            break
    raise _none(behind, [f"{name}: {problem}" for name, problem in wrong.items()])


def _none(behind: ShardLeftBehind, wrong: list[str]) -> ShardDamaged:
    there = f"none of its snapshots can be used ({'; '.join(wrong)})" if wrong else "there is no snapshot that reaches so far"
    hint = f"start a host whose data directory has more of shard {behind.shard}, or put back store_dir of all servers as it was"
    return ShardDamaged(behind.shard, behind.operation, behind.place, f"{behind.problem}, and {there}", hint)


def _found(
    run: RunThere, snapshots: SnapshotStream, shard: int, wrong: dict[SnapshotName, str]
) -> dict[SnapshotName, SnapshotManifest]:
    found = {}
    for name, listed in sorted(run(snapshots.listed(shard)).items()):
        if not listed.manifests or name in wrong:
            continue
        try:
            data = run(snapshots.manifest(shard, name))
            manifest = decode_manifest(data or b"")
            if manifest.shard != shard:
                raise ValueError(f"it is of shard {manifest.shard}")
            found[name] = manifest
        except ValueError as error:
            wrong[name] = str(error)
    return found


def _write(run: RunThere, snapshots: SnapshotStream, shard: int, manifest: SnapshotManifest, file: Path) -> None:
    unpacker, digest, done, said_at = _Unpacker(), hashlib.sha256(), 0, time.monotonic()
    try:
        with file.open("wb") as out:
            for number, piece in enumerate(manifest.pieces, 1):
                data = run(snapshots.piece(piece.sequence))
                if data is None:
                    raise _Unusable(f"piece {number} of {len(manifest.pieces)} is missing")
                if len(data) != piece.size or hashlib.sha256(data).digest() != piece.sha256:
                    raise _Unusable(f"piece {number} of {len(manifest.pieces)} is damaged")
                try:
                    for plain in unpacker.unpacked(data):
                        done += len(plain)
                        if done > manifest.file_bytes:
                            raise _Unusable(f"it unpacks to more than the {manifest.file_bytes} bytes that were taken")
                        out.write(plain)
                        digest.update(plain)
                except zlib.error as error:
                    raise _Unusable(f"piece {number} of {len(manifest.pieces)} cannot be unpacked: {error}") from error
                if time.monotonic() - said_at >= PROGRESS_S:
                    said_at = time.monotonic()
                    logger.info("shard %d: %d of %d MiB of its snapshot are here", shard, done >> 20, manifest.file_bytes >> 20)
    except OSError as error:
        raise ShardUnwritable(shard, "write a snapshot into", file.parent, error.strerror or str(error)) from error
    if done != manifest.file_bytes or digest.digest() != manifest.sha256 or not unpacker.has_ended:
        raise _Unusable("what its pieces add up to is not the file that was taken")
