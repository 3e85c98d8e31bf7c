"""What is to be done to install or remove a service: steps, each with its words.

Guarantee: files of others are never written over or removed; configuration, environment, secrets and data of a service are the
operator's: they are made where they are missing, and go by `purge` only. The same asked for twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.install import units

NAME_DEFAULT = "tidegate"
EVERY_DEFAULT = "hourly"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_VARIABLE = re.compile(r"[!#-&(-\[\]-~]+")
"""What systemd reads in a file of variables as it is written."""
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
Owner = Literal["nobody", "ours", "others"]


@dataclass(frozen=True)
class Write:
    path: str
    text: str = field(repr=False)
    mode: int
    secret: bool = False


@dataclass(frozen=True)
class Keep:
    path: str
    why: str


@dataclass(frozen=True)
class Remove:
    """A file, or a folder that is empty; `whole`: a folder with all that is in it."""

    path: str
    whole: bool = False


@dataclass(frozen=True)
class Run:
    command: tuple[str, ...]
    may_fail: bool = False


Step = Write | Keep | Remove | Run


@dataclass(frozen=True)
class Places:
    """Of a service of this name."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            hint = "begin with a letter; up to 31 of a-z, 0-9, _ and -"
            raise OperatorError("name", self.name, "cannot be the name of a unit and of a user", hint)

    @property
    def units(self) -> tuple[str, str]:
        """Stopped in this order: the socket would start the service again."""
        return f"{self.name}.socket", f"{self.name}.service"

    @property
    def socket(self) -> str:
        return f"/etc/systemd/system/{self.name}.socket"

    @property
    def service(self) -> str:
        return f"/etc/systemd/system/{self.name}.service"

    @property
    def backup_units(self) -> tuple[str, str]:
        return f"{self.name}-backup.timer", f"{self.name}-backup.service"

    @property
    def backup_stamp(self) -> str:
        """When the timer last went off: systemd keeps it for `Persistent=`, also when the timer is gone."""
        return f"/var/lib/systemd/timers/stamp-{self.backup_units[0]}"

    @property
    def backups(self) -> tuple[str, str]:
        """The files of these."""
        timer, service = self.backup_units
        return f"/etc/systemd/system/{timer}", f"/etc/systemd/system/{service}"

    @property
    def users(self) -> str:
        return f"/etc/sysusers.d/{self.name}.conf"

    @property
    def folders(self) -> str:
        return f"/etc/tmpfiles.d/{self.name}.conf"

    @property
    def written(self) -> tuple[str, ...]:
        """Whose first line must say that they are ours."""
        return self.service, self.socket, self.users, self.folders, *self.backups

    @property
    def etc(self) -> str:
        return f"/etc/{self.name}"

    @property
    def config(self) -> str:
        return f"{self.etc}/tidegate.toml"

    @property
    def environment(self) -> str:
        return f"{self.etc}/environment"

    @property
    def backup_environment(self) -> str:
        return f"{self.etc}/backup-environment"

    @property
    def credentials(self) -> str:
        return f"{self.etc}/credentials"

    @property
    def data(self) -> str:
        return f"/var/lib/{self.name}"


@dataclass(frozen=True)
class Found:
    """What is there already."""

    files: Mapping[str, str]
    """Of the units and their companions: text by path."""
    app: str | None = None
    """Of the configuration that exists; None where there is none."""
    listen: str | None = None
    cluster: str | None = None
    """Of the configuration too, as the two that follow: empty where it has none, or the variables have it."""
    host_name: str | None = None
    advertise: str | None = None
    environment: bool = False
    environment_cluster: str | None = None
    """What the variables say of the cluster; None where they do not, or only root may see them."""
    backup_environment: bool = False
    secrets: frozenset[str] = frozenset()
    copies: tuple[str, ...] = ()
    """What restores and reshardings have left beside the data: all that was there before them."""
    data: Owner = "nobody"
    """Of the data folder: "nobody" also when it is empty."""
    user: Owner = "nobody"
    """Whose user it is that has the name of the service."""
    booted: bool = True
    """Whether systemd runs here. Units may be installed where it does not, in an image say."""


@dataclass(frozen=True)
class BackupTimer:
    dest: str
    every: str = EVERY_DEFAULT
    due_h: int = 0
    """Within so many hours the next one is expected; 0: nobody knows."""


def backups_there(places: Places, found: Found) -> tuple[str, str] | None:
    """Where those that were asked for before go, and how often; None: there are none, or units of ours that say it otherwise."""
    timer, service = (found.files.get(path, "") for path in places.backups)
    return units.backups_of(service, timer)


