"""The source of the app, as it was when the service started, or when it was reloaded: every worker runs the same version of it.

Guarantee: a module of the app that any worker of this version has imported is the same in every worker that is started later with
it, whatever has become of its file since. A module that nobody has imported yet is read when somebody does.

Rule: kept is what users edit: modules outside of the standard library and of site-packages, and the package that is served,
wherever it is. Whoever imports a module first writes its source into the folder of the run; everybody else reads it there.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tidegate.runtime.wire.supervisor_messages import split_app
from tidegate.shard.loop.libraries import package_of

_LIBRARIES: Final = tuple(
    f"{os.path.realpath(path)}/"
    for path in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


class KeptLoader(importlib.machinery.SourceFileLoader):
    """Loads the source that is kept; the module's file is still said to be where it was, so that it finds its data. No byte code
    is read or written beside it: that would be of another version."""

    def __init__(self, fullname: str, path: str, kept: KeptSource) -> None:
        super().__init__(fullname, path)
        self._kept = kept

    def get_data(self, path: str) -> bytes:
        return self._kept.source(self.name, path)

    def path_stats(self, path: str) -> Any:
        raise OSError("only the source of this module is kept")

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


class KeptSource(MetaPathFinder):
    """Installed first in `sys.meta_path`. `folder` is shared by all workers of one version, and empty before."""

    def __init__(self, folder: Path, package: str = "") -> None:
        """`package` is kept even if it is installed like a library: the one that is served."""
        self._folder = folder
        self._package = package
        self.changed: list[str] = []
        """Files that are no longer what is kept of them, in the order in which that was noticed."""
        self._digests: dict[str, bytes] = {}

    @property
    def version(self) -> str:
        """Of all modules that this process has loaded from here so far."""
        together = b"".join(name.encode() + b"\0" + digest for name, digest in sorted(self._digests.items()))
        return hashlib.blake2b(together, digest_size=4).hexdigest()

    def spec_of(self, fullname: str, path: str, *, is_package: bool = False) -> importlib.machinery.ModuleSpec:
        folders = [os.path.dirname(path)] if is_package else None
        spec = importlib.util.spec_from_file_location(
            fullname, path, loader=KeptLoader(fullname, path, self), submodule_search_locations=folders
        )
        assert spec is not None
        return spec

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        origin = self._origin(fullname)
        if origin is None:
            found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
            if found is None or type(found.loader) is not importlib.machinery.SourceFileLoader or found.origin is None:
                return None  # Not there, or a namespace, an extension, byte code alone: the usual finders see to it.
            if not self._is_kept(fullname, found.origin):
                return None
            origin = found.origin
        return self.spec_of(fullname, origin, is_package=os.path.basename(origin) == "__init__.py")

    def _is_kept(self, fullname: str, path: str) -> bool:
        if package_of(fullname) == self._package:
            return True
        return not os.path.realpath(path).startswith(_LIBRARIES) and not f"{fullname}.".startswith("tidegate.")

    # The folder: NAME.py has the source, NAME.from where it was

    def source(self, fullname: str, path: str) -> bytes:
        kept = self._folder / f"{fullname}.py"
        try:
            source = kept.read_bytes()
        except OSError:
            source = self._keep(fullname, path, kept)
        else:
            self._compare(path, source)
        self._digests[fullname] = hashlib.blake2b(source).digest()
        return source

    def has(self, fullname: str) -> bool:
        return (self._folder / f"{fullname}.py").is_file()

    def _origin(self, fullname: str) -> str | None:
        if not self.has(fullname):
            return None
        return os.fsdecode((self._folder / f"{fullname}.from").read_bytes())

    def _keep(self, fullname: str, path: str, kept: Path) -> bytes:
        """The first one to link it in has decided for all. Where it cannot be written (a full disk) it is used and not kept."""
        source = Path(path).read_bytes()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(self._folder / f"{fullname}.from", os.fsencode(path))
            _write_whole(kept, source)
            return kept.read_bytes()
        except OSError:
            return source

    def _compare(self, path: str, source: bytes) -> None:
        try:
            same = Path(path).read_bytes() == source
        except OSError:
            same = False
        if not same:
            self.changed.append(path)


def _write_whole(path: Path, data: bytes) -> None:
    """Whoever sees the file sees all of it, and the first writer's."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as new:
        new.write(data)
        new.flush()
        try:
            os.link(new.name, path)
        except FileExistsError:
            pass


def keep_source(folder: Path, app: str) -> KeptSource:
    """From now on what this process imports of the app is kept, or was."""
    target, _ = split_app(app)
    package = "" if target.endswith(".py") else package_of(target)
    kept = KeptSource(folder, package)
    sys.meta_path.insert(0, kept)
    return kept
