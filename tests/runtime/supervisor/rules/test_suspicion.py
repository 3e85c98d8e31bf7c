"""Objects whose code ends their worker: named, in quarantine longer each time, and forgotten when they are quiet."""

from __future__ import annotations

from tidegate.runtime.limits import QUARANTINE_S_MAX, QUARANTINE_S_MIN, SUSPICION_S
from tidegate.runtime.supervisor.rules.suspicion import Suspicion
from tidegate.runtime.wire.supervisor_messages import Running

BAD = Running("Poison", "p", "boom")


def test_a_worker_writes_down_whose_code_it_runs_for_a_while_after_a_death_only() -> None:
    suspicion = Suspicion()
    assert not suspicion.is_watched(0, 0.0)
    assert suspicion.died(0, None, 0.0) == ""
    assert suspicion.is_watched(0, 1.0)
    assert not suspicion.is_watched(1, 1.0)
    assert not suspicion.is_watched(0, SUSPICION_S)


def test_an_object_is_named_from_its_first_known_death_and_in_quarantine_from_the_second_for_longer_each_time() -> None:
    suspicion = Suspicion()
    now, quarantine_s = 0.0, []
    for offences in range(1, 12):
        said = suspicion.died(0, BAD, now)
        assert said.startswith("while Poison/p ran boom")
        found = suspicion.quarantined(now)
        assert bool(found) == (offences >= 2) == ("is in quarantine for" in said)
        if found:
            assert (found[0].class_name, found[0].name, found[0].offences, found[0].code) == ("Poison", "p", offences, "boom")
            quarantine_s.append(found[0].for_s)
            assert suspicion.quarantined(now + found[0].for_s) == ()
            now += found[0].for_s
        now += 1
    assert quarantine_s[:4] == [QUARANTINE_S_MIN, 2 * QUARANTINE_S_MIN, 4 * QUARANTINE_S_MIN, 8 * QUARANTINE_S_MIN]
    assert quarantine_s[-1] == QUARANTINE_S_MAX


def test_what_it_did_the_last_time_is_told_with_its_quarantine() -> None:
    suspicion = Suspicion()
    suspicion.died(0, BAD, 0.0)
    suspicion.died(0, BAD, 1.0)
    assert suspicion.quarantined(1.0)[0].why == "its worker ended while it ran"
    suspicion.held_up(BAD, 1.62, 2.0)
    assert suspicion.quarantined(2.0)[0].why == "it held up its worker for 1.6 s and was interrupted"


def test_an_object_that_has_been_quiet_for_long_is_forgotten() -> None:
    suspicion = Suspicion()
    suspicion.died(0, BAD, 0.0)
    assert "quarantine" not in suspicion.died(0, BAD, SUSPICION_S)
    assert suspicion.quarantined(SUSPICION_S) == ()


def test_an_object_is_released_from_a_quarantine_that_it_is_in_and_all_is_forgotten() -> None:
    suspicion = Suspicion()
    assert not suspicion.release("Poison", "p", 0.0)
    suspicion.died(0, BAD, 0.0)
    assert not suspicion.release("Poison", "p", 0.0)
    suspicion.died(0, BAD, 1.0)
    assert suspicion.quarantined(1.0) == (), "its first offence was forgotten"
    suspicion.died(0, BAD, 2.0)
    assert suspicion.release("Poison", "p", 2.0)
    assert suspicion.quarantined(2.0) == ()
    assert not suspicion.release("Poison", "p", 2.0)
    suspicion.died(0, BAD, 3.0)
    suspicion.died(0, BAD, 4.0)
    assert not suspicion.release("Poison", "p", 4.0 + QUARANTINE_S_MIN), "it was over"


def test_the_offences_of_different_objects_do_not_add_up() -> None:
    suspicion = Suspicion()
    for number in range(100):
        suspicion.died(0, Running("Shop", f"n{number}", "buy"), float(number))
    assert suspicion.quarantined(100.0) == ()


def test_an_alarm_that_kills_is_named_and_the_calls_of_its_object_are_not_kept_out() -> None:
    suspicion = Suspicion()
    for number in range(5):
        assert suspicion.died(0, Running("Poison", "p", "alarm"), float(number)) == "while Poison/p ran alarm"
    assert suspicion.quarantined(5.0) == ()


def test_an_alarm_that_holds_up_its_worker_counts_like_a_call() -> None:
    suspicion = Suspicion()
    alarm = Running("Poison", "p", "alarm")
    suspicion.held_up(alarm, 1.6, 0.0)
    assert "in quarantine" in suspicion.held_up(alarm, 1.6, 2.0)
    assert [each.code for each in suspicion.quarantined(2.0)] == ["alarm"]
