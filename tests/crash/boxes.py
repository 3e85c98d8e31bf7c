"""Objects that take room on a disk: half a megabyte each, 20 MB together."""

from __future__ import annotations

from pathlib import Path

from tests.crash.disk import Disk
from tests.support.service import Serve, Service, exchange

BOXES = """
from tidegate import DurableObject

class Box(DurableObject):
    async def fill(self, size: int, turn: int) -> int:
        await self.storage.put("content", chr(97 + turn % 26) * size)
        await self.storage.put("turn", turn)
        return turn

    async def turn(self) -> int:
        return await self.storage.get("turn", -1)
"""
BOX_NAMES = [f"b{number}" for number in range(40)]


def serve_boxes(serve: Serve, folder: Path, disk: Disk, app: str = BOXES) -> tuple[Service, dict[str, int]]:
    """A service with its data on this disk whose boxes have been filled once; with what was confirmed of each."""
    (folder / "boxes.py").write_text(app)
    service = serve(1, app=str(folder / "boxes.py"), data=disk.place / "data")
    turns: dict[str, int] = {}
    assert fill_boxes(service, 0, turns) is None
    return service, turns


def fill_boxes(service: Service, turn: int, turns: dict[str, int]) -> tuple[str, dict[str, str]] | None:
    """One after another, so that each has its own commit, until one is refused. `turns` gets what was confirmed."""
    for name in BOX_NAMES:
        status, result = exchange(service.endpoint, "Box", name, "fill", [500_000, turn], timeout_s=30)
        if status == 1:
            return name, result
        turns[name] = turn
    return None
