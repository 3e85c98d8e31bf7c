"""shard/worker/worker_shards.py: two real workers over one log, and shards that go from one to the other. With real servers:
tests/service/test_moving_shards.py."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.begun_appends import BegunAppends
from tests.support.no_snapshots import NoSnapshots
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime.errors import CallError, Moved, Unavailable, from_wire
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import own_identity
from tidegate.runtime.wire.supervisor_messages import ClusterPlace, FromChild, Owned, OwnShards, WorkerSpec
from tidegate.shard.log.commit_log import LogBroken, LogStatistics, WithoutSegments
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.store.interface import (
    PartlyStored,
    ShardDamaged,
    ShardElsewhere,
    ShardLeftBehind,
    ShardUnreachable,
    ShardUnwanted,
)
from tidegate.shard.store.record import UnreadCommitRecord, decode_unread_record, encode_record
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker import duties, worker_shards
from tidegate.shard.worker.worker import Worker

SHARDS = 4
SECRET = "of the service"


class Till(DurableObject):
    async def add(self) -> int:
        value: int = await self.storage.get("value", 0) + 1
        await self.storage.put("value", value)
        return value

    async def sleep(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await self.add()


class Streams:
    """Of all shards: the records, and who may append."""

    def __init__(self) -> None:
        self.records: dict[int, list[bytes]] = {shard: [] for shard in range(SHARDS)}
        self.owners: dict[int, object] = {}
        self.refused: dict[int, Exception] = {}
        self.tries = 0
        self.asked: list[tuple[int, int]] = []
        """From where each shard was read."""
        self.open = threading.Event()
        """Until it is set no read of `slow` ends."""
        self.slow: set[int] = set()


class StreamLog(BegunAppends, WithoutSegments):
    """What a worker sees of them. A mark is the number of records that are known."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._known: dict[int, int] = {}
        self._position = 0
        self._closed = False

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> dict[int, ShardDamaged]:
        refused = {shard: self.take(shard, mark, applied) for shard, mark in marks.items()}
        return {shard: error for shard, error in refused.items() if error is not None}

    def take(
        self, shard: int, mark: bytes, applied: Callable[[int, bytes], object], is_wanted: Callable[[], bool] = lambda: True
    ) -> ShardDamaged | None:
        reached = self.follow(shard, mark, applied)
        if isinstance(reached, ShardDamaged):
            return reached
        if not is_wanted():
            return ShardUnwanted(shard, reached)
        self._known[shard] = int(reached)
        self._streams.owners[shard] = self
        return None

    def follow(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> bytes | ShardDamaged:
        if self._closed:
            raise LogBroken("take", "the streams", "closed", "open them again")
        self._streams.tries += 1
        if (refused := self._streams.refused.get(shard)) is not None:
            if isinstance(refused, ShardDamaged):
                return refused
            raise refused
        self._streams.asked.append((shard, int(mark or b"0")))
        if shard in self._streams.slow:
            assert self._streams.open.wait(60.0)
        for record in self._streams.records[shard][int(mark or b"0") :]:
            applied(shard, record)
        return b"%d" % len(self._streams.records[shard])

    def give(self, shard: int) -> None:
        del self._known[shard]

    snapshots = NoSnapshots()

    def fetch(self, behind: ShardLeftBehind, file: Path, accept: Callable[[bytes, int], None], *, is_ahead: bool = False) -> None:
        raise AssertionError("it has everything")

    def mark(self, shard: int, position: int) -> bytes:
        return b"%d" % self._known[shard]

    def append(self, record: bytes) -> int:
        commits = decode_unread_record(record)
        failed = {}
        for commit in commits.shards:
            if self._streams.owners[commit.shard] is not self:
                failed[commit.shard] = ShardElsewhere(commit.shard, "append to", "it", "it has another owner", undone=True)
                continue
            self._streams.records[commit.shard].append(encode_record(UnreadCommitRecord(commits.wall_ms, [commit])))
            self._known[commit.shard] += 1
        self._position += 1
        if failed:
            raise PartlyStored(self._position, failed)
        return self._position

    def statistics(self) -> LogStatistics:
        return LogStatistics(self._position, 1, 0, 1, 0, 0, 0, copies_on_write=False)

    def close(self) -> None:
        self._closed = True


class Running:
    """A worker as its supervisor and a client see it."""

    def __init__(self, data: Path, context: zmq.Context[Any], index: int, streams: Streams, shards: tuple[int, ...]) -> None:
        for folder in ("log", "shards"):
            (data / folder).mkdir(parents=True)
        loop = asyncio.get_running_loop()
        cluster = ClusterPlace(("nats://127.0.0.1:1",), "test")
        spec = WorkerSpec(
            index, 1, 1, 1, None, shards, SHARDS, str(data), str(data), "app", 1 << 20, 10.0, False,
            secret=SECRET, cluster=cluster,
        )  # fmt: skip
        self.control: list[FromChild] = []
        self.ended: asyncio.Future[int] = loop.create_future()
        self.worker = Worker(
            spec, context, loop, [ObjectClass(Till)],
            lambda trouble: WorkerStore.open_shared(data, index, shards, trouble, 1 << 20, StreamLog(streams)),
            self.control.append, lambda code, unanswered: self.ended.set_result(code),
        )  # fmt: skip
        self.endpoint = self.worker.bind(f"inproc://host-{index}")
        self.worker.start()
        self._context, self._numbers, self._orders = context, itertools.count(1), itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._sockets = {own: self._socket(own=own) for own in (False, True)}
        self._reading = loop.create_task(self._read())

    def _socket(self, *, own: bool) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        if own:
            socket.routing_id = b"%srouter" % own_identity(SECRET)
        socket.connect(self.endpoint)
        return socket

    async def _read(self) -> None:
        while True:
            for socket in self._sockets.values():
                while socket.poll(0):
                    for number, status, result in msgspec.msgpack.decode(socket.recv()):
                        reply = self._replies.pop(number)
                        if status:
                            reply.set_exception(from_wire(result))
                        else:
                            reply.set_result(result)
            await asyncio.sleep(0.001)

    def call(self, name: str, method: str, *args: Any, own: bool = False) -> asyncio.Future[Any]:
        """`own`: as a router of the service does."""
        number = next(self._numbers)
        self._sockets[own].send(msgspec.msgpack.encode([[number, "Till", name, method, args]]))
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        return reply

    def tell(self, *shards: int, give_s: float = 10.0, ahead: tuple[int, ...] = ()) -> None:
        self.worker.on_control(OwnShards(next(self._orders), shards, give_s, ahead))

    @property
    def owned(self) -> Owned:
        return [each for each in self.control if isinstance(each, Owned)][-1]

    async def wait_to_own(self, *shards: int) -> None:
        await wait_until_in_loop(lambda: self.owned.shards == shards and not self.owned.busy, f"shards {shards}")

    async def close(self) -> None:
        self._reading.cancel()
        self.worker.close()
        self.worker._committer.close()
        await self.worker.store.close()
        for socket in self._sockets.values():
            socket.close()


@contextlib.asynccontextmanager
async def hosts(tmp_path: Path, *shards: tuple[int, ...], streams: Streams | None = None) -> AsyncIterator[list[Running]]:
    context: zmq.Context[Any] = zmq.Context()
    streams = streams or Streams()
    running = [Running(tmp_path / f"host-{index}", context, index, streams, each) for index, each in enumerate(shards)]
    try:
        yield running
    finally:
        for each in running:
            await each.close()
        context.term()


def name_in(shard: int) -> str:
    names = map(str, itertools.count())
    return next(name for name in names if shard_of_slot(slot_of("Till", name), SHARDS) == shard)


ALL = tuple(range(SHARDS))


async def test_a_shard_goes_and_comes_back_and_has_everything(tmp_path: Path) -> None:
    async with hosts(tmp_path, ALL, ()) as (first, second):
        assert (first.owned, second.owned) == (Owned(0, ALL), Owned(0, ()))
        moved, stays = name_in(0), name_in(1)
        expected = itertools.count(1)
        for _ in range(3):
            assert await first.call(moved, "add") == next(expected)
            first.tell(1, 2, 3)
            await first.wait_to_own(1, 2, 3)
            second.tell(0)
            await second.wait_to_own(0)
            assert await second.call(moved, "add") == next(expected)
            with pytest.raises(Moved):
                await first.call(moved, "add")
            await first.call(stays, "add")
            second.tell()
            await second.wait_to_own()
            first.tell(*ALL)
            await first.wait_to_own(*ALL)
        assert await first.call(stays, "add") == 4


async def test_under_load_each_call_counts_once_and_the_other_shards_are_served(tmp_path: Path) -> None:
    async with hosts(tmp_path, ALL, ()) as (first, second):
        at, answers, moved, stop = first, list[int](), list[str](), asyncio.Event()

        async def call() -> None:
            while not stop.is_set():
                try:
                    answers.append(await at.call(name_in(0), "add"))
                except Moved as error:
                    moved.append(error.outcome)
                    await asyncio.sleep(0.002)

        callers = [asyncio.create_task(call()) for _ in range(4)]
        for others, (source, target) in enumerate(((first, second), (second, first)) * 3, 1):
            before = len(answers)
            source.tell(*(shard for shard in source.owned.shards if shard != 0))
            await wait_until_in_loop(lambda source=source: 0 not in source.owned.shards, "the shard to go")  # type: ignore[misc]  # bound now
            target.tell(0, *target.owned.shards)
            at = target
            assert await first.call(name_in(1), "add") == others
            await wait_until_in_loop(lambda before=before: len(answers) > before + 20, "more calls")  # type: ignore[misc]  # as above
        stop.set()
        await asyncio.gather(*callers)
        assert sorted(answers) == list(range(1, len(answers) + 1))
        assert set(moved) <= {"not_executed"}


async def test_what_is_read_before_a_shard_is_given_is_not_read_again_when_it_is_taken(tmp_path: Path) -> None:
    streams = Streams()
    async with hosts(tmp_path, ALL, (), streams=streams) as (first, second):
        name = name_in(0)
        for number in range(1, 21):
            assert await first.call(name, "add") == number
        second.tell(ahead=(0,))
        await wait_until_in_loop(lambda: second.owned.ready == (0,), "it to be read")
        assert (second.owned.shards, second.owned.busy) == ((), ())
        with pytest.raises(Moved):
            await second.call(name, "add")
        assert await first.call(name, "add") == 21, "its owner is not disturbed"
        first.tell(1, 2, 3)
        await first.wait_to_own(1, 2, 3)
        second.tell(0)
        await second.wait_to_own(0)
        assert streams.asked[-2:] == [(0, 0), (0, 20)], "what came meanwhile is all that is left"
        assert second.owned.ready == ()
        assert await second.call(name, "add") == 22


@pytest.mark.parametrize("error", [ShardUnreachable(0, "claim", "shard 0", "nobody answers"), RuntimeError("a fault")])
async def test_what_could_not_be_read_is_not_ready_and_is_tried_again_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(worker_shards, "AGAIN_S", 0.01)
    streams = Streams()
    async with hosts(tmp_path, ALL, (), streams=streams) as (first, second):
        assert await first.call(name_in(0), "add") == 1
        streams.refused = {0: error}
        before = streams.tries
        second.tell(ahead=(0,))
        await wait_until_in_loop(lambda: streams.tries > before + 3, "it to be tried again")
        assert (second.owned.ready, second.owned.reads) == ((), (0,)), "its owner goes on"
        [said] = [each for each in caplog.records if "could not be read before" in each.getMessage()]
        assert (said.exc_info is not None) == isinstance(error, RuntimeError)
        streams.refused = {}
        await wait_until_in_loop(lambda: second.owned.ready == (0,), "it to be read")
        assert second.owned.reads == ()
        first.tell(1, 2, 3)
        await first.wait_to_own(1, 2, 3)
        second.tell(0)
        await second.wait_to_own(0)
        assert await second.call(name_in(0), "add") == 2


async def test_a_shard_whose_owner_is_gone_is_taken_while_reads_of_others_come_to_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "READS", 2)
    streams = Streams()
    async with hosts(tmp_path, ALL, (), streams=streams) as (first, second):
        assert await first.call(name_in(3), "add") == 1
        streams.slow = {0, 1, 2}
        second.tell(ahead=ALL)
        await wait_until_in_loop(lambda: len(streams.asked) >= 2, "two reads")
        assert second.owned.reads == second.owned.busy == ALL
        first.tell(0, 1, 2)
        await first.wait_to_own(0, 1, 2)
        second.tell(3, ahead=(0, 1, 2))
        await wait_until_in_loop(lambda: second.owned.shards == (3,), "the shard to be taken")
        assert await second.call(name_in(3), "add") == 2
        assert second.owned.reads == (0, 1, 2)
        streams.open.set()
        await wait_until_in_loop(lambda: second.owned.ready == (0, 1, 2), "all to be read")


