"""What a caller is told when there is nothing to call, or when a method raised."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtime.errors import CallError, MethodRaised, UnknownClass, UnknownMethod
from runtime.protocol import Request
from shard.class_rules import what_it_is

if TYPE_CHECKING:
    from shard.methods import ObjectClass


def unknown_class(request: Request, classes: Iterable[str]) -> CallError:
    known = ", ".join(sorted(classes)) or "none"
    return UnknownClass(f"the running app has no object class {request.cls!r}; it has: {known}")


def unknown_method(request: Request, object_class: ObjectClass) -> CallError:
    known = ", ".join(sorted(object_class.methods)) or "none"
    other = what_it_is(object_class.cls, request.method)
    what = f" (it is {other})" if other else ""
    return UnknownMethod(f"{request.cls} has no public method {request.method!r}{what}; it has: {known}")


def method_raised(error: BaseException, *, dev: bool) -> CallError:
    """`dev`: the traceback crosses to the caller."""
    details = {"type": type(error).__name__}
    if dev:
        details["traceback"] = "".join(traceback.format_exception(error))
    return MethodRaised(text_of(error), details=details)


def text_of(error: BaseException) -> str:
    """What an exception says, if it can say anything."""
    try:
        return str(error)
    except Exception:
        return "an exception whose text cannot be made"
