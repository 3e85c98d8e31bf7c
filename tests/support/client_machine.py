"""A `ClientMachine` with one worker, of which the test is router, worker and shell."""

from __future__ import annotations

from typing import Any

from tests.support.client_world import ROUTER, Answer
from tests.support.requests import rows_in
from tidegate.runtime.client.links import AskTopology, Open
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.terms import Terms, other_terms
from tidegate.runtime.wire.encoding import decode_any, encode_arguments
from tidegate.runtime.wire.protocol import encode
from tidegate.runtime.wire.supervisor_messages import Topology

WORKER = "ipc://worker-0.1"


class Machine:
    """Connected, and told of the worker, unless asked otherwise. Its calls go to objects of the class `C`."""

    def __init__(
        self, *, connected: bool = True, direct: bool = True, timeout: float = 30.0, retries: bool = False,
        connect_timeout: float | None = None,
    ) -> None:  # fmt: skip
        self.terms = Terms(timeout, is_told=False, retries=retries)
        self.core = ClientMachine(
            ROUTER, terms=self.terms, direct=direct, session="test", chance=lambda: 1.0, connect_timeout=connect_timeout
        )
        (opened,) = self.core.take_effects()
        assert opened == Open(1, ROUTER, reconnect=True)
        if connected:
            self.core.link_connected(1, 0.0)
            if direct or retries:
                assert self.core.take_effects() == [AskTopology()]
                self.core.keys_told(kept=True)
            if direct:
                self.core.topology_received(Topology(1, (0,), (WORKER,)), {WORKER}, 0.0)

    def call(self, *args: Any, name: str = "a", timeout: float | None = None, now: float = 0.0) -> Answer:
        answer, slot = Answer(), self.core.slot_of("C", name)
        terms = None if timeout is None else other_terms(self.terms, timeout, None, None)
        self.core.call(answer, slot, "C", name, "m", encode_arguments(args, {}), decode_any, terms, now)
        self.core.check_invariants()
        return answer

    def sent(self, now: float = 0.0) -> list[tuple[int, list[Any]]]:
        return [(link, rows_in(body)) for link, body in self.core.take_messages(now)]

    def answer(self, link: int, *rows: tuple[int, int, Any], now: float = 0.0) -> None:
        self.core.message_received(link, encode(rows), now)
        self.core.check_invariants()
