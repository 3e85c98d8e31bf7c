"""How lines look, and that nothing in them can be taken for another line, or for another part of one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.limits import LINE_CHARACTERS_MAX
from tidegate.runtime.logs.forms import as_journal, as_journal_text, as_json, as_text
from tidegate.runtime.logs.line import Line

TIME = "2026-11-29T03:04:05.678+01:00"
HEAD = re.compile(
    r"\S+ (?P<level>[A-Z]+) +(?P<process>supervisor|router|worker \d+)"
    r'(?: (?P<object>"(?:[^"\\]|\\.)*"|[^\s("]+)(?: (?P<method>"(?:[^"\\]|\\.)*"|[^\s("\[]+)(?:\[(?P<call>[^\]]*|".*?")\])?)?)?'
    r'(?: \((?P<logger>"(?:[^"\\]|\\.)*"|[^\s()"]+)\))?: '
)


def line(message: str = "said", **parts: Any) -> Line:
    return Line(TIME, parts.pop("level", "info"), "worker 1", parts.pop("logger", "tidegate"), message, **parts)


def test_a_line_of_text_says_when_how_grave_who_and_what() -> None:
    assert as_text(line()) == f"{TIME} INFO    worker 1: said\n".encode()
    of_object = line(object="Counter/alice", method="increment", call=17, logger="app.orders", level="warning")
    assert as_text(of_object) == f"{TIME} WARNING worker 1 Counter/alice increment[17] (app.orders): said\n".encode()


def test_a_line_of_json_has_every_part_that_is_known_and_no_other() -> None:
    assert json.loads(as_json(line())) == {
        "time": TIME, "level": "info", "process": "worker 1", "logger": "tidegate", "message": "said",
    }  # fmt: skip
    whole = line(object="Counter/alice", method="increment", call="s.17", traceback="Traceback", extra={"order": 1}, pid=3)
    assert json.loads(as_json(whole)) == {
        "time": TIME, "level": "info", "process": "worker 1", "logger": "tidegate", "message": "said", "pid": 3,
        "object": "Counter/alice", "method": "increment", "call": "s.17", "traceback": "Traceback", "extra": {"order": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a b", "a: b", "a]", 'a"b', "a\nb", "a\x1b[31m", "a\u2028b", "a\u202eb", "x" * 2_000, "a:", "", "(app)", "\ud800"]
)
def test_a_name_that_could_be_taken_for_another_part_stands_in_quotes(name: str) -> None:
    text = as_text(line("said: x", object=f"Counter/{name}", method="get", call=name or "0")).decode()
    assert text.count("\n") == 1
    found = HEAD.match(text)
    assert found is not None, text
    assert found["method"] == "get"
    assert text[found.end() :] == "said: x\n"


@given(st.text(), st.text(), st.text(), st.text())
def test_whatever_a_line_is_made_of_it_is_one_line_in_every_form(name: str, message: str, call: str, logger: str) -> None:
    made = {"object": f"C/{name}", "method": "m", "call": call, "traceback": message, "logger": logger}
    text = as_text(line(message, **made)).decode()
    first, *others = text.removesuffix("\n").split("\n")
    assert first.startswith(TIME)
    assert all(other.startswith("    ") for other in others)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\r]", text)
    data = as_json(line(message, **made))
    assert len(data.decode().splitlines()) == 1
    for each in as_journal_text(line(message, **made)).decode().removesuffix("\n").split("\n"):
        assert each.startswith("<6>")


@given(st.text(), st.text())
def test_a_reader_of_json_gets_back_what_was_said(name: str, message: str) -> None:
    read = json.loads(as_json(line(message, object=name)))
    assert (read["message"], read.get("object", "")) == (message, name)


def test_what_has_no_json_is_shown_by_its_repr_and_costs_no_line() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise ValueError

    assert json.loads(as_json(line(extra={"one": {1, 2}.__class__})))["extra"] == {"one": "<class 'set'>"}
    assert json.loads(as_json(line("a\ud800", call="\ud800", extra={"one": Mute()})))["message"] == "a\\ud800"


def test_a_very_long_message_is_cut_and_says_by_how_much() -> None:
    long = "é" * (LINE_CHARACTERS_MAX + 5)
    for data in (as_text(line(long)), as_json(line(long)), as_journal_text(line(long))):
        assert "… (5 characters more)" in data.decode()


def fields(datagram: bytes) -> dict[str, str]:
    """As journald reads it."""
    found: dict[str, str] = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size :].removeprefix(b"\n")
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


def test_a_datagram_for_journald_has_the_parts_as_fields_and_none_can_be_forged() -> None:
    forged = "x\nPRIORITY=0\nMESSAGE=forged"
    read = fields(as_journal(line(forged, object=forged, method="m", call=7, traceback="T\nU", level="error", extra={"a": 1})))
    assert read["PRIORITY"] == "3"
    assert read["TIDEGATE_OBJECT"] == forged
    assert read["TIDEGATE_CALL"] == "7"
    assert read["TIDEGATE_TRACEBACK"] == "T\nU"
    assert json.loads(read["TIDEGATE_EXTRA"]) == {"a": 1}
    assert read["MESSAGE"].startswith('worker 1 "x\\nPRIORITY=0\\nMESSAGE=forged" m[7]: x\n    PRIORITY=0')
    assert set(fields(as_journal(line()))) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "TIDEGATE_PROCESS", "LOGGER"}
