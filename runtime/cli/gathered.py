"""What all workers tell of their objects, put together: pages of names, alarms, errors."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import msgspec

from tidegate.runtime.cli.wishing import Result, of_all, patiently
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.ids import name_row
from tidegate.runtime.wire.wishes import ListAlarms, ListClasses, ListErrors, ListNames


def names(options: argparse.Namespace, wish: ListNames) -> tuple[list[Result], list[str], bool]:
    """A page of objects in order; what is missing; whether there are more. Raises CallError, OperatorError, as all of these."""
    answers, missing = of_all(options, wish)
    objects = sorted((each for answer in answers for each in answer["objects"]), key=row_of)
    # Behind the last one of a worker that has more, not all are known.
    ends = [row_of(answer["objects"][-1]) for answer in answers if answer["more"]]
    known = [each for each in objects if not ends or row_of(each) <= min(ends)][: wish.limit]
    return known, missing, len(known) < len(objects) or bool(ends)


def pages(options: argparse.Namespace, wish: ListNames) -> Iterator[list[Result]]:
    """All of them. Raises CallError where a worker does not answer in `--timeout`: nothing is passed over."""
    more = True
    while more:
        objects, more = patiently(options, partial(_whole_page, options, wish))
        yield objects
        if objects:
            wish = msgspec.structs.replace(wish, after=(objects[-1]["class"], objects[-1]["name"]))


def _whole_page(options: argparse.Namespace, wish: ListNames) -> tuple[list[Result], bool]:
    objects, missing, more = names(options, wish)
    if missing:
        raise Unavailable(missing[0])
    return objects, more


def row_of(each: Result) -> str:
    """By which objects are in order."""
    return name_row(each["class"], each["name"])


def classes(options: argparse.Namespace) -> tuple[dict[str, Result], list[str]]:
    """By name, in order: how many objects there are and are in memory, and whether the app has the class; what is missing."""
    answers, missing = of_all(options, ListClasses())
    counts: dict[str, Result] = {}
    for answer in answers:
        for name, each in answer["classes"].items():
            known = counts.setdefault(name, {"objects": 0, "in_memory": 0, "in_app": each["in_app"]})
            known["objects"] += each["objects"]
            known["in_memory"] += each["in_memory"]
    return dict(sorted(counts.items())), missing


def alarms(options: argparse.Namespace, wish: ListAlarms, *, late: bool = False) -> tuple[Result, list[str]]:
    """Scheduled ones, those due first, and abandoned ones, the newest first; what is missing. `late`: of the scheduled only those
    that should have rung."""
    answers, missing = of_all(options, wish)
    now_ms = max(answer["now_ms"] for answer in answers)
    found = sorted((each for answer in answers for each in answer["alarms"]), key=lambda each: int(each["due_ms"]))
    more = len(found) > wish.limit or any(answer["more"] for answer in answers)
    found = [{**each, "late_s": round((now_ms - each["due_ms"]) / 1_000, 3)} for each in found[: wish.limit]]
    if late:
        more, found = more and found[-1]["late_s"] > 0, [each for each in found if each["late_s"] > 0]
    abandoned = sorted((each for answer in answers for each in answer["abandoned"]), key=lambda each: str(each["abandoned_at"]))
    return {"alarms": found, "abandoned": abandoned[::-1][: wish.limit], "more": more}, missing


def errors(options: argparse.Namespace, wish: ListErrors) -> tuple[Result, list[str]]:
    """What went wrong lately and which calls were slow, the newest first; what is missing."""
    answers, missing = of_all(options, wish)
    newest: Result = {"slow_call_s": answers[0]["slow_call_s"]}
    for what in ("errors", "slow"):
        found = (each for answer in answers for each in answer[what])
        newest[what] = sorted(found, key=lambda each: int(each["time_ms"]), reverse=True)[: wish.limit]
    return newest, missing
