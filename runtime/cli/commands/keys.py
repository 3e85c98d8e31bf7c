"""`tidegate keys`: who may connect, and what each may do."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import zmq

from tidegate.runtime.cli.arguments import add_command, read_as
from tidegate.runtime.cli.as_owner import DataOwner
from tidegate.runtime.cli.configuration import WhereToLook, read_configuration
from tidegate.runtime.cli.exits import EXIT_OK, fail_usage
from tidegate.runtime.cli.local import tell_supervisors
from tidegate.runtime.cli.out_file import OutFile, cannot_write, file_of_root
from tidegate.runtime.cli.pages import table
from tidegate.runtime.client.access import key_text
from tidegate.runtime.data.access_file import (
    AccessList,
    change_access,
    end,
    forget,
    read_access,
    rotate,
    valid_key,
    with_key,
    with_new_secret,
)
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.config import ACCESS_NAME, DATA_DEFAULT
from tidegate.runtime.wire.access import AccessKey, ClientKey, Rights
from tidegate.runtime.wire.commands import Command

_EPILOG = """A service whose data directory has a list of access keys asks every client for one; it begins to do so at its next
start. Later changes are in force when the command returns, also on connections that are open.

examples:
  tidegate keys new web                                    may call everything; its key is written to web.key
  tidegate keys new report --classes Order,Cart --read-only --out /etc/report/tidegate.key
  tidegate keys new till --methods Cart.add,Cart.pay --days 90
  tidegate keys list
  tidegate keys rotate web --grace 24                      a new web.key; the old one is good for another 24 hours
  tidegate keys rotate --service                           the service's own key, from its next start on: see docs/security.md
  tidegate keys revoke web
  sudo tidegate keys new web --data /var/lib/tidegate      of a service that systemd runs

