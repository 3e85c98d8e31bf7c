"""What systemd is told: ready, status, watchdog, stopping. Without NOTIFY_SOCKET every call does nothing.

The protocol is one datagram per message (sd_notify(3)); a name that begins with `@` is in the abstract namespace.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("tidegate")


class Notifier:
    """Never raises and never blocks: a service must not fail because its observer does."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._socket: socket.socket | None = None
        self._status = ""
        self.watchdog_s = _watchdog_s(environment, pid)
        """Without a `watchdog` call for this long systemd kills the service; None when it does not watch."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            self._address = "\0" + address[1:] if address[0] == "@" else address

    def ready(self, status: str) -> None:
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, monotonic_us: int) -> None:
        """`ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def status(self, status: str) -> None:
        """Sent only when it differs from the last one."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def watchdog(self) -> None:
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    def extend_start(self, seconds: float) -> None:
        """Recovery goes on: do not give up on the start for this long from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("cannot notify systemd at %s: %s", self._address.replace("\0", "@"), error)


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):  # Meant for another process.
        return None
    try:
        return int(environment["WATCHDOG_USEC"]) / 1e6 or None
    except (KeyError, ValueError):
        return None


WITHHELD_FROM_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Variables by which a child would talk to systemd in the supervisor's name."""


def environment_for_children() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in WITHHELD_FROM_CHILDREN}
