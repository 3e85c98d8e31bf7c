"""What the reports of others say, read as they print it. The peers themselves run in the smoke test."""

from __future__ import annotations

import pytest

from tidegate.benchmarks.load.http import _body
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.peers.postgres import parse_rate
from tidegate.benchmarks.peers.redis import parse_report
from tidegate.benchmarks.syncs import parse_report as parse_strace

REDIS = """
====== INCR c:__rand_int__ ======
  5000 requests completed in 0.12 seconds
Latency by percentile distribution:
0.000% <= 0.607 milliseconds (cumulative count 1)
50.000% <= 1.503 milliseconds (cumulative count 2502)
99.902% <= 3.007 milliseconds (cumulative count 4996)
100.000% <= 3.023 milliseconds (cumulative count 5000)

Cumulative distribution of latencies:
98.020% <= 2.103 milliseconds (cumulative count 4901)

Summary:
  throughput summary: 41666.66 requests per second
"""


def test_rate_and_latencies_of_redis_benchmark_are_read() -> None:
    load = parse_report(REDIS, 5_000, 0.5)
    assert load.requests / load.elapsed_s == pytest.approx(41666.66)
    latencies = load.histogram.percentiles_ms()
    assert latencies["p50"] == pytest.approx(1.503, rel=0.011)
    assert latencies["max"] == pytest.approx(3.023)
    assert load.histogram.count == 5_000
    with pytest.raises(BenchmarkFailed):
        parse_report("", 1, 0.0)


def test_the_rate_of_pgbench_is_read() -> None:
    assert parse_rate("latency average = 1 ms\ntps = 1234.5 (without initial connection time)\n") == 1234.5
    with pytest.raises(BenchmarkFailed):
        parse_rate("")


def test_counts_of_strace_are_read_with_and_without_errors() -> None:
    report = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.00    0.100000         100      1000           fdatasync
  1.00    0.001000         100        10         2 fsync
------ ----------- ----------- --------- --------- ----------------
100.00    0.101000         100      1010         2 total
"""
    assert parse_strace(report) == {"fdatasync": 1000, "fsync": 10}


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n42", b"42"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n4", None),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n42\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n42\r\n0\r\n\r\n", b"42\r\n0\r\n\r\n"),
    ],
)
def test_a_response_is_complete_when_its_length_or_its_last_chunk_says_so(response: bytes, body: bytes | None) -> None:
    assert _body(response) == body
