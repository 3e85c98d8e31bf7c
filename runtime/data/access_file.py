"""The list of access keys on the disk, and the service's own secret: `access.json` in the data directory, or where `[service]
access` says.

Guarantee: whoever reads it finds the list before a change or the one after it, and a change that was told is on the disk. Two
changes at once both happen. Nobody but its owner can read it: the user of the service, also when root has written it.
Rule 1: a file that cannot be understood is never taken for an empty list, nor written over.
Rule 2: no secret leaves this file but to who listens with it, and to the file of the client that it is for. What is shown or
logged of the list has public halves only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from tidegate.runtime.data.replacing import locked, replace
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.access import ACCESS_KEYS_MAX, AccessKey, duplicates, is_z85

FORMAT = 1
BYTES_MAX = 16 << 20
_HINT = "run it as the user of the service or root"
_ROOM_HINT = "make room on its file system; nothing was changed"
_TAKE_IT = "take the file out of a backup: what `tidegate restore SOURCE --data ELSEWHERE` makes has it"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
"""Of a key: it is a name of files, and stands in lines of the log."""


class AccessList(msgspec.Struct, frozen=True):
    """All that the file says."""

    format: int
    secret: str
    """The service's own."""
    keys: tuple[AccessKey, ...] = ()

    def __repr__(self) -> str:
        return f"AccessList({len(self.keys)} keys)"

    @property
    def public(self) -> str:
        """The service's own: clients know it by this."""
        return zmq.curve_public(self.secret.encode()).decode()

    def valid(self, now_s: float) -> tuple[AccessKey, ...]:
        return tuple(key for key in self.keys if key.is_valid(now_s))


def read_access(path: Path) -> AccessList | None:
    """None where there is none. Raises OperatorError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # What is no file is not waited for.
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OperatorError("read", path, "is no regular file", _TAKE_IT)
            text = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError("read", path, error.strerror or str(error), _HINT) from error
    try:
        access = msgspec.json.decode(text, type=AccessList)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise OperatorError("read", path, f"no list of access keys: {error}", _TAKE_IT) from None
    if (problem := _problem(access)) is not None:
        raise OperatorError("read", path, problem, f"correct the file, or {_TAKE_IT}")
    return access


def is_open_to_others(path: Path) -> str:
    """A line for the log about a list that others may read or write; empty if they may not, or if there is none."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return ""
    if not mode & 0o077:
        return ""
    may = "write: whoever does lets himself in" if mode & 0o022 else "read, with the secret of the service"
    return f"{path} has mode {mode:04o}, so that others may {may} (chmod 600 {path})"


def _problem(access: AccessList) -> str | None:
    if access.format != FORMAT:
        return f"format {access.format} is of another version of Tidegate; this one reads format {FORMAT}"
    if not is_z85(access.secret):
        return "the secret of the service is no CURVE key"
    wrong = next((key.name for key in access.keys if not is_z85(key.public)), None)
    if wrong is not None:
        return f"the public half of {wrong!r} is no CURVE key"
    if len(access.keys) > ACCESS_KEYS_MAX:
        return f"it has {len(access.keys)} keys, more than {ACCESS_KEYS_MAX}"
    return "two keys have the same public half" if duplicates(access.keys) else None


def change_access(path: Path, change: Callable[[AccessList], AccessList], *, create: bool) -> AccessList:
    """The list after the change. `change` raises OperatorError for what cannot be done; then nothing is changed. With `create` a
    list, with a secret for the service, is made where there is none; without, that is an error. Raises OperatorError."""
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.parent):
            access = read_access(path)
            if access is None:
                if not create:
                    raise OperatorError("read", path, "there are no access keys", "make one: tidegate keys new NAME")
                access = AccessList(FORMAT, zmq.curve_keypair()[1].decode())
            access = change(access)
            # Who reads it is the service; who writes it may be root, in a folder of root's.
            replace(path, msgspec.json.format(msgspec.json.encode(access), indent=1) + b"\n", keeps_owner=True)
            return access
    except FileNotFoundError as error:
        hint = "name the directory of the service with --data, or the file itself with --access"
        raise OperatorError("read", path, "there are no access keys", hint) from error
    except OSError as error:
        hint = _ROOM_HINT if error.errno in (errno.ENOSPC, errno.EDQUOT) else _HINT
        raise OperatorError("write", path, error.strerror or str(error), hint) from error


# Changes


def with_key(access: AccessList, key: AccessKey, now_s: float) -> AccessList:
    """Raises OperatorError."""
    if _NAME.fullmatch(key.name) is None:
        problem = "a name has 1 to 64 of A-Z a-z 0-9 . _ @ -, and begins with a letter or a digit"
        raise OperatorError("keys new", repr(key.name), problem, "choose another name")
    if any(each.name == key.name and each.is_valid(now_s) for each in access.keys):
        hint = "choose another name, or make a new secret for it: tidegate keys rotate"
        raise OperatorError("keys new", key.name, "there is a key of this name", hint)
    if len(access.keys) >= ACCESS_KEYS_MAX:
        raise OperatorError(
            "keys new", key.name, f"there are {ACCESS_KEYS_MAX} keys", "forget old ones: tidegate keys revoke --forget"
        )
    return msgspec.structs.replace(access, keys=(*access.keys, key))


def valid_key(access: AccessList, name: str, now_s: float, operation: str) -> AccessKey:
    """The newest of this name, in whose place others may still be valid. Raises OperatorError."""
    found = [key for key in access.keys if key.name == name and key.is_valid(now_s)]
    if not found:
        raise OperatorError(operation, name, "there is no valid key of this name", "see which there are: tidegate keys list")
    return found[-1]


def end(access: AccessList, name: str, until_s: float, now_s: float) -> AccessList:
    """Every valid key of this name ends at that time, those that end before stay as they are. Raises OperatorError."""
    valid_key(access, name, now_s, "keys revoke")

    def ended(key: AccessKey) -> AccessKey:
        ends_later = key.until_s is None or key.until_s > until_s
        return msgspec.structs.replace(key, until_s=until_s) if key.name == name and ends_later else key

    return msgspec.structs.replace(access, keys=tuple(map(ended, access.keys)))


def rotate(access: AccessList, name: str, public: str, until_s: float, now_s: float) -> AccessList:
    """A new key of the same name and rights; the old one ends at that time. Raises OperatorError."""
    old = valid_key(access, name, now_s, "keys rotate")
    keys = end(access, name, until_s, now_s).keys
    return msgspec.structs.replace(access, keys=(*keys, AccessKey(name, public, old.rights, now_s)))


def with_new_secret(access: AccessList) -> AccessList:
    """The service itself is known by another key, from its next start on."""
    return msgspec.structs.replace(access, secret=zmq.curve_keypair()[1].decode())


def forget(access: AccessList, name: str, now_s: float) -> AccessList:
    """What is no longer valid of this name is not listed any more."""
    keys = tuple(key for key in access.keys if key.name != name or key.is_valid(now_s))
    return msgspec.structs.replace(access, keys=keys)
