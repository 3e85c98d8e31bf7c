"""What is told of a run."""

from __future__ import annotations

from tidegate.runtime.chaos.verdict.history import Operation, Violation
from tidegate.runtime.chaos.verdict.report import ChaosReport
from tidegate.runtime.chaos.verdict.tally import Tally


def tally_of(*taken_s: float) -> Tally:
    tally = Tally()
    for number, seconds in enumerate(taken_s):
        tally.count(Operation(number, "pyzmq 1", "Counter", "one", "take", (), 0.0, seconds, "answered"))
    return tally


def report(tally: Tally, *violations: Violation, undecided: tuple[str, ...] = ()) -> ChaosReport:
    return ChaosReport(
        seed=7, stage="one service", keys=False, seconds=30.0, ended_by="its time was over", faults={"kill": 3},
        strikes={"kill: a worker": 3},
        calls=tally.as_dict(), checked=5, objects=2, silence_s=0.5, violations=list(violations), undecided=list(undecided),
        samples=[], trends=[], kept="",
    )  # fmt: skip


def test_latencies_are_told_to_a_twentieth() -> None:
    tally = tally_of(*(0.001 * number for number in range(1, 1_001)))
    assert 0.5 <= tally.quantile_s(0.5) <= 0.53
    assert 0.99 <= tally.quantile_s(0.99) <= 1.0
    assert tally.worst_s == 1.0
    assert Tally().quantile_s(0.5) == 0.0


def test_errors_are_told_by_who_saw_them_and_what_they_say_of_the_call() -> None:
    tally = tally_of(0.1)
    tally.count(Operation(9, "json 3", "Counter", "one", "take", (), 0.0, 1.0, "unknown", error="shard_lost"))
    page = report(tally).page()
    assert "2: 1 answered, 1 of unknown outcome, 0 refused" in page
    assert "shard_lost (unknown) json: 1" in page


def test_a_run_is_passed_only_if_nothing_was_wrong_and_all_was_decided() -> None:
    kept = report(tally_of(0.1))
    assert kept.passed
    assert kept.page().endswith("every promise was kept")
    wrong = report(tally_of(0.1), Violation("money", "all accounts", "10 are gone"))
    assert not wrong.passed
    assert "  1 money made or lost" in wrong.page()
    assert "money: all accounts: 10 are gone" in wrong.page()
    assert wrong.page().endswith("repeat it with --seed 7")
    assert not report(tally_of(0.1), undecided=("Register/one",)).passed
