"""What backups cost a service under load: `python -m tidegate.benchmarks.backups`.

A data directory of some size, a service on it, callers in closed loops; then windows of time in turn: nothing beside it, a full
backup, nothing, incremental backups. Prints the calls a second of each window and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import msgspec

import tidegate
from tidegate.benchmarks.processes import scratch_folder
from tidegate.runtime.addresses import free_port
from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.offline.check import state_path
from tidegate.shard.store.state.data_file import META_KEY, pack_meta, write_rows
from tidegate.shard.store.state.pages import MAP_BYTES_MAX

SHARDS = 8
ROWS = 5
ROW_BYTES = 1_000
"""Of an object beside its number."""
CALLERS = 64
OBJECTS = 2_000
"""That are called."""
APP = Path(__file__).resolve().parents[1] / "examples" / "counter.py"
STEP_S = 0.5


def make_data(path: Path, size_bytes: int) -> None:
    """Objects with text that can be compressed to a half."""
    open_directory(path, SHARDS).close()
    text = random.Random(1).randbytes(1 << 20).hex()
    names: list[list[tuple[bytes, str]]] = [[] for _ in range(SHARDS)]
    for number in range(size_bytes // (ROWS * ROW_BYTES)):
        name = f"stored-{number}"
        names[shard_of_slot(slot_of("Counter", name), SHARDS)].append((object_key("Counter", name), name))
    for shard, objects in enumerate(names):
        state_path(path, shard).mkdir()
        write_rows(state_path(path, shard), chain(_rows(sorted(objects), text), [(META_KEY, pack_meta(shard, 1))]), MAP_BYTES_MAX)


def _rows(objects: Iterable[tuple[bytes, str]], text: str) -> Iterator[tuple[bytes, bytes]]:
    chance = random.Random(2)
    for key, name in objects:
        yield key, encode_header(Header("Counter", name))
        for number in range(ROWS):
            at = chance.randrange(len(text) - ROW_BYTES)
            yield key + b"row%d" % number, msgspec.msgpack.encode(text[at : at + ROW_BYTES])


class Load:
    """Calls in a process of its own, which says on stdout how many it has had answered, twice a second."""

    def __init__(self, endpoint: str) -> None:
        command = [sys.executable, "-m", "tidegate.benchmarks.backups", "--call", endpoint]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._counts: list[tuple[float, int]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._counts.append((time.monotonic(), int(line)))

    def during(self, what: Callable[[], object]) -> tuple[float, float]:
        """Calls a second while it runs, and how long that was."""
        began = time.monotonic()
        what()
        ended = time.monotonic()
        time.sleep(STEP_S * 2)
        inside = [(at, count) for at, count in self._counts if began <= at <= ended]
        (first_s, first), (last_s, last) = inside[0], inside[-1]
        return (last - first) / (last_s - first_s), ended - began

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


async def call(endpoint: str) -> None:
    answered = 0

    async with tidegate.connect(endpoint) as client:

        async def caller(number: int) -> None:
            nonlocal answered
            choice = random.Random(number)
            while True:
                await client.stub("Counter", f"called-{choice.randrange(OBJECTS)}").get_unique_number()
                answered += 1

        tasks = [asyncio.ensure_future(caller(number)) for number in range(CALLERS)]
        while not any(task.done() for task in tasks):
            print(answered, flush=True)
            await asyncio.sleep(STEP_S)


def command(*arguments: object) -> dict[str, object]:
    typed = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    done = subprocess.run(typed, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    data, depot, endpoint = folder / "data", folder / "depot", f"tcp://127.0.0.1:{free_port()}"
    make_data(data, int(options.gigabytes * 1e9))
    typed = [sys.executable, "-m", "tidegate", "serve", str(APP), "--data", str(data), "--listen", endpoint, "--workers", "2"]
    service = subprocess.Popen(typed, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    while "is ready on" not in (line := service.stdout.readline()):
        assert line, "the service has not started"
    load = Load(endpoint)
    time.sleep(options.seconds / 2)
    rounds: list[dict[str, float]] = []
    rate = ["--rate", options.rate] if options.rate else []
    try:
        for _ in range(options.rounds):
            alone, _ = load.during(lambda: time.sleep(options.seconds))
            full, full_s = load.during(lambda: command("backup", depot, "--data", data, "--full", *rate, "--json"))
            between, _ = load.during(lambda: time.sleep(options.seconds))

            def incremental() -> None:
                end = time.monotonic() + options.seconds
                while time.monotonic() < end:
                    command("backup", depot, "--data", data, *rate, "--json")
                    time.sleep(max(0.0, min(options.every, end - time.monotonic())))

            shipped, _ = load.during(incremental)
            after, _ = load.during(lambda: time.sleep(options.seconds))
            ratios = {
                "full_ratio": full / ((alone + between) / 2),
                "incremental_ratio": shipped / ((between + after) / 2),
                "full_s": full_s,
            }
            rounds.append(ratios)
            calls = {"alone": [alone, between, after], "full": full, "incremental": shipped, **ratios}
            print(json.dumps(calls), file=sys.stderr, flush=True)
    finally:
        load.stop()
        service.terminate()
        service.wait()
    began = time.monotonic()
    command("restore", depot, "--data", folder / "new", "--json")
    restored_s = time.monotonic() - began
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]} | {"restored_s": restored_s}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tidegate.benchmarks.backups", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two incremental backups")
    parser.add_argument("--rate", type=float, default=0.0, help="MiB a second of a backup, at most")
    parser.add_argument("--folder", help="where the data is made")
    parser.add_argument("--call", metavar="ENDPOINT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        asyncio.run(call(options.call))
        return
    with scratch_folder(options.folder) as folder:
        print(json.dumps(measure(folder, options), indent=2))


if __name__ == "__main__":
    main()
