"""One tree of errors: what a caller may conclude from each.

Every error carries `code`, `message`, `retryable`, `overloaded` and `outcome` (contract, section 7). The class says whose
fault it is and whether the call ran; the same classes are raised by the client and by stubs inside objects.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from tidegate.runtime.limits import RETRY_AFTER_MS

Outcome = Literal["not_executed", "executed", "unknown"]


def sendable(text: str) -> str:
    """The text as UTF-8 can carry it: lone surrogates as their escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10, 13)} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""What moves a cursor, starts a line or turns the direction of a text."""
_LINE_ENDS = {10: "\\n", 13: "\\r"}


def one_line(text: str) -> str:
    """The text as it can be shown in one line of a log or terminal."""
    return text if text.isprintable() else text.translate(_CONTROLS | _LINE_ENDS)


def indented(text: str) -> str:
    """The text in as many lines as it has, of which only the first stands where lines begin."""
    return text if text.isprintable() else text.replace("\r", "\\r").translate(_CONTROLS).replace("\n", "\n    ")


class TidegateError(Exception):
    """Base of everything Tidegate raises on purpose."""


class CallError(TidegateError):
    """A call was answered by an error (codes: docs/protocol.md). What may be concluded from it:

    code: the name on the wire, one for each class.
    message: a text for people.
    outcome: "not_executed": the method has not run and never will. "executed": it has run, and what it wrote is durable.
        "unknown": it may have run, to its end or a part of the way, or may not have.
    retryable: the same call may well succeed later. After "unknown" only if the method does no harm when it runs twice.
    overloaded: refused because a bound was reached; try again more slowly.
    details: what else came along, by name."""

    code: ClassVar[str] = "internal"
    retryable_default: ClassVar[bool] = False
    overloaded: ClassVar[bool] = False
    outcome_default: ClassVar[Outcome] = "not_executed"

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.outcome: Outcome = outcome if outcome is not None else self.outcome_default
        self.retryable = retryable if retryable is not None else self.retryable_default
        self.details = details or {}

    def again(self) -> Self:
        """The same error for somebody else. One that is raised again and again would keep the frames of all who caught it."""
        return type(self)(self.message, outcome=self.outcome, retryable=self.retryable, details=self.details)

    def to_wire(self) -> dict[str, Any]:
        """The error map of wire protocol 1."""
        return {
            "code": self.code,
            "message": sendable(self.message),
            "retryable": self.retryable,
            "overloaded": self.overloaded,
            "outcome": self.outcome,
            **{key: sendable(value) if isinstance(value, str) else value for key, value in self.details.items()},
        }


LEAVING = {"leaving": True}
"""Detail of a refusal: the process that answered is about to end, so nothing more should be sent to it."""


class BadRequest(CallError):
    """The message is not a request of wire protocol 1."""

    code = "bad_request"


class BadArguments(CallError):
    """The arguments do not fit the method's annotations; the message names the offending place."""

    code = "bad_arguments"


class UnknownClass(CallError):
    """The running app has no such object class."""

    code = "unknown_class"


class UnknownMethod(CallError):
    """The class has no such public method."""

    code = "unknown_method"


class MethodRaised(CallError):
    """The method raised something that is no exception here. `type` is the name of its class, `message` its text, `cause` what
    it was raised from, as text; in `details` is a `traceback` only in --dev. Over any number of hops these are the first ones."""

    code = "exception"
    outcome_default = "executed"

    @property
    def type(self) -> str:
        """The name of the class of what was raised, without its module."""
        return str(self.details.get("type", ""))

    @property
    def cause(self) -> str:
        """What it was raised from (`raise … from …`), as text; empty if from nothing."""
        return str(self.details.get("cause", ""))


class StartFailed(CallError):
    """The object could not be started: its `__init__` or `on_start` raised. The next call tries again."""

    code = "start_failed"


class ObjectReset(CallError):
    """The object was reset before the call's writes were durable: a failed write, a broken gate, `abort`."""

    code = "object_reset"
    retryable_default = True
    outcome_default = "unknown"


class Overloaded(CallError):
    """Refused because a bound was reached. Not executed; try again later, more slowly: `retry_after_ms` in the details says when
    at the earliest."""

    code = "overloaded"
    retryable_default = True
    overloaded = True

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
        retry_after_ms: int = RETRY_AFTER_MS,
    ) -> None:
        details = {"retry_after_ms": retry_after_ms, **(details or {})}
        super().__init__(message, outcome=outcome, retryable=retryable, details=details)


class Deadlock(CallError):
    """The call would have waited for itself: it came back into an open transaction or a start of its own chain of calls, or it
    closed a ring of objects that wait for each other. Not executed; the same call would end in the same way."""

    code = "deadlock"


class DeadlineExceeded(CallError):
    """Not answered in time. Not executed if the call had not been started, and then it never is; else, and from the client's own
    timeout, unknown."""

    code = "deadline_exceeded"


class TooLarge(CallError):
    """An argument, result or message is over its limit."""

    code = "too_large"


class Moved(CallError):
    """This worker does not own the object; ask for the topology again."""

    code = "moved"
    retryable_default = True


class Unavailable(CallError):
    """Nobody can take the call now: starting, draining or flapping. Not executed."""

    code = "unavailable"
    retryable_default = True


class ShardLost(CallError):
    """The worker died with the call in flight. Its outcome is unknown; everything confirmed before is kept."""

    code = "shard_lost"
    retryable_default = True
    outcome_default = "unknown"


class Interrupted(CallError):
    """The call had written, and its object was reset or its worker died before it came to its end. Its outcome is unknown; under
    its key it does not run again."""

    code = "interrupted"
    outcome_default = "unknown"


class Unauthorized(CallError):
    """The client may not do this."""

    code = "unauthorized"


class Internal(CallError):
    """A fault of Tidegate itself. The log of the service has the rest."""

    code = "internal"
    outcome_default = "unknown"


BY_CODE: dict[str, type[CallError]] = {
    cls.code: cls
    for cls in (
        BadRequest, BadArguments, UnknownClass, UnknownMethod, MethodRaised, StartFailed, ObjectReset, Overloaded,
        Deadlock, DeadlineExceeded, TooLarge, Moved, Unavailable, ShardLost, Interrupted, Unauthorized, Internal,
    )
}  # fmt: skip

_ENVELOPE = frozenset({"code", "message", "retryable", "overloaded", "outcome"})


def from_wire(error: dict[str, Any]) -> CallError:
    """The exception for an error map. Unknown codes (of a newer server) become `Internal` with the code in `details`."""
    code = error.get("code")
    cls = BY_CODE.get(code) if isinstance(code, str) else None
    details = {key: value for key, value in error.items() if key not in _ENVELOPE}
    if cls is None:
        cls, details = Internal, {**details, "code": code}
    outcome = error.get("outcome")
    return cls(
        str(error.get("message", "")),
        outcome=outcome if outcome in ("not_executed", "executed", "unknown") else None,
        retryable=bool(error.get("retryable")),
        details=details,
    )


class OperatorError(TidegateError):
    """Something the operator must see: an operation, a place and a next step. `passes`: it may be over by itself, as a full disk
    may be, so that the same may succeed later."""

    def __init__(self, operation: str, place: object, problem: str, hint: str, *, passes: bool = False) -> None:
        super().__init__(f"{operation} {one_line(str(place))}: {problem} ({hint})")
        self.operation = operation
        self.place = place
        self.problem = problem
        self.hint = hint
        self.passes = passes
