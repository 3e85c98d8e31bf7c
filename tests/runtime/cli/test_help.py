"""Every command says in its `--help` what to type, and what it says can be typed: what can run here is run."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service, services_in
from tidegate.runtime.cli.cli import _parser

ON_A_SERVICE = (
    *("alarms", "call", "objects", "objects show", "objects get", "objects call", "objects evict", "objects blocked"),
    *("objects ls", "classes", "inspect", "objects release", "reload", "status", "top"),
)
"""Commands whose examples are run on one that runs. The others take one of their own, or minutes, or damage, or a machine, and
have tests that do the same."""
OFFLINE = ("check", "compact")
"""Commands on a data directory that no service uses."""
LACKING = {
    "Order 4711": "Order/4711 has no abandoned alarm",
    "objects release Counter alice": "Counter/alice is not in quarantine",
    "Bank main transfer": "ValueError: ",
}
"""Examples that name what this service does not have, by a part of them, and what they say then."""


def commands(parser: argparse.ArgumentParser | None = None, above: str = "") -> dict[str, argparse.ArgumentParser]:
    """By name, those of commands that have some too."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in (_parser() if parser is None else parser)._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                found |= {f"{above}{name}": each, **commands(each, f"{above}{name} ")}
    return found


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """As they are typed, without what is said of them, and without what other programs do with it."""
    text = (parser.epilog or "").partition("example")[2]
    lines = re.findall(r"^  (?:sudo )?(tidegate .*)$", text, re.MULTILINE)
    return [re.split(r" {2,}| #|[|>&]", line)[0].strip() for line in lines]


EXAMPLES = [(name, example) for name, parser in commands().items() for example in examples(parser)]


@pytest.mark.parametrize("name", commands())
def test_every_command_says_what_it_does_and_shows_what_to_type(name: str) -> None:
    parser = commands()[name]
    assert parser.description
    assert examples(parser), "its help has an example"
    assert all(example.startswith(f"tidegate {name}") for example in examples(parser))
    silent = [action.dest for action in parser._actions if action.option_strings and not action.help]
    assert silent == []


def test_the_help_of_all_has_an_example_of_most_and_names_each() -> None:
    names = {name for name in commands() if " " not in name}
    shown = {example.split()[1] for example in examples(_parser())}
    assert shown <= names
    assert len(shown) > len(names) / 2


def test_a_help_imports_nothing_that_takes_long() -> None:
    script = "import sys; from tidegate.runtime.cli.cli import _parser; _parser(sys.argv[1]); print(*sys.modules)"
    for command, allowed in (("", set()), ("status", {"zmq"}), ("call", {"zmq"}), ("completion", {"zmq"})):
        done = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True, check=True)
        assert {"asyncio", "lmdb", "psutil", "uvloop", "zmq"}.intersection(done.stdout.split()) <= allowed, command


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_is_a_command_line_as_it_should_be(name: str, example: str) -> None:
    options = _parser().parse_args(shlex.split(example)[1:])
    assert options.parser is not None
    assert options.parser.prog.startswith(f"tidegate {name}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("help")
    examples = Path(__file__).parents[3] / "examples"
    (folder / "app.py").write_text((examples / "counter.py").read_text() + (examples / "bank.py").read_text())
    with services_in(folder) as serve:
        service = serve(1, app=str(folder / "app.py"))
        service.expect(" raised: ", "Traceback", "ValueError")
        service.call("Counter", "alice", "get_unique_number")
        yield service


def typed(example: str, *more: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *shlex.split(example)[1:], *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "example"), [each for each in EXAMPLES if each[0] in ON_A_SERVICE])
def test_an_example_does_what_it_says(name: str, example: str, service: Service) -> None:
    done = typed(example, "--connect", service.endpoint, "--timeout", "60")
    lacking = next((says for part, says in LACKING.items() if part in example), "")
    assert done.returncode == (1 if lacking else 0), f"{done.stdout}{done.stderr}"
    assert lacking in done.stdout + done.stderr


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a service has run that is stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    with services_in(folder) as serve:
        serve(1, data=folder / "tidegate-data").call("Counter", "alice", "get_unique_number")
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "example"), [each for each in EXAMPLES if each[0] in OFFLINE])
def test_an_example_on_data_of_a_stopped_service_does_what_it_says(name: str, example: str, stopped: Path) -> None:
    done = typed(example.replace("/var/lib/shop", "tidegate-data"), cwd=stopped)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
