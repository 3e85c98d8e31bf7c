from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from tidegate.benchmarks.model import CORES, Costs, Setup, clients_needed, predict, setups

COSTS = Costs(client_us=4.0, router_us=5.0, worker_us=8.0, sync_us=150.0, syncs_per_s=50_000.0)


@dataclass(frozen=True)
class Case:
    setup: Setup
    bottleneck: str


@pytest.mark.parametrize(
    "case",
    [
        Case(Setup(cores=8, workers=8, clients=1), "clients"),
        Case(Setup(cores=8, workers=8, clients=99), "workers"),
        Case(Setup(cores=8, workers=8, clients=99, routers=1), "routers"),
        Case(Setup(cores=8, workers=8, clients=99, clients_share_cores=True), "cores"),
        Case(Setup(cores=128, workers=128, clients=999, concurrency=2), "disk"),
    ],
)
def test_the_scarcest_resource_is_named_and_sets_the_rate(case: Case) -> None:
    found = predict(COSTS, case.setup)
    assert found.bottleneck == case.bottleneck
    assert found.rate <= min(found.limits.values())


def test_one_client_goes_in_lock_step_with_the_workers_and_several_do_not() -> None:
    one, two = (predict(COSTS, Setup(cores=2, workers=2, clients=clients)) for clients in (1, 2))
    assert one.rate == pytest.approx(512 / (512 * 4 + 256 * 8 + 150) * 1e6, rel=0.001)
    assert two.rate == min(two.limits.values()) > one.rate


def test_what_was_measured_on_a_quiet_machine_is_predicted_within_a_tenth() -> None:
    """Rates and CPU times of `unique` on two cores, kept in benchmarks/results: 256 and 1,000 in flight, direct and routed."""
    for client_us, router_us, worker_us, in_flight, measured in (
        (1.57, 0.0, 9.73, 256, 145_790),
        (0.80, 0.0, 6.86, 1_000, 232_145),
        (1.59, 3.86, 12.23, 256, 89_131),
        (4.43, 0.0, 9.36, 256, 110_052),
    ):
        costs = Costs(client_us, router_us or 1.0, worker_us, sync_us=142.0, syncs_per_s=9_700.0)
        setup = Setup(2, 2, 1, 1 if router_us else 0, in_flight // 2, clients_share_cores=True)
        assert predict(costs, setup).rate == pytest.approx(measured, rel=0.1)


def test_more_workers_than_cores_do_not_make_more_cores() -> None:
    over = predict(COSTS, Setup(cores=2, workers=8, clients=99))
    assert over.rate == predict(COSTS, Setup(cores=2, workers=2, clients=99)).rate


def test_waiting_for_the_disk_costs_the_less_the_more_calls_share_it() -> None:
    def rate(concurrency: int) -> float:
        return predict(COSTS, Setup(cores=1, workers=1, clients=99, concurrency=concurrency)).rate

    assert rate(1) == pytest.approx(1e6 / 158, rel=0.01)
    assert rate(1) < rate(64) < rate(1_024) < 1e6 / 8


def test_every_setup_has_room_for_a_worker_and_grows_with_cores() -> None:
    for name in setups(COSTS, 2):
        rates = [predict(COSTS, setups(COSTS, count)[name]).rate for count in CORES]
        assert rates == sorted(rates)
    assert setups(msgspec.structs.replace(COSTS, router_us=800.0), 2)["clients elsewhere, enough routers"].workers == 1


def test_clients_needed_are_those_which_can_ask_for_the_rate() -> None:
    assert clients_needed(COSTS, 250_000.0) == pytest.approx(1.0)
    assert clients_needed(msgspec.structs.replace(COSTS, client_busiest=0.5), 250_000.0) == pytest.approx(0.5)
