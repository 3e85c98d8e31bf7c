import random

import pytest

from tidegate.runtime.supervisor.rules.host_shards import HostShards
from tidegate.runtime.supervisor.rules.restart import FLAPPING_FAILURES
from tidegate.runtime.supervisor.rules.seats import (
    ROUTER,
    CpuTime,
    Effect,
    Finish,
    Kill,
    Report,
    SeatState,
    Send,
    ServiceReady,
    Spawn,
    is_router,
)
from tidegate.runtime.supervisor.rules.supervision import (
    EPOCHS_PER_START,
    HURRY_S,
    PING_INTERVAL_S,
    START_FAILURES_MAX,
    START_S_MAX,
    Supervision,
)
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    Failed,
    HeldUp,
    Leave,
    Owned,
    OwnShards,
    Ping,
    Pong,
    QuarantineChanged,
    Quiet,
    Ready,
    Released,
    Running,
    TopologyChanged,
)

LIVENESS_S = 10.0
STOP_S = 8.0


SECOND_ROUTER = ROUTER - 1


def supervision(workers: int = 2, start: int = 1, routers: int = 1) -> Supervision:
    return Supervision((0, 1) * 2 if workers == 2 else (0,), workers, start, LIVENESS_S, STOP_S, routers)


def ready(seat: int, incarnation: int = 1) -> Ready:
    return Ready("tcp://router" if is_router(seat) else f"ipc://worker-{seat}.{incarnation}")


def serving(routers: int = 1) -> Supervision:
    machine = supervision(routers=routers)
    machine.start(0.0)
    for seat in machine.seats:
        machine.child_said(seat, ready(seat), 1.0)
    assert machine.all_ready
    return machine


def topologies(effects: list[Effect], seat: int) -> list[tuple[str | None, ...]]:
    return [
        effect.message.topology.endpoints
        for effect in effects
        if isinstance(effect, Send) and effect.seat == seat and isinstance(effect.message, TopologyChanged)
    ]


