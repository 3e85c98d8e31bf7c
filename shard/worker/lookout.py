"""The thread that looks at the event loop, ten times a second, and does something about code that holds it up.

Guarantee: code of an object that holds it up for half a second is named within a second, with the stack. Past the limit it is
interrupted and its object reset, as if it had called `abort` where it was. If that has no effect the process ends, and whose code
it was is written down for the supervisor. The rules are in `patience`. Where a call into C keeps the interpreter, so that not
even this thread runs, the stack is told to the supervisor within a second, and it decides.

Code is interrupted by a signal: its handler runs in the loop's thread between two instructions of the interpreter, also out of a
sleep or a lock that waits, and sees where it is. It raises only where the object's own code, or what that has called, is at work.

Nothing here may wait for what the loop's thread may hold: lines go to the log by a way that takes no lock of `logging`.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from tidegate.runtime.child.witness import Witness
from tidegate.runtime.limits import HELD_UP_KINDS_MAX, HELD_UP_KINDS_S
from tidegate.runtime.logs.line import Speaker
from tidegate.runtime.wire.supervisor_messages import HeldUp, Running
from tidegate.shard.host.activation import Activation
from tidegate.shard.worker.occupant import Occupant, frames_of_thread, frames_out_to, occupant, stack_of
from tidegate.shard.worker.patience import Patience, Reaction
from tidegate.shard.worker.stack_timer import StackTimer

Say = Callable[[int, str, Speaker | None], None]
STUCK_S = 0.7
FAILURE_S = 60.0
"""A fault of the lookout's own is told so often."""
SIGNAL = signal.SIGRTMAX - 3
"""Any that the app does not use; programs that an object starts do not inherit its handler."""


