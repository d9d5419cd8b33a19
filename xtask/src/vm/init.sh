#!/bin/sh
# The guest's first process: mounts, modules, then the job.
export PATH=/usr/bin:/usr/sbin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname guest
ip link set lo up
for module in $(cat /etc/modules); do modprobe "$module"; done
tar -xf /dev/nvme0n2 -C /
if [ -b /dev/nvme0n3 ]; then
    # A disk without a file system is a new one.
    mount -t ext4 /dev/nvme0n3 /disk 2>/dev/null ||
        { [ ! -e /job/must-mount ] && mkfs.ext4 -q /dev/nvme0n3 && mount -t ext4 /dev/nvme0n3 /disk; } ||
        echo "the second disk does not mount"
fi
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -opost
echo @ready
setsid sh /job/script
echo "@exit $?"
sync
poweroff -f
