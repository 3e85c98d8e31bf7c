"""Any ZeroMQ client may call: raw sockets, Node, C. Each gets the same counter's next number."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

if TYPE_CHECKING:
    from conftest import RealService

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/clients"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


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


@pytest.mark.parametrize("client", ["node/client.mjs", "c/client.c"])
def test_an_example_client_is_short(client: str) -> None:
    assert len((EXAMPLES / client).read_text().splitlines()) <= 25
