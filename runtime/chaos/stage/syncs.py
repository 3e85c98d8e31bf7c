"""How fast the service's disk syncs, and whether it does: a library, compiled here, loaded into its processes before others."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tidegate.runtime.errors import OperatorError

SOURCE = Path(__file__).with_name("sync_shim.c")


def check_compiler() -> str:
    """Its name. Raises OperatorError."""
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        raise OperatorError(
            "compile", SOURCE.name, "there is no C compiler", "install gcc, or leave out the faults slow and fail"
        )
    return found


class Syncs:
    def __init__(self, folder: Path) -> None:
        """Raises OperatorError."""
        library = folder / "sync_shim.so"
        command = [check_compiler(), "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OperatorError("compile", SOURCE, done.stderr.strip(), "leave out the faults slow and fail")
        self._slow = folder / "syncs.slow"
        self._fail = folder / "syncs.fail"
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "TIDEGATE_CHAOS_SYNCS": str(folder / "syncs")}

    def slow_down(self, delay_s: float) -> None:
        """Every sync takes so much longer. 0: as fast as it is."""
        if delay_s:
            _write(self._slow, int(delay_s * 1_000_000))
        else:
            self._slow.unlink(missing_ok=True)

    def fail_next(self, error_number: int) -> None:
        _write(self._fail, error_number)

    @property
    def failed(self) -> bool:
        """Whether that sync has come."""
        return not self._fail.exists()

    def heal(self) -> None:
        self.slow_down(0)
        self._fail.unlink(missing_ok=True)


def _write(path: Path, number: int) -> None:
    """At once: who reads it never sees an empty file."""
    new = path.with_suffix(".new")
    new.write_text(str(number))
    new.rename(path)
