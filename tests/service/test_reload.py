"""`tidegate reload` and `tidegate restart --rolling`: new code under load, and no caller notices more than a short wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tidegate
from tests.support.load import assert_only, errors_of, finish, judge, start_clients, total, wait_for_answers
from tests.support.python_load import NAMES, PythonLoad
from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

APP = """
import asyncio
from tidegate import DurableObject

VERSION = {version}

class Counter(DurableObject):
    async def get_unique_number(self) -> int:
        value = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        return value

    async def current(self) -> int:
        return await self.storage.get("counter", 0)

    async def version(self) -> int:
        return VERSION

    async def later(self) -> int:
        import lately
        return lately.VERSION

    async def sleep(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await self.get_unique_number()

    async def pass_on(self, names: list[str]) -> int:
        if not names:
            return await self.get_unique_number()
        await asyncio.sleep(0.02)
        return await self.stub(Counter, names[0]).pass_on(names[1:])
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text(APP.format(version=1))
    (tmp_path / "lately.py").write_text("VERSION = 1\n")
    return path


def command(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "tidegate", *arguments, "--connect", service.endpoint]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60)


def reload(service: Service) -> dict[str, Any]:
    done = command(service, "reload", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def versions(service: Service, method: str = "version") -> set[int]:
    return {service.call("Counter", name, method) for name in NAMES}


def test_no_call_fails_and_none_waits_long_while_workers_are_reloaded_under_load(serve: Serve, app: Path) -> None:
    service = serve(2, app=str(app))
    loads = [PythonLoad(service, 25, direct=direct) for direct in (False, True)]
    clients = start_clients(service, 2, [f"p{number}" for number in range(40)], window=16)
    for load in loads:
        load.start()
    wait_for_answers(clients, 201)
    for version in range(2, 102 if FULL else 5):
        app.write_text(APP.format(version=version))
        ended = reload(service)
        assert ended["failed"] is None
        assert [each["name"] for each in ended["replaced"]] == ["worker 0", "worker 1"]
        assert all(each["unanswered"] == 0 for each in ended["replaced"])
        print([(each["name"], each["waited_calls"], each["waited_ms_max"], each["gap_ms"]) for each in ended["replaced"]])
        assert sum(each["waited_calls"] for each in ended["replaced"]) > 0
        assert versions(service) == {version}
    for load in loads:
        load.finish()
        print(f"direct {load.direct}: {load.answered} calls, {max(load.latencies_s) * 1_000:.0f} ms at most")
        assert load.errors == []
        assert max(load.latencies_s) < 2.0
    for client in clients:
        client.stop()
    finish(clients)
    assert errors_of(clients) == {}
    assert total(clients, lambda client: client.answered) == total(clients, lambda client: client.sent)
    assert judge(service.endpoint, clients) == []
    status = service.status()
    assert (status["state"], status["problems"], status["replacement"]) == ("serving", [], "")
    assert len({process["app_version"] for process in status["processes"][2:]}) == 1


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_running_and_says_where_it_fails(serve: Serve, app: Path) -> None:
    service = serve(2, app=str(app))
    service.expect("reload failed", r"Traceback", "NameError", "SyntaxError", "assert")
    pids = service.worker_pids()
    for broken, where in (("undefined_name\n", "shop.py:2"), ("def f(:\n", "shop.py:2")):
        app.write_text(f"import asyncio\n{broken}")
        done = command(service, "reload")
        assert done.returncode == 1
        assert "reload failed, the version before goes on: load " in done.stderr
        assert where in next(line for line in done.stderr.splitlines() if "reload failed" in line), done.stderr
        assert service.worker_pids() == pids
        assert versions(service) == {1}
        wait_until(lambda: service.status()["problems"], "the failed reload among the problems")
        [problem] = service.status()["problems"]
        assert "the last reload failed" in problem["what"]
        assert problem["next"].endswith("tidegate reload")
    app.write_text(APP.format(version=2))
    reload(service)
    assert versions(service) == {2}
    assert service.status()["problems"] == []


def test_a_worker_that_dies_after_a_reload_runs_what_was_reloaded_and_not_what_is_on_disk(serve: Serve, app: Path) -> None:
    service = serve(2, app=str(app))
    assert versions(service, "later") == {1}
    app.write_text(APP.format(version=2))
    app.with_name("lately.py").write_text("VERSION = 2\n")
    reload(service)
    assert versions(service, "later") == {2}
    app.write_text(APP.format(version=3))
    app.with_name("lately.py").write_text("VERSION = 3\n")
    service.expect(KILLED_BY_TEST, "changed on disk since it was loaded")
    os.kill(service.worker_pid(0), signal.SIGKILL)
    service.wait_for_output("worker 0 is ready again")
    assert versions(service) == versions(service, "later") == {2}


def test_a_long_call_is_answered_within_the_bound_and_others_wait_for_it_no_longer_than_that(serve: Serve, app: Path) -> None:
    config = app.with_name("tidegate.toml")
    config.write_text("[service]\nreload_s = 2.0\n")
    service = serve(1, "--config", str(config), app=str(app))
    service.expect("left 1 calls unanswered")
    with tidegate.connect_sync(service.endpoint, direct=False, timeout=30, retry=False) as client:
        outcomes: dict[float, str] = {}

        def sleep(seconds: float) -> None:
            try:
                outcomes[seconds] = f"number {client.call('Counter', f'slow{seconds}', 'sleep', (seconds,))}"
            except tidegate.CallError as error:
                outcomes[seconds] = error.code

        sleepers = [threading.Thread(target=sleep, args=(seconds,)) for seconds in (1.0, 30.0)]
        for sleeper in sleepers:
            sleeper.start()
        wait_until(lambda: sum(service.status()["router"]["in_flight"]) == 2, "calls in flight")
        [replaced] = reload(service)["replaced"]
        for sleeper in sleepers:
            sleeper.join(30)
    assert outcomes == {1.0: "number 0", 30.0: "shard_lost"}
    assert replaced["unanswered"] == 1
    assert 1_000 < replaced["gap_ms"] < 15_000  # The bound and the start of another, not what the call would take.


def test_workers_that_call_each_other_in_circles_let_each_other_go(serve: Serve, app: Path) -> None:
    """What a call of the leaving worker waits for comes back to it."""
    service = serve(2, app=str(app))
    stopped = threading.Event()
    errors: list[Exception] = []

    def chains(number: int) -> None:
        with tidegate.connect_sync(service.endpoint, timeout=30) as client:
            while not stopped.is_set():
                names = [NAMES[(number + at * 3) % len(NAMES)] for at in range(6)]
                try:
                    client.call("Counter", names[0], "pass_on", (names[1:],))
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=chains, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            ended = reload(service)
            print([(each["name"], each["waited_ms_max"], each["gap_ms"]) for each in ended["replaced"]])
            assert all(each["unanswered"] == 0 and each["gap_ms"] < 5_000 for each in ended["replaced"])
    finally:
        stopped.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


@pytest.mark.parametrize(("scheme", "routers"), [("tcp", 1), ("tcp", 2), ("ipc", 1)])
def test_no_caller_of_a_python_client_fails_while_routers_and_workers_are_replaced(
    serve: Serve, app: Path, tmp_path: Path, scheme: str, routers: int
) -> None:
    service = serve(2, "--routers", str(routers), app=str(app), start=False)
    if scheme == "ipc":
        service.endpoint = f"ipc://{tmp_path}/door"
    service.start(2, "--routers", str(routers))
    before = set(service.pids()) - {service.supervisor_pid}
    loads = [PythonLoad(service, 25, direct=direct) for direct in (False, True)]
    for load in loads:
        load.start()
    wait_until(lambda: all(load.answered > 200 for load in loads), "calls")
    for version in (2, 3):
        app.write_text(APP.format(version=version))
        done = command(service, "restart", "--rolling", "--json")
        assert done.returncode == 0, done.stderr
        ended = json.loads(done.stdout)
        assert [each["name"].split()[0] for each in ended["replaced"]] == ["router"] * routers + ["worker"] * 2
        assert versions(service) == {version}
    for load in loads:
        load.finish()
        print(f"direct {load.direct}: {load.answered} calls, {max(load.latencies_s) * 1_000:.0f} ms at most")
        assert load.errors == []
    assert not before & set(service.pids())


def test_a_restart_without_rolling_is_refused_with_the_way_to_do_it(serve: Serve) -> None:
    service = serve(1)
    done = command(service, "restart")
    assert done.returncode == 2
    assert "say --rolling" in done.stderr


def test_a_supervisor_killed_in_the_middle_of_a_reload_loses_nothing_confirmed(serve: Serve, app: Path) -> None:
    service = serve(2, app=str(app))
    clients = start_clients(service, 4, NAMES, until_refused=True)
    wait_for_answers(clients, 201)
    app.write_text(APP.format(version=2))
    service.supervisor.send_signal(signal.SIGHUP)
    service.wait_for_output("worker 0 is replaced")
    service.kill_supervisor()
    service.wait()
    finish(clients)
    assert_only(clients, {"unavailable": "not_executed", "shard_lost": "unknown", "connection_lost": "unknown"})
    service.start(2)
    assert judge(service.endpoint, clients) == []
    assert versions(service) == {2}
