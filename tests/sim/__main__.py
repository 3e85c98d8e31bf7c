"""Runs seeds: `python -m tests.sim --seeds 1000 --start 0`, or one of them with its story: `--seed 17 -v`."""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import sys
import time
import traceback

from tests.sim.simulation import Result, simulate

FAILURES_MAX = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="just this one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the scenario and the story")
    options = parser.parse_args()
    if options.seed is not None:
        return run_one(options.seed, verbose=options.verbose)
    return run_many(range(options.start, options.start + options.seeds), options.jobs)


def run_one(seed: int, *, verbose: bool) -> int:
    result = simulate(seed, story=verbose)
    if verbose:
        print(result.scenario, *result.story, sep="\n")
    print(result, result.counts, f"{result.calls} calls, {result.turns} turns, {result.virtual_s:.3f} s", sep="\n")
    return bool(result.problems)


def judged(seed: int) -> tuple[int, str, dict[str, int]]:
    """Seed, what is wrong with it, and what was counted."""
    try:
        result: Result = simulate(seed)
    except Exception:
        return seed, f"seed {seed} raised: python -m tests.sim --seed {seed} -v\n{traceback.format_exc()}", {}
    return seed, str(result) if result.problems else "", {**result.counts, "calls": result.calls, "turns": result.turns}


def run_many(seeds: range, jobs: int) -> int:
    began = time.perf_counter()
    failed: list[int] = []
    totals: dict[str, int] = {}
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        for seed, problem, counts in map(judged, seeds) if jobs == 1 else pool.map(judged, seeds, chunksize=10):
            for name, count in counts.items():
                totals[name] = totals.get(name, 0) + count
            if problem:
                failed.append(seed)
                print(problem, flush=True)
                if len(failed) >= FAILURES_MAX:
                    print(f"{FAILURES_MAX} seeds have failed; the rest is not run")
                    break
    took = time.perf_counter() - began
    print(*(f"{name}: {count:,}" for name, count in sorted(totals.items())), sep=", ")
    print(f"{len(seeds)} seeds from {seeds.start} in {took:.1f} s; {len(failed)} failed: {failed[:50]}")
    return bool(failed)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
