"""Operators wish for snapshots: said over plain NATS to all who serve shards of a cluster, until each owner says how it ended.

Nothing of a wish is stored. A message that is lost, or an owner that changes, costs a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from secrets import token_hex

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.shard.store.snapshots import ENDS, SnapshotSaid, SnapshotWish

AGAIN_S = 1.0
"""Between two times that a wish is said."""
NOBODY_S = 15.0
"""Owners answer at once, but for the first seconds of a worker: so long nothing means that there is none."""

encode_said = msgspec.json.encode
_decode_wish = msgspec.json.Decoder(SnapshotWish).decode
_decode_said = msgspec.json.Decoder(SnapshotSaid).decode


def wishes_of(cluster: str) -> str:
    """The subject under which the wishes for the shards of a cluster are said."""
    return f"tidegate.snapshot-wishes.{cluster}"


def decode_wish(data: bytes) -> SnapshotWish:
    """Raises msgspec.MsgspecError."""
    return _decode_wish(data)


async def wish_for_snapshots(
    client: Client, cluster: str, shards: Sequence[int], told: Callable[[SnapshotSaid], object], passing_s: float = 0.0
) -> list[SnapshotSaid]:
    """Has one taken of each now; what came of it, shard by shard. `told` hears of each change. It takes as long as the owners
    take for it: of a shard whose owner is silent for `NOBODY_S` that is the end. Raises what the client does when nothing
    could be said for `passing_s`."""
    now = asyncio.get_running_loop().time
    id = token_hex(16)
    newest: dict[int, SnapshotSaid] = {}
    heard_at = dict.fromkeys(shards, now())

    def note(said: SnapshotSaid) -> None:
        before = newest.get(said.shard)
        if before != said and (before is None or before.state not in ENDS):
            newest[said.shard] = said
            told(said)

    async def take(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            said = _decode_said(message.data)
            if said.shard in heard_at:
                heard_at[said.shard] = now()
                note(said)

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    said_at = now()
    try:
        while open := [shard for shard in shards if shard not in newest or newest[shard].state not in ENDS]:
            silent = [shard for shard in open if now() - heard_at[shard] > NOBODY_S]
            for shard in silent:
                note(_nobody(shard))
            try:
                for shard in open:
                    if shard not in silent:
                        await client.publish(wishes_of(cluster), msgspec.json.encode(SnapshotWish(shard, id)), reply=inbox)
                said_at = now()
            except (nats.errors.Error, OSError):
                if client.is_closed or now() - said_at >= passing_s:
                    raise
            await asyncio.sleep(AGAIN_S)
    finally:
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()
    return [newest[shard] for shard in shards]


def _nobody(shard: int) -> SnapshotSaid:
    why = f"nobody who serves it has said anything for {NOBODY_S:g} s"
    return SnapshotSaid(shard, "failed", why=why, next="see whether a host serves it: tidegate cluster status; then try again")
