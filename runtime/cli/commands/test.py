"""`tidegate test`: the classes of an app are tried without a test of theirs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from tidegate.runtime.cli.arguments import Count, Seconds, add_command, read_as
from tidegate.runtime.cli.commands.check import progress
from tidegate.runtime.cli.configuration import FILE_VARIABLE, SET_HELP, asked_for, read_configuration, setting
from tidegate.runtime.cli.exits import EXIT_FAILED, EXIT_OK, fail
from tidegate.runtime.errors import OperatorError, one_line

if TYPE_CHECKING:
    from tidegate.testing.stock.stock import StockExploration

_EPILOG = """Calls are drawn from type hints, of a few objects, in scripts of two to eight. Each script runs once with nothing out
of the ordinary, and then once for each mishap there is a place for: objects leave memory, a worker crashes at a point of a call
or an alarm, a commit fails, two calls come at the same time. What was answered and what is stored has to be the same.
All of it runs here, in virtual time, over a disk and a network that are none: HTTP is answered by {}. Nothing is kept.
Exits 0 if nothing differs, 1 if something does. A line that is found is a reason to look, not a verdict: see docs/testing.md.

examples:
  tidegate test shop.py
  tidegate test shop.py:Cart --seconds 60
  tidegate test shop.py --seed 17:0,3:12.1        what was found, once more, line by line
  tidegate test shop.objects --json
"""
SECONDS = 20.0
PATIENCE_S = 20.0
"""After the time is up, until code that does not come to an end is left."""


def add(commands: Any) -> None:
    test = add_command(commands, "test", _EPILOG, run)
    test.add_argument("service_app", metavar="APP", help="a file, app.py, a module, or some of its classes: app.py:Cart,Order")
    read = read_as(Seconds, "seconds")
    test.add_argument("--seconds", metavar="N", type=read, default=SECONDS, help="end after that time (default: 20)")
    what = "how many scripts of calls are tried (default: 84, or as many as the time allows)"
    test.add_argument("--scripts", metavar="N", type=read_as(Count), default=None, help=what)
    test.add_argument("--seed", metavar="SEED", help="run again what was found, and tell it line by line")
    test.add_argument("--config", metavar="FILE", help=f"for the app's settings (or ${FILE_VARIABLE})")
    test.add_argument("--set", metavar="KEY=VALUE", type=setting, action="append", help=SET_HELP)
    test.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(options: argparse.Namespace) -> int:
    from tidegate.testing.stock.loading import loaded
    from tidegate.testing.stock.scripts import parsed
    from tidegate.testing.stock.stock import SCRIPTS, StockExploration

    if options.seed is not None:
        try:
            parsed(options.seed)
        except ValueError as error:
            options.parser.error(f"argument --seed: {error}")
    configuration = read_configuration(asked_for(options, dict(os.environ)))
    app = configuration.config.service.app
    logging.disable(logging.CRITICAL)  # Of what objects raise and log: what is found is told.
    out = sys.stdout
    with _held_up(app, options.seconds), contextlib.redirect_stdout(io.StringIO()):
        exploration = StockExploration(loaded(app, configuration.app), options.scripts or SCRIPTS)
        if not exploration.offers:
            problem = "; ".join(exploration.left_out) or "its classes have no public method"
            raise OperatorError("test", app, problem, "annotate the parameters with types that can be sent")
        return _explore(options, exploration, out)


def _explore(options: argparse.Namespace, exploration: StockExploration, out: TextIO) -> int:
    """`out`: what is printed meanwhile is the app's."""
    from tidegate.testing.stock.report import lines_of, summary, timeline_of

    began, app = time.monotonic(), options.service_app
    say, found = progress(), []
    if options.seed is not None:
        one = exploration.again(options.seed)
        each_found = iter([] if one is None else [one])
    else:
        each_found = exploration.explore(options.seconds, lambda share: say("trying", share))
    for each in each_found:
        found.append(each.told)
        if not options.json:
            lines = [*lines_of(each.told, len(found), app), *(timeline_of(each.told) if options.seed is not None else ())]
            print("\n".join(map(one_line, lines)), file=out, flush=True)
    seconds = time.monotonic() - began
    if options.json:
        told = {
            "app": app, "runs": exploration.runs, "scripts": exploration.scripts, "seconds": round(seconds, 3),
            "out_of_time": exploration.out_of_time, "found": [each._asdict() for each in found],
            "left_out": exploration.left_out, "never_answered": exploration.never_answered,
            "troubles": list(exploration.troubles),
        }  # fmt: skip
        print(json.dumps(told, indent=2, default=repr), file=out)
        return EXIT_FAILED if found else EXIT_OK
    for note in exploration.notes:
        print(one_line(f"note: {note}"), file=out)
    if options.seed is None:
        last = summary(
            app, exploration.scripts, exploration.runs, seconds, len(found), out_of_time=exploration.out_of_time
        )  # fmt: skip
    else:
        last = f"{app}: {options.seed} {'is still so' if found else 'makes no difference any more'}"
    print(last, file=out)
    return EXIT_FAILED if found else EXIT_OK


@contextlib.contextmanager
def _held_up(app: str, seconds: float) -> Any:
    """Code that never comes to an end, an endless loop, is named with its line; nothing else could end it."""

    def end(_: int, frame: Any) -> None:
        place = next(
            (f"{each.filename}:{each.lineno}" for each in reversed(traceback.extract_stack(frame)) if _is_of_app(each)), app
        )
        text = "code there does not come to an end, and holds up everything"
        fail(str(OperatorError("test", place, text, "let it await something, or give it to self.offload")))
        os._exit(EXIT_FAILED)

    kept = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds + PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


def _is_of_app(frame: traceback.FrameSummary) -> bool:
    return "/tidegate/" not in frame.filename and "/asyncio/" not in frame.filename
