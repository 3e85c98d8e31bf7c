"""Where code of objects is entered, and whose it is that runs here: read off the stack, so that it costs nothing until asked.

All code of objects is entered at a few places, each of which says so beside its definition, by `enters`. What stands above one of
them on the stack belongs to the object whose call, task or callback that is; what stands below is the runtime's own.

Rule: what was read is kept in the context of the code (`SPEAKER`). A call that asks twice looks once, and what it starts after
that, tasks, callbacks and threads, inherits the answer, with its id.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextvars import Context, ContextVar
from types import BuiltinFunctionType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, MethodType
from typing import Any, Final, NamedTuple

from tidegate.runtime.logs.line import Speaker
from tidegate.shard.loop.context import CURRENT, Owner, keyed_here
from tidegate.shard.loop.cpython import code_of, take_locals, this_frame

_NAMED = (CoroutineType, GeneratorType, FunctionType, BuiltinFunctionType)


class Runs(NamedTuple):
    """Code of an object that runs."""

    owner: Owner | None
    code: str
    """The name of the method, hook, coroutine or callback."""
    call: Any = None
    """The id that its sender has given to the call."""


class Place(NamedTuple):
    """A method of ours that runs code of an object."""

    cls: type
    name: str
    who: Callable[..., Runs]
    """Whose and which, of the arguments of the method that are named next; others may follow."""
    arguments: tuple[str, ...]


PLACES: Final[dict[CodeType, Place]] = {}
_BY_IDENTITY: Final[dict[int, Place]] = {}
"""The same: the hash of a code object is computed anew each time, which costs as much as ten steps up the stack."""


def enters(cls: type, name: str, who: Callable[..., Runs], *arguments: str) -> None:
    code = code_of(getattr(cls, name))
    PLACES[code] = _BY_IDENTITY[id(code)] = Place(cls, name, who, ("self", *arguments))


def name_of_code(code: Any) -> str:
    """Only kinds of Python's own are asked: others may run code of the object then, in the thread of whoever looks, or raise."""
    while (kind := type(code)) is functools.partial or kind is MethodType:
        code = code.func if kind is functools.partial else code.__func__
    return str(code.__name__) if kind in _NAMED else "code without a name"


# Who speaks

SPEAKER: Final[ContextVar[Speaker]] = ContextVar("tidegate_speaker")
"""Whose code runs in this context, once somebody has asked."""


def speaker() -> Speaker | None:
    """Whose code it is that asks; None: the runtime's, or a library's on behalf of nobody. Never raises."""
    known = SPEAKER.get(None)
    if known is not None:
        return known
    owner = CURRENT.get(None)
    if owner is None:
        return None
    frame: FrameType | None = this_frame(1)
    places = _BY_IDENTITY
    while frame is not None:
        place = places.get(id(frame.f_code))
        if place is not None:
            _, code, call = place.who(*take_locals(frame, place.arguments))
            keyed = keyed_here()
            class_name, name = owner.id
            said = Speaker(f"{class_name}/{name}", code, call if keyed is None else keyed.label)
            SPEAKER.set(said)
            return said
        frame = frame.f_back
    return Speaker(str(owner.id))  # In a thread.


def speak_in(context: Context) -> None:
    """What runs in that context, which is a copy of this one, is of whoever runs here."""
    said = speaker()
    if said is not None:
        with contextlib.suppress(RuntimeError):  # It runs elsewhere: whoever waits for that will be told.
            context.run(SPEAKER.set, said)
