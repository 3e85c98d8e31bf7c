"""Writes down whose code runs, for the supervisor, which reads it when the worker has died.

That costs a microsecond with every step of every object, so it is done only for a while after a death, and costs nothing before:
the places in which code of an object is entered are replaced, and put back at the end. Two things are written down always: who
holds up the worker (`lookout`), and who ends it by `os._exit`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

from tidegate.runtime.child.witness import Witness
from tidegate.shard.loop.cpython import this_frame
from tidegate.shard.loop.places import PLACES, Place
from tidegate.shard.worker.occupant import frames_out_to, occupant

exit_at_once: Final = os._exit


def start_watch(witness: Witness) -> Callable[[], None]:
    """Returns what ends it. For a process with one host."""
    originals = [_watch(witness, place) for place in PLACES.values()]

    def stop() -> None:
        for cls, name, original in originals:
            setattr(cls, name, original)
        witness.leave()

    return stop


def name_exits(witness: Witness) -> None:
    """From now on code of objects that ends the process by `os._exit` is written down first. In a fork it may."""
    worker_pid, loop_thread = os.getpid(), threading.get_ident()

    def exit_named(status: int) -> NoReturn:
        if os.getpid() == worker_pid and threading.get_ident() == loop_thread:
            found = occupant(frames_out_to(None, this_frame(1)) or ())
            if found is not None and found.owner is not None:
                witness.enter(found.owner.id.class_name, found.owner.id.name, found.code)
        exit_at_once(status)

    os._exit = exit_named


def _watch(witness: Witness, place: Place) -> tuple[type, str, Any]:
    cls, name, who, _ = place
    original = getattr(cls, name)

    def watched(self: Any, *args: Any) -> Any:
        owner, code, _ = who(self, *args)
        if owner is None:
            return original(self, *args)
        witness.enter(owner.id.class_name, owner.id.name, code)
        try:
            return original(self, *args)
        finally:
            witness.leave()

    setattr(cls, name, watched)
    return cls, name, original
