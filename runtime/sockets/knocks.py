"""Connections that nobody knows yet: how many an address may have, how fast they may come, and how much they may say.

Guarantee: whoever has no access key takes no more of a service than this, however often he tries. Who has one, at the same
address too, is counted no longer as soon as he is greeted. Where all that may wait do, the address that has most of them gives
way: few addresses keep nobody out.
Rule: pure. The endpoint tells what comes and goes, and what the kernel says of a connection's bytes; what is to be closed is
returned. An address that comes faster than it may is *barred* for a while: the kernel drops what it sends to the listening
socket.
"""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

from tidegate.runtime.limits import (
    KNOCK_ADDRESSES_MAX,
    KNOCK_BARRED_MAX,
    KNOCK_BARRED_S,
    KNOCK_BYTES_MAX,
    KNOCKS_AT_ONCE,
    KNOCKS_MAX,
    KNOCKS_PER_S,
)

GREETED_BYTES = 256
"""Sent to a connection: its greeting has come to a good end. Until then it is 64 of the greeting and 170 of CURVE's `WELCOME`; an
error is shorter than what follows, `READY`."""


_HOST_BITS = 64


def place_of(address: str) -> str:
    """What counts as one address. Of IPv6 the network: whoever has one of its addresses has them all."""
    found = ip_address(address.partition("%")[0])
    if found.version == 4 or found.is_link_local or found.is_loopback:
        return str(found)
    return str(IPv6Network((int(found) >> _HOST_BITS << _HOST_BITS, 128 - _HOST_BITS)))


class _Bucket:
    """How often an address may still knock."""

    __slots__ = ("at_s", "left")

    def __init__(self, now: float) -> None:
        self.at_s = now
        self.left = float(KNOCKS_AT_ONCE)

    def fill(self, now: float) -> None:
        self.left = min(float(KNOCKS_AT_ONCE), self.left + (now - self.at_s) * KNOCKS_PER_S)
        self.at_s = now


class Knocks:
    def __init__(self) -> None:
        self.turned_out = 0
        """Connections that were closed because they were too many, or said too much."""
        self.barred: dict[str, float] = {}
        """Addresses, and until when."""
        self._buckets: dict[str, _Bucket] = {}
        self._waiting: dict[int, str] = {}
        """Addresses by descriptor, of connections that are not greeted yet; the oldest first."""
        self._numbers: dict[str, int] = {}
        """Of those, by address."""

    @property
    def waiting(self) -> tuple[int, ...]:
        """Descriptors of which is to be told how much they have said."""
        return tuple(self._waiting)

    def came(self, fd: int, address: str, now: float) -> int | None:
        """Which connection is to be closed for it, if any; if it is this one itself, perhaps its address is barred."""
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= KNOCK_ADDRESSES_MAX:
                self._forget_full(now)
            bucket = self._buckets[address] = _Bucket(now)
        bucket.fill(now)
        if bucket.left < 1.0:
            self.turned_out += 1
            if len(self.barred) < KNOCK_BARRED_MAX:
                self.barred[address] = now + KNOCK_BARRED_S
            return fd
        gives_way = None
        if len(self._waiting) >= KNOCKS_MAX:
            self.turned_out += 1
            gives_way = self._oldest_of_most(self._numbers.get(address, 0))
            if gives_way is None:
                return fd
            self.left(gives_way)
        bucket.left -= 1.0
        self._waiting[fd] = address
        self._numbers[address] = self._numbers.get(address, 0) + 1
        return gives_way

    def _oldest_of_most(self, number: int) -> int | None:
        """Of the address that has most of those that wait; None if one that has so many would have more with one more."""
        most = max(self._numbers, key=self._numbers.__getitem__)
        if self._numbers[most] <= number + 1:
            return None
        return next(fd for fd, address in self._waiting.items() if address == most)

    def address_of(self, fd: int) -> str:
        """Of one that waits; empty for another."""
        return self._waiting.get(fd, "")

    def _forget_full(self, now: float) -> None:
        """They have been quiet long enough to be as good as new. If none has, all begin anew."""
        for bucket in self._buckets.values():
            bucket.fill(now)
        self._buckets = {at: bucket for at, bucket in self._buckets.items() if bucket.left < KNOCKS_AT_ONCE}
        if len(self._buckets) >= KNOCK_ADDRESSES_MAX:
            self._buckets.clear()

    def said(self, fd: int, received: int, sent: int) -> bool:
        """Bytes of a connection so far. Whether it may stay."""
        if sent >= GREETED_BYTES:
            address = self.left(fd)
            if address is not None and (bucket := self._buckets.get(address)) is not None:
                bucket.left = min(float(KNOCKS_AT_ONCE), bucket.left + 1.0)
            return True
        if received <= KNOCK_BYTES_MAX:
            return True
        self.left(fd)
        self.turned_out += 1
        return False

    def left(self, fd: int) -> str | None:
        """It waits no longer. What it has cost its address is not given back. Its address, if it waited."""
        address = self._waiting.pop(fd, None)
        if address is not None:
            self._numbers[address] -= 1
            if not self._numbers[address]:
                del self._numbers[address]
        return address

    def no_longer_barred(self, now: float) -> bool:
        """Whether the bar of an address is over."""
        over = [address for address, until in self.barred.items() if until <= now]
        for address in over:
            del self.barred[address]
        return bool(over)
