# A customer who connects to ports 25 and 587 of a server, over IPv4 and IPv6, until /tmp/enough is there: sends SYNs
# alone. Says how many went to each port, and how many segments came back: one for each SYN that was let through, since
# the server has neither port open.
use strict;
use warnings;
use Errno qw(EINPROGRESS ECONNREFUSED);
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 SOCK_NONBLOCK);

my %sent = (25 => 0, 587 => 0);

sub segments {
    open my $counters, "<", "/proc/self/net/snmp" or die "snmp: $!\n";
    my ($names, $numbers) = grep /^Tcp:/, <$counters>;
    my %counted;
    @counted{split " ", $names} = split " ", $numbers;
    return $counted{InSegs};
}

sub knock {
    my ($port) = @_;
    my @servers = (
        [AF_INET, pack_sockaddr_in($port, inet_pton(AF_INET, "198.51.100.25"))],
        [AF_INET6, pack_sockaddr_in6($port, inet_pton(AF_INET6, "2001:db8:25:1::25"))],
    );
    for (@servers) {
        my ($family, $server) = @$_;
        # Closed at once, so that no SYN is sent twice.
        socket my $socket, $family, SOCK_STREAM | SOCK_NONBLOCK, 0 or die "socket: $!\n";
        connect $socket, $server or $! == EINPROGRESS or $! == ECONNREFUSED or die "connect: $!\n";
        $sent{$port}++;
    }
}

$| = 1;
my $before = segments();
for (my $rounds = 0; !-e "/tmp/enough"; $rounds++) {
    die "nobody said enough\n" if $rounds == 100_000;
    knock($_) for keys %sent;
    print "knocking\n" if $rounds == 100;
    select undef, undef, undef, 0.001;
}
# The last answers are on their way.
select undef, undef, undef, 0.2;
print "$sent{25} $sent{587} ", segments() - $before, "\n";
