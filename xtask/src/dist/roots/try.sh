# Run in a clean root of Debian: installs, runs, upgrades, removes and purges the package, and looks after each step.
. /common.sh

# As systemd would start it: its user, the three capabilities and no way to more.
daemon() {
    /usr/lib/op25b/prepare
    setpriv --reuid=op25b --regid=op25b --clear-groups --no-new-privs \
        --bounding-set=-all,+bpf,+net_admin,+perfmon --inh-caps=-all,+bpf,+net_admin,+perfmon \
        --ambient-caps=-all,+bpf,+net_admin,+perfmon \
        op25b run --policy /etc/op25b/policy.yaml 2>/tmp/daemon.log &
    daemon=$!
    tries=0
    until op25b status 2>/dev/null | grep -q "generation $1,"; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "no generation $1: $(cat /tmp/daemon.log)"
        sleep 0.1
    done
}

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
listing >/tmp/before
stat -c '%U %G %a' /sys/fs/bpf >/tmp/bpffs

at install
dpkg --install /old.deb >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
has "$(op25b --version)" "op25b "
has "$(op25b check /etc/op25b/policy.yaml)" valid
for file in /usr/share/man/man1/op25b.1.gz /usr/share/man/man1/op25b-run.1.gz \
    /usr/share/doc/op25b/THIRD-PARTY.txt.gz; do
    gzip --test "$file" || fail "$file"
done
for file in /usr/lib/systemd/system/op25b.service /usr/share/bash-completion/completions/op25b \
    /usr/share/zsh/vendor-completions/_op25b /usr/share/fish/vendor_completions.d/op25b.fish \
    /usr/share/doc/op25b/op25b.cdx.json /usr/share/doc/op25b/LICENSE-MIT /usr/share/doc/op25b/LICENSE-GPL \
    /usr/share/doc/op25b/README.md; do
    [ -s "$file" ] || fail "$file is not there"
done
has "$(getent passwd op25b)" /usr/sbin/nologin
[ "$(stat -c '%U:%G %a' /etc/op25b)" = "op25b:op25b 2750" ] || fail "$(stat /etc/op25b)"
[ "$(stat -c '%U:%G %a' /etc/op25b/policy.yaml)" = "op25b:op25b 640" ] || fail "$(stat /etc/op25b/policy.yaml)"
[ -z "$(dpkg --verify op25b)" ] || fail "$(dpkg --verify op25b)"
if said=$(op25b run --policy /etc/op25b/policy.yaml 2>&1); then fail "it starts with a policy that nobody has edited"; fi
has "$said" EDIT-ME

at run
edit
daemon 1
op25b status >/tmp/status || fail "$(cat /tmp/status)"
has "$(cat /tmp/status)" "cust0: role customer, native: attached"
tried
grep -q "^Uid:[[:space:]]*$(id -u op25b)[[:space:]]" /proc/$daemon/status || fail "the daemon has another user"
grep -q "^CapEff:[[:space:]]*000000c000001000$" /proc/$daemon/status || fail "the daemon has other capabilities"
op25b reload >/dev/null || fail "reload: $(cat /tmp/daemon.log)"
cp /etc/op25b/policy.yaml /etc/op25b/new.yaml
echo "# applied" >>/etc/op25b/new.yaml
chown root /etc/op25b/policy.yaml # as `install` leaves it
op25b apply /etc/op25b/new.yaml >/dev/null || fail "apply: $(cat /tmp/daemon.log)"
tail -n 1 /etc/op25b/policy.yaml | grep -qx "# applied" || fail "apply does not replace the policy"
rm /etc/op25b/new.yaml
[ "$(stat -c '%G %a' /etc/op25b/policy.yaml)" = "op25b 640" ] || fail "$(stat /etc/op25b/policy.yaml)"
op25b suspend --for 1h >/dev/null || fail suspend
op25b resume >/dev/null || fail resume
before=$(op25b status | sed -n 's/.*generation \([0-9]*\),.*/\1/p')

at reads
op25b source 203.0.113.9 >/tmp/source 2>&1 || fail "$(cat /tmp/source)"
reads=/var/lib/op25b/default/reads.log
has "$(cat $reads)" "read source 203.0.113.9"
has "$(page)" "HTTP/1.1 200"
tries=0
until grep -q "client=127.0.0.1 " $reads; do # root has begun the log, and the daemon goes on with it
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "the daemon notes no reads: $(cat $reads /tmp/daemon.log)"
    sleep 0.1
done

at upgrade
dpkg --install --force-confold /new.deb >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
has "$(dpkg-query --show op25b)" +upgrade
kill -0 $daemon || fail "the daemon is gone"
kill $daemon
wait $daemon || fail "the daemon fails: $(cat /tmp/daemon.log)"
op25b status >/dev/null || fail "between two daemons the filter is not in force"
daemon $((before + 1))
op25b status >/dev/null || fail "after the upgrade the filter is not in force"
tried
grep -q cust0 /etc/op25b/policy.yaml || fail "the upgrade has changed the policy"

at removal
op25b history 203.0.113.9 >/dev/null 2>&1 || true
dpkg --remove op25b >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
has "$(cat /tmp/dpkg.log)" "TCP port 25 is open there"
wait $daemon || fail "the daemon fails: $(cat /tmp/daemon.log)"
[ ! -e /sys/fs/bpf/op25b ] || fail "pins are left: $(find /sys/fs/bpf/op25b)"
[ -f /etc/op25b/policy.yaml ] || fail "removal takes the policy too"
[ ! -e /usr/bin/op25b ] || fail "the program is left"

at purge
dpkg --purge op25b >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
listing >/tmp/after
diff /tmp/before /tmp/after >/tmp/left || fail "something is left: $(cat /tmp/left)"
[ -z "$(ls /run)" ] || fail "in /run is left: $(ls /run)"
[ "$(stat -c '%U %G %a' /sys/fs/bpf)" = "$(cat /tmp/bpffs)" ] || fail "$(stat /sys/fs/bpf)"

echo "Debian $(cat /etc/debian_version): installed, run as op25b, upgraded, removed and purged; nothing is left"
