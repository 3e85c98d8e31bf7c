"""An operator on the machine, who has asked for something through the supervisor: where the answer goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.runtime.wire.protocol import OK
from tidegate.runtime.wire.supervisor_messages import Administered, FromChild
from tidegate.shard.host.outbound import InternalOrigin


class Operator(InternalOrigin):
    """Is answered once, over the control stream."""

    __slots__ = ("_number", "_send_control")

    def __init__(self, number: int, send_control: Callable[[FromChild], None]) -> None:
        super().__init__()
        self._number = number
        self._send_control = send_control

    def answer(self, status: int, result: Any) -> None:
        self._send_control(Administered(self._number, None if status == OK else result))
