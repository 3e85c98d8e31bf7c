"""Objects of a service that runs, as records that travel: read through the workers that own them, behind their gates.

Guarantee: each object is as it was at one instant, with what is not durable yet, or is named as one that was changed each time
while it was read. Objects come and go meanwhile: one that is there from the beginning to the end is in it. What is not answered
ends it: nothing is passed over.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tidegate.runtime.cli.commanding import wish_for
from tidegate.runtime.cli.gathered import pages
from tidegate.runtime.cli.wishing import Result
from tidegate.runtime.errors import CallError
from tidegate.runtime.wire.object_records import Head, ObjectEnd, Pair, Record
from tidegate.runtime.wire.wishes import SHOWN_ROWS_MAX, ListNames, Show

ATTEMPTS = 5
"""So often an object that does not fit in one page is read twice."""
AT_ONCE = 8
"""Objects that are read at the same time."""
PAGE = 500
"""Names that are asked for at once."""


class Unsteady(Exception):
    """The object was changed each time while it was read."""


def object_records(options: argparse.Namespace, target: str) -> list[Record]:
    """What fits in one page was read at one instant; what is the same when it is read twice was so at one. Raises CallError,
    OperatorError, Unsteady."""
    for _ in range(ATTEMPTS):
        alarm_ms, rows, is_whole = _read(options, target)
        if is_whole or _digests(rows, alarm_ms) == _digests((again := _read(options, target))[1], again[0]):
            return [Head(target, alarm_ms), *(Pair(row["key"], row["value"]) for row in rows), ObjectEnd(target, len(rows))]
    raise Unsteady


def _read(options: argparse.Namespace, target: str) -> tuple[int | None, list[Result], bool]:
    """When its alarm is due, its rows, and whether one page had them all."""
    result = wish_for(options, Show(limit=SHOWN_ROWS_MAX, whole=True), target)
    alarm, is_whole, rows = result["alarm"], not result["more"], list(result["rows"])
    while result["more"]:
        result = wish_for(options, Show(after=rows[-1]["key"], limit=SHOWN_ROWS_MAX, whole=True), target)
        rows += result["rows"]
    return None if alarm is None else alarm["due_ms"], rows, is_whole


def _digests(rows: list[Result], alarm_ms: int | None) -> tuple[int | None, list[tuple[str, str]]]:
    return alarm_ms, [(row["key"], row["digest"]) for row in rows]


def records_of(options: argparse.Namespace, wish: ListNames, unsteady: list[str]) -> Iterator[Record]:
    """Of all those objects, in order. `unsteady` gets the names of those that are not in it. Raises CallError, OperatorError."""
    reading: deque[tuple[str, Future[list[Record]]]] = deque()

    def oldest() -> list[Record]:
        target, future = reading.popleft()
        try:
            return future.result()
        except Unsteady:
            unsteady.append(target)
        except CallError as error:
            if not error.details.get("missing"):  # Deleted meanwhile.
                raise
        return []

    with ThreadPoolExecutor(AT_ONCE, "tidegate-export") as threads:
        try:
            for page in pages(options, wish):
                for each in page:
                    target = f"{each['class']}/{each['name']}"
                    reading.append((target, threads.submit(object_records, options, target)))
                    if len(reading) == 2 * AT_ONCE:
                        yield from oldest()
            while reading:
                yield from oldest()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
