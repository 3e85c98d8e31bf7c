"""Wire protocol 1: bytes in, requests out; replies in, bytes out.

Rule 1: this file knows no socket. It is used by every process that takes calls (router, workers) and by the client.
Rule 2: arguments and results stay raw. Only the worker that runs a method looks inside them.
Rule 3: nothing that a stranger sends raises anything but `Malformed`.

The codec of a body is MessagePack, or JSON when its first byte is `[` or `{` (contract, section 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, cast

import msgspec

from tidegate.runtime.errors import BadRequest, CallError, Internal, MethodRaised, TooLarge
from tidegate.runtime.limits import (
    CHAIN_ENTRIES_MAX,
    CHAIN_LABEL_CHARACTERS_MAX,
    CHAIN_TOKENS_MAX,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_FRAMES_MAX,
    FRAMES_PER_MESSAGE_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX,
    LARGE_BYTES,
    MESSAGE_BYTES_MAX,
    TURN_REQUESTS_MAX,
)
from tidegate.runtime.wire.cuts import Cut, JsonCut, PackedCut
from tidegate.runtime.wire.pieces import array_head, array_length, json_id, json_pieces, packed_id, packed_pieces

NO_RAW = msgspec.Raw(b"\xc0")
"""Nil: what `args` and `options` are when left out, so that a request can be encoded again as it is (an empty Raw would
encode to nothing and shift what follows)."""
NO_RAW_JSON = msgspec.Raw(b"null")

OK = 0
ERROR = 1


class Request(msgspec.Struct, array_like=True, gc=False):
    """One call as it travels. `args` and `options` are undecoded, nil when left out."""

    id: int | str
    cls: str
    name: str
    method: str
    args: msgspec.Raw = NO_RAW
    options: msgspec.Raw = NO_RAW


class JsonRequest(Request, array_like=True, gc=False):
    """The same in a JSON body: what is left out is `null`."""

    args: msgspec.Raw = NO_RAW_JSON
    options: msgspec.Raw = NO_RAW_JSON


class Reply(msgspec.Struct, array_like=True, gc=False):
    """One answer as the caller's side reads it. `result` is undecoded."""

    id: int | str | None
    status: int
    result: msgspec.Raw


