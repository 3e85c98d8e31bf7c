"""What features cost: services with one each beside a plain one, in interleaved rounds.

*curve*: access keys; every message is encrypted, and Python clients on this machine come by ZeroMQ in place of streams.
*metrics*: an address for Prometheus that is scraped once a second, where Prometheus asks every 15 s or less often. What is
counted is counted without an address, too, and so by the plain service: only the address is turned off. *logs* and *chatty*: JSON
logs, with a line of `logging` for one call in a hundred and for one in ten; the plain service has no line.
"""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidegate.benchmarks.figures.compare import Ratio
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.meter import Meter
from tidegate.benchmarks.peers.ours import Tidegate
from tidegate.benchmarks.plan import Load, Plan
from tidegate.runtime.addresses import free_port

SCRAPE_S = 1.0
_SCRAPE_S_MAX = 10.0


@dataclass(frozen=True)
class Feature:
    share: float = 1.0
    """Of the plain service's rate: with less it costs more than it may."""
    settings: Mapping[str, str] = field(default_factory=dict)
    curve: bool = False
    scraped: bool = False
    class_name: str = ""
    """Of the app, in place of the workload's."""


PLAIN = Feature()
_JSON = {"log.format": "json"}
FEATURES = {
    "curve": Feature(0.7, curve=True),
    "metrics": Feature(0.97, scraped=True),
    "logs": Feature(0.97, _JSON, class_name="Logging"),
    "chatty": Feature(0.0, _JSON, class_name="Chatty"),  # Told, and not judged: that is more than a normal load.
}


def dear(ratios: Sequence[Ratio]) -> list[str]:
    """A line for each case in which a feature leaves less than its share."""
    return [
        f"{one.peer}, {one.route}, {one.concurrency} at once: {one.rate:.3f} of {one.against} "
        f"({one.rate_min:.3f} to {one.rate_max:.3f}), less than {FEATURES[one.peer].share:g}"
        for one in ratios
        if one.rate < FEATURES[one.peer].share
    ]


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


class Scraper:
    """Asks for metrics, at once and then each second, until it is closed. Raises BenchmarkFailed at the end if it was not
    answered."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/metrics"
        self._end = threading.Event()
        self._failed: Exception | None = None
        self.scrapes = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                with urllib.request.urlopen(self._url, timeout=_SCRAPE_S_MAX) as answer:
                    answer.read()
                self.scrapes += 1
                if self._end.wait(SCRAPE_S):
                    return
        except Exception as error:  # Also what HTTP has to say: a round in which nobody asked does not count.
            self._failed = error

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        if self._failed is not None:
            raise BenchmarkFailed(f"{self._url}: {self._failed}")


class Scraped:
    """A service whose metrics are asked for while it is called."""

    def __init__(self, service: Tidegate, address: str) -> None:
        self._service, self.address = service, address
        self.name, self.can, self.cpu_s = service.name, service.can, service.cpu_s
        self.durable_pids, self.close = service.durable_pids, service.close

    def run(self, plan: Plan, meter: Meter) -> Load:
        scraper = Scraper(self.address)
        try:
            return self._service.run(plan, meter)
        finally:
            scraper.close()
