"""`tidegate completion`: what a shell needs to complete commands and options, printed for its start-up file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.errors import OperatorError

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """Needs the package shtab: pip install 'tidegate[completion]'. Print it again after an upgrade of Tidegate.

examples:
  tidegate completion bash > ~/.local/share/bash-completion/completions/tidegate
  tidegate completion zsh > ~/.zfunc/_tidegate      with fpath+=~/.zfunc in front of compinit in ~/.zshrc
  tidegate completion fish > ~/.config/fish/completions/tidegate.fish
"""


def add(commands: Any) -> None:
    completion = add_command(commands, "completion", "print what a shell needs to complete commands", _EPILOG, run)
    completion.add_argument("shell", choices=SHELLS)


def run(options: argparse.Namespace) -> int:
    try:
        import shtab  # Needed once, by whoever has this written.
    except ImportError:
        hint = "pip install 'tidegate[completion]'"
        raise OperatorError("completion", options.shell, "the package shtab is not installed", hint) from None
    files = {"FILE": shtab.FILE, "APP": shtab.FILE, "DIR": shtab.DIRECTORY, "DATA": shtab.DIRECTORY}
    for action in _actions(options.root):
        if (kind := files.get(str(action.metavar))) is not None:
            action.complete = kind
    print(shtab.complete(options.root, options.shell))
    return EXIT_OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:  # argparse offers no way that is not private; shtab goes it, too.
        yield action
        if isinstance(action.choices, dict):  # Of commands.
            for command in action.choices.values():
                yield from _actions(command)