A client is given the file: tidegate.connect(…, key_file="web.key"), or TIDEGATE_KEY_FILE=web.key in its environment.
"""

_Days = Annotated[float, msgspec.Meta(gt=0, le=36_500)]
_Hours = Annotated[float, msgspec.Meta(ge=0, le=24 * 365)]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("new", "list", "revoke", "rotate"))
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the key: letters, digits and . _ @ -")
    parser.add_argument("--classes", metavar="A,B", type=_names, help="with new: only these classes (default: all)")
    parser.add_argument("--methods", metavar="m,A.m", type=_names, help="with new: only these methods (default: all)")
    parser.add_argument("--read-only", action="store_true", help="with new: only methods that are marked @readonly")
    parser.add_argument("--admin", action="store_true", help="with new: may ask for the status of the service")
    days, hours = read_as(_Days), read_as(_Hours)
    parser.add_argument("--days", metavar="N", type=days, help="with new: it ends after so many (default: never)")
    grace = "with rotate: hours for which the old key is good beside the new one (default: 0)"
    parser.add_argument("--grace", metavar="HOURS", type=hours, default=0.0, help=grace)
    service = "with rotate, instead of a name: the key by which clients know the service"
    parser.add_argument("--service", action="store_true", help=service)
    out = 'with new and rotate: where the key is written, "-" is the standard output (default: NAME.key)'
    parser.add_argument("--out", metavar="FILE", help=out)
    parser.add_argument("--forget", action="store_true", help="with revoke: list nothing of it any more")
    parser.add_argument("--data", metavar="DIR", help=f"of the service (default: $STATE_DIRECTORY, else ./{DATA_DEFAULT})")
    parser.add_argument("--access", metavar="FILE", help=f"the list itself (default: {ACCESS_NAME} in the data directory)")
    parser.add_argument("--config", metavar="FILE", help="of the service: says where its data or its list is")
    parser.add_argument("--json", action="store_true", help="print the list, or what was done, as JSON")


def add(commands: Any) -> None:
    parser = add_command(commands, "keys", _EPILOG, run)
    _add_options(parser)
    parser.set_defaults(works_on=lambda options: _path(options).parent, parts=_parts)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(part.isidentifier() for name in names for part in name.split(".", 1)):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, not {text!r}")
    return names


def run(options: argparse.Namespace) -> int:
    path = _path(options)
    if options.action == "list":
        if options.name is not None:
            return fail_usage("keys list: takes no name; it lists them all")
        return _list(path, as_json=options.json)
    if options.service:
        if options.action != "rotate" or options.name is not None:
            return fail_usage("keys: --service is for rotate, without a name")
        return _rotate_service(options, path)
    if options.name is None:
        return fail_usage(f"keys {options.action}: name the key: tidegate keys {options.action} NAME")
    return {"new": _new, "rotate": _rotate, "revoke": _revoke}[options.action](options, path)


def _path(options: argparse.Namespace) -> Path:
    """Raises OperatorError."""
    if options.access:
        return Path(os.path.abspath(options.access))
    environment = {name: text for name in ("STATE_DIRECTORY",) if (text := os.environ.get(name))}
    service = read_configuration(WhereToLook(environment, options.config), with_app=False).config.service
    if service.access and options.data is None:
        return Path(os.path.abspath(service.access))
    return Path(os.path.abspath(options.data or service.data)) / ACCESS_NAME


def _new(options: argparse.Namespace, path: Path) -> int:
    now_s, (public, secret) = time.time(), _pair()
    rights = Rights(options.classes, options.methods, options.read_only, options.admin)
    until_s = None if options.days is None else now_s + options.days * 86_400
    key = AccessKey(options.name, public, rights, now_s, until_s)
    is_first = read_access(path) is None
    with _Out(options) as out:

        def change(access: AccessList) -> AccessList:
            changed = with_key(access, key, now_s)
            out.write(options.name, ClientKey(access.public, public, secret))
            return changed

        change_access(path, change, create=True)
        out.keep()
    says = f"{options.name} may call {rights.words()}; its key is {out.where}"
    if is_first:
        says += f"\n{path} is new: the service asks for keys from its next start on"
    return _done(options, out.place, says, key)


def _rotate(options: argparse.Namespace, path: Path) -> int:
    now_s, (public, secret) = time.time(), _pair()
    until_s = now_s + options.grace * 3_600
    with _Out(options) as out:

        def change(access: AccessList) -> AccessList:
            changed = rotate(access, options.name, public, until_s, now_s)
            out.write(options.name, ClientKey(access.public, public, secret))
            return changed

        access = change_access(path, change, create=False)
        out.keep()
    old = f"the old one is good for {options.grace:g} hours" if options.grace else "the old one is refused"
    says = f"{options.name} has a new key, {out.where}; {old}"
    return _done(options, out.place, says, valid_key(access, options.name, now_s, "keys rotate"))


def _rotate_service(options: argparse.Namespace, path: Path) -> int:
    public = change_access(path, with_new_secret, create=False).public
    tell_supervisors(Command("access"))
    if options.json:
        print(json.dumps({"service": public}, indent=2))
        return EXIT_OK
    print(f"from its next start on the service has the public key {public}")
    print("now write it into the files of all clients, as the first of the three words of the last line")
    print("(or make new files: tidegate keys rotate NAME --grace HOURS, so that the old keys are good until then);")
    print("then restart the service")
    return EXIT_OK


def _revoke(options: argparse.Namespace, path: Path) -> int:
    now_s = time.time()

    def change(access: AccessList) -> AccessList:
        if not (options.forget and not any(key.name == options.name and key.is_valid(now_s) for key in access.keys)):
            access = end(access, options.name, now_s, now_s)
        return forget(access, options.name, now_s) if options.forget else access

    change_access(path, change, create=False)
    return _done(options, "", f"{options.name} is refused", None)


def _done(options: argparse.Namespace, place: str, says: str, key: AccessKey | None) -> int:
    """When the service has noticed it, if it runs. One that does not answer at once looks by itself."""
    tell_supervisors(Command("access"))
    if options.json:
        done = {"name": options.name, "file": place} if key is None else {**_shown(key, time.time()), "file": place}
        says = json.dumps(done, indent=2)
    print(says, file=sys.stderr if place == "-" else sys.stdout)
    return EXIT_OK


def _pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class _Out:
    """The file of a key, which nobody else can read; written before the list is changed, and as it was before if that fails: no
    key is on the list that nobody has. Once the list is changed the new one stays, in its place or beside it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.place = _place(options)
        self.where = "on the standard output" if self.place == "-" else f"in {self.place}"
        self._file: OutFile | None = None
        self._printed = False
        if self.place != "-":
            self._file = options.of_root.get("out") or OutFile(self.place, replaces=options.action == "rotate")

    def __enter__(self) -> _Out:
        return self

    def write(self, name: str, key: ClientKey) -> None:
        """Raises OperatorError."""
        text = key_text(name, key)
        try:
            if self._file is None:
                sys.stdout.write(text)
                sys.stdout.flush()
                self._printed = True
                return
            with open(self._file.fd, "w", closefd=False) as file:
                file.write(text)
            self._printed = self._file.flows
            self._file.sync()
        except OSError as error:
            raise cannot_write("stdout" if self._file is None else self.place, error) from error

    def keep(self) -> None:
        """The list has it. Raises OperatorError."""
        self._printed = False
        if self._file is None:
            return
        try:
            self._file.put_in_place()
        except OSError as error:
            hint = f"the list has the new key, and its only copy is in {self._file.leave()}: move it to where it is wanted"
            raise OperatorError("write", self.place, error.strerror or str(error), hint) from error

    def __exit__(self, *_: object) -> None:
        if self._printed:
            print("tidegate: the key that was printed is of no use: it is not on the list", file=sys.stderr)
        if self._file is not None:
            self._file.close()


def _place(options: argparse.Namespace) -> str:
    return options.out or f"{options.name}.key"


def _parts(options: argparse.Namespace, owner: DataOwner) -> dict[str, OutFile]:
    makes = options.action in ("new", "rotate") and options.name is not None and not options.service
    return file_of_root(owner, _place(options), replaces=options.action == "rotate") if makes else {}


def _list(path: Path, *, as_json: bool) -> int:
    access, now_s = read_access(path), time.time()
    if access is None:
        raise OperatorError("read", path, "there are no access keys", "make one: tidegate keys new NAME; or name --data DIR")
    shown = [_shown(key, now_s) for key in access.keys]
    if as_json:
        print(json.dumps({"service": access.public, "keys": shown}, indent=2))
        return EXIT_OK
    rows = [("name", "state", "may call", "made", "public half")]
    rows += [
        (each["name"], each["state"], key.rights.words(), each["made"], key.public)
        for each, key in zip(shown, access.keys, strict=True)
    ]
    print("\n".join(table(rows)))
    return EXIT_OK


def _shown(key: AccessKey, now_s: float) -> dict[str, Any]:
    state = (
        "valid" if key.until_s is None else f"until {_day(key.until_s)}" if key.is_valid(now_s) else f"ended {_day(key.until_s)}"
    )
    return {
        "name": key.name,
        "state": state,
        "public": key.public,
        "rights": msgspec.to_builtins(key.rights),
        "made": _day(key.made_s),
    }


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))
