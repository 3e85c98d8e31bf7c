#!/usr/bin/env bash
# caio 0.12.10: its wheels for Linux that have the kernel's AIO are for glibc 2.34 and newer. Where glibc is older, or where wheels
# are fetched for another machine by the platforms that most projects name (manylinux2014, manylinux_2_28), pip says nothing and
# takes `py3-none-any`, which has the type stubs and the asyncio face of `linux_aio` and not the module: `import caio.linux_aio` is
# an ImportError there, and `import caio` works with threads. A lock file or a folder of wheels made so is complete, and slower.
#
# Seen on 2026-11-29, pip 23.2.1, Python 3.11:
#   manylinux2014 manylinux_2_28: caio-0.12.10-py3-none-any.whl, linux_aio: stubs only
#   manylinux2014 manylinux_2_28 manylinux_2_34: caio-0.12.10-cp311-cp311-manylinux_2_34_x86_64.whl, linux_aio: the module
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
told=()
for platforms in "manylinux2014 manylinux_2_28" "manylinux2014 manylinux_2_28 manylinux_2_34"; do
    rm -rf "$folder/wheels"
    named=()
    for platform in $platforms; do named+=(--platform "${platform}_x86_64"); done
    "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --implementation cp \
        --python-version 3.11 "${named[@]}" --dest "$folder/wheels" caio==0.12.10
    wheel=$(ls "$folder/wheels")
    inside=$("$folder/venv/bin/python" -m zipfile --list "$folder/wheels/$wheel")
    has="stubs only"
    grep -q 'caio/linux_aio\.cpython-.*\.so' <<<"$inside" && has="the module"
    grep -q 'caio/linux_aio\.pyi' <<<"$inside"
    told+=("$platforms: $wheel, linux_aio: $has")
done
printf '%s\n' "${told[@]}"
[ "${told[0]}" = "manylinux2014 manylinux_2_28: caio-0.12.10-py3-none-any.whl, linux_aio: stubs only" ]
[ "${told[1]}" = "manylinux2014 manylinux_2_28 manylinux_2_34: caio-0.12.10-cp311-cp311-manylinux_2_34_x86_64.whl, linux_aio: the module" ]
