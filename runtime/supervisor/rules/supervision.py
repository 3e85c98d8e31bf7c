"""The rules of the supervisor: who is started, watched, drained, killed, and what everybody is told.

Rule 1: pure. No process, socket or clock: events come in with `now`, effects come back as values.
Rule 2: a topology never names an endpoint at which nobody listens any more: a loss is announced before anything else.
Rule 3: every wait has a deadline. `next_deadline` says when `timer` wants to be called.

Seats are explained in `seats.py`; how processes are replaced while the service goes on, in `replacement.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from tidegate.runtime.data.backups import Backups
from tidegate.runtime.errors import one_line
from tidegate.runtime.supervisor.rules.elsewhere import Elsewhere
from tidegate.runtime.supervisor.rules.host_shards import HostShards
from tidegate.runtime.supervisor.rules.replacement import Replacements
from tidegate.runtime.supervisor.rules.seats import (
    NEXT_WORKER,
    ROUTER,
    CpuTime,
    Effect,
    Finish,
    Kill,
    Occupancy,
    Report,
    SeatState,
    Send,
    ServiceReady,
    Spawn,
    is_next,
    is_router,
)
from tidegate.runtime.supervisor.rules.suspicion import Suspicion
from tidegate.runtime.wire.commands import ConfigChanges
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    Failed,
    FromChild,
    HeldUp,
    Leave,
    Loaded,
    Owned,
    Parked,
    Ping,
    Pong,
    Prepared,
    Problem,
    QuarantineChanged,
    Quiet,
    Ready,
    Released,
    Running,
    Topology,
    TopologyChanged,
    Waited,
)

PING_INTERVAL_S = 2.0
STUCK_ANSWER_S = 0.2
"""A child of which no Python code could run for a while, and that answers a ping within this time, had only been stopped."""
STARVED_S_MIN = 0.02
"""Less is no reason to look again."""
SLEPT_S = 5.0
"""A timer this late says that the supervisor itself was stopped or starved."""
START_S_MAX = 900.0
"""A child that recovers is given this long to become ready; it is not pinged before, because it may be reading a long log."""
START_FAILURES_MAX = 5
"""Failures of one child before the service was ever ready, after which the start is given up."""
DRAIN_ROUTER_SHARE = 0.55
"""Part of the time for a stop in which the routers answer what is in flight; the rest is for checkpoints of the workers."""
HURRY_S = 1.0
"""What a second request to stop leaves everybody."""
EPOCHS_PER_START = 1 << 20
"""Epochs begin above those of every earlier start, so that a client which remembers an old topology takes the new one."""


class Supervision:
    """Keeps every seat filled until asked to stop, then empties them in order, those of the routers first."""

    def __init__(
        self,
        owners: tuple[int, ...],
        workers: int,
        start: int,
        liveness_s: float,
        stop_s: float,
        routers: int = 1,
        replace_s: float = 10.0,
        held_up_s: float = math.inf,
        cpu_time: Callable[[int], CpuTime] = lambda seat: CpuTime(),
        read_config: Callable[[int, int, bool], ConfigChanges | Failed] = lambda generation, after, routers: ConfigChanges(),
        shards: HostShards | None = None,
        has_door: bool = False,
    ) -> None:
        """`cpu_time` tells of the process in a seat. `read_config` reads what processes of a new generation are started with, and
        says what is set otherwise than for the generation before; it is told whether routers are replaced, too. `shards`: of a
        cluster, which come and go; else each worker has those that `owners` says. `has_door`: a router that hears the other hosts
        of the cluster."""
        self._owners = owners
        self._workers = workers
        self.shards = shards
        self._told_owners: tuple[int, ...] = ()
        self.liveness_s = liveness_s
        self._held_up_s = held_up_s
        self._cpu_time = cpu_time
        self._stop_s = stop_s
        self.routers = tuple(ROUTER - index for index in range(routers))
        """Their seats."""
        self.door = ROUTER - routers if has_door else None
        """The seat of one more, which hears other hosts only."""
        self.elsewhere = Elsewhere()
        self.of_cluster: tuple[Problem, ...] = ()
        """What is wrong with the cluster, as this host sees it."""
        self.seats: dict[int, Occupancy] = {seat: Occupancy() for seat in (*self.all_routers, *range(workers))}
        self._start = start
        self.epoch = start * EPOCHS_PER_START
        self.was_ready = False
        self.stopping = False
        self.suspicion = Suspicion()
        self.backups = Backups()
        self.replacements = Replacements(self, replace_s, read_config)
        self._incarnations = dict.fromkeys(self.seats, 0)
        self._ran = ""
        """What is known of the death at hand."""
        self._stop_requests = 0
        self._stop_by = 0.0
        self._workers_drain = self._workers_leave = False
        self._finished = False
        self._failure: Failed | None = None
        self._next_ping_at = 0.0
        self._effects: list[Effect] = []

    # Questions

    def name(self, seat: int) -> str:
        """A router has a number when there are several."""
        if is_next(seat):
            return "the next router" if is_router(seat) else "the next worker"
        if seat == self.door:
            return "door"
        if not is_router(seat):
            return f"worker {seat}"
        return "router" if len(self.routers) == 1 else f"router {ROUTER - seat}"

    @property
    def all_routers(self) -> tuple[int, ...]:
        """The door among them."""
        return self.routers if self.door is None else (*self.routers, self.door)

    @property
    def door_endpoint(self) -> str:
        """Where other hosts are heard now, another one for each process there; empty: nowhere."""
        if self.door is None or (ready := self.seats[self.door].ready) is None:
            return ""
        return f"{ready.endpoint}#{self._start}.{self.seats[self.door].incarnation}"

    @property
    def worker_seats(self) -> range:
        return range(self._workers)

    @property
    def topology(self) -> Topology:
        workers = [self.seats[index] for index in range(self._workers)]
        endpoints = tuple(worker.ready.endpoint if worker.ready else None for worker in workers)
        down = tuple(index for index, worker in enumerate(workers) if worker.flapping and not worker.ready)
        streams = tuple(worker.ready.stream if worker.ready else None for worker in workers)
        if self.shards is None:
            return Topology(self.epoch, self._owners, endpoints, down, streams)
        hosts = self.elsewhere.endpoints
        endpoints, streams = (*endpoints, None, *hosts), (*streams, None, *(None for _ in hosts))
        return Topology(self.epoch, self._owners_now(), endpoints, down, streams, self._workers)

    def _owners_now(self) -> tuple[int, ...]:
        """Of a cluster: behind the workers comes nobody, and then the other hosts."""
        assert self.shards is not None
        return tuple(
            self._owner_now(shard, worker) for shard, worker in enumerate(map(self.shards.serving, range(len(self._owners))))
        )

    def _owner_now(self, shard: int, worker: int | None) -> int:
        if worker is not None:
            return worker
        host = self.elsewhere.homes.get(shard)
        return self._workers if host is None else self._workers + 1 + host

    def owner(self, shard: int) -> int | None:
        """The worker that has it, or will; None: none of this host."""
        return self._owners[shard] if self.shards is None else self.shards.serving(shard)

    def shards_of(self, worker: int) -> tuple[int, ...]:
        """Those of which calls go there."""
        return tuple(shard for shard in range(len(self._owners)) if self.owner(shard) == worker)

    @property
    def all_ready(self) -> bool:
        return all(occupancy.state is SeatState.READY for seat, occupancy in self.seats.items() if not is_next(seat))

    @property
    def all_serve(self) -> bool:
        """Ready, or on its way to be replaced as planned."""
        return all(
            occupancy.state is SeatState.READY or self.replacements.replaces(seat)
            for seat, occupancy in self.seats.items()
            if not is_next(seat)
        )

    def all_answer(self, now: float) -> bool:
        """Every child is ready and owes no answer for longer than one interval: what the watchdog is told."""
        return self.all_serve and all(
            occupancy.pinged_at is None or now - occupancy.pinged_at < PING_INTERVAL_S for occupancy in self.seats.values()
        )

    def next_deadline(self) -> float | None:
        times = [time for o in self.seats.values() for time in (o.restart_at, o.deadline) if time is not None]
        if not self.stopping:
            times.append(self._next_ping_at)
            times += [self._stuck_deadline(each) for each in self.seats.values() if each.stuck_at is not None]
        if (replaced_by := self.replacements.next_deadline()) is not None:
            times.append(replaced_by)
        return min(times, default=None)

    def check_invariants(self) -> None:
        """For tests: what holds between any two events."""
        for seat, occupancy in self.seats.items():
            there = occupancy.state is not SeatState.EMPTY
            speaks = occupancy.state in (SeatState.READY, SeatState.DRAINING)
            assert (occupancy.ready is not None) == speaks, (seat, occupancy)
            assert occupancy.pinged_at is None or occupancy.state is SeatState.READY, (seat, occupancy)
            assert not occupancy.quiet or (seat >= 0 and occupancy.state in (SeatState.DRAINING, SeatState.EMPTY)), (
                seat,
                occupancy,
            )
            if self.stopping or is_next(seat):
                assert occupancy.restart_at is None, (seat, occupancy)
            elif self.was_ready or not there:
                assert there != (occupancy.restart_at is not None), (seat, occupancy)
            if occupancy.state in (SeatState.STARTING, SeatState.DRAINING):  # Rule 3.
                has_end = occupancy.deadline is not None or occupancy.killed_because or is_next(seat)
                assert has_end, (seat, occupancy)
        if self._finished:
            assert all(occupancy.state is SeatState.EMPTY for occupancy in self.seats.values())

    # Events

    def start(self, now: float) -> list[Effect]:
        self._next_ping_at = now + PING_INTERVAL_S
        for seat in self.seats:
            self._spawn(seat, now)
        return self._taken_effects()

    def spawn_failed(self, seat: int, problem: str, now: float) -> list[Effect]:
        self._empty(seat, f"could not be started: {problem}", now)
        return self._taken_effects()

    def child_said(self, seat: int, message: FromChild, now: float) -> list[Effect]:
        occupancy = self.seats[seat]
        if isinstance(message, Pong):
            if message.number == occupancy.ping_number:
                occupancy.pinged_at = occupancy.stuck_at = None
                occupancy.answered_at = now
            occupancy.statistics = message.statistics
        elif isinstance(message, Failed):
            occupancy.failed = message
        elif isinstance(message, Ready | Loaded):
            if occupancy.state is not SeatState.STARTING or occupancy.killed_because:
                pass  # It came when we had already decided to end it.
            elif isinstance(message, Ready):
                self._seat_ready(seat, message, now)
            elif seat == NEXT_WORKER:
                self.replacements.loaded(message, now)
        elif isinstance(message, HeldUp):
            if said := self.suspicion.held_up(message.running, message.held_s, now):
                self.report("error", f"{self.name(seat)}: {said}")
                self._effects.append(Send(seat, QuarantineChanged(self.suspicion.quarantined(now))))
        elif isinstance(message, Released):
            if self.suspicion.release(message.class_name, message.name, now):
                self.report("info", f"{one_line(f'{message.class_name}/{message.name}')} is released from quarantine")
        elif isinstance(message, Quiet):
            occupancy.quiet = True
            self._let_workers_leave()
        elif isinstance(message, Prepared):
            self.replacements.prepared(seat, now)
        elif isinstance(message, Parked):
            self.replacements.parked(seat, message)
        elif isinstance(message, Waited):
            self.replacements.waited(seat, message, now)
        elif isinstance(message, Owned):
            if self.shards is not None and not is_next(seat):
                self.shards.said(seat, message)
                self._shards_changed()
        elif isinstance(message, Drained) and message.unanswered:
            self.replacements.left_unanswered(seat, message.unanswered)
            self.report("warning", f"{self.name(seat)} left {message.unanswered} calls unanswered at its end")
        return self._taken_effects()

    def child_exited(self, seat: int, how: str, expected: bool, now: float, running: Running | None = None) -> list[Effect]:
        """`expected`: it exited with code 0. `running`: the object whose code ran."""
        self._ran = ""
        if seat >= 0 and not self.stopping and self.seats[seat].state is SeatState.READY and self.seats[seat].failed is None:
            self._ran = self.suspicion.died(seat, running, now)
        if self.seats[seat].state is SeatState.DRAINING and expected:
            how = ""
        self._empty(seat, how, now)
        return self._taken_effects()

    def stop_requested(self, now: float) -> list[Effect]:
        """The first time: in order and with time to answer. The second: hurry. The third: at once."""
        self._stop_requests += 1
        if not self.stopping:
            self._begin_stop(now, self._stop_s)
        elif self._stop_requests == 2:
            self.report("warning", f"asked again to stop: killing what is left in {HURRY_S:g} s")
            self._stop_by = min(self._stop_by, now + HURRY_S)
            self._drain_workers(now)
            self._let_workers_leave(at_once=True)
            for occupancy in self.seats.values():
                if occupancy.deadline is not None:
                    occupancy.deadline = min(occupancy.deadline, self._stop_by)
        else:
            for seat, occupancy in self.seats.items():
                if occupancy.state is not SeatState.EMPTY:
                    self.kill(seat, "was killed by a hurried stop")
        return self._taken_effects()

    def cannot_go_on(self, failure: Failed, now: float) -> list[Effect]:
        """Before it was ready: what it needs beside its processes is not to be had."""
        if not self.stopping:
            self._failure = failure
            self._begin_stop(now, HURRY_S)
        return self._taken_effects()

    def replace_requested(self, now: float, *, routers: bool) -> tuple[int, list[Effect]]:
        """All workers, with the app as it is on disk now, and `routers` too, one by one. Its number, by which is told how it goes
        on and how it ends."""
        number = self.replacements.request(routers=routers, now=now)
        return number, self._taken_effects()

    def open_shards(self, seat: int) -> tuple[int, ...] | None:
        """A process is about to open the shards of that seat: these. None: those of its spec."""
        return None if self.shards is None else self.shards.open(seat)

    def set_shards(self, target: Iterable[int], ahead: Iterable[int] = ()) -> list[Effect]:
        """What this host is to have of a cluster from now on, and what next."""
        assert self.shards is not None
        self.shards.set_target(target, ahead)
        self._shards_changed()
        return self._taken_effects()

    def elsewhere_is(self, homes: Mapping[int, str], doors: Mapping[str, str]) -> list[Effect]:
        """Which other host serves a shard, by shard, and where those are that are there, by id."""
        if self.elsewhere.are(homes, doors):
            self._topology_changed()
        return self._taken_effects()

    def times_are(self, *, liveness_s: float, stop_s: float, replace_s: float, held_up_s: float) -> None:
        """From now on."""
        self.liveness_s, self._stop_s, self._held_up_s = liveness_s, stop_s, held_up_s
        self.replacements.drain_s = replace_s

    def timer(self, now: float) -> list[Effect]:
        for seat, occupancy in list(self.seats.items()):
            if occupancy.deadline is not None and now >= occupancy.deadline:
                self._out_of_time(seat, occupancy)
            elif occupancy.restart_at is not None and now >= occupancy.restart_at:
                self._spawn(seat, now)
            elif occupancy.stuck_at is not None and now >= self._stuck_deadline(occupancy):
                self._stuck_for_long(seat, occupancy, now)
        self.replacements.timer(now)
        if not self.stopping and now >= self._next_ping_at:
            if now - self._next_ping_at > SLEPT_S:
                self._slept(now)
            self._next_ping_at = now + PING_INTERVAL_S
            for seat, occupancy in self.seats.items():
                if occupancy.state is SeatState.READY:
                    self._ping(seat, occupancy, now)
                    occupancy.flapping = occupancy.flapping and not occupancy.policy.is_stable(now)
        return self._taken_effects()

    # Filling seats

    def _spawn(self, seat: int, now: float) -> None:
        occupancy = self.seats[seat]
        assert occupancy.state is SeatState.EMPTY, occupancy
        assert not self.stopping
        occupancy.state = SeatState.STARTING
        occupancy.incarnation = self.new_incarnation(seat)
        occupancy.restart_at = None
        occupancy.deadline = now + START_S_MAX
        occupancy.failed = None
        occupancy.quiet = False
        occupancy.killed_because = ""
        occupancy.runs = occupancy.generation
        self._effects.append(Spawn(seat, occupancy.incarnation, occupancy.generation))

    def new_incarnation(self, seat: int) -> int:
        self._incarnations[seat] += 1
        return self._incarnations[seat]

    def give_time_to_start(self, seat: int, now: float) -> None:
        self.seats[seat].deadline = now + START_S_MAX

    def _seat_ready(self, seat: int, message: Ready, now: float) -> None:
        occupancy = self.seats[seat]
        occupancy.state = SeatState.READY
        occupancy.ready = message
        occupancy.deadline = None
        occupancy.pinged_at = None
        occupancy.answered_at = now
        occupancy.policy.ready(now)
        recovered = f", {message.recovered_records} records recovered" if message.recovered_records else ""
        if self.was_ready and not self.replacements.is_about(seat):
            self.report("info", f"{self.name(seat)} is ready again{recovered}")
        if is_router(seat):
            self._effects.append(Send(seat, TopologyChanged(self.topology)))
        else:
            self._topology_changed()
            self._shards_changed()
        if not self.was_ready and self.all_ready:
            self.was_ready = True
            self._effects.append(ServiceReady())
        self.replacements.seat_ready(seat, now)

    def _topology_changed(self) -> None:
        """To everybody who can hear it. Who starts just now gets it at its own Ready."""
        self.epoch += 1
        topology = self.topology
        self._told_owners = topology.owners
        change = TopologyChanged(topology)
        for seat, occupancy in self.seats.items():
            if occupancy.state in (SeatState.READY, SeatState.DRAINING):
                self._effects.append(Send(seat, change))

    def _shards_changed(self) -> None:
        """First everybody is told to whom calls go now, then the workers what they are to have."""
        if self.shards is None:
            return
        if self._owners_now() != self._told_owners:
            self._topology_changed()
        ready = [seat for seat in self.worker_seats if self.seats[seat].state is SeatState.READY]
        for seat, order in self.shards.orders(ready, self.replacements.drain_s):
            self._effects.append(Send(seat, order))

    # Emptying seats

    def _empty(self, seat: int, how: str, now: float) -> None:
        occupancy = self.seats[seat]
        was = occupancy.state
        occupancy.state = SeatState.EMPTY
        occupancy.deadline = occupancy.pinged_at = occupancy.stuck_at = None
        occupancy.statistics = {}
        had_endpoint, occupancy.ready = occupancy.ready is not None, None
        if self.shards is not None and not is_router(seat) and not is_next(seat):
            self.shards.gone(seat)
        if had_endpoint and not is_router(seat):
            self._topology_changed()
            self._shards_changed()
        if occupancy.killed_because:
            how = occupancy.killed_because
        elif occupancy.failed is not None:
            how = f"{occupancy.failed.operation} {occupancy.failed.place}: {occupancy.failed.problem}"
        if self._ran:
            how, self._ran = f"{how} {self._ran}", ""
        if how:
            occupancy.last_problem = how
        if is_next(seat) and self.stopping:
            del self.seats[seat]
        if self.stopping:
            self._continue_stop(seat, was, how, now)
        elif is_next(seat):
            self.replacements.successor_gone(seat, how or "exited", now)
        elif self.replacements.seat_emptied(seat, how or "exited", now):
            pass
        elif self._cannot_start(occupancy):
            self._give_up(seat, occupancy, how, now)
        else:
            self._restart_later(seat, occupancy, how or "exited", now)

    def _cannot_start(self, occupancy: Occupancy) -> bool:
        if self.was_ready:
            return False
        fatal = occupancy.failed is not None and occupancy.failed.fatal
        return fatal or occupancy.policy.failures >= START_FAILURES_MAX - 1

    def _give_up(self, seat: int, occupancy: Occupancy, how: str, now: float) -> None:
        self._failure = occupancy.failed or Failed("start", self.name(seat), how, "its messages above say more", fatal=False)
        self._begin_stop(now, HURRY_S)

    def _restart_later(self, seat: int, occupancy: Occupancy, how: str, now: float) -> None:
        restart = occupancy.policy.failed(now)
        occupancy.restart_at = now + restart.delay_s
        if restart.flapping != occupancy.flapping:
            occupancy.flapping = restart.flapping
            if not is_router(seat):
                self._topology_changed()
        again = f"starting it again in {restart.delay_s:g} s" if restart.delay_s else "starting it again"
        if restart.flapping:
            text = f"{self.name(seat)} is FLAPPING, {occupancy.policy.failures} failures so far; this time it {how}; {again}"
            self.report("critical", text)
        else:
            self.report("error", f"{self.name(seat)} {how}; {again}")

    # Watching

    def _ping(self, seat: int, occupancy: Occupancy, now: float) -> None:
        if occupancy.pinged_at is None:
            occupancy.ping_number += 1
            occupancy.pinged_at = now
            self._effects.append(Send(seat, Ping(occupancy.ping_number)))
        elif now - occupancy.pinged_at >= self.liveness_s:
            silence_s = now - occupancy.pinged_at
            occupancy.pinged_at = now  # The kill may take effect later; do not repeat it at every interval.
            self.kill(seat, f"had not answered for {silence_s:.0f} s and was killed")

    def stuck(self, seat: int, stack: str, now: float) -> list[Effect]:
        """No Python code of the process has run for a while: a call into C keeps the interpreter, or it was stopped. Who answers
        a ping at once was stopped; while it waits for a core it can answer none."""
        occupancy = self.seats[seat]
        if occupancy.state is SeatState.READY and not self.stopping:
            occupancy.stuck_at, occupancy.stuck_in = now, stack
            occupancy.cpu_time, occupancy.looked_at = self._cpu_time(seat), now
            if occupancy.pinged_at is None:
                self._ping(seat, occupancy, now)
        return self._taken_effects()

    def _stuck_deadline(self, occupancy: Occupancy) -> float:
        assert occupancy.stuck_at is not None
        return occupancy.stuck_at + (STUCK_ANSWER_S if occupancy.stuck_in else self._held_up_s)

    def _stuck_for_long(self, seat: int, occupancy: Occupancy, now: float) -> None:
        """Or it has waited for a core since it was looked at last: that time does not count."""
        assert occupancy.stuck_at is not None
        cpu_time = self._cpu_time(seat)
        starved_s = cpu_time.starved_s(occupancy.cpu_time, now - occupancy.looked_at)
        occupancy.cpu_time, occupancy.looked_at = cpu_time, now
        if starved_s >= STARVED_S_MIN:
            occupancy.stuck_at += starved_s
        elif occupancy.stuck_in:
            said = "nothing of it can run, since a call into C keeps the interpreter; its stack, the innermost first"
            self.report("error", f"{self.name(seat)}: {said}:\n{_code_in(occupancy.stuck_in)}")
            occupancy.stuck_in = ""
        else:
            occupancy.stuck_at = None
            self.kill(seat, "was kept from running by a call into C and was killed")

    def _slept(self, now: float) -> None:
        """This process itself did not run for a while (stopped, starved): nobody is late because of that."""
        self.report("warning", f"the supervisor did not run for {now - self._next_ping_at:.0f} s")
        for occupancy in self.seats.values():
            if occupancy.pinged_at is not None:
                occupancy.answered_at += now - occupancy.pinged_at
                occupancy.pinged_at = now

    def _out_of_time(self, seat: int, occupancy: Occupancy) -> None:
        wanted = "become ready" if occupancy.state is SeatState.STARTING else "finish"
        occupancy.deadline = None
        self.kill(seat, f"did not {wanted} in time and was killed")

    def kill(self, seat: int, because: str) -> None:
        self.seats[seat].killed_because = because
        self._effects.append(Kill(seat))

    # Stopping

    def _begin_stop(self, now: float, stop_s: float) -> None:
        self.stopping = True
        self.replacements.stop()
        self._stop_by = now + stop_s
        for seat, occupancy in self.seats.items():
            occupancy.restart_at = occupancy.pinged_at = occupancy.stuck_at = None
            if occupancy.state is SeatState.STARTING:  # It has accepted no call, and recovery may be cut anywhere.
                occupancy.deadline = None
                self.kill(seat, "was killed before it was ready")
        for seat, occupancy in self.seats.items():
            if is_router(seat) and occupancy.state is SeatState.READY:
                self.drain(seat, now, stop_s * DRAIN_ROUTER_SHARE)
        self._drain_workers_after_routers(now)
        self._finish_if_empty()

    def _continue_stop(self, seat: int, was: SeatState, how: str, now: float) -> None:
        if how and was is not SeatState.STARTING:
            self.report("error", f"{self.name(seat)} {how} while stopping")
        self._drain_workers_after_routers(now)
        self._let_workers_leave()
        self._finish_if_empty()

    def _drain_workers_after_routers(self, now: float) -> None:
        """The last router has answered what it had accepted: nobody calls any more."""
        if not any(occupancy.state is SeatState.DRAINING for seat, occupancy in self.seats.items() if is_router(seat)):
            self._drain_workers(now)

    def _drain_workers(self, now: float) -> None:
        if self._workers_drain:
            return
        self._workers_drain = True
        for seat, occupancy in self.seats.items():
            if not is_router(seat) and occupancy.state is SeatState.READY:
                self.drain(seat, now, max(self._stop_by - now, 0.0))

    def _let_workers_leave(self, *, at_once: bool = False) -> None:
        """Workers call each other. As long as one of them has a call from outside, all stay; none can get another one, so once
        each has been quiet nobody calls any more. `at_once`: each goes when it has nothing left itself."""
        if not self.stopping:
            return  # One that is replaced leaves by other rules.
        draining = [seat for seat, occupancy in self.seats.items() if seat >= 0 and occupancy.state is SeatState.DRAINING]
        if not self._workers_leave and draining and (at_once or all(self.seats[seat].quiet for seat in draining)):
            self._workers_leave = True
            self._effects += [Send(seat, Leave()) for seat in draining]

    def drain(self, seat: int, now: float, time_s: float, *, moving: bool = False) -> None:
        """A child is asked to be done a little before it is killed for not being done."""
        occupancy = self.seats[seat]
        occupancy.state = SeatState.DRAINING
        occupancy.pinged_at = None
        occupancy.deadline = now + time_s
        self._effects.append(Send(seat, Drain(timeout_s=time_s * 0.9, moving=moving)))

    def _finish_if_empty(self) -> None:
        if not self._finished and all(occupancy.state is SeatState.EMPTY for occupancy in self.seats.values()):
            self._finished = True
            self._effects.append(Finish(self._failure))

    # Effects

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def report(self, severity: str, text: str) -> None:
        self._effects.append(Report(severity, text))

    def _taken_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def _code_in(stack: str) -> str:
    """What faulthandler tells below its heading, down to where the runtime begins."""
    lines = stack.splitlines()[1:]
    return "\n".join(itertools.takewhile(lambda line: "/shard/loop/" not in line, lines))