def of(kind: type[Effect], effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


# Starting


def test_all_children_are_started_at_once() -> None:
    assert supervision().start(0.0) == [Spawn(ROUTER, 1), Spawn(0, 1), Spawn(1, 1)]


def test_the_service_is_ready_once_when_every_worker_and_the_router_are() -> None:
    machine = supervision()
    machine.start(0.0)
    assert of(ServiceReady, machine.child_said(0, ready(0), 1.0)) == []
    assert of(ServiceReady, machine.child_said(ROUTER, ready(ROUTER), 1.0)) == []
    assert of(ServiceReady, machine.child_said(1, ready(1), 1.0)) == [ServiceReady()]
    machine.child_exited(1, "exited with code 1", False, 2.0)
    machine.timer(2.0)
    assert of(ServiceReady, machine.child_said(1, ready(1, 2), 3.0)) == []
    assert machine.all_ready


def test_a_router_that_is_ready_before_the_workers_hears_of_each_when_it_comes() -> None:
    machine = supervision()
    machine.start(0.0)
    assert topologies(machine.child_said(ROUTER, ready(ROUTER), 1.0), ROUTER) == [(None, None)]
    assert topologies(machine.child_said(1, ready(1), 1.0), ROUTER) == [(None, "ipc://worker-1.1")]


def test_a_router_that_is_ready_after_the_workers_hears_of_all_at_once() -> None:
    machine = supervision()
    machine.start(0.0)
    machine.child_said(0, ready(0), 1.0)
    machine.child_said(1, ready(1), 1.0)
    heard = topologies(machine.child_said(ROUTER, ready(ROUTER), 1.0), ROUTER)
    assert heard == [("ipc://worker-0.1", "ipc://worker-1.1")]


def test_epochs_of_a_later_start_are_above_all_of_an_earlier_one() -> None:
    earlier, later = supervision(start=1), supervision(start=2)
    assert later.topology.epoch - earlier.topology.epoch == EPOCHS_PER_START


def test_a_fatal_failure_before_the_first_readiness_ends_the_service_with_its_words() -> None:
    machine = supervision()
    machine.start(0.0)
    machine.child_said(ROUTER, ready(ROUTER), 0.5)
    failed = Failed("import", "app.py", "boom", "mend it", "Traceback")
    machine.child_said(0, failed, 1.0)
    effects = machine.child_exited(0, "exited with code 1", False, 1.0)
    assert Kill(1) in effects
    assert any(isinstance(effect, Send) and isinstance(effect.message, Drain) for effect in effects)
    machine.child_exited(ROUTER, "exited with code 0", True, 1.1)
    assert machine.child_exited(1, "was killed by SIGKILL", False, 1.1)[-1] == Finish(failed)


def test_a_host_that_can_be_no_member_of_its_cluster_ends_its_processes_and_says_why() -> None:
    machine = supervision()
    machine.start(0.0)
    failed = Failed("join the cluster", "shop", "a host of this id is there already", "stop that one", fatal=False)
    assert of(Kill, machine.cannot_go_on(failed, 1.0)) == [Kill(seat) for seat in machine.seats]
    assert machine.cannot_go_on(Failed("join", "", "again", ""), 1.0) == []
    effects: list[Effect] = []
    for seat in machine.seats:
        effects = machine.child_exited(seat, "was killed by SIGKILL", False, 1.1)
    assert effects[-1] == Finish(failed)


def test_a_child_that_never_gets_ready_is_tried_a_few_times_and_then_ends_the_start() -> None:
    machine = supervision(workers=1)
    machine.start(0.0)
    now = 0.0
    for _ in range(START_FAILURES_MAX - 1):
        assert not machine.stopping
        machine.child_exited(0, "exited with code 3", False, now)
        deadline = machine.seats[0].restart_at
        assert deadline is not None
        now = deadline
        effects = machine.timer(now)
        assert Spawn(0, machine.seats[0].incarnation) in effects
    machine.child_exited(0, "exited with code 3", False, now)
    assert machine.stopping
    assert of(Finish, machine.child_exited(ROUTER, "was killed", False, now)) == [
        Finish(Failed("start", "worker 0", "exited with code 3", "its messages above say more", fatal=False))
    ]


def test_a_child_that_takes_too_long_to_start_is_killed_and_not_pinged_before() -> None:
    machine = supervision()
    machine.start(0.0)
    assert of(Send, machine.timer(PING_INTERVAL_S)) == []
    assert Kill(0) in machine.timer(START_S_MAX)


# Restarting


def test_a_lost_worker_is_announced_to_everybody_before_it_is_started_again() -> None:
    machine = serving()
    epoch = machine.epoch
    effects = machine.child_exited(0, "was killed by SIGKILL", False, 100.0)
    assert topologies(effects, ROUTER) == [(None, "ipc://worker-1.1")]
    assert topologies(effects, 1) == [(None, "ipc://worker-1.1")]
    assert machine.epoch == epoch + 1
    assert Report("error", "worker 0 was killed by SIGKILL; starting it again") in effects
    assert Spawn(0, 2) in machine.timer(100.0)
    back = machine.child_said(0, ready(0, 2), 101.0)
    assert [topologies(back, seat) for seat in (ROUTER, 0, 1)] == [[("ipc://worker-0.2", "ipc://worker-1.1")]] * 3


def test_a_lost_router_is_started_again_and_told_the_topology() -> None:
    machine = serving()
    machine.child_exited(ROUTER, "was killed by SIGKILL", False, 100.0)
    assert Spawn(ROUTER, 2) in machine.timer(100.0)
    heard = topologies(machine.child_said(ROUTER, ready(ROUTER), 101.0), ROUTER)
    assert heard == [("ipc://worker-0.1", "ipc://worker-1.1")]


def test_a_fatal_failure_after_the_first_readiness_takes_only_that_worker_down() -> None:
    machine = serving()
    machine.child_said(0, Failed("commit", "log", "disk full", "make room"), 5.0)
    effects = machine.child_exited(0, "exited with code 1", False, 5.0)
    assert Report("error", "worker 0 commit log: disk full; starting it again") in effects
    assert not machine.stopping


def test_a_worker_that_fails_again_and_again_is_reported_as_flapping_and_still_tried() -> None:
    machine = serving()
    now, reports = 5.0, []
    for _ in range(8):
        reports += of(Report, machine.child_exited(0, "exited with code 1", False, now))
        now = machine.seats[0].restart_at or now
        machine.timer(now)
        assert machine.seats[0].state is SeatState.STARTING
    assert any(isinstance(report, Report) and "FLAPPING" in report.text for report in reports)
    assert machine.seats[0].flapping


def test_a_topology_calls_down_only_what_fails_again_and_again() -> None:
    """Calls wait longer for a worker that is being started."""
    machine = serving()
    now, told = 5.0, []
    for _ in range(8):
        effects = machine.child_exited(0, "exited with code 1", False, now)
        sent = [effect.message for effect in effects if isinstance(effect, Send)]
        topologies = [message.topology for message in sent if isinstance(message, TopologyChanged)]
        told.append(topologies[-1].down if topologies else machine.topology.down)
        now = machine.seats[0].restart_at or now
        machine.timer(now)
    assert told == [()] * (FLAPPING_FAILURES - 1) + [(0,)] * (8 - FLAPPING_FAILURES + 1)
    assert machine.topology.endpoints[0] is None
    machine.child_said(0, ready(0), now)
    assert machine.topology.down == ()
    assert machine.seats[0].flapping
    while machine.seats[0].flapping:
        assert now < 1_000, "it is over when it has been ready for long"
        now = machine.next_deadline() or now
        machine.timer(now)
        machine.child_said(0, Pong(machine.seats[0].ping_number), now)


def test_a_child_that_cannot_be_started_at_all_is_tried_again_later() -> None:
    machine = serving()
    machine.child_exited(0, "was killed by SIGKILL", False, 5.0)
    machine.timer(5.0)
    effects = machine.spawn_failed(0, "no memory", 5.0)
    assert Report("error", "worker 0 could not be started: no memory; starting it again in 0.1 s") in effects
    assert Spawn(0, 3) in machine.timer(5.2)


# Watching


def test_every_ready_child_is_pinged_at_every_interval() -> None:
    machine = serving()
    sent = [effect for effect in machine.timer(PING_INTERVAL_S) if isinstance(effect, Send)]
    assert sent == [Send(seat, Ping(1)) for seat in (ROUTER, 0, 1)]


def test_a_silent_child_is_killed_after_the_liveness_time_and_only_it() -> None:
    machine = serving()
    now, killed_at = PING_INTERVAL_S, None
    while killed_at is None:
        effects = machine.timer(now)
        for seat in (ROUTER, 1):
            machine.child_said(seat, Pong(machine.seats[seat].ping_number), now)
        if kills := of(Kill, effects):
            assert kills == [Kill(0)]
            killed_at = now
        now += PING_INTERVAL_S
    assert LIVENESS_S <= killed_at - PING_INTERVAL_S <= LIVENESS_S + PING_INTERVAL_S
    effects = machine.child_exited(0, "was killed by SIGKILL", False, now)
    assert any(isinstance(effect, Report) and "had not answered for 10 s and was killed" in effect.text for effect in effects)


def test_the_watchdog_is_fed_only_while_every_child_answers() -> None:
    machine = serving()
    machine.timer(2.0)
    assert machine.all_answer(2.1)
    assert not machine.all_answer(4.1)
    for seat in (ROUTER, 0, 1):
        machine.child_said(seat, Pong(1), 4.2)
    assert machine.all_answer(4.3)
    machine.child_exited(1, "was killed by SIGKILL", False, 4.4)
    assert not machine.all_answer(4.4)


def test_an_answer_to_an_older_ping_does_not_count() -> None:
    machine = serving()
    machine.timer(2.0)
    machine.child_said(0, Pong(0), 2.1)
    assert machine.seats[0].pinged_at is not None


def test_nobody_is_late_because_the_supervisor_slept() -> None:
    machine = serving()
    machine.timer(2.0)
    assert of(Kill, machine.timer(2.0 + LIVENESS_S * 3)) == []
    assert not of(Kill, machine.timer(4.0 + LIVENESS_S * 3))


# Stopping


def test_a_stop_drains_the_router_first_and_then_the_workers() -> None:
    machine = serving()
    first = [effect for effect in machine.stop_requested(100.0) if isinstance(effect, Send)]
    assert [effect.seat for effect in first] == [ROUTER]
    then = [effect for effect in machine.child_exited(ROUTER, "exited with code 0", True, 101.0) if isinstance(effect, Send)]
    assert [(effect.seat, type(effect.message)) for effect in then] == [(0, Drain), (1, Drain)]
    machine.child_said(0, Drained(), 102.0)
    machine.child_exited(0, "exited with code 0", True, 102.0)
    assert of(Finish, machine.child_exited(1, "exited with code 0", True, 102.0)) == [Finish(None)]


def told_to_leave(effects: list[Effect]) -> list[int]:
    return [effect.seat for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Leave)]


