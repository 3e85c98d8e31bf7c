"""Stands in for what a shared log does in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BegunAppends:
    """Of a log whose `append` does not block for long."""

    def append(self, record: bytes) -> int:
        raise NotImplementedError

    def begin(self, record: bytes, ended: Callable[[int | BaseException], None]) -> None:
        def run() -> None:
            try:
                outcome: int | BaseException = self.append(record)
            except BaseException as error:
                outcome = error
            ended(outcome)

        threading.Thread(target=run).start()
