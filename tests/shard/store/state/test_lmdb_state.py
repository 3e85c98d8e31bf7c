"""shard/store/state/lmdb_state.py: the LMDB environment of a shard. The tests of reading and batches run over `MemoryState` too,
so that both keep the same promises."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random

import lmdb
import pytest

from tests.support.damage import PAGE, ROWS, flip_bit, forget_newest_commit, object_row, places_of_rows, write_state
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import object_key
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.store.interface import ShardDamaged
from tidegate.shard.store.names import OWN_FIRST, NameChanges
from tidegate.shard.store.state.lmdb_state import LmdbState, _failure
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.state.pages import PAGE_HEADER_BYTES
from tidegate.shard.store.store import ShardState, StoreFailed, StoreFull

LOW, HIGH = b"", b"\xfe"


@pytest.fixture(params=["lmdb", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardState]:
    if request.param == "memory":
        yield MemoryState(3)
        return
    state = LmdbState(tmp_path / "shards" / "0003", 3)
    yield state
    state.close()


def put(state: ShardState, rows: dict[bytes, bytes], seq: int | None = None) -> None:
    batch = state.begin()
    batch.put_many(sorted(rows.items()))
    if seq is not None:
        batch.set_applied_seq(seq)
    batch.commit()


def test_a_new_state_is_empty(state: ShardState) -> None:
    assert state.shard == 3
    assert state.applied_seq == 0
    assert state.get(b"a") is None
    assert list(state.scan(LOW, HIGH, False)) == []
    assert list(state.scan(LOW, HIGH, True)) == []


def test_a_batch_is_seen_when_it_is_committed_and_not_before(state: ShardState) -> None:
    batch = state.begin()
    batch.put_many([(b"a", b"1"), (b"b", b"2")])
    batch.set_applied_seq(9)
    assert (state.get(b"a"), state.applied_seq) == (None, 0)
    batch.commit()
    assert (state.get(b"a"), state.get(b"b"), state.applied_seq) == (b"1", b"2", 9)


@pytest.mark.parametrize("seed", range(4))
def test_whenever_it_is_read_it_is_as_the_newest_commit_left_it(state: ShardState, seed: int) -> None:
    """Now before a commit and now after it, while a batch is open or none, and after many commits without a read: their pages
    have been written over by then."""
    random, rows = Random(seed), dict[bytes, bytes]()

    def look() -> None:
        for _ in range(random.choice((0, 0, 1, 5))):
            key = b"%016d" % random.randrange(150)
            assert state.get(key) == rows.get(key)

    for seq in range(1, 200):
        look()
        batch = state.begin()
        newer = {b"%016d" % random.randrange(150): random.randbytes(random.choice((10, 700, 5_000))) for _ in range(8)}
        batch.put_many(sorted(newer.items()))
        batch.set_applied_seq(seq)
        look()
        if random.random() < 0.2:
            batch.abort()
        else:
            batch.commit()
            rows.update(newer)
    look()


def first_other(these: Sequence[object], those: Sequence[object]) -> int | None:
    """Where two sequences part, which would take minutes to print."""
    pairs = enumerate(zip_longest(these, those))
    return next((number for number, (this, that) in pairs if this != that), None)


def neighbours(random: Random, keys: list[bytes]) -> list[bytes]:
    """Some that lie in the same pages."""
    first = random.randrange(len(keys))
    return keys[first : first + random.choice((1, 4, 200))]


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_puts_between_deletes_leaves_what_a_dict_would_have(state: ShardState, seed: int) -> None:
    """Deletes empty pages and merge them with others, puts part them again: whatever a batch keeps meanwhile has to follow."""
    random, rows = Random(seed), dict[bytes, bytes]()
    headers = {object_key("Box", str(number)): encode_header(Header("Box", str(number))) for number in range(150)}
    keys = sorted([key + b"row%d" % nth for key in headers for nth in range(10)] + list(headers))

    def write(key: bytes) -> bytes:
        return headers.get(key) or random.randbytes(random.choice((10, 300, 700, 5_000)))

    for seq in range(1, 4):
        batch, newer = state.begin(), dict(rows)
        for _ in range(80):
            some = neighbours(random, keys)
            change = random.random()
            if change < 0.5:
                puts = [(key, write(key)) for key in some]
                batch.put_many(puts)
                newer.update(puts)
            elif change < 0.8:
                batch.delete_many(some)
                for key in some:
                    newer.pop(key, None)
            elif change < 0.9:
                keys_max = random.choice((1, 100, 2_000))
                found = [key for key in keys if key in newer and some[0] <= key < some[-1]]
                assert batch.delete_range(some[0], some[-1], keys_max) == (len(found) <= keys_max)
                for key in found[:keys_max]:
                    del newer[key]
            else:
                batch.change_names(random.choice((1, 50)))
        batch.set_applied_seq(seq)
        if seq == 2:
            batch.abort()
        else:
            batch.commit()
            rows = newer
        there = list(state.scan(LOW, OWN_FIRST, False))
        backwards = list(state.scan(LOW, OWN_FIRST, True))
        assert first_other([key for key, _ in there], sorted(rows)) is None
        assert first_other(there, sorted(rows.items())) is None
        assert first_other(backwards, there[::-1]) is None
        assert [key for key in keys if state.get(key) != rows.get(key)] == []
        assert state.names.counts == {"Box": len(headers.keys() & rows)}


def test_an_aborted_batch_leaves_nothing(state: ShardState) -> None:
    put(state, {b"a": b"1"}, 1)
    batch = state.begin()
    batch.put_many([(b"a", b"2")])
    batch.delete_many([b"a"])
    batch.set_applied_seq(2)
    batch.abort()
    assert (state.get(b"a"), state.applied_seq) == (b"1", 1)


def test_a_scan_includes_its_start_excludes_its_end_and_goes_both_ways(state: ShardState) -> None:
    put(state, {bytes([letter]): b"x" for letter in b"abcdef"}, 1)
    assert [key for key, _ in state.scan(b"b", b"e", False)] == [b"b", b"c", b"d"]
    assert [key for key, _ in state.scan(b"b", b"e", True)] == [b"d", b"c", b"b"]
    assert [key for key, _ in state.scan(b"bb", b"dd", True)] == [b"d", b"c"]
    assert [key for key, _ in state.scan(b"e", b"z", True)] == [b"f", b"e"]
    assert list(state.scan(b"x", b"z", False)) == []
    assert list(state.scan(b"0", b"1", True)) == []


def test_the_states_own_key_is_in_no_objects_range(state: ShardState) -> None:
    put(state, {b"\x3f\xff" + b"k" * 14 + b"a": b"1"}, 1)
    object_key = b"\x3f\xff" + b"k" * 14
    assert [value for _, value in state.scan(object_key, object_key + b"\xff", True)] == [b"1"]


def test_a_range_is_deleted_in_pieces(state: ShardState) -> None:
    put(state, {b"%03d" % number: b"" for number in range(10)}, 1)
    batch = state.begin()
    done = [batch.delete_range(b"002", b"008", 4), batch.delete_range(b"002", b"008", 4)]
    batch.commit()
    assert done == [False, True]
    assert [key for key, _ in state.scan(LOW, HIGH, False)] == [b"000", b"001", b"008", b"009"]


def test_a_range_up_to_the_last_row_can_be_deleted(state: ShardState) -> None:
    put(state, {b"a": b"", b"b": b""})
    batch = state.begin()
    assert batch.delete_range(b"a", b"z", 2)
    assert batch.delete_range(b"a", b"z", 2)
    batch.commit()
    assert list(state.scan(LOW, HIGH, False)) == []


def test_deleting_what_is_not_there_is_no_error(state: ShardState) -> None:
    batch = state.begin()
    batch.delete_many([b"a"])
    batch.commit()
    assert state.get(b"a") is None


def test_an_abandoned_scan_does_not_disturb_the_next_commits(state: ShardState) -> None:
    put(state, {b"a": b"1", b"b": b"1"})
    rows = state.scan(LOW, HIGH, False)
    next(rows)
    rows.close()
    put(state, {b"a": b"2"})
    assert state.get(b"a") == b"2"


def test_a_commit_may_run_in_another_thread(state: ShardState) -> None:
    batch = state.begin()
    batch.put_many([(b"a", b"1")])
    batch.set_applied_seq(4)
    thread = threading.Thread(target=batch.commit)
    thread.start()
    thread.join()
    assert (state.get(b"a"), state.applied_seq) == (b"1", 4)


# LMDB only


def test_a_reopened_state_has_its_rows_and_sequence(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 1)
    put(state, {b"a": b"1"}, 77)
    state.close()
    again = LmdbState(tmp_path, 1)
    assert (again.get(b"a"), again.applied_seq) == (b"1", 77)
    again.close()


def test_a_state_of_another_shard_is_refused(tmp_path: Path) -> None:
    LmdbState(tmp_path, 1).close()
    with pytest.raises(OperatorError, match="it holds shard 1"):
        LmdbState(tmp_path, 2)


def test_a_state_of_an_unknown_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.shard.store.state.data_file.FORMAT", 7)
    LmdbState(tmp_path, 1).close()
    monkeypatch.undo()
    with pytest.raises(OperatorError, match="format 7 is unknown"):
        LmdbState(tmp_path, 1)


def test_a_file_that_is_no_environment_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 2000)
    with pytest.raises(OperatorError, match=f"read store {tmp_path}: page 0: it is no meta page"):
        LmdbState(tmp_path, 1)


def test_a_full_map_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 1, map_bytes=1 << 20)
    put(state, {b"a": b"1"}, 1)
    batch = state.begin()
    with pytest.raises(StoreFull, match="the map is full"):
        batch.put_many([(b"key%d" % number, b"x" * 4000) for number in range(1000)])
    batch.abort()
    assert (state.get(b"a"), state.applied_seq) == (b"1", 1)
    put(state, {b"b": b"2"}, 2)
    assert state.get(b"b") == b"2"
    state.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_without_room_is_told_from_a_broken_one_by_its_text_where_errors_have_no_code(tmp_path: Path, number: int) -> None:
    for error in (OSError(number, os.strerror(number)), lmdb.Error(f"mdb_txn_commit: {os.strerror(number)}")):
        if isinstance(error, lmdb.Error):
            error.code = None  # type: ignore[misc, assignment]  # as older versions of lmdb
        assert isinstance(_failure("checkpoint into", tmp_path, error), StoreFull)
    assert isinstance(_failure("checkpoint into", tmp_path, lmdb.DiskError("mdb_put: ?")), StoreFull)
    broken = _failure("checkpoint into", tmp_path, lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}"))
    assert isinstance(broken, StoreFailed)


def test_a_snapshot_is_of_the_moment_it_was_taken_whatever_the_batch_at_hand_commits(state: ShardState) -> None:
    """A reader's thread uses it; the loop thread goes on reading, and the helper thread commits meanwhile."""
    rows = {b"%05d" % number: b"old" * 50 for number in range(5000)}
    for seq in range(1, 4):  # There are freed pages to be used again.
        put(state, rows, seq)
    batch = state.begin()
    batch.put_many([(key, b"new" * 50) for key in sorted(rows)])
    snapshot = state.snapshot()
    found: list[object] = []

    def read() -> None:
        found.append({snapshot.get(key) for key in rows})
        found.append([key for key, _ in snapshot.scan(b"00010", b"00013", True)])
        snapshot.close()

    batch.commit()
    assert state.get(b"00001") == b"new" * 50
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == [{b"old" * 50}, [b"00012", b"00011", b"00010"]]
    put(state, {b"a": b"1"}, 5)
    assert state.get(b"00001") == b"new" * 50


