"""The page of the metrics says what the code says, of every metric and of no other."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.runtime.metrics.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()


def test_the_page_has_name_kind_labels_and_meaning_of_every_metric_and_of_no_other() -> None:
    shown = re.findall(r"^\| `(tidegate_\w+)` \| (\w+) \| ([^|]+) \| (.+) \|$", PAGE, re.MULTILINE)
    expected = [
        (
            metric.name,
            metric.kind.value,
            ", ".join((*(("process",) if metric.by_process else ()), *metric.labels)) or "-",
            metric.help,
        )
        for metric in CATALOGUE.values()
    ]
    assert sorted(shown) == sorted(expected)


def test_the_files_that_the_page_names_are_there_to_be_installed() -> None:
    named = re.findall(r"`(tidegate-[a-z]+\.\w+)`", PAGE)
    assert set(named) == {path.name for path in (ROOT / "systemd" / "monitoring").iterdir()}
    rules = (ROOT / "systemd" / "monitoring" / "tidegate-alerts.yml").read_text()
    assert set(re.findall(r"`(Tidegate[A-Z]\w+)`", PAGE)) <= set(re.findall(r"alert: (\w+)", rules))
