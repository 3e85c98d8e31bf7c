#!/bin/sh
# Runs a container that was built by a script over a throw-away copy of a fresh Debian 12, and stays in the foreground. Run it in mount
# and process namespaces of its own, by: contain.sh FOLDER CONTEXT DATA BUILD COMMAND...: what debian.sh has made, what the build
# copies from, the folder that becomes /data, the script, which finds the root in $ROOT, and what systemd-nspawn is given.
set -eu
folder=$1 context=$2 data=$3 build=$4
shift 4
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
export ROOT=/mnt/root
mkdir "$ROOT" /mnt/upper /mnt/work
mount -t overlay overlay -o "lowerdir=$folder/root,upperdir=/mnt/upper,workdir=/mnt/work" "$ROOT"
: > "$ROOT"/etc/apt/sources.list  # What is to be installed is there.
cp -r "$folder/wheels" "$ROOT"/opt/wheels
printf '[global]\nno-index = true\nfind-links = /opt/wheels\n' > "$ROOT"/etc/pip.conf
cd "$context"
export SYSTEMD_NSPAWN_TMPFS_TMP=0  # Else what is copied to /tmp is not there.
sh -eu "$build"
exec systemd-nspawn --quiet -D "$ROOT" --register=no --keep-unit --console=pipe --private-network --bind="$data:/data" "$@"
