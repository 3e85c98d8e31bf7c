"""What an app makes of what is set for it: `python -m tidegate.shard.worker.settings_check`, a process of its own.

`tidegate config` runs it, writes a `SettingsQuestion` to it and reads a `SettingsAnswer`.
"""

from __future__ import annotations

import os
import sys

import msgspec

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.options.reading import Mistake, Mistakes
from tidegate.runtime.wire.settings_question import SettingsAnswer, SettingsQuestion
from tidegate.shard.objects.methods import AppError
from tidegate.shard.worker.app import load_app, why_not_imported
from tidegate.shard.worker.app_settings import give_settings


def answer(question: SettingsQuestion) -> SettingsAnswer:
    app = question.app
    try:
        return SettingsAnswer(give_settings(load_app(app), question.sources))
    except Mistakes as error:
        return SettingsAnswer(mistakes=list(error.mistakes))
    except (AppError, OperatorError) as error:
        problem = str(error)
    except BaseException as error:  # Whatever importing it raises; an exit, too.
        problem = why_not_imported(error)
    return SettingsAnswer(mistakes=[Mistake(app, "", problem, "correct the app, or leave it out: --no-app", "service.app")])


def main() -> int:
    out = os.dup(1)
    os.dup2(2, 1)  # What the app prints is not the answer.
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=SettingsQuestion)
    with open(out, "wb") as file:
        file.write(msgspec.json.encode(answer(question)))
    os._exit(0)  # Threads of the app are not waited for.


if __name__ == "__main__":
    sys.exit(main())
