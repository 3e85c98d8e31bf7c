"""Endpoints as text: what is one, and which addresses the name in one stands for.

ZeroMQ takes the first address of a name and stays with it, also where nobody listens there: `localhost` is `::1` before it is
`127.0.0.1` on many machines. So names are looked up here, and whoever connects or listens tries every address.
"""

from __future__ import annotations

import errno
import random
import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from tidegate.runtime.limits import ADDRESSES_MAX
from tidegate.runtime.lookup import Found, addresses_of

LISTEN_DEFAULT = "tcp://127.0.0.1:7711"
EXAMPLES = "tcp://127.0.0.1:7711 or ipc:///run/tidegate.sock"
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
"""Of an address to listen on: another machine has it."""
LOOK_UP_AGAIN_S = 1.0
"""A name to which nothing could be connected yet is looked up this often."""
_PATH_BYTES_MAX = 107
_TCP = "tcp://"
_IPC = "ipc://"


def check_endpoint(value: object) -> str | None:
    """Why one cannot listen there, or None."""
    problem = f"must be an endpoint such as {EXAMPLES}"
    if not isinstance(value, str) or "\0" in value:
        return problem
    if value.startswith(_IPC):
        path_bytes = len(value.encode(errors="backslashreplace")) - len(_IPC)
        return None if 0 < path_bytes <= _PATH_BYTES_MAX else f"{problem}, with a path of up to {_PATH_BYTES_MAX} bytes"
    host, port = _split(value)
    if not value.startswith(_TCP) or not host or any(char.isspace() or char == "/" for char in host):
        return problem
    if (":" in host or "[" in host or "]" in host) and ";" not in host and not _in_brackets(host):
        return f"{problem}, and an IPv6 address in brackets: tcp://[::1]:7711"
    return None if port.isascii() and port.isdecimal() and int(port) <= 65_535 else f"{problem}, with a port up to 65535"


DOOR_DEFAULT = "tcp://127.0.0.1:0"
"""Only hosts on this machine reach that."""


def check_door(value: object) -> str | None:
    """Why the other hosts of a cluster cannot be let in there, or None. They are told this very address, so it has to be one."""
    problem = "must be an address of this machine and a port, such as tcp://host-a:7712"
    if not isinstance(value, str) or not value.startswith(_TCP) or check_endpoint(value) is not None:
        return problem
    host, _ = _split(value)
    try:
        is_every = "*" in host or ";" in host or ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return None  # A name.
    return f"{problem}; other hosts cannot connect to {host}" if is_every else None


CLUSTER_EXAMPLE = "nats://a:4222,nats://b:4222,nats://c:4222/NAME"
CLUSTER_SERVERS_MIN = 3
"""Of fewer none may be lost, or whoever is left decides alone."""
CLUSTER_NAME = "tidegate"
_NATS = "nats://"
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def cluster_of(text: str) -> tuple[tuple[str, ...], str]:
    """The servers that are named, and the name of the cluster: what stands behind a `/`. Raises ValueError."""
    addresses, slash, name = text.replace(_NATS, "").partition("/")
    servers = tuple(_NATS + each.strip() for each in addresses.split(","))
    if len(set(servers)) < CLUSTER_SERVERS_MIN:
        raise ValueError(f"must be at least {CLUSTER_SERVERS_MIN} servers, such as {CLUSTER_EXAMPLE}")
    for server in servers:
        host, port = _split(server.replace(_NATS, _TCP))
        if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
            raise ValueError(f"must be servers with their ports, such as {CLUSTER_EXAMPLE}")
    if any("@" in server for server in servers) and not all("@" in server for server in servers):
        raise ValueError("must be servers of which each has its user and password, or none has")
    name = name if slash else CLUSTER_NAME
    if not _CLUSTER_NAME.fullmatch(name):
        raise ValueError("must be servers, then perhaps a name of letters, digits, - and _")
    return servers, name


