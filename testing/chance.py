"""Chance that is the same each time: `random`, `secrets`, `os.urandom` and `uuid.uuid4` while it is entered."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def fixed_chance(seed: str) -> Iterator[None]:
    """What was drawn meanwhile changes nothing of what is drawn afterwards."""
    state, drawn = random.getstate(), random.Random(seed)
    modules: tuple[tuple[Any, str], ...] = ((os, "urandom"), (random, "_urandom"))
    kept = [getattr(module, name) for module, name in modules]
    random.seed(f"{seed} of random")
    for module, name in modules:
        setattr(module, name, drawn.randbytes)
    try:
        yield
    finally:
        for (module, name), function in zip(modules, kept, strict=True):
            setattr(module, name, function)
        random.setstate(state)
