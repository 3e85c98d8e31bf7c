"""Whose code the event loop runs, read off its stack: nothing is noted while code runs, so that it costs nothing.

All code of objects is entered at a few places. What stands above one of them on the stack belongs to the object whose call, task
or callback that is; what stands below is the runtime's own.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, MethodType
from typing import Any, NamedTuple

from tidegate.shard.host.activation import Activation
from tidegate.shard.host.host import Host
from tidegate.shard.loop.callbacks import GatedCallback
from tidegate.shard.loop.context import Owner
from tidegate.shard.loop.cpython import code_of, locals_of
from tidegate.shard.loop.spare import DRIVERS
from tidegate.shard.loop.task import ObjectTask

SHOWN_FRAMES = 20
_DEBUGGERS = ("bdb", "tidegate.shard.worker.debugger")
"""Somebody looks at the code, which therefore stands still: that holds up nobody."""
_RUNTIME = ("tidegate.shard.", "tidegate.runtime.")
_NAMED = (CoroutineType, GeneratorType, FunctionType, BuiltinFunctionType)


class Place(NamedTuple):
    """A method of ours that runs code of an object."""

    cls: type
    name: str
    who: Callable[..., tuple[Owner | None, str]]
    """Whose and which, of the arguments of the method that are named next."""
    arguments: tuple[str, ...] = ("self",)


def _of_call(_: Host, activation: Activation, method: Any, *rest: Any) -> tuple[Activation, str]:
    return activation, method.name


def _of_task(task: ObjectTask, *_: Any) -> tuple[Owner | None, str]:
    return task._owner, _name_of(task.get_coro()) if task.call is None else task.call[2]


def _of_callback(callback: GatedCallback, function: Any = None) -> tuple[Owner, str]:
    return callback._owner, _name_of(callback._callback if function is None else function)


def _of_start(activation: Activation, *_: Any) -> tuple[Activation, str]:
    return activation, "__init__"


def _name_of(code: Any) -> str:
    """Only kinds of Python's own are asked: others may run code of the object then, in the thread of whoever looks, or raise."""
    while (kind := type(code)) is functools.partial or kind is MethodType:
        code = code.func if kind is functools.partial else code.__func__
    return str(code.__name__) if kind in _NAMED else "code without a name"


PLACES = (
    Place(Host, "_run", _of_call, ("self", "activation", "method")),
    Place(ObjectTask, "_step", _of_task),
    Place(GatedCallback, "_run", _of_callback, ("self", "callback")),
    Place(Activation, "construct", _of_start),
)
_PLACE_OF: dict[CodeType, Place] = {code_of(getattr(place.cls, place.name)): place for place in PLACES}


def _calling_lines(code: CodeType) -> set[int]:
    """Where it calls the object's code; what is raised there is caught as if that had raised it."""
    lines, first = inspect.getsourcelines(code)
    return {number for number, line in enumerate(lines, first) if "ontext.run(" in line}


_CALLING: dict[CodeType, set[int]] = {code: _calling_lines(code) for code in _PLACE_OF}


class Occupant(NamedTuple):
    """What the loop runs."""

    step: FrameType
    """Where the loop has begun it: another frame, another step."""
    owner: Owner | None
    """None: no object's code."""
    code: str
    """The name of the method, hook, coroutine or callback."""
    interruptible: bool
    """What is raised now is raised by the object's own code, or by what that has called: no code of ours is in between."""


def occupant(frame: FrameType | None, base: FrameType | None) -> Occupant | None:
    """`frame`: the innermost of the loop's thread; `base`: the one that runs the loop, which is none of a step. None: the loop
    waits."""
    owner, code, interruptible = None, "", False
    own, ours, step = False, False, None
    while frame is not None and frame is not base:
        place = _PLACE_OF.get(frame.f_code) if owner is None else None
        if place is not None:
            known = locals_of(frame)
            owner, code = place.who(*(known[name] for name in place.arguments))
            interruptible = not ours and (own or frame.f_lineno in _CALLING[frame.f_code])  # It may be written in C.
        elif owner is None and frame.f_code not in DRIVERS:
            module = frame.f_globals.get("__name__")
            if type(module) is not str:
                module = ""
            if module in _DEBUGGERS:
                return None
            if module.startswith(_RUNTIME):
                ours = True
            else:
                own = True
        step, frame = frame, frame.f_back
    return None if step is None else Occupant(step, owner, code, interruptible and owner is not None)


def stack_of(frame: FrameType | None, base: FrameType) -> str:
    """The innermost frames, as a traceback shows them; without ours below the code of an object."""
    frames: list[tuple[FrameType, int]] = []
    while frame is not None and frame is not base and len(frames) < SHOWN_FRAMES:
        if frame.f_code not in DRIVERS and not (frames and frame.f_code in _PLACE_OF):
            frames.append((frame, frame.f_lineno))
        frame = None if frame.f_code in _PLACE_OF else frame.f_back
    return "".join(traceback.StackSummary.extract(iter(reversed(frames))).format()).rstrip()
