# Boots a Debian from a folder, installs a package there, and has systemd run it.
#   service.sh ROOT PACKAGE
# The Debian has a network of its own. It ends with this script.
set -eu
root=$1
package=$2

fail() {
    echo "service: $1" >&2
    inside journalctl --unit xlb --no-pager --lines 30 >&2 || true
    exit 1
}

# Runs a command in the Debian.
inside() {
    nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup -- "$@"
}

# Runs one of this machine's in the Debian's network.
beside() {
    nsenter --target "$leader" --net -- "$@"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    tries=$(($1 * 10))
    what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "no $what in time"
        sleep 0.1
    done
}

leader=
nspawn=
server=
clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    # Its init ends everything in it.
    [ -z "$leader" ] || kill -KILL "$leader" 2>/dev/null || true
    kill "$nspawn" 2>/dev/null || true
    wait
}
trap clean EXIT

is_up() {
    # Something that doesn't matter here may have failed.
    state=$(inside systemctl is-system-running) || [ "$state" = degraded ]
}

is_healthy() {
    inside xlb status --json | grep -q '"health": *"healthy"'
}

has_other_agent() {
    now=$(inside systemctl show --property MainPID --value xlb)
    [ "$now" != 0 ] && [ "$now" != "$before" ] && inside xlb status
}

has_programs() {
    beside ip -d link show eth0 | grep -q prog/xdp
}

# Nothing here waits for a network, which is made below.
systemctl --root "$root" mask systemd-networkd-wait-online.service >/dev/null 2>&1
# nspawn's own filter of system calls would refuse bpf(2).
SYSTEMD_SECCOMP=0 systemd-nspawn --quiet --boot --directory "$root" --private-network \
    --capability all --register no --keep-unit --console pipe </dev/null >"$root/boot.log" 2>&1 &
nspawn=$!
tries=300
# Its child that has processes of its own.
until leader=$(pgrep --parent "$nspawn") &&
    [ "$(readlink "/proc/$leader/ns/pid")" != "$(readlink /proc/self/ns/pid)" ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { cat "$root/boot.log" >&2; fail "systemd-nspawn starts nothing"; }
    sleep 0.1
done
wait_for 60 "running system" is_up
# A machine's systemd mounts it when it boots, a container's doesn't.
inside mount -o remount,rw /sys
inside mkdir -p /sys/fs/bpf
inside mount -t bpf -o mode=700 bpf /sys/fs/bpf
beside ip link set lo up
beside ip link add eth0 type veth peer name peer0
beside ip address add 10.0.2.15/24 dev eth0
beside ip link set eth0 up
beside ip link set peer0 up
beside ethtool -K peer0 gro on >/dev/null

mkdir -p "$root/web/system"
echo "system is running..." >"$root/web/system/check"
beside python3 -m http.server 8081 --directory "$root/web" >/dev/null 2>&1 &
server=$!

inside dpkg --install "/$package" >/dev/null
sed -i 's/^interval = .*/interval = "1s"/; s/^timeout = .*/timeout = "500ms"/' "$root/etc/xlb/xlb.toml"
inside systemctl start xlb || fail "it doesn't start"
wait_for 20 "healthy target" is_healthy
inside journalctl --unit xlb --no-pager --output cat >"$root/journal"
grep -q 'target health changed.*:8081.*healthy' "$root/journal" ||
    fail "the journal doesn't say which target's health changed"
[ "$(inside sh -c 'sed -n "s/^Seccomp:\s*//p" /proc/$(pidof xlb)/status')" = 2 ] ||
    fail "its system calls aren't filtered"

inside xlb capture --seconds 1 --write /tmp/some.pcapng || fail "it can't capture"
inside xlb explain tcp 10.0.2.99:4000 10.0.2.15:80 | grep -q '^verdict' || fail "it can't explain"
inside systemctl reload xlb || fail "it doesn't reload"

for signal in restart kill; do
    before=$(inside systemctl show --property MainPID --value xlb)
    case $signal in
        restart) inside systemctl restart xlb || fail "it doesn't start again" ;;
        kill) inside systemctl kill --signal KILL xlb ;;
    esac
    wait_for 10 "other agent after a $signal" has_other_agent
    is_healthy || fail "after a $signal it doesn't know what was healthy"
done

echo "nonsense" >>"$root/etc/xlb/xlb.toml"
! inside systemctl restart xlb 2>/dev/null || fail "it starts with a wrong configuration"
sleep 3
[ "$(inside systemctl is-failed xlb)" = failed ] || fail "it tries a wrong configuration again"
has_programs || fail "a failed start has ended balancing"
sed -i '/^nonsense$/d' "$root/etc/xlb/xlb.toml"
inside systemctl start xlb || fail "it doesn't start with a mended configuration"
inside systemctl stop xlb
has_programs || fail "to stop it has ended balancing"

inside systemd-analyze security xlb --no-pager | tail -1
inside dpkg --purge xlb >/dev/null
! has_programs || fail "the programs outlived the package"
[ -z "$(inside find /sys/fs/bpf -mindepth 1 -name 'xlb*')" ] || fail "maps outlived the package"
echo "service: works"
