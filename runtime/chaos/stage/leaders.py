"""Which server leads what, by what each has said of itself in its log. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

META = "meta"
"""What the server leads that decides where streams are."""
_LEADS = re.compile(
    r"^\[\d+\] (\d{4}/\d\d/\d\d [\d:.]+) \[INF\] (?:(Self is new JetStream cluster metadata leader)|"
    r"JetStream cluster new stream leader for '\$G > ([^']+)')",
    re.MULTILINE,
)


def leaders(logs: Mapping[str, str]) -> dict[str, str]:
    """By stream, and of `META`: the server that was the last to say that it leads. Whether it still does it may not know."""
    said = [(at, META if meta else stream, server) for server, log in logs.items() for at, meta, stream in _LEADS.findall(log)]
    return {what: server for _, what, server in sorted(said)}
