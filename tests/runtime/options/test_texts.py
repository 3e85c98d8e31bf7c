"""What options are written in."""

from __future__ import annotations

import pytest
from msgspec import Struct

from tidegate.runtime.options.option import table_of
from tidegate.runtime.options.texts import is_of_kubernetes, nested, parse_toml, texts_of, variable


@pytest.mark.parametrize(
    "text",
    ["[service]\nworkers =\n", "a = 1\na = 2", "a = " + "[" * 5_000, "a = " + "9" * 5_000, "\0", "a = 1e", "[a]\n[a]", "'"],
)
def test_a_file_that_is_not_toml_is_one_line(text: str) -> None:
    values, (mistake,) = parse_toml(text, "t.toml")
    assert values == {}
    assert mistake.shown().startswith("t.toml: not TOML: ")
    assert mistake.shown().isprintable()


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_toml("\ufeffa = 1", "t.toml") == ({"a": 1}, [])


def test_a_variable_is_named_after_its_option() -> None:
    assert variable(("service", "workers")) == "TIDEGATE_SERVICE_WORKERS"
    assert variable(("app", "smtp", "api-key")) == "TIDEGATE_APP_SMTP_API_KEY"
    assert nested({("a", "b"): 1, ("a", "c"): 2, ("d",): 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


class Service(Struct):
    workers: int = 1


class Config(Struct):
    service: Service


def test_texts_are_a_layer_and_names_that_nobody_knows_are_mistakes() -> None:
    layer, (mistake,) = texts_of(
        "environment", "environment", table_of(Config), {"WORKERS": ("service", "workers")}, {"WORKERS": "4", "WORKRES": "5"}
    )
    assert layer.values == {"service": {"workers": "4"}}
    assert layer.key(("service", "workers")) == "WORKERS"
    assert mistake.shown() == "environment WORKRES: unknown option (did you mean WORKERS?)"


@pytest.mark.parametrize(
    ("name", "is_its"),
    [
        ("TIDEGATE_SERVICE_HOST", True),
        ("TIDEGATE_SERVICE_PORT", True),
        ("TIDEGATE_SERVICE_PORT_ZMQ", True),
        ("TIDEGATE_METRICS_PORT", True),
        ("TIDEGATE_METRICS_PORT_9464_TCP", True),
        ("TIDEGATE_METRICS_PORT_9464_TCP_ADDR", True),
        ("TIDEGATE_SERVICE_WORKERS", False),
        ("TIDEGATE_SERVICE_PORTS", False),
    ],
)
def test_what_kubernetes_sets_is_known(name: str, is_its: bool) -> None:
    assert is_of_kubernetes(name) is is_its
