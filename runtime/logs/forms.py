"""How a line is written: as text, as JSON, in journald's own protocol, or for a journal that reads text.

Guarantee: a line is one line, whoever has made its parts. In text and for the journal control characters, line breaks and marks
that turn the direction of a text are shown as escapes; further lines of a message and of a traceback are indented, and nothing
else is. In JSON everything is a value. A part of the head that could be taken for another one is in quotes.

Rule: pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from tidegate.runtime.errors import indented, one_line, sendable
from tidegate.runtime.limits import JOURNAL_VALUE_BYTES_MAX, LINE_CHARACTERS_MAX, LINE_PART_CHARACTERS_MAX
from tidegate.runtime.logs.line import Line

Form = Callable[[Line], bytes]

_PLAIN = re.compile(r"[\w./@+~=,%#$&*{}:<>-]*[\w./@+~=,%#$&*{}<>-]")
"""Needs no quotes: no space, no quote, no bracket, and no colon at the end, which ends a head."""
_WIDTH = len("WARNING")
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_OWN = "tidegate"


def part(text: str) -> str:
    """A name as it stands in the head of a line."""
    if len(text) > LINE_PART_CHARACTERS_MAX:
        text = f"{text[:LINE_PART_CHARACTERS_MAX]}…"
    if _PLAIN.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{one_line(quoted)}"'


def cut(text: str) -> str:
    rest = len(text) - LINE_CHARACTERS_MAX
    return text if rest <= 0 else f"{text[:LINE_CHARACTERS_MAX]}… ({rest} characters more)"


def head(line: Line) -> str:
    """Whose line it is: `worker 1 Counter/alice increment[12] (app.orders)`."""
    words = [line.process]
    if line.object:
        words.append(part(line.object))
        if line.method:
            call = "" if line.call is None else f"[{part(str(line.call))}]"
            words.append(f"{part(line.method)}{call}")
    if line.logger != _OWN and not line.logger.startswith("tidegate."):
        words.append(f"({part(line.logger)})")
    return " ".join(words)


def _body(line: Line) -> str:
    text = cut(line.message)
    return indented(f"{text}\n{cut(line.traceback)}" if line.traceback else text)


def as_text(line: Line) -> bytes:
    text = f"{line.time} {line.level.upper():{_WIDTH}} {head(line)}: {_body(line)}\n"
    return text.encode(errors="backslashreplace")


def as_journal_text(line: Line) -> bytes:
    """For a journal that reads lines: it has the time itself, and takes the level from a number before each of them."""
    mark = f"<{priority(line.level)}>"
    text = f"{head(line)}: {_body(line)}"
    return f"{mark}{text.replace(chr(10), chr(10) + mark)}\n".encode(errors="backslashreplace")


_encode = msgspec.json.Encoder(enc_hook=repr).encode
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""What JSON leaves as it is, and a terminal, or who splits a text into lines, does not."""


def as_json(line: Line) -> bytes:
    if len(line.message) > LINE_CHARACTERS_MAX or len(line.traceback) > LINE_CHARACTERS_MAX:
        line.message, line.traceback = cut(line.message), cut(line.traceback)
    try:
        data = _encode(line)
    except Exception:
        data = _encode(_encodable(line))
    if not data.isascii():
        data = data.decode().translate(_ESCAPES).encode()
    return data + b"\n"


def _encodable(line: Line) -> Line:
    """There are halves of surrogate pairs in it, or something in `extra` that has no JSON, not even a `repr`."""
    for name in ("message", "object", "method", "logger", "traceback"):
        setattr(line, name, sendable(getattr(line, name)))
    if isinstance(line.call, str):
        line.call = sendable(line.call)
    try:
        _encode(line.extra)
    except Exception:
        line.extra = {"unreadable": "what was given as extra has no JSON"}
    return line


def priority(level: str) -> int:
    """Of syslog."""
    return _PRIORITIES.get(level, 6)


def as_journal(line: Line) -> bytes:
    """One datagram (systemd.io/JOURNAL_NATIVE_PROTOCOL). A value that has line breaks goes with its length, so that none of it
    is taken for a field."""
    fields = {
        "MESSAGE": f"{head(line)}: {_body(line)}",
        "PRIORITY": str(priority(line.level)),
        "SYSLOG_IDENTIFIER": _OWN,
        "TIDEGATE_PROCESS": line.process,
        "LOGGER": line.logger,
        "TIDEGATE_OBJECT": line.object,
        "TIDEGATE_METHOD": line.method,
        "TIDEGATE_CALL": "" if line.call is None else str(line.call),
        "TIDEGATE_TRACEBACK": line.traceback,
    }
    if line.extra:
        fields["TIDEGATE_EXTRA"] = _extra(line)
    return b"".join(_field(name, value) for name, value in fields.items() if value)


def _extra(line: Line) -> str:
    try:
        return _encode(line.extra).decode()
    except Exception:
        return repr(list(line.extra or ()))


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")[:JOURNAL_VALUE_BYTES_MAX]
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
