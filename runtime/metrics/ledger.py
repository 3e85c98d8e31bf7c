"""The ledger: what the processes of a service have counted, those that are there and those that were.

Guarantee: what is added up over processes never goes back, whoever is replaced: what a process has told last stays when it is
gone. (What it has counted since, in two seconds at most, is lost with one that is killed.) What a process says that is in no
catalogue, or has another shape, is left out.

Rule: pure. `now` is an argument. Gauges are of those that are there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from tidegate.runtime.metrics.catalogue import CATALOGUE, Kind, Metric
from tidegate.runtime.metrics.rates import Rates, calls_by_shard, rates_of
from tidegate.runtime.wire.counts import Counts, Histogram, Labels, Value, added, without

Sums = dict[str, dict[Labels, Value]]
"""By key of the catalogue, and by the values of all labels of the metric."""

TOLD_S_MIN = 0.5
"""What was told sooner after what was told before is no measure of how fast it goes."""
STALE_S = 10.0
"""Of a process that has told nothing for so long nobody knows how fast it goes."""


class _Process:
    def __init__(self, now: float) -> None:
        self.name = ""
        self.counts: Counts = {}
        self.told_at = self.since = now
        self.rates: Rates | None = None
        self.calls_by_shard: dict[int, float] = {}
        """A second."""
        self.before: Counts = {}


class Ledger:
    def __init__(self) -> None:
        self._alive: dict[Hashable, _Process] = {}
        self._past: Sums = {}

    def told(self, process: Hashable, name: str, counts: Counts, now: float) -> None:
        """`process`: of which no other is equal, however often one takes a seat. `name`: whose seat it has."""
        known = self._alive.get(process)
        if known is None:
            known = self._alive[process] = _Process(now)
        known.name = name
        known.counts = _sound(counts)
        known.told_at = now
        if now - known.since >= TOLD_S_MIN:
            since, elapsed_s = _since(known.counts, known.before), now - known.since
            known.rates = rates_of(since, elapsed_s)
            known.calls_by_shard = calls_by_shard(since, elapsed_s)
            known.since, known.before = now, known.counts

    def counted(self, key: str, *labels: str, value: int = 1) -> None:
        """By the supervisor itself."""
        values = self._past.setdefault(key, {})
        values[labels] = added(values.get(labels, 0), value)

    def observed(self, key: str, *labels: str, value: float) -> None:
        """The same of a histogram."""
        observed = Histogram(CATALOGUE[key].bounds)
        observed.observe(value)
        values = self._past.setdefault(key, {})
        values[labels] = added(values[labels], observed.value()) if labels in values else observed.value()

    def gone(self, process: Hashable) -> None:
        if (known := self._alive.pop(process, None)) is not None:
            _add(self._past, known, past=True)

    def sums(self) -> Sums:
        """What has been counted by all, as of now."""
        sums: Sums = {key: dict(values) for key, values in self._past.items()}
        for process in self._alive.values():
            _add(sums, process)
        return sums

    def heard(self, process: Hashable) -> float | None:
        """When it has told something last."""
        known = self._alive.get(process)
        return None if known is None else known.told_at

    def rates(self, process: Hashable, now: float) -> Rates | None:
        """How fast it goes, over the last two seconds or so. None: that is not known."""
        known = self._alive.get(process)
        return None if known is None or now - known.told_at > STALE_S else known.rates

    def calls_by_shard(self, now: float) -> dict[int, float]:
        """Calls a second, over the last two seconds or so, of those shards that have any."""
        sums: dict[int, float] = {}
        for process in self._alive.values():
            if now - process.told_at <= STALE_S:
                for shard, rate in process.calls_by_shard.items():
                    sums[shard] = sums.get(shard, 0.0) + rate
        return sums


def _add(sums: Sums, process: _Process, *, past: bool = False) -> None:
    for metric, labels, value in _rows(process.counts):
        if past and metric.kind is Kind.GAUGE:
            continue
        values = sums.setdefault(metric.key, {})
        at = (process.name, *labels) if metric.by_process else labels
        values[at] = value if at not in values else added(values[at], value)


def _rows(counts: Counts) -> Iterator[tuple[Metric, Labels, Value]]:
    for key, rows in counts.items():
        for labels, value in rows:
            yield CATALOGUE[key], labels, value


def _sound(counts: Counts) -> Counts:
    known = {key: rows for key, rows in counts.items() if key in CATALOGUE}
    return {key: [row for row in rows if _fits(CATALOGUE[key], *row)] for key, rows in known.items()}


def _fits(metric: Metric, labels: Labels, value: Value) -> bool:
    if len(labels) != len(metric.labels):
        return False
    if metric.kind is Kind.HISTOGRAM:
        return isinstance(value, list) and len(value) == len(metric.bounds) + 2
    return not isinstance(value, list)


def _since(counts: Counts, before: Counts) -> Counts:
    known = {(key, labels): value for key, rows in before.items() for labels, value in rows}
    return {
        key: [(labels, without(value, known.get((key, labels)))) for labels, value in rows]
        for key, rows in counts.items()
        if CATALOGUE[key].kind is not Kind.GAUGE
    }
