"""Runs seeds: `python -m tests.sim.replicated --seeds 10000 --start 0`."""

from __future__ import annotations

import argparse
import concurrent.futures
import sys
import time
import traceback
from functools import partial

from tests.sim.replicated.hosts import Host
from tests.sim.replicated.simulation import simulate


def judged(seed: int, host_class: type[Host] = Host) -> tuple[int, str, dict[str, int]]:
    """Seed, what is wrong with it, and what was counted."""
    try:
        result = simulate(seed, host_class)
    except Exception:
        return seed, f"seed {seed} raised\n{traceback.format_exc()}", {}
    problem = f"seed {seed}: {'; '.join(result.problems[:5])}" if result.problems else ""
    return seed, problem, {**result.counts, "messages": result.messages}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replicated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    began = time.perf_counter()
    seeds = range(options.start, options.start + options.seeds)
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(partial(judged), seeds, chunksize=50))
    totals: dict[str, int] = {}
    failed = [problem for _, problem, _ in results if problem]
    for _, _, counts in results:
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    print(*failed[:20], sep="\n")
    print(*(f"{name}: {count:,}" for name, count in sorted(totals.items())), sep=", ")
    print(f"{len(seeds)} seeds from {seeds.start} in {time.perf_counter() - began:.1f} s; {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
