"""Objects of a service that runs, as records that travel: read through the workers that own them, behind their gates.

Guarantee: each object is as it was at one instant, with what is not durable yet, or is named as one that was changed each time
while it was read. Objects come and go meanwhile: one that is there from the beginning to the end is in it. Workers may be
replaced, or end and be started, meanwhile. What is not answered in `--timeout` ends it: nothing is passed over.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from tidegate.runtime.cli.commanding import wish_for
from tidegate.runtime.cli.gathered import pages
from tidegate.runtime.cli.wishing import Result, patiently
from tidegate.runtime.errors import CallError
from tidegate.runtime.wire.object_records import Head, ObjectEnd, Pair, Record
from tidegate.runtime.wire.wishes import MANY_OBJECTS_MAX, SHOWN_ROWS_MAX, ListNames, ReadMany, Show

ATTEMPTS = 5
"""So often an object that does not fit in one page is read."""
AT_ONCE = 3
"""Times MANY_OBJECTS_MAX objects that are read at the same time: some MiB, since of each there is a page at most."""
PAGE = 2 * MANY_OBJECTS_MAX
"""Names that are asked for at once."""


class Unsteady(Exception):
    """The object was changed each time while it was read."""


def object_records(options: argparse.Namespace, target: str) -> list[Record]:
    """As it was at one instant. Raises CallError, OperatorError, Unsteady."""
    for _ in range(ATTEMPTS):
        if (found := _read(options, target)) is not None:
            return _records(target, *found)
    raise Unsteady


def _records(target: str, alarm: Result | None, rows: list[Result]) -> list[Record]:
    alarm_ms = None if alarm is None else alarm["due_ms"]
    return [Head(target, alarm_ms), *(Pair(row["key"], row["value"]) for row in rows), ObjectEnd(target, len(rows))]


def _read(options: argparse.Namespace, target: str) -> tuple[Result | None, list[Result]] | None:
    """Its alarm, and its rows. None: it was changed between one page and the next. (That two readings are the same would prove
    nothing: what goes from one key to another and back could be seen in both, or in neither.)"""
    rows: list[Result] = []
    since: set[int | None] = set()
    while True:
        wish = Show(after=rows[-1]["key"] if rows else "", limit=SHOWN_ROWS_MAX, whole=True)
        page = patiently(options, partial(wish_for, options, wish, target))
        if page["more"] or rows:
            since.add(page["unchanged_since"])
            if None in since or len(since) > 1:
                return None
        rows += page["rows"]
        if not page["more"]:
            return page["alarm"], rows


def records_of(options: argparse.Namespace, wish: ListNames, unsteady: list[str]) -> Iterator[Record]:
    """Of all those objects, in order. `unsteady` gets the names of those that are not in it. Raises CallError, OperatorError."""
    reading: deque[tuple[list[str], Future[list[Result | None]]]] = deque()

    def oldest() -> Iterator[Record]:
        targets, future = reading.popleft()
        for target, page in _in_order(options, targets, future.result()):
            try:
                yield from _whole(options, target, page)
            except Unsteady:
                unsteady.append(target)

    with ThreadPoolExecutor(AT_ONCE, "tidegate-export") as threads:
        try:
            for page in pages(options, wish):
                targets = [f"{each['class']}/{each['name']}" for each in page]
                for start in range(0, len(targets), MANY_OBJECTS_MAX):
                    some = targets[start : start + MANY_OBJECTS_MAX]
                    reading.append((some, threads.submit(_read_many, options, some)))
                    if len(reading) > AT_ONCE:
                        yield from oldest()
            while reading:
                yield from oldest()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _read_many(options: argparse.Namespace, targets: list[str]) -> list[Result | None]:
    found: list[Result | None] = wish_for(options, ReadMany(targets), "")["pages"]
    return found


def _in_order(options: argparse.Namespace, targets: list[str], pages: list[Result | None]) -> Iterator[tuple[str, Result]]:
    """With the pages of those that were left out, since there were too many bytes: they are asked for again."""
    for at, target in enumerate(targets):
        if pages[at] is None:
            left = [number for number in range(at, len(targets)) if pages[number] is None]
            for number, found in zip(left, _read_many(options, [targets[each] for each in left]), strict=True):
                pages[number] = found
        page, pages[at] = pages[at], None
        assert page is not None, "the first of those that a worker is asked for is never left out"
        yield target, page


def _whole(options: argparse.Namespace, target: str, page: Result) -> list[Record]:
    """None if it was deleted meanwhile. What does not fit in a page, or could not be read at once, is asked for by itself."""
    error = page.get("error")
    if error is None and not page["more"]:
        return _records(target, page["alarm"], page["rows"])
    try:
        return [] if error is not None and error.get("missing") else object_records(options, target)
    except CallError as gone:
        if gone.details.get("missing"):
            return []
        raise
