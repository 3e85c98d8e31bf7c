"""Whether a shard's data file is in memory, so that its pages may be touched on the loop thread.

Guarantee: the loop reads a state itself only while the file was found in memory a few seconds ago and no read has waited for the
disk since; otherwise the shard has a reader. An idle shard costs nothing, and is out of memory until the opposite is shown.

The kernel is asked by `mincore`, in a helper thread: all pages of a file up to 16 MiB, of a larger one as many, spread evenly,
others each time. What that does not find costs one wait, which is noticed (see `LmdbState.on_fault`). A file that is not in
memory though there is room for it (after a boot) is read in, at half the speed of the disk; without that it would come in page
by page, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, perf_counter

from shard.cold_reads import Done, Fetch, Reader, Snapshot
from shard.state import LmdbState
from shard.store import ShardStore
from shard.task import NEUTRAL

PROBE_INTERVAL_S = 2.0
PROBE_PAGES_MAX = 4_096
"""Pages asked for in one probe: about half a millisecond of a helper thread."""
WINDOW_PAGES = 16
"""Neighbours asked for at once where not all pages are."""
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


# Asking the kernel; blocking


def pages_on_disk(path: Path, pages_max: int = PROBE_PAGES_MAX, phase: float = 0.0) -> int:
    """How many of the pages looked at are not in memory. `phase`, from 0 to 1, moves the ones that are looked at. Raises
    OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pages = os.fstat(fd).st_size // PAGE
        if pages == 0:
            return 0
        address = _libc.mmap(None, pages * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)  # Its pages are not touched.
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap", str(path))
    finally:
        os.close(fd)
    try:
        return sum(_absent(address + first * PAGE, count) for first, count in windows(pages, pages_max, phase))
    finally:
        _libc.munmap(address, pages * PAGE)


def _absent(address: int, pages: int) -> int:
    vector = ctypes.create_string_buffer(pages)
    if _libc.mincore(address, pages * PAGE, vector) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return vector.raw.count(b"\0")


def windows(pages: int, pages_max: int, phase: float) -> list[tuple[int, int]]:
    """First page and number of pages of what to look at: everything, or as much as allowed, spread evenly."""
    if pages <= pages_max:
        return [(0, pages)]
    count = pages_max // WINDOW_PAGES
    stride = (pages - WINDOW_PAGES) / count
    return [(int((index + phase) * stride), WINDOW_PAGES) for index in range(count)]


def memory_available_bytes() -> int:
    """What the system could give to the page cache, and the control groups of this process allow."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::")[2]
        for folder in [Path("/sys/fs/cgroup" + group), *Path("/sys/fs/cgroup" + group).parents]:
            with contextlib.suppress(OSError, ValueError):
                available = min(available, int((folder / "memory.max").read_text()))
    return available


def read_in(path: Path, stop: threading.Event) -> None:
    """Reads the file from end to end into the page cache, with pauses as long as the reads. Raises OSError."""
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


# Deciding, on the loop


class Residency:
    """Gives a store its reader, and takes it away while the store's state is in memory."""

    def __init__(self, store: ShardStore, state: LmdbState, reader: Reader, prober: ThreadPoolExecutor) -> None:
        """Nothing is known yet: the store has its reader."""
        self._store = store
        self._state = state
        self._path = state.path / "data.mdb"
        self._reader = reader
        self._prober = prober
        self._reads_apart = 0
        self._reads_seen = 0
        self._probes = 0
        self._probing = False
        self._warm_at_s = 0.0
        self._warm_pause_s = WARM_INTERVAL_S
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._warned = False
        state.on_fault = self.suspect
        store.reader = self

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done) -> None:
        """A `Reader`: somebody reads, so it is worth knowing whether that could be quicker."""
        self._reads_apart += 1
        if not self._probing and self._timer is None:
            self._probe()
        self._reader.read(snapshot, fetch, done)

    def suspect(self) -> None:
        """A read has waited for the disk."""
        self._store.reader = self
        if not self._probing:
            self._probe()

    def close(self) -> None:
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()

    def _probe(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stop.is_set():
            return
        self._probing = True
        self._probes += 1
        loop = asyncio.get_running_loop()
        self._prober.submit(self._look, loop, self._probes * GOLDEN % 1.0)

    def _look(self, loop: asyncio.AbstractEventLoop, phase: float) -> None:
        """In the helper thread."""
        try:
            absent = pages_on_disk(self._path, phase=phase)
            if absent and monotonic() >= self._warm_at_s and self._fits():
                read_in(self._path, self._stop)
                absent = pages_on_disk(self._path, phase=phase)
                self._warm_pause_s = min(2 * self._warm_pause_s, WARM_INTERVAL_S_MAX) if absent else WARM_INTERVAL_S
                self._warm_at_s = monotonic() + self._warm_pause_s
        except OSError as exc:
            absent = 0  # Reads on the loop, then: slow ones are the exception, and nothing better is known.
            if not self._warned:
                self._warned = True
                log.warning("cannot tell whether %s is in memory (%s); it is taken to be", self._path, exc)
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(self._looked, absent == 0, context=NEUTRAL)

    def _fits(self) -> bool:
        files = self._path.parent.parent.glob("*/data.mdb")
        return sum(file.stat().st_size for file in files) <= WARM_SHARE * memory_available_bytes()

    def _looked(self, resident: bool) -> None:
        self._probing = False
        if self._stop.is_set():
            return
        self._store.reader = None if resident else self
        self._reads_seen = self._reads
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PROBE_INTERVAL_S, self._look_again, context=NEUTRAL)

    @property
    def _reads(self) -> int:
        return self._state.reads + self._reads_apart

    def _look_again(self) -> None:
        self._timer = None
        if self._reads != self._reads_seen:
            self._probe()
        else:
            self._store.reader = self  # Nobody reads, so nobody looks: from now on nothing is known.
