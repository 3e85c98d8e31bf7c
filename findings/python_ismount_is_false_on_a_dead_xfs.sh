#!/usr/bin/env bash
# Python's os.path.ismount says False for an XFS that has shut itself down, as it does when its disk fails, though it is mounted as
# before: it asks with lstat, which such a file system answers with EIO, and takes any OSError for "is not there"; pathlib's is_mount
# raises it. Code that unmounts what ismount says is mounted leaves it, and the next `mkfs` or `rm` meets a device in use. An ext4
# that was shut down in the same way answers lstat, and is told as mounted. `psutil.disk_partitions` reads the kernel's list.
#
# The disks: XFS and ext4 in files. They are shut down by the tool of XFS for that, `xfs_io -x -c shutdown`. Needs root, xfsprogs and
# e2fsprogs.
#
# Seen on 2026-11-29, Python 3.11.7, Linux 6.18, psutil 7.1.3:
#   xfs: before True True True, after False EIO True, umount: works
#   ext4: before True True True, after True True True, umount: works
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "skipped: needs root, for the mounts"; exit 0; }
folder=$(mktemp -d)
clean() {
    umount "$folder/xfs" 2>/dev/null || true
    umount "$folder/ext4" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check psutil==7.1.3
cat >"$folder/ask.py" <<'PYTHON'
import errno
import os
import pathlib
import sys

import psutil

path = sys.argv[1]
listed = any(each.mountpoint == path for each in psutil.disk_partitions(all=True))
try:
    by_pathlib = str(pathlib.Path(path).is_mount())
except OSError as error:
    by_pathlib = errno.errorcode[error.errno]
print(os.path.ismount(path), by_pathlib, listed)
PYTHON
told=()
for kind in xfs ext4; do
    truncate -s 400M "$folder/$kind.image"
    "mkfs.$kind" -q "$folder/$kind.image"
    mkdir "$folder/$kind"
    mount -o loop "$folder/$kind.image" "$folder/$kind"
    before=$("$folder/venv/bin/python" "$folder/ask.py" "$folder/$kind")
    xfs_io -x -c shutdown "$folder/$kind"
    after=$("$folder/venv/bin/python" "$folder/ask.py" "$folder/$kind")
    umount "$folder/$kind" && unmounted=works || unmounted=fails
    told+=("$kind: before $before, after $after, umount: $unmounted")
done
printf '%s\n' "${told[@]}"
[ "${told[0]}" = "xfs: before True True True, after False EIO True, umount: works" ]
[ "${told[1]}" = "ext4: before True True True, after True True True, umount: works" ]
