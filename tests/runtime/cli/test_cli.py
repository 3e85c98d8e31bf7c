"""The command line over a real service: what is printed, what is said when something is wrong, and the exit codes."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service_process import ServiceProcess, running
from tests.support.waiting import wait_until
from tidegate.runtime.cli.arguments import parse_arguments
from tidegate.runtime.cli.asking import read_status
from tidegate.runtime.cli.cli import _parser, main
from tidegate.runtime.cli.configuration import asked_for, read_configuration
from tidegate.runtime.cli.pages import render_alarms, render_status, render_top

APP = """
from tidegate import DurableObject

class Counter(DurableObject):
    async def get_unique_number(self) -> int:
        value = await self.storage.get("counter", 0)
        await self.storage.put("counter", value + 1)
        return value

    async def join(self, first: str, second: list[int], *, sep: str = "-") -> dict[str, str]:
        return {"joined": f"{first}{sep}{second}"}

    async def fail(self) -> None:
        raise ValueError("not today")
"""


def serve(*arguments: str) -> list[str]:
    return ["-P", "-m", "tidegate", "serve", *arguments]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, str, Path]]:
    """A running service, its endpoint, its folder."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "app.py").write_text(APP)
    # A module of the user's that has the name of one of ours must not take its place.
    (folder / "router.py").write_text("raise SystemExit('the wrong router')")
    (folder / "shard.py").write_text("raise SystemExit('the wrong shard')")
    with running(serve("app.py", "--listen", "tcp://127.0.0.1:0", "--workers", "2"), cwd=str(folder)) as service:
        endpoint = service.wait_for(r"is ready on (\S+)")[1]
        yield service, endpoint, folder
        assert service.stop() == 0


def tidegate(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tidegate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)


def fails(*arguments: str, cwd: Path | None = None) -> str:
    """What a command that must fail says, one line."""
    done = tidegate(*arguments, cwd=cwd)
    assert done.returncode == 1, done
    assert done.stderr.startswith("tidegate: ")
    return done.stderr.removeprefix("tidegate: ").rstrip("\n")


# call


def test_the_environment_names_the_service_where_the_command_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_CONNECT", "tcp://127.0.0.1:1234")
    for words in (["status"], ["objects", "ls"], ["top"], ["console"], ["bench"], ["config", "show"]):
        parsed = _parser().parse_args(words)
        assert parsed.connect == "tcp://127.0.0.1:1234", words
        assert _parser().parse_args([*words, "--connect", "ipc:///x"]).connect == "ipc:///x"
    monkeypatch.setenv("TIDEGATE_CONNECT", "nonsense")
    with pytest.raises(SystemExit):
        main(["status"])
    assert "not 'nonsense' (by TIDEGATE_CONNECT)" in capsys.readouterr().err


def test_a_call_prints_the_result(service: tuple[ServiceProcess, str, Path]) -> None:
    for number in ("0\n", "1\n", "2\n"):
        done = tidegate("call", "--connect", service[1], "Counter", "alice", "get_unique_number")
        assert (done.stdout, done.stderr, done.returncode) == (number, "", 0)


def test_a_key_of_a_call_that_is_none_is_refused_before_anything_is_called() -> None:
    for key in ("", "k" * 65):
        done = tidegate("call", "--connect", "ipc:///nobody", "--key", key, "Counter", "alice", "get_unique_number")
        assert done.returncode == 2
        assert "a key has 1 to 64 bytes" in done.stderr


