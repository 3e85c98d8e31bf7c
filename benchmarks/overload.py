"""Clients that ask for too much, beside a polite one: `python -m tidegate.benchmarks.overload SCENARIO`.

Prints, as one line of JSON, the most memory that each process of the service took and how long the calls of the polite client
took: `idle`, alone; `hungry`, beside as many processes as there are cores which copy memory and leave the service alone: what
the machine takes, and not the service; `during` the scenario; `after` it. Whoever makes load has a low priority, as if it
were elsewhere.

    unread      clients ask for large results and read none, or read in the end, or at a speed of their own: --pause-ms
    messages    clients send large arguments as fast as the service takes them
    flood       five times as many calls with deadlines as can be served, and as many as can be, in turns; --seconds 600 for ten
                minutes of too many
    batches     clients send messages of very many tiny calls: --rows in each; --form json, keyed or req
    pipelined   a client has ten thousand small calls in flight, always
    crowd       twice as many clients come at once, again and again, as a service with 256 descriptors can let in
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from tidegate.benchmarks.peers.ours import Service, system_call
from tidegate.benchmarks.processes import cores, scratch_folder, start_module, wait
from tidegate.runtime.wire.slots import topology_from_reply

APP = "tidegate.benchmarks.overload_app"
_SAMPLE_S = 0.01
_POLITE_S = 0.005
_SILENCE_S = 60.0
_FLOOD = 5
_PEAK_S = 2.0
_FLOOD_S = 8.0
"""Of each turn: the machine that served the peak is the one that was flooded."""
_IN_FLIGHT = 16
_DEADLINE_MS = 200
_ANSWER_MS_MAX = 30_000
_HUNGRY_BYTES = 15 << 20
_CROWD_DESCRIPTORS = 256
_CROWD_S = 1.0
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Memory(threading.Thread):
    """The most resident memory of every process of a service, in MiB, by role and number, while it runs."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.most: dict[str, int] = {}
        self._processes = {each["name"]: psutil.Process(each["pid"]) for each in status["processes"] if each["pid"]}

    def now(self) -> dict[str, int]:
        sizes = {}
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.Error):
                sizes[name] = process.memory_info().rss >> 20
        return sizes

    def run(self) -> None:
        while True:
            for name, size in self.now().items():
                self.most[name] = max(size, self.most.get(name, 0))
            time.sleep(_SAMPLE_S)

    def take(self) -> dict[str, int]:
        """The most since the last time."""
        taken, self.most = self.most, self.now()
        return taken


class Polite(threading.Thread):
    """One call at a time, to a small object of its own."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.latencies_s: list[float] = []
        self.errors: list[Any] = []
        self._endpoint = endpoint
        self._stopped = threading.Event()

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(self._endpoint)
            number = 0
            while not self._stopped.is_set():
                number += 1
                sent_s = time.monotonic()
                dealer.send(_encode([number, "Bulk", "polite", "number"]))
                answered = dealer.poll(round(_SILENCE_S * 1_000))
                self.latencies_s.append(time.monotonic() - sent_s)
                if not answered:
                    self.errors.append("no answer")
                    return
                if (reply := _decode(dealer.recv()))[1] != 0:
                    self.errors.append(reply[2])
                self._stopped.wait(_POLITE_S)

    def take(self) -> list[float]:
        """What its calls have taken since the last time, in order of length."""
        taken, self.latencies_s = self.latencies_s, []
        return sorted(taken)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def watch(endpoint: str, front: str) -> None:
    """In a process of its own, so that what the others do in theirs is not taken for the service's: for each line that comes in,
    what was seen since the last one."""
    while "processes" not in (status := system_call(front, "status")):
        time.sleep(0.05)
    polite, memory = Polite(endpoint), Memory(status)
    polite.start()
    memory.start()
    for _ in sys.stdin:
        calls_s = polite.take() or [0.0]
        seen = {
            "calls": len(calls_s),
            "p50_ms": round(calls_s[len(calls_s) // 2] * 1_000, 1),
            "p99_ms": round(calls_s[int(len(calls_s) * 0.99)] * 1_000, 1),
            "worst_ms": round(calls_s[-1] * 1_000, 1),
            "errors": polite.errors[:3],
            "most_mib": memory.take(),
            "now_mib": memory.now(),
        }
        sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
        sys.stdout.flush()
    polite.stop()


class Witness:
    """That process."""

    def __init__(self, endpoint: str, front: str) -> None:
        self._process = start_module("tidegate.benchmarks.overload", "watch", "--endpoint", endpoint, "--front", front)

    def report(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return dict(msgspec.json.decode(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        wait(self._process)


def client(context: zmq.Context[Any], endpoint: str, *, reads: bool) -> zmq.Socket[Any]:
    """One that does not read has little room on its side, as a slow one far away has."""
    dealer: zmq.Socket[Any] = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.setsockopt(zmq.SNDHWM, 0)
    if not reads:
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.RCVBUF, 4_096)
    dealer.connect(endpoint)
    return dealer


def unread(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that ask for large results and read none for a while; then they read everything. With a pause after each result
    they read all the time."""
    clients = [client(context, endpoint, reads=False) for _ in range(options.clients)]
    for each, dealer in enumerate(clients):
        for number in range(options.calls):
            name = f"{options.name}{each}" if options.spread == 1 else f"{options.name}{each}.{number % options.spread}"
            dealer.send(_encode([number, "Bulk", name, "give", [options.bytes]]))
    if not options.pause_ms:
        time.sleep(options.seconds)
    return _answers(clients if options.read else [], options.calls, options.pause_ms) | _closed(clients)


