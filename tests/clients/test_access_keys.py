"""Clients of every language at a service that asks for access keys: a key, and every wrong one, at each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from tests.clients.test_other_languages import EXAMPLES, LANGUAGES, run
from tests.support.service import Service, services_in
from tidegate import connect_sync
from tidegate.runtime.cli.cli import main

WITH_KEYS = ("c", "node", "perl", "php", "ruby")
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


@dataclass
class Guarded:
    service: Service
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.key") if name else ""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with services_in(folder) as serve:
        service = serve(start=False)
        guarded = Guarded(service, folder)
        rights = {"web": [], "report": ["--read-only"], "bank": ["--classes", "Bank"], "gone": []}
        for name, words in rights.items():
            assert main(["keys", "new", name, *words, "--data", str(service.data), "--out", guarded.file(name)]) == 0
        assert main(["keys", "revoke", "gone", "--data", str(service.data)]) == 0
        server, public, secret = Path(guarded.file("web")).read_text().split()[-3:]
        for name in ("unknown", "other"):
            strange = [half.decode() for half in zmq.curve_keypair()]
            words = [server, *strange] if name == "unknown" else [strange[0], public, secret]
            Path(guarded.file(name)).write_text(" ".join(words) + "\n")
        service.expect("in the greeting", "access: refused", "access: turned away")
        service.start(2)
        yield guarded


def command(language: str, folder: Path) -> list[str]:
    """Skips where something is missing."""
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


@pytest.mark.parametrize("language", WITHOUT)
def test_a_client_without_curve_is_turned_away(guarded: Guarded, language: str, tmp_path: Path) -> None:
    process = begin(command(language, tmp_path), guarded, "web", language)
    out, _ = process.communicate(timeout=90)
    assert (out, process.returncode != 0) == ("", True)
    with connect_sync(guarded.service.endpoint, key_file=guarded.file("web")) as client:
        assert client.call("Counter", language, "current") == 0
