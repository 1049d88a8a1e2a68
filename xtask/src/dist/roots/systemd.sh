# Run by systemd in a root of Debian: the unit and the maintainer scripts as on a router, with traffic meanwhile.
. /common.sh

pid() {
    systemctl show --property MainPID --value op25b
}

generation() {
    op25b status | sed -n 's/.*generation \([0-9]*\),.*/\1/p'
}

enforcing() { # after what; status exits 1 where something is not as it should be
    op25b status >/tmp/status 2>&1 || fail "$1: $(cat /tmp/status)"
    has "$(cat /tmp/status)" "default: ENFORCING;"
    has "$(cat /tmp/status)" "cust0: role customer, native: attached"
}

has_new_daemon() { # than the one of this number
    systemctl --quiet is-active op25b && [ "$(pid)" -ne "$1" ]
}

# Runs a command while a customer knocks at ports 25 and 587, and counts what came through.
under_fire() {
    rm -f /tmp/enough
    nsenter --net=/customer perl /knock.pl >/tmp/knocked &
    customer=$!
    until_it grep -q knocking /tmp/knocked
    "$@"
    touch /tmp/enough
    wait $customer || fail "the customer gave up"
    read -r mails submissions answers <<END
$(tail -n 1 /tmp/knocked)
END
}

none_passed() {
    under_fire "$@"
    knocks=$((knocks + mails))
    [ "$answers" -eq "$submissions" ] ||
        fail "$mails SYNs to port 25, $submissions to 587, and $answers were let through"
}

all_pass() {
    under_fire sleep 0.5
    [ "$answers" -eq $((mails + submissions)) ] ||
        fail "no filter, $mails SYNs to port 25, $submissions to 587, and $answers were let through"
}

blocked() {
    op25b stats | awk '$3 == "blocked" { sum += $5 } END { print sum + 0 }'
}

some_blocked() {
    [ "$(blocked)" -gt 0 ]
}

# What a user is told at the socket, which asks for no more than to be in the group.
asked_by() {
    setpriv --reuid "$1" --regid "$(id -g "$1")" --init-groups perl -MIO::Socket::UNIX -e '
        my $daemon = IO::Socket::UNIX->new(Peer => "/run/op25b/default/read") or die "$!\n";
        print $daemon "GET /api/v1/sources HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        print <$daemon>;' 2>&1
}

listing >/tmp/before
stat -c '%U %G %a' /sys/fs/bpf >/tmp/bpffs
knocks=0

at install
dpkg --install /old.deb >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
! systemctl --quiet is-active op25b || fail "the installation starts it"
! systemctl --quiet is-enabled op25b || fail "the installation enables it"
all_pass

at start
edit
systemctl enable --now op25b 2>/tmp/enable || fail "$(cat /tmp/enable)"
systemctl --quiet is-active op25b || fail "it is not active"
systemctl --quiet is-enabled op25b || fail "it is not enabled"
enforcing start
tried
# What systemd does not know, or cannot do here, it leaves out.
! journalctl --no-pager | grep -E '/op25b.service:[0-9]+:|does not support BPF' >&2 || fail "not all of the unit holds"
daemon=$(pid)
id=$(id -u op25b)
for line in "Uid: $id $id $id $id" "CapEff: 000000c000001000" "CapBnd: 000000c000001000" "NoNewPrivs: 1" "Seccomp: 2"; do
    tr '\t' ' ' <"/proc/$daemon/status" | grep -qx "$line" || fail "no \"$line\": $(cat "/proc/$daemon/status")"
done

at changes
before=$(generation)
systemctl reload op25b || fail reload
cp /etc/op25b/policy.yaml /etc/op25b/new.yaml
echo "# applied" >>/etc/op25b/new.yaml
op25b apply /etc/op25b/new.yaml >/dev/null || fail apply
tail -n 1 /etc/op25b/policy.yaml | grep -qx "# applied" || fail "apply does not replace the policy"
rm /etc/op25b/new.yaml
op25b suspend --for 1h >/dev/null || fail suspend
op25b resume >/dev/null || fail resume
enforcing changes
[ "$(generation)" -eq $((before + 4)) ] || fail "four changes, and generation $(generation) after $before"
[ "$(pid)" -eq "$daemon" ] || fail "a change took another daemon"

at reads
op25b events --follow >/tmp/events 2>&1 &
events=$!
none_passed until_it grep -q 203.0.113.9 /tmp/events
kill $events
has "$(page)" "HTTP/1.1 200"
useradd --groups op25b helpdesk
until_it test -S /run/op25b/default/read
has "$(asked_by helpdesk)" 203.0.113.9
has "$(asked_by nobody)" "Permission denied"
until_it grep "uid=$(id -u helpdesk) .*/api/v1/sources" /var/lib/op25b/default/reads.log
until_it grep client=127.0.0.1 /var/lib/op25b/default/reads.log
userdel helpdesk
has "$(op25b history 203.0.113.9 2>&1)" residential

