"""A DEALER socket whose lost connections are seen: what was in flight on one is never answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import zmq

from tidegate.runtime.sockets.silence import notice_silence

RECONNECT_MS = 20
LOST_S = 6
"""A connection on which nobody has been heard for so long is lost, as where the network is cut."""


class WatchedDealer:
    def __init__(self, dealer: zmq.Socket[Any], monitor: zmq.Socket[Any]) -> None:
        self.send = dealer.send
        self._dealer = dealer
        self._monitor = monitor
        self._poller = zmq.Poller()
        self._poller.register(dealer, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)

    def wait(self, milliseconds: int) -> bool:
        """For messages, or the loss of the connection, whose last messages come first. False: it is lost."""
        ready = dict(self._poller.poll(milliseconds))
        return self._monitor not in ready or self._dealer in ready

    def receive(self) -> Iterator[bytes]:
        """What is there."""
        with contextlib.suppress(zmq.Again):
            while True:
                yield self._dealer.recv(zmq.NOBLOCK)


@contextlib.contextmanager
def watched_dealer(context: zmq.Context[Any], endpoint: str) -> Iterator[WatchedDealer]:
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        notice_silence(dealer, LOST_S)
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.connect(endpoint)
        try:
            yield WatchedDealer(dealer, monitor)
        finally:
            dealer.disable_monitor()
            monitor.close(0)
