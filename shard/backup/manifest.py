"""What a backup consists of, which commits it has, and what is missing.

A *lineage* is a full backup and those that continue it, `LINEAGE/000001.json` and so on; each manifest names the pieces that came
with it, and the checksum of the manifest before. What no manifest names does not count.

The rows of a shard are as they were at some moment each between commit `base` and the end of the full backup; the records of all
its commits after `base` follow. Values in records are absolute, so that rows and then records, in order, end in the state of the
shard at its last commit, or at any one that is not before the end of the full backup.

Rule: pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

FORMAT = 1
_MANIFEST_SUFFIX = ".json"


class BackupDamaged(ValueError):
    """A manifest is not what was written, or one is missing."""


class LogNotKept(Exception):
    """Commits that the lineage has not got yet are no longer in the logs: it cannot be continued."""


class Piece(msgspec.Struct):
    """One that was put, and read back."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct):
    format: int
    lineage: str
    number: int
    """1: the full backup of the lineage."""
    parent: str
    """SHA-256 of the manifest before this one; empty for the first."""
    tidegate: str
    """The version that made it."""
    shards: int
    starts: int
    """Of the service, when this was made."""
    began_ms: int
    ended_ms: int
    """Unix time up to which it has what was committed."""
    from_ms: int
    """Of a full backup: it can be restored as it was at any time from here on; what came before is in its rows already."""
    base: dict[int, int]
    """By shard: the rows contain everything up to this commit."""
    seqs: dict[int, int]
    """By shard: the last commit that the lineage has so far."""
    positions: dict[str, int]
    """By log: up to where it has been read."""
    rows: list[Piece]
    """By shard, then by key. Empty but in a full backup."""
    records: list[Piece]
    """In the order in which they are replayed."""
    access: str = ""
    """The text of `access.json`, if the service has one."""


class _Sealed(msgspec.Struct):
    sha256: str
    manifest: msgspec.Raw


def encode_manifest(manifest: Manifest) -> bytes:
    body = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Sealed(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Raises `BackupDamaged`."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        body = bytes(sealed.manifest)
        if hashlib.sha256(body).hexdigest() != sealed.sha256:
            raise BackupDamaged("its checksum is wrong")
        version = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get("format", b"")
        if bytes(version) != b"%d" % FORMAT:
            raise BackupDamaged(f"it has format {bytes(version).decode()}, and this version of Tidegate reads {FORMAT}")
        return msgspec.json.decode(body, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupDamaged(f"it is no manifest of a backup: {error}") from None


def seal_of(data: bytes) -> str:
    """By which the next manifest names this one."""
    return hashlib.sha256(data).hexdigest()


def manifest_name(lineage: str, number: int) -> str:
    return f"{lineage}/{number:06d}{_MANIFEST_SUFFIX}"


def lineages_in(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of the manifests of each lineage that has a full backup, oldest first, by the names in a depot."""
    found: dict[str, list[int]] = {}
    for name in sorted(names):
        lineage, _, file = name.partition("/")
        number = file.removesuffix(_MANIFEST_SUFFIX)
        if file.endswith(_MANIFEST_SUFFIX) and number.isdecimal():
            found.setdefault(lineage, []).append(int(number))
    return {lineage: numbers for lineage, numbers in found.items() if 1 in numbers}


def check_lineage(manifests: Sequence[tuple[Manifest, str]]) -> None:
    """`manifests`: each with its seal, in order. Raises `BackupDamaged` where one is missing or of another lineage."""
    parent = ""
    for number, (manifest, seal) in enumerate(manifests, 1):
        if (manifest.number, manifest.parent) != (number, parent):
            raise BackupDamaged(
                f"manifest {number} of lineage {manifest.lineage} is missing, or is not the one that was continued"
            )
        parent = seal


def order_of_log(name: str) -> tuple[int, ...]:
    """Logs in the order in which they are replayed: of earlier starts, then of earlier processes."""
    return tuple(map(int, name.split("-")))


class Commits:
    """How far each shard has got, and whether what comes follows on it."""

    def __init__(self, seqs: Mapping[int, int]) -> None:
        self.seqs = dict(seqs)

    def had_got_to(self, seqs: Mapping[int, int], place: str) -> None:
        """The log says so before what comes next. Raises `LogNotKept`."""
        for shard, seq in seqs.items():
            if shard in self.seqs and seq > self.seqs[shard]:
                raise LogNotKept(f"commits {self.seqs[shard] + 1} to {seq} of shard {shard} are not in the log before {place}")

    def take(self, commits: Iterable[tuple[int, int]], place: str) -> bool:
        """Shards and sequences of a record; whether any of it is new. Raises `LogNotKept`."""
        is_new = False
        for shard, seq in commits:
            known = self.seqs.get(shard)
            if known is None or seq <= known:
                continue
            if seq != known + 1:
                raise LogNotKept(f"commits {known + 1} to {seq - 1} of shard {shard} are not in the log before {place}")
            self.seqs[shard] = seq
            is_new = True
        return is_new