def draining_workers() -> Supervision:
    machine = serving()
    machine.stop_requested(100.0)
    machine.child_exited(ROUTER, "exited with code 0", True, 101.0)
    return machine


def test_no_worker_leaves_before_all_of_them_are_quiet() -> None:
    machine = draining_workers()
    assert told_to_leave(machine.child_said(1, Quiet(), 102.0)) == []
    assert told_to_leave(machine.child_said(0, Quiet(), 103.0)) == [0, 1]


def test_workers_that_are_asked_to_hurry_do_not_wait_for_each_other() -> None:
    machine = draining_workers()
    machine.child_said(0, Quiet(), 102.0)
    assert told_to_leave(machine.stop_requested(102.5)) == [0, 1]
    assert told_to_leave(machine.child_said(1, Quiet(), 102.6)) == []


def test_workers_do_not_wait_for_one_that_is_lost() -> None:
    machine = draining_workers()
    machine.child_said(0, Quiet(), 102.0)
    assert told_to_leave(machine.child_exited(1, "was killed by SIGKILL", False, 103.0)) == [0]
    assert told_to_leave(machine.child_exited(0, "exited with code 0", True, 104.0)) == []


def test_a_stop_ends_in_time_whoever_does_not_drain() -> None:
    machine = serving()
    machine.stop_requested(100.0)
    finished_at = None
    while finished_at is None:
        now = machine.next_deadline()
        assert now is not None
        for effect in machine.timer(now):
            if isinstance(effect, Kill) and of(Finish, machine.child_exited(effect.seat, "was killed by SIGKILL", False, now)):
                finished_at = now
    assert finished_at <= 100.0 + STOP_S