@pytest.mark.parametrize("arguments", [['"a"', "[1, 2]"], ['first="a"', "second=[1,2]"]])
def test_arguments_are_json_by_position_or_by_name(service: tuple[ServiceProcess, str, Path], arguments: list[str]) -> None:
    done = tidegate("call", "--connect", service[1], "Counter", "x", "join", *arguments)
    assert json.loads(done.stdout) == {"joined": "a-[1, 2]"}, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Nothing", "x", "m"], "call Nothing/x m: unknown_class: .*(not executed)"),
        (["Counter", "x", "nothing"], "call Counter/x nothing: unknown_method: .*(not executed)"),
        (["Counter", "x", "join", "1", "2"], "call Counter/x join: bad_arguments: .*(not executed)"),
        (["Counter", "x", "fail"], "call Counter/x fail: exception: ValueError: not today (executed)"),
    ],
)
def test_an_error_is_one_line_with_its_fate(
    service: tuple[ServiceProcess, str, Path], arguments: list[str], message: str
) -> None:
    said = fails("call", "--connect", service[1], *arguments)
    start, _, end = message.partition(".*")
    assert said.startswith(start)
    assert said.endswith(end)
    assert "\n" not in said


def test_an_error_can_be_had_as_json(service: tuple[ServiceProcess, str, Path]) -> None:
    done = tidegate("call", "--connect", service[1], "Counter", "x", "fail", "--json")
    assert json.loads(done.stdout)["error"]["type"] == "ValueError"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello"], "'hello' is not JSON (a text needs its quotes: '\"hello\"')"),
        (["a=hello"], "'hello' is not JSON"),
        (["1", "a=2"], "pass all arguments by position or all by name"),
        (["a=1", "a=2"], "a is given twice"),
    ],
)
def test_arguments_that_cannot_be_understood_are_a_wrong_command_line(arguments: list[str], message: str) -> None:
    done = tidegate("call", "Counter", "x", "m", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("text", "value"), [("-1e5", -1e5), ("-5", -5), ("-0.5", -0.5), ("-1E+5", -1e5), ("x=-1e5", {"x": -1e5}), (" 7", 7)]
)
def test_what_begins_like_a_number_is_an_argument_and_no_option(text: str, value: Any) -> None:
    for arguments in (["--timeout", "3", text], [text, "--timeout", "3"], [text, "--json"]):
        options = _parser().parse_args(["call", "Counter", "-5", "get", *arguments])
        assert options.name == "-5"
        positional, keywords = parse_arguments(options.arguments)
        assert (keywords or positional[0]) == value


NOWHERE = ["--connect", "tcp://127.0.0.1:1"]
CALL = ["call", "Counter", "a", "m"]


