"""The machine on which a service is installed: what is there, and what a plan does to it.

Guarantee: a file is replaced whole or not at all, and what is secret is at no instant readable for others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.install.plan import Found, Keep, Owner, Places, Remove, Run, Step, Write
from tidegate.runtime.install.units import USER_SAYS, cluster_in

_BOOTED = Path("/run/systemd/system")
"""Is there where systemd runs (sd_booted(3))."""
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""From the service, by ProtectHome and PrivateTmp of its unit."""
_AGAIN = "mend it, and give the same command again"
_BEFORE_A_START = frozenset({"access.json", "access.json.new", "lost+found"})
"""What a data folder may have in which no service has started yet: `tidegate keys` was first, or it is a disk of its own."""
_LEFT = re.compile(r"\.(being-made|taking-place|in-place)-.*|before-\d{8}T\d{6}Z(-[0-9a-f]+)?")
"""What a restore or a reshard makes within a data folder that is a mount, and leaves there if it is killed."""
SECRET_BYTES_MAX = 1 << 20
"""Of systemd, for a credential."""
JOURNAL_LINES = 8
CALENDAR_LOOKED_AT = 50
"""So many of the times at which a calendar event is due are looked at."""
_ELAPSES = re.compile(r"(?:Next elapse|Iter(?:\.|ation) #\d+): \w+ (\S+ \S+) UTC$", re.MULTILINE)
COMMAND_S_MAX = 90.0
"""A start that takes longer goes on by itself: a long recovery, or something that it waits for."""


def template(name: str) -> str:
    """A file of the package's folder `systemd`."""
    return (files("tidegate") / "systemd" / name).read_text()


def look(
    places: Places,
    app: str | None = None,
    listen: str | None = None,
    cluster: str | None = None,
    host_name: str | None = None,
    advertise: str | None = None,
) -> Found:
    """The rest is of the configuration, if there is one. Raises OSError."""
    return Found(
        files={path: text for path in places.written if (text := read(path)) is not None},
        app=app,
        listen=listen,
        cluster=cluster,
        host_name=host_name,
        advertise=advertise,
        environment_cluster=_cluster_of(places.environment),
        environment=os.path.exists(places.environment),
        backup_environment=os.path.exists(places.backup_environment),
        copies=tuple(_copies(places.data)),
        secrets=frozenset(_names(places.credentials)),
        data=_owner_of_data(places.data),
        user=_owner_of_user(places.name),
        booted=_BOOTED.is_dir(),
    )


def read(path: str) -> str | None:
    """A file; None where there is none. What is no UTF-8 is replaced. Raises OSError."""
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return None


def _cluster_of(environment: str) -> str | None:
    with contextlib.suppress(PermissionError):  # Of who only asks what would be done.
        return cluster_in(read(environment) or "")
    return None


