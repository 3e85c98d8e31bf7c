"""The files of a service, made of those that the package carries.

Guarantee: what comes out is for this service only: units have its name by systemd's `%N` alone, the name of the unit. What could
not be written so that systemd reads the same is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from posixpath import normpath

from tidegate.runtime.errors import OperatorError

MARK = "# Written by `tidegate install-service`, and again by the next one."
"""The first words of each file that is ours to write over and to remove."""
_CHANGES = "Changes of your own: systemctl edit"
USER_SAYS = "Tidegate durable objects"
"""By which a user is known to be the service's."""
PROGRAM = "/opt/tidegate/bin/tidegate"
"""As the template has it."""
CLUSTER_VARIABLE = "TIDEGATE_SERVICE_CLUSTER"
"""Where the servers of a cluster are named when that is a secret."""

_ENVIRONMENT = "EnvironmentFile=-/etc/%N/environment\n"
_BACKUPS = "/var/backups/tidegate"
"""As the template has it."""
_NEEDS_A_FOLDER = re.compile(rf"^(# The place .*|.*For={_BACKUPS}|.*Paths=-{_BACKUPS}|ExecStartPre=.*)\n", re.MULTILINE)
_BACKED_UP = re.compile(r"^ExecStart=\S+ backup (\S+) --data ", re.MULTILINE)
_ON_CALENDAR = re.compile(r"^OnCalendar=(.+)$", re.MULTILINE)
_CALENDAR = re.compile(r"[\w *:/.,~-]+", re.ASCII)
_PLAIN = re.compile(r"[\w./+@-]+", re.ASCII)
"""Texts in which systemd sees nothing special."""
_APP_LINE = re.compile(r"^app = .*$", re.MULTILINE)
_LISTEN_STREAM = re.compile(r"^ListenStream=.*$", re.MULTILINE)
_NETWORK = "After=network.target\n"
_NETWORK_ONLINE = "After=network-online.target\nWants=network-online.target\n"


def service_unit(template: str, unit: str, program: str, listen: str, secrets: Iterable[str], *, in_cluster: bool = False) -> str:
    """`program`: the path of `tidegate`. `secrets`: names of files in the folder of credentials. `in_cluster`: it has to reach
    other machines. Raises OperatorError."""
    for text in (program, listen.removeprefix("tcp://").removeprefix("ipc://").translate(str.maketrans("", "", "[]:*"))):
        if not _PLAIN.fullmatch(text):
            problem = "has characters that units of systemd read as something else"
            raise OperatorError("install-service", text, problem, "choose a path of letters, digits and . / _ + @ -")
    made = template.replace(f"{PROGRAM} reload", f"{program} reload --connect {_target(listen)}").replace(PROGRAM, program)
    if in_cluster:
        made = made.replace(_NETWORK, _NETWORK_ONLINE)
    credentials = "".join(f"LoadCredential={name}:/etc/%N/credentials/{name}\n" for name in sorted(secrets))
    return _marked(_body(made).replace(_ENVIRONMENT, _ENVIRONMENT + credentials), unit)


def waits_for_network(unit: str) -> bool:
    """As that of a host of a cluster does."""
    return _NETWORK_ONLINE in unit


def _target(listen: str) -> str:
    """Where one connects to who listens there."""
    scheme, _, place = listen.partition("://")
    host, _, port = place.rpartition(":")
    if scheme == "ipc" or not _is_everywhere(host):
        return listen
    return f"tcp://{'[::1]' if ':' in host else '127.0.0.1'}:{port}"


def _is_everywhere(host: str) -> bool:
    try:
        return host == "*" or ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def socket_unit(template: str, unit: str, listen: str) -> str:
    """Raises OperatorError for an endpoint that systemd cannot open."""
    lines = [f"ListenStream={_stream(listen)}"]
    if listen.startswith("ipc:///"):  # Whoever may call is in the group of the service.
        lines += ["SocketMode=0660", "SocketUser=root", "SocketGroup=%N", "RemoveOnStop=yes"]
    return _marked(_LISTEN_STREAM.sub("\n".join(lines), _body(template), count=1), unit)


def _body(template: str) -> str:
    """Without what it says to who reads the template."""
    return template[template.index("[Unit]") :]


def _stream(listen: str) -> str:
    if listen.startswith("ipc://"):
        path = listen.removeprefix("ipc://")
        if path[:1] in ("/", "@"):
            return path
        raise OperatorError("install-service", listen, "its path is not absolute", "name one such as ipc:///run/tidegate.sock")
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    hint = "give an address in numbers and a port, such as tcp://127.0.0.1:7711"
    if port == "0":
        raise OperatorError("install-service", listen, "nobody would know the port", hint)
    if host == "*":
        return port
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        raise OperatorError("install-service", listen, "systemd listens on no name and no interface", hint) from None
    return f"{host}:{port}"


