"""Whose code runs, and where in it: the context variables of object code, and what the loop asks of the object it belongs to.

Every callback and every step of a task runs in a context. In the context of code of an object these variables are set; in any
other, as in `NEUTRAL`, none is. Tasks, threads and callbacks that the code starts inherit them, as asyncio does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextvars import Context, ContextVar
from typing import Any, Final, Protocol

from tidegate.runtime.errors import CallError
from tidegate.runtime.ids import ObjectId
from tidegate.shard.core.chain import Chain
from tidegate.shard.core.input_gate import InputGate, Section


class Log(Protocol):
    def error(self, text: str, *args: object) -> None: ...


class TurnEnd(Protocol):
    def end_soon(self) -> None:
        """Code of an object goes on, and may write or answer."""
        ...


class Surroundings(Protocol):
    """What the owners of one worker share."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def log(self) -> Log: ...

    @property
    def turn(self) -> TurnEnd: ...


class Owner(Protocol):
    """An object in memory, to whose code tasks, callbacks and bytes on their way out belong."""

    kept_until_s: float
    """Until then its pending callbacks keep it in memory."""
    last_used_s: float

    @property
    def id(self) -> ObjectId: ...

    @property
    def host(self) -> Surroundings: ...

    @property
    def gate(self) -> InputGate: ...

    @property
    def broken(self) -> CallError | None:
        """Why it was reset. What belongs to it goes on only to end."""
        ...

    @property
    def life(self) -> int:
        """How many instances have left memory before the one that runs now."""
        ...

    @property
    def module(self) -> str:
        """Where its class is defined: what is of that package is the object's own code."""
        ...

    def current_section(self) -> Section:
        """Where work that is started now belongs."""
        ...

    # Tasks, each a `task.ObjectTask`

    @property
    def tasks(self) -> Collection[Any]: ...

    def add_task(self, task: Any) -> None: ...

    def task_done(self, task: Any) -> None: ...

    own_tasks: int
    """Of them, those that its code has started; `own_task_done` is what such a task calls when it is done."""

    def own_task_done(self, task: Any) -> None: ...

    # Callbacks, each a `callbacks.GatedCallback`

    @property
    def callbacks(self) -> Collection[Any]: ...

    def add_callback(self, callback: Any) -> None: ...

    def callback_over(self, callback: Any) -> None: ...

    def callback_failed(self, error: BaseException) -> None: ...

    # Messages

    @property
    def may_reveal(self) -> bool:
        """Whether a message may leave now."""
        ...

    def hold(self, release: Callable[[], object], discard: Callable[[CallError], object]) -> None:
        """Calls one of the two: when a message that leaves now may leave, or when what it reveals is lost."""
        ...

    def wait_confirmed(self) -> Awaitable[None]:
        """Completes when a message that leaves now may leave."""
        ...


CURRENT: Final[ContextVar[Owner]] = ContextVar("tidegate_activation")
"""The object in memory whose code runs in this context."""

LIFE: Final[ContextVar[int]] = ContextVar("tidegate_life", default=0)
"""Which instance of it it is whose code runs in this context: see `Owner.life`."""

SECTION: Final[ContextVar[Section]] = ContextVar("tidegate_section")
"""The critical section in which code of this context was when it entered its last one. It may be over."""

CHAIN: Final[ContextVar[Chain]] = ContextVar("tidegate_chain")
"""Through what the call has come whose code runs in this context, if it has come through a section of any object."""


class Keyed(Protocol):
    """The run of a call with a key."""

    has_effects: bool
    """It has written, sent or started something, other than by writes of its current step."""
    is_spare: bool
    """Only its first step has it. What sends or starts something keeps it."""

    @property
    def label(self) -> str:
        """By which the call is known to people."""
        ...

    def begin_step(self) -> None:
        """Code of it goes on."""
        ...

    def end_step(self) -> None:
        """That has come to a stop, and the call has not ended by it."""
        ...

    def call_key(self, class_name: str, name: str, method: str) -> Any:
        """The key of a call that it makes."""
        ...


class Attribution:
    """To which call with a key the code counts that runs in the contexts which have this.

    To set a variable would cost a call more than all else that is done for its key. So the calls of an object begin in copies of
    one context that has this from the start, one after the other, and each writes itself in for its first step. For most that
    is all. What goes on after it, or has started something that may, *keeps* this, and the next call gets another."""

    __slots__ = ("context", "digest", "keyed", "method")

    def __init__(self, context: Context | None, keyed: Keyed | None = None) -> None:
        self.context = context
        """What the next call begins in is a copy of it. None: there is no next one, this is kept."""
        self.keyed = keyed
        """The call; None between two of them."""
        self.method: object = None
        """What was called last. None: nothing, or this is kept."""
        self.digest = 0
        """Of that and the object, for those of its calls."""

    def within(self, context: Context) -> Attribution:
        context.run(_ATTRIBUTION.set, self)
        return self

    def keep(self) -> Keyed | None:
        self.context = self.method = None
        if self.keyed is not None:
            self.keyed.is_spare = False
        return self.keyed


_ATTRIBUTION: Final[ContextVar[Attribution]] = ContextVar("tidegate_attribution")


def keyed_here() -> Keyed | None:
    """The call with a key whose code runs."""
    attribution = _ATTRIBUTION.get(None)
    return None if attribution is None else attribution.keyed


def kept_for(context: Context | None = None) -> Keyed | None:
    """The call with a key whose code starts something, in this context or in a copy of the current one."""
    attribution = _ATTRIBUTION.get(None) if context is None else context.get(_ATTRIBUTION)
    return None if attribution is None else attribution.keep()


def keyed_in(context: Context) -> Keyed | None:
    """The call with a key whose code runs in that context."""
    attribution = context.get(_ATTRIBUTION)
    return None if attribution is None else attribution.keyed


def note_sent() -> None:
    """The code that runs has sent something out of the process."""
    keyed = keyed_here()
    if keyed is not None:
        keyed.has_effects, keyed.is_spare = True, False
