"""Who has snapshots taken, over copies and snapshots that fail as they like; with real servers: service/test_snapshots.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.store.snapshots import Heard, KeptSnapshot
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker.snapshotter import Snapshotter

TAKEN = KeptSnapshot(7, 100, 50, 1)


class Copy:
    file, mark, commit = Path("copy"), b"mark", 3

    def __init__(self) -> None:
        self.removed_by: list[int] = []

    def look_through(self) -> None:
        """It is whole."""

    def remove(self) -> None:
        self.removed_by.append(threading.get_ident())


class Store:
    def __init__(self) -> None:
        self.shards = dict.fromkeys(range(2))
        self.copies: list[Copy] = []

    async def copy_of(self, shard: int) -> Copy:
        self.copies.append(Copy())
        return self.copies[-1]


class Taker:
    """All are due."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.asked: list[int] = []
        self.taken: list[int] = []
        self.fails: dict[int, Exception] = {}

    def listen(self, heard: Heard) -> None:
        """Nobody wishes."""

    def is_due(self, shard: int) -> bool:
        self.asked.append(shard)
        return True

    def kept(self, shard: int, mark: bytes) -> KeptSnapshot | None:
        return None

    def take(self, shard: int, file: Path, mark: bytes, commit: int) -> KeptSnapshot:
        if shard in self.fails:
            raise self.fails[shard]
        self.taken.append(shard)
        return TAKEN


def with_snapshotter(test: Callable[[Snapshotter, Store, Taker], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store, taker = Store(), Taker()
        snapshotter = Snapshotter(asyncio.get_running_loop(), cast("WorkerStore", store), taker, lambda: taker.now_s)
        try:
            async with asyncio.timeout(60):
                await test(snapshotter, store, taker)
        finally:
            snapshotter.end()

    asyncio.run(run())


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), KeyError("x"), OperatorError("take", "it", "no room", "wait")])
def test_whatever_fails_of_one_shard_the_others_have_theirs_taken(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def take(snapshotter: Snapshotter, store: Store, taker: Taker) -> None:
        taker.fails[0] = error
        await snapshotter.look()
        assert taker.taken == [1]
        assert all(copy.removed_by for copy in store.copies), "of the failed one, too"

    with_snapshotter(take)
    assert "shard 0: no snapshot of it is taken now" in caplog.text
    assert repr(error) in caplog.text or "no room" in caplog.text


def test_what_has_failed_is_left_alone_for_a_while() -> None:
    async def take(snapshotter: Snapshotter, store: Store, taker: Taker) -> None:
        taker.fails[0] = OperatorError("take", "it", "no room", "wait")
        await snapshotter.look()
        await snapshotter.look()
        assert taker.asked == [0, 1, 1], "no copy is made of it again"
        assert len(store.copies) == 3
        taker.now_s += 10
        await snapshotter.look()
        taker.now_s += 10
        await snapshotter.look()
        assert taker.asked == [0, 1, 1, 0, 1, 1], "longer each time"
        taker.now_s += 10
        del taker.fails[0]
        await snapshotter.look()
        await snapshotter.look()
        assert taker.taken.count(0) == 2

    with_snapshotter(take)


def test_copies_are_removed_beside_the_loop() -> None:
    async def take(snapshotter: Snapshotter, store: Store, taker: Taker) -> None:
        await snapshotter.look()
        assert [len(copy.removed_by) for copy in store.copies] == [1, 1]
        assert threading.get_ident() not in {each for copy in store.copies for each in copy.removed_by}

    with_snapshotter(take)


def test_a_copy_that_is_left_when_the_worker_ends_is_removed_then() -> None:
    async def take(snapshotter: Snapshotter, store: Store, taker: Taker) -> None:
        taken, ended = threading.Event(), threading.Event()

        def wait(shard: int, file: Path, mark: bytes, commit: int) -> KeptSnapshot:
            taken.set()
            ended.wait(30)
            return TAKEN

        taker.take = wait
        snapshotter.start()
        taking = asyncio.create_task(snapshotter.take(0))
        await asyncio.to_thread(taken.wait, 30)
        taking.cancel()
        snapshotter.end()
        ended.set()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert len(store.copies[0].removed_by) == 1

    with_snapshotter(take)


def test_it_ends_with_the_log() -> None:
    async def take(snapshotter: Snapshotter, store: Store, taker: Taker) -> None:
        taker.fails[0] = LogBroken("append to", "it", "closed", "open it again")
        with pytest.raises(LogBroken):
            await snapshotter.look()

    with_snapshotter(take)