@dataclass(frozen=True)
class Wanted:
    app: str
    program: str
    """The path of `tidegate`."""
    listen: str | None = None
    """None: what the configuration has, else the default."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    start: bool = True
    backups: BackupTimer | None = None
    """None: there are to be none, unless `keep_backups`."""
    keep_backups: bool = True
    """Where none are wanted and units of ours make some in a way that is not known: they stay as they are."""
    cluster: str | None = field(default=None, repr=False)
    """The servers that keep its logs; None: as it was. With a password or token it is for root only."""
    host_name: str | None = None
    advertise: str | None = None
    """Where the other hosts of the cluster reach this one."""

    @property
    def secret_cluster(self) -> str | None:
        return self.cluster if self.cluster is not None and "@" in self.cluster else None


def install(places: Places, wanted: Wanted, found: Found, template: Callable[[str], str], listen_default: str) -> list[Step]:
    """`template`: the text of a file of the package's folder `systemd`. Raises OperatorError, and nothing is to be done then."""
    _check_ours(places, found, "install-service")
    if found.user == "others":
        raise _refused(places.name, "a user of this name is there already, and not ours", "choose another name with --name")
    if found.data == "others":
        raise _refused(places.data, "holds data of something else", "choose another name with --name")
    for secret in wanted.secrets:
        if not _SECRET.fullmatch(secret):
            raise _refused(f"--secret {secret}", "cannot be the name of a credential", "use letters, digits and _ . -")
    in_cluster = _check_cluster(places, wanted, found)
    _check_configuration(places, wanted, found)
    listen = wanted.listen or found.listen or listen_default
    if listen.startswith(f"ipc:///run/{places.name}/"):
        raise _refused(
            listen, "that folder is the service's alone, and goes when it stops", f"take ipc:///run/{places.name}.sock"
        )
    secrets = {*found.secrets, *wanted.secrets}
    socket, service = places.units
    unit = units.service_unit(template("tidegate.service"), service, wanted.program, listen, secrets, in_cluster=in_cluster)
    steps: list[Step] = [
        Write(places.service, unit, 0o644),
        Write(places.socket, units.socket_unit(template("tidegate.socket"), socket, listen), 0o644),
        Write(places.users, units.users(places.name), 0o644),
        Write(places.folders, units.folders(places.name), 0o644),
        Run(("systemd-sysusers", places.users)),
        Run(("systemd-tmpfiles", "--create", places.folders)),
    ]
    steps += _backups(places, wanted, found, template)
    steps = [_unless_there(step, found) for step in steps]
    steps += _operators_own(places, wanted, found, template, None if listen == listen_default else listen)
    steps += [Write(f"{places.credentials}/{name}", text, 0o600, secret=True) for name, text in sorted(wanted.secrets.items())]
    if found.booted:
        steps.append(Run(("systemctl", "daemon-reload")))
    steps.append(Run(("systemctl", "--quiet", "enable", *places.units)))
    if found.booted and wanted.start:
        # Not `restart`: it may start the service before the socket, which is refused then.
        steps += [Run(("systemctl", "stop", *places.units)), Run(("systemctl", "start", *places.units))]
    if wanted.backups is not None:
        now = ["--now"] if found.booted and wanted.start else []
        steps.append(Run(("systemctl", "--quiet", "enable", *now, places.backup_units[0])))
    return steps


def _operators_own(
    places: Places, wanted: Wanted, found: Found, template: Callable[[str], str], listen: str | None
) -> list[Step]:
    """Configuration and variables: made where they are missing. `listen`: None for the default."""
    steps: list[Step] = []
    if found.app is None:
        cluster = None if wanted.secret_cluster else wanted.cluster
        options = {"listen": listen, "cluster": cluster, "host_name": wanted.host_name, "advertise": wanted.advertise}
        text = units.configuration(template("tidegate.toml"), wanted.app, options)
        steps.append(Write(places.config, text, 0o644))
    else:
        steps.append(Keep(places.config, "yours"))
    if found.environment:
        steps.append(Keep(places.environment, "yours"))
    else:
        text = units.environment_file(places.units[1], wanted.secret_cluster)
        steps.append(Write(places.environment, text, 0o600, secret=wanted.secret_cluster is not None))
    return steps


def _check_configuration(places: Places, wanted: Wanted, found: Found) -> None:
    """Raises OperatorError where the one that is there says something else than what is asked for."""
    hint = f"change it there, or remove the service first: tidegate uninstall-service --name {places.name}"
    for option, asked, has in (
        ("app", wanted.app, found.app),
        ("listen", wanted.listen, found.listen),
        ("host_name", wanted.host_name, found.host_name),
        ("advertise", wanted.advertise, found.advertise),
    ):
        if has is not None and asked is not None and asked != has:
            raise _refused(places.config, f"it has {option} = {has!r}, not {asked!r}", hint)
    if found.cluster is not None and wanted.cluster not in (None, found.cluster, found.environment_cluster):
        raise _refused(places.config, f"it names {'another' if found.cluster else 'no'} cluster", hint)


