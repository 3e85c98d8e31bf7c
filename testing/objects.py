"""What a test holds: its objects, their clock, and what can happen to them.

Guarantee: what a user's class does here is what it does in a service: the core is the same (gates, cache, commits, alarms, life
cycle). Only what is around it is simulated: time, the disk, the network, and when a process dies.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, overload

import msgspec

from tidegate.runtime.ids import object_key
from tidegate.runtime.limits import IDLE_EVICT_S
from tidegate.runtime.wire.stub import Stub, bind_call, names_of, object_of
from tidegate.shard.core.alarms import INDEX_KEY, STEADY_INDEX_KEY, pending_alarm, shown_for
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import Storage
from tidegate.testing.clock import START, Clock, Duration, seconds_of
from tidegate.testing.crashes import POINTS, CrashPoint, Mishap, ObjectName
from tidegate.testing.exploration import Exploration, tells_of_mishap
from tidegate.testing.network import Http
from tidegate.testing.schedule import Schedule
from tidegate.testing.service import CallEvent, SimulatedService
from tidegate.testing.settings import Settings

ObjectT = TypeVar("ObjectT", bound=DurableObject)
T = TypeVar("T")
P = ParamSpec("P")


class PendingAlarm(NamedTuple):
    """An alarm that is set and durable."""

    class_name: str
    name: str
    at: datetime.datetime
    """When it rings; while it is tried again, when it was to ring."""
    retry_count: int


class StoredRows(MutableMapping[str, Any]):
    """What an object has stored, as far as it is durable. What is written here the object finds in its storage; an instance that
    is in memory is told nothing of it."""

    def __init__(self, service: SimulatedService, object_name: ObjectName) -> None:
        self._service = service
        self._object = object_name
        self._worker = service.worker_of(*object_name)

    def _rows(self) -> dict[str, Any]:
        return self._worker.durable_rows(*self._object)

    def __getitem__(self, key: str) -> Any:
        return self._rows()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __eq__(self, other: object) -> bool:
        return self._rows() == (other._rows() if isinstance(other, StoredRows) else other)

    __hash__ = None  # type: ignore[assignment]  # as any mapping

    def __repr__(self) -> str:
        return f"<stored by {'/'.join(self._object)}: {self._rows()!r}>"

    def read(self, key: str, type: type[T]) -> T:
        """The value as that type. Raises KeyError where there is none, and msgspec.ValidationError for another type."""
        return msgspec.convert(self._rows()[key], type)

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(lambda storage: storage.put(key, value))

    def __delitem__(self, key: str) -> None:
        if key not in self._rows():
            raise KeyError(key)
        self._change(lambda storage: storage.delete(key))

    def _change(self, change: Callable[[Storage], object]) -> None:
        kept, activation = self._worker.borrowed(*self._object)
        try:
            change(Storage(activation.cache, activation))
        finally:
            self._worker.changed(kept, activation)


class Objects:
    """The objects of one test. `objects(Counter, "a")` is a stub of one, typed as its class."""

    def __init__(
        self,
        *,
        workers: int = 1,
        start: datetime.datetime = START,
        idle_evict: Duration = IDLE_EVICT_S,
        settings: object = None,
    ) -> None:
        """`workers`: processes, each of which has a part of the objects and can crash alone. `start`: what the clock says first.
        `idle_evict`: after so long without calls an object leaves memory. `settings`: what `self.settings` is, in classes that
        declare it; a test that says nothing has what the class has."""
        if workers < 1:
            raise ValueError(f"objects need a worker at least, not {workers}")
        self._start = start
        self._idle_evict_s = seconds_of(idle_evict)
        self._settings = Settings(settings)
        self._service = self._new(workers)

    def _new(self, workers: int, **explored: Any) -> SimulatedService:
        settings = HostSettings(shards_total=workers, idle_evict_s=self._idle_evict_s)
        return SimulatedService(workers=workers, settings=settings, start=self._start, serves=self._settings.give, **explored)

    def begin(self, schedule: Schedule, exploration: Exploration, *, timeline: bool = False) -> None:
        """Everything anew, for a run of a test that is explored; stubs that there are stay usable."""
        self._service.close()
        self._service = self._new(exploration.workers, schedule=schedule, exploration=exploration, timeline=timeline)

    @property
    def timeline(self) -> list[str]:
        """What has happened, of a run that was to be told."""
        return self._service.timeline or []

    @property
    def troubles(self) -> list[str]:
        """What has gone wrong in no call."""
        return self._service.troubles

    @property
    def turns(self) -> int:
        """How often a process had something to do: a measure of work that is the same on every machine."""
        return self._service.time.turns

    def explored(self, what: str, *, is_crash: bool = False) -> bool:
        """Whether the schedule lets that happen here, of a run that is explored."""
        wanted = not is_crash or self._service.crashes_left > 0
        happens = self._service.happens(what, wanted=wanted)
        self._service.crashes_left -= happens and is_crash
        return happens

    @property
    def is_untouched(self) -> bool:
        """Nobody has called anything yet."""
        return not any(worker.position for worker in self._service.workers)

    async def attempt(self, call: Awaitable[T]) -> T | None:
        """Its result; None where it was cut off by a crash, or by a write that failed, so that nobody knows what became of it: as
        a caller sees it that gives up. Every other error is raised."""
        try:
            return await call
        except Exception as exc:
            if not tells_of_mishap(exc):
                raise
            return None

    # Objects

    @overload
    def __call__(
        self, target: type[ObjectT], name: str, *, key: str | None = None, timeout: Duration | None = None,
        retry: bool | None = None, evicted: bool = False,
    ) -> ObjectT: ...  # fmt: skip
    @overload
    def __call__(
        self, target: str, name: str, *, key: str | None = None, timeout: Duration | None = None,
        retry: bool | None = None, evicted: bool = False,
    ) -> Any: ...  # fmt: skip
    def __call__(
        self, target: type[ObjectT] | str, name: str, *, key: str | None = None, timeout: Duration | None = None,
        retry: bool | None = None, evicted: bool = False,
    ) -> ObjectT | Any:  # fmt: skip
        """A stub, as a client has it: calls are sent when they are made, and their results are awaited. Made from a class, it is
        typed as that class. `key`: of all calls with one key one runs. `timeout`: a call that is not answered by then raises
        `DeadlineExceeded`. `retry`: calls that a crash or a failed write has cut off are made again, as Python clients do it
        (without it, in explored tests alone). `evicted`: the object leaves memory after each call; such calls are made when they
        are awaited. Raises AppError for a class that no service would serve."""
        if isinstance(target, type):
            self._service.serve(target)
        options: dict[str, Any] = {}
        if key is not None:
            options["key"] = key
        if timeout is not None:
            options["deadline_ms"] = round(seconds_of(timeout) * 1_000)
        return Stub(_Caller(self, options, retry, evicted), target, name)

    def serve(self, *classes: type[DurableObject]) -> None:
        """Classes that only other objects call, by name. (Classes that a test makes stubs of, and those that object code calls
        and that have a name of their own, are found.) Raises AppError and ValueError."""
        for cls in classes:
            self._service.serve(cls)

    def instance(self, stub: ObjectT) -> ObjectT:
        """The instance that is in memory: for a look at its attributes. Raises LookupError where there is none."""
        class_name, name = object_of(stub)
        activation = self._service.worker_of(class_name, name).activation(class_name, name)
        if activation is None:
            raise LookupError(f"{class_name}/{name} is not in memory: it has not been called, or was evicted or reset since")
        instance: Any = activation.instance
        return instance  # type: ignore[no-any-return]  # of the class of its stub

    async def run_in(
        self, stub: ObjectT, function: Callable[Concatenate[ObjectT, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `await function(instance, ...)` returns, or raises, run by the object as if it were a method of it: gated, with
        its storage and stubs."""
        inside = _Inside(function, args, kwargs)
        class_name, name = object_of(stub)
        kept = self._service.worker_of(class_name, name).host.classes[class_name]
        kept.methods[inside.name] = inside  # type: ignore[assignment]  # all that is asked of a method
        try:
            await self._service.call(class_name, name, inside.name, (), {}, Any)
        finally:
            del kept.methods[inside.name]
        if inside.error is not None:
            raise inside.error
        result: Any = inside.result
        return result  # type: ignore[no-any-return]  # what the function has returned

    def storage(self, stub: DurableObject) -> StoredRows:
        """What the object has stored, as a dict that can be changed, too: `objects.storage(account)["balance"] = 100`."""
        return StoredRows(self._service, object_of(stub))

    def stored(self, cls: type[DurableObject]) -> dict[str, StoredRows]:
        """What each object of the class has stored, by name."""
        names = sorted(name for class_name, name in self._service.known if class_name == names_of(cls)[0])
        return {name: StoredRows(self._service, (names_of(cls)[0], name)) for name in names}

    def stored_by_all(self) -> dict[str, StoredRows]:
        """What each object has stored to which something was done, by `Class/name`."""
        return {"/".join(known): StoredRows(self._service, known) for known in sorted(self._service.known)}

    def history(self, stub: DurableObject) -> list[CallEvent]:
        """The test's calls to the object and their answers, in order."""
        return list(self._service.history.get(object_of(stub), []))

    def alarms(self) -> list[PendingAlarm]:
        """Those that are set, in the order in which they ring."""
        found = []
        for worker in self._service.workers:
            for shard, store in worker.stores.items():
                for index_key in (INDEX_KEY, STEADY_INDEX_KEY):
                    for _, raw in store.scan(index_key):
                        class_name, name = msgspec.msgpack.decode(raw)[:2]
                        alarm = pending_alarm(store, object_key(class_name, name))
                        if alarm is not None:
                            at = shown_for(alarm, worker.host.alarms.ahead_us(shard))
                            found.append(PendingAlarm(class_name, name, at, alarm.retry_count))
        return sorted(found, key=lambda each: (each.at, each.class_name, each.name))

    @property
    def clock(self) -> Clock:
        """Virtual time: `await objects.clock.advance("30d")`."""
        return self._service.clock

    @property
    def http(self) -> Http:
        """What answers HTTP requests of objects: `objects.http.answer("https://api.example/price", {"usd": 12})`."""
        return self._service.network.http

    # What can happen to them

    def evict(self, stub: DurableObject | None = None) -> None:
        """The object leaves memory, as after some time without calls; without one, each that is idle does. Its timers are gone
        with it. Raises RuntimeError for one that is at work."""
        if stub is None:
            for worker in self._service.workers:
                for kept in worker.host.classes.values():
                    for each in list(kept.activations.values()):
                        worker.evict(each)
            return
        class_name, name = object_of(stub)
        worker = self._service.worker_of(class_name, name)
        activation = worker.activation(class_name, name)
        if activation is not None and not worker.evict(activation):
            raise RuntimeError(f"{class_name}/{name} is at work: it is evicted when its calls and tasks are done")

    @overload
    def crash(self, *, of: DurableObject | None = None) -> None: ...
    @overload
    def crash(self, *, at: CrashPoint, of: DurableObject | type[DurableObject] | None = None, skip: int = 0) -> Mishap: ...
    def crash(
        self, *, at: CrashPoint | None = None, of: DurableObject | type[DurableObject] | None = None, skip: int = 0
    ) -> Mishap | None:
        """A worker dies, as by SIGKILL: memory is gone, what is durable stays, and calls in flight raise `ShardLost`. The next
        one serves at once. Without `at` all of them die now, or that of the object `of`; else the one that comes to that
        point next, for the object or the class `of`, `skip` times later. A crash that never happens fails the test. Points:

        * `"call"`: a call has reached its object, and nothing of it has run.
        * `"sending"`: an object has called another one; that call is under way.
        * `"alarm"`: an alarm rings, and its handler has not begun.
        * `"transaction"`: in a transaction, before its block ends.
        * `"before_commit"`: what was written is about to become durable, and is lost.
        * `"after_commit"`: it is durable, and nobody has been told.
        """
        hit = None if of is None else names_of(of)[0] if isinstance(of, type) else object_of(of)
        if at is None:
            for worker in self._service.workers:
                if hit is None or (not isinstance(hit, str) and worker is self._service.worker_of(*hit)):
                    worker.crash()
            return None
        if at not in POINTS:
            raise ValueError(f"there is no point {at!r}; there are {', '.join(POINTS)}")
        return self._service.crashes.add(Mishap(f"the crash at {at!r}", at, hit, skip))

    def fail_next_commit(self, *, of: DurableObject | type[DurableObject] | None = None, skip: int = 0) -> Mishap:
        """The next commit with a write of an object (of this one, of this class) is lost, as by a full disk: the objects in it
        are reset, and who waits for it gets `ObjectReset`. One that never comes fails the test."""
        hit = None if of is None else names_of(of)[0] if isinstance(of, type) else object_of(of)
        return self._service.commits_fail.add(Mishap("the failure of a commit", "commit", hit, skip))

    # Running

    def run(self, awaitable: Awaitable[T]) -> T:
        """Its result, for tests that are no coroutines: `objects.run(counter.add(1))`. Time passes as far as it has to. Raises
        NeverEnds, an AssertionError, where nothing is left that could happen."""
        return self._service.run(awaitable)

    def check(self) -> None:
        """What a test must not end with: a crash that never came, `advance` without `await`, a request that nobody answers.
        Raises AssertionError."""
        problems = list(dict.fromkeys(self._service.problems()))
        if problems:
            raise AssertionError("\n".join(problems))

    def abandon(self) -> None:
        """Nothing of the objects is left, whatever they were at."""
        self._service.close()
        self._settings.take_back()

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.abandon()
        if error is None:
            self.check()
        else:
            self.tell(error)

    def tell(self, error: BaseException) -> None:
        """What else has gone wrong is noted with it: a library may have said less than it was told."""
        for trouble in dict.fromkeys(self.troubles):
            error.add_note(f"tidegate: {trouble}")


