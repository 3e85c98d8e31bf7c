"""What the engine's answer to a publish says, and what it does not.

Guarantee: only an acknowledgement that names the stream and a sequence is one, and only a refusal that the engine decides on
before it proposes the message to the replicas says that nothing was stored. Everything else leaves it open.

Read in the source of nats-server 2.15: a leader compares with the stream's and the account's limits before it proposes. Whatever
else goes wrong in its own store goes wrong behind the commit, when the other replicas may have stored the message.
"""

from __future__ import annotations

import msgspec

from tidegate.shard.replicated.owner import Acknowledged, Event, FenceRefused, LogRefused, PublishUnanswered
from tidegate.shard.replicated.refusals import ACCOUNT_FULL, NO_STORAGE, SERVERS_FULL

WRONG_SEQUENCE = 10071
STORE_FAILED = 10077
REFUSED_BEFORE_IT_IS_PROPOSED = frozenset({ACCOUNT_FULL, SERVERS_FULL})
"""No room in the account, or on the server that leads."""
FULL = frozenset({"maximum bytes exceeded", "maximum messages exceeded"})
"""Of the descriptions of 10077 those that are found before the message is proposed."""


class EngineError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PublishAnswer(msgspec.Struct):
    error: EngineError | None = None
    stream: str = ""
    seq: int = 0


decode_publish_answer = msgspec.json.Decoder(PublishAnswer).decode


def publish_event(answer: PublishAnswer, stream: str) -> Event:
    """What the answer to a publish to that stream says of it."""
    error = answer.error
    if error is None:
        return Acknowledged(answer.seq) if answer.stream == stream and answer.seq > 0 else PublishUnanswered()
    if error.err_code == WRONG_SEQUENCE:
        return FenceRefused()
    if error.err_code in REFUSED_BEFORE_IT_IS_PROPOSED:
        return LogRefused(error.err_code)
    if error.err_code == STORE_FAILED and error.description in FULL:
        return LogRefused(error.err_code)
    return PublishUnanswered(no_room=error.err_code in (STORE_FAILED, NO_STORAGE))
