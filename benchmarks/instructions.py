"""How many instructions a call takes, in the worker's core and in the client: a figure that a busy machine does not change.

`perf stat` counts them where the machine has counters for it, as hardware has and many virtual machines have not; else
cachegrind of valgrind does, some twenty times slower. A process of its own makes so many batches of calls and then twice as many;
the difference is theirs. Calls come in batches of 64, as they do under load. Instructions are not time: what waits for memory is
not seen.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec

from tidegate.benchmarks.cold import BareCold
from tidegate.benchmarks.load.workloads import BenchmarkFailed
from tidegate.benchmarks.micro import BATCH, METHOD, BareClient, BareHost
from tidegate.shard.loop.loop import new_worker_loop

_BATCHES = 100
_COLD_BATCHES = 32
"""So many hold a whole number of the collector's looks, and one object for each call has to be made."""
_SMOKE_BATCHES = 2
_WARM = 20
"""Batches, until the interpreter has specialised what runs again and again."""


class Instructions(msgspec.Struct, frozen=True):
    part: str
    per_call: float
    counted_by: str


def _host(*, keyed: bool) -> Callable[[], object]:
    bare = BareHost(new_worker_loop(), keyed=keyed)
    bare.call_all(METHOD)

    def batch() -> None:
        bare.replies.clear()
        bare.call_all(METHOD)

    return batch


def _cold() -> Callable[[], object]:
    return BareCold((_WARM + 2 * _COLD_BATCHES) * BATCH).batch


def _client(*, retries: bool) -> Callable[[], object]:
    bare = BareClient(retries=retries)

    def batch() -> None:
        bare.called()
        bare.receive()

    return batch


PARTS: dict[str, Callable[[], Callable[[], object]]] = {
    "worker: read-modify-write, from message to reply": lambda: _host(keyed=False),
    "worker: the same with keys": lambda: _host(keyed=True),
    "worker: without keys, of an object that is on disk; another one leaves memory": _cold,
    "client: call and reply, which it makes up itself": lambda: _client(retries=False),
    "client: the same with keys": lambda: _client(retries=True),
}


def measure(*, smoke: bool = False) -> list[Instructions]:
    """Raises BenchmarkFailed where nothing here can count."""
    name, count = _counter()
    found = []
    for number, (part, begin) in enumerate(PARTS.items()):
        batches = _SMOKE_BATCHES if smoke else _COLD_BATCHES if begin is _cold else _BATCHES
        few, many = (count([str(number), str(times * batches)]) for times in (1, 2))
        found.append(Instructions(part, round((many - few) / (batches * BATCH), 1), name))
    return found


def _counter() -> tuple[str, Callable[[Sequence[str]], int]]:
    if shutil.which("perf") and _perf(["0", "0"], must=False):
        return "perf", _perf
    if shutil.which("valgrind"):
        return "valgrind", _valgrind
    raise BenchmarkFailed("nothing here counts instructions: install valgrind, or perf on a machine with hardware counters")


def _perf(arguments: Sequence[str], *, must: bool = True) -> int:
    said = _run(["perf", "stat", "-x", ",", "-e", "instructions:u"], arguments, must=must)
    found = re.search(r"^(\d+),,instructions", said, re.MULTILINE)
    if must and found is None:
        raise BenchmarkFailed(f"perf counted nothing: {said.strip()}")
    return int(found[1]) if found else 0


def _valgrind(arguments: Sequence[str]) -> int:
    said = _run(["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"], arguments)
    found = re.search(r"I +refs: +([\d,]+)", said)
    if found is None:
        raise BenchmarkFailed(f"valgrind counted nothing: {said.strip().splitlines()[-1:]}")
    return int(found[1].replace(",", ""))


def _run(counter: Sequence[str], arguments: Sequence[str], *, must: bool = True) -> str:
    command = [*counter, sys.executable, "-m", "tidegate.benchmarks.instructions", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode and must:
        raise BenchmarkFailed(f"{counter[0]} ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}")
    return ended.stderr


def main(number: str, batches: str) -> None:
    batch = [*PARTS.values()][int(number)]()
    gc.disable()
    for _ in range(_WARM + int(batches)):
        batch()


if __name__ == "__main__":
    main(*sys.argv[1:])