@pytest.mark.parametrize("command", [CALL, ["status"], ["alarms"], ["bench"]])
@pytest.mark.parametrize(
    "endpoint",
    ["nonsense", "", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", "tcp://*:7711",
     "tcp://a..b:1", "tcp://[::1:7711", "tcp://::1:7711", "tcp://127.0.0.1:1 ", "ipc://", "ipc:///nope", "ipc:///tmp",
     "ipc://" + "x" * 300, "http://127.0.0.1:7711", "7711", "127.0.0.1:7711", "tcp://no-such-host.invalid:1", "tcp://127.0.0.1:1"],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_reached_is_one_line(
    command: list[str], endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_line([*command, "--connect", endpoint], capsys)


@pytest.mark.parametrize("command", [CALL, ["status"], ["alarms"]])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1", "0", "1e400", "x", "", "-0.0", "1e7"])
def test_a_timeout_that_is_none_is_one_line(command: list[str], seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--timeout" in assert_one_line([*command, *NOWHERE, "--timeout", seconds], capsys, code=2)


@pytest.mark.parametrize(
    "text",
    ["1e400", "-1e400", "NaN", "-Infinity", "nope", '["a"', "x=", "=5", "", "\udcff", '"\udcff"', '"\\ud800"', "[" * 9_999,
     "01"],
)  # fmt: skip
def test_an_argument_that_is_no_json_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line([*CALL, *NOWHERE, text], capsys, code=2)


@pytest.mark.parametrize(
    "arguments",
    [["nope"], [], ["call"], ["call", "Counter"], ["status", "--nope"], ["status", "more"], ["status", "--timeout"],
     ["bench", "--concurrency", "x"], ["bench", "--concurrency", "1,,2"], ["bench", "--requests", "-1"],
     ["bench", "--requests", "1e3"], ["bench", "--objects", "0"], ["bench", "--route", "x"], ["serve", "--dev=1"]],
)  # fmt: skip
def test_a_command_line_that_is_wrong_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage: tidegate" in assert_one_line(arguments, capsys, code=2)


@pytest.mark.parametrize(
    "arguments",
    [["nope.py"], ["."], [":"], ["..:a"], ["a b"], ["app.py:a b"], ["app.py:Counter:X"], ["app.py/x"], [""], ["./the.cfg"],
     ["app.py", "--workers", "0"], ["app.py", "--workers", "-1"], ["app.py", "--workers", "1.5"], ["app.py", "--workers", "4.0"],
     ["app.py", "--workers", "1e0"],
     ["app.py", "--routers", "65"], ["app.py", "--listen", "nonsense"], ["app.py", "--listen", "tcp://[::1:1"],
     ["app.py", "--listen", "ipc://" + "x" * 300], ["app.py", "--log-level", "loud"],
     ["app.py", "--config", "nope"], ["app.py", "--config", "/tmp"], ["app.py", "--config", "/bin/true"]],
)  # fmt: skip
def test_a_service_that_cannot_be_started_as_told_is_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "the.cfg").write_text("")
    assert_one_line(["serve", *arguments], capsys)


@pytest.mark.parametrize(
    "arguments",
    [["the.cfg", "--dev"], ["app.py:Class"], ["app.py", "--data", "app.py"], ["app.py", "--data", "/dev/null/x"],
     ["app.py", "--routers", "2", "--listen", "tcp://no-such-host.invalid:1"], ["app.py", "--listen", "tcp://no-such-host.invalid:1"]],
)  # fmt: skip
def test_a_start_that_finds_out_later_that_it_cannot_is_one_line_too(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "the.cfg").write_text("")
    assert fails("serve", *arguments, cwd=tmp_path).count("\n") == 0


@pytest.mark.parametrize(
    "toml",
    ["service = 5", "[service]\napp = 5", "[service]\nworkers = true", "[service]\nliveness_s = nan", "[service]\nstop_s = inf",
     "[service]\nlisten = ''", "[service]\ndev = 'yes'", "[storage]\ncache_mib = -1", "[storage]\nidle_evict_s = '1'",
     "[log]\nlevel = ['info']", "[nope]", "[service]\nnope = 1", "x = 1", "[[service]]", "[service", "[service]\nworkers = 1e3",
     "[service]\ndata = {a = 1}", "[service]\nrouters = 2020-01-01"],
)  # fmt: skip
def test_a_configuration_that_is_wrong_is_one_line(toml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tidegate.toml").write_text(toml)
    (tmp_path / "app.py").write_text(APP)
    said = assert_one_line(["serve", str(tmp_path / "app.py"), "--config", str(tmp_path / "tidegate.toml")], capsys, code=1)
    assert "tidegate.toml" in said


@pytest.mark.parametrize("arguments", [["bench", "--help"], ["call", "Cöunter", "ä", "m", '"€"', *NOWHERE], ["status", "ü"]])
def test_a_terminal_that_knows_few_characters_gets_the_others_as_escapes(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "tidegate", *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr.count("\n") == 1


def assert_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int | None = None) -> str:
    try:
        got = main(arguments)
    except SystemExit as exited:
        got = int(str(exited.code))
    said = capsys.readouterr()
    assert got == code if code is not None else got in (1, 2)
    assert said.out == ""
    assert said.err.startswith("tidegate")
    assert said.err.count("\n") == 1, said.err
    return said.err


def test_texts_that_contain_an_equals_sign_are_still_texts() -> None:
    assert parse_arguments(['"a=b"', '{"a=": 1}']) == (["a=b", {"a=": 1}], {})


def test_a_program_that_calls_nobody_gets_json_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        endpoint = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    done = tidegate("call", "Counter", "x", "m", "--json", "--connect", endpoint)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["outcome"], error["retryable"]) == ("unavailable", "not_executed", True)
    assert done.stderr == f"tidegate: {error['message']}\n"
    assert done.returncode == 1


@pytest.mark.parametrize("command", [["call", "Counter", "x", "m"], ["status"]])
def test_nothing_listening_is_said_at_once(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        endpoint = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    said = fails(*command, "--connect", endpoint)
    assert said.startswith(f"connect {endpoint}: nothing is listening there (start a service: tidegate serve APP")


def test_a_silent_listener_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        said = fails("call", "Counter", "x", "m", "--connect", endpoint, "--timeout", "0.3")
    assert said.startswith("call Counter/x m: ")


def test_an_abstract_unix_socket_is_found_by_the_name_that_zeromq_gives_it() -> None:
    endpoint = f"ipc://@tidegate-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"\0tidegate-test-{os.getpid()}")
        silent.listen()
        said = fails("call", "Counter", "x", "m", "--connect", endpoint, "--timeout", "0.3")
    assert said.startswith("call Counter/x m: deadline_exceeded")


# status


def test_status_is_a_page_to_read(service: tuple[ServiceProcess, str, Path]) -> None:
    page = tidegate("status", "--connect", service[1]).stdout
    assert page.startswith(f"serving on {service[1]} for ")
    assert re.search(rf"app {re.escape(str(service[2] / 'app.py'))} \(version [0-9a-f]{{8}}\): Counter\n", page)
    _, processes, *_ = page.split("\n\n")  # What is called most stands below, where anything was called.
    assert [line.split()[0] for line in processes.splitlines()[1:]] == ["supervisor", "router", "worker", "worker"]


def test_status_as_json_has_everything(service: tuple[ServiceProcess, str, Path]) -> None:
    status = json.loads(tidegate("status", "--connect", service[1], "--json").stdout)
    assert status["state"] == "serving"
    assert status["data"] == str(service[2] / "tidegate-data")
    assert [process["name"] for process in status["processes"]] == ["supervisor", "router", "worker 0", "worker 1"]
    assert status["processes"][0]["pid"] == service[0].pid
    assert sorted(status["processes"][2]["shards"] + status["processes"][3]["shards"]) == list(range(status["shards"]))


def test_a_degraded_service_shows_what_is_wrong_with_which_process() -> None:
    worker = {"name": "worker 0", "state": "down", "pid": None, "core": 1, "restarts": 7}
    worker |= {"flapping": True, "last_problem": "disk full"}
    status = {
        "state": "degraded", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000, "app": "a.py",
        "app_version": "0badcafe", "class_names": [], "data": "/d", "shards": 1, "processes": [worker],
    }  # fmt: skip
    page = render_status(read_status(status), now_ms=1_000 + 1_000 * (2 * 86_400 + 3 * 3_600 + 59))
    assert page.startswith("degraded on tcp://x:1 for 2 d 3 h (Tidegate 1, start 3)\napp a.py (version 0badcafe): no classes\n")
    assert "\ndata /d: 1 shard\n" in page
    assert page.splitlines()[-1].split() == ["worker", "0", "down", "FLAPPING", "-", "1", "-", "-", "7", "disk", "full"]
    assert "alarms" not in page
    status["processes"] = [{**worker, "statistics": {"alarms_abandoned": 2}}] * 2
    assert "data /d: 1 shard\nalarms: 4 abandoned" in render_status(read_status(status), now_ms=1_000)


def test_problems_come_first_each_with_its_next_step() -> None:
    problems = [
        {"what": "nothing can be written: no space", "where": "worker 1, /d/log", "next": "make room"},
        {"what": "is\ndown", "where": "worker 0", "next": "wait"},
    ]
    status = {"state": "degraded", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000}
    page = render_status(read_status({**status, "problems": problems}), now_ms=2_000).splitlines()
    assert page[:6] == [
        "PROBLEM worker 1, /d/log: nothing can be written: no space",
        "  next: make room",
        "PROBLEM worker 0: is\\ndown",
        "  next: wait",
        "",
        "degraded, 2 problems on tcp://x:1 for 1 s (Tidegate 1, start 3)",
    ]


def test_objects_that_pile_up_work_or_data_are_shown_with_what_they_have() -> None:
    piles = [{"object": "A/a", "tasks": 1_200, "callbacks": 3, "cached_bytes": 2 << 20, "kept_bytes": 70 << 20}]
    worker = {"name": "worker 0", "state": "up", "pid": 1, "core": 1, "restarts": 0, "flapping": False, "last_problem": ""}
    worker["statistics"] = {"piles": piles}
    status = {
        "state": "serving", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000, "app": "a.py",
        "app_version": "0badcafe", "class_names": [], "data": "/d", "shards": 1, "processes": [worker],
    }  # fmt: skip
    page = render_status(read_status(status), now_ms=10_500).splitlines()
    assert page[-2:] == [
        "object piles up  tasks  timers, callbacks  cached   of its own, about",
        "A/a              1,200  3                  2.0 MiB  70.0 MiB",
    ]


def test_calls_that_are_not_answered_for_long_are_shown_with_what_they_wait_for_the_oldest_first() -> None:
    rows = [
        {"object": "A/b", "method": "run", "since_ms": 6_000, "calls": 1, "waits_for": ""},
        {"object": "A/a", "method": "get", "since_ms": 1_000, "calls": 3, "waits_for": "a.py:7 in get"},
    ]
    worker = {"name": "worker 0", "state": "up", "pid": 1, "core": 1, "restarts": 0, "flapping": False, "last_problem": ""}
    worker["statistics"] = {"long_calls": rows}
    status = {
        "state": "serving", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000, "app": "a.py",
        "app_version": "0badcafe", "class_names": [], "data": "/d", "shards": 1, "processes": [worker],
    }  # fmt: skip
    page = render_status(read_status(status), now_ms=101_000).splitlines()
    assert [line.rstrip() for line in page[-3:]] == [
        "call without an answer  runs for  of its object  waits for",
        "A/a get                 100 s     3              a.py:7 in get",
        "A/b run                 95 s      1",
    ]


def test_who_is_called_most_is_shown_also_of_a_service_that_does_not_tell_of_the_minute() -> None:
    older = {"hot_objects": [{"class_name": "A", "name": "old", "calls_per_s": 3.0}]}
    rates = {"class_name": "A", "calls_per_s": 0.0, "minute_per_s": 2.5}
    newer = {"hot_objects": [{**rates, "name": "now", "calls_per_s": 7.0}], "hot_objects_minute": [{**rates, "name": "then"}]}
    status = {"state": "serving", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000}
    workers = [{"name": f"worker {at}", "state": "up", "statistics": each} for at, each in enumerate((older, newer))]
    page = render_status(read_status({**status, "processes": workers}), now_ms=2_000).splitlines()
    assert [line.split() for line in page[-3:]] == [["A/now", "7", "2.5"], ["A/old", "3", "0.0"], ["A/then", "0", "2.5"]]


def test_objects_that_wait_behind_their_gates_are_shown_the_longest_first() -> None:
    waiting = [
        {"object": "A/a", "since_ms": 9_000, "waiting": 1, "closed_by": "on_start", "waits_for": ""},
        {"object": "B/b", "since_ms": 4_000, "waiting": 12, "closed_by": "an open transaction", "waits_for": "app.py:3 in f"},
    ]
    worker = {"name": "worker 0", "state": "up", "pid": 1, "core": 1, "restarts": 0, "flapping": False, "last_problem": ""}
    worker["statistics"] = {"waiting_objects": waiting}
    status = {
        "state": "serving", "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000, "app": "a.py",
        "app_version": "0badcafe", "class_names": [], "data": "/d", "shards": 1, "processes": [worker],
    }  # fmt: skip
    page = render_status(read_status(status), now_ms=10_500).splitlines()
    assert page[-3:] == [
        "object  waits for  events  its gate is closed by  which waits for",
        "B/b     6.5 s      12      an open transaction    app.py:3 in f",
        "A/a     1.5 s      1       on_start",
    ]


def test_abandoned_alarms_are_listed_newest_first_with_the_last_line_of_what_was_raised() -> None:
    def alarm(name: str, minute: int, error: str) -> dict[str, str]:
        at = f"2026-11-01T10:{minute}:00.123456Z"
        return {"class_name": "Bell", "name": name, "scheduled_for": at, "abandoned_at": at, "error": error}

    first, second, third = alarm("a", 10, "ValueError: no"), alarm("b", 30, "  note\nKeyError: 1"), alarm("c", 20, "")
    processes = [
        {"name": "router"},
        {"name": "worker 0", "statistics": {"alarms_abandoned": 2, "newest_abandoned": [first, second]}},
        {"name": "worker 1", "statistics": {"alarms_abandoned": 30, "newest_abandoned": [third]}},
    ]
    assert render_alarms(read_status({"processes": processes})).splitlines() == [
        "object  was due               abandoned             error",
        "Bell/b  2026-11-01T10:30:00Z  2026-11-01T10:30:00Z  KeyError: 1",
        "Bell/c  2026-11-01T10:20:00Z  2026-11-01T10:20:00Z",
        "Bell/a  2026-11-01T10:10:00Z  2026-11-01T10:10:00Z  ValueError: no",
        "and 29 more",
    ]


def test_names_and_texts_with_control_characters_stay_in_their_line_of_a_table() -> None:
    at = "2026-11-01T10:10:00.123456Z"
    alarm = {"class_name": "Bell", "name": "a\n\x1b[2J\x85", "scheduled_for": at, "abandoned_at": at, "error": "no\x1b[1A\u2028"}
    page = render_alarms(
        read_status({"processes": [{"name": "worker 0", "statistics": {"alarms_abandoned": 1, "newest_abandoned": [alarm]}}]})
    )
    assert page.count("\n") == 1
    assert "Bell/a\\n\\x1b[2J\\x85 " in page
    assert all(line.isprintable() for line in page.split("\n"))


def test_a_service_without_abandoned_alarms_says_so(service: tuple[ServiceProcess, str, Path]) -> None:
    assert tidegate("alarms", "--connect", service[1]).stdout == "no alarm was abandoned\n"
    assert json.loads(tidegate("alarms", "--connect", service[1], "--json").stdout) == []


# serve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "serve APP: no app given (name a file: tidegate serve app.py)"),
        (["nothing.py"], "serve nothing.py: no such file (name the Python file that defines your objects)"),
        (["folder/"], "serve folder/: is a directory, not a file"),
        (["app.py", "--workers", "0"], "read command line --workers: must be"),
        (["app.py", "--workers", "many"], "read command line --workers: must be"),
        (["app.py", "--listen", "7711"], "read command line --listen: must be an endpoint"),
        (["app.py", "--config", "none.toml"], "read none.toml: No such file or directory (correct --config)"),
        (["app.py", "--config", "bad.toml"], "read bad.toml [service] workres: unknown option (did you mean workers?)"),
        (["app.py", "--data", "full"], "open data directory {cwd}/full: not a data directory of Tidegate: it holds thesis.txt"),
        (["app.py", "--data", "newer"], "open data directory {cwd}/newer: format 7 is of another version of Tidegate"),
    ],
)
def test_a_start_that_cannot_work_is_refused_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "bad.toml").write_text("[service]\nworkres = 3\n")
    for folder in ("folder", "full", "newer"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "newer" / "tidegate.json").write_text('{"format": 7}')
    said = fails("serve", *arguments, cwd=tmp_path)
    assert said.startswith(message.format(cwd=tmp_path))
    assert "\n" not in said


