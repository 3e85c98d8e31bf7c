"""Which backups there are of a data directory that a running service has.

What is known of is where the service keeps its log for: each place that backups go to again and again. One that was made with
`--once` has left no trace in the directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.shipping import FOLDER, GIVEN_UP
from tidegate.shard.backup.backup import kept_lineages
from tidegate.shard.backup.places import open_depot
from tidegate.shard.backup.reading import Lineage, read_lineages

SHOWN_MAX = 20
"""Lineages of a place, the newest."""


def backups_of(data: Path) -> dict[str, Any]:
    """Reads manifests, no pieces. Raises OperatorError."""
    try:
        kept = kept_lineages(data)
        shipped = sum(path.stat().st_size for path in (data / FOLDER).rglob("*.seg"))
        note = data / GIVEN_UP
        given_up = note.read_text().strip() if note.exists() else ""
    except OSError as error:
        hint = "run the console as the user of the service or root"
        raise OperatorError("look for backups of", data, error.strerror or str(error), hint) from error
    places: dict[str, int] = {}
    for each in kept:
        places[each.place] = max(each.at_ms, places.get(each.place, 0))
    return {
        "places": [_place(place, at_ms) for place, at_ms in sorted(places.items(), key=lambda item: -item[1])],
        "kept_log_bytes": shipped,
        "given_up": given_up,
    }


def _place(place: str, at_ms: int) -> dict[str, Any]:
    try:
        found = read_lineages(open_depot(place))
    except OperatorError as error:
        return {"place": place, "at_ms": at_ms, "lineages": [], "problems": [str(error)]}
    lineages = [_lineage(each) for each in reversed(found.good) if each.manifests]
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
