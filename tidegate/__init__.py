"""Tidegate: durable objects for Python. Named, single-threaded objects with private storage that lose nothing they confirmed."""

from runtime.errors import (
    BadArguments,
    BadRequest,
    CallError,
    DeadlineExceeded,
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
from runtime.ids import ObjectId
from shard.alarms import AlarmInfo
from shard.object import DurableObject
from shard.storage import Storage, Transaction, TransactionOver

__all__ = [
    "AlarmInfo",
    "BadArguments",
    "BadRequest",
    "CallError",
    "DeadlineExceeded",
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
    "TidegateError",
    "TooLarge",
    "Transaction",
    "TransactionOver",
    "Unauthorized",
    "Unavailable",
    "UnknownClass",
    "UnknownMethod",
]
