"""The shell under both clients, driven by hand: links that a test makes up, a clock that a test sets."""

from __future__ import annotations

import collections
import itertools
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.requests import rows_in
from tidegate.runtime.client import shell as shell_module
from tidegate.runtime.client.gathering import FINDS_MAX
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.shell import Shell, new_machine
from tidegate.runtime.client.synchronous import Poller
from tidegate.runtime.errors import ShardLost, Unavailable
from tidegate.runtime.limits import TURN_MESSAGES_MAX
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, encode

CONTEXT: Any = None
"""The links of these tests need none."""


class Answer:
    """Of a call."""

    def __init__(self) -> None:
        self.got: Any = None

    def done(self) -> bool:
        return self.got is not None

    def set_result(self, result: Any) -> None:
        self.got = result

    set_exception = set_result


class Socket:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


class Link:
    """A dealer of no socket: the test says what arrives and what becomes of it."""

    made: list[Link]
    refuses: Exception | None = None
    """Of the next one that is made."""

    def __init__(self, context: object, endpoints: list[str], *, reconnect: bool, key: object = None) -> None:
        if (problem := type(self).refuses) is not None:
            type(self).refuses = None
            raise problem
        self.endpoints = endpoints
        self.sent: list[Any] = []
        self.messages = 0
        """In which that was sent."""
        self.arrived: list[bytes] = []
        self.changes: list[str] = []
        self.takes = True
        self.is_connected = self.is_closed = self.has_unsent = self.has_ended = False
        self.fds = [next(NUMBERS) for _ in endpoints]
        self.socket = Socket(next(NUMBERS))
        self.made.append(self)

    def monitors(self) -> list[int]:
        return self.fds

    def send(self, body: bytes) -> bool:
        if self.takes:
            self.sent += rows_in(body)
            self.messages += 1
        return self.takes

    def readable(self) -> bool:
        return bool(self.arrived)

    def receive(self, messages_max: int) -> list[bytes]:
        taken, self.arrived = self.arrived[:messages_max], self.arrived[messages_max:]
        return taken

    def change(self, forget: Callable[[int], object]) -> str | None:
        change = self.changes.pop(0) if self.changes else None
        self.is_connected = self.is_connected or change == "connected"
        return change

    def close(self) -> None:
        self.is_closed = True


NUMBERS = itertools.count(1_000)


class Hand:
    """Drives a shell: nothing happens but what the test lets happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: collections.deque[Callable[[], object]] = collections.deque()
        self.timers: list[Timer] = []
        self.watched: dict[int, Callable[[], object]] = {}
        self.writable: dict[int, Callable[[], object]] = {}

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.soon.append(lambda: callback(*args))

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        self.timers.append(Timer(when, lambda: callback(*args)))
        return self.timers[-1]

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        assert fd not in self.watched
        self.watched[fd] = lambda: callback(*args)

    def remove_reader(self, fd: int) -> None:
        del self.watched[fd]

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        assert fd not in self.writable
        self.writable[fd] = lambda: callback(*args)

    def remove_writer(self, fd: int) -> None:
        del self.writable[fd]

    def turn(self) -> None:
        """As loops do: what is scheduled meanwhile comes in the next one."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def settle(self) -> None:
        while self.soon:
            self.soon.popleft()()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.when <= self.now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.cancelled:
                timer.callback()
        self.settle()


class Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Question:
    """Which addresses a name has: the test says it."""

    made: list[Question]
    refuses: OSError | None = None
    """The next one that is made."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        if (problem := type(self).refuses) is not None:
            type(self).refuses = None
            raise problem
        self.found: list[str] | OSError = []
        self.is_closed = False
        self._fd = next(NUMBERS)
        self.made.append(self)

    def fileno(self) -> int:
        assert not self.is_closed
        return self._fd

    def result(self) -> list[str]:
        if isinstance(self.found, OSError):
            raise self.found
        return self.found

    def close(self) -> None:
        self.is_closed = True


class Rig:
    """A shell with its machine, driven by hand."""

    def __init__(
        self, endpoint: str = "tcp://127.0.0.1:1", *, direct: bool = False, retry: bool = False, callers_go_on: bool = False
    ) -> None:
        self.hand = Hand()
        self.machine: ClientMachine = new_machine(endpoint, None, 5.0, direct, retry)
        self.topologies = 0
        self.shell = Shell(self.machine, CONTEXT, self.hand, self.count_topology, callers_go_on=callers_go_on)
        self.shell.start()
        self.hand.settle()

    def count_topology(self) -> None:
        self.topologies += 1

    def connect(self, link: Link) -> None:
        link.changes.append("connected")
        self.hand.watched[link.fds[0]]()
        self.hand.settle()

    def answer(self, question: int, found: list[str] | OSError) -> None:
        asked = Question.made[question]
        asked.found = found
        self.hand.watched[asked.fileno()]()

    def call_again_and_again(self) -> None:
        """A caller who makes his next call in a callback, when he is answered."""

        class Again(Answer):
            def set_result(_, result: Any) -> None:  # noqa: N805
                self.hand.call_soon(self.call_again_and_again)

        self.machine.call(Again(), -1, "Echo", "a", "where", NO_RAW, decode_any, None, self.hand.now)
        if not self.shell.flushing:
            self.shell.flushing = True
            self.hand.call_soon(self.shell.flush)

    def answer_call(self, link: Link, request: Any) -> None:
        link.arrived.append(reply(request, "again"))
        self.hand.watched[link.socket.fileno()]()

    def call(self) -> Answer:
        answer = Answer()
        self.machine.call(answer, -1, "Echo", "a", "where", NO_RAW, decode_any, None, self.hand.now)
        self.shell.flush()
        return answer


@pytest.fixture(autouse=True)
def links(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    monkeypatch.setattr(Link, "made", [], raising=False)
    monkeypatch.setattr(Link, "refuses", None)
    monkeypatch.setattr(Question, "made", [], raising=False)
    monkeypatch.setattr(Question, "refuses", None)
    monkeypatch.setattr(shell_module, "Dealer", Link)
    monkeypatch.setattr(shell_module, "Question", Question)
    return Link.made


def reply(request: Any, result: Any) -> bytes:
    return encode([[request[0], OK, result]])


def test_a_reply_that_came_while_a_call_was_sent_is_read_although_no_descriptor_says_so(links: list[Link]) -> None:
    rig = Rig()
    rig.connect(links[0])
    first = rig.call()
    links[0].arrived.append(reply(links[0].sent[0], "early"))
    rig.call()
    rig.hand.settle()
    assert first.got == "early"


def test_what_arrived_before_a_send_failed_is_delivered_before_the_link_is_given_up(links: list[Link]) -> None:
    rig = Rig()
    rig.connect(links[0])
    first = rig.call()
    links[0].arrived.append(reply(links[0].sent[0], "in time"))
    links[0].takes = False
    rig.call()
    assert first.got == "in time"
    assert links[0].is_closed
    assert len(links) == 2, "the next one to the router"


def test_a_turn_reads_a_bounded_number_of_messages_and_the_rest_in_the_next(links: list[Link]) -> None:
    rig = Rig()
    rig.connect(links[0])
    answers = [rig.call() for _ in range(TURN_MESSAGES_MAX + 1)]
    links[0].arrived += [reply(request, "here") for request in links[0].sent]
    rig.hand.watched[links[0].socket.fileno()]()
    assert sum(answer.done() for answer in answers) == TURN_MESSAGES_MAX
    rig.hand.settle()
    assert all(answer.done() for answer in answers)


def test_what_those_call_who_were_answered_leaves_in_the_same_turn(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call_again_and_again()
    rig.hand.settle()
    for calls in range(1, 4):
        rig.answer_call(links[0], links[0].sent[-1])
        rig.hand.turn()
        assert len(links[0].sent) == calls + 1


def test_what_those_call_who_were_answered_one_after_the_other_leaves_in_one_message(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call_again_and_again()
    rig.call_again_and_again()
    rig.hand.settle()
    first, second = links[0].sent
    messages = links[0].messages
    rig.answer_call(links[0], first)
    rig.answer_call(links[0], second)
    rig.hand.settle()
    assert len(links[0].sent) == 4
    assert links[0].messages == messages + 1


def test_what_was_called_leaves_although_somebody_is_answered_in_every_turn(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call_again_and_again()
    rig.hand.settle()
    rig.answer_call(links[0], links[0].sent[0])
    for _ in range(FINDS_MAX):
        rig.answer_call(links[0], [-1])  # Nobody's, as far as this client knows.
        rig.hand.turn()
    assert len(links[0].sent) == 1
    rig.answer_call(links[0], [-1])
    rig.hand.turn()
    assert len(links[0].sent) == 2


def test_a_caller_beside_one_who_is_not_answered_waits_for_him_one_turn(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call()
    rig.call_again_and_again()
    rig.hand.settle()
    for calls in range(2, 5):
        rig.answer_call(links[0], links[0].sent[-1])
        rig.hand.turn()
        assert len(links[0].sent) == calls
        rig.hand.turn()
        assert len(links[0].sent) == calls + 1


def test_a_caller_waits_for_others_one_turn_of_a_loop_whose_turns_take_long(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call()
    rig.call_again_and_again()
    rig.hand.settle()
    for _ in range(10):  # It learns that something comes, if it only looks again.
        rig.answer_call(links[0], links[0].sent[-1])
        rig.hand.turn()
        rig.answer_call(links[0], [-1])  # Nobody's, as far as this client knows.
        rig.hand.settle()
    calls = len(links[0].sent)
    rig.answer_call(links[0], links[0].sent[-1])
    rig.hand.turn()
    assert len(links[0].sent) == calls, "it is looked for others"
    rig.hand.now += 0.005
    rig.answer_call(links[0], [-1])
    rig.hand.turn()
    assert len(links[0].sent) == calls + 1
    rig.answer_call(links[0], links[0].sent[-1])
    rig.hand.now += 0.005
    rig.hand.turn()
    assert len(links[0].sent) == calls + 2, "the callers alone have taken that long"


def test_who_flushes_at_once_ends_the_looks_and_the_next_ones_are_as_many(links: list[Link]) -> None:
    """As `map` does, beside callers who wait for one call each."""
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    rig.call()
    rig.call_again_and_again()
    rig.call_again_and_again()
    rig.hand.settle()
    first, second = links[0].sent[-2:]
    rig.answer_call(links[0], first)
    rig.call()
    assert len(links[0].sent) == 4
    rig.answer_call(links[0], second)
    rig.hand.turn()
    assert len(links[0].sent) == 4, "it is looked for others, once"
    rig.hand.turn()
    assert len(links[0].sent) == 6
    rig.hand.turn()
    assert not rig.hand.soon


def test_a_closed_shell_looks_for_no_more_answers(links: list[Link]) -> None:
    rig = Rig(callers_go_on=True)
    rig.connect(links[0])
    answers = [rig.call() for _ in range(3)]
    for request in links[0].sent[:2]:
        rig.answer_call(links[0], request)
    assert [answer.done() for answer in answers] == [True, True, False]
    rig.shell.close()
    assert not rig.shell.flushing
    rig.hand.turn()
    assert not rig.hand.soon


def test_a_call_that_nobody_could_take_is_refused_by_the_one_timer_of_the_shell(links: list[Link]) -> None:
    rig = Rig()
    answers = [rig.call() for _ in range(3)]
    assert len([timer for timer in rig.hand.timers if not timer.cancelled]) == 1
    rig.hand.pass_time(5.1)
    assert all(isinstance(answer.got, Unavailable) for answer in answers)


def test_a_name_is_looked_up_until_one_of_its_addresses_answers_and_no_longer(links: list[Link]) -> None:
    rig = Rig("tcp://service.invalid:7")
    answer = rig.call()
    rig.answer(0, OSError(2, "no such name"))
    assert rig.machine.problem == "no such name"
    rig.hand.pass_time(1.0)
    rig.answer(1, ["tcp://127.0.0.1:7", "tcp://127.0.0.2:7"])
    assert rig.machine.problem == ""
    rig.hand.pass_time(1.0)
    rig.answer(2, ["tcp://127.0.0.1:7", "tcp://127.0.0.2:7"])
    assert [link.endpoints for link in links] == [["tcp://127.0.0.1:7", "tcp://127.0.0.2:7"]], "the same are left in peace"
    rig.connect(links[0])
    rig.hand.pass_time(1.0)
    assert len(Question.made) == 3
    links[0].arrived.append(reply(links[0].sent[0], "found"))
    rig.hand.watched[links[0].socket.fileno()]()
    assert answer.got == "found"


def test_a_closed_shell_waits_for_no_answer() -> None:
    rig = Rig("tcp://service.invalid:7")
    rig.shell.close()
    assert not rig.hand.watched
    assert [question.is_closed for question in Question.made] == [True]


def test_a_name_that_nobody_could_be_asked_for_is_asked_for_again(links: list[Link]) -> None:
    Question.refuses = OSError(11, "no more threads")
    rig = Rig("tcp://service.invalid:7")
    assert rig.machine.problem == "no more threads"
    rig.hand.pass_time(1.0)
    rig.answer(0, ["tcp://127.0.0.1:7"])
    assert len(links) == 1


def test_a_name_to_which_no_socket_could_be_had_is_tried_again_by_whoever_drives(links: list[Link]) -> None:
    rig = Rig("tcp://service.invalid:7")
    Link.refuses = Unavailable("hardly a file descriptor left")
    rig.answer(0, ["tcp://127.0.0.1:7"])
    assert "descriptor" in rig.machine.problem
    rig.hand.pass_time(1.0)
    rig.answer(1, ["tcp://127.0.0.1:7"])
    assert len(links) == 1


def test_a_service_that_was_lost_when_no_descriptor_was_left_is_found_again_when_there_is_one(links: list[Link]) -> None:
    rig = Rig()
    rig.connect(links[0])
    Link.refuses = Unavailable("hardly a file descriptor left")
    links[0].changes.append("lost")
    rig.hand.watched[links[0].fds[0]]()
    rig.hand.settle()
    answer = rig.call()
    assert "descriptor" in rig.machine.problem
    rig.hand.pass_time(1.0)
    rig.connect(links[1])
    links[1].arrived.append(reply(links[1].sent[0], "found"))
    rig.hand.watched[links[1].socket.fileno()]()
    assert answer.got == "found"


def test_an_endpoint_that_only_zeromq_knows_to_be_wrong_is_refused_by_the_first_flush() -> None:
    Link.refuses = zmq.ZMQError(zmq.EINVAL)
    with pytest.raises(ValueError, match=r"tcp://127.0.0.1:1: "):
        Rig()


def test_a_service_that_has_no_topology_is_told_as_one_that_has(links: list[Link]) -> None:
    rig = Rig(direct=True)
    rig.connect(links[0])
    links[0].arrived.append(reply(links[0].sent[0], "no topology"))
    rig.hand.watched[links[0].socket.fileno()]()
    assert rig.topologies == 0, "not in the middle of the message"
    rig.hand.settle()
    assert rig.topologies == 1
    assert rig.machine.statistics().slots_direct == 0


def test_what_may_have_run_is_sent_again_only_to_a_service_that_has_said_that_it_keeps_keys(links: list[Link]) -> None:
    for keys, sent_again in ((True, True), (None, False)):
        rig = Rig(retry=True)
        rig.connect(links[-1])
        topology = {"epoch": 1, "shards": [{"shard": 0, "worker": 0, "endpoint": None}]} | (
            {} if keys is None else {"keys": keys}
        )
        links[-1].arrived.append(reply(links[-1].sent[0], topology))
        rig.hand.watched[links[-1].socket.fileno()]()
        rig.hand.settle()
        answer = rig.call()
        links[-1].changes.append("lost")
        rig.hand.watched[links[-1].fds[0]]()
        rig.hand.settle()
        rig.connect(links[-1])
        assert ("where" in [request[3] for request in links[-1].sent]) is sent_again
        assert answer.done() is not sent_again


def test_a_held_call_goes_out_at_its_time_though_nothing_else_happens(links: list[Link]) -> None:
    rig = Rig(retry=True)
    rig.connect(links[0])
    answer = rig.call()
    links[0].arrived.append(encode([[links[0].sent[-1][0], ERROR, Unavailable("draining").to_wire()]]))
    rig.hand.watched[links[0].socket.fileno()]()
    rig.hand.settle()
    sent = len(links[0].sent)
    rig.hand.pass_time(0.05)
    assert len(links[0].sent) == sent + 1
    assert not answer.done()


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "tcp://service.invalid:7"])
def test_a_closed_shell_watches_nothing_asks_nothing_and_waits_for_no_time(links: list[Link], endpoint: str) -> None:
    rig = Rig(endpoint, direct=True)
    for question in range(len(Question.made)):
        rig.answer(question, ["tcp://127.0.0.1:7"])
    rig.call()
    rig.shell.close()
    assert all(link.is_closed for link in links)
    assert not rig.hand.watched
    assert all(timer.cancelled for timer in rig.hand.timers)
    assert all(question.is_closed for question in Question.made)
    rig.hand.settle()
    assert rig.topologies == 0


def test_the_poller_runs_timers_when_they_are_due_and_none_that_was_cancelled() -> None:
    told: list[Any] = []
    poller = Poller()
    poller.call_at(poller.time() + 0.01, told.append, "late")
    poller.call_at(0.0, told.append, "early")
    poller.call_at(0.0, told.append, "never").cancel()
    poller.turn(-math.inf)
    assert told == ["early"]
    poller.turn(math.inf)
    assert told == ["early", "late"]
    poller.close()


def test_the_poller_runs_what_is_soon_in_order_before_it_waits_for_anything() -> None:
    told: list[Any] = []
    poller = Poller()
    poller.call_soon(lambda: poller.call_soon(told.append, 3))
    poller.call_soon(told.append, 2)
    poller.turn(math.inf)
    assert told == [2, 3]
    poller.close()


def test_the_poller_tells_who_watches_a_descriptor_until_it_is_told_not_to() -> None:
    told: list[Any] = []
    poller = Poller()
    fd = os.eventfd(1)
    poller.add_reader(fd, told.append, "readable")
    poller.turn(math.inf)
    poller.remove_reader(fd)
    poller.turn(-math.inf)
    assert told == ["readable"]
    os.close(fd)
    poller.close()


def test_the_poller_watches_one_descriptor_for_both_directions() -> None:
    told: list[str] = []
    poller = Poller()
    here, there = socket.socketpair()
    poller.add_reader(here.fileno(), told.append, "readable")
    poller.turn(-math.inf)
    poller.add_writer(here.fileno(), told.append, "writable")
    poller.turn(-math.inf)
    assert told == ["writable"]
    there.send(b"x")
    poller.turn(-math.inf)
    assert told == ["writable", "writable", "readable"]
    poller.remove_writer(here.fileno())
    poller.turn(-math.inf)
    assert told[3:] == ["readable"]
    poller.add_writer(here.fileno(), told.append, "writable")
    poller.remove_reader(here.fileno())
    poller.turn(-math.inf)
    assert told[4:] == ["writable"]
    poller.remove_writer(here.fileno())
    poller.turn(-math.inf)
    assert len(told) == 5
    here.close()
    there.close()
    poller.close()


class Worker:
    """Takes a stream, and is told what came: a shell's link to it, all real but the clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "worker.str"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.path))
        self.listening.listen()
        self.endpoint = f"ipc://{folder}/worker"

    def topology(self) -> Any:
        shard = {"shard": 0, "slots": [0, 16_383], "worker": 0, "endpoint": self.endpoint, "stream": str(self.path)}
        return {"epoch": 1, "keys": True, "slots": 16_384, "shards": [shard]}


