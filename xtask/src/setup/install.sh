#!/bin/sh
# Installs Debian packages without starting their services. A shell script,
# because its traps take the policy back after Ctrl-C too.
set -eu
policy=/usr/sbin/policy-rc.d

# Every package asks this program before it starts a service; 101 means "don't".
# An administrator's own policy stays as it is.
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get --quiet update
# What apt would remove for these packages is somebody's: rather fail.
apt-get --quiet --yes --no-install-recommends --no-remove install "$@"
