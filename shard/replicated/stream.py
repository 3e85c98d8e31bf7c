"""One stream of JetStream over one connection: publishes and reads become events; the engine is looked at before it is trusted.

Guarantee: no answer is taken for more than it says (`answers`), a read that breaks off gives what came in order until then, and a
connection that the client has given up for good raises, with what the server had said.

Rule 1: no message ids, no retries in here: `ShardOwner` alone sends something again.
Rule 2: nothing is kept for later while there is no connection. It would be harmless, and say nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.answers import decode_publish_answer, publish_event
from tidegate.shard.replicated.message import FENCE, HEADERS_BYTES_MAX
from tidegate.shard.replicated.owner import Event, MessagesRead, PublishUnanswered, ReadUnanswered, StreamSeen
from tidegate.shard.replicated.servers import ANSWER_S, ask, ask_patiently, check_fence, check_open, close, connect, encode
from tidegate.shard.replicated.settings import stream_settings, wrong_settings

READ_MESSAGES = 256
READ_BYTES = 8 << 20
_NAME_IN_USE, _NO_STREAM, _NO_MESSAGE = 10058, 10059, "404"

logger = logging.getLogger("tidegate")


class ShardStream:
    created = ""
    """When the stream was made, by which it is told from another one of its name."""

    def __init__(self, client: Client, name: str, subject: str) -> None:
        self._client = client
        self.name = name
        self._subject = subject

    @classmethod
    async def open(
        cls, servers: Sequence[str], name: str, *, create: bool = False, replicas: int = 3, bytes_max: int = -1
    ) -> ShardStream:
        """Connects, and looks whether the engine and the stream can be trusted; see `find`. Raises OperatorError."""
        client = await connect(servers)
        try:
            await check_fence(client, replicas)
            return await cls.find(client, name, create=create, replicas=replicas, bytes_max=bytes_max)
        except BaseException:
            await close(client)
            raise

    @classmethod
    async def find(
        cls, client: Client, name: str, *, create: bool = False, replicas: int = 3, bytes_max: int = -1
    ) -> ShardStream:
        """Over a connection to an engine that is known to heed the fence. The stream has to be there, unless `create` says that
        it may be new: a stream that was lost would else be found empty. Raises OperatorError."""
        stream = cls(client, name, f"tidegate.log.{name}")
        await stream._find(stream_settings(name, stream._subject, replicas, bytes_max), create=create)
        return stream

    async def close(self) -> None:
        await close(self._client)

    @property
    def payload_bytes_max(self) -> int:
        """What one message may have, with its headers, at the server that we talk with."""
        return self._client.max_payload

    async def publish(self, data: bytes, after: int) -> Event:
        if HEADERS_BYTES_MAX + len(data) > self.payload_bytes_max:  # Sent, it would end this connection for good.
            raise OperatorError(
                "append to the stream",
                self.name,
                f"a message has {len(data)} bytes, and this server takes {self.payload_bytes_max} with headers",
                "set max_payload to the same size on every server",
            )
        try:
            message = await self._client.request(self._subject, data, timeout=ANSWER_S, headers={FENCE: str(after)})
            answer = decode_publish_answer(message.data)
        except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
            check_open(self._client, self.name)
            logger.debug("a publish to %s after %d was not answered: %r", self.name, after, error)
            return PublishUnanswered()
        event = publish_event(answer, self.name)
        if isinstance(event, PublishUnanswered):
            said = f"{answer.error.description} ({answer.error.err_code})" if answer.error is not None else "no acknowledgement"
            logger.warning("stream %s: a publish after message %d is open, for the engine said: %s", self.name, after, said)
        return event

    async def read(self, sequence: int) -> Event:
        """From any replica, which may lag behind."""
        inbox = self._client.new_inbox()
        request = encode({"seq": sequence, "batch": READ_MESSAGES, "max_bytes": READ_BYTES})
        found: list[tuple[int, bytes]] = []
        try:
            subscription = await self._client.subscribe(inbox)
            try:
                await self._client.publish(f"$JS.API.DIRECT.GET.{self.name}", request, reply=inbox)
                while True:
                    message = await subscription.next_msg(timeout=ANSWER_S)
                    headers = message.headers or {}
                    if status := headers.get("Status"):
                        return MessagesRead(found) if found or status == _NO_MESSAGE else ReadUnanswered()
                    at = int(headers["Nats-Sequence"])
                    if found and at != found[-1][0] + 1:
                        return MessagesRead(found)  # What is between was purged meanwhile, or is missing: the next read tells.
                    found.append((at, message.data))
            finally:
                await subscription.unsubscribe()
        except (nats.errors.Error, OSError, KeyError, ValueError) as error:
            check_open(self._client, self.name)
            logger.debug("a read of %s from %d was not answered: %r", self.name, sequence, error)
            return MessagesRead(found) if found else ReadUnanswered()

    async def look(self) -> Event:
        """What its leader knows of it: `StreamSeen` or `ReadUnanswered`. Raises OperatorError where it was made anew."""
        answer = await ask(self._client, f"STREAM.INFO.{self.name}", {})
        if answer.error is not None or not answer.created:
            said = "an empty answer" if answer.error is None else answer.error.description
            logger.warning("stream %s: asked how far it goes, the servers said: %s", self.name, said)
            return ReadUnanswered()
        self.check_created(self.created, answer.created)
        return StreamSeen(answer.state.first_seq, answer.state.last_seq)

    def check_created(self, known: str, found: str) -> None:
        """Raises OperatorError unless the stream is the one that is known here."""
        if known != found:
            raise OperatorError(
                "use the stream",
                self.name,
                f"it was made at {found}, and what this host has is of one that was made at {known}: that one was deleted",
                "put back store_dir of all servers as it was; `nats stream restore` makes another stream",
            )

    async def _find(self, settings: dict[str, Any], *, create: bool) -> None:
        answer = None
        if create:
            answer = await ask_patiently(self._client, f"STREAM.CREATE.{self.name}", settings, unless={_NAME_IN_USE})
        if answer is None or answer.error is not None:
            answer = await ask_patiently(self._client, f"STREAM.INFO.{self.name}", {}, unless={_NO_STREAM})
        if answer.error is not None:
            hint = "see whether its name and the account are right; where a shard is to begin empty, say that it may be made"
            raise OperatorError("use the stream", self.name, "there is none of that name", hint)
        if wrong := wrong_settings(answer.config, settings):
            hint = "change that with `nats stream edit`, or use another stream"
            raise OperatorError("use the stream", self.name, f"it could lose what it has confirmed: {', '.join(wrong)}", hint)
        self.created = answer.created


async def is_used(client: Client, name: str) -> bool:
    """Whether there is a stream of that name, and something was stored in it."""
    answer = await ask_patiently(client, f"STREAM.INFO.{name}", {}, unless={_NO_STREAM})
    return answer.error is None and answer.state.last_seq > 0
