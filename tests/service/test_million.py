"""Very many objects: created in big batches, ready soon after a restart of any kind, in bounded memory, all readable."""

import re
import time
from pathlib import Path

import pytest

from tests.support.load import read_many
from tests.support.service import FULL, Serve, Service

pytestmark = pytest.mark.alone

OBJECTS = 1_000_000 if FULL else 100_000
BATCH = 5_000
READY_S_MAX = 5.0
CACHE_MIB = 128 if FULL else 16
"""So small that a worker cannot keep all objects in memory."""
BESIDE_CACHE_MIB = 260
"""Python, the app, queues, the writes which no checkpoint has moved yet (a log of 8 segments at most), what eviction frees
and the allocator keeps."""


def private_mib(pid: int) -> float:
    """Memory that is the process's own; pages of LMDB's map belong to the page cache and can be dropped at any time."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = re.search(r"RssAnon:\s+(\d+)", status)
    assert own is not None
    return int(own[1]) / 1_024


def assert_memory_is_bounded(service: Service, when: str) -> None:
    sizes = {pid: private_mib(pid) for pid in service.pids()}
    print(f"{when}: private MiB {sorted(map(round, sizes.values()))}, resident {sorted(map(round, service.rss_mib().values()))}")
    for pid in service.worker_pids():
        assert sizes[pid] < CACHE_MIB + BESIDE_CACHE_MIB, when
    assert sizes[service.router_pid()] < 200, when
    assert sizes[service.supervisor_pid] < 100, when


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_counters_are_created_and_are_there_soon_after_a_restart_and_after_a_kill(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "tidegate.toml"
    config.write_text(f"[storage]\ncache_mib = {CACHE_MIB}\n")
    service = serve(2, "--config", str(config))
    names = [f"object-{number}" for number in range(OBJECTS)]
    began_at = time.monotonic()
    assert set(read_many(service.endpoint, names, method="get_unique_number", batch=BATCH)) == {0}
    created_s = time.monotonic() - began_at
    print(f"{OBJECTS} counters created in {created_s:.1f} s, {OBJECTS / created_s:,.0f} a second")
    assert_memory_is_bounded(service, "created")

    service.kill_everything()
    service.start(2, "--config", str(config))
    print(f"ready {service.ready_s:.2f} s after a kill")
    assert service.ready_s < READY_S_MAX
    assert_memory_is_bounded(service, "after a kill")
    assert set(read_many(service.endpoint, names, method="get_unique_number", batch=BATCH)) == {1}
    assert_memory_is_bounded(service, "written again")

    assert service.stop() == 0
    service.start(2, "--config", str(config))
    print(f"ready {service.ready_s:.2f} s after a stop")
    assert service.ready_s < READY_S_MAX
    assert set(read_many(service.endpoint, names, batch=BATCH)) == {2}
    assert_memory_is_bounded(service, "all read")
