"""The pictures in docs/console.md. TIDEGATE_SCREENSHOTS=1 makes them anew there; every other run makes them elsewhere."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.console.browser import Browser
from tests.console.conftest import KEEPS
from tests.console.console_process import ConsoleProcess
from tests.console.customers import Customers
from tests.support.waiting import wait_until

DOCS = Path(__file__).parents[2] / "docs"
POINTS = 50 if KEEPS else 3
"""Of the charts."""
PICTURE_BYTES_MAX = 250_000


def overview(page: Browser) -> None:
    page.wait_for("Cart/alice", "#hottest tbody tr")
    page.wait_for("Invoice/2026-11.render", "#slow")
    page.wait_for("the bank refuses card", "#errors")


def one_object(page: Browser) -> None:
    page.go("#/object/Cart/alice")
    page.wait_for("the bank refuses card 4711", "#newest-error")
    page.wait_for("Harbour Lane", "#stored")


def editor(page: Browser) -> None:
    one_object(page)
    page.click("#stored button.is-plain", "address")
    wait_until(lambda: page.all("dialog[open] textarea"), "the editor")


def alarms(page: Browser) -> None:
    page.go("#/alarms")
    page.wait_for("Invoice/2026-10/")


PICTURES: dict[str, tuple[Callable[[Browser], None], int, int, bool]] = {
    "overview-light": (overview, 1280, 1340, False),
    "overview-dark": (overview, 1280, 1340, True),
    "overview-narrow": (overview, 360, 1340, False),
    "object-light": (one_object, 1280, 760, False),
    "object-narrow-dark": (one_object, 360, 900, True),
    "editor-dark": (editor, 1280, 760, True),
    "alarms-light": (alarms, 1280, 760, False),
}


def smaller(png: bytes) -> bytes:
    """The same picture: a browser is in a hurry when it compresses."""
    chunks, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    pixels = zlib.compress(zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT")), 9)
    kept = [chunks[0], (b"IDAT", pixels), (b"IEND", b"")]
    packed = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in kept)
    return png[:8] + b"".join(packed)


@pytest.mark.timeout(400)
def test_the_page_has_pictures_of_the_console_light_dark_and_narrow(
    chromium: Browser, console: ConsoleProcess, customers: Customers, tmp_path: Path
) -> None:
    folder = DOCS / "console" if KEEPS else tmp_path
    folder.mkdir(exist_ok=True)
    wait_until(lambda: len(console.ask("overview")["points"]) >= POINTS, "points", 300, pause_s=0.5)
    for name, (go, width, height, dark) in PICTURES.items():
        chromium.open(console.link, width=width, height=height, dark=dark)
        go(chromium)
        picture = folder / f"{name}.png"
        chromium.picture(picture, whole=False)
        picture.write_bytes(smaller(picture.read_bytes()))
        assert struct.unpack_from(">II", picture.read_bytes(), 16) == (width, height)
        assert picture.stat().st_size < PICTURE_BYTES_MAX
        assert name in (DOCS / "console.md").read_text()
        assert (DOCS / "console" / f"{name}.png").exists()


def test_the_page_shows_no_other_pictures() -> None:
    assert {path.stem for path in (DOCS / "console").iterdir()} == set(PICTURES)
