"""Wrong messages to a real service, over its router and straight to its workers, while a polite client verifies every answer:
no process ends, memory stays flat, and nobody gets what is another's."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from random import Random

import msgspec
import zmq

from tests.fuzz.mutation import Mutator
from tests.fuzz.strangers import wrong_message
from tests.fuzz.target import Counts, Tick
from tests.support.service import Service, services_in
from tidegate.runtime.client.synchronous import connect_sync

APP = str(Path(__file__).with_name("echo.py"))
IN_FLIGHT = 256
"""Messages sent between two looks at what has come back: a stranger who never reads is another test's."""
SILENCE_S = 60.0
RSS_GROWTH_MIB_MAX = 200


class Polite(threading.Thread):
    """Calls through the router and directly until it is told to end, and compares."""

    def __init__(self, endpoint: str, *, direct: bool) -> None:
        super().__init__(daemon=True)
        self._endpoint, self._direct = endpoint, direct
        self._stopped = threading.Event()
        self.calls = 0
        self.wrong: BaseException | None = None

    def run(self) -> None:
        try:
            with connect_sync(self._endpoint, direct=self._direct, retry=False, timeout=SILENCE_S) as client:
                while not self._stopped.is_set():
                    value = f"{self._direct}-{self.calls}"
                    got = client.stub("Echo", f"polite-{self.calls % 7}").echo(value)
                    assert got == value, f"somebody else's answer: {got!r}"
                    self.calls += 1
        except BaseException as error:
            self.wrong = error

    def stop(self) -> None:
        self._stopped.set()
        self.join(SILENCE_S)
        assert self.wrong is None, repr(self.wrong)


def fuzz(chance: Random, frames: int, tick: Tick) -> Counts:
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder, services_in(Path(folder)) as serve:
        service = serve(2, app=APP)
        service.expect("raised", "did not speak ZMTP 3", "sent .* that are no", "Traceback", "drop_alarm")
        return _fuzz(service, chance, frames, tick)


def _fuzz(service: Service, chance: Random, frames: int, tick: Tick) -> Counts:
    counts, mutator, pids = Counts(), Mutator(chance), service.pids()
    polite = [Polite(service.endpoint, direct=direct) for direct in (False, True)]
    for thread in polite:
        thread.start()
    with connect_sync(service.endpoint) as client:
        workers = {shard.endpoint for shard in client.topology().shards}
    rss_before = 0.0
    with zmq.Context() as context:
        sockets = [_stranger(context, endpoint) for endpoint in (service.endpoint, *sorted(filter(None, workers)))]
        for done in range(frames):
            socket = chance.choice(sockets)
            socket.send_multipart(wrong_message(chance, mutator))
            if done % IN_FLIGHT == IN_FLIGHT - 1:
                counts["answers"] += sum(_read(each) for each in sockets)
                tick(done)
            if done == frames // 2:
                rss_before = max(service.rss_mib().values())
        counts["answers"] += sum(_read(each) for each in sockets)
        context.destroy(linger=0)
    for thread in polite:
        thread.stop()
        counts["polite"] += thread.calls
    rss = max(service.rss_mib().values())
    assert service.pids() == pids, "a process has ended"
    assert rss < rss_before + RSS_GROWTH_MIB_MAX, f"memory has grown from {rss_before:.0f} to {rss:.0f} MiB in the second half"
    counts["rss_mib"] = round(rss)
    return counts


def _stranger(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.rcvtimeo, socket.sndhwm = 0, round(SILENCE_S * 1_000), 0
    socket.connect(endpoint)
    return socket


def _read(socket: zmq.Socket[bytes]) -> int:
    """Everything until the answer to a question that is asked last: then what was sent before has been read."""
    socket.send(msgspec.msgpack.encode(["the last", "Echo", "last", "echo", ["the last"]]))
    read = 0
    while b"the last" not in b"".join(socket.recv_multipart()):
        read += 1
    return read
