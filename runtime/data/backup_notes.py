"""How backups of a data directory went: `DATA/backups.json`, which `tidegate backup` leaves and the service reads.

Guarantee: of each place to which backups go it says how the last one ended, and when the newest that succeeded did, all of it or
as it was before. Nothing depends on it but what is told: where it is missing or cannot be read, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tidegate.runtime.data.backups import BackupNote
from tidegate.runtime.data.replacing import locked, replace
from tidegate.runtime.regular import read_regular

NAME = "backups.json"
ERROR_CHARACTERS_MAX = 500
BYTES_MAX = 1 << 20


def read_notes(data: Path) -> tuple[BackupNote, ...]:
    """By place. Raises OSError, ValueError."""
    try:
        return msgspec.json.decode(read_regular(data / NAME, BYTES_MAX), type=tuple[BackupNote, ...])
    except FileNotFoundError:
        return ()
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def note_success(data: Path, place: str, now_ms: int, backup: str, due_s: float) -> None:
    """`due_s`: 0 leaves it as it was. Raises OSError."""
    _change(data, place, lambda old: BackupNote(place, now_ms, "", now_ms, backup, due_s or (old.due_s if old else 0.0)))


def note_failure(data: Path, place: str, now_ms: int, error: str, due_s: float, *, only_known: bool = False) -> None:
    """`only_known`: not of a place of which nothing is known. Raises OSError."""
    error = error[:ERROR_CHARACTERS_MAX]

    def failed(old: BackupNote | None) -> BackupNote | None:
        if old is None and only_known:
            return None
        old = old or BackupNote(place, now_ms)
        return msgspec.structs.replace(old, ended_ms=now_ms, error=error, due_s=due_s or old.due_s)

    _change(data, place, failed)


def forget_place(data: Path, place: str) -> bool:
    """Whether anything was known of it. Raises OSError."""
    return _change(data, place, lambda old: None)


def _change(data: Path, place: str, change: Callable[[BackupNote | None], BackupNote | None]) -> bool:
    with locked(data):  # Backups to several places may end at the same time.
        try:
            notes = {note.place: note for note in read_notes(data)}
        except ValueError:  # It is written anew.
            notes = {}
        old = notes.pop(place, None)
        if (new := change(old)) is not None:
            notes[place] = new
        if new is not None or old is not None:
            replace(data / NAME, msgspec.json.encode([notes[name] for name in sorted(notes)]) + b"\n")
        return old is not None
