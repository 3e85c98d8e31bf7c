"""runtime/data/backups.py: what is wrong with the backups of a service."""

from __future__ import annotations

from tidegate.runtime.data.backups import BackupNote, Backups
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.supervision import Supervision

HOUR_MS = 3_600_000


def told(*notes: BackupNote, now_ms: int = 10 * HOUR_MS) -> list[tuple[str, str]]:
    backups = Backups()
    backups.seen(notes, "/data", now_ms)
    return [(each.where, each.what) for each in backups.problems]


def test_backups_that_succeed_when_they_are_expected_are_no_problem() -> None:
    assert told(BackupNote("/b", 8 * HOUR_MS, "", 8 * HOUR_MS, "a/1", 2 * 3_600.0)) == []
    assert told(BackupNote("/b", 1, "", 1, "a/1")) == [], "nobody has said when the next one is due"


def test_one_that_has_failed_is_a_problem_with_its_reason_and_what_there_is() -> None:
    failed = BackupNote("/b", 9 * HOUR_MS, "write /b/x: No space left\non device", 8 * HOUR_MS, "a/1", 3_600.0)
    reason = "the last one failed at 1970-01-01T09:00:00Z: write /b/x: No space left"
    ((where, what),) = told(failed)
    assert (where, what.startswith(reason)) == ("backups to /b", True)
    assert what.endswith("; the newest ended at 1970-01-01T08:00:00Z")
    assert "\n" not in what
    assert told(BackupNote("/b", 1, "no"))[0][1].endswith("there is none yet")


def test_one_that_has_not_come_is_a_problem_from_the_moment_on_when_it_was_due() -> None:
    late = BackupNote("/b", 8 * HOUR_MS, "", 8 * HOUR_MS, "a/1", 3_600.0)
    assert told(late, now_ms=9 * HOUR_MS) == []
    what = "the next one was due at 1970-01-01T09:00:00Z; the newest ended at 1970-01-01T08:00:00Z"
    assert told(late, now_ms=9 * HOUR_MS + 1) == [("backups to /b", what)]
    assert told(late, now_ms=99 * HOUR_MS) == [("backups to /b", what)], "the same text: status is told when it changes"


def test_the_service_has_these_problems_with_the_command_that_ends_them() -> None:
    machine = Supervision((0,), 1, 1, 30.0, 9.0)
    machine.start(0.0)
    machine.backups.seen([BackupNote("/b", 1, "no"), BackupNote("/c", 5, "", 5)], "/data", 6)
    (problem,) = problems(machine, 1.0)
    assert "tidegate backup /b --data /data;" in problem.next
    assert "tidegate backup /b --data /data --forget" in problem.next
    assert machine.backups.newest_ms == 5
