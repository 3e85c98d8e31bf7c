"""What a process logs and prints, as it comes out: whoever writes it, and by whatever way."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidegate.runtime.logs.settings import VARIABLE, LogSettings, encode

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def run(script: str, environment: dict[str, str] | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    told = {VARIABLE: encode(LogSettings(**settings)).decode()} if settings else {}
    begin = "import logging, sys\nfrom tidegate.runtime.logs.capture import *\nstart_log('worker 3')\n"
    return subprocess.run(
        [sys.executable, "-c", begin + script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **told, **(environment or {})},
    )


def records(script: str, **settings: Any) -> list[dict[str, Any]]:
    done = run(script, format="json", **settings)
    return [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]


LOG = "log = logging.getLogger('tidegate')\nlog.error('one\\ntwo'); log.info('three'); log.debug('four')\n"


def test_a_log_line_names_its_date_zone_level_and_process() -> None:
    lines = run(LOG).stderr.splitlines()
    assert re.fullmatch(f"{STAMP} ERROR   worker 3: one", lines[0])
    assert lines[1] == "    two"
    assert re.fullmatch(f"{STAMP} INFO    worker 3: three", lines[2])
    assert len(lines) == 3


def test_the_zone_is_that_of_the_machine_also_across_a_change_of_it() -> None:
    assert "+05:45 INFO" in run(LOG, {"TZ": "Asia/Kathmandu"}).stderr


def test_the_supervisor_sets_the_levels_of_its_children() -> None:
    assert "four" in run(LOG, level="debug").stderr
    assert "three" not in run(LOG, level="warning").stderr
    loud = "logging.getLogger('asyncpg').info('quiet'); logging.getLogger('app.x').debug('loud')"
    assert [each["message"] for each in records(loud, levels={"asyncpg": "warning", "app": "debug"})] == ["loud"]


def test_every_print_is_a_line_with_the_stream_in_the_place_of_a_logger() -> None:
    done = run("print('one'); print('a', 'b', file=sys.stderr); print('two\\nthree'); sys.stdout.buffer.write(b'\\xff'); print()")
    assert re.fullmatch(f"{STAMP} INFO    worker 3 \\(stderr\\): a b\n", done.stderr)
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == ["one", "two", "three", r"\xff"]


def test_several_lines_that_are_written_at_once_are_one_line_of_the_log() -> None:
    assert [each["message"] for each in records("sys.stderr.write('Traceback\\n  File\\nValueError\\n'); print('next')")] == [
        "next", "Traceback\n  File\nValueError",
    ]  # fmt: skip
    text = run("sys.stderr.write('Traceback\\n  File\\n')").stderr
    assert re.fullmatch(f"{STAMP} INFO    worker 3 \\(stderr\\): Traceback\n      File\n", text)


def test_what_is_printed_without_a_line_break_is_a_line_in_the_end_and_when_it_gets_long() -> None:
    script = "print('whole'); print('a', end=''); print('b', end='')"  # Since Python 3.12 no thread can be started so late.
    assert [each["message"] for each in records(script)] == ["whole", "ab"]
    (first, *rest) = records("print('x' * 200_000, end='')")
    assert len(first["message"]) == 65_536 + len("… (134464 characters more)")
    assert not rest


def test_pieces_of_lines_of_different_speakers_are_not_joined() -> None:
    script = """
who = [Speaker("A/a", "one", 1)]
speakers_are(lambda: who[0])
print("half a", end="")
who[0] = Speaker("B/b", "two", 2)
print("whole")
"""
    said = [(each["object"], each["method"], each["call"], each["message"]) for each in records(script)]
    assert said == [("A/a", "one", 1, "half a"), ("B/b", "two", 2, "whole")]


def test_every_logger_every_warning_and_every_thread_that_fails_is_a_line_with_its_traceback() -> None:
    script = """
import threading, warnings
speakers_are(lambda: Speaker("A/a", "one", 1))
warnings.warn("old")
def fail(): raise ValueError("in a thread")
thread = threading.Thread(target=fail, name="mine"); thread.start(); thread.join()
class Bad:
    def __del__(self): raise KeyError("late")
Bad()
try: 1 / 0
except ZeroDivisionError: logging.getLogger("app").exception("caught %s", "it")
logging.getLogger("app").info("with", extra={"order": 7, "unit": {1}})
logging.getLogger("app").info("broken %d", "x")
"""
    warned, ended, lost, caught, extra, broken = records(script)
    assert warned["logger"] == "py.warnings"
    assert "UserWarning: old" in warned["message"]
    assert ended["message"] == "the thread mine ended by an exception"
    assert ended["traceback"].endswith("ValueError: in a thread")
    assert lost["traceback"].endswith("KeyError: 'late'")
    assert caught["message"] == "caught it"
    assert caught["traceback"].endswith("ZeroDivisionError: division by zero")
    assert extra["extra"] == {"order": 7, "unit": "{1}"} or extra["extra"]["unit"] == [1]
    assert "has no text" in broken["message"]
    assert {each["object"] for each in (warned, caught, extra, broken)} == {"A/a"}


def test_a_handler_of_the_app_can_show_whose_line_it_is_and_send_it_elsewhere(tmp_path: Path) -> None:
    script = f"""
