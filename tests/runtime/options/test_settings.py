"""Settings of an app: from all the places that its options may be set in."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta, Struct

from tidegate.runtime.options.secret import Secret
from tidegate.runtime.options.settings import AppSources, read_settings, shown_settings


class Mail(Struct, frozen=True):
    host: str = "localhost"
    password: Secret = Secret("")


class Settings(Struct, frozen=True):
    days: Annotated[int, Meta(ge=1)]
    mail: Mail = Mail()
    names: list[str] = []


def test_the_file_credentials_variables_and_flags_go_over_each_other() -> None:
    text = '[service]\nworkers = 2\n[app]\ndays = 1\nmail = {host = "a", password = "a"}\n'
    sources = AppSources("t.toml", text, {"app.mail.password": "b"}, {}, {"--set app.names": '["x"]'})
    reading = read_settings(Settings, sources)
    assert reading.mistakes == []
    assert reading.value == Settings(1, Mail("a", Secret("b")), ["x"])
    assert [(each.option, each.value, each.origin.shown()) for each in shown_settings(Settings, reading)] == [
        ("app.days", 1, "file t.toml"),
        ("app.mail.host", "a", "file t.toml"),
        ("app.mail.password", "***", "credential app.mail.password"),
        ("app.names", ["x"], "flag --set app.names"),
    ]
    sources = AppSources(
        "t.toml", text, {"app.mail.password": "b"}, {"TIDEGATE_APP_MAIL_PASSWORD": "c", "TIDEGATE_APP_DAYS": "7"}
    )
    assert read_settings(Settings, sources).value == Settings(7, Mail("a", Secret("c")))


def test_everything_that_is_wrong_is_told_and_no_secret_with_it() -> None:
    sources = AppSources(
        "t.toml",
        "[app]\nday = 3\nmail.password = 1234\n",
        {"app.mail.pasword": "hunter2"},
        {"TIDEGATE_APP_DAY": "1", "TIDEGATE_APP_PORT": "tcp://h:1", "TIDEGATE_APP_SERVICE_HOST": "h"},
        {"--set app.nmes": "[]"},
    )
    reading = read_settings(Settings, sources)
    assert reading.value is None
    assert [mistake.shown() for mistake in reading.mistakes] == [
        "credential app.mail.pasword: unknown option (did you mean app.mail.password?)",
        "environment TIDEGATE_APP_DAY: unknown option (did you mean TIDEGATE_APP_DAYS?)",
        "command line --set app.nmes: unknown option (did you mean --set app.names?)",
        "t.toml [app] day: unknown option (did you mean days?)",
        "t.toml [app.mail] password: must be a text (correct the value)",
        "t.toml [app] days: must be given: a whole number from 1 (write it there)",
    ]


@pytest.mark.parametrize(
    "sources",
    [
        AppSources("t.toml", "[app]\ndays = 1\n"),
        AppSources(environment={"TIDEGATE_APP_DAYS": "1"}),
        AppSources(flags={"--set app.days": "1"}),
        AppSources(credentials={"app.days": "1"}),
    ],
)
def test_an_app_that_declares_none_is_told_so_where_some_are_set(sources: AppSources) -> None:
    (mistake,) = read_settings(None, sources).mistakes
    assert mistake.hint.startswith("the app declares no settings")
    assert read_settings(None, AppSources()).mistakes == []
    assert shown_settings(None, read_settings(None, AppSources())) == []


def test_a_section_that_is_none_is_told() -> None:
    (mistake,) = read_settings(None, AppSources("t.toml", "app = 3")).mistakes
    assert mistake.shown().startswith("t.toml [app]: is a section, not a value")


def test_what_is_set_is_not_in_the_text_of_what_holds_it() -> None:
    assert "hunter2" not in repr(AppSources("t", "password = 'hunter2'", {"a": "hunter2"}))
