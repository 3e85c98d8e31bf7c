"""`tidegate completion`: what a shell needs to complete commands and options, printed for its start-up file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.asking import ask
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.local import ask_supervisor
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install

SHELLS = ("bash", "zsh", "fish")
CLASSES = "classes"

_EPILOG = """Needs the package shtab, and says how to install it where it is missing. Print it again after an upgrade of Tidegate.
Names of classes, for `tidegate call`, are those of the service that runs here or is named by --connect.

examples:
  tidegate completion bash > ~/.local/share/bash-completion/completions/tidegate
  tidegate completion zsh > ~/.zfunc/_tidegate      with fpath+=~/.zfunc in front of compinit in ~/.zshrc
  tidegate completion fish > ~/.config/fish/completions/tidegate.fish
  tidegate completion classes                       what is asked by these: the classes of a service, one a line
"""

_BASH = r"""
_tidegate_classes() {
  local connect=()
  [[ $COMP_LINE =~ --connect[=\ ]+([^\ ]+) ]] && connect=(--connect "${BASH_REMATCH[1]}")
  compgen -W "$(tidegate completion classes "${connect[@]}" 2>/dev/null)" -- "$1"
}
"""
_ZSH = r"""
_tidegate_classes() {
  local -a connect found
  [[ "${words[*]}" =~ '--connect[= ]+([^ ]+)' ]] && connect=(--connect "${match[1]}")
  found=(${(f)"$(tidegate completion classes $connect 2>/dev/null)"})
  compadd -a found
}
"""
_FISH = r"""
function _tidegate_classes
  set -l connect (commandline -p | string match -r -g -- '--connect[= ]+(\S+)')
  tidegate completion classes (test -n "$connect"; and printf '%s\n' --connect $connect) 2>/dev/null
end
"""
_COMPLETE_CLASS = {
    "bash": "_tidegate_classes",
    "zsh": "_tidegate_classes",
    "fish": "(_tidegate_classes)",
    "preamble": {"bash": _BASH, "zsh": _ZSH, "fish": _FISH},
}


def add(commands: Any) -> None:
    completion = add_command(commands, "completion", _EPILOG, run)
    completion.add_argument("what", metavar="SHELL", choices=(*SHELLS, CLASSES), help=f"{', '.join(SHELLS)}; or {CLASSES}")
    add_client_options(completion)


def run(options: argparse.Namespace) -> int:
    if options.what == CLASSES:
        return _say_classes(options)
    try:
        import shtab  # Needed once, by whoever has this written.
    except ImportError:
        hint = how_to_install("tidegate[completion]")
        raise OperatorError("completion", options.what, "the package shtab is not installed", hint) from None
    files = {"FILE": shtab.FILE, "APP": shtab.FILE, "DIR": shtab.DIRECTORY, "DATA": shtab.DIRECTORY, "CLASS": _COMPLETE_CLASS}
    root = options.root()
    for action in _actions(root):
        if (kind := files.get(str(action.metavar))) is not None:
            action.complete = kind
    print(shtab.complete(root, options.what))
    return EXIT_OK


def _say_classes(options: argparse.Namespace) -> int:
    """Asked past the routers, where that is possible: it is faster, and goes without a key. Raises OperatorError, CallError."""
    told = ask_supervisor(options.connect)
    names = ask(options, "", "", "classes", [], {}) if told is None else told["class_names"]
    print("\n".join(names))
    return EXIT_OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:  # argparse offers no way that is not private; shtab goes it, too.
        yield action
        if isinstance(action.choices, dict):  # Of commands.
            for command in action.choices.values():
                yield from _actions(command)
