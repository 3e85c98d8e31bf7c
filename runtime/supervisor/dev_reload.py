"""A service in development (`serve --dev`) reloads its app when that is saved: its files are looked at four times a second.

Which files these are is known from what workers have loaded: `shard/worker/source.py` keeps the source of each module, and where
it came from. After a version that could not be loaded, the folders of these files are looked at as well: what the app lacks may
appear there.

What can be seen of a mistake in what was loaded (`runtime/lint`) is said, a line each, once for each version of a file. It
changes nothing of what runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tidegate.runtime.lint.findings import findings
from tidegate.runtime.lint.module import PACKAGE
from tidegate.runtime.supervisor.rules.edits import Edits, Stamp

LOOK_EVERY_S = 0.25

log = logging.getLogger("tidegate")


class DevReload:
    """`run`, from when the service is ready, until it is cancelled; who reloads says how it ended."""

    def __init__(self, kept: Path, reload: Callable[[], object], reloads: Callable[[], bool]) -> None:
        """`kept` has a folder for each version of the app that runs or is tried. `reloads`: whether one is on its way."""
        self._kept = kept
        self._reload = reload
        self._reloads = reloads
        self._edits = Edits({})
        self._folders: dict[str, bytes | None] = {}
        """Of the app, as they were when a reload was asked for here."""
        self._read: dict[Path, tuple[str, bytes | None] | None] = {}
        self._linted: set[tuple[str, bytes | None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time())
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self, now: float) -> None:
        """Not while a reload is on its way: it may load what was saved meanwhile, or not."""
        if self._reloads():
            return
        tried = self._edits.tried
        for path, content in self._sources().items():
            tried.setdefault(path, content)
        if changed := self._edits.looked({path: stamp(path) for path in tried}, now, digest):
            self._folders = {folder: digest(folder) for folder in _folders(tried)}
            names = ", ".join(os.path.basename(path) for path in changed if path not in self._folders)
            log.info("%s: the app is loaded again", f"{names} saved" if names else "there is a new file")
            self._reload()

    def ended(self, *, failed: bool) -> None:
        """A reload, whoever asked for it. Said while what it has tried is still kept."""
        tried = self._sources(newest=True)
        if failed:
            tried = {**self._edits.tried, **tried}
            tried |= {folder: self._folders.get(folder) or digest(folder) for folder in _folders(tried)}
        self._edits, self._folders = Edits(tried), {}

    def _sources(self, *, newest: bool = False) -> dict[str, bytes | None]:
        """Where each module came from, and the digest of what is kept of it."""
        versions = sorted((each for each in _entries(self._kept) if each.name.isdecimal()), key=lambda each: int(each.name))
        kept = [each for version in versions[-1 if newest else 0 :] for each in _entries(version) if each.suffix == ".py"]
        self._read = {source: self._read.get(source) or _read(source) for source in kept}
        for source, file in self._read.items():
            if file is not None and file not in self._linted:
                self._linted.add(file)
                _lint(source, file[0])
        return dict(each for each in self._read.values() if each is not None)


def _folders(paths: Iterable[str]) -> set[str]:
    return {os.path.dirname(path) for path in paths if path.endswith(".py")}


def _read(kept: Path) -> tuple[str, bytes | None] | None:
    """Of one module. What is kept is never changed. None: its version has just been removed."""
    try:
        origin = _origin(kept)
    except OSError:
        return None
    return origin, digest(str(kept))


def _origin(kept: Path) -> str:
    return os.path.abspath(os.fsdecode(kept.with_suffix(".from").read_bytes()))


def _lint(kept: Path, origin: str) -> None:
    def name_of(module: Path, origin: str) -> str:
        return f"{module.stem}.{PACKAGE}" if os.path.basename(origin) == f"{PACKAGE}.py" else module.stem

    def found(name: str) -> str | None:
        beside = kept.with_name(f"{name.removesuffix(f'.{PACKAGE}')}.py")
        if not beside.is_file() or name_of(beside, _origin(beside)) != name:
            return None
        return importlib.util.decode_source(beside.read_bytes())

    try:
        suspects = findings(importlib.util.decode_source(kept.read_bytes()), name_of(kept, origin), found)
    except (OSError, SyntaxError, ValueError, RecursionError):  # Who loads it says so.
        return
    except SystemError:  # See findings/python_ast_parse_bears_no_other_inside.sh.
        return
    except Exception:  # Whatever it is, the app is loaded again when it is saved.
        log.warning("lint: %s: it could not be looked through, which is a fault of lint", origin, exc_info=True)
        return
    for each in suspects:
        log.warning("lint: %s:%d: %s: %s", origin, each.line, each.rule, each.text)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # Gone, or none.
        return []


def stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def digest(path: str) -> bytes | None:
    """Of a file's content; of a folder: of the names of what could be imported from it."""
    try:
        content = Path(path).read_bytes()
    except IsADirectoryError:
        names = sorted(each.name for each in _entries(Path(path)) if each.suffix in ("", ".py") and each.stem.isidentifier())
        content = "\0".join(name for name in names if name != "__pycache__").encode()
    except OSError:
        return None
    return hashlib.blake2b(content, digest_size=16).digest()
