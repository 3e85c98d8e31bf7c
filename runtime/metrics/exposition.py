"""Sums as Prometheus reads them: its text format, or OpenMetrics for who asks for that.

Rule: pure. What there is to tell is an argument. prometheus-client is imported when it is needed first: by the process that
serves metrics, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from tidegate.runtime.metrics.catalogue import CATALOGUE, PREFIX, Kind, Metric
from tidegate.runtime.metrics.ledger import Sums
from tidegate.runtime.wire.counts import Labels, Value

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


class Exposition:
    """Of one moment."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Family]:
        """What a registry of prometheus-client asks for."""
        for key, metric in CATALOGUE.items():
            if key in self._sums:
                yield _family(metric, self._sums[key])

    def encoded(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type. `accept`: the header of who asks."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type


def _family(metric: Metric, values: dict[Labels, Value]) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    labels = ("process", *metric.labels) if metric.by_process else metric.labels
    name = PREFIX + metric.key
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.help, labels=labels)
        bounds = [*map(str, metric.bounds), "+Inf"]
        for at, value in sorted(values.items()):
            assert isinstance(value, list)
            *buckets, total = value
            histogram.add_metric(at, list(zip(bounds, accumulate(buckets), strict=True)), total)
        return histogram
    family = (CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily)(name, metric.help, labels=labels)
    for at, value in sorted(values.items()):
        assert not isinstance(value, list)
        family.add_metric(at, value)
    return family
