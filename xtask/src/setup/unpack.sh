#!/bin/sh
# Fetches Debian packages and unpacks them into a folder: unpack.sh FOLDER
# PACKAGE... They are not installed, and nothing else of the machine changes.
# With WITH_DEPENDENCIES=1 also what they need and this machine hasn't.
set -eu
folder=$1
shift
rm -rf "$folder" "$folder.new"
mkdir -p "$folder.new/archives/partial"

apt-get --quiet update
cd "$folder.new/archives"
if [ -n "${WITH_DEPENDENCIES-}" ]; then
    # What apt says it would remove stays: it only fetches.
    apt-get --quiet --yes --no-install-recommends --download-only --reinstall \
        -o Dir::Cache::archives="$PWD" install "$@"
else
    apt-get --quiet download "$@"
fi
for package in *.deb; do
    dpkg-deb --extract "$package" ..
done
rm -r "$folder.new/archives"
# Whole or not at all.
mv "$folder.new" "$folder"
