"""What an installation writes, runs and leaves alone."""

from __future__ import annotations

import dataclasses

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.install.machine import template
from tidegate.runtime.install.plan import (
    BackupTimer,
    Found,
    Keep,
    Places,
    Remove,
    Run,
    Step,
    Wanted,
    Write,
    backups_there,
    install,
    uninstall,
)
from tidegate.runtime.install.units import MARK

DEFAULT = "tcp://127.0.0.1:7711"
PLACES = Places("shop")
WANTED = Wanted("/srv/shop/app.py", "/opt/tidegate/bin/tidegate")
NOTHING = Found({})


def planned(wanted: Wanted = WANTED, found: Found = NOTHING, places: Places = PLACES) -> list[Step]:
    return install(places, wanted, found, template, DEFAULT)


def written(steps: list[Step]) -> dict[str, Write]:
    return {step.path: step for step in steps if isinstance(step, Write)}


def after(steps: list[Step], **changes: object) -> Found:
    """What there is when they have been done."""
    files = {path: step.text for path, step in written(steps).items() if path in PLACES.written}
    found = Found(files, "/srv/shop/app.py", DEFAULT, environment=True, data="ours", user="ours")
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def commands(steps: list[Step]) -> list[tuple[str, ...]]:
    return [step.command for step in steps if isinstance(step, Run)]


def test_a_first_installation_writes_everything_then_enables_and_starts_it() -> None:
    steps = planned()
    assert {path: f"{step.mode:o}" for path, step in written(steps).items()} == {
        "/etc/systemd/system/shop.service": "644",
        "/etc/systemd/system/shop.socket": "644",
        "/etc/sysusers.d/shop.conf": "644",
        "/etc/tmpfiles.d/shop.conf": "644",
        "/etc/shop/tidegate.toml": "644",
        "/etc/shop/environment": "600",
    }
    assert commands(steps) == [
        ("systemd-sysusers", "/etc/sysusers.d/shop.conf"),
        ("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/shop.conf"),
        ("systemctl", "daemon-reload"),
        ("systemctl", "--quiet", "enable", "shop.socket", "shop.service"),
        ("systemctl", "stop", "shop.socket", "shop.service"),
        ("systemctl", "start", "shop.socket", "shop.service"),
    ]


def test_the_folder_of_secrets_is_made_before_the_first_is_written() -> None:
    steps = planned(dataclasses.replace(WANTED, secrets={"db": "hunter2"}))
    (secret,) = [step for step in steps if isinstance(step, Write) and step.secret]
    assert (secret.path, secret.mode) == ("/etc/shop/credentials/db", 0o600)
    assert steps.index(secret) > steps.index(Run(("systemd-tmpfiles", "--create", PLACES.folders)))
    assert "hunter2" not in repr(steps)


def test_a_second_installation_writes_nothing_and_restarts() -> None:
    steps = planned(found=after(planned()))
    assert not written(steps)
    assert commands(steps)[-1] == ("systemctl", "start", "shop.socket", "shop.service")


def test_an_upgrade_writes_units_anew_and_leaves_alone_what_is_the_operators() -> None:
    found = after(planned(), secrets=frozenset({"db"}))
    found = dataclasses.replace(found, files={**found.files, PLACES.service: f"{MARK} of an older version"})
    steps = planned(found=found)
    assert set(written(steps)) == {PLACES.service}
    assert "LoadCredential=db:" in written(steps)[PLACES.service].text
    assert {step.path for step in steps if isinstance(step, Keep)} >= {PLACES.config, PLACES.environment}


