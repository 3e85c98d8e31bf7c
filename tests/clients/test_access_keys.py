"""Clients of every language at a service that asks for access keys: a key, and every wrong one, at each of them."""

from __future__ import annotations

import collections
import contextlib
import datetime
import itertools
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from tests.clients.test_other_languages import EXAMPLES, LANGUAGES, run
from tests.support.service import Service, services_in
from tests.support.waiting import wait_until
from tidegate import connect_sync
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cli.cli import main

PYTHON = ("sync", "async", "command")
WITH_KEYS = (*PYTHON, "c", "node", "perl", "php", "ruby")
WITHOUT = ("plain", "java")
"""They have no CURVE: a service that asks for keys turns them away."""
REFUSED = {
    "report": "read-only",
    "bank": "may not call Counter",
    "gone": "turned away",
    "unknown": "turned away",
    "other": "",
    "": "",
}
"""By the name of the key: what the client is told, or what is in the log."""
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)
"""As a client with a key begins."""
STRANGERS = 6


@dataclass
class Guarded:
    service: Service
    folder: Path
    metrics_port: int

    def refused(self, reason: str) -> int:
        """Connections so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as page:
            text = page.read().decode()
        counted = re.findall(rf'^tidegate_access_refused_total{{.*reason="{reason}".*}} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, counted)))

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.key") if name else ""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with services_in(folder) as serve:
        service = serve(start=False)
        guarded = Guarded(service, folder, free_port())
        rights = {"web": [], "boss": ["--admin"], "report": ["--read-only"], "bank": ["--classes", "Bank"], "gone": []}
        for name, words in rights.items():
            assert main(["keys", "new", name, *words, "--data", str(service.data), "--out", guarded.file(name)]) == 0
        assert main(["keys", "revoke", "gone", "--data", str(service.data)]) == 0
        server, public, secret = Path(guarded.file("web")).read_text().split()[-3:]
        for name in ("unknown", "other"):
            strange = [half.decode() for half in zmq.curve_keypair()]
            words = [server, *strange] if name == "unknown" else [strange[0], public, secret]
            Path(guarded.file(name)).write_text(" ".join(words) + "\n")
        service.expect("in the greeting", "access: refused", "access: turned away", "access: too many")
        service.start(2, "--set", f"metrics.listen=127.0.0.1:{guarded.metrics_port}")
        yield guarded
        for line in ("in the greeting", "turned away", "too many connections", *(f"call.s. of '{name}'" for name in rights)):
            assert_once_a_minute(service.output, line)


def command(language: str, folder: Path) -> list[str]:
    """Skips where something is missing."""
    if language in PYTHON:
        return [sys.executable, str(Path(__file__).with_name("python_client.py")), language]
    if language == "c":
        if shutil.which("cc") is None or run("cc", "-E", "-", input="#include <zmq.h>\n").returncode != 0:
            pytest.skip("zmq.h is not installed: apt-get install libzmq3-dev")
        built = run("cc", "-o", folder / "client", EXAMPLES / "c/client.c", "-lzmq")
        assert built.returncode == 0, built.stderr
        return [str(folder / "client")]
    if language == "node":
        if not (EXAMPLES / "node/node_modules/zeromq").exists():
            pytest.skip("npm's zeromq is not installed: npm install --prefix examples/clients/node")
        return ["node", str(EXAMPLES / "node/client.mjs")]
    if language == "java" and not (Path("/usr/share/java/jzmq.jar").exists() and shutil.which("javac")):
        pytest.skip("jzmq or javac is not installed")
    return LANGUAGES[language].command()


SLOW_TO_SEND = ["strace", "-qq", "-o", "/dev/null", "-etrace=write", "-einject=write:delay_exit=700000"]
"""The thread that calls waits after each order that it gives to ZeroMQ's own, such as to connect. Who does not bound its sends
then hangs once in eight times or so (`findings/zmq_who_was_refused_may_send_nothing_for_ever.sh`)."""


def begin(command: list[str], guarded: Guarded, key: str, name: str) -> subprocess.Popen[str]:
    environment = {each: value for each, value in os.environ.items() if not each.startswith("TIDEGATE_KEY")}
    if key:
        environment["TIDEGATE_KEY_FILE"] = guarded.file(key)
    return subprocess.Popen([*command, guarded.service.endpoint, name], stdout=-1, stderr=-1, text=True, env=environment, cwd="/")


@pytest.mark.parametrize("language", WITH_KEYS)
def test_a_client_with_a_key_counts_on_while_every_wrong_one_is_refused(guarded: Guarded, language: str, tmp_path: Path) -> None:
    program = command(language, tmp_path)
    wrong = {key: begin(program, guarded, key, language) for key in REFUSED}
    for number in range(2):
        right = begin(program, guarded, "web", language)
        assert (*right.communicate(timeout=90), right.returncode) == (f"{number}\n", "", 0)
    for key, process in wrong.items():
        out, err = process.communicate(timeout=90)
        assert (out, process.returncode != 0) == ("", True), (key, err)
        if key in ("report", "bank"):
            assert "unauthorized" in err
            assert REFUSED[key] in err
        else:
            assert REFUSED[key] in guarded.service.output
    with connect_sync(guarded.service.endpoint, key_file=guarded.file("web")) as client:
        assert client.call("Counter", language, "current") == 2


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to make clients slow")
def test_clients_that_are_turned_away_before_they_have_sent_anything_end(guarded: Guarded, tmp_path: Path) -> None:
    strangers = {}
    for language in WITH_KEYS:
        with contextlib.suppress(pytest.skip.Exception):  # What is not installed.
            strangers[language] = begin([*SLOW_TO_SEND, *command(language, tmp_path)], guarded, "unknown", language)
    assert strangers.keys() >= {*PYTHON}
    for language, stranger in strangers.items():
        try:
            out, _ = stranger.communicate(timeout=90)
        finally:
            stranger.kill()
        assert (language, out, stranger.returncode != 0) == (language, "", True)


def test_a_command_with_a_key_is_nobody_without_one(guarded: Guarded, tmp_path: Path) -> None:
    before = guarded.refused("no_key")
    for number in range(2):
        right = begin(command("command", tmp_path), guarded, "web", "counted")
        assert (*right.communicate(timeout=90), right.returncode) == (f"{number}\n", "", 0)
    host, _, port = guarded.service.endpoint.removeprefix("tcp://").rpartition(":")
    socket.create_connection((host, int(port))).close()
    wait_until(lambda: guarded.refused("no_key") > before, "the one who left is counted")
    assert guarded.refused("no_key") == before + 1


def test_a_benchmark_with_a_key_is_nobody_without_one(guarded: Guarded) -> None:
    before = guarded.refused("no_key")
    few = ("--requests", "20", "--objects", "2", "--concurrency", "2", "--json")
    bench = [sys.executable, "-m", "tidegate", "bench", "--connect", guarded.service.endpoint, *few]
    environment = {**os.environ, "TIDEGATE_KEY_FILE": guarded.file("boss")}
    ended = subprocess.run(bench, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    host, _, port = guarded.service.endpoint.removeprefix("tcp://").rpartition(":")
    socket.create_connection((host, int(port))).close()
    wait_until(lambda: guarded.refused("no_key") > before, "the one who left is counted")
    assert guarded.refused("no_key") == before + 1
    environment["TIDEGATE_KEY_FILE"] = str(guarded.folder / "nowhere")
    ended = subprocess.run(bench, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "access key" in ended.stderr


def test_a_command_takes_its_key_from_a_pipe(guarded: Guarded) -> None:
    key = Path(guarded.file("web")).read_text()
    call = [sys.executable, "-m", "tidegate", "call", "Counter", "piped", "current", "--connect", guarded.service.endpoint]
    done = run(*call, "--key-file", "/dev/stdin", input=key)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


@contextlib.contextmanager
def flood(endpoint: str, source: str) -> Iterator[None]:
    """From that address connections come as fast as they can, and say nothing, garbage, or the beginning of a greeting."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    over = threading.Event()

    def run() -> None:
        open_: collections.deque[socket.socket] = collections.deque()
        for said in itertools.cycle((b"", b"GET / HTTP/1.1\r\n\r\n", GREETING, GREETING + bytes(300))):
            if over.is_set():
                break
            stranger = socket.socket()
            stranger.setblocking(False)
            with contextlib.suppress(OSError):
                stranger.bind((source, 0))
                stranger.connect_ex((host, int(port)))
                select.select([], [stranger], [], 0.02)
                stranger.send(said)
            open_.append(stranger)
            if len(open_) > 300:
                open_.popleft().close()
        for each in open_:
            each.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("language", WITH_KEYS)
