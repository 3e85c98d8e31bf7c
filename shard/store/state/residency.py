"""Whether a shard's data file is in memory, so that its pages may be touched on the loop thread.

Guarantee: the loop reads a state itself only while its file was found in memory, all but a few pages, within the last seconds, or
the disk is known to be quick; and while the loop has not waited for it for too long (see `disk_waits`). Otherwise the shard has a
reader. While all files are in memory no thread is started, and a shard that nobody reads costs nothing: what is known of it is
forgotten, and found out again by the next read.

The kernel is asked by `mincore`, on the loop thread, because it answers faster than a thread could be asked: all pages of a file
up to 16 MiB, of a larger one half as many, spread evenly, others each time. What that does not find, or forgives, costs one wait,
which is noticed (see `LmdbState.on_fault`) and believed for longer each time. A range may have very many pages, and all of them
may be such: the first that is waited for on the loop ends the read there, and a thread makes it.

A file that is not in memory though there is room for it (after a boot) is read in, at half the speed of the disk; without that
it would come in page by page, and always through a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, perf_counter
from typing import NamedTuple

from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import Done, Fetch, Reader, Snapshot
from tidegate.shard.store.state.disk_waits import DiskWaits
from tidegate.shard.store.state.lmdb_state import FAULTS, LmdbState
from tidegate.shard.store.state.thread_reader import ThreadReader, look_up
from tidegate.shard.store.store import ShardStore

PROBE_INTERVAL_S = 2.0
PROBE_WHOLE_PAGES = 4_096
"""A file of so many pages is looked at whole: 0.07 ms."""
PROBE_WINDOWS = 32
WINDOW_PAGES = 64
"""So many windows of so many pages of a larger one: 0.09 ms."""
FORGIVEN = 16
FORGIVEN_MIN = 8
"""One page in so many need not be in memory, and so many of a small file. Pages that nobody reads leave it first (those that LMDB
has free are such) or were never there (holes in a new file), and one that is read is back then. The read that waits for one is
noticed."""
DOUBT_S_MAX = 64.0
"""How long waits that were too long are believed at most, whatever is found in memory: two seconds, twice as long each time, half
as long again after each interval without. So the loop waits for a slow disk once in a minute, if it has to."""
WARM_INTERVAL_S = 60.0
"""A file that does not stay in memory is not read in more often; twice as long each time that it did not even get there."""
WARM_INTERVAL_S_MAX = 3_600.0
WARM_CHUNK_BYTES = 1 << 20
WARM_SHARE = 0.5
"""Share of the available memory that the files of all shards may take, for one to be read in."""

PAGE = mmap.PAGESIZE
GOLDEN = 0.618_033_988_749_895

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value

log = logging.getLogger("tidegate")


# Asking the kernel


class Sample(NamedTuple):
    pages: int
    """Looked at."""
    on_disk: int
    """Those that are not in memory."""

    @property
    def in_memory(self) -> bool:
        return self.on_disk <= max(FORGIVEN_MIN, self.pages // FORGIVEN)


def look_at(path: Path, phase: float = 0.0) -> Sample:
    """`phase`, from 0 to 1, moves the pages that are looked at. Touches none and waits for nothing. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pages = os.fstat(fd).st_size // PAGE
        if pages == 0:
            return Sample(0, 0)
        address = _libc.mmap(None, pages * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap", str(path))
    finally:
        os.close(fd)
    try:
        chosen = windows(pages, phase)
        on_disk = sum(_on_disk(address + first * PAGE, count) for first, count in chosen)
        return Sample(sum(count for _, count in chosen), on_disk)
    finally:
        _libc.munmap(address, pages * PAGE)


def _on_disk(address: int, pages: int) -> int:
    vector = ctypes.create_string_buffer(pages)
    if _libc.mincore(address, pages * PAGE, vector) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return vector.raw.count(b"\0")


def windows(pages: int, phase: float) -> list[tuple[int, int]]:
    """First page and number of pages of what to look at: everything, or as much as allowed, spread evenly."""
    if pages <= PROBE_WHOLE_PAGES:
        return [(0, pages)]
    stride = (pages - WINDOW_PAGES) / PROBE_WINDOWS
    return [(int((index + phase) * stride), WINDOW_PAGES) for index in range(PROBE_WINDOWS)]


def memory_available_bytes() -> int:
    """What the system could give to the page cache, and the control groups of this process allow."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif controllers == "memory":
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        place = root / group.removeprefix("/")
        while place.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # It has no such file, or the file says "max".
                available = min(available, int((place / name).read_text()))
            place = place.parent
    return available


# Reading files in


class Warmer:
    """Reads files into the page cache, one after the other, in a thread that starts with the first."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tidegate-warm")
        self._stop = threading.Event()
        self._asked: set[Path] = set()

    def warm(self, path: Path) -> None:
        """Does nothing if that file is waiting for its turn already, or has it."""
        if path not in self._asked:
            self._asked.add(path)
            self._thread.submit(self._warm, path)

    def _warm(self, path: Path) -> None:
        try:
            with contextlib.suppress(OSError):  # Whoever reads it next learns more.
                if self._fits(path):
                    read_in(path, self._stop)
        finally:
            self._asked.discard(path)

    @staticmethod
    def _fits(path: Path) -> bool:
        files = path.parent.parent.glob("*/" + path.name)
        return sum(file.stat().st_size for file in files) <= WARM_SHARE * memory_available_bytes()

    def close(self) -> None:
        """Blocks until the thread has ended, which takes one read."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)


def read_in(path: Path, stop: threading.Event) -> None:
    """Reads the file from end to end, with pauses as long as the reads. Raises OSError."""
    buffer = bytearray(WARM_CHUNK_BYTES)
    fd = os.open(path, os.O_RDONLY)
    try:
        offset, size = 0, 1
        while size and not stop.is_set():
            began = perf_counter()
            size = os.preadv(fd, [buffer], offset)
            offset += size
            stop.wait(perf_counter() - began)
    finally:
        os.close(fd)


# Deciding


class Residency:
    """Gives a store its reader, and takes it away while the store's state is in memory. On the loop thread."""

    def __init__(self, store: ShardStore, state: LmdbState, reader: Reader, warmer: Warmer, waits: DiskWaits) -> None:
        """Nothing is known yet, and the loop need not run."""
        self._waits = waits
        self._store = store
        self._state = state
        self._path = state.path / "data.mdb"
        self._reader = reader
        self._warmer = warmer
        self._read = False
        self.reads_apart = 0
        """Reads that a thread has made."""
        self._probes = 0
        self._timer: asyncio.TimerHandle | None = None
        """Runs while something is known."""
        self._doubt_until_s = 0.0
        self._doubt_s = PROBE_INTERVAL_S
        self._warm_at_s = 0.0
        self._warm_pause_s = WARM_INTERVAL_S
        self._warned = False
        state.on_fault = self._waited
        store.reader = store.apart = self

    @property
    def by_loop(self) -> bool:
        """Its file is in memory, as far as is known, or comes quickly."""
        return self._store.reader is None

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        """A `Reader`. It may turn out that the state is in memory; then whoever asks next need not."""
        self._read = True
        if self._timer is None:
            self._probe()
        if self.by_loop and not many_pages:
            result, error = look_up(snapshot, fetch)
            asyncio.get_running_loop().call_soon(done, result, error, context=NEUTRAL)
        else:
            self.reads_apart += 1
            self._reader.read(snapshot, fetch, done, first=first)

    def _waited(self, took_s: float) -> None:
        if not self._waits.waited(took_s, monotonic()):
            self.suspect()

    def suspect(self) -> None:
        """Reads have waited for the disk, and for long: whatever is in memory, what is read is not."""
        self._store.reader = self
        self._doubt_until_s = monotonic() + self._doubt_s
        self._doubt_s = min(2 * self._doubt_s, DOUBT_S_MAX)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _probe(self) -> None:
        now = monotonic()
        self._probes += 1
        in_memory = self._look()
        if in_memory:
            self._warm_pause_s = WARM_INTERVAL_S
        elif now >= self._warm_at_s:
            self._warm_at_s = now + self._warm_pause_s
            self._warm_pause_s = min(2 * self._warm_pause_s, WARM_INTERVAL_S_MAX)
            self._warmer.warm(self._path)
        is_quick = in_memory or self._waits.are_short
        self._store.reader = None if is_quick and now >= self._doubt_until_s else self
        self._read = self._state.was_read = False
        self._timer = asyncio.get_running_loop().call_later(PROBE_INTERVAL_S, self._probe_again, context=NEUTRAL)

    def _probe_again(self) -> None:
        self._timer = None
        if self.by_loop:
            self._doubt_s = max(self._doubt_s / 2, PROBE_INTERVAL_S)  # No read has waited for long.
        if self._read or self._state.was_read:
            self._probe()
        else:
            self._store.reader = self  # From now on nothing is known.

    def _look(self) -> bool:
        try:
            return look_at(self._path, self._probes * GOLDEN % 1.0).in_memory
        except OSError as exc:
            if not self._warned:
                self._warned = True
                log.warning("cannot tell whether %s is in memory (%s); it is taken to be", self._path, exc)
            return True


