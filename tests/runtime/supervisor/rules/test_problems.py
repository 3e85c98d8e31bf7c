from tidegate.runtime.supervisor.operators.status import state, status_line
from tidegate.runtime.supervisor.rules.problems import problems
from tidegate.runtime.supervisor.rules.restart import FLAPPING_FAILURES
from tidegate.runtime.supervisor.rules.seats import ROUTER
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.supervisor_messages import Pong, Problem, Ready, Running

FULL = {"what": "nothing can be written: no space left on device", "where": "worker 0, /data/log", "next": "make room"}


def serving() -> Supervision:
    machine = Supervision((0, 1), 2, 1, 30.0, 9.0)
    machine.start(0.0)
    machine.child_said(ROUTER, Ready("tcp://127.0.0.1:7711"), 1.0)
    for worker in (0, 1):
        machine.child_said(worker, Ready(f"ipc://{worker}", classes={"Counter": {}}), 1.0)
    return machine


def test_a_service_whose_processes_all_serve_has_no_problem() -> None:
    machine = serving()
    assert problems(machine, 2.0) == ()
    assert status_line(machine, 2.0) == "serving 1 class on tcp://127.0.0.1:7711 with 2 workers"


def test_a_lost_worker_is_a_problem_with_the_reason_until_it_is_back() -> None:
    machine = serving()
    machine.child_exited(1, "was killed by SIGSEGV", False, 3.0)
    [problem] = problems(machine, 3.0)
    assert problem == Problem("is down: was killed by SIGSEGV", "worker 1", "wait: it is started again by itself")
    assert status_line(machine, 3.0).startswith("degraded: worker 1: is down: was killed by SIGSEGV; 1 class on")
    machine.timer(3.0)
    machine.child_said(1, Ready("ipc://1.2", classes={"Counter": {}}), 4.0)
    assert problems(machine, 4.0) == ()


def test_a_worker_that_fails_again_and_again_is_one_problem_with_the_count() -> None:
    machine, now = serving(), 5.0
    for _ in range(FLAPPING_FAILURES):
        machine.child_exited(0, "exited with code 1", False, now)
        now = machine.seats[0].restart_at or now
        machine.timer(now)
    [problem] = [each for each in problems(machine, now) if "does not answer" not in each.what]
    assert problem.what == f"fails again and again, {FLAPPING_FAILURES} times so far: exited with code 1"
    assert problem.where == "worker 0"


def test_a_process_that_owes_an_answer_is_a_problem_with_the_time_of_its_last_one_until_it_answers() -> None:
    machine = serving()
    machine.timer(2.0)
    for seat in (ROUTER, 0, 1):
        machine.child_said(seat, Pong(1), 2.5)
    machine.timer(4.0)
    for seat in (ROUTER, 0):
        machine.child_said(seat, Pong(2), 4.1)
    assert problems(machine, 5.9) == ()
    [problem] = problems(machine, 6.5)
    assert problem.where == "worker 1"
    assert problem.what == "does not answer, its last answer came 4 s ago; calls to its objects wait"
    assert problem.next.startswith("wait: 30 s after a ping that it has not answered it is killed")
    machine.child_said(1, Pong(2), 7.0)
    assert problems(machine, 7.0) == ()


def test_an_object_in_quarantine_is_a_problem_of_a_service_whose_processes_all_serve() -> None:
    machine, running = serving(), Running("Bad", "one", "crash")
    for now in (5.0, 6.0, 7.0):
        machine.suspicion.died(0, running, now)
    [problem] = problems(machine, 7.0)
    assert problem.where == "Bad/one"
    assert problem.what == "in quarantine: its code has held up or ended its worker 3 times, the last time in crash"
    assert machine.all_ready
    assert state(machine, [problem]) == "degraded"


def test_what_a_process_tells_of_itself_becomes_a_problem_of_the_service_until_it_tells_no_more() -> None:
    machine = serving()
    machine.child_said(0, Pong(0, {"calls": 1, "problems": [FULL]}), 2.0)
    machine.child_said(ROUTER, Pong(0, {"problems": [{**FULL, "where": "router"}, FULL]}), 2.0)
    assert problems(machine, 2.0) == (Problem(FULL["what"], "router", FULL["next"]), Problem(**FULL))
    assert "no space left on device (1 of 2 problems); 1 class" in status_line(machine, 2.0)
    machine.child_said(0, Pong(0, {"calls": 2}), 4.0)
    machine.child_said(ROUTER, Pong(0, {"problems": []}), 4.0)
    assert problems(machine, 4.0) == ()


def test_a_problem_in_a_form_that_cannot_be_read_hides_no_other() -> None:
    machine = serving()
    machine.child_said(0, Pong(0, {"problems": [{"what": 7}]}), 2.0)
    machine.child_said(1, Pong(0, {"problems": [FULL]}), 2.0)
    broken, told = problems(machine, 2.0)
    assert (broken.where, told) == ("worker 0", Problem(**FULL))


def test_a_service_that_starts_or_stops_calls_no_process_a_problem_for_not_being_there() -> None:
    machine = Supervision((0, 1), 2, 1, 30.0, 9.0)
    machine.start(0.0)
    assert problems(machine, 0.5) == ()
    machine = serving()
    machine.stop_requested(2.0)
    machine.child_exited(ROUTER, "exited with code 0", True, 3.0)
    assert problems(machine, 3.0) == ()
    assert state(machine, ()) == "stopping"
