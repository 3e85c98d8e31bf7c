"""Services with a feature each beside a plain one: every one has its feature, and what costs too much is named."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks.test_smoke import run_benchmark
from tests.support.waiting import wait_until
from tidegate.benchmarks.__main__ import parse_arguments
from tidegate.benchmarks.features import FEATURES, Scraped, Scraper, dear, free_address
from tidegate.benchmarks.figures.compare import Ratio
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.measure import measure
from tidegate.benchmarks.peers.ours import Peer, system_call
from tidegate.benchmarks.runner import LineUp, make_plans

REQUESTS = 1_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Unix sockets have room in its path, which is not sure in pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def called(folder: Path) -> Iterator[dict[str, Peer]]:
    """By name, each of them called so often by raw sockets that the number of its lines says something."""
    options = parse_arguments(
        ["features", "--concurrency", "16", "--requests", str(REQUESTS), "--seconds", "0.001", "--workers", "1", "--load", "lean"]
    )
    (plan,) = make_plans(options)
    with contextlib.ExitStack() as stack:
        started = LineUp(options, folder)
        started.start(lambda _: None, None, stack)
        for peer in started.peers:
            assert measure(peer, plan, patient=False).rate > 0
        yield {peer.name: peer for peer in started.peers}


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name[:4] / "cache-None" / "service.log").read_text().splitlines()


def test_each_feature_is_measured_beside_the_plain_service_in_every_round() -> None:
    ended = run_benchmark("features", "--smoke", "--json", "--workers", "1", "--concurrency", "4", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    peers = [one["peer"] for one in result["measurements"]]
    assert peers == ["tidegate", *FEATURES, *reversed(FEATURES), "tidegate"]
    ratios = {one["peer"]: one for one in result["ratios"]}
    assert ratios.keys() == FEATURES.keys()
    assert all(one["against"] == "tidegate" and 0 < one["rate_min"] <= one["rate"] <= one["rate_max"] for one in ratios.values())


def test_logs_are_json_with_so_many_lines_of_calls_and_the_plain_service_has_none(called: dict[str, Peer], folder: Path) -> None:
    def stored(name: str) -> list[str]:
        return [line for line in lines(folder, name) if "is stored" in line]

    def has(name: str, count: int) -> bool:
        return len(stored(name)) >= count

    for name, every in (("logs", 100), ("chatty", 10)):
        wait_until(partial(has, name, REQUESTS // every), f"the lines of {name}")
        told = [json.loads(line) for line in stored(name)]
        assert all(one["object"].startswith(FEATURES[name].class_name) and one["method"] for one in told)
    assert len(stored("chatty")) > 5 * len(stored("logs"))
    assert stored("tidegate") == stored("metrics") == stored("curve") == []


def test_the_service_with_access_keys_lets_nobody_in_without(called: dict[str, Peer], folder: Path) -> None:
    assert called["curve"].name == "curve"
    with pytest.raises(BenchmarkFailed, match="did not answer"):
        system_call(f"ipc://{folder}/curv/cache-None/service", "topology", timeout_ms=500)


def test_metrics_are_asked_for_and_nobody_who_answers_is_noticed(called: dict[str, Peer]) -> None:
    peer = called["metrics"]
    assert isinstance(peer, Scraped)
    scraper = Scraper(peer.address)
    scraper.close()
    assert scraper.scrapes == 1
    with pytest.raises(BenchmarkFailed, match="Connection refused"):
        Scraper(free_address()).close()


def test_a_feature_that_leaves_less_than_its_share_is_named() -> None:
    def ratio(peer: str, rate: float) -> Ratio:
        return Ratio(peer, "tidegate", "unique", "direct", "client", 64, rate, rate - 0.1, rate + 0.1, 1.0)

    assert dear([ratio("curve", 0.7), ratio("metrics", 0.97), ratio("logs", 1.1)]) == []
    assert dear([ratio("curve", 0.69), ratio("logs", 0.96)]) == [
        "curve, direct, 64 at once: 0.690 of tidegate (0.590 to 0.790), less than 0.7",
        "logs, direct, 64 at once: 0.960 of tidegate (0.860 to 1.060), less than 0.97",
    ]
