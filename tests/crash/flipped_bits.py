"""Flips single bits in the log of a data directory, each in a fresh copy, and looks what is served then.

Run as `python -m tests.crash.flipped_bits [COUNT [SEED]]`. Exit code 1: something else was served than had been confirmed.
"""

from __future__ import annotations

import collections
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.support.damage import flip_bit
from tests.support.damaged_log import KEY, RECORDS, in_store, log_of, place_of, shards_of, small_segments, value_of, write
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.store.worker_store import WorkerStore

DETECTED, HARMLESS, SERVED = "detected", "harmless", "served"


def bits_of_log(data: Path) -> Iterator[tuple[Path, int]]:
    """Of what is written: headers, seals, frames."""
    for _, path in list_segments(log_of(data)):
        yield from ((path, bit) for bit in range(120 * 8))
    for record in range(1, RECORDS + 1):
        path, start, end = place_of(data, record)
        yield from ((path, bit) for bit in range(start * 8, end * 8))


def look(data: Path) -> str:
    """What a service would do with it."""
    seen: list[str] = []

    def compare(store: WorkerStore) -> None:
        for shard, served in store.shards.items():
            mine = [record for record in range(1, RECORDS + 1) if shard in shards_of(record)]
            right = all(served.get(KEY, f"key {record}") == b"there" for record in mine)
            if not right or served.get(KEY, "newest") != value_of(mine[-1]):
                seen.append(SERVED)
        seen.append(DETECTED if store.stopped else HARMLESS)

    in_store(data, 2, compare)
    return seen[0]


def flip_bits(folder: Path, random: Random, count: int) -> collections.Counter[str]:
    """How many bits were detected, harmless, or changed what is served."""
    pristine, data = folder / "pristine", folder / "data"
    write(pristine)
    found: collections.Counter[str] = collections.Counter()
    for path, bit in random.sample(list(bits_of_log(pristine)), count):
        shutil.copytree(pristine, data)
        flip_bit(data / path.relative_to(pristine), bit // 8, bit % 8)
        outcome = look(data)
        if outcome == SERVED:
            print(f"{path.name}: bit {bit % 8} of byte {bit // 8} changes what is served")
        found[outcome] += 1
        shutil.rmtree(data)
    return found


def main(count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder, small_segments():
        found = flip_bits(Path(folder), Random(seed), count)
    print(f"{count} flipped bits: {found[DETECTED]} detected, {found[HARMLESS]} harmless, {found[SERVED]} served")
    return 1 if found[SERVED] else 0


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(numbers + [100, 1][len(numbers) :])))
