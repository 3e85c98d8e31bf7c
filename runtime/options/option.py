"""Options as data: made of the fields of a Struct or dataclass, whatever its depth.

A field's type says what is allowed, by msgspec's constraints; the end of its name is its unit (`_s`, `_mib`); its `Meta` may have
a sentence that explains it, and in `extra`:

* `flag`: how it is written on the command line: `--workers N|auto`, `--dev` (takes no value), `APP` (has no flag);
* `problem`: what its type cannot say: a function of a value that tells why it cannot be used, or None;
* `takes`: what a change of it takes in a running service (`ChangeTakes`);
* `shown`: what is shown of a value that may have a secret in it;
* `secret`: it is shown nowhere. (Fields of the type `Secret` are so by themselves.)
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, cast

import msgspec

from tidegate.runtime.options.secret import Secret
from tidegate.runtime.options.words import allowed, unit_of

Path = tuple[str, ...]
"""Names from the outermost table to the option."""

HIDDEN = "***"
_DEPTH_MAX = 8
_DIGITS_MAX = 30
"""Of a whole number: more than any type takes."""


class ChangeTakes(enum.Enum):
    """What a change takes until it is in effect."""

    RELOAD = "tidegate reload"
    RESTART = "tidegate restart --rolling"
    START = "a stop and a start"


class ValueRefused(Exception):
    """A value that an option cannot have; the text says what it must be."""


@dataclass(frozen=True)
class Option:
    """One field."""

    path: Path
    attribute: str
    type: Any
    make_default: Callable[[], Any] | None
    """None: it must be given."""
    description: str
    flag: str | None
    problem: Callable[[object], str | None]
    takes: ChangeTakes
    secret: bool
    shown: Callable[[object], object]
    """What may be shown of a value."""

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def full_name(self) -> str:
        return ".".join(self.path)

    @property
    def default(self) -> Any:
        return None if self.make_default is None else self.make_default()

    @functools.cached_property
    def kind(self) -> msgspec.inspect.Type:
        return msgspec.inspect.type_info(self.type)

    @property
    def allowed(self) -> str:
        if (problem := self.problem(None)) is not None:
            return problem.removeprefix("must be ")
        return allowed(self.kind, unit_of(self.name))

    def builtin(self, value: object) -> Any:
        """As JSON can have it; hidden if it is a secret."""
        if self.secret:
            return HIDDEN if value else None if value is None else ""  # Nothing that is a `Secret`: nobody can encode one.
        return msgspec.to_builtins(self.shown(value), str_keys=True, enc_hook=str)

    def read(self, value: object, *, from_text: bool) -> Any:
        """`from_text`: the value is a text, whatever it stands for. Raises ValueRefused."""
        if (problem := self.problem(value)) is not None:
            raise ValueRefused(problem)
        if isinstance(value, str) and not _is_utf8(value):
            raise ValueRefused("must be UTF-8, without a zero byte")
        strict = not from_text
        if from_text and isinstance(value, str):
            kinds = list(_kinds(self.kind))
            if any(isinstance(kind, _COMPOSED) for kind in kinds):
                value, strict = self._composed(value, kinds), True
            elif re.fullmatch(r"-?[0-9]+", value) and any(isinstance(kind, msgspec.inspect.IntType) for kind in kinds):
                value, strict = _whole(value), True
            elif any(isinstance(kind, msgspec.inspect.IntType) for kind in kinds):
                strict = True  # msgspec would also take 4.0 and 1e3 for one.
        try:
            return msgspec.convert(value, self.type, strict=strict, dec_hook=_custom)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueRefused(self._told(error)) from None

    def _told(self, error: Exception) -> str:
        """Where in it, if it is a table or list."""
        _, at, place = str(error).partition(" - at `$")
        return f"must be {self.allowed}{f' (see {place[:-1]})' if at and place[:-1] else ''}"

    def _composed(self, text: str, kinds: list[msgspec.inspect.Type]) -> Any:
        try:
            read = tomllib.loads(f"v = {text}")
        except (ValueError, RecursionError):
            read = {}
        if len(read) == 1:
            return read["v"]
        if any(isinstance(kind, msgspec.inspect.StrType) for kind in kinds):
            return text
        raise ValueRefused(f"must be {self.allowed}, as TOML writes it")


@dataclass(frozen=True)
class Table:
    """Options that stand together, and tables among them."""

    path: Path
    attribute: str
    cls: type
    parts: Mapping[str, Option | Table] = field(default_factory=dict)
    base: object = None
    """What it is where nothing is given."""
    optional: bool = False
    """It is not there where nothing is given."""

    def options(self) -> Iterator[Option]:
        for part in self.parts.values():
            if isinstance(part, Option):
                yield part
            else:
                yield from part.options()


def table_of(cls: type, path: Path = (), *, base: object = None, takes: ChangeTakes = ChangeTakes.START) -> Table:
    """The options that the fields of `cls` are. `base`: an instance that has their defaults. `takes`: of those that do not say.
    Raises TypeError for a field that nothing can be read into, and NameError for an annotation that names nothing."""
    return _table(cls, path, "", base, takes, optional=False)


def is_table(kind: object) -> bool:
    return isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind))


def _table(cls: type, path: Path, attribute: str, base: object, takes: ChangeTakes, *, optional: bool) -> Table:
    if len(path) > _DEPTH_MAX:
        raise TypeError(f"{'.'.join(path)}: {cls.__name__} is in itself, or nested too deeply")
    parts: dict[str, Option | Table] = {}
    for name, attribute_of, kind, default in _fields(cls):
        make_default = default if base is None else functools.partial(getattr, base, attribute_of)
        inner, may_be_absent = _table_in(kind)
        if inner is None:
            parts[name] = _option((*path, name), attribute_of, kind, make_default, takes)
        else:
            inner_base = None if make_default is None else make_default()
            parts[name] = _table(inner, (*path, name), attribute_of, inner_base, takes, optional=may_be_absent)
    return Table(path, attribute, cls, parts, base, optional)


def _fields(cls: type) -> Iterator[tuple[str, str, Any, Callable[[], Any] | None]]:
    """Name, attribute, type and default of each."""
    if issubclass(cls, msgspec.Struct):
        for each in msgspec.structs.fields(cls):
            yield each.encode_name, each.name, each.type, _default(each.default, each.default_factory, msgspec.NODEFAULT)
    else:
        hints = typing.get_type_hints(cls, include_extras=True)
        for field_of in dataclasses.fields(cast("Any", cls)):
            if field_of.init:
                default = _default(field_of.default, field_of.default_factory, dataclasses.MISSING)
                yield field_of.name, field_of.name, hints[field_of.name], default


def _default(value: Any, factory: Any, nothing: object) -> Callable[[], Any] | None:
    if value is not nothing:
        return lambda: value
    return None if factory is nothing else factory


def _table_in(kind: Any) -> tuple[type | None, bool]:
    """The table that a field is, if it is one; and whether it may be None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _table_in(arguments[0])
    if origin in (typing.Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        inner, _ = _table_in(next(each for each in arguments if each is not type(None)))
        return inner, True
    return (kind, False) if is_table(kind) else (None, False)


def _option(path: Path, attribute: str, kind: Any, make_default: Callable[[], Any] | None, takes: ChangeTakes) -> Option:
    info = msgspec.inspect.type_info(kind)
    for each in _kinds(info):
        if isinstance(each, msgspec.inspect.CustomType) and not issubclass(each.cls, Secret | PurePath):
            raise TypeError(f"{'.'.join(path)}: nothing can be read into a {each.cls.__name__}")
    told: Mapping[str, Any] = {}
    description = ""
    if isinstance(info, msgspec.inspect.Metadata):
        told, description = info.extra or {}, str((info.extra_json_schema or {}).get("description", ""))
    return Option(
        path,
        attribute,
        kind,
        make_default,
        description,
        told.get("flag"),
        told.get("problem", _no_problem),
        told.get("takes", takes),
        bool(told.get("secret"))
        or any(isinstance(each, msgspec.inspect.CustomType) and each.cls is Secret for each in _kinds(info)),
        told.get("shown", _as_it_is),
    )


def _no_problem(value: object) -> None:
    return None


def _as_it_is(value: object) -> object:
    return value


_COMPOSED = (
    msgspec.inspect.DictType,
    msgspec.inspect.ListType,
    msgspec.inspect.VarTupleType,
    msgspec.inspect.TupleType,
    msgspec.inspect.SetType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
)


def _kinds(kind: msgspec.inspect.Type, depth: int = 0) -> Iterator[msgspec.inspect.Type]:
    """It, and what it is made of."""
    if depth > _DEPTH_MAX:
        return
    yield kind
    inner: tuple[Any, ...] = ()
    match kind:
        case msgspec.inspect.Metadata(inside):
            inner = (inside,)
        case msgspec.inspect.UnionType(kinds):
            inner = kinds
        case msgspec.inspect.DictType():
            inner = (kind.key_type, kind.value_type)
        case msgspec.inspect.TupleType():
            inner = kind.item_types
        case (
            msgspec.inspect.ListType()
            | msgspec.inspect.VarTupleType()
            | msgspec.inspect.SetType()
            | msgspec.inspect.FrozenSetType()
        ):
            inner = (kind.item_type,)
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType():
            inner = tuple(each.type for each in kind.fields)
    for each in inner:
        yield from _kinds(each, depth + 1)


def _whole(text: str) -> Any:
    return int(text) if len(text) <= _DIGITS_MAX else text


def _is_utf8(text: str) -> bool:
    return "\0" not in text and text.encode(errors="replace").decode() == text


def _custom(kind: type, value: object) -> Any:
    """For msgspec, which knows neither."""
    if not isinstance(value, str):
        raise TypeError(f"a text is read into a {kind.__name__}")
    return kind(value)
