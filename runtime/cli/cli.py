"""The command line: what was asked, one line when it failed, an exit code.

0: done. 1: it failed; one line on stderr names the operation, the place and the next step. 2: the command line is wrong. 78: a
service that a service manager has started cannot start until something is changed.

Rule: whoever asks with --json finds JSON on stdout, whatever has failed, unless the command line is wrong.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from tidegate.runtime.cli import commands as folder
from tidegate.runtime.cli.arguments import Parser
from tidegate.runtime.cli.as_owner import carry_out
from tidegate.runtime.cli.catalogue import COMMANDS
from tidegate.runtime.cli.exits import EXIT_FAILED, fail_with
from tidegate.runtime.descriptors import hold_standard
from tidegate.runtime.errors import OperatorError


def main(arguments: Sequence[str] | None = None) -> int:
    hold_standard()
    _show_any_text()
    return _told(lambda: _run(arguments))


def _told(run: Callable[[], int], *, as_json: bool = False) -> int:
    """The exit code; of what goes wrong a line is said, and as JSON what has."""
    try:
        try:
            return run()
        except OperatorError as error:
            return fail_with(error, for_program=as_json)
        except OSError as error:
            if error.filename is None:
                raise
            may_not = isinstance(error, PermissionError)
            hint = "run it as the user who runs the service" if may_not else "see whether it is the right path"
            return fail_with(OperatorError("open", error.filename, error.strerror or str(error), hint), for_program=as_json)
        finally:
            if sys.stdout is not None:  # As it is where it was closed.
                sys.stdout.flush()
    except BrokenPipeError:  # The reader of our output has seen enough.
        _give_up_stdout()
        return EXIT_FAILED
    except OSError as error:
        _give_up_stdout()
        hint = "it was not shown in full; write it elsewhere"
        return fail_with(OperatorError("write the result to", "stdout", error.strerror or str(error), hint))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(next((word for word in given if not word.startswith("-")), "")).parse_args(given)

    def told(run: Callable[[], int]) -> int:
        return _told(run, as_json=getattr(options, "json", False))

    return told(lambda: carry_out(options, told))


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


_EPILOG = """examples:
  tidegate new shop                                  make a project: an app, its tests
  tidegate test counter.py                           try its classes: crashes, evictions, failing commits
  tidegate serve counter.py                          serve the objects of counter.py from this directory
  tidegate call Counter alice get_unique_number      call a method, print its result as JSON
  tidegate status                                    how the service is
  tidegate top                                       the same, live
  tidegate console                                   the same in a browser
  sudo tidegate install-service /srv/counter.py      the same as a service of systemd
  tidegate reload                                    run the app as it is now; no call fails
  tidegate alarms                                    alarms that were given up
  tidegate check                                     whether the data of a stopped service is whole
  tidegate backup /mnt/backups                       a backup of the data, while the service runs
  tidegate config check                              whether the configuration is right
  tidegate objects show Counter alice                what an object has stored
  tidegate completion bash                           what a shell needs to complete all this
  tidegate keys new web                              an access key for a client
"""


class _Version(argparse.Action):
    """Looks for it only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tidegate.runtime.cli.version import version

        parser.exit(message=f"tidegate {version()}\n")


def _parser(command: str | None = None) -> Parser:
    """With all of this command, and of the others their line in the help; None: with all of all."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("tidegate", description="Durable objects for Python.", epilog=_EPILOG, formatter_class=raw)
    parser.set_defaults(root=_parser)
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, says in COMMANDS.items():
        if command in (None, name):
            import_module(f"{folder.__name__}.{name.replace('-', '_')}").add(commands)
        else:
            commands.add_parser(name, help=says)
    return parser
