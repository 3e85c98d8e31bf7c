"""What a type takes, in words; values as TOML has them."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from tidegate.runtime.options.secret import Secret
from tidegate.runtime.options.words import allowed, shown, unit_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Mail(Struct):
    host: str
    port: int = 25


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Meta(ge=1, le=9)], "a whole number of seconds from 1 to 9"),
        (Annotated[float, Meta(gt=0, lt=1)], "a number of seconds above 0 below 1"),
        (float | None, "a number of seconds"),
        (Annotated[int, Meta(ge=1)] | Literal["auto"], '"auto" or a whole number of seconds from 1'),
        (Literal["a", "b"], "one of a, b"),
        (Colour, "one of red, blue"),
        (bool, "true or false"),
        (str, "a text"),
        (Secret, "a text"),
        (Path, "a path"),
        (Annotated[str, Meta(pattern="^x")], "a text that matches ^x"),
        (list[str], "a list of which each is a text"),
        (dict[str, bool], "a table of names, each with true or false"),
        (Mail, "a table with host, port"),
        (datetime.datetime, "a date and time"),
        (datetime.date, "a date"),
        (datetime.timedelta, "a timedelta"),
        (Any, "any value"),
    ],
)
def test_every_type_has_words(kind: Any, words: str) -> None:
    unit = "seconds" if "seconds" in words else ""
    assert allowed(msgspec.inspect.type_info(kind), unit) == words


def test_the_end_of_a_name_is_its_unit() -> None:
    assert [unit_of(name) for name in ("stop_s", "cache_mib", "wait_ms", "workers", "s")] == [
        "seconds", "MiB", "milliseconds", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "3"),
        ('a "b"\n', '"a \\"b\\"\\n"'),
        ("\udc80", '"\\\\udc80"'),
        ({"a": [1, "x"]}, '{a = [1, "x"]}'),
        (None, "-"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Path("/x"), "/x"),
    ],
)
def test_values_are_shown_as_toml_has_them_in_one_line(value: Any, text: str) -> None:
    assert shown(value) == text
