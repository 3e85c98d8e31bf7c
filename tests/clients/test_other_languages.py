"""Any ZeroMQ client may call: raw sockets, Node, C, Perl, PHP, Ruby, Java, plain TCP. Each gets a counter's next number."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

if TYPE_CHECKING:
    from tests.clients.conftest import RealService

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/clients"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]  # of any options


def test_a_req_socket_with_json_and_a_dealer_with_messagepack_share_a_counter(service: RealService) -> None:
    context = zmq.Context()
    req, dealer = context.socket(zmq.REQ), context.socket(zmq.DEALER)
    try:
        for socket in (req, dealer):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVTIMEO, 10_000)
            socket.connect(service.endpoint)
        for expected in (0, 2, 4):
            req.send(b'["q", "Counter", "raw", "get_unique_number"]')
            assert json.loads(req.recv()) == ["q", 0, expected]
            dealer.send(msgspec.msgpack.encode([7, "Counter", "raw", "get_unique_number"]))
            assert msgspec.msgpack.decode(dealer.recv()) == [7, 0, expected + 1]
    finally:
        context.destroy(linger=0)


def test_the_node_client_prints_the_next_number(service: RealService) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (EXAMPLES / "node/node_modules/zeromq").exists():
        pytest.skip("npm's zeromq is not installed: npm install --prefix examples/clients/node")
    for expected in ("0\n", "1\n"):
        done = run(node, EXAMPLES / "node/client.mjs", service.endpoint, "node")
        assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)
    refused = run(node, EXAMPLES / "node/client.mjs", service.endpoint, "")
    assert refused.returncode != 0
    assert "bad_request" in refused.stderr


def test_the_c_client_prints_the_next_number(service: RealService, tmp_path: Path) -> None:
    compiler, make = shutil.which("cc"), shutil.which("make")
    if compiler is None or make is None:
        pytest.skip("cc and make are not installed")
    if run(compiler, "-E", "-", input="#include <zmq.h>\n").returncode != 0:
        pytest.skip("zmq.h is not installed: apt-get install libzmq3-dev")
    for file in ("client.c", "Makefile"):
        shutil.copy(EXAMPLES / "c" / file, tmp_path)
    built = run(make, "-C", tmp_path)
    assert built.returncode == 0, built.stderr
    for expected in ("0\n", "1\n"):
        done = run(tmp_path / "client", service.endpoint, "c")
        assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)
    refused = run(tmp_path / "client", service.endpoint, "")
    assert refused.returncode != 0
    assert "bad_request" in refused.stderr


@dataclass(frozen=True)
class Language:
    program: str
    client: str
    options: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    """Fails where the library is missing."""
    package: str = ""

    def command(self) -> list[str]:
        """Skips where something is missing."""
        found = shutil.which(self.program)
        if found is None:
            pytest.skip(f"{self.program} is not installed")
        if self.probe and run(found, *self.probe).returncode != 0:
            pytest.skip(f"{self.program} has no ZeroMQ library: apt-get install {self.package}")
        return [found, *self.options, str(EXAMPLES / self.client)]


JZMQ = "/usr/share/java/jzmq.jar"
LANGUAGES = {
    "perl": Language("perl", "perl/client.pl", probe=("-MZMQ::FFI", "-e", "1"), package="libzmq-ffi-perl"),
    "php": Language("php", "php/client.php", probe=("-r", "new ZMQContext();"), package="php-zmq"),
    "ruby": Language("ruby", "ruby/client.rb", probe=("-rffi-rzmq", "-e", "1"), package="ruby-ffi-rzmq"),
    "java": Language(
        "java", "java/Client.java", options=("-Djava.library.path=/usr/lib/jni:/usr/lib/x86_64-linux-gnu/jni", "-cp", JZMQ),
        package="libzmq-java libzmq-jni openjdk-17-jdk-headless",
    ),
    "plain": Language(sys.executable, "plain/client.py"),
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_client_of_another_language_prints_the_next_number(service: RealService, language: str) -> None:
    if language == "java" and not (Path(JZMQ).exists() and shutil.which("javac")):
        pytest.skip(f"jzmq or javac is not installed: apt-get install {LANGUAGES[language].package}")
    command = LANGUAGES[language].command()
    for expected in ("0\n", "1\n"):
        done = run(*command, service.endpoint, language)
        assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)
    refused = run(*command, service.endpoint, "")
    assert refused.returncode != 0
    assert "bad_request" in refused.stderr


@pytest.mark.parametrize("client", sorted(path for path in EXAMPLES.glob("*/client.*")), ids=lambda path: path.parent.name)
def test_an_example_client_is_short(client: Path) -> None:
    assert len(client.read_text().splitlines()) <= (40 if client.parent.name == "plain" else 35)


@pytest.mark.parametrize("client", sorted(path for path in EXAMPLES.glob("*/client.*")), ids=lambda path: path.parent.name)
def test_an_example_client_that_takes_a_key_tries_again_after_a_second(client: Path) -> None:
    """Where the service's key is a wrong one libzmq would try seven times a second for ever, whatever the maximum is that it is
    given: docs/security.md."""
    text = client.read_text()
    if "TIDEGATE_KEY_FILE" in text:
        assert re.search(r"RECONNECT_IVL\b|reconnectInterval: ", text)
        assert "RECONNECT_IVL_MAX" not in text
