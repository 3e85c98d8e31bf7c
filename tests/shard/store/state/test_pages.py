"""shard/store/state/pages.py: the pages of LMDB's data files, looked through without LMDB."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import lmdb
import pytest

from tests.support.damage import PAGE, flip_bit, object_row, write_state
from tests.support.service import FULL
from tidegate.shard.store.state.data_file import META_KEY, expected_seq, unpack_meta
from tidegate.shard.store.state.pages import Meta, PageFile, Row, Verifier, is_whole

SEED = int(os.environ.get("SEED", "7"))


def find_all(file: Path) -> list[str]:
    with PageFile(file) as pages:
        return [str(damage) for damage in Verifier(pages).run()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_state(tmp_path, Random(SEED))
    return tmp_path / "data.mdb"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("value_bytes_max", [60, 30_000])
def test_nothing_is_found_in_any_file_that_lmdb_has_written(tmp_path: Path, seed: int, value_bytes_max: int) -> None:
    held = write_state(tmp_path, Random(seed), value_bytes_max=value_bytes_max, commits=30)
    with PageFile(tmp_path / "data.mdb") as pages:
        verifier = Verifier(pages)
        assert list(verifier.run()) == []
        meta = pages.newest_meta()
        assert meta is not None
        assert verifier.rows == len(held) + 2, "what the file is, and what its index says of itself"
        assert len(verifier.free) == meta.free_pages
        assert all(verifier.reached(page) or page in verifier.free for page in range(meta.last_page + 1))


def test_the_rows_of_all_leaves_are_those_that_lmdb_finds(tmp_path: Path) -> None:
    held = write_state(tmp_path, Random(SEED), value_bytes_max=9_000)
    found: dict[bytes, bytes] = {}
    with PageFile(tmp_path / "data.mdb") as pages:
        verifier = Verifier(pages)
        assert not list(verifier.run())
        for number in range(pages.pages):
            if verifier.reached(number) and pages.is_leaf(number):
                found |= {row.key: row.value for row in pages.rows_of(number, pages.page(number)) if is_whole(row.key, row.value)}
        meta = pages.newest_meta()
        assert isinstance(meta, Meta)
        last = pages.last_row(meta)
        assert isinstance(last, Row)
        assert last.key == b"\xffstate"
    del found[b"\xffstate"], found[b"\xffnames"]
    assert {key: value[:-4] for key, value in found.items()} == held


def used_bytes(file: Path) -> Iterator[int]:
    """Offsets of bytes of pages that are in use."""
    with PageFile(file) as pages:
        verifier = Verifier(pages)
        assert not list(verifier.run())
        for number in range(pages.pages):
            if verifier.reached(number):
                yield from range(number * PAGE, (number + 1) * PAGE)


def everything(path: Path, keys: list[bytes]) -> object:
    """What LMDB says, without a look at checksums."""
    env = lmdb.open(str(path), map_size=1 << 30, max_dbs=0, lock=False, readonly=True)
    try:
        with env.begin() as txn:
            return list(txn.cursor()), [txn.get(key) for key in keys]
    finally:
        env.close()


def is_older(file: Path, seq: int) -> bool:
    """What `LmdbState.check_recovered` finds."""
    env = lmdb.open(str(file.parent), map_size=1 << 30, max_dbs=0, lock=False, readonly=True)
    with PageFile(file) as pages, env.begin() as txn:
        applied_seq = unpack_meta(txn.get(META_KEY, b"")[:-4])[2]
        assert expected_seq(pages) <= seq
        older = applied_seq < expected_seq(pages)
    env.close()
    return older


def test_a_flipped_bit_is_found_or_changes_nothing_that_lmdb_says(file: Path) -> None:
    """Where nothing was found, LMDB is asked for everything."""
    random = Random(SEED)
    whole, offsets = file.read_bytes(), list(used_bytes(file))
    keys = [object_row(number) for number in range(600)] + [b"\x01absent%d" % number for number in range(100)]
    before, seq = everything(file.parent, keys), 20
    found = harmless = 0
    for _ in range(20_000 if FULL else 600):
        offset, bit = random.choice(offsets), random.randrange(8)
        flip_bit(file, offset, bit)
        if find_all(file) or is_older(file, seq):
            found += 1
        else:
            harmless += 1
            assert everything(file.parent, keys) == before, (SEED, offset, bit)
        file.write_bytes(whole)
    print(f"{found} found, {harmless} harmless")
    assert found > 100


def test_a_file_that_ends_too_early_is_told_as_one(file: Path) -> None:
    whole, before = file.read_bytes(), everything(file.parent, [])
    for pages in (2, 3, 10, len(whole) // PAGE - 1):
        file.write_bytes(whole[: pages * PAGE])
        found = find_all(file)
        if not found:
            assert everything(file.parent, []) == before, "only pages are missing that hold nothing"
            continue
        assert any("was cut short" in each for each in found), found


def test_a_file_without_whole_meta_pages_is_told_as_one(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(PAGE))
    assert find_all(file)[0] == "page 0: it is no meta page of LMDB"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="has only 100 bytes"):
        PageFile(file)
    file.write_bytes(os.urandom(20 * PAGE))
    assert len(find_all(file)) == 2


def test_damaged_files_of_all_kinds_raise_nothing(file: Path) -> None:
    random = Random(SEED)
    whole = file.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random.choice([1, 10, 1_000])):
            data[random.randrange(len(data))] = random.randrange(256)
        first = random.randrange(len(data))
        if random.random() < 0.3:
            data[first : first + 3_000] = bytes(3_000)
        file.write_bytes(data[: random.choice([len(data), random.randrange(2 * PAGE, len(data))])])
        with PageFile(file) as pages:
            list(Verifier(pages).run())
            for number in range(pages.pages):
                list(pages.rows_of(number, pages.page(number)))
            meta = pages.newest_meta()
            assert meta is None or pages.last_row(meta) is None or meta.page in (0, 1)
    shutil.rmtree(file.parent)
