"""The commit log of one shard in JetStream, for whoever appends to a log: `append` returns when the record is stored on most
servers, synced, and no other owner can have been confirmed meanwhile.

Rule 1: this file knows no rule of ownership, and carries out none: `ShardLog` does.
Rule 2: once it is broken it stays so. Whoever wants the shard opens another one: that is another claim.

Threads: `claim`, `append` and `close` block the caller; a thread of its own, `tidegate-replicated`, speaks with the servers.
`close` may be called in another thread while one of the others waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull, LogStatistics, WithoutSegments
from tidegate.shard.replicated.log_thread import LogThread
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.shard_log import Applied, ShardLog
from tidegate.shard.replicated.stream import ShardStream


class JetStreamLog(WithoutSegments):
    """Records in the order of their positions; each stored before the next is sent."""

    log: ShardLog
    """From the claim on."""

    def __init__(
        self, servers: Sequence[str], stream: str, shard: int, *, words: str = "", replicas: int = 3, bytes_max: int = -1
    ) -> None:
        """Asks nobody yet. Has to be closed."""
        self.name = stream
        self._servers = servers
        self._shard = shard
        self._words = words.encode()
        self._replicas, self._bytes_max = replicas, bytes_max
        self._stream: ShardStream | None = None
        self._appends = 0
        self._broken: LogBroken | None = None
        self.thread = LogThread(self._closed)

    @classmethod
    def open(
        cls,
        servers: Sequence[str],
        stream: str,
        shard: int,
        applied: Applied,
        place: StreamPlace | None = None,
        *,
        create: bool = False,
        words: str = "",
        replicas: int = 3,
        bytes_max: int = -1,
    ) -> JetStreamLog:
        """A log, and its claim."""
        log = cls(servers, stream, shard, words=words, replicas=replicas, bytes_max=bytes_max)
        log.claim(applied, place, create=create)
        return log

    def claim(self, applied: Applied, place: StreamPlace | None = None, *, create: bool = False) -> None:
        """Blocks until this process owns the shard and everything before was given to `applied`; once. `place`: what is known
        already. `create`: the stream may be made if there is none, for a shard that begins; by default it has to be there.

        Raises, and the log is closed then: OperatorError (the engine or the stream cannot be used), ShardDamaged, LogShutOut
        (somebody else has claimed it meanwhile), or LogBroken where `close` ended it."""
        if create and place is not None:
            raise ValueError("a stream of which a place is known is not to be made")
        try:
            self.thread.wait(self._claim(applied, place, create=create))
        except BaseException as error:
            ended = self._broken  # By `close`, in another thread, which is why the connection is gone.
            self.close()
            if ended is not None:
                raise ended from error
            raise

    @property
    def place(self) -> StreamPlace:
        """Behind the newest record that is stored as a whole: where another claim may go on."""
        return self.log.place

    def append(self, record: bytes) -> int:
        """Blocks until the record is stored; its position. On one thread at a time. Raises `LogFull` (nothing was stored) or
        `LogBroken`, which is a `LogShutOut` where another host has the shard. While the servers have no majority, it waits."""
        if self._broken is not None:
            raise self._broken
        try:
            position = self.thread.wait(self.log.append(record))
        except LogFull:
            raise
        except OperatorError as error:
            self.is_broken = True
            self._broken = self._broken or broken_by(error)
            raise self._broken from error
        self._appends += 1
        return position

    def truncate(self, position: int) -> None:
        """Nothing is removed: another host may have nothing but the stream. Who has snapshots is `WorkerLog`."""

    def statistics(self) -> LogStatistics:
        return LogStatistics(self.place.position, 1, 0, self.segments_max, 0, 0, self._appends, copies_on_write=False)

    def close(self) -> None:
        """Ends a claim or an append that waits, with `LogBroken`. The shard is nobody's until somebody claims it."""
        self._broken = self._broken or self._closed()
        self.is_broken = True
        self.thread.close(self._end)

    def _closed(self) -> LogBroken:
        return LogBroken("append to the stream", self.name, "the log was closed", "open it again")

    # On the thread of the log

    async def _claim(self, applied: Applied, place: StreamPlace | None, *, create: bool) -> None:
        stream = self._stream = await ShardStream.open(
            self._servers, self.name, create=create, replicas=self._replicas, bytes_max=self._bytes_max
        )
        self.log = ShardLog(self._shard, stream, place, self._words)
        await self.log.claim(applied)

    async def _end(self) -> None:
        if self._stream is not None:
            await self._stream.close()


def broken_by(error: OperatorError) -> LogBroken:
    return error if isinstance(error, LogBroken) else LogBroken(error.operation, error.place, error.problem, error.hint)
