"""Annotations as they were written: what cannot be resolved is told when it is wanted, and not before.

Since Python 3.14 they are evaluated when they are first looked at, all of a function together, and one that names what is not
there (an import under TYPE_CHECKING) takes the others with it. Here it stays a reference, as it was with
`from __future__ import annotations`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 14):
    import annotationlib


def annotations_of(of: Any) -> dict[str, Any]:
    """Of a function, or of a class's own body. Nothing is resolved that cannot be."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(of, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(of)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)
