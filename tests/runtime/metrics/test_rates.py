"""How fast a process goes, of what it has counted in a while."""

from __future__ import annotations

from tidegate.runtime.metrics.rates import SERVICE, merged, rates_of
from tidegate.runtime.wire.counts import Counts, Histogram


def answers(seconds: float, number: int) -> list[float]:
    histogram = Histogram()
    histogram.observe(seconds, number)
    return histogram.value()


WORKER: Counts = {
    "calls": [(("Cart",), 10), (("Order",), 30)],
    "call_errors": [(("Cart", "exception"), 3), (("Cart", "overloaded"), 1)],
    "call_answer_seconds": [(("Cart",), answers(0.004, 10)), (("Order",), answers(0.04, 30))],
}
ROUTER: Counts = {
    "router_calls": [((), 40)],
    "router_errors": [(("overloaded",), 5)],
    "router_answer_seconds": [((), answers(0.004, 40))],
}


def test_a_worker_has_rates_by_class_and_of_all() -> None:
    rates = rates_of(WORKER, 2.0)
    assert {name: (rate.calls_per_s, rate.errors_per_s) for name, rate in rates.items()} == {
        SERVICE: (20.0, 2.0),
        "Cart": (5.0, 2.0),
        "Order": (15.0, 0.0),
    }
    shown = rates[SERVICE].shown()
    assert 25 < shown["answer_p50_ms"] < 50
    assert 2.5 < rates["Cart"].shown()["answer_p99_ms"] <= 5


def test_a_router_has_one_rate_of_all_its_calls() -> None:
    rates = rates_of(ROUTER, 2.0)
    assert list(rates) == [SERVICE]
    assert rates[SERVICE].shown() == {
        "calls_per_s": 20.0,
        "errors_per_s": 2.5,
        "answer_p50_ms": 3.75,
        "answer_p95_ms": 4.88,
        "answer_p99_ms": 4.98,
    }


def test_rates_of_several_processes_add_up() -> None:
    both = merged([rates_of(WORKER, 2.0), rates_of(WORKER, 1.0), rates_of({}, 1.0)])
    assert both["Cart"].calls_per_s == 15.0
    assert sum(both["Order"].answers[:-1]) == 60


def test_where_nothing_was_answered_nobody_says_how_long_it_took() -> None:
    assert rates_of({}, 2.0)[SERVICE].shown() == {
        "calls_per_s": 0.0,
        "errors_per_s": 0.0,
        "answer_p50_ms": None,
        "answer_p95_ms": None,
        "answer_p99_ms": None,
    }