def test_a_worker_that_is_lost_while_stopping_is_announced_and_not_started_again() -> None:
    machine = serving()
    machine.stop_requested(100.0)
    effects = machine.child_exited(0, "was killed by SIGSEGV", False, 101.0)
    assert topologies(effects, ROUTER) == [(None, "ipc://worker-1.1")]
    assert Report("error", "worker 0 was killed by SIGSEGV while stopping") in effects
    assert machine.seats[0].restart_at is None


def test_a_worker_that_is_starting_when_the_stop_comes_is_killed() -> None:
    machine = serving()
    machine.child_exited(0, "was killed by SIGKILL", False, 50.0)
    machine.timer(50.0)
    assert Kill(0) in machine.stop_requested(50.1)


def test_a_second_request_to_stop_leaves_little_time_and_a_third_none() -> None:
    machine = serving()
    machine.stop_requested(100.0)
    hurried = machine.stop_requested(101.0)
    assert [effect.seat for effect in hurried if isinstance(effect, Send) and isinstance(effect.message, Drain)] == [0, 1]
    deadline = machine.next_deadline()
    assert deadline is not None
    assert deadline <= 101.0 + HURRY_S
    assert of(Kill, machine.stop_requested(101.1)) == [Kill(ROUTER), Kill(0), Kill(1)]


def test_calls_left_unanswered_are_reported() -> None:
    machine = serving()
    machine.stop_requested(100.0)
    assert machine.child_said(ROUTER, Drained(3), 101.0) == [Report("warning", "router left 3 calls unanswered at its end")]


# Several routers


def drains(effects: list[Effect]) -> list[int]:
    return [effect.seat for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Drain)]


def test_the_service_is_ready_when_the_last_of_several_routers_is() -> None:
    machine = supervision(routers=2)
    assert machine.start(0.0) == [Spawn(ROUTER, 1), Spawn(SECOND_ROUTER, 1), Spawn(0, 1), Spawn(1, 1)]
    for seat in (ROUTER, 0, 1):
        assert of(ServiceReady, machine.child_said(seat, ready(seat), 1.0)) == []
    assert of(ServiceReady, machine.child_said(SECOND_ROUTER, ready(SECOND_ROUTER), 1.0)) == [ServiceReady()]


def test_a_router_has_a_number_when_there_are_several_and_only_then() -> None:
    alone, two = supervision(), supervision(routers=2)
    assert [alone.name(seat) for seat in alone.seats] == ["router", "worker 0", "worker 1"]
    assert [two.name(seat) for seat in two.seats] == ["router 0", "router 1", "worker 0", "worker 1"]


