"""What a process logs and prints becomes lines of the service, with nothing to do for whoever writes the app.

* every record of `logging` that comes to the root, with the fields of a line; also what `warnings` says, what ends a thread, and
  what an exception says that nobody could catch;
* every line that goes through `sys.stdout` and `sys.stderr`: `print`, and libraries that write there.

Each has the object, method and call whose code it is, if it is any's: `speakers_are` is told how that is found out. A record has
them as its attribute `tidegate`, for formatters of the app's own handlers: `%(tidegate)s`.

What is written past Python (by C code, by programs that an object starts) is taken by the supervisor: `output.RawRelay`.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import Logger
from typing import Any

import msgspec

from tidegate.runtime.limits import OUTPUT_FLUSH_S, PRINT_BYTES_MAX
from tidegate.runtime.logs.forms import Form, as_journal, as_journal_text, as_json, as_text
from tidegate.runtime.logs.line import PRINTED, Speaker
from tidegate.runtime.logs.output import JournalSink, Outputs, Sink, open_sinks
from tidegate.runtime.logs.settings import VARIABLE, LogSettings, decode
from tidegate.runtime.logs.tracebacks import app_traceback, whole_traceback
from tidegate.runtime.logs.writer import LineWriter

OWN = "tidegate"


@dataclass
class _State:
    current: Callable[[], Speaker | None]
    settings: LogSettings


_state = _State(lambda: None, LogSettings())


def speakers_are(current: Callable[[], Speaker | None]) -> None:
    """`current` says whose code it is that runs where it is called, in any thread. It must not raise."""
    _state.current = current


# Records

_make_record = logging.getLogRecordFactory()
_call_handlers, _handle = Logger.callHandlers, Logger.handle
"""What services that gather errors put others in the place of."""
_LEAST = len(_make_record("", 0, "", 0, "", None, None).__dict__)
_KNOWN = frozenset(_make_record("", 0, "", 0, "", None, None).__dict__) | {"tidegate", "message", "asctime", "taskName"}


def _record_with_speaker(*args: Any, **options: Any) -> logging.LogRecord:
    record = _make_record(*args, **options)
    record.tidegate = _state.current()
    return record


class LineLogger(logging.Logger):
    """A logger whose records come to the service's handler and to nobody else makes its lines without them: a record takes twice
    as long as all the rest of a line. With a handler, filter, factory or the like of anybody else it is as any other logger."""

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        handler = None if exc_info or extra or stack_info else self._only_handler()
        if handler is None or handler.level > level:
            super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)
            return
        try:
            text = _text_of(msg, args)
        except BaseException as error:
            path, number, *_ = self.findCaller(False, stacklevel + 1)
            text = _without_text(path, number, error)
        handler.writer.say(level, self.name, text, _state.current())

    def _only_handler(self) -> LineHandler | None:
        logger: logging.Logger = self
        while logger.parent is not None:
            if logger.handlers or not logger.propagate:
                return None
            logger = logger.parent
        if self.filters or len(logger.handlers) != 1 or Logger.callHandlers is not _call_handlers or Logger.handle is not _handle:
            return None
        handler = logger.handlers[0]
        is_ours = handler.__class__ is LineHandler and not handler.filters
        return handler if is_ours and logging.getLogRecordFactory() is _record_with_speaker else None  # type: ignore[return-value]  # of that class


def _text_of(msg: object, args: Any) -> str:
    """As a record makes it. Arguments of object code may do anything when they are asked for their text."""
    text = str(msg)
    if args:
        text %= args[0] if len(args) == 1 and isinstance(args[0], Mapping) and args[0] else args
    return text.rstrip("\n")


def _without_text(path: str, number: int, error: BaseException) -> str:
    return f"a log line of {path}:{number} has no text: making it raised {type(error).__name__}"


class LineHandler(logging.Handler):
    """Writes to where the process logs, whatever object code does to `sys.stderr`. Never raises, and has no lock."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer

    def createLock(self) -> None:  # noqa: N802  # its name in `logging`
        self.lock = None  # Where it writes to has its own.

    def handle(self, record: logging.LogRecord) -> Any:
        kept = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage().rstrip("\n")
        except BaseException as error:
            text = _without_text(record.pathname, record.lineno, error)
        given = record.__dict__
        speaker = given["tidegate"] if "tidegate" in given else _state.current()
        extra = None
        if len(given) > _LEAST + 1 and (names := given.keys() - _KNOWN):
            extra = {name: given[name] for name in sorted(names)}
        traceback = _traceback(record) if record.exc_info or record.exc_text or record.stack_info else ""
        if not isinstance(speaker, Speaker):
            speaker = None
        self.writer.say(record.levelno, record.name, text, speaker, traceback, extra, record.created)