def test_a_service_keeps_the_endpoint_of_its_configuration() -> None:
    found = after(planned(), listen="ipc:///run/shop.sock")
    assert "ListenStream=/run/shop.sock" in written(planned(found=found))[PLACES.socket].text


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, {"files": {"/etc/systemd/system/shop.service": "[Unit]\nDescription=A shop\n"}}),
        ({}, {"files": {"/etc/sysusers.d/shop.conf": "u shop 17\n"}}),
        ({}, {"user": "others"}),
        ({}, {"data": "others"}),
        ({}, {"app": "/srv/other/app.py", "listen": DEFAULT}),
        ({"listen": "tcp://127.0.0.1:9"}, {"app": "/srv/shop/app.py", "listen": DEFAULT}),
        ({"secrets": {"../db": "x"}}, {}),
        ({"secrets": {"db:x": "x"}}, {}),
        ({"listen": "tcp://eth0:7711"}, {}),
        ({"listen": "ipc:///run/shop/x.sock"}, {}),
    ],
)
def test_what_would_touch_others_or_not_work_is_refused_before_anything_is_done(
    wanted: dict[str, object], found: dict[str, object]
) -> None:
    changed = dataclasses.replace(NOTHING, **found)  # type: ignore[arg-type]
    with pytest.raises(OperatorError):
        planned(dataclasses.replace(WANTED, **wanted), changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "Shop", "../shop", "shop.service", "1shop", "s" * 32, "shop shop", "-shop"])
def test_names_that_cannot_be_units_and_users_are_refused(name: str) -> None:
    with pytest.raises(OperatorError, match="begin with a letter"):
        Places(name)


def test_where_systemd_does_not_run_units_are_enabled_and_nothing_is_started() -> None:
    steps = planned(found=dataclasses.replace(NOTHING, booted=False))
    assert commands(steps)[2:] == [("systemctl", "--quiet", "enable", "shop.socket", "shop.service")]
    removed = uninstall(PLACES, after(steps, booted=False))
    assert commands(removed) == [("systemctl", "--quiet", "disable", "shop.socket", "shop.service")]


def test_without_a_start_the_service_is_enabled_only() -> None:
    assert not any("start" in command for command in commands(planned(dataclasses.replace(WANTED, start=False))))


def test_an_uninstallation_stops_the_service_and_removes_its_units_and_keeps_the_rest() -> None:
    steps = uninstall(PLACES, after(planned()))
    assert steps[0] == Run(("systemctl", "--quiet", "disable", "--now", "shop.socket", "shop.service"))
    assert {step.path for step in steps if isinstance(step, Remove)} == set(PLACES.written) - {*PLACES.backups}
    assert {step.path for step in steps if isinstance(step, Keep)} == {"/etc/shop", "/var/lib/shop"}


def test_a_purge_leaves_nothing_of_the_service_and_touches_nothing_else() -> None:
    steps = uninstall(PLACES, after(planned(), secrets=frozenset({"db"})), purge=True)
    assert [(step.path, step.whole) for step in steps if isinstance(step, Remove)][4:] == [
        ("/etc/shop/tidegate.toml", False),
        ("/etc/shop/environment", False),
        ("/etc/shop/credentials", True),
        ("/etc/shop", False),
        ("/var/lib/shop", True),
    ]
    assert commands(steps)[-2:] == [("userdel", "shop"), ("groupdel", "shop")]


@pytest.mark.parametrize("purge", [False, True])
def test_where_nothing_of_ours_is_nothing_is_done(purge: bool) -> None:
    assert uninstall(PLACES, dataclasses.replace(NOTHING, user="others"), purge=purge) == []


@pytest.mark.parametrize("purge", [False, True])
def test_a_unit_of_others_is_neither_stopped_nor_removed(purge: bool) -> None:
    with pytest.raises(OperatorError, match="has written"):
        uninstall(PLACES, Found({PLACES.service: "[Unit]\n"}), purge=purge)


def test_data_of_others_is_not_purged() -> None:
    with pytest.raises(OperatorError, match="something else"):
        uninstall(PLACES, dataclasses.replace(after(planned()), data="others"), purge=True)


DAILY = BackupTimer("/mnt/backups/shop", "daily", 37)
BACKED_UP = dataclasses.replace(WANTED, backups=DAILY)