_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""JSON has integers of any size, with which nothing here could reckon, nor MessagePack carry them on."""

ChainEntry = tuple[
    Annotated[str, msgspec.Meta(max_length=CHAIN_LABEL_CHARACTERS_MAX)],
    Annotated[tuple[_Int64, ...], msgspec.Meta(max_length=CHAIN_TOKENS_MAX)],
]
"""See `tidegate.shard.core.chain`."""


class Options(msgspec.Struct, gc=False):
    """What a caller may ask beside the call itself."""

    deadline_ms: _Int64 | None = None
    """Milliseconds from the arrival of the call within which its caller wants an answer."""
    key: str | None = None
    """Idempotency key: of the calls to an object that have the same one, one runs, and all are answered the same."""
    traceparent: str | None = None
    chain: Annotated[tuple[ChainEntry, ...], msgspec.Meta(max_length=CHAIN_ENTRIES_MAX)] | None = None
    """Through what the call has come, between workers. What is not true of it is without effect."""
    answered: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    """With a key `SESSION.NUMBER`: the calls of the session with a smaller number have been answered to their caller."""
    due_s: float | None = None
    """Written by the router: when the deadline is, by the clock that all processes of the machine share. A worker that is behind
    has the call long before it reads it."""


NO_OPTIONS = Options()


def own_identity(secret: str) -> bytes:
    """What the routing ids of the service's own processes begin with: they are served while a worker drains, and the calls that
    they pass on are bounded by them. A routing id is what its owner says it is: so there is a secret in it, which nobody but the
    children of one supervisor knows."""
    return b"tidegate-%s-" % secret.encode()


UNKNOWN_CALLS = "unknown_calls"
"""System call of a router to a worker: which of these calls of mine do you not know?"""
REFUSE_CALLS = "refuse_calls"
"""System call of a router to a worker: the client that made these calls of mine does not read; refuse those that wait."""
KEYS = "keys"
"""No call: the method of the row that a batch may begin with, see `wire.sessions`."""
DROP_ALARM, RUN_ALARM = ALARM_CALLS = ("drop_alarm", "run_alarm")
RELEASE_OBJECT = "release_object"
WISH = "wish"
OBJECT_CALLS = (*ALARM_CALLS, RELEASE_OBJECT, WISH)
"""What only operators on the machine of the service may ask of the worker of an object, through its supervisor."""
BY_OPERATORS_ONLY = (
    "only an operator on the machine of the service may do that, as its user or root (tidegate objects, tidegate alarms)"
)


class Malformed(Exception):
    """Not a message of wire protocol 1, and no request id to answer to."""


class Envelope:
    """The answer to a message with frames in front of its bodies. A REQ socket reads exactly one message for each that it
    sent, so all replies to all bodies are gathered until none is missing."""

    __slots__ = ("begun", "bodies", "errors", "frames", "gathered_bytes", "is_dropped", "missing")

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.frames = tuple(frames)
        """Echoed as they came: they lead the answer back through proxies, and tell a REQ socket to which request it belongs."""
        self.missing = 0
        """Bodies whose replies are still to come."""
        self.bodies: list[bytes] = []
        self.begun: dict[Origin, list[bytes]] = {}
        """Of bodies with very many requests: what has been answered so far."""
        self.errors = False
        """There are short errors among the replies, in place of what was not taken."""
        self.gathered_bytes = 0
        self.is_dropped = False
        """Its client has too much to read: nothing more is gathered, and nothing sent."""


class Origin:
    """Where the replies of one body go, and in which form. One is shared by all requests of the body."""

    __slots__ = ("arrived_s", "client", "envelope", "gathered", "json", "missing", "of_class", "plain", "single", "user")

    trace: Any = None
    """Who is told of the call, for those that have one."""
    user: str
    """Who has sent it, where clients need access keys: see `sockets.guard`. Else it is not there."""

    def __init__(self, client: bytes, envelope: Envelope | None, json: bool, single: bool, requests: int) -> None:
        self.client = client
        self.envelope = envelope
        self.json = json
        self.single = single
        self.plain = not (json or single or envelope)
        """Replies may share a message with those of other bodies of this client."""
        self.missing = requests
        """Replies still to come, counted where there is an envelope."""
        if envelope is not None:
            self.gathered: list[tuple[Any, int, Any]] = []
        self.arrived_s = 0.0
        """When it was read, by the clock of whoever has. 0: nobody wants to know how long it waits."""
        self.of_class: Any = None
        """Where all of its calls are counted, if that is one place."""


class Message:
    """One message taken apart: the requests that can be run, and the answers that can be given at once."""

    __slots__ = ("body", "origin", "refused", "requests", "size")

    def __init__(
        self,
        origin: Origin,
        requests: list[Request],
        refused: Sequence[tuple[int | str, CallError]],
        body: bytes | memoryview = b"",
    ) -> None:
        self.body = body
        """What the requests were read from, and keep in memory by their raw parts."""
        self.origin = origin
        self.requests = requests
        self.refused = refused
        self.size = len(body)
        """Bytes that it keeps in memory."""


class Batch(Message):
    """A message with more requests than a turn has: they are cut off part by part. It has none itself, and costs its bytes."""

    __slots__ = ("_cut", "_is_headless", "answerable", "head")

    def __init__(self, origin: Origin, cut: Cut, size: int) -> None:
        super().__init__(origin, [], [])
        origin.plain = False  # So it is known how many of its replies are still to come.
        origin.missing = 1
        """And one more until all are cut off, see `all_cut`."""
        self.size = size
        self._cut = cut
        self._is_headless = False
        self.head: list[Request] = []
        """Of the session, if it begins with one: each part does then."""
        self.answerable = 0
        """Requests so far."""

    @property
    def is_over(self) -> bool:
        return self._cut.is_over

    def next_part(self, requests_max: int) -> Message:
        """May have no requests."""
        json, is_first = self.origin.json, not self.answerable and not self.head and not self._is_headless
        body, pieces = self._cut.take(requests_max)
        requests: list[Request]
        refused: list[tuple[int | str, CallError]] = []
        try:
            requests = (_json_decode_requests if json else _decode_requests)(body)
        except Exception:
            requests, refused, headless = _judge(pieces, json=json, batch=is_first)
            self._is_headless |= headless
        if requests and not requests[0].cls and requests[0].method == KEYS:
            head = requests.pop(0)
            if is_first:
                self.head = [head]
            else:  # Whoever handles the part would take it for one.
                refused.insert(0, (head.id, BadRequest(_NO_HEAD)))
        if self._is_headless:
            refused += [(request.id, BadRequest(_HEADLESS)) for request in requests]
            requests = []
        self.answerable += len(requests) + len(refused)
        if requests:
            requests[:0] = self.head
        self.origin.missing += len(requests) + len(refused)
        return Message(self.origin, requests, refused, body)

    def all_cut(self) -> bool:
        """To be called once. Whether everything is answered already."""
        self.origin.missing -= 1
        return self.origin.missing == 0


def parts_of(message: Message, requests_max: int) -> Iterator[Message]:
    """The message, or all parts of a batch."""
    if not isinstance(message, Batch):
        yield message
        return
    while not message.is_over:
        yield message.next_part(requests_max)


_NO_HEAD = "the head of a session comes first in its batch"
_HEADLESS = "the head of the session is no request, so that this one would have no key"

_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
_decode_options = msgspec.msgpack.Decoder(Options | None).decode
decode_options = msgspec.msgpack.Decoder(Options).decode
"""Of a MessagePack body, where somebody else looks for what is wrong with them: see `parse_options`."""
_json_decode_request = msgspec.json.Decoder(JsonRequest).decode
_json_decode_requests = cast("Callable[[bytes], list[Request]]", msgspec.json.Decoder(list[JsonRequest]).decode)
_decode_raw_map = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_json_decode_raw_map = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_json_decode_options = msgspec.json.Decoder(Options | None).decode

encode = msgspec.msgpack.Encoder().encode
encode_json = msgspec.json.Encoder().encode

_LONG_ARRAYS = (0xDC, 0xDD)
_ARRAY_HEADS = bytes(1 if first & 0xF0 == 0x90 else {0xDC: 3, 0xDD: 5}.get(first, 0) for first in range(256))
"""How many bytes the head of an array has that begins so; 0: none does."""
_ARRAY_HEAD_MAX = 5
_REQUEST_BYTES_MIN = 5
_LARGE_BATCH_BYTES_MIN = _REQUEST_BYTES_MIN * TURN_REQUESTS_MAX
_JSON_FIRST = frozenset(b"[{")
_JSON_SPACE = b" \t\r\n"
_JSON_MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8. Neither it nor white space begins a MessagePack array."""


