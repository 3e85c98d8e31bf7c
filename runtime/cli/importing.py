"""Objects that travel, put into a service that runs: many in one wish, and several wishes under way.

Guarantee: an object is there as a whole or not at all where it has less than LOAD_BYTES; a larger one comes in several steps. Of
one name what comes later in the file comes later. After the first that is refused no further ones are begun, and those that are
under way are waited for; how many are there is told.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tidegate.runtime.cli.commanding import wish_for
from tidegate.runtime.cli.pages import plural
from tidegate.runtime.cli.wishing import patiently, stored
from tidegate.runtime.errors import CallError, OperatorError, from_wire
from tidegate.runtime.wire.object_records import Head, Pair
from tidegate.runtime.wire.wishes import MANY_BYTES_MAX, MANY_OBJECTS_MAX, Load, LoadMany, LoadOne

LOAD_BYTES = 1 << 20
"""Of a larger object so much comes in one step."""
AT_ONCE = 3
"""Wishes under way."""

Row = tuple[str, bytes]


class Importer:
    """One run. `objects` and `keys` count what is there."""

    def __init__(self, options: argparse.Namespace, *, replacing: str = "--replace") -> None:
        """`options`: of the command, with `file`, `replace` and `no_alarm`. `replacing`: the option by which it replaces what is
        there."""
        self._options = options
        self._replacing = replacing
        self._threads = ThreadPoolExecutor(AT_ONCE, "tidegate-import")
        self._under_way: deque[tuple[list[LoadOne], Future[list[CallError | None]]]] = deque()
        self._next: list[LoadOne] = []
        self._next_bytes = 0
        self._names: set[str] = set()
        """Of objects that are under way, or next."""
        self._refused: CallError | None = None
        self.objects = self.keys = 0

    def run(self, objects: Iterable[tuple[str, Head, Iterator[Pair]]]) -> None:
        """Each by its name, which may be another than the one it has had. Raises CallError for the first that is refused,
        OperatorError, and what `objects` raises; then, too, no wish is under way any longer."""
        try:
            try:
                self._begin_all(objects)
            finally:
                self._end_all()
        finally:
            self._threads.shutdown()
        if self._refused is not None:
            raise self._told(self._refused)

    def _begin_all(self, objects: Iterable[tuple[str, Head, Iterator[Pair]]]) -> None:
        try:
            for target, head, pairs in objects:
                self._add(target, head, pairs)
                if self._refused is not None:
                    return
        except CallError as error:
            self._refused = error
        finally:
            self._begin_next()  # Of a file that is damaged what comes before that is imported.

    def _told(self, error: CallError) -> CallError:
        done = f"; {plural(self.objects, 'object')} of it are imported" if self.objects else ""
        message = f"{error.message}{done}"
        return type(error)(message, outcome=error.outcome, retryable=error.retryable, details=error.details)

    def _add(self, target: str, head: Head, pairs: Iterator[Pair]) -> None:
        if target in self._names:
            self._begin_next()
            self._end_all()
        alarm_ms = None if self._options.no_alarm else head.alarm_ms
        parts = _parts(target, pairs)
        rows, size, is_last = next(parts)
        if is_last:
            if self._next_bytes + size > MANY_BYTES_MAX or len(self._next) == MANY_OBJECTS_MAX:
                self._begin_next()
            self._names.add(target)
            self._next.append(LoadOne(target, rows, alarm_ms))
            self._next_bytes += size
        elif self._refused is None:
            self._load_in_parts(target, rows, parts, alarm_ms)

    def _begin_next(self) -> None:
        """Unless any was refused."""
        while self._under_way and (len(self._under_way) == AT_ONCE or self._under_way[0][1].done()):
            self._end_oldest()
        if self._next and self._refused is None:
            self._under_way.append((self._next, self._threads.submit(_load, self._options, self._next)))
        self._next, self._next_bytes = [], 0

    def _end_all(self) -> None:
        while self._under_way:
            self._end_oldest()

    def _end_oldest(self) -> None:
        loads, future = self._under_way.popleft()
        for each, error in zip(loads, future.result(), strict=True):
            self._names.discard(each.object)
            if error is None:
                self.objects += 1
                self.keys += len(each.rows)
            elif self._refused is None:
                self._refused = error

    def _load_in_parts(
        self, target: str, rows: list[Row], parts: Iterator[tuple[list[Row], int, bool]], alarm_ms: int | None
    ) -> None:
        wish_for(self._options, Load(rows, False, self._options.replace, None), target)
        keys = len(rows)
        try:
            for rows, _, is_last in parts:
                wish_for(self._options, Load(rows, True, self._options.replace, alarm_ms if is_last else None), target)
                keys += len(rows)
        except CallError as error:
            problem = f"{target} is there in part: {error.code}: {error.message}"
            raise OperatorError(
                "import", self._options.file, problem, f"give the command again with {self._replacing}"
            ) from error
        self.objects += 1
        self.keys += keys


def _parts(target: str, pairs: Iterator[Pair]) -> Iterator[tuple[list[Row], int, bool]]:
    """Of an object, one at least: rows, their bytes, whether it is the last part. Raises BadRequest."""
    rows: list[Row] = []
    size = 0
    for pair in pairs:
        packed = stored(pair.value, f"{pair.key!r} of {target}")
        bytes_here = len(pair.key) + len(packed)
        if rows and size + bytes_here > LOAD_BYTES:
            yield rows, size, False
            rows, size = [], 0
        rows.append((pair.key, packed))
        size += bytes_here
    yield rows, size, True


def _load(options: argparse.Namespace, loads: list[LoadOne]) -> list[CallError | None]:
    """What came of each. What was certainly not done is tried again for as long as `--timeout` says."""
    errors: list[CallError | None] = [None] * len(loads)
    left = list(range(len(loads)))

    def load_those_left() -> None:
        """Raises CallError where trying again may help."""
        nonlocal left
        for at, error in zip(left, _asked(options, [loads[at] for at in left]), strict=True):
            errors[at] = error
        again = [(at, error) for at, error in enumerate(errors) if error is not None and _may_be_done_again(error)]
        if again:
            left = [at for at, _ in again]
            raise again[0][1]

    with contextlib.suppress(CallError):
        patiently(options, load_those_left)
    return errors


def _asked(options: argparse.Namespace, loads: list[LoadOne]) -> list[CallError | None]:
    try:
        pages = wish_for(options, LoadMany(loads, options.replace), "")["pages"]
    except CallError as error:  # Nobody was asked: the audit log cannot be written.
        return [error] * len(loads)
    return [from_wire(page["error"]) if "error" in page else None for page in pages]


def _may_be_done_again(error: CallError) -> bool:
    return error.retryable and error.outcome == "not_executed"
