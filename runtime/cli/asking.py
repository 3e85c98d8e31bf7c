"""What a command asks of a running service, and what it says when it gets no answer."""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from tidegate.runtime.addresses import has_name, look_up
from tidegate.runtime.cli.exits import fail
from tidegate.runtime.cli.local import ask_supervisor
from tidegate.runtime.client.access import key_to_be_read_again
from tidegate.runtime.client.answers import ServiceStatus
from tidegate.runtime.errors import CallError, OperatorError, Unavailable, one_line
from tidegate.runtime.limits import CONNECT_TIMEOUT_S
from tidegate.runtime.wire.access import ClientKey

_KEY_HINT = "name a file that `tidegate keys new` has written with --key-file"
_LEFT_SHARE = 0.25
"""Of the time, for connecting, where nobody has greeted a key before."""
NOBODY_HINT = "start a service: tidegate serve APP, or name another endpoint with --connect"


def ask(
    options: argparse.Namespace, class_name: str, name: str, method: str, positional: list[Any], keywords: dict[str, Any],
    *, key: str | None = None,
) -> Any:  # fmt: skip
    """Calls of objects are tried again until the timeout, questions to the service itself are not: what it answers now is the
    answer."""
    from tidegate.runtime.client.synchronous import connect_sync  # Here, because `serve` needs no client.

    with _reading_key(options.key_file):
        check_somebody_listens(options.connect, options.timeout, key_to_be_read_again(options.key_file))
        client = connect_sync(
            options.connect, timeout=options.timeout, direct=False, retry=bool(class_name), key_file=options.key_file
        )
    with client:
        return client.call(class_name, name, method, tuple(positional), keywords, key=key)


@contextlib.contextmanager
def _reading_key(file: str | None) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        problem = str(error).removeprefix(f"{file}: ")
        raise OperatorError("read the access key", file or "of the environment", problem, _KEY_HINT) from None
    except OSError as error:
        raise OperatorError("read the access key", error.filename, error.strerror or str(error), _KEY_HINT) from error


def check_with_key_of_environment(endpoint: str) -> None:
    """The same as `check_somebody_listens`, for what has no option for a key."""
    with _reading_key(None):
        check_somebody_listens(endpoint, key=key_to_be_read_again(None))


def check_somebody_listens(endpoint: str, timeout_s: float = CONNECT_TIMEOUT_S, key: ClientKey | None = None) -> None:
    """ZeroMQ connects in the background and for ever; a person wants to know at once. Who has a key greets: a service that asks
    for keys counts and logs whoever connects and says nothing as one without."""
    timeout_s = min(timeout_s, CONNECT_TIMEOUT_S)
    until_s = time.monotonic() + timeout_s
    try:
        found = look_up(endpoint, timeout_s) if has_name(endpoint) else [endpoint]
        greeted_until_s = until_s - timeout_s * _LEFT_SHARE
        if key is None or not any(_is_greeted(each, greeted_until_s, key) for each in found):
            _connect_to_one(found, until_s)
    except (ConnectionRefusedError, FileNotFoundError):
        raise OperatorError("connect", endpoint, "nothing is listening there", NOBODY_HINT) from None
    except TimeoutError:
        raise OperatorError("connect", endpoint, f"nobody answered within {timeout_s:g} s", NOBODY_HINT) from None
    except UnicodeError:
        raise OperatorError("connect", endpoint, "no name of a host", "correct --connect") from None
    except OSError as error:
        raise OperatorError("connect", endpoint, error.strerror or str(error), "correct --connect") from None


def _connect_to_one(endpoints: list[str], until_s: float) -> None:
    """Raises OSError: of the last one, where nobody lets it in."""
    if not endpoints:
        raise OSError("the name has no address")
    for number, endpoint in enumerate(endpoints):
        try:
            if (left_s := until_s - time.monotonic()) <= 0:
                raise TimeoutError
            timeout_s = left_s / (len(endpoints) - number)
            if endpoint.startswith("ipc://"):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(timeout_s)
                    probe.connect(unix_address(endpoint))
            else:
                host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
            return
        except OSError:
            if number == len(endpoints) - 1:
                raise


def _is_greeted(endpoint: str, until_s: float, key: ClientKey) -> bool:
    """Whether somebody there says anything to this key. False: why not is found out otherwise."""
    import zmq  # Here, as the client above.

    from tidegate.runtime.sockets.dealer import Dealer

    with zmq.Context() as context:
        try:
            dealer = Dealer(context, [endpoint], reconnect=False, key=key)
        except zmq.ZMQError:
            return False
        try:
            while (change := dealer.change(lambda _: None)) is None:
                if not select.select(dealer.monitors(), [], [], max(0.0, until_s - time.monotonic()))[0]:
                    return False
            return change != "lost"
        finally:
            dealer.close()


def unix_address(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    return f"\0{path[1:]}" if path.startswith("@") else path  # ZeroMQ writes an abstract name so.


def report_call_error(operation: str, error: CallError, *, as_json: bool) -> int:
    if as_json:
        print(msgspec.json.encode({"error": error.to_wire()}).decode())
    fate = {"not_executed": "not executed", "executed": "executed", "unknown": "may have been executed"}[error.outcome]
    kind = f"{error.details['type']}: " if error.details.get("type") else ""
    code = fail(one_line(f"{operation}: {error.code}: {kind}{error.message} ({fate})"))
    if trace := error.details.get("traceback"):  # Only from a service in --dev.
        print(trace, file=sys.stderr)
    return code


def status_of(options: argparse.Namespace) -> dict[str, Any]:
    """From the supervisor, where that is on this machine and heeds this user; else from a router."""
    if (told := ask_supervisor(options.connect)) is not None:
        return told
    try:
        status: dict[str, Any] = ask(options, "", "", "status", [], {})
    except CallError as error:
        problem = f"{error.code}: {error.message}"
        hint = NOBODY_HINT if isinstance(error, Unavailable) else "look at the log of the service"
        raise OperatorError("status", options.connect, problem, hint) from error
    if "state" not in status:  # The router was asked before it had heard from the supervisor.
        raise OperatorError("status", options.connect, "the service is just starting", "ask again in a moment")
    return status


def read_status(status: dict[str, Any]) -> ServiceStatus:
    """For pages. What is printed as JSON is what the service has said."""
    return msgspec.convert(status, ServiceStatus)