class _Caller:
    """Behind the stubs of a test."""

    def __init__(self, objects: Objects, options: dict[str, Any], retry: bool | None, evicted: bool) -> None:
        self._objects = objects
        self._evicted = evicted
        self._options = options
        self._retry = retry

    def bind(self, class_name: str, name: str, method: str, shape: Any) -> Callable[..., Any]:
        """See `tidegate.runtime.wire.stub.Binder`."""

        def send(class_name: str, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], result_type: Any) -> Any:
            service = self._objects._service
            return service.call(class_name, name, method, args, kwargs, result_type, self._options, self._retry)

        async def send_and_evict(*call: Any) -> Any:
            try:
                return await send(*call)
            finally:
                self._objects.evict(self._objects(class_name, name))

        return bind_call(send_and_evict if self._evicted else send, class_name, name, method, shape)


class _Inside:
    """A method of an object that the test brings along."""

    empty_ok = True
    digest = 0

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = f"run_in {getattr(function, '__name__', 'a function')} {id(self)}"
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._args = args
        self._kwargs = kwargs

    async def function(self, instance: Any) -> None:
        try:
            result = self._function(instance, *self._args, **self._kwargs)
            self.result = await result if inspect.isawaitable(result) else result
        except Exception as exc:
            self.error = exc
