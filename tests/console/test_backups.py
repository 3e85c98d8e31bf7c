"""Which backups the console knows of, beside a service that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.console.console_process import ConsoleProcess
from tests.support.service import Service
from tidegate.runtime.console.backups import KnownBackups


def back_up(shop: Service, place: Path, *options: str) -> None:
    command = [sys.executable, "-m", "tidegate", "backup", str(place), "--data", str(shop.data), *options]
    subprocess.run(command, check=True, timeout=60)


def test_backups_are_told_with_how_far_they_can_be_restored_and_what_is_damaged(shop: Service, tmp_path: Path) -> None:
    shop.call("Cart", "alice", "add", "tea")
    place = tmp_path / "backups"
    with ConsoleProcess(shop.endpoint) as console:
        assert console.ask("backups") == {"places": [], "kept_log_bytes": 0, "given_up": ""}
    back_up(shop, place)
    shop.call("Cart", "alice", "add", "tea")
    back_up(shop, place)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(subprocess.CalledProcessError):
        back_up(shop, tmp_path / "file")
    back_up(shop, tmp_path / "once", "--once")
    with ConsoleProcess(shop.endpoint) as console:
        once, told, failed = console.ask("backups")["places"]
    assert (once["place"], once["lineages"][0]["backups"], once["error"]) == (str(tmp_path / "once"), 1, "")
    assert (failed["place"], failed["lineages"], failed["at_ms"]) == (str(tmp_path / "file"), [], 0)
    assert "Not a directory" in failed["error"]
    assert failed["failed_ms"] > 0
    assert (told["place"], told["problems"], told["error"]) == (str(place), [], "")
    (lineage,) = told["lineages"]
    assert lineage["backups"] == 2
    assert lineage["from_ms"] <= lineage["until_ms"] <= told["at_ms"]
    assert lineage["bytes"] > 0
    known = KnownBackups()
    assert known.of(shop.data)["places"] == [once, told, failed]
    assert known.of(shop.data)["places"] == [once, told, failed], "from what was read before"
    (place / lineage["name"] / "000002.json").write_bytes(b"{}")
    _, told, _ = known.of(shop.data)["places"]
    assert told["lineages"] == []
    assert "000002.json" in told["problems"][0]
