"""What calls with a key were answered, of one shard: kept so that the same key is answered the same, and does not run again.

An answer is in the commit that has the writes of its call, so this table is what the log says of it: it changes when a commit is
durable, and when a commit is replayed, in the same way. Answers are grouped: those of one *session* (of a client that numbers
its calls), or those to plain keys of one object. A session says with each call up to which number it has been answered: what is
below is freed at once, so that of a session no more is kept than is in flight. The rest leaves by count, age and bytes, the
oldest first, and is counted.

Guarantee: of a session no number below its *floor* is ever new: it has been answered, or its answer was dropped.

At a checkpoint, what is kept then becomes rows of the shard's state, numbered in the order of the commits. An answer that was
freed before costs the state nothing.

Rule: pure. No clock: the newest answer says how late it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from tidegate.shard.store.interface import SESSION_CHARACTERS_MAX, Answer

ANSWERS_KEY = b"\xf9" * 16
"""Object key under which a shard keeps them. Object keys begin with a slot, so with a byte below 0x40."""
ANSWER_BYTES = 500
"""Estimate of what an answer takes in memory beside a large result."""
SESSION_BYTES = 500
"""The same for a session."""
_SESSION_ROW = "s"
"""Begins the keys of the rows of sessions, which come after those of answers: their keys are hexadecimal numbers."""
_COMPACT_MIN = 64


class AnswerLimits(NamedTuple):
    """Of one shard."""

    per_object: int = 1 << 62
    """Answers to plain keys of one object."""
    kept_s: int = 1 << 62
    bytes_max: int = 1 << 62


NO_LIMITS = AnswerLimits()


class Group:
    """The answers of one session, or to the plain keys of one object."""

    __slots__ = ("answered", "children", "floor", "last_s", "marked", "rows")

    def __init__(self) -> None:
        self.rows: dict[int | str, Answer] = {}
        """By number in the session (of calls that such a call has made: number, `~`, and their own key), or by plain key."""
        self.children: dict[int, list[str]] = {}
        """By number, the keys of calls that it has made, of a session."""
        self.answered = 0
        """Of a session: calls with a smaller number have been answered to their caller."""
        self.floor = 0
        """Of a session: calls with a smaller number have been answered, or answers of such calls have been dropped."""
        self.last_s = 0
        self.marked = False
        """Its floor or its time is not in the state."""


class SessionRow(msgspec.Struct, array_like=True, gc=False):
    answered: int
    floor: int
    last_s: int


def is_session(group: str) -> bool:
    return len(group) <= SESSION_CHARACTERS_MAX


def number_of(key: int | str) -> int:
    """Of a key in a session: the number of the call that the client has made."""
    return key if isinstance(key, int) else int(key.partition("~")[0])


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_session = msgspec.msgpack.Decoder(SessionRow).decode
_decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode


def decode_answers(raw: msgspec.Raw) -> list[Answer]:
    """Those of a commit, without a hold on its record."""
    answers = _decode_answers(raw)
    for answer in answers:
        answer.result = answer.result.copy()
    return answers


class AnswerTable:
    def __init__(self, limits: AnswerLimits = NO_LIMITS) -> None:
        self.limits = limits
        self.groups: dict[str, Group] = {}
        """By session, or by object."""
        self.count = 0
        self.bytes = 0
        """Estimate of the memory held."""
        self.dropped = 0
        """Answers that had to leave before they were too old or their session had been answered."""
        self._order: deque[Answer] = deque()
        """The oldest first. Those that were freed have no row; they leave when they are first, or when they are most of it."""
        self._sessions: deque[tuple[str, int]] = deque()
        """With the time that was known when it was looked at, the oldest first."""
        self._next_row = 1
        self._saved_row = 0
        """Rows up to this one have been handed out by `take_changes`, or were loaded."""
        self._gone: list[int] = []
        """Of those, the rows that are no longer kept."""
        self._marked: list[str] = []
        """Sessions whose row has changed."""

    def limit(self, *, per_object: int, kept_s: int, bytes_max: int) -> None:
        """From the next commit on."""
        self.limits = AnswerLimits(per_object, kept_s, bytes_max)

    # What is durable

    def apply(self, answers: Sequence[Answer]) -> None:
        """A commit is durable: its answers, in the order in which they were given."""
        now_s = answers[-1].since_s
        order, row, name, in_session, key_max = self._order, self._next_row, "", False, 0
        added = added_bytes = 0
        group: Group
        rows: dict[int | str, Answer]
        for answer in answers:
            if answer.group != name:
                name = answer.group
                group = self.groups.get(name) or self._new_group(name, now_s)
                in_session = len(name) <= SESSION_CHARACTERS_MAX
                if in_session:
                    group.last_s = now_s
                    self._mark(name, group)
                key_max = self.limits.per_object if not in_session else 1 << 62
                rows = group.rows
            key = answer.key
            if in_session:
                if answer.answered > group.answered:
                    self._settle(group, answer.answered)
                if key.__class__ is int:
                    if key < group.answered:
                        continue  # Replayed, and answered since.
                elif not self._is_child(group, answer):
                    continue
            if key in rows:
                self._free(rows[key])
            answer.row = row
            row += 1
            rows[key] = answer
            order.append(answer)
            added += 1
            added_bytes += answer.size
            if len(rows) > key_max:
                self._drop(next(iter(rows.values())))
        self._next_row = row
        self.count += added
        self.bytes += added * ANSWER_BYTES + added_bytes
        self._make_room(now_s)
        if len(order) > 2 * self.count + _COMPACT_MIN:
            self._order = deque(answer for answer in order if answer.row)

    def _is_child(self, group: Group, answer: Answer) -> bool:
        """Notes which call of the session has made this one. False: it has been answered."""
        key = str(answer.key)
        number = number_of(key)
        if number >= group.answered and key not in group.rows:
            group.children.setdefault(number, []).append(key)
        return number >= group.answered

    def _new_group(self, name: str, now_s: int) -> Group:
        group = self.groups[name] = Group()
        if is_session(name):
            self.bytes += SESSION_BYTES
            self._sessions.append((name, now_s))
        return group

    def _mark(self, session: str, group: Group) -> None:
        if not group.marked:
            group.marked = True
            self._marked.append(session)

    def _settle(self, group: Group, answered: int) -> None:
        """Of a session everything below that number has been answered."""
        rows, children = group.rows, group.children
        if rows:
            freed: list[Answer]
            if answered - group.answered < len(rows):
                numbers = range(group.answered, answered)
                freed = [rows.pop(number) for number in numbers if number in rows]
                if children:
                    freed += [rows.pop(child) for number in numbers for child in children.pop(number, ())]
            elif not children and max(rows) < answered:  # type: ignore[operator]  # numbers only
                freed = list(rows.values())
                rows.clear()
            else:
                keys = [key for key in rows if (key if isinstance(key, int) else number_of(key)) < answered]
                freed = [rows.pop(key) for key in keys]
                if children:
                    for key in keys:
                        children.pop(number_of(key), None)
            saved, freed_bytes = self._saved_row, 0
            for answer in freed:  # What `_free` does.
                if answer.row <= saved:
                    self._gone.append(answer.row)
                answer.row = 0
                freed_bytes += answer.size
            self.count -= len(freed)
            self.bytes -= len(freed) * ANSWER_BYTES + freed_bytes
        group.answered = answered
        if group.floor < answered:
            group.floor = answered

    def _free(self, answer: Answer) -> None:
        """It has left its group."""
        if answer.row <= self._saved_row:
            self._gone.append(answer.row)
        answer.row = 0
        self.count -= 1
        self.bytes -= ANSWER_BYTES + answer.size

    # What has to leave

    def _make_room(self, now_s: int) -> None:
        bytes_max, order, sessions = self.limits.bytes_max, self._order, self._sessions
        oldest_s = now_s - self.limits.kept_s
        while order and (not order[0].row or order[0].since_s < oldest_s):
            answer = order.popleft()
            if answer.row:
                self._take_out(answer)
        while sessions and sessions[0][1] < oldest_s:
            self._look_at_session(oldest_s)
        while self.bytes > bytes_max and (order or sessions):
            if order and not (sessions and sessions[0][1] < order[0].since_s):
                answer = order.popleft()
                if answer.row:
                    self._drop(answer)
            else:
                self._look_at_session(sessions[0][1] + 1)

    def _look_at_session(self, oldest_s: int) -> None:
        """The first: it leaves, unless it has been used since it was looked at."""
        name, seen_s = self._sessions.popleft()
        group = self.groups[name]
        if group.last_s > seen_s and group.last_s >= oldest_s:
            self._sessions.append((name, group.last_s))
            return
        self.dropped += len(group.rows)
        for answer in group.rows.values():
            self._free(answer)
        del self.groups[name]
        self.bytes -= SESSION_BYTES
        self._mark(name, group)

    def _drop(self, answer: Answer) -> None:
        self.dropped += 1
        self._take_out(answer)

    def _take_out(self, answer: Answer) -> None:
        group = self.groups[answer.group]
        del group.rows[answer.key]
        if is_session(answer.group):
            number = number_of(answer.key)
            group.floor = max(group.floor, number + 1)
            if isinstance(answer.key, str):
                siblings = group.children[number]
                siblings.remove(answer.key)
                if not siblings:
                    del group.children[number]
            self._mark(answer.group, group)
        elif not group.rows:
            del self.groups[answer.group]
        self._free(answer)

    # Rows of the state

    def take_changes(self) -> dict[str, bytes | None]:
        """What has changed since this was asked last: rows under `ANSWERS_KEY`. None: a row is gone."""
        changes: dict[str, bytes | None] = {f"{row:016x}": None for row in self._gone}
        for answer in reversed(self._order):
            if answer.row:
                if answer.row <= self._saved_row:
                    break
                changes[f"{answer.row:016x}"] = _encode(answer)
        for session in self._marked:
            group = self.groups.get(session)
            if group is not None:
                group.marked = False
                changes[_SESSION_ROW + session] = _encode(SessionRow(group.answered, group.floor, group.last_s))
            else:
                changes[_SESSION_ROW + session] = None
        self._saved_row = self._next_row - 1
        self._gone, self._marked = [], []
        return changes

    def load(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Into an empty table, what `take_changes` has handed out, in the order of the keys."""
        assert not self.groups
        found = list(rows)
        for key, raw in found:
            if key.startswith(_SESSION_ROW):
                session = _decode_session(raw)
                group = self._new_group(key[1:], session.last_s)
                group.answered, group.floor, group.last_s = session.answered, session.floor, session.last_s
        for key, raw in found:
            if not key.startswith(_SESSION_ROW):
                answer = _decode_answer(raw)
                answer.row = int(key, 16)
                self._next_row = answer.row + 1
                group = self.groups.get(answer.group) or self._new_group(answer.group, answer.since_s)
                group.rows[answer.key] = answer
                self._order.append(answer)
                self.count += 1
                self.bytes += ANSWER_BYTES + answer.size
                if is_session(answer.group) and isinstance(answer.key, str):
                    group.children.setdefault(number_of(answer.key), []).append(answer.key)
        self._saved_row = self._next_row - 1
        if found:
            self._sessions = deque(sorted(self._sessions, key=lambda seen: seen[1]))

    def check_invariants(self) -> None:
        """Recomputes what is kept incrementally. For tests."""
        kept = [answer for group in self.groups.values() for answer in group.rows.values()]
        assert self.count == len(kept)
        sessions = [name for name in self.groups if is_session(name)]
        assert self.bytes == sum(ANSWER_BYTES + answer.size for answer in kept) + SESSION_BYTES * len(sessions)
        assert sorted(name for name, _ in self._sessions) == sorted(sessions)
        in_order = [answer.row for answer in self._order if answer.row]
        assert in_order == sorted(in_order)
        assert set(in_order) == {answer.row for answer in kept}
        assert len(in_order) == len(kept)
        assert len(self._order) <= 2 * self.count + _COMPACT_MIN
        for name, group in self.groups.items():
            children = sorted(child for listed in group.children.values() for child in listed)
            wanted = sorted(key for key in group.rows if isinstance(key, str)) if is_session(name) else []
            assert children == wanted
            assert group.rows or is_session(name)
            if is_session(name):
                assert all(number_of(key) >= group.answered for key in group.rows)
