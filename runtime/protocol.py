"""Wire protocol 1: bytes in, requests out; replies in, bytes out.

Rule 1: this file knows no socket. It is used by every process that takes calls (router, workers) and by the client.
Rule 2: arguments and results stay raw. Only the worker that runs a method looks inside them.
Rule 3: nothing that a stranger sends raises anything but `Malformed`.

The codec of a body is MessagePack, or JSON when its first byte is `[` or `{` (contract, section 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.errors import BadRequest, CallError
from runtime.limits import FRAMES_PER_MESSAGE_MAX, IDEMPOTENCY_KEY_BYTES_MAX, MESSAGE_BYTES_MAX

NO_RAW = msgspec.Raw(b"")

OK = 0
ERROR = 1


class Request(msgspec.Struct, array_like=True, gc=False):
    """One call as it travels. `args` and `options` are undecoded, empty when left out."""

    id: int | str
    cls: str
    name: str
    method: str
    args: msgspec.Raw = NO_RAW
    options: msgspec.Raw = NO_RAW


class Reply(msgspec.Struct, array_like=True, gc=False):
    """One answer as the caller's side reads it. `result` is undecoded."""

    id: int | str | None
    status: int
    result: msgspec.Raw


class Options(msgspec.Struct, gc=False):
    """What a caller may ask beside the call itself."""

    deadline_ms: int | None = None
    """Milliseconds from the arrival of the call within which it must have been started."""
    key: str | None = None
    """Idempotency key."""
    traceparent: str | None = None


NO_OPTIONS = Options()


class Malformed(Exception):
    """Not a message of wire protocol 1, and no request id to answer to."""


class Origin:
    """Where the replies of one message go, and in which form. One is shared by all requests of the message."""

    __slots__ = ("client", "delimiter", "gathered", "json", "missing", "plain", "single")

    def __init__(self, client: bytes, *, delimiter: bool, json: bool, single: bool, requests: int) -> None:
        self.client = client
        self.delimiter = delimiter
        self.json = json
        self.single = single
        self.plain = not (delimiter or json or single)
        """Replies may share a message with those of other messages of this client."""
        self.missing = requests
        """Replies still to come. A REQ socket reads exactly one message, so its replies are gathered until this is 0."""
        self.gathered: list[tuple[Any, int, Any]] = []


class Message:
    """One message taken apart: the requests that can be run, and the answers that can be given at once."""

    __slots__ = ("origin", "refused", "requests")

    def __init__(self, origin: Origin, requests: list[Request], refused: list[tuple[int | str, CallError]]) -> None:
        self.origin = origin
        self.requests = requests
        self.refused = refused


_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
_decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.msgpack.Decoder().decode
_decode_options = msgspec.msgpack.Decoder(Options | None).decode
_json_decode_request = msgspec.json.Decoder(Request).decode
_json_decode_requests = msgspec.json.Decoder(list[Request]).decode
_json_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_json_decode_any = msgspec.json.Decoder().decode
_json_decode_options = msgspec.json.Decoder(Options | None).decode

encode = msgspec.msgpack.Encoder().encode
encode_json = msgspec.json.Encoder().encode

_JSON_FIRST = frozenset(b"[{")
_JSON_SPACE = b" \t\r\n"


def is_json(body: bytes) -> bool:
    return body[:1] in (b"[", b"{")


def _is_array(byte: int) -> bool:
    return byte & 0xF0 == 0x90 or byte == 0xDC or byte == 0xDD


def _is_batch(body: bytes) -> bool:
    """Whether a MessagePack body is an array of arrays. Raises Malformed when it is no array at all."""
    first = body[0]
    at = 1 if first & 0xF0 == 0x90 else 3 if first == 0xDC else 5 if first == 0xDD else 0
    if not at or len(body) <= at:
        raise Malformed("not an array with elements")
    return _is_array(body[at])


