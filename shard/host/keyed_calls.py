"""Calls with a key: of those to one object that have the same key, one runs, and all are answered the same.

Guarantee: what such a call is answered is durable in the commit that has its last writes, or neither is; a repeated key is
answered that, once it is durable, whatever has become of the object, and while the first still runs the others wait for it. A
first call that has left nothing durable is none: the next one runs.

A call that is answered in its first step leaves its writes and its answer in one commit. One that has written and waits is marked
with these writes as *started*: if its end does not become durable, what it did is done in part, and a repeated key is told that
it was interrupted instead of running again.

Of a session (see `store.answers`) nothing is kept of a call that has written, sent and started nothing: that it runs again cannot
be told. Calls that a call with a key makes to other objects have keys too, which follow from its own: a call that runs again does
not do there what it has done.

Rule: what is durable is the table's (`store.answers`); what runs, or is not durable yet, is known here.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

import msgspec

from tidegate.runtime.errors import BadRequest, CallError, Interrupted, TooLarge
from tidegate.runtime.limits import KEPT_RESULT_BYTES_MAX
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, Origin, Request, encode
from tidegate.shard.host.call import Call, CallKey
from tidegate.shard.host.outbound import InternalOrigin, Permit
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
NUMBER_DIGITS_MAX = 18
_SESSION_KEY = re.compile(r"[A-Za-z0-9_-]{1,22}\.(0|[1-9][0-9]{0,17})(~[A-Za-z0-9_-]{1,20})?", re.ASCII)

_decode: Any = msgspec.msgpack.Decoder().decode


class KeyedRun(InternalOrigin):
    """The run of a call with a key, and where its outcome goes."""

    __slots__ = (
        "_before", "_before_bytes", "_calls", "activation", "answer_kept", "answered", "digest", "group", "has_effects",
        "identity", "inner", "is_over", "key", "keyed", "request_id", "seq", "size", "started",
    )  # fmt: skip

    seq: int
    size: int

    def __init__(
        self,
        keyed: KeyedCalls,
        activation: Activation,
        origin: Origin,
        request_id: Any,
        identity: str,
        group: str,
        key: int | str,
        answered: int,
        digest: int,
    ) -> None:
        self.keyed = keyed
        self.activation = activation
        self.inner = origin
        self.request_id = request_id
        self.identity = identity
        self.group = group
        self.key = key
        self.answered = answered
        self.digest = digest
        self.json = origin.json
        self.answer_kept: Answer | None = None
        """Once it has ended; it is durable with commit `seq`."""
        self.has_effects = False
        """It has written, sent or started something, other than by writes of its current step."""
        self.started = False
        """Its writes are marked as those of a call that has not ended."""
        self.is_over = False
        self._calls: dict[tuple[str, str, str], int] | None = None
        """How many it has made to each method of each object."""
        cache = activation.cache  # What `begin_step` does.
        self._before, self._before_bytes = cache.dirty, cache.dirty_bytes

    def begin_step(self) -> None:
        cache = self.activation.cache
        self._before, self._before_bytes = cache.dirty, cache.dirty_bytes

    def end_step(self) -> None:
        """What it has written is marked: the call is not over, and may never be."""
        if self.has_written and not self.is_over:
            self.has_effects = True
            if not self.started and self.activation.broken is None:
                self.started = True
                self.keyed.mark_started(self)

    @property
    def is_session(self) -> bool:
        return len(self.group) <= SESSION_CHARACTERS_MAX

    @property
    def has_written(self) -> bool:
        """Since its current step began, which is when no commit is cut."""
        cache = self.activation.cache
        return cache.dirty is not self._before or cache.dirty_bytes != self._before_bytes

    def answer(self, status: int, result: Any) -> None:
        """It ends without an outcome of its own: refused, reset."""
        self.keyed.let_go(self)
        self.keyed.host.answer(self.inner, self.request_id, status, result)

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        inner = self.inner
        return inner.asked_by(request_id) if isinstance(inner, InternalOrigin) else (inner, request_id)

    def call_key(self, class_name: str, name: str, method: str) -> CallKey:
        """Of a call that it makes: the n-th one to that method of that object, whatever others it makes in between."""
        self.has_effects = True
        calls = self._calls
        if calls is None:
            calls = self._calls = {}
        target = class_name, name, method
        nth = calls[target] = calls.get(target, 0) + 1
        text = "\0".join((*self.activation.id, repr(self.key), *target, str(nth)))
        digest = urlsafe_b64encode(blake2b(text.encode(), digest_size=CHILD_DIGEST_BYTES).digest()).decode()
        if not self.is_session:
            return CallKey(CHILD + digest, None)
        number = self.key if isinstance(self.key, int) else self.key.partition(CHILD)[0]
        return CallKey(f"{self.group}.{number}{CHILD}{digest}", self.answered)


class Mark:
    """That a call has written and not ended, in the commit of its first writes."""

    __slots__ = ("answer_kept", "seq", "size")

    seq: int

    def __init__(self, run: KeyedRun) -> None:
        self.answer_kept = Answer(run.group, run.key, run.answered, run.digest, STARTED, NO_RAW)
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
        self._runs: dict[str, KeyedRun] = {}
        """By key, of a plain one by object and key: calls that run, or whose answers are not durable."""
        self.repeats = 0
        """Calls that were answered what another one was."""
        bounds = host.settings.keys
        for store in host.stores.values():
            bytes_max = bounds.bytes_max // len(host.stores)
            store.answers.limit(per_object=bounds.per_object, kept_s=bounds.kept_s, bytes_max=bytes_max)

    def begin(
        self, activation: Activation, method: Method, request: Request, origin: Origin, key: CallKey, call: Call | None = None
    ) -> KeyedRun | None:
        """The gate has let a call with a key in: its run. None: it does not run, and has been answered or waits."""
        text, answered = key
        cache = activation.cache
        answers = cache.store.answers
        digest = crc32(request.args, method.digest)
        number: int | str
        if answered is None:
            group, number, answered = cache.key.hex(), text, 0
            identity = group + text
        else:
            identity = text
            group, _, part = text.rpartition(".")
            is_number = len(part) <= NUMBER_DIGITS_MAX and part.isdecimal() and part.isascii() and (part[0] != "0" or part == "0")
            if (not is_number or group not in answers.groups) and _SESSION_KEY.fullmatch(text) is None:
                self._refuse(origin, request, "options: with `answered` the key is SESSION.NUMBER")
                return None
            number = int(part) if is_number else part
            digest = crc32(cache.key, digest)
        run = self._runs.get(identity)
        known = answers.groups.get(group)
        kept = None if known is None else known.rows.get(number)
        if run is not None or kept is not None:
            self._repeat(activation, call or _call(request, origin, key), run, digest, kept)
            return None
        if known is not None and known.floor and _number(number) < known.floor:
            text = "this key of the session has been answered long ago, and its answer is no longer kept; it does not run again"
            self.host.answer_error(origin, request.id, BadRequest(text, outcome="unknown"))
            return None
        run = self._runs[identity] = KeyedRun(self, activation, origin, request.id, identity, group, number, answered, digest)
        return run

    def _refuse(self, origin: Origin, request: Request, text: str) -> None:
        self.host.answer_error(origin, request.id, BadRequest(text))

    # Repeated keys

    def _repeat(self, activation: Activation, call: Call, run: KeyedRun | None, digest: int, kept: Answer | None) -> None:
        host, origin, request = self.host, call.origin, call.request
        if digest != (run.digest if run is not None else cast("Answer", kept).digest):
            self._refuse(origin, request, "options: the key was used for another method or for other arguments")
            return
        if run is None:
            self.repeats += 1
            host.answer(origin, request.id, *_reply_of(cast("Answer", kept), activation, json=origin.json))
            host.turn.end_soon()
        elif run.answer_kept is None:
            host.waiting.behind(run, call)
        else:
            self.repeats += 1
            status, result = _reply_of(run.answer_kept, activation, json=origin.json)
            host.output_gate.hold(run.seq, activation, Repeat(call, host, status, result), 0, OK, None)

    # Ends

    def finished(self, run: KeyedRun, status: int, result: Any) -> Origin:
        """It has come to its end: its answer is kept, if it has to be. Returns where that goes."""
        activation = run.activation
        if not (run.has_effects or run.has_written or not run.is_session):
            self.let_go(run)
            return run.inner
        kept_status = status
        if status == ERROR:
            result = msgspec.Raw(encode(result))
        elif run.json and result.__class__ is msgspec.Raw:
            result, kept_status = bytes(result), JSON
        size = len(result) if result.__class__ in (msgspec.Raw, bytes, str) else 0
        if size > KEPT_RESULT_BYTES_MAX:
            kept_status, result, size = TOO_LARGE, None, 0
        run.is_over = True
        run.answer_kept = Answer(run.group, run.key, run.answered, run.digest, kept_status, result)
        run.size = ANSWER_COMMIT_BYTES + size
        self.host.output_gate.keep_answer(activation.cache, run)
        self.host.waiting.first_ended(run)
        return run.inner

    def mark_started(self, run: KeyedRun) -> None:
        self.host.output_gate.keep_answer(run.activation.cache, Mark(run), confirmed=False)

    def let_go(self, run: KeyedRun) -> None:
        """It leaves nothing: who has waited for it runs."""
        run.is_over = True
        if self._runs.get(run.identity) is run:
            del self._runs[run.identity]
            self.host.waiting.first_ended(run)

    # Commits

    def cut(self, answers: Mapping[ObjectCache, Sequence[KeptAnswer]]) -> dict[int, list[Answer]]:
        """What is being made durable, by shard."""
        now_s = self.host.wall_us() // 1_000_000
        by_shard: dict[int, list[Answer]] = {}
        for cache, runs in answers.items():
            found = by_shard.get(cache.shard)
            if found is None:
                found = by_shard[cache.shard] = []
            for run in cast("Sequence[Mark]", runs):
                answer = run.answer_kept
                answer.since_s = now_s
                found.append(answer)
        return by_shard

    def committed(self, answers: Mapping[ObjectCache, Sequence[KeptAnswer]]) -> None:
        """The table has them."""
        for runs in answers.values():
            self.lost(runs)

    def lost(self, runs: Iterable[KeptAnswer]) -> None:
        """Nothing is known of them any longer but what the table has."""
        for run in runs:
            if run.__class__ is KeyedRun:
                del self._runs[run.identity]


def _call(request: Request, origin: Origin, key: CallKey) -> Call:
    call = Call(request, origin)
    call.key = key
    return call


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
