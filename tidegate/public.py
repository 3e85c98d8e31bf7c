"""What `tidegate` offers: everything that is imported from there (see `__init__`)."""

from tidegate.runtime.client.answers import (
    ClassInfo,
    MethodInfo,
    ObjectQuarantine,
    ProcessStatus,
    ServiceProblem,
    ServiceStatus,
    ServiceTopology,
    ShardPlace,
)
from tidegate.runtime.client.asynchronous import Client, connect
from tidegate.runtime.client.synchronous import SyncClient, SyncStub, connect_sync
from tidegate.runtime.errors import (
    BadArguments,
    BadRequest,
    CallError,
    DeadlineExceeded,
    Deadlock,
    Internal,
    Interrupted,
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
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.options.secret import Secret
from tidegate.runtime.wire.exceptions import register_exception
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.objects.object import DurableObject, readonly
from tidegate.shard.objects.storage import Storage, Transaction, TransactionOver, TransactionTimeout

__all__ = [
    "AlarmInfo",
    "BadArguments",
    "BadRequest",
    "CallError",
    "ClassInfo",
    "Client",
    "DeadlineExceeded",
    "Deadlock",
    "DurableObject",
    "Internal",
    "Interrupted",
    "MethodInfo",
    "MethodRaised",
    "Moved",
    "ObjectId",
    "ObjectQuarantine",
    "ObjectReset",
    "Overloaded",
    "ProcessStatus",
    "Secret",
    "ServiceProblem",
    "ServiceStatus",
    "ServiceTopology",
    "ShardLost",
    "ShardPlace",
    "StartFailed",
    "Storage",
    "SyncClient",
    "SyncStub",
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
    "readonly",
    "register_exception",
]
