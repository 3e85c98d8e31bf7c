"""What a caller writes into a call and reads out of its reply: arguments, results, errors.

Rule 1: pure. Used by the client and by stubs inside objects, so that both see the same values and the same exceptions.
Rule 2: a value is a snapshot. Arguments are encoded at the call, so that changing them afterwards changes nothing sent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Never, NoReturn

import msgspec

from tidegate.runtime.errors import BadArguments, CallError, Internal, MethodRaised, TooLarge, from_wire
from tidegate.runtime.limits import CALL_BYTES_MAX
from tidegate.runtime.wire.exceptions import raised_by_caller, text_of
from tidegate.runtime.wire.models import dump, dump_json, is_model, validate, validate_json
from tidegate.runtime.wire.protocol import NO_RAW
from tidegate.runtime.wire.unawaited import NAMED, Unawaited, not_awaited

Decode = Callable[[Any], Any]
"""Raw result to value. Raises msgspec.MsgspecError or ValueError when it is not what the annotation says."""


def encode_foreign(value: Any) -> Any:
    """What msgspec does not know itself: Pydantic models. Raises TypeError for the rest."""
    return _encode_foreign(value, dump)


def encode_foreign_json(value: Any) -> Any:
    return _encode_foreign(value, dump_json)


def _encode_foreign(value: Any, dump: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if kind is Unawaited:
        raise TypeError(not_awaited("a storage operation"))
    if hasattr(kind, "__await__"):
        raise TypeError(not_awaited(getattr(kind, NAMED, f"a {kind.__name__}")))
    if is_model(kind):
        return dump(value)
    raise TypeError(f"MessagePack cannot carry a {kind.__name__}")


def decode_foreign(wanted: Any, value: Any) -> Any:
    """What msgspec does not know itself, from MessagePack. What it raises, msgspec raises with the place."""
    return _decode_foreign(wanted, value, validate)


def decode_foreign_json(wanted: Any, value: Any) -> Any:
    return _decode_foreign(wanted, value, validate_json)


def _decode_foreign(wanted: Any, value: Any, validate: Callable[[Any, Any], Any]) -> Any:
    if wanted is object:
        return value
    if is_model(wanted):
        return validate(wanted, value)
    raise TypeError(f"type {wanted!r} cannot be received; use msgspec types, dataclasses, Structs or Pydantic models")


encode_value: Callable[[Any], bytes] = msgspec.msgpack.Encoder(enc_hook=encode_foreign).encode
"""Results, arguments and stored values that are no scalars."""
encode_value_json: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=encode_foreign_json).encode
one_value: Callable[[bytes], msgspec.Raw] = msgspec.msgpack.Decoder(msgspec.Raw).decode
"""What was encoded, if it is one value. A `msgspec.Raw` in it was taken over unseen: one that is cut short, or has more behind,
would take every reply or request of its message along. It is looked at, not decoded: that costs little more than to wrap it."""
one_value_json: Callable[[bytes], msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw).decode
decode_any: Decode = msgspec.msgpack.Decoder().decode
_decode_error = msgspec.msgpack.Decoder(dict[str, Any]).decode


def why_not_sent(problem: BaseException) -> str:
    if type(problem) is msgspec.DecodeError:
        return f"a msgspec.Raw in it is not one value of the codec of the call: {text_of(problem)}"
    return text_of(problem)


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> msgspec.Raw:
    """An array of the positional or a map of the keyword arguments; nil when there are none. The wire has no place for
    both: that is TypeError (a stub made from a class has bound them to names before)."""
    if kwargs:
        if args:
            raise TypeError(
                "positional and keyword arguments in one call need the method's signature: "
                "make the stub from the class, not from its name, or use one kind only"
            )
        arguments: Any = kwargs
    elif args:
        arguments = args
    else:
        return NO_RAW
    try:
        encoded = one_value(encode_value(arguments))
    except Exception as exc:  # A model's serialiser may raise whatever it likes.
        raise BadArguments(f"the arguments cannot be encoded: {why_not_sent(exc)}") from exc
    if len(encoded) > CALL_BYTES_MAX:
        raise TooLarge(f"the arguments have {len(encoded)} bytes encoded, more than {CALL_BYTES_MAX}")
    return encoded


def result_decoder(result_type: Any) -> Decode:
    """Made once per type. Raises TypeError for an annotation that no MessagePack value can have."""
    try:
        return _cached_decoder(result_type)
    except TypeError:  # Not hashable (an Annotated with a list in it), or no type of a result: the second try tells.
        return _make_decoder(result_type)


def _make_decoder(result_type: Any) -> Decode:
    if result_type is Any or result_type in (NoReturn, Never):
        return decode_any
    return msgspec.msgpack.Decoder(result_type, dec_hook=decode_foreign).decode


_cached_decoder = functools.lru_cache(maxsize=1_024)(_make_decoder)


def check_carried(kind: Any) -> None:
    """Raises TypeError for a type that no result can have, in whatever of its parts."""
    if kind in (NoReturn, Never):
        return
    result_decoder(kind)
    try:
        waiting: list[Any] = [msgspec.inspect.type_info(kind)]
    except TypeError:  # msgspec before 0.20 cannot describe a Literal of texts and numbers, which it reads.
        return
    seen: set[Any] = set()
    while waiting:
        info = waiting.pop()
        record: Any = getattr(info, "cls", None)
        if isinstance(info, msgspec.inspect.CustomType) and record is not object and not is_model(record):
            raise TypeError(f"a {record.__name__} cannot be carried; use msgspec types, dataclasses, Structs or Pydantic models")
        if record is not None and record in seen:
            continue
        seen.add(record)
        for name in info.__struct_fields__:
            held = getattr(info, name)
            for part in held if isinstance(held, tuple) else (held,):
                if isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
                    waiting.append(part)


def result_mismatch(class_name: str, method: str, problem: Exception) -> Internal:
    """The method ran and answered something else than its annotation, as this caller knows it, says."""
    text = f"the result of {class_name}.{method} is not what its annotation says: {text_of(problem)}"
    return Internal(text, outcome="executed")


def error_from_raw(raw: Any) -> CallError:
    """The error in a reply whose status is not 0."""
    try:
        return from_wire(_decode_error(raw))
    except Exception as exc:
        return Internal(f"an error came back that cannot be read: {exc}")


def exception_for_caller(error: CallError) -> Exception:
    """What to raise for an error: an exception of a method comes back as itself if its class is known here, caused by the
    `MethodRaised`; everything else as the error."""
    return raised_by_caller(error) if isinstance(error, MethodRaised) else error