def _traceback(record: logging.LogRecord) -> str:
    """Of the service's own lines with all frames."""
    text = record.exc_text or ""
    if not text and record.exc_info and (error := record.exc_info[1]) is not None:
        text = whole_traceback(error) if record.name.partition(".")[0] == OWN else app_traceback(error)
    return f"{text}\n{record.stack_info}".strip("\n") if record.stack_info else text


def say_past_locks(level: int, text: str, speaker: Speaker | None) -> None:
    """A line of the service in its log, and in no handler of the app's, from a thread that must wait for nobody: whoever holds a
    lock of `logging` may wait for something himself."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.writer.say(level, "tidegate.objects", text, speaker)


# Prints


class _Printed(io.RawIOBase):
    """Bytes of `sys.stdout` or `sys.stderr`, on their way to be lines. It cannot be closed: others print, too."""

    def __init__(self, writer: LineWriter, fd: int) -> None:
        self._writer = writer
        self._fd = fd
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.RLock()  # Code that runs in a collection may print while this thread prints.
        self._partial = b""
        self._speaker: Speaker | None = None
        """Who has begun the line."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        if data:
            self._take(data, _state.current())
        return len(data)

    def _take(self, data: bytes, speaker: Speaker | None) -> None:
        with self._lock:
            lines = []
            if self._partial and speaker != self._speaker:
                lines.append((self._partial, self._speaker))
                self._partial = b""
            whole, is_ended, self._partial = (self._partial + data).rpartition(b"\n")
            if is_ended:  # What was written at once is one line of the log, with further ones below it, as a traceback.
                lines.append((whole, speaker))
            if len(self._partial) > PRINT_BYTES_MAX:
                lines.append((self._partial, speaker))
                self._partial = b""
            self._speaker = speaker
        for line, who in lines:
            self._writer.say(logging.INFO, PRINTED[self._fd - 1], line.decode(errors="backslashreplace"), who)

    def end(self) -> None:
        """What was printed last may have no line break."""
        with self._lock:
            partial, self._partial = self._partial, b""
        if partial:
            self._writer.say(logging.INFO, PRINTED[self._fd - 1], partial.decode(errors="backslashreplace"), self._speaker)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _Raw(_Printed):
    """As they are: of a supervisor that talks to a terminal."""

    def __init__(self, sink: Sink, writer: LineWriter, fd: int) -> None:
        super().__init__(writer, fd)
        self._sink = sink

    def _take(self, data: bytes, speaker: Speaker | None) -> None:
        self._sink.write(data)

    def isatty(self) -> bool:
        return os.isatty(self._fd)


class _Stream(io.TextIOWrapper):
    """What object code finds as `sys.stdout` and `sys.stderr`."""

    def close(self) -> None:
        self.flush()


def _stream(raw: Any) -> _Stream:
    return _Stream(raw, "utf-8", "backslashreplace", write_through=True, line_buffering=True)


# The beginning


