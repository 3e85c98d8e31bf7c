"""What calls with a key were answered, of one shard: kept so that the same key is answered the same, and does not run again.

An answer is in the commit that has the writes of its call, so this table is what the log says of it: it changes when a commit is
durable, and when a commit is replayed, in the same way. Answers are grouped: those of one *session* (of a client that numbers
its calls), or those to plain keys of one object. A session says with each call up to which number it has been answered: what is
below is freed at once, so that of a session no more is kept than is in flight. The rest leaves by count, age and bytes, the
oldest first, and is counted.

Guarantee: of a session no number below its *floor* is ever new: it has been answered, or its answer was dropped. A session that
has to leave for lack of room leaves its floor behind, until it is too old; these have a share of the room, and beyond that the
oldest leave, too, and are counted.

At a checkpoint, what is kept then becomes rows of the shard's state, numbered in the order of the commits. An answer that was
freed before costs the state nothing.

Rule: pure. No clock: the newest answer says how late it is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from tidegate.shard.store.interface import SESSION_CHARACTERS_MAX, Answer, AnswerRoll, number_of

ANSWERS_KEY = b"\xf9" * 16
"""Object key under which a shard keeps them. Object keys begin with a slot, so with a byte below 0x40."""
ANSWER_BYTES = 500
"""Estimate of what an answer takes in memory beside a large result."""
ROLL_BYTES = 500
"""The same for a roll, beside its answers."""
SESSION_BYTES = 500
"""The same for a session."""
FLOOR_BYTES = 300
"""The same for a session of which only the floor is left."""
FLOORS_SHARE = 4
"""These may take this part of the room: a quarter."""
_ROLL_ROW = "r"
"""Ends the keys of the rows of rolls, which are otherwise those of answers."""
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

    __slots__ = ("answered", "children", "floor", "last_s", "marked", "rolls", "rows")

    def __init__(self) -> None:
        self.rows: dict[int | str, Answer] = {}
        """By number in the session (of calls that such a call has made: number, `~`, and their own key), or by plain key."""
        self.rolls: deque[AnswerRoll] = deque()
        """Of a session, the oldest first: those answers that came in rolls."""
        self.children: dict[int, list[str]] = {}
        """By number, the keys of calls that it has made, of a session."""
        self.answered = 0
        """Of a session: calls with a smaller number have been answered to their caller."""
        self.floor = 0
        """Of a session: calls with a smaller number have been answered, or answers of such calls have been dropped."""
        self.last_s = 0
        self.marked = False
        """Its floor or its time is not in the state."""

    def told(self, key: int | str) -> tuple[int, int, Any] | None:
        """What a call was answered: digest, status, result."""
        answer = self.rows.get(key)
        if answer is not None:
            return answer.digest, answer.status, answer.result
        if isinstance(key, int):
            for roll in reversed(self.rolls):
                if roll.newest >= key and (told := roll.told(key)) is not None:
                    return told
        return None

    def kept(self) -> list[Answer | AnswerRoll]:
        return [*self.rows.values(), *self.rolls]

    @property
    def newest(self) -> int:
        """No call of the session with a larger number is known."""
        numbers = [key for key in self.rows if isinstance(key, int)]
        return max(self.answered - 1, self.floor - 1, *numbers, *(roll.newest for roll in self.rolls))


class SessionRow(msgspec.Struct, array_like=True, gc=False):
    answered: int
    floor: int
    last_s: int

    @property
    def newest(self) -> int:
        """As of a `Group`."""
        return max(self.answered, self.floor) - 1


def is_session(group: str) -> bool:
    return len(group) <= SESSION_CHARACTERS_MAX


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_session = msgspec.msgpack.Decoder(SessionRow).decode
_decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode
_decode_roll = msgspec.msgpack.Decoder(AnswerRoll).decode
_decode_rolls = msgspec.msgpack.Decoder(list[AnswerRoll]).decode


def decode_answers(raw: msgspec.Raw) -> list[Answer]:
    """Those of a commit, without a hold on its record."""
    answers = _decode_answers(raw)
    for answer in answers:
        answer.result = answer.result.copy()
    return answers


def decode_rolls(raw: msgspec.Raw) -> list[AnswerRoll]:
    """The same for its rolls."""
    rolls = _decode_rolls(raw)
    for roll in rolls:
        roll.answers = roll.answers.copy()
    return rolls


class AnswerTable:
    def __init__(self, limits: AnswerLimits = NO_LIMITS) -> None:
        self.limits = limits
        self.groups: dict[str, Group] = {}
        """By session, or by object."""
        self.count = 0
        self.bytes = 0
        """Estimate of the memory held."""
        self.dropped = 0
        """Answers that had to leave before they were too old or their session had been answered, and floors before they were."""
        self.floors: OrderedDict[str, SessionRow] = OrderedDict()
        """Of sessions that had to leave, the first that did first."""
        self._order: deque[Answer | AnswerRoll] = deque()
        """The oldest first. Those that were freed have no row; they leave when they are first, or when they are most of it."""
        self._sessions: deque[tuple[str, int]] = deque()
        """With the time that was known when it was looked at, the oldest first."""
        self._next_row = 1
        self._saved_row = 0
        """Rows up to this one have been handed out by `take_changes`, or were loaded."""
        self._gone: list[str] = []
        """Of those, the keys of rows that are no longer kept."""
        self._marked: list[str] = []
        """Sessions whose row has changed."""

    def session(self, name: str) -> Group | SessionRow | None:
        """What is known of it: its `floor`, and the `newest` of its numbers."""
        return self.groups.get(name) or self.floors.get(name)

    def limit(self, *, per_object: int, kept_s: int, bytes_max: int) -> None:
        """From the next commit on."""
        self.limits = AnswerLimits(per_object, kept_s, bytes_max)

    # What is durable

    def apply(self, answers: Sequence[Answer], rolls: Sequence[AnswerRoll] = ()) -> None:
        """A commit is durable: its answers, in the order in which they were given, and its rolls. Or several are that have
        rolls only: all of these, in order."""
        now_s = answers[-1].since_s if answers else rolls[-1].since_s
        if rolls:
            self._apply_rolls(rolls, now_s)
        name, in_session, key_max = "", False, 0
        for answer in answers:
            if answer.group != name:
                name = answer.group
                in_session = is_session(name)
                key_max = self.limits.per_object if not in_session else 1 << 62
                group = self._session(name, 0, now_s) if in_session else self.groups.get(name) or self._new_group(name, now_s)
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
            answer.row = self._next_row
            self._next_row += 1
            rows[key] = answer
            self._order.append(answer)
            self.count += 1
            self.bytes += _bytes_of(answer)
            if len(rows) > key_max:
                self._drop(next(iter(rows.values())))
        self._make_room(now_s)
        if len(self._order) > 2 * self.count + _COMPACT_MIN:
            self._order = deque(kept for kept in self._order if kept.row)

    def _apply_rolls(self, rolls: Sequence[AnswerRoll], now_s: int) -> None:
        """Those of a session that its later ones say to be answered leave no trace."""
        answered: dict[str, int] = {}
        for roll in rolls:
            name = roll.session
            if answered.get(name, -1) < roll.answered:
                answered[name] = roll.answered
        groups = {name: self._session(name, number, now_s) for name, number in answered.items()}
        for roll in rolls:
            group = groups[roll.session]
            if roll.newest >= group.answered:  # Else answered since.
                roll.row = self._next_row
                self._next_row += 1
                group.rolls.append(roll)
                self._order.append(roll)
                self.count += roll.count
                self.bytes += _bytes_of(roll)

    def _session(self, name: str, answered: int, now_s: int) -> Group:
        """Of which something is durable now."""
        group = self.groups.get(name) or self._new_group(name, now_s)
        group.last_s = now_s
        if not group.marked:
            self._mark(name, group)
        if answered > group.answered:
            self._settle(group, answered)
        return group

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
            if (left := self.floors.pop(name, None)) is not None:
                self.bytes -= FLOOR_BYTES
                group.answered, group.floor = left.answered, left.floor
        return group

    def _mark(self, session: str, group: Group) -> None:
        if not group.marked:
            group.marked = True
            self._marked.append(session)

    def _settle(self, group: Group, answered: int) -> None:
        """Of a session everything below that number has been answered."""
        rolls, rows, children = group.rolls, group.rows, group.children
        while rolls and rolls[0].newest < answered:
            self._free(rolls.popleft())
        if rows:
            if answered - group.answered < len(rows):
                numbers: Iterable[int] = range(group.answered, answered)
                freed = [rows.pop(number) for number in numbers if number in rows]
                if children:
                    freed += [rows.pop(child) for number in numbers for child in children.pop(number, ())]
            else:
                keys = [key for key in rows if number_of(key) < answered]
                freed = [rows.pop(key) for key in keys]
                for key in keys if children else ():
                    children.pop(number_of(key), None)
            for answer in freed:
                self._free(answer)
        group.answered = answered
        group.floor = max(group.floor, answered)

    def _free(self, kept: Answer | AnswerRoll) -> None:
        """It has left its group."""
        if kept.row <= self._saved_row:
            self._gone.append(_row_key(kept))
        kept.row = 0
        self.count -= _count_of(kept)
        self.bytes -= _bytes_of(kept)

    # What has to leave

    def _make_room(self, now_s: int) -> None:
        bytes_max, order, sessions = self.limits.bytes_max, self._order, self._sessions
        oldest_s = now_s - self.limits.kept_s
        while order and (not order[0].row or order[0].since_s < oldest_s):
            kept = order.popleft()
            if kept.row:
                self._take_out(kept)
        while sessions and sessions[0][1] < oldest_s:
            self._look_at_session(oldest_s)
        while self.floors and next(iter(self.floors.values())).last_s < oldest_s:
            self._forget_floor()
        self._make_room_of_floors()
        while self.bytes > bytes_max and (order or sessions):
            if order and not (sessions and sessions[0][1] < order[0].since_s):
                kept = order.popleft()
                if kept.row:
                    self._drop(kept)
            else:
                self._look_at_session(sessions[0][1] + 1, is_too_old=False)

    def _look_at_session(self, oldest_s: int, *, is_too_old: bool = True) -> None:
        """The first: it leaves, unless it has been used since it was looked at. If only for lack of room, its floor stays."""
        name, seen_s = self._sessions.popleft()
        group = self.groups[name]
        if group.last_s > seen_s and group.last_s >= oldest_s:
            self._sessions.append((name, group.last_s))
            return
        newest = group.newest
        self.dropped += sum(map(_count_of, group.kept()))
        for kept in group.kept():
            self._free(kept)
        del self.groups[name]
        self.bytes -= SESSION_BYTES
        self._mark(name, group)
        if newest >= 0 and not is_too_old:
            self.floors[name] = SessionRow(group.answered, newest + 1, group.last_s)
            self.bytes += FLOOR_BYTES
            self._make_room_of_floors()

    def _make_room_of_floors(self) -> None:
        while len(self.floors) * FLOOR_BYTES > self.limits.bytes_max // FLOORS_SHARE:
            self._forget_floor()
            self.dropped += 1

    def _forget_floor(self) -> None:
        """The first."""
        name, _ = self.floors.popitem(last=False)
        self.bytes -= FLOOR_BYTES
        self._marked.append(name)

    def _drop(self, kept: Answer | AnswerRoll) -> None:
        self.dropped += _count_of(kept)
        self._take_out(kept)

    def _take_out(self, kept: Answer | AnswerRoll) -> None:
        if isinstance(kept, AnswerRoll):
            group = self.groups[kept.session]
            group.rolls.remove(kept)
            group.floor = max(group.floor, kept.newest + 1)
            self._mark(kept.session, group)
        else:
            self._take_out_answer(kept)
        self._free(kept)

    def _take_out_answer(self, answer: Answer) -> None:
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

    # Rows of the state

    def take_changes(self) -> dict[str, bytes | None]:
        """What has changed since this was asked last: rows under `ANSWERS_KEY`. None: a row is gone."""
        changes: dict[str, bytes | None] = dict.fromkeys(self._gone)
        for kept in reversed(self._order):
            if kept.row:
                if kept.row <= self._saved_row:
                    break
                changes[_row_key(kept)] = _encode(kept)
        for session in self._marked:
            group = self.groups.get(session)
            if group is not None:
                group.marked = False
                changes[_SESSION_ROW + session] = _encode(SessionRow(group.answered, group.floor, group.last_s))
            else:
                left = self.floors.get(session)
                changes[_SESSION_ROW + session] = None if left is None else _encode(left)
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
                self._load(key, raw)
        self._saved_row = self._next_row - 1
        if found:
            self._sessions = deque(sorted(self._sessions, key=lambda seen: seen[1]))

    def _load(self, key: str, raw: bytes) -> None:
        kept: Answer | AnswerRoll
        if key.endswith(_ROLL_ROW):
            kept = _decode_roll(raw)
            group = self.groups.get(kept.session) or self._new_group(kept.session, kept.since_s)
            group.rolls.append(kept)
        else:
            kept = _decode_answer(raw)
            group = self.groups.get(kept.group) or self._new_group(kept.group, kept.since_s)
            group.rows[kept.key] = kept
            if is_session(kept.group) and isinstance(kept.key, str):
                group.children.setdefault(number_of(kept.key), []).append(kept.key)
        kept.row = int(key.removesuffix(_ROLL_ROW), 16)
        self._next_row = kept.row + 1
        self._order.append(kept)
        self.count += _count_of(kept)
        self.bytes += _bytes_of(kept)

    def take_over(self, others: Sequence[AnswerTable], belongs: Callable[[str], bool]) -> None:
        """Into an empty table, what others have of the groups that belong here: of a session, what any of them knows counts."""
        assert not self.groups
        found: list[Answer | AnswerRoll] = []
        for other in others:
            for name, group in other.groups.items():
                if belongs(name):
                    mine = self.groups.get(name) or self._new_group(name, group.last_s)
                    mine.answered, mine.floor = max(mine.answered, group.answered), max(mine.floor, group.floor)
                    mine.last_s = max(mine.last_s, group.last_s)
                    found += group.kept()
                    if is_session(name):
                        self._mark(name, mine)
            for name, left in other.floors.items():
                if belongs(name):
                    mine = self.groups.get(name) or self._new_group(name, left.last_s)
                    mine.answered, mine.floor = max(mine.answered, left.answered), max(mine.floor, left.floor)
                    mine.last_s = max(mine.last_s, left.last_s)
                    self._mark(name, mine)
        for kept in sorted(found, key=lambda kept: (kept.since_s, kept.row)):
            self._take_copy(kept)

    def _take_copy(self, kept: Answer | AnswerRoll) -> None:
        copy = msgspec.structs.replace(kept, row=self._next_row)
        group = self.groups[copy.session if isinstance(copy, AnswerRoll) else copy.group]
        if isinstance(copy, AnswerRoll):
            if copy.newest < group.answered:
                return
            group.rolls.append(copy)
        else:
            if is_session(copy.group):
                if number_of(copy.key) < group.answered:
                    return
                if isinstance(copy.key, str):
                    group.children.setdefault(number_of(copy.key), []).append(copy.key)
            group.rows[copy.key] = copy
        self._next_row += 1
        self._order.append(copy)
        self.count += _count_of(copy)
        self.bytes += _bytes_of(copy)

    def check_invariants(self) -> None:
        """Recomputes what is kept incrementally. For tests."""
        kept = [each for group in self.groups.values() for each in group.kept()]
        assert self.count == sum(map(_count_of, kept))
        sessions = [name for name in self.groups if is_session(name)]
        assert self.bytes == sum(map(_bytes_of, kept)) + SESSION_BYTES * len(sessions) + FLOOR_BYTES * len(self.floors)
        assert not self.floors.keys() & self.groups.keys()
        assert len(self.floors) * FLOOR_BYTES <= self.limits.bytes_max // FLOORS_SHARE
        assert sorted(name for name, _ in self._sessions) == sorted(sessions)
        in_order = [each.row for each in self._order if each.row]
        assert in_order == sorted(in_order)
        assert set(in_order) == {each.row for each in kept}
        assert len(in_order) == len(kept)
        assert len(self._order) <= 2 * self.count + _COMPACT_MIN
        for name, group in self.groups.items():
            children = sorted(child for listed in group.children.values() for child in listed)
            wanted = sorted(key for key in group.rows if isinstance(key, str)) if is_session(name) else []
            assert children == wanted
            assert group.rows or is_session(name)
            for roll in group.rolls:
                numbers = msgspec.msgpack.decode(roll.answers)[::3]
                assert (numbers, roll.count, roll.newest) == (sorted(numbers), len(numbers), numbers[-1])
            if is_session(name):
                assert all(number_of(key) >= group.answered for key in group.rows)
                assert not group.rolls or group.rolls[0].newest >= group.answered


def _count_of(kept: Answer | AnswerRoll) -> int:
    return kept.count if isinstance(kept, AnswerRoll) else 1


def _bytes_of(kept: Answer | AnswerRoll) -> int:
    if isinstance(kept, AnswerRoll):
        return ROLL_BYTES + len(kept.answers)
    return ANSWER_BYTES + kept.size


def _row_key(kept: Answer | AnswerRoll) -> str:
    return f"{kept.row:016x}{_ROLL_ROW}" if isinstance(kept, AnswerRoll) else f"{kept.row:016x}"