def test_an_app_that_cannot_be_imported_is_refused_with_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def helper():\n    import no_such_module\n\nhelper()\n")
    said = fails("serve", "app.py", "--listen", "tcp://127.0.0.1:0", cwd=tmp_path)
    assert "No module named 'no_such_module'" in said.splitlines()[0]
    assert f'File "{tmp_path}/app.py", line 2, in helper' in said
    assert not any(ours in said for ours in ("runpy", "importlib", "load_app"))


def test_an_app_whose_path_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    with open(folder + b"/app.py", "w") as app:
        app.write(APP)
    said = fails("serve", os.fsdecode(folder + b"/app.py"), cwd=tmp_path)
    assert (
        said == f"read command line APP: must be UTF-8, without a zero byte, not '{tmp_path}/\\udcff/app.py' (correct the value)"
    )
    said = fails("serve", "app.py", cwd=Path(os.fsdecode(folder)))
    assert said == f"serve {tmp_path}/\\udcff/app.py: its path is not UTF-8 (rename it; if it is UTF-8, set LC_ALL=C.UTF-8)"


def test_a_port_that_is_taken_is_refused_with_the_endpoint(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = fails("serve", "app.py", "--listen", endpoint, cwd=tmp_path)
    assert said.startswith(f"listen {endpoint}: Address already in use")
    assert said.endswith("(stop the process that uses it, or choose another endpoint with --listen)")


def test_a_unix_socket_that_another_process_listens_on_is_not_taken_away_from_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "door"))
        other.listen()
        said = fails("serve", "app.py", "--listen", f"ipc://{tmp_path}/door", cwd=tmp_path)
    assert said.startswith(f"listen ipc://{tmp_path}/door: Address already in use (stop the process that uses it")


