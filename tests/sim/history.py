"""What happened in a run, and whether it may have: the checkers.

Objects of the simulation report here, directly, what they do and see. A *segment* is what an object writes without a suspension
in between: it has a version (stored with it), a stamp that no other segment ever has, and the state it leaves. What an object
has *seen* are segments of others, by calls and replies, and its own.

Rule: nothing here is asked by the product; a run is the same with and without its checkers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from tests.sim.disk import Disk
from tidegate.runtime.ids import object_key
from tidegate.runtime.limits import ALARM_DEATHS_MAX
from tidegate.shard.core.alarms import ABANDONED_KEY
from tidegate.shard.store.names import index_row, is_header, named_by

Seen = dict[str, tuple[int, int]]
"""By journal: the newest segment of it that is known, as version and stamp."""

VERSION = "version"
ALARM_KEY = "alarm"
"""Stored in one group with an alarm, and deleted by its handler."""
EPOCH_S = 1_800_000_000.0
"""Unix time at which a simulation begins."""


class Segment:
    __slots__ = ("confirmed", "rows", "seen", "stamp")

    def __init__(self, stamp: int, rows: dict[str, Any], seen: Seen, *, confirmed: bool) -> None:
        self.stamp = stamp
        self.rows = rows
        self.seen = seen
        self.confirmed = confirmed


class Lineage:
    """All segments of one object that are durable or may become so."""

    def __init__(self) -> None:
        self.segments: dict[int, Segment] = {0: Segment(0, {}, {}, confirmed=True)}
        self.must = 0
        """The newest version that somebody outside was told of."""
        self.undecided: dict[int, Segment] | None = None
        """The segments there were when a log broke: the newest of them may turn out to be durable."""

    def starts(self, version: int, rows: dict[str, Any], *, undecided: bool) -> None:
        """An instance has found this, or the last recovery has. What is newer is lost."""
        if undecided:
            self.undecided = self.undecided or dict(self.segments)
        elif self.undecided is not None:
            if version in self.undecided and self.undecided[version].rows == rows:
                self.segments = self.undecided
            self.undecided = None

    def forget_after(self, version: int) -> None:
        self.segments = {at: segment for at, segment in self.segments.items() if at <= version}

    def is_lost(self, version: int, stamp: int) -> bool:
        kinds = [self.segments] if self.undecided is None else [self.segments, self.undecided]
        return all(version not in segments or segments[version].stamp != stamp for segments in kinds)


class History:
    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        self.disk = disk
        self.clock = clock
        self.problems: list[str] = []
        self.story: list[str] = []
        self.counts: dict[str, int] = {}
        self.keep_story = False
        self.next_instance = itertools.count(1).__next__
        self._stamps = itertools.count(1).__next__
        self._lineages: dict[str, Lineage] = {}
        self._tables: list[Seen] = []
        self._starts: dict[tuple[str, str], int] = {}
        self._instances: dict[tuple[str, str], Any] = {}
        self._alarm_deaths: dict[tuple[str, int], int] = {}

    def problem(self, kind: str, text: str) -> None:
        """A promise was broken."""
        self.problems.append(f"{kind}: {text} (at {self.clock():.5f} s)")

    def note(self, text: Callable[[], str]) -> None:
        if self.keep_story:
            self.story.append(f"{self.clock():10.5f} {text()}")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # Journals

    def lineage(self, name: str) -> Lineage:
        found = self._lineages.get(name)
        if found is None:
            found = self._lineages[name] = Lineage()
        return found

    def durable_rows(self, class_name: str, name: str) -> dict[str, Any]:
        rows = self.disk.rows(object_key(class_name, name), self.clock())
        return {key: msgspec.msgpack.decode(raw) for key, raw in rows.items() if key}

    def journal_loaded(self, name: str, rows: dict[str, Any]) -> None:
        """A new instance has read all it has. Newer segments will never become durable."""
        lineage = self.lineage(name)
        version = rows.get(VERSION, 0)
        durable = self.durable_rows("Journal", name)
        self.note(lambda: f"{name} starts with version {version}")
        if rows != durable:
            self.problem("recovery", f"{name} starts with {rows}, durable is {durable}")
        if version < lineage.must:
            self.problem("lost", f"{name} starts with version {version}, but {lineage.must} had been confirmed")
        lineage.starts(version, rows, undecided=self.disk.is_undecided(object_key("Journal", name)))
        self._check_state(name, version, rows)
        lineage.forget_after(version)

    def _check_state(self, name: str, version: int, rows: dict[str, Any]) -> None:
        segment = self.lineage(name).segments.get(version)
        if segment is None:
            self.problem("recovery", f"{name} has version {version}, which nobody has written")
        elif segment.rows != rows:
            self.problem("atomicity", f"{name} has {rows} at version {version}; written was {segment.rows}")
        else:
            for other, (seen_version, stamp) in segment.seen.items():
                if other != name and self.lineage(other).is_lost(seen_version, stamp):
                    self.problem("causality", f"{name} at version {version} has seen version {seen_version} of {other}: lost")

    def journal_wrote(self, name: str, version: int, rows: dict[str, Any], seen: Seen, *, confirmed: bool) -> int:
        """Returns the segment's stamp."""
        stamp = self._stamps()
        self.note(lambda: f"{name} writes version {version}{'' if confirmed else ' (unconfirmed)'}")
        self.lineage(name).segments[version] = Segment(stamp, rows, seen, confirmed=confirmed)
        self.count("segments")
        return stamp

    # What is seen

    def table_of(self, seen: Seen) -> int:
        """A number that stands for it in messages."""
        self._tables.append(dict(seen))
        return len(self._tables) - 1

    def table(self, number: int) -> Seen:
        return self._tables[number]

    def check_remembers_nothing_lost(self, name: str, seen: Seen) -> None:
        for other, (version, stamp) in seen.items():
            if self.lineage(other).is_lost(version, stamp):
                self.problem("memory", f"{name} runs and has seen version {version} of {other}, which is lost")

    def leaves(self, what: str, number: int) -> None:
        """A message that reveals what is in table `number` leaves its worker."""
        for name, (version, stamp) in self._tables[number].items():
            durable = self.durable_rows("Journal", name).get(VERSION, 0)
            if durable < version or self.lineage(name).is_lost(version, stamp):
                self.problem("output gate", f"{what} reveals version {version} of {name}; durable is {durable}")

    def told(self, number: int) -> None:
        """Somebody outside has got that message."""
        for name, (version, _) in self._tables[number].items():
            lineage = self.lineage(name)
            lineage.must = max(lineage.must, version)

    # Instances

    def delivered(self, sender: str, number: int, target: str) -> None:
        """A call of `sender`, its `number`th to anybody, starts at `target`."""
        before = self._starts.get((sender, target), -1)
        if number <= before:
            self.problem("order", f"call {number} of {sender} starts at {target} after call {before}")
        self._starts[sender, target] = number

    def instance_runs(self, instance: Any) -> None:
        """At most one instance of an object is alive."""
        key = instance.id.class_name, instance.id.name
        other = self._instances.get(key)
        if other is instance:
            return
        activation = None if other is None else other.__dict__.get("_activation")  # It has none when it has left memory.
        if activation is not None and activation.broken is None and activation.host.loop.alive:
            self.problem("activation", f"two instances of {instance.id} are alive")
        self._instances[key] = instance

    def alarm_dies(self, name: str, mark: int) -> None:
        """A handler is about to end its process. The alarm is given up before that becomes a habit."""
        self.count("deaths by an alarm")
        deaths = self._alarm_deaths[name, mark] = self._alarm_deaths.get((name, mark), 0) + 1
        if deaths > ALARM_DEATHS_MAX:
            self.problem("alarm", f"the alarm of {name} has ended its process {deaths} times")

    # The end

    def check_alarms(self) -> None:
        """It has been quiet for long: every alarm that was set has rung, or was given up."""
        abandoned = self.disk.rows(ABANDONED_KEY, self.clock())
        for name in sorted(self._lineages):
            given_up = object_key("Journal", name).hex() in abandoned
            if ALARM_KEY in self.durable_rows("Journal", name) and not given_up:
                self.problem("alarm", f"the alarm of {name} was not rung")

    def check_recovered(self, recovered: dict[bytes, bytes]) -> None:
        """`recovered`: all rows of all shards after the last recovery."""
        expected = self.disk.everything()
        headers = [named_by(value) for key, value in expected.items() if is_header(key)]
        expected |= dict(index_row(named) for named in headers if named is not None)
        if recovered != expected:
            lost = sorted(key for key in expected if recovered.get(key) != expected[key])
            extra = sorted(key for key in recovered if key not in expected)
            self.problem("recovery", f"missing or other rows {lost[:5]}, rows that were deleted {extra[:5]}")
        for name, lineage in sorted(self._lineages.items()):
            rows = self.durable_rows("Journal", name)
            version = rows.get(VERSION, 0)
            if version < lineage.must:
                self.problem("lost", f"{name} ends with version {version}, but {lineage.must} had been confirmed")
            lineage.starts(version, rows, undecided=False)
            lineage.forget_after(version)
        for name in sorted(self._lineages):
            rows = self.durable_rows("Journal", name)
            self._check_state(name, rows.get(VERSION, 0), rows)
