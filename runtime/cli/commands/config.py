"""`tidegate config`: whether what is set is right, what is in effect, and where it comes from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.commanding import ask_config
from tidegate.runtime.cli.configuration import (
    FILE_VARIABLE,
    INSTALLED_FILE,
    SET_HELP,
    WhereToLook,
    ask_app,
    asked_for,
    read_configuration,
    setting,
)
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.cli.pages import plural, table
from tidegate.runtime.errors import one_line
from tidegate.runtime.options.reading import Mistake, Mistakes
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.options.words import shown

_EPILOG = """examples:
  tidegate config check                            the file of an installed service, /etc/tidegate/tidegate.toml
  tidegate config check tidegate.toml --json
  tidegate config show tidegate.toml
"""
_CHECK_SAYS = "say everything that is wrong with a configuration; start nothing"
_CHECK_EPILOG = """Looks at the file, at variables of the environment (TIDEGATE_SECTION_NAME) and at --set, as
`tidegate serve` does, and at what the app makes of its settings, for which it is imported (--no-app: not).
Exits 0 if all is right, 1 if anything is wrong.

examples:
  tidegate config check
  tidegate config check tidegate.toml
  tidegate config check tidegate.toml --set storage.cache_mib=512 --json
"""
_SHOW_SAYS = "show every option, its value in effect, and where that comes from"
_SHOW_EPILOG = """An option is set by default, by the file, by a variable of the environment (TIDEGATE_SECTION_NAME),
or by a flag; later ones go before earlier ones. With --running it also says which options are set to
something else by now, and what that takes.

examples:
  tidegate config show
  tidegate config show tidegate.toml
  tidegate config show tidegate.toml --set service.workers=4 --json
  tidegate config show --running                   of the service that runs on this machine
"""


def add(commands: Any) -> None:
    config = add_command(commands, "config", _EPILOG, _run_none)
    inner = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, says, epilog, run in (
        ("check", _CHECK_SAYS, _CHECK_EPILOG, check),
        ("show", _SHOW_SAYS, _SHOW_EPILOG, show),
    ):
        command = add_command(inner, name, epilog, run, says=says)
        default = f"${FILE_VARIABLE}, else {INSTALLED_FILE} if there is one"
        command.add_argument("config", metavar="FILE", nargs="?", help=f"a TOML file (default: {default})")
        command.add_argument("--set", metavar="KEY=VALUE", type=setting, action="append", help=SET_HELP)
        no_app = "do not import the app, which its settings, [app], need"
        command.add_argument("--no-app", action="store_true", help=no_app)
        command.add_argument("--json", action="store_true", help="print it as JSON")
        if run is show:
            command.add_argument("--running", action="store_true", help="what is in effect in the service that runs, instead")
            add_client_options(command)


def _run_none(options: argparse.Namespace) -> int:
    raise AssertionError(options)  # A command of it is required.


def _asked(options: argparse.Namespace) -> WhereToLook:
    asked = asked_for(options, os.environ)
    if asked.file is None and Path(INSTALLED_FILE).is_file():
        return dataclasses.replace(asked, file=INSTALLED_FILE)
    return asked


def check(options: argparse.Namespace) -> int:
    asked = _asked(options)
    mistakes: Sequence[Mistake] = ()
    notes: Sequence[str] = ()
    try:
        configuration = read_configuration(asked)
        notes = configuration.notes
        if configuration.config.service.app and not options.no_app:
            mistakes = ask_app(configuration).mistakes
    except Mistakes as error:
        mistakes = error.mistakes
    if options.json:
        print(json.dumps({"file": asked.file, "mistakes": msgspec.to_builtins(mistakes), "notes": notes}, indent=2))
    else:
        lines = [*(mistake.shown() for mistake in mistakes), *(f"note: {note}" for note in notes)]
        print("\n".join([*lines, _summary(asked, mistakes)]))
    return EXIT_FAILED if mistakes else EXIT_OK


def _summary(asked: WhereToLook, mistakes: Sequence[Mistake]) -> str:
    return f"{asked.file or 'no file'}: {plural(len(mistakes), 'mistake') if mistakes else 'everything is right'}"


def show(options: argparse.Namespace) -> int:
    wrong: Sequence[Mistake] = ()
    if options.running:
        file, shown_options = None, ask_config(options)
    else:
        asked = _asked(options)
        configuration = read_configuration(asked, with_app=False)
        file, shown_options = asked.file, configuration.shown()
        if configuration.config.service.app and not options.no_app:
            of_app, wrong = _of_app(asked)
            shown_options += of_app
    if options.json:
        print(json.dumps({"file": file, "options": msgspec.to_builtins(shown_options)}, indent=2))
    else:
        print("\n".join(_page(shown_options)))
    if wrong:
        return fail(f"show the settings of the app: {'; '.join(mistake.shown() for mistake in wrong)}")
    return EXIT_OK


def _of_app(asked: WhereToLook) -> tuple[Sequence[ShownOption], Sequence[Mistake]]:
    try:
        answer = ask_app(read_configuration(asked))
    except Mistakes as error:
        return (), error.mistakes
    return answer.options, answer.mistakes


def _page(options: Sequence[ShownOption]) -> list[str]:
    rows: list[tuple[str, ...]] = [("option", "value", "from", "a change takes")]
    rows += [(each.option, one_line(shown(each.value)), one_line(each.origin.shown()), each.takes) for each in options]
    waiting = [each for each in options if each.waits is not None]
    return [*table(rows), *(f"{each.option} = {one_line(shown(each.waits))} takes {each.takes}" for each in waiting)]
