#!/bin/sh
# Boots a throw-away copy of a fresh Debian 12 and stays in the foreground. Run it in mount and process namespaces of its own, by:
# fresh.sh FOLDER HOME_FILES, with what debian.sh has made, and a folder whose files the user ann finds at home.
set -eu
folder=$1 files=$2
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/root /mnt/upper /mnt/work
mount -t overlay overlay -o "lowerdir=$folder/root,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
cd /mnt/root
: > etc/machine-id
echo server > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 server\n' > etc/hosts
useradd --root "$PWD" --create-home --shell /bin/bash ann
useradd --root "$PWD" --create-home --shell /bin/bash bob
echo 'ann ALL=(ALL) NOPASSWD: ALL' > etc/sudoers.d/ann
cp "$files"/* home/ann/
chown -R --reference=home/ann home/ann
cp -r "$folder/wheels" opt/wheels
# What a server finds in the index of packages.
printf '[global]\nno-index = true\nfind-links = /opt/wheels\n' > etc/pip.conf
name="tidegate-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')"
status=133  # How it ends when the machine is to be booted again.
while [ "$status" = 133 ]; do
    status=0
    systemd-nspawn -D /mnt/root --machine="$name" --hostname=server --boot --register=no --keep-unit --console=pipe --private-network ||
        status=$?
done
exit "$status"
