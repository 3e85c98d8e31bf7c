"""The stream in which a cluster keeps the snapshots of all its shards: what is in it, and how it gets there and goes again.

    tidegate.snapshots.CLUSTER.SHARD.SNAPSHOT.pieces      a message for each piece
    tidegate.snapshots.CLUSTER.SHARD.SNAPSHOT.manifest    the last message; without it nothing counts

A stream of our own, and not an object store of nats-py: reading from that has no bound in time and none in memory, and never ends
where the last chunk is lost; each name that was ever deleted stays there as a message; and what is there is asked of any replica,
however late.

Guarantee: what was put is stored on most servers, synced, when that returns. What is listed is what the leader knows.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.answers import decode_publish_answer, publish_event
from tidegate.shard.replicated.owner import Acknowledged, LogRefused, PublishUnanswered
from tidegate.shard.replicated.servers import (
    ANSWER_S,
    START_PAUSE_S,
    START_S,
    ApiAnswer,
    ask_patiently,
    check_open,
    encode,
    said_by,
)
from tidegate.shard.replicated.settings import snapshots_settings, wrong_settings
from tidegate.shard.replicated.snapshot import SnapshotName, SnapshotRoom, StreamSize, parse_name

REPLICAS = 3
_NO_STREAM = 10059
_NAME_IN_USE = 10058
NOTHING_S = 3.0
"""For so long a replica may be late with what is there."""
HEADERS_BYTES = 1 << 10
"""Kept free of what a message may have, for what the servers add."""


class Listed(NamedTuple):
    """Messages that there are of a snapshot."""

    manifests: int
    pieces: int


def snapshots_name(cluster: str) -> str:
    """No shard's stream is called so: those end in four digits."""
    return f"{cluster}-snapshots"


class SnapshotRefused(OperatorError):
    """There is no room for a message, and certainly it is not there."""