def test_a_scan_that_is_open_across_one_commit_reads_its_own_snapshot(tmp_path: Path) -> None:
    """The loop thread may scan while the helper thread commits; the next batch begins on the loop thread, after the scan."""
    state = LmdbState(tmp_path, 1)
    put(state, {b"%05d" % number: b"old" * 50 for number in range(5000)}, 1)
    batch = state.begin()
    batch.put_many([(b"%05d" % number, b"new" * 50) for number in range(5000)])
    rows = state.scan(LOW, HIGH, False)
    first = [next(rows) for _ in range(100)]
    batch.commit()
    assert {value for _, value in [*first, *rows]} == {b"old" * 50}
    assert {value for _, value in state.scan(LOW, HIGH, False)} == {b"new" * 50}
    state.close()


def test_reads_leave_no_page_pinned(tmp_path: Path) -> None:
    """One reader left open pins what later commits free, and the file grows without bound."""
    state = LmdbState(tmp_path, 1)

    def commit_and_read(rounds: int) -> int:
        for number in range(rounds):
            put(state, {b"%04d" % key: b"%d" % number * 20 for key in range(200)}, number)
            state.get(b"0001")
            rows = state.scan(LOW, HIGH, False)
            next(rows)
            rows.close()
        return int(state._env.info()["last_pgno"])

    settled = commit_and_read(10)
    assert commit_and_read(30) <= settled + 5
    state.close()


