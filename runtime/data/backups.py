"""What the service knows of its backups: how the last one of each place went, and what is wrong with them.

Rule: pure. The supervisor reads the notes that `tidegate backup` leaves, and says what time it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from tidegate.runtime.errors import one_line
from tidegate.runtime.wire.supervisor_messages import Problem

Time = Annotated[int, msgspec.Meta(ge=0, le=10**14)]
"""What people can be told: up to the year 5138."""


class BackupNote(msgspec.Struct, frozen=True):
    """Times are Unix times."""

    place: str
    ended_ms: Time
    """When the last one ended, well or not."""
    error: str = ""
    """Why it failed; empty: it did not."""
    good_ms: Time = 0
    """When the newest one that succeeded had ended; 0: none has."""
    backup: str = ""
    """That one, as LINEAGE/NUMBER."""
    due_s: Annotated[float, msgspec.Meta(ge=0, le=1e10)] = 0.0
    """The next one has to have succeeded so long after that; 0: whenever it likes."""


class Backups:
    def __init__(self) -> None:
        self.notes: tuple[BackupNote, ...] = ()
        self.problems: tuple[Problem, ...] = ()

    def seen(self, notes: Sequence[BackupNote], data: str, now_ms: int) -> None:
        """`now_ms`: Unix time."""
        self.notes = tuple(notes)
        self.problems = tuple(_problems(notes, data, now_ms))

    @property
    def newest_ms(self) -> int:
        """When the newest one that succeeded had ended, to whichever place; 0: none is known."""
        return max((note.good_ms for note in self.notes), default=0)


def _problems(notes: Sequence[BackupNote], data: str, now_ms: int) -> Iterator[Problem]:
    for note in notes:
        where = one_line(f"backups to {note.place}")
        newest = f"the newest ended at {utc(note.good_ms)}" if note.good_ms else "there is none yet"
        again = f"tidegate backup {note.place} --data {data}"
        forget = f"if no more go there: {again} --forget"
        if note.error:
            what = one_line(f"the last one failed at {utc(note.ended_ms)}: {note.error}; {newest}")
            yield Problem(what, where, one_line(f"mend the cause, then: {again}; {forget}"))
        elif note.due_s and now_ms > (due_ms := note.good_ms + int(note.due_s * 1_000)):
            what = f"the next one was due at {utc(due_ms)}; {newest}"
            schedule = "see why its schedule has not made one (systemctl list-timers --all)"
            yield Problem(what, where, one_line(f"{schedule}, or: {again}; {forget}"))


def utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
