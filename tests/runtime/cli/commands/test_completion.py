"""What is printed for a shell completes in that shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
