#!/bin/bash
# Makes a root file system that stands in for python:3.11-slim-bookworm where no registry can be reached:
# Debian 12 with its own Python 3.11, laid out like that image. For tests only; nothing is published from it.
#
#     image_base.sh FILE.tar        (root; needs debootstrap and a Debian mirror)
set -euo pipefail
tar=$1
work=$(mktemp -d "$tar.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

debootstrap --variant=minbase \
    --include=python3.11,python3.11-venv,python3-venv,python3-pip-whl,python3-setuptools-whl,ca-certificates,netbase,tzdata \
    bookworm "$root" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }

# The image has its Python in /usr/local/bin, and its own pip.
for name in python python3 python3.11; do
    ln -s /usr/bin/python3.11 "$root/usr/local/bin/$name"
done
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
chroot "$root" sh -ec 'PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) \
    python3 -m pip install -q --root-user-action=ignore --no-index --no-compile --find-links /usr/share/python-wheels pip'
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/* "$root"/usr/share/doc/* "$root"/tmp/*
chroot "$root" python3 -m pip --version >&2

tar --numeric-owner -C "$root" -cf "$work/base.tar" .
mv "$work/base.tar" "$tar"
