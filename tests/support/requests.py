"""What a client has sent, as the service takes it: each call with its key, wherever that was said."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.runtime.wire.protocol import Request, encode, parse_body
from tidegate.runtime.wire.sessions import give_keys, is_head


def requests_in(body: bytes) -> list[Request]:
    message = parse_body(b"a client", body)
    assert not message.refused
    if len(message.requests) > 1 and is_head(message.requests[0]):
        assert not give_keys(message)
    return message.requests


def rows_in(body: bytes) -> list[list[Any]]:
    """The same as plain values, without what was left out at the end."""
    rows = []
    for request in requests_in(body):
        row: list[Any] = msgspec.msgpack.decode(encode(request))
        while row[-1] is None and len(row) > 4:
            row.pop()
        rows.append(row)
    return rows
