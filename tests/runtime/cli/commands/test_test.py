"""`tidegate test`: what it prints, how it ends, and what is said of an app that cannot be tried."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.cli.cli import main

EXAMPLES = Path(__file__).parents[4] / "examples"
WRONG = """
from tidegate import DurableObject

class Ticket(DurableObject):
    count = 0
    async def take(self) -> int:
        print("taking")
        self.count += 1
        return self.count
"""


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The app is imported into this process, and its log is off. (What else is imported stays: another `sys.modules` for the time
    of the test would be known to Python and not to its import, which then fails.)"""
    import logging

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(logging, "disable", lambda level: None)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if Path(file).is_relative_to(tmp_path) or Path(file).is_relative_to(EXAMPLES):
            del sys.modules[name]


def app_of(folder: Path, source: str) -> str:
    path = folder / "tried_app.py"
    path.write_text(source)
    return str(path)


def test_what_differs_is_printed_with_a_seed_that_shows_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = app_of(tmp_path, WRONG)
    assert main(["test", app, "--scripts", "3"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("FOUND 1: Ticket: something is kept in memory only")
    assert "taking" not in out
    seed = out.partition("--seed ")[2].split()[0]
    assert main(["test", app, "--seed", seed]) == 1
    again = capsys.readouterr().out
    assert "line by line:\n" in again
    assert f"{seed} is still so" in again
    app_of(tmp_path, WRONG.replace("self.count += 1", "pass"))
    assert main(["test", app, "--seed", seed]) == 0
    assert "makes no difference any more" in capsys.readouterr().out


def test_a_program_reads_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", app_of(tmp_path, WRONG), "--scripts", "2", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (found,) = told["found"]
    assert found["kind"] == "memory"
    assert found["steps"][0].endswith(".take()")
    assert found["timeline"]
    assert told["scripts"] == 2


@pytest.mark.parametrize("name", ["bank", "chat", "counter"])
def test_nothing_differs_in_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(EXAMPLES / f"{name}.py"), "--scripts", "6", "--seconds", "100"]) == 0, capsys.readouterr().out
    assert "nothing differs" in capsys.readouterr().out


def test_nothing_differs_in_a_new_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "corner")]) == 0
    assert main(["test", str(tmp_path / "corner" / "corner.py"), "--scripts", "4", "--seconds", "100"]) == 0


def test_settings_of_the_app_are_given_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
import msgspec
from tidegate import DurableObject

class Settings(msgspec.Struct):
    currency: str

class Price(DurableObject):
    settings: Settings
    async def shown(self) -> str:
        return self.settings.currency
"""
    app = app_of(tmp_path, source)
    assert main(["test", app, "--scripts", "1"]) == 1
    assert "[app] currency: must be given" in capsys.readouterr().err
    assert main(["test", app, "--scripts", "1", "--set", "app.currency=EUR"]) == 0
    assert "raised" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('not today')", "app.py:1) (correct the app)"),
        ("x = 1", "has no object class"),
        ("from tidegate import DurableObject\nclass C(DurableObject):\n    x = 1\n", "no public method"),
        ("from tidegate import DurableObject\nclass C(DurableObject):\n    def m(self): ...\n", "async def"),
        ("def", "importing it raised SyntaxError: "),
        ("def", "app.py:1) (correct the app)"),
    ],
)
def test_an_app_that_cannot_be_tried_is_one_line(
    source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", app_of(tmp_path, source)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_what_is_typed_wrongly_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["test"], ["test", "x.py", "--seed", "1"], ["test", "x.py", "--seconds", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    assert main(["test", str(tmp_path / "none.py")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_an_endless_loop_is_named_with_its_line(tmp_path: Path) -> None:
    app = app_of(tmp_path, WRONG.replace('print("taking")', "while True: pass"))
    program = f"""
import sys
from tidegate.runtime.cli.commands import test
test.PATIENCE_S = 1.0
from tidegate.runtime.cli.cli import main
sys.exit(main(["test", {app!r}, "--seconds", "0.5"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert f"{app}:7: code there does not come to an end" in done.stderr
