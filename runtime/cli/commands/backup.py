"""`tidegate backup`: the data of a service, kept somewhere else."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psutil

from tidegate.runtime.cli.arguments import a_path, add_command, read_as
from tidegate.runtime.cli.as_owner import DataOwner, may_change, may_reach
from tidegate.runtime.cli.commands.check import progress
from tidegate.runtime.cli.exits import EXIT_OK
from tidegate.runtime.cli.pages import mebibytes, plural
from tidegate.runtime.cli.roots_part import Part
from tidegate.runtime.cli.version import version
from tidegate.runtime.data.backup_notes import NAME, forget_place, note_failure, note_success
from tidegate.runtime.data.directory import describe_directory, is_text
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.config import DATA_DEFAULT
from tidegate.shard.backup.backup import Backup, BackupReport, BackupUnderWay, Source, Throttle, keep_no_log_for
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.places import open_depot, place_of
from tidegate.shard.backup.restore import shown

_EPILOG = """DEST is a folder, on another disk at best, or s3://BUCKET/PREFIX (with AWS_ENDPOINT_URL and so on set). The
first backup is a full one; the next ones bring what was committed since, for which the service keeps its log in
DATA/shipping until then (8 GiB of it at most, and never room that it needs itself). Each piece is read back.
Interrupted, the same command goes on where it was. It holds back for the service (nice 15, idle disk time); --rate
holds it to so many MiB a second. How it went is told by `tidegate status`.

examples:
  tidegate backup /mnt/backups/shop                       of the service in this folder
  tidegate backup /mnt/backups/shop --data /var/lib/shop --json
  tidegate backup /mnt/backups/shop --full                a full one, from which the next ones go on
  tidegate backup /mnt/usb/shop --once                    a full one, and keep no log for a next one
  tidegate backup /mnt/backups/shop --full-every 7 --keep 4         what the timer of install-service --backup does
  tidegate backup /mnt/backups/shop --due-after 3         status has a problem if there is none for 3 hours
  tidegate backup s3://backups/shop --rate 50             into a store, 50 MiB a second at most
"""
NICE = 15
DAY_MS = 86_400_000
_PIECE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9.-]*", re.ASCII)
Days = Annotated[float, msgspec.Meta(gt=0, le=1e5)]
Kept = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Due = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


def add(commands: Any) -> None:
    backup = add_command(commands, "backup", _EPILOG, run)
    backup.add_argument("dest", metavar="DEST", type=a_path, help="where backups are kept")
    add_data_option(backup)
    backup.set_defaults(parts=_parts)
    backup.add_argument("--full", action="store_true", help="a full one, also where the one before could be continued")
    backup.add_argument("--once", action="store_true", help="a full one that none will continue: no log is kept for it")
    what = "a full one where the last full one is older than that"
    backup.add_argument("--full-every", metavar="DAYS", type=read_as(Days, "days"), default=0, help=what)
    what = "of full backups and what has continued each, keep so many; older ones are deleted"
    backup.add_argument("--keep", metavar="N", type=read_as(Kept), default=0, help=what)
    backup.add_argument("--rate", metavar="MIB", type=read_as(Rate, "MiB a second"), default=0, help="MiB a second at most")
    what = "`tidegate status` has a problem where none has succeeded so long after the newest; it stays so until told otherwise"
    backup.add_argument("--due-after", metavar="HOURS", type=read_as(Due, "hours"), default=0, help=what)
    what = "make none: no more go there, so `tidegate status` has nothing to say of it, and no log is kept for it"
    backup.add_argument("--forget", action="store_true", help=what)
    backup.add_argument("--json", action="store_true", help="print what was done as JSON")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The directory, as an option: the first argument is the place of the backups. Root's command on it is its owner's: see
    `as_owner`."""
    what = f"the data directory (default: $STATE_DIRECTORY, else ./{DATA_DEFAULT})"
    default = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or DATA_DEFAULT
    parser.add_argument("--data", metavar="DATA", type=lambda text: Path(a_path(text)), default=Path(default), help=what)
    parser.set_defaults(works_on=lambda options: options.data)


