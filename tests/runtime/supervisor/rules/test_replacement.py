"""Processes are replaced one by one, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests.support.replacement_world import ReplacementWorld
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.replacement import HOLD_ROUNDS, LOAD_S_MAX, PARK_ROUND_S, PREPARE_S_MAX, WAITING_MAX, Step
from tidegate.runtime.supervisor.rules.seats import (
    NEXT_ROUTER,
    NEXT_WORKER,
    ROUTER,
    Effect,
    Kill,
    Promote,
    SeatState,
    Send,
    Spawn,
)
from tidegate.runtime.wire.commands import ConfigChange, ConfigChanges
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    Drained,
    Failed,
    FromChild,
    HoldAll,
    Leave,
    Loaded,
    OpenShards,
    Park,
    Parked,
    Prepare,
    Prepared,
    Ready,
    TopologyChanged,
    Waited,
)


def sent(effects: list[Effect], kind: type) -> list[int]:
    return [effect.seat for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


# The walk


def test_a_reload_replaces_all_workers_one_after_the_other_and_leaves_the_router_alone() -> None:
    world = ReplacementWorld(workers=3)
    router = world.processes[ROUTER]
    number = world.reload()
    world.run()
    assert world.generations() == [1, 1, 1]
    assert world.processes[ROUTER] is router
    ended = world.ended[number]
    assert ended.failed is None
    assert [each.name for each in ended.replaced] == ["worker 0", "worker 1", "worker 2"]
    assert [(each.app_version, each.unanswered) for each in ended.replaced] == [("v1", 0)] * 3
    assert problems(world.machine, world.now) == ()


def test_the_successor_loads_beside_the_old_worker_which_serves_until_then() -> None:
    world = ReplacementWorld()
    _, effects = world.machine.replace_requested(world.now, routers=False)
    assert [effect for effect in effects if isinstance(effect, Spawn)] == [Spawn(NEXT_WORKER, 2, 1, successor_of=0)]
    assert world.machine.seats[0].state is SeatState.READY
    assert world.machine.all_answer(world.now)
    effects = world.machine.child_said(NEXT_WORKER, Loaded("v1"), 1.0)
    assert sent(effects, Prepare) == [0]
    assert sent(effects, Drain) == sent(effects, Park) == []


def test_only_when_the_old_worker_has_made_its_checkpoint_new_calls_wait() -> None:
    world = ReplacementWorld()
    world.reload()
    world.run(until="preparing")
    effects = world.machine.child_said(0, Prepared(), world.now)
    assert sent(effects, Park) == [ROUTER, 0, 1]
    [drain] = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Drain)]
    assert drain.moving
    assert drain.timeout_s == pytest.approx(4.5)


def test_a_checkpoint_that_takes_too_long_is_not_waited_for() -> None:
    world = ReplacementWorld()
    world.reload()
    world.run(until="preparing")
    assert sent(world.machine.timer(world.now + PREPARE_S_MAX), Park) == [ROUTER, 0, 1]


def leaving(*, nothing_to_answer: bool = True) -> ReplacementWorld:
    """Worker 0 of two gets no new calls, and nobody else has answered to that."""
    world = ReplacementWorld()
    world.reload()
    world.run(until="leaving")
    if nothing_to_answer:
        world.machine.child_said(0, Parked(0, 1), world.now)
    return world


def test_a_worker_that_has_calls_to_answer_does_not_leave_though_nobody_of_the_service_waits_for_it() -> None:
    """A client that talks straight to it may; what it waits for may come back to it, in another round."""
    world = leaving(nothing_to_answer=False)
    for seat in (1, ROUTER):
        assert sent(world.machine.child_said(seat, Parked(0, 1), world.now), Leave) == []
    assert sent(world.machine.timer(world.now + PARK_ROUND_S), Park) == [ROUTER, 0, 1]


def test_the_old_worker_leaves_when_everybody_has_said_that_nothing_is_left_with_it() -> None:
    world = leaving()
    assert sent(world.machine.child_said(1, Parked(0, 1), world.now), Leave) == []
    assert sent(world.machine.child_said(ROUTER, Parked(0, 1), world.now), Leave) == [0]


def test_calls_of_objects_are_let_through_again_and_again_and_what_was_said_of_an_earlier_round_does_not_count() -> None:
    world = leaving()
    world.machine.child_said(ROUTER, Parked(0, 1), world.now)
    now = world.now + PARK_ROUND_S
    effects = world.machine.timer(now)
    assert [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Park)] == [
        Send(ROUTER, Park(0, 2)),
        Send(0, Park(0, 2)),
        Send(1, Park(0, 2)),
    ]
    world.machine.child_said(0, Parked(0, 2), now)
    world.machine.child_said(ROUTER, Parked(0, 2), now)
    assert sent(world.machine.child_said(1, Parked(0, 1), now), Leave) == []
    assert sent(world.machine.child_said(1, Parked(0, 2), now), Leave) == [0]


def test_if_calls_come_back_faster_than_they_end_no_new_ones_are_let_in_anywhere_until_the_worker_has_left() -> None:
    world = leaving()
    now = world.now
    for _ in range(HOLD_ROUNDS - 1):
        now += PARK_ROUND_S
        assert sent(world.machine.timer(now), HoldAll) == []
    effects = world.machine.timer(now + PARK_ROUND_S)
    assert sent(effects, HoldAll) == [ROUTER, 0, 1]
    assert sent(effects, Park) == [ROUTER, 0, 1]
    last = [world.machine.child_said(seat, Parked(0, HOLD_ROUNDS + 1), now + 1.0) for seat in (0, 1, ROUTER)][-1]
    assert sent(last, Leave) == [0]
    assert [effect for effect in last if isinstance(effect, Send) and effect.message == HoldAll(False)] == [
        Send(seat, HoldAll(False)) for seat in (ROUTER, 0, 1)
    ]


@pytest.mark.parametrize("end", ["die 0", "stop"])
def test_a_hold_ends_however_the_worker_ends(end: str) -> None:
    world = leaving()
    for _ in range(HOLD_ROUNDS):
        world.happen("timer")
    assert all(process.held for process in world.processes.values() if process.topology)
    world.happen(end)
    assert not any(process.held for process in world.processes.values())


def test_who_dies_while_it_is_waited_for_is_waited_for_no_longer() -> None:
    world = leaving()
    world.machine.child_said(ROUTER, Parked(0, 1), world.now)
    assert sent(world.machine.child_exited(1, "was killed by SIGKILL", False, world.now), Leave) == [0]


def test_who_becomes_ready_while_a_worker_leaves_is_told_to_keep_calls_back_too() -> None:
    world = leaving()
    world.die(1)
    world.happen("timer")
    world.processes[1].to_say.pop(0)
    [ready] = world.processes[1].to_say
    assert ready is not None
    effects = world.machine.child_said(1, ready, world.now)
    assert sent(effects, Park) == [1]
    told = [type(effect.message) for effect in effects if isinstance(effect, Send) and effect.seat == 1]
    assert told == [TopologyChanged, Park], "it hears of the worker before it hears to keep back"


def test_the_successor_opens_when_the_old_worker_is_gone_and_not_before() -> None:
    world = leaving()
    for seat in (ROUTER, 1):
        assert sent(world.machine.child_said(seat, Parked(0, 1), world.now), OpenShards) == []
    assert sent(world.machine.child_said(0, Drained(), world.now), OpenShards) == []
    effects = world.machine.child_exited(0, "exited with code 0", True, world.now)
    assert effects[-2:] == [Promote(NEXT_WORKER, 0), Send(0, OpenShards())]
    assert sent(effects, TopologyChanged) == [ROUTER, 1], "and that is told before"


def test_a_call_that_runs_beyond_the_bound_is_counted_and_its_worker_goes() -> None:
    world = leaving()
    world.run(until="leaving")
    world.obey(world.machine.child_said(0, Drained(2), world.now))
    world.die(0, expected=True)
    world.run()
    assert world.ended[1].replaced[0].unanswered == 2
    assert world.ended[1].failed is None


def test_a_worker_that_does_not_end_its_drain_is_killed_and_replaced_all_the_same() -> None:
    world = leaving()
    world.processes[0].to_say.clear()
    for _ in range(200):
        effects = world.machine.timer(world.machine.next_deadline() or world.now)
        if Kill(0) in effects:
            break
    else:
        pytest.fail("it was never killed")
    world.die(0)
    world.run()
    assert world.generations() == [1, 1]


def test_how_long_calls_waited_is_told_of_each_worker() -> None:
    world = ReplacementWorld()
    world.reload()
    world.run(until="settling")
    world.processes[ROUTER].to_say.clear()
    world.processes[1].to_say.clear()
    world.obey(world.machine.child_said(ROUTER, Waited(0, 10, 40.25), world.now))
    world.obey(world.machine.child_said(1, Waited(0, 2, 55.0), world.now))
    world.run()
    replaced = world.ended[1].replaced[0]
    assert (replaced.name, replaced.waited_calls, replaced.waited_ms_max) == ("worker 0", 12, 55.0)
    assert replaced.gap_ms > 0


def test_while_one_is_replaced_as_planned_the_service_is_serving_and_the_watchdog_is_fed() -> None:
    world = ReplacementWorld()
    world.reload()
    for step in ("loading", "preparing", "leaving", "opening", "settling"):
        world.run(until=step)
        assert world.machine.all_answer(world.now), step
        assert problems(world.machine, world.now) == (), step


# Routers


def test_a_rolling_restart_replaces_each_router_by_one_that_listens_before_the_old_one_drains() -> None:
    world = ReplacementWorld(routers=2)
    before = dict(world.processes)
    number = world.reload(routers=True)
    assert world.processes[NEXT_ROUTER]
    effects = world.machine.child_said(NEXT_ROUTER, world.processes[NEXT_ROUTER].to_say.pop(0), world.now)  # type: ignore[arg-type]  # its Ready
    assert sent(effects, Drain) == [ROUTER]
    assert sent(effects, TopologyChanged) == [NEXT_ROUTER]
    world.obey(effects)
    world.run()
    assert [each.name for each in world.ended[number].replaced] == ["router 0", "router 1", "worker 0", "worker 1"]
    assert all(world.processes[seat] is not process for seat, process in before.items())


def test_a_router_that_cannot_listen_leaves_the_old_one_serving() -> None:
    world = ReplacementWorld()
    number = world.reload(routers=True)
    world.die(NEXT_ROUTER)
    world.run()
    failed = world.ended[number].failed
    assert failed is not None
    assert "was killed by SIGKILL" in failed.problem
    assert world.generations() == [0, 0]


# What goes wrong


def test_a_version_that_cannot_be_loaded_changes_nothing_and_says_why_and_where() -> None:
    world = ReplacementWorld()
    before = dict(world.processes)
    world.broken.add(1)
    number = world.reload()
    world.run()
    assert world.processes == before
    failed = world.ended[number].failed
    assert failed is not None
    assert failed.problem == "it raised NameError (app.py:3)"
    [problem] = problems(world.machine, world.now)
    assert problem.what == "the last reload failed: it raised NameError (app.py:3); the version before goes on"
    assert "the old version goes on" in world.reports[-1]


def test_after_a_good_reload_the_failure_of_an_earlier_one_is_no_problem_any_more() -> None:
    world = ReplacementWorld()
    world.broken.add(1)
    world.reload()
    world.run()
    world.reload()
    world.run()
    assert problems(world.machine, world.now) == ()
    assert world.generations() == [2, 2]


def test_a_version_that_fails_in_the_second_worker_is_taken_back_from_the_first() -> None:
    world = ReplacementWorld(workers=3)
    number = world.reload()
    while world.machine.replacements.progress != "worker 1 is being replaced: loading":
        world.run(until="settling")
        world.run(until="loading")
    world.die(NEXT_WORKER)
    world.run()
    assert world.generations() == [0, 0, 0]
    assert world.ended[number].failed is not None
    assert any("going back to the old version" in report for report in world.reports)


def test_a_version_that_cannot_open_is_followed_by_the_old_one() -> None:
    world = ReplacementWorld()
    world.closed.add(1)
    number = world.reload()
    world.run()
    failed = world.ended[number].failed
    assert failed is not None
    assert (failed.operation, failed.problem) == ("open", "boom")
    assert world.generations() == [0, 0]
    assert world.machine.all_ready


def test_if_the_way_back_fails_too_the_two_versions_are_a_problem() -> None:
    world = ReplacementWorld()
    world.reload()
    while world.machine.replacements.progress != "worker 1 is being replaced: loading":
        world.run(until="settling")
        world.run(until="loading")
    world.die(NEXT_WORKER)
    assert world.machine.replacements.progress.startswith("going back to the old version: worker 0 is being")
    world.die(NEXT_WORKER)
    world.run()
    assert world.generations() == [1, 0]
    [problem] = problems(world.machine, world.now)
    assert "workers run different versions of the app" in problem.what
    world.reload()
    world.run()
    assert world.generations() == [2, 2]
    assert problems(world.machine, world.now) == ()


def test_a_worker_that_dies_after_the_reload_is_started_with_the_new_version() -> None:
    world = ReplacementWorld()
    world.reload()
    world.run()
    world.die(1)
    world.run()
    assert world.generations() == [1, 1]


def test_a_worker_that_dies_before_its_turn_is_started_with_the_old_version_and_then_replaced() -> None:
    world = ReplacementWorld()
    world.reload()
    world.die(1)
    world.happen("timer")
    assert world.processes[1].generation == 0
    world.run()
    assert world.generations() == [1, 1]


def test_a_reload_mends_a_worker_that_fails_again_and_again() -> None:
    world = ReplacementWorld()
    for _ in range(12):
        world.die(0)
        while 0 not in world.processes:
            world.happen("timer")
    world.die(0)
    assert world.machine.seats[0].flapping
    world.reload()
    world.run(until="loading")
    world.say(NEXT_WORKER)
    assert world.processes[0].opened, "nobody is there who would have to leave"
    world.run()
    assert world.generations() == [1, 1]
    assert world.ended[1].failed is None


def test_a_worker_that_is_just_being_started_is_waited_for() -> None:
    world = ReplacementWorld()
    world.die(0)
    world.happen("timer")
    world.reload()
    world.say(NEXT_WORKER)
    assert world.step() == Step.LOADED.value
    world.run()
    assert world.generations() == [1, 1]


def test_a_successor_that_never_loads_is_killed_and_the_old_version_goes_on() -> None:
    world = ReplacementWorld()
    number = world.reload()
    world.processes[NEXT_WORKER].to_say.clear()
    assert Kill(NEXT_WORKER) in world.machine.timer(world.now + LOAD_S_MAX)
    world.die(NEXT_WORKER)
    world.run()
    failed = world.ended[number].failed
    assert failed is not None
    assert "did not become ready in time" in failed.problem
    assert world.generations() == [0, 0]


def test_a_second_reload_waits_for_the_first_and_then_loads_what_there_is_by_then() -> None:
    world = ReplacementWorld()
    first, second = world.reload(), world.reload()
    world.run()
    assert world.ended[first].failed is world.ended[second].failed is None
    assert world.generations() == [2, 2]
    assert world.machine.replacements.generations() == {2}


def test_no_more_than_a_few_reloads_wait_and_the_last_of_them_loads_what_there_is_by_then() -> None:
    world = ReplacementWorld()
    numbers = [world.reload() for _ in range(1 + WAITING_MAX + 2)]
    refused = [world.ended[number].failed for number in numbers[-2:]]
    assert [failed and failed.problem for failed in refused] == [f"{WAITING_MAX} others wait already"] * 2
    world.run(steps=2_000)
    assert all(world.ended[number].failed is None for number in numbers[:-2])
    assert problems(world.machine, world.now) == ()


def test_a_stop_ends_a_reload_and_the_one_that_waits_and_says_so() -> None:
    world = ReplacementWorld()
    first, second = world.reload(), world.reload()
    world.happen("stop")
    third = world.reload()
    world.run()
    assert world.finished
    for number in (first, second, third):
        failed = world.ended[number].failed
        assert failed is not None
        assert "stop" in failed.problem


@pytest.mark.parametrize(
    "last_words", [Loaded("v1"), Prepared(), Parked(0, 1), Waited(0, 1, 1.0), Ready("ipc://late"), Drained(1)]
)
@pytest.mark.parametrize("what", ["reload", "restart"])
def test_what_a_successor_said_just_before_a_stop_killed_it_ends_nothing_else(what: str, last_words: FromChild) -> None:
    """Its last words are read when it is gone."""
    world = ReplacementWorld()
    world.machine.replace_requested(world.now, routers=what == "restart")
    successor = NEXT_ROUTER if what == "restart" else NEXT_WORKER
    assert Kill(successor) in world.machine.stop_requested(world.now)
    world.machine.child_said(successor, last_words, world.now)
    assert world.machine.seats[successor].state is SeatState.STARTING
    world.machine.child_exited(successor, "was killed by SIGKILL", False, world.now)
    world.machine.check_invariants()
    assert successor not in world.machine.seats


def test_the_source_of_a_reload_that_is_about_to_begin_is_kept() -> None:
    world = ReplacementWorld()
    first = world.reload()
    world.reload(routers=True)
    while first not in world.ended:
        said = [choice for choice in world.choices() if choice.startswith("say")]
        world.happen(said[0] if said else "timer")
    assert world.machine.replacements.progress == "router is being replaced: loading"
    assert world.machine.replacements.generations() == {1, 2}, "those that run, and what is loaded next"


def test_a_reload_before_the_service_is_ready_is_refused() -> None:
    world = ReplacementWorld()
    world.machine.was_ready = False
    failed = world.ended[world.reload()].failed
    assert failed is not None
    assert (failed.problem, failed.hint) == ("the service is still starting", "ask again when it is ready")


# Every interleaving


STEPS = ("loading", "preparing", "leaving", "opening", "settling")


@pytest.mark.parametrize("until", STEPS)
@pytest.mark.parametrize("routers", [False, True])
def test_whatever_three_things_happen_in_whichever_step_the_service_comes_to_rest_with_nobody_twice(
    until: str, *, routers: bool
) -> None:
    def at_the_step() -> ReplacementWorld:
        world = ReplacementWorld()
        world.reload(routers=routers)
        if routers and until == "leaving":
            world.run(until="leaving")
        else:
            world.run(until=until)
        return world

    def explore(path: tuple[str, ...], depth: int) -> int:
        world = at_the_step()
        for choice in path:
            world.happen(choice)
        choices = world.choices() if depth else []
        world.run()
        world.judge()
        return 1 + sum(explore((*path, choice), depth - 1) for choice in choices)

    assert explore((), 3) > 100


@pytest.mark.parametrize("seed", range(300))
def test_in_every_random_world_replacements_end_and_the_service_comes_to_rest(seed: int) -> None:
    chance = random.Random(seed)
    world = ReplacementWorld(workers=1 + seed % 3, routers=1 + seed % 2)
    world.broken = {generation for generation in range(1, 9) if chance.random() < 0.2}
    world.closed = {generation for generation in range(1, 9) if chance.random() < 0.1}
    asked = [world.reload(routers=chance.random() < 0.3)]
    for _ in itertools.repeat(None, 60):
        choices = [each for each in world.choices() if chance.random() < 0.1 or not each.startswith(("stop", "reload", "die"))]
        if world.finished or not choices:
            break
        choice = chance.choice(choices)
        if choice == "stop" and chance.random() < 0.8:
            continue
        world.happen(choice)
    world.run(steps=2_000)
    world.judge()
    assert set(asked) <= set(world.ended)


def test_a_reload_says_what_it_changes_of_the_configuration_before_it_begins() -> None:
    world = ReplacementWorld()
    changes = ConfigChanges((ConfigChange("a.b", 1, 2, "tidegate reload"),), (ConfigChange("a.c", 3, 4, "a stop and a start"),))
    world.read_config = lambda *_: changes
    world.reload()
    assert world.said[:2] == ["a.b becomes 2, it is 1", "a.c stays 3: 4 takes a stop and a start"]


def test_a_wrong_configuration_refuses_the_reload_and_the_next_one_reads_it_anew() -> None:
    world = ReplacementWorld()
    wrong = Failed("read", "t.toml [a] b", "must be a number", "correct the value")
    world.read_config = lambda *_: wrong
    number = world.reload()
    assert world.ended[number].failed == wrong
    assert world.machine.replacements.running is None
    assert world.machine.replacements.failed == wrong
    assert world.generations() == [0, 0]
    world.read_config = lambda *_: ConfigChanges()
    number = world.reload()
    world.run()
    assert world.ended[number].failed is None
    assert world.machine.replacements.failed is None
    assert len(set(world.generations())) == 1


def test_a_reload_that_waited_is_refused_by_what_is_wrong_when_its_turn_comes_and_those_behind_it_go_on() -> None:
    world = ReplacementWorld()
    told: Iterator[ConfigChanges | Failed] = iter(
        [ConfigChanges(), Failed("read", "t.toml", "is wrong", "correct it"), ConfigChanges()]
    )
    world.read_config = lambda *_: next(told)
    numbers = [world.reload() for _ in range(3)]
    world.run()
    assert [world.ended[number].failed is None for number in numbers] == [True, False, True]
    assert any("reload refused: read t.toml: is wrong (correct it)" in text for text in world.reports)