def test_a_system_that_grants_little_address_space_gets_a_smaller_map(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib; resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))\n"
        "from tidegate.shard.store.state.lmdb_state import LmdbState\n"
        "state = LmdbState(pathlib.Path(sys.argv[1]), 1)\n"
        "print(state.applied_seq)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_an_older_binding_without_the_format_parameter_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., lmdb.Environment] = lmdb.open

    def older(path: str, map_size: int, **options: object) -> lmdb.Environment:
        if "lib_version" in options:
            raise TypeError("'lib_version' is an invalid keyword argument")
        return real(path, map_size=map_size, **options)

    monkeypatch.setattr(lmdb, "open", older)
    state = LmdbState(tmp_path, 1)
    put(state, {b"a": b"1"}, 1)
    assert state.get(b"a") == b"1"
    state.close()


def test_new_files_and_the_names_on_the_way_to_them_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    place = tmp_path / "shards" / "0001"
    LmdbState(place, 1).close()
    assert {str(place / "data.mdb"), str(place), str(place.parent), str(tmp_path)} <= set(synced)
    synced.clear()
    LmdbState(place, 1).close()
    assert synced == [str(place)], "a process before may have put a smaller file there, and ended"


# What the disk has changed


def test_a_value_of_which_a_bit_was_flipped_is_never_returned(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 1)
    put(state, {b"\x01%015dkey" % number: b"value of a row" for number in range(50)}, 1)
    state.close()
    place = (tmp_path / "data.mdb").read_bytes().rindex(b"value of a row")
    flip_bit(tmp_path / "data.mdb", place + 3, 1)
    with pytest.raises(ShardDamaged, match=r"page \d+: the checksum of row \d+ of it is wrong.*tidegate repair --shard 1"):
        LmdbState(tmp_path, 1)


