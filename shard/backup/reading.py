"""What is in a depot: lineages with their manifests, and their pieces as they were put."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
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


class Manifests:
    """What was read of a depot before: for whoever looks at it again and again. One that stays what it is is read once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Manifest, str]] = {}
        """By name: its stamp, and what `read` returns."""

    def read(self, depot: Depot, name: str, stamp: str) -> tuple[Manifest, str]:
        """With its seal. Raises BackupDamaged, FileNotFoundError, OperatorError."""
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            data = depot.get(name)
            if data is None:
                raise FileNotFoundError(name)
            known = self._known[name] = stamp, decode_manifest(data), seal_of(data)
        return known[1:]

    def forget_all_but(self, names: Container[str]) -> None:
        self._known = {name: known for name, known in self._known.items() if name in names}


def read_lineage(depot: Depot, name: str, manifests: Manifests | None = None, stamps: dict[str, str] | None = None) -> Lineage:
    """Without manifests where its full backup is not complete, or was deleted meanwhile. `stamps`: what the depot has said of it.
    Raises OperatorError."""
    stamps = depot.stamps(f"{name}/") if stamps is None else stamps
    manifests = Manifests() if manifests is None else manifests
    found: list[tuple[Manifest, str]] = []
    for number in lineages_in(stamps).get(name, []):
        place = manifest_name(name, number)
        try:
            found.append(manifests.read(depot, place, stamps[place]))
        except FileNotFoundError:
            if place not in (now := depot.stamps(f"{name}/")):  # Another process deletes this lineage.
                return read_lineage(depot, name, manifests, now)
            error = BackupDamaged("it is gone")
            raise _damaged(depot, place, error) from error
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


def read_lineages(depot: Depot, manifests: Manifests | None = None) -> Lineages:
    """Looks at manifests, not at pieces; those that are known are not read again. What is deleted meanwhile is not in it. Raises
    OperatorError for a depot that cannot be looked into."""
    found, stamps = Lineages([], {}), depot.stamps()
    if manifests is not None:
        manifests.forget_all_but(stamps)
    for name in lineages_in(stamps):
        try:
            of_lineage = {each: stamp for each, stamp in stamps.items() if each.startswith(f"{name}/")}
            lineage = read_lineage(depot, name, manifests, of_lineage)
            if lineage.manifests:
                found.good.append(lineage)
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
