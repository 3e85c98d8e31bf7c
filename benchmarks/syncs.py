"""How often a process really asks the disk to make something durable: the first question to any fast durable system.

Counted by strace in a short run of its own, because tracing slows down what is traced.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tidegate.benchmarks.meter import Meter

_CALLS = ("fdatasync", "fsync", "msync", "sync", "syncfs", "io_submit")
"""The last is how Tidegate has the kernel sync its log."""
_ATTACH_S_MAX = 5.0


class SyncCount(msgspec.Struct, frozen=True):
    """What one peer did for the disk in a short run."""

    peer: str
    concurrency: int
    calls: int
    syncs: int
    """Of those calls which wait for the disk."""

    @property
    def calls_per_sync(self) -> float:
        return self.calls / self.syncs if self.syncs else 0.0


def can_count() -> bool:
    return shutil.which("strace") is not None


class SyncMeter(Meter):
    """Counts syncs between the same two instants, instead of CPU time."""

    def __init__(self, pids: Sequence[int], folder: Path) -> None:
        super().__init__(dict)
        self._counting = counting(pids, folder)
        self._counts: dict[str, int] = {}

    def start(self) -> None:
        self._counts = self._counting.__enter__()

    def stop(self) -> None:
        self._counting.__exit__(None, None, None)

    @property
    def syncs(self) -> int:
        return sum(self._counts.values())


@contextlib.contextmanager
def counting(pids: Sequence[int], folder: Path) -> Iterator[dict[str, int]]:
    """Gives a dict that has, afterwards, the number of calls by name."""
    counts: dict[str, int] = {}
    report = folder / "strace"
    command = ["strace", "-f", "-c", "-o", str(report), "-e", "trace=" + ",".join(_CALLS)]
    attached = [argument for pid in pids for argument in ("-p", str(pid))]
    with subprocess.Popen([*command, *attached], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        _wait_traced(pids, tracer)
        try:
            yield counts
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
    counts.update(parse_report(report.read_text()) if report.exists() else {})


def _wait_traced(pids: Sequence[int], tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _ATTACH_S_MAX
    while time.monotonic() < deadline and tracer.poll() is None:
        if not any("TracerPid:\t0" in _status(pid) for pid in pids):
            return
        time.sleep(0.02)


def _status(pid: int) -> str:
    """Of the thread that is attached to last."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
    return (tasks[-1] / "status").read_text()


def parse_report(text: str) -> dict[str, int]:
    """The table of `strace -c`: % time, seconds, usecs/call, calls, (errors,) syscall."""
    counts = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[-1] in _CALLS and len(words) >= 5:
            counts[words[-1]] = int(words[3])
    return counts
