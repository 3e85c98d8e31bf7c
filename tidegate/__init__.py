"""Tidegate: durable objects for Python. Named, single-threaded objects with private storage that lose nothing they confirmed.

Nothing is imported before it is asked for: pytest loads the plugin in every project that has Tidegate installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.public import *  # noqa: F403
    from tidegate.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
        from importlib import import_module

        public = import_module("tidegate.public")
        try:
            value = globals()[name] = getattr(public, name)
        except AttributeError:
            raise AttributeError(f"module 'tidegate' has no attribute {name!r}") from None
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
