"""`tidegate console`: a service in a browser, for as long as the command runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import secrets
import signal
import socket
from typing import Any

from tidegate.runtime.addresses import LISTEN_DEFAULT, check_address, is_of_this_machine
from tidegate.runtime.cli.arguments import add_command, endpoint
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.http_door import open_listening

LISTEN = "127.0.0.1:7780"
SECRET_BYTES = 24
_EPILOG = """Prints a link and serves it until Ctrl-C: open it in a browser. The link has a secret in it, a new one each time;
who has it sees and changes what this user can with `tidegate objects`. Edits are written to audit.jsonl in the data
directory.
From another machine: ssh -L 7780:127.0.0.1:7780 SERVER, then the same link. Needs pip install 'tidegate[console]'.

examples:
  tidegate console
  sudo tidegate console                                        of a service that systemd runs
  tidegate console --listen 127.0.0.1:0                        at any port that is free
  tidegate console --connect tcp://127.0.0.1:9000
"""


def add(commands: Any) -> None:
    console = add_command(commands, "console", _EPILOG, run)
    what = "the service, on this machine (default: %(default)s)"
    console.add_argument("--connect", metavar="ENDPOINT", type=endpoint, default=LISTEN_DEFAULT, help=what)
    what = "where browsers connect (default: %(default)s)"
    console.add_argument("--listen", metavar="ADDRESS", type=_address, default=LISTEN, help=what)
    what = "listen also where other machines can connect: what is said, the secret too, is in the clear"
    console.add_argument("--insecure", action="store_true", help=what)
    what = "it is reached by this name, too, as by that of a proxy"
    console.add_argument("--host", metavar="NAME", action="append", default=[], help=what)
    console.add_argument("--json", action="store_true", help="print the link as JSON")


def _address(text: str) -> str:
    if not text or (problem := check_address(text)):
        raise argparse.ArgumentTypeError(f"{problem if text else 'must not be empty'}, not {text!r}")
    return text


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("aiohttp") is None:
        raise OperatorError("console", "this Python", "the package aiohttp is not installed", "pip install 'tidegate[console]'")
    if not options.insecure and not is_of_this_machine(f"tcp://{options.listen}"):
        hint = "listen on loopback and come through ssh -L, or say --insecure"
        raise OperatorError("console", options.listen, "other machines can connect there, and would be read in the clear", hint)
    listening = open_listening(options.listen, "--listen")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options, listening))
    return EXIT_OK


async def _serve(options: argparse.Namespace, listening: socket.socket) -> None:
    from tidegate.runtime.console.admission import Admission  # Here, because helps of commands import nothing that takes long.
    from tidegate.runtime.console.questions import Questions
    from tidegate.runtime.console.server import Console

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    name = options.listen.rpartition(":")[0]
    console = Console(Questions(options.connect), Admission(secret, [name, *options.host]))
    await console.start(listening)
    try:
        link = f"{address}#{secret}"
        said = json.dumps({"address": address, "link": link}) if options.json else f"{link}\nopen it in a browser; Ctrl-C ends it"
        print(said, flush=True)
        await stopped.wait()
    finally:
        await console.close()
