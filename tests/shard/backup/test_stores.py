"""shard/backup/stores.py: a depot behind a server that speaks S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backup_world import BackupWorld, known_in, small
from tests.support.data_directory import SHARDS, make_data_directory
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.places import open_depot

KEY, SECRET = "operator", "a secret of the tests"
RCLONE = Path(sys.executable).with_name("rclone")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """In a server of its own, which keeps it in a folder."""
    (tmp_path / "buckets" / "shop").mkdir(parents=True)
    port = free_port()
    command = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command.append(str(tmp_path / "buckets"))
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stderr=log, env={**os.environ, "HOME": str(tmp_path)})
    try:
        wait_until(lambda: "Starting s3 server" in (tmp_path / "server.log").read_text(), "the server to listen")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield "s3://shop/backups/of it"
    finally:
        server.terminate()
        server.wait()


def test_what_is_put_is_there_under_its_name_until_it_is_deleted(bucket: str, tmp_path: Path) -> None:
    depot = open_depot(bucket)
    assert depot.list() == []
    assert depot.get("lineage/one") is None
    depot.put("lineage/two", b"2")
    depot.put("lineage/one", large := os.urandom(20 << 20))
    depot.put("other/one", b"3")
    before = depot.stamps()
    depot.put("other/one", b"3 again")
    assert {name for name, stamp in depot.stamps().items() if stamp != before[name]} == {"other/one"}
    assert depot.list() == ["lineage/one", "lineage/two", "other/one"]
    assert depot.list("lineage/") == ["lineage/one", "lineage/two"]
    assert depot.get("lineage/one") == large
    assert depot.get("other/one") == b"3 again"
    depot.delete("lineage/one")
    assert depot.list("lineage/") == ["lineage/two"]
    assert (tmp_path / "buckets" / "shop" / "backups").is_dir()


def test_backups_are_made_continued_and_restored(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    world = BackupWorld(tmp_path / "data", open_depot(bucket), seed=2)
    world.commit(200)
    assert world.back_up().number == 1
    world.commit(100)
    world.checkpoint()
    assert world.back_up().number == 2
    world.stop()
    world.restore(tmp_path / "new", None)
    assert [known_in(tmp_path / "new", shard) for shard in range(2)] == world.expected(world.now_ms)
    world.close()


def test_the_commands_take_it_as_a_place(bucket: str, tmp_path: Path) -> None:
    make_data_directory(tmp_path / "data")
    for arguments in (["backup", bucket, "--data", tmp_path / "data"], ["restore", bucket, "--data", tmp_path / "new"]):
        command = [sys.executable, "-m", "tidegate", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards"] == SHARDS


def test_a_wrong_key_a_bucket_that_is_not_there_and_a_server_that_is_down_are_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperatorError, match="AWS_ENDPOINT_URL"):
        open_depot("s3://nowhere/x").put("lineage/one", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(OperatorError, match="look into s3://shop"):
        open_depot(bucket).list()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(OperatorError, match="AWS_ENDPOINT_URL"):
        open_depot(bucket).get("lineage/one")


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(OperatorError, match=r"pip install 'tidegate\[s3\]'"):
        open_depot("s3://shop/x")
