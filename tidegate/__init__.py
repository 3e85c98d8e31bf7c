"""Tidegate: durable objects for Python. Named, single-threaded objects with private storage that lose nothing they confirmed."""

from runtime.client import Client, connect
from runtime.client_sync import SyncClient, connect_sync
from runtime.errors import (
    BadArguments,
    BadRequest,
    CallError,
    DeadlineExceeded,
    Deadlock,
    Internal,
    MethodRaised,
    Moved,
    ObjectReset,
    Overloaded,
    ShardLost,
    StartFailed,
    TidegateError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownClass,
    UnknownMethod,
)
from runtime.exceptions import register_exception
from runtime.ids import ObjectId
from shard.alarms import AlarmInfo
from shard.object import DurableObject
from shard.storage import Storage, Transaction, TransactionOver, TransactionTimeout

__all__ = [
    "AlarmInfo",
    "BadArguments",
    "BadRequest",
    "CallError",
    "Client",
    "DeadlineExceeded",
    "Deadlock",
    "DurableObject",
    "Internal",
    "MethodRaised",
    "Moved",
    "ObjectId",
    "ObjectReset",
    "Overloaded",
    "ShardLost",
    "StartFailed",
    "Storage",
    "SyncClient",
    "TidegateError",
    "TooLarge",
    "Transaction",
    "TransactionOver",
    "TransactionTimeout",
    "Unauthorized",
    "Unavailable",
    "UnknownClass",
    "UnknownMethod",
    "connect",
    "connect_sync",
    "register_exception",
]
