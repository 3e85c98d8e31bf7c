"""A snapshot is taken: put piece by piece, read back, and only then is anything purged.

Whether there is room for it is looked at first, as far as servers say so: what fills them up stops all shards. What is left where
it ends in between: before the manifest, nothing; where it is killed there, or cannot remove it, pieces that count for nothing and
go before the next one of a later or the same owner is begun. After it, one snapshot more, and a stream that is purged when the
next one is taken.

On a thread of its own: `run` has something done where the servers are spoken with, and blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
import zlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from nats.aio.client import Client

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.mark import decode_mark
from tidegate.shard.replicated.snapshot import (
    Afterwards,
    SnapshotCondition,
    SnapshotManifest,
    SnapshotName,
    SnapshotPiece,
    after_taking,
    decode_manifest,
    encode_manifest,
    of_no_use,
    packed_bytes_max,
    why_no_room,
)
from tidegate.shard.replicated.snapshot_stream import SnapshotRefused, SnapshotStream, purge_before, size_of

COMPRESSION = 1
"""The fastest: a snapshot shares its cores with a service."""
READ_BYTES = 1 << 20

T = TypeVar("T")


class RunThere(Protocol):
    def __call__(self, what: Coroutine[Any, Any, T], /) -> T: ...


class Taken(NamedTuple):
    name: SnapshotName
    manifest: SnapshotManifest
    afterwards: Afterwards


class _Packed:
    """A file, compressed, in pieces; and what is known of it when all of it was read. Raises OperatorError where it cannot be."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def pieces(self, piece_bytes: int) -> Iterator[bytes]:
        packer, waiting = zlib.compressobj(COMPRESSION), bytearray()
        for data in self._read():
            self.digest.update(data)
            self.bytes += len(data)
            waiting += packer.compress(data)
            while len(waiting) >= piece_bytes:
                yield bytes(waiting[:piece_bytes])
                del waiting[:piece_bytes]
        waiting += packer.flush()
        for at in range(0, len(waiting), piece_bytes):
            yield bytes(waiting[at : at + piece_bytes])

    def _read(self) -> Iterator[bytes]:
        try:
            with self._file.open("rb") as file:
                while data := file.read(READ_BYTES):
                    yield data
        except OSError as error:
            hint = "check the disk; it is tried again"
            raise OperatorError("read a copy of a state", self._file, error.strerror or str(error), hint) from error


