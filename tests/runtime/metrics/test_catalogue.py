"""Names of metrics are as Prometheus wants them, and each says what it means."""

from __future__ import annotations

import re

from tidegate.runtime.metrics.catalogue import CATALOGUE, Kind


def test_names_have_the_prefix_base_units_and_total_where_something_only_grows() -> None:
    for metric in CATALOGUE.values():
        assert re.fullmatch(r"tidegate_[a-z][a-z_]*[a-z]", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert not re.search(r"_(ms|us|ns|mib|kib|percent)(_|$)", metric.name), metric.name
        if metric.kind is Kind.HISTOGRAM:
            assert metric.bounds
            assert metric.key.endswith(("_seconds", "_bytes", "_messages")), metric.name


def test_every_metric_is_explained_in_a_sentence() -> None:
    for metric in CATALOGUE.values():
        assert len(metric.help) >= 20, metric.name
        assert metric.help.endswith((".", "tidegate alarms.")), metric.name
        assert metric.help[0].isupper() or metric.help[0].isdigit(), metric.name


def test_no_label_is_named_after_what_somebody_outside_decides() -> None:
    labels = {label for metric in CATALOGUE.values() for label in metric.labels}
    assert labels == {"class", "code", "reason", "shard", "state", "version", "app", "app_version", "python"}