def is_journal(fd: int) -> bool:
    """Whether this stream ends in journald: JOURNAL_STREAM is `device:inode` of the socket that systemd gave us."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def start_log(process: str, settings: LogSettings | None = None) -> Outputs:
    """From now on everything that this process logs or prints becomes lines; neither blocks nor raises. `settings`: what the
    supervisor of a child has said, unless given. Returns where it goes, to be flushed before an exit that Python does not see."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # There is none, or it is broken.
            pass
    is_child = settings is None
    if settings is None:
        settings = decode(os.environ.pop(VARIABLE, ""))  # Not for programs that object code starts.
        journal = settings.journal
    else:
        journal = (is_journal(1), is_journal(2))
    sinks = open_sinks()
    stderr = _writer(sinks[1], journal[1], settings, process)
    is_one = sinks[0] is sinks[1] or journal == (True, True)
    writers = [stderr if is_one else _writer(sinks[0], journal[0], settings, process), stderr]
    outputs = Outputs(*writers)
    streams: list[_Printed] = []
    for fd, sink, writer in zip((1, 2), sinks, writers, strict=True):
        is_plain = not is_child and writer.form is as_text
        streams.append(_Raw(sink, writer, fd) if is_plain else _Printed(writer, fd))
    sys.stdout, sys.stderr = map(_stream, streams)
    atexit.register(_end, streams, outputs)
    _set_up_logging(outputs.stderr, settings)
    return outputs


def _end(streams: list[_Printed], outputs: Outputs) -> None:
    for stream in streams:
        stream.end()
    outputs.flush(OUTPUT_FLUSH_S)


def _writer(sink: Sink, journal: bool, settings: LogSettings, process: str) -> LineWriter:
    form: Form = as_json if settings.format == "json" else as_text
    if journal and settings.format != "json":
        form = as_journal_text
        if settings.format == "auto" and (native := JournalSink.open()) is not None:
            sink, form = native, as_journal
    writer = LineWriter(sink, form, process)
    sink.loss_line = lambda lost: writer.line(logging.WARNING, OWN, f"{lost} lines of output were lost: nobody took them")
    return writer


def _set_up_logging(writer: LineWriter, settings: LogSettings) -> None:
    logging.setLoggerClass(LineLogger)
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(writer)]
    root.setLevel(settings.level.upper())
    _state.settings = settings
    set_levels()
    logging.setLogRecordFactory(_record_with_speaker)
    logging.logMultiprocessing = False  # Each costs more than all that a line needs.
    if hasattr(logging, "logAsyncioTasks"):
        logging.logAsyncioTasks = False  # From 3.12 on: it gives the task a name, which costs a call its spare task.
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    sys.unraisablehook = _nobody_could_catch


def change_levels(level: str, levels: Mapping[str, str]) -> None:
    """In a process that runs: for all loggers, and for some by name."""
    for name in _state.settings.levels.keys() - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(level.upper())
    _state.settings = msgspec.convert({**msgspec.to_builtins(_state.settings), "level": level, "levels": levels}, LogSettings)
    set_levels()


def set_levels() -> None:
    """Those that the configuration has for loggers: once more when somebody else may have set some."""
    for name, level in _state.settings.levels.items():
        logging.getLogger(name).setLevel(level.upper())


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = "a thread" if args.thread is None else f"the thread {args.thread.name}"
    error = args.exc_value
    logging.getLogger("threading").error("%s ended by an exception", name, exc_info=(type(error), error, error.__traceback__))


def _nobody_could_catch(args: Any) -> None:
    error = args.exc_value
    where = args.err_msg or "an exception that nobody could catch"
    try:
        what = f"{where} {args.object!r}" if args.object is not None else where
    except BaseException:
        what = where
    exc_info: tuple[type[BaseException], BaseException, types.TracebackType | None] | None = None
    if error is not None:
        exc_info = (type(error), error, error.__traceback__)
    logging.getLogger("python").error("%s", what, exc_info=exc_info)
