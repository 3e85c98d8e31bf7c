"""What holds up the loop, by what names stand for, and in whatever a handler calls."""

from __future__ import annotations

import pytest

from tidegate.runtime.lint.findings import findings

CLASS = "from tidegate import DurableObject\nclass C(DurableObject):\n    async def m(self):\n        "


def named(before: str, line: str, after: str = "") -> list[tuple[int, str]]:
    found = findings(f"{before}\n{CLASS}{line}\n{after}\n")
    assert {each.rule for each in found} <= {"blocks"}
    return [(each.line, each.text.partition(" ")[0]) for each in found]


@pytest.mark.parametrize(("before", "line", "name"), [
    ("import time", "time.sleep(1)", "time.sleep"),
    ("from time import sleep", "sleep(1)", "time.sleep"),
    ("from time import sleep as rest", "rest(1)", "time.sleep"),
    ("import time as t", "t.sleep(1)", "time.sleep"),
    ("", "open('x')", "open"),
    ("", "input()", "input"),
    ("import requests", "requests.put('x')", "requests.put"),
    ("from requests import delete", "delete('x')", "requests.delete"),
    ("import httpx", "httpx.get('x')", "httpx.get"),
    ("import urllib.request", "urllib.request.urlopen('x')", "urllib.request.urlopen"),
    ("import subprocess", "subprocess.check_call(['x'])", "subprocess.check_call"),
    ("import subprocess as sp", "sp.Popen('x')", "subprocess.Popen"),
    ("import os", "os.system('x')", "os.system"),
    ("import sqlite3", "sqlite3.connect('x')", "sqlite3.connect"),
    ("import redis", "redis.Redis().get('x')", "redis.Redis"),
    ("from redis import from_url", "from_url('redis://x')", "redis.from_url"),
    ("import boto3", "boto3.client('s3')", "boto3.client"),
    ("from pymongo import MongoClient", "MongoClient()", "pymongo.MongoClient"),
    ("import mysql.connector", "mysql.connector.connect()", "mysql.connector.connect"),
    ("from pathlib import Path", "Path('x').read_text()", "pathlib.Path.read_text"),
    ("from pathlib import Path", "return (Path() / 'x').read_bytes()", "read_bytes"),
    ("from pathlib import Path", "Path('x').open()", "pathlib.Path.open"),
])  # fmt: skip
def test_what_blocks_is_named_whatever_it_is_imported_as(before: str, line: str, name: str) -> None:
    assert named(before, line) == [(5, name)]


@pytest.mark.parametrize(("before", "line"), [
    ("import asyncio, time", "await asyncio.to_thread(time.sleep, 1)"),
    ("import asyncio", "await asyncio.to_thread(lambda: open('x').read())"),
    ("import asyncio", "await asyncio.sleep(1)"),
    ("from anyio import Path", "return await Path('x').read_text()"),
    ("from aiofiles import open", "async with open('x') as file: return file"),
    ("def open(x): return x", "return open(1)"),
    ("", "return self.time.sleep(1)"),
    ("time = None", "return time.sleep(1)"),
    ("import subprocess", "return subprocess.PIPE"),
    ("import redis.asyncio", "return redis.asyncio.Redis()"),
    ("from redis.asyncio import Redis", "return Redis()"),
])  # fmt: skip
def test_what_does_not_block_is_left_alone(before: str, line: str) -> None:
    assert named(before, line) == []


def test_what_a_handler_calls_is_looked_at_and_what_it_hands_over_is_not() -> None:
    helpers = (
        "import asyncio, time\ndef rest():\n    time.sleep(1)\ndef longer():\n    rest()\n"
        "def handed_over():\n    time.sleep(2)\ndef of_nobody():\n    time.sleep(3)"
    )
    line = "longer(); self._wait(); await asyncio.to_thread(handed_over)"
    method = "    def _wait(self):\n        time.sleep(4)\n    def _of_nobody(self):\n        time.sleep(5)"
    assert named(helpers, line, method) == [(3, "time.sleep"), (15, "time.sleep")]


def test_functions_in_a_handler_are_looked_at_where_it_calls_them() -> None:
    inner = "def rest(): time.sleep(1)\n        {}"
    assert named("import asyncio, time", inner.format("rest()")) == [(5, "time.sleep")]
    assert named("import asyncio, time", inner.format("await asyncio.to_thread(rest)")) == []


def test_what_a_base_in_the_module_does_is_looked_at_and_so_is_the_making_of_an_instance() -> None:
    base = "import time\nfrom tidegate import DurableObject\nclass B(DurableObject):\n    def rest(self): time.sleep(1)"
    derived = f"{base}\n{CLASS.replace('(DurableObject)', '(B)')}"
    assert named("import time", "pass", "    def __init__(self):\n        time.sleep(1)") == [(7, "time.sleep")]
    assert [each.line for each in findings(f"{derived}self.rest()\n")] == [4]
    assert [each.line for each in findings(f"{derived}super().rest()\n")] == [4]
    assert not findings(f"{derived}pass\n")
