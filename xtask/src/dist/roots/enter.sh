# Run with a root of Debian as $1, in a network, process and mount namespace of its own: makes it look like a router
# with one customer, and goes on inside.
set -eu
root=$1
ip link set lo up
ip link add cust0 type veth peer name far0
ip link set cust0 up
ip link set far0 up
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
# A BPF file system of its own, as systemd mounts it.
mount -t bpf -o mode=0700 bpf "$root/sys/fs/bpf"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
exec chroot "$root" /bin/sh /try.sh
