"""Callers say here what they do; what they said goes to the history, in an order that can be relied on.

Shared by threads. A call's beginning is written down before it is sent, its end after it was heard.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from tidegate.runtime.chaos.calls.workload import Call
from tidegate.runtime.chaos.verdict.history import Fate, Operation
from tidegate.runtime.chaos.verdict.tally import Tally


class Recorder:
    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.stopping = threading.Event()
        """Callers make no further calls."""
        self.tally = Tally()
        self._lock = threading.Lock()
        self._number = itertools.count(1).__next__
        self._running: dict[int, Operation] = {}
        self._ended: list[Operation] = []

    def begin(self, caller: str, call: Call) -> Operation:
        class_name, name, method, args = call
        with self._lock:
            number = self._number()
            operation = Operation(number, caller, class_name, name, method, args, time.monotonic())
            self._running[number] = operation
        return operation

    def answer(self, operation: Operation, result: Any) -> None:
        self._end(operation, "answered", result, "", "")

    def fail(self, operation: Operation, code: str, message: str = "", *, unknown: bool) -> None:
        """By an error, with its code; `unknown`: it may have been executed. Of a call that has ended: nothing."""
        self._end(operation, "unknown" if unknown else "refused", None, code, message)

    def _end(self, operation: Operation, fate: Fate, result: Any, code: str, message: str) -> None:
        with self._lock:
            if self._running.pop(operation.number, None) is not None:
                operation.ended_at = time.monotonic()
                operation.fate, operation.result, operation.error, operation.message = fate, result, code, message
                self._ended.append(operation)
                self.tally.count(operation)

    def take(self) -> tuple[list[Operation], float]:
        """What ended since the last time, and the time before which nothing more will be told."""
        with self._lock:
            ended, self._ended = self._ended, []
            oldest = next(iter(self._running.values()), None)  # They begin in their order here.
            return ended, time.monotonic() if oldest is None else oldest.began_at

    def overdue(self, grace_s: float) -> list[Operation]:
        """Calls that should have been answered by now. They end here, as unknown."""
        with self._lock:
            late = time.monotonic() - self.timeout_s - grace_s
            found = list(itertools.takewhile(lambda each: each.began_at < late, self._running.values()))
        for operation in found:
            self.fail(operation, "no_answer", unknown=True)
        return found