def _check_cluster(places: Places, wanted: Wanted, found: Found) -> bool:
    """Whether it is to be a host of a cluster. Raises OperatorError."""
    was = bool(found.cluster or found.environment_cluster) or units.waits_for_network(found.files.get(places.service, ""))
    if wanted.cluster is None and not was:
        if wanted.host_name is not None or wanted.advertise is not None:
            raise _refused("--host-name, --advertise", "it is in no cluster", "name the servers with --cluster as well")
        return False
    if found.app is None and wanted.advertise is None:
        hint = "say where they do: --advertise tcp://NAME-OF-THIS-MACHINE:7712, a port that only they can reach"
        raise _refused("--cluster", "the other hosts would not reach this one", hint)
    secret = wanted.secret_cluster
    if secret is not None and not _VARIABLE.fullmatch(secret):
        raise _refused("--cluster", "has quotes, spaces or backslashes", "choose a password of letters, digits and - _ .")
    if secret is not None and found.environment and found.environment_cluster != secret:
        problem = "it is there already, and names another cluster" if found.environment_cluster else "it is there, and yours"
        hint = f"write {units.CLUSTER_VARIABLE}=… into it, with the servers, and give this command without --cluster"
        raise _refused(places.environment, problem, hint)
    return True


def _backups(places: Places, wanted: Wanted, found: Found, template: Callable[[str], str]) -> list[Step]:
    (timer, service), (timer_path, service_path) = places.backup_units, places.backups
    there = [path for path in places.backups if path in found.files]
    if wanted.backups is None:
        if wanted.keep_backups:
            return [Keep(path, "changed by hand: --backup DEST writes it anew, --no-backup removes it") for path in there]
        return _no_backups(places, wanted.program, found) if there else []
    dest, every, due_h = wanted.backups.dest, wanted.backups.every, wanted.backups.due_h
    made = units.backup_service(template("tidegate-backup.service"), service, places.name, wanted.program, dest, due_h)
    steps: list[Step] = [
        Write(service_path, made, 0o644),
        Write(timer_path, units.backup_timer(template("tidegate-backup.timer"), timer, places.name, every), 0o644),
    ]
    if found.backup_environment:
        steps.append(Keep(places.backup_environment, "yours"))
    elif dest.startswith("s3://"):
        steps.append(Write(places.backup_environment, units.backup_environment_file(service), 0o600))
    return steps


def _no_backups(places: Places, program: str, found: Found) -> list[Step]:
    """Nothing is expected any longer, and no log is kept for them. What was made stays."""
    steps: list[Step] = []
    now = ["--now"] if found.booted else []
    steps.append(Run(("systemctl", "--quiet", "disable", *now, places.backup_units[0])))
    steps += [Remove(path) for path in (*places.backups, places.backup_stamp)]
    if (there := backups_there(places, found)) is not None:
        forget = (program, "backup", there[0], "--data", places.data, "--forget")
        steps.append(Run(("runuser", "-u", places.name, "--", *forget), may_fail=True))
    return steps


def uninstall(places: Places, found: Found, *, purge: bool = False) -> list[Step]:
    """Raises OperatorError, and nothing is to be done then."""
    _check_ours(places, found, "uninstall-service")
    steps: list[Step] = []
    if present := [path for path in places.written if path in found.files]:
        present_units = [unit for unit in (*places.backup_units, *places.units) if f"/etc/systemd/system/{unit}" in found.files]
        if present_units:
            steps.append(Run(("systemctl", "--quiet", "disable", *(["--now"] if found.booted else []), *present_units)))
        steps += [Remove(path) for path in present]
        if places.backups[0] in present:
            steps.append(Remove(places.backup_stamp))
        if found.booted:
            steps.append(Run(("systemctl", "daemon-reload")))
            steps.append(Run(("systemctl", "--quiet", "reset-failed", *places.units), may_fail=True))
    has = {
        places.config: found.app is not None,
        places.environment: found.environment,
        places.backup_environment: found.backup_environment,
    }
    own = [path for path, there in has.items() if there]
    if not purge:
        steps += [Keep(places.etc, "configuration and secrets; --purge removes them")] if own or found.secrets else []
        steps += [Keep(places.data, "the data; --purge removes it")] if found.data == "ours" else []
        steps += [Keep(path, "a copy of the data, of a restore or reshard; --purge removes it") for path in found.copies]
        return steps
    if found.data == "others":
        raise OperatorError("uninstall-service", places.data, "holds data of something else", "look at --name")
    steps += [Remove(path) for path in own]
    if own or found.secrets:
        steps += [Remove(places.credentials, whole=True), Remove(places.etc)]
    steps += [Remove(places.data, whole=True)] if found.data == "ours" else []
    steps += [Remove(path, whole=True) for path in found.copies]
    if found.user == "ours":
        steps.append(Run(("userdel", places.name)))
        steps.append(Run(("groupdel", places.name), may_fail=True))  # Gone already, unless others were in it.
    return steps


def _unless_there(step: Step, found: Found) -> Step:
    if isinstance(step, Write) and found.files.get(step.path) == step.text:
        return Keep(step.path, "as it is")
    return step


def _check_ours(places: Places, found: Found, operation: str) -> None:
    for path in places.written:
        if path in found.files and not found.files[path].startswith(units.MARK):
            hint = "move it away, or choose another name with --name"
            raise OperatorError(operation, path, "is not a file that `tidegate install-service` has written", hint)


def _refused(place: str, problem: str, hint: str) -> OperatorError:
    return OperatorError("install-service", place, problem, hint)
