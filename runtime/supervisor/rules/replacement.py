"""Processes are replaced one by one while the service goes on: a reload, and a rolling restart.

Guarantee: no call fails because of it, but for those that a worker has begun and not ended within the bound. At any instant one
process at most has the shards of a worker: its successor opens them when the old process is gone.

A worker is replaced in steps (`Step`). What takes long happens beside the old process, which serves meanwhile: the import of the
app, the checkpoint. Then routers and the other workers keep back what is for it (`Park`), it answers what it has, and goes; its
successor opens, and gets what was kept back. Workers call each other, perhaps in circles: what *objects* call is kept back for a
moment only, then handed out, and again, until an instant is found in which the old worker has nothing to answer. If that takes
long, whatever comes from outside waits too (`HoldAll`), for any worker, until that instant.

If a successor cannot load the app, or open, the old version is started where the new one already runs. While there are two
versions all the same, that is a problem in `status`.

Rule: pure, a part of `Supervision`, by whose hands everything is done.
"""

from __future__ import annotations

import collections
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidegate.runtime.options.words import shown
from tidegate.runtime.supervisor.rules.seats import (
    NEXT_ROUTER,
    NEXT_WORKER,
    Occupancy,
    Promote,
    ReplacementEnded,
    ReplacementSaid,
    SeatState,
    Send,
    Spawn,
    is_next,
    is_router,
)
from tidegate.runtime.wire.commands import ConfigChanges, Replaced
from tidegate.runtime.wire.supervisor_messages import Failed, HoldAll, Leave, Loaded, OpenShards, Park, Parked, Prepare, Waited

if TYPE_CHECKING:
    from tidegate.runtime.supervisor.rules.supervision import Supervision

LOAD_S_MAX = 120.0
"""A successor is given this long to import the app, or to listen."""
PREPARE_S_MAX = 5.0
"""The checkpoint beside the calls is not waited for longer: what it leaves is recovered from the log."""
PARK_ROUND_S = 0.05
"""Calls of objects are kept back for so long at once: one of them may be what the old worker waits for."""
HOLD_ROUNDS = 4
"""After so many rounds calls come back to the old worker faster than it ends them. Then no new ones are let in anywhere until it
has left: those that are in the service go round to their end."""
WAITING_MAX = 8
"""So many wait for the one that goes on. The last of them loads what there is by then, so that another one would do no more."""
SETTLE_S_MAX = 1.0
"""Routers and workers say within this time how long calls have waited."""


class Step(enum.Enum):
    LOADING = "loading"  # The successor imports the app; a router: begins to listen. Next: LOADED, PREPARING, OPENING, LEAVING.
    LOADED = "loaded"  # It is ready to open; the old process is just being started, and is waited for. Next: PREPARING, OPENING.
    PREPARING = "preparing"  # The old worker checkpoints, and serves. Next: LEAVING.
    LEAVING = "leaving"  # The old process gets no new calls and answers what it has. Next: OPENING; a router: SETTLING.
    OPENING = "opening"  # The successor is in the seat and opens the shards. Next: SETTLING.
    SETTLING = "settling"  # It serves, and those who kept calls back say how long. Next: the next seat.


@dataclass
class Current:
    """The process that is being replaced just now."""

    seat: int
    deadline: float | None
    step: Step = Step.LOADING
    version: str = ""
    left_at: float = 0.0
    ready_at: float = 0.0
    round: int = 0
    is_held: bool = False
    parked_by: set[int] = field(default_factory=set)
    awaited: set[int] = field(default_factory=set)
    """Seats that have not said yet what this step waits for."""
    waited_calls: int = 0
    waited_ms_max: float = 0.0
    unanswered: int = 0


@dataclass
class Replacement:
    number: int
    what: str
    """`reload` or `restart`."""
    generation: int
    """Of app and configuration, which its processes get."""
    left: collections.deque[int]
    """Seats whose turn has not come."""
    current: Current | None = None
    replaced: list[Replaced] = field(default_factory=list)
    failed: Failed | None = None
    """Then it goes backwards."""


