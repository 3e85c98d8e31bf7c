"""Whatever strangers send to the socket of a service: a neighbour does not notice, memory stays bounded, and everything that
can be answered is."""

import json
import os
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from tests.support.load import LoadClient, errors_of, total, under_load
from tests.support.raw_zmtp import frame, greeted
from tests.support.service import COUNTER, Service, services_in
from tests.support.waiting import wait_until
from tidegate.runtime.limits import BUDGET_BYTES, BUDGET_SHARE, ERRORS_BYTES_MAX

pytestmark = pytest.mark.alone  # How long a neighbour waits says nothing where other tests take the cores.

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode
GOOD = pack([0, "Counter", "stranger", "current"])
NEIGHBOUR_S_MAX = 2.0
"""On a machine of two cores that all processes of the test share; it is a few ms."""
RSS_MIB_MAX = 350
"""Of the router and of each worker, at any moment."""

APP = f"""
import sys
sys.path.insert(0, {os.path.dirname(COUNTER)!r})
from counter import Counter
from msgspec import Struct
from tidegate import DurableObject

class Lookup(Struct):
    key: str

    def __post_init__(self) -> None:
        dict()[self.key]

class Blob(DurableObject):
    async def on_start(self) -> None:
        pass

    async def blob(self, size: int) -> str:
        return "x" * size

    async def take(self, anything: object) -> int:
        return 1

    async def look_up(self, lookup: Lookup) -> int:
        return 1

    async def give(self, what: str) -> object:
        return {{"huge": 2**64, "half": "\\ud800", "list": [2**64], "key": {{"\\ud800": 1}}, "nan": float("nan")}}[what]

    def _private(self) -> None: ...
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "strange.py").write_text(APP)
    with services_in(folder) as serve:
        service = serve(2, app=str(folder / "strange.py"))
        service.expect(r"Blob/.*: raised: ", "Traceback")  # One method is made to raise.
        service.expect("did not speak ZMTP 3")
        yield service


class Memory(threading.Thread):
    """Remembers the most that any process of the service had at a time."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.mib_max = 0.0
        self._processes = [psutil.Process(pid) for pid in (service.router_pid(), *service.worker_pids())]
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.02):
            self.mib_max = max(self.mib_max, *(process.memory_info().rss / (1 << 20) for process in self._processes))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture
def neighbour(service: Service) -> Iterator[LoadClient]:
    """Calls all the time; in the end all its calls have been answered, by results, and soon; and no process was lost."""
    pids, memory = service.pids(), Memory(service)
    memory.start()
    with under_load(service, 1, [f"n{number}" for number in range(50)], window=4, batch=2) as [client]:
        yield client
        answered = client.answered
        wait_until(lambda: client.answered > answered + 20, "answers after the garbage")
    memory.stop()
    print(f"neighbour: {client.answered} answers, slowest {max(client.latencies_s):.3f} s; most memory {memory.mib_max:.0f} MiB")
    assert errors_of([client]) == {}
    assert total([client], lambda client: client.confirmed) == client.sent
    assert max(client.latencies_s) < NEIGHBOUR_S_MAX
    assert memory.mib_max < RSS_MIB_MAX
    assert service.pids() == pids


@pytest.fixture
def dealer(service: Service) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 20_000
        dealer.sndhwm = dealer.rcvhwm = 0
        dealer.connect(service.endpoint)
        yield dealer


def raw_connection(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.endpoint.rpartition(":")[2])), timeout=10)


def assert_served(dealer: zmq.Socket[bytes]) -> None:
    """The stranger itself gets an answer to what it says properly, and nothing before that."""
    dealer.send(GOOD)
    assert unpack(dealer.recv()) == [0, 0, 0]


def test_random_bytes_are_counted_and_dropped(service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes]) -> None:
    generator = random.Random(1)
    malformed = service.status()["router"]["malformed"]
    for _ in range(3_000):
        # What could be a request by chance would be answered; an odd first byte cannot.
        dealer.send(b"\xc1" + generator.randbytes(generator.choice([0, 1, 10, 100, 5_000])))
    assert_served(dealer)
    assert service.status()["router"]["malformed"] >= malformed + 3_000


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


