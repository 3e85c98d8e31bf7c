"""The link of a client over a unix stream, against plain sockets."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import WITHIN_S
from tidegate.runtime.errors import Unavailable
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length
from tidegate.runtime.sockets.stream import Stream


class Peer:
    """Who listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen(4)

    def accept(self) -> socket.socket:
        accepted, _ = self.listening.accept()
        accepted.settimeout(WITHIN_S)
        return accepted


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path / "door")
    yield peer
    peer.listening.close()


def linked(peer: Peer) -> tuple[Stream, socket.socket]:
    stream = Stream(str(peer.path))
    accepted = peer.accept()
    assert accepted.recv(100) == GREETING
    accepted.sendall(GREETING)
    wait_readable(stream)
    assert stream.change(lambda fd: None) == "connected"
    return stream, accepted


def wait_readable(stream: Stream) -> None:
    assert select.select([stream.socket], [], [], WITHIN_S)[0]


def test_it_is_connected_when_the_other_side_has_greeted_and_not_before(peer: Peer) -> None:
    stream = Stream(str(peer.path))
    forgotten: list[int] = []
    accepted = peer.accept()
    assert stream.monitors() == [stream.socket.fileno()]
    assert stream.change(forgotten.append) is None
    accepted.sendall(GREETING[:7])
    wait_readable(stream)
    assert stream.change(forgotten.append) is None
    accepted.sendall(GREETING[7:] + head_of_length(2) + b"hi")
    wait_readable(stream)
    assert stream.change(forgotten.append) == "connected"
    assert (stream.monitors(), forgotten) == ([], [stream.socket.fileno()])
    assert stream.receive(10) == [b"hi"], "what came with the greeting is not lost"
    assert stream.receive(10) == []
    stream.close()


def test_nobody_there_is_an_error_at_once(tmp_path: Path, peer: Peer) -> None:
    with pytest.raises(FileNotFoundError):
        Stream(str(tmp_path / "nobody"))
    peer.listening.close()
    with pytest.raises(ConnectionRefusedError):
        Stream(str(peer.path))


def test_nothing_waits_for_who_has_no_room_for_one_more_that_waits(peer: Peer) -> None:
    waiting = [Stream(str(peer.path)) for _ in range(5)]
    with pytest.raises(BlockingIOError):
        Stream(str(peer.path))
    for stream in waiting:
        stream.close()


def test_without_descriptors_it_is_unavailable(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.runtime.descriptors.in_use", lambda: 1 << 30)
    with pytest.raises(Unavailable, match="ulimit -n"):
        Stream(str(peer.path))


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request\r\n", b""], ids=["another protocol", "nothing"])
def test_who_answers_something_else_or_closes_is_lost(peer: Peer, sent: bytes) -> None:
    stream = Stream(str(peer.path))
    accepted = peer.accept()
    accepted.sendall(sent)
    accepted.close()
    wait_readable(stream)
    assert stream.change(lambda fd: None) == "lost"
    assert stream.change(lambda fd: None) is None, "it is told once"
    assert not stream.is_connected
    stream.close()


def test_what_arrived_before_the_loss_is_received_before_it_is_told(peer: Peer) -> None:
    stream, accepted = linked(peer)
    accepted.sendall(head_of_length(3) + b"one" + head_of_length(3) + b"two" + head_of_length(300) + b"cut")
    accepted.close()
    received: list[bytes] = []
    while not stream.has_ended:
        wait_readable(stream)
        received += stream.receive(10)
    assert received == [b"one", b"two"]
    assert stream.change(lambda fd: None) == "lost"
    assert not stream.send(b"more")
    stream.close()


def test_what_the_kernel_does_not_take_is_sent_when_it_does_in_order_and_whole(peer: Peer) -> None:
    stream, accepted = linked(peer)
    bodies = [b"%d" % number * size for number, size in enumerate((10, 60_000, 300_000, 10, 2_000_000, 10, 70_000))]
    for body in bodies:
        assert stream.send(body)
    assert stream.has_unsent
    frames = Frames()
    received: list[bytes] = []
    frames.feed(GREETING)
    give_up_at = time.monotonic() + WITHIN_S
    while len(received) < len(bodies) and time.monotonic() < give_up_at:
        received += frames.feed(accepted.recv(50_000))
        assert stream.send_rest()
    assert received == bodies
    assert not stream.has_unsent
    stream.close()


def test_a_frame_above_the_limit_of_messages_is_a_loss(peer: Peer) -> None:
    stream, accepted = linked(peer)
    accepted.sendall(head_of_length(2) + b"ok" + head_of_length(17 << 20))
    wait_readable(stream)
    assert stream.receive(10) == [b"ok"]
    assert stream.has_ended
    assert stream.change(lambda fd: None) == "lost"
    stream.close()
