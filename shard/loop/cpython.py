"""What the loop takes from CPython and asyncio that they do not promise: each thing once, with what it is for.

`self_test` tries on a throw-away loop whether these things behave as they must. `tests/meta/test_private_names.py` lists every
name of others that is used anywhere in the tree.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import base_tasks, futures, taskgroups, tasks
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final
from weakref import getweakrefcount

enter_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = tasks._enter_task
leave_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = tasks._leave_task
"""They make a task of ours the current one of its loop, as asyncio does with its own: documented for third-party tasks. They
refuse while another one is the current one, so steps start from loop callbacks only."""

register_task: Final[Callable[[Any], None]] = tasks._register_task
"""Makes a task of ours known to `asyncio.all_tasks`: documented for third-party tasks."""

loop_of: Final[Callable[[Any], asyncio.AbstractEventLoop]] = futures._get_loop  # type: ignore[attr-defined]  # private
"""Of whatever acts as a future: how asyncio's own tasks ask."""

END_OF_SLEEP: Final = futures._set_result_unless_cancelled  # type: ignore[attr-defined]  # private
"""What `asyncio.sleep` schedules. Were it another one, sleeping would cost more and be right."""

stack_of_task: Final[Callable[..., list[Any]]] = base_tasks._task_get_stack
print_stack_of_task: Final[Callable[..., None]] = base_tasks._task_print_stack
"""What `Task.get_stack` and `Task.print_stack` do."""

this_frame: Final = sys._getframe
"""Of the function that asks."""


def frame_of_thread(ident: int) -> FrameType | None:
    """The innermost of another thread, which goes on meanwhile."""
    return sys._current_frames().get(ident)


def locals_of(frame: FrameType) -> Mapping[str, Any]:
    return frame.f_locals


def take_locals(frame: FrameType, names: tuple[str, ...]) -> list[Any]:
    """Those of a frame of this thread. Up to Python 3.12 the dict would stay, and hold whatever else is in it, until the frame is
    over: a task that is counted would be known to one more."""
    known = frame.f_locals
    values = [known[name] for name in names]
    if type(known) is dict:
        known.clear()
    return values


def code_of(function: Any) -> CodeType:
    """What its frames have as `f_code`."""
    code: CodeType = function.__code__
    return code


# Who knows a task. Where a count is compared, what it is when nobody else does has been counted before.

references_to: Final = sys.getrefcount
weak_references_to: Final = getweakrefcount


# What waits for what


def awaited_by(coro: Any) -> Any:
    """What a coroutine or generator of any kind waits for: another one, or a future. None: nothing, or it does not tell."""
    return getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)


def frame_of(coro: Any) -> FrameType | None:
    """None: it is over, or compiled to C."""
    return getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)


def gathered_by(future: object) -> list[Any]:
    """What that future waits for, if `asyncio.gather` has returned it."""
    return list(future._children) if isinstance(future, tasks._GatheringFuture) else []  # type: ignore[attr-defined]  # private


def group_awaited_by(coro: Any) -> list[Any]:
    """The tasks of a task group for whose end a coroutine waits: the future of that does not tell."""
    while (awaited := getattr(coro, "cr_await", None)) is not None and hasattr(awaited, "cr_frame"):
        coro = awaited
    frame = getattr(coro, "cr_frame", None)
    if frame is None or frame.f_globals.get("__name__") != taskgroups.__name__:
        return []
    return list(getattr(frame.f_locals.get("self"), "_tasks", ()))
