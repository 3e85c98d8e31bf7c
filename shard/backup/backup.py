"""Makes a backup of a data directory, while a service uses it or not.

Order of a full backup, which is what makes it right: `DATA/shipping` is made, so that no segment of the log is lost from then on;
then of each shard the sequence is read that its data file has, then its rows; then the logs, from those sequences on; then the
manifest is put, without which nothing of it counts. An incremental one is the logs and a manifest.

Guarantee: killed at any moment it loses nothing, and the next run goes on with the piece that was begun; a piece counts when it
was read back from where it is. Nothing in the directory is changed but `DATA/shipping`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.regular import read_regular
from tidegate.runtime.shipping import FOLDER, GIVEN_UP, why_given_up
from tidegate.shard.backup.depot import Depot
from tidegate.shard.backup.log_records import Stretch, shipped, stretches
from tidegate.shard.backup.manifest import (
    FORMAT,
    BackupDamaged,
    Commits,
    LogNotKept,
    Manifest,
    Piece,
    encode_manifest,
    lineages_in,
    manifest_name,
)
from tidegate.shard.backup.pieces import (
    PIECE_BYTES,
    Header,
    PieceDamaged,
    RecordsHeader,
    RowsHeader,
    decode_piece,
    encode_piece,
    records_name,
    rows_name,
)
from tidegate.shard.backup.reading import read_lineage
from tidegate.shard.offline.check import state_path
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.record import decode_unread_record
from tidegate.shard.store.recovery import decode_seqs
from tidegate.shard.store.state.live_rows import LiveRows

Progress = Callable[[str, float], object]
"""Told what is being done, and which share of it is done."""
LOCK = "lock"
"""Of `DATA/shipping`: whoever changes what is in there, but for what workers put, has it."""
CONTINUED_MS_MAX = 7 * 86_400_000
"""The log is kept for so long for a backup that is not continued, once another one is made."""
FINISHED_MS_MAX = 86_400_000
"""The same for a full one that was interrupted."""
_LINEAGE = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{4}")
_ROW_BYTES = 16
"""What a row counts beside its key and value, so that pieces of many small rows do not get large."""
NOTE_BYTES_MAX = 1 << 20
"""Of a file that says what the log is kept for."""


class Source(NamedTuple):
    """The data directory, as `tidegate.json` says it is."""

    path: Path
    shards: int
    starts: int
    version: str
    """Of Tidegate."""


class BackupReport(NamedTuple):
    lineage: str
    number: int
    """1: a full backup."""
    shards: int
    rows: int
    records: int
    pieces: int
    pieces_kept: int
    """Of these, those that an earlier run had put, which was interrupted."""
    bytes: int
    """What was put."""
    took_s: float
    until_ms: int
    """Unix time up to which the backup has what was committed."""
    why_full: str
    """Why it could not continue the one before, if there was one."""


class KeptLineage(msgspec.Struct):
    """`DATA/shipping/LINEAGE.json`: what the log is kept for."""

    lineage: str
    place: str
    at_ms: int
    """When the last backup of it was begun, or completed."""
    positions: dict[str, int] = {}
    """By log, how much of it the lineage has. Empty until the full backup is complete."""
    once: bool = False
    """None will continue it."""


def kept_lineages(data: Path) -> list[KeptLineage]:
    """For which backups the service keeps its log, oldest first: where they are, and when each was made last. Raises OSError."""
    return [lineage for _, lineage in _notes(data / FOLDER) if lineage is not None]


def _notes(shipping: Path) -> Iterator[tuple[Path, KeptLineage | None]]:
    """None: half of it, from a crash: nothing depends on it but a full backup more. One that goes away meanwhile is not in it."""
    try:
        names = sorted(name for name in os.listdir(shipping) if name.endswith(".json"))
    except FileNotFoundError:
        return
    for path in map(shipping.joinpath, names):
        try:
            yield path, msgspec.json.decode(read_regular(path, NOTE_BYTES_MAX), type=KeptLineage)
        except FileNotFoundError:
            continue
        except msgspec.MsgspecError:
            yield path, None


def keep_no_log_for(data: Path, place: str) -> None:
    """Whatever backups are there. Raises OSError, and BackupUnderWay: one that has begun has nothing there yet but the folder."""
    try:
        fd = os.open(data / FOLDER / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # It is kept for none.
        return
    with _alone(data, fd):
        for path, lineage in _notes(data / FOLDER):
            if lineage is not None and lineage.place == place:
                path.unlink(missing_ok=True)
        if not kept_lineages(data):
            shutil.rmtree(data / FOLDER, ignore_errors=True)


class BackupUnderWay(OperatorError):
    """Another one of this directory is being made."""


@contextlib.contextmanager
def _alone(data: Path, fd: int) -> Iterator[None]:
    """No other backup of this directory runs. `fd`: of the file `LOCK`, which is closed at the end."""
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it has ended"
            raise BackupUnderWay("back up", data, "another backup of it is being made", hint, passes=True) from None
        yield
    finally:
        os.close(fd)


class Throttle:
    """Holds back to so many bytes a second; 0: as fast as it goes."""

    def __init__(self, bytes_per_s: int, wait: Callable[[float], object], now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = bytes_per_s
        self._wait = wait
        self._now = now
        self._began = now()
        self._bytes = 0

    def took(self, count: int) -> None:
        if self._per_s:
            self._bytes += count
            if (early_s := self._bytes / self._per_s - (self._now() - self._began)) > 0:
                self._wait(early_s)


class Backup:
    """One run."""

    def __init__(
        self,
        source: Source,
        depot: Depot,
        progress: Progress,
        throttle: Throttle,
        *,
        piece_bytes: int = PIECE_BYTES,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`now_ms`: Unix time."""
        self._piece_bytes = piece_bytes
        self._now_ms = now_ms
        self._source = source
        self._depot = depot
        self._progress = progress
        self._throttle = throttle
        self._shipping = source.path / FOLDER
        self._rows = self._records = self._pieces = self._kept = self._bytes = 0

    def run(self, *, full: bool = False, once: bool = False, full_every_ms: int = 0, keep: int = 0) -> BackupReport:
        """`full`: also where the one before could be continued. `once`: a full one for which no log is kept afterwards.
        `full_every_ms`: a full one where the last full one is older, if it is not 0. `keep`: so many lineages are kept there;
        older ones are deleted, if it is not 0. Raises OperatorError."""
        began = time.monotonic()
        with self._locked():
            given_up = self._take_note()
            try:
                earlier, begun = self._find_lineages(once=once)
            except OperatorError:
                self._stop_keeping()
                raise
            if begun is not None:  # It is gone on with, so its log is kept, however long ago it was interrupted.
                self._note(msgspec.structs.replace(begun, at_ms=self._now_ms()))
            why, manifest, is_due = "", None, full or begun is not None
            if earlier:
                try:
                    manifest, age_ms = self._continue(earlier[-1].lineage, may_be_damaged=full)
                    is_due = is_due or bool(full_every_ms and age_ms >= full_every_ms)
                except LogNotKept as error:
                    why = "" if full else f"the one before cannot be continued: {error}"
                    self._lineage_file(earlier.pop().lineage).unlink(missing_ok=True)
            elif given_up and not is_due and not once:
                why = f"the log was not kept for it: {given_up}"
            if manifest is None or is_due:
                manifest = self._make_full(begun, once=once)
            until_ms = self._end([each for each in earlier if each.lineage != manifest.lineage], manifest)
            self._delete_old(keep)
        return BackupReport(
            manifest.lineage, manifest.number, manifest.shards, self._rows, self._records, self._pieces, self._kept, self._bytes,
            time.monotonic() - began, until_ms, why,
        )  # fmt: skip

    # What the log is kept for

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder is there, and no other backup of this directory runs."""
        try:
            with contextlib.suppress(FileExistsError):
                self._shipping.mkdir(mode=0o700)
            fd = os.open(self._shipping / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "run it as the user who runs the service"
            raise OperatorError("begin a backup in", self._shipping, error.strerror or str(error), hint) from error
        with _alone(self._source.path, fd):
            yield

    def _take_note(self) -> str:
        """Why the log was given up since the last backup, if it was."""
        try:
            text = why_given_up(self._source.path)
        except OSError as error:
            text = f"{GIVEN_UP}: {error.strerror or error}"
        (self._source.path / GIVEN_UP).unlink(missing_ok=True)
        return text

    def _lineage_file(self, lineage: str) -> Path:
        return self._shipping / f"{lineage}.json"

    def _lineages(self) -> list[KeptLineage]:
        """Of all depots to which backups of this directory go."""
        found = []
        for path, lineage in _notes(self._shipping):
            if lineage is None:
                path.unlink()
            else:
                found.append(lineage)
        return found

    def _find_lineages(self, *, once: bool) -> tuple[list[KeptLineage], KeptLineage | None]:
        """Those in this depot that can be continued, oldest first; and the full one that was begun for it and interrupted. Of the
        former there is one, unless a run was killed between a new one and the end of the one before."""
        names = self._depot.list()
        there = {name.partition("/")[0] for name in names}
        mine = [each for each in self._lineages() if each.lineage in there or each.place == self._depot.place]
        complete = lineages_in(names)
        for gone in [each for each in mine if each.positions and each.lineage not in complete]:
            self._lineage_file(gone.lineage).unlink()  # Somebody has deleted it there.
            mine.remove(gone)
        mine = [each for each in mine if each.once == once]
        earlier = [each for each in mine if each.lineage in complete and not once]
        begun = [each for each in mine if each.lineage not in complete]
        return earlier, begun[-1] if begun else None

    def _begin_lineage(self, *, once: bool) -> KeptLineage:
        lineage = f"{_beginning(self._now_ms())}{secrets.token_hex(2)}"
        self._note(begun := KeptLineage(lineage, self._depot.place, self._now_ms(), once=once))
        return begun

    def _forget(self, lineage: KeptLineage) -> None:
        self._lineage_file(lineage.lineage).unlink(missing_ok=True)
        self._stop_keeping()

    def _stop_keeping(self) -> bool:
        """The log, unless it is kept for a lineage."""
        if is_for_none := not self._lineages():
            shutil.rmtree(self._shipping, ignore_errors=True)
        return is_for_none

    def _note(self, lineage: KeptLineage) -> None:
        path = self._lineage_file(lineage.lineage)
        new = path.with_name(path.name + ".new")
        try:
            new.unlink(missing_ok=True)
            with open(new, "xb") as file:
                file.write(msgspec.json.encode(lineage))
            new.rename(path)
        except FileNotFoundError:  # The log was given up at this moment: the next backup is a full one.
            return
        except OSError as error:
            raise OperatorError("write", path, error.strerror or str(error), "make room there, and try again") from error

    # Making it

    def _make_full(self, begun: KeptLineage | None, *, once: bool) -> Manifest:
        """`begun`: goes on with that one."""
        mine = begun or self._begin_lineage(once=once)
        pieces_before = self._pieces
        try:
            manifest = self._read_all(mine)
        except OperatorError:
            if self._pieces == pieces_before and begun is None:  # Nothing can be put there: no log is kept for it.
                self._forget(mine)
            raise
        self._finish(manifest, once=once)
        return manifest

    def _read_all(self, mine: KeptLineage) -> Manifest:
        began_ms = self._now_ms()
        there = set(self._depot.list(f"{mine.lineage}/"))
        base: dict[int, int] = {}
        rows: list[Piece] = []
        for shard in range(self._source.shards):
            base[shard], pieces = self._back_up_rows(mine.lineage, shard, there)
            rows += pieces
        try:
            return self._add_records(mine.lineage, base, {}, rows, 1, "", base, began_ms)
        except LogNotKept as error:
            self._lineage_file(mine.lineage).unlink(missing_ok=True)
            hint = "the log was given up meanwhile, for want of room: make some on the disk of the data, and try again"
            raise OperatorError("back up", self._source.path, str(error), hint) from error

    def _continue(self, name: str, *, may_be_damaged: bool = False) -> tuple[Manifest, int]:
        """And how old its full backup is, in milliseconds. Raises `LogNotKept`."""
        try:
            lineage = read_lineage(self._depot, name)
        except OperatorError as error:
            if may_be_damaged and isinstance(error.__cause__, BackupDamaged):
                raise LogNotKept(str(error)) from error
            raise
        if not lineage.manifests:
            raise LogNotKept("somebody deletes it")
        first, last = lineage.manifests[0], lineage.manifests[-1]
        if last.shards != self._source.shards:
            raise LogNotKept(f"it was made with {last.shards} shards, and now there are {self._source.shards}")
        manifest = self._add_records(
            name, last.base, last.positions, [], last.number + 1, lineage.seal, last.seqs, self._now_ms()
        )
        self._finish(manifest, once=False)
        return manifest, self._now_ms() - first.began_ms

    def _end(self, earlier: list[KeptLineage], newest: Manifest) -> int:
        """Each is continued once more, now that the next one is complete, and not again; then the newest, so that it has what
        they have. No moment is missing between the last one of these and the first one of that, which comes when all rows are
        read. Returns up to when the newest has everything."""
        for each in earlier:
            with contextlib.suppress(LogNotKept):
                self._continue(each.lineage, may_be_damaged=True)
            self._lineage_file(each.lineage).unlink(missing_ok=True)
        if earlier:
            newest, _ = self._continue(newest.lineage)
        return newest.ended_ms

    def _add_records(
        self, lineage: str, base: dict[int, int], positions: dict[str, int], rows: list[Piece], number: int, parent: str,
        seqs: dict[int, int], began_ms: int,
    ) -> Manifest:  # fmt: skip
        commits, positions, records = Commits(seqs), dict(positions), []
        ended_ms = self._now_ms()  # What is committed later may be there, too.
        for stretch in stretches(self._source.path, positions):
            self._progress(f"log {stretch.log}", 0.0)
            records += self._back_up_records(lineage, stretch, positions.get(stretch.log, 0), commits)
            positions[stretch.log] = max(stretch.last, positions.get(stretch.log, 0))
        source = self._source
        return Manifest(
            FORMAT, lineage, number, parent, source.version, source.shards, source.starts, began_ms, ended_ms,
            self._now_ms(), base, commits.seqs, positions, rows, records, _access(source.path),
        )  # fmt: skip

    def _finish(self, manifest: Manifest, *, once: bool) -> None:
        data = encode_manifest(manifest)
        name = manifest_name(manifest.lineage, manifest.number)
        self._depot.put(name, data)
        if self._depot.get(name) != data:
            raise self._not_as_put(name)
        if once:
            self._lineage_file(manifest.lineage).unlink(missing_ok=True)
        else:
            self._note(KeptLineage(manifest.lineage, self._depot.place, self._now_ms(), manifest.positions))
        self._remove_fetched()

    def _delete_old(self, keep: int) -> None:
        """Lineages but the newest; first what makes each a backup. Also what was begun long ago and nobody goes on with."""
        if not keep:
            return
        names = self._depot.list()
        complete = list(lineages_in(names))
        begun = {name.partition("/")[0] for name in names} - {*complete, *(each.lineage for each in self._lineages())}
        long_ago = _beginning(self._now_ms() - CONTINUED_MS_MAX)
        left = [lineage for lineage in sorted(begun) if _LINEAGE.fullmatch(lineage) and lineage < long_ago]
        for lineage in [*complete[:-keep], *left]:
            of_lineage = [name for name in names if name.startswith(f"{lineage}/")]
            for name in sorted(of_lineage, key=lambda name: not name.endswith(".json")):
                self._depot.delete(name)

    def _remove_fetched(self) -> None:
        """What every lineage has got. Where none is left the log is not kept any longer; one that nobody has continued for a week
        does not count, or the log would be given up for all in the end."""
        for each in self._lineages():
            if self._now_ms() - each.at_ms > (CONTINUED_MS_MAX if each.positions else FINISHED_MS_MAX):
                self._lineage_file(each.lineage).unlink(missing_ok=True)
        if self._stop_keeping():
            return
        lineages = self._lineages()
        for segment in shipped(self._source.path):
            if all(segment.last <= each.positions.get(segment.log, 0) for each in lineages):
                with contextlib.suppress(FileNotFoundError):
                    segment.path.unlink()

    def _back_up_rows(self, lineage: str, shard: int, there: set[str]) -> tuple[int, list[Piece]]:
        """The sequence from which on its records are wanted, and the pieces."""
        what = f"shard {shard} of {self._source.shards}"
        self._progress(what, 0.0)
        begun, pieces = self._take_over(lineage, shard, there)
        after, seq = (begun.last, begun.seq) if begun is not None else (b"", -1)
        if begun is not None and begun.ends:
            return seq, pieces
        try:
            with LiveRows(state_path(self._source.path, shard), shard) as live:
                seq = live.seq if begun is None else seq
                done = sum(piece.bytes for piece in pieces)
                for flat, last, ends in _in_pieces(live.leaves(after), self._piece_bytes):
                    header = RowsHeader(lineage, shard, len(pieces), seq, len(flat) // 2, last, ends)
                    pieces.append(self._put(rows_name(lineage, shard, len(pieces)), header, flat))
                    done += self._piece_bytes
                    self._progress(what, min(0.99, done / max(1, live.size_bytes)))
        except OSError as error:
            hint = "start the service once, or check the disk"
            raise OperatorError("back up", f"shard {shard}", error.strerror or str(error), hint) from error
        return seq, pieces

    def _take_over(self, lineage: str, shard: int, there: set[str]) -> tuple[RowsHeader | None, list[Piece]]:
        """Whole pieces that an interrupted run has put, and the header of the last one."""
        pieces: list[Piece] = []
        header: RowsHeader | None = None
        while (name := rows_name(lineage, shard, len(pieces))) in there:
            data = self._depot.get(name) or b""
            try:
                found, _ = decode_piece(data)
            except PieceDamaged:
                break
            if not isinstance(found, RowsHeader) or (found.lineage, found.shard, found.number) != (lineage, shard, len(pieces)):
                break
            header = found
            self._rows += found.rows
            self._pieces += 1
            self._kept += 1
            pieces.append(Piece(name, len(data), hashlib.sha256(data).hexdigest()))
        return header, pieces

    def _back_up_records(self, lineage: str, stretch: Stretch, position: int, commits: Commits) -> list[Piece]:
        """Those beyond the position that any shard still needs."""
        if stretch.prologue and stretch.last > position:
            commits.had_got_to(_known_at(stretch, position), f"log {stretch.log}, record {stretch.first}")
        pieces, flat, size = [], [], 0
        for at, record in enumerate(stretch.records, stretch.first):
            if at <= position:
                continue
            found = decode_unread_record(record)
            place = f"log {stretch.log}, record {at}"
            if commits.take([(each.shard, each.seq) for each in found.shards], place):
                flat += [at, record]
                size += len(record) + _ROW_BYTES
            if size >= self._piece_bytes:
                pieces.append(self._put_records(lineage, stretch.log, flat))
                flat, size = [], 0
        if flat:
            pieces.append(self._put_records(lineage, stretch.log, flat))
        return pieces

    def _put_records(self, lineage: str, log: str, flat: list[Any]) -> Piece:
        header = RecordsHeader(lineage, log, flat[0], flat[-2], len(flat) // 2)
        return self._put(records_name(lineage, log, flat[0]), header, flat)

    def _put(self, name: str, header: Header, flat: list[Any]) -> Piece:
        data = encode_piece(header, flat)
        self._depot.put(name, data)
        digest = hashlib.sha256(data).hexdigest()
        if hashlib.sha256(self._depot.get(name) or b"").hexdigest() != digest:
            raise self._not_as_put(name)
        if isinstance(header, RowsHeader):
            self._rows += header.rows
        else:
            self._records += header.records
        self._pieces += 1
        self._bytes += len(data)
        self._throttle.took(sum(len(each) for each in flat[1::2]))
        return Piece(name, len(data), digest)

    def _not_as_put(self, name: str) -> OperatorError:
        hint = "check that disk or store, and run the same command again"
        return OperatorError("read back", f"{self._depot.place}/{name}", "it is not what was written", hint)


def _beginning(at_ms: int) -> str:
    """Of the name of a lineage: names sort by time."""
    seconds, ms = divmod(at_ms, 1000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{ms:03}Z-"


def _in_pieces(leaves: Iterator[list[tuple[bytes, bytes]]], piece_bytes: int) -> Iterator[tuple[list[bytes], bytes, bool]]:
    """Keys and values for one piece, the last key, and whether it is the last piece. There is one, at least."""
    flat: list[bytes] = []
    size = 0
    for rows in leaves:
        if size >= piece_bytes:
            yield flat, flat[-2], False
            flat, size = [], 0
        for key, value in rows:
            if not key.startswith(NAMES_KEY):  # The index of names is made anew where it is restored.
                flat += (key, value)
                size += len(key) + len(value) + _ROW_BYTES
    yield flat, flat[-2] if flat else b"", True


def _known_at(stretch: Stretch, position: int) -> dict[int, int]:
    """What the prologue says, if nothing of the stretch is known yet."""
    return decode_seqs(stretch.prologue) if position < stretch.first else {}


def _access(data: Path) -> str:
    try:
        return (data / "access.json").read_text()
    except FileNotFoundError:
        return ""
