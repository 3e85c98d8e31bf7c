"""Calls with a key: of those to one object that have the same key, one runs, and all are answered the same.

Guarantee: what such a call is answered is durable in the commit that has its last writes, or neither is; a repeated key is
answered that, once it is durable, whatever has become of the object, and while the first still runs the others wait for it. A
first call that has left nothing durable is none: the next one runs. Nor is one that has written nothing and failed because an
object that it asked was lost or out of reach: its caller is told that, and may repeat it.

A call that is answered in its first step leaves its writes and its answer in one commit. One that has written and waits is marked
with these writes as *started*: if its end does not become durable, what it did is done in part, and a repeated key is told that
it was interrupted instead of running again.

Of a session (see `store.answers`) nothing durable is kept of a call that has written, sent and started nothing, unless its answer
waits for the open commit, and so goes with it (not where all answers wait: `core.proving`); it is known to this process for a
while. Calls that a call with a key makes to other objects have keys too, which follow from its own: a call that runs again does
not do there what it has done.

Nearly all calls of a session come in the order of their numbers, so that a new one is told by that alone: see
`KnownCalls.newest`. Only the others are looked for: among those that run, those that have ended in commits under way, and what
is durable or remembered.

Rule: what is durable is the table's (`store.answers`); what runs, or is not durable yet, is known here.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

import msgspec
from msgspec import Raw

from tidegate.runtime.errors import (
    BadRequest,
    CallError,
    Interrupted,
    Moved,
    ObjectReset,
    Overloaded,
    ShardLost,
    TooLarge,
    Unavailable,
)
from tidegate.runtime.limits import KEPT_RESULT_BYTES_MAX
from tidegate.runtime.wire.protocol import (
    ERROR,
    NO_RAW,
    OK,
    Origin,
    Request,
    cannot_be_sent,
    decode_options,
    encode,
    encode_json,
)
from tidegate.runtime.wire.sessions import NUMBER_MAX, answered_in, check_name
from tidegate.shard.core.codec import NUMBERS
from tidegate.shard.core.output_gate import NumberedAnswer
from tidegate.shard.host.call import Call, CallKey
from tidegate.shard.host.outbound import InternalOrigin, LocalOrigin, Permit
from tidegate.shard.store.interface import JSON, STARTED, TOO_LARGE, Answer, AnswerRoll, ShardCommit, number_of

if TYPE_CHECKING:
    from tidegate.shard.core.cache import ObjectCache
    from tidegate.shard.core.output_gate import HeldMessage, PendingCommit
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host
    from tidegate.shard.objects.methods import Method

ANSWER_COMMIT_BYTES = 96
"""What an answer takes in a commit beside its result."""
CHILD = "~"
"""In the key of a call that a call of a session has made: between its number and the rest."""
CHILD_DIGEST_BYTES = 12
SESSIONS_KNOWN_MAX = 10_000
REMEMBERED_MAX = 5_000
"""Twice as many calls of sessions that did nothing are known, of one worker."""
REMEMBERED_RESULT_BYTES_MAX = 1_024
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_SESSION_KEY = re.compile(r"[A-Za-z0-9_-]{1,22}\.(0|[1-9][0-9]{0,17})(~[A-Za-z0-9_-]{1,20})?", re.ASCII)

_PASSING = frozenset({Moved, ObjectReset, Overloaded, ShardLost, Unavailable})

_decode: Any = msgspec.msgpack.Decoder().decode


Told = tuple[int, int, Any]
"""What a call with a key was answered: the digest of what was called, the status, the result."""


class KnownCalls:
    """The calls of one session, or with plain keys to one object, as far as they are not only durable."""

    __slots__ = ("answered", "is_session", "name", "newest", "old", "runs", "young")

    def __init__(self, name: str, *, is_session: bool) -> None:
        self.name = name
        self.is_session = is_session
        self.answered = 0
        """Of a session: calls with a smaller number have been answered to their caller."""
        self.newest = -1
        """Of a session: no call with a larger number has begun."""
        self.runs: dict[int | str, KeyedRun] = {}
        """Those which have not ended by their first step, and those which may not be told yet what they have seen."""
        self.young: dict[int | str, Told] = {}
        self.old: dict[int | str, Told] = {}
        """What calls of a session were answered that did nothing. The old ones leave all at once."""

    def answered_below(self, number: int) -> None:
        """All calls with a smaller number have been answered to their caller. One that comes late is looked for, and refused."""
        self.answered = number
        if self.newest < number - 1:
            self.newest = number - 1


class KeyedRun:
    """The run of a call with a key, and where its outcome goes: an `InternalOrigin`.

    Of a numbered call that ends in its first step, as nearly all do, nothing is left but the message that answers it. Its run is
    the *spare* one, which the next such call takes again: to make one costs more than all else that is done for a key."""

    __slots__ = (
        "before",
        "before_bytes",
        "cache",
        "calls",
        "digest",
        "has_effects",
        "has_ended",
        "in_roll",
        "inner",
        "is_marked",
        "is_over",
        "is_spare",
        "json",
        "key",
        "known",
        "request_id",
        "result",
        "result_bytes",
        "size",
        "status",
    )

    client = b""

    def __init__(self, inner: Origin, known: KnownCalls, *, is_spare: bool = False) -> None:
        self.inner = inner
        self.known = known
        self.json = inner.json
        self.status = OK
        self.result: Any = NO_RAW
        """Once it has ended: what it is answered, durable with what its object has written."""
        self.result_bytes = 0
        """Where that may be many."""
        self.has_ended = False
        self.is_over = False
        """It has been let go."""
        self.size = ANSWER_COMMIT_BYTES
        """What the answer takes in the commit."""
        self.has_effects = False
        """It has written, sent or started something, other than by writes of its current step."""
        self.is_marked = False
        """Its writes are marked as those of a call that has not ended."""
        self.in_roll = False
        """Its answer is kept in one."""
        self.calls: dict[tuple[str, str, str], int] | None = None
        """How many it has made to each method of each object."""
        self.is_spare = is_spare
        """Nobody but the host has it: its call is in its first step, and has sent and started nothing."""

    def begin(self, cache: ObjectCache, request_id: Any, key: int | str, digest: int) -> KeyedRun:
        self.cache = cache
        self.request_id = request_id
        self.key = key
        """Its number in the session (of a call that such a call has made: number, `~`, its own key), or its plain key."""
        self.digest = digest
        """Of what was called, with which arguments."""
        self.before = cache.dirty
        self.before_bytes = cache.dirty_bytes
        """What its object had written when its current step began."""
        return self

    @property
    def activation(self) -> Activation:
        return cast("Activation", self.cache.owner)

    @property
    def label(self) -> str:
        return f"{self.known.name}.{self.key}" if self.known.is_session else str(self.key)

    @property
    def told(self) -> Told:
        return self.digest, self.status, self.result

    def begin_step(self) -> None:
        cache = self.cache
        self.before, self.before_bytes = cache.dirty, cache.dirty_bytes

    def end_step(self) -> None:
        """The call is not over, and may never be: what it has written is marked."""
        self.is_spare = False
        if self.is_over or self.has_ended:
            return
        self.known.runs[self.key] = self
        if self.has_written:
            self.has_effects = True
            if not self.is_marked and self.activation.broken is None:
                self.is_marked = True
                self.activation.host.output_gate.keep_answer(Mark(self))

    @property
    def has_written(self) -> bool:
        """Since its current step began, which is when no commit is cut."""
        cache = self.cache
        return cache.dirty is not self.before or cache.dirty_bytes != self.before_bytes

    def fail(self, error: CallError) -> None:
        """It ends without an outcome of its own, or what it was to be answered must not leave."""
        host = self.activation.host
        host.keyed.let_go(self)
        host.answer_error(self.inner, self.request_id, error, self.activation.id.class_name)

    def answer(self, status: int, result: Any) -> None:
        """What it has seen is durable; or it ends without an outcome of its own: refused, reset."""
        host = self.activation.host
        if self.has_ended:
            host.keyed.remember(self)
        host.keyed.let_go(self)
        host.answer(self.inner, self.request_id, status, result)

    @property
    def arrived_s(self) -> float:
        return self.inner.arrived_s

    @property
    def trace(self) -> Any:
        return self.inner.trace

    @property
    def of_class(self) -> None:
        return None

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        inner = self.inner
        return inner.asked_by(request_id) if isinstance(inner, InternalOrigin) else (inner, request_id)

    def call_key(self, class_name: str, name: str, method: str) -> CallKey:
        """Of a call that it makes: the n-th one to that method of that object, whatever others it makes in between."""
        self.has_effects, self.is_spare = True, False
        calls = self.calls
        if calls is None:
            calls = self.calls = {}
        target = class_name, name, method
        nth = calls[target] = calls.get(target, 0) + 1
        known = self.known
        text = "\0".join((*self.activation.id, repr(self.key), *target, str(nth)))
        digest = urlsafe_b64encode(blake2b(text.encode(), digest_size=CHILD_DIGEST_BYTES).digest()).decode()
        if not known.is_session:
            return CallKey(CHILD + digest, None)
        return CallKey(f"{known.name}.{number_of(self.key)}{CHILD}{digest}", known.answered)


class Mark:
    """That a call has written and not ended, in the commit of its first writes."""

    __slots__ = ("cache", "digest", "key", "known", "size")

    status = STARTED
    result = NO_RAW
    result_bytes = 0
    in_roll = False

    def __init__(self, run: KeyedRun) -> None:
        self.cache = run.cache
        self.known = run.known
        self.key = run.key
        self.digest = run.digest
        self.size = ANSWER_COMMIT_BYTES


class Repeat(Permit):
    """A repeated key, whose first call has ended and is not durable yet."""

    __slots__ = ("_call",)

    def __init__(self, call: Call, host: Host, status: int, result: Any) -> None:
        super().__init__(lambda: host.answer(call.origin, call.request.id, status, result), lambda _: host.deliver_soon(call))
        self._call = call

    def asked_by(self, _: Any) -> tuple[Origin, Any]:
        origin, request_id = self._call.origin, self._call.request.id
        return origin.asked_by(request_id) if isinstance(origin, InternalOrigin) else (origin, request_id)


class KeyedCalls:
    def __init__(self, host: Host) -> None:
        self.host = host
        self._output_gate = host.output_gate
        self._waiting = host.waiting
        self._sessions: dict[str, KnownCalls] = {}
        self._at_hand: KnownCalls | None = None
        """Whose batch has come last; perhaps it is being handled."""
        self._plain: dict[str, KnownCalls] = {}
        """By object, as long as calls with plain keys run there."""
        self._remembered = 0
        self._indexes: list[tuple[list[Any], int, dict[tuple[str, int | str], Any]]] = []
        """Of the commits under way, those calls that have ended: for whoever has looked for one. With how many are in it."""
        self._spare: KeyedRun | None = None
        self.has_numbered = False
        """Of the open commit, messages may be answers that are kept."""
        self.repeats = 0
        """Calls that were answered what another one was."""
        self._share_room()

    def _share_room(self) -> None:
        bounds, stores = self.host.settings.keys, self.host.stores
        for store in stores.values():
            bytes_max = bounds.bytes_max // len(stores)
            store.answers.limit(per_object=bounds.per_object, kept_s=bounds.kept_s, bytes_max=bytes_max)

    def shards_changed(self, taken: int | None = None) -> None:
        """A shard has gone, or this one was taken: what another worker has answered there counts for the sessions known here."""
        self._share_room()
        if taken is not None:
            answers = self.host.stores[taken].answers
            for name, known in self._sessions.items():
                if (session := answers.session(name)) is not None:
                    known.newest = max(known.newest, session.newest)

    def session(self, name: str, answered: int) -> KnownCalls:
        """What is known of its calls; all with a number below `answered` have been answered to their caller."""
        known = self._sessions.get(name)
        if known is None:
            known = self._new_session(name)
        if answered > known.answered:
            known.answered_below(answered)
        return known

    def begin_batch(self, head: Request, json: bool) -> KnownCalls:
        """The session of a batch, which is known until the next one begins. Raises BadRequest."""
        answered = answered_in(head, json)
        known = self._sessions.get(head.name)
        if known is None:  # To look at the name of each batch would take longer than all else here.
            check_name(head.name)
            known = self._new_session(head.name)
        if answered > known.answered:
            known.answered_below(answered)
        self._at_hand = known
        self.has_numbered = True
        return known

    def spare(self, origin: Origin, known: KnownCalls) -> KeyedRun:
        """A run for calls of a batch, one after the other. Where it is still spare at the end of the batch it is to be kept."""
        spare, self._spare = self._spare or KeyedRun(origin, known, is_spare=True), None
        spare.inner, spare.known, spare.json = origin, known, origin.json
        return spare

    def keep_spare(self, run: KeyedRun | None) -> None:
        if run is None or not run.is_spare:
            return
        run.cache = run.inner = run.known = run.before = None  # type: ignore[assignment]  # it holds nothing
        self._spare = run

    def _new_session(self, name: str) -> KnownCalls:
        if len(self._sessions) >= SESSIONS_KNOWN_MAX:
            busy = {known.name for known in self._under_way()}
            if self._at_hand is not None:
                busy.add(self._at_hand.name)
            self._sessions = {known.name: known for known in self._sessions.values() if known.runs or known.name in busy}
        known = self._sessions[name] = KnownCalls(name, is_session=True)
        told = (store.answers.session(name) for store in self.host.stores.values())
        known.newest = max((session.newest for session in told if session is not None), default=-1)
        return known

    def _under_way(self) -> Iterator[KnownCalls]:
        """Whose calls have ended, or have written, in commits that are not durable yet."""
        gate = self._output_gate
        yield from (message[5] for message in gate.messages() if message[5] is not None)
        for commit in (gate, gate.in_flight):
            if commit is not None:
                for each in cast("Sequence[KeyedRun | Mark | NumberedAnswer]", commit.answers):
                    yield each.message[5] if isinstance(each, NumberedAnswer) else each.known

    def begin_at_once(self, activation: Activation, method: Method, request: Request, origin: Origin) -> KeyedRun | None:
        """The run of a call whose options name a session and a number larger than those of all that have begun. (Of one in the
        batch of a session the host makes the run itself.) None: it has no key, or more has to be looked at: see `begin`."""
        if origin.json:
            return None
        try:
            options = decode_options(request.options)
            if options.deadline_ms is not None or options.chain is not None or options.traceparent is not None:
                return None
            name, _, part = options.key.rpartition(".")  # type: ignore[union-attr]  # that is what is caught
            number, answered = int(part), options.answered
        except Exception:
            return None
        known = self._sessions.get(name)
        if known is None or answered is None or number < answered:
            return None
        if not known.newest < number <= NUMBER_MAX or str(number) != part:
            return None
        known.newest = number
        if answered > known.answered:
            known.answered = answered
        digest = digest_of(method, request, activation.cache.key)
        return KeyedRun(origin, known).begin(activation.cache, request.id, number, digest)

    def begin(self, activation: Activation, method: Method, call: Call, key: CallKey) -> KeyedRun | None:
        """The gate has let a call with a key in: its run. None: it does not run, and has been answered or waits."""
        request, origin = call.request, call.origin
        text, answered = key
        cache = activation.cache
        digest = crc32(request.args, method.digest)
        number: int | str = text
        if answered is None:
            name = cache.key.hex()
            known = self._plain.get(name) or self._plain.setdefault(name, KnownCalls(name, is_session=False))
        else:
            if _SESSION_KEY.fullmatch(text) is None:
                self._refuse(origin, request, "options: with `answered` the key is SESSION.NUMBER")
                return None
            name, _, part = text.rpartition(".")
            known = self.session(name, answered)
            number = int(part) if part.isdecimal() else part
            digest = digest_of(method, request, cache.key)
        answers = cache.store.answers
        group = answers.groups.get(name)
        run = known.runs.get(number) or self._ended(known, number)
        told = None if run is not None else (group and group.told(number)) or known.young.get(number) or known.old.get(number)
        if run is not None or told is not None:
            self._repeat(activation, call, run, digest, told)
            return None
        session = answers.session(name)
        floor = 0 if session is None else session.floor
        if known.is_session and number_of(number) < (floor if isinstance(number, str) else max(floor, known.answered)):
            text = "this key of the session has been answered long ago, and its answer is no longer kept; it does not run again"
            self.host.answer_error(origin, request.id, BadRequest(text, outcome="unknown"), request.cls)
            return None
        run = KeyedRun(origin, known).begin(cache, request.id, number, digest)
        known.runs[number] = run
        if number.__class__ is int and number > known.newest:
            known.newest = number
        return run

    def _ended(self, known: KnownCalls, key: int | str) -> KeyedRun | None:
        """The run of that key, if it is in a commit under way."""
        gate = self._output_gate
        commits: list[Any] = [gate] if gate.in_flight is None else [gate, gate.in_flight]
        lists = [kept for commit in commits for kept in (commit.answers, commit.held)]
        indexes = [each for each in self._indexes if any(each[0] is kept for kept in lists)]
        self._indexes = []
        found = None
        for kept in lists:
            _, count, index = next((each for each in indexes if each[0] is kept), (kept, 0, {}))
            for each in kept[count:]:
                if each.__class__ is tuple:
                    if each[5] is not None:
                        index[each[5].name, each[2]] = each
                elif isinstance(each, KeyedRun):
                    index[each.known.name, each.key] = each
                elif isinstance(each, NumberedAnswer):
                    index[each.message[5].name, each.message[2]] = each.message
            self._indexes.append((kept, len(kept), index))
            found = found or index.get((known.name, key))
        return _run_of(found) if found.__class__ is tuple else found

    def _refuse(self, origin: Origin, request: Request, text: str) -> None:
        self.host.answer_error(origin, request.id, BadRequest(text), request.cls)

    # Repeated keys

    def _repeat(self, activation: Activation, call: Call, run: KeyedRun | None, digest: int, told: Told | None) -> None:
        host, origin, request = self.host, call.origin, call.request
        told = run.told if run is not None else cast("Told", told)
        if digest != told[0]:
            self._refuse(origin, request, "options: the key was used for another method or for other arguments")
            return
        if run is not None and not run.has_ended:
            host.waiting.behind(run, call)
            return
        self.repeats += 1
        status, result = _reply_of(told, activation, json=origin.json)
        if run is None or run.cache.confirm_seq <= host.output_gate.durable_seq:
            host.answer(origin, request.id, status, result)
            host.turn.end_soon()
        else:
            host.output_gate.hold(run.cache.confirm_seq, run.activation, Repeat(call, host, status, result), 0, OK, None)

    # Ends

    def answered_at_once(self, run: KeyedRun, result: Any) -> None:
        """A call of a batch has come to its end in its first step, and has done nothing. What it is answered may leave."""
        self.remember_told(run.known, run.key, (run.digest, OK, result))
        self.host.counting.at_once += 1
        self.host.answer(run.inner, run.key, OK, result)

    def finished(self, run: KeyedRun, status: int, result: Any) -> Origin | KeyedRun:
        """It has come to its end: its answer is kept, if it has to be. Returns where that goes, through the output gate."""
        if run.has_ended:
            return run
        run.is_spare = False
        cache, known = run.cache, run.known
        kind = result.__class__
        if status == OK and kind in NUMBERS and (kind is not int or _INT_MIN <= result <= _INT_MAX):
            run.result, run.in_roll = result, run.key.__class__ is int and known.is_session and not run.is_marked
        else:
            self._pack(run, status, result)
        if cache.dirty is run.before and cache.dirty_bytes == run.before_bytes and not run.has_effects and known.is_session:
            return self._did_nothing(run)
        run.has_ended = True
        cache.confirm_seq = self._output_gate.open_seq
        self._output_gate.keep_answer(run)
        if known.runs:
            self._forget(run)
        if self._waiting.repeating:
            self._waiting.first_ended(run)
        return run.inner

    @staticmethod
    def may_run_again(run: KeyedRun, error: CallError) -> bool:
        """It failed because another object was lost or out of reach, and has written nothing itself: who repeats it runs it
        again, and what it asks of others has the same keys."""
        return type(error) in _PASSING and not run.is_marked and not run.has_written

    def _did_nothing(self, run: KeyedRun) -> Origin | KeyedRun:
        """A call of a session that is not kept. What it has seen may not be durable yet: then its answer waits in its run, and
        until that leaves nobody else is told it. (A caller in this worker does not wait, and repeats it as part of its own.)"""
        if run.cache.confirm_seq <= self._output_gate.durable_seq:
            self.remember(run)
        elif run.inner.__class__ is not LocalOrigin:
            run.has_ended = True
            run.known.runs[run.key] = run
            if self._waiting.repeating:
                self._waiting.first_ended(run)
            return run
        self.let_go(run)
        return run.inner

    def remember(self, run: KeyedRun) -> None:
        """In memory, for a while. One that was told that it may not must not do it after all when another copy of it comes
        late."""
        if run.result_bytes <= REMEMBERED_RESULT_BYTES_MAX:
            self.remember_told(run.known, run.key, run.told)

    def remember_told(self, known: KnownCalls, key: int | str, told: Told) -> None:
        known.young[key] = told
        self._remembered += 1
        if self._remembered >= REMEMBERED_MAX:
            self._remembered = 0
            for each in self._sessions.values():
                each.old, each.young = each.young, {}

    @staticmethod
    def _pack(run: KeyedRun, status: int, result: Any) -> None:
        """What is no plain number: it may be large, or nothing for MessagePack."""
        if status == OK and result.__class__ is not Raw:
            try:
                if run.json and result.__class__ is int:
                    result = Raw(encode_json(result))
                else:
                    encode(result)
            except Exception as exc:  # Whoever sends it says the same.
                status, result = ERROR, cannot_be_sent(exc).to_wire()
        if status == ERROR:
            result = Raw(encode(result))
        elif run.json and result.__class__ is Raw:
            result, status = bytes(result), JSON
        size = len(result)
        if size > KEPT_RESULT_BYTES_MAX:
            status, result, size = TOO_LARGE, NO_RAW, 0
        run.status, run.result, run.result_bytes = status, result, size
        run.size += size

    def let_go(self, run: KeyedRun) -> None:
        """It leaves nothing: who has waited for it runs."""
        run.is_over, run.is_spare = True, False
        if run.known.runs:
            self._forget(run)
        if self._waiting.repeating:
            self._waiting.first_ended(run)

    def _forget(self, run: KeyedRun) -> None:
        known = run.known
        if known.runs.get(run.key) is run:
            del known.runs[run.key]
            if not known.runs and not known.is_session:
                del self._plain[known.name]

    # Commits

    def cut(self, commit: PendingCommit, by_shard: dict[int, ShardCommit]) -> None:
        """What is being made durable, into the parts of its shards."""
        now_s = self.host.wall_us() // 1_000_000
        self.has_numbered = False
        rolls: dict[KnownCalls, dict[int, list[Any]]] = {}
        rows: dict[int, list[Any]] = {}
        at_hand: Any = None
        for activation, _, number, _, result, session, digest in commit.held:
            if session is None:
                continue
            if session is not at_hand:
                at_hand = session
                rows = rolls[session] = rolls.get(session) or defaultdict(list)
            row = rows[activation.cache.store.shard]
            row.append(number)  # One after the other takes less time than all at once.
            row.append(digest)
            row.append(result)
        if commit.answers:
            self._cut_answers(commit, by_shard, rolls, now_s)
        for known, rows in rolls.items():
            for shard, listed in rows.items():
                if commit.answers:  # Else they are in the order in which they have come.
                    triples = sorted(zip(*[iter(listed)] * 3, strict=True), key=itemgetter(0))
                    listed = [*chain.from_iterable(triples)]
                try:
                    rolled = encode(listed)
                except OverflowError:  # Looked for here, for all of them at once.
                    apart, listed = _without_large(known, listed, _in_json(commit, known), now_s)
                    self.host.part_of(by_shard, shard).answers.extend(apart)
                    if not listed:
                        continue
                    rolled = encode(listed)
                roll = AnswerRoll(known.name, known.answered, now_s, listed[-3], len(listed) // 3, Raw(rolled))
                (by_shard.get(shard) or self.host.part_of(by_shard, shard)).rolls.append(roll)

    def _cut_answers(
        self, commit: PendingCommit, by_shard: dict[int, ShardCommit], rolls: dict[KnownCalls, dict[int, list[Any]]], now_s: int
    ) -> None:
        """Those beside what `held` says: the short ones into the rolls."""
        for each in cast("Sequence[KeyedRun | Mark | NumberedAnswer]", commit.answers):
            shard = each.cache.store.shard
            if isinstance(each, NumberedAnswer):
                _, _, number, _, result, session, digest = each.message
                rolls.setdefault(session, {}).setdefault(shard, []).extend((number, digest, result))
            elif each.in_roll:
                triple = cast("int", each.key), each.digest, each.result
                rolls.setdefault(each.known, {}).setdefault(shard, []).extend(triple)
            else:
                known, size = each.known, each.result_bytes
                answer = Answer(known.name, each.key, known.answered, each.digest, each.status, each.result, size, now_s)
                self.host.part_of(by_shard, shard).answers.append(answer)


def _in_json(commit: PendingCommit, known: KnownCalls) -> frozenset[int]:
    """The numbers of calls of the session that are answered in JSON, which has integers of any size."""
    numbered = (each.message for each in commit.answers if isinstance(each, NumberedAnswer))
    return frozenset(
        number for _, origin, number, _, _, session, _ in chain(commit.held, numbered) if session is known and origin.json
    )


def _without_large(known: KnownCalls, listed: list[Any], in_json: Collection[int], now_s: int) -> tuple[list[Answer], list[Any]]:
    """Of numbers, digests and results, those whose result is too large for MessagePack, as they are answered, and the others."""
    apart: list[Answer] = []
    rest: list[Any] = []
    for number, digest, result in zip(*[iter(listed)] * 3, strict=True):
        try:
            encode(result)
        except OverflowError as exc:
            status, kept = _large(result, exc, json=number in in_json)
            apart.append(Answer(known.name, number, known.answered, digest, status, kept, len(kept), now_s))
        else:
            rest += number, digest, result
    return apart, rest


def _large(number: int, problem: Exception, *, json: bool) -> tuple[int, Any]:
    """What is kept of an integer that MessagePack cannot carry."""
    try:
        if json:
            return JSON, encode_json(number)
    except Exception as exc:  # Whoever sends it says the same.
        problem = exc
    return ERROR, Raw(encode(cannot_be_sent(problem).to_wire()))


def _run_of(message: HeldMessage) -> KeyedRun:
    """A numbered call that has ended, from what is kept of it."""
    activation, origin, number, status, result, session, digest = message
    run = KeyedRun(origin, session).begin(activation.cache, number, number, digest)
    run.has_ended, run.status, run.result = True, status, result
    return run


def digest_of(method: Method, request: Request, object_key: bytes) -> int:
    """Of what a call of a session calls, with which arguments. (Nil and an empty array or map are one byte, and none.)"""
    digest = crc32(object_key) ^ method.digest
    return digest if len(request.args) < 2 else crc32(request.args, digest)


def _reply_of(told: Told, activation: Activation, *, json: bool) -> tuple[int, Any]:
    """The same again, for a call in the same codec."""
    _, status, result = told
    if status == STARTED:
        return ERROR, _interrupted(activation).to_wire()
    if status == TOO_LARGE:
        text = f"the call was executed before; its result, of more than {KEPT_RESULT_BYTES_MAX} bytes, was not kept"
        return ERROR, TooLarge(text, outcome="executed").to_wire()
    if not json or result.__class__ is not Raw:
        return status & ~JSON, Raw(result) if status & JSON else result
    value = _decode(result)
    return status & ~JSON, Raw(value) if status & JSON else value


def _interrupted(activation: Activation) -> CallError:
    text = "had written when its object was reset or its worker died; how far it came is unknown, and it does not run again"
    return Interrupted(f"{activation.id}: the call with this key {text}")