class WatchStatistics(NamedTuple):
    reads_apart: int
    """Reads made beside the loop, because their data might not have been in memory."""
    shards_in_memory: int
    """Shards that are read on the loop now. The others are not in memory, and the disk is not quick, or nobody has read them
    lately."""


class Watch:
    """The residencies of a worker's shards, and what reads those files that are not in memory."""

    def __init__(self, stores: Sequence[tuple[ShardStore, LmdbState]]) -> None:
        waits = DiskWaits()
        self._reader = ThreadReader(waits.read_apart)
        self._warmer = Warmer()
        FAULTS.have_come()  # Those of the start are nobody's reads.
        self._waits = waits
        self._residencies = {state.shard: self._residency(store, state) for store, state in stores}

    def _residency(self, store: ShardStore, state: LmdbState) -> Residency:
        return Residency(store, state, self._reader, self._warmer, self._waits)

    def add(self, store: ShardStore, state: LmdbState) -> None:
        self._residencies[state.shard] = self._residency(store, state)

    def leave_out(self, state: LmdbState) -> None:
        """Everything that was asked of it is answered, and nothing more is to be."""
        self._residencies.pop(state.shard).close()

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            reads_apart=sum(each.reads_apart for each in self._residencies.values()),
            shards_in_memory=sum(each.by_loop for each in self._residencies.values()),
        )

    def stop(self) -> None:
        """On the loop thread. Reads that are asked from now on go to the threads."""
        for residency in self._residencies.values():
            residency.close()

    def close(self) -> None:
        """After `stop`; blocks until no thread touches a state any longer."""
        self._warmer.close()
        self._reader.close()
