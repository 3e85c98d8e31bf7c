"""Which backups the console knows of, beside a service that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.console.console_process import ConsoleProcess
from tests.support.service import Service
from tidegate.runtime.console.backups import KnownBackups


def back_up(shop: Service, place: Path) -> None:
    subprocess.run([sys.executable, "-m", "tidegate", "backup", str(place), "--data", str(shop.data)], check=True, timeout=60)


def test_backups_are_told_with_how_far_they_can_be_restored_and_what_is_damaged(shop: Service, tmp_path: Path) -> None:
    shop.call("Cart", "alice", "add", "tea")
    place = tmp_path / "backups"
    with ConsoleProcess(shop.endpoint) as console:
        assert console.ask("backups") == {"places": [], "kept_log_bytes": 0, "given_up": ""}
    back_up(shop, place)
    shop.call("Cart", "alice", "add", "tea")
    back_up(shop, place)
    with ConsoleProcess(shop.endpoint) as console:
        (told,) = console.ask("backups")["places"]
    assert (told["place"], told["problems"]) == (str(place), [])
    (lineage,) = told["lineages"]
    assert lineage["backups"] == 2
    assert lineage["from_ms"] <= lineage["until_ms"] <= told["at_ms"]
    assert lineage["bytes"] > 0
    known = KnownBackups()
    assert known.of(shop.data)["places"] == [told]
    assert known.of(shop.data)["places"] == [told], "from what was read before"
    (place / lineage["name"] / "000002.json").write_bytes(b"{}")
    (told,) = known.of(shop.data)["places"]
    assert told["lineages"] == []
    assert "000002.json" in told["problems"][0]