def test_every_router_hears_of_every_change_of_the_workers() -> None:
    machine = serving(routers=2)
    lost = machine.child_exited(1, "was killed by SIGKILL", False, 100.0)
    machine.timer(100.0)
    back = machine.child_said(1, ready(1, 2), 101.0)
    for router in (ROUTER, SECOND_ROUTER):
        assert topologies(lost, router) == [("ipc://worker-0.1", None)]
        assert topologies(back, router) == [("ipc://worker-0.1", "ipc://worker-1.2")]


def test_a_lost_router_changes_nothing_for_the_others_and_is_started_again_alone() -> None:
    machine = serving(routers=2)
    epoch = machine.epoch
    effects = machine.child_exited(SECOND_ROUTER, "was killed by SIGKILL", False, 100.0)
    assert effects == [Report("error", "router 1 was killed by SIGKILL; starting it again")]
    assert machine.epoch == epoch
    assert machine.timer(100.0)[0] == Spawn(SECOND_ROUTER, 2)
    heard = machine.child_said(SECOND_ROUTER, ready(SECOND_ROUTER), 101.0)
    assert topologies(heard, SECOND_ROUTER) == [("ipc://worker-0.1", "ipc://worker-1.1")]
    assert topologies(heard, ROUTER) == []


def test_the_watchdog_is_not_fed_while_one_of_several_routers_is_silent() -> None:
    machine = serving(routers=2)
    machine.timer(2.0)
    for seat in (ROUTER, 0, 1):
        machine.child_said(seat, Pong(1), 2.1)
    assert not machine.all_answer(4.1)
    machine.child_said(SECOND_ROUTER, Pong(1), 4.2)
    assert machine.all_answer(4.3)


def test_the_workers_drain_when_the_last_router_has_answered_everything() -> None:
    machine = serving(routers=2)
    assert drains(machine.stop_requested(100.0)) == [ROUTER, SECOND_ROUTER]
    assert drains(machine.child_exited(SECOND_ROUTER, "exited with code 0", True, 101.0)) == []
    assert drains(machine.child_exited(ROUTER, "exited with code 0", True, 102.0)) == [0, 1]


def test_a_stop_does_not_wait_for_a_router_that_was_not_there() -> None:
    machine = serving(routers=2)
    machine.child_exited(ROUTER, "was killed by SIGKILL", False, 100.0)
    assert drains(machine.stop_requested(100.0)) == [SECOND_ROUTER]
    assert drains(machine.child_exited(SECOND_ROUTER, "exited with code 0", True, 101.0)) == [0, 1]


# Random worlds