at "a crash"
crash() {
    kill -KILL "$daemon"
    enforcing "without a daemon"
    until_it has_new_daemon "$daemon"
}
none_passed crash
enforcing "a crash"
daemon=$(pid)

at upgrade
before=$(generation)
upgrade() {
    dpkg --install --force-confold /new.deb >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
}
none_passed upgrade
upgraded=$mails
has "$(dpkg-query --show op25b)" +upgrade
has_new_daemon "$daemon" || fail "the old daemon goes on: $(cat /tmp/dpkg.log)"
enforcing upgrade
[ "$(generation)" -eq $((before + 1)) ] || fail "the upgrade made of generation $before $(generation)"
tried
tail -n 1 /etc/op25b/policy.yaml | grep -qx "# applied" || fail "the upgrade has changed the policy"
# As many as the customer has sent: those that no daemon was there for are counted too.
[ "$(blocked)" -eq $knocks ] || fail "$knocks SYNs to port 25, and $(blocked) counted as blocked"
! journalctl --no-pager --unit op25b | grep -E ': (error|warn):' >&2 || fail "the daemon complains"

at removal
dpkg --remove op25b >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
has "$(cat /tmp/dpkg.log)" "TCP port 25 is open there"
! systemctl --quiet is-active op25b || fail "it is still active"
[ ! -e /sys/fs/bpf/op25b ] || fail "pins are left: $(find /sys/fs/bpf/op25b)"
all_pass

at purge
dpkg --purge op25b >/tmp/dpkg.log 2>&1 || fail "$(cat /tmp/dpkg.log)"
listing >/tmp/after
diff /tmp/before /tmp/after >/tmp/left || fail "something is left: $(cat /tmp/left)"
[ ! -e /run/op25b ] || fail "/run/op25b is left"
[ "$(stat -c '%U %G %a' /sys/fs/bpf)" = "$(cat /tmp/bpffs)" ] || fail "$(stat /sys/fs/bpf)"
! systemctl cat op25b >/dev/null 2>&1 || fail "systemd still knows it"

echo "Debian $(cat /etc/debian_version), systemd $(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p'): enabled," \
    "changed, read, killed and upgraded under systemd; of $knocks SYNs to port 25, $upgraded of them during the upgrade," \
    "none passed and each is counted; removed and purged, nothing is left"

# The tarball, by what README.md tells to type: installation, upgrade and removal are its first, second and third block.
cd /tarball
tarball=$(echo *.tar.xz)
tar --extract --to-stdout --file "$tarball" "${tarball%.tar.xz}/usr/share/doc/op25b/README.md" >/tmp/README.md
typed() {
    awk -v wanted="$1" '
        /^\*\*Elsewhere/ { here = 1 }
        /^## / { here = 0 }
        /^```/ { inside = here && /^```sh/; block += inside; next }
        inside && block == wanted' /tmp/README.md >/tmp/typed
    [ -s /tmp/typed ] || fail "README.md has no commands for that"
    sh -eux /tmp/typed >/tmp/typed.log 2>&1 || fail "$(cat /tmp/typed.log)"
}

at "the tarball's installation"
# The operator's hand.
cat >/usr/local/bin/vi <<END
#!/bin/sh
. /common.sh
edit
END
chmod 0755 /usr/local/bin/vi
listing >/tmp/before
umount /sys/fs/bpf # where nothing mounts it, `prepare` does
begun=$(date +%s%N)
typed 1
none_passed until_it some_blocked
took=$((($(date +%s%N) - begun) / 1000000))
has "$(op25b --version)" "op25b "
has "$(op25b check /etc/op25b/policy.yaml)" valid
enforcing "the installation"
tried
daemon=$(pid)

at "the tarball's upgrade"
none_passed typed 2
upgraded=$mails
has_new_daemon "$daemon" || fail "the old daemon goes on: $(cat /tmp/typed.log)"
enforcing "the upgrade"
grep -q cust0 /etc/op25b/policy.yaml || fail "the upgrade has changed the policy"

at "the tarball's removal"
typed 3
listing >/tmp/after
# But for folders, which others may use by now.
diff /tmp/before /tmp/after | sed -n 's/^[<>] //p' | while read -r left; do
    [ -d "$left" ] || echo "$left"
done >/tmp/left
[ ! -s /tmp/left ] || fail "left, or gone: $(cat /tmp/left)"
[ ! -e /run/op25b ] || fail "/run/op25b is left"
[ "$(stat -c %G /sys/fs/bpf)" = root ] || fail "$(stat /sys/fs/bpf)"
all_pass

echo "Debian $(cat /etc/debian_version): by README.md's commands the tarball installed, the first SYN to port 25 blocked" \
    "$took ms after the first of them, upgraded with $upgraded SYNs meanwhile, of which none passed, and removed;" \
    "nothing is left"
