"""Processes that a benchmark starts, and always stops: folders, ports, ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tidegate.benchmarks.load.workloads import BenchmarkFailed

REPOSITORY = Path(__file__).parents[2]
"""The folder that has `tidegate`: the tree, or where it is installed."""
STOP_S_MAX = 15.0
START_S_MAX = 30.0
FOLDER_BYTES_MAX = 107 - len("/tide/cache-1048576/service")
"""The path of a unix socket has 107 bytes (unix(7)); the longest of ours stands in such a folder."""


@contextlib.contextmanager
def scratch_folder(parent: str | None) -> Iterator[Path]:
    """A folder that is removed afterwards. Raises BenchmarkFailed if no unix socket would have room in its path."""
    path = Path(tempfile.mkdtemp(prefix="tide-", dir=parent))
    try:
        if len(os.fsencode(path)) > FOLDER_BYTES_MAX:
            raise BenchmarkFailed(f"the path {path} is too long for unix sockets in it; name a shorter --folder")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def start_module(
    module: str, *arguments: str, stderr: IO[bytes] | int | None = None, descriptors: int = 0
) -> subprocess.Popen[bytes]:
    """A child that imports what this process imports. `descriptors`: it and its children may have no more; 0: as many as this."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", module, *arguments]
    if descriptors:
        command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, cwd=REPOSITORY
    )


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises BenchmarkFailed when nobody listens in time, or the process has ended."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchmarkFailed(f"{Path(str(process.args[0])).name} does not listen: {log_tail(log)}")  # type: ignore[index]  # a list


def log_tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2_000:].strip()


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    if process.poll() is None:
        process.send_signal(number)
    wait(process)


def wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