def direct_rig(worker: Worker, links: list[Link], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """It knows where the worker is, and that it takes streams."""
    monkeypatch.setattr(shell_module, "_local_sockets", lambda endpoints: frozenset(endpoints))
    rig = Rig(direct=True)
    rig.connect(links[0])
    links[0].arrived.append(reply(links[0].sent[0], worker.topology()))
    rig.hand.watched[links[0].socket.fileno()]()
    rig.hand.settle()
    return rig


def call_directly(rig: Rig, argument: Any = None) -> Answer:
    answer = Answer()
    slot = rig.machine.slot_of("Echo", "a")
    raw = NO_RAW if argument is None else msgspec.Raw(encode([argument]))
    rig.machine.call(answer, slot, "Echo", "a", "where", raw, decode_any, None, rig.hand.now)
    rig.shell.flush()
    return answer


def test_a_worker_that_takes_streams_is_talked_to_by_one_and_what_it_does_not_read_at_once_is_sent_later(
    links: list[Link], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = Worker(tmp_path)
    rig = direct_rig(worker, links, monkeypatch)
    answer = call_directly(rig, b"x" * 3_000_000)
    assert len(links) == 1, "no link of ZeroMQ but the router's"
    accepted, _ = worker.listening.accept()
    accepted.sendall(GREETING)
    (fd,) = rig.hand.watched.keys() - {*links[0].fds, links[0].socket.fileno()}
    rig.hand.watched[fd]()
    rig.hand.settle()
    frames = Frames()
    bodies: list[bytes] = []
    while not bodies:
        bodies = frames.feed(accepted.recv(frames.wanted))
        if rig.hand.writable:
            rig.hand.writable[fd]()
    assert not rig.hand.writable
    body = reply(rows_in(bodies[0])[0], "there")
    accepted.sendall(head_of_length(len(body)) + body)
    rig.hand.watched[fd]()
    assert answer.got == "there"
    lost = call_directly(rig)
    accepted.close()
    rig.hand.watched[fd]()
    rig.hand.settle()
    assert isinstance(lost.got, ShardLost)
    assert fd not in rig.hand.watched


def test_where_no_stream_can_be_made_the_same_link_is_zeromqs(
    links: list[Link], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = Worker(tmp_path)
    worker.listening.close()
    rig = direct_rig(worker, links, monkeypatch)
    call_directly(rig)
    assert links[1].endpoints == [worker.endpoint]
