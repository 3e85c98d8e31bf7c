"""System calls: what the router answers itself, without a worker (empty class name; contract, section 9).

Pure: method name in, plain value out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.runtime.errors import Unauthorized, UnknownMethod
from tidegate.runtime.wire.protocol import BY_OPERATORS_ONLY, OBJECT_CALLS
from tidegate.runtime.wire.slots import SlotTable, topology_reply

SYSTEM_METHODS = ("ping", "topology", "classes", "status")


class SystemCalls:
    """Answers from the newest topology and status that the supervisor has sent."""

    def __init__(self, table: SlotTable) -> None:
        self._topology = topology_reply(table)
        self._status: dict[str, Any] = {}
        self._classes: dict[str, Any] = {}

    def topology_changed(self, table: SlotTable) -> None:
        self._topology = topology_reply(table)

    def status_changed(self, status: dict[str, Any]) -> None:
        """The classes of the app come as `classes` in the status; they have a system call of their own."""
        self._status = {key: value for key, value in status.items() if key != "classes"}
        self._classes = status.get("classes", {})

    def answer(self, method: str, statistics: Callable[[], dict[str, Any]]) -> Any:
        """Raises UnknownMethod, Unauthorized."""
        if method == "ping":
            return "pong"
        if method == "topology":
            return self._topology
        if method == "classes":
            return self._classes
        if method == "status":
            return {**self._status, "router": statistics()}
        if method in OBJECT_CALLS:
            raise Unauthorized(BY_OPERATORS_ONLY)
        raise UnknownMethod(f"the system has no method {method[:64]!r}; it has {', '.join(SYSTEM_METHODS)}")
