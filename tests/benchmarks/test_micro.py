from __future__ import annotations

from tidegate.benchmarks.micro import best_us, measure_all


def test_every_layer_is_measured_against_its_budget() -> None:
    costs = measure_all(smoke=True)
    assert {cost.layer for cost in costs} >= {"protocol", "router", "worker", "client", "parts", "log"}
    assert all(cost.us > 0 for cost in costs if cost.layer in ("router", "worker", "client", "log"))
    budgets = {cost.layer: cost for cost in costs if cost.budget_us}
    assert set(budgets) == {"router", "worker", "client"}
    for layer, total in budgets.items():
        parts = sum(cost.us for cost in costs if cost.layer == layer and cost.counted)
        assert abs(total.us - parts) < 0.02


def test_preparation_is_not_measured_and_the_best_run_counts() -> None:
    delays = iter([200_000, 0, 200_000])
    prepared: list[int] = []

    def run() -> None:
        sum(range(next(delays)))

    quick = best_us(run, 3, 1, prepare=lambda: prepared.append(sum(range(200_000))))
    assert len(prepared) == 3
    assert quick < best_us(lambda: sum(range(200_000)), 3, 1)