def test_a_client_counts_on_while_a_flood_is_shed_and_a_flood_of_its_own_kind_is_turned_away(
    guarded: Guarded, language: str, tmp_path: Path
) -> None:
    program, name = command(language, tmp_path), f"{language} in a flood"
    shed, unknown = guarded.refused("flood"), guarded.refused("unknown_key")
    with connect_sync(guarded.service.endpoint, key_file=guarded.file("web")) as web:
        with flood(guarded.service.endpoint, "127.0.0.2"):
            wait_until(lambda: guarded.refused("flood") > shed, "a flood that is shed")
            for number in range(2):
                right = begin(program, guarded, "web", name)
                assert (*right.communicate(timeout=90), right.returncode) == (f"{number}\n", "", 0)
                assert web.call("Counter", name, "current", timeout=10.0) == number + 1
        strangers = [begin(program, guarded, "unknown", name) for _ in range(STRANGERS)]
        right = begin(program, guarded, "web", name)
        assert (*right.communicate(timeout=90), right.returncode) == ("2\n", "", 0)
        assert web.call("Counter", name, "current", timeout=10.0) == 3
        for stranger in strangers:
            out, _ = stranger.communicate(timeout=90)
            assert (out, stranger.returncode != 0) == ("", True)
        wait_until(lambda: guarded.refused("unknown_key") >= unknown + STRANGERS, "all of them on the page of metrics")
        assert web.call("Counter", name, "current") == 3


def assert_once_a_minute(output: str, text: str) -> None:
    """Of each process that says it."""
    told: dict[str, datetime.datetime] = {}
    for line in output.splitlines():
        if re.search(text, line) and (found := re.match(r"(\S+) +WARNING (.+?): ", line)):
            at = datetime.datetime.fromisoformat(found[1])
            assert at - told.get(found[2], datetime.datetime.min.replace(tzinfo=datetime.UTC)) > datetime.timedelta(seconds=59), (
                line
            )
            told[found[2]] = at


@pytest.mark.parametrize("language", WITHOUT)
def test_a_client_without_curve_is_turned_away(guarded: Guarded, language: str, tmp_path: Path) -> None:
    process = begin(command(language, tmp_path), guarded, "web", language)
    out, _ = process.communicate(timeout=90)
    assert (out, process.returncode != 0) == ("", True)
    with connect_sync(guarded.service.endpoint, key_file=guarded.file("web")) as client:
        assert client.call("Counter", language, "current") == 0
