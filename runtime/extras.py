"""How to install what only some commands and apps need."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig


def how_to_install(packages: str) -> str:
    """A command that works as it stands, into the Python that runs this: `pip` alone is mostly another one's, and that of Debian
    refuses. `packages`: as pip takes them, such as tidegate[top]."""
    sudo = "" if os.access(sysconfig.get_path("purelib"), os.W_OK) else "sudo "
    return f"{sudo}{shlex.quote(sys.executable)} -m pip install {shlex.quote(packages)}"
