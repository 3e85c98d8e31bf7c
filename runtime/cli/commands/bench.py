"""`tidegate bench`: measures a running service, in a process of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tidegate.runtime.cli.arguments import Count, add_command, add_connect, by_variable, counts, read_as
from tidegate.runtime.cli.asking import check_with_key_of_environment

_BENCH_EPILOG = """Takes durable unique numbers from new objects of a running service, checks that each comes once and none is
missing, and prints rates, latencies and CPU time. The objects, named with random prefixes, stay in the data. A service with
access keys is shown the one that TIDEGATE_KEY_FILE names, which has to be one of an administrator.

examples:
  tidegate bench                                       while `tidegate serve counter.py` runs
  tidegate bench --class Order --concurrency 64 --route router
"""


def add(commands: Any) -> None:
    bench = add_command(commands, "bench", _BENCH_EPILOG, run)
    add_connect(bench)
    bench.add_argument("--class", dest="class_name", metavar="CLASS", help="a class with get_unique_number() (default: Counter)")
    bench.add_argument("--concurrency", metavar="N,…", type=counts, help="calls in flight (default: 1,64,256,1024)")
    requests = "calls for each of them (default: enough for a second or two)"
    bench.add_argument("--requests", metavar="N", type=read_as(Count), help=requests)
    bench.add_argument("--objects", metavar="N", type=read_as(Count), help="new objects that are called (default: 1000)")
    bench.add_argument("--route", choices=("router", "direct", "both"), help="through the router or straight to the workers")
    loads = "the Python client without retries, or as it is by default, with keys; raw sockets, likewise (default: client)"
    bench.add_argument("--load", choices=("client", "keyed", "lean", "lean-keyed"), default="client", help=loads)
    bench.add_argument("--json", action="store_true", help="print the result as JSON, and no progress")


def run(options: argparse.Namespace) -> int:
    """By another process: what serves need not know what measures."""
    if (by := by_variable(options.connect)) and not options.json:
        print(f"measuring {options.connect}{by}", file=sys.stderr, flush=True)
    check_with_key_of_environment(options.connect)
    command = [sys.executable, "-P", "-m", "tidegate.benchmarks", "unique", "--connect", options.connect, "--load", options.load]
    for name, value in (("class", options.class_name), ("concurrency", options.concurrency), ("requests", options.requests),
                        ("objects", options.objects), ("route", options.route)):  # fmt: skip
        if value is not None:
            command += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    paths = os.pathsep.join([str(Path(__file__).parents[4]), os.environ.get("PYTHONPATH", "")])
    return subprocess.call([*command, *(["--json"] if options.json else [])], env={**os.environ, "PYTHONPATH": paths})
