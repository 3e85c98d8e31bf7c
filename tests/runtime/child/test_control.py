import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from tidegate.runtime.child.control import (
    ControlStream,
    LineBuffer,
    SupervisorGone,
    decode_from_child,
    encode_line,
    receive_spec,
    send_blocking,
    stream_to_supervisor,
)
from tidegate.runtime.wire.supervisor_messages import Drain, Drained, FromSupervisor, Ping, Pong, RouterSpec

SPEC = RouterSpec(0, "tcp://127.0.0.1:0", "/run", 8, 2)


def test_the_spec_is_read_and_what_follows_is_left_in_the_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_line(SPEC) + encode_line(Ping(1)))
        assert receive_spec(theirs.fileno()) == SPEC
        assert theirs.recv(4096) == encode_line(Ping(1))


def test_a_spec_that_comes_in_pieces_is_put_together() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = encode_line(SPEC)
        script = f"import os, time\nfor byte in {line!r}: os.write({ours.fileno()}, bytes([byte])); time.sleep(0.001)"
        writer = subprocess.Popen([sys.executable, "-c", script], pass_fds=[ours.fileno()])
        assert receive_spec(theirs.fileno()) == SPEC
        writer.wait()


def test_a_stream_that_ends_before_the_spec_means_that_the_supervisor_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(SupervisorGone):
            receive_spec(theirs.fileno())


def run_stream(talk: Callable[[ControlStream[FromSupervisor], socket.socket, list[object]], None]) -> list[object]:
    """Runs a stream to its end; what it received, then `end`."""

    async def run() -> list[object]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        heard: list[object] = []
        ended = asyncio.Event()
        stream = stream_to_supervisor(theirs.detach(), loop)

        def on_message(message: FromSupervisor) -> None:
            heard.append(message)

        def on_end() -> None:
            heard.append("end")
            ended.set()

        stream.start(on_message, on_end)
        with ours:
            talk(stream, ours, heard)
        await asyncio.wait_for(ended.wait(), 10)
        return heard

    return asyncio.run(run())


def test_messages_arrive_in_order_and_then_the_end() -> None:
    def talk(stream: ControlStream[FromSupervisor], supervisor: socket.socket, heard: list[object]) -> None:
        supervisor.sendall(encode_line(Ping(1)) + encode_line(Drain(2.0)))

    assert run_stream(talk) == [Ping(1), Drain(2.0), "end"]


def test_a_supervisor_that_does_not_read_blocks_nobody_and_gets_everything_later() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stream = stream_to_supervisor(theirs.detach(), loop)
        stream.start(lambda message: None, lambda: None)
        for number in range(20_000):
            stream.send(Pong(number))
        lines = LineBuffer()
        heard: list[object] = []
        while len(heard) < 20_000:
            heard += [decode_from_child(line) for line in lines.feed(await asyncio.wait_for(loop.sock_recv(ours, 1 << 16), 10))]
        assert heard == [Pong(number) for number in range(20_000)]
        stream.close()
        ours.close()

    asyncio.run(run())


def test_a_line_is_whole_however_it_is_cut() -> None:
    data = b"one\n\ntwo\nthree"
    for step in range(1, len(data) + 1):
        lines = LineBuffer()
        found = [line for at in range(0, len(data), step) for line in lines.feed(data[at : at + step])]
        assert (found, lines.feed(b"\n")) == ([b"one", b"two"], [b"three"])


def test_the_last_message_is_out_when_the_flush_returns() -> None:
    def talk(stream: ControlStream[FromSupervisor], supervisor: socket.socket, heard: list[object]) -> None:
        stream.send(Drained(5))
        stream.flush_blocking()
        assert decode_from_child(supervisor.recv(4096).strip()) == Drained(5)

    run_stream(talk)


def test_sending_when_the_supervisor_is_gone_does_no_harm() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        send_blocking(theirs.fileno(), Drained())


def test_a_line_that_is_no_message_costs_no_other_message_at_either_end() -> None:
    def talk(stream: ControlStream[FromSupervisor], supervisor: socket.socket, heard: list[object]) -> None:
        supervisor.sendall(encode_line(Ping(1)) + b"no message\n[1]\n\n\xff\n" + encode_line(SPEC) + encode_line(Ping(2)))

    assert run_stream(talk) == [Ping(1), Ping(2), "end"]


def test_nothing_is_heard_after_the_end_has_been_closed_from_a_message() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        heard: list[object] = []
        stream = stream_to_supervisor(theirs.detach(), asyncio.get_running_loop())

        def on_message(message: FromSupervisor) -> None:
            heard.append(message)
            stream.close()

        stream.start(on_message, lambda: heard.append("end"))
        ours.sendall(encode_line(Ping(1)) + encode_line(Ping(2)))
        ours.close()
        await asyncio.sleep(0.05)
        stream.send(Drained())
        stream.flush_blocking()
        stream.receive_rest()
        stream.close()
        assert heard == [Ping(1)]

    asyncio.run(run())
