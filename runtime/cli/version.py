"""Of Tidegate, as it is installed. In a module of its own because to look it up takes as long as all else of a small command."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    try:
        return importlib.metadata.version("tidegate")
    except importlib.metadata.PackageNotFoundError:  # Run from a source tree that was never installed.
        return "unknown"
