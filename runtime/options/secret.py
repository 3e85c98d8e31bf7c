"""A text that is not shown."""

from __future__ import annotations


class Secret(str):
    """For settings of an app: a `str` whose `repr` is `'***'`, so that logs and tracebacks do not have it, nor `tidegate config
    show`. `str()`, formatting and everything else give the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
