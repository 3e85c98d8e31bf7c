#!/usr/bin/env bash
# lmdb 3.0.0 (LMDB 0.9.36): a commit for which the disk has too little room raises lmdb.DiskError with "No space left on device",
# or a plain lmdb.Error with "Input/output error", as if the disk were broken. It depends on the place of the last free byte: the
# kernel writes what fits and says how much that was, and LMDB takes any write that is shorter than asked for as EIO, instead of
# writing the rest, which would have been told ENOSPC. On tmpfs, which fills to the last page, it is EIO nearly each time. Who
# tells operators "the disk is full" by that error has to ask the file system how much room there is instead.
# Needs namespaces of users, or root, for a small disk in memory.
#
# Seen on 2026-11-29, Python 3.11.7:
#   a disk of 3 MiB is full: Error, mdb_txn_commit: Input/output error; 0 bytes free
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lmdb==3.0.0
mkdir "$folder/disk"
unshare --user --map-root-user --mount bash -euc 'mount -t tmpfs -o size=3m tmpfs "$0/disk"; exec "$0/venv/bin/python" - "$0/disk"' "$folder" <<'PYTHON'
import os
import sys

import lmdb

disk = sys.argv[1]
env, number = lmdb.open(disk, map_size=1 << 30), 0
try:
    while True:
        with env.begin(write=True) as transaction:
            for number in range(number, number + 20):
                transaction.put(b"%08d" % number, bytes(1_000))
except lmdb.Error as error:
    room = os.statvfs(disk)
    print(f"a disk of 3 MiB is full: {type(error).__name__}, {error}; {room.f_bavail * room.f_bsize} bytes free")
    sys.exit(0 if type(error) is lmdb.Error and "Input/output error" in str(error) else "this has changed")
PYTHON
