"""`tidegate check`, `repair` and `compact`, over the data of a real service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.damage import flip_bit, places_of_rows
from tests.support.data_directory import make_data_directory, state_file
from tests.support.service_process import running
from tidegate.runtime.cli.cli import main
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.shard.offline.repair import salvage_of

APP = """
from datetime import timedelta
from tidegate import DurableObject

class Counter(DurableObject):
    async def add(self, number: int) -> int:
        value = await self.storage.get("sum", 0) + number
        await self.storage.put("sum", value)
        return value

    async def wake(self) -> None:
        await self.storage.set_alarm(timedelta(days=30))

    async def alarm(self, info: object) -> None:
        pass
"""
SERVE = ["-P", "-m", "tidegate", "serve", "app.py", "--listen", "tcp://127.0.0.1:0", "--workers", "1", "--data", "data"]
ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"c{number}" for number in range(64)]


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Of a service that was stopped."""
    (tmp_path / "app.py").write_text(APP)
    data = tmp_path / "data"
    with running(SERVE, cwd=str(tmp_path)) as service:
        with connect_sync(service.wait_for(r"is ready on (\S+)")[1]) as client:
            for name in NAMES:
                client.stub("Counter", name).add(7)
                client.stub("Counter", name).wake()
        for command in (["check"], ["repair", "--shard", "0"], ["compact"]):
            assert main([command[0], str(data), *command[1:]]) == 1
            said = capsys.readouterr().err
            assert "in use by the service with pid" in said
            assert "--data" not in said, "these have no such option"
        assert service.stop() == 0
    return data


def sums(data: Path) -> list[int]:
    with running(SERVE, cwd=str(data.parent)) as service:
        with connect_sync(service.wait_for(r"is ready on (\S+)")[1]) as client:
            found = [client.stub("Counter", name).add(0) for name in NAMES]
        assert service.stop() == 0
    return found


def damaged_shard(data: Path) -> tuple[int, Path]:
    """One that has a counter, in the middle of whose sum a bit was flipped."""
    for shard in range(64):
        file = data / "shards" / f"{shard:04d}" / "data.mdb"
        place = next((place for key, place in places_of_rows(file).items() if key.endswith(b"sum")), None)
        if place is not None:
            flip_bit(file, place + 16 + len("sum"), 1)
            return shard, file
    raise AssertionError("no shard has a counter")


def test_a_flipped_bit_is_found_mended_and_the_service_serves_what_was_there(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(data)]) == 0
    assert "64 objects, " in capsys.readouterr().out
    shard, file = damaged_shard(data)
    damaged = file.read_bytes()
    assert main(["check", str(data)]) == 1
    said = capsys.readouterr().out
    assert f"PROBLEM shard {shard} ({file.parent}): page" in said
    assert f"tidegate repair {data} --shard {shard}" in said
    assert main(["check", str(data), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [problem["shard"] for problem in found["problems"]] == [shard]

    assert main(["repair", str(data), "--shard", str(shard)]) == 0
    said = capsys.readouterr().out
    assert "mended: 1 row" in said
    assert "nothing was changed; to do it: tidegate repair" in said
    assert file.read_bytes() == damaged
    assert main(["repair", str(data), "--shard", str(shard), "--yes", "--json"]) == 0
    repaired = json.loads(capsys.readouterr().out)
    assert (repaired["losses"], repaired["lost_rows"]) == ([], 0)
    assert Path(repaired["damaged_file"]).read_bytes() == damaged
    assert main(["check", str(data)]) == 0
    assert sums(data) == [7] * len(NAMES)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit, of util-linux")
def test_a_repair_for_which_room_ends_behind_the_new_file_says_what_is_done_and_a_second_one_does_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that nothing was changed, and the damaged file was another one already."""
    data, twin, shard = tmp_path / "data", tmp_path / "twin", 1
    make_data_directory(data)
    file = state_file(data, shard)
    flip_bit(file, next(place for key, place in places_of_rows(file).items() if key.endswith(b"k1")) + 20, 1)
    damaged = file.read_bytes()
    shutil.copytree(data, twin)
    with closing(salvage_of(twin, shard)) as salvage:
        salvage.write(salvage.plan().applied_seq)
    room = state_file(twin, shard).stat().st_size  # No file may grow beyond.
    command = [
        "prlimit",
        f"--fsize={room}",
        sys.executable,
        "-m",
        "tidegate",
        "repair",
        str(data),
        "--shard",
        str(shard),
        "--yes",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout
    assert "nothing was changed" not in done.stderr
    (aside,) = file.parent.glob("data.mdb.damaged-*")
    assert aside.read_bytes() == damaged
    assert f"the damaged one is kept as {aside}; what the logs have beside it is not taken yet" in done.stderr
    assert done.stderr.endswith("and give the command again)\n")
    assert main(["repair", str(data), "--shard", str(shard), "--yes"]) == 0
    assert main(["check", str(data)]) == 0, capsys.readouterr().out


def test_compact_prints_the_sizes_and_changes_no_value(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", str(data), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert all(0 < each["after_bytes"] <= each["before_bytes"] for each in done["shards"])
    assert main(["compact", str(data)]) == 0
    assert "MiB of states, now" in capsys.readouterr().out
    assert sums(data) == [7] * len(NAMES)


def test_what_is_no_data_directory_is_refused_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["check"], ["repair", "--shard", "0"], ["compact"]):
        assert main([command[0], str(tmp_path / "none"), *command[1:]]) == 1
        assert "there is no such directory" in capsys.readouterr().err
        assert main([command[0], str(tmp_path), *command[1:]]) == 1
        assert "it holds no tidegate.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_is_not_there_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", str(data), "--shard", "999"]) == 2
    assert "has shards 0 to" in capsys.readouterr().err


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m", "tidegate")
"""Root obeys permissions, too, so."""


def refused(*arguments: str) -> str:
    done = subprocess.run([*WITHOUT_RIGHTS, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of util-linux")
@pytest.mark.parametrize("closed", ["", "tidegate.json", "lock", "shards/0000", "shards/0000/data.mdb", "log"])
def test_what_may_not_be_read_is_no_damage_and_no_repair_writes_it_off(data: Path, closed: str) -> None:
    (data / closed).chmod(0)
    try:
        for command in (["check"], ["repair", "--shard", "0", "--yes"], *([] if closed == "log" else [["compact"]])):
            said = refused(command[0], str(data), *command[1:])
            assert "Permission denied" in said
            assert "the user who runs the service)" in said
    finally:
        (data / closed).chmod(0o700)
    assert main(["check", str(data)]) == 0


@pytest.mark.root
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_backup_on_a_read_only_file_system_can_be_checked(data: Path, *, has_lock: bool) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting needs root and unshare")
    if not has_lock:
        (data / "lock").unlink()
    read_only = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", read_only, "sh", str(data), sys.executable, "-m", "tidegate"]
    done = subprocess.run([*command, "check", str(data)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "everything is whole" in done.stdout
    done = subprocess.run([*command, "compact", str(data)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_a_refusal_speaks_of_the_command_that_was_given(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (data.parent, data.parent / "none", data / "tidegate.json", data / "tidegate.json" / "deeper"):
        assert main(["check", str(place)]) == 1
        said = capsys.readouterr().err
        assert said.endswith("(name the one that the service was given with --data)\n"), said