def test_several_routers_on_one_unix_socket_serve_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    door = f"ipc://{tmp_path}/door"
    with running(serve("app.py", "--listen", door, "--routers", "2", "--workers", "1"), cwd=str(tmp_path)) as service:
        service.wait_for("is ready on")
        for number in range(4):
            called = tidegate("call", "Counter", "a", "get_unique_number", "--connect", door)
            assert (called.stdout, called.returncode) == (f"{number}\n", 0), called.stderr
        assert service.stop() == 0
    assert not (tmp_path / "door").exists()


@pytest.mark.parametrize("share", [False, True], ids=["taken by one that does not share", "taken by one that shares"])
def test_several_routers_do_not_creep_in_beside_whoever_has_the_port(tmp_path: Path, share: bool) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        said = fails("serve", "app.py", "--listen", endpoint, "--routers", "2", cwd=tmp_path)
    hint = "stop the process that uses it, or choose another endpoint with --listen"
    assert said == f"listen {endpoint}: Address already in use ({hint})"


def test_a_router_that_was_killed_comes_back_on_the_port_the_system_chose(service: tuple[ServiceProcess, str, Path]) -> None:
    def router() -> dict[str, object]:
        answered = tidegate("status", "--connect", service[1], "--json")
        return dict(json.loads(answered.stdout)["processes"][1]) if answered.returncode == 0 else {}

    before = router()
    os.kill(int(str(before["pid"])), signal.SIGKILL)
    wait_until(lambda: router().get("restarts") == 1, "the restart of the router")
    assert tidegate("call", "--connect", service[1], "Counter", "bob", "get_unique_number").stdout == "0\n"


