"""What an exception that object code has raised keeps in memory, and how it lets go of it.

A traceback holds the frames that it names, and with them every argument and local; a future keeps one beside its exception. In a
ring (a frame that knows its own exception or its own task) they would stay until a collection, which a worker has rarely: 350
calls with 12 MiB each took one to 4.4 GB.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

EXCEPTIONS_MAX = 1_000
"""Causes, contexts and members of groups that are looked at."""

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_PARTS: Any = BaseExceptionGroup.__dict__["exceptions"]


def let_go(error: BaseException) -> None:
    """It has been answered and logged: what its frames held is free, also those of what it was raised from, or while."""
    todo = [error]
    seen: set[int] = set()
    while todo and len(seen) < EXCEPTIONS_MAX:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        _TRACEBACK.__set__(each, None)
        todo += [other for other in (_CAUSE.__get__(each), _CONTEXT.__get__(each)) if other is not None]
        if issubclass(type(each), BaseExceptionGroup):
            todo += _PARTS.__get__(each)


def leave_frame(error: BaseException) -> None:
    """Takes the frame that has just caught it, which is the runtime's and knows the task, out of its traceback."""
    caught = _TRACEBACK.__get__(error)
    if caught is not None:
        _TRACEBACK.__set__(error, caught.tb_next)


def forget_locals(frame: FrameType | None) -> None:
    """The same for the runtime's frames that were running when the exception was raised, and are over now: since Python 3.12 the
    frame of a coroutine knows who has run it."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("tidegate.shard."):
            try:
                frame.clear()
            except RuntimeError:  # It runs again, or still.
                pass
        frame = frame.f_back
