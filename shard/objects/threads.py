"""Objects belong to the thread of the event loop: what other threads do to them is refused, with the way out.

Storage, gates and tasks know nothing of threads: a `put` from another one would land in the middle of whatever the loop does.

Rule: while the process has no thread but the runtime's own, nothing looks at its thread, and a read from memory costs what it
costs. The first start of another one is noticed before it runs; from then on every operation looks, which costs a read 0.1 µs.
(`Thread.start` is replaced until then: Python 3.11 has no audit event for threads.)
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from types import FunctionType
from typing import Any

from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import Storage, Transaction

OWN_THREADS = "tidegate-"
"""What the names of the runtime's own threads begin with: they know nothing of objects."""
_RELEASES_SENT_BYTES = "zmq.utils.garbage"
"""Of pyzmq: its thread lets go what was sent without a copy. It is one of the runtime's own, too."""

_OPERATIONS: dict[type, tuple[str, tuple[str, ...]]] = {
    Storage: (
        "storage.",
        (
            "get", "get_many", "list", "put", "put_many", "delete", "delete_many", "delete_all", "get_alarm", "set_alarm",
            "delete_alarm", "sync", "transaction",
        ),
    ),
    Transaction: ("transaction.", ("rollback",)),
    DurableObject: ("", ("spawn", "block_concurrency", "abort")),
}  # fmt: skip


_start: Any = threading.Thread.start


class _Objects:
    thread = 0
    """Whose they are."""
    looks = False
    """Whether other threads have been seen."""


def keep_to_this_thread() -> None:
    """Called by the thread of the event loop."""
    if not _Objects.thread:
        others = [each for each in threading.enumerate() if each is not threading.current_thread()]
        if all(_is_own(each) for each in others):
            threading.Thread.start = _start_noticed  # type: ignore[assignment,method-assign]  # on purpose
        else:
            _look_from_now_on()
    _Objects.thread = get_ident()


def no_objects_here() -> None:
    """In a process that was forked: its first thread is nobody's business, and the operations there are others."""
    _Objects.looks = True
    if threading.Thread.start is _start_noticed:
        threading.Thread.start = _start  # type: ignore[method-assign]  # as it was


def _start_noticed(thread: threading.Thread) -> None:
    if not _Objects.looks and not _is_own(thread):
        _look_from_now_on()
    _start(thread)


def _is_own(thread: threading.Thread) -> bool:
    return thread.name.startswith(OWN_THREADS) or type(thread).__module__ == _RELEASES_SENT_BYTES


def _look_from_now_on() -> None:
    _Objects.looks = True
    if threading.Thread.start is _start_noticed:
        threading.Thread.start = _start  # type: ignore[method-assign]  # as it was
    for cls, (prefix, names) in _OPERATIONS.items():
        for name in names:
            _make_look(vars(cls)[name], prefix + name)


def _make_look(function: Any, title: str) -> None:
    """The function itself is changed: a bound method of it may be on its way into the thread: `to_thread(storage.put, …)`."""
    operation: Any = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    operation.__kwdefaults__ = function.__kwdefaults__

    def look(*args: Any, **options: Any) -> Any:
        if get_ident() != _Objects.thread:
            raise RuntimeError(
                f"{title} was called in the thread {threading.current_thread().name!r}, but an object belongs to the thread of "
                "its event loop: give values to the thread, take its result (`result = await asyncio.to_thread(work, value)`) "
                "and use storage in the method; or loop.call_soon_threadsafe(self.storage.put, key, value)"
            )
        return operation(*args, **options)

    function.__code__, function.__defaults__, function.__kwdefaults__ = _looking.__code__, None, {"look": look}
    function.__wrapped__ = operation


def _looking(*args: Any, look: Callable[..., Any], **options: Any) -> Any:
    return look(*args, **options)