def test_backups_that_are_asked_for_have_a_timer_of_their_own_and_go_with_the_service() -> None:
    steps = planned(BACKED_UP)
    timer, service = (written(steps)[path].text for path in PLACES.backups)
    assert "OnCalendar=daily\n" in timer
    command = "tidegate backup /mnt/backups/shop --data /var/lib/shop --full-every 7 --keep 4"
    assert f"\nExecStart=/opt/tidegate/bin/{command} --due-after 37\n" in service
    unknown = written(planned(dataclasses.replace(WANTED, backups=dataclasses.replace(DAILY, due_h=0))))[PLACES.backups[1]].text
    assert f"{command}\n" in unknown, "nothing is expected where nobody knows when"
    assert commands(steps)[-1] == ("systemctl", "--quiet", "enable", "--now", "shop-backup.timer")
    found = after(steps)
    assert not written(planned(BACKED_UP, found))
    gone = uninstall(PLACES, found)
    assert {step.path for step in gone if isinstance(step, Remove)} >= {*PLACES.backups, PLACES.backup_stamp}
    assert commands(gone)[0][:5] == ("systemctl", "--quiet", "disable", "--now", "shop-backup.timer")


@pytest.mark.parametrize(
    ("backup", "every"),
    [
        ("backups", "daily"),
        ("/mnt/with space", "daily"),
        ("/var/lib/shop/b", "daily"),
        ("/mnt/../run/shop", "daily"),
        ("s3://shop/%N", "daily"),
        ("/mnt/b", "daily\nExecStart=x"),
    ],
)
def test_a_place_or_a_time_that_units_would_read_as_something_else_is_refused(backup: str, every: str) -> None:
    with pytest.raises(OperatorError):
        planned(dataclasses.replace(WANTED, backups=BackupTimer(backup, every)))


def test_an_upgrade_writes_the_units_of_backups_anew_as_they_were_asked_for() -> None:
    found = after(planned(BACKED_UP))
    assert backups_there(PLACES, found) == ("/mnt/backups/shop", "daily")
    older = {**found.files, PLACES.backups[1]: found.files[PLACES.backups[1]].replace("ProtectSystem=strict\n", "")}
    steps = planned(BACKED_UP, dataclasses.replace(found, files=older))
    assert set(written(steps)) == {PLACES.backups[1]}
    assert commands(steps)[-1] == ("systemctl", "--quiet", "enable", "--now", "shop-backup.timer")


def test_units_of_backups_that_say_it_otherwise_stay_as_they_are_and_that_is_said() -> None:
    found = after(planned(BACKED_UP))
    changed = {**found.files, PLACES.backups[1]: f"{MARK}\n[Service]\nExecStart=/usr/local/bin/mine\n"}
    found = dataclasses.replace(found, files=changed)
    assert backups_there(PLACES, found) is None
    steps = planned(found=found)
    assert not {*PLACES.backups} & {*written(steps)}
    assert {step.path for step in steps if isinstance(step, Keep) and "by hand" in step.why} == {*PLACES.backups}


def test_backups_that_are_no_longer_wanted_go_with_their_timer_and_nothing_is_expected_of_them() -> None:
    unwanted = dataclasses.replace(WANTED, keep_backups=False)
    steps = planned(unwanted, after(planned(BACKED_UP)))
    assert ("systemctl", "--quiet", "disable", "--now", "shop-backup.timer") in commands(steps)
    assert [step.path for step in steps if isinstance(step, Remove)] == [*PLACES.backups, PLACES.backup_stamp]
    forget = ("/opt/tidegate/bin/tidegate", "backup", "/mnt/backups/shop", "--data", "/var/lib/shop", "--forget")
    assert ("runuser", "-u", "shop", "--", *forget) in commands(steps)
    assert not any("shop-backup.timer" in command for command in commands(steps) if "enable" in command)
    assert steps.index(Remove(PLACES.backups[0])) < steps.index(Run(("systemctl", "daemon-reload")))
    assert planned(unwanted) == planned()


def test_who_asks_a_store_is_in_a_file_that_the_service_does_not_see() -> None:
    steps = planned(dataclasses.replace(WANTED, backups=BackupTimer("s3://backups/shop")))
    units = written(steps)
    assert (units["/etc/shop/backup-environment"].mode, "AWS_" in units["/etc/shop/environment"].text) == (0o600, False)
    assert "\nEnvironmentFile=-/etc/shop/backup-environment\n" in units[PLACES.backups[1]].text
    assert "/etc/shop/environment" not in units[PLACES.backups[1]].text
    assert "backup-environment" not in units[PLACES.service].text
    assert "/etc/shop/backup-environment" not in written(planned(BACKED_UP)), "a folder asks nobody"
    found = after(steps, backup_environment=True)
    assert Keep("/etc/shop/backup-environment", "yours") in planned(WANTED, found) + planned(BACKED_UP, found)
    assert Remove("/etc/shop/backup-environment") in uninstall(PLACES, found, purge=True)


