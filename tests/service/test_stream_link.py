"""Python clients on the same host talk to workers over unix streams: by default, with the same answers as over ZeroMQ, and
whatever strangers do at the door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tidegate
from tests.support.patient_callers import PatientCallers
from tests.support.service import KILLED_BY_TEST, Serve, Service, ask
from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length

NO_CLIENT = "no client of Tidegate's"
ECHO = str(Path(__file__).parents[1] / "fuzz" / "echo.py")


def streams_of(service: Service) -> list[int]:
    """Of each worker, how many are open."""
    return [each["statistics"].get("streams", 0) for each in service.status()["processes"] if each["name"].startswith("worker")]


def worker_0(service: Service) -> dict[str, Any]:
    return next(each["statistics"] for each in service.status()["processes"] if each["name"] == "worker 0")


def paths(service: Service) -> list[str]:
    topology = ask(service.endpoint, "", "", "topology")
    return sorted({shard["stream"] for shard in topology["shards"]})


def plain_stream(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(WITHIN_S)
    made.connect(path)
    return made


def test_both_clients_use_streams_without_being_told_and_everybody_else_need_not(serve: Serve) -> None:
    service = serve(2)
    with tidegate.connect_sync(service.endpoint) as client:
        numbers = [client.call("Counter", f"c{number % 9}", "get_unique_number") for number in range(90)]
        wait_until(lambda: streams_of(service) == [1, 1], "a stream to each worker")

        async def more() -> list[Any]:
            async with tidegate.connect(service.endpoint) as other:
                found = await asyncio.gather(
                    *(other.call("Counter", f"c{number % 9}", "get_unique_number") for number in range(90))
                )
                await asyncio.to_thread(wait_until, lambda: streams_of(service) == [2, 2], "two to each")
                return found

        numbers += asyncio.run(more())
        assert sorted(numbers) == sorted(number for number in range(20) for _ in range(9))
    wait_until(lambda: streams_of(service) == [0, 0], "they go with their clients")
    with tidegate.connect_sync(service.endpoint, direct=False) as routed:
        assert routed.call("Counter", "c0", "get_unique_number") == 20
        assert streams_of(service) == [0, 0]


def test_where_the_path_cannot_be_reached_zeromq_is_used(serve: Serve) -> None:
    service = serve(1)
    (path,) = paths(service)
    os.rename(path, f"{path}.away")
    with tidegate.connect_sync(service.endpoint) as client:
        assert [client.call("Counter", "c", "get_unique_number") for _ in range(3)] == [0, 1, 2]
        assert client.call("Counter", "c", "get_unique_number") == 3
        wait_until(lambda: worker_0(service).get("connections", 0) >= 2, "the router's connection, and the client's")
        assert worker_0(service)["streams"] == 0
    os.rename(f"{path}.away", path)


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_strangers_of_every_kind_at_the_stream_disturb_nobody_and_are_counted(serve: Serve) -> None:
    service = serve(2, app=ECHO)
    service.expect(NO_CLIENT)
    pids, chance = service.pids(), random.Random(1)
    stopped, settled, wrong = threading.Event(), threading.Event(), []

    def be_polite() -> None:
        try:
            with tidegate.connect_sync(service.endpoint, retry=False) as client:
                number = 0
                while not stopped.is_set():
                    assert client.call("Echo", f"polite-{number % 20}", "echo", (number,)) == number
                    number += 1
                    if number == 40:
                        settled.set()
        except BaseException as error:
            wrong.append(error)

    polite = threading.Thread(target=be_polite)
    polite.start()
    assert settled.wait(WITHIN_S)
    doors, half = paths(service), []
    for number in range(600):
        stranger = plain_stream(doors[number % 2])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            match number % 6:
                case 0:
                    stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                case 1:
                    stranger.sendall(GREETING + head_of_length(chance.randrange(17 << 20, 1 << 32)))
                case 2:
                    stranger.sendall(GREETING + head_of_length(1 << 20) + chance.randbytes(3_000))
                    half.append(stranger)
                    continue
                case 3:
                    stranger.sendall(GREETING)
                    for _ in range(20):
                        body = chance.randbytes(chance.randrange(100))
                        stranger.sendall(head_of_length(len(body)) + body)
                case 4:
                    stranger.sendall(chance.randbytes(200))
                case 5:
                    stranger.sendall(GREETING[: chance.randrange(19)])
        stranger.close()
    wait_until(
        lambda: sum(streams_of(service)) == len(half) + 2,
        "all but those with half a frame have gone",
        seen=lambda: (streams_of(service), len(half)),
    )
    for stranger in half:
        stranger.close()
    stopped.set()
    polite.join()
    assert not wrong
    assert service.pids() == pids
    wait_until(lambda: counted(service, "malformed") > 100 and counted(service, "foreign_peers") >= 200, "all are counted")


def counted(service: Service, name: str) -> int:
    return sum(each["statistics"].get(name, 0) for each in service.status()["processes"] if each["name"].startswith("worker"))


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_who_never_reads_costs_a_bounded_amount_and_disturbs_nobody(serve: Serve) -> None:
    service = serve(1, app=ECHO)
    slow = plain_stream(paths(service)[0])
    slow.sendall(GREETING)
    body = msgspec.msgpack.encode([[1, "Echo", "slow", "echo", [b"x" * 100_000]]])
    for _ in range(3_000):
        slow.sendall(head_of_length(len(body)) + body)
    with tidegate.connect_sync(service.endpoint, timeout=5) as client:
        for number in range(50):
            assert client.call("Echo", f"other-{number}", "echo", (number,)) == number
    assert max(service.rss_mib().values()) < 500, "300 MB were asked for, 128 MiB is what may wait"
    frames, bodies = Frames(), 0
    while bodies < 3_000:
        bodies += sum(len(msgspec.msgpack.decode(each)) for each in frames.feed(slow.recv(frames.wanted)))
    slow.close()


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_crowd_of_streams_that_takes_all_descriptors_shuts_out_only_itself(serve: Serve) -> None:
    service = serve(1, wrapper=("prlimit", "--nofile=256:256"))
    service.expect("file descriptors are in use; nobody else is let in")
    (path,) = paths(service)
    with tidegate.connect_sync(service.endpoint) as client:
        assert client.call("Counter", "polite", "get_unique_number") == 0
        crowd = []
        while "nobody else is let in" not in service.output:
            with contextlib.suppress(FileNotFoundError, BlockingIOError, BrokenPipeError):  # There is no room for it to wait.
                crowd.append(plain_stream(path))
                crowd[-1].sendall(GREETING)
        for number in range(1, 50):
            assert client.call("Counter", "polite", "get_unique_number") == number
        with tidegate.connect_sync(service.endpoint) as late:  # By the router.
            assert late.call("Counter", "polite", "get_unique_number") == 50
        for each in crowd:
            each.close()
        service.wait_for_output("clients are let in again")
    with tidegate.connect_sync(service.endpoint) as client:
        assert client.call("Counter", "polite", "get_unique_number") == 51
        wait_until(lambda: streams_of(service) == [1], "by a stream again")


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_client_loses_its_link_when_its_worker_is_killed_also_if_a_fork_of_it_lives_on(serve: Serve, tmp_path: Path) -> None:
    app = tmp_path / "forking.py"
    app.write_text(
        "import os, time\nfrom tidegate import DurableObject\n\n"
        "class Forker(DurableObject):\n"
        "    async def fork(self) -> int:\n"
        "        pid = os.fork()\n"
        "        if not pid:\n"
        "            time.sleep(60)\n"
        "            os._exit(0)\n"
        "        return pid\n\n"
        "    async def pid(self) -> int:\n"
        "        return os.getpid()\n"
    )
    service = serve(1, app=str(app))
    service.expect(KILLED_BY_TEST, "held up", "fork")
    with tidegate.connect_sync(service.endpoint, timeout=30) as client:
        before = client.call("Forker", "f", "pid")
        child = client.call("Forker", "f", "fork")
        wait_until(lambda: streams_of(service) == [1], "a stream")
        os.kill(before, signal.SIGKILL)
        assert client.call("Forker", "f", "pid") != before
        os.kill(child, signal.SIGKILL)


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_client_that_was_forked_has_streams_of_its_own(serve: Serve) -> None:
    service = serve(1)
    with tidegate.connect_sync(service.endpoint) as client:
        assert client.call("Counter", "c", "get_unique_number") == 0
        child = os.fork()
        if not child:
            os._exit(0 if client.call("Counter", "c", "get_unique_number") == 1 else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.call("Counter", "c", "get_unique_number") == 2


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_callers_over_streams_see_nothing_of_a_rolling_restart(serve: Serve) -> None:
    service = serve(2)
    callers = PatientCallers(service.endpoint).start()
    for _ in range(2):
        wanted = callers.answered + 300
        wait_until(lambda: callers.answered >= wanted or bool(callers.errors), "300 more calls", 60.0)  # noqa: B023 - waited for here
        wait_until(lambda: min(streams_of(service)) > 0, "streams to both")
        restart_rolling(service)
    callers.finish()
    callers.judge()


def restart_rolling(service: Service) -> None:
    command = [sys.executable, "-m", "tidegate", "restart", "--rolling", "--connect", service.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