def take_snapshot(
    run: RunThere,
    client: Client,
    snapshots: SnapshotStream,
    stream: str,
    shard: int,
    file: Path,
    mark: bytes,
    commit: int,
    by: str,
) -> Taken:
    """Of a data file that says of itself `mark` and `commit`, and was looked through. `stream` is the shard's. Raises
    OperatorError where the snapshot does not count, or nothing was purged behind it."""
    place = decode_mark(mark)
    if place is None:
        raise OperatorError("take a snapshot of", f"shard {shard}", "it has nothing of its stream yet", "wait until it has")
    _, created = run(size_of(client, stream))
    if created != place.created:
        problem = f"its stream was made at {created}, and it is a cache of one that was made at {place.created}"
        raise OperatorError(
            "take a snapshot of",
            f"shard {shard}",
            problem,
            "put back store_dir of all servers as it was",
        )
    run(snapshots.make())
    for unfinished in of_no_use(place.epoch, _conditions(run, snapshots, shard, created)):
        run(snapshots.remove(shard, unfinished))
    draft = SnapshotManifest(shard, mark, commit, 0, b"", [], time.time_ns() // 1_000_000, by)
    _check_room(run, snapshots, file, draft)
    name = SnapshotName(place.sequence, place.epoch, secrets.token_hex(4))
    with _removed_again(run, snapshots, shard, name, BaseException):
        manifest = _put_pieces(run, snapshots, name, file, draft)
        sealed = encode_manifest(manifest)
    with _removed_again(run, snapshots, shard, name, SnapshotRefused):  # Else it may be there, and others count on it.
        run(snapshots.put_manifest(shard, name, sealed))
    if run(snapshots.manifest(shard, name)) != sealed:
        raise _not_as_put(shard, "its manifest")
    found = _conditions(run, snapshots, shard, place.created)
    if found.get(name) is not SnapshotCondition.WHOLE:
        raise _not_as_put(shard, "what is listed of it")
    afterwards = after_taking(name, found)
    carry_out(run, client, snapshots, stream, shard, afterwards)
    return Taken(name, manifest, afterwards)


def _check_room(run: RunThere, snapshots: SnapshotStream, file: Path, draft: SnapshotManifest) -> None:
    """Only where it might be too large as it is, it is packed once more, to see how large it gets."""
    room = run(snapshots.room())
    try:
        file_bytes = file.stat().st_size
    except OSError as error:
        hint = "check the disk; it is tried again"
        raise OperatorError("read a copy of a state", file, error.strerror or str(error), hint) from error
    draft = msgspec.structs.replace(draft, file_bytes=file_bytes, sha256=hashlib.sha256().digest())
    if why_no_room(packed_bytes_max(file_bytes), draft, room) is None:
        return
    if (why := why_no_room(sum(map(len, _Packed(file).pieces(READ_BYTES))), draft, room)) is not None:
        raise OperatorError("take a snapshot of", f"shard {draft.shard}", *why)


def _put_pieces(
    run: RunThere, snapshots: SnapshotStream, name: SnapshotName, file: Path, draft: SnapshotManifest
) -> SnapshotManifest:
    """And reads them back; the manifest for them."""
    shard, packed, pieces = draft.shard, _Packed(file), []
    for data in packed.pieces(snapshots.piece_bytes_max):
        at = run(snapshots.put_piece(shard, name, data))
        pieces.append(SnapshotPiece(at, len(data), hashlib.sha256(data).digest()))
    for piece in pieces:
        _check_piece(shard, piece, run(snapshots.piece(piece.sequence)))
    return msgspec.structs.replace(draft, file_bytes=packed.bytes, sha256=packed.digest.digest(), pieces=pieces)


@contextlib.contextmanager
def _removed_again(
    run: RunThere, snapshots: SnapshotStream, shard: int, name: SnapshotName, after: type[BaseException]
) -> Iterator[None]:
    """What was put of it is in the way of everybody. Where it cannot be removed now, that comes before the next attempt."""
    try:
        yield
    except after:
        with contextlib.suppress(OperatorError):
            run(snapshots.remove(shard, name))
        raise


def carry_out(run: RunThere, client: Client, snapshots: SnapshotStream, stream: str, shard: int, afterwards: Afterwards) -> None:
    """The purge first: what is removed then is needed by nobody any longer."""
    if afterwards.purge_before:
        run(purge_before(client, stream, afterwards.purge_before))
    for name in afterwards.remove:
        run(snapshots.remove(shard, name))


def _check_piece(shard: int, piece: SnapshotPiece, data: bytes | None) -> None:
    if data is None or hashlib.sha256(data).digest() != piece.sha256:
        raise _not_as_put(shard, f"the piece that is message {piece.sequence}")


def _not_as_put(shard: int, what: str) -> OperatorError:
    hint = "look at the disks and the logs of the servers; the next attempt begins anew, and nothing was purged"
    return OperatorError("read back the snapshot of", f"shard {shard}", f"{what} is not what was stored", hint)


def _conditions(run: RunThere, snapshots: SnapshotStream, shard: int, created: str) -> dict[SnapshotName, SnapshotCondition]:
    """Of what there is of this very stream. Snapshots of another one of this name stay: who put this here may want them."""
    found: dict[SnapshotName, SnapshotCondition] = {}
    for name, listed in run(snapshots.listed(shard)).items():
        if not listed.manifests:
            found[name] = SnapshotCondition.UNFINISHED
            continue
        try:
            manifest = decode_manifest(run(snapshots.manifest(shard, name)) or b"")
        except ValueError:
            found[name] = SnapshotCondition.DOUBTFUL
        else:
            if manifest.place.created == created:
                found[name] = SnapshotCondition.WHOLE if listed.pieces >= len(manifest.pieces) else SnapshotCondition.DOUBTFUL
    return found
