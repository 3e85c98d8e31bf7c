#!/bin/sh
# Makes FOLDER/root, a fresh Debian 12 with what a server has, and FOLDER/wheels, the packages of Python that Tidegate needs; once,
# in minutes. Needs root, debootstrap and a network. By: debian.sh FOLDER PYTHON
set -eu
folder=$1 python=$2
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9

make_root() {
    rm -rf "$folder/root"
    # python3-venv is what the README installs; it comes along, so that the machines of the tests need no network.
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,sudo,python3-venv bookworm "$folder/root" $mirror >"$folder/log"
}
if [ ! -e "$folder/made.root" ]; then
    read -r mirror <<LIST
$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian')
LIST
    make_root || make_root
    touch "$folder/made.root"
fi

# And what one command needs, which says how to install it.
program='import tomllib; it = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(it["dependencies"] + it["optional-dependencies"]["completion"]))'
"$python" -c "$program" >"$folder/needs"
if ! cmp -s "$folder/needs" "$folder/made"; then  # Never made, or for other needs.
    platforms=$(for tag in 2014 _2_28 _2_34 _2_36; do echo "--platform manylinux${tag}_$(uname -m)"; done)
    rm -rf "$folder/wheels"
    # shellcheck disable=SC2086  # They are words.
    "$python" -m pip download --quiet --disable-pip-version-check --dest "$folder/wheels" --requirement "$folder/needs" \
        --only-binary=:all: --python-version 3.11 $platforms
    cp "$folder/needs" "$folder/made"
fi
