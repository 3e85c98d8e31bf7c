"""A worker with its real sockets and files, alone and with another: what it answers, how it drains, whom it calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.waiting import WITHIN_S, wait_until_in_loop
from tidegate.runtime.child.control import decode_from_child, encode_line
from tidegate.runtime.errors import CallError, MethodRaised, Moved, ObjectReset, ShardLost, Unavailable, UnknownMethod, from_wire
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.metrics.ledger import Ledger
from tidegate.runtime.wire.protocol import own_identity
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import (
    Drain,
    FromChild,
    Leave,
    Ping,
    Pong,
    Problem,
    Quiet,
    Topology,
    TopologyChanged,
    WorkerSpec,
)
from tidegate.shard.log.commit_log import CommitLog, LogFull, LogWithoutRoom
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import PartlyStored, ShardDamaged
from tidegate.shard.store.state.lmdb_state import LmdbBatch
from tidegate.shard.store.store import StoreFailed, StoreFull
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker import slow_disk
from tidegate.shard.worker.worker import Worker

SHARDS = 4


class Note(DurableObject):
    async def put(self, value: Any) -> None:
        await self.storage.put("note", value)

    async def get(self) -> Any:
        return await self.storage.get("note")

    async def copy_from(self, name: str) -> Any:
        value = await self.stub(Note, name).get()
        await self.storage.put("note", value)
        return value

    async def pause_and_copy_from(self, seconds: float, name: str) -> Any:
        await asyncio.sleep(seconds)
        return await self.copy_from(name)

    async def push_to(self, name: str, count: int) -> None:
        await asyncio.gather(*[self.stub(Note, name).append(number) for number in range(count)])

    async def append(self, number: int) -> None:
        await self.storage.put("note", [*await self.storage.get("note", []), number])

    async def hold(self) -> str:
        await asyncio.sleep(60)
        return "held"

    async def pause(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "paused"

    async def ask_to_hold(self, name: str) -> str:
        return await self.stub(Note, name).hold()


class Running:
    """A worker and one client of it, in the test's own loop."""

    def __init__(self, tmp_path: Path, context: zmq.Context[Any], index: int, workers: int, incarnation: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        shards = tuple(range(index, SHARDS, workers))
        spec = WorkerSpec(
            index, workers, incarnation, 1, None, shards, SHARDS, str(tmp_path), str(tmp_path), "app", 1 << 20, 10.0, False,
            secret="of the service",
        )  # fmt: skip
        self.control: list[FromChild] = []
        self.ended: asyncio.Future[tuple[int, int]] = self.loop.create_future()
        self.worker = Worker(
            spec, context, self.loop, [ObjectClass(Note)],
            lambda trouble: WorkerStore.open(tmp_path, 1, index, shards, trouble),
            self.control.append, lambda code, unanswered: self.ended.set_result((code, unanswered)),
        )  # fmt: skip
        self.endpoint = self.worker.bind(f"inproc://worker-{index}.{incarnation}")
        self.worker.start()
        self.context = context
        self.connect()
        self.numbers = itertools.count(1)
        self.replies: dict[int | str, Any] = {}

    def connect(self, identity: bytes = b"") -> None:
        """The client, from now on."""
        self.client = self.context.socket(zmq.DEALER)
        self.client.linger = 0
        if identity:
            self.client.routing_id = identity
        self.client.connect(self.endpoint)

    def send(self, cls: str, name: str, method: str, *args: Any) -> int:
        number = next(self.numbers)
        self.client.send(msgspec.msgpack.encode([[number, cls, name, method, args]]))
        return number

    async def reply(self, number: int | str) -> Any:
        async with asyncio.timeout(WITHIN_S):
            while number not in self.replies:
                while self.client.poll(0):
                    for reply_number, status, result in msgspec.msgpack.decode(self.client.recv()):
                        assert reply_number not in self.replies, "a call is answered once"
                        self.replies[reply_number] = from_wire(result) if status else result
                await asyncio.sleep(0.001)
        result = self.replies[number]
        if isinstance(result, CallError):
            raise result
        return result

    async def ask(self, name: str, method: str, *args: Any) -> Any:
        return await self.reply(self.send("Note", name, method, *args))

    async def close(self) -> None:
        self.worker.close()
        self.worker._committer.close()
        await self.worker.store.close()
        self.client.close()


@contextlib.asynccontextmanager
async def service(tmp_path: Path, workers: int) -> AsyncIterator[list[Running]]:
    context: zmq.Context[Any] = zmq.Context()
    for shard in range(SHARDS):
        (tmp_path / "shards" / f"{shard:04d}").mkdir(parents=True, exist_ok=True)
    for index in range(workers):
        (tmp_path / "log" / f"{1:08d}-{index:04d}-0000").mkdir(parents=True, exist_ok=True)
    running = [Running(tmp_path, context, index, workers) for index in range(workers)]
    tell(running, 1)
    try:
        yield running
    finally:
        for each in running:
            await each.close()
        context.term()


def topology(running: list[Running | None], epoch: int) -> Topology:
    owners = tuple(shard % len(running) for shard in range(SHARDS))
    return Topology(epoch, owners, tuple(None if each is None else each.endpoint for each in running))


def tell(running: list[Any], epoch: int) -> None:
    for each in running:
        if each is not None:
            each.worker.on_control(TopologyChanged(topology(running, epoch)))


def name_on(worker: int, workers: int, nth: int = 0) -> str:
    table = SlotTable(Topology(1, tuple(shard % workers for shard in range(SHARDS)), (None,) * workers))
    names = (name for name in map(str, itertools.count()) if table.worker_of("Note", name) == worker)
    return next(itertools.islice(names, nth, None))


async def test_a_worker_answers_calls_and_system_calls_on_its_endpoint(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        await worker.ask("a", "put", [1, "x"])
        assert await worker.ask("a", "get") == [1, "x"]
        assert await worker.reply(worker.send("", "", "ping")) == "pong"
        assert (await worker.reply(worker.send("", "", "topology")))["epoch"] == 1
        with pytest.raises(UnknownMethod):
            await worker.reply(worker.send("", "", "nothing"))


async def test_a_worker_answers_moved_for_objects_of_another(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (first, _):
        with pytest.raises(Moved):
            await first.ask(name_on(1, 2), "get")


async def test_a_shard_that_is_damaged_on_disk_is_stopped_and_named_and_the_others_are_served(tmp_path: Path) -> None:
    for shard, content in ((2, b"not LMDB's" * 1_000), (3, b"")):
        (tmp_path / "shards" / f"{shard:04d}").mkdir(parents=True)
        (tmp_path / "shards" / f"{shard:04d}" / "data.mdb").write_bytes(content)
    table = SlotTable(Topology(1, (0, 1, 2, 3), (None,) * SHARDS))
    names = {table.worker_of("Note", str(number)): str(number) for number in range(100)}
    async with service(tmp_path, 1) as (one,):
        with pytest.raises(Unavailable, match=r"shard 2 is stopped: read store .*shards/0002: page 0"):
            await one.ask(names[2], "put", 1)
        for shard in (0, 1, 3):
            await one.ask(names[shard], "put", shard)
            assert await one.ask(names[shard], "get") == shard
        one.worker.on_control(Ping(7))
        [problem] = one.control[-1].statistics["problems"]  # type: ignore[union-attr]
        assert problem.what.startswith("shard 2 is stopped: page 0: ")
        assert problem.where == f"worker 0, {tmp_path}/shards/0002"
        assert "tidegate repair --shard 2" in problem.next
        await one.worker.store.checkpointer.finish()


async def test_a_disk_that_is_slow_is_a_problem_with_its_place_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_disk, "SLOW_DISK_S", 0.2)
    monkeypatch.setattr(slow_disk, "SLOW_DISK_KEPT_S", 0.4)

    def problems() -> list[Problem]:
        one.worker.on_control(Ping(7))
        return one.control[-1].statistics["problems"]  # type: ignore[union-attr]

    async with service(tmp_path, 1) as (one,):
        store, may_end = one.worker.store, threading.Event()
        append = store.append

        def append_slowly(record: bytes) -> int:
            may_end.wait()
            return append(record)

        store.append = append_slowly
        monkeypatch.setattr(store.log, "write", lambda _: None)
        call = asyncio.ensure_future(one.ask("a", "put", 1))
        assert problems() == []
        [problem] = await wait_until_in_loop(problems, "the problem")
        assert problem.what == "the disk is slow: a commit has taken 0 s; what writes waits for it, and nothing is lost"
        assert problem.where == f"worker 0, {tmp_path}"
        assert "iostat" in problem.next
        may_end.set()
        await call
        await wait_until_in_loop(lambda: not problems(), "its end")


async def test_a_shard_whose_own_log_is_full_is_a_problem_until_something_of_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path, 1) as (one,):
        store, name = one.worker.store, name_on(0, 1)
        shard = shard_of_slot(slot_of("Note", name), SHARDS)
        append, full = store.append, LogFull("append to the stream", "shop-0002", "it is full", "give its stream more room")
        is_full = True

        def append_partly(record: bytes) -> int:
            if is_full:
                raise PartlyStored(1, {shard: full})
            return append(record)

        store.append = append_partly
        monkeypatch.setattr(store.log, "write", lambda _: None)
        for more in (True, False):
            is_full = more
            with pytest.raises(ObjectReset) if more else contextlib.nullcontext():
                await one.ask(name, "put", 1)
            one.worker.on_control(Ping(7))
            problems = one.control[-1].statistics["problems"]  # type: ignore[union-attr]
            shown = [(each.what, each.where, each.next) for each in problems]
            what = f"there is no room for what is written in shard {shard}, and so its reads are refused, too: it is full"
            assert shown == ([(what, "worker 0, shop-0002", "give its stream more room")] if more else [])


async def test_a_worker_starts_again_by_itself_once_the_disk_has_recovered_that_failed_for_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SlotTable(Topology(1, (0, 1, 2, 3), (None,) * SHARDS))
    names = {table.worker_of("Note", str(number)): str(number) for number in range(100)}
    async with service(tmp_path, 1) as (one,):
        for name in names.values():
            await one.ask(name, "put", 1)
    commit, works = LmdbBatch.commit, asyncio.Event()

    def fails(batch: LmdbBatch) -> None:
        if batch._state.shard == 2 and not works.is_set():
            batch.abort()
            raise StoreFailed("checkpoint into", "shards/0002", "Input/output error", "check the disk")
        commit(batch)

    monkeypatch.setattr(LmdbBatch, "commit", fails)
    monkeypatch.setattr("tidegate.shard.store.worker_store.OPEN_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr("tidegate.shard.store.worker_store.UNWRITABLE_PAUSE_S", 0.05)
    monkeypatch.setattr("tidegate.shard.store.checkpoints.upkeep.UPKEEP_EVERY_S", 0.01)
    async with service(tmp_path, 1) as (one,):
        with pytest.raises(Unavailable, match=r"shard 2 is stopped: .*Input/output error") as refused:
            await one.ask(names[2], "get")
        assert refused.value.retryable
        for shard in (0, 1, 3):
            await one.ask(names[shard], "put", 2)
        one.worker.on_control(Ping(7))
        [problem] = one.control[-1].statistics["problems"]  # type: ignore[union-attr]
        assert problem.what == "shard 2 is stopped: Input/output error"
        assert "served again by itself" in problem.next
        checkpointer = one.worker.store.checkpointer
        await checkpointer.finish()
        checkpointer.found_no_room(StoreFull("checkpoint into", "shards/0001", "no space left", "free some space"))
        await wait_until_in_loop(lambda: checkpointer.without_room is None, "room for the others found again")
        assert not one.ended.done()
        works.set()
        async with asyncio.timeout(WITHIN_S):
            assert await one.ended == (1, 0)
    async with service(tmp_path, 1) as (one,):
        assert [await one.ask(names[shard], "get") for shard in (0, 1, 2, 3)] == [2, 2, 1, 2]


async def test_a_full_disk_is_a_problem_while_writes_have_room_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise LogWithoutRoom("prepare segment in", "log", "No space left on device", "free at least 8 MiB")

    monkeypatch.setattr(CommitLog, "needs_segment", True)
    monkeypatch.setattr(CommitLog, "prepare_segment", fails)
    free = [0]
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_frsize=real(path).f_frsize))
    async with service(tmp_path, 1) as (one,):

        def problems() -> list[str]:
            one.worker.on_control(Ping(7))
            return [problem.what for problem in one.control[-1].statistics["problems"]]  # type: ignore[union-attr]

        await one.ask("a", "put", 1)
        await wait_until_in_loop(problems, "the problem")
        assert problems() == [
            "the disk is full, and what is written has room in the log for the time being only: No space left on device"
        ]
        await one.ask("a", "put", 2)
        free[0] = 1 << 30
        await wait_until_in_loop(lambda: not problems(), "room")