def _parts(options: argparse.Namespace, owner: DataOwner) -> dict[str, Part]:
    """A folder is worked on by the owner of the data, whose timer goes on with it, unless it is only for root. One that is not
    there yet is made for him."""
    if "://" in options.dest or options.forget:
        return {}
    path = Path(place_of(options.dest))
    if not path.exists() and not may_change(owner, path) and may_reach(owner, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        with contextlib.suppress(OSError):  # A file system that knows no owners: it is for root, then.
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    return folder_of_root(owner, path, may_put=True)


def run(options: argparse.Namespace) -> int:
    described = describe_directory(options.data)
    if options.forget:
        return _forget(options)
    _check_place(options.dest, options.data)
    source = Source(options.data.resolve(), described.shards, described.starts, version())
    place, due_s = place_of(options.dest), options.due_after * 3_600
    try:
        with _until_ended():
            report = _make(options, source)
    except BackupUnderWay:
        raise
    except (Exception, KeyboardInterrupt, _Ended) as error:
        why = _why(error)
        _leave_word(source.path, lambda: note_failure(source.path, place, _now_ms(), why, due_s, only_known=options.once))
        if isinstance(error, _Ended):
            os.kill(os.getpid(), error.number)  # Whoever has ended it sees that it has.
        raise
    backup = f"{report.lineage}/{report.number}"
    _leave_word(source.path, lambda: note_success(source.path, place, _now_ms(), backup, due_s))
    if options.json:
        print(json.dumps({"data": str(options.data), "dest": options.dest, **report._asdict()}, indent=2))
    else:
        print("\n".join(_page(options, report)))
    return EXIT_OK


class FolderOfRoot(FolderDepot):
    """A folder in which the owner of the data can change nothing, and root's process keeps and reads pieces for him. All raise
    OperatorError."""

    def __init__(self, path: Path, owner: DataOwner, *, may_put: bool) -> None:
        super().__init__(path)
        self._owner = owner
        self.asked = ("get", "list", "stamps", *(("put", "delete") if may_put else ()))

    def put(self, name: str, data: bytes) -> None:
        self._check(name)
        super().put(name, data)

    def get(self, name: str) -> bytes | None:
        self._check(name)
        return super().get(name)

    def stamps(self, prefix: str = "") -> dict[str, str]:
        if prefix:
            self._check(f"{prefix}x")
        return super().stamps(prefix)

    def delete(self, name: str) -> None:
        self._check(name)
        super().delete(name)

    def _check(self, name: str) -> None:
        """That it is in a folder where he can change nothing, either."""
        if not _PIECE.fullmatch(name) or may_change(self._owner, Path(self.place, name).parent):
            hint = f"give all of it to him, or all of it to root (chown -R {self._owner.name} {self.place})"
            raise OperatorError("use backups in", f"{self.place}/{name}", f"{self._owner.name} may change names there", hint)

    def close(self) -> None:
        """All that was put is to stay."""


def folder_of_root(owner: DataOwner, path: Path, *, may_put: bool) -> dict[str, Part]:
    """The part of root's process for a folder of backups: none where the owner of the data may change anything himself."""
    return {} if may_change(owner, path) else {"depot": FolderOfRoot(path, owner, may_put=may_put)}


class _Ended(BaseException):
    """By a signal, which by itself would leave no time for a word."""

    def __init__(self, number: int) -> None:
        super().__init__(f"it was ended by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def _until_ended() -> Iterator[None]:
    """Raises _Ended where SIGTERM or SIGHUP would end the process."""

    def end(number: int, _: object) -> None:
        raise _Ended(number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _why(error: BaseException) -> str:
    if isinstance(error, OperatorError | _Ended):
        return str(error)
    return "it was interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _make(options: argparse.Namespace, source: Source) -> BackupReport:
    depot = options.of_root.get("depot") or open_depot(options.dest)
    _hold_back()
    throttle = Throttle(int(options.rate * (1 << 20)), threading.Event().wait)
    made = Backup(source, depot, progress(), throttle)
    return made.run(full=options.full, once=options.once, full_every_ms=int(options.full_every * DAY_MS), keep=options.keep)


def _leave_word(data: Path, note: Callable[[], None]) -> None:
    """For the service. A backup is none the worse where that cannot be written."""
    try:
        note()
    except OSError as error:
        print(f"tidegate: `tidegate status` will not know of it: {data / NAME}: {error.strerror or error}", file=sys.stderr)


def _forget(options: argparse.Namespace) -> int:
    data, place = options.data.resolve(), place_of(options.dest)
    try:
        keep_no_log_for(data, place)
        was_known = forget_place(data, place)
    except OSError as error:
        hint = "run it as the user of the service"
        raise OperatorError("forget", place, error.strerror or str(error), hint) from error
    if options.json:
        print(json.dumps({"data": str(options.data), "dest": options.dest, "forgotten": was_known}))
    else:
        print(f"{place}: {'forgotten; what is there stays' if was_known else 'nothing was known of it'}")
    return EXIT_OK


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _hold_back() -> None:
    with contextlib.suppress(OSError, psutil.Error):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def _check_place(dest: str, data: Path) -> None:
    if not is_text(dest):  # It is noted, for those who ask how backups went.
        raise OperatorError("back up to", dest, "its path is not UTF-8", "choose a folder with another path, or rename it")
    if "://" not in dest and Path(os.path.realpath(dest)).is_relative_to(os.path.realpath(data)):
        raise OperatorError("back up to", dest, "it is in the data directory itself", "choose a folder elsewhere")


def _page(options: argparse.Namespace, report: BackupReport) -> list[str]:
    lines = [f"full, since {report.why_full}"] if report.why_full else []
    kind = "full" if report.number == 1 else "incremental"
    what = f"{plural(report.rows, 'row')}, {plural(report.records, 'record')} of the log"
    size = f"{mebibytes(report.bytes)} in {report.took_s:.1f} s"
    if report.pieces_kept:
        size += f", {plural(report.pieces_kept, 'piece')} of an interrupted run taken over"
    lines.append(f"{options.dest}: {kind} backup {report.lineage}/{report.number} of {options.data}: {what}, {size}")
    until = shown(report.until_ms)
    lines.append(f"it has what was committed until {until}; to look at it: tidegate restore {options.dest} --list")
    return lines