def backup_service(template: str, unit: str, name: str, program: str, dest: str, due_h: int) -> str:
    """Of the service of that name. `due_h`: within so many hours the next one is expected; 0: nobody knows when. Raises
    OperatorError."""
    for text in (program, dest.removeprefix("s3://")):
        if not _PLAIN.fullmatch(text):
            problem = "has characters that units of systemd read as something else"
            raise OperatorError("install-service", text, problem, "choose a place of letters, digits and . / _ + @ -")
    if not dest.startswith(("/", "s3://")):
        hint = "name it as it is from the root, or s3://BUCKET/PREFIX"
        raise OperatorError("install-service", dest, "the place of backups is no absolute path", hint)
    for own in (f"/var/lib/{name}", f"/run/{name}"):
        if f"{normpath(dest)}/".startswith(f"{own}/"):
            raise OperatorError(
                "install-service", dest, f"it is in {own}, which is the service's own", "choose a folder elsewhere"
            )
    made = _body(template).replace(" --due-after 3", f" --due-after {due_h}" if due_h else "")
    if dest.startswith("s3://"):
        made = _NEEDS_A_FOLDER.sub("", made)
    names = {
        f"{PROGRAM} backup {_BACKUPS} --data /var/lib/tidegate": f"{program} backup {dest} --data /var/lib/{name}",
        f"-A {_BACKUPS}": f"-A {dest}",
        f"-o tidegate -g tidegate {_BACKUPS}": f"-o {name} -g {name} {dest}",
        "of tidegate.service": f"of {name}.service",
        "For=/var/backups/tidegate": f"For={dest}",
        "Paths=-/var/backups/tidegate": f"Paths=-{dest}",
        "Paths=/var/lib/tidegate": f"Paths=/var/lib/{name}",
        "/etc/tidegate/": f"/etc/{name}/",
        "User=tidegate": f"User={name}",
        "Group=tidegate": f"Group={name}",
    }
    for written, wanted in names.items():
        made = made.replace(written, wanted)
    return _marked(made, unit)


def backup_timer(template: str, unit: str, name: str, every: str) -> str:
    """`every`: a calendar event of systemd. Raises OperatorError."""
    if not _CALENDAR.fullmatch(every):
        hint = "take hourly, daily, or what `systemd-analyze calendar` takes"
        raise OperatorError("install-service", f"--backup-every {every}", "is no calendar event of systemd", hint)
    made = _body(template).replace("tidegate.service", f"{name}.service").replace("OnCalendar=hourly", f"OnCalendar={every}")
    return _marked(made, unit)


def backups_of(service: str, timer: str) -> tuple[str, str] | None:
    """Where they go and how often, by the texts of the two units; None where they do not say it as ours do."""
    dest, every = _BACKED_UP.search(service), _ON_CALENDAR.search(timer)
    return None if dest is None or every is None else (dest[1], every[1])


def users(name: str) -> str:
    """For systemd-sysusers."""
    return _marked(f'u {name} - "{USER_SAYS}" /var/lib/{name}\n')


def folders(name: str) -> str:
    """For systemd-tmpfiles. Those of state and of what is only for now are made by the unit."""
    return _marked(f"d /etc/{name} 0755 root root -\nd /etc/{name}/credentials 0700 root root -\n")


def environment_file(unit: str, cluster: str | None = None) -> str:
    """Read by systemd, as root, at each start. `cluster`: servers, with what they want of who asks them."""
    servers = f"{CLUSTER_VARIABLE}={cluster}\n" if cluster is not None else ""
    return (
        f"# Variables of {unit} and of its app, one NAME=value a line, for the next start. Lines with # are comments.\n"
        "# Whoever may read the environment of a process sees them: secrets are credentials, see docs/operations.md.\n"
        "#TIDEGATE_LOG_LEVEL=debug\n" + servers
    )


def cluster_in(environment: str) -> str | None:
    """What such a file says of the cluster, if it does."""
    said = re.findall(rf"^{CLUSTER_VARIABLE}=(.+)$", environment, re.MULTILINE)
    return said[-1].strip().strip("\"'") if said else None


def backup_environment_file(unit: str) -> str:
    """The same for backups alone: no object of the app sees it."""
    return (
        f"# Variables of {unit}, one NAME=value a line, for the next backup: where the store is, and who asks. Lines with # are\n"
        "# comments.\n"
        "#AWS_ENDPOINT_URL=https://store.example\n"
        "#AWS_REGION=\n"
        "#AWS_ACCESS_KEY_ID=\n"
        "#AWS_SECRET_ACCESS_KEY=\n"
    )


def configuration(sample: str, app: str, options: Mapping[str, str | None]) -> str:
    """The sample, for this app. `options` of `[service]`: None for the default."""
    made = _APP_LINE.sub(lambda _: f"app = {json.dumps(app)}", sample, count=1)
    for name, value in options.items():
        if value is not None:
            made = _with_option(made, name, value)
    return made


def _with_option(sample: str, name: str, value: str) -> str:
    """Instead of the line that shows its default."""
    return re.sub(rf"^#{name} = .*$", lambda _: f"{name} = {json.dumps(value)}", sample, count=1, flags=re.MULTILINE)


def _marked(text: str, unit: str = "") -> str:
    changes = f" {_CHANGES} {unit}" if unit else ""
    return f"{MARK}{changes}\n{text}"
