"""The head of a batch that gives its calls keys: which session has numbered them, and which of its calls have been answered.

A batch may begin with `[0, "", SESSION, "keys", [ANSWERED]]`. Each request behind it that has no key in its options has
`SESSION.ID` then, with that `answered`: so that a call with a key costs no bytes, and is told from a repeated one by its number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec

from tidegate.runtime.errors import BadRequest
from tidegate.runtime.wire.protocol import KEYS, NO_RAW, NO_RAW_JSON, Message, Request, encode, encode_json

NUMBER_MAX = 10**18 - 1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,22}", re.ASCII)
_ANSWERED = encode("answered")
_KEY = encode("key")

_Answered = tuple[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]]
_decode = msgspec.msgpack.Decoder(_Answered).decode
_json_decode = msgspec.json.Decoder(_Answered).decode
_decode_map = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_json_decode_map = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Numbered(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def answered(self) -> int: ...


class Session(NamedTuple):
    name: str
    answered: int
    """Its calls with a smaller number have been answered to their caller."""


def is_head(request: Request) -> bool:
    return not request.cls and request.method == KEYS


def answered_in(head: Request, json: bool) -> int:
    """Below which number it says that all calls have been answered. Raises BadRequest."""
    try:
        (answered,) = (_json_decode if json else _decode)(head.args)
    except Exception as exc:
        raise BadRequest(f"the head of a session: {exc}; it is [0, '', SESSION, 'keys', [ANSWERED]]") from None
    return answered


def check_name(session: str) -> None:
    """Raises BadRequest."""
    if _NAME.fullmatch(session) is None:
        raise BadRequest("the head of a session: its name has 1 to 22 of A-Z a-z 0-9 _ -")


def session_of(head: Request, *, json: bool) -> Session:
    """Raises BadRequest."""
    answered = answered_in(head, json)
    check_name(head.name)
    return Session(head.name, answered)


def head_row(session: Session) -> tuple[int, str, str, str, tuple[int]]:
    """As clients write it."""
    return 0, "", session.name, KEYS, (session.answered,)


def are_numbered(requests: Sequence[Request]) -> bool:
    """Whether a session can have numbered all of them, but that numbers may be below 0."""
    try:
        largest = requests[0].id if len(requests) == 1 else max([request.id for request in requests])
    except (TypeError, ValueError):  # A text among numbers; or there are none.
        return False
    return largest.__class__ is int and largest <= NUMBER_MAX


def give_key(session: Numbered, request: Request, *, json: bool) -> None:
    """Into its options, unless there is one. Raises BadRequest for a request that the session cannot have numbered."""
    number = request.id
    if number.__class__ is not int or not 0 <= number <= NUMBER_MAX:
        raise BadRequest("in the batch of a session the id of a request is its number: an integer from 0")
    key = f"{session.name}.{number}"
    options = request.options
    if options is NO_RAW and not json:
        request.options = msgspec.Raw(b"".join((b"\x82", _ANSWERED, encode(session.answered), _KEY, encode(key))))
        return
    try:
        named = {} if options in (NO_RAW, NO_RAW_JSON) else (_json_decode_map if json else _decode_map)(options)
    except Exception as exc:
        raise BadRequest(f"options: {exc}") from None
    if "key" not in named:
        request.options = msgspec.Raw((encode_json if json else encode)({**named, "answered": session.answered, "key": key}))


def give_keys(message: Message) -> Sequence[tuple[Request, BadRequest]]:
    """Takes the head off a message that begins with one, and gives keys to the requests behind it. Returns those that have to be
    refused, which are no longer in the message either."""
    json, head = message.origin.json, message.requests[0]
    rest = without_head(message)
    try:
        session = session_of(head, json=json)
    except BadRequest as exc:
        message.requests = []
        return [(request, exc) for request in rest]
    refused: list[tuple[Request, BadRequest]] = []
    message.requests = []
    for request in rest:
        try:
            give_key(session, request, json=json)
        except BadRequest as exc:
            refused.append((request, exc))
        else:
            message.requests.append(request)
    return refused


def without_head(message: Message) -> list[Request]:
    """What comes behind it. It is not answered itself."""
    message.origin.missing -= 1
    del message.requests[0]
    return message.requests