async def test_a_shard_that_is_not_wanted_any_longer_once_it_was_read_is_left_to_its_owner(tmp_path: Path) -> None:
    """It was claimed and given at once: its owner was shut out, and did not know it until he wrote."""
    streams = Streams()
    async with hosts(tmp_path, ALL, (), streams=streams) as (first, second):
        assert await first.call(name_in(0), "add") == 1
        streams.slow, before = {0, 1}, len(streams.asked)
        second.tell(0, 1)
        await wait_until_in_loop(lambda: len(streams.asked) == before + 2, "the reads")
        second.tell(1)
        first.tell(0, 2, 3)
        streams.open.set()
        await second.wait_to_own(1)
        await wait_until_in_loop(lambda: second.owned.busy == (), "the other to be left")
        assert streams.owners[0] is not streams.owners[1]
        assert await first.call(name_in(0), "add") == 2, "nobody has disturbed it"
        first.tell(2, 3)
        await first.wait_to_own(2, 3)
        second.tell(0, 1)
        await second.wait_to_own(0, 1)
        assert streams.asked[-1] == (0, 1), "what was read is kept"
        assert await second.call(name_in(0), "add") == 3


async def test_a_shard_that_is_wanted_again_meanwhile_is_taken(tmp_path: Path) -> None:
    streams = Streams()
    async with hosts(tmp_path, ALL, (), streams=streams) as (first, second):
        streams.slow, before = {0}, len(streams.asked)
        second.tell(0)
        await wait_until_in_loop(lambda: len(streams.asked) == before + 1, "the read")
        second.tell()
        second.tell(0)
        streams.open.set()
        await second.wait_to_own(0)
        assert await second.call(name_in(0), "add") == 1
        first.tell(1, 2, 3)


