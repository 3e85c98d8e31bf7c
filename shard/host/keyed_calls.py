"""Calls with a key: of those to one object that have the same key, one runs, and all are answered the same.

Guarantee: what such a call is answered is durable in the commit that has its last writes, or neither is; a repeated key is
answered that, once it is durable, whatever has become of the object, and while the first still runs the others wait for it. A
first call that has left nothing durable is none: the next one runs. Nor is one that has written nothing and failed because an
object that it asked was lost or out of reach: its caller is told that, and may repeat it.

A call that is answered in its first step leaves its writes and its answer in one commit. One that has written and waits is marked
with these writes as *started*: if its end does not become durable, what it did is done in part, and a repeated key is told that
it was interrupted instead of running again.

Of a session (see `store.answers`) nothing durable is kept of a call that has written, sent and started nothing; its answer is
known to this process for a while. Calls that a call with a key makes to other objects have keys too, which follow from its own: a
call that runs again does not do there what it has done.

Rule: what is durable is the table's (`store.answers`); what runs, or is not durable yet, is known here.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

import msgspec

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
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, Origin, Request, decode_options, encode
from tidegate.shard.host.call import Call, CallKey
from tidegate.shard.host.outbound import InternalOrigin, LocalOrigin, Permit
from tidegate.shard.store.interface import JSON, SESSION_CHARACTERS_MAX, STARTED, TOO_LARGE, Answer

if TYPE_CHECKING:
    from tidegate.shard.core.cache import ObjectCache
    from tidegate.shard.core.output_gate import KeptAnswer
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host
    from tidegate.shard.objects.methods import Method

ANSWER_COMMIT_BYTES = 96
"""What an answer takes in a commit beside its result."""
CHILD = "~"
"""In the key of a call that a call of a session has made: between its number and the rest."""
CHILD_DIGEST_BYTES = 12
SESSIONS_KNOWN_MAX = 10_000
NUMBER_MAX = 10**18 - 1
REMEMBERED_MAX = 5_000
"""Twice as many calls of sessions that did nothing are known, of one worker."""
REMEMBERED_RESULT_BYTES_MAX = 1_024
_SESSION_KEY = re.compile(r"[A-Za-z0-9_-]{1,22}\.(0|[1-9][0-9]{0,17})(~[A-Za-z0-9_-]{1,20})?", re.ASCII)

_PASSING = frozenset({Moved, ObjectReset, Overloaded, ShardLost, Unavailable})
_SIZED = frozenset({msgspec.Raw, bytes, str})

_decode: Any = msgspec.msgpack.Decoder().decode


class KeyedRun(msgspec.Struct, eq=False):
    """The run of a call with a key, and where its outcome goes: an `InternalOrigin`. (A Struct, made in half the time.)"""

    activation: Activation
    cache: ObjectCache
    inner: Origin
    request_id: Any
    identity: str
    """By which the run is known while it is not durable."""
    kept: Answer
    """Once it has ended, what it is answered; durable with commit `seq`."""
    before: dict[str, bytes | None]
    before_bytes: int
    """What its object had written when its current step began."""
    json: bool = False
    has_ended: bool = False
    is_over: bool = False
    """It has ended, or has been let go."""
    seq: int = 0
    size: int = 0
    """What the answer takes there."""
    has_effects: bool = False
    """It has written, sent or started something, other than by writes of its current step."""
    is_marked: bool = False
    """Its writes are marked as those of a call that has not ended."""
    calls: dict[tuple[str, str, str], int] | None = None
    """How many it has made to each method of each object."""
    client: bytes = b""

    def begin_step(self) -> None:
        cache = self.cache
        self.before, self.before_bytes = cache.dirty, cache.dirty_bytes

    def end_step(self) -> None:
        """What it has written is marked: the call is not over, and may never be."""
        if self.has_written and not self.is_over:
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
        host.answer_error(self.inner, self.request_id, error)

    def answer(self, status: int, result: Any) -> None:
        """What it has seen is durable; or it ends without an outcome of its own: refused, reset."""
        host = self.activation.host
        if self.has_ended and not self.seq:
            host.keyed.remember(self)
        host.keyed.let_go(self)
        host.answer(self.inner, self.request_id, status, result)

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        inner = self.inner
        return inner.asked_by(request_id) if isinstance(inner, InternalOrigin) else (inner, request_id)

    def call_key(self, class_name: str, name: str, method: str) -> CallKey:
        """Of a call that it makes: the n-th one to that method of that object, whatever others it makes in between."""
        self.has_effects = True
        calls = self.calls
        if calls is None:
            calls = self.calls = {}
        target = class_name, name, method
        nth = calls[target] = calls.get(target, 0) + 1
        group, key = self.kept.group, self.kept.key
        text = "\0".join((*self.activation.id, repr(key), *target, str(nth)))
        digest = urlsafe_b64encode(blake2b(text.encode(), digest_size=CHILD_DIGEST_BYTES).digest()).decode()
        if len(group) > SESSION_CHARACTERS_MAX:
            return CallKey(CHILD + digest, None)
        return CallKey(f"{group}.{_number(key)}{CHILD}{digest}", self.kept.answered)


class Mark:
    """That a call has written and not ended, in the commit of its first writes."""

    __slots__ = ("cache", "kept", "seq", "size")

    seq: int

    def __init__(self, run: KeyedRun) -> None:
        self.cache = run.cache
        self.kept = Answer(run.kept.group, run.kept.key, run.kept.answered, run.kept.digest, STARTED, NO_RAW)
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
        self._runs: dict[str, KeyedRun] = {}
        """By key, of a plain one by object and key: calls that run, or whose answers are not durable."""
        self._young: dict[str, Answer] = {}
        self._old: dict[str, Answer] = {}
        """By key: what calls of sessions were answered that did nothing. The old ones leave all at once."""
        self._sessions: set[str] = set()
        """Some that are known to be named as sessions are."""
        self.repeats = 0
        """Calls that were answered what another one was."""
        bounds = host.settings.keys
        for store in host.stores.values():
            bytes_max = bounds.bytes_max // len(host.stores)
            store.answers.limit(per_object=bounds.per_object, kept_s=bounds.kept_s, bytes_max=bytes_max)

    def begin_at_once(self, activation: Activation, method: Method, request: Request, origin: Origin) -> KeyedRun | None:
        """The run of a call of a session, for most of them. None: it has no key, or more has to be looked at: see `begin`."""
        if origin.json:
            return None
        try:
            options = decode_options(request.options)
            if options.deadline_ms is not None or options.chain is not None:
                return None
            text, answered = options.key, options.answered
            group, _, part = text.rpartition(".")  # type: ignore[union-attr]  # that is what is caught
            number = int(part)
        except Exception:
            return None
        assert text is not None
        cache = activation.cache
        known = cache.store.answers.groups.get(group)
        if (group not in self._sessions) if known is None else (number < known.floor or number in known.rows):
            return None
        if text in self._young or text in self._old:
            return None
        if text in self._runs or answered is None or str(number) != part or number > NUMBER_MAX:
            return None
        digest = crc32(cache.key, crc32(request.args, method.digest))
        kept = Answer(group, number, answered, digest, OK, NO_RAW)
        run = KeyedRun(activation, cache, origin, request.id, text, kept, cache.dirty, cache.dirty_bytes)
        self._runs[text] = run
        return run

    def begin(self, activation: Activation, method: Method, call: Call, key: CallKey) -> KeyedRun | None:
        """The gate has let a call with a key in: its run. None: it does not run, and has been answered or waits."""
        request, origin = call.request, call.origin
        text, answered = key
        cache = activation.cache
        digest = crc32(request.args, method.digest)
        number: int | str
        if answered is None:
            group, number, answered = cache.key.hex(), text, 0
            identity = group + text
        else:
            identity = text
            group, _, part = text.rpartition(".")
            if _SESSION_KEY.fullmatch(text) is None:
                self._refuse(origin, request, "options: with `answered` the key is SESSION.NUMBER")
                return None
            if len(self._sessions) >= SESSIONS_KNOWN_MAX:
                self._sessions.clear()
            self._sessions.add(group)
            number = int(part) if part.isdecimal() else part
            digest = crc32(cache.key, digest)
        run = self._runs.get(identity)
        known = cache.store.answers.groups.get(group)
        kept = None if known is None else known.rows.get(number)
        kept = kept or self._young.get(identity) or self._old.get(identity)
        if run is not None or kept is not None:
            self._repeat(activation, call, run, digest, kept)
            return None
        if known is not None and known.floor and _number(number) < known.floor:
            text = "this key of the session has been answered long ago, and its answer is no longer kept; it does not run again"
            self.host.answer_error(origin, request.id, BadRequest(text, outcome="unknown"))
            return None
        answer = Answer(group, number, answered, digest, OK, NO_RAW)
        run = KeyedRun(activation, cache, origin, request.id, identity, answer, cache.dirty, cache.dirty_bytes, origin.json)
        self._runs[identity] = run
        return run

    def _refuse(self, origin: Origin, request: Request, text: str) -> None:
        self.host.answer_error(origin, request.id, BadRequest(text))

    # Repeated keys

    def _repeat(self, activation: Activation, call: Call, run: KeyedRun | None, digest: int, kept: Answer | None) -> None:
        host, origin, request = self.host, call.origin, call.request
        if digest != (cast("Answer", kept) if run is None else run.kept).digest:
            self._refuse(origin, request, "options: the key was used for another method or for other arguments")
            return
        if run is None:
            self.repeats += 1
            host.answer(origin, request.id, *_reply_of(cast("Answer", kept), activation, json=origin.json))
            host.turn.end_soon()
        elif not run.has_ended:
            host.waiting.behind(run, call)
        else:
            self.repeats += 1
            status, result = _reply_of(run.kept, activation, json=origin.json)
            seq = run.seq or run.cache.confirm_seq
            host.output_gate.hold(seq, run.activation, Repeat(call, host, status, result), 0, OK, None)

    # Ends

    def finished(self, run: KeyedRun, status: int, result: Any) -> Origin | KeyedRun:
        """It has come to its end: its answer is kept, if it has to be. Returns where that goes, through the output gate."""
        if run.has_ended:
            return run
        cache, kept = run.cache, run.kept
        if (
            cache.dirty is run.before
            and cache.dirty_bytes == run.before_bytes
            and not run.has_effects
            and len(kept.group) <= SESSION_CHARACTERS_MAX
        ):
            return self._did_nothing(run, status, result)
        run.has_ended = run.is_over = True
        run.size = size = ANSWER_COMMIT_BYTES
        if status or result.__class__ in _SIZED:
            self._pack(run, status, result)
            size = run.size
        else:
            kept.result = result
        output_gate = self._output_gate
        run.seq = cache.confirm_seq = output_gate.open_seq
        output_gate.answers.append(run)  # What `keep_answer` does.
        output_gate.open_bytes += size
        if self._waiting.repeating:
            self._waiting.first_ended(run)
        return run.inner

    @staticmethod
    def may_run_again(run: KeyedRun, error: CallError) -> bool:
        """It failed because another object was lost or out of reach, and has written nothing itself: who repeats it runs it
        again, and what it asks of others has the same keys."""
        return type(error) in _PASSING and not run.is_marked and not run.has_written

    def _did_nothing(self, run: KeyedRun, status: int, result: Any) -> Origin | KeyedRun:
        """A call of a session that is not kept. What it has seen may not be durable yet: then its answer waits in its run, and
        until that leaves nobody else is told it. (A caller in this worker does not wait, and repeats it as part of its own.)"""
        if status or result.__class__ in _SIZED:
            self._pack(run, status, result)
        else:
            run.kept.result = result
        if run.cache.confirm_seq <= self._output_gate.durable_seq:
            self.remember(run)
        elif run.inner.__class__ is not LocalOrigin:
            run.has_ended = run.is_over = True
            if self._waiting.repeating:
                self._waiting.first_ended(run)
            return run
        self.let_go(run)
        return run.inner

    def remember(self, run: KeyedRun) -> None:
        """In memory, for a while. One that was told that it may not must not do it after all when another copy of it comes
        late."""
        if run.kept.size <= REMEMBERED_RESULT_BYTES_MAX:
            if len(self._young) >= REMEMBERED_MAX:
                self._old, self._young = self._young, {}
            self._young[run.identity] = run.kept

    @staticmethod
    def _pack(run: KeyedRun, status: int, result: Any) -> None:
        """What may be large."""
        if status == ERROR:
            result = msgspec.Raw(encode(result))
        elif run.json and result.__class__ is msgspec.Raw:
            result, status = bytes(result), JSON
        size = len(result)
        if size > KEPT_RESULT_BYTES_MAX:
            result, status, size = NO_RAW, TOO_LARGE, 0
        kept = run.kept
        kept.status, kept.result, kept.size = status, result, size
        run.size += size

    def let_go(self, run: KeyedRun) -> None:
        """It leaves nothing: who has waited for it runs."""
        run.is_over = True
        if self._runs.get(run.identity) is run:
            del self._runs[run.identity]
            self._waiting.first_ended(run)

    # Commits

    def cut(self, runs: Sequence[KeptAnswer]) -> dict[int, list[Answer]]:
        """What is being made durable, by shard."""
        now_s = self.host.wall_us() // 1_000_000
        by_shard: dict[int, list[Answer]] = {}
        for run in cast("Sequence[KeyedRun]", runs):
            answer = run.kept
            answer.since_s = now_s
            shard = run.cache.shard
            if shard in by_shard:
                by_shard[shard].append(answer)
            else:
                by_shard[shard] = [answer]
        return by_shard

    def settled(self, runs: Sequence[KeptAnswer]) -> None:
        """They are durable and the table has them, or they never will be."""
        known = self._runs
        for run in runs:
            if run.__class__ is KeyedRun:
                del known[run.identity]


def _number(number: int | str) -> int:
    return number if isinstance(number, int) else int(number.partition(CHILD)[0])


def _reply_of(answer: Answer, activation: Activation, *, json: bool) -> tuple[int, Any]:
    """The same again, for a call in the same codec."""
    status, result = answer.status, answer.result
    if status == STARTED:
        return ERROR, _interrupted(activation).to_wire()
    if status == TOO_LARGE:
        text = f"the call was executed before; its result, of more than {KEPT_RESULT_BYTES_MAX} bytes, was not kept"
        return ERROR, TooLarge(text, outcome="executed").to_wire()
    if not json or result.__class__ is not msgspec.Raw:
        return status & ~JSON, msgspec.Raw(cast("Any", result)) if status & JSON else result
    value = _decode(result)
    return status & ~JSON, msgspec.Raw(value) if status & JSON else value


def _interrupted(activation: Activation) -> CallError:
    text = "had written when its object was reset or its worker died; how far it came is unknown, and it does not run again"
    return Interrupted(f"{activation.id}: the call with this key {text}")
