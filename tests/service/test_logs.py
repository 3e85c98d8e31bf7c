"""What an operator reads: every line of whoever's code says when, how grave, which process, which object, method and call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Serve, Service, exchange

APP = str(Path(__file__).with_name("apps") / "talk.py")
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Every one is JSON."""
    return [json.loads(line) for line in service.output.splitlines()]


def said(service: Service, last: str) -> list[dict[str, Any]]:
    """By objects, up to the line with that text."""
    service.wait_for_output(last)
    return [line for line in lines_of(service) if "object" in line]


def test_every_line_of_an_object_has_its_object_method_and_call_with_nothing_to_do(serve: Serve) -> None:
    service = serve(1, "--log-format", "json", app=APP)
    service.call("Talk", "alice", "say", "hello")
    service.call("Talk", "bob", "later", "on")
    found = said(service, "in a thread on")
    assert {(line["object"], line["method"]) for line in found} == {("Talk/alice", "say"), ("Talk/bob", "later")}
    assert [(line["logger"], line["level"], line["message"]) for line in found if line["logger"] != "py.warnings"] == [
        ("stdout", "info", "printed hello"),
        ("stderr", "info", "complained hello"),
        ("app.orders", "info", "logged hello"),
        ("some.library", "warning", "noticed hello"),
        ("app.orders", "info", "later on"),
        ("stdout", "info", "first on"),
        ("stdout", "info", "second on"),
        ("stdout", "info", "in a thread on"),
    ]
    (warned,) = [line["message"] for line in found if line["logger"] == "py.warnings"]
    assert "UserWarning: old hello" in warned
    assert {line["process"] for line in found} == {"worker 0"}
    assert len({line["call"] for line in found}) == 2
    assert all(re.fullmatch(STAMP, line["time"]) for line in lines_of(service))


def test_what_is_written_past_python_is_a_line_of_the_worker_and_of_nobody_else(serve: Serve) -> None:
    service = serve(1, app=APP)
    service.call("Talk", "a", "past_python")
    service.wait_for_output("forged")
    assert re.search(rf"^{STAMP} INFO    worker 0 \(stderr\): written to 2$", service.output, re.M)
    assert re.search(rf"^{STAMP} INFO    worker 0 \(stderr\): 2026-01-01.* supervisor: forged$", service.output, re.M)


def test_neither_a_name_nor_a_message_nor_a_print_forges_a_line(serve: Serve) -> None:
    service = serve(1, app=APP)
    name = "x\n2026-01-01T00:00:00.000+00:00 ERROR   supervisor: forged by a name\x1b[2J"
    for _ in range(2):
        service.call("Talk", name, "forge")
        assert exchange(service.endpoint, "Talk", name, "fail", [name])[0] == 1
    service.expect("raised: ValueError", "Traceback", "^ {4}")
    service.wait_for_output("raised: ValueError")
    assert not re.search(r"^\S+ ERROR", service.output, re.M)
    assert "\x1b" not in service.output
    assert "\r" not in service.output


def test_3_000_raising_calls_are_a_few_lines_that_count_them_with_one_traceback_of_the_app(serve: Serve) -> None:
    service = serve(1, app=APP)
    service.expect("raised: ValueError", "Traceback", "^ {4}")
    before = len(service.output)
    for number in range(300):
        assert exchange(service.endpoint, "Talk", f"o{number % 7}", "fail", [f"no {number}"])[0] == 1
    service.wait_for_output(r"\(\d+ of this kind since the last line\)")
    assert len(service.output) - before < 2_000
    assert service.output.count("Traceback") == 1
    assert "shard/host" not in service.output
    assert "talk.py" in service.output


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_that_is_logged_has_its_traceback_in_the_same_line(serve: Serve, form: str) -> None:
    service = serve(1, "--log-format", form, app=APP)
    service.expect(r"\(app.orders\): caught", '"level":"error"', "Traceback")
    service.call("Talk", "a", "caught")
    service.wait_for_output("ValueError: inner")
    assert "spare.py" not in service.output
    if form == "json":
        (line,) = said(service, "ValueError: inner")
        assert line["traceback"].endswith("ValueError: inner")
    else:
        head = r"^.* ERROR   worker 0 Talk/a caught\[\d+\] \(app.orders\): caught"
        assert re.search(head + r"\n    Traceback.*\n(    .*\n)+", service.output, re.M)
