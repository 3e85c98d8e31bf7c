"""Pydantic models as somebody would fill them in who knows nothing but their fields.

Rule: bounds of a field (`Field(gt=0, max_length=30)`) are followed where msgspec has the same one; what a model asks beyond
      them, its validators say by refusing.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")


def fields_of(model: Any) -> dict[str, tuple[Any, bool]]:
    """By the name under which the model takes it: the type of each field, with its bounds, and whether it must be given."""
    return {
        _name(name, field): (_bounded(field.annotation, field.metadata), field.is_required())
        for name, field in model.model_fields.items()
    }


def _name(name: str, field: Any) -> str:
    """Of several aliases the first; one that leads into the depth of what is given (`AliasPath`) is not made up."""
    alias = field.validation_alias
    first = getattr(alias, "choices", [alias])[0]
    return first if isinstance(first, str) else name


def _bounded(annotation: Any, metadata: list[Any]) -> Any:
    bounds = {each: value for each in _BOUNDS for one in metadata if (value := getattr(one, each, None)) is not None}
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_with(bounds, member) for member in get_args(annotation))]  # noqa: UP007  # Of as many as there are.
    return _with(bounds, annotation)


def _with(bounds: dict[str, Any], annotation: Any) -> Any:
    try:
        kind = Annotated[annotation, msgspec.Meta(**bounds)]
        msgspec.inspect.type_info(kind)
    except (TypeError, ValueError):
        return annotation  # A bound of None, of a Decimal, of a date: msgspec has none.
    return kind if bounds else annotation
