"""The app, in the process that tries it."""

from __future__ import annotations

from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.options.settings import AppSources
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.worker.app import load_app, why_not_imported
from tidegate.shard.worker.app_settings import give_settings


def loaded(app: str, sources: AppSources) -> list[ObjectClass]:
    """Its classes, with their settings. Raises OperatorError, of which Mistakes is one."""
    try:
        classes = load_app(app)
        give_settings(classes, sources)
    except OperatorError:
        raise
    except AppError as error:
        raise OperatorError("test", app, one_line(str(error)), "correct the app") from None
    except BaseException as error:  # Whatever importing it raises; an exit, too.
        raise OperatorError("test", app, one_line(why_not_imported(error)), "correct the app") from None
    return classes
