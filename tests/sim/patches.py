"""Which real parts the simulation replaces, and nothing else: sockets, threads, clocks, files, and bounds that would take
megabytes to reach. Everything between them is the product's own code: endpoints, worker, host, committer, checkpointer,
recovery, peers, router.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from unittest import mock

import tidegate.router.server
import tidegate.runtime.sockets.backend
import tidegate.runtime.sockets.connections
import tidegate.runtime.sockets.edge
import tidegate.runtime.sockets.endpoint
import tidegate.shard.host.call_book
import tidegate.shard.host.host
import tidegate.shard.loop.task
import tidegate.shard.objects.storage
import tidegate.shard.store.checkpoints.checkpoint
import tidegate.shard.store.recovery
import tidegate.shard.worker.committer
import tidegate.shard.worker.worker
from tests.sim import network
from tests.sim.disk import Disk
from tests.sim.history import EPOCH_S
from tests.sim.scenario import Scenario
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.worker.kernel_sync import SyncRefused
from tidegate.testing.process import ordered_tasks
from tidegate.testing.virtual_loop import VirtualTime


class SimulatedHandover:
    """What `Handover` does, in virtual time."""

    def __init__(self, loop: Any, name: str, work: Callable[[], None], done: Callable[[], None]) -> None:
        self._loop = loop
        self._work = work
        self._done = done

    def give(self) -> None:
        self._loop.run_in_helper(self._run)

    def _run(self) -> None:
        self._work()
        self._loop.call_soon_threadsafe(self._done, context=NEUTRAL)

    def close(self) -> None:
        pass


class SimulatedKernel:
    """What `KernelSync` does, in virtual time: whether a sync ends while the loop waits for it is left to chance."""

    random: Random

    def __init__(self, loop: Any, done: Callable[[], None]) -> None:
        self._loop = loop
        self._done = done

    def begin(self, fd: int, patience_ms: int) -> bool:
        if self.random.random() < 0.1:
            raise SyncRefused("simulated")
        if self.random.random() < 0.5:
            return True
        self._loop.run_in_helper(lambda: self._loop.call_soon_threadsafe(self._done, context=NEUTRAL))
        return False

    def problem(self) -> Exception | None:
        return None

    def close(self) -> None:
        pass


@contextlib.contextmanager
def replaced(time: VirtualTime, disk: Disk, scenario: Scenario, make_host: Any) -> Iterator[None]:
    """The parts replaced, for as long as the simulation runs."""
    clock = types.SimpleNamespace(
        perf_counter=time.clock,
        monotonic=time.clock,
        time=lambda: EPOCH_S + time.clock(),
        time_ns=lambda: int((EPOCH_S + time.clock()) * 1e9),
    )
    sockets = {"_send": network.send, "_recv": network.receive, "get": network.get}
    with contextlib.ExitStack() as stack:

        def patch(target: Any, **values: Any) -> None:
            for name, value in values.items():
                stack.enter_context(mock.patch.object(target, name, value))

        patch(tidegate.runtime.sockets.endpoint, **sockets, _send_uncopied=network.send_uncopied)
        patch(tidegate.runtime.sockets.connections, get=network.get)
        patch(tidegate.runtime.sockets.edge, get=network.get)
        patch(tidegate.runtime.sockets.backend, **sockets)
        kernel = type("SeededKernel", (SimulatedKernel,), {"random": disk.random})
        patch(tidegate.shard.worker.committer, time=clock, Handover=SimulatedHandover, KernelSync=kernel)
        patch(
            tidegate.shard.store.checkpoints.checkpoint,
            perf_counter=time.clock,
            CHECKPOINT_SLICE_KEYS=scenario.checkpoint_slice,
            CHECKPOINT_COMMIT_ENTRIES=scenario.checkpoint_commit,
        )
        patch(tidegate.router.server, time=clock)
        patch(tidegate.shard.store.recovery, read_log=disk.read_log, perf_counter=time.clock)
        patch(tidegate.shard.objects.storage, UNDURABLE_BYTES_MAX=scenario.undurable_bytes)
        patch(
            tidegate.shard.host.host,
            UNDURABLE_BYTES_MAX=scenario.undurable_bytes,
            COMMIT_BYTES_MAX=scenario.commit_bytes,
        )
        patch(
            tidegate.shard.host.call_book,
            OBJECT_CALLS_MAX=scenario.object_calls,
            WAITING_CALLS_MAX=scenario.waiting_calls,
        )
        patch(
            tidegate.shard.worker.worker,
            Host=make_host,
            time=clock,
            EVICT_INTERVAL_S=scenario.evict_interval_s,
            Collector=mock.Mock(),  # One worker of many in this process does not tune it.
        )
        stack.enter_context(ordered_tasks())
        yield


def helper_threads() -> list[str]:
    """Threads that are left over: there must be none but the main one."""
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
