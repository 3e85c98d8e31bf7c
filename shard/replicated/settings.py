"""What streams of a cluster have to be like, so that they keep every message that was confirmed, and confirm what they keep."""

from __future__ import annotations

from typing import Any

ABSENT: dict[str, str] = {
    "no_ack": "nothing would ever be confirmed",
    "sealed": "nothing can be appended",
    "mirror": "it takes its messages from another stream",
    "sources": "messages of other streams come in between",
    "subject_transform": "messages would be stored under another subject",
    "republish": "each message would be sent on to others",
    "allow_msg_ttl": "a message may say when it is to be deleted",
    "subject_delete_marker_ttl": "the engine would write messages of its own",
    "allow_msg_schedules": "the engine would write messages of its own",
    "allow_msg_counter": "it takes counters only",
    "discard_new_per_subject": "it may be full for one subject",
    "persist_mode": "it may confirm what is not synced",
    "first_seq": "it does not begin with message 1",
}
"""What must not be there, be false, or be 0, and why."""


def stream_settings(name: str, subject: str, replicas: int, bytes_max: int) -> dict[str, Any]:
    """No message may be lost by age, by number, by hand, or to make room."""
    return {
        "name": name,
        "subjects": [subject],
        "num_replicas": replicas,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": bytes_max,
        "allow_direct": True,
        "deny_delete": True,
        "allow_rollup_hdrs": False,
    }


def snapshots_settings(name: str, subjects: str, replicas: int) -> dict[str, Any]:
    """Of the stream of snapshots: the logs of shards are purged behind what is there. Its own messages are removed by us."""
    settings = stream_settings(name, subjects, replicas, -1)
    return settings | {"deny_delete": False, "deny_purge": False}


def wrong_settings(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What of a stream's settings is not as it has to be. How many bytes it may have is the operator's affair."""
    wrong = [
        f"{key} is {found.get(key)!r} instead of {value!r}"
        for key, value in wanted.items()
        if key != "max_bytes" and found.get(key) != value
    ]
    wrong += [f"{key} is {found[key]!r}: {why}" for key, why in ABSENT.items() if found.get(key) not in (None, False, 0, "", [])]
    if found.get("max_msg_size", -1) not in (0, -1):
        wrong.append(f"max_msg_size is {found['max_msg_size']!r}: a message may be as large as max_payload")
    return wrong
