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
_PIECE_ENTRY_BYTES_MAX = 1 + 9 + 5 + 2 + _DIGEST_BYTES
"""What a manifest says of one piece."""
_MORE_PIECES_BYTES = 4
"""What the number of pieces takes besides, where there are many."""
ROOM_SHARE_MAX = 0.75
"""Of what the account may still store a snapshot takes no more: the rest is for what shards append meanwhile."""


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
    """One is due when the stream has grown by so many bytes since the last one, and by a share of what that one was of; or at
    all, and that is so old."""

    grown_bytes: int
    age_s: float


GROWN_SHARE = 0.5
"""Of the data file: a large shard is not copied as a whole, again and again, for a small part of it."""


class NewestSnapshot(NamedTuple):
    """What is known of the newest one of a shard."""

    place: StreamPlace | None
    """Behind the newest message that it has. None: there is none."""
    file_bytes: int
    since_s: float
    """Unix time: when it was taken; or since when it is known that there is none."""


def grown_bytes(stream: StreamSize, since: int) -> int:
    """About so many of a stream follow that message: its messages are taken to be of one size."""
    there = stream.last - stream.first + 1
    if there <= 0:
        return 0
    return stream.bytes * min(there, max(0, stream.last - since)) // there


def is_due(stream: StreamSize, newest: NewestSnapshot, now_s: float, policy: SnapshotPolicy) -> bool:
    """`now_s`: Unix time."""
    since = 0 if newest.place is None else newest.place.sequence
    if stream.last <= since:
        return False
    enough_bytes = max(policy.grown_bytes, newest.file_bytes * GROWN_SHARE)
    return grown_bytes(stream, since) >= enough_bytes or now_s - newest.since_s >= policy.age_s


# Whether there is room


class SnapshotRoom(NamedTuple):
    """What may be stored of snapshots. None: nobody says so here."""

    message_bytes: int
    """In one message: a piece, or the manifest."""
    stream_bytes: int | None = None
    """In the stream of snapshots, by its own limit."""
    account_bytes: int | None = None
    """In all streams of the account, each byte counted once."""


def packed_bytes_max(file_bytes: int) -> int:
    """No file packs into more: what cannot be made smaller is stored as it is, in blocks."""
    return file_bytes + (file_bytes >> 10) + 64


def why_no_room(packed_bytes: int, without_pieces: SnapshotManifest, room: SnapshotRoom) -> tuple[str, str] | None:
    """Why a snapshot of so many bytes cannot be stored, and what to do. None: it can, as far as anybody knows."""
    pieces = -(-packed_bytes // room.message_bytes)
    sealed_bytes = len(encode_manifest(without_pieces)) + _MORE_PIECES_BYTES + pieces * _PIECE_ENTRY_BYTES_MAX
    if sealed_bytes > room.message_bytes:
        return f"it has too many pieces, {pieces}", "raise max_payload on every server, or spread the data over more shards"
    need_bytes = packed_bytes + sealed_bytes
    takes = f"it takes {need_bytes >> 10} KiB, and"
    if room.stream_bytes is not None and need_bytes > room.stream_bytes:
        said = f"{takes} its stream has room for {max(0, room.stream_bytes) >> 10} KiB more"
        return said, "let it have more: `nats stream edit --max-bytes=…`"
    if room.account_bytes is not None and need_bytes > room.account_bytes * ROOM_SHARE_MAX:
        kept = f"of which {1 - ROOM_SHARE_MAX:.0%} are kept for what shards append"
        said = f"{takes} the account has room for {max(0, room.account_bytes) >> 10} KiB more, {kept}"
        return said, "let the account store more, or remove streams that nobody needs"
    return None


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


def of_no_use(epoch: int, found: Mapping[SnapshotName, SnapshotCondition]) -> list[SnapshotName]:
    """What an owner of that epoch, who takes none at this moment, may remove of what was never finished. What is of a newer owner
    may be on its way."""
    return sorted(name for name, each in found.items() if each is SnapshotCondition.UNFINISHED and name.epoch <= epoch)


def after_taking(taken: SnapshotName, found: Mapping[SnapshotName, SnapshotCondition]) -> Afterwards:
    """`found`: what there is of this shard, of this very stream. `taken` is among the whole ones, else nothing follows."""
    whole = sorted((name for name, condition in found.items() if condition is SnapshotCondition.WHOLE), reverse=True)
    kept = whole[:KEPT]
    if taken not in kept:
        return Afterwards(0, [])
    remove = of_no_use(taken.epoch, found)
    if len(kept) < KEPT:
        return Afterwards(0, remove)
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
