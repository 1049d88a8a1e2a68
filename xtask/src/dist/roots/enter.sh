# Run with a root of Debian as $1 and a command, in namespaces of its own (network, mounts, processes): makes the root
# look like a router with one customer, and runs the command there.
set -eu
root=$1
shift

# The processes of in here: /proc/PID/ns of the machine's would be those of another.
mount -t proc proc /proc
mount --bind "$root" "$root"
touch "$root/customer"
unshare --net="$root/customer" true

ip link add cust0 type veth peer name wan netns "$root/customer"
ip addr add 198.51.100.25/32 dev lo
ip addr add 2001:db8:25:1::25/128 dev lo
ip addr add 203.0.113.1/24 dev cust0
ip addr add 2001:db8:1000::1/64 dev cust0 nodad
ip link set lo up
ip link set cust0 up
nsenter --net="$root/customer" sh -eu <<'END'
ip addr add 203.0.113.9/24 dev wan
ip addr add 2001:db8:1000::9/64 dev wan nodad
ip link set wan up
ip route add default via 203.0.113.1
ip route add default via 2001:db8:1000::1
END

# What is not the network's and can be written belongs to the machine.
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
# A BPF file system of its own, as systemd mounts it.
mount -t bpf -o mode=0700 bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    # shellcheck disable=SC2086 # the kind of node and its two numbers
    mknod -m 0666 "$root/dev/${node%% *}" c ${node#* }
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# The root of these mounts, not only of this process: `nsenter --mount` leads there.
cd "$root"
mkdir machine
pivot_root . machine
umount --lazy --no-mtab /machine
rmdir /machine
exec env --ignore-environment container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