class Replacements:
    """One at a time, the others wait. `Supervision` tells what happens; `running` is None while nothing is replaced."""

    def __init__(
        self, supervision: Supervision, drain_s: float, read_config: Callable[[int, int, bool], ConfigChanges | Failed]
    ) -> None:
        self._service = supervision
        self.drain_s = drain_s
        """What a process has begun gets this time to end."""
        self._read_config = read_config
        self._numbers = 0
        self._generations = 0
        self._waiting: list[Replacement] = []
        self._good = 0
        """The generation to go back to."""
        self.running: Replacement | None = None
        self.failed: Failed | None = None
        """Why the newest one failed; None when it did not."""

    # Questions

    @property
    def progress(self) -> str:
        """Empty while nothing is replaced."""
        if self.running is None or (current := self.running.current) is None:
            return ""
        back = "going back to the old version: " if self.running.failed is not None else ""
        return f"{back}{self._service.name(current.seat)} is being replaced: {current.step.value}"

    def next_deadline(self) -> float | None:
        current = self.running.current if self.running is not None else None
        return None if current is None else current.deadline

    @property
    def mixed(self) -> bool:
        """Some workers run one version of the app, and some another."""
        return len({self._service.seats[seat].runs for seat in self._service.worker_seats}) > 1

    def replaces(self, seat: int) -> bool:
        """The process there goes, or has gone, because its successor is ready."""
        current = self._of(seat)
        return current is not None and current.step in (Step.LEAVING, Step.OPENING)

    def is_about(self, seat: int) -> bool:
        """That it ends and begins is not worth a line of the usual kind."""
        return is_next(seat) or self._of(seat) is not None

    def generations(self) -> set[int]:
        """Versions of the app that somebody runs or may be started with."""
        seats, next_ones = self._service.seats, set() if self.running is None else {self.running.generation}
        workers = [occupancy for seat, occupancy in seats.items() if not is_router(seat)]
        return {self._good, *next_ones, *(each.generation for each in workers), *(each.runs for each in workers)}

    # To be done

    def request(self, *, routers: bool, now: float) -> int:
        """Its number, by which its progress and its end are told. Another one is waited for."""
        self._numbers += 1
        what = "restart" if routers else "reload"
        replacement = Replacement(self._numbers, what, 0, collections.deque())
        service = self._service
        if service.stopping or not service.was_ready:
            problem = "the service is stopping" if service.stopping else "the service is still starting"
            hint = "start it again" if service.stopping else "ask again when it is ready"
            self._tell_end(replacement, Failed(what, "service", problem, hint))
        elif len(self._waiting) >= WAITING_MAX:
            self._tell_end(
                replacement, Failed(what, "service", f"{WAITING_MAX} others wait already", "wait for the last of them")
            )
        elif self.running is not None:
            self._waiting.append(replacement)
            self._say(replacement, f"waits: a {self.running.what} is in progress")
        else:
            self._begin(replacement, now)
        return replacement.number

    def stop(self) -> None:
        """The service stops: whatever is not replaced yet never will be."""
        given_up = [*([] if self.running is None else [self.running]), *self._waiting]
        if self.running is not None and self.running.current is not None:
            self._hold(self.running.current, on=False)
        self.running, self._waiting = None, []
        for each in given_up:
            self._tell_end(each, Failed(each.what, "service", "the service was stopped meanwhile", "start it again"))

    def timer(self, now: float) -> None:
        current = self.running.current if self.running is not None else None
        if current is None or current.deadline is None or now < current.deadline:
            return
        current.deadline = None
        if current.step is Step.PREPARING:
            self._leave(current, now)
        elif current.step is Step.LEAVING:
            if current.round == HOLD_ROUNDS:
                self._hold(current, on=True)
            self._park(current, now)
        elif current.step is Step.SETTLING:
            self._settled(current, now)

    # What processes say

    def loaded(self, message: Loaded, now: float) -> None:
        current = self._current(NEXT_WORKER)
        current.version, current.step = message.app_version, Step.LOADED
        self._service.seats[NEXT_WORKER].deadline = None  # Whatever it waits for has one of its own.
        self._go_on(current, now)

    def prepared(self, seat: int, now: float) -> None:
        current = self._of(seat)
        if current is not None and current.step is Step.PREPARING:
            self._leave(current, now)

    def parked(self, seat: int, message: Parked) -> None:
        current = self._of(message.worker)
        if current is not None and current.step is Step.LEAVING and message.round == current.round:
            self._no_longer_awaited(current, seat)

    def waited(self, seat: int, message: Waited, now: float) -> None:
        current = self._of(message.worker)
        if current is not None:
            current.waited_calls += message.calls
            current.waited_ms_max = max(current.waited_ms_max, message.longest_ms)
            if current.step is Step.SETTLING:
                current.awaited.discard(seat)
                if not current.awaited:
                    self._settled(current, now)

    def left_unanswered(self, seat: int, calls: int) -> None:
        if (current := self._of(seat)) is not None:
            current.unanswered += calls

    def seat_ready(self, seat: int, now: float) -> None:
        """Also a successor: of a router, which then listens beside the old one."""
        if seat == NEXT_ROUTER:
            current = self._current(seat)
            current.step, current.left_at = Step.LEAVING, now
            state = self._service.seats[current.seat].state
            if state is SeatState.READY:
                self._service.drain(current.seat, now, self.drain_s, moving=True)
            elif state is SeatState.EMPTY:
                self._take_seat(current, now)
            else:
                self._service.kill(current.seat, "was killed: its successor is ready")
            return
        self._worker_ready(seat, now)

    def _worker_ready(self, seat: int, now: float) -> None:
        current = self.running.current if self.running is not None else None
        if current is None:
            return
        if current.seat == seat and current.step is Step.OPENING:
            current.step, current.ready_at = Step.SETTLING, now
            current.awaited = {each for each in current.parked_by if self._hears(each)}
            current.deadline = now + SETTLE_S_MAX
            if not current.awaited:
                self._settled(current, now)
        elif current.seat == seat and current.step is Step.LOADED:
            self._go_on(current, now)
        elif current.step is Step.LEAVING and not is_router(current.seat):
            self._ask_to_park(current, seat)  # Who comes now knows the old worker from the topology.

    def seat_emptied(self, seat: int, how: str, now: float) -> bool:
        """True: the successor has taken the seat. Else it is for the usual rules to fill it."""
        current = self._of(seat)
        if current is None:
            if self.running is not None and (other := self.running.current) is not None and seat in other.awaited:
                if other.step is Step.LEAVING:
                    self._no_longer_awaited(other, seat)
                else:
                    other.awaited.discard(seat)
            return False
        if current.step is Step.OPENING:
            service = self._service
            failed = service.seats[seat].failed or Failed("start", service.name(seat), how, "its messages in the log say more")
            self._fail(failed, now)
            return False
        if current.step in (Step.LOADING, Step.SETTLING):
            return False
        self._take_seat(current, now)
        return True

    def successor_gone(self, seat: int, how: str, now: float) -> None:
        occupancy = self._service.seats.pop(seat)
        running = self.running
        if running is None or (current := running.current) is None:
            return  # The service stops.
        name = self._service.name(current.seat)
        self._fail(occupancy.failed or Failed(running.what, name, how, "its messages in the log say more"), now)

    # Step by step

    def _of(self, seat: int) -> Current | None:
        current = self.running.current if self.running is not None else None
        return current if current is not None and current.seat == seat else None

    def _current(self, successor: int) -> Current:
        assert self.running is not None
        assert self.running.current is not None, successor
        return self.running.current

    def _begin(self, replacement: Replacement, now: float) -> None:
        """Not at all, if what is configured now is wrong."""
        service = self._service
        self._generations += 1
        replacement.generation = self._generations
        config = self._read_config(replacement.generation, self._good, replacement.what == "restart")
        if isinstance(config, Failed):
            self.failed = config
            self._tell_end(replacement, config)
            return
        for text in _told(config):
            service.report("info", text)
            self._say(replacement, text)
        seats = [*(service.all_routers if replacement.what == "restart" else ()), *service.worker_seats]
        replacement.left = collections.deque(seats)
        self.running = replacement
        self._next(now)

    def _begin_waiting(self, now: float) -> None:
        while self._waiting and self.running is None:
            waiting = self._waiting.pop(0)
            self._begin(waiting, now)
            if self.running is None and (failed := self.failed) is not None:
                text = f"{waiting.what} refused: {failed.operation} {failed.place}: {failed.problem} ({failed.hint})"
                self._service.report("error", text)

    def _next(self, now: float) -> None:
        running, service = self.running, self._service
        assert running is not None
        running.current = None
        if not running.left:
            if running.failed is None:
                self._good = running.generation
            self.running, self.failed = None, running.failed
            self._tell_end(running, running.failed)
            self._begin_waiting(now)
            return
        seat = running.left.popleft()
        old, successor = service.seats[seat], NEXT_ROUTER if is_router(seat) else NEXT_WORKER
        running.current = Current(seat, None)
        incarnation = service.new_incarnation(seat)
        service.seats[successor] = Occupancy(
            state=SeatState.STARTING,
            incarnation=incarnation,
            generation=running.generation,
            runs=running.generation,
            deadline=now + LOAD_S_MAX,
            policy=old.policy,
            last_problem=old.last_problem,
        )
        self._say(running, self.progress)
        service.do(Spawn(successor, incarnation, running.generation, successor_of=seat))

    def _go_on(self, current: Current, now: float) -> None:
        """The successor of a worker is loaded."""
        old = self._service.seats[current.seat]
        if old.state is SeatState.EMPTY:
            self._take_seat(current, now)
        elif old.state is SeatState.READY:
            current.step, current.deadline = Step.PREPARING, now + PREPARE_S_MAX
            self._service.do(Send(current.seat, Prepare()))

    def _leave(self, current: Current, now: float) -> None:
        current.step, current.left_at = Step.LEAVING, now
        self._service.drain(current.seat, now, self.drain_s, moving=True)
        self._park(current, now)

    def _hears(self, seat: int) -> bool:
        occupancy = self._service.seats.get(seat)
        return occupancy is not None and occupancy.state in (SeatState.READY, SeatState.DRAINING)

    def _park(self, current: Current, now: float) -> None:
        """Another round."""
        current.round += 1
        current.deadline = now + PARK_ROUND_S
        current.awaited.clear()
        for seat in self._service.seats:
            if seat != NEXT_WORKER and self._hears(seat):
                self._ask_to_park(current, seat)

    def _ask_to_park(self, current: Current, seat: int) -> None:
        if current.deadline is not None:  # Else it has been let go already: a topology follows soon.
            current.awaited.add(seat)
        if seat != current.seat:
            current.parked_by.add(seat)
        self._service.do(Send(seat, Park(current.seat, current.round)))

    def _hold(self, current: Current, *, on: bool) -> None:
        if current.is_held is not on:
            current.is_held = on
            for seat in self._service.seats:
                if seat != NEXT_WORKER and self._hears(seat):
                    self._service.do(Send(seat, HoldAll(on)))

    def _no_longer_awaited(self, current: Current, seat: int) -> None:
        current.awaited.discard(seat)
        if not current.awaited and current.deadline is not None:
            self._let_go(current)

    def _let_go(self, current: Current) -> None:
        """Nobody of the service sends anything more to the old worker, which has answered everybody: clients, too."""
        current.deadline = None
        self._service.do(Send(current.seat, Leave()))
        self._hold(current, on=False)

    def _take_seat(self, current: Current, now: float) -> None:
        seats, seat = self._service.seats, current.seat
        successor = NEXT_ROUTER if is_router(seat) else NEXT_WORKER
        self._hold(current, on=False)
        flapping = seats[seat].flapping
        seats[seat] = seats.pop(successor)
        seats[seat].flapping = flapping
        self._service.do(Promote(successor, seat))
        current.left_at = current.left_at or now
        if is_router(seat):
            current.ready_at = now
            self._settled(current, now)
            return
        current.step, current.deadline = Step.OPENING, None
        self._service.give_time_to_start(seat, now)
        self._service.do(Send(seat, OpenShards(self._service.open_shards(seat))))

    def _settled(self, current: Current, now: float) -> None:
        running = self.running
        assert running is not None
        gap_ms = 0.0 if is_router(current.seat) else (current.ready_at - current.left_at) * 1_000
        name, longest_ms = self._service.name(current.seat), round(current.waited_ms_max, 1)
        replaced = Replaced(name, current.version, current.waited_calls, longest_ms, current.unanswered, round(gap_ms, 1))
        running.replaced.append(replaced)
        waited = (
            f"; {_calls(replaced.waited_calls)} waited, {replaced.waited_ms_max:g} ms at most" if replaced.waited_calls else ""
        )
        lost = f"; {_calls(replaced.unanswered)} ran too long and were lost" if replaced.unanswered else ""
        version = f", version {replaced.app_version} of the app" if replaced.app_version else ""
        self._service.report("info", f"{name} is replaced{version}{waited}{lost}")
        self._say(running, f"{name} is replaced{waited}{lost}")
        self._next(now)

    def _fail(self, failed: Failed, now: float) -> None:
        running, service = self.running, self._service
        assert running is not None
        if running.current is not None:
            self._hold(running.current, on=False)
        running.current = None
        text = f"{running.what} failed: {failed.operation} {failed.place}: {failed.problem}"
        if running.failed is not None:
            service.report("critical", f"{text}; workers run different versions of the app")
            running.left.clear()
        else:
            new = [seat for seat in service.worker_seats if service.seats[seat].runs != self._good]
            for seat in service.worker_seats:
                service.seats[seat].generation = self._good
            back = "; going back to the old version" if new else "; the old version goes on"
            service.report("error", text + back)
            running.failed, running.generation = failed, self._good
            running.left = collections.deque(new)
        self._next(now)

    def _say(self, replacement: Replacement, text: str) -> None:
        self._service.do(ReplacementSaid(replacement.number, text))

    def _tell_end(self, replacement: Replacement, failed: Failed | None) -> None:
        number, replaced = replacement.number, tuple(replacement.replaced)
        self._service.do(ReplacementEnded(number, replaced, failed, self.mixed, replacement.generation))


def _told(config: ConfigChanges) -> list[str]:
    return [
        *(f"{each.option} becomes {shown(each.after)}, it is {shown(each.before)}" for each in config.changed),
        *(f"{each.option} stays {shown(each.before)}: {shown(each.after)} takes {each.takes}" for each in config.waiting),
    ]


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"
