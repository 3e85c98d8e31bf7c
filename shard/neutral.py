"""The context in which the runtime's own callbacks run, which are no object's.

A leaf: the event loop of a worker asks no gate for what is scheduled in this context, and every floor schedules something.
"""

import contextvars
from typing import Final

NEUTRAL: Final = contextvars.Context()