@pytest.mark.parametrize("pages", [0.5, 2, 5])
def test_a_file_that_was_cut_short_refuses_its_shard_and_ends_no_process(tmp_path: Path, pages: float) -> None:
    held = write_state(tmp_path, Random(1))
    os.truncate(tmp_path / "data.mdb", int(pages * PAGE))
    program = (
        "import pathlib, sys\n"
        "from tidegate.shard.store.state.lmdb_state import LmdbState\n"
        "state = LmdbState(pathlib.Path(sys.argv[1]), 1)\n"
        "list(state.scan(b'', b'\\xfe', False))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert held
    assert (done.returncode, "ShardDamaged" in done.stderr) == (1, True), done


def test_a_large_file_is_not_looked_through_but_what_is_read_of_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits are flipped in rows, so in leaves: in the page's own numbers and above, only looking through all of it tells."""
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)
    random = Random(3)
    held = write_state(tmp_path, random)
    file = tmp_path / "data.mdb"
    keys = [object_row(number) for number in range(ROWS)]
    objects = sorted({key[:16] for key in keys})
    whole = file.read_bytes()
    rows_at = places_of_rows(file)
    places = [rows_at[key] + random.randrange(len(key) + len(value)) for key, value in held.items() if key in rows_at]
    detected = harmless = 0
    for place in random.sample(places, 150):
        flip_bit(file, place, random.randrange(8))
        state = LmdbState(tmp_path, 1)
        try:
            assert {key: value for key in random.sample(keys, len(keys)) if (value := state.get(key)) is not None} == held
            for reverse in (False, True):
                rows = [row for key in objects for row in state.scan(key, key + b"\xff", reverse)]
                assert dict(rows) == held
            harmless += 1
        except ShardDamaged:
            detected += 1
        finally:
            state.close()
        file.write_bytes(whole)
    print(f"{detected} detected, {harmless} harmless")
    assert (detected, harmless) == (150, 0)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_notices_that_the_first_or_last_row_of_its_range_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)
    file = tmp_path / "data.mdb"
    state = LmdbState(tmp_path, 1)
    put(state, {b"\x01%015d" % number + letter: b"v" for number in range(9) for letter in (b"a", b"b", b"c")}, 1)
    state.close()
    for letter in (b"a", b"c"):
        whole = file.read_bytes()
        place = places_of_rows(file)[b"\x01%015d" % 4 + letter]
        for byte in range(17):
            flip_bit(file, place + byte, 1)
            state = LmdbState(tmp_path, 1)
            with pytest.raises(ShardDamaged):
                list(state.scan(b"\x01%015d" % 4, b"\x01%015d\xff" % 4, reverse))
            with pytest.raises(ShardDamaged):
                state.get(b"\x01%015d" % 4 + letter)
            state.close()
            file.write_bytes(whole)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_that_comes_to_the_end_of_the_file_says_that_rows_may_be_missing(tmp_path: Path, reverse: bool) -> None:
    """The last row of all is ours: where LMDB does not find it, it may not find those before it either."""
    state = LmdbState(tmp_path, 1)
    put(state, {b"\x01%015dkey" % number: b"v" for number in range(9)}, 1)
    with state._env.begin(write=True) as txn:
        cursor = txn.cursor()
        while cursor.last() and cursor.key() >= b"\x01%015d" % 7:
            cursor.delete()
    for first in (0, 8):
        with pytest.raises(ShardDamaged, match="rows before it may be missing"):
            list(state.scan(b"\x01%015d" % first, b"\x02", reverse))
    state.close()


