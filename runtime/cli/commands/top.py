"""`tidegate top`: what `tidegate status` shows, live."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

from tidegate.runtime.cli.arguments import add_client_options, add_command
from tidegate.runtime.cli.asking import read_status, status_of
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import render_status, render_top
from tidegate.runtime.client.answers import ServiceStatus
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install

EVERY_S = 1.0
_EPILOG = """Once a second: what is wrong, how many calls a second and how fast they are answered, of each process and each
class, and objects that others wait for. q leaves. Where the output is no terminal it is printed once.

examples:
  tidegate top
  tidegate top --connect tcp://127.0.0.1:9000
  tidegate top | cat
"""


def add(commands: Any) -> None:
    top = add_command(commands, "top", _EPILOG, run)
    add_client_options(top)


def run(options: argparse.Namespace) -> int:
    status = read_status(status_of(options))
    if not sys.stdout.isatty():
        print(render_status(status, _now_ms()))
        return EXIT_OK
    if importlib.util.find_spec("rich") is None:
        hint = f"{how_to_install('tidegate[top]')}; or: watch tidegate status"
        raise OperatorError("top", "this terminal", "the package rich is not installed", hint)
    with contextlib.suppress(KeyboardInterrupt):
        _watch(options, status)
    return EXIT_OK


def _watch(options: argparse.Namespace, status: ServiceStatus) -> None:
    from rich.live import Live
    from rich.text import Text

    def page() -> Text:
        width, height = os.get_terminal_size(sys.stdout.fileno())
        lines = render_top(status, _now_ms(), lost, width, height - 1)
        return Text("\n", no_wrap=True).join(Text(line, style="bold red" if is_wrong else "") for line, is_wrong in lines)

    lost = ""
    with _keys() as wait_for_key, Live(page(), screen=True, auto_refresh=False) as live:
        while wait_for_key(EVERY_S) != "q":
            try:
                status, lost = read_status(status_of(options)), ""
            except OperatorError as error:
                lost = str(error)
            live.update(page(), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Gives what waits for a key, for a time at most. Keys come one by one, and are not shown, until the end."""
    if not sys.stdin.isatty():

        def wait(within_s: float) -> str:
            select.select([], [], [], within_s)
            return ""

        yield wait
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def wait_for_key(within_s: float) -> str:
        if not select.select([stdin], [], [], within_s)[0]:
            return ""
        return os.read(stdin, 1).decode(errors="replace") or "q"  # The terminal is gone.

    try:
        tty.setcbreak(stdin)
        yield wait_for_key
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
