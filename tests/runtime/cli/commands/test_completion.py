"""What is printed for a shell completes in that shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service, services_in
from tidegate.runtime.cli.cli import _parser, main
from tidegate.runtime.cli.commands.completion import SHELLS


@pytest.fixture
def scripts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> dict[str, Path]:
    """By shell."""
    found = {}
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        found[shell] = tmp_path / f"completion.{shell}"
        found[shell].write_text(capsys.readouterr().out)
    return found


def completed(script: Path, *words: str) -> set[str]:
    """By bash, which sets these variables when somebody types a tab after the last word."""
    line = f"""
        source {shlex.quote(str(script))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(" ".join(words))} COMP_POINT={len(" ".join(words))}
        $(complete -p tidegate | sed -E 's/.*-F ([^ ]+).*/\\1/') tidegate {shlex.quote(words[-1])} ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=script.parent)
    assert done.stderr == ""
    return {word.strip() for word in done.stdout.splitlines() if word}


def test_bash_completes_commands_options_choices_and_files(scripts: dict[str, Path]) -> None:
    bash = scripts["bash"]
    assert completed(bash, "tidegate", "st") == {"status"}
    assert {"--connect", "--timeout", "--json"} <= completed(bash, "tidegate", "status", "--")
    assert completed(bash, "tidegate", "completion", "z") == {"zsh"}
    (bash.parent / "shop.py").touch()
    assert completed(bash, "tidegate", "serve", "sh") == {"shop.py"}
    (bash.parent / "data").mkdir()
    (bash.parent / "date").touch()
    assert completed(bash, "tidegate", "serve", "--data", "dat") == {"data"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("completion")) as serve:
        yield serve(1)


def test_classes_of_the_service_are_told_one_a_line(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "classes", "--connect", service.endpoint]) == 0
    assert "Counter" in capsys.readouterr().out.splitlines()


def test_bash_completes_classes_of_the_service_that_is_named(
    service: Service, scripts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    words = ("tidegate", "call", "--connect", service.endpoint)
    assert completed(scripts["bash"], *words, "Cou") == {"Counter"}
    assert completed(scripts["bash"], "tidegate", "call", "--connect", "tcp://127.0.0.1:1", "Cou") == set()


def test_fish_completes_classes_of_the_service_that_is_named(
    service: Service, scripts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    line = f"source {scripts['fish']}; complete -C 'tidegate call --connect {service.endpoint} Cou'"
    done = subprocess.run(["fish", "-c", line], capture_output=True, text=True, check=True)
    assert [word.split("\t")[0] for word in done.stdout.splitlines()] == ["Counter"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_what_is_printed_and_it_has_every_command(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text()
    (commands,) = (action.choices for action in _parser()._actions if isinstance(action.choices, dict))
    assert [name for name in commands if name not in text] == []
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", scripts[shell]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_package_that_makes_it_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'tidegate[completion]'" in capsys.readouterr().err