BAD_ARRAYS: list[tuple[Any, str | None]] = [
    ([1], "bad_request"),
    ([1, 2, 3, 4], "bad_request"),
    ([1, "Counter", "a"], "bad_request"),
    ([1, "Counter", "a", None], "bad_request"),
    ([1, "Counter", ["a"], "current"], "bad_request"),
    ([1, "Counter", "", "current"], "bad_request"),
    ([1, "Counter", "x" * 1_025, "current"], "bad_request"),
    ([1, "Counter", "ä" * 513, "current"], "bad_request"),
    ([1, "Nobody", "a", "current"], "unknown_class"),
    ([1, "C" * 300, "a", "current"], "unknown_class"),
    ([1, "Counter", "a", "fly"], "unknown_method"),
    ([1, "Counter", "a", ""], "unknown_method"),
    ([1, "Counter", "a", "__init__"], "unknown_method"),
    ([1, "Counter", "a", "storage"], "unknown_method"),
    ([1, "Counter", "a", "stub"], "unknown_method"),
    ([1, "Blob", "a", "on_start"], "unknown_method"),
    ([1, "Blob", "a", "alarm"], "unknown_method"),
    ([1, "Blob", "a", "_private"], "unknown_method"),
    ([1, "Counter", "a", "current", [1]], "bad_arguments"),
    ([1, "Counter", "a", "current", {"x": 1}], "bad_arguments"),
    ([1, "Blob", "a", "blob", ["1"]], "bad_arguments"),
    ([1, "Blob", "a", "blob", [None]], "bad_arguments"),
    ([1, "Blob", "a", "blob", [1 << 63]], "exception"),
    ([1, "Blob", "a", "look_up", [{"key": "x"}]], "bad_arguments"),
    ([1, "Blob", "a", "blob", [17 << 20]], "too_large"),
    ([1, "Counter", "a", "current", 500], "bad_arguments"),
    ([1, "Counter", "a", "current", "x"], "bad_arguments"),
    ([1, "Counter", "a", "current", [], 500], "bad_request"),
    ([1, "Counter", "a", "current", [], {"deadline_ms": "soon"}], "bad_request"),
    ([1, "Counter", "a", "current", [], {"key": "k" * 65}], "bad_request"),
    ([1, "", "", "halt"], "unknown_method"),
    ([1, "", "a", "x" * 100_000], "unknown_method"),
    ([None, "Counter", "a", "current"], None),
    ([True, "Counter", "a", "current"], None),
    ([1.5, "Counter", "a", "current"], None),
    ([], None),
    ({}, None),
]


@pytest.mark.parametrize("codec", [msgspec.msgpack, msgspec.json], ids=["MessagePack", "JSON"])
def test_wrong_shapes_are_answered_where_an_id_can_be_read(
    service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes], codec: Any
) -> None:
    for request, code in BAD_ARRAYS:
        dealer.send(codec.encode(request))
        if code is not None:
            answer = codec.decode(dealer.recv())
            assert answer[:2] == [1, 1], (request, answer)
            outcome = "executed" if code in ("too_large", "exception") else "not_executed"
            assert (answer[2]["code"], answer[2]["outcome"]) == (code, outcome), request
        else:
            assert_served(dealer)
    dealer.send(codec.encode([request for request, code in BAD_ARRAYS if code is not None]))
    expected = [code for _, code in BAD_ARRAYS if code is not None]
    answers: list[str] = []
    while len(answers) < len(expected):
        answers += [answer[2]["code"] for answer in codec.decode(dealer.recv())]
    assert sorted(answers) == sorted(expected)
    assert_served(dealer)


@pytest.mark.parametrize(
    "body",
    [
        *(nested(depth) for depth in (500, 2_000, 100_000)),
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 50_000,
        b'[1,"Counter","\xff\xfe","current"]',
        b'[1,"Counter","\\ud800","current"]',
        b'[1,"Counter","a","current"',
        b'[NaN,"Counter","a","current"]',
        b"[" + b" " * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\x94\x01\xa1a\xa1a\xa1a",
        b"\x94\x01\xdb\xff\xff\xff\xff",
        b"\x94\x01\xa7Counter\xa1\xff\xa7current",
        b"\xc7\xff\x01" + bytes(255),
        b"\x80",
        b"\x00",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_broken_bodies_cost_their_sender_nothing_but_the_answer(
    service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes], body: bytes
) -> None:
    for _ in range(20):
        dealer.send(body)
    dealer.send(GOOD)
    replies: list[Any] = []
    while [0, 0, 0] not in replies:
        answer = unpack_any(dealer.recv())
        replies += answer if isinstance(answer[0], list) else [answer]  # Several may share a message.
    for _, status, error in replies[:-1]:
        assert status == 1
        assert error["code"] in ("bad_request", "unknown_class"), "a request that is whole is judged alone"


def unpack_any(body: bytes) -> Any:
    return json.loads(body) if body[:1] in (b"[", b"{") else unpack(body)


@pytest.mark.parametrize("depth", [200, 700, 850, 990, 1_020, 5_000, 100_000])
def test_arguments_nested_deeply_are_taken_or_refused_and_spoil_no_call_of_others(
    service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes], depth: int
) -> None:
    for number in range(20):
        dealer.send(pack([number, "Blob", f"b{number}", "take", [msgspec.Raw(nested(depth))]]))
    answers = [unpack(dealer.recv()) for _ in range(20)]
    assert {status if status == 0 else result["code"] for _, status, result in answers} in ({0}, {"bad_request"})
    assert_served(dealer)


