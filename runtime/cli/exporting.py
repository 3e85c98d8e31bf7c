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
from tidegate.runtime.wire.wishes import SHOWN_ROWS_MAX, ListNames, Show

ATTEMPTS = 5
"""So often an object that does not fit in one page is read."""
AT_ONCE = 8
"""Objects that are read at the same time."""
AHEAD_BYTES = 4 << 20
"""Of an object that is read before its turn to be written: of a larger one no more is read until then, since all of it is kept
until it is known to be of one instant."""
PAGE = 500
"""Names that are asked for at once."""


class Unsteady(Exception):
    """The object was changed each time while it was read."""


class _Large(Exception):
    """The object has more than should be kept before its turn."""


def object_records(options: argparse.Namespace, target: str, bytes_max: int | None = None) -> list[Record]:
    """As it was at one instant. Raises CallError, OperatorError, Unsteady; _Large where it has more than so many bytes."""
    for _ in range(ATTEMPTS):
        if (found := _read(options, target, bytes_max)) is not None:
            alarm_ms, rows = found
            return [Head(target, alarm_ms), *(Pair(row["key"], row["value"]) for row in rows), ObjectEnd(target, len(rows))]
    raise Unsteady


def _read(options: argparse.Namespace, target: str, bytes_max: int | None) -> tuple[int | None, list[Result]] | None:
    """When its alarm is due, and its rows. None: it was changed between one page and the next. (That two readings are the same
    would prove nothing: what goes from one key to another and back could be seen in both, or in neither.)"""
    rows: list[Result] = []
    size = 0
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
            alarm = page["alarm"]
            return None if alarm is None else alarm["due_ms"], rows
        size += sum(row["bytes"] for row in page["rows"])
        if bytes_max is not None and size > bytes_max:
            raise _Large


def records_of(options: argparse.Namespace, wish: ListNames, unsteady: list[str]) -> Iterator[Record]:
    """Of all those objects, in order. `unsteady` gets the names of those that are not in it. Raises CallError, OperatorError."""
    reading: deque[tuple[str, Future[list[Record]]]] = deque()

    def oldest() -> list[Record]:
        target, future = reading.popleft()
        try:
            try:
                return future.result()
            except _Large:
                return object_records(options, target)
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
                    reading.append((target, threads.submit(object_records, options, target, AHEAD_BYTES)))
                    if len(reading) == 2 * AT_ONCE:
                        yield from oldest()
            while reading:
                yield from oldest()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
