"""The access key that a client shows: from a file, from the environment, or none.

Guarantee: nothing here repeats a secret, in no error and no `repr`.

A key is three words in Z85, 40 characters each: the service's public key, the client's own public key, its secret key. A file has
them in its last line, behind lines of comment that begin with `# `. A client with a key talks to nobody but the service whose
public key that is, and only encrypted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from tidegate.runtime.wire.access import ClientKey, is_z85

KEY_VARIABLE = "TIDEGATE_KEY"
"""The three words."""
FILE_VARIABLE = "TIDEGATE_KEY_FILE"
_BYTES_MAX = 4_096
_SHAPE = "an access key is three words of 40 characters: the service's public key, the client's own, its secret key"


def client_key(file: str | Path | None, environment: Mapping[str, str] = os.environ) -> ClientKey | None:
    """What the file has; without one, what the environment names. None: the client has no key. Raises ValueError for what is no
    key, OSError for a file that cannot be read."""
    if file is None and (words := environment.get(KEY_VARIABLE)):
        return _parse(words, KEY_VARIABLE)
    file = file or environment.get(FILE_VARIABLE)
    if not file:
        return None
    with open(file, "rb") as opened:
        text = opened.read(_BYTES_MAX).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("# ")]
    return _parse(lines[-1] if lines else "", str(file))


def key_to_be_read_again(file: str | Path | None, environment: Mapping[str, str] = os.environ) -> ClientKey | None:
    """The same for whoever needs it beside a client: what is no file, but a pipe, is left to the client, who can read it once.
    Raises what `client_key` does."""
    named = _file_named(file, environment)
    return None if named and not os.path.isfile(named) else client_key(file, environment)


def _file_named(file: str | Path | None, environment: Mapping[str, str]) -> str | Path | None:
    return None if file is None and environment.get(KEY_VARIABLE) else file or environment.get(FILE_VARIABLE)


class ShownKey:
    """What a client shows, for as long as it lives: a key that is written to its file meanwhile is its next one, so that keys of
    clients and of the service can be replaced while clients run."""

    def __init__(self, file: str | Path | None, environment: Mapping[str, str] = os.environ) -> None:
        """Raises what `client_key` does."""
        named = _file_named(file, environment)
        self._file = named if named and os.path.isfile(named) else None  # What is a pipe is read once.
        self._mark = None if self._file is None else _mark(self._file)
        self._key = client_key(file, environment)

    def newest(self) -> ClientKey | None:
        """What cannot be read, or is no key, is none that replaces another: perhaps it is being written."""
        if self._file is not None and (mark := _mark(self._file)) not in (None, self._mark):
            with contextlib.suppress(ValueError, OSError):
                self._key = client_key(self._file)
                self._mark = mark
        return self._key


def _mark(file: str | Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _parse(words: str, place: str) -> ClientKey:
    parts = words.split()
    if len(parts) != 3 or not all(map(is_z85, parts)):
        raise ValueError(f"{place}: {_SHAPE}")
    return ClientKey(*parts)


def key_text(name: str, key: ClientKey) -> str:
    """A file for the client."""
    return (
        f"# Access key {name!r} of a Tidegate service. Whoever has this file may do what the key may: keep it secret.\n"
        f"# The service's public key, the client's public key, its secret key:\n"
        f"{key.server} {key.public} {key.secret}\n"
    )
