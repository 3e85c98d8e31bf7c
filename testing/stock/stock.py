"""Stock exploration: which runs are made of the classes of an app, and what is found in them.

Of each script: a run to which nothing happens, the *twin*; the same once more, which has to be the same; one at another time,
with other numbers of chance, whose differences are noise. Then one run for each mishap there is a place for in it: everything
leaves memory after a call, all workers crash between two calls, a worker crashes at each point of a call or an alarm, a commit
fails. What was answered and what is stored in the end is compared with the twin. Two calls that follow each other are made at
the same time, too: some order of them has to explain what comes of it.

Guarantee: what is found is told by the fewest calls that show it, and named, so that it can be run again. Of one kind one is
told for each class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing.schedule import Deviations, deviations_of, seed_of
from tidegate.testing.stock.comparison import Difference, Noise, differences
from tidegate.testing.stock.report import Told, place_of, shown
from tidegate.testing.stock.scripts import Script, Step, draw_script, offers_of, parsed, swapped, together
from tidegate.testing.stock.trial import Manner, Outcome, TooMuch, Trial

TWIN = Manner()
OTHERS = (Manner("another", late_s=1_000.7, pace=1.07), Manner("a third", late_s=7.3, pace=0.93))
"""What they differ in from the twin depends on time or chance alone."""
SCRIPTS = 84
FASTER = 1 / 60
"""All time, in a script in which too much happens in an hour."""
PLACES_MAX = 48
"""At which something happens, of one script."""
NOTES_MAX = 5
OUTSIDE, MEMORY, CRASH, FAILURE, HALF, TOGETHER = "outside", "memory", "crash", "failure", "half", "together"
"""Kinds of what is found: state that no object holds; state in memory only; what a crash, or a commit that fails, makes
different; a call that was cut off and left something half done; two calls at the same time that no order explains."""


class Discovered(NamedTuple):
    kind: str
    class_name: str
    seed: str
    steps: tuple[Step, ...]
    happened: list[str]
    differences: list[Difference]
    twin: Outcome
    outcome: Outcome

    @property
    def told(self) -> Told:
        return Told(
            self.kind,
            self.class_name,
            self.seed,
            [str(step) for step in self.steps],
            list(zip(self.twin.answers, self.outcome.answers, strict=True)),
            self.happened,
            [(place_of(each.path), shown(each.twin), shown(each.found)) for each in self.differences],
            self.outcome.timeline,
        )


class Twins(NamedTuple):
    """What a script does if nothing happens."""

    outcome: Outcome
    noise: Noise
    unsteady: list[Difference]
    """Two of them differ, as they must not."""


class StockExploration:
    def __init__(
        self, classes: Sequence[ObjectClass], scripts: int = SCRIPTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.offers, self.left_out = offers_of(classes)
        self.runs = self.scripts = 0
        self.troubles: dict[str, None] = {}
        """What went wrong in no call, in runs to which nothing happened."""
        self.answered: dict[str, bool] = {}
        """By method that was called: whether it has ever answered, and not raised."""
        self.out_of_time = False
        self._scripts = scripts
        self._trial = Trial(classes)
        self._clock = clock
        self._ends = float("inf")
        self._told: set[tuple[str, str]] = set()
        self._fast = False

    def explore(self, seconds: float, progress: Callable[[float], object]) -> Iterator[Discovered]:
        """What differs, as it is found; `progress` is told the share that is done."""
        began = self._clock()
        self._ends = began + seconds
        for number in range(self._scripts):
            script = draw_script(number, self.offers)
            yield from self._of_script(script)
            self.scripts += 1
            progress(max(self.scripts / self._scripts, (self._clock() - began) / seconds))
            if self._is_over():
                self.out_of_time = self.scripts < self._scripts
                return

    def again(self, seed: str) -> Discovered | None:
        """What that seed names, if it is still so. Raises ValueError for what is no seed."""
        number, kept, way = parsed(seed)
        script = draw_script(number, self.offers).only(kept)
        twins = self._twins(script)
        if way == OUTSIDE:
            return self._outside(script, twins)
        if way.startswith("="):
            return self._at_once(script, twins, int(way[1:]), timeline=True)
        return self._after(script, twins, deviations_of(way), timeline=True)

    @property
    def never_answered(self) -> list[str]:
        """Methods that raised whenever they were called."""
        return sorted(method for method, answered in self.answered.items() if not answered)

    @property
    def notes(self) -> list[str]:
        """What says how far the app was tried at all."""
        raised = [f"{method} raised each time that it was called: little of it was tried" for method in self.never_answered]
        return [*self.left_out, *raised, *list(self.troubles)[:NOTES_MAX]]

    # A script

    def _of_script(self, script: Script) -> Iterator[Discovered]:
        twins = self._twins(script)
        self._note(script, twins.outcome)
        for found in self._findings(script, twins):
            if (found.kind, found.class_name) in self._told:
                continue
            if found.kind in (CRASH, FAILURE, HALF) and (MEMORY, found.class_name) in self._told:
                continue  # What is in memory only is lost by these, too.
            self._told.add((found.kind, found.class_name))
            yield self._shortest(script, found)

    def _findings(self, script: Script, twins: Twins) -> Iterator[Discovered]:
        if twins.unsteady:
            found = self._outside(script, twins)
            if found is not None:
                yield found
            return
        for at in _spread(len(twins.outcome.schedule.ways), PLACES_MAX):
            if self._is_over():
                return
            found = self._after(script, twins, {at: 1})
            if found is not None:
                yield found
        for at in together(script):
            found = self._at_once(script, twins, at)
            if found is not None:
                yield found

    def _twins(self, script: Script) -> Twins:
        self._fast = False
        try:
            one = self._run(script, bounded=True)
        except TooMuch:
            self._fast = True
            one = self._run(script)
        same = self._run(script)
        noise = Noise.of(one.told, [self._run(script, manner=manner).told for manner in OTHERS])
        return Twins(one, noise, list(differences(one.told, same.told, Noise())))

    def _run(
        self, script: Script, deviations: Deviations | None = None, *, manner: Manner = TWIN, at_once: int | None = None,
        timeline: bool = False, bounded: bool = False,
    ) -> Outcome:  # fmt: skip
        self.runs += 1
        if self._fast:
            manner = manner._replace(pace=manner.pace * FASTER)
        return self._trial.run(script.steps, manner, deviations, together=at_once, timeline=timeline, bounded=bounded)

    def _outside(self, script: Script, twins: Twins) -> Discovered | None:
        if not twins.unsteady:
            return None
        again = self._run(script, timeline=True)
        unlike = list(differences(twins.outcome.told, again.told, Noise())) or twins.unsteady
        happened = ["nothing: the same calls were made twice, of objects that had nothing stored"]
        return self._found(OUTSIDE, script, OUTSIDE, happened, unlike, twins.outcome, again)

    def _after(self, script: Script, twins: Twins, deviations: Deviations, *, timeline: bool = False) -> Discovered | None:
        """A run in which that happens."""
        outcome = self._run(script, deviations, timeline=timeline)
        if not outcome.mishaps:
            return None
        unlike = list(differences(twins.outcome.told, outcome.told, twins.noise))
        if unlike and outcome.cut_off is not None and self._as_called_twice(script, twins, outcome):
            return None
        if not unlike:
            return None
        kind = HALF if outcome.cut_off is not None else _kind_of(outcome.mishaps[0].label)
        happened = [point.label for point in outcome.mishaps]
        if outcome.cut_off is not None:
            happened.append(f"step {outcome.cut_off + 1} was cut off, and its caller asked once more")
        return self._found(kind, script, seed_of(deviations), happened, unlike, twins.outcome, outcome)

    def _as_called_twice(self, script: Script, twins: Twins, outcome: Outcome) -> bool:
        """A call that was cut off had run, and its caller could not know: so it has run twice."""
        at = outcome.cut_off
        assert at is not None
        doubled = (*script.steps[: at + 1], *script.steps[at:])
        twice = self._run(Script(script.number, (), doubled))
        answers = [*twice.answers[:at], *twice.answers[at + 1 :]]
        return not any(differences({**twice.told, "answers": answers}, outcome.told, twins.noise))

    def _at_once(self, script: Script, twins: Twins, at: int, *, timeline: bool = False) -> Discovered | None:
        outcome = self._run(script, at_once=at, timeline=timeline)
        unlike = list(differences(twins.outcome.told, outcome.told, twins.noise))
        if not unlike:
            return None
        other = self._run(Script(script.number, (), swapped(script.steps, at)))
        answers = swapped(other.answers, at)
        if not any(differences({**other.told, "answers": list(answers)}, outcome.told, twins.noise)):
            return None
        happened = [f"steps {at + 1} and {at + 2} were at the same time, and no order of them explains what came of it"]
        return self._found(TOGETHER, script, f"={at}", happened, unlike, twins.outcome, outcome)

    @staticmethod
    def _found(
        kind: str, script: Script, way: str, happened: list[str], unlike: list[Difference], twin: Outcome, outcome: Outcome
    ) -> Discovered:  # fmt: skip
        return Discovered(
            kind, _class_of(unlike[0], script), f"{script.name}:{way}", script.steps, happened, unlike, twin, outcome
        )

    # The shortest

    def _shortest(self, script: Script, found: Discovered) -> Discovered:
        """Calls are left out one after another, the last first, for as long as something of that kind is found."""
        smallest = found
        at = len(script.steps)
        while at > 0 and not self._is_over():
            at -= 1
            fewer = script.only(each for each in range(len(script.steps)) if each != at)
            twins = self._twins(fewer)
            kind = (found.kind, found.class_name)
            same = next((each for each in self._findings(fewer, twins) if (each.kind, each.class_name) == kind), None)
            if same is not None:
                smallest, script = same, fewer
        return self.again(smallest.seed) or smallest

    def _is_over(self) -> bool:
        return self._clock() >= self._ends

    def _note(self, script: Script, outcome: Outcome) -> None:
        self.troubles |= dict.fromkeys(outcome.troubles)
        for step, answer in zip(script.steps, outcome.answers, strict=True):
            if answer is not None:
                method = f"{step.class_name}.{step.method}"  # type: ignore[union-attr]  # what is answered was asked
                self.answered[method] = self.answered.get(method, False) or answer[0]


def _spread(count: int, most: int) -> list[int]:
    """Of so many, so many at the most, evenly."""
    return list(range(count)) if count <= most else [at * count // most for at in range(most)]


def _kind_of(label: str) -> str:
    if label.startswith(("everything", "all")):
        return MEMORY
    return FAILURE if label.endswith("fails") else CRASH


def _class_of(unlike: Difference, script: Script) -> str:
    """Whose call was answered otherwise, or who has stored something else."""
    where, *rest = unlike.path or ("",)
    if where == "answers" and rest:
        return script.steps[rest[0]].class_name  # type: ignore[union-attr]  # what is answered was asked
    return str(rest[0]).partition("/")[0] if rest else ""