@pytest.mark.parametrize("what", ["huge", "half", "list", "key"])
def test_a_result_that_cannot_be_sent_is_the_fault_of_its_method(service: Service, dealer: zmq.Socket[bytes], what: str) -> None:
    dealer.send(pack([[1, "Blob", "g", "give", [what]], [2, "Blob", "g", "take", [0]]]))
    answers: dict[int, Any] = {}
    while len(answers) < 2:
        answers |= {row[0]: row[1:] for row in unpack(dealer.recv())}
    assert answers[2] == [0, 1]
    error = answers[1][1]
    assert (error["code"], error["outcome"], error["type"]) == ("exception", "executed", "TypeError")
    assert "the result cannot be sent" in error["message"]


def test_json_has_no_nan_in_requests_and_null_for_it_in_results(service: Service, dealer: zmq.Socket[bytes]) -> None:
    dealer.send(b'[[1, "Blob", "g", "take", [NaN]], [2, "Blob", "g", "give", ["nan"]]]')
    answers: dict[int, Any] = {}
    while len(answers) < 2:
        answers |= {row[0]: row[1:] for row in json.loads(dealer.recv())}
    assert answers[1][1]["code"] == "bad_request"
    assert answers[2] == [0, None]


def test_a_time_beyond_the_year_9999_is_a_bad_request_and_costs_its_neighbours_nothing(
    service: Service, dealer: zmq.Socket[bytes]
) -> None:
    far = b"\xc7\x0c\xff" + bytes(4) + (253_402_300_800).to_bytes(8)
    rows = [pack([number, "Counter", "far", "current"]) for number in range(3)]
    broken = b"\x95\x07\xa7Counter" + far + b"\xa7current\xc0"
    dealer.send(b"\x94" + rows[0] + broken + rows[1] + rows[2])
    answers: dict[int, Any] = {}
    while len(answers) < 4:
        answers |= {row[0]: row[1:] for row in unpack(dealer.recv())}
    assert answers.pop(7)[1]["code"] == "bad_request"
    assert answers == {0: [0, 0], 1: [0, 0], 2: [0, 0]}


def test_frames_of_17_mib_end_the_connection_of_their_sender(service: Service, neighbour: LoadClient) -> None:
    for _ in range(5):
        with zmq.Context() as context, context.socket(zmq.DEALER) as sender:
            sender.linger = 0
            monitor = sender.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            monitor.rcvtimeo = 10_000
            sender.connect(service.endpoint)
            sender.send(bytes(17 << 20))
            assert monitor.recv_multipart()
            sender.disable_monitor()
            monitor.close(0)


def test_17_mib_in_many_frames_are_dropped(service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes]) -> None:
    for _ in range(3):
        dealer.send_multipart([bytes(1 << 20)] * 17)
    assert_served(dealer)


def test_a_message_that_does_not_end_costs_its_sender_the_connection(service: Service, neighbour: LoadClient) -> None:
    piece = frame(bytes(1 << 20), more=True)
    for _ in range(3):
        with greeted(service.endpoint) as sender, pytest.raises(OSError, match=r"reset|Broken"):
            deque(map(sender.sendall, [piece] * 4_096), 0)
    service.expect("of a message which had not ended")


def test_a_hundred_extra_frames_are_a_hundred_bodies(service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes]) -> None:
    dealer.send_multipart([GOOD] * 101)
    assert [unpack(dealer.recv()) for _ in range(101)] == [[0, 0, 0]] * 101
    dealer.send_multipart([b"\xc1"] * 100 + [GOOD])
    assert unpack(dealer.recv()) == [0, 0, 0]
    dealer.send_multipart([GOOD] * 5_000)  # More than a message may have: dropped as one.
    assert_served(dealer)


def test_empty_frames_are_counted_and_dropped(service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes]) -> None:
    for frames in ([b""], [b"", b""], [b""] * 100, [b"", b"", GOOD][:2]):
        for _ in range(100):
            dealer.send_multipart(frames)
    assert_served(dealer)