def is_json(body: bytes | memoryview) -> bool:
    return body[:1] in (b"[", b"{")


def _is_batch(body: bytes | memoryview) -> bool:
    """Whether a MessagePack body is an array of arrays. Raises Malformed when it is no array at all."""
    at = _ARRAY_HEADS[body[0]]
    if not at or len(body) <= at:
        raise Malformed("not an array with elements")
    return _ARRAY_HEADS[body[at]] > 0


def _is_json_batch(body: bytes) -> bool:
    if body[0] != 0x5B:
        return False
    start = body[1:64].lstrip(_JSON_SPACE) or body[1:].lstrip(_JSON_SPACE)
    return start[:1] == b"["


def _is_large_batch(body: bytes | memoryview) -> bool:
    """Of a MessagePack batch: it has more requests than a turn, as its head says."""
    return len(body) > _LARGE_BATCH_BYTES_MIN and body[0] in _LONG_ARRAYS and array_length(body) > TURN_REQUESTS_MAX


def _is_large_json_batch(body: bytes) -> bool:
    """It may have. Each request is an array or a map; to count them takes a quarter of the time of reading them, so that
    a few thousand in a body that is not large are read at once."""
    return len(body) >= LARGE_BYTES and body.count(b"[") + body.count(b"{") > TURN_REQUESTS_MAX + 1


