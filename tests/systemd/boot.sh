#!/bin/sh
# Boots a systemd of its own over a throw-away copy of this machine's root, with the service installed and enabled, and stays
# in the foreground. Run it in mount and process namespaces of its own, by: boot.sh SOURCE PYTHON SITE_PACKAGES
set -eu
source=$1 python=$2 site=$3
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/root /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
rm -f etc/fstab
: > etc/machine-id

# Installed as the unit says; the program is this checkout, run by this Python, at places that its user can read.
mkdir -p opt/tidegate/bin opt/python opt/site opt/source etc/tidegate etc/sysusers.d etc/tmpfiles.d
cat > opt/tidegate/bin/tidegate <<SCRIPT
#!/bin/sh
export PYTHONPATH=/opt/source:/opt/site
export LD_LIBRARY_PATH=/opt/python/lib  # A Python built with a shared library finds it by a path that its user cannot read.
exec /opt/python/bin/python3 -m tidegate "\$@"
SCRIPT
chmod 755 opt/tidegate/bin/tidegate
cp "$source/systemd/tidegate.service" "$source/systemd/tidegate.socket" etc/systemd/system/
cp "$source/systemd/sysusers.d/tidegate.conf" etc/sysusers.d/
cp "$source/systemd/tmpfiles.d/tidegate.conf" etc/tmpfiles.d/
cp "$source/systemd/tidegate.toml" etc/tidegate/
cp "$source/examples/counter.py" etc/tidegate/app.py
mkdir -p etc/systemd/system/basic.target.wants
ln -sf ../tidegate.service etc/systemd/system/basic.target.wants/
mkdir -p etc/systemd/system/sockets.target.wants
ln -sf ../tidegate.socket etc/systemd/system/sockets.target.wants/
exec systemd-nspawn -D /mnt/root --machine="tidegate-$$" --boot --register=no --keep-unit --console=pipe --private-network \
    --bind-ro="$source:/opt/source" --bind-ro="$python:/opt/python" --bind-ro="$site:/opt/site" -- --unit=basic.target