async def test_damage_that_is_found_while_serving_stops_its_shard_and_what_the_others_write_is_kept(tmp_path: Path) -> None:
    table = SlotTable(Topology(1, (0, 1, 2, 3), (None,) * SHARDS))
    names = {table.worker_of("Note", str(number)): str(number) for number in range(100)}
    async with service(tmp_path, 1) as (one,):
        for name in names.values():
            await one.ask(name, "put", 1)
        holding = one.send("Note", names[1], "hold")
        await one.ask(names[2], "get")
        one.worker.store.shards[1].on_damage(ShardDamaged(1, "read", "shards/0001", "a value has a wrong checksum"))
        with pytest.raises(Unavailable, match="shard 1 is stopped: read shards/0001: a value has a wrong checksum"):
            await one.reply(holding)
        with pytest.raises(Unavailable, match="shard 1 is stopped"):
            await one.ask(names[1], "get")
        for shard in (0, 2, 3):
            await one.ask(names[shard], "put", 2)
        await one.worker.store.checkpointer.finish()
    async with service(tmp_path, 1) as (one,):  # It is read anew.
        assert [await one.ask(names[shard], "get") for shard in (0, 1, 2, 3)] == [2, 1, 2, 2]


async def test_a_ping_of_the_supervisor_is_answered_with_the_numbers_of_the_worker(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        await worker.ask("a", "put", 1)
        worker.worker.on_control(Ping(7))
        (pong,) = worker.control
        assert isinstance(pong, Pong)
        assert pong.number == 7
        assert pong.statistics["calls"] == pong.statistics["commits"] == 1
        assert pong.counts["calls"] == [(("Note",), 1)]
        assert pong.counts["commit_objects"] == [((), 1)]
        ((_, commits),) = pong.counts["commit_seconds"]
        assert isinstance(commits, list)
        assert sum(commits[:-1]) == 1
        ledger = Ledger()
        ledger.told(worker, "worker 0", pong.counts, 1.0)
        told = {key for key, rows in pong.counts.items() if rows}
        assert set(ledger.sums()) == told, "what is told is in the catalogue"
        heard = decode_from_child(encode_line(pong))
        assert isinstance(heard, Pong)
        assert heard.counts == pong.counts


async def test_an_object_calls_an_object_of_another_worker_and_back(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (first, second):
        here, there = name_on(0, 2), name_on(1, 2)
        await second.ask(there, "put", "from there")
        assert await first.ask(here, "copy_from", there) == "from there"
        assert await second.ask(name_on(1, 2, 1), "copy_from", here) == "from there"


async def test_calls_from_one_worker_to_another_arrive_in_order(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (first, second):
        here, there = name_on(0, 2), name_on(1, 2)
        await first.ask(here, "push_to", there, 200)
        assert await second.ask(there, "get") == list(range(200))


async def test_calls_in_flight_to_a_worker_that_is_lost_end_in_shard_lost(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (first, second):
        number = first.send("Note", name_on(0, 2), "ask_to_hold", name_on(1, 2))
        await wait_until_in_loop(lambda: second.worker._host.statistics().tasks == 1, "the task")
        tell([first, None], 2)
        with pytest.raises(MethodRaised, match="lost with the call in flight") as caught:
            await first.reply(number)
        assert caught.value.type == ShardLost.__name__, "it was raised in the object that called"


async def test_calls_to_a_worker_that_is_down_wait_until_it_is_back_or_become_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.runtime.sockets.inflight.WAIT_START_S", 0.3)
    async with service(tmp_path, 2) as (first, second):
        here, there = name_on(0, 2), name_on(1, 2)
        tell([first, None], 2)
        waiting = first.send("Note", here, "copy_from", there)
        await wait_until_in_loop(lambda: first.worker._peers.unanswered == 1, "the call on its way")
        tell([first, second], 3)
        assert await first.reply(waiting) is None
        tell([first, None], 4)
        late = first.send("Note", here, "copy_from", there)
        with pytest.raises(MethodRaised, match="is still being started") as caught:
            await first.reply(late)
        assert caught.value.type == Unavailable.__name__


async def test_a_draining_worker_finishes_what_it_has_and_refuses_what_is_new(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        await worker.ask("a", "put", "kept")
        running = worker.send("Note", "b", "pause", 0.1)
        await worker.ask("a", "get")
        worker.worker.on_control(Drain(5.0))
        with pytest.raises(Unavailable) as caught:
            await worker.ask("a", "get")
        assert caught.value.outcome == "not_executed"
        assert worker.control == []
        assert await worker.reply(running) == "paused"
        await wait_until_in_loop(lambda: worker.control == [Quiet()], "quiet")
        worker.worker.on_control(Leave())
        assert await asyncio.wait_for(worker.ended, WITHIN_S) == (0, 0)
        assert sum(store.state.applied_seq for store in worker.worker.store.shards.values()) == 1, "nothing is left for recovery"


async def test_a_draining_worker_that_is_quiet_serves_the_others_until_it_is_told_to_leave(tmp_path: Path) -> None:
    async with service(tmp_path, 2) as (first, second):
        here, there = name_on(0, 2), name_on(1, 2)
        await second.ask(there, "put", "asked")
        running = first.send("Note", here, "pause_and_copy_from", 0.2, there)
        await wait_until_in_loop(lambda: first.worker._host.unanswered == 1, "the call")
        for each in (first, second):
            each.worker.on_control(Drain(5.0))
        await wait_until_in_loop(lambda: second.control == [Quiet()], "quiet")
        assert first.control == []
        assert await first.reply(running) == "asked"
        await wait_until_in_loop(lambda: first.control == [Quiet()], "quiet")
        for each in (first, second):
            assert not each.ended.done()
            each.worker.on_control(Leave())
            assert await asyncio.wait_for(each.ended, WITHIN_S) == (0, 0)


async def test_only_who_knows_the_secret_of_the_service_is_one_of_its_processes(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        running = worker.send("Note", "b", "hold")
        await wait_until_in_loop(lambda: worker.worker._host.unanswered == 1, "the call")
        worker.worker.on_control(Drain(WITHIN_S))
        for stranger in (b"tidegate-", b"tidegate-router-1", b"tidegate-worker-0.1.1", own_identity("") + b"router-1"):
            worker.client.close()
            worker.connect(stranger)
            with pytest.raises(Unavailable):
                await worker.ask("a", "get")
        worker.client.close()
        worker.connect(own_identity("of the service") + b"router-1")
        assert await worker.ask("a", "get") is None
        assert running not in worker.replies


async def test_a_quiet_worker_leaves_by_itself_when_the_time_is_over(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        worker.worker.on_control(Drain(0.1))
        assert await asyncio.wait_for(worker.ended, WITHIN_S) == (0, 0)
        assert worker.control == [Quiet()]


async def test_a_drain_that_runs_out_of_time_says_how_many_calls_are_unanswered(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        worker.send("Note", "b", "hold")
        await worker.ask("a", "get")
        worker.worker.on_control(Drain(0.05))
        assert await asyncio.wait_for(worker.ended, WITHIN_S) == (0, 1)


async def test_a_system_call_may_have_a_deadline(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (worker,):
        worker.client.send(msgspec.msgpack.encode([[7, "", "", "ping", None, {"deadline_ms": 1_000}]]))
        assert await worker.reply(7) == "pong"


async def test_who_asks_a_worker_for_calls_all_the_time_does_not_keep_others_from_asking(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as [one]:
        held = one.send("Note", name_on(0, 1), "pause", 0.5)
        await wait_until_in_loop(lambda: one.worker._host.book.running, "a running call")
        answers = []
        for _ in range(20):
            answers.append(await one.reply(one.send("", "", "unknown_calls", [held, 999_999])))
            await asyncio.sleep(0.01)
        assert answers.count([999_999]) >= 15
        await one.reply(held)
