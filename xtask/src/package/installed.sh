# Installs a package in a folder with a Debian, and runs it there.
#   installed.sh ROOT PACKAGE
# It runs in namespaces of its own, which end with it.
set -eu
root=$1
package=$2

fail() {
    echo "installed package: $1" >&2
    exit 1
}

inside() {
    chroot "$root" "$@"
}

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"

for tool in cc rustc cargo clang bpftool; do
    ! inside sh -c "command -v $tool" >/dev/null || fail "there is a $tool in $root"
done
inside dpkg --install "/$package"
inside dpkg --verify xlb

for file in /etc/xlb/xlb.toml /usr/share/man/man1/xlb.1.gz /usr/share/man/man1/xlb-run.1.gz \
    /usr/share/bash-completion/completions/xlb /usr/share/zsh/vendor-completions/_xlb \
    /usr/share/fish/vendor_completions.d/xlb.fish /usr/lib/systemd/system/xlb.service; do
    [ -s "$root$file" ] || [ -s "$root${file#/usr}" ] || fail "no $file"
done
inside dpkg-query --show --showformat '${Conffiles}' xlb | grep -q /etc/xlb/xlb.toml ||
    fail "/etc/xlb/xlb.toml is no conffile"

inside xlb --version
inside xlb check /etc/xlb/xlb.toml

ip link set lo up
ip link add eth0 type veth peer name peer0
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip link set peer0 up
ethtool -K peer0 gro on >/dev/null
inside xlb doctor || fail "xlb doctor ended with $?"

# Not by the function, whose process would be a shell.
chroot "$root" xlb run --config /etc/xlb/xlb.toml &
agent=$!
tries=0
until inside xlb status >"$root/status" 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "no status after 10 s"
    sleep 0.1
done
cat "$root/status"
grep -q '^eth0: XDP native' "$root/status" || fail "XDP isn't native"
kill -TERM "$agent"
wait "$agent" || fail "the agent ended with $?"

inside dpkg --purge xlb
[ ! -e "$root/etc/xlb/xlb.toml" ] || fail "the configuration outlived a purge"
! ip -d link show eth0 | grep -q prog/xdp || fail "the programs outlived the package"
[ ! -e "$root/sys/fs/bpf/xlb/default" ] || fail "the maps outlived the package"
echo "installed package: works"
