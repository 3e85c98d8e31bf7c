"""The skips that are allowed where everything is installed that .ci/run installs: what the reason begins with, and why."""

ALLOWED = {
    r"takes minutes; TIDEGATE_FULL=1 runs it": "`make crash` runs it before a release; smaller sizes run every time",
    r"annotations are evaluated late since Python 3\.14": "what the case is about cannot be written there",
    r"eager tasks are of Python 3\.12": "newer Pythons run it",
    r"marks came with 3\.12": "newer Pythons run it",
    r"uvloop hands the factory an option that it does not take": "a fault of one version of uvloop, which has no such tasks then",
    r"needs the blkio controller of control groups, version 1": "version 2 cannot slow down a loop device",
    r"this machine lets nobody limit a control group": "in a container that may not make any",
    r"this machine cannot slow down a disk": "likewise",
    r"needs a Python of this version that every user may run": "where it lies in a folder of root's; elsewhere it runs",
    r"the system has taken the file out of memory meanwhile": "nobody can forbid it; rare",
}
