"""Which commands there are. Only the module of the one that is given is imported: to complete a word, or print a help, must not
take long. Of the others their line in the help is known from here.
"""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "new": "make a project: an app, its tests, and how it gets on a server",
    "lint": "look for mistakes in the source of an app",
    "test": "try the classes of an app, without a test of yours",
    "serve": "run a service",
    "call": "call a method of an object, and print its result as JSON",
    "status": "show how a service is, its problems first",
    "top": "watch a service live, its problems first",
    "console": "watch a service in a browser, its problems first, and look at its objects",
    "reload": "replace the workers one by one with app and configuration as they are now; no call fails",
    "restart": "replace routers and workers one by one; no call of a Python client fails",
    "alarms": "list, drop or run again alarms that were given up because their handlers failed",
    "objects": "look at what objects have stored, and change it; those in quarantine",
    "inspect": "say what one object does now, who waits for whom, and what went wrong with it",
    "classes": "count the objects of each class, and say whether the app has it",
    "cluster": "look at the hosts of a cluster, and say who is to have which shards",
    "keys": "make, list, revoke or rotate the access keys of clients",
    "install-service": "run an app as a service of systemd",
    "uninstall-service": "stop a service of systemd and remove its units",
    "backup": "back up the data of a service that runs, or of one that does not",
    "restore": "make a data directory out of a backup, as it was at some moment",
    "config": "check a configuration, or show what is in effect and where it comes from",
    "check": "look through a data directory for damage",
    "repair": "save what is good of a damaged shard, and name what is lost",
    "compact": "make data files as small as what is in them",
    "export": "write the objects of a stopped service to a file, for another",
    "reshard": "deal the objects of a stopped service to another number of shards",
    "migrate": "put a stopped service into a new cluster, or make a data directory of a stopped cluster",
    "upgrade": "bring a data directory to the newest format",
    "bench": "measure a running service",
    "chaos": "hurt a service of its own, and verify every answer",
    "completion": "print what a shell needs to complete commands",
}
"""Each, and what it does, as `--help` lists them."""
