"""The pages for those who watch a service."""

from __future__ import annotations

import http

from tidegate.runtime.metrics.ledger import Sums
from tidegate.runtime.supervisor.operators.monitoring import ANSWER_KEPT_S, Monitoring
from tidegate.runtime.wire.supervisor_messages import Problem


class World:
    def __init__(self) -> None:
        self.asked = 0
        self.now = 10.0
        self.why: str | None = None
        self.problems: list[Problem] = []
        self.monitoring = Monitoring(self._sums, lambda: self.why, lambda: self.problems, lambda: self.now)

    def _sums(self) -> Sums:
        self.asked += 1
        return {"scrapes": {(): self.asked}}

    def get(self, path: str, accept: str = "") -> tuple[int, str]:
        page = self.monitoring.page(path, accept)
        return page.status.value, page.body.decode()


def test_metrics_are_made_once_a_second_however_many_ask() -> None:
    world = World()
    assert "tidegate_scrapes_total 1.0" in world.get("/metrics")[1]
    for _ in range(10):
        world.get("/metrics")
    world.get("/metrics", "text/plain;q=0.5")
    assert world.asked == 1
    assert world.get("/metrics", "application/openmetrics-text;version=1.0.0")[1].endswith("# EOF\n")
    world.now += ANSWER_KEPT_S
    assert "tidegate_scrapes_total 3.0" in world.get("/metrics")[1]


def test_liveness_is_that_somebody_answers_and_readiness_says_why_not() -> None:
    world = World()
    world.why = "the service is starting"
    assert world.get("/livez") == (200, "ok\n")
    assert world.get("/readyz") == (503, "not ready: the service is starting\n")
    world.why = None
    assert world.get("/readyz") == (200, "ready\n")


def test_problems_are_told_one_a_line_whether_or_not_calls_are_served() -> None:
    world = World()
    world.problems = [Problem("is slow\nready", "worker 0", "wait"), Problem("is down", "worker 1", "wait")]
    status, body = world.get("/readyz")
    assert status == 200
    assert len(body.splitlines()) == 3
    assert body.startswith("ready\nproblem: worker 0: is slow")


def test_other_paths_say_which_there_are() -> None:
    world = World()
    for path, status in (("/", 200), ("/metric", 404), ("", 404), ("/metrics/", 404)):
        found, body = world.get(path)
        assert found == status
        assert "/readyz" in body
    assert world.monitoring.page("/", "").status is http.HTTPStatus.OK
