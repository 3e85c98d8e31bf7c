"""Several hosts that share the shards of one service: anybody answers for every object, and the loss of one is made good."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.service import HASTY, ROOT, Serve, Service, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.cluster.membership import listen
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.operating import look
from tidegate.runtime.cluster.picture import Picture
from tidegate.runtime.cluster.records import Beat
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.shard.replicated.servers import connect

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
NAMES = [f"till-{number}" for number in range(24)]
START_S = 120.0
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest.fixture
def name() -> str:
    """Of a cluster, another one for each test."""
    return f"hosts-{next(_numbers)}"


class Hosts:
    def __init__(self, serve: Serve, servers: NatsServers, name: str, folder: Path) -> None:
        self._serve, self._servers, self._name, self._folder = serve, servers, name, folder
        self.place = f"{','.join(servers.urls)}/{name}"

    def start(self, host: str, *flags: str) -> Service:
        service = self._serve(app=APP, data=self._folder / host, start=False)
        service.expect("nats: ", "a publish after message", "nothing is read behind message")
        self.launch(service, host, *flags)
        service.wait_for_output("is ready on", within_s=START_S)
        return service

    def launch(self, service: Service, host: str, *flags: str) -> None:
        service.launch(1, "--cluster", self.place, "--host-name", host, *flags)

    def look(self) -> Picture:
        return look(self._servers.urls, self._name)

    def wait_for(self, **serves: int) -> Picture:
        """Until each of these hosts serves so many shards."""
        seen = self.look()

        def as_wanted() -> bool:
            nonlocal seen
            seen = self.look()
            return _serves(seen, serves)

        wait_until(as_wanted, f"hosts to serve {serves}", START_S)
        return seen


def _serves(seen: Picture, wanted: dict[str, int]) -> bool:
    return {host.name: host.serves for host in seen.hosts if host.state != "lost"} == wanted


@pytest.fixture
def hosts(serve: Serve, servers: NatsServers, name: str, tmp_path: Path) -> Hosts:
    return Hosts(serve, servers, name, tmp_path)


def answered(endpoint: str, name: str, method: str, *arguments: Any) -> Any:
    """Again while nothing was executed."""

    def once() -> Any:
        status, answer = exchange(endpoint, "Till", name, method, list(arguments), {"deadline_ms": 30_000}, timeout_s=START_S)
        assert status == 0 or answer["outcome"] == "not_executed", answer
        return [answer] if status == 0 else None

    return wait_until(once, f"{name} to answer", START_S)[0]


class Callers:
    """Threads that call objects of all shards without pause, and keep what they are answered."""

    def __init__(self, endpoint: str, prefix: str = "load", names: Sequence[str] = ()) -> None:
        self.longest_s = 0.0
        self._numbers: dict[str, list[int]] = {name: [] for name in names or [f"{prefix}-{number}" for number in range(16)]}
        self._errors: list[Any] = []
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(part,)) for part in range(2)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, part: int) -> None:
        for name in cycle(list(self._numbers)[part::2]):
            if self._stop.is_set():
                return
            began_s = time.monotonic()
            status, answer = exchange(self._endpoint, "Till", name, "add", [], {"deadline_ms": 20_000}, timeout_s=30.0)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            (self._numbers[name] if status == 0 else self._errors).append(answer)

    def wait_for_more(self) -> None:
        """Each object has been called again."""
        before = {name: len(numbers) for name, numbers in self._numbers.items()}
        more = lambda: self._errors or all(len(self._numbers[name]) > calls for name, calls in before.items())  # noqa: E731
        wait_until(more, "more calls", 60)

    def judge(self) -> None:
        assert self._errors == []
        for name, numbers in self._numbers.items():
            assert numbers == list(range(1, len(numbers) + 1)), f"{name}: each call counts once, and none is lost"


def test_any_host_answers_for_every_object(hosts: Hosts, servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    first = hosts.start("a")
    hosts.wait_for(a=8)
    second = hosts.start("b")
    seen = hosts.wait_for(a=4, b=4)
    assert seen.problems == ()
    assert main(["cluster", "doctor", "--cluster", hosts.place, "--monitor", ",".join(servers.monitors)]) == 0
    assert "fine: clocks of 2 hosts are less than 0.5 s apart\n" in capsys.readouterr().out
    for at, name in enumerate(NAMES):
        assert answered((first, second)[at % 2].endpoint, name, "add", 5) == 5
    for at, name in enumerate(NAMES):
        assert answered((second, first)[at % 2].endpoint, name, "read") == 5
    of_b = {each.shard for each in seen.shards if each.serves == "b"}
    there = next(name for name in NAMES if shard_of_slot(slot_of("Till", name), 8) in of_b)
    capsys.readouterr()
    assert main(["inspect", "Till", there, "--connect", first.endpoint]) == 1
    assert f"is served by the host b ({second.endpoint}): give this there" in capsys.readouterr().err
    assert main(["inspect", "Till", there, "--connect", second.endpoint]) == 0
    assert main(["objects", "ls", "Till", "--connect", first.endpoint]) == 0
    said = capsys.readouterr()
    assert f"objects ls Till: the host b ({second.endpoint}) serves 4 of 8 shards, whose objects it knows alone" in said.err
    assert f"Till/{there}" not in said.out.split()
    knows_alone = f"the host b ({second.endpoint}) serves 4 of 8 shards, whose objects it knows alone: give this there, too"
    assert main(["objects", "ls", "Till", "--json", "--connect", first.endpoint]) == 0
    assert json.loads(capsys.readouterr().out)["elsewhere"] == [knows_alone]
    assert main(["export", str(first.data), "--out", str(first.data.parent / "part.jsonl")]) == 1, "that is not all"
    assert knows_alone in capsys.readouterr().err


def test_objects_call_objects_of_other_hosts(hosts: Hosts) -> None:
    first = hosts.start("a")
    hosts.start("b")
    hosts.wait_for(a=4, b=4)
    for name, other in pairwise(NAMES):
        before = answered(first.endpoint, other, "read")
        assert answered(first.endpoint, name, "add_to", other, 2)[1:] == [before + 2] * 2


def test_what_a_killed_host_had_confirmed_is_answered_by_the_other_within_seconds(hosts: Hosts) -> None:
    first, second = hosts.start("a"), hosts.start("b")
    hosts.wait_for(a=4, b=4)
    for name in NAMES:
        assert answered(first.endpoint, name, "add", 5) == 5
    second.expect("host a|is lost")
    began = time.monotonic()
    first.kill_everything()
    assert [answered(second.endpoint, name, "read") for name in NAMES] == [5] * len(NAMES)
    print(f"all objects answered after {time.monotonic() - began:.1f} s")
    seen = hosts.wait_for(b=8)
    assert [(each.where, each.what) for each in seen.problems] == [("host a", "is lost; others serve its shards")]
    assert wait_until(lambda: second.status()["problems"], "the status to say so")[0]["where"] == "host a"
    since = len(first.output)
    first.launch(1, "--cluster", hosts.place, "--host-name", "a")
    first.wait_for_output("is ready on", within_s=START_S, since=since)
    assert hosts.wait_for(a=4, b=4).problems == ()
    assert [answered(first.endpoint, name, "add") for name in NAMES] == [6] * len(NAMES)


def test_a_host_that_is_stopped_hands_over_and_nobody_is_told_anything_else_than_the_answer(hosts: Hosts) -> None:
    first, second = hosts.start("a"), hosts.start("b")
    hosts.wait_for(a=4, b=4)
    with Callers(second.endpoint) as callers:
        first.stop()
        assert hosts.wait_for(b=8).problems == ()
        callers.wait_for_more()
    callers.judge()
    assert "the other hosts take the shards of this one" in first.output


def test_a_copy_of_a_host_that_runs_is_refused_and_so_is_one_of_another_cluster(
    hosts: Hosts, serve: Serve, servers: NatsServers, name: str, tmp_path: Path
) -> None:
    first = hosts.start("a")
    hosts.wait_for(a=8)
    assert first.call("Till", "a", "add") == 1
    (tmp_path / "copy").mkdir()
    shutil.copy(first.data / "tidegate.json", tmp_path / "copy")
    copy = serve(app=APP, data=tmp_path / "copy", start=False)
    hosts.launch(copy, "copy")
    assert copy.wait(START_S) == 1
    assert re.search(r"join the cluster hosts-\d+: a host of this id \(\w+, a\) is there already \(stop that one", copy.output)
    assert "is ready on" not in copy.output
    other = Hosts(serve, servers, f"{name}-other", tmp_path)
    other.launch(copy, "copy")
    assert copy.wait(START_S) == 1
    assert "it is a cache of another cluster" in copy.output
    assert first.call("Till", "a", "add") == 2


def test_processes_of_a_host_are_started_while_its_servers_find_each_other(serve: Serve, name: str, tmp_path: Path) -> None:
    """As when the power is back: servers take seconds, and so do processes."""
    with NatsServers(tmp_path / "nats") as own:
        hosts = Hosts(serve, own, name, tmp_path)
        host = hosts.start("a")
        hosts.wait_for(a=8)
        assert host.call("Till", "a", "add") == 1
        assert host.stop() == 0
        since = len(host.output)
        for server in own.names[:2]:
            own.signal(server, signal.SIGSTOP)
        try:
            hosts.launch(host, "a")
            wait_until(lambda: host.running and len(host.worker_pids()) == 1, "a worker", START_S, seen=lambda: host.output)
            assert "is ready on" not in host.output[since:]
            assert host.stop() == 0, "also now"
            hosts.launch(host, "a")
            wait_until(lambda: len(host.worker_pids()) == 1, "a worker", START_S, seen=lambda: host.output)
        finally:
            for server in own.names[:2]:
                own.signal(server, signal.SIGCONT)
        host.wait_for_output("is ready on", since=since, within_s=START_S)
        assert answered(host.endpoint, "a", "add") == 2


def test_all_hosts_stop_at_once_while_no_server_answers(serve: Serve, name: str, tmp_path: Path) -> None:
    with NatsServers(tmp_path / "nats") as own:
        hosts = Hosts(serve, own, name, tmp_path)
        both = hosts.start("a"), hosts.start("b")
        hosts.wait_for(a=4, b=4)
        for service in both:
            service.expect(
                "is lost",
                "this host hears nothing",
                "the servers that keep the log do not confirm",
                "unanswered at its end",
                "the placement cannot be read",
            )
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(exchange, each.endpoint, "Till", "a", "add", [], {"deadline_ms": 60_000}) for each in both]
            for server in own.names:
                own.signal(server, signal.SIGSTOP)
            for service in both:
                service.supervisor.send_signal(signal.SIGTERM)
            assert [service.wait(START_S) for service in both] == [0, 0]
            assert all(future.result() for future in waiting)


def test_operators_move_drain_and_rebalance_under_load(hosts: Hosts) -> None:
    first, second = hosts.start("a"), hosts.start("b")
    hosts.wait_for(a=4, b=4)
    with Callers(first.endpoint) as one, Callers(second.endpoint, "other") as two:
        for command, serves in (
            (["drain", "b"], {"a": 8, "b": 0}),
            (["drain", "b", "--off"], {"a": 4, "b": 4}),
            (["move", "0", "b"], {"a": 4, "b": 4}),
            (["rebalance"], {"a": 4, "b": 4}),
        ):
            assert main(["cluster", *command, "--cluster", hosts.place]) == 0
            hosts.wait_for(**serves)
            one.wait_for_more()
            two.wait_for_more()
    one.judge()
    two.judge()
    print(f"longest calls: {one.longest_s * 1e3:.0f} ms, {two.longest_s * 1e3:.0f} ms")


def test_a_shard_that_moves_has_been_read_by_the_next_host_while_the_other_served(
    hosts: Hosts, servers: NatsServers, name: str
) -> None:
    first = hosts.start("a")
    hosts.wait_for(a=8)
    till = NAMES[0]
    shard = shard_of_slot(slot_of("Till", till), 8)
    for _ in range(20):
        answered(first.endpoint, till, "add")
    second = hosts.start("b")
    seen = hosts.wait_for(a=4, b=4)
    target = "b" if seen.shards[shard].serves == "a" else "a"
    said = list[Beat]()

    async def hear() -> None:
        client = await connect(servers.urls)
        try:
            heard = asyncio.Event()

            def note(beat: Beat) -> None:
                said.append(beat)
                if beat.name == target and shard in beat.serves:
                    heard.set()

            listening = asyncio.create_task(listen(client, name, START_S, note))
            moving = ["cluster", "move", str(shard), target, "--cluster", hosts.place]
            assert await asyncio.to_thread(main, moving) == 0
            async with asyncio.timeout(START_S):
                await heard.wait()
            listening.cancel()
        finally:
            await client.close()

    asyncio.run(hear())
    of_target = [beat for beat in said if beat.name == target]
    ready = next(at for at, beat in enumerate(of_target) if shard in (beat.ready or ()))
    serves = next(at for at, beat in enumerate(of_target) if shard in beat.serves)
    assert ready < serves
    is_ready = next(at for at, beat in enumerate(said) if beat.name == target and shard in (beat.ready or ()))
    before = [beat for beat in said[:is_ready] if beat.name not in ("", target)]
    assert all(shard in beat.serves for beat in before), "it is served meanwhile"
    assert answered(first.endpoint, till, "add") == 21
    for host in (first, second):
        assert "could not be read before" not in host.output


def test_hot_shards_of_one_host_are_spread_by_their_load(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = hosts.start("a"), hosts.start("b")
    seen = hosts.wait_for(a=4, b=4)
    hot = [each.shard for each in seen.shards if each.serves == "a"][:2]
    names = [next(name for name in NAMES if shard_of_slot(slot_of("Till", name), 8) == shard) for shard in hot]
    with Callers(first.endpoint, names=names) as callers:

        def balanced(*options: str) -> dict[str, Any]:
            """With moves: the first seconds of the load are not in what hosts say yet."""
            command = ["cluster", "rebalance", "--by", "load", "--for", "3", "--json", "--cluster", hosts.place, *options]

            def found() -> dict[str, Any] | None:
                assert main(command) == 0
                said: dict[str, Any] = json.loads(capsys.readouterr().out)
                return said if said["moves"] else None

            answer = wait_until(found, "an exchange", START_S)
            assert answer is not None
            return answer

        assert len(balanced("--dry-run")["moves"]) == 2
        assert all(each.serves == each.should for each in hosts.look().shards), "it was only tried"
        assert {each.serves for each in hosts.look().shards if each.shard in hot} == {"a"}
        found = balanced()
        assert found["before"] > found["after"]
        assert len(found["moves"]) == 2
        hosts.wait_for(a=4, b=4)
        callers.wait_for_more()
        served = {each.serves for each in hosts.look().shards if each.shard in hot}
        assert served == {"a", "b"}, "one of them each"
        assert main(["cluster", "rebalance", "--by", "load", "--for", "4", "--cluster", hosts.place]) == 0
        assert capsys.readouterr().out.startswith("nothing moves: the busiest host has ")
    callers.judge()


def test_hosts_whose_clients_need_keys_know_each_other_and_strangers_are_not_let_in_at_a_door(
    hosts: Hosts, tmp_path: Path
) -> None:
    access, key = tmp_path / "access.json", tmp_path / "web.key"
    assert main(["keys", "new", "web", "--access", str(access), "--out", str(key)]) == 0
    first, second = (hosts.start(name, "--access", str(access)) for name in ("a", "b"))
    seen = hosts.wait_for(a=4, b=4)
    second.expect(HASTY, "closed in the greeting", r"closed 1 connection\(s\) in the greeting")
    with connect_sync(first.endpoint, key_file=str(key)) as client:
        assert [client.stub("Till", name).add(2) for name in NAMES] == [2] * len(NAMES)
    door = next(each.door for each in seen.hosts if each.name == "b").partition("#")[0]
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.monitor("inproc://stranger", zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)
        with context.socket(zmq.PAIR) as told:
            told.connect("inproc://stranger")
            stranger.connect(door)
            assert told.poll(20_000), "it has no key"
        stranger.disable_monitor()
