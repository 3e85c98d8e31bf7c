"""What several of these commands say, or take, in the same words."""

from __future__ import annotations

import datetime
from typing import Annotated, get_args

import msgspec

from tidegate.runtime.cli.arguments import Parser, read_as
from tidegate.runtime.wire.commands import AuditedValues
from tidegate.runtime.wire.wishes import LISTED_OBJECTS, LISTED_OBJECTS_MAX

LISTED = read_as(Annotated[int, msgspec.Meta(ge=1, le=LISTED_OBJECTS_MAX)])
MOST = f"at most so many (default: {LISTED_OBJECTS})"
VALUE_WIDTH = 80


def add_audit(parser: Parser) -> None:
    what = "of values the audit log has: what was there, up to 16 KiB (old, default); all; none"
    parser.add_argument("--audit-values", choices=get_args(AuditedValues), default="old", help=what)


def utc(time_ms: int) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1_000, datetime.UTC).isoformat(timespec="milliseconds")