def parse_body(client: bytes, body: bytes, envelope: Envelope | None = None, *, apart: bool = False) -> Message:
    """Takes one body frame apart, or leaves that for later: a Batch, if it has very many requests, or several and it is to be
    kept `apart`. Requests that are not well-formed are answered `bad_request` where their id can be read. Raises Malformed when
    nothing can be answered."""
    if not body:
        raise Malformed("empty body")
    json = body[0] in _JSON_FIRST
    try:
        batch = _is_json_batch(body) if json else _is_batch(body)
    except Malformed:
        text = body.removeprefix(_JSON_MARK).lstrip(_JSON_SPACE)
        if not is_json(text):
            raise
        return parse_body(client, text, envelope, apart=apart)
    if batch and (apart or (_is_large_json_batch(body) if json else _is_large_batch(body))):
        origin = Origin(client, envelope=envelope, json=json, single=False, requests=0)
        return Batch(origin, JsonCut(body) if json else PackedCut(body), len(body))
    try:
        if batch:
            requests = (_json_decode_requests if json else _decode_requests)(body)
        else:
            requests = [(_json_decode_request if json else _decode_request)(body)]
    except Exception:  # Decoders raise more than they say: ValueError for a time beyond the year 9999.
        return _parse_piecewise(client, body, envelope, json=json, batch=batch)
    origin = Origin(client, envelope, json, not batch, len(requests))  # Not by name: that takes twice as long.
    return Message(origin, requests, (), body)


def parse_uncopied(client: bytes, body: memoryview) -> Message | None:
    """A large body that stays where it is: what is read from it, arguments above all, keeps it there. None for all but
    well-formed MessagePack: that needs another look, at bytes."""
    try:
        batch = _is_batch(body)
        if batch and _is_large_batch(body):
            origin = Origin(client, envelope=None, json=False, single=False, requests=0)
            return Batch(origin, PackedCut(body), len(body))
        requests = _decode_requests(body) if batch else [_decode_request(body)]
    except Exception:
        return None
    origin = Origin(client, envelope=None, json=False, single=not batch, requests=len(requests))
    return Message(origin, requests, (), body)


def _parse_piecewise(client: bytes, body: bytes, envelope: Envelope | None, *, json: bool, batch: bool) -> Message:
    """The slow path for bodies of which some part is wrong: every request is judged alone."""
    pieces = ((json_pieces if json else packed_pieces)(body)) if batch else (body,)
    requests, refused, headless = _judge(pieces, json=json, batch=batch)
    if headless:
        refused += [(request.id, BadRequest(_HEADLESS)) for request in requests]
        requests = []
    if batch and len(requests) == 1 and refused and not requests[0].cls and requests[0].method == KEYS:
        requests = []  # A head is not answered.
    if not requests and not refused:
        raise Malformed("no request id can be read")
    replies = len(requests) + len(refused)
    origin = Origin(client, envelope=envelope, json=json, single=not batch, requests=replies)
    return Message(origin, requests, refused, body)


def _judge(pieces: Iterable[bytes], *, json: bool, batch: bool) -> tuple[list[Request], list[tuple[int | str, CallError]], bool]:
    """Each alone: which are requests, whom to answer of the others, and whether the first, in a batch, is a broken head."""
    decode_request = _json_decode_request if json else _decode_request
    requests: list[Request] = []
    refused: list[tuple[int | str, CallError]] = []
    headless = False
    for nth, piece in enumerate(pieces):
        try:
            requests.append(decode_request(piece))
        except Exception as exc:
            request_id = (json_id if json else packed_id)(piece)
            headless |= batch and nth == 0 and _is_meant_as_head(piece, json=json)
            if request_id is not None:
                shape = "a request is [id, class, name, method, args, options]"
                refused.append((request_id, BadRequest(f"{exc}; {shape}")))
    return requests, refused, headless


def _is_meant_as_head(piece: bytes, *, json: bool) -> bool:
    """Of what is no request."""
    try:
        row = (msgspec.json if json else msgspec.msgpack).decode(piece)
    except Exception:
        return False
    return isinstance(row, list) and row[1:2] == [""] and row[3:4] == [KEYS]


