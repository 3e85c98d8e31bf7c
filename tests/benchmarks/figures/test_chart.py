from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

from tidegate.benchmarks.figures.chart import Series, draw, line_chart
from tidegate.benchmarks.figures.compare import Summary
from tidegate.benchmarks.figures.results import Result

SVG = "{http://www.w3.org/2000/svg}"


def summary(peer: str, concurrency: int, rate: float) -> Summary:
    latencies = {"p50": 0.5, "p90": 1.0, "p99": 2.0, "p99.9": 9.0, "max": 20.0}
    return Summary(peer, "unique", "direct", "lean", concurrency, 3, rate, rate * 0.9, rate * 1.1, latencies, {}, 0.0)


def test_a_chart_has_a_line_and_a_name_for_every_peer(tmp_path: Path) -> None:
    summaries = [summary(peer, many, rate * many) for peer, rate in (("tidegate", 900.0), ("a & b", 90.0)) for many in (1, 64)]
    result = Result("peers", "2026-01-01", "abc", {"cpu": "any", "cores": 2}, {}, summaries, [], [])
    paths = draw(result, tmp_path)
    assert [path.name for path in paths] == ["peers-unique-direct-rate.svg", "peers-unique-direct-latency.svg"]
    for path in paths:
        root = ET.fromstring(path.read_text())
        assert len(root.findall(f"{SVG}polyline")) == 2
        texts = [text.text or "" for text in root.findall(f"{SVG}text")]
        assert any(text.startswith("tidegate ") for text in texts)
        assert any(text.startswith("a & b ") for text in texts)


def test_larger_values_are_drawn_higher_and_labels_do_not_overlap() -> None:
    series = [Series(str(value), [(1.0, value), (2.0, value * 2)]) for value in (10.0, 10.1, 10.2, 500.0)]
    root = ET.fromstring(line_chart("t", "s", series, [(1.0, "1"), (2.0, "2")]))
    lines = [line.attrib["points"].split() for line in root.findall(f"{SVG}polyline")]
    heights = [float(points[0].split(",")[1]) for points in lines]
    assert heights == sorted(heights, reverse=True)
    labels = sorted(float(mark.attrib["y"]) for mark in root.findall(f"{SVG}rect")[1:])
    assert all(below - above >= 17 for above, below in itertools.pairwise(labels))