async def test_what_the_services_own_processes_have_sent_is_run_and_what_others_send_is_not(tmp_path: Path) -> None:
    async with hosts(tmp_path, ALL) as (worker,):
        name = name_in(0)
        running = worker.call(name, "sleep", 0.3)
        await wait_until_in_loop(lambda: worker.worker._host.statistics().tasks == 1, "the call to run")
        worker.tell(1, 2, 3)
        outside, inside = worker.call(name, "add"), worker.call(name, "add", own=True)
        with pytest.raises(Moved):
            await outside
        assert await inside == 1
        assert worker.owned == Owned(1, ALL, busy=(0,))
        assert await running == 2
        await worker.wait_to_own(1, 2, 3)


async def test_calls_that_do_not_end_are_reset_when_their_time_is_over(tmp_path: Path) -> None:
    async with hosts(tmp_path, ALL) as (worker,):
        running = worker.call(name_in(0), "sleep", 600)
        await wait_until_in_loop(lambda: worker.worker._host.statistics().tasks == 1, "the call to run")
        worker.tell(1, 2, 3, give_s=0.05)
        with pytest.raises(Moved) as raised:
            await running
        assert raised.value.outcome == "unknown"
        await worker.wait_to_own(1, 2, 3)


async def test_who_was_shut_out_does_not_claim_again_before_it_was_told_to_be_without(tmp_path: Path) -> None:
    async with hosts(tmp_path, ALL, ()) as (first, second):
        name = name_in(0)
        assert await first.call(name, "add") == 1
        second.tell(0)
        await second.wait_to_own(0)
        with pytest.raises(CallError):
            await first.call(name, "add")
        await wait_until_in_loop(lambda: 0 not in first.owned.shards, "the loss to be told")
        assert "has another owner" in first.owned.stopped[0]
        first.tell(*ALL)
        with pytest.raises(Unavailable, match="served elsewhere"):
            await first.call(name, "add")
        assert await second.call(name, "add") == 2
        first.tell(1, 2, 3)
        with pytest.raises(Moved):
            await first.call(name, "add")
        assert first.owned.stopped == {}
        second.tell()
        await second.wait_to_own()
        first.tell(*ALL)
        await first.wait_to_own(*ALL)
        assert await first.call(name, "add") == 3


async def test_a_shard_that_is_out_of_reach_is_taken_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_shards, "AGAIN_S", 0.02)
    streams = Streams()
    streams.refused = {0: ShardUnreachable(0, "claim", "shard 0", "nobody answers")}
    async with hosts(tmp_path, ALL, streams=streams) as (worker,):
        assert list(worker.owned.stopped) == [0]
        with pytest.raises(Unavailable, match="nobody answers"):
            await worker.call(name_in(0), "add")
        await wait_until_in_loop(lambda: worker.owned.busy == (0,), "another try")
        await wait_until_in_loop(lambda: worker.owned.busy == (), "its end")
        streams.refused = {}
        await worker.wait_to_own(*ALL)
        assert await worker.call(name_in(0), "add") == 1


async def test_of_a_shard_that_is_wanted_no_longer_while_it_is_taken_nothing_is_left(tmp_path: Path) -> None:
    async with hosts(tmp_path, ()) as (worker,):
        worker.tell(0, 1)
        worker.tell(1)
        worker.tell(0)
        await worker.wait_to_own(0)
        assert worker.owned.stopped == {}
        assert await worker.call(name_in(0), "add") == 1
