"""The pytest plugin in projects of users: with nothing else, beside pytest-asyncio and anyio, and where nobody uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
from tidegate import DurableObject

class Counter(DurableObject):
    async def add(self, n: int) -> int:
        value = await self.storage.get("n", 0) + n
        self.storage.put("n", value)
        return value
"""
TESTS = """
import asyncio
import pytest
from app import Counter

@pytest.fixture
def counter(objects):
    return objects(Counter, "plain")

@pytest.fixture
async def filled(objects):
    counter = objects(Counter, "filled")
    await counter.add(5)
    yield counter
    await counter.add(1)
    assert objects.storage(counter) == {"n": 7}

@pytest.fixture
async def told(objects):
    return await objects(Counter, "told").add(3)

async def test_takes_it_through_a_fixture(counter):
    await asyncio.sleep(1_000)
    assert await counter.add(1) == 1

async def test_takes_async_fixtures(filled, told):
    assert await filled.add(1) == 6
    assert told == 3

@pytest.mark.parametrize("n", [1, 2])
async def test_has_parameters(objects, n):
    assert await objects(Counter, "a").add(n) == n

class TestInAClass:
    async def test_has_self(self, objects):
        assert await objects(Counter, "a").add(1) == 1

def test_is_no_coroutine(objects):
    assert objects.run(objects(Counter, "a").add(1)) == 1
"""
OTHERS = """
import asyncio
import pytest

@pytest.fixture
async def slept():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__

async def test_of_the_other_plugin(slept):
    assert not slept.startswith("tidegate")
    assert type(asyncio.get_running_loop()).__module__ == slept
"""
WRONG = """
from app import Counter

async def test_forgets_to_wait(objects):
    objects.clock.advance("1d")

async def test_waits_for_ever(objects):
    import asyncio
    objects(Counter, "a").add(1)
    await asyncio.Event().wait()

async def test_fails_by_itself(objects):
    objects.crash(at="alarm")
    assert await objects(Counter, "a").add(1) == 2
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *options: str) -> str:
    usual = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}  # pytest says more there.
    environment = {**usual, "PYTHONPATH": str(project), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment, timeout=100)
    return done.stdout + done.stderr


def test_async_tests_and_fixtures_run_without_another_plugin(project: Path) -> None:
    output = run(project, "-p", "no:asyncio", "-p", "no:anyio", "-W", "error")
    assert "6 passed" in output, output


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_beside_pytest_asyncio_each_has_its_own_tests(project: Path, mode: str) -> None:
    others = OTHERS if mode == "auto" else OTHERS.replace("@pytest.fixture", "@__import__('pytest_asyncio').fixture")
    others = others if mode == "auto" else others.replace("async def test", "@pytest.mark.asyncio\nasync def test")
    (project / "test_others.py").write_text(others)
    output = run(project, "-o", f"asyncio_mode={mode}", "-W", "ignore::pytest.PytestDeprecationWarning")
    assert "7 passed" in output, output
    assert "warning" not in output, output


def test_beside_anyio_each_has_its_own_tests(project: Path) -> None:
    marked = OTHERS.replace("async def test", "@pytest.mark.anyio\nasync def test")
    backend = "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    (project / "test_others.py").write_text(marked + backend)
    output = run(project, "-p", "no:asyncio")
    assert "7 passed" in output, output


def test_what_a_test_has_forgotten_fails_it_and_what_it_waits_for_is_said(project: Path) -> None:
    (project / "test_app.py").write_text(WRONG)
    output = run(project, "-p", "no:asyncio")
    assert "3 failed" in output, output
    assert "no time has passed; write `await`" in output
    assert "the test waits for something that never happens" in output
    assert "the crash at" not in output


def test_a_project_that_does_not_use_it_imports_nothing_of_tidegate(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n    assert [n for n in sys.modules if n.startswith('tidegate')] "
        "== ['tidegate', 'tidegate.pytest_plugin']\n"
    )
    output = run(tmp_path)
    assert "1 passed" in output, output


def test_of_a_thousand_tests_none_knows_of_another(project: Path) -> None:
    """How long they take is measured by `benchmarks.users_tests`."""
    (project / "test_app.py").write_text(
        "import pytest\nfrom app import Counter\n\n@pytest.mark.parametrize('n', range(1_000))\n"
        "async def test_counts(objects, n):\n    counter = objects(Counter, 'a')\n"
        "    assert [await counter.add(n), await counter.add(n)] == [n, 2 * n]\n"
    )
    output = run(project, "-p", "no:asyncio", "-r", "f")
    assert "1000 passed in" in output, output