def messages(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that send large arguments, all at once."""
    clients = [client(context, endpoint, reads=True) for _ in range(options.clients)]
    data = bytes(options.bytes)
    for number in range(options.calls):
        for each, dealer in enumerate(clients):
            dealer.send(_encode([number, "Bulk", f"{options.name}{each}", "take", [data]]))
    return _answers(clients, options.calls, options.pause_ms) | _closed(clients)


def batches(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that send messages of very many tiny calls, all at once, and read what they are answered."""
    form, rows = options.form, options.rows
    json = form == "json"
    codec = msgspec.json if json else msgspec.msgpack
    clients = [
        context.socket(zmq.REQ) if form == "req" else client(context, endpoint, reads=True) for _ in range(options.clients)
    ]
    for each, dealer in enumerate(clients):
        if form == "req":
            dealer.linger = 0
            dealer.connect(endpoint)
        for number in range(1 if form == "req" else options.calls):
            first = number * rows
            calls: list[Any] = [[first + row, "Bulk", f"{options.name}{row % 10}", "number"] for row in range(rows)]
            if form == "keyed":
                calls.insert(0, [0, "", f"s{each}", "keys", [0]])
            dealer.send(codec.encode(calls))
    answers: dict[str, int] = {}
    kinds: dict[bytes, str] = {}
    left = options.clients * rows * (1 if form == "req" else options.calls)
    began_s = time.monotonic()
    decode = codec.Decoder(list[tuple[int, int, msgspec.Raw]]).decode
    poller = zmq.Poller()
    for dealer in clients:
        poller.register(dealer, zmq.POLLIN)
    while left > 0:
        if not (readable := poller.poll(_ANSWER_MS_MAX)):
            answers["none"] = left
            break
        for dealer, _ in readable:
            for body in dealer.recv_multipart():
                for _, status, result in decode(body):
                    raw = bytes(result) if status else b""
                    if raw not in kinds:
                        kinds[raw] = _kind(status, codec.decode(raw) if status else None)
                    answers[kinds[raw]] = answers.get(kinds[raw], 0) + 1
                    left -= 1
    return {"answers": answers, "read_s": round(time.monotonic() - began_s, 2)} | _closed(clients)


def _answers(clients: list[zmq.Socket[Any]], calls: int, pause_ms: float) -> dict[str, Any]:
    """Of so many calls of each client, by kind."""
    answers: dict[str, int] = {}
    began_s = time.monotonic()
    for dealer in clients:
        for _ in range(calls):
            if not dealer.poll(_ANSWER_MS_MAX):
                answers["none"] = answers.get("none", 0) + 1
                break
            _, status, result = _decode(dealer.recv())
            what = _kind(status, result)
            answers[what] = answers.get(what, 0) + 1
            time.sleep(pause_ms / 1_000)
    return {"answers": answers, "read_s": round(time.monotonic() - began_s, 2)}


def _kind(status: int, result: Any) -> str:
    return f"{result['code']}/{result['outcome']}" if status else "ok"


def _closed(clients: list[zmq.Socket[Any]]) -> dict[str, Any]:
    for dealer in clients:
        dealer.close()
    return {}


def pipelined(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients with thousands of small calls in flight, always."""
    clients = [client(context, endpoint, reads=True) for _ in range(options.clients)]
    end_s = time.monotonic() + options.seconds
    in_flight = dict.fromkeys(clients, 0)
    answered = 0
    poller = zmq.Poller()
    for dealer in clients:
        poller.register(dealer, zmq.POLLIN)
    while time.monotonic() < end_s:
        for dealer in clients:
            while in_flight[dealer] < options.calls:
                rows = [(number, "Bulk", f"{options.name}{number % 100}", "number") for number in range(100)]
                dealer.send(_encode(rows))
                in_flight[dealer] += 100
        for dealer, _ in poller.poll(100):
            rows = _decode(dealer.recv())
            in_flight[dealer] -= len(rows)
            answered += len(rows)
    for dealer in clients:
        dealer.close()
    return {"answered": answered}


def crowd(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """Clients that come all at once, make a call each, and go after a second; then they come again."""
    answers: collections.Counter[str] = collections.Counter()
    end_s = time.monotonic() + options.seconds
    crowds = 0
    while time.monotonic() < end_s:
        crowds += 1
        clients = [client(context, endpoint, reads=True) for _ in range(options.clients)]
        for number, dealer in enumerate(clients):
            dealer.send(_encode([number, "Bulk", f"{options.name}{number}", "number"]))
        time.sleep(_CROWD_S)
        for dealer in clients:
            if dealer.poll(0):
                answers[_kind(*_decode(dealer.recv())[1:])] += 1
            else:
                answers["none"] += 1
            dealer.close()
    return {"crowds": crowds, "answers": answers}


def flood(context: zmq.Context[Any], endpoint: str, options: argparse.Namespace) -> dict[str, Any]:
    """One client whose calls take a millisecond each and have a deadline: as many as are served at best, and five times as
    many, whether or not they are answered, in turns. The goodput is of the calls answered in time, against the peaks before
    and after."""
    dealer = client(context, endpoint, reads=True)
    peaks = [_served(dealer, options, _PEAK_S, rate=0)]
    floods = []
    left_s = options.seconds
    while left_s > 0:
        floods.append(_served(dealer, options, min(left_s, _FLOOD_S), rate=round(peaks[-1]["ok_per_s"] * _FLOOD)))
        peaks.append(_served(dealer, options, _PEAK_S, rate=0))
        left_s -= _FLOOD_S
    dealer.close()
    ratios = [
        flooded["ok_per_s"] * 2 / (before["ok_per_s"] + after["ok_per_s"])
        for flooded, before, after in zip(floods, peaks[:-1], peaks[1:], strict=True)
    ]
    errors: collections.Counter[str] = collections.Counter()
    for each in floods:
        errors.update(each["errors"])
    return {
        "peak": _summary(peaks),
        "flooded": _summary(floods) | {"errors": errors},
        "goodput": round(statistics.median(ratios), 2),
        "goodput_least": round(min(ratios), 2),
    }


def _summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the turns of one kind, the one in the middle of each figure."""
    return {key: statistics.median(each[key] for each in turns) for key in ("ok_per_s", "sent_per_s", "p99_ms")}


def _served(dealer: zmq.Socket[Any], options: argparse.Namespace, seconds: float, rate: int) -> dict[str, Any]:
    """`rate` is of calls per second, sent without waiting for answers; 0: some calls in flight, always."""
    sent_s: dict[int, float] = {}
    latencies_s: list[float] = []
    errors: dict[str, int] = {}
    sent = 0
    began_s = time.monotonic()
    end_s = began_s + seconds
    while (now := time.monotonic()) < end_s or (sent_s and now < end_s + 2.0):
        due = round((now - began_s) * rate) if rate else sent + _IN_FLIGHT - len(sent_s)
        while now < end_s and sent < due:
            call = [sent, "Bulk", f"{options.name}{sent % 100}", "work", [1.0], {"deadline_ms": _DEADLINE_MS}]
            dealer.send(_encode(call))
            sent_s[sent] = now
            sent += 1
        if dealer.poll(1):
            number, status, result = _decode(dealer.recv())
            took_s = time.monotonic() - sent_s.pop(number)
            if status == 0 and took_s <= _DEADLINE_MS / 1_000:
                latencies_s.append(took_s)
            else:
                what = _kind(status, result) if status else "late"
                errors[what] = errors.get(what, 0) + 1
    latencies_s.sort()
    p99_ms = round(latencies_s[int(len(latencies_s) * 0.99)] * 1_000, 1) if latencies_s else 0.0
    return {"ok_per_s": len(latencies_s) / seconds, "sent_per_s": sent / seconds, "p99_ms": p99_ms, "errors": errors}


def copy_memory() -> None:
    """Until nobody wants it any more."""
    data = bytes(_HUNGRY_BYTES)
    wanted = threading.Thread(target=sys.stdin.read, daemon=True)
    wanted.start()
    while wanted.is_alive():
        bytearray(data)


@contextlib.contextmanager
def hungry() -> Iterator[None]:
    """As many processes as there are cores that want all of them, and memory, and nothing of the service."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += [start_module("tidegate.benchmarks.overload", "copy") for _ in cores()]
        yield
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            wait(process)


SCENARIOS: dict[str, Callable[[zmq.Context[Any], str, argparse.Namespace], dict[str, Any]]] = {
    "unread": unread,
    "messages": messages,
    "batches": batches,
    "pipelined": pipelined,
    "flood": flood,
    "crowd": crowd,
}
_DEFAULTS = {
    "unread": (1, 120, 15 << 20),
    "messages": (12, 12, 15 << 20),
    "batches": (1, 3, 0),
    "pipelined": (1, 10_000, 0),
    "flood": (1, 0, 0),
    "crowd": (2 * _CROWD_DESCRIPTORS, 0, 0),
}


def run(front: str, scenario: str, options: argparse.Namespace) -> dict[str, Any]:
    """Of the service that listens there."""
    topology = topology_from_reply(system_call(front, "topology"))
    endpoint = topology.endpoints[0] if options.direct else front
    assert endpoint is not None
    witness = Witness(endpoint, front)
    os.nice(options.nice)  # Of this process and what it starts from now on.
    try:
        witness.report()
        time.sleep(options.alone)
        seen = {"idle": witness.report()}
        with hungry():
            time.sleep(options.alone)
            witness.report()
            time.sleep(options.alone)
            seen["hungry"] = witness.report()
        time.sleep(0.5)
        witness.report()
        with zmq.Context() as context:
            context.set(zmq.MAX_SOCKETS, max(1_000, 2 * options.clients))
            told = SCENARIOS[scenario](context, endpoint, options)
        seen["during"] = witness.report()
        time.sleep(1.0)
        seen["after"] = witness.report()
    finally:
        witness.close()
    return {"scenario": scenario, **told, **seen}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tidegate.benchmarks.overload", description=__doc__)
    parser.add_argument("scenario", choices=[*SCENARIOS, "watch", "copy"])
    parser.add_argument("--endpoint", default="", help="of watch")
    parser.add_argument("--front", default="", help="of watch")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--calls", type=int, help="by each client")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--rows", type=int, default=700_000, help="calls in one message of batches")
    parser.add_argument("--form", default="packed", choices=["packed", "json", "keyed", "req"], help="of batches")
    parser.add_argument("--spread", type=int, default=1, help="objects that each client calls")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="of a client after each result that it reads")
    parser.add_argument("--alone", type=float, default=3.0, help="seconds of idle and of hungry")
    parser.add_argument("--nice", type=int, default=15, help="how much lower the priority of who makes load is")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--direct", action="store_true", help="to the worker, not through the router")
    parser.add_argument("--no-read", dest="read", action="store_false", help="never read, also not in the end")
    options = parser.parse_args()
    if options.scenario == "watch":
        watch(options.endpoint, options.front)
        return 0
    if options.scenario == "copy":
        copy_memory()
        return 0
    options.name = "o"
    clients, calls, size = _DEFAULTS[options.scenario]
    options.clients, options.calls = options.clients or clients, options.calls or calls
    options.bytes = size if options.bytes is None else options.bytes
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with scratch_folder(None) as folder:
        descriptors = _CROWD_DESCRIPTORS if options.scenario == "crowd" else 0
        service = Service(Path(folder), workers=options.workers, transport="tcp", app=APP, descriptors=descriptors)
        try:
            result = run(service.front, options.scenario, options)
        finally:
            service.close()
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
