"""Tests of durable objects: the real core in one process, in virtual time, with crashes where the test wants them.

With pytest: a test that takes the fixture `objects` may be an `async def`. With unittest: `with Objects() as objects:`. See
docs/testing.md.
"""

from tidegate.testing.clock import Clock
from tidegate.testing.crashes import CrashPoint
from tidegate.testing.exploration import explore
from tidegate.testing.network import Http, HttpReply, HttpRequest
from tidegate.testing.objects import Objects, PendingAlarm, StoredRows
from tidegate.testing.service import NeverEnds

__all__ = [
    "Clock",
    "CrashPoint",
    "Http",
    "HttpReply",
    "HttpRequest",
    "NeverEnds",
    "Objects",
    "PendingAlarm",
    "StoredRows",
    "explore",
]
