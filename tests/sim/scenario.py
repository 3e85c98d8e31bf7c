"""What the seed decides before anything runs: sizes, speeds, faults, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Scenario:
    calm: bool
    """No process, disk or start fails."""
    shards: int
    workers: tuple[int, ...]
    """Worker processes in each start of the service on the same data."""
    drains: bool
    """Each start ends by a drain, else by SIGKILL of everything."""
    clients: int
    calls: int
    """Of each client in each start."""
    window: int
    """Calls of a client in flight at once."""
    direct: bool
    """Some clients talk to the workers themselves."""
    cache_bytes: int
    idle_evict_s: float
    evict_interval_s: float
    network_quanta: int
    sync_quanta: tuple[int, int]
    crash_mean_s: float
    """Mean time between two kills of a worker."""
    restart_s: float
    """The longest time a killed worker stays away."""
    log_full: float
    log_broken: float
    checkpoint_full: float
    checkpoint_broken: float
    undurable_bytes: int
    commit_bytes: int
    memtable_bytes: int
    checkpoint_slice: int
    checkpoint_commit: int
    segment_records: int
    object_calls: int
    trouble: float
    """Probability that `on_start` fails, sleeps, or aborts."""
    harsh: bool
    """Scripts contain aborts, failing sections, timeouts."""
    circles: bool
    """Objects call themselves and each other in any direction, from sections and transactions too: some of these calls can
    only be refused, or end by a bound."""

    keys: bool
    """Clients give their calls keys, and ask again until they are answered."""

    deadly: bool
    """The handlers of some alarms end their process, each time."""

    @property
    def waiting_calls(self) -> int:
        """That may wait in one worker. Where there is little room for one object, there is little for all."""
        return 12 if self.object_calls < 10 else 1_000

    @property
    def waiting_bytes(self) -> int:
        return 100 * self.waiting_calls

    @property
    def flawless(self) -> bool:
        """Every call must succeed."""
        return self.calm and not self.circles and not self.deadly

    @property
    def small_limits(self) -> bool:
        return self.undurable_bytes < 1 << 20


def make_scenario(random: Random, *, circles: bool = False, deadly: bool = False, keys: bool = False) -> Scenario:
    calm = random.random() < 0.2
    small = random.random() < 0.4
    undurable = random.randrange(200, 2_000) if small else 16 << 20
    faults = not calm
    return Scenario(
        calm=calm,
        shards=random.choice((2, 4, 8)),
        workers=tuple(random.randrange(1, 4) for _ in range(random.choice((1, 1, 2)))),
        drains=random.random() < 0.5,
        clients=random.randrange(1, 5),
        calls=random.randrange(10, 50),
        window=random.choice((1, 3, 10, 30)),
        direct=random.random() < 0.5,
        cache_bytes=random.choice((0, 0, 5_000, 1 << 20)),
        idle_evict_s=random.choice((0.000_1, 0.005, 10.0)),
        evict_interval_s=random.choice((0.001, 0.01, 1.0)),
        network_quanta=random.choice((2, 10, 40)),
        sync_quanta=random.choice(((2, 8), (4, 40), (20, 200), (4, 60))),
        crash_mean_s=random.choice((0.02, 0.1, 1.0, 1e9)) if faults else 1e9,
        restart_s=random.choice((0.01, 0.3, 8.0)),
        log_full=random.choice((0.0, 0.03, 0.2)) if faults else 0.0,
        log_broken=random.choice((0.0, 0.0, 0.02)) if faults else 0.0,
        checkpoint_full=random.choice((0.0, 0.1)) if faults else 0.0,
        checkpoint_broken=random.choice((0.0, 0.0, 0.05)) if faults else 0.0,
        undurable_bytes=undurable,
        commit_bytes=undurable + random.randrange(0, 300) if small else 24 << 20,
        memtable_bytes=random.choice((2_000, 8_000, 40_000, 40_000_000)),
        checkpoint_slice=random.choice((1, 3, 64)),
        checkpoint_commit=random.choice((4, 20, 100_000)),
        segment_records=random.choice((2, 10, 100)),
        object_calls=random.choice((3, 1_000)) if faults else 1_000,
        trouble=random.choice((0.0, 0.2)) if faults else 0.0,
        harsh=faults and random.random() < 0.7,
        circles=circles,
        deadly=deadly,
        keys=keys,
    )
