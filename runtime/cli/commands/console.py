"""`tidegate console`: a service in a browser, for as long as the command runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from tidegate.runtime.addresses import check_address, is_of_this_machine
from tidegate.runtime.cli.arguments import add_command, add_endpoint
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install
from tidegate.runtime.supervisor.operators.http_door import open_listening

LISTEN = "127.0.0.1:7780"
SECRET_BYTES = 24
_EPILOG = """Prints a link and serves it until Ctrl-C: open it in a browser. The link has a secret in it, a new one each time;
who has it sees and changes what this user can with `tidegate objects`. Edits are written to audit.jsonl in the data
directory.
From another machine: ssh -L 7780:127.0.0.1:7780 -o ExitOnForwardFailure=yes SERVER, then the same link. Where
the package that it needs is missing, it says how to install that.

examples:
  tidegate console
  sudo tidegate console                                        of a service that systemd runs
  tidegate console --listen 127.0.0.1:0                        at any port that is free
  tidegate console --connect tcp://127.0.0.1:9000
"""


def add(commands: Any) -> None:
    console = add_command(commands, "console", _EPILOG, run)
    add_endpoint(console, "the service, on this machine")
    what = "where browsers connect (default: %(default)s)"
    console.add_argument("--listen", metavar="ADDRESS", type=_address, default=LISTEN, help=what)
    what = "listen also where other machines can connect: what is said, the secret too, is in the clear"
    console.add_argument("--insecure", action="store_true", help=what)
    what = "it is reached by this name, too, as by that of a proxy; needed where --listen means all addresses"
    console.add_argument("--host", metavar="NAME", action="append", default=[], help=what)
    console.add_argument("--json", action="store_true", help="print the link as JSON")


def _address(text: str) -> str:
    if not text or (problem := check_address(text)):
        raise argparse.ArgumentTypeError(f"{problem if text else 'must not be empty'}, not {text!r}")
    return text


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("aiohttp") is None:
        raise OperatorError("console", "this Python", "the package aiohttp is not installed", how_to_install("tidegate[console]"))
    if not options.insecure and not is_of_this_machine(f"tcp://{options.listen}"):
        hint = "listen on loopback and come through ssh -L, or say --insecure"
        raise OperatorError("console", options.listen, "other machines can connect there, and would be read in the clear", hint)
    listening = open_listening(options.listen, "--listen")
    names = reached_by(options.listen, listening.getsockname()[0], options.host)
    is_asking = False
    with contextlib.suppress(KeyboardInterrupt):
        is_asking = asyncio.run(_serve(options, listening, names))
    if is_asking:
        # A thread waits for the answer to a question of a page, which nobody wants any longer: Python would wait for it, for as
        # long as a question may take. What was asked to be changed is done by the service, whoever waits for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_OK)
    return EXIT_OK


def reached_by(listen: str, bound: str, hosts: Sequence[str]) -> list[str]:
    """By which names browsers may reach it, the one of the link first: of what was said to listen on, the address that this
    stands for, and what was named. Raises OperatorError where it is every address, and none was named."""
    if ip_address(bound.partition("%")[0]).is_unspecified:
        if not hosts:
            hint = "say by which name or address browsers reach it: --host NAME"
            raise OperatorError("console", f"--listen {listen}", "it means every address of the machine, which is no link", hint)
        return list(hosts)
    address = f"[{bound}]" if ":" in bound else bound
    return [address, listen.rpartition(":")[0], *hosts]


async def _serve(options: argparse.Namespace, listening: socket.socket, names: Sequence[str]) -> bool:
    """Until it is to end. Whether a question is under way then."""
    from tidegate.runtime.console.admission import Admission  # Here, because helps of commands import nothing that takes long.
    from tidegate.runtime.console.questions import Questions
    from tidegate.runtime.console.server import Console

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    address = f"http://{names[0]}:{listening.getsockname()[1]}/"
    console = Console(Questions(options.connect), Admission(secret, names))
    await console.start(listening)
    try:
        link = f"{address}#{secret}"
        said = json.dumps({"address": address, "link": link}) if options.json else f"{link}\nopen it in a browser; Ctrl-C ends it"
        print(said, flush=True)
        await stopped.wait()
    finally:
        is_asking = await console.close()
    return is_asking
