"""The pytest plugin: the fixture `objects`, and `async def` tests that take it.

Guarantee: a project that does not use the fixture pays for this module alone, which imports nothing of Tidegate. Tests and
fixtures that do not take `objects`, directly or through others, belong to whatever runs them now; those that do run here, also
where pytest-asyncio or anyio are at work.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tidegate.testing.objects import Objects

FIXTURE = "objects"
MARK = "tidegate"
OTHERS = ("asyncio",)
"""Marks by which another plugin would find the test, and complain that it is no coroutine."""
_WORLDS = pytest.StashKey[Any]()


SEED_OPTION = "--tidegate-seed"
EXPLORED_PROPERTY = "tidegate_explored"
"""Of the report of a test: it comes from where the test ran (a worker of pytest-xdist, say), and is in the XML of JUnit, too."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("tidegate").addoption(
        SEED_OPTION, metavar="SEED", help="run tests marked @explore under this schedule only, as a failure has named it"
    )


class _Explored:
    """What has been explored, for the end of the output."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._lines += [f"{report.nodeid}: {value}" for name, value in report.user_properties if name == EXPLORED_PROPERTY]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self._lines:
            terminalreporter.write_line(f"tidegate explored {line}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Explored(), EXPLORED_PROPERTY)
    config.addinivalue_line(
        "markers",
        f"{MARK}(workers=1, start=datetime, idle_evict='10s'): how the fixture `{FIXTURE}` of the test begins, "
        "see tidegate.testing.Objects",
    )


@pytest.fixture
def objects(request: pytest.FixtureRequest) -> Generator[Objects, None, None]:
    """Durable objects in virtual time: `objects(Counter, "a")` is a stub. See docs/testing.md."""
    from tidegate.testing.objects import Objects

    marker = request.node.get_closest_marker(MARK)
    world = Objects(**({} if marker is None else marker.kwargs))
    request.node.stash[_WORLDS] = world
    try:
        yield world
    finally:
        del request.node.stash[_WORLDS]
        world.abandon()


def _is_failure(error: BaseException) -> bool:
    """What `pytest.fail` raises, and `pytest.raises` where nothing was raised."""
    return isinstance(error, pytest.fail.Exception) and not isinstance(error, pytest.xfail.Exception)


def _as_plain(item: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The test, or a fixture, as a function that is no coroutine function."""

    exploration = getattr(function, "tidegate_exploration", None)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        world = item.stash[_WORLDS]
        if exploration is None:
            return world.run(function(*args, **kwargs))
        marker = item.get_closest_marker(MARK)
        problem = exploration.mark(None if marker is None else marker.kwargs.get("workers"))
        if problem:
            pytest.fail(problem, pytrace=False)
        exploration.fails_by = _is_failure
        if not world.is_untouched:
            text = "a test that is explored begins with nothing stored: let it store itself what its fixtures do"
            pytest.fail(text, pytrace=False)
        try:
            exploration.run(world, lambda: function(*args, **kwargs), item.nodeid, item.config.getoption(SEED_OPTION))
        finally:
            item.user_properties.append((EXPLORED_PROPERTY, exploration.summary))
        return None

    wrapped: Any = run
    wrapped.__signature__ = inspect.signature(function)  # What pytest looks at.
    del wrapped.__wrapped__  # By which others find out what it was.
    return run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Generator[None, Any, Any]:
    """Whatever another plugin has made of an async test that takes the fixture: it is a plain one."""
    made = yield
    if not isinstance(made, list):
        return made
    return [_made_plain(item) for item in made]


def _made_plain(item: Any) -> Any:
    takes = isinstance(item, pytest.Function) and FIXTURE in item.fixturenames
    if not takes or type(item) is pytest.Function or not inspect.iscoroutinefunction(item.obj):
        return item
    plain = pytest.Function.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=item.obj,
        fixtureinfo=item._fixtureinfo,
        keywords=item.keywords,
        originalname=item.originalname,
    )
    plain.own_markers[:] = [mark for mark in item.own_markers if mark.name not in OTHERS]
    return plain


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    world = pyfuncitem.stash.get(_WORLDS, None)
    if world is None:
        return (yield)
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function):
        pyfuncitem.obj = _as_plain(pyfuncitem, function)
    try:
        result = yield
    except BaseException as error:
        if isinstance(error, Exception) or _is_failure(error):
            world.tell(error)
        raise
    finally:
        pyfuncitem.obj = function
    world.check()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, object, object]:
    """Async fixtures that take `objects` run where their test does."""
    function = fixturedef.func
    if FIXTURE not in fixturedef.argnames:
        return (yield)
    if inspect.iscoroutinefunction(function):
        fixturedef.func = _as_plain(request.node, function)
    elif inspect.isasyncgenfunction(function):
        fixturedef.func = _as_generator(request.node, function)
    else:
        return (yield)
    try:
        return (yield)
    finally:
        fixturedef.func = function


def _as_generator(item: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        world, made = item.stash[_WORLDS], function(*args, **kwargs)
        yield world.run(made.__anext__())
        try:
            world.run(made.__anext__())
        except StopAsyncIteration:
            return
        pytest.fail(f"the fixture {function.__name__} yields more than once", pytrace=False)

    wrapped: Any = run
    del wrapped.__wrapped__  # By which pytest finds out what it was.
    return run
