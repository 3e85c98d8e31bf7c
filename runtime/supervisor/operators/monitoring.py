"""What is answered to those who watch a service over HTTP: `/metrics`, `/livez`, `/readyz`.

Guarantee: the metrics are put together once a second at most, however many ask. Nothing here names an object or has data of one.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Sequence

from tidegate.runtime.errors import one_line
from tidegate.runtime.metrics.exposition import Exposition
from tidegate.runtime.metrics.ledger import Sums
from tidegate.runtime.supervisor.operators.http_door import Page, text_page
from tidegate.runtime.wire.supervisor_messages import Problem

ANSWER_KEPT_S = 1.0
_INDEX = "/metrics: for Prometheus\n/livez: whether the supervisor runs\n/readyz: whether calls are served, and what is wrong"


class Monitoring:
    def __init__(
        self,
        sums: Callable[[], Sums],
        why_not_ready: Callable[[], str | None],
        problems: Callable[[], Sequence[Problem]],
        now: Callable[[], float],
    ) -> None:
        self._sums = sums
        self._why_not_ready = why_not_ready
        self._problems = problems
        self._now = now
        self._kept: dict[str, tuple[float, Page]] = {}
        """By what was accepted: when it was made, and what."""

    def page(self, path: str, accept: str) -> Page:
        match path:
            case "/metrics":
                return self._metrics(accept)
            case "/livez":
                return text_page(http.HTTPStatus.OK, "ok")
            case "/readyz":
                return self._readiness()
            case "/":
                return text_page(http.HTTPStatus.OK, _INDEX)
        return text_page(http.HTTPStatus.NOT_FOUND, _INDEX)

    def _metrics(self, accept: str) -> Page:
        accept = "application/openmetrics-text" if "application/openmetrics-text" in accept else ""
        made_at, page = self._kept.get(accept, (0.0, None))
        now = self._now()
        if page is None or now >= made_at + ANSWER_KEPT_S:
            page = Page(http.HTTPStatus.OK, *Exposition(self._sums()).encoded(accept))
            self._kept[accept] = now, page
        return page

    def _readiness(self) -> Page:
        """Problems are told with either answer: a service that serves may have some."""
        why = self._why_not_ready()
        lines = [
            "ready" if why is None else f"not ready: {why}",
            *(one_line(f"problem: {each.where}: {each.what}") for each in self._problems()),
        ]
        return text_page(http.HTTPStatus.OK if why is None else http.HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(lines))
