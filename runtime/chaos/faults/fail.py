"""One sync fails: of a commit, a checkpoint, a new segment, whichever comes first."""

from __future__ import annotations

import errno
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.verdict.report import NOT_DONE

WAIT_S = 0.05
PATIENCE_S = 20.0


class Fail:
    def strike(self, stage: Stage, chance: Random) -> str:
        assert stage.syncs is not None
        error_number = chance.choice((errno.EIO, errno.EIO, errno.ENOSPC))
        stage.syncs.fail_next(error_number)
        waited_s = 0.0
        while not stage.syncs.failed and waited_s < PATIENCE_S:
            stage.pause(WAIT_S)
            waited_s += WAIT_S
        return errno.errorcode[error_number] if stage.syncs.failed else f"{NOT_DONE}: no sync came"
