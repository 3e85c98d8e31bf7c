"""Servers of tests and measurements: each that was started runs, and no two runs make one cluster."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.nats_cluster import ask
from tests.support.waiting import wait_until
from tidegate.runtime.cluster.nats_servers import NatsServers


def test_a_port_that_somebody_else_has_is_said(tmp_path: Path) -> None:
    servers = NatsServers(tmp_path, servers=1)
    taken = socket.create_server(("127.0.0.1", int(servers.urls[0].rpartition(":")[2])))
    with taken, pytest.raises(RuntimeError, match=r"does not run: (?s:.*)address already in use"):
        servers.__enter__()


def test_servers_of_another_run_are_not_let_in(tmp_path: Path) -> None:
    """Even those that look for their own at a port that this run has."""
    with NatsServers(tmp_path / "one", servers=2) as one:
        stranger = NatsServers(tmp_path / "other", servers=2)
        stranger._ports[3] = one._ports[3]
        log = tmp_path / "other" / stranger.names[0] / "log"
        try:
            stranger.start(stranger.names[0])
            wait_until(lambda: "cluster name" in (one.log() + log.read_text()).lower(), "that they differ", 30)
        finally:
            stranger._end()
        wait_until(lambda: "streams" in ask(one, "STREAM.NAMES"), "that the two go on", 30)
