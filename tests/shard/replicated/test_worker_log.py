"""shard/replicated/worker_log.py, where the servers say nothing. With servers: `tests/service/test_cluster.py`."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.replicated.worker_log import WorkerLog


def test_a_log_is_closed_while_it_waits_for_a_server_that_says_nothing() -> None:
    """All that it has asked for ends; not one after the other, when each has waited for as long as servers may take to start."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(3) as threads:
        silent.settimeout(60)
        log = WorkerLog([f"nats://127.0.0.1:{silent.getsockname()[1]}"], "test", "a test")
        takes = [threads.submit(log.take, shard, b"", lambda *told: None) for shard in range(3)]
        connection = silent.accept()[0]
        log.close()
        for each in takes:
            with pytest.raises(LogBroken, match="the log was closed"):
                each.result()
        connection.close()
