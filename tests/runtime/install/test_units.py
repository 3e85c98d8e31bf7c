"""The units and their companions, made of the files that the package carries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cluster.nats_servers import nats_server
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.install import machine, units
from tidegate.runtime.supervisor.config import Sources, put_together

SERVERS = "nats://a:4222,nats://b:4222,nats://c:4222/shop"
DEFAULT = "tcp://127.0.0.1:7711"


def service(program: str = "/opt/tidegate/bin/tidegate", listen: str = DEFAULT, secrets: tuple[str, ...] = ()) -> str:
    return units.service_unit(machine.template("tidegate.service"), "shop.service", program, listen, secrets)


def socket(listen: str) -> str:
    return units.socket_unit(machine.template("tidegate.socket"), "shop.socket", listen)


def values(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


def test_the_unit_runs_the_program_that_installs_it_and_reloads_what_listens_there() -> None:
    unit = service("/srv/venv/bin/tidegate", "tcp://127.0.0.1:7712")
    assert values(unit, "ExecStart") == ["/srv/venv/bin/tidegate serve --keep-trying --config /etc/%N/tidegate.toml"]
    assert values(unit, "ExecReload") == ["/srv/venv/bin/tidegate reload --connect tcp://127.0.0.1:7712"]
    assert units.PROGRAM not in unit


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        ("tcp://*:7711", "tcp://127.0.0.1:7711"),
        ("tcp://0.0.0.0:7711", "tcp://127.0.0.1:7711"),
        ("tcp://[::]:7711", "tcp://[::1]:7711"),
        ("ipc:///run/shop.sock", "ipc:///run/shop.sock"),
    ],
)
def test_a_reload_connects_to_this_machine_wherever_the_service_listens(listen: str, target: str) -> None:
    assert values(service(listen=listen), "ExecReload") == [f"/opt/tidegate/bin/tidegate reload --connect {target}"]


def test_secrets_are_credentials_that_only_root_reads_from_the_folder_of_the_unit() -> None:
    unit = service(secrets=("db", "api.key"))
    assert values(unit, "LoadCredential") == ["api.key:/etc/%N/credentials/api.key", "db:/etc/%N/credentials/db"]
    assert unit.index("LoadCredential=") < unit.index("[Install]")
    assert not values(service(), "LoadCredential")


def test_units_and_companions_begin_with_whose_they_are() -> None:
    assert service().startswith(f"{units.MARK} Changes of your own: systemctl edit shop.service\n[Unit]\n")
    for text in (socket(DEFAULT), units.users("shop"), units.folders("shop")):
        assert text.startswith(units.MARK)


@pytest.mark.parametrize(
    ("listen", "stream"),
    [
        (DEFAULT, "127.0.0.1:7711"),
        ("tcp://[::1]:7711", "[::1]:7711"),
        ("tcp://*:7711", "7711"),
        ("ipc://@shop", "@shop"),
    ],
)
def test_the_socket_unit_listens_where_the_service_would(listen: str, stream: str) -> None:
    assert values(socket(listen), "ListenStream") == [stream]
    assert not values(socket(listen), "SocketMode")


def test_a_unix_socket_is_for_the_group_of_the_service_only() -> None:
    unit = socket("ipc:///run/shop.sock")
    assert values(unit, "ListenStream") == ["/run/shop.sock"]
    assert (values(unit, "SocketMode"), values(unit, "SocketGroup")) == (["0660"], ["%N"])


@pytest.mark.parametrize("listen", ["tcp://localhost:7711", "tcp://eth0:7711", "tcp://127.0.0.1:0", "ipc://here.sock"])
def test_what_systemd_cannot_listen_on_is_refused(listen: str) -> None:
    with pytest.raises(OperatorError):
        socket(listen)


@pytest.mark.parametrize(
    "program", ["/opt/my tools/bin/tidegate", "/opt/100%/tidegate", '/opt/"/tidegate', "/opt/$HOME/tidegate"]
)
def test_paths_that_systemd_reads_as_something_else_are_refused(program: str) -> None:
    with pytest.raises(OperatorError, match="systemd"):
        service(program)


@pytest.mark.parametrize("app", ["/srv/shop/app.py", "/srv/shop/app.py:Cart,Order", 'we"ird\\.py', "shop.objects"])
@pytest.mark.parametrize("listen", [None, "ipc:///run/shop.sock"])
def test_the_configuration_is_the_sample_with_the_app_and_where_it_listens(app: str, listen: str | None) -> None:
    made = units.configuration(machine.template("tidegate.toml"), app, {"listen": listen})
    service = put_together(Sources("made", made)).config.service
    assert (service.app, service.listen) == (app, listen or DEFAULT)


def test_the_configuration_of_a_host_of_a_cluster_says_which_and_where_it_is_reached() -> None:
    options: dict[str, str | None] = {"cluster": SERVERS, "host_name": "host a", "advertise": "tcp://a:7712", "listen": None}
    made = units.configuration(machine.template("tidegate.toml"), "/srv/shop/app.py", options)
    service = put_together(Sources("made", made)).config.service
    assert (service.cluster, service.host_name, service.advertise) == (SERVERS, "host a", "tcp://a:7712")


def test_a_host_of_a_cluster_waits_for_the_network_and_no_other_service_does() -> None:
    host = units.service_unit(machine.template("tidegate.service"), "shop.service", "/bin/true", DEFAULT, (), in_cluster=True)
    assert values(host, "After") == ["network-online.target"]
    assert "network-online.target" in values(host, "Wants")
    assert units.waits_for_network(host)
    assert values(service(), "After") == ["network.target"]
    assert not units.waits_for_network(service())


def test_servers_that_want_a_password_are_read_from_the_variables_as_they_were_written() -> None:
    made = units.environment_file("shop.service", "nats://t0k%en@a:1,nats://t0k%en@b:1,nats://t0k%en@c:1/shop")
    assert units.cluster_in(made) == "nats://t0k%en@a:1,nats://t0k%en@b:1,nats://t0k%en@c:1/shop"
    assert units.cluster_in(f'{units.CLUSTER_VARIABLE}="nats://a:1"\n') == "nats://a:1"
    assert units.cluster_in(units.environment_file("shop.service")) is None


def test_the_page_takes_servers_to_the_doctor_without_a_shell_that_reads_what_is_in_them(tmp_path: Path) -> None:
    cluster = "nats://a&b;$(touch ran)`touch ran`*<@192.0.2.1:4222/shop"
    (tmp_path / "environment").write_text(units.environment_file("shop.service", cluster))
    (tmp_path / "tidegate").write_text('#!/bin/sh\nprintf "%s %s" "$TIDEGATE_SERVICE_CLUSTER" "$*"\n')
    (tmp_path / "tidegate").chmod(0o755)
    page = (ROOT / "docs" / "cluster.md").read_text()
    (line,) = re.findall(r"^sudo (sh -c .*cluster doctor.*)$", page, re.MULTILINE)
    line = line.replace("/etc/shop/environment", str(tmp_path / "environment"))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{cluster} cluster doctor --monitor http://"), done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_sample_of_a_server_is_one_that_hosts_can_trust(tmp_path: Path) -> None:
    """Loaded by the real nats-server, which then tells how it is configured."""
    (sample := tmp_path / "nats-server.conf").write_text(machine.template("nats-server.conf"))
    tested = subprocess.run([nats_server(), "-t", "-c", str(sample)], capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stderr
    ports = {port: str(free_port()) for port in ("4222", "6222", "8222")}
    text = re.sub(r"192\.0\.2\.\d:", "127.0.0.1:", sample.read_text()).replace("/var/lib/nats-server", str(tmp_path / "data"))
    for port, free in ports.items():
        text = text.replace(f":{port}", f":{free}")
    sample.write_text(text)
    process = subprocess.Popen([nats_server(), "-c", str(sample)], stderr=subprocess.DEVNULL)
    try:
        varz = wait_until(lambda: fetch(f"http://127.0.0.1:{ports['8222']}/varz"), "the server", 30)
        assert varz["jetstream"]["config"]["sync_always"] is True
        assert (varz["auth_required"], varz["max_payload"]) == (True, 1 << 20)
    finally:
        process.kill()
        process.wait()


def fetch(url: str) -> Any:
    """None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (package systemd)")
