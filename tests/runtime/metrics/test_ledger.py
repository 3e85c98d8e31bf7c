"""The ledger adds up processes, never goes back, and believes nothing that makes no sense."""

from __future__ import annotations

from random import Random

from tidegate.runtime.metrics.ledger import STALE_S, Ledger
from tidegate.runtime.metrics.rates import SERVICE
from tidegate.runtime.wire.counts import Counts, Histogram


def calls(number: int, *, in_memory: int = 0) -> Counts:
    answers = Histogram()
    answers.observe(0.003, number)
    return {
        "calls": [(("Counter",), number)],
        "call_answer_seconds": [(("Counter",), answers.value())],
        "cache_hits": [((), number * 2)],
        "objects_in_memory": [((), in_memory)],
    }


def test_what_is_of_the_service_is_added_up_and_what_is_of_a_process_is_not() -> None:
    ledger = Ledger()
    ledger.told("a", "worker 0", calls(5), 1.0)
    ledger.told("b", "worker 1", calls(7), 1.0)
    sums = ledger.sums()
    assert sums["calls"] == {("Counter",): 12}
    assert sums["cache_hits"] == {("worker 0",): 10, ("worker 1",): 14}
    histogram = sums["call_answer_seconds"]["Counter",]
    assert isinstance(histogram, list)
    assert sum(histogram[:-1]) == 12


def test_what_a_process_has_counted_stays_when_it_is_gone_and_what_it_had_does_not() -> None:
    ledger = Ledger()
    ledger.told("a", "worker 0", calls(5, in_memory=3), 1.0)
    ledger.gone("a")
    ledger.gone("a")
    assert ledger.sums()["calls"] == {("Counter",): 5}
    assert "objects_in_memory" not in ledger.sums()
    ledger.told("b", "worker 0", calls(1, in_memory=2), 2.0)
    assert ledger.sums()["calls"] == {("Counter",): 6}
    assert ledger.sums()["cache_hits"] == {("worker 0",): 12}
    assert ledger.sums()["objects_in_memory"] == {("worker 0",): 2}


def test_no_sum_ever_goes_back_whoever_comes_and_goes() -> None:
    for seed in range(30):
        random, ledger = Random(seed), Ledger()
        alive = {0: 0, 1: 0}
        next_process, last = 2, 0.0
        for step in range(200):
            process = random.choice(sorted(alive))
            if random.random() < 0.2:
                ledger.gone(process)
                del alive[process]
                alive[next_process] = 0
                next_process += 1
            else:
                alive[process] += random.randrange(100)
                ledger.told(process, f"worker {process % 2}", calls(alive[process]), float(step))
            now = ledger.sums().get("calls", {}).get(("Counter",), 0)
            assert not isinstance(now, list)
            assert now >= last, (seed, step)
            last = now


def test_what_is_in_no_catalogue_or_has_another_shape_is_left_out() -> None:
    ledger = Ledger()
    wrong: Counts = {
        "nonsense": [((), 1)],
        "calls": [((), 1), (("Counter", "more"), 1), (("Counter",), [1.0]), (("Good",), 3)],
        "call_answer_seconds": [(("Counter",), 5), (("Counter",), [1.0, 2.0])],
    }
    ledger.told("a", "worker 0", wrong, 1.0)
    ledger.told("a", "worker 0", wrong, 3.0)
    ledger.gone("a")
    assert ledger.sums() == {"calls": {("Good",): 3}}


def test_the_supervisor_counts_and_observes_beside_what_it_is_told() -> None:
    ledger = Ledger()
    ledger.counted("held_up", "worker 0")
    ledger.counted("held_up", "worker 0")
    ledger.observed("loop_lag_seconds", "worker 0", value=0.003)
    ledger.observed("loop_lag_seconds", "worker 0", value=20.0)
    assert ledger.sums()["held_up"] == {("worker 0",): 2}
    lag = ledger.sums()["loop_lag_seconds"]["worker 0",]
    assert isinstance(lag, list)
    assert (sum(lag[:-1]), lag[-1]) == (2, 20.003)


def test_rates_are_those_of_the_time_since_it_was_told_before() -> None:
    ledger = Ledger()
    ledger.told("a", "worker 0", calls(0), 10.0)
    assert ledger.rates("a", 10.0) is None
    ledger.told("a", "worker 0", calls(100), 12.0)
    ledger.told("a", "worker 0", calls(101), 12.1)  # Last words: too soon to say.
    rates = ledger.rates("a", 13.0)
    assert rates is not None
    assert rates[SERVICE].calls_per_s == rates["Counter"].calls_per_s == 50.0
    ledger.told("a", "worker 0", calls(101), 14.1)
    rates = ledger.rates("a", 14.1)
    assert rates is not None
    assert rates[SERVICE].calls_per_s < 0.5
    assert ledger.rates("a", 14.2 + STALE_S) is None
    assert ledger.rates("b", 14.0) is None


def test_calls_of_each_shard_are_told_a_second_and_added_up_over_processes() -> None:
    ledger = Ledger()

    def told(process: str, now: float, **calls: int) -> None:
        counts: Counts = {"shard_calls": [((shard.removeprefix("s"),), number) for shard, number in calls.items()]}
        ledger.told(process, "worker 0", counts, now)

    for process in "ab":
        told(process, 8.0)
        told(process, 10.0, s0=100, s1=7)
    told("a", 12.0, s0=110, s1=7, s3=4)
    told("b", 12.0, s0=102, s1=7, sx=9)
    assert ledger.calls_by_shard(12.0) == {0: 6.0, 3: 2.0}, "since it was told before; what is no shard is left out"
    ledger.gone("a")
    assert ledger.calls_by_shard(12.0) == {0: 1.0}
    assert ledger.calls_by_shard(12.0 + STALE_S + 1) == {}
