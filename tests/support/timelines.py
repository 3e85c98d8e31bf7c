"""What happens in explored runs, line by line, as one digest: `python -m tests.support.timelines`, `--lines` for the lines.

Of every planted mistake and its twin, and of what `tidegate test` makes of them."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.testing.catalogue import CATALOGUE, SHARED, Planted, Purse
from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing import Objects
from tidegate.testing.exploration import Exploration
from tidegate.testing.schedule import Schedule, Search, seed_of
from tidegate.testing.stock.scripts import draw_script, offers_of
from tidegate.testing.stock.trial import Manner, Trial

SCHEDULES = 12
SCRIPTS = 3


def explored(planted: Planted, cls: Any) -> Iterator[str]:
    exploration = Exploration(SCHEDULES, crashes=2, evictions=True, failures=True, delays=True, workers=3)
    objects = Objects()
    for schedule in Search(SCHEDULES, Random(planted.name)).schedules():
        SHARED.clear()
        yield from one_run(planted, cls, objects, schedule, exploration)
    objects.abandon()


def one_run(planted: Planted, cls: Any, objects: Objects, schedule: Schedule, exploration: Exploration) -> Iterator[str]:
    objects.begin(schedule, exploration, timeline=True)
    try:
        objects.run(planted.test(objects, cls))
        ended = "passed"
    except Exception as error:
        ended = f"{type(error).__name__}"
    yield f"{cls.__name__} {seed_of(schedule.effective)} of {len(schedule.ways)} points, {objects.turns} turns: {ended}"
    yield from objects.timeline


def tried(cls: Any) -> Iterator[str]:
    classes = [ObjectClass(cls), ObjectClass(Purse)]
    offers, _ = offers_of(classes)
    for number in range(SCRIPTS):
        script = draw_script(number, offers)
        outcome = Trial(classes).run(script.steps, Manner(), {7: 1}, timeline=True)
        yield from map(str, script.steps)
        yield f"{outcome.answers} {outcome.stored}"
        yield from outcome.timeline


def lines() -> Iterator[str]:
    for planted in CATALOGUE:
        for cls in (planted.wrong, planted.right):
            yield from explored(planted, cls)
        yield from tried(planted.right)


def main() -> None:
    logging.disable(logging.CRITICAL)
    digest = hashlib.sha256()
    for line in lines():
        digest.update(line.encode())
        if "--lines" in sys.argv:
            print(line)
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
