#!/usr/bin/env bash
# caio 0.12.10, Linux AIO: an fdatasync that the disk could not do ends in SystemError, the exception of Python for faults of the
# interpreter, with the text of the error and no errno, when its result is asked for. The same sync by `os.fdatasync` is an OSError
# with its errno. Who catches OSError to tell a full disk from a broken one, or to tell a disk at all, catches nothing; and in the
# callback the number is the errno taken from 2^64.
#
# The disk: ext4 in a sparse file on a tmpfs which is smaller than the file says. Needs root, for the mounts.
#
# Seen on 2026-11-29, Python 3.11.7, Linux 6.18:
#   os.fdatasync: OSError, errno 28
#   caio: SystemError 'No space left on device', has an errno: False, callback: 2^64 - 28
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "skipped: needs root, for the mounts"; exit 0; }
folder=$(mktemp -d)
clean() {
    umount "$folder/disk" 2>/dev/null || true
    umount "$folder/small" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check caio==0.12.10
mkdir "$folder/small" "$folder/disk"
cat >"$folder/look.py" <<'PYTHON'
import os
import select
import sys

from caio.linux_aio import Context, Operation

way, path = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT)
context, told = Context(max_requests=2), []
waiting = select.poll()
waiting.register(context.fileno, select.POLLIN)
for number in range(40):
    os.pwrite(file, os.urandom(1 << 20), number << 20)
    if way == "os":
        try:
            os.fdatasync(file)
        except OSError as error:
            print(f"os.fdatasync: OSError, errno {error.errno}")
            sys.exit(0)
        continue
    operation = Operation.fdsync(file)
    operation.set_callback(told.append)
    context.submit(operation)
    waiting.poll(20_000)
    context.poll()
    context.process_events(2)
    try:
        operation.get_value()
    except SystemError as error:
        has_errno = hasattr(error, "errno")
        print(f"caio: SystemError {str(error)!r}, has an errno: {has_errno}, callback: 2^64 - {2**64 - told[-1]}")
        sys.exit(1 if has_errno else 0)
sys.exit("this has changed")
PYTHON
for way in os caio; do
    mount -t tmpfs -o size=16m none "$folder/small"
    truncate -s 100m "$folder/small/image"
    mkfs.ext4 -q -O ^has_journal "$folder/small/image"
    mount -o loop "$folder/small/image" "$folder/disk"
    "$folder/venv/bin/python" "$folder/look.py" "$way" "$folder/disk/file"
    umount "$folder/disk"
    umount "$folder/small"
done
