"""Pydantic models as values: how they are written and read, without importing Pydantic.

Rule 1: a model is written as it dumps itself (its aliases, its serialisers) and read as it validates itself. MessagePack carries
        more than JSON, so it is read by the rules for Python values first and by those for JSON second: a strict model takes a
        text for a Decimal or a list for a set in JSON only.
Rule 2: writing can lose something (a secret, an excluded field). Whoever must not lose it reads the value back and compares
        (`shard/codec.py`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable
from typing import Any, cast

import msgspec

_BYTES_MODES = {"utf8": "utf8", "base64": "base64", "hex": "hex"}


def is_model(kind: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)
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


def validate(kind: Any, value: Any) -> Any:
    """The model of what was read. Raises msgspec.ValidationError."""
    try:
        return kind.model_validate(value)
    except ValueError as exc:
        error = exc
    for attempt in (_validate_json, _validate_names):
        try:
            return attempt(kind, value)
        except (ValueError, TypeError):
            pass
    raise msgspec.ValidationError(str(error)) from None


def _validate_json(kind: Any, value: Any) -> Any:
    mode = _BYTES_MODES.get(kind.model_config.get("val_json_bytes", "utf8"), "utf8")
    text = sys.modules["pydantic_core"].to_json(value, bytes_mode=mode, inf_nan_mode="constants")
    return kind.model_validate_json(text)


def _validate_names(kind: Any, value: Any) -> Any:
    """A model whose aliases differ for reading and writing is written by the names of its fields. TypeError before 2.11."""
    return kind.model_validate(value, by_alias=False, by_name=True)


@functools.lru_cache(maxsize=1_024)
def _writing(kind: Any) -> tuple[bool, bool]:
    """Whether a model is written by its aliases, and without its computed fields."""
    by_alias = all(
        field.serialization_alias == field.validation_alias or not isinstance(field.validation_alias, str | None)
        for field in kind.model_fields.values()
    )
    computed = bool(kind.model_computed_fields) and kind.model_config.get("extra") in (None, "ignore")
    return by_alias, not computed
