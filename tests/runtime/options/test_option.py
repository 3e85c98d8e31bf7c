"""Options made of fields; what each takes, from a file and as a text."""

from __future__ import annotations

import dataclasses
import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct, field

from tidegate.runtime.options.option import ChangeTakes, Option, Table, ValueRefused, table_of
from tidegate.runtime.options.secret import Secret


class Mail(Struct):
    host: str
    password: Secret = Secret("")


@dataclasses.dataclass
class Limits:
    width: int = 80
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    derived: int = dataclasses.field(default=0, init=False)


class Settings(Struct):
    url: Annotated[str, Meta(description="Where it is.", extra={"flag": "--url URL", "takes": ChangeTakes.RELOAD})]
    mail: Mail
    limits: Limits = field(default_factory=lambda: Limits(width=7))
    copy: Mail | None = None
    folder: Path = Path("/tmp")
    auto: int | Literal["auto"] = "auto"


def options(cls: type = Settings) -> dict[str, Option]:
    return {".".join(option.path): option for option in table_of(cls).options()}


def test_fields_of_every_depth_are_options_with_names_defaults_and_what_they_say_of_themselves() -> None:
    found = options()
    assert list(found) == [
        "url", "mail.host", "mail.password", "limits.width", "limits.names", "copy.host", "copy.password", "folder", "auto",
    ]  # fmt: skip
    assert found["url"].make_default is None
    assert (found["url"].description, found["url"].flag, found["url"].takes) == ("Where it is.", "--url URL", ChangeTakes.RELOAD)
    assert found["limits.width"].default == 7, "of the instance that is the default of the table"
    assert found["folder"].takes is ChangeTakes.START
    assert [name for name, option in found.items() if option.secret] == ["mail.password", "copy.password"]


def test_a_type_that_nothing_can_be_read_into_is_refused_with_its_name() -> None:
    class Wrong(Struct):
        loop: complex

    with pytest.raises(TypeError, match="loop: nothing can be read into a complex"):
        table_of(Wrong)


class Endless(Struct):
    inner: Endless


def test_a_table_in_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="Endless is in itself, or nested too deeply"):
        table_of(Endless)


def one(kind: Any, name: str = "x") -> Option:
    cls = type("Settings", (Struct,), {"__annotations__": {name: kind}})
    option = table_of(cls).parts[name]
    assert isinstance(option, Option)
    return option


class Point(Struct):
    x: int


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "-12", -12),
        (float, "2.5", 2.5),
        (float, "3", 3.0),
        (bool, "true", True),
        (bool, "0", False),
        (str, "3", "3"),
        (Secret, "[1]", Secret("[1]")),
        (Path, "/a b", Path("/a b")),
        (int | None, "4", 4),
        (Literal["auto"] | int, "auto", "auto"),
        (list[int], "[1, 2]", [1, 2]),
        (str | list[str], "plain", "plain"),
        (str | list[str], '["a"]', ["a"]),
        (dict[str, str], '{a = "b"}', {"a": "b"}),
        (list[Point], "[{x = 1}]", [Point(1)]),
        (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
        (Decimal, "1.10", Decimal("1.10")),
    ],
)
def test_a_text_is_read_as_what_it_stands_for(kind: Any, text: str, value: Any) -> None:
    read = one(kind).read(text, from_text=True)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (int, "4.0", "must be a whole number"),
        (int, "1e3", "must be a whole number"),
        (int, "٣", "must be a whole number"),
        (int, "9" * 5_000, "must be a whole number"),
        (Annotated[float, Meta(le=9)], "nan", "must be a number to 9"),
        (bool, "yes", "must be true or false"),
        (list[int], "1, 2", "must be a list of which each is a whole number, as TOML writes it"),
        (list[int], "[1]\ny = 2", "must be a list of which each is a whole number, as TOML writes it"),
        (list[int], '["a"]', r"must be a list of which each is a whole number \(see \[0\]\)"),
        (list[int], "[" * 5_000, "must be a list"),
        (str, "a\0b", "must be UTF-8, without a zero byte"),
        (str, "\udc80", "must be UTF-8"),
    ],
)
def test_a_text_that_stands_for_nothing_is_refused(kind: Any, text: str, message: str) -> None:
    with pytest.raises(ValueRefused, match=f"^{message}"):
        one(kind).read(text, from_text=True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, "3"), (str, 3), (bool, 1), (int, True), (Secret, 3), (Path, [1]), (Annotated[int, Meta(le=9)], 1 << 80)],
)
def test_in_a_file_nothing_stands_for_anything_else(kind: Any, value: Any) -> None:
    with pytest.raises(ValueRefused):
        one(kind).read(value, from_text=False)


def test_a_secret_is_a_text_that_shows_itself_to_nobody_who_does_not_ask_for_it() -> None:
    mail = Mail("host", Secret("hunter2"))
    assert "hunter2" not in repr(mail)
    assert f"{mail.password}" == "hunter2"
    assert options()["mail.password"].builtin(mail.password) == "***"
    assert type(options()["mail.password"].builtin(Secret(""))) is str
    assert options()["mail.password"].builtin(None) is None


def test_tables_that_may_be_absent_say_so() -> None:
    parts = table_of(Settings).parts
    assert [name for name, part in parts.items() if isinstance(part, Table) and part.optional] == ["copy"]
