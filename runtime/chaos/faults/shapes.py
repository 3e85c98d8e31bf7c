"""Who hears whom no longer: the shapes that a cut may have, over hosts, servers and callers. Pure; chance is given.

A cut is a set of pairs: what the first sends to the second is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

Pairs = frozenset[tuple[str, str]]


class Machines:
    """All there are, by name."""

    def __init__(self, hosts: Sequence[str], servers: Sequence[str], callers: str, leader: str) -> None:
        """`leader`: of the servers, one that leads something."""
        self.hosts = hosts
        self.servers = servers
        self.callers = callers
        self.leader = leader

    def all_but(self, *names: str) -> list[str]:
        return [each for each in (*self.hosts, *self.servers, self.callers) if each not in names]


def apart(some: Iterable[str], others: Iterable[str]) -> Pairs:
    """None of these hears any of those, nor the other way round."""
    others = list(others)
    return frozenset(pair for one in some for other in others for pair in ((one, other), (other, one)))


def one_way(senders: Iterable[str], receivers: Iterable[str]) -> Pairs:
    receivers = list(receivers)
    return frozenset((sender, receiver) for sender in senders for receiver in receivers)


def _host_from_all(there: Machines, chance: Random) -> Pairs:
    host = chance.choice(there.hosts)
    return apart([host], there.all_but(host))


def _host_but_not_its_callers(there: Machines, chance: Random) -> Pairs:
    host = chance.choice(there.hosts)
    return apart([host], there.all_but(host, there.callers))


def _host_from_servers(there: Machines, chance: Random) -> Pairs:
    return apart([chance.choice(there.hosts)], there.servers)


def _host_from_host(there: Machines, chance: Random) -> Pairs:
    one, other = chance.sample(there.hosts, 2)
    return apart([one], [other])


def _server_from_all(there: Machines, chance: Random) -> Pairs:
    server = chance.choice(there.servers)
    return apart([server], there.all_but(server))


def _leader_from_servers(there: Machines, chance: Random) -> Pairs:
    """Hosts hear it still: it believes to lead, and answers."""
    return apart([there.leader], [each for each in there.servers if each != there.leader])


def _halves(there: Machines, chance: Random) -> Pairs:
    """One of them has most of the servers."""
    side = [*chance.sample(there.hosts, len(there.hosts) // 2), chance.choice(there.servers)]
    side += [there.callers] * chance.randint(0, 1)
    return apart(side, there.all_but(*side))


def _host_is_deaf(there: Machines, chance: Random) -> Pairs:
    """It is heard, and hears nobody of the cluster."""
    host = chance.choice(there.hosts)
    return one_way(there.all_but(host, there.callers), [host])


def _host_is_mute(there: Machines, chance: Random) -> Pairs:
    host = chance.choice(there.hosts)
    return one_way([host], there.all_but(host, there.callers))


def _leader_is_deaf(there: Machines, chance: Random) -> Pairs:
    return one_way(there.all_but(there.leader, there.callers), [there.leader])


def _leader_is_mute(there: Machines, chance: Random) -> Pairs:
    return one_way([there.leader], there.all_but(there.leader, there.callers))


SHAPES: Mapping[str, Callable[[Machines, Random], Pairs]] = {
    "a host from all": _host_from_all,
    "a host from all but its callers": _host_but_not_its_callers,
    "a host from the servers": _host_from_servers,
    "a host from another": _host_from_host,
    "a server from all": _server_from_all,
    "a leader from the other servers": _leader_from_servers,
    "halves": _halves,
    "a host hears nobody": _host_is_deaf,
    "nobody hears a host": _host_is_mute,
    "a leader hears nobody": _leader_is_deaf,
    "nobody hears a leader": _leader_is_mute,
}
"""By what is said of them."""