def test_a_state_that_goes_on_from_the_last_but_one_commit_is_refused_after_recovery(tmp_path: Path) -> None:
    write_state(tmp_path, Random(1))
    forget_newest_commit(tmp_path / "data.mdb")
    state = LmdbState(tmp_path, 1)
    assert (state.applied_seq, state.expected_seq) == (19, 20)
    with pytest.raises(ShardDamaged, match="lead to commit 19, but commit 20 was here"):
        state.check_recovered(19)
    state.check_recovered(20)
    state.close()


@pytest.mark.parametrize("bit", range(41, 64))
def test_a_file_that_wants_a_larger_map_than_there_ever_is_stops_its_shard_and_not_the_worker(tmp_path: Path, bit: int) -> None:
    """Which gets no address space for it."""
    write_state(tmp_path, Random(1))
    for page in (0, 1):
        flip_bit(tmp_path / "data.mdb", page * PAGE + PAGE_HEADER_BYTES + 16 + bit // 8, bit % 8)
    with pytest.raises(ShardDamaged, match="sizes that are never set"):
        LmdbState(tmp_path, 1)


def test_a_file_that_cannot_be_read_now_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, Random(1))

    def fails(path: Path, *args: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("tidegate.shard.store.state.lmdb_state.PageFile", fails)
    with pytest.raises(StoreFailed, match="Input/output error"):
        LmdbState(tmp_path, 1)


def test_what_lmdb_finds_damaged_while_it_writes_is_damage_and_no_passing_failure(tmp_path: Path) -> None:
    class Damaged:
        def commit(self) -> None:
            raise lmdb.CorruptedError("mdb_txn_commit: MDB_CORRUPTED: Located page was wrong type")

        def abort(self) -> None:
            pass

    state = LmdbState(tmp_path, 1)
    batch = state.begin()
    batch.abort()
    batch._txn = Damaged()  # type: ignore[assignment]  # all that a commit asks of it
    with pytest.raises(ShardDamaged, match="MDB_CORRUPTED"):
        batch.commit()
    state.close()


@pytest.mark.parametrize("what", ["names", "head"])
def test_a_commit_that_fails_before_its_end_leaves_no_transaction_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The error, which is kept, has kept it: no other could be begun."""
    too_long = bytes(600)
    state = LmdbState(tmp_path, 1)
    with monkeypatch.context() as patched:
        if what == "head":
            patched.setattr(NameChanges, "head", lambda names: (too_long, b""))
        else:
            patched.setattr(NameChanges, "step", lambda names, put, delete, keys_max: put(too_long, b""))
        with pytest.raises(StoreFailed) as kept:
            put(state, {object_key("Box", "a"): encode_header(Header("Box", "a"))}, 1)
    put(state, {object_key("Box", "b"): encode_header(Header("Box", "b"))}, 1)
    assert (state.names.counts, state.get(object_key("Box", "a"))) == ({"Box": 1}, None)
    assert kept.value.__traceback__ is not None
    state.close()


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_damaged_header_takes_no_other_object_out_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("tidegate.shard.store.state.data_file.STATE_VERIFY_BYTES_MAX", 0)
    headers = {object_key("Box", name): encode_header(Header("Box", name)) for name in ("a", "c")}
    state = LmdbState(tmp_path, 1)
    put(state, headers, 1)
    state.close()
    key = object_key("Box", "a")
    place = places_of_rows(tmp_path / "data.mdb")[key]
    flip_bit(tmp_path / "data.mdb", place + len(key) + headers[key].index(b"\xa1a") + 1, 1)  # It becomes "c".
    state = LmdbState(tmp_path, 1)
    batch = state.begin()
    delete = partial(batch.delete_many, [key]) if how == "deleted" else partial(batch.delete_range, key, key + b"\xff", 10)
    with pytest.raises(ShardDamaged, match="checksum"):
        delete()
    batch.abort()
    assert state.names.counts == {"Box": 2}
    state.close()
