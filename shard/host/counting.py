"""What a worker counts of the calls to its objects: how many, how long they waited and ran, and which errors they were given.

Guarantee: each call that has been run is in the histograms of queue and run of its class once, and each error that was given is
counted by its code. What is asked for classes that the app does not have is counted as of one (`UNKNOWN`), so that nobody outside
decides how many classes there are.

Calls that need nothing else run one after the other, and to look at the clock for each would cost a hundredth of it. So that is
done once for a *stretch*: calls of one message to one class that come right after each other. Each of them has run for the
stretch's time divided by their number, and whoever is answered at once is answered at its end. What a commit has held back was
answered when that was durable. Numbers and sums are exact; in the histogram of running times the short calls of a stretch hide a
long one among them. A call that waits for anything but its own storage has its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import BY_CODE, Internal
from tidegate.runtime.wire.counts import Counts, Histogram, rows

if TYPE_CHECKING:
    from tidegate.runtime.wire.protocol import Origin
    from tidegate.shard.host.keyed_calls import KeyedRun
    from tidegate.shard.host.table import Kept

UNKNOWN = "(unknown)"
"""No class can be called so."""


class ClassCounts:
    """Of one object class."""

    __slots__ = ("answer", "class_name", "errors", "gate_closed", "queue", "run")

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.queue = Histogram()
        """From the arrival of a call to its start."""
        self.run = Histogram()
        """From its start to its end."""
        self.answer = Histogram()
        """From its arrival until its reply may leave."""
        self.gate_closed = Histogram()
        """How long something kept the gate of an object closed."""
        self.errors: dict[str, int] = {}
        """By code."""


class CallCount:
    """Of one object class in one shard."""

    __slots__ = ("calls", "of_class", "shard")

    def __init__(self, of_class: ClassCounts, shard: int) -> None:
        self.of_class = of_class
        self.shard = shard
        self.calls = 0


class Counting:
    """Of one worker."""

    __slots__ = (
        "_arrived_s", "_by_shard", "_classes", "_clock", "_held", "_held_since_s", "_left", "_releasing", "_slowest_s", "at_once",
        "now_s", "suspended", "unknown",
    )  # fmt: skip

    def __init__(self, classes: Iterable[ClassCounts], clock: Callable[[], float]) -> None:
        self.unknown = ClassCounts(UNKNOWN)
        self._classes = {each.class_name: each for each in classes}
        self._by_shard: dict[tuple[str, int], CallCount] = {}
        self._clock = clock
        self._arrived_s = self._held_since_s = self._slowest_s = 0.0
        self._left = self._held = 0
        self._releasing = self.unknown
        self.now_s = 0.0
        """When it was looked at the clock: the end of the last stretch, and the beginning of the next."""
        self.at_once = self.suspended = 0
        """Of the calls that have been run since it was looked at the clock: those that were answered, and those that wait."""

    def of(self, class_name: str, shard: int) -> CallCount:
        """Where an object counts its calls."""
        count = self._by_shard.get((class_name, shard))
        if count is None:
            count = self._by_shard[class_name, shard] = CallCount(self._classes.get(class_name, self.unknown), shard)
        return count

    # Stretches

    def begin(self, origin: Origin, now_s: float, calls: int, kept: Kept | None) -> ClassCounts:
        """A message has arrived, and its calls are about to be run; the first one is to that class. Returns where it counts."""
        of_class = self.unknown if kept is None else kept.counts
        if origin.arrived_s:  # The rest of a large one.
            self.resume(origin, calls)
            origin.of_class = of_class if of_class is origin.of_class else None
        else:
            self.now_s = self._arrived_s = origin.arrived_s = now_s
            self._left = calls
            self.at_once = self.suspended = 0
            origin.of_class = of_class
        return of_class

    def resume(self, origin: Origin | KeyedRun, left: int = 1) -> None:
        """Other code has run; now it is the turn of calls of this message, of which so many are left."""
        self._arrived_s = origin.arrived_s
        self._left = left
        self.now_s = self._clock()
        self.at_once = self.suspended = 0

    def next_stretch(self, origin: Origin, of_class: ClassCounts, left: int, kept: Kept | None) -> ClassCounts:
        """Of the message so many calls are left, and the next one is to another class."""
        self.end_stretch(of_class, left)
        origin.of_class = None
        return self.unknown if kept is None else kept.counts

    def end_stretch(self, of_class: ClassCounts, left: int = 0) -> None:
        """All calls up to those that are left have run one after the other."""
        ran = self._left - left
        if not ran:
            return
        self._left = left
        began_s, arrived_s = self.now_s, self._arrived_s
        now_s = self.now_s = self._clock()
        if arrived_s:
            if began_s == arrived_s:
                of_class.queue.buckets[0] += ran
            else:
                of_class.queue.observe(began_s - arrived_s, ran)
            if self.at_once:
                of_class.answer.observe(now_s - arrived_s, self.at_once)
        if (ended := ran - self.suspended) > 0:
            of_class.run.observe((now_s - began_s) / ran, ended)
        self.at_once = self.suspended = 0

    def end(self, of_class: ClassCounts, origin: Origin | KeyedRun, began_s: float) -> float:
        """A call that had waited has ended; it went on with `resume`. Returns when."""
        now_s = self._clock()
        of_class.run.observe(now_s - began_s)
        if self.at_once and origin.arrived_s:
            of_class.answer.observe(now_s - origin.arrived_s)
        return now_s

    # Replies that a commit has held back

    def next_release(self, sender: Any, origin: Origin, left: int, now_s: float) -> Origin | None:
        """With so many left, those of another message follow. Returns it, if all of its calls are of one class; else it is to be
        asked for each."""
        if self._held_since_s:
            self._end_release(now_s, left)
        self._held, self._held_since_s = left, origin.arrived_s
        if origin.of_class is not None:
            self._releasing = origin.of_class
            return origin
        self._releasing = self.unknown if sender is None else sender.count.of_class
        return None

    def end_releases(self, now_s: float) -> float:
        """All have left. Returns how long the slowest has taken."""
        if self._held_since_s:
            self._end_release(now_s, 0)
            self._held_since_s = 0.0
        slowest_s, self._slowest_s = self._slowest_s, 0.0
        return slowest_s

    def _end_release(self, now_s: float, left: int) -> None:
        taken_s = now_s - self._held_since_s
        self._releasing.answer.observe(taken_s, self._held - left)
        if taken_s > self._slowest_s:
            self._slowest_s = taken_s

    def error(self, class_name: str, code: str) -> None:
        errors = self._classes.get(class_name, self.unknown).errors
        code = code if code in BY_CODE else Internal.code
        errors[code] = errors.get(code, 0) + 1

    # What is told

    @property
    def calls(self) -> int:
        return sum(count.calls for count in self._by_shard.values())

    def counts(self) -> Counts:
        by_class = dict.fromkeys(self._classes, 0)
        by_shard: dict[int, int] = {}
        for (class_name, shard), count in self._by_shard.items():
            by_class[class_name] = by_class.get(class_name, 0) + count.calls
            by_shard[shard] = by_shard.get(shard, 0) + count.calls
        classes = [*self._classes.values(), self.unknown]

        def histograms(name: str) -> Any:
            return rows(((each.class_name,), getattr(each, name)) for each in classes)

        return {
            "calls": [((name,), calls) for name, calls in by_class.items()],
            "shard_calls": [((str(shard),), calls) for shard, calls in by_shard.items()],
            "call_errors": [((each.class_name, code), count) for each in classes for code, count in each.errors.items()],
            "call_queue_seconds": histograms("queue"),
            "call_run_seconds": histograms("run"),
            "call_answer_seconds": histograms("answer"),
            "gate_closed_seconds": histograms("gate_closed"),
        }
