"""How a connection over TCP finds out that the machine at its other end, or the way to it, has gone without a word.

Rule: the kernel asks the other kernel, and heartbeats of ZMTP are not used: with them a peer that goes at a bad moment may end
the receiver's process, by an assertion of libzmq 4.3.5 (its issues 3937 and 4364). Who reads nothing for so long of what is sent
is taken for gone, as with heartbeats. A process that hangs while its machine answers is not noticed here: its supervisor ends it,
or, where that hangs as well, calls end at their deadlines. Nor is what lies behind a proxy of TCP that goes on: that has to say
so itself.
"""

from __future__ import annotations

from typing import Any

import zmq

PROBES = 3


def notice_silence(socket: zmq.Socket[Any], lost_s: int) -> None:
    """Before it connects: a connection of which nothing is heard for so long, with something sent or without, is lost. It takes
    one probe more, a third of that, at most."""
    probe_s = max(1, lost_s // PROBES)
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, probe_s),
        (zmq.TCP_KEEPALIVE_INTVL, probe_s),
        (zmq.TCP_KEEPALIVE_CNT, PROBES),
        (zmq.TCP_MAXRT, lost_s * 1_000),  # Else what was sent is repeated for a quarter of an hour.
    ):
        socket.setsockopt(option, value)