class World:
    """Processes as they may be: they obey, or die, or are slow, or say things late."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = supervision(routers=1 + seed % 3)
        self.now = 0.0
        self.alive: dict[int, int] = {}
        self.doomed: set[int] = set()
        self.listening: dict[int, str] = {}
        self.epoch_seen = 0
        self.finished = False

    def obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not self.finished, effect
            if isinstance(effect, Spawn):
                assert effect.seat not in self.alive, "two processes in one seat"
                self.alive[effect.seat] = effect.incarnation
            elif isinstance(effect, Kill):
                self.doomed.add(effect.seat)
            elif isinstance(effect, Finish):
                assert not self.alive, "somebody was left behind"
                self.finished = True
            elif isinstance(effect, Send) and isinstance(effect.message, Leave):
                assert all(self.machine.seats[seat].quiet for seat in self.alive if seat >= 0 and seat not in self.doomed)
            elif isinstance(effect, Send) and isinstance(effect.message, TopologyChanged):
                topology = effect.message.topology
                assert topology.epoch >= self.epoch_seen
                self.epoch_seen = topology.epoch
                assert [topology.endpoints[seat] for seat in (0, 1)] == [self.listening.get(seat) for seat in (0, 1)]
        self.machine.check_invariants()

    def step(self) -> None:
        deadline = self.machine.next_deadline()
        assert deadline is not None or self.doomed, "nothing will ever happen again"
        if deadline is not None and (not self.alive or self.random.random() < 0.3):
            self.now = max(self.now, deadline)
            self.obey(self.machine.timer(self.now))
            return
        self.now += self.random.random() * 0.2
        seat = self.random.choice(sorted(self.alive))
        if seat in self.doomed or self.random.random() < 0.15:
            self.leave(seat)
        elif self.random.random() < 0.6:
            endpoint = ready(seat, self.alive[seat])
            if self.machine.seats[seat].state is SeatState.STARTING and not is_router(seat):
                self.listening[seat] = endpoint.endpoint
            self.obey(self.machine.child_said(seat, endpoint, self.now))
        elif seat >= 0 and self.machine.seats[seat].state is SeatState.DRAINING and self.random.random() < 0.5:
            self.obey(self.machine.child_said(seat, Quiet(), self.now))
        else:
            self.obey(self.machine.child_said(seat, Pong(self.machine.seats[seat].ping_number), self.now))

    def leave(self, seat: int) -> None:
        del self.alive[seat]
        self.doomed.discard(seat)
        self.listening.pop(seat, None)
        self.obey(self.machine.child_exited(seat, "left", self.random.random() < 0.5, self.now))


@pytest.mark.parametrize("seed", range(150))
def test_in_every_random_world_seats_are_filled_once_topologies_are_true_and_a_stop_ends(seed: int) -> None:
    world = World(seed)
    world.obey(world.machine.start(0.0))
    for _ in range(200):
        if world.finished:
            return  # The start was given up.
        world.step()
    if not world.machine.stopping:
        world.obey(world.machine.stop_requested(world.now))
    asked_at = world.now
    for _ in range(200):
        if world.finished:
            assert world.now <= asked_at + STOP_S * 2
            return
        world.step()
    pytest.fail(f"the stop did not end: {world.machine.seats}")


HELD_UP_S = 2.0
STACK = """Stack (most recent call first):
  File "re.py", line 166 in match
  File "app.py", line 24 in keep
  File "/tidegate/shard/loop/spare.py", line 33 in _drive"""


def stuck() -> tuple[Supervision, list[Effect]]:
    machine = Supervision((0, 1) * 2, 2, 1, LIVENESS_S, STOP_S, held_up_s=HELD_UP_S)
    machine.start(0.0)
    for seat in machine.seats:
        machine.child_said(seat, ready(seat), 1.0)
    return machine, machine.stuck(0, STACK, 1.5)


def test_a_worker_of_which_no_python_code_runs_is_pinged_told_of_with_its_stack_and_killed() -> None:
    machine, effects = stuck()
    assert effects == [Send(0, Ping(1))]
    told_at = machine.next_deadline()
    assert told_at is not None
    assert told_at < 2.0
    [report] = machine.timer(told_at)
    assert isinstance(report, Report)
    assert report.text.endswith('first:\n  File "re.py", line 166 in match\n  File "app.py", line 24 in keep')
    assert [effect for effect in machine.timer(1.5 + HELD_UP_S) if isinstance(effect, Kill)] == [Kill(0)]
    [said, *_] = [each.text for each in machine.child_exited(0, "x", False, 4.0) if isinstance(each, Report)]
    assert said == "worker 0 was kept from running by a call into C and was killed; starting it again"
    machine.check_invariants()


def test_a_worker_that_answers_its_ping_had_only_been_stopped_and_nothing_is_said() -> None:
    machine, _ = stuck()
    assert machine.child_said(0, Pong(1), 1.6) == []
    assert not [effect for now in (1.8, 4.0, 5.0) for effect in machine.timer(now) if not isinstance(effect, Send)]


def test_a_worker_that_waits_for_a_core_is_not_taken_for_one_that_is_stuck_and_one_that_runs_is() -> None:
    cpu_time = {0: CpuTime(5.0, 1.0), 1: CpuTime()}
    machine = Supervision((0, 1) * 2, 2, 1, LIVENESS_S, STOP_S, held_up_s=HELD_UP_S, cpu_time=cpu_time.__getitem__)
    machine.start(0.0)
    for seat in machine.seats:
        machine.child_said(seat, ready(seat), 1.0)
    machine.stuck(0, STACK, 1.5)
    now = 1.5
    for is_over in (True, True, False, False, True):
        told_at = machine.next_deadline()
        assert told_at is not None
        waited_s = (told_at - now) * is_over
        cpu_time[0] = CpuTime(cpu_time[0].ran_s + 0.01, cpu_time[0].waited_s + waited_s, wants_core=not is_over)
        assert not [effect for effect in machine.timer(told_at) if isinstance(effect, Report)]
        now = told_at
    while not (reports := [effect for effect in machine.timer(now) if isinstance(effect, Report)]):
        told_at = machine.next_deadline()
        assert told_at is not None
        assert told_at < 3.0, "what runs, and does not answer, is told of"
        cpu_time[0] = CpuTime(cpu_time[0].ran_s + told_at - now, cpu_time[0].waited_s + 10.0, wants_core=True)
        now = told_at
    assert "a call into C keeps the interpreter" in reports[0].text


def test_an_object_that_holds_up_its_worker_again_is_in_quarantine_there_at_once_and_a_release_ends_that() -> None:
    machine = serving()
    held_up = HeldUp(Running("Poison", "p", "spin"), 2.0)
    assert machine.child_said(0, held_up, 2.0) == []
    report, told = machine.child_said(0, held_up, 5.0)
    assert isinstance(report, Report)
    assert report.text == (
        "worker 0: Poison/p ran spin for 2.0 s and was interrupted; it has held up or ended its worker 2 times and is in "
        "quarantine for 4 s"
    )
    assert told == Send(0, QuarantineChanged(machine.suspicion.quarantined(5.0)))
    machine.child_said(0, Released("Poison", "p"), 6.0)
    assert machine.suspicion.quarantined(6.0) == ()
    assert machine.child_said(0, held_up, 7.0) == [], "all is forgotten"


# Shards of a cluster


def clustered() -> Supervision:
    machine = Supervision((0, 1) * 2, 2, 1, LIVENESS_S, STOP_S, shards=HostShards(4, 2))
    machine.start(0.0)
    for worker in (0, 1):
        machine.child_said(worker, Owned(0, machine.open_shards(worker) or ()), 1.0)
        machine.child_said(worker, ready(worker), 1.0)
    machine.child_said(ROUTER, ready(ROUTER), 1.0)
    return machine


def told(effects: list[Effect]) -> list[tuple[int, tuple[int, ...]]]:
    """Who is told what, in order: the owners of a topology, or the shards to have."""
    heard = []
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, TopologyChanged):
            heard.append((effect.seat, effect.message.topology.owners))
        elif isinstance(effect, Send) and isinstance(effect.message, OwnShards):
            heard.append((effect.seat, effect.message.shards))
    return heard


def test_a_shard_that_is_to_go_is_nobodys_for_everybody_before_its_worker_hears_of_it() -> None:
    machine = clustered()
    assert machine.topology.owners == (0, 1, 0, 1)
    assert (machine.topology.endpoints[machine.topology.nobody or 0], machine.topology.nobody) == (None, 2)
    nobody = (2, 1, 0, 1)
    assert told(machine.set_shards({1, 2, 3})) == [(ROUTER, nobody), (0, nobody), (1, nobody), (0, (2,))]
    assert machine.owner(0) is None
    assert told(machine.child_said(0, Owned(1, (0, 2), busy=(0,)), 2.0)) == []
    assert told(machine.child_said(0, Owned(1, (2,)), 2.0)) == []


def test_a_shard_that_comes_is_its_workers_when_it_has_it() -> None:
    machine = clustered()
    machine.set_shards({1, 2, 3})
    machine.child_said(0, Owned(1, (2,)), 2.0)
    assert told(machine.set_shards(range(4))) == [(0, (0, 2))]
    assert told(machine.child_said(0, Owned(2, (2,), busy=(0,)), 3.0)) == []
    everybody = [(seat, (0, 1, 0, 1)) for seat in (ROUTER, 0, 1)]
    assert told(machine.child_said(0, Owned(2, (0, 2)), 3.0)) == everybody
    assert machine.shards_of(0) == (0, 2)


def test_a_worker_that_is_started_again_opens_what_it_is_to_have_then() -> None:
    machine = clustered()
    machine.child_exited(0, "was killed by SIGKILL", False, 2.0)
    assert machine.topology.owners == (0, 1, 0, 1), "its calls wait for it"
    assert told(machine.set_shards({2, 3})) == [(ROUTER, (2, 2, 0, 1)), (1, (2, 2, 0, 1)), (1, (3,))]
    machine.timer(2.0)
    assert machine.open_shards(0) == (2,)


def test_without_a_cluster_shards_stay_where_they_are() -> None:
    machine = serving()
    assert machine.open_shards(0) is None
    assert (machine.topology.nobody, machine.shards_of(1), machine.owner(2)) == (None, (1, 3), 0)
