"""Sums become what Prometheus reads: cumulative buckets, escaped labels, both formats."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.runtime.metrics.catalogue import CATALOGUE, Kind
from tidegate.runtime.metrics.exposition import Exposition
from tidegate.runtime.metrics.ledger import Sums
from tidegate.runtime.wire.counts import TIMES_S, Histogram


def samples(sums: Sums) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Exposition(sums).encoded("")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_gauges_have_their_names_and_labels() -> None:
    sums: Sums = {
        "calls": {("Counter",): 5, ("Cart",): 2},
        "call_errors": {("Cart", "overloaded"): 3},
        "cache_bytes": {("worker 0",): 7.5},
        "problems": {(): 0},
    }
    assert samples(sums) == {
        ("tidegate_calls_total", (("class", "Counter"),)): 5,
        ("tidegate_calls_total", (("class", "Cart"),)): 2,
        ("tidegate_call_errors_total", (("class", "Cart"), ("code", "overloaded"))): 3,
        ("tidegate_cache_bytes", (("process", "worker 0"),)): 7.5,
        ("tidegate_problems", ()): 0,
    }


def test_buckets_are_cumulative_and_end_in_infinity() -> None:
    histogram = Histogram()
    for value in (0.0002, 0.0002, 0.003, 99.0):
        histogram.observe(value)
    found = samples({"call_run_seconds": {("C",): histogram.value()}})
    name = "tidegate_call_run_seconds"
    of_class = ("class", "C")
    buckets = [found[f"{name}_bucket", (of_class, ("le", str(bound)))] for bound in TIMES_S]
    assert buckets == sorted(buckets)
    assert buckets[:6] == [0, 2, 2, 2, 2, 3]
    assert found[f"{name}_bucket", (of_class, ("le", "+Inf"))] == found[f"{name}_count", (of_class,)] == 4
    assert found[f"{name}_sum", (of_class,)] == pytest.approx(99.0034)


def test_a_label_with_quotes_and_line_breaks_forges_no_line() -> None:
    app = 'a"b\\c\nd} 7\ntidegate_problems 9'
    found = samples({"info": {("1.0", app, "", "3.11"): 1}})
    ((name, labels),) = found
    assert name == "tidegate_info"
    assert dict(labels)["app"] == app


def test_every_metric_of_the_catalogue_can_be_told_in_both_formats() -> None:
    sums: Sums = {}
    for key, metric in CATALOGUE.items():
        labels = ("x",) * (len(metric.labels) + metric.by_process)
        sums[key] = {labels: Histogram(metric.bounds).value() if metric.kind is Kind.HISTOGRAM else 1}
    text, content_type = Exposition(sums).encoded("")
    assert content_type.startswith("text/plain")
    openmetrics, content_type = Exposition(sums).encoded("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert openmetrics.endswith(b"# EOF\n")
    for metric in CATALOGUE.values():
        assert f"# HELP {metric.name} ".encode() in text
        assert f"# TYPE {metric.name.removesuffix('_total')} {metric.kind.value}\n".encode() in openmetrics
