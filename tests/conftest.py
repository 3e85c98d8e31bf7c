"""What holds for every run: tests that share what takes long to make stay together, and skips are a list."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.meta.skips import ALLOWED

ROOT = Path(__file__).parents[1]

settings.register_profile("tidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidegate")  # How long an example takes is the machine's business.


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "fail when a test skips for a reason that tests/meta/skips.py does not allow"
    parser.getgroup("tidegate").addoption("--strict-skips", action="store_true", help=text)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes (`-n`), one runs all tests of a file in which a fixture is made once for all, in their order. (Marks
    with `--dist loadgroup` do nothing under pytest 9.2 and pytest-xdist 3.8: the one no longer reads what the other sets.)"""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFixture(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if shares_a_fixture(path) else nodeid

    return ByFixture(config, log)


@cache
def shares_a_fixture(path: str) -> bool:
    return 'scope="module"' in (ROOT / path).read_text()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Lone surrogates, which some tests log, cannot be sent from one process to another (pytest-xdist)."""
    return _sendable((yield))


def _sendable(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {key: _sendable(value) for key, value in data.items()}
    return type(data)(map(_sendable, data)) if isinstance(data, list | tuple) else data


def not_allowed(config: pytest.Config) -> Iterator[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not config.option.strict_skips or reporter is None:
        return
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(re.match(pattern, reason) for pattern in ALLOWED):
            yield f"SKIPPED {report.nodeid}: {reason}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and any(not_allowed(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if wrong := list(not_allowed(config)):
        terminalreporter.section("skips that tests/meta/skips.py does not allow")
        for line in wrong:
            terminalreporter.write_line(line)
