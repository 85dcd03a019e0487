#!/bin/busybox sh
# The first process of a guest: runs the tests, says how they ended, and ends
# the machine.
/bin/busybox mkdir -p /sbin
/bin/busybox --install -s /sbin
export PATH=/bin:/sbin
# Where the tests find the agent.
export XLB_BIN=/bin/xlb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
echo "Linux $(uname -r) has booted in $(cut -d ' ' -f 1 /proc/uptime) s"

for module in /modules/*; do
    case $module in
    *.xz)
        xz -dc "$module" >/tmp/module.ko
        module=/tmp/module.ko
        ;;
    esac
    insmod "$module" || echo "$module can't be inserted"
done

code=0
for test in /tests/*; do
    # Words, on purpose: a filter, or nothing.
    # shellcheck disable=SC2046
    "$test" --show-output $(cat /arguments) || code=$?
done
echo "guest: exit $code"
poweroff -f
