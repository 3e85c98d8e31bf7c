"""A command on a data directory that root gives is carried out by the user whose directory it is.

The app is that user's code, and DATA is his: whatever lies there may have been put there for root to trip over, and what root
leaves there he cannot use. So such a command goes on in a child that is that user for good, and can reach what he can reach. What
only root may do beside (a FILE, a place of backups, the folder above DATA) the child asks of root's process, see `roots_part`.

Rule 1: root's process opens nothing below DATA, and nothing by a name in a folder that the other may change.
Rule 2: which paths root's process touches was settled by the command line before there was a child.
Guarantee: output, exit code, Ctrl-C and signals are as if there were one process.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tidegate.runtime.cli.exits import EXIT_FAILED
from tidegate.runtime.cli.roots_part import Part, asked, serve
from tidegate.runtime.errors import OperatorError

_LINKS_MAX = 40
"""On the way to a name, as the kernel has it."""
_UMASK = 0o077
"""As the unit of the service has it."""
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1


class DataOwner(NamedTuple):
    """Of a data directory, where it is not root."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


Parts = Callable[[argparse.Namespace, DataOwner], Mapping[str, Part]]
"""What root does for a command, by name; made before the child is."""


def carry_out(options: argparse.Namespace, told: Callable[[Callable[[], int]], int]) -> int:
    """The command that was parsed: by this process, or by the owner of its data directory. `told`: says what goes wrong in it.
    Raises OperatorError, OSError."""
    options.of_root = {}
    data = options.works_on(options) if hasattr(options, "works_on") else None
    if data is None or (owner := _owner_of(data)) is None:
        return int(options.run(options))
    make_parts: Parts = getattr(options, "parts", lambda _, __: {})
    parts = make_parts(options, owner)

    def run(of_root: Mapping[str, Part]) -> int:
        _check(owner, data)
        options.of_root = of_root
        return int(options.run(options))

    return _in_child(parts, lambda of_root: told(lambda: run(of_root)), lambda parent: _become(owner, parent))


def _owner_of(data: Path) -> DataOwner | None:
    """None: it is root's or not there, or this is not root, who could not become anybody."""
    if os.geteuid() != 0:
        return None
    try:
        found = data.stat()
    except OSError:
        return None
    if found.st_uid == 0:
        return None
    try:
        user = pwd.getpwuid(found.st_uid)
    except KeyError:
        gid = found.st_gid or found.st_uid  # A user without an entry, as in containers, is in no group of root's for that.
        return DataOwner(f"user {found.st_uid}", found.st_uid, gid, (gid,))
    return DataOwner(user.pw_name, user.pw_uid, user.pw_gid, tuple(os.getgrouplist(user.pw_name, user.pw_gid)))


# Whose is the way to a name


def may_change(owner: DataOwner, path: Path) -> bool:
    """Whether he decides what that name leads to, by any folder or link on the way, or may change names in the folder that it
    is. Raises OSError."""
    return any(_may_change(owner, folder, name) for folder, name in _way(path.absolute()))


def may_reach(owner: DataOwner, path: Path) -> bool:
    """Whether he may enter every folder on the way, as far as there are any. Raises OSError."""
    return all(_has(owner, folder, stat.S_IXUSR) for folder, _ in _way(path.absolute()))


def _way(path: Path) -> Iterator[tuple[os.stat_result, os.stat_result | None]]:
    """Folders in which names are looked for on the way, through links too, each with what is there by the name; and the last one
    if it is one itself, without. None: nothing is there. Raises OSError."""
    at, todo, links = Path("/"), list(reversed(path.parts[1:])), 0
    while todo:
        name = todo.pop()
        there = at.parent if name == ".." else at / name
        folder = at.lstat()
        try:
            found = there.lstat()
        except FileNotFoundError:
            yield folder, None
            return
        yield folder, found
        if stat.S_ISLNK(found.st_mode):
            if (links := links + 1) > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(there))
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            at = Path("/") if target.is_absolute() else at
        elif stat.S_ISDIR(found.st_mode):
            at = there
        else:
            return
    yield at.lstat(), None


def _may_change(owner: DataOwner, folder: os.stat_result, name: os.stat_result | None) -> bool:
    """What he may write into he may change, but where each name is its owner's (as in /tmp)."""
    if folder.st_uid == owner.uid:
        return True
    is_kept = bool(folder.st_mode & stat.S_ISVTX) and name is not None and name.st_uid != owner.uid
    return not is_kept and (bool(folder.st_mode & stat.S_IWOTH) or _has(owner, folder, stat.S_IWUSR))


def _has(owner: DataOwner, found: os.stat_result, bit: int) -> bool:
    """`bit`: as it is for the owner of what was found."""
    if found.st_uid == owner.uid:
        return bool(found.st_mode & bit)
    return bool(found.st_mode & (bit >> 3 if found.st_gid in owner.groups else bit >> 6))


# The child


def _in_child(parts: Mapping[str, Part], run: Callable[[Mapping[str, Part]], int], become: Callable[[int], None]) -> int:
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    if (pid := os.fork()) == 0:
        code = EXIT_FAILED
        try:
            ours.close()
            become(parent)
            code = run(asked(parts, theirs))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else EXIT_FAILED
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    theirs.close()
    with _handing_on(pid), ours:
        serve(ours, parts)
        _, status = os.waitpid(pid, 0)
    for part in parts.values():
        part.close()
    if os.WIFSIGNALED(status) and (number := os.WTERMSIG(status)) in _HANDED_ON:
        signal.signal(number, signal.SIG_DFL)  # Whoever has ended it sees that it has.
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status) % 256


def _become(owner: DataOwner, parent: int) -> None:
    """For good. In a session of its own: what it reads cannot type on root's terminal."""
    os.setsid()
    os.umask(_UMASK)
    os.setgroups(owner.groups)
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _check(owner: DataOwner, data: Path) -> None:
    """Raises OperatorError where he lacks what every command needs."""
    here = next((file for file in (__file__, ctypes.__file__) if not os.access(file, os.R_OK)), None)
    if here is not None:
        hint = "use an installation that everybody may read, such as /opt/tidegate/bin/tidegate"
        raise OperatorError("work on", data, f"it is done as {owner.name}, whose it is, who may not read {here}", hint)
    if not os.access(data, os.R_OK | os.X_OK):
        hint = "let him into the folders above, or give it to root (chown -R)"
        raise OperatorError("work on", data, f"it is done as {owner.name}, whose it is, who cannot get there", hint)


@contextmanager
def _handing_on(pid: int) -> Iterator[None]:
    """Signals to this process go to the child."""
    child = os.pidfd_open(pid)

    def hand_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, number)

    before = {number: signal.signal(number, hand_on) for number in _HANDED_ON if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(child)
