"""Callers of every kind get the same numbers from the same counters."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.service import ROOT, TIDEGATE, Serve, Service

Call = Callable[[Service, str, str], object]


def req_json(service: Service, cls: str, name: str) -> object:
    return over_req(service, json.dumps([7, cls, name, "get_unique_number"]).encode(), json.loads)


def req_json_batch(service: Service, cls: str, name: str) -> object:
    return over_req(service, json.dumps([[7, cls, name, "get_unique_number", {}]]).encode(), lambda body: json.loads(body)[0])


def req_messagepack(service: Service, cls: str, name: str) -> object:
    return over_req(service, msgspec.msgpack.encode([7, cls, name, "get_unique_number", None, None]), msgspec.msgpack.decode)


def over_req(service: Service, body: bytes, decode: Callable[[bytes], object]) -> object:
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.connect(service.endpoint)
        req.rcvtimeo = 10_000
        req.send(body)
        return checked(decode(req.recv()))


def dealer_messagepack(service: Service, cls: str, name: str) -> object:
    [reply] = over_dealer(service, msgspec.msgpack.encode([[7, cls, name, "get_unique_number", []]]))
    return checked(msgspec.msgpack.decode(reply)[0])


def dealer_with_delimiter(service: Service, cls: str, name: str) -> object:
    empty, reply = over_dealer(service, b"", msgspec.msgpack.encode([7, cls, name, "get_unique_number"]))
    assert empty == b""
    return checked(msgspec.msgpack.decode(reply))


def over_dealer(service: Service, *frames: bytes) -> list[bytes]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(service.endpoint)
        dealer.rcvtimeo = 10_000
        dealer.send_multipart(frames)
        return dealer.recv_multipart()


def checked(reply: Any) -> object:
    request_id, status, result = reply
    assert (request_id, status) == (7, 0), reply
    return result


def command_line(service: Service, cls: str, name: str) -> object:
    command = [*TIDEGATE, "call", cls, name, "get_unique_number", "--connect", service.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


CALLS: list[Call] = [req_json, req_json_batch, req_messagepack, dealer_messagepack, dealer_with_delimiter, command_line]


@pytest.mark.parametrize("cls", ["Counter", "TransactionCounter", "MemoryCounter", "StartedCounter"])
def test_callers_of_every_kind_get_the_next_number(serve: Serve, cls: str) -> None:
    service = serve(2)
    assert [call(service, cls, "alice") for call in CALLS] == list(range(len(CALLS)))
    assert service.stop() == 0
    service.start(1)
    assert dealer_messagepack(service, cls, "alice") == len(CALLS)


def test_a_name_is_the_same_object_for_callers_of_every_kind(serve: Serve) -> None:
    service = serve(2)
    for name in ("{tag}bob", "a/b", "ä€😀", " ", "-", "x" * 1_024):
        assert [call(service, "Counter", name) for call in CALLS] == list(range(len(CALLS))), name
