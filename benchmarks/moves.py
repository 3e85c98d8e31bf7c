"""What it takes to move a data directory of some size, and that nothing is lost: `python -m tidegate.benchmarks.moves`.

A service with callers: a full backup, killed in the middle and begun again; an incremental one. Then, without the service:
restored, killed in the middle and again; as of the moment of the full backup; another number of shards, killed in the middle and
again. What was moved is looked through as `tidegate check` does, and its whole content compared by digest. Prints of each step
how long it took, the CPU time, and the largest memory of its own (pages of files, which the kernel can drop, not counted).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import tidegate
from tidegate.benchmarks.backups import APP, OBJECTS, SHARDS, make_data
from tidegate.benchmarks.processes import scratch_folder
from tidegate.runtime.addresses import free_port

LOOK_S = 0.02
CALLS_AT_ONCE = 50
CALLS_EVERY_S = 0.05


def _being_made(data: Path) -> Callable[[], bool]:
    """Whether what is to stand there has its second shard."""
    return lambda: any(data.parent.glob(f"{data.name}.being-made-*/shards/0001"))


class Step:
    """A command, followed to its end, or killed when `kill_when` says so."""

    def __init__(self, *arguments: object, kill_when: Callable[[], bool] = lambda: False) -> None:
        self.typed = " ".join(map(str, arguments))
        began_s = time.monotonic()
        command = [sys.executable, "-P", "-m", "tidegate", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            self.said: list[tuple[float, str]] = []
            stderr = process.stderr
            listening = threading.Thread(target=lambda: self.said.extend((time.monotonic(), line.decode()) for line in stderr))
            digesting = threading.Thread(target=self._digest, args=(process.stdout,))
            for thread in (listening, digesting):
                thread.start()
            self.cpu_s, self.peak_mib, self.killed = 0.0, 0.0, False
            while process.poll() is None:
                self._look(process.pid)
                if kill_when():
                    process.kill()
                    self.killed = True
                time.sleep(LOOK_S)
            for thread in (listening, digesting):
                thread.join()
        ended_s = time.monotonic()
        self.took_s = ended_s - began_s
        times = [began_s, *(at for at, _ in self.said), ended_s]
        self.silent_s = max(later - earlier for earlier, later in itertools.pairwise(times))
        if not self.killed and process.returncode:
            raise AssertionError(f"{self.typed}: {self.output}{''.join(line for _, line in self.said)}")

    def _digest(self, stdout: Any) -> None:
        digest, self.output, self.bytes = hashlib.sha256(), "", 0
        while piece := stdout.read1(1 << 20):
            digest.update(piece)
            self.bytes += len(piece)
            self.output = (self.output + piece.decode(errors="replace"))[-2_000:]
        self.digest = digest.hexdigest()

    def _look(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            used, times = process.memory_info(), process.cpu_times()
        except psutil.Error:
            return
        self.peak_mib = max(self.peak_mib, (used.rss - used.shared) / (1 << 20))
        self.cpu_s = times.user + times.system

    def told(self) -> dict[str, Any]:
        numbers = {
            "s": round(self.took_s, 1), "cpu_s": round(self.cpu_s, 1), "own_mib": round(self.peak_mib),
            "longest_silence_s": round(self.silent_s, 1), "lines_of_progress": len(self.said),
        }  # fmt: skip
        return {"step": self.typed, **numbers, **({"killed": True} if self.killed else {})}


class Moves:
    def __init__(self, folder: Path, say: Callable[[dict[str, Any]], object]) -> None:
        self._data, self._depot, self._new = folder / "data", folder / "depot", folder / "new"
        self._endpoint = f"tcp://127.0.0.1:{free_port()}"
        self._say = say

    def run(self, size_bytes: int) -> None:
        make_data(self._data, size_bytes)
        at_full, newest, at = self._back_up()
        self._restore(at_full, newest, at)
        shutil.rmtree(self._depot)
        self._reshard(newest)

    def _step(self, *arguments: object, kill_when: Callable[[], bool] = lambda: False) -> Step:
        step = Step(*arguments, kill_when=kill_when)
        self._say(step.told())
        return step

    def _digest(self, data: Path) -> str:
        """Of all objects. Offline they come in the order of their slots, which no number of shards changes."""
        return self._step("export", data, "--format", "msgpack").digest

    def _back_up(self) -> tuple[str, str, str]:
        """Digests as of the full backup and of the newest, and the time of the first."""
        with Service(self._data, self._endpoint):
            asyncio.run(call(self._endpoint, 20))
            pieces = len(list(self._data.glob("shards/*")))
            half = self._step(
                "backup", self._depot, "--data", self._data,
                kill_when=lambda: len(list(self._depot.glob("*/rows-*"))) > pieces // 2,
            )  # fmt: skip
            assert half.killed
            calling = threading.Thread(target=lambda: asyncio.run(call(self._endpoint, 100)))
            calling.start()
            made = self._step("backup", self._depot, "--data", self._data, "--json")
            assert json.loads(made.output)["pieces_kept"] > 0, "it goes on with what is there"
            calling.join()
            self._step("backup", self._depot, "--data", self._data)
        at = json.loads(self._step("restore", self._depot, "--list", "--json").output)["lineages"][0]["until_ms"]
        at_full = self._digest(self._data)
        with Service(self._data, self._endpoint):
            asyncio.run(call(self._endpoint, 20))
            self._step("backup", self._depot, "--data", self._data)
        newest = self._digest(self._data)
        assert newest != at_full
        return at_full, newest, f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 1000))}.{at % 1000:03}Z"

    def _restore(self, at_full: str, newest: str, at: str) -> None:
        assert self._step("restore", self._depot, "--data", self._new, kill_when=_being_made(self._new)).killed
        self._step("restore", self._depot, "--data", self._new)
        self._proved(self._new, newest)
        self._step("restore", self._depot, "--data", self._new, "--at", at, "--yes")
        self._proved(self._new, at_full)
        self._step("restore", self._depot, "--object", "Counter/called-1", "--out", self._new.with_name("one"))

    def _reshard(self, newest: str) -> None:
        assert self._step("reshard", self._data, "--shards", 4 * SHARDS, kill_when=_being_made(self._data)).killed
        self._step("check", self._data)
        self._step("reshard", self._data, "--shards", 4 * SHARDS)
        self._proved(self._data, newest)
        self._step("reshard", self._data, "--shards", SHARDS // 4)
        self._proved(self._data, newest)
        with Service(self._data, self._endpoint):
            asyncio.run(call(self._endpoint, 1))

    def _proved(self, data: Path, digest: str) -> None:
        """And nothing is left of runs that were killed, or, now, of the directory before."""
        self._step("check", data)
        assert self._digest(data) == digest, data
        assert not list(data.parent.glob("*.being-made-*"))
        for before in data.parent.glob(f"{data.name}.before-*"):
            shutil.rmtree(before)


class Service:
    """Serves from `with` to its end."""

    def __init__(self, data: Path, endpoint: str) -> None:
        typed = [sys.executable, "-P", "-m", "tidegate", "serve", APP, "--data", data, "--listen", endpoint, "--workers", "2"]
        self._process = subprocess.Popen(list(map(str, typed)), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        while "is ready on" not in (line := self._process.stdout.readline()):
            assert line, "the service has not started"

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def call(endpoint: str, rounds: int) -> None:
    choice = random.Random(rounds)
    async with tidegate.connect(endpoint) as client:
        for _ in range(rounds):
            stubs = (client.stub("Counter", f"called-{choice.randrange(OBJECTS)}") for _ in range(CALLS_AT_ONCE))
            await asyncio.gather(*(stub.get_unique_number() for stub in stubs))
            await asyncio.sleep(CALLS_EVERY_S)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tidegate.benchmarks.moves", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", help="where the data is made; it takes up to five times its size")
    options = parser.parse_args()
    with scratch_folder(options.folder) as folder:
        Moves(folder, lambda told: print(json.dumps(told), flush=True)).run(int(options.gigabytes * 1e9))


if __name__ == "__main__":
    main()
