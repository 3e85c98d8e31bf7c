"""Values as they are stored, as JSON for people and programs, and back.

Guarantee: what `from_plain` makes of `to_plain(value)` is the same value, of the same types, also after a trip through JSON.

None, bool, int, finite float, str, list, and a dict of which all keys are str, are what JSON has for them. The rest is an object
with one key that begins with `$`: `{"$bytes": base64}`, `{"$time": RFC 3339}`, `{"$float": "nan"}` (or `inf`, `-inf`, the bytes
of another NaN), `{"$ext": [code, base64]}`, and `{"$map": [[key, value], …]}` for a dict with other keys, or one that looks like
one of these.

Between processes values travel as they are stored, under `packed`: as JSON some have ten times the bytes, and take seconds. So
only the process of whoever looks or types makes JSON of them, or them of it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec

_MARK = "$"
GROWTH_MAX = 10
"""As JSON a value has at most so many times the bytes that it is stored in: of dicts in dicts whose one key is a bool."""


def with_values(told: dict[str, Any]) -> dict[str, Any]:
    """What a worker has told of values, with `value`, for people, in the place of `packed`."""
    shown: dict[str, Any] = {}
    for name, each in told.items():
        if name == "packed":
            shown["value"] = to_plain(msgspec.msgpack.decode(base64.b64decode(each)))
        elif name in ("rows", "pages") and isinstance(each, list):
            shown[name] = [None if row is None else with_values(row) for row in each]
        else:
            shown[name] = with_values(each) if name in ("before", "after") and isinstance(each, dict) else each
    return shown


def pack(plain: Any) -> bytes:
    """As it is stored. Raises ValueError for what is no form of a value."""
    try:
        return msgspec.msgpack.encode(from_plain(plain))
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def to_plain(value: Any) -> Any:
    kind = value.__class__
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": _not_finite(value)}
    if kind is list:
        return [to_plain(item) for item in value]
    if kind is dict:
        if all(key.__class__ is str for key in value) and not _is_marked(value):
            return {key: to_plain(item) for key, item in value.items()}
        return {"$map": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is datetime.datetime:
        return {"$time": value.isoformat()}
    if kind is msgspec.msgpack.Ext:
        return {"$ext": [value.code, base64.b64encode(value.data).decode()]}
    raise TypeError(f"{kind.__name__} is not stored")


def _is_marked(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith(_MARK)


def from_plain(plain: Any) -> Any:
    """Raises ValueError, which names the form that is wrong."""
    try:
        return _from_plain(plain)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _from_plain(plain: Any) -> Any:
    kind = plain.__class__
    if kind is list:
        return [_from_plain(item) for item in plain]
    if kind is dict:
        if _is_marked(plain):
            ((mark, inner),) = plain.items()
            if (read := _FORMS.get(mark)) is None:
                known = ", ".join(_FORMS)
                raise ValueError(
                    f"{mark!r} begins no form of a value ({known}); a dict with this one key is {{'$map': [[key, value]]}}"
                )
            try:
                return read(inner)
            except (TypeError, ValueError, binascii.Error) as error:
                raise ValueError(f"{mark}: {error}") from None
        return {key: _from_plain(item) for key, item in plain.items()}
    return plain


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("base64 is a text")
    return base64.b64decode(text, validate=True)


def _time(text: Any) -> datetime.datetime:
    if not isinstance(text, str):
        raise ValueError("a time is a text, as 2026-01-31T12:00:00+00:00")
    time = datetime.datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError("a time needs its zone, as 2026-01-31T12:00:00+00:00")
    return time


def _not_finite(value: float) -> str:
    """Its name, or the bytes of a NaN that has others than the usual ones."""
    name, raw = str(value), struct.pack(">d", value)
    return name if struct.pack(">d", float(name)) == raw else raw.hex()


def _float(text: Any) -> float:
    if text in ("nan", "inf", "-inf"):
        return float(text)
    if isinstance(text, str) and len(text) == 16 and math.isnan(value := struct.unpack(">d", bytes.fromhex(text))[0]):
        return float(value)
    raise ValueError("one of nan, inf, -inf; other numbers are written as they are")


def _ext(parts: Any) -> msgspec.msgpack.Ext:
    if not isinstance(parts, list) or len(parts) != 2 or parts[0].__class__ is not int or not -128 <= parts[0] < 128:
        raise ValueError("[code from -128 to 127, base64]")
    return msgspec.msgpack.Ext(parts[0], _bytes(parts[1]))


def _map(pairs: Any) -> dict[Any, Any]:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("[[key, value], …]")
    return {_from_plain(key): _from_plain(item) for key, item in pairs}


_FORMS: dict[str, Callable[[Any], Any]] = {"$bytes": _bytes, "$time": _time, "$float": _float, "$ext": _ext, "$map": _map}
