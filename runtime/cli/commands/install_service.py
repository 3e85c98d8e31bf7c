"""`tidegate install-service`: the app as a service of systemd, with all that belongs to it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from tidegate.runtime.addresses import LISTEN_DEFAULT, check_door, check_endpoint
from tidegate.runtime.cli.arguments import add_command
from tidegate.runtime.cli.commands.cluster import cluster_named
from tidegate.runtime.cli.configuration import read_app
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.install import machine
from tidegate.runtime.install.plan import (
    EVERY_DEFAULT,
    NAME_DEFAULT,
    BackupTimer,
    Found,
    Places,
    Step,
    Wanted,
    Write,
    backups_there,
    install,
)
from tidegate.runtime.supervisor.config import Sources, put_together
from tidegate.runtime.wire.supervisor_messages import split_app

_EPILOG = """Writes a unit, a socket unit, a user, folders, a commented configuration and a file for variables; enables and starts
the service. Given again, after an upgrade say, it writes the units anew, restarts the service, and leaves alone what
is yours: configuration, variables, secrets, data, and where and when backups are made. Needs root; --dry-run does not,
and changes nothing.

The app stays where it is, and has to be where services may read: under /srv, say. After a change of it:
systemctl reload tidegate.

examples:
  sudo tidegate install-service /srv/counter/counter.py
  sudo tidegate install-service /srv/counter/counter.py --dry-run         what would be done
  sudo tidegate install-service shop.objects                              a module of the same environment
  sudo tidegate install-service /srv/shop/app.py --secret db=db.txt       a file for the app in $CREDENTIALS_DIRECTORY
  sudo tidegate install-service /srv/shop/app.py --backup /mnt/backups/shop                  a timer that makes backups
  sudo tidegate install-service /srv/shop/app.py --no-backup                                 no such timer any longer
  sudo tidegate install-service /srv/shop/app.py --cluster nats://a:4222,nats://b:4222,nats://c:4222/shop --advertise tcp://a:7712
  sudo tidegate install-service /srv/b/app.py --name b --listen tcp://127.0.0.1:7712         a second service
  sudo tidegate install-service /srv/c/app.py --name c --listen ipc:///run/c.sock            for users of group c only
"""
_MOVE = "put the app where services may read it, such as /srv, and name it there"


def add(commands: Any) -> None:
    parser = add_command(commands, "install-service", _EPILOG, run)
    parser.add_argument("app", metavar="APP", help="a file or module, or some of its classes: app.py:Class,Class")
    add_name(parser)
    where = f"where clients connect (default: {LISTEN_DEFAULT})"
    parser.add_argument("--listen", metavar="ENDPOINT", type=_endpoint, help=where)
    what = "a secret of the app: FILE is copied for root only, and read by the app as $CREDENTIALS_DIRECTORY/NAME"
    parser.add_argument("--secret", metavar="NAME=FILE", type=_secret, action="append", default=[], help=what)
    where = "a host of the cluster whose logs these NATS servers keep; those with a password or token are for root only"
    parser.add_argument("--cluster", metavar="SERVERS", type=cluster_named, help=where)
    parser.add_argument("--host-name", metavar="NAME", help="in a cluster: what operators call it (default: as the machine)")
    reached = "in a cluster: where the other hosts reach this one, such as tcp://host-a:7712"
    parser.add_argument("--advertise", metavar="ENDPOINT", type=_door, help=reached)
    parser.add_argument("--no-start", action="store_true", help="install and enable it only")
    what = "make backups there: an absolute path, or s3://BUCKET/PREFIX (see `tidegate backup`)"
    backups = parser.add_mutually_exclusive_group()
    backups.add_argument("--backup", metavar="DEST", help=f"{what}; given once, they stay until --no-backup")
    backups.add_argument("--no-backup", action="store_true", help="make no more of them; what was made stays")
    what = f"how often, as timers of systemd say it (default: as it was, else {EVERY_DEFAULT})"
    parser.add_argument("--backup-every", metavar="CALENDAR", help=what)
    add_how(parser)


def add_name(parser: argparse.ArgumentParser) -> None:
    what = "of the unit, its user and its folders (default: %(default)s)"
    parser.add_argument("--name", metavar="NAME", default=NAME_DEFAULT, help=what)


def add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the steps as JSON, with what is written")


def _endpoint(text: str) -> str:
    if problem := check_endpoint(text):
        raise argparse.ArgumentTypeError(f"{problem}, not {text!r}")
    return text


def _door(text: str) -> str:
    if problem := check_door(text):
        raise argparse.ArgumentTypeError(f"{problem}, not {text!r}")
    return text


def _secret(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, not {text!r}")
    return name, path


def run(options: argparse.Namespace) -> int:
    places = Places(options.name)
    machine.check_systemd()
    app = read_app(options.app)
    target, _ = split_app(app)
    if target.endswith(".py"):
        machine.check_seen_by_service(target, _MOVE)
    program = machine.program()
    found = look(places)
    secrets = {name: machine.read_secret(name, path) for name, path in options.secret}
    backups = _backups(options, places, found)
    wanted = Wanted(
        app,
        program,
        options.listen,
        secrets,
        not options.no_start,
        backups,
        not options.no_backup,
        options.cluster,
        options.host_name,
        options.advertise,
    )
    steps = install(places, wanted, found, machine.template, LISTEN_DEFAULT)
    follow("install-service", steps, options)
    if not options.dry_run and not options.json:
        listen = options.listen or found.listen or LISTEN_DEFAULT
        elsewhere = "" if listen == LISTEN_DEFAULT else f" --connect {listen}"
        starts = found.booted and wanted.start
        print(f"{options.name} {'is ready' if starts else 'starts with the machine'}; how it is: tidegate status{elsewhere}")
    return EXIT_OK


def _backups(options: argparse.Namespace, places: Places, found: Found) -> BackupTimer | None:
    """As they are asked for now; what is not asked for is as it was. Raises OperatorError."""
    there = backups_there(places, found)
    dest = options.backup or (there[0] if there is not None else None)
    if options.no_backup or dest is None:
        if options.backup_every is not None:
            hint = "name the place with --backup DEST"
            raise OperatorError("install-service", f"--backup-every {options.backup_every}", "no backups are made", hint)
        return None
    every = options.backup_every or (there[1] if there is not None else EVERY_DEFAULT)
    return BackupTimer(dest, every, machine.due_h(every))


def look(places: Places) -> Found:
    """Raises OperatorError for a configuration that cannot be read."""
    text = machine.read(places.config)
    if text is None:
        return machine.look(places)
    service = put_together(Sources(places.config, text)).config.service
    return machine.look(places, service.app, service.listen, service.cluster, service.host_name, service.advertise)


def follow(operation: str, steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Does them, or says what would be done. Raises OperatorError."""
    if not options.dry_run:
        if os.geteuid() != 0:
            raise OperatorError(operation, options.name, "needs root", "give it to sudo, or look with --dry-run")
        machine.carry_out(steps, (lambda _: None) if options.json else lambda text: print(text, flush=True))
    elif not options.json:
        print("\n".join(f"would {machine.describe(step)}" for step in steps) or "nothing to do")
    if options.json:
        print(json.dumps({"done": not options.dry_run, "steps": [_as_json(step) for step in steps]}, indent=2))


def _as_json(step: Step) -> dict[str, Any]:
    said: dict[str, Any] = {"step": machine.describe(step)}
    if isinstance(step, Write):
        said |= {"path": step.path, "mode": f"{step.mode:o}", "text": None if step.secret else step.text}
    return said
