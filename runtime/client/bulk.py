"""Many calls of one method that one caller waits for: made as room becomes free, their results in the order of the calls.

Rule: pure. The machine has these calls as it has any others; here is who waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from typing import Any

import msgspec

from tidegate.runtime.client.links import Waiter
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.terms import Terms
from tidegate.runtime.errors import BadRequest, Overloaded
from tidegate.runtime.wire.encoding import encode_arguments, result_decoder
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.stub import HOOKS, method_shape

AT_ONCE = 1_024
"""Calls in flight of one `map` that says nothing else."""
_REFILL_SHARE = 4
"""Such a part of them has to be answered before more are made: one message for many calls costs less than many for one each."""

EACH = "*"
"""The object of its span: any."""

MapCalls = Iterable[str | tuple[Any, ...]]
"""Of each call, the name of the object, or a tuple of that and what its method is called with."""


class Map:
    """The calls of one `map`, and what has become of them. Whoever has it calls `fill` and sees to it that the calls are sent,
    waits until `is_ready`, and so on until `fill` says that it was all; then `results` are whole once nothing is `in_flight`."""

    def __init__(
        self, machine: ClientMachine, class_name: str, method: str, result_type: Any, calls: MapCalls, at_once: int,
        terms: Terms | None,
    ) -> None:  # fmt: skip
        if at_once < 1:
            raise ValueError(f"at_once: at least one call at once, not {at_once}")
        self._machine = machine
        self._class_name = class_name
        self._method = method
        self._decode = result_decoder(result_type)
        self._calls = iter(calls)
        self._terms = terms
        self._at_once = at_once
        self._refill_at = at_once - max(1, at_once // _REFILL_SHARE)
        self._problem: BaseException | None = None
        """Why no more calls are made."""
        self.results: list[Any] = []
        """By call; the exception of one that has failed."""
        self.failed: list[int] = []
        """Which have."""
        self.in_flight = 0
        self.is_given_up = False
        """Nobody waits any more."""
        self.wake_at = -1
        self.wake: Callable[[], object] = _nobody
        """Called when exactly so many are in flight."""

    def fill(self, now: float) -> bool:
        """Makes calls until there is room for none. True: these were the last."""
        made, room = len(self.results), self._at_once - self.in_flight
        calls = self._next(room)
        try:
            self._machine.call_each(calls, self._class_name, self._method, self._decode, self._terms, now, self)
            is_last = len(self.results) < made + room
        except Overloaded as error:  # Other calls of the client take the room.
            is_last = len(self.results) == made and not self.in_flight
            self._problem = error if is_last else None
        except UnicodeEncodeError:
            is_last, self._problem = True, BadRequest("class and name must be valid Unicode")
        except BaseException as error:
            is_last, self._problem = True, error
        calls.close()
        self.in_flight += len(self.results) - made
        self._refill_at = min(self._refill_at, max(0, self.in_flight - 1))
        return is_last

    def _next(self, room: int) -> Generator[tuple[Waiter, str, msgspec.Raw], None, None]:
        """Calls that are to be made. One that is not accepted comes again."""
        results, calls = self.results, self._calls
        for index, each in enumerate(islice(calls, room), len(results)):
            name, args = (each, NO_RAW) if each.__class__ is str else _parted(each, index)
            try:
                yield CallPlace(self, index), name, args
            except GeneratorExit:
                self._calls = chain((each,), calls)
                raise
            results.append(None)

    def wait(self, wake: Callable[[], object], *, for_all: bool) -> bool:
        """`wake` is called once, when there is room for more calls, or when all have been answered. False: now is when."""
        self.wake, self.wake_at = wake, 0 if for_all else self._refill_at
        return self.in_flight > self.wake_at

    def end(self, *, return_exceptions: bool) -> list[Any]:
        """The results. Raises what kept calls from being made, or else, unless it is to return exceptions, the error of the first
        call that has failed."""
        problem = self._problem
        if problem is None and self.failed and not return_exceptions:
            problem = self.results[min(self.failed)]
        if problem is None:
            return self.results
        self.results = []
        raise problem


class CallPlace(msgspec.Struct, gc=False, eq=False):
    """Who waits for one of the calls: a `Waiter`."""

    of: Map
    index: int

    def done(self) -> bool:
        return self.of.is_given_up

    def set_result(self, result: Any) -> None:
        of = self.of
        of.results[self.index] = result
        left = of.in_flight = of.in_flight - 1
        if left == of.wake_at:
            of.wake()

    def set_exception(self, exception: BaseException) -> None:
        self.of.failed.append(self.index)
        self.set_result(exception)


def mapped(target: type | str, method: Callable[..., Any] | str) -> tuple[str, str, Any]:
    """The names of class and method, and the type of the results. Raises TypeError and AttributeError for what is none."""
    if isinstance(target, str) and isinstance(method, str):
        return target, method, Any
    name = method if isinstance(method, str) else getattr(method, "__name__", None)
    if not isinstance(target, type) or not isinstance(name, str):
        raise TypeError(
            f"map takes a class and a method of it, as in map(Counter, Counter.add, …), not {target!r} and {method!r}"
        )
    if not isinstance(method, str) and not any(vars(base).get(name) is method for base in target.__mro__):
        raise TypeError(f"{method!r} is no method of {target.__name__}")
    if name.startswith("_") or name in HOOKS:
        raise AttributeError(f"{name} cannot be called from outside")
    return target.__name__, name, method_shape(target, name).result_type


def _parted(call: Any, number: int) -> tuple[str, msgspec.Raw]:
    if isinstance(call, str):  # Of a class of its own.
        return call, NO_RAW
    if not isinstance(call, tuple) or not call or not isinstance(call[0], str):
        raise TypeError(f"call {number} of the map is neither a name nor a tuple of a name and arguments: {call!r:.100}")
    return call[0], encode_arguments(call[1:], None) if len(call) > 1 else NO_RAW


def _nobody() -> None:
    pass
