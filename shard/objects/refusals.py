"""What a caller is told when there is nothing to call, or when a method raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from tidegate.runtime.errors import CallError, MethodRaised, Unavailable, UnknownClass, UnknownMethod
from tidegate.runtime.limits import EXCEPTION_BYTES_MAX, EXCEPTION_PARTS_DEPTH_MAX, EXCEPTION_PARTS_MAX
from tidegate.runtime.logs.tracebacks import app_traceback
from tidegate.runtime.wire.exceptions import address_of, cause_of, contents_of, name_of, parts_of, plain, story_of
from tidegate.runtime.wire.protocol import Request, encode, encode_json
from tidegate.runtime.wire.supervisor_messages import QuarantinedObject
from tidegate.shard.core.codec import is_plain
from tidegate.shard.objects.class_rules import class_name, what_it_is

if TYPE_CHECKING:
    from tidegate.shard.objects.methods import ObjectClass


class ServedClass(Protocol):
    object_class: ObjectClass


def unknown_class(request: Request, classes: Mapping[str, ServedClass]) -> CallError:
    known = ", ".join(sorted(classes)) or "none"
    other = next((name for name, each in classes.items() if class_name(each.object_class.cls) == request.cls), None)
    hint = "" if other is None else f" (its objects are called {other!r}, an alias)"
    return UnknownClass(f"the running app has no object class {request.cls!r}{hint}; it has: {known}")


def unknown_method(request: Request, object_class: ObjectClass) -> CallError:
    known = ", ".join(sorted(object_class.methods)) or "none"
    other = what_it_is(object_class.cls, request.method)
    what = f" (it is {other})" if other else ""
    return UnknownMethod(f"{request.cls} has no public method {request.method!r}{what}; it has: {known}")


def method_raised(error: BaseException, *, dev: bool) -> CallError:
    """`dev`: the traceback crosses to the caller."""
    depth = EXCEPTION_PARTS_DEPTH_MAX
    told = MethodRaised(story_of(error, depth), details=_details(error, depth))
    try:
        sendable = len(encode(told.details)) <= EXCEPTION_BYTES_MAX * 4 and encode_json(told.details)
    except Exception:
        sendable = False
    if not sendable:
        told.details = {"type": told.type}
    if dev:
        told.details["traceback"] = traceback_of(error)
    return told


def _first(error: BaseException) -> MethodRaised | None:
    """What another object raised, and nobody on the way could make an exception of."""
    return cast("MethodRaised", error) if issubclass(type(error), MethodRaised) else None


def traceback_of(error: BaseException) -> str:
    """Where it was raised, in code of the app; of what another object has raised, also there."""
    text = app_traceback(error)
    first = _first(error)
    if first is not None and "traceback" in first.details:
        text += f"\n\nwhere it was raised first:\n\n{first.details['traceback']}"
    return plain(text)


def _details(error: BaseException, depth: int) -> dict[str, Any]:
    """What crosses beside the text: see docs/protocol.md."""
    first = _first(error)
    if first is not None:  # The first name and text are told on.
        return {key: value for key, value in first.details.items() if key != "traceback"}
    details: dict[str, Any] = {"type": name_of(error)}
    if issubclass(type(error), CallError):  # Of a call that the method made: nothing that its own caller may conclude from.
        return details
    parts = parts_of(error)
    try:
        details["module"], details["qualname"] = address_of(error)
        if cause := cause_of(error):
            details["cause"] = cause
        args, attributes = contents_of(error)
        if parts and depth:
            shown = parts[:EXCEPTION_PARTS_MAX]
            details["parts"] = [{"message": story_of(part, depth - 1), **_details(part, depth - 1)} for part in shown]
        if parts:
            args = args[:1]
            if len(parts) != len(details.get("parts", ())):
                return details
        if is_plain([[*args], attributes], EXCEPTION_BYTES_MAX):
            details["args"] = [*args]
            if attributes:
                details["attributes"] = attributes
    except BaseException:
        pass  # It crosses by its name and text.
    return details


def in_quarantine(quarantined: QuarantinedObject, left_s: float) -> Unavailable:
    offences = f"its code has held up or ended its worker {quarantined.offences} times, the last time in {quarantined.code}"
    text = f"{quarantined.class_name}/{quarantined.name} is in quarantine for {left_s:.1f} s: {offences}"
    return Unavailable(text, details={"retry_after_ms": max(1, int(left_s * 1_000))})
