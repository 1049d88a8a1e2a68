# Run with a root of Debian that has systemd as $1, the most seconds as $2 and enter.sh as $3, in a mount namespace of
# its own: boots systemd there as the first process, with /systemd.sh as the one service that it is to start.
set -eu
root=$1
limit=$2
enter=$3

refuse() {
    echo "systemd cannot be run here: $*" >&2
    exit 1
}

# systemd takes the control group that it is in for the whole machine, so it gets one of its own.
groups=$(mktemp --directory)
trap 'umount --quiet "$groups"; rmdir "$groups"' EXIT
mount -t cgroup2 cgroup2 "$groups" || refuse "no control groups of version 2"
group=$groups/op25b-dist.$$
mkdir "$group" || refuse "no control group of its own"

cat >"$root/etc/systemd/system/try.service" <<'END'
[Unit]
# With what the script exits.
SuccessAction=exit
FailureAction=exit
AllowIsolate=yes

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh /systemd.sh
StandardOutput=file:/said
StandardError=inherit
END

# KILL, since unshare waits on after a TERM; what it has started ends with it.
status=0
timeout --signal KILL "$limit" sh -c '
    echo 0 >"$1/cgroup.procs"
    exec unshare --cgroup --net --mount --pid --ipc --uts --fork --kill-child sh -c "$2" enter "$3" \
        sh -c "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /lib/systemd/systemd --unit=try.service --show-status=no"
' group "$group" "$enter" "$root" || status=$?

tries=0
until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do # what was killed goes a moment later
    tries=$((tries + 1))
    [ $tries -lt 50 ] || break
    sleep 0.1
done

[ -e "$root/said" ] || refuse "it ended with $status before it started anything"
if [ $status -eq 0 ]; then
    cat "$root/said"
    exit
fi
cat "$root/said" >&2
[ $status -ne 137 ] || echo "FAILED at $(cat "$root/var/log/step"), not done after $limit seconds" >&2
exit $status