def _names(folder: str) -> list[str]:
    """Of its files. Only root sees those of secrets: to others, who may only ask what would be done, there are none."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        return sorted(os.listdir(folder))
    return []


def _owner_of_data(folder: str) -> Owner:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return "nobody"
    except PermissionError:  # As ours is for everybody but its user and root.
        return "ours"
    if {"tidegate.json", "lock"} & {*names}:
        return "ours"
    if not all(name in _BEFORE_A_START or _LEFT.fullmatch(name) for name in names):
        return "others"
    return "nobody" if {*names} <= {"lost+found"} else "ours"


def _copies(data: str) -> list[str]:
    folder, own = os.path.split(data)
    with contextlib.suppress(FileNotFoundError):
        beside = re.compile(rf"{re.escape(own)}\.(before|being-made)-.*")
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if beside.fullmatch(name))
    return []


def _owner_of_user(name: str) -> Owner:
    try:
        return "ours" if pwd.getpwnam(name).pw_gecos == USER_SAYS else "others"
    except KeyError:
        return "nobody"


_INTO_OPT = "/opt/tidegate && /opt/tidegate/bin/pip install ./tidegate-*.whl"


def program() -> str:
    """The path of `tidegate` beside the Python that runs this. Raises OperatorError where the service could not run it."""
    path = os.path.join(sysconfig.get_path("scripts"), "tidegate")
    hint = f"install it for everybody: python3 -m venv {_INTO_OPT}"
    if not os.path.isfile(path):
        raise OperatorError("install-service", path, "there is no such program", hint)
    for needed in (path, sys.prefix, os.path.dirname(__file__)):
        check_seen_by_service(needed, hint)
    for of_python in (os.path.realpath(sys.executable), sys.base_prefix):
        other = f"make its environment of a Python that everybody may run: /usr/bin/python3 -m venv --clear {_INTO_OPT}"
        check_seen_by_service(of_python, other)
    return path


def check_seen_by_service(path: str, hint: str) -> None:
    """Raises OperatorError where the user of the service, in its sandbox, could not read this file or folder."""
    real = os.path.realpath(path)
    if folder := next((hidden for hidden in _HIDDEN if real.startswith(f"{hidden}/")), None):
        raise OperatorError("install-service", path, f"services see no files of {folder}", hint)
    for part in _parts(real):
        wanted = stat.S_IROTH if part == real else stat.S_IXOTH
        if not os.stat(part).st_mode & wanted:
            raise OperatorError("install-service", path, f"only its owner may read {part}", hint)


def _parts(path: str) -> Iterator[str]:
    yield path
    while path != "/":
        path = os.path.dirname(path)
        yield path


def read_secret(name: str, path: str) -> str:
    """Whatever is in it; what is no text as halves of surrogate pairs. Raises OperatorError."""
    what = f"--secret {name}={path}"
    try:
        with open(path, "rb") as file:
            secret = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        problem = error.strerror or str(error)
        raise OperatorError("install-service", what, problem, "name a file that has the secret") from error
    if len(secret) > SECRET_BYTES_MAX:
        raise OperatorError("install-service", what, f"longer than {SECRET_BYTES_MAX:,} bytes", "systemd hands on no more")
    return secret.decode("utf-8", "surrogateescape")


def check_systemd() -> None:
    """Raises OperatorError where there is none."""
    for command in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(command) is None:
            hint = "services are of systemd; elsewhere run `tidegate serve` by what starts your programs"
            raise OperatorError("install-service", command, "there is no such program", hint)


def due_h(calendar: str) -> int:
    """Within how many hours of a backup the next one should be there, where they are begun then: half as late again as it ever
    is, and an hour. 0: that is not known. Raises OperatorError for what is no calendar event of systemd."""
    command = ("systemd-analyze", "calendar", f"--iterations={CALENDAR_LOOKED_AT}", "--", calendar)
    try:
        environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
        told = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    if told.returncode != 0:
        hint = "take hourly, daily, or what `systemd-analyze calendar` takes"
        raise OperatorError("install-service", f"--backup-every {calendar}", one_line(told.stderr.strip()), hint)
    times = [datetime.fromisoformat(each) for each in _ELAPSES.findall(told.stdout)]
    gaps = [(later - sooner).total_seconds() for sooner, later in itertools.pairwise(times)]
    return math.ceil(max(gaps) * 1.5 / 3_600 + 1) if gaps else 0


def describe(step: Step) -> str:
    if isinstance(step, Write):
        return f"write {step.path}"
    if isinstance(step, Keep):
        return f"keep {step.path} ({step.why})"
    if isinstance(step, Remove):
        return f"remove {step.path}{' with all that is in it' if step.whole else ''}"
    return f"run {' '.join(step.command)}"


def carry_out(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """One after the other; `say` hears of each before it is done. Raises OperatorError at the first that fails: what was done
    stays, and the same command goes on from there."""
    for step in steps:
        say(describe(step))
        try:
            if isinstance(step, Write):
                _write(step)
            elif isinstance(step, Remove):
                _remove(step)
            elif isinstance(step, Run):
                _run(step, say)
            else:
                assert isinstance(step, Keep)
        except OSError as error:
            problem = error.strerror or str(error)
            raise OperatorError(describe(step), error.filename or "", problem, _AGAIN) from error


def _write(step: Write) -> None:
    folder, name = os.path.split(step.path)
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(step.text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fchmod(fd, step.mode)
        os.fsync(fd)
    os.rename(new, step.path)


def _remove(step: Remove) -> None:
    with contextlib.suppress(FileNotFoundError):
        if step.whole:
            shutil.rmtree(step.path)
        elif not os.path.isdir(step.path):
            os.unlink(step.path)
        elif not os.listdir(step.path):
            os.rmdir(step.path)


def _run(step: Run, say: Callable[[str], None]) -> None:
    command = " ".join(step.command)
    try:
        done = subprocess.run(step.command, capture_output=True, text=True, errors="replace", timeout=COMMAND_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        unit = step.command[-1]
        _say_why(unit, say)
        hint = f"it goes on by itself; systemctl status {unit} says what it waits for"
        raise OperatorError("run", command, f"not done after {COMMAND_S_MAX:g} s", hint) from None
    if done.returncode != 0 and not step.may_fail:
        said = one_line(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
        hint = _AGAIN
        if step.command[:2] == ("systemctl", "start"):
            hint = f"journalctl -u {step.command[-1]} has all of what it said"
            _say_why(step.command[-1], say)
        raise OperatorError("run", command, said, hint)


def _say_why(unit: str, say: Callable[[str], None]) -> None:
    """The last that a service has said."""
    command = ("journalctl", "-u", unit, "-n", str(JOURNAL_LINES), "-o", "cat", "--no-pager", "-q")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMMAND_S_MAX, check=False)
        for line in told.stdout.splitlines():
            say(f"  {one_line(line)}")