def test_a_data_directory_in_use_is_refused_with_the_pid(service: tuple[ServiceProcess, str, Path]) -> None:
    said = fails("serve", "app.py", "--listen", "tcp://127.0.0.1:0", cwd=service[2])
    place = f"open data directory {service[2]}/tidegate-data"
    assert said.startswith(f"{place}: in use by the service with pid {service[0].pid} (stop it first")


def test_more_workers_than_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tidegate.json").write_text('{"format": 1, "shards": 2, "starts": 5}')
    said = fails("serve", "app.py", "--data", "data", "--workers", "3", cwd=tmp_path)
    assert said == "place 3 workers: the data directory has only 2 shards (use --workers 2 or fewer)"


def test_later_sources_of_configuration_win(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "t.toml").write_text(
        f'[service]\napp = "{tmp_path}/app.py"\nworkers = 3\nrouters = 2\nlisten = "tcp://127.0.0.1:1"\n'
    )
    options = argparse.Namespace(config=str(tmp_path / "t.toml"), service_workers=5, service_listen=None)
    environment = {"STATE_DIRECTORY": "/var/lib/tidegate:/x", "TIDEGATE_LOG_FORMAT": "json", "TIDEGATE_SERVICE_WORKERS": "4"}
    config = read_configuration(asked_for(options, environment)).config
    assert config.log.format == "json"
    assert config.service.workers == 5
    assert config.service.routers == 2
    assert config.service.listen == "tcp://127.0.0.1:1"
    assert config.service.data == "/var/lib/tidegate"


