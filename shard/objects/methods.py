"""What a class offers: its public methods, compiled once into decoders of their arguments.

Guarantee: only public `async def` methods of the class, or of a base other than `DurableObject`, can be called from outside;
arguments are converted and validated before any code of the object runs, and a mismatch names the offending place.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from tidegate.runtime.errors import BadArguments
from tidegate.runtime.wire.annotations import signature_of
from tidegate.runtime.wire.encoding import check_carried, decode_foreign, decode_foreign_json
from tidegate.runtime.wire.exceptions import line_of
from tidegate.runtime.wire.stub import names_of
from tidegate.shard.objects.class_rules import class_name, problems_of, public_methods
from tidegate.shard.objects.object import ALARM, READ_ONLY, DurableObject

NO_ARGUMENTS = (b"", b"\x90", b"\xc0", b"\x80")
"""Arguments left out: nothing, an empty array, nil, an empty map."""
_EMPTY_JSON = (b"", b"[]", b"null", b"{}")

_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)


class AppError(Exception):
    """The app cannot be served as it is written; the message says what to change, one line for each problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Method:
    """One callable method."""

    __slots__ = (
        "_by_position",
        "_decode_all",
        "_names",
        "_required",
        "_signature",
        "_types",
        "_variable",
        "digest",
        "empty_ok",
        "function",
        "name",
        "read_only",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.read_only = bool(getattr(function, READ_ONLY, False))
        """It is marked by `@readonly`."""
        self.digest = crc32(name.encode())
        """Tells calls of it from those of others."""
        self._signature = signature_of(function)
        parameters = self._parameters()
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception as exc:
            raise AppError(f"{function.__qualname__}: an annotation cannot be resolved: {exc}") from None
        self._types: dict[str, Any] = {}
        for parameter in parameters:
            self._types[parameter.name] = kind = hints.get(parameter.name, Any)
            try:
                msgspec.msgpack.Decoder(kind, dec_hook=decode_foreign)
            except TypeError as exc:
                raise AppError(f"{function.__qualname__}: parameter {parameter.name!r}: {exc}") from None
        try:
            check_carried(hints.get("return", Any))
        except Exception as exc:  # Of a class that does not resolve, or a metaclass.
            raise AppError(f"{function.__qualname__}: its result: {line_of(exc)}") from None
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._names = [p.name for p in positional]
        self._required = sum(p.default is p.empty for p in positional)
        self.empty_ok = all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        """May be called without arguments."""
        self._by_position = bool(self._names) and not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        """A call can be made with positional arguments only."""
        self._variable = next((self._types[p.name] for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        types = tuple(self._types[name] for name in self._names)
        every = tuple[types] if types else tuple[()]  # type: ignore[valid-type]  # a type made of what the method says
        self._decode_all = msgspec.msgpack.Decoder(every, dec_hook=decode_foreign).decode

    def arguments(self, raw: msgspec.Raw, *, json: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments. Raises BadArguments."""
        if not json and self._by_position:
            try:
                return self._decode_all(raw), {}
            except BaseException:
                pass  # Another number of arguments, keywords, or an error to be explained.
        return self._arguments(bytes(raw), json)

    def _arguments(self, raw: bytes, json: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if raw in (_EMPTY_JSON if json else NO_ARGUMENTS):
            return self._bind((), {})
        codec: Any = msgspec.json if json else msgspec.msgpack
        keywords = raw[:1] == b"{" if json else raw[0] & 0xF0 == 0x80 or raw[0] in (0xDE, 0xDF)
        try:
            if keywords:
                return self._bind((), codec.decode(raw, type=dict[str, msgspec.Raw]), codec)
            return self._bind(tuple(codec.decode(raw, type=list[msgspec.Raw])), {}, codec)
        except BadArguments:
            raise
        except Exception as exc:
            raise BadArguments(f"{self.name}: the arguments are neither an array nor a map: {exc}") from None

    def _bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], codec: Any = msgspec.msgpack
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            self._signature.bind(None, *args, **kwargs)
        except TypeError as exc:
            raise BadArguments(f"{self.name}: {exc}; it takes {self._shown()}") from None
        converted = tuple(
            self._convert(codec, value, self._names[at], self._types[self._names[at]])
            if at < len(self._names)
            else self._convert(codec, value, f"*[{at}]", self._variable)
            for at, value in enumerate(args)
        )
        extra = next((p.name for p in self._signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
        named = {
            name: self._convert(codec, value, name, self._types.get(name, self._types.get(extra, Any)))
            for name, value in kwargs.items()
        }
        return converted, named

    def _convert(self, codec: Any, raw: msgspec.Raw, name: str, kind: Any) -> Any:
        decode_model = decode_foreign_json if codec is msgspec.json else decode_foreign
        try:
            return codec.decode(raw, type=kind, dec_hook=decode_model)
        except BaseException as exc:  # A user's `__post_init__` may raise whatever it likes.
            problem = str(exc) if issubclass(type(exc), _DECODE_ERRORS) else line_of(exc)
            raise BadArguments(f"{self.name}: argument {name!r}: {problem}", details={"argument": name}) from None

    def _parameters(self) -> list[inspect.Parameter]:
        """Without `self`, which may be the first of `*args`."""
        parameters = list(self._signature.parameters.values())
        return parameters if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL else parameters[1:]

    def _shown(self) -> str:
        try:
            return str(self._signature.replace(parameters=self._parameters(), return_annotation=inspect.Signature.empty))
        except Exception:  # A default that cannot be shown.
            return "(…)"

    def describe(self) -> dict[str, Any]:
        """The entry of the system call `classes`: parameters, documentation and a JSON Schema of the arguments."""
        required = self._names[: self._required]
        try:
            properties = {name: _schema(kind) for name, kind in self._types.items()}
        except Exception:  # msgspec knows none, or a model of Pydantic raises an error of its own.
            properties = {name: {} for name in self._types}
        return {
            "signature": self._shown(),
            "doc": inspect.getdoc(self.function) or "",
            "arguments": {"type": "object", "properties": properties, "required": required},
            "read_only": self.read_only,
        }


FIRST_KEYS_MAX = 2
"""Each is another lookup for every object of the class that is read, and one read less for each that asks for it."""


class ObjectClass:
    """A user's class, ready to be called."""

    __slots__ = (
        "alarm",
        "cls",
        "first_keys",
        "has_init",
        "methods",
        "name",
        "sets_plainly",
        "starts",
        "starts_alone",
        "starts_blank",
    )

    def __init__(self, cls: type[DurableObject], name: str = "") -> None:
        """`name`: by which its objects are called, if that is not the first of its names. Raises AppError for a class that breaks
        a rule of section 1 of the contract."""
        self.cls = cls
        self.name: str = name or names_of(cls)[0]
        self.methods: dict[str, Method] = {}
        self.first_keys: tuple[str, ...] = ()
        """What objects of it were asked for that had just been read from disk, and had to be read for once more."""
        problems: list[str] = []
        try:
            problems += problems_of(cls)
            for name, owner, function in public_methods(cls):
                where = f"{class_name(owner)}.{name}"
                if not any(problem.startswith((f"{where} ", f"{where}:")) for problem in problems):
                    self._add(name, function, problems)
            self.alarm = getattr(cls, ALARM, None)
            """The alarm handler."""
            self.starts = cls.on_start is not DurableObject.on_start
            self.has_init = cls.__init__ is not object.__init__
            self.sets_plainly = cls.__setattr__ is object.__setattr__
            """An attribute that is assigned is simply there."""
            self.starts_blank = not self.starts and not self.has_init and cls.__basicsize__ == DurableObject.__basicsize__
            """A new instance has nothing of its own: nothing is run to make it, and it has no room beside its attributes."""
            self.starts_alone = self.starts_blank and self.sets_plainly
            """An instance is there without any code of the class or its bases."""
        except Exception as exc:  # Of a metaclass, a decorator, an annotation.
            problems.append(f"{self.name} cannot be looked at: {line_of(exc)}")
        if problems:
            raise AppError(*problems)

    def asked_first(self, keys: Sequence[str]) -> None:
        """An object was, for these; the newest come first."""
        older = [key for key in self.first_keys if key not in keys]
        self.first_keys = (*keys, *older)[:FIRST_KEYS_MAX]

    def _add(self, name: str, function: Callable[..., Any], problems: list[str]) -> None:
        try:
            self.methods[name] = Method(name, function)
        except AppError as exc:
            problems += exc.problems

    def describe(self) -> dict[str, Any]:
        return {
            "doc": inspect.getdoc(self.cls) or "",
            "methods": {name: method.describe() for name, method in self.methods.items()},
        }


def _schema(kind: Any) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(kind, schema_hook=lambda custom: getattr(custom, "model_json_schema", dict)())
    return schema
