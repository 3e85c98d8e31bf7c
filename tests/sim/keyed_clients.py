"""Clients that give their calls keys, and ask again until they are answered: what they may conclude is more.

Every *attempt* is a call of its own on the wire, with the key of its operation. Of an operation all answers are the same, and in
the end its effect is there exactly once, whatever has died in between. Some attempts are made although an earlier one may still
be answered; some operations go on in the next start of the service.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tests.sim.clients import ACCOUNTS, COUNTERS, UNKNOWN, Call, Client, Connection

AGAIN = {"unavailable", "overloaded", "start_failed", "moved", "deadline_exceeded"} | UNKNOWN
FIRST_ATTEMPT = 1_000_000
"""Ids of later attempts begin here."""
READS = ("current", "audit")
IMPATIENCE = 0.1
"""Share of the calls that are asked again although nothing speaks for it."""


class KeyedClient(Client):
    """Its calls are operations: each stays in `calls` with its first definite answer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.session = f"{self.name}-{self.random.randrange(1 << 30):x}"
        self._plain = self.random.random() < 0.3
        self._heads = not self._plain and self.random.random() < 0.6
        """It says once for each message what its session is."""
        self._attempts: dict[int, Call] = {}
        """By the id of an attempt: its operation."""
        self._next_id = FIRST_ATTEMPT
        self._open: dict[int, Call] = {}
        """Operations without a definite answer, by number."""
        self._asking_again: set[int] = set()

    # What is asked

    def _target(self) -> tuple[str, str]:
        random = self.random
        if random.random() < 0.6:
            return random.choice(COUNTERS), f"c{random.randrange(3)}"
        return "Account", f"a{random.randrange(ACCOUNTS)}"

    def begin(self, router: str, calls: int) -> None:
        super().begin(router, calls)
        self._asking_again.clear()
        for number in self._open:
            self._ask_again_later(self.calls[number])

    @property
    def finished(self) -> bool:
        return super().finished and not self._open

    def key_of(self, call: Call) -> dict[str, Any]:
        if self._plain:
            return {"key": f"{self.session} {call.number} é"}
        return {"key": f"{self.session}.{call.number}", "answered": min(self._open, default=call.number)}

    # Sending

    def _send(self, connection: Connection, calls: list[Call]) -> None:
        rows: list[Any] = [[0, "", self.session, "keys", [min(self._open, default=calls[0].number)]]] if self._heads else []
        for each in calls:
            call = each
            if call.number < FIRST_ATTEMPT:
                call = self._first_attempt(connection, call)
            operation = self._attempts[call.number]
            options = {} if self._heads and call.number < FIRST_ATTEMPT else self.key_of(operation)
            if not self.scenario.calm and self.random.random() < 0.1:
                options["deadline_ms"] = self.random.choice((1, 20, 10_000))
                call.deadline_s = options["deadline_ms"] / 1_000
            rows.append([call.number, call.cls, call.name, call.method, call.args, options or None])
        encode = msgspec.json.encode if self.json else msgspec.msgpack.encode
        connection.socket.send(encode(rows))
        self.history.note(lambda: f"{self.name} sends {calls} by {connection.path}")

    def _first_attempt(self, connection: Connection, operation: Call) -> Call:
        self._attempts[operation.number] = self._open[operation.number] = operation
        operation.lost = True  # Whatever becomes of an attempt.
        attempt = Call(operation.number, operation.cls, operation.name, operation.method, operation.args)
        attempt.path, attempt.sent_at = operation.path, operation.sent_at
        connection.unanswered[operation.number] = attempt
        if self.random.random() < IMPATIENCE:
            self._ask_again_later(operation)
        return attempt

    def _ask_again_later(self, operation: Call) -> None:
        if operation.number not in self._asking_again:
            self._asking_again.add(operation.number)
            self.time.after(self.random.choice((0.001, 0.02, 0.3)), self._ask_again, operation)

    def _ask_again(self, operation: Call) -> None:
        self._asking_again.discard(operation.number)
        if operation.number not in self._open or self._router is None:
            return
        attempt = Call(self._next_id, operation.cls, operation.name, operation.method, operation.args)
        self._next_id += 1
        self._attempts[attempt.number] = operation
        operation.path = f"{operation.path} and again {attempt.number}"  # It has no place in the order of its connection.
        connection = self._router if self.random.random() < 0.3 else self._connection(attempt)
        attempt.path, attempt.sent_at = connection.path, self.time.now
        connection.unanswered[attempt.number] = attempt
        self.history.count("asked again")
        self._send(connection, [attempt])

    def _lose(self, connection: Connection) -> None:
        lost = list(connection.unanswered.values())
        super()._lose(connection)
        for attempt in lost:
            self._lost(attempt)

    def bounced(self, socket: Any, frames: list[bytes]) -> None:
        connection = self.by_socket.get(socket)
        before = dict(connection.unanswered) if connection is not None else {}
        super().bounced(socket, frames)
        for number, attempt in before.items():
            if connection is not None and number not in connection.unanswered:
                self._lost(attempt)

    def _lost(self, attempt: Call) -> None:
        operation = self._attempts[attempt.number]
        if operation.number in self._open:
            self._ask_again_later(operation)

    # Answers

    def _judge_error(self, call: Call) -> None:
        code, outcome = call.value["code"], call.value["outcome"]
        answered_before = self._attempts[call.number].number not in self._open and not self._plain
        if code == "bad_request" and outcome == "unknown" and answered_before:
            self.history.count("answered long ago")
        elif code == "interrupted" and outcome == "unknown" and call.method == "transfer":  # The only one in several commits.
            self.history.count("error interrupted")
        elif self._is_passed_on(call):
            self.history.count(f"error {code}, of another object")
        elif code == "exception" and call.value["type"] == "Interrupted":
            self.history.problem("error", f"{call} ended in {call.value}: a deposit is one commit")
        else:
            super()._judge_error(call)

    def _is_passed_on(self, call: Call) -> bool:
        """Another object could not be asked, before anything was written: it may be repeated."""
        error = call.value
        return (
            call.method == "transfer_together"  # The other one that asks has written by then.
            and error["code"] in {"moved", "overloaded", "unavailable"}
            and error["outcome"] == "unknown"
            and not error["message"].startswith(f"{call.cls}/{call.name} ")
            and not self.scenario.flawless
        )

    def _take(self, connection: Connection, number: int, status: int, value: Any) -> None:
        attempt = connection.unanswered.get(number)
        super()._take(connection, number, status, value)
        if attempt is None:
            return
        operation = self._attempts[attempt.number]
        if operation.number in self._open:
            if status and value["code"] in AGAIN:
                self._ask_again_later(operation)
                return
            del self._open[operation.number]
            operation.answered, operation.status, operation.value = self.time.now, status, value
            self._answered(operation)
        elif not (status and value["code"] in AGAIN | {"bad_request"}):
            self.history.count("answered alike")
            if (operation.status, operation.value) != (status, value) and operation.method not in READS:
                self.history.problem("key", f"{operation} was answered {operation.value}, and {value} when it was asked again")
