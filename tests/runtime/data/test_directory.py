import json
import os
import stat
from pathlib import Path

import pytest

from tidegate.runtime.data.directory import describe_directory, known_cluster, open_directory, open_idle_directory
from tidegate.runtime.errors import OperatorError


def test_a_new_directory_is_private_and_described(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "a" / "data", shards_if_new=16)
    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
    assert json.loads((data.path / "tidegate.json").read_text()) == {"format": 2, "shards": 16, "starts": 1}
    assert (data.shards, data.start) == (16, 1)
    data.close()


def test_every_start_has_its_own_number_and_the_shards_never_change(tmp_path: Path) -> None:
    for start in (1, 2, 3):
        data = open_directory(tmp_path / "data", shards_if_new=2**start)
        assert (data.shards, data.start) == (2, start)
        data.close()


def test_a_refused_start_is_not_counted(tmp_path: Path) -> None:
    data = open_directory(tmp_path / "data", 8)
    with pytest.raises(OperatorError):
        open_directory(tmp_path / "data", 8)
    assert json.loads((tmp_path / "data" / "tidegate.json").read_text())["starts"] == 1
    data.close()


def test_a_directory_of_another_format_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    text = '{"format": 3, "shards": {"new": "meaning"}}'
    (tmp_path / "tidegate.json").write_text(text)
    with pytest.raises(OperatorError, match=r"format 3 is of another version of Tidegate; this one reads format 2"):
        open_directory(tmp_path, 8)
    assert (tmp_path / "tidegate.json").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1, "shards": 3, "starts": 1}',
        '{"format": 1, "shards": 8}',
        '{"format": 2, "shards": 8, "starts": -1}',
        '{"format": 2, "shards": 8, "starts": 99999999999999999999999}',
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tidegate.json").write_text(text)
    with pytest.raises(OperatorError, match="damaged"):
        open_directory(tmp_path, 8)


@pytest.mark.parametrize("name", ["tidegate.json", "lock"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    """It was told that another user should own the directory."""
    open_directory(tmp_path, 8).close()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    for opens in (lambda: open_directory(tmp_path, 8), lambda: open_idle_directory(tmp_path)):
        with pytest.raises(OperatorError, match=rf"{name}: Is a directory \(a file belongs there") as refused:
            opens()
        assert not refused.value.passes


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OperatorError, match=r"it holds thesis.txt but no tidegate.json \(choose an empty directory"):
        open_directory(tmp_path, 8)


def test_a_creation_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "tidegate.json.new").write_text("{")
    open_directory(tmp_path, 8).close()


def test_a_creation_that_was_cut_short_after_its_first_folders_is_completed_too(tmp_path: Path) -> None:
    for name in ("log", "shards"):
        (tmp_path / name).mkdir()
    open_directory(tmp_path, 8).close()
    (tmp_path / "tidegate.json").unlink()  # Lost, from a directory that holds something.
    (tmp_path / "shards" / "0000").mkdir()
    with pytest.raises(OperatorError, match="it holds shards but no"):
        open_directory(tmp_path, 8)


def test_a_place_where_no_directory_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"Not a directory \(a part of this path"):
        open_directory(tmp_path / "file" / "data", 8)


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xfcrr"))
    with pytest.raises(OperatorError, match=r"its path is not UTF-8 \(choose another with --data"):
        open_directory(path, 8)
    assert not path.exists()


def test_only_logs_of_earlier_starts_are_deleted(tmp_path: Path) -> None:
    for _ in range(3):
        open_directory(tmp_path / "data", 8).close()
    data = open_directory(tmp_path / "data", 8)
    for name in ("00000001-0000", "00000003-0007", "00000004-0000", "00000005-0000", "notes"):
        (data.path / "log" / name).mkdir()
        (data.path / "log" / name / "00000001.seg").touch()
    assert data.delete_logs_of_earlier_starts() == 2
    assert sorted(os.listdir(data.path / "log")) == ["00000004-0000", "00000005-0000", "notes"]
    data.close()


def test_a_deletion_that_was_cut_short_is_completed_at_the_next_start(tmp_path: Path) -> None:
    open_directory(tmp_path / "data", 8).close()
    (tmp_path / "data" / "log" / "deleted-00000001-0000").mkdir()
    open_directory(tmp_path / "data", 8).close()
    assert os.listdir(tmp_path / "data" / "log") == []


def test_a_cache_of_a_cluster_serves_that_cluster_only(tmp_path: Path) -> None:
    cache, plain = tmp_path / "cache", tmp_path / "plain"
    hosts = set()
    for start in (1, 2):
        data = open_directory(cache, 8, "one")
        assert (data.shards, data.start) == (8, start)
        hosts.add(data.host)
        data.close()
    (host,) = hosts
    assert len(host) == 8, "by which the other hosts of the cluster know it, for ever"
    said = {"format": 3, "shards": 8, "starts": 2, "cluster": "one", "host": host}
    assert json.loads((cache / "tidegate.json").read_text()) == said
    assert known_cluster(cache) == ("one", 8)
    data.check_cluster("one")
    with pytest.raises(OperatorError, match=r"a cache of another cluster \(one, and this is other\)"):
        data.check_cluster("other")
    assert known_cluster(plain) is None, "there is nothing"
    open_directory(plain, 8).close()
    assert known_cluster(plain) is None
    with pytest.raises(OperatorError, match=r"a cache of another cluster \(one, and this is other\)"):
        open_directory(cache, 8, "other")
    with pytest.raises(OperatorError, match="it is of a service without a cluster"):
        open_directory(plain, 8, "one")
    with pytest.raises(OperatorError, match=r"a cache of the logs of a cluster, .*; serve it with --cluster"):
        open_directory(cache, 8)
    with pytest.raises(OperatorError, match="a cache of the logs of a cluster"):
        describe_directory(cache)
    with pytest.raises(OperatorError, match="a cache of the logs of a cluster"):
        open_idle_directory(cache)
