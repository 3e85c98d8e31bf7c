"""What a snapshot of a shard is, which snapshots are kept, and up to where the stream of the shard may be purged then.

A snapshot is the state of a shard as it was behind one message of its stream: its data file, without free pages, compressed, in
pieces, and a manifest that names them. It counts when the manifest is there and all pieces are.

Guarantee: as long as `after_taking` decides what goes, there are two snapshots from which a host can go on, or the stream has its
beginning still: what is purged is before the *second* newest that is whole, and a snapshot goes when two newer ones are whole. So
neither a snapshot that turns out to be damaged, nor an owner that was shut out and does not know it, takes away what is needed.
(Whoever takes one, it has what was confirmed only, and all of that up to its message.)

Rule: pure.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from tidegate.shard.replicated.mark import decode_mark
from tidegate.shard.replicated.replay import StreamPlace

MAGIC = b"tgsnap1\n"
FORMAT = 1
KEPT = 2
_DIGEST_BYTES = 32


class SnapshotName(NamedTuple):
    """Sorts by how much of the stream it has."""

    sequence: int
    """Of the message behind which it is."""
    epoch: int
    """Of the owner who took it."""
    nonce: str
    """Of this attempt."""

    def __str__(self) -> str:
        return f"{self.sequence:016d}-{self.epoch:08d}-{self.nonce}"


def parse_name(text: str) -> SnapshotName | None:
    sequence, _, rest = text.partition("-")
    epoch, _, nonce = rest.partition("-")
    if not (sequence.isdecimal() and epoch.isdecimal() and nonce.isalnum()):
        return None
    return SnapshotName(int(sequence), int(epoch), nonce)


class SnapshotPiece(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One message of the stream of snapshots."""

    sequence: int
    size: int
    sha256: bytes


class SnapshotManifest(msgspec.Struct, array_like=True, frozen=True):
    """New fields go to the end, with a default."""

    shard: int
    mark: bytes
    """What the state says of the stream: which one it is, and up to where the state has it."""
    commit: int
    """The newest that it contains."""
    file_bytes: int
    """Of the data file that the pieces add up to."""
    sha256: bytes
    """Of that file."""
    pieces: list[SnapshotPiece]
    taken_ms: int
    """Unix time."""
    by: str
    """Who took it, in words for operators."""

    @property
    def place(self) -> StreamPlace:
        """Behind the newest message that it has. Raises ValueError."""
        place = decode_mark(self.mark)
        if place is None:
            raise ValueError("it does not say up to where it has the stream")
        return place

    @property
    def packed_bytes(self) -> int:
        return sum(piece.size for piece in self.pieces)


_encode = msgspec.msgpack.Encoder().encode
_decode_sealed = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode
_decode_manifest = msgspec.msgpack.Decoder(SnapshotManifest).decode


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    data = MAGIC + _encode((FORMAT, manifest))
    return data + hashlib.sha256(data).digest()


def decode_manifest(data: bytes) -> SnapshotManifest:
    """Raises ValueError, with what is wrong."""
    body = data[:-_DIGEST_BYTES]
    if not data.startswith(MAGIC) or hashlib.sha256(body).digest() != data[-_DIGEST_BYTES:]:
        raise ValueError("its manifest is damaged, or none")
    try:
        version, raw = _decode_sealed(body[len(MAGIC) :])
        if version != FORMAT:
            raise ValueError(f"it has format {version}, and this version of Tidegate reads {FORMAT}: use the one that took it")
        manifest = _decode_manifest(raw)
        manifest.place  # noqa: B018  # It raises where that cannot be read.
    except msgspec.MsgspecError as error:
        raise ValueError(f"its manifest cannot be read: {error}") from None
    return manifest


# When


class StreamSize(NamedTuple):
    """As its leader says it."""

    first: int
    last: int
    bytes: int


class SnapshotPolicy(NamedTuple):
    """One is due when the stream has grown by so many bytes since the last one, or at all and that is so old."""

    grown_bytes: int
    age_s: float


def grown_bytes(stream: StreamSize, since: int) -> int:
    """About so many of a stream follow that message: its messages are taken to be of one size."""
    there = stream.last - stream.first + 1
    if there <= 0:
        return 0
    return stream.bytes * min(there, max(0, stream.last - since)) // there


def is_due(stream: StreamSize, newest: StreamPlace | None, age_s: float, policy: SnapshotPolicy) -> bool:
    """`newest`: of the newest snapshot, which is so old; None: there is none, and `age_s` says for how long this was known."""
    since = 0 if newest is None else newest.sequence
    if stream.last <= since:
        return False
    return grown_bytes(stream, since) >= policy.grown_bytes or age_s >= policy.age_s


# What goes


class SnapshotCondition(enum.Enum):
    """Of a snapshot, as it is found."""

    WHOLE = enum.auto()
    """Its manifest is there, and as many pieces as that says."""
    UNFINISHED = enum.auto()
    """It has no manifest, yet or any longer."""
    DOUBTFUL = enum.auto()
    """It has one, which cannot be read here, or not all pieces: others may make more of it."""


class Afterwards(NamedTuple):
    """What follows when a snapshot was taken and read back, in this order."""

    purge_before: int
    """The stream of the shard may lose what is before that message; the message itself stays, by which whoever begins there knows
    that it is the same stream. 0: nothing."""
    remove: list[SnapshotName]
    """Snapshots that nobody needs any longer, and what was left of those that were never finished."""


def after_taking(taken: SnapshotName, found: Mapping[SnapshotName, SnapshotCondition]) -> Afterwards:
    """`found`: what there is of this shard, of this very stream. `taken` is among the whole ones, else nothing follows. What is
    unfinished of a newer owner may be on its way."""
    whole = sorted((name for name, condition in found.items() if condition is SnapshotCondition.WHOLE), reverse=True)
    kept = whole[:KEPT]
    if taken not in kept:
        return Afterwards(0, [])
    remove = [name for name, each in found.items() if each is SnapshotCondition.UNFINISHED and name.epoch <= taken.epoch]
    if len(kept) < KEPT:
        return Afterwards(0, sorted(remove))
    remove += [name for name, each in found.items() if each is not SnapshotCondition.UNFINISHED and name < kept[-1]]
    return Afterwards(kept[-1].sequence, sorted(remove))


# Where a host begins


def to_begin_with(
    found: Iterable[tuple[SnapshotName, SnapshotManifest]], created: str, first: int, has: int
) -> list[tuple[SnapshotName, SnapshotManifest]]:
    """Those from which a host can go on that has the stream up to message `has`, the best one first. The stream was made at
    `created`, and begins with message `first`."""
    usable = [
        (name, manifest)
        for name, manifest in found
        if manifest.place.created == created and manifest.place.sequence + 1 >= first and manifest.place.sequence > has
    ]
    return sorted(usable, key=lambda each: each[0], reverse=True)