# The grammar


def test_help_names_every_command_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "call", "status"):
        assert f"  tidegate {command}" in text
    commands = re.findall(r"^    (\w+)  ", text, re.MULTILINE)
    assert len(commands) == 29
    for command in commands:
        with pytest.raises(SystemExit) as exit_info:
            main([command, "--help"])
        assert exit_info.value.code == 0
        text = capsys.readouterr().out
        _, says, *_ = text.split("\n\n")
        assert not says.startswith(("options:", "positional")), f"{command} does not say what it does"
        assert re.search(rf"\n\nexamples?:\n  tidegate .*{command}", text), f"{command} has no example"


def test_an_option_that_a_command_does_not_have_is_answered_by_those_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--colour"])
    assert capsys.readouterr().err == (
        "tidegate check: unrecognized arguments: --colour (usage: tidegate check [-h] [--json] [DATA])\n"
    )


@pytest.mark.parametrize("arguments", [[], ["dance"], ["call", "Counter"], ["serve", "app.py", "--colour"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage: tidegate" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error_with_a_traceback(service: tuple[ServiceProcess, str, Path]) -> None:
    command = f"{sys.executable} -m tidegate status --json --connect {service[1]} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert "Traceback" not in done.stderr


# top


def test_top_fits_any_terminal_and_shows_what_is_wrong_in_full() -> None:
    what = "does not answer, its last answer came 4 s ago; calls to its objects wait"
    problem = {"what": what, "where": "worker 1", "next": "wait"}
    worker = {"name": "worker 1", "state": "ready", "silent_s": 4.2, "rates": {"calls_per_s": 6123.4, "answer_p99_ms": 3.2}}
    status = {
        "state": "degraded", "problems": [problem] * 6, "listen": "tcp://x:1", "version": "1", "start": 3, "started_at_ms": 1_000,
        "app": "a.py", "class_names": ["Cart"], "rates": {"calls_per_s": 6123.4}, "processes": [worker] * 9,
        "class_rates": {"Cart": {"calls_per_s": 6123.4}, "Idle": {"calls_per_s": 0.0}},
    }  # fmt: skip
    for width in (20, 40, 200, 80):
        lines = [line for line, _ in render_top(read_status(status), 10_000, "nobody is there", width, 60)]
        assert max(map(len, lines)) <= width
        joined = " ".join(" ".join(lines).split())
        assert f"PROBLEM worker 1: {what}" in joined
        assert joined.startswith("NO ANSWER: nobody is there")
    assert "and 2 problems more: tidegate status" in joined
    assert re.search(r"worker 1 +last answer 4 s ago +6,123 +3.2", lines[-4])
    assert [line.split()[0] for line in lines[-2:]] == ["class", "Cart"]
    assert len(render_top(read_status(status), 10_000, "", 80, 5)) == 5


def test_versions_of_the_app_are_shown_where_workers_run_different_ones() -> None:
    processes = [{"name": f"worker {n}", "app_version": version} for n, version in enumerate("ab")]
    assert "app version" in render_status(read_status({"state": "degraded", "processes": processes}), 1)
    assert "app version" not in render_status(read_status({"state": "serving", "processes": processes[:1]}), 1)
