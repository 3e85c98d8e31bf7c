"""Makes a data directory of what the streams of a cluster have, beside the one whose place it takes.

Guarantee: every shard is claimed and replayed as a worker does it, and then once more into a state of its own: the directory has
the rows of both, to the byte, and is looked through as `tidegate check` does. The cluster is left as it is, but for the claims.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.shard.migration.claimed import ClusterLogs, claim_into, sum_in, sum_in_log
from tidegate.shard.migration.commits import digest_of_all
from tidegate.shard.migration.into_cluster import OPERATION, Migrated, Progress
from tidegate.shard.offline.check import Check, state_path
from tidegate.shard.store.logs import NO_RUN, LogMark
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.state.lmdb_state import LmdbState

_HINT = "nothing was replaced; see that no host of the cluster runs, and give the command again"


def take_out_of_cluster(place: ClusterLogs, shards: int, new: Path, starts: int, progress: Progress) -> Migrated:
    """Fills the directory, which is empty, with everything but its description. Raises OperatorError."""
    sums = []
    try:
        for shard in range(shards):
            progress(f"reading shard {shard} of {shards}", shard / shards)
            claim_into(place, new, shard)
            _leave_the_log(state_path(new, shard), shard, LogMark(starts, 0, NO_RUN))
            progress(f"reading shard {shard} of {shards} once more", (shard + 0.5) / shards)
            found = sum_in(new, shard)
            if sum_in_log(place, shard, new / "aside").digest != found.digest:
                raise OperatorError(OPERATION, f"shard {shard}", "it was written to while it was read", _HINT)
            sums.append(found)
        for left in (new / "log").iterdir():  # What a worker keeps back for a full disk.
            left.unlink()
    except (OSError, ValueError, lmdb.Error) as error:
        raise OperatorError(OPERATION, new, str(error), "make room on this file system; nothing was replaced") from error
    check = Check(new, shards, progress)
    for finding in check.run():
        raise OperatorError(OPERATION, finding.where, finding.what, "nothing was replaced; check the disk")
    return Migrated(shards, check.counts, sum(total.bytes for total in sums), digest_of_all(total.digest for total in sums))


def _leave_the_log(path: Path, shard: int, mark: LogMark) -> None:
    """It belongs to no stream any longer: a service without a cluster goes on from here."""
    with contextlib.closing(LmdbState(path, shard)) as state:
        recovery = Recovery(path, [state], mark.start, 0, shared=True)
        recovery.write(mark)