def parse_body(client: bytes, body: bytes, *, delimiter: bool = False) -> Message:
    """Takes one body frame apart. Requests that are not well-formed are answered `bad_request` where their id can be
    read. Raises Malformed when nothing can be answered."""
    if not body:
        raise Malformed("empty body")
    json = body[0] in _JSON_FIRST
    if json:
        batch = body[0] == 0x5B and body[1:64].lstrip(_JSON_SPACE)[:1] == b"["
    else:
        batch = _is_batch(body)
    try:
        if batch:
            requests = (_json_decode_requests if json else _decode_requests)(body)
        else:
            requests = [(_json_decode_request if json else _decode_request)(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _parse_piecewise(client, body, delimiter=delimiter, json=json, batch=batch)
    origin = Origin(client, delimiter=delimiter, json=json, single=not batch, requests=len(requests))
    return Message(origin, requests, [])


def _parse_piecewise(client: bytes, body: bytes, *, delimiter: bool, json: bool, batch: bool) -> Message:
    """The slow path for bodies of which some part is wrong: every request is judged alone."""
    try:
        raws = (_json_decode_raws if json else _decode_raws)(body) if batch else [msgspec.Raw(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise Malformed(str(exc)) from None
    decode_request = _json_decode_request if json else _decode_request
    requests: list[Request] = []
    refused: list[tuple[int | str, CallError]] = []
    for raw in raws:
        try:
            requests.append(decode_request(raw))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            request_id = _request_id(raw, json=json)
            if request_id is not None:
                shape = "a request is [id, class, name, method, args, options]"
                refused.append((request_id, BadRequest(f"{exc}; {shape}")))
    if not requests and not refused:
        raise Malformed("no request id can be read")
    origin = Origin(client, delimiter=delimiter, json=json, single=not batch, requests=len(requests) + len(refused))
    return Message(origin, requests, refused)


def _request_id(raw: msgspec.Raw, *, json: bool) -> int | str | None:
    try:
        value = (_json_decode_any if json else _decode_any)(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if isinstance(value, dict):
        value = [value.get("id")]
    if isinstance(value, list) and value and isinstance(value[0], int | str) and not isinstance(value[0], bool):
        return value[0]
    return None


def parse_message(frames: Sequence[bytes]) -> tuple[list[Message], int]:
    """Takes apart a whole message as a ROUTER socket hands it out: `[client, (empty), body, …]`. Returns the messages,
    one per body, and how many bodies had to be dropped."""
    client, rest = frames[0], frames[1:]
    delimiter = bool(rest) and not rest[0]
    bodies = rest[1:] if delimiter else rest
    if not bodies or len(frames) > FRAMES_PER_MESSAGE_MAX or sum(map(len, bodies)) > MESSAGE_BYTES_MAX:
        return [], max(len(bodies), 1)
    messages: list[Message] = []
    for body in bodies:
        try:
            messages.append(parse_body(client, body, delimiter=delimiter))
        except Malformed:
            pass
    return messages, len(bodies) - len(messages)


def parse_options(raw: msgspec.Raw, *, json: bool) -> Options:
    """Raises BadRequest for options that are not a map of known types. Unknown names are ignored."""
    if not raw:
        return NO_OPTIONS
    try:
        options = (_json_decode_options if json else _decode_options)(raw) or NO_OPTIONS
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise BadRequest(f"options: {exc}") from None
    if options.key is not None and len(options.key.encode(errors="replace")) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise BadRequest(f"options: key is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes")
    return options


def encode_replies(rows: Sequence[tuple[Any, int, Any]], *, json: bool, single: bool) -> bytes:
    """One reply body from rows `(id, status, result)`; a result may be `msgspec.Raw` of the same codec."""
    encoder = encode_json if json else encode
    return encoder(rows[0] if single else rows)


decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode
"""For the side that made the calls with a batch; what it reads was written by Tidegate itself."""

_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_json_decode_reply = msgspec.json.Decoder(Reply).decode
_json_decode_replies = msgspec.json.Decoder(list[Reply]).decode


def parse_replies(body: bytes) -> list[Reply]:
    """One reply or an array of them, in either codec. Raises Malformed."""
    try:
        if is_json(body):
            if body[1:64].lstrip(_JSON_SPACE)[:1] in (b"[", b"]"):
                return _json_decode_replies(body)
            return [_json_decode_reply(body)]
        return decode_replies(body) if body and _is_batch(body) else [_decode_reply(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise Malformed(str(exc)) from None