def parse_message(frames: Sequence[bytes], bytes_max: int = MESSAGE_BYTES_MAX) -> tuple[list[Message], int]:
    """Takes apart a whole message as a ROUTER socket hands it out: `[client, (envelope), body, …]`. Returns the messages,
    one per body, and how many bodies had to be dropped."""
    client = frames[0]
    if len(frames) == 2 and 0 < len(frames[1]) <= bytes_max:  # The usual case.
        try:
            return [parse_body(client, frames[1])], 0
        except Malformed:
            return [], 1
    start = _first_body(frames)
    bodies = frames[start:]
    envelope_bytes = sum(map(len, frames[1:start]))
    if (
        not bodies
        or len(frames) > FRAMES_PER_MESSAGE_MAX
        or sum(map(len, bodies)) > bytes_max
        or start - 1 > ENVELOPE_FRAMES_MAX
        or envelope_bytes > ENVELOPE_BYTES_MAX
    ):
        return [], max(len(bodies), 1)
    envelope = Envelope(frames[1:start]) if start > 1 else None
    messages: list[Message] = []
    requests = 0
    for body in bodies:
        try:
            messages.append(parse_body(client, body, envelope, apart=requests > TURN_REQUESTS_MAX))
        except Malformed:
            continue
        requests += len(messages[-1].requests)
    if envelope is not None:
        envelope.missing = len(messages)
        for message in messages:
            message.size += envelope_bytes
    return messages, len(bodies) - len(messages)


_CHOSEN_ID_BYTES = 5
"""A routing id that the library chose has this length and begins with a zero byte, which no body does."""


def _first_body(frames: Sequence[bytes]) -> int:
    """Where the bodies begin: behind the first empty frame, as for a REP socket. A message without one has no envelope, except
    that a DEALER behind proxies gets their routing ids put in front."""
    for index in range(1, len(frames) - 1):  # An empty frame with nothing behind it is an empty body.
        if not frames[index]:
            return index + 1
    start = 1
    while start < len(frames) - 1 and len(frames[start]) == _CHOSEN_ID_BYTES and frames[start][0] == 0:
        start += 1
    return start


def parse_options(raw: msgspec.Raw, *, json: bool) -> Options:
    """Raises BadRequest for options that are not a map of known types. Unknown names are ignored."""
    if raw is NO_RAW or raw is NO_RAW_JSON:
        return NO_OPTIONS
    try:
        options = (_json_decode_options if json else _decode_options)(raw) or NO_OPTIONS
    except Exception as exc:
        raise BadRequest(f"options: {exc}") from None
    key = options.key
    if key is None:
        if options.answered is not None:
            raise BadRequest("options: answered comes with the key of a session")
    elif not (0 < len(key) <= IDEMPOTENCY_KEY_BYTES_MAX and (key.isascii() or _is_short(key))):
        raise BadRequest(f"options: a key is a text of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes")
    return options


def _is_short(key: str) -> bool:
    try:
        return len(key.encode()) <= IDEMPOTENCY_KEY_BYTES_MAX
    except UnicodeEncodeError:  # JSON can have half of a surrogate pair.
        return False


