"""An app that sets up logging: what counts of that, and what the log then says."""

from __future__ import annotations

import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidegate.shard.worker.app_logging import app_may_configure


class Lines(logging.Handler):
    """Stands where the service's handler is."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    root, own = logging.getLogger(), logging.getLogger("tidegate")
    before, level, own_level = root.handlers[:], root.level, own.level
    handler = Lines()
    root.handlers[:] = [handler]
    root.setLevel("INFO")
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False  # By a `dictConfig` of another test.
    yield handler.lines
    for given in root.handlers:
        given.close()
    root.handlers[:] = before
    root.setLevel(level)
    own.setLevel(own_level)


def dict_config() -> None:
    logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG", "handlers": []}})


@pytest.mark.parametrize(
    "configure",
    [
        lambda: logging.basicConfig(level=logging.DEBUG),
        lambda: logging.basicConfig(level="DEBUG", force=True, stream=sys.stdout),
        lambda: logging.getLogger().setLevel("DEBUG"),
        dict_config,
    ],
)
def test_the_levels_of_an_app_count_and_every_line_comes_once(configure: Callable[[], None], lines: list[str]) -> None:
    logging.getLogger("tidegate.objects").debug("made before")
    with app_may_configure():
        logging.getLogger("app").info("before it is configured")
        configure()
        logging.getLogger("app.late").debug("while it is loaded")
    lines[:] = [line for line in lines if "gives way" not in line]
    logging.getLogger(f"app.{id(configure)}").debug("afterwards")
    logging.getLogger("tidegate.objects").warning("still said")
    logging.getLogger("tidegate.objects").debug("as little as was asked for")
    assert "before it is configured" in lines
    assert lines[-2:] == ["afterwards", "still said"]


def test_a_handler_for_the_standard_streams_gives_way_and_that_is_said(lines: list[str]) -> None:
    with app_may_configure():
        logging.basicConfig(level=logging.ERROR, format="mine %(message)s")
    assert lines == [
        "the app's handler for its standard streams (logging.basicConfig) gives way to the service's; its level counts: ERROR"
    ]
    logging.getLogger("app").warning("too little")
    logging.getLogger("tidegate").info("the service's level is its own")
    assert lines[1:] == ["the service's level is its own"]


def test_other_handlers_of_an_app_are_kept_beside_that_of_the_service(lines: list[str], tmp_path: Path) -> None:
    with app_may_configure():
        logging.basicConfig(filename=tmp_path / "app.log", level=logging.INFO)
    logging.getLogger("app").info("for both")
    assert lines == ["for both"]
    assert "for both" in (tmp_path / "app.log").read_text()


def test_without_a_word_about_logging_nothing_changes(lines: list[str]) -> None:
    handlers = logging.getLogger().handlers[:]
    with app_may_configure():
        logging.getLogger("app").info("at the import")
    assert logging.getLogger().handlers == handlers
    assert lines == ["at the import"]


def test_an_app_that_cannot_be_loaded_leaves_the_log_as_it_was(lines: list[str]) -> None:
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(ZeroDivisionError), app_may_configure():
        raise ZeroDivisionError
    assert logging.getLogger().handlers == handlers
