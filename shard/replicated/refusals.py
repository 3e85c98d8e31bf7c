"""What servers refuse because of a limit, and whose limit that is: the stream's, the account's of the hosts, or their own.

Rule: pure. The words are those of nats-server 2.15.1, which says some of them without a code.
"""

from __future__ import annotations

ACCOUNT_FULL = 10002
SERVERS_FULL = 10023
NO_STORAGE = 10047
_MORE_ROOM = "give the servers more room: a larger max_file_store, or a larger disk"
_HINTS = {
    ACCOUNT_FULL: "let the account of the hosts store more: max_file in its jetstream block; replicas count",
    SERVERS_FULL: _MORE_ROOM,
    NO_STORAGE: _MORE_ROOM,
    10026: "let the account of the hosts have more consumers: max_consumers in its jetstream block",
    10027: "let the account of the hosts have more streams: max_streams in its jetstream block (one for each shard, and three)",
    10035: "enable JetStream for the account of the hosts: a jetstream block of its own",
    10039: "enable JetStream for the account of the hosts: a jetstream block of its own",
    10113: "take max_bytes_required from the account of the hosts: snapshots, and not a size, bound their streams",
    10122: "take disk_max_stream_bytes from the account of the hosts: snapshots, and not a size, bound their streams",
}
"""By code: the next step of an operator."""
_HINTS_OF_WORDS = {
    "maximum account active connections exceeded": "let the account of the hosts have more connections: max_connections in its "
    "limits block (each worker has up to four, and each host two more)",
    "maximum connections exceeded": "let the servers have more connections: max_connections",
    "authorization violation": "see whether the user, the password or the token of --cluster is that of the servers",
}


def next_step(code: int, words: str, otherwise: str) -> str:
    """What an operator should do about what servers said, by a code (0: none) or in words."""
    by_words = (hint for known, hint in _HINTS_OF_WORDS.items() if known in words.lower())
    return _HINTS.get(code) or next(by_words, otherwise)


def why_full(code: int, stream: str) -> tuple[str, str]:
    """A stream in which nothing more can be stored, since servers refused with this code: what is wrong, and the next step."""
    problems = {
        ACCOUNT_FULL: f"the account of the hosts may store no more ({code})",
        SERVERS_FULL: f"its servers have no room for more ({code})",
    }
    more = f"give its stream more room: `nats stream edit {stream} --max-bytes=…`"
    return problems.get(code, "it is full"), next_step(code, "", more)
