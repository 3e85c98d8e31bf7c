"""Machines on a network of their own: each a network namespace with one link, to a bridge that nobody else is connected to.

Guarantee: no address outside can be reached, and nothing is left of it when this process ends, by whatever. Needs root, and `ip`.

Who may speak with whom is a matter of the addresses of their links: each knows those of all others by heart, and a *cut* replaces
one by an address that nobody has. So a cut has a direction, takes effect at once, and is silent: connections stay, and hear
nothing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from tidegate.runtime.cluster.nats_servers import ServerPlace
from tidegate.runtime.errors import OperatorError

CALLERS = "callers"
"""The name of the machine that this process is: whoever calls."""
_CLONE_NEWNET = 0x40000000
_BRIDGE = "machines"
_NOBODY = "02:00:00:ff:ff:ff"

_libc = ctypes.CDLL(None, use_errno=True)


def may_have_network() -> str:
    """Why there can be none of its own here; empty: there can."""
    if os.geteuid() != 0:
        return "only root may make one"
    lacking = [program for program in ("ip", "nsenter", "unshare") if shutil.which(program) is None]
    return f"{lacking[0]} is not installed" if lacking else ""


def leave_network() -> None:
    """This thread, and all that it starts from now on, is in a network with nobody else. Raises OperatorError."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise OperatorError("make", "a network of its own", reason, "run it where root may, or with --no-network")
    _run(["ip", "link", "set", "lo", "up"])


class MachineNetwork:
    """A context, in a thread that has left its network. Ctrl-C on the terminal is for the campaign alone: what runs here is in
    sessions of its own."""

    def __init__(self, machines: Sequence[str]) -> None:
        self._names = (CALLERS, *machines)
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._cut: frozenset[tuple[str, str]] = frozenset()

    def __enter__(self) -> MachineNetwork:
        """Raises OperatorError."""
        _run(["ip", "-batch", "-"], [
            f"link add {_BRIDGE} address {self._link(CALLERS)} type bridge forward_delay 0",
            f"addr add {self._address(CALLERS)}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        ])  # fmt: skip
        try:
            for name in self._names[1:]:
                self._connect(name)
            self._teach(self._names)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        _run(["ip", "link", "del", _BRIDGE])

    def place(self, name: str) -> ServerPlace:
        return ServerPlace(self._address(name), self._enter(name))

    @property
    def cuts(self) -> frozenset[tuple[str, str]]:
        return self._cut

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """What the first of each sends to the second is lost from now on, and nothing else is. Raises OperatorError."""
        before, self._cut = self._cut, frozenset(pairs)
        self._teach(sorted({sender for sender, _ in before ^ self._cut}))

    def heal(self) -> None:
        self.cut(())

    def _connect(self, name: str) -> None:
        # It holds the namespace, and ends with this process, since nobody holds the other end of its input.
        command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._holders[name] = holder
        assert holder.stdout is not None
        holder.stdout.read(1)
        _run(["ip", "-batch", "-"], [
            f"link add name {name} type veth peer name eth0 address {self._link(name)} netns {holder.pid}",
            f"link set dev {name} master {_BRIDGE} up",
        ])  # fmt: skip
        _run([*self._enter(name), "ip", "-batch", "-"], [
            "link set lo up",
            f"addr add {self._address(name)}/24 dev eth0",
            "link set eth0 up",
        ])  # fmt: skip

    def _teach(self, senders: Iterable[str]) -> None:
        for sender in senders:
            device = _BRIDGE if sender == CALLERS else "eth0"
            lines = []
            for other in self._names:
                link = _NOBODY if (sender, other) in self._cut else self._link(other)
                if other != sender:
                    lines.append(f"neigh replace {self._address(other)} lladdr {link} nud permanent dev {device}")
            _run([*self._enter(sender), "ip", "-batch", "-"], lines)

    def _enter(self, name: str) -> tuple[str, ...]:
        return () if name == CALLERS else ("nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net")

    def _address(self, name: str) -> str:
        return f"192.0.2.{self._names.index(name) + 1}"

    def _link(self, name: str) -> str:
        return f"02:00:00:00:00:{self._names.index(name) + 1:02x}"


def _run(command: Sequence[str], lines: Sequence[str] = ()) -> None:
    """Raises OperatorError."""
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode != 0:
        problem = done.stderr.strip() or f"exit code {done.returncode}"
        raise OperatorError("run", " ".join(command), problem, "run it where root may make networks, or with --no-network")
