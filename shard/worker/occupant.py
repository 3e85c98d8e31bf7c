"""Whose code the event loop runs, read off its stack by whoever looks on from another thread: see `loop.places`."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

from tidegate.shard.host import host as _host  # noqa: F401  # It names the last of the places.
from tidegate.shard.host.ring import Ring
from tidegate.shard.loop.context import Owner
from tidegate.shard.loop.cpython import code_of, frame_of_thread, locals_of
from tidegate.shard.loop.places import PLACES
from tidegate.shard.loop.spare import DRIVERS

_RINGING = frozenset({code_of(Ring.function), code_of(Ring._run)})
"""What stands below the code of an alarm. It gives way when that raises, and must not be made to raise itself."""
SHOWN_FRAMES = 20
_SAMPLES = 10
"""Of a stack that changes while it is looked at. Hardly one is spoilt: the interpreter lets another thread run every 5 ms."""
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_DEBUGGERS = ("bdb", "tidegate.shard.worker.debugger")
"""Somebody looks at the code, which therefore stands still: that holds up nobody."""
_RUNTIME = ("tidegate.shard.", "tidegate.runtime.")


def _calling_lines(code: CodeType) -> set[int]:
    """Where it calls the object's code; what is raised there is caught as if that had raised it."""
    lines, first = inspect.getsourcelines(code)
    return {number for number, line in enumerate(lines, first) if "ontext.run(" in line}


_CALLING: dict[CodeType, set[int]] = {code: _calling_lines(code) for code in PLACES}


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


def frames_of_thread(ident: int, base: FrameType) -> list[FrameType] | None:
    """Of another thread, which goes on meanwhile: the innermost first, out to `base`, without that. None: not to be had now.
    What a greenlet runs has a stack of its own, which never leads there: it is told as far as that goes."""
    for _ in range(_SAMPLES):
        frames, is_whole = _frames_out(frame_of_thread(ident), base)
        if is_whole:
            return frames
    return frames if frames and not frames[-1].f_code.co_flags & _SUSPENDS else None


def frames_out_to(base: FrameType | None, frame: FrameType | None) -> list[FrameType] | None:
    """None: they do not lead there, since one is of a coroutine that has ended, or waits, meanwhile."""
    frames, is_whole = _frames_out(frame, base)
    return frames if is_whole else None


def _frames_out(frame: FrameType | None, base: FrameType | None) -> tuple[list[FrameType], bool]:
    frames = []
    while frame is not None and frame is not base:
        frames.append(frame)
        frame = frame.f_back
    return frames, frame is base


def occupant(frames: Iterable[FrameType]) -> Occupant | None:
    """`frames`: of the loop's thread, the innermost first, without that which runs the loop. None: the loop waits."""
    owner, code, interruptible = None, "", False
    own, ours, step = False, False, None
    for step in frames:
        place = PLACES.get(step.f_code) if owner is None else None
        if place is not None:
            known = locals_of(step)
            owner, code, _ = place.who(*(known[name] for name in place.arguments))
            interruptible = not ours and (own or step.f_lineno in _CALLING[step.f_code])  # It may be written in C.
        elif owner is None and step.f_code not in DRIVERS and not (own and step.f_code in _RINGING):
            module = step.f_globals.get("__name__")
            if type(module) is not str:
                module = ""
            if module in _DEBUGGERS:
                return None
            if module.startswith(_RUNTIME):
                ours = True
            else:
                own = True
    return None if step is None else Occupant(step, owner, code, interruptible and owner is not None)


def stack_of(frames: Iterable[FrameType]) -> str:
    """The innermost frames, as a traceback shows them; without ours below the code of an object."""
    shown: list[tuple[FrameType, int]] = []
    for frame in frames:
        if len(shown) == SHOWN_FRAMES:
            break
        if frame.f_code not in DRIVERS and not (shown and (frame.f_code in PLACES or frame.f_code in _RINGING)):
            shown.append((frame, frame.f_lineno))
        if frame.f_code in PLACES:
            break
    return "".join(traceback.StackSummary.extract(iter(reversed(shown))).format()).rstrip()
