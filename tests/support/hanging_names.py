"""A name whose servers never answer: a library preloaded into a process that looks it up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HANGING = "hangs.example"
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (host && !strcmp(host, "hangs.example") && !(hints && hints->ai_flags & AI_NUMERICHOST)) {
        (void)!write(2, "asked\\n", 6);
        for (;;)
            pause();
    }
    return real(host, port, hints, found);
}
"""
ASKED = "asked"
"""What it says on stderr when it is asked."""


def hanging_names(folder: Path) -> dict[str, str]:
    """The environment of such a process. It has no key of a service in it."""
    library = folder / "hanging_names.so"
    source = library.with_suffix(".c")
    source.write_text(_SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return {**kept, "LD_PRELOAD": str(library)}


def ready_to_hang(process: subprocess.Popen[str]) -> None:
    """It has asked for the name."""
    assert process.stderr is not None
    said: list[str] = []
    while ASKED not in (line := process.stderr.readline()):
        assert line, f"it has ended without asking: {said}"
        said.append(line)
