"""The guard of a door: who is let in, and which of the calls of those who are may be run.

Rule 1: pure. The library asks who may connect (`zap.py`), the endpoint shows every message before it is handled, and logs.
Rule 2: nobody is let in for a fault of ours, and nobody is shut out for good for one.
Rule 3: who has come in by the door for the service's own processes is not looked at: nobody else can enter the folder it is in.
Rule 4: a key that is revoked is refused from then on, also on connections that are open.

What is refused is counted, and told once a minute for each key, and once for all keys that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate.runtime.errors import CallError, Unauthorized, Unavailable
from tidegate.runtime.wire.access import AccessKey, Holder, ReadOnlyMethods
from tidegate.runtime.wire.protocol import Message, Request
from tidegate.runtime.wire.sessions import is_head, without_head

OWN = "own"
"""As whom the service's own processes come in. A public key is longer."""
SAID_S = 60.0

_REVOKED = "the access key is not, or no longer, on the list of the service"
_NOT_KNOWN_YET = "the service does not know its read-only methods yet: it is just starting"


class Guard:
    def __init__(self, secret: str, keys: Iterable[AccessKey]) -> None:
        """`secret`: the service's own, in Z85."""
        self.secret = secret
        self._holders: dict[str, Holder] = {}
        self._read_only: ReadOnlyMethods | None = None
        self._said: dict[str, float] = {}
        self.unknown_keys = 0
        """Connections that were turned away because their key is not on the list."""
        self.without_key = 0
        """Connections that were closed because they had none."""
        self.of_another_service = 0
        """The same, because they took this service for another: they had its public key."""
        self.refused_calls = 0
        self.allow(keys)

    def allow(self, keys: Iterable[AccessKey]) -> None:
        """From now on these, and nobody else."""
        self._holders = {key.public: Holder(key, self._read_only) for key in keys}
        self._said = {user: at for user, at in self._said.items() if user in self._holders}

    def told_read_only(self, methods: ReadOnlyMethods) -> None:
        """Which methods a read-only key may call."""
        if methods != self._read_only:
            self._read_only = methods
            self.allow([holder.key for holder in self._holders.values()])

    # Connections

    def admits(self, public: str) -> bool:
        if public in self._holders:
            return True
        self.unknown_keys += 1
        return False

    # Calls

    def judge(self, user: str, message: Message) -> list[tuple[Request, CallError]]:
        """Takes the requests out of the message which are not to be run, and says why."""
        holder = self._holders.get(user)
        if holder is None:
            return self._all(message, _REVOKED)
        requests, problem = message.requests, holder.problem
        refused = [request for request in requests if problem(request.cls, request.method) and not _begins(message, request)]
        if not refused:
            return []
        self.refused_calls += len(refused)
        message.requests = [
            request for request in requests if not problem(request.cls, request.method) or _begins(message, request)
        ]  # Asked again: to look for each among the refused would cost as much as the square of their number.
        _take_lone_head(message)
        return [(request, self._error(holder, request)) for request in refused]

    def _error(self, holder: Holder, request: Request) -> CallError:
        if holder.key.rights.read_only and holder.read_only_methods is None:
            return Unavailable(_NOT_KNOWN_YET)
        return Unauthorized(holder.problem(request.cls, request.method))

    def _all(self, message: Message, problem: str) -> list[tuple[Request, CallError]]:
        if len(message.requests) > 1 and is_head(message.requests[0]):
            without_head(message)
        refused, message.requests = message.requests, []
        self.refused_calls += len(refused)
        error = Unauthorized(problem)
        return [(request, error) for request in refused]

    def is_to_be_said(self, user: str, now: float) -> bool:
        """Whether a refusal of this key is to be a line of the log now. All keys that nobody knows are one."""
        user = user if user in self._holders else ""
        if now < self._said.get(user, now - SAID_S) + SAID_S:
            return False
        self._said[user] = now
        return True

    def name_of(self, user: str) -> str:
        holder = self._holders.get(user)
        return "a key that is not on the list" if holder is None else repr(holder.key.name)


def _begins(message: Message, request: Request) -> bool:
    """Whether it is no call but the head of the batch."""
    return request is message.requests[0] and len(message.requests) > 1 and is_head(request)


def _take_lone_head(message: Message) -> None:
    if len(message.requests) == 1 and is_head(message.requests[0]):
        without_head(message)
