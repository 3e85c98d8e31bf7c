"""Fuzzing: `python -m tests.fuzz --frames 1000000 --seed 1`, or one target of it: `--target messages`. The same seed makes the
same wrong things. Prints how far it is, at which rate, and what became of them; exits with 1 where a promise is broken."""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time
import traceback
from random import Random

from tests.fuzz import disk, files, keyed, links, messages, sockets, streams
from tests.fuzz.target import Target

TARGETS: dict[str, tuple[Target, float]] = {
    "messages": (messages.fuzz, 0.55),
    "replies": (links.replies, 0.2),
    "topologies": (links.topologies, 0.05),
    "control": (links.control_lines, 0.1),
    "config": (files.configurations, 0.02),
    "sockets": (sockets.fuzz, 0.0677),
    "streams": (streams.frames, 0.01),
    "logs": (disk.logs, 0.001),
    "states": (disk.states, 0.001),
    "apps": (files.apps, 0.0003),
    "keyed": (keyed.batches, 0.0005),
}
"""And the share of all wrong things that each is given: what needs a process or a file of its own is slow."""
SEED_FRAMES = {"messages": 200_000, "replies": 200_000}
"""So many of one seed; then the next one, so that a failure is soon repeated."""
SHOW_S = 2.0


class Progress:
    def __init__(self, name: str, frames: int) -> None:
        self._name, self._frames = name, frames
        self._began = self._shown = time.monotonic()
        self.before = 0
        """Made with earlier seeds."""

    def tick(self, done: int) -> None:
        now = time.monotonic()
        if now - self._shown >= SHOW_S:
            self._shown = now
            print(f"  {self._name}: {self.before + done:,} of {self._frames:,}, {self.rate(done):,.0f}/s", flush=True)

    def rate(self, done: int) -> float:
        return (self.before + done) / max(time.monotonic() - self._began, 1e-9)


def run(name: str, frames: int, seed: int) -> bool:
    target, _ = TARGETS[name]
    progress, counts = Progress(name, frames), None
    while progress.before < frames:
        part = min(frames - progress.before, SEED_FRAMES.get(name, frames))
        try:
            found = target(Random(f"{name} {seed}"), part, progress.tick)
        except BaseException as error:
            traceback.print_exc()
            print(f"FAILED: python -m tests.fuzz --target {name} --frames {part} --seed {seed}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
            return False
        counts = found if counts is None else counts + found
        progress.before += part
        seed += 1
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    summary = ", ".join(f"{count:,} {what}" for what, count in sorted((counts or {}).items()))
    print(f"{name}: {frames:,} at {progress.rate(0):,.0f}/s: {summary}; at most {rss_mib:.0f} MiB here", flush=True)
    return True


def main() -> int:
    logging.basicConfig(handlers=[logging.NullHandler()])  # What objects of `keyed` raise is meant.
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="how many wrong things, of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    options = parser.parse_args()
    if options.target is not None:
        return 0 if run(options.target, options.frames, options.seed) else 1
    good = [run(name, max(1, round(options.frames * share)), options.seed) for name, (_, share) in TARGETS.items()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