@pytest.mark.parametrize(("listen", "in_cluster"), [(DEFAULT, False), ("ipc:///run/shop.sock", False), (DEFAULT, True)])
def test_systemd_has_nothing_to_say_about_what_is_installed(tmp_path: Path, listen: str, in_cluster: bool) -> None:
    template = machine.template("tidegate.service")
    unit = units.service_unit(template, "shop.service", "/bin/true", listen, ("db",), in_cluster=in_cluster)
    (tmp_path / "shop.service").write_text(unit)
    (tmp_path / "shop.socket").write_text(socket(listen))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert verified.stdout + verified.stderr == ""


@pytest.mark.parametrize("dest", ["/mnt/backups/shop", "s3://backups/shop"])
def test_the_units_of_backups_name_nothing_of_the_template(dest: str) -> None:
    made = units.backup_service(
        machine.template("tidegate-backup.service"), "shop-backup.service", "shop", "/opt/x/bin/tidegate", dest, 37
    )
    timer = units.backup_timer(machine.template("tidegate-backup.timer"), "shop-backup.timer", "shop", "Mon *-*-* 03:00:00")
    rest = (made + timer).replace("/opt/x/bin/tidegate", "").replace("tidegate install-service", "")
    assert "tidegate" not in rest.replace("see tidegate-backup.service", "")
    assert "--keep 4 --due-after 37\n" in made
    assert made.count(dest) == (5 if dest.startswith("/") else 1)
    assert "OnCalendar=Mon *-*-* 03:00:00\n" in timer


def test_systemd_finds_nothing_wrong_with_the_units_of_backups(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = "/usr/bin/env"
    for name, text in (
        (
            "shop-backup.service",
            units.backup_service(machine.template("tidegate-backup.service"), "", "root", program, "/var/backups/x", 0),
        ),
        ("shop-backup.timer", units.backup_timer(machine.template("tidegate-backup.timer"), "", "shop", "hourly")),
    ):
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "shop-backup.timer")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
