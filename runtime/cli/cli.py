"""The command line: what was asked, one line when it failed, an exit code.

0: done. 1: it failed; one line on stderr names the operation, the place and the next step. 2: the command line is wrong. 78: a
service that a service manager has started cannot start until something is changed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from tidegate.runtime.cli.arguments import Parser
from tidegate.runtime.cli.commands import (
    alarms,
    bench,
    call,
    chaos,
    check,
    compact,
    completion,
    config,
    install_service,
    keys,
    lint,
    new,
    objects,
    reload,
    repair,
    restart,
    serve,
    status,
    top,
    uninstall_service,
)
from tidegate.runtime.cli.commands.serve import version
from tidegate.runtime.cli.exits import EXIT_FAILED, fail
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.logs.output import hold_standard_descriptors


def main(arguments: Sequence[str] | None = None) -> int:
    hold_standard_descriptors()
    _show_any_text()
    try:
        return _run(arguments)
    except OperatorError as error:
        return fail(str(error))
    except BrokenPipeError:  # The reader of our output has seen enough.
        _give_up_stdout()
        return EXIT_FAILED
    except OSError as error:
        if isinstance(error, PermissionError) and error.filename is not None:
            problem = error.strerror or str(error)
            return fail(str(OperatorError("open", error.filename, problem, "run it as the user who runs the service")))
        if error.filename is not None:
            raise
        _give_up_stdout()
        problem = error.strerror or str(error)
        return fail(str(OperatorError("write the result to", "stdout", problem, "it was not shown in full; write it elsewhere")))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    finally:
        if sys.stdout is not None:  # As it is where it was closed.
            sys.stdout.flush()


def _give_up_stdout() -> None:
    """Python would complain once more at the exit, of what is left to be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _show_any_text() -> None:
    """Also where the terminal knows few characters: the others appear as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_COMMANDS = (
    *(new, lint, serve, call, status, top),
    *(reload, restart, alarms, objects, keys),
    *(install_service, uninstall_service),
    *(config, check, repair, compact),
    *(bench, chaos, completion),
)
"""As `--help` lists them."""

_EPILOG = """examples:
  tidegate new shop                                  make a project: an app, its tests
  tidegate serve counter.py                          serve the objects of counter.py from this directory
  tidegate call Counter alice get_unique_number      call a method, print its result as JSON
  tidegate status                                    how the service is
  tidegate top                                       the same, live
  sudo tidegate install-service /srv/counter.py      the same as a service of systemd
  tidegate reload                                    run the app as it is now; no call fails
  tidegate alarms                                    alarms that were given up
  tidegate check                                     whether the data of a stopped service is whole
  tidegate config check                              whether the configuration is right
  tidegate objects                                   objects in quarantine
  tidegate completion bash                           what a shell needs to complete all this
  tidegate keys new web                              an access key for a client
"""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("tidegate", description="Durable objects for Python.", epilog=_EPILOG, formatter_class=raw)
    parser.set_defaults(root=parser)
    parser.add_argument("--version", action="version", version=f"tidegate {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser
