"""What is in a depot: lineages with their manifests, and their pieces as they were put."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import Depot
from tidegate.shard.backup.manifest import (
    BackupDamaged,
    Manifest,
    Piece,
    check_lineage,
    decode_manifest,
    lineages_in,
    manifest_name,
    seal_of,
)
from tidegate.shard.backup.pieces import Header, PieceDamaged, decode_piece

_HINT = "restore a moment of another one, with --at: see `tidegate restore --list`; and make a new one: `tidegate backup --full`"


class Lineage(NamedTuple):
    name: str
    manifests: list[Manifest]
    seal: str
    """By which the next manifest would name the last one."""


def read_lineage(depot: Depot, name: str) -> Lineage:
    """Without manifests where its full backup is not complete. Raises OperatorError."""
    found: list[tuple[Manifest, str]] = []
    numbers = lineages_in(depot.list(f"{name}/")).get(name, [])
    for number in numbers:
        place = manifest_name(name, number)
        data = depot.get(place)
        try:
            if data is None:
                raise BackupDamaged("it is gone")
            found.append((decode_manifest(data), seal_of(data)))
        except BackupDamaged as error:
            raise _damaged(depot, place, error) from error
    try:
        check_lineage(found)
    except BackupDamaged as error:
        raise _damaged(depot, name, error) from error
    return Lineage(name, [manifest for manifest, _ in found], found[-1][1] if found else "")


class Lineages(NamedTuple):
    """All of a depot that are complete, oldest first."""

    good: list[Lineage]
    damaged: dict[str, OperatorError]
    """By name, what is the matter with the others."""

    def newest_problem(self) -> OperatorError | None:
        """Of a lineage that is newer than all good ones."""
        newest = max((lineage.name for lineage in self.good), default="")
        return next((error for name, error in sorted(self.damaged.items(), reverse=True) if name > newest), None)


def read_lineages(depot: Depot) -> Lineages:
    """Looks at manifests, not at pieces. Raises OperatorError for a depot that cannot be looked into."""
    found = Lineages([], {})
    for name in lineages_in(depot.list()):
        try:
            found.good.append(read_lineage(depot, name))
        except OperatorError as error:
            if not isinstance(error.__cause__, BackupDamaged):
                raise
            found.damaged[name] = error
    return found


def read_pieces(depot: Depot, pieces: list[Piece]) -> Iterator[tuple[Header, list[Any]]]:
    """What each has, in order. Raises OperatorError for one that is not what was put."""
    for piece in pieces:
        data = depot.get(piece.name)
        try:
            if data is None:
                raise PieceDamaged("it is gone")
            if len(data) != piece.bytes or hashlib.sha256(data).hexdigest() != piece.sha256:
                raise PieceDamaged("it is not what was put there: its checksum is wrong")
            yield decode_piece(data)
        except PieceDamaged as error:
            raise _damaged(depot, piece.name, error) from error


def _damaged(depot: Depot, name: str, error: Exception) -> OperatorError:
    return OperatorError("read backup", f"{depot.place}/{name}", str(error), _HINT)
