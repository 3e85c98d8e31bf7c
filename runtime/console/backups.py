"""Which backups there are of a data directory that a running service has.

What is known of is what the directory says: for which places the service keeps its log, and how the last backup to each place
went.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.runtime.data.backup_notes import NAME as NOTES_NAME
from tidegate.runtime.data.backup_notes import read_notes
from tidegate.runtime.data.backups import BackupNote
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import kept_bytes, why_given_up
from tidegate.shard.backup.backup import kept_lineages
from tidegate.shard.backup.places import open_depot
from tidegate.shard.backup.reading import Lineage, Manifests, read_lineages

SHOWN_MAX = 20
"""Lineages of a place, the newest."""


class KnownBackups:
    """Looked at again and again: each manifest is read once."""

    def __init__(self) -> None:
        self._manifests: dict[str, Manifests] = {}
        """By place."""

    def of(self, data: Path) -> dict[str, Any]:
        """Reads manifests, no pieces. Raises OperatorError."""
        try:
            kept, shipped, given_up = kept_lineages(data), kept_bytes(data), why_given_up(data)
            notes = {note.place: note for note in read_notes(data)}
        except ValueError as error:
            hint = "remove it: the next backup makes it anew"
            raise OperatorError("read", data / NOTES_NAME, str(error), hint) from error
        except OSError as error:
            hint = "run the console as the user of the service or root"
            raise OperatorError("look for backups of", data, error.strerror or str(error), hint) from error
        places = {place: note.good_ms for place, note in notes.items()}
        for each in kept:
            places[each.place] = max(each.at_ms, places.get(each.place, 0))
        self._manifests = {place: self._manifests.get(place) or Manifests() for place in places}
        newest_first = sorted(places.items(), key=lambda item: -item[1])
        told = [
            {**_place(place, at_ms, self._manifests[place]), "error": note.error, "failed_ms": note.ended_ms if note.error else 0}
            for place, at_ms in newest_first
            for note in (notes.get(place, BackupNote(place, at_ms)),)
        ]
        return {"places": told, "kept_log_bytes": shipped, "given_up": given_up}


def _place(place: str, at_ms: int, manifests: Manifests) -> dict[str, Any]:
    try:
        found = read_lineages(open_depot(place), manifests)
    except OperatorError as error:
        return {"place": place, "at_ms": at_ms, "lineages": [], "problems": [str(error)]}
    lineages = [_lineage(each) for each in reversed(found.good)]
    problems = [str(error) for error in found.damaged.values()]
    return {"place": place, "at_ms": at_ms, "lineages": lineages[:SHOWN_MAX], "problems": problems}


def _lineage(lineage: Lineage) -> dict[str, Any]:
    first, last = lineage.manifests[0], lineage.manifests[-1]
    pieces = (piece for manifest in lineage.manifests for piece in (*manifest.rows, *manifest.records))
    return {
        "name": lineage.name,
        "from_ms": first.from_ms,
        "until_ms": last.ended_ms,
        "backups": len(lineage.manifests),
        "bytes": sum(piece.bytes for piece in pieces),
    }
