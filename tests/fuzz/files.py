"""What an operator and an author write, wrong: configurations and modules of an app. Accepted, or the documented error."""

from __future__ import annotations

import io
import sys
import tempfile
import tokenize
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.disk import in_child
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Counts, Tick
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.supervisor.config import Sources, put_together
from tidegate.shard.objects.methods import AppError
from tidegate.shard.worker.app import load_app

ROOT = Path(__file__).resolve().parents[2]
TOML = (ROOT / "systemd" / "tidegate.toml").read_text()
LINES = [line.lstrip("# ") for line in TOML.splitlines() if line.startswith(("#", "[")) and ("=" in line or line.startswith("["))]
VALUES = ("-1", "0", "1e400", "nan", "inf", "true", '""', '"x"', "[]", "{}", "1979-05-27", "0x10", "9" * 400, "'1 GiB'", "1.5")


def configurations(chance: Random, frames: int, tick: Tick) -> Counts:
    """The example with its options set, and lines of it with other values, twice, elsewhere, or with other bytes."""
    counts, mutator = Counts(), Mutator(chance)
    for done in range(frames):
        lines = [line for line in LINES if line.startswith("[") or chance.random() < 0.1]
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(lines))
            match chance.randrange(4):
                case 0:
                    lines[at] = lines[at].partition("=")[0] + "= " + chance.choice(VALUES)
                case 1:
                    lines.insert(at, chance.choice(LINES))
                case 2:
                    lines[at] = mutator.wrong_bytes(lines[at].encode(), TOML.encode()).decode(errors="replace")
                case _:
                    del lines[at : at + chance.randrange(3)]
                    lines.append("x = 1")
        try:
            put_together(Sources("config.toml", "\n".join(lines)))
            counts["accepted"] += 1
        except OperatorError as error:
            counts["refused" if error.hint else "refused without a way out"] += 1
        if done % 100 == 0:
            tick(done)
    assert not counts["refused without a way out"]
    return counts


APP = """
from dataclasses import dataclass
from typing import Any
from msgspec import Struct
from tidegate import DurableObject

@dataclass
class Point:
    x: int
    y: float = 0.5

class Lookup(Struct):
    key: str

class Base(DurableObject):
    async def on_start(self) -> None:
        self.value = await self.storage.get("value", 0, type=int)

    async def alarm(self, info: Any) -> None:
        await self.storage.set_alarm(60)

class Shape(Base):
    async def grow(self, by: int = 1, *more: int, scale: float = 1.0) -> list[int]:
        self.value += by
        await self.storage.put("value", self.value)
        return [self.value, *more]

    async def at(self, point: Point, lookup: Lookup | None = None) -> dict[str, Point]:
        return {"at": point}

    def _private(self) -> None: ...
"""
TOKENS = [token.string for token in tokenize.generate_tokens(io.StringIO(APP).readline) if token.string.strip()]


def apps(chance: Random, frames: int, tick: Tick) -> Counts:
    """A module whose words have changed places is served, or its faults are named: `AppError`, or what the module itself raises.
    Each is loaded in a child process."""
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        path = Path(folder) / "wrong_app.py"
        for done in range(frames):
            path.write_text(_wrong_source(chance), errors="replace")
            counts[in_child(lambda: _load(path))] += 1
            tick(done + 1)
    return counts


def _wrong_source(chance: Random) -> str:
    source = APP
    for _ in range(chance.choice((1, 1, 2, 3))):
        lines = source.splitlines()
        at = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 2:
                lines[at] = lines[at].replace("async ", "", 1)
            case _:
                words = [token for token in TOKENS if token in lines[at]] or [" "]
                lines[at] = lines[at].replace(chance.choice(words), chance.choice(TOKENS), 1)
        source = "\n".join(lines)
    return source


def _load(path: Path) -> str:
    sys.stderr = io.StringIO()
    try:
        load_app(str(path))
    except AppError:
        return "refused"
    except Exception as error:  # Of the module itself: it is told with its traceback.
        if isinstance(error, SyntaxError) or not _is_ours(error):
            return "failed"
        raise AssertionError(f"{path.read_text()}\n{error!r}") from error
    return "accepted"


def _is_ours(error: Exception) -> bool:
    """Whether the rules of classes raised it, instead of naming a fault of the class."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(last).resolve().is_relative_to(ROOT / "shard" / "objects")
