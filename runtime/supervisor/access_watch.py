"""Which access keys are valid at this moment: the list on the disk is looked at four times a second.

Guarantee: a change of the list, and the end of a key, are noticed within `LOOK_S`. A list that cannot be read changes nothing,
and is told once: the keys of before stay valid, and those that end, end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from tidegate.runtime.data.access_file import AccessList, read_access
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.wire.access import AccessKey
from tidegate.runtime.wire.commands import ConfigChange
from tidegate.runtime.wire.supervisor_messages import Access

LOOK_S = 0.25

log = logging.getLogger("tidegate")


class AccessWatch:
    def __init__(self, path: Path, access: AccessList, now_s: float) -> None:
        self.path = path
        self._access = access
        self._seen = _mark(path)
        self._valid = access.valid(now_s)
        self._said = ""
        self._secret = access.secret
        """As it was read last: it may be for the next start."""

    @property
    def waits(self) -> tuple[ConfigChange, ...]:
        """The service's own key, where it is not the one that is used."""
        used, read = (AccessList(self._access.format, secret).public for secret in (self._access.secret, self._secret))
        return () if used == read else (ConfigChange("the service's own access key", used, read, "a stop and a start"),)

    @property
    def now(self) -> Access:
        """For a process that is started."""
        return Access(self._access.secret, self._valid)

    def look(self, now_s: float, classes: Collection[str] = frozenset()) -> tuple[AccessKey, ...] | None:
        """The keys that are valid now, if they are others than before. A new one for a class that is not in `classes`, those of
        the app, is told: it may be misspelt."""
        mark = _mark(self.path)
        if mark != self._seen:
            self._seen = mark
            self._read()
        valid = self._access.valid(now_s)
        if valid == self._valid:
            return None
        before = {key.public for key in self._valid}
        now = {key.public for key in valid}
        log.info("access: %d keys are valid, %d new, %d ended", len(valid), len(now - before), len(before - now))
        self._valid = valid
        for key in valid:
            unknown = [name for name in key.rights.classes or () if classes and name not in classes and key.public not in before]
            if unknown:
                log.warning("access: the key %s is for %s, which the app does not have", key.name, one_line(", ".join(unknown)))
        return valid

    def _read(self) -> None:
        try:
            access = read_access(self.path)
            if access is None:
                hint = "restore it; to let nobody in, revoke the keys"
                raise OperatorError("read", self.path, "the list of access keys is gone, and the one before goes on", hint)
        except OperatorError as error:
            if self._said != str(error):
                self._said = str(error)
                log.error("access: %s", error)
            return
        self._said = ""
        if access.secret != self._secret:
            log.warning("access: the service's own key has changed; it is used from the next start on")
        self._secret = access.secret
        self._access = AccessList(access.format, self._access.secret, access.keys)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
