"""Connections that nobody knows yet: how many an address may have, how fast they may come, and how much they may say.

Guarantee: whoever has no access key takes no more of a service than this, however often he tries. Who has one, at the same
address too, is counted no longer as soon as he is greeted.
Rule: pure. The endpoint tells what comes and goes, and what the kernel says of a connection's bytes; what is to be closed is
returned. An address that comes faster than it may is *barred* for a while: the kernel drops what it sends to the listening
socket.
"""

from __future__ import annotations

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
        """Addresses by descriptor, of connections that are not greeted yet."""

    @property
    def waiting(self) -> tuple[int, ...]:
        """Descriptors of which is to be told how much they have said."""
        return tuple(self._waiting)

    def came(self, fd: int, address: str, now: float) -> bool:
        """Whether it may stay. If not, it is to be closed, and perhaps its address is barred."""
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= KNOCK_ADDRESSES_MAX:
                self._forget_full(now)
            bucket = self._buckets[address] = _Bucket(now)
        bucket.fill(now)
        if bucket.left >= 1.0 and len(self._waiting) < KNOCKS_MAX:
            bucket.left -= 1.0
            self._waiting[fd] = address
            return True
        self.turned_out += 1
        if bucket.left < 1.0 and len(self.barred) < KNOCK_BARRED_MAX:
            self.barred[address] = now + KNOCK_BARRED_S
        return False

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
            address = self._waiting.pop(fd, None)
            if address is not None and (bucket := self._buckets.get(address)) is not None:
                bucket.left = min(float(KNOCKS_AT_ONCE), bucket.left + 1.0)
            return True
        if received <= KNOCK_BYTES_MAX:
            return True
        self._waiting.pop(fd, None)
        self.turned_out += 1
        return False

    def left(self, fd: int) -> None:
        """It is closed. What it has cost its address is not given back."""
        self._waiting.pop(fd, None)

    def no_longer_barred(self, now: float) -> bool:
        """Whether the bar of an address is over."""
        over = [address for address, until in self.barred.items() if until <= now]
        for address in over:
            del self.barred[address]
        return bool(over)
