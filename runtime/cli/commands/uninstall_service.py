"""`tidegate uninstall-service`: takes off the machine what `install-service` has put there."""

from __future__ import annotations

import argparse
from typing import Any

from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.install_service import add_how, add_name, follow
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.install import machine
from tidegate.runtime.install.plan import Places, uninstall

_EPILOG = """Keeps what is yours, so that `install-service` goes on from there: configuration, variables, secrets and data.
--purge removes these too, and the service's user. The app is left where it is. Needs root; --dry-run does not.

examples:
  sudo tidegate uninstall-service
  sudo tidegate uninstall-service --purge --dry-run     what would be gone
  sudo tidegate uninstall-service --name b --purge
"""


def add(commands: Any) -> None:
    parser = add_command(commands, "uninstall-service", _EPILOG, run)
    add_name(parser)
    parser.add_argument("--purge", action="store_true", help="remove configuration, secrets and data, too")
    add_how(parser)


def run(options: argparse.Namespace) -> int:
    places = Places(options.name)
    found = machine.look(places, machine.read(places.config))  # Whatever is in it: it may be why the service goes.
    steps = uninstall(places, found, purge=options.purge)
    follow("uninstall-service", steps, options)
    if not steps and not options.dry_run and not options.json:
        print(f"no service {options.name} is installed")
    return EXIT_OK