def check_cluster(value: object) -> str | None:
    """Why that names no cluster, or None; an empty text names none, and may."""
    try:
        if value != "":
            cluster_of(str(value))
    except ValueError as error:
        return str(error)
    return None


def without_credentials(servers: Iterable[str]) -> list[str]:
    """As they may be shown, and logged."""
    return [f"{_NATS}***@{each.rpartition('@')[2]}" if "@" in each else each for each in servers]


def cluster_shown(value: object) -> object:
    """The text as it may be shown, whether or not it names a cluster."""
    if not isinstance(value, str) or "@" not in value:
        return value
    try:
        servers, name = cluster_of(value)
    except ValueError:
        return "***"  # A password may be anywhere.
    return f"{','.join(without_credentials(servers))}/{name}"


def check_target(value: object) -> str | None:
    """Why one cannot connect there, or None."""
    problem = check_endpoint(value)
    if problem is None and isinstance(value, str) and value.startswith(_TCP):
        host, port = _split(value)
        if host == "*" or not int(port):
            return f"must be an endpoint that somebody listens on, such as {EXAMPLES}"
    return problem


def is_of_this_machine(endpoint: str) -> bool:
    """Whether nobody can connect from elsewhere to who listens there: a unix socket, or loopback. Of a name, whether all that it
    stands for is that; what cannot be looked up is not."""
    if endpoint.startswith(_IPC):
        return True
    host, port = _split(endpoint)
    if host == "*":  # For the C library it is a name of loopback.
        return False
    try:
        found = addresses_of(host.strip("[]"), int(port))
        return bool(found) and all(_is_loopback(str(address[4][0])) for address in found)
    except (OSError, ValueError):
        return False


def _is_loopback(host: str) -> bool:
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback if mapped is None else bool(mapped.is_loopback)


def check_address(value: object) -> str | None:
    """Why one cannot listen for HTTP there, or None. Empty: nowhere."""
    if value == "" or (isinstance(value, str) and not value.startswith("*") and check_endpoint(f"tcp://{value}") is None):
        return None
    return "must be an address and a port such as 127.0.0.1:9464 or [::1]:9464, or empty"


def _in_brackets(host: str) -> bool:
    try:
        socket.getaddrinfo(host[1:-1], None, socket.AF_INET6, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return host[0] == "[" and host[-1] == "]"


def has_name(endpoint: str) -> bool:
    """Whether it names its host, instead of giving an address in numbers or what only ZeroMQ understands."""
    host, _ = _split(endpoint)
    if not endpoint.startswith(_TCP) or not host or host == "*" or ";" in host:
        return False
    try:
        socket.getaddrinfo(host.strip("[]"), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return True
    return False


def look_up(endpoint: str, within_s: float | None = None) -> list[str]:
    """The endpoints in numbers that it stands for, in the order in which the system prefers them. Takes what a look-up takes, as
    long as `within_s` at most. Raises OSError, also for a name that cannot be one."""
    host, port = _split(endpoint)
    try:
        found = addresses_of(host, int(port), within_s)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host: {error}") from None
    return _endpoints(found)


def _endpoints(found: Found) -> list[str]:
    endpoints = []
    for family, _, _, _, address in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            host, port = address[:2]
            endpoints.append(f"{_TCP}[{host}]:{port}" if family == socket.AF_INET6 else f"{_TCP}{host}:{port}")
    return list(dict.fromkeys(endpoints))[:ADDRESSES_MAX]


def _split(endpoint: str) -> tuple[str, str]:
    host, _, port = endpoint.removeprefix(_TCP).rpartition(":")
    return host, port


def free_port() -> int:
    """One that nobody listens on. It is none of those that connections are made from (net.ipv4.ip_local_port_range): one of
    these, asked for by binding to port 0, may belong to any connection of this machine before whoever asked has bound it. The
    system's own chance: that of the module is the same in all processes whose tests Hypothesis has seeded."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(10_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
