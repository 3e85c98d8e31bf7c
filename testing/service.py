"""A service in one thread: workers in virtual time, and those who call them from outside.

Guarantee: the same test runs the same way each time. Workers have done all that they can do at an instant before the code of the
test goes on; time passes only when nobody has anything to do.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import FunctionType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from tidegate.runtime.errors import CallError
from tidegate.runtime.ids import check_object_id, shard_of_slot, slot_of
from tidegate.runtime.wire.encoding import Decode, encode_arguments, error_from_raw, exception_for_caller, result_decoder
from tidegate.runtime.wire.pending import PendingCall
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, Message, Origin, Request, encode
from tidegate.runtime.wire.stub import names_of
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.loop.task import settable
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.testing.clock import Clock, WallClock
from tidegate.testing.crashes import Mishaps
from tidegate.testing.exploration import Exploration, tells_of_mishap
from tidegate.testing.network import Network, no_real_sockets
from tidegate.testing.process import close_coroutine, ordered_tasks
from tidegate.testing.schedule import Schedule
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime
from tidegate.testing.worker import SimulatedWorker

T = TypeVar("T")
TURNS_MAX = 1_000_000
"""Without that time passes: somebody goes round in a circle."""
JUMPS_LOOKED_AT = 50
"""Of time, before it is asked whether anything but housekeeping goes on."""
JUMPS_MAX = 1_000_000
"""While the test waits for something other than time."""
FOREVER_S = 1e12
DELAYS_S = (0.0, 0.001, 0.05)
"""Of messages: by itself, after all that happens at this instant, and after short sleeps."""
AGAIN_S = 0.01
TRIES_MAX = 10
TRIED_AGAIN = frozenset({"object_reset", "shard_lost", "unavailable", "moved", "overloaded"})
LINE_MAX = 160
"""Characters of a line of the timeline."""

_compiled: WeakKeyDictionary[type, ObjectClass] = WeakKeyDictionary()
"""Classes of earlier tests."""


class NeverEnds(AssertionError):
    """The test waits for what will never happen; the text says what is under way."""


class CallUnderWay:
    """One that was made from outside and is not answered."""

    __slots__ = ("decode", "future", "request", "retry", "text", "tries", "worker")
    request: Request

    def __init__(self, text: str, worker: SimulatedWorker, future: asyncio.Future[Any], decode: Decode, retry: bool) -> None:
        self.text = text
        self.worker = worker
        self.future = future
        self.decode = decode
        self.retry = retry
        """Whether it is made again after a crash."""
        self.tries = 0


class CallEvent(NamedTuple):
    """A call of the test was made, or answered."""

    number: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_answer: bool
    outcome: tuple[bool, Any] | None
    """With an answer: whether it is a result, and the result or the name of what was raised. None: nobody knows."""


class SimulatedService:
    def __init__(
        self, *, workers: int, settings: HostSettings, start: Any, schedule: Schedule | None = None,
        exploration: Exploration | None = None, timeline: bool = False,
        serves: Callable[[ObjectClass], object] = lambda served: None,
    ) -> None:  # fmt: skip
        """`schedule` decides what else may happen, as far as `exploration` wants it. `serves` is told of each class, before
        there is an object of it."""
        self._serves = serves
        self.schedule = schedule
        self.exploration = exploration
        self.crashes_left = 0 if exploration is None else exploration.crashes
        self.timeline: list[str] | None = [] if timeline else None
        self.time = VirtualTime()
        self.clock = Clock(self.time, start)
        self._asked: dict[Any, str] = {}
        """By caller and number: calls of which the timeline tells."""
        self.troubles: list[str] = []
        """What went wrong in no call."""
        self.classes: dict[str, ObjectClass] = {}
        self.crashes = Mishaps()
        self.commits_fail = Mishaps()
        self.network = Network(self.troubles.append, lambda what: self.late_s(what, "the network", what), self.note)
        self.outside = ProcessLoop(self.time, self.failed)
        """Whose code is the test's."""
        self.outside.listeners = self.network
        self._calls: dict[int, CallUnderWay] = {}
        self.known: set[tuple[str, str]] = set()
        """Class and name of every object that something was done to."""
        self.history: dict[tuple[str, str], list[CallEvent]] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        """By sender and receiver: when the last message arrives."""
        self._numbers = itertools.count(1)
        self._running = 0
        self.workers = [SimulatedWorker(self, index, [index], settings) for index in range(workers)]

    def failed(self, text: str) -> None:
        self.troubles.append(text)

    # Classes

    def serve(self, cls: type[DurableObject]) -> ObjectClass:
        """Raises AppError for a class that breaks a rule, and ValueError for a second one of that name."""
        if not issubclass(cls, DurableObject):
            raise AppError(f"{cls.__name__} is no object class: derive it from tidegate.DurableObject")
        compiled = _compiled.get(cls)
        if compiled is None:
            compiled = _compiled[cls] = ObjectClass(cls)
        known = self.classes.get(compiled.name)
        if known is None:
            self._serves(compiled)
            self.classes[compiled.name] = compiled
            for worker in self.workers:
                worker.learn(compiled)
        elif known.cls is not cls:
            raise ValueError(
                f"two classes are named {compiled.name}, in {known.cls.__module__} and {cls.__module__}: objects are found by "
                "class name, rename one"
            )
        return compiled

    def find_class(self, name: str, caller: str = "") -> None:
        """One that nobody has shown to the test, and that code of an object of the class `caller`, or a stub made from a name,
        asks for: of several, that which the caller's module knows, or that which is defined where the others are. Raises
        ValueError where there are several still."""
        if not name or name in self.classes:
            return
        found = list(dict.fromkeys(cls for cls in _subclasses(DurableObject) if names_of(cls)[0] == name))
        if len(found) > 1 and caller in self.classes:
            known = {id(each) for each in _names_around(self.classes[caller].cls).values()}
            found = [cls for cls in found if id(cls) in known] or found
        if len(found) > 1:
            near = {_home(each.cls) for each in self.classes.values()}
            found = [cls for cls in found if _home(cls) in near] or found
        if len(found) > 1:
            modules = ", ".join(sorted({cls.__module__ for cls in found}))
            raise ValueError(f"several classes are named {name} ({modules}): say which by objects.serve(...)")
        for cls in found:
            self.serve(cls)

    # What else may happen

    def note(self, text: str) -> None:
        """Something for the timeline."""
        if self.timeline is not None:
            self.timeline.append(f"{self.time.now:9.3f} s  {text[:LINE_MAX]}")

    def note_call(self, caller: str, what: str, number: Any, arguments: str = "") -> None:
        if self.timeline is not None:
            self._asked[caller, number] = what
            self.note(f"{caller} -> {what}{arguments}")

    def note_answer(self, number: Any, caller: str, status: int, result: Any) -> None:
        """`result` is Raw, or what would be encoded into it."""
        if self.timeline is not None:
            value = msgspec.msgpack.decode(result) if isinstance(result, msgspec.Raw) else result
            what = self._asked.get((caller, number), "a call")
            self.note(f"{what} -> {caller}: {'error ' if status == ERROR else ''}{value!r}")

    def happens(self, what: str, *, wanted: bool) -> bool:
        """Whether the schedule lets that happen here."""
        if self.schedule is None or not wanted or not self.schedule.choose(what, 2):
            return False
        self.note(f"-- {what}")
        return True

    def late_s(self, what: str, sender: str, receiver: str) -> float:
        """How late a message arrives: not before those that were sent on the same way."""
        exploration = self.exploration
        if self.schedule is None or exploration is None or not exploration.delays:
            return 0.0
        chosen = self.schedule.choose(f"{what} is late", len(DELAYS_S))
        if chosen:
            self.note(f"-- {what} is late")
        now_s = self.time.clock()
        arrives_s = max(now_s + DELAYS_S[chosen], self._not_before.get((sender, receiver), 0.0))
        self._not_before[sender, receiver] = arrives_s
        return arrives_s - now_s

    # Calls from outside

    def worker_of(self, class_name: str, name: str) -> SimulatedWorker:
        return self.workers[shard_of_slot(slot_of(class_name, name), len(self.workers))]

    def call(
        self,
        class_name: str,
        name: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result_type: Any,
        options: dict[str, Any] | None = None,
        retry: bool | None = None,
    ) -> PendingCall[Any]:
        """`retry`: whether it is made again after a crash; None: where a test is explored."""
        problem = check_object_id(class_name, name)
        if problem is not None:
            raise ValueError(problem)
        self.find_class(class_name)
        number = next(self._numbers)
        future: asyncio.Future[Any] = self.outside.create_future()
        worker = self.worker_of(class_name, name)
        raw_options = msgspec.Raw(encode(options)) if options else NO_RAW
        request = Request(number, class_name, name, method, encode_arguments(args, kwargs), raw_options)
        text = f"{class_name}/{name}.{method}"
        call = self._calls[number] = CallUnderWay(
            text, worker, future, result_decoder(result_type), self.exploration is not None if retry is None else retry
        )
        if call.retry and "key" not in (options or {}):
            request.options = msgspec.Raw(encode({**(options or {}), "key": f"test-{number}"}))
        call.request = request
        self.history.setdefault((class_name, name), []).append(CallEvent(number, method, args, kwargs, False, None))
        future.add_done_callback(
            lambda done: self._ended(class_name, name, CallEvent(number, method, args, kwargs, True, None), done)
        )
        self.note_call(
            "test", text, number, f"({', '.join([*map(repr, args), *(f'{name}={kwargs[name]!r}' for name in kwargs)])})"
        )
        self._send(call, self.late_s(f"the call {text} of the test", "test", f"{class_name}/{name}"))
        return PendingCall(future)

    def _send(self, call: CallUnderWay, late_s: float) -> None:
        message = Message(Origin(b"test", envelope=None, json=False, single=False, requests=1), [call.request], [])
        if late_s:
            self.time.after(late_s, call.worker.receive, message)
        else:
            call.worker.receive(message)

    def _again(self, number: int, call: CallUnderWay) -> bool:
        """Whether it is sent once more, as clients do it: it runs once, since it has a key."""
        if not call.retry or call.future.done() or call.tries >= TRIES_MAX:
            return False
        call.tries += 1
        self._calls[number] = call
        self.note(f"test -> {call.text} again")
        self._send(call, AGAIN_S)
        return True

    def answered(self, number: int, status: int, result: Any) -> None:
        call = self._calls.pop(number, None)
        if call is None or call.future.done():
            return
        try:
            raw = result if isinstance(result, msgspec.Raw) else msgspec.Raw(encode(result))
            self.note_answer(number, "test", status, raw)
            if status == ERROR:
                error = error_from_raw(raw)
                if error.code in TRIED_AGAIN and self._again(number, call):
                    return
                call.future.set_exception(exception_for_caller(error))
            else:
                call.future.set_result(call.decode(raw))
        except Exception as exc:  # What a type's own code raises, or cannot be sent.
            call.future.set_exception(settable(exc))

    def _ended(self, class_name: str, name: str, event: CallEvent, done: asyncio.Future[Any]) -> None:
        outcome: tuple[bool, Any] | None = None
        if not done.cancelled():
            error = done.exception()
            if error is None:
                outcome = True, done.result()
            elif not tells_of_mishap(error):
                outcome = False, type(error).__name__
        self.history[class_name, name].append(event._replace(outcome=outcome))

    def lost(self, worker: SimulatedWorker, error: CallError) -> None:
        """It has crashed."""
        for number, call in list(self._calls.items()):
            if call.worker is worker:
                del self._calls[number]
                if not call.future.done() and self._again(number, call):
                    continue
                if not call.future.done():
                    call.future.set_exception(error.again())

    # Running

    def run(self, awaitable: Awaitable[T]) -> T:
        """Runs it to its end as the test's own code. Raises what it raises, and NeverEnds."""
        if self._running:
            raise RuntimeError("this test runs already: use `await`, not `run`, inside it")
        coroutine = awaitable if isinstance(awaitable, Coroutine) else _awaited(awaitable)
        self._running += 1
        try:
            with ordered_tasks(), no_real_sockets(self.failed), WallClock(self.clock, self.time):
                task = self.outside.create_task(coroutine)
                self._drive(task.done)
                if not task.done():
                    close_coroutine(coroutine)
                    raise NeverEnds(self._stuck())
                result: T = task.result()
                return result
        finally:
            self._running -= 1

    def _drive(self, done: Callable[[], bool]) -> None:
        virtual = self.time
        since, before, jumps = virtual.now, virtual.turns, 0
        while not done() and virtual.step(FOREVER_S):
            if virtual.now != since:
                since, before = virtual.now, virtual.turns
                jumps += 1
                if jumps % JUMPS_LOOKED_AT == 0 and not self.outside.timers():
                    if all(worker.is_at_rest for worker in self.workers):
                        return
                    if jumps > JUMPS_MAX:
                        raise NeverEnds(f"it is {self.clock.now}, and {self._stuck()}")
            elif virtual.turns - before > TURNS_MAX:
                raise NeverEnds(f"time stands still while code goes round in a circle: {self._stuck()}")

    def _stuck(self) -> str:
        calls = [call.text for call in self._calls.values()]
        now_ms = self.clock.now_ns // 1_000_000
        waiting = [each for worker in self.workers for each in worker.host.gates.waiting()]
        gates = [f"{each.object}: {each.told((now_ms - each.since_ms) / 1_000)}" for each in waiting]
        lines = ["the test waits for something that never happens"]
        if calls:
            lines.append(f"calls that are not answered: {', '.join(calls)}")
        return "\n  ".join(lines + gates)

    # The end

    def close(self) -> None:
        for worker in self.workers:
            worker.process.kill()
            self.network.forget(worker.host.web)
        left = asyncio.all_tasks(self.outside)
        self.outside.kill()
        for task in left:
            close_coroutine(task.get_coro())

    def problems(self) -> list[str]:
        """What a test must not end with."""
        return [*self.clock.problems(), *self.crashes.problems(), *self.commits_fail.problems(), *self.troubles]


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _subclasses(cls: type[DurableObject]) -> Iterator[type[DurableObject]]:
    for derived in cls.__subclasses__():
        yield derived
        yield from _subclasses(derived)


def _names_around(cls: type) -> dict[str, Any]:
    """What its module knows: by its methods, for a module of the same name may have been loaded since."""
    for method in vars(cls).values():
        if isinstance(method, FunctionType) and method.__globals__.get("__name__") == cls.__module__:
            return method.__globals__
    return vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}


def _home(cls: type) -> tuple[str, str]:
    """Where a class is defined: a module, or a function in it."""
    return cls.__module__, cls.__qualname__.rpartition(".")[0]