def with_due_s(raw: msgspec.Raw, due_s: float, *, json: bool) -> msgspec.Raw:
    """The same options (they have been parsed before), with the point in time at which their deadline is. Raises BadRequest for
    what cannot be written again: who parses them passes over an unknown name, also if it is no text."""
    try:
        options = (_json_decode_raw_map if json else _decode_raw_map)(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:  # The second until msgspec 0.23.
        raise BadRequest(f"options: {exc}") from None
    return msgspec.Raw((encode_json if json else encode)({**options, "due_s": due_s}))


_NESTING_MARGIN = 64
_NESTING_SAFE_BYTES = 512
_decode_raw = msgspec.msgpack.Decoder(msgspec.Raw).decode
_json_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def is_too_deep(raw: bytes | memoryview | msgspec.Raw, *, json: bool) -> bool:
    """Whether arrays and maps are nested so deeply that this could be read here but perhaps not in a batch by another
    process, where it would spoil the calls of others. Asks for a margin by reading it inside more arrays. True also for what
    cannot be read at all: the body of requests of which some were refused."""
    if len(raw) < _NESTING_SAFE_BYTES:  # Each level takes a byte.
        return False
    try:
        if json:
            _json_decode_raw(b"[" * _NESTING_MARGIN + raw + b"]" * _NESTING_MARGIN)
        else:
            _decode_raw(b"\x91" * _NESTING_MARGIN + raw)
    except Exception:
        return True
    return False


def with_deadline_ms(raw: msgspec.Raw, deadline_ms: int, *, json: bool) -> msgspec.Raw:
    """The same options (they have been parsed before) with another deadline."""
    options = (_json_decode_raw_map if json else _decode_raw_map)(raw)
    encoder = encode_json if json else encode
    return msgspec.Raw(encoder({**options, "deadline_ms": deadline_ms}))


def encode_replies(rows: Sequence[tuple[Any, int, Any]], *, json: bool, single: bool) -> bytes:
    """One reply body from rows `(id, status, result)`; a result may be `msgspec.Raw` of the same codec."""
    encoder = encode_json if json else encode
    return encoder(rows[0] if single else rows)


def cannot_be_sent(problem: Exception) -> MethodRaised:
    """The error for a result that MessagePack or JSON cannot carry, an integer above 64 bits or half a surrogate pair: as if its
    method had raised it."""
    kind = {"type": "TypeError", "module": "builtins", "qualname": "TypeError"}
    return MethodRaised(f"the result cannot be sent: {problem}", details=kind)


def encode_bodies(rows: Sequence[tuple[Any, int, Any]], json: bool = False, single: bool = False) -> list[bytes]:
    """The same in as many bodies as the limit on messages asks for. A result that cannot be encoded, or is too large alone,
    becomes an error: every call is answered. `single` asks for exactly one row."""
    try:
        body = (encode_json if json else encode)(rows[0] if single else rows)
        if len(body) <= MESSAGE_BYTES_MAX:
            return [body]
        error: CallError = TooLarge(f"the reply has {len(body)} bytes", outcome="executed")
        del body
    except Exception as exc:
        error = cannot_be_sent(exc) if rows[0][1] == OK else Internal(f"the error cannot be encoded: {exc}")
    if len(rows) == 1:
        return [encode_replies([(rows[0][0], ERROR, error.to_wire())], json=json, single=single)]
    half = len(rows) // 2
    return [
        *encode_bodies(rows[:half], json=json, single=single),
        *encode_bodies(rows[half:], json=json, single=single),
    ]


def join_bodies(bodies: Sequence[bytes], *, json: bool) -> list[bytes]:
    """Of replies: the same in as few bodies as the limit on messages allows."""
    joined: list[bytes] = []
    group: list[bytes] = []
    size = 0
    for body in bodies:
        if group and size + len(body) > MESSAGE_BYTES_MAX - _ARRAY_HEAD_MAX:
            joined.append(_joined(group, json=json))
            group, size = [], 0
        group.append(body)
        size += len(body)
    return [*joined, _joined(group, json=json)] if group else joined


def _joined(bodies: Sequence[bytes], *, json: bool) -> bytes:
    if len(bodies) == 1:
        return bodies[0]
    if json:
        return b"[%s]" % b",".join([memoryview(body)[1:-1] for body in bodies])
    length = sum(map(array_length, bodies))
    return b"".join([b"\xdd", length.to_bytes(4), *(memoryview(body)[array_head(body) :] for body in bodies)])


decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode
"""For the side that made the calls with a batch; what it reads was written by Tidegate itself."""

_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_json_decode_reply = msgspec.json.Decoder(Reply).decode
_json_decode_replies = msgspec.json.Decoder(list[Reply]).decode


def parse_replies(body: bytes | memoryview) -> list[Reply]:
    """One reply or an array of them, in either codec. Raises Malformed."""
    try:
        if is_json(body):
            body = bytes(body)
            if _is_json_batch(body) or body[1:].strip(_JSON_SPACE) == b"]":
                return _json_decode_replies(body)
            return [_json_decode_reply(body)]
        if body == b"\x90":
            return []
        if not body:
            raise Malformed("empty body")
        return decode_replies(body) if _is_batch(body) else [_decode_reply(body)]
    except Malformed:
        raise
    except Exception as exc:
        raise Malformed(str(exc)) from None
