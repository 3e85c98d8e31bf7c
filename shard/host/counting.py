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

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import BY_CODE, Internal
from tidegate.runtime.wire.counts import Counts, Histogram, rows

if TYPE_CHECKING:
    from tidegate.runtime.wire.protocol import Origin
    from tidegate.shard.host.keyed_calls import KeyedRun
    from tidegate.shard.host.table import Kept

MIXED = object()
"""In the place of the class of a message that has calls to several."""
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
        "_classes", "_clock", "arrived_s", "at_once", "kept", "left", "now_s", "suspended", "unknown"
    )  # fmt: skip

    def __init__(self, classes: Iterable[ClassCounts], clock: Callable[[], float]) -> None:
        self.unknown = ClassCounts(UNKNOWN)
        self._classes = {each.class_name: each for each in classes}
        self.kept: dict[tuple[str, int], CallCount] = {}
        """By class and shard, those that `of` was asked for."""
        self._clock = clock
        self.arrived_s = 0.0
        """Of the message at hand."""
        self.left = 0
        """How many of its calls have not been run."""
        self.now_s = 0.0
        """When it was looked at the clock: the end of the last stretch, and the beginning of the next."""
        self.at_once = self.suspended = 0
        """Of the calls that have been run since it was looked at the clock: those that were answered, and those that wait."""

    def of(self, class_name: str, shard: int) -> CallCount:
        """Where an object counts its calls."""
        count = self.kept.get((class_name, shard))
        if count is None:
            count = self.kept[class_name, shard] = CallCount(self._classes.get(class_name, self.unknown), shard)
        return count

    # Stretches

    def resume(self, origin: Origin | KeyedRun, left: int = 1) -> None:
        """Other code has run; now it is the turn of calls of this message, of which so many are left."""
        self.arrived_s = origin.arrived_s
        self.left = left
        self.now_s = self._clock()
        self.at_once = self.suspended = 0

    def first_stretch(self, origin: Origin, kept: Kept | None) -> ClassCounts:
        """The first call of the message is to that class. Returns where it counts."""
        of_class = self.unknown if kept is None else kept.counts
        origin.of_class = of_class if origin.of_class is None or origin.of_class is of_class else MIXED
        return of_class

    def next_stretch(self, origin: Origin, of_class: ClassCounts, left: int, kept: Kept | None) -> ClassCounts:
        """Of the message so many calls are left, and the next one is to another class."""
        self.end_stretch(of_class, left)
        origin.of_class = MIXED
        return self.unknown if kept is None else kept.counts

    def end_stretch(self, of_class: ClassCounts, left: int = 0) -> None:
        """All calls up to those that are left have run one after the other."""
        ran = self.left - left
        if not ran:
            return
        self.left = left
        began_s, arrived_s, clock = self.now_s, self.arrived_s, self._clock
        now_s = self.now_s = clock()
        if arrived_s:
            if began_s == arrived_s:
                of_class.queue.buckets[0] += ran
            else:
                of_class.queue.observe(began_s - arrived_s, ran)
            if self.at_once:
                of_class.answer.observe(now_s - arrived_s, self.at_once)
        took_s = now_s - began_s
        if self.suspended:
            if (ended := ran - self.suspended) > 0:
                of_class.run.observe(took_s / ran, ended)
            self.suspended = 0
        elif ran == 1:
            of_class.run.observe(took_s)
        else:
            of_class.run.observe(took_s / ran, ran)
        self.at_once = 0

    def end(self, of_class: ClassCounts, origin: Origin | KeyedRun, began_s: float) -> float:
        """A call that had waited has ended; it went on with `resume`. Returns when."""
        now_s = self._clock()
        of_class.run.observe(now_s - began_s)
        if self.at_once and origin.arrived_s:
            of_class.answer.observe(now_s - origin.arrived_s)
        return now_s

    def released(self, held: Sequence[tuple[Any, Origin, int]], now_s: float) -> float:
        """Replies that a commit has held back leave now, those of a message after each other: who has sent the first of them,
        their origin, and how many replies come after that one. Of a message to several classes each reply stands alone. Returns
        how long the slowest has taken."""
        slowest_s, after = 0.0, -1
        for sender, origin, left in reversed(held):
            arrived_s = origin.arrived_s
            if arrived_s:
                of_class = sender.count.of_class if origin.of_class is None or origin.of_class is MIXED else origin.of_class
                took_s = now_s - arrived_s
                of_class.answer.observe(took_s, left - after)
                if took_s > slowest_s:
                    slowest_s = took_s
            after = left
        return slowest_s

    def error(self, class_name: str, code: str) -> None:
        errors = self._classes.get(class_name, self.unknown).errors
        code = code if code in BY_CODE else Internal.code
        errors[code] = errors.get(code, 0) + 1

    # What is told

    @property
    def calls(self) -> int:
        return sum(count.calls for count in self.kept.values())

    def by_shard(self) -> dict[int, int]:
        """Calls."""
        calls: dict[int, int] = {}
        for (_, shard), count in self.kept.items():
            calls[shard] = calls.get(shard, 0) + count.calls
        return calls

    def counts(self) -> Counts:
        by_class = dict.fromkeys(self._classes, 0)
        for (class_name, _), count in self.kept.items():
            by_class[class_name] = by_class.get(class_name, 0) + count.calls
        classes = [*self._classes.values(), self.unknown]

        def histograms(name: str) -> Any:
            return rows(((each.class_name,), getattr(each, name)) for each in classes)

        return {
            "calls": [((name,), calls) for name, calls in by_class.items()],
            "shard_calls": [((str(shard),), calls) for shard, calls in self.by_shard().items()],
            "call_errors": [((each.class_name, code), count) for each in classes for code, count in each.errors.items()],
            "call_queue_seconds": histograms("queue"),
            "call_run_seconds": histograms("run"),
            "call_answer_seconds": histograms("answer"),
            "gate_closed_seconds": histograms("gate_closed"),
        }
