"""When Python's cyclic collector looks at what, so that no call waits for it to walk over a million objects.

Guarantee: what the collector walks over at once is what came since its last look, tens of thousands of Python objects at most,
however many durable objects are in memory.

Activations need no collector: an evicted one is freed by its reference counts (see `Activation.let_go`). But their parts are
what it would spend its time on, and so are a memtable's entries. Left alone it counts allocations less releases, so while as
many objects come as go it waits, and then walks over all that came: 0.1 to 0.9 s, seen with 1,000,000 objects called in turn. So
between turns, after a thousand activations or as many objects as they are made of, it looks at what is young (a few
milliseconds), and what is left is frozen: set aside for good, in no time.

What user code leaves in cycles dies young, as a rule. What did not is found when everything is looked at, which takes seconds
with a million objects in memory: when none is, or when the process has grown by as much as it was, and nobody accounts for it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

THRESHOLDS = (200_000, 10, 1_000_000_000)
"""When it looks by itself: for code that makes very many objects in one turn. The oldest generation it never looks at."""
ACTIVATIONS = 1_000
YOUNG = 25_000
"""Python objects: so many came and were not released."""
GROWTH_BYTES_MIN = 512 << 20
GROWTH_SHARE = 1.0
"""Growth of the process that nobody accounts for, as a share of what it was, after which everything is looked at."""
PAUSE_SHARE = 0.01
"""Most of the time that looking at everything may take."""

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4_096


def has_grown(grown_bytes: int, before_bytes: int) -> bool:
    """`grown_bytes`: by how much more the process has grown since the last look than what is accounted for."""
    return grown_bytes > max(GROWTH_BYTES_MIN, GROWTH_SHARE * before_bytes)


def may_pause(since_s: float, last_took_s: float) -> bool:
    return since_s * PAUSE_SHARE > last_took_s


def resident_bytes() -> int:
    """Without the pages of files: of LMDB's maps the kernel keeps as many as it likes."""
    resident, shared = _STATM.read_text().split()[1:3]
    return (int(resident) - int(shared)) * _PAGE_BYTES


class Collector:
    """Owns the collector of this process from `start` on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, resident: Callable[[], int] = resident_bytes) -> None:
        self._clock = clock
        self._resident = resident
        self._activated = 0
        self._accounted = self._accounted_max = self._before = 0
        self._looked_at_s = self._took_s = 0.0
        self.full_looks = 0

    def start(self) -> None:
        """What the start has made stays: it is set aside."""
        gc.set_threshold(*THRESHOLDS)
        self.look_at_everything(0)

    def end_turn(self, activated: int) -> None:
        """So many activations there have been."""
        if activated - self._activated >= ACTIVATIONS or gc.get_count()[0] > YOUNG:
            self._activated = activated
            gc.collect(0)
            gc.freeze()

    def check_growth(self, accounted_bytes: int) -> None:
        """To be called every second or so. `accounted_bytes`: what caches and activations are known to take. What they took at
        most counts, since the process keeps the memory of those that leave."""
        self._accounted_max = max(self._accounted_max, accounted_bytes)
        grown = (self._resident() - self._before) - (self._accounted_max - self._accounted)
        if has_grown(grown, self._before) and self._may_pause():
            self.look_at_everything(accounted_bytes)

    def nothing_in_memory(self, accounted_bytes: int) -> None:
        """No durable object is: looking at everything takes milliseconds. Where objects leave memory after every call, that is so
        many times a second."""
        if self._may_pause():
            self.look_at_everything(accounted_bytes)

    def _may_pause(self) -> bool:
        return may_pause(self._clock() - self._looked_at_s, self._took_s)

    def look_at_everything(self, accounted_bytes: int) -> None:
        began_s = self._clock()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._looked_at_s = self._clock()
        self._took_s = self._looked_at_s - began_s
        self._accounted = self._accounted_max = accounted_bytes
        self._before = self._resident()
        self.full_looks += 1
