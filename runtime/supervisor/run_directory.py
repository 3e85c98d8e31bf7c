"""The run directory: the sockets of a service, and what its processes tell each other in files while it runs.

Guarantee: nobody else can enter it, and the paths of sockets in it are short enough for the kernel.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from tidegate.runtime.data.directory import is_text
from tidegate.runtime.wire.supervisor_messages import KEPT_SOURCE

RUN_PATH_BYTES_MAX = 86
"""Of the run directory: 108 bytes are what the kernel takes for a unix socket's path; the rest is for the socket's name."""
_TEMPORARY_PREFIX = "tidegate-"


class RunDirectory:
    """Where the sockets between processes are. Nobody else can enter it; `close` removes what may be removed."""

    def __init__(self, path: Path, *, temporary: bool) -> None:
        self.path = path
        self._temporary = temporary

    def close(self) -> None:
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            _remove_sockets(self.path)


def open_run_directory(data: Path, runtime_directory: str | None) -> RunDirectory:
    """In systemd's runtime directory, else in the data directory, else (paths too long for a socket) a temporary one.

    Call with the data directory locked: a second bind of a socket's path would steal it silently. What an earlier start kept of
    its app is gone: this one begins with the app as it is now.
    """
    candidates = [data / "run"]
    if runtime_directory:  # Named after the data, so that two services started from one unit cannot meet.
        name = hashlib.blake2b(os.fsencode(data), digest_size=4).hexdigest()
        candidates.insert(0, Path(runtime_directory.split(":")[0]) / name)
    for path in candidates:
        if len(os.fsencode(path)) <= RUN_PATH_BYTES_MAX and is_text(path):
            path.mkdir(mode=0o700, exist_ok=True)
            if stat.S_IMODE(path.stat().st_mode) != 0o700:
                path.chmod(0o700)
            _remove_sockets(path)
            shutil.rmtree(path / KEPT_SOURCE, ignore_errors=True)
            return RunDirectory(path, temporary=False)
    return RunDirectory(Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=_short_temporary())), temporary=True)


def _short_temporary() -> str:
    """Where TMPDIR says, unless that is too long in its turn."""
    named = tempfile.gettempdir()
    longest = os.fsencode(named) + b"/%s12345678" % _TEMPORARY_PREFIX.encode()
    return named if len(longest) <= RUN_PATH_BYTES_MAX and is_text(named) else "/tmp"


def _remove_sockets(path: Path) -> None:
    for entry in os.scandir(path):
        if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
            os.unlink(entry.path)
