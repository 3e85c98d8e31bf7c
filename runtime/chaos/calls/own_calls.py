"""Calls that chaos makes itself: by faults, and in the end, when every object is asked once more. Recorded like all others."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import msgspec
import zmq

from tidegate.runtime.chaos.calls.recorder import Recorder
from tidegate.runtime.chaos.calls.watched_dealer import WatchedDealer, watched_dealer
from tidegate.runtime.chaos.calls.workload import Call
from tidegate.runtime.chaos.verdict.history import Operation

BATCH = 100
POLL_MS = 100
AGAIN_S = 0.1
UNTIL_ANSWERED_S_MAX = 120.0
NAME = "chaos itself"


class OwnCalls:
    def __init__(self, endpoints: Sequence[str], recorder: Recorder, pause: Callable[[float], None]) -> None:
        """One after the other is called at these. `pause(seconds)` waits, and ends calls whose time is over."""
        self._next_endpoint = itertools.cycle(endpoints).__next__
        self._recorder = recorder
        self._pause = pause

    def call(self, call: Call) -> Operation:
        """Returns when it has ended, well or not."""
        return self._exchange([call])[0]

    def call_until_answered(self, calls: Sequence[Call]) -> list[Operation]:
        """In their order; each again until it is answered. What is not within `UNTIL_ANSWERED_S_MAX` comes as it ended last."""
        until = time.monotonic() + UNTIL_ANSWERED_S_MAX
        ended: dict[int, Operation] = {}
        while len(ended) < len(calls):
            left = [number for number in range(len(calls)) if number not in ended][:BATCH]
            operations = self._exchange([calls[number] for number in left])
            for number, operation in zip(left, operations, strict=True):
                if operation.fate == "answered" or time.monotonic() > until:
                    ended[number] = operation
            if any(operation.fate != "answered" for operation in operations):
                self._pause(AGAIN_S)
        return [ended[number] for number in range(len(calls))]

    def _exchange(self, calls: Sequence[Call]) -> list[Operation]:
        operations = [self._recorder.begin(NAME, call) for call in calls]
        options = {"deadline_ms": int(self._recorder.timeout_s * 1_000)}
        rows = [[number, each.class_name, each.name, each.method, each.args, options] for number, each in enumerate(operations)]
        with zmq.Context() as context, watched_dealer(context, self._next_endpoint()) as dealer:
            dealer.send(msgspec.msgpack.encode(rows))
            while any(operation.fate == "running" for operation in operations):
                if dealer.wait(POLL_MS):
                    self._receive(dealer, operations)
                else:
                    for operation in operations:
                        self._recorder.fail(operation, "connection_lost", unknown=True)
                self._pause(0.0)
        return operations

    def _receive(self, dealer: WatchedDealer, operations: Sequence[Operation]) -> None:
        for body in dealer.receive():
            for number, status, result in msgspec.msgpack.decode(body):
                if status == 0:
                    self._recorder.answer(operations[number], result)
                elif result["code"] == "exception":
                    self._recorder.answer(operations[number], ("raised", result["type"]))
                else:
                    unknown = result["outcome"] != "not_executed"
                    self._recorder.fail(operations[number], result["code"], result["message"], unknown=unknown)