class SnapshotStream:
    """All raise OperatorError, one that `passes` where nobody answers."""

    def __init__(self, client: Client, cluster: str) -> None:
        self._client = client
        self._cluster = cluster
        self.name = snapshots_name(cluster)

    @property
    def piece_bytes_max(self) -> int:
        return self._client.max_payload - HEADERS_BYTES

    async def make(self) -> None:
        """Unless it is there, as `is_there` says. Of one that was lost nothing is known: the next snapshots are the first ones
        again."""
        await ask_patiently(self._client, f"STREAM.CREATE.{self.name}", self._settings(), unless={_NAME_IN_USE})
        if not await self.is_there():
            raise OperatorError("use the stream", self.name, "it was deleted just now", "see `nats stream info`", passes=True)

    async def is_there(self) -> bool:
        """Raises OperatorError, too, where its settings could lose something: without it nobody may purge a shard's stream."""
        answer = await ask_patiently(self._client, f"STREAM.INFO.{self.name}", {}, unless={_NO_STREAM})
        if answer.error is not None:
            return False
        if wrong := wrong_settings(answer.config, self._settings()):
            hint = "change that with `nats stream edit`; until then no snapshot is taken, and nothing is purged"
            raise OperatorError("use the stream", self.name, f"it could lose snapshots: {', '.join(wrong)}", hint)
        return True

    async def room(self) -> SnapshotRoom:
        """As far as the servers say it to hosts: how full their disks are they do not."""
        stream = await self._ask("STREAM.INFO", {})
        stream_max = stream.config.get("max_bytes", -1)
        account = await ask_patiently(self._client, "INFO", {})
        return SnapshotRoom(
            self.piece_bytes_max,
            stream_max - stream.state.bytes if stream_max > 0 else None,
            (account.limits.max_storage - account.storage) // REPLICAS if account.limits.max_storage > 0 else None,
        )

    def _settings(self) -> dict[str, Any]:
        return snapshots_settings(self.name, f"tidegate.snapshots.{self._cluster}.>", REPLICAS)

    async def listed(self, shard: int) -> dict[SnapshotName, Listed]:
        """Of that shard; nothing where there is no such stream."""
        return (await self._list(f"{shard:04d}.>")).get(shard, {})

    async def listed_of_all(self) -> dict[int, dict[SnapshotName, Listed]]:
        """By shard, of those that have any."""
        return await self._list(">")

    async def _list(self, which: str) -> dict[int, dict[SnapshotName, Listed]]:
        request = {"subjects_filter": f"tidegate.snapshots.{self._cluster}.{which}"}
        answer = await ask_patiently(self._client, f"STREAM.INFO.{self.name}", request, unless={_NO_STREAM})
        found: dict[int, dict[SnapshotName, Listed]] = {}
        for subject, count in (answer.state.subjects or {}).items():
            shard, text, what = subject.split(".")[-3:]
            if shard.isdecimal() and (name := parse_name(text)) is not None:
                of_shard = found.setdefault(int(shard), {})
                before = of_shard.get(name, Listed(0, 0))
                of_shard[name] = before._replace(**{"manifests" if what == "manifest" else "pieces": count})
        return found

    async def put_piece(self, shard: int, name: SnapshotName, data: bytes) -> int:
        """Where it is."""
        return await self._put(self._subject(shard, name, "pieces"), data)

    async def put_manifest(self, shard: int, name: SnapshotName, data: bytes) -> None:
        await self._put(self._subject(shard, name, "manifest"), data)

    async def piece(self, sequence: int) -> bytes | None:
        """What is at that place. None: nothing."""
        return await self._get({"seq": sequence})

    async def manifest(self, shard: int, name: SnapshotName) -> bytes | None:
        return await self._get({"last_by_subj": self._subject(shard, name, "manifest")})

    async def remove(self, shard: int, name: SnapshotName) -> None:
        """The manifest first: what is half gone does not count."""
        for what in ("manifest", "pieces"):
            await self._ask("STREAM.PURGE", {"filter": self._subject(shard, name, what)})

    def _subject(self, shard: int, name: SnapshotName, what: str) -> str:
        return f"tidegate.snapshots.{self._cluster}.{shard:04d}.{name}.{what}"

    async def _put(self, subject: str, data: bytes) -> int:
        """Until it is stored, perhaps twice: what is there besides goes with the snapshot. Where there is no room it is given up
        at once: shards want to append. Raises SnapshotRefused, or another OperatorError where it may be there."""
        hint = "see that most servers run, and that they, the account and the stream may have more bytes: `nats stream info`"
        is_open = False
        give_up_at = asyncio.get_running_loop().time() + START_S
        while True:
            try:
                answer = decode_publish_answer((await self._client.request(subject, data, timeout=ANSWER_S)).data)
                event = publish_event(answer, self.name)
                if isinstance(event, Acknowledged):
                    return event.sequence
                said = "no acknowledgement" if answer.error is None else answer.error.description
                if isinstance(event, LogRefused) and not is_open:
                    raise SnapshotRefused("store a snapshot in", self.name, said, hint, passes=True)
                is_full = isinstance(event, LogRefused) or (isinstance(event, PublishUnanswered) and event.no_room)
            except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
                check_open(self._client, self.name)
                said, is_full = said_by(error), False
            is_open = True
            if is_full or asyncio.get_running_loop().time() >= give_up_at:
                raise OperatorError("store a snapshot in", self.name, said, hint, passes=True)
            await asyncio.sleep(START_PAUSE_S)

    async def _get(self, request: dict[str, Any]) -> bytes | None:
        """That nothing is there is believed after a while: replicas may be late."""
        began_at = asyncio.get_running_loop().time()
        while True:
            said = ""
            try:
                message = await self._client.request(f"$JS.API.DIRECT.GET.{self.name}", encode(request), timeout=ANSWER_S)
                if "Status" not in (message.headers or {}):
                    return message.data
            except (nats.errors.Error, OSError) as error:
                check_open(self._client, self.name)
                said = said_by(error)
            waited_s = asyncio.get_running_loop().time() - began_at
            if said and waited_s >= START_S:
                hint = "see that most of the servers run and find each other"
                raise OperatorError("read a snapshot from", self.name, said, hint, passes=True)
            if not said and waited_s >= NOTHING_S:
                return None
            await asyncio.sleep(START_PAUSE_S)

    async def _ask(self, what: str, request: dict[str, Any]) -> ApiAnswer:
        answer = await ask_patiently(self._client, f"{what}.{self.name}", request, unless={_NO_STREAM})
        if answer.error is not None:
            raise OperatorError("use the stream", self.name, answer.error.description, "see `nats stream info`")
        return answer


async def size_of(client: Client, stream: str) -> tuple[StreamSize, str]:
    """Of a shard's stream, and when that was made. Raises OperatorError."""
    answer = await ask_patiently(client, f"STREAM.INFO.{stream}", {}, unless={_NO_STREAM})
    if answer.error is not None:
        raise OperatorError("look at the stream", stream, answer.error.description, "see the log of its shard")
    state = answer.state
    return StreamSize(state.first_seq, state.last_seq, state.bytes), answer.created


async def purge_before(client: Client, stream: str, sequence: int) -> None:
    """What is before that message of a shard's stream; the message stays. Raises OperatorError."""
    answer = await ask_patiently(client, f"STREAM.PURGE.{stream}", {"seq": sequence}, unless={_NO_STREAM})
    if answer.error is not None:
        raise OperatorError("purge the stream", stream, answer.error.description, "see the log of its shard")
