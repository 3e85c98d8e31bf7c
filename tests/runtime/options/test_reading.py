"""Layers over each other: the later one wins, everything that is wrong is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from tidegate.runtime.options.option import table_of
from tidegate.runtime.options.reading import Mistakes, Reading, SetBy, ValueLayer, read, value_at
from tidegate.runtime.options.secret import Secret


class Mail(Struct):
    host: str
    port: Annotated[int, Meta(ge=1, le=65_535)] = 25
    password: Secret = Secret("")


@dataclass
class Shop:
    name: str = "shop"
    open_from: int = 9
    open_to: int = 17

    def __post_init__(self) -> None:
        if self.open_from > self.open_to:
            raise ValueError("open_from is after open_to")


class Settings(Struct):
    mail: Mail
    shop: Shop
    copy: Mail | None = None


TABLE = table_of(Settings)


def said(*layers: dict[str, Any]) -> Reading:
    return read(TABLE, [ValueLayer("file", f"{number}.toml", layer) for number, layer in enumerate(layers)])


def wrong(*layers: dict[str, Any]) -> list[str]:
    reading = said(*layers)
    assert reading.mistakes
    assert reading.value is None
    return [mistake.shown() for mistake in reading.mistakes]


def test_the_later_layer_wins_and_where_each_value_comes_from_is_known() -> None:
    first = ValueLayer("file", "a.toml", {"mail": {"host": "one", "port": 1}})
    second = ValueLayer("environment", "environment", {"mail": {"port": "2"}}, True, {("mail", "port"): "MAIL_PORT"})
    reading = read(TABLE, [first, second])
    assert reading.value == Settings(Mail("one", 2), Shop())
    assert reading.origins == {("mail", "host"): SetBy("file", "a.toml"), ("mail", "port"): SetBy("environment", "MAIL_PORT")}
    assert value_at(TABLE, reading.value, ("mail", "port")) == 2
    assert value_at(TABLE, reading.value, ("copy", "port")) is None


def test_a_table_that_may_be_absent_is_there_when_anything_of_it_is_given() -> None:
    assert said({"mail": {"host": "x"}, "copy": {"host": "y"}}).value.copy == Mail("y")
    assert wrong({"mail": {"host": "x"}, "copy": {"port": 1}}) == ["0.toml [copy] host: must be given: a text (write it there)"]


def test_everything_that_is_wrong_is_told_at_once_with_place_key_and_the_nearest_name() -> None:
    assert wrong({"mail": {"hots": "x", "port": 0}, "shopp": {}, "copy": 3}, {"shop": {"host": 1, "zzz": 2}}) == [
        "0.toml [mail] hots: unknown option (did you mean host?)",
        "0.toml [mail] port: must be a whole number from 1 to 65535, not 0 (correct the value)",
        "0.toml: unknown section [shopp] (did you mean shop?)",
        "0.toml [copy]: is a section, not a value (write [copy] on a line of its own)",
        "1.toml [shop] host: unknown option (known are name, open_from, open_to)",
        "1.toml [shop] zzz: unknown option (known are name, open_from, open_to)",
        "0.toml [mail] host: must be given: a text (write it there)",
    ]


def test_an_option_in_the_wrong_section_is_told_where_it_stands() -> None:
    assert wrong({"mail": {"host": "x", "open_to": 3}}) == ["0.toml [mail] open_to: unknown option (it stands in [shop])"]


def test_what_does_not_go_together_is_told_in_the_words_of_the_class() -> None:
    assert wrong({"mail": {"host": "x"}, "shop": {"open_from": 20}}) == [
        "0.toml [shop]: open_from is after open_to (correct the values)"
    ]


def test_a_wrong_value_is_wrong_also_where_a_later_layer_goes_before_it_and_a_secret_is_not_repeated() -> None:
    assert wrong({"mail": {"host": 3}}, {"mail": {"host": "x", "password": 12345}}) == [
        "0.toml [mail] host: must be a text, not 3 (correct the value)",
        "1.toml [mail] password: must be a text (correct the value)",
    ]


def test_names_and_values_cannot_make_lines_of_their_own_or_long_ones() -> None:
    for line in wrong({"a\nb": 1, "mail": {"host": "x", "c\x1b[2J\n" * 99: 1, "port": "\n" * 5_000}}):
        assert line.isprintable()
        assert len(line) < 600


def test_one_mistake_is_one_line_and_several_are_counted() -> None:
    assert (
        str(Mistakes(said({"mail": {"host": 3}}).mistakes))
        == "read 0.toml [mail] host: must be a text, not 3 (correct the value)"
    )
    several = str(Mistakes(said({"mail": {"host": 3, "x": 1}}).mistakes)).splitlines()
    assert several[0] == "read the configuration: 2 mistakes"
    assert len(several) == 4
