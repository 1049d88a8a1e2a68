# What the scripts in a root of Debian have in common.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive

step=start
at() { # what is done now
    step=$1
    echo "$step" >/var/log/step # for who ends this when its time is up
}

fail() {
    echo "$*" >&2
    exit 1
}

ended() {
    [ "$1" -ne 0 ] || return 0
    echo "FAILED at $step" >&2
    if [ -d /run/systemd/system ]; then
        journalctl --no-pager --lines 30 --unit op25b >&2
    fi
}
trap 'ended $?' EXIT

has() { # what is said, then what must be in it
    case "$1" in
    *"$2"*) ;;
    *) fail "no \"$2\" in: $1" ;;
    esac
}

until_it() { # a command that tells whether something has come
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "in vain: $*"
        sleep 0.1
    done
}

# The lines that an operator edits, for what enter.sh has made.
edit() {
    sed -i 's/EDIT-ME/cust0/; s/mode: monitor/mode: enforce/; s/^# metrics:/metrics:/; s/^# history:/history:/' \
        /etc/op25b/policy.yaml
}

# Every line of the selftest, and some of them about frames.
tried() {
    op25b selftest >/tmp/selftest 2>&1 || fail "$(cat /tmp/selftest)"
    has "$(cat /tmp/selftest)" "port 587"
    has "$(cat /tmp/selftest)" "does what its policy says"
}

# The page, by a request that the shell itself can make.
page() {
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/9025
        printf "GET / HTTP/1.1\r\nHost: 127.0.0.1:9025\r\nConnection: close\r\n\r\n" >&3
        cat <&3' 2>/tmp/page.log
}

# Every file and folder, user and group; what dpkg and useradd write down is theirs.
listing() {
    find / -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /tmp \) -prune \
        -o ! -name '*-' ! -name '.pwd.lock' -print | sort
    cut -d: -f1 /etc/passwd /etc/group /etc/shadow /etc/gshadow | sort
}
