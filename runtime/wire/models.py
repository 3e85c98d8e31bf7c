"""Pydantic models as values: how they are written and read, without importing Pydantic.

Rule 1: a model is written as it dumps itself (its aliases, its serialisers) and read as it validates itself. MessagePack carries
        more than JSON, so it is read by the rules for Python values first and by those for JSON second: a strict model takes a
        text for a Decimal or a list for a set in JSON only.
Rule 2: writing can lose something (a secret, an excluded field). Whoever must not lose it reads the value back and compares
        (`shard/core/codec.py`).
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import typing
from collections.abc import Hashable
from typing import Any, cast

import msgspec

_BYTES_MODES = {"base64": "base64", "hex": "hex"}


def is_model(kind: Any) -> bool:
    """Who has not imported Pydantic has no models."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return isinstance(base, type) and isinstance(kind, type) and issubclass(kind, base)


def dump(model: Any) -> Any:
    """What MessagePack carries of a model. One that holds something which MessagePack does not know (a path, a URL, an address)
    is written as in JSON."""
    by_alias, round_trip = _writing(cast("Hashable", type(model)))
    dumped = model.model_dump(by_alias=by_alias, round_trip=round_trip)
    try:
        msgspec.msgpack.encode(dumped)
    except TypeError:
        dumped = model.model_dump(mode="json", by_alias=by_alias, round_trip=round_trip)
    return dumped


def dump_json(model: Any) -> Any:
    """What JSON carries of a model: that is read by no Python client, so all of it is as Pydantic would write it."""
    return model.model_dump(mode="json", by_alias=True)


def validate(kind: Any, value: Any) -> Any:
    """The model of what MessagePack carried. Raises ValueError, which names the place in the model."""
    try:
        return _validate(kind, value)
    except ValueError as exc:
        error = exc
    try:
        return _validate_json(kind, value)
    except ValueError as exc:
        # The rules by which it was written complain of less: a strict model takes no text for a Decimal in Python.
        raise ValueError(_told(min(error, exc, key=_complaints))) from None


def _complaints(error: ValueError) -> float:
    count = getattr(error, "error_count", None)
    return math.inf if count is None else float(count())


def _validate(kind: Any, value: Any) -> Any:
    if not _writing(kind)[0]:  # It was written by the names of its fields, or by somebody who knows its aliases.
        return kind.model_validate(value, by_alias=True, by_name=True)
    return kind.model_validate(value)


def validate_json(kind: Any, value: Any) -> Any:
    """The model of what JSON carried, by the rules of JSON alone."""
    try:
        return _validate_json(kind, value)
    except ValueError as exc:
        raise ValueError(_told(exc)) from None


def _validate_json(kind: Any, value: Any) -> Any:
    mode = _BYTES_MODES.get(kind.model_config.get("val_json_bytes"), "utf8")
    to_json = sys.modules["pydantic_core"].to_json
    try:
        text = to_json(value, bytes_mode=mode, inf_nan_mode="constants")
    except TypeError:  # Pydantic before 2.7.
        text = to_json(value, bytes_mode=mode)
    return kind.model_validate_json(text)


def _told(error: ValueError) -> str:
    """In one line, which Pydantic's own text is not."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    problems = [(".".join(map(str, each["loc"])), each["msg"]) for each in errors(include_url=False, include_context=False)]
    return "; ".join(f"{place}: {problem}" if place else problem for place, problem in problems)


@functools.lru_cache(maxsize=1_024)
def _writing(kind: Any) -> tuple[bool, bool]:
    """Whether a model is written by its aliases (unless they are others than those by which it is read), and without its
    computed fields."""
    by_alias = all(_reads_its_aliases(each) for each in _models_of(kind, []))
    if not by_alias and "by_name" not in inspect.signature(kind.model_validate).parameters:
        raise TypeError(f"{kind.__name__} is read by other aliases than it is written by; that takes Pydantic 2.11")
    computed = bool(kind.model_computed_fields) and kind.model_config.get("extra") in (None, "ignore")
    return by_alias, not computed


def _reads_its_aliases(kind: Any) -> bool:
    for name, field in kind.model_fields.items():
        written, read = field.serialization_alias, field.validation_alias
        if written != read and (written or name) not in _names(read):
            return False
    return True


def _names(alias: Any) -> list[Any]:
    """Which an AliasChoices offers."""
    return list(getattr(alias, "choices", [alias]))


def _models_of(kind: Any, found: list[Any]) -> list[Any]:
    """A model and those in its fields."""
    if is_model(kind):
        if kind not in found:
            found.append(kind)
            for field in kind.model_fields.values():
                _models_of(field.annotation, found)
    else:
        for argument in typing.get_args(kind):
            _models_of(argument, found)
    return found
