"""What the console answers over HTTP, and whom; the service behind it is a real one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.console.console_process import ConsoleProcess
from tests.support.service import Service
from tests.support.waiting import wait_until
from tidegate.runtime.cli.local import connect
from tidegate.runtime.console.admission import Admission
from tidegate.runtime.console.questions import ERRORS_SHOWN, Questions
from tidegate.runtime.console.server import Console
from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.shard.host.object_log import KEPT_LINES

QUESTIONS = ("overview", "errors", "alarms", "classes", "backups", "objects", "object", "rows", "value")
CHANGES = ("put", "delete", "alarm", "evict", "release")


def audited(shop: Service) -> list[dict[str, object]]:
    return [json.loads(line) for line in (shop.data / "audit.jsonl").read_text().splitlines()]


def digest(console: ConsoleProcess, name: str, key: str) -> str:
    return str(console.ask("value", class_name="Cart", name=name, key=key)["digest"])


# Who is let in


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_is_told_without_the_secret_or_to_another_name_or_site(console: ConsoleProcess, name: str) -> None:
    path = f"/api/{name}?class_name=Cart&name=alice&key=item/tea"
    assert console.request("GET", path, Authorization="").status == 401
    assert console.request("GET", path, Authorization="Bearer wrong").status == 401
    assert console.request("GET", path, Host="evil.example").status == 421
    assert console.request("GET", path, Origin="http://evil.example").status == 403
    assert console.request("GET", path, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_changed_without_the_secret_or_by_a_form_of_another_site(console: ConsoleProcess, name: str) -> None:
    body = b'{"class_name": "Cart", "name": "alice", "key": "x", "text": "1", "digest": "", "do": "run"}'
    path = f"/api/{name}"
    assert console.request("POST", path, body, Authorization="").status == 401
    assert console.request("POST", path, body, Origin="http://evil.example").status == 403
    assert console.request("POST", path, body, Host="evil.example").status == 421
    assert console.request("POST", path, body, Content_Type="text/plain").status == 415
    assert console.request("GET", path).status == 405


def test_files_of_the_page_need_no_secret_and_have_none_and_every_answer_is_guarded(console: ConsoleProcess) -> None:
    for path in ("/", "/main.js", "/console.css", "/icon.svg"):
        answer = console.request("GET", path, Authorization="")
        assert answer.status == 200
        assert console.secret.encode() not in answer.body
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/nothing", "/api/nothing", "/../pyproject.toml", "/api/overview"):
        answer = console.request("GET", path)
        assert answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    assert console.request("GET", "/", Host="evil.example", Authorization="").status == 421


def test_bad_questions_are_told_what_is_wrong_and_the_next_one_is_answered(console: ConsoleProcess) -> None:
    for name, query in (("objects", "limit=many"), ("object", "class_name=Cart"), ("value", "class_name=Cart&name=a")):
        answer = console.request("GET", f"/api/{name}?{query}")
        assert (answer.status, answer.told["error"]["code"]) == (400, "bad_request")
    for body in (b"", b"{", b"[]", b"\xff", b'{"class_name": 1}', b"[" * 100_000):
        assert console.request("POST", "/api/put", body).status == 400
    with socket.create_connection(tuple(console.host.split(":"))) as stranger:
        stranger.sendall(b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n")
        assert b" 400 " in stranger.recv(1 << 16)
    assert console.request("GET", "/api/overview").status == 200


# What it tells


def documented() -> dict[str, tuple[list[str], list[str]]]:
    """By question, what it takes and what it answers, as `docs/console.md` says."""
    page = (Path(__file__).parents[2] / "docs" / "console.md").read_text()
    rows = re.findall(r"^\| `/api/(\w+)` \|([^|]*)\|([^|]*)\|$", page, re.MULTILINE)
    return {name: (re.findall(r"`(\w+)`", takes), re.findall(r"`(\w+)`", answers)) for name, takes, answers in rows}


@pytest.mark.parametrize("name", documented())
def test_the_page_of_the_documentation_says_what_is_answered(shop: Service, console: ConsoleProcess, name: str) -> None:
    shop.call("Cart", "alice", "add", "tea")
    given = {"class_name": "Cart", "name": "alice", "prefix": "", "after": "", "limit": 10, "orphans": False, "key": "item/tea"}
    takes, answers = documented()[name]
    told = console.ask(name, **{each: given[each] for each in takes})
    assert answers
    assert set(answers) <= set(told), told
    if name == "value":
        assert json.loads(told["text"]) >= 1
    for each in told.get("hot", ()):
        assert set(each) == {"class_name", "name", "calls_per_s", "minute_per_s"}


def test_the_documentation_has_every_question_about_objects() -> None:
    kinds = Questions("tcp://127.0.0.1:1").looks()
    assert {name: list(kind.__struct_fields__) for name, (kind, _) in kinds.items()} == {
        name: takes for name, (takes, _) in documented().items() if takes
    }


def test_objects_are_found_by_how_their_name_begins_page_by_page(shop: Service, console: ConsoleProcess) -> None:
    names = [f"page/{at:02}" for at in range(12)]
    for name in names:
        shop.call("Cart", name, "add", "tea")
    found: list[str] = []
    after, more = "", True
    while more:
        told = console.ask("objects", class_name="Cart", prefix="page/", after=after, limit=5)
        found += [each["name"] for each in told["objects"]]
        after, more = f"Cart/{found[-1]}", told["more"]
    assert found == names
    told = console.ask("objects", prefix="Cart/page/1")
    assert [each["name"] for each in told["objects"]] == names[10:]
    assert console.ask("objects", class_name="Cart", prefix="page/9")["objects"] == []


def test_the_hottest_object_its_newest_error_and_slow_calls_are_told(shop: Service, console: ConsoleProcess) -> None:
    def hottest() -> bool:
        for _ in range(20):
            shop.call("Cart", "busy", "add", "tea")
        hot = console.ask("overview")["hot"]
        return bool(hot) and (hot[0]["class_name"], hot[0]["name"]) == ("Cart", "busy")

    wait_until(hottest, "the hottest object")
    with pytest.raises(AssertionError, match="the bank refuses card 12"):
        shop.call("Cart", "busy", "check_out", "12")
    newest = console.ask("object", class_name="Cart", name="busy")["errors"][0]
    assert (newest["kind"], newest["code"]) == ("error", "check_out")
    assert newest["what"] == "raised: PaymentRefused: the bank refuses card 12"
    told = wait_until(lambda: each if (each := console.ask("errors"))["errors"] else {}, "errors of all")
    assert (told["errors"][0]["class"], told["errors"][0]["name"]) == ("Cart", "busy")
    shop.call("Invoice", "slow", "render", 2)

    def found() -> list[dict[str, Any]]:  # On a busy machine others are slow, too.
        return [each for each in console.ask("errors")["slow"] if each["name"] == "slow"]

    (slow,) = wait_until(found, "a slow call")
    assert (slow["class"], slow["method"]) == ("Invoice", "render")
    assert slow["run_s"] > 0.2
    assert sum(slow[f"{part}_s"] for part in ("queue", "gate", "run", "commit")) == pytest.approx(slow["took_s"], abs=0.005)


def test_the_overview_has_points_of_the_last_minutes_and_calls_by_shard(shop: Service, console: ConsoleProcess) -> None:
    def seen() -> bool:
        for at in range(40):
            shop.call("Cart", f"spread-{at}", "add", "tea")
        told = console.ask("overview")
        return len(told["points"]) >= 2 and sum(told["shard_rates"].values()) > 1

    wait_until(seen, "points and shards")
    told = console.ask("overview")
    assert told["lost"] is None
    assert console.ask("overview", after=told["points"][-1][0])["points"] in ([], console.ask("overview")["points"][-1:])
    assert "classes" not in told["status"]


# Edits


def test_an_edit_is_made_if_the_value_is_still_what_was_shown_and_the_audit_log_has_it(
    shop: Service, console: ConsoleProcess
) -> None:
    shop.call("Cart", "edited", "add", "tea", 3)
    shown = digest(console, "edited", "item/tea")
    shop.call("Cart", "edited", "add", "tea", 1)
    target = {"class_name": "Cart", "name": "edited", "key": "item/tea"}
    late = console.change("put", **target, text="100", digest=shown)
    assert (late.status, shop.call("Cart", "edited", "add", "tea", 0)) == (409, 4)
    made = console.change("put", **target, text="100", digest=digest(console, "edited", "item/tea"))
    assert made.status == 200
    assert (made.told["before"]["text"], made.told["after"]["text"]) == ("4", "100")
    assert shop.call("Cart", "edited", "add", "tea", 1) == 101
    asked = [line for line in audited(shop) if line.get("object") == "Cart/edited"]
    assert [line["what"] for line in asked] == ["put", "put"]
    assert {line["by"]["uid"] for line in asked} == {os.geteuid()}  # type: ignore[index]  # whose process it is
    assert {line["by"]["pid"] for line in asked} == {console.process.pid}  # type: ignore[index]  # the console's
    states = [line["state"] for line in audited(shop) if line["edit"] in [each["edit"] for each in asked]]
    assert states == ["asked", "refused", "asked", "done"]


def test_a_new_key_is_made_only_where_there_is_none_and_deleted_only_as_it_was_shown(
    shop: Service, console: ConsoleProcess
) -> None:
    shop.call("Cart", "new", "add", "tea")
    target = {"class_name": "Cart", "name": "new", "key": "note"}
    assert console.change("put", **target, text='"one"', digest="").status == 200
    assert console.change("put", **target, text='"two"', digest="").status == 409
    assert console.change("delete", **target, digest="0" * 16).status == 409
    assert console.change("delete", **target, digest="").status == 422
    assert console.change("delete", **{**target, "key": ""}, digest="0" * 16).status == 422
    assert console.change("delete", **target, digest=digest(console, "new", "note")).status == 200
    assert console.request("GET", "/api/value?class_name=Cart&name=new&key=note").status == 404


@pytest.mark.parametrize("text", ["12345678901234567890", "1.0", "1e22", '{"$bytes": "AP8="}', '"\\u0000<b>"', "[[], {}, null]"])
def test_a_value_that_is_shown_and_saved_again_is_the_same_value(shop: Service, console: ConsoleProcess, text: str) -> None:
    shop.call("Cart", "same", "remember", "value", 0)
    target = {"class_name": "Cart", "name": "same", "key": "value"}
    made = console.change("put", **target, text=text, digest=digest(console, "same", "value"))
    assert made.status == 200
    shown = console.ask("value", **target)
    again = console.change("put", **target, text=shown["text"], digest=shown["digest"]).told
    assert again["before"]["digest"] == again["after"]["digest"] == shown["digest"]


@pytest.mark.parametrize("char", ['"', "\x01"])
def test_the_largest_value_is_shown_and_saved_as_it_is(shop: Service, console: ConsoleProcess, char: str) -> None:
    """Four and seven characters for each, quoted twice."""
    size = VALUE_BYTES_MAX - 5
    shop.call("Cart", "large", "remember_many", "value", char, size)
    target = {"class_name": "Cart", "name": "large", "key": "value"}
    shown = console.ask("value", **target)
    assert json.loads(shown["text"]) == char * size
    again = console.change("put", **target, text=shown["text"], digest=shown["digest"])
    assert again.status == 200, again
    assert (again.status, again.told["after"]["digest"]) == (200, shown["digest"])


def test_what_is_no_json_is_refused_before_anything_is_asked(console: ConsoleProcess, shop: Service) -> None:
    shop.call("Cart", "bad", "add", "tea")
    before = len(audited(shop)) if (shop.data / "audit.jsonl").exists() else 0
    answer = console.change("put", class_name="Cart", name="bad", key="x", text="tea", digest="")
    assert (answer.status, answer.told["error"]["message"]) == (422, "that is not JSON; a text needs its quotes")
    assert (len(audited(shop)) if (shop.data / "audit.jsonl").exists() else 0) == before


def test_alarms_are_listed_dropped_and_run(shop: Service, console: ConsoleProcess) -> None:
    for name in ("dropped", "run"):
        shop.call("Invoice", name, "remind_in", 10)
    wait_until(lambda: {"dropped", "run"} <= {each["name"] for each in console.ask("alarms")["alarms"]}, "the alarms")
    dropped = {"class_name": "Invoice", "name": "dropped", "do": "drop"}
    shown = {each["name"]: each["due_ms"] for each in console.ask("alarms")["alarms"]}
    assert console.change("alarm", **dropped).status == 422
    shop.call("Invoice", "dropped", "remind_in", 11)
    assert console.change("alarm", **dropped, due_ms=shown["dropped"]).status == 409
    due_ms = console.ask("object", class_name="Invoice", name="dropped")["alarm_due_ms"]
    assert console.change("alarm", **dropped, due_ms=due_ms).status == 200
    assert console.ask("object", class_name="Invoice", name="dropped")["alarm"] is None
    assert "dropped" not in {each["name"] for each in console.ask("alarms")["alarms"]}
    assert console.change("alarm", class_name="Invoice", name="run", do="run", due_ms=shown["run"]).status == 200
    wait_until(lambda: not console.ask("rows", class_name="Invoice", name="run")["rows"], "what its handler deletes")
    assert (
        console.change("alarm", class_name="Invoice", name="run", do="run", abandoned_at="2026-01-01T00:00:00+00:00").status
        == 422
    )


def test_slow_calls_push_no_error_off_a_page(shop: Service, console: ConsoleProcess) -> None:
    """More of them than errors are shown, and of the object itself more than are kept of one."""
    with pytest.raises(AssertionError, match="card 77"):
        shop.call("Cart", "slow and wrong", "check_out", "77")
    with ThreadPoolExecutor(16) as pool:
        names = [*(f"slow-{number}" for number in range(ERRORS_SHOWN + 5)), *["slow and wrong"] * (KEPT_LINES + 2)]
        list(pool.map(lambda name: shop.call("Cart", name, "ponder", 0.15), names))
    told = console.ask("errors")
    assert len(told["slow"]) == ERRORS_SHOWN
    assert ("slow and wrong", "check_out") in [(each["name"], each["code"]) for each in told["errors"]]
    assert all(each["kind"] != "slow" for each in told["errors"])
    of_object = console.ask("object", class_name="Cart", name="slow and wrong")["errors"]
    assert [each["kind"] for each in of_object].count("slow") == KEPT_LINES
    assert [each["code"] for each in of_object if each["kind"] == "error"] == ["check_out"]


# Many pages, and a service that goes away


def test_however_many_pages_are_open_a_service_is_asked_no_more_often(
    shop: Service, console: ConsoleProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def counted(supervisor: socket.socket, path: str, timeout_s: float) -> None:
        commands.append(path)
        connect(supervisor, path, timeout_s)

    monkeypatch.setattr("tidegate.runtime.cli.commanding.connect", counted)
    secret = "s" * 32
    listening = socket.create_server(("127.0.0.1", 0))
    url, headers = f"http://127.0.0.1:{listening.getsockname()[1]}", {"Authorization": f"Bearer {secret}"}

    async def main() -> float:
        console = Console(Questions(shop.endpoint), Admission(secret))
        await console.start(listening)
        async with aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(limit=40)) as pages:

            async def look() -> int:
                async with pages.get("/api/errors") as answer:
                    return answer.status

            began = time.monotonic()
            assert set(await asyncio.gather(*(look() for _ in range(200)))) == {200}
            took_s = time.monotonic() - began
        await console.close()
        return took_s

    took_s = asyncio.run(main())
    assert 1 <= len(commands) <= 1 + took_s, "an answer of this second is for all who ask"
    threads = [path.read_text().strip() for path in Path(f"/proc/{console.process.pid}/task").glob("*/comm")]
    assert len(threads) < 16


def test_an_object_that_keeps_its_gate_closed_keeps_nobody_from_the_overview(shop: Service, console: ConsoleProcess) -> None:
    shop.call("Invoice", "held", "remind_in", 10)
    with ThreadPoolExecutor(16) as pool:
        holds = pool.submit(shop.call, "Invoice", "held", "render", 20)
        wait_until(lambda: not console.ask("object", class_name="Invoice", name="held")["gate"]["open"], "a closed gate")
        held = {"class_name": "Invoice", "name": "held"}
        stuck = [pool.submit(console.ask, "rows", **held, limit=100 + at) for at in range(12)]
        for path in ("overview", "errors", "alarms"):
            assert console.request("GET", f"/api/{path}").status == 200
        assert not holds.done()
        assert holds.result() == 20
        assert all(each.result()["rows"] for each in stuck)


def test_a_service_that_ends_is_said_and_when_it_is_back_the_console_goes_on(shop: Service) -> None:
    with ConsoleProcess(shop.endpoint) as console:
        assert shop.stop() == 0
        lost = wait_until(lambda: console.ask("overview")["lost"], "that it is lost")
        assert lost["why"] == "no service of this user answers there"
        assert console.request("GET", "/api/errors").status == 503
        shop.start(2)
        wait_until(lambda: console.ask("overview")["lost"] is None, "that it is back")
        shop.call("Cart", "back", "add", "tea")
        assert console.ask("rows", class_name="Cart", name="back")["rows"]


def run_console(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tidegate", "console", *words], capture_output=True, text=True, check=False)


def test_it_does_not_start_where_there_is_no_service_or_where_others_could_listen() -> None:
    nobody = run_console("--connect", "tcp://127.0.0.1:1", "--listen", "127.0.0.1:0")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no service of this user answers there" in nobody.stderr
    everywhere = run_console("--listen", ".".join("0000") + ":7780")
    assert everywhere.returncode == 1
    assert "ssh -L" in everywhere.stderr


def test_an_address_that_is_taken_is_said_in_one_line(console: ConsoleProcess, shop: Service) -> None:
    taken = run_console("--connect", shop.endpoint, "--listen", console.host)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert taken.stderr.startswith(f"tidegate: listen --listen {console.host}: Address already in use (choose another")


def test_it_ends_though_a_question_is_under_way(shop: Service, console: ConsoleProcess) -> None:
    def long() -> dict[str, Any]:
        told: dict[str, Any] = console.ask("object", class_name="Invoice", name="long")
        return told

    shop.call("Invoice", "long", "remind_in", 10)
    with ThreadPoolExecutor(2) as pool, ConsoleProcess(shop.endpoint) as ending:
        pool.submit(shop.call, "Invoice", "long", "render", 50)
        wait_until(lambda: not long()["gate"]["open"], "a closed gate")
        stuck = pool.submit(ending.request, "GET", "/api/rows?class_name=Invoice&name=long")
        wait_until(lambda: long()["queue_count"], "the question")
        ending.stop(signal.SIGINT)
        assert not long()["gate"]["open"], "it has not waited for the answer"
        assert stuck.exception() is not None or stuck.result().status != 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_quietly_when_it_is_asked_to(shop: Service, number: signal.Signals) -> None:
    ConsoleProcess(shop.endpoint).stop(number)
