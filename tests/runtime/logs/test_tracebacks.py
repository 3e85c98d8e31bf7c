"""Which frames of a traceback are shown, and where an exception came from."""

from __future__ import annotations

from tidegate.runtime.ids import slot_of
from tidegate.runtime.logs.tracebacks import app_traceback, place_of, whole_traceback


def caught() -> Exception:
    """Raised inside of ours, and from that one of the app's."""
    try:
        slot_of("Shop", "\ud800")
    except Exception as error:
        return error
    raise AssertionError


def found() -> Exception:
    try:
        raise KeyError("shelf") from caught()
    except KeyError as error:
        return error


def test_frames_of_the_runtime_are_not_shown_also_of_causes() -> None:
    for text in (app_traceback(caught()), app_traceback(found()), app_traceback(ExceptionGroup("all", [caught()]))):
        assert "in caught" in text
        assert "ids.py" not in text
    assert "was the direct cause" in app_traceback(found())
    assert "ids.py" in whole_traceback(caught())


def test_where_all_frames_are_of_the_runtime_they_are_shown() -> None:
    error = caught()
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert "ids.py" in app_traceback(error)
    assert "ids.py" in place_of(error)[0]


def test_a_syntax_error_is_shown_where_it_is_without_who_read_it() -> None:
    error = SyntaxError("invalid syntax", ("shop.py", 2, 1, "def f(:", 2, 2))
    error.__traceback__ = caught().__traceback__.tb_next  # type: ignore[union-attr]  # it has been raised
    assert app_traceback(error).splitlines()[0] == '  File "shop.py", line 2'


def test_the_place_of_an_error_is_the_innermost_line_of_the_app() -> None:
    assert place_of(caught())[0].endswith("test_tracebacks.py")
    assert place_of(caught()) != place_of(found())
    assert place_of(ValueError()) == ("", 0)


def test_an_exception_that_misbehaves_has_no_traceback_and_nothing_is_raised() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise SystemExit

    class Worse(Bad):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit

    assert "Bad" in app_traceback(Bad())
    assert "cannot be made" in app_traceback(Worse())
    assert "cannot be made" in whole_traceback(Worse())
