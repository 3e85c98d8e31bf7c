"""The base class of durable objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Protocol, TypeVar, cast, overload

from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.ids import ObjectId, check_object_id
from tidegate.runtime.wire.stub import ALIASES, Binder, Stub
from tidegate.shard.loop.task import check_coroutine
from tidegate.shard.objects.storage import LEFT_MEMORY, SectionEntry, Storage, StorageOwner

if TYPE_CHECKING:
    import aiohttp

    from tidegate.shard.objects.offload import Offload
    from tidegate.shard.objects.web import Web

ALARM = "alarm"
READ_ONLY = "__tidegate_read_only__"
"""The mark of a method."""
P = ParamSpec("P")
T = TypeVar("T")
ObjectT = TypeVar("ObjectT", bound="DurableObject")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def readonly(method: MethodT) -> MethodT:
    """Marks a method that changes nothing, so that access keys which are read-only may call it: they may call no other. It is the
    word of who writes the class: a marked method that writes writes. Raises TypeError for what is no function."""
    if not isinstance(method, FunctionType):
        raise TypeError(f"@readonly marks an `async def` of a class, not {method!r}")
    setattr(method, READ_ONLY, True)
    return method


class ObjectHost(Protocol):
    """What the objects of one worker share."""

    @property
    def web(self) -> Web: ...

    @property
    def offload(self) -> Offload: ...


class ObjectOwner(StorageOwner, Protocol):
    """What `self` needs of the activation it belongs to."""

    @property
    def caller(self) -> Binder: ...

    @property
    def host(self) -> ObjectHost: ...

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> Any: ...

    def abort(self, reason: str) -> NoReturn: ...


class _Left:
    """What an instance finds in the place of its storage when it has left memory and somebody has kept it."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError("storage") if instance is None else ObjectReset(LEFT_MEMORY)


class DurableObject:
    """Derive from this class. Each named instance is single-threaded, has private storage, and loses nothing that it has
    confirmed.

    Public `async def` methods can be called from outside. While a storage operation or a critical section of the object is
    at work, no other event is delivered to it; no reply leaves before the writes that it may reveal are durable.
    """

    def __init_subclass__(cls, *, aliases: tuple[str, ...] = (), **others: Any) -> None:
        """aliases: of a class that was renamed, the names under which its objects were made. They keep them: a stub that is made
        from the class reaches the objects of the first one, which is where new ones come into being, too; those of the others are
        called by its text. Raises TypeError for what are no names of classes."""
        super().__init_subclass__(**others)
        if not isinstance(aliases, tuple):
            raise TypeError(f'aliases of {cls.__name__} are a tuple of names, ("{aliases}",)')
        for alias in aliases:
            if problem := check_object_id(alias, "name"):
                raise TypeError(f"{alias!r}, an alias of {cls.__name__}: {problem}")
        if aliases:
            setattr(cls, ALIASES, aliases)

    id: ObjectId
    """`id.class_name`, `id.name`; `str(id)` is `Counter/alice`."""
    storage: Storage = cast("Storage", _Left())
    _activation: ObjectOwner = cast("ObjectOwner", _Left())

    async def on_start(self) -> None:
        """Runs before the first event of an instance, with the input gate closed. If it raises, aborts or is not over after 30 s,
        every waiting caller gets `start_failed`, and the next call tries again with a new instance."""

    @overload
    def stub(self, object_class: type[ObjectT], name: str) -> ObjectT: ...

    @overload
    def stub(self, object_class: str, name: str) -> Stub: ...

    def stub(self, object_class: type[Any] | str, name: str) -> Any:
        """A handle on another object, typed as its class where that is given. Calls leave only when everything this object has
        written is durable, in the order in which they are made to that object. A call that waits for itself raises `Deadlock`.
        Raises TypeError for what is neither a class nor the name of one."""
        return Stub(self._activation.caller, object_class, name)

    def spawn(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a background task that the object owns: gated, counted as activity, cancelled when the object is reset. An
        exception that escapes it is logged. Raises TypeError for what is no coroutine."""
        activation = self._activation
        check_coroutine(coro)
        return cast("asyncio.Task[T]", activation.spawn(coro))

    def block_concurrency(self) -> SectionEntry:
        """`async with self.block_concurrency():` a critical section. Only events that its own code started are delivered
        while it runs. They nest, 64 deep at most. An exception that escapes it, or 30 s in it, resets the object."""
        return self._activation.enter_section(None)

    @property
    def fetch(self) -> aiohttp.ClientSession:
        """An aiohttp client session. Its requests leave only when everything this object has written is durable. Raises
        RuntimeError where aiohttp is not installed."""
        return self._activation.host.web.session()

    async def offload(self, function: Callable[P, T], /, *args: P.args, **keywords: P.kwargs) -> T:
        """What `function(*args, **keywords)` returns, or raises, in another process: for what computes for long, and would hold
        up every object of the worker. Arguments are as they are at the call; function, arguments and result must be such that
        `multiprocessing` can send them (a function of a module, plain values). Other events are delivered meanwhile, as with any
        await. If the object is reset, work under way goes on to its end and its result is dropped. Raises TypeError for what
        cannot be sent, Overloaded, TimeoutError for a function that was not done after `[service] offload_s` and was killed, and
        RuntimeError if the process ended, or for a result or an exception that cannot come back: then the function has run."""
        return cast("T", await self._activation.host.offload.run(function, args, keywords))

    def abort(self, reason: str = "aborted") -> NoReturn:
        """Drops what has been written and is in no commit yet, and resets the object. Callers get `object_reset`."""
        self._activation.abort(reason)