class Lookout:
    """Made and started in the loop's thread, which must be the main one."""

    def __init__(
        self,
        patience: Patience,
        say: Say,
        witness: Witness | None,
        held_up: Callable[[HeldUp], None],
        end: Callable[[], NoReturn],
        stuck_fd: int = -1,
    ) -> None:
        """`say` writes a line to the log, and of whose code. `witness`: where to write down who holds up the worker. `held_up` is
        told, in the loop's thread, who is being interrupted. `end` ends the process. `stuck_fd`: where the stack is written,
        without the interpreter, when not even this thread can run."""
        self._patience = patience
        self._say = say
        self._witness = witness
        self._held_up = held_up
        self._end = end
        self._stuck_fd = stuck_fd
        self._stack_timer: StackTimer | None = None
        self._set_at_s = 0.0
        self._failure_told_s = -math.inf
        self._thread_id = threading.get_ident()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidegate-lookout", daemon=True)
        self._times: int | None = None
        self._last: Occupant | None = None
        self._target: FrameType | None = None
        """The step that is to be interrupted."""
        self._heard = self._raised = 0
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """By class and method: when the next line may be written, and how many were not."""

    def start(self, base: FrameType) -> None:
        """`base`: the frame that is going to run the loop."""
        self._base = base
        signal.signal(SIGNAL, self._interrupt)
        try:
            self._times = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # A kernel without: a starved worker is then taken for one that is held up.
            self._times = None
        if self._stuck_fd >= 0:
            try:
                self._stack_timer = StackTimer(self._stuck_fd)
            except (OSError, AttributeError) as error:  # Too many timers of this user, or a C library without.
                text = f"a call into C that keeps the interpreter will be noticed late, and without its stack: {error}"
                self._say(logging.WARNING, text, None)
        self._set_stack_timer(time.monotonic())
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        if self._stack_timer is not None:
            self._stack_timer.close()
        if self._times is not None:
            os.close(self._times)

    # In the thread

    def _run(self) -> None:
        while not self._closing.wait(self._patience.pause_s):
            now_s = time.monotonic()
            try:
                if now_s - self._set_at_s >= STUCK_S / 2:
                    self._set_stack_timer(now_s)
                self.look(now_s)
            except Exception:  # A fault of ours. Without a lookout the worker is taken for one that is stuck, and killed.
                if now_s >= self._failure_told_s + FAILURE_S:
                    self._failure_told_s = now_s
                    text = f"nobody could look whether the event loop is held up\n{traceback.format_exc().rstrip()}"
                    self._say(logging.ERROR, text, None)

    def _set_stack_timer(self, now_s: float) -> None:
        self._set_at_s = now_s
        if self._stack_timer is not None:
            self._stack_timer.set(STUCK_S)

    def look(self, now_s: float) -> None:
        frames = frames_of_thread(self._thread_id, self._base)
        if frames is None:
            return
        found = occupant(frames)
        step = None if found is None else found.step
        patience = self._patience
        if patience.has_changed(step):
            self._step_over(now_s)
        reaction = patience.look(
            now_s,
            step,
            self._starved_s(),
            heard=self._heard,
            raised=self._raised,
            interruptible=found is not None and found.interruptible,
        )
        self._last = found
        if reaction is Reaction.NOTHING or found is None:
            return
        if reaction is Reaction.NAME:
            self._name(found, frames)
        elif reaction is Reaction.INTERRUPT:
            self._target = found.step
            signal.pthread_kill(self._thread_id, SIGNAL)
        else:
            what = "swallowed its interruption" if self._raised else "cannot be interrupted"
            text = f"{self._held_up_for} and {what}: this worker ends\n{stack_of(frames)}"
            self._say(logging.ERROR, text, _speaker(found))
            self._end()

    def _step_over(self, now_s: float) -> None:
        last, patience = self._last, self._patience
        self._target = None
        self._heard = self._raised = 0
        if last is None or last.owner is None or not patience.was_slow:
            return
        if self._witness is not None:
            self._witness.leave()
        kind = last.owner.id.class_name, last.code
        due_s, silent = self._told.get(kind, (0.0, 0))
        if now_s < due_s:
            self._told[kind] = due_s, silent + 1
            return
        if len(self._told) >= HELD_UP_KINDS_MAX:
            self._told.clear()
        self._told[kind] = now_s + HELD_UP_KINDS_S, 0
        more = f" ({silent} more of this kind since the last line)" if silent else ""
        self._say(logging.WARNING, f"{self._held_up_for} before it let others run{more}", _speaker(last))

    def _name(self, found: Occupant, frames: Sequence[FrameType]) -> None:
        if found.owner is None:
            text = f"the event loop has been held up for {self._patience.held_s:.1f} s by no object's code"
            self._say(logging.INFO, f"{text}\n{stack_of(frames)}", None)
            return
        if self._witness is not None:
            self._witness.enter(found.owner.id.class_name, found.owner.id.name, found.code)
        text = f"{self._held_up_for} so far, and others wait\n{stack_of(frames)}"
        self._say(logging.WARNING, text, _speaker(found))

    @property
    def _held_up_for(self) -> str:
        return f"held up its worker for {self._patience.held_s:.1f} s"

    def _starved_s(self) -> float:
        if self._times is None:
            return 0.0
        return int(os.pread(self._times, 100, 0).split()[1]) / 1e9

    # In the loop's thread

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        target = self._target
        if target is None:
            return
        self._heard += 1
        found = occupant(frames_out_to(self._base, frame) or ())
        if found is None or found.step is not target or not found.interruptible:
            return
        self._raised += 1
        activation = found.owner
        assert isinstance(activation, Activation)
        held_s = self._patience.held_s
        if self._raised == 1:
            self._held_up(HeldUp(Running(activation.id.class_name, activation.id.name, found.code), round(held_s, 3)))
        where = "" if frame is None else f" ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
        activation.abort(f"its code held up the worker for {held_s:.1f} s in {found.code}{where}")


def _speaker(found: Occupant) -> Speaker:
    assert found.owner is not None
    return Speaker(str(found.owner.id), found.code)