def test_copies_of_the_data_beside_it_are_named_and_purged_with_it() -> None:
    copies = ("/var/lib/shop.before-20261130T040000Z", "/var/lib/shop.being-made-1234")
    found = after(planned(), copies=copies)
    assert {*copies} <= {step.path for step in uninstall(PLACES, found) if isinstance(step, Keep)}
    removed = [step for step in uninstall(PLACES, found, purge=True) if isinstance(step, Remove)]
    assert {Remove(path, whole=True) for path in copies} <= {*removed}


SERVERS = "nats://a:4222,nats://b:4222,nats://c:4222/shop"
SECRET_SERVERS = "nats://hunter2@a:4222,nats://hunter2@b:4222,nats://hunter2@c:4222/shop"
HOST = dataclasses.replace(WANTED, cluster=SERVERS, host_name="a", advertise="tcp://a:7712")
SECRET_HOST = dataclasses.replace(HOST, cluster=SECRET_SERVERS)


def test_a_host_of_a_cluster_is_told_where_it_is_and_waits_for_the_network() -> None:
    made = written(planned(HOST))
    assert f'\ncluster = "{SERVERS}"\n' in made[PLACES.config].text
    assert '\nhost_name = "a"\n' in made[PLACES.config].text
    assert '\nadvertise = "tcp://a:7712"\n' in made[PLACES.config].text
    assert "network-online.target" in made[PLACES.service].text
    assert "network-online.target" not in written(planned())[PLACES.service].text


def test_what_the_servers_want_of_who_asks_is_for_root_only_and_shown_to_nobody() -> None:
    steps = planned(SECRET_HOST)
    made = written(steps)
    assert f"\nTIDEGATE_SERVICE_CLUSTER={SECRET_SERVERS}\n" in made[PLACES.environment].text
    assert (made[PLACES.environment].mode, made[PLACES.environment].secret) == (0o600, True)
    assert not [path for path, step in made.items() if "hunter2" in step.text and path != PLACES.environment]
    assert "hunter2" not in repr(steps) + repr(SECRET_HOST)


@pytest.mark.parametrize("wanted", [HOST, SECRET_HOST])
def test_an_upgrade_of_a_host_changes_nothing_of_where_it_is(wanted: Wanted) -> None:
    steps = planned(wanted)
    secret = wanted is SECRET_HOST
    found = after(
        steps,
        cluster="" if secret else SERVERS,
        environment_cluster=SECRET_SERVERS if secret else None,
        host_name="a",
        advertise="tcp://a:7712",
    )
    for again in (wanted, WANTED):
        assert not written(planned(again, found))
    unseen = dataclasses.replace(found, environment_cluster=None)  # By who only asks what would be done.
    assert not written(planned(WANTED, unseen))


@pytest.mark.parametrize(
    ("wanted", "found", "says"),
    [
        (dataclasses.replace(HOST, advertise=None), NOTHING, "the other hosts would not reach this one"),
        (dataclasses.replace(HOST, cluster=None), NOTHING, "it is in no cluster"),
        (dataclasses.replace(SECRET_HOST, cluster=SECRET_SERVERS.replace("2", '"')), NOTHING, "has quotes"),
        (SECRET_HOST, Found({}, environment=True), "it is there, and yours"),
        (SECRET_HOST, Found({}, environment=True, environment_cluster=SERVERS), "names another cluster"),
        (HOST, Found({}, app=WANTED.app, cluster=""), "it names no cluster"),
        (HOST, Found({}, app=WANTED.app, cluster=SECRET_SERVERS), "it names another cluster"),
        (HOST, Found({}, app=WANTED.app, cluster=SERVERS, host_name="b"), "it has host_name = 'b', not 'a'"),
    ],
)
def test_a_cluster_that_would_not_be_the_one_asked_for_is_refused(wanted: Wanted, found: Found, says: str) -> None:
    with pytest.raises(OperatorError, match=says) as refused:
        planned(wanted, found)
    assert "hunter2" not in str(refused.value)