def test_nobody_gets_the_replies_of_another_by_taking_its_identity(service: Service, neighbour: LoadClient) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as first, context.socket(zmq.DEALER) as second:
        for dealer in (first, second):
            dealer.linger = 0
            dealer.routing_id = b"tidegate-worker-0.1"
            dealer.rcvtimeo = 10_000
        first.connect(service.endpoint)
        assert_served(first)
        second.connect(service.endpoint)
        for number in range(1, 200):
            first.send(pack([number, "Counter", "first", "current"]))
            second.send(pack([-number, "Counter", "second", "current"]))
        assert {unpack(first.recv())[0] for _ in range(199)} == set(range(1, 200))
        second.rcvtimeo = 200
        with pytest.raises(zmq.Again):
            second.recv()


def test_a_batch_of_100_000_is_answered(service: Service, neighbour: LoadClient, dealer: zmq.Socket[bytes]) -> None:
    dealer.send(pack([(number, "Counter", f"batch{number % 1_000}", "get_unique_number") for number in range(100_000)]))
    answered: dict[int, Any] = {}
    while len(answered) < 100_000:
        answered.update({call: (status, result) for call, status, result in unpack(dealer.recv())})
    refused = {result["code"] for status, result in answered.values() if status == 1}
    assert refused <= {"overloaded"}
    numbers = [(call % 1_000, result) for call, (status, result) in answered.items() if status == 0]
    assert len(set(numbers)) == len(numbers) > 0


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        random.Random(2).randbytes(4_096),
        GREETING[:10],
        GREETING[:40],
        GREETING,
        GREETING + READY[:12],
        GREETING + b"\x04\xff" + bytes(255),
        GREETING + READY,
        GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 62) + bytes(100),
        GREETING + READY + b"\x02" + struct.pack(">Q", 16 << 20) + bytes(100),
        GREETING + READY + b"\x01\x05" + b"first",
        GREETING + READY + b"\x01\x00" * 2_000,
        GREETING + READY + b"\x07\x10" + bytes(16),
        b"",
    ],
    ids=lambda sent: f"{len(sent)} bytes",
)
def test_half_handshakes_and_what_is_no_zeromq_at_all(service: Service, neighbour: LoadClient, sent: bytes) -> None:
    router = psutil.Process(service.router_pid())
    before = router.num_fds()
    connections = [raw_connection(service) for _ in range(30)]
    for number, connection in enumerate(connections):
        try:
            connection.sendall(sent)
            connection.sendall(sent[: number % 7])
        except OSError:  # The service has seen enough.
            continue
    answered = neighbour.answered
    wait_until(lambda: neighbour.answered > answered + 20, "answers while the connections are open")
    for connection in connections:
        connection.close()
    wait_until(lambda: router.num_fds() <= before, "the end of the connections")


def test_a_thousand_connections_opened_and_dropped(service: Service, neighbour: LoadClient) -> None:
    router = psutil.Process(service.router_pid())
    before = router.num_fds()
    for _ in range(5):
        for connection in [raw_connection(service) for _ in range(100)]:
            connection.close()
        with zmq.Context() as context:
            context.set(zmq.MAX_SOCKETS, 2_000)
            dealers = [context.socket(zmq.DEALER) for _ in range(100)]
            for dealer in dealers:
                dealer.linger = 100
                dealer.connect(service.endpoint)
                dealer.send(GOOD)
            for dealer in dealers:  # With their calls in flight.
                dealer.close()
    wait_until(lambda: router.num_fds() <= before, "the end of the connections")


def test_a_slow_reader_is_answered_when_it_reads_and_costs_bounded_memory(service: Service, neighbour: LoadClient) -> None:
    size, calls = 20_000, 8_000
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.sndhwm = 0
        dealer.rcvhwm = 1
        dealer.rcvbuf = 65_536
        dealer.rcvtimeo = 10_000
        dealer.connect(service.endpoint)
        for number in range(calls):
            dealer.send(pack([number, "Blob", f"b{number % 100}", "blob", [size]]))
        pool = BUDGET_BYTES // BUDGET_SHARE
        # Who has a quarter of the half that one client gets is refused what it asks for beyond.
        wait_until(lambda: service.status()["router"]["kept_bytes"] > pool // 16, "a full outbox", within_s=60)
        assert service.status()["router"]["kept_bytes"] <= pool // 2 + ERRORS_BYTES_MAX
        seen: dict[int, Any] = {}
        while len(seen) < calls:
            number, status, result = unpack(dealer.recv())
            seen[number] = len(result) if status == 0 else result["code"]
    assert set(seen.values()) == {size, "overloaded"}
    wait_until(lambda: service.status()["router"]["kept_bytes"] == 0, "an empty outbox")
