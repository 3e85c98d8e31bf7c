"""Whose code the event loop runs, read off its stack by whoever looks on from another thread: see `loop.places`."""

from __future__ import annotations

import inspect
import traceback
from types import CodeType, FrameType
from typing import NamedTuple

from tidegate.shard.host import host as _host  # noqa: F401  # It names the last of the places.
from tidegate.shard.loop.context import Owner
from tidegate.shard.loop.cpython import locals_of
from tidegate.shard.loop.places import PLACES
from tidegate.shard.loop.spare import DRIVERS

SHOWN_FRAMES = 20
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


def occupant(frame: FrameType | None, base: FrameType | None) -> Occupant | None:
    """`frame`: the innermost of the loop's thread; `base`: the one that runs the loop, which is none of a step. None: the loop
    waits."""
    owner, code, interruptible = None, "", False
    own, ours, step = False, False, None
    while frame is not None and frame is not base:
        place = PLACES.get(frame.f_code) if owner is None else None
        if place is not None:
            known = locals_of(frame)
            owner, code, _ = place.who(*(known[name] for name in place.arguments))
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
        if frame.f_code not in DRIVERS and not (frames and frame.f_code in PLACES):
            frames.append((frame, frame.f_lineno))
        frame = None if frame.f_code in PLACES else frame.f_back
    return "".join(traceback.StackSummary.extract(iter(reversed(frames))).format()).rstrip()
