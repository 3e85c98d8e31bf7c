"""Whose code something is: an object's, a library's, or the runtime's.

A library is code of the standard library, of an installed package or of the runtime, wherever that lies, unless it is the
package of the object's class.
"""

from __future__ import annotations

import asyncio
import functools
import site
import sys
import sysconfig
from types import FunctionType
from typing import Any, Final

from tidegate.shard.loop.context import Owner
from tidegate.shard.loop.cpython import awaited_by, frame_of

PLUMBING: Final = ("_asyncio.", "asyncio.", "tidegate.runtime.", "tidegate.shard.", "uvloop.")
"""Packages whose callbacks run no object code of their own."""

FACING_OBJECTS: Final = frozenset(
    {"tidegate.runtime.wire.stub", "tidegate.shard.objects.object", "tidegate.shard.objects.storage"}
)
"""Modules of the runtime whose methods object code may give as callbacks: they count as its own code."""

_LIBRARY_PATHS: Final = tuple(
    f"{path}/"
    for path in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)

plumbing: dict[str | None, bool] = {}
"""By module, as far as asked."""


def is_plumbing(callback: Any) -> bool:
    """Whether it is asyncio's, the event loop's or the runtime's own. A step of a plain `asyncio.Task` is not: object code that
    makes one itself goes on in it."""
    module = callback.__module__ if callback.__class__ is FunctionType else _module_of(callback)
    known = plumbing.get(module)
    if known is None:
        known = plumbing[module] = f"{module}.".startswith(PLUMBING) and module not in FACING_OBJECTS
    return known and (callback.__class__ is FunctionType or task_of(callback) is None)


def is_library(callback: Any, owner: Owner) -> bool:
    return _is_library_module(_module_of(callback), owner)


def task_of(callback: Any) -> asyncio.Task[Any] | None:
    """The plain task that the callback takes one step further."""
    task = getattr(callback, "__self__", None)
    return task if isinstance(task, asyncio.Task) else None


def runs_object_code(coro: Any, owner: Owner) -> bool:
    """Whether a coroutine is the object's own, or waits in code of the object."""
    if frame_of(coro) is None:  # What closes an async generator shows nothing: it may be the object's. Others are compiled to C.
        return type(coro).__module__ == "builtins"
    while coro is not None:
        frame = frame_of(coro)
        if frame is not None and not _is_library_module(frame.f_globals.get("__name__", ""), owner):
            return True
        coro = awaited_by(coro)
    return False


def line_of(coro: Any, owner: Owner) -> str:
    """Where in its own code an object waits."""
    line = ""
    while coro is not None:
        frame = frame_of(coro)
        if frame is not None and not _is_library_module(frame.f_globals.get("__name__", ""), owner):
            line = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} in {frame.f_code.co_name}"
        coro = awaited_by(coro)
    return line


def _is_library_module(module: str, owner: Owner) -> bool:
    return module not in FACING_OBJECTS and package_of(module) != package_of(owner.module) and _is_installed(module)


def package_of(module: str) -> str:
    """What is edited and installed as one. Of our own package, which a service may serve parts of, each part is one."""
    names = module.split(".", 2)
    return ".".join(names[:2]) if names[0] == "tidegate" else names[0]


@functools.lru_cache(maxsize=4_096)
def _is_installed(module: str) -> bool:
    if module.startswith("tidegate."):
        return True
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    path = getattr(loaded, "__file__", None)
    return module != "__main__" if path is None else path.startswith(_LIBRARY_PATHS)


def _module_of(callback: Any) -> str:
    """Of the function that is called in the end."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    module = getattr(callback, "__module__", None)
    if not isinstance(module, str):  # Written in C, and bound: to a future, a set, a task.
        module = type(getattr(callback, "__self__", callback)).__module__
    return module