import pickle
speakers_are(lambda: Speaker("A/a", "one", 1))
handler = logging.FileHandler({str(tmp_path / "app.log")!r})
handler.setFormatter(logging.Formatter("%(tidegate)s: %(message)s"))
logging.getLogger("app").addHandler(handler)
logging.getLogger("app").info("hello")
record = logging.getLogger("app").makeRecord("app", 20, "", 0, "x", None, None)
assert b"tidegate.runtime" not in pickle.dumps(record.__dict__)
print(pickle.loads(pickle.dumps(record.__dict__))["tidegate"])
"""
    assert [each["message"] for each in records(script)] == ["A/a one[1]", "hello"]
    assert (tmp_path / "app.log").read_text() == "A/a one[1]: hello\n"


JOURNAL_LINES = "<3>worker 3: one\n<3>    two\n<6>worker 3: three\n"


@pytest.mark.parametrize(("format", "expected"), [("text", JOURNAL_LINES), ("json", "")])
def test_a_journal_that_is_written_to_as_a_stream_gets_priorities_unless_it_is_to_get_json(format: str, expected: str) -> None:
    read, write = os.pipe()
    status = os.fstat(write)
    script = (
        f"from tidegate.runtime.logs.capture import *; import logging; start_log('worker 3', LogSettings(format={format!r}))\n"
    )
    with open(write, "w") as journal, open(read) as lines:
        subprocess.run(
            [sys.executable, "-c", script + LOG], stderr=journal, check=True,
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )  # fmt: skip
        journal.close()
        said = lines.read()
        assert (
            said == expected if expected else [json.loads(line)["message"] for line in said.splitlines()] == ["one\ntwo", "three"]
        )


def test_a_stderr_that_is_not_the_journal_has_no_priorities() -> None:
    assert "<3>" not in run(LOG, {"JOURNAL_STREAM": "1:2"}).stderr


def test_journald_gets_each_line_as_one_datagram_and_none_is_lost_while_it_does_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        script = f"""
from tidegate.runtime.logs.output import JournalSink
JournalSink.open.__func__.__defaults__ = ({path!r},)
start_log('worker 3')
for n in range(1_000): logging.getLogger('app').info('line %d', n)
print('printed')
"""
        begin = "import logging\nfrom tidegate.runtime.logs.capture import *\n"
        told = {VARIABLE: encode(LogSettings(journal=(True, True))).decode()}
        done = subprocess.Popen([sys.executable, "-c", begin + script], env={**os.environ, **told})
        journald.settimeout(20)
        seen: list[bytes] = []
        while len(seen) < 1_001:
            if datagram := journald.recv(1 << 20):
                seen.append(datagram)
        assert done.wait(20) == 0
    assert b"MESSAGE=worker 3 (app): line 999\n" in seen[999]
    assert b"LOGGER=stdout\n" in seen[1_000]
    assert b"PRIORITY=6\n" in seen[0]


SHORT = """
import logging
class Own(logging.Handler):
    def emit(self, record): print("own", record.name, record.lineno > 0, record.getMessage(), file=sys.stderr)
log = logging.getLogger("app.orders")
log.info("%s and %s", "one", "two")
log.info("%(name)s", {"name": "mapped"})
log.info("%")
log.info("two\\n")
def add(): logging.getLogger("app").addHandler(Own()); log.info("handled"); logging.getLogger("app").handlers.clear()
def filtered(): log.addFilter(lambda record: False); log.info("never"); log.filters.clear()
def factory():
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *a, **o: (before(*a, **o), print("made", file=sys.stderr))[0]); log.info("by a factory")
    logging.setLogRecordFactory(before)
def gathered():
    before = logging.Logger.callHandlers
    logging.Logger.callHandlers = lambda self, record: (print("gathered", file=sys.stderr), before(self, record))
    log.info("for a service")
    logging.Logger.callHandlers = before
for each in add, filtered, factory, gathered: each()
logging.disable(logging.INFO); log.info("disabled"); logging.disable(logging.NOTSET)
log.info("last")
"""


def test_a_line_that_is_made_without_a_record_is_the_same_and_whoever_wants_records_gets_them() -> None:
    assert [(each["logger"], each["message"]) for each in records(SHORT)] == [
        ("app.orders", "one and two"),
        ("app.orders", "mapped"),
        ("app.orders", "%"),
        ("app.orders", "two"),
        ("stderr", "own app.orders True handled"),
        ("app.orders", "handled"),
        ("stderr", "made"),
        ("app.orders", "by a factory"),
        ("stderr", "gathered"),
        ("app.orders", "for a service"),
        ("app.orders", "last"),
    ]


def test_a_caller_that_a_handler_of_the_app_shows_is_the_line_that_has_logged() -> None:
    script = """
import logging
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(funcName)s %(threadName)s %(process)d %(filename)s"))
logging.getLogger("app").addHandler(handler)
def here(): logging.getLogger("app.x").info("hello")
here()
"""
    shown = records(script)[0]["message"].split()
    assert (shown[0], shown[1], shown[3]) == ("here", "MainThread", "<string>")
