"""Writes down whose code runs, for the supervisor, which reads it when the worker has died.

That costs a microsecond with every step of every object, so it is done only for a while after a death, and costs nothing before:
the four places in which code of an object is entered are replaced, and put back at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.runtime.child.witness import Witness
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.host import Host
from tidegate.shard.loop.callbacks import GatedCallback
from tidegate.shard.loop.context import Owner
from tidegate.shard.loop.task import ObjectTask

Who = Callable[..., tuple[Owner | None, str]]


def start_watch(witness: Witness) -> Callable[[], None]:
    """Returns what ends it. For a process with one host."""
    originals = [_watch(witness, *place) for place in _PLACES]

    def stop() -> None:
        for cls, name, original in originals:
            setattr(cls, name, original)
        witness.leave()

    return stop


def _watch(witness: Witness, cls: type, name: str, who: Who) -> tuple[type, str, Any]:
    original = getattr(cls, name)

    def watched(self: Any, *args: Any) -> Any:
        owner, code = who(self, *args)
        if owner is None:
            return original(self, *args)
        witness.enter(owner.id.class_name, owner.id.name, code)
        try:
            return original(self, *args)
        finally:
            witness.leave()

    setattr(cls, name, watched)
    return cls, name, original


def _of_call(_: Host, activation: Activation, method: Any, *rest: Any) -> tuple[Activation, str]:
    return activation, method.name


def _of_task(task: ObjectTask, *_: Any) -> tuple[Owner | None, str]:
    return task._owner, _name_of(task.get_coro()) if task.call is None else task.call[2]


def _of_callback(callback: GatedCallback) -> tuple[Owner, str]:
    return callback._owner, _name_of(callback._callback)


def _of_start(activation: Activation, *_: Any) -> tuple[Activation, str]:
    return activation, "__init__"


def _name_of(code: Any) -> str:
    name = getattr(code, "__name__", None)
    return name if type(name) is str else "a task"


_PLACES: list[tuple[type, str, Who]] = [
    (Host, "_run", _of_call),
    (ObjectTask, "_step", _of_task),
    (GatedCallback, "_run", _of_callback),
    (Activation, "construct", _of_start),
]
