"""What is true of a run, found out without a line of what is judged: from the messages in the order in which they became true."""

from __future__ import annotations

from tests.sim.replicated.engine import Request
from tidegate.shard.replicated.message import MessageKind, decode_message

OP_BYTES = 4


def encode_ops(ops: list[int]) -> bytes:
    return b"".join(op.to_bytes(OP_BYTES, "big") for op in ops)


def decode_ops(record: bytes) -> list[int]:
    return [int.from_bytes(record[at : at + OP_BYTES], "big") for at in range(0, len(record), OP_BYTES)]


class Judge:
    """The shard is a list to which calls append. A call is answered at which index it stands, a read how long the list is."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.ops: list[int] = []
        self.lengths = [0]
        """Of the list, by sequence."""
        self.confirmed = 0
        """How long the list was by what callers have been told."""
        self._numbers: dict[int, int] = {}
        self._answered: dict[int, int] = {}
        self._not_executed: set[int] = set()
        self._shut_out: set[int] = set()
        """What was stored by owners after somebody else's claim."""
        self._epoch = 0
        self._writer = b""
        self._pieces = b""
        self._states = [(0, b"", b"")]
        """Epoch, writer and pieces, by sequence."""
        self.torn = 0
        """Records of which only pieces were stored when somebody else claimed the shard."""

    def stored(self, sequence: int, request: Request) -> None:
        message = decode_message(request.data).message
        if message.kind is MessageKind.EPOCH:
            if message.epoch > self._epoch:
                self.torn += bool(self._pieces)
                self._epoch, self._writer, self._pieces = message.epoch, message.writer, b""
        elif message.writer != self._writer:
            self._shut_out.update(decode_ops(message.body))
        else:
            self._pieces = message.body if message.part == 0 else self._pieces + message.body
            if message.kind is MessageKind.COMMIT:
                self._take(decode_ops(self._pieces))
                self._pieces = b""
        self.lengths.append(len(self.ops))
        self._states.append((self._epoch, self._writer, self._pieces))

    def restored(self, last: int) -> None:
        """Operators have put an older end in place: what was behind it is lost, whoever had been told of it."""
        del self.lengths[last + 1 :], self._states[last + 1 :]
        self._epoch, self._writer, self._pieces = self._states[-1]
        del self.ops[self.lengths[-1] :]
        self._numbers = {op: number for op, number in self._numbers.items() if number < len(self.ops)}
        self._answered = {op: number for op, number in self._answered.items() if number < len(self.ops)}
        self.confirmed = min(self.confirmed, len(self.ops))

    def _take(self, ops: list[int]) -> None:
        for op in ops:
            if op in self._numbers:
                self.problems.append(f"call {op} is in the log twice")
            self._numbers.setdefault(op, len(self.ops))
            self.ops.append(op)

    def answered(self, op: int, number: int) -> None:
        if op in self._answered:
            self.problems.append(f"call {op} was answered twice")
        self._answered[op] = number
        self.confirmed = max(self.confirmed, number + 1)

    def read(self, length: int, confirmed_before: int) -> None:
        """`confirmed_before`: what callers knew when it was asked for."""
        if not confirmed_before <= length <= len(self.ops):
            self.problems.append(
                f"a read saw {length} calls; {confirmed_before} were confirmed before, {len(self.ops)} are stored"
            )

    def told_not_executed(self, op: int) -> None:
        self._not_executed.add(op)

    def asked_again(self, op: int) -> None:
        self._not_executed.discard(op)

    def owns(self, name: str, sequence: int, ops: list[int]) -> None:
        """Somebody serves what it has put together of everything up to that sequence."""
        if ops != self.ops[: self.lengths[sequence]]:
            self.problems.append(f"{name} serves {len(ops)} calls at message {sequence}, which are not those of the log")

    def finish(self) -> None:
        for op, number in self._answered.items():
            if self._numbers.get(op) != number:
                how = "by an owner who was shut out" if op in self._shut_out else "and lost"
                self.problems.append(f"call {op} was confirmed as number {number} {how}; it is {self._numbers.get(op)}")
        for op in self._not_executed & self._numbers.keys():
            self.problems.append(f"call {op} was said to be not executed, and is in the log")
