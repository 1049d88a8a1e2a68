//! Ways past a port filter, tried by a customer on a real listener without op25b and with it: whatever makes a
//! connection without it makes none with it.

mod frames;
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    os::fd::{FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use frames::{
    DONT_FRAGMENT, Extension, Ipv4, Ipv6, MORE_FRAGMENTS, Mpls, Opaque, Piece, Snap, Tcp, checksum,
    extension, flag, fragments4, fragments6,
};
use lab::{Filter, KURUME, Mouth, Namespace};

/// Addresses that the customer's machine has. Group residential of `policies/kurume.yaml`, enforcing.
const CUSTOMER: [&str; 2] = ["203.0.113.10", "2001:db8:1000::10"];
/// Addresses that are routed to the customer's machine, whose kernel does not have them: so nothing resets what a
/// program there does with raw frames.
const BOT: [&str; 2] = ["203.0.113.20", "2001:db8:1000:1::20"];
const RELAY: [&str; 2] = ["192.0.2.25", "2001:db8:25::25"];
/// A mail server somewhere.
const VICTIM: [&str; 2] = ["192.0.2.200", "2001:db8:ffff::25"];
/// A host whose provider lets it send with any source.
const FAST: [&str; 2] = ["198.51.100.1", "2001:db8:fa57::1"];
const FAMILY: [&str; 2] = ["IPv4", "IPv6"];

/// How long a connection may take that nothing hinders.
const PATIENCE: Duration = Duration::from_millis(700);

/// `customer` – `edge` – `internet` – `victim` and `fast`; the relay is on `internet`. `eth1` of the edge leads to the
/// customer, `eth0` to the Internet.
struct Site {
    customer: Namespace,
    edge: Namespace,
    fast: Namespace,
    /// Named by nothing, but they go with the site.
    _others: [Namespace; 2],
    mail: TcpListener,
    _submission: TcpListener,
    relay: TcpListener,
}

impl Site {
    fn new() -> Result<Self> {
        let [customer, edge, internet, victim, fast] =
            ["customer", "edge", "internet", "victim", "fast"].map(Namespace::new);
        let (customer, edge, internet, victim, fast) = (customer?, edge?, internet?, victim?, fast?);
        for router in [&edge, &internet] {
            write_keys(router, &["ipv4/ip_forward", "ipv6/conf/all/forwarding"], "1")?;
        }
        for (here, interface, there, peer) in [
            (&edge, "eth1", &customer, "cust1"),
            (&edge, "eth0", &internet, "edge0"),
            (&internet, "victim0", &victim, "eth0"),
            (&internet, "fast0", &fast, "eth0"),
        ] {
            here.veth(interface, there, peer)?;
        }
        for namespace in [&customer, &edge, &internet, &victim, &fast] {
            // Where the machine checks sources, it would be what stops a spoofed one.
            write_keys(namespace, &["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"], "0")?;
        }
        // To these the frames of `frames::Ethernet` go.
        for (router, interface) in [(&edge, "eth1"), (&internet, "fast0")] {
            router.ip(&["link", "set", interface, "address", "02:00:00:00:00:02"])?;
        }
        customer.address("cust1", &["203.0.113.10/28", "2001:db8:1000::10/64"])?;
        edge.address("eth1", &["203.0.113.1/28", "2001:db8:1000::1/64"])?;
        edge.address("eth0", &["192.0.2.1/30", "2001:db8:fff0::1/64"])?;
        internet.address("edge0", &["192.0.2.2/30", "2001:db8:fff0::2/64"])?;
        internet.address("victim0", &["192.0.2.193/26", "2001:db8:ffff::1/64"])?;
        internet.address("fast0", &["198.51.100.2/30", "2001:db8:fa57::2/64"])?;
        internet.address("lo", &["192.0.2.25/32", "2001:db8:25::25/128"])?;
        victim.address("eth0", &["192.0.2.200/26", "2001:db8:ffff::25/64"])?;
        fast.address("eth0", &["198.51.100.1/30", "2001:db8:fa57::1/64"])?;
        for (namespace, to, via) in [
            (&customer, "default", ["203.0.113.1", "2001:db8:1000::1"]),
            (&edge, "default", ["192.0.2.2", "2001:db8:fff0::2"]),
            (&victim, "default", ["192.0.2.193", "2001:db8:ffff::1"]),
            (&fast, "default", ["198.51.100.2", "2001:db8:fa57::2"]),
        ] {
            for via in via {
                namespace.ip(&["route", "add", to, "via", via])?;
            }
        }
        for (namespace, to, via) in [
            (&edge, "203.0.113.16/28", "203.0.113.10"),
            (&edge, "2001:db8:1000:1::/64", "2001:db8:1000::10"),
            (&internet, "203.0.113.0/24", "192.0.2.1"),
            (&internet, "2001:db8:1000::/36", "2001:db8:fff0::1"),
        ] {
            namespace.ip(&["route", "add", to, "via", via])?;
        }
        let listen = |namespace: &Namespace, port: u16| -> Result<TcpListener> {
            let listener = namespace.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let (mail, submission, relay) = (listen(&victim, 25)?, listen(&victim, 587)?, listen(&internet, 25)?);
        Ok(Self { customer, edge, fast, _others: [internet, victim], mail, _submission: submission, relay })
    }

    /// Whether the customer's kernel gets a connection and the listener accepts it.
    fn connects(&self, to: &str, listener: &TcpListener) -> Result<bool> {
        let to = SocketAddr::new(to.parse()?, 25);
        let made = self.customer.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        let accepted = match &made {
            Ok(stream) => accepted_from(listener, stream.local_addr()?, PATIENCE)?,
            // Nobody may have got in behind the customer's back.
            Err(_) => accept(listener)?.into_iter().map(|(stream, _)| stream).next(),
        };
        ensure!(made.is_ok() == accepted.is_some(), "{to}: {made:?}, and accepted: {accepted:?}");
        Ok(made.is_ok())
    }
}

fn write_keys(namespace: &Namespace, keys: &[&str], value: &str) -> Result<()> {
    for key in keys {
        let path = format!("/proc/sys/net/{key}");
        namespace.within(|| fs::write(&path, value))?.with_context(|| path.clone())?;
    }
    Ok(())
}

/// All that a listener has to accept now.
fn accept(listener: &TcpListener) -> Result<Vec<(TcpStream, SocketAddr)>> {
    let mut all = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, from)) => all.push((stream, unmapped(from))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
            Err(error) => return Err(error).context("accept"),
        }
    }
}

fn accepted_from(listener: &TcpListener, peer: SocketAddr, patience: Duration) -> Result<Option<TcpStream>> {
    let start = Instant::now();
    while start.elapsed() < patience {
        for (stream, from) in accept(listener)? {
            if from == peer {
                return Ok(Some(stream));
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// One try of an evasion: nothing in it may meet what another try has left behind.
#[derive(Clone, Copy)]
struct Try {
    port: u16,
    /// IPv4 identification; IPv6 fragments differ in their source.
    id: u16,
}

impl Try {
    /// A SYN to a port, long enough to be cut behind its header.
    fn syn(self, to: u16) -> Tcp {
        Tcp::new(self.port, to).payload(&[0x20; 20])
    }

    fn ipv4(self, header: Ipv4, inner: impl Into<Piece>) -> Vec<u8> {
        let mut packet = inner.into().within(header).bytes();
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        sum4(&mut packet);
        packet
    }

    /// A SYN in IPv4.
    fn syn4(self, to: u16) -> Vec<u8> {
        self.ipv4(self.header4(), self.syn(to))
    }

    fn header4(self) -> Ipv4 {
        Ipv4::new(BOT[0], VICTIM[0])
    }

    fn header6(self) -> Ipv6 {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 0x1000, 1, 0, 0, 1, self.id);
        Ipv6::between(source, Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x25))
    }

    /// A SYN in IPv6 behind these extension headers, outermost first.
    fn syn6(self, to: u16, chain: &[Extension]) -> Vec<u8> {
        let mut piece = Piece::from(self.syn(to));
        for header in chain.iter().rev() {
            piece = piece.within(header.clone());
        }
        piece.within(self.header6()).bytes()
    }

    /// A SYN of one family.
    fn plain(self, family: usize, to: u16) -> Vec<u8> {
        if family == 0 { self.syn4(to) } else { self.syn6(to, &[]) }
    }
}

/// Renews the checksum of an IPv4 header.
fn sum4(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..header]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
}

/// One fragment of an IPv4 packet; `cut` of its payload.
fn part4(packet: &[u8], cut: Range<usize>, more: bool) -> Vec<u8> {
    let mut part = packet[..20].to_vec();
    part.extend_from_slice(&packet[20..][cut.clone()]);
    let length = (part.len() as u16).to_be_bytes();
    part[2..4].copy_from_slice(&length);
    let field = (cut.start / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
    part[6..8].copy_from_slice(&field.to_be_bytes());
    sum4(&mut part);
    part
}

/// A packet as a frame to the edge.
fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], kind.as_slice(), packet].concat()
}

/// A frame with these tags, outermost first: EtherType and VLAN number.
fn tagged(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(kind, vlan)| [kind.to_be_bytes(), vlan.to_be_bytes()]).flatten();
    frame.splice(12..12, tags.collect::<Vec<_>>());
    frame
}

fn bytes(pieces: Vec<Piece>) -> Vec<Vec<u8>> {
    pieces.into_iter().map(|piece| ethernet(&piece.bytes())).collect()
}

fn reversed(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.reverse();
    frames
}

/// What has to become of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Makes a connection without op25b, else the lab is not real.
    Evasion,
    /// The receiving kernel decides; Linux since 5.10 refuses all of these.
    Receiver,
    /// No evasion: always makes a connection.
    Allowed,
}

type Build = Box<dyn Fn(Try) -> Vec<Vec<u8>>>;

/// Frames that are to make the victim answer.
struct Row {
    name: String,
    kind: Kind,
    /// The port that must answer.
    to: u16,
    /// None: this machine cannot do it, and why.
    build: Result<Build, String>,
}

fn row(name: impl Into<String>, kind: Kind, build: impl Fn(Try) -> Vec<Vec<u8>> + 'static) -> Row {
    let to = if kind == Kind::Allowed { 587 } else { 25 };
    Row { name: name.into(), kind, to, build: Ok(Box::new(build)) }
}

fn ipv4_rows() -> Vec<Row> {
    use Kind::{Evasion, Receiver};
    let options = |id: Try| id.ipv4(id.header4().options(40), id.syn(25));
    let evil = |id: Try| id.ipv4(id.header4().fragment(0x8000), id.syn(25));
    let no_fragments = |id: Try| id.ipv4(id.header4().fragment(DONT_FRAGMENT), id.syn(25));
    let no_length = |id: Try| id.ipv4(id.header4().total_length(0), id.syn(25));
    let authenticated =
        |id: Try| id.ipv4(id.header4(), id.syn(25).within(Extension::new(extension::AUTHENTICATION)));
    vec![
        row("IPv4 SYN", Evasion, |id| vec![ethernet(&id.syn4(25))]),
        row("IPv4, 40 bytes of options", Evasion, move |id| vec![ethernet(&options(id))]),
        row("IPv4, 40 bytes of options, cut after 8 bytes of TCP", Evasion, move |id| {
            bytes(fragments4(&options(id), &[8]))
        }),
        row("IPv4, reserved bit", Evasion, move |id| vec![ethernet(&evil(id))]),
        row("IPv4, DF", Evasion, move |id| vec![ethernet(&no_fragments(id))]),
        row("IPv4, total length 0", Receiver, move |id| vec![ethernet(&no_length(id))]),
        row("IPv4, AH", Receiver, move |id| vec![ethernet(&authenticated(id))]),
        row("IPv4, SYN cut after 8 bytes", Evasion, |id| bytes(fragments4(&id.syn4(25), &[8]))),
        row("IPv4, SYN cut after 8 bytes, last first", Evasion, |id| {
            reversed(bytes(fragments4(&id.syn4(25), &[8])))
        }),
        row("IPv4, SYN cut after 16 bytes", Evasion, |id| bytes(fragments4(&id.syn4(25), &[16]))),
        row("IPv4, SYN cut after 16 bytes, last first", Evasion, |id| {
            reversed(bytes(fragments4(&id.syn4(25), &[16])))
        }),
        row("IPv4, SYN in pieces of 8 bytes", Evasion, |id| {
            bytes(fragments4(&id.syn4(25), &[8, 16, 24, 32]))
        }),
        row("IPv4, SYN in pieces of 8 bytes, last first", Evasion, |id| {
            reversed(bytes(fragments4(&id.syn4(25), &[8, 16, 24, 32])))
        }),
        row("IPv4, SYN cut behind the TCP header", Evasion, |id| bytes(fragments4(&id.syn4(25), &[24]))),
        row("IPv4, SYN cut behind the TCP header, last first", Evasion, |id| {
            reversed(bytes(fragments4(&id.syn4(25), &[24])))
        }),
        row("IPv4, tiny fragment, then a decoy of it to 587", Evasion, |id| {
            let (mail, decoy) = (id.syn4(25), id.syn4(587));
            [part4(&mail, 0..8, true), part4(&decoy, 0..8, true), part4(&mail, 8..40, false)]
                .map(|part| ethernet(&part))
                .into()
        }),
        row("IPv4, rest, then a decoy to 587 and a tiny fragment", Receiver, |id| {
            let (mail, decoy) = (id.syn4(25), id.syn4(587));
            [part4(&mail, 8..40, false), part4(&decoy, 0..16, true), part4(&mail, 0..8, true)]
                .map(|part| ethernet(&part))
                .into()
        }),
        row("IPv4, RFC 3128: ACK to 25, SYN over it at offset 1", Receiver, |id| {
            let ack = id.ipv4(id.header4(), id.syn(25).flags(flag::ACK));
            [part4(&ack, 0..24, true), part4(&id.syn4(25), 8..40, false)].map(|part| ethernet(&part)).into()
        }),
        row("IPv4, RFC 3128 the other way round", Receiver, |id| {
            let ack = id.ipv4(id.header4(), id.syn(25).flags(flag::ACK));
            [part4(&id.syn4(25), 8..40, false), part4(&ack, 0..24, true)].map(|part| ethernet(&part)).into()
        }),
        row("IPv4, ports overwritten: 587, then 25", Receiver, |id| {
            let (mail, decoy) = (id.syn4(25), id.syn4(587));
            [part4(&decoy, 0..24, true), part4(&mail, 0..8, true), part4(&mail, 24..40, false)]
                .map(|part| ethernet(&part))
                .into()
        }),
        row("IPv4, loose source route through the relay", Receiver, |id| {
            // RFC 791: the destination is the next hop; the last one is in the option, and in TCP's checksum.
            let mut packet = id.ipv4(id.header4().option_bytes(&[131, 7, 4, 192, 0, 2, 200]), id.syn(25));
            packet[16..20].copy_from_slice(&[192, 0, 2, 25]);
            sum4(&mut packet);
            vec![ethernet(&packet)]
        }),
        row("IPv4 in LLC/SNAP", Receiver, |id| {
            let snap = id.syn(25).within(id.header4()).within(Snap).frame();
            vec![snap]
        }),
        row("IPv4 in MPLS", Receiver, |id| vec![id.syn(25).within(id.header4()).within(Mpls(1)).frame()]),
    ]
}

/// A SYN behind this many destination options headers of this length, at most 256; a receiver skips what is in them.
fn unknown_options(id: Try, count: usize, length: usize) -> Vec<u8> {
    let mut piece = Piece::from(id.syn(25));
    for following in (0..count).map(|number| if number == 0 { 6 } else { extension::DESTINATION_OPTIONS }) {
        // RFC 4727: an option number for experiments, whose upper bits say "skip".
        let mut header = vec![following, (length / 8 - 1) as u8, 0x1e, (length - 4) as u8];
        header.resize(length, 0);
        piece = piece.within(Opaque(extension::DESTINATION_OPTIONS, header));
    }
    piece.within(id.header6()).bytes()
}

fn ipv6_rows() -> Vec<Row> {
    use Kind::{Evasion, Receiver};
    let headers = |kind: u8, count: usize| vec![Extension::new(kind); count];
    let mut rows = vec![
        row("IPv6 SYN", Evasion, |id| vec![ethernet(&id.syn6(25, &[]))]),
        row("IPv6, SYN cut after 8 bytes", Receiver, |id| bytes(fragments6(&id.syn6(25, &[]), &[8]))),
        row("IPv6, SYN cut after 8 bytes, last first", Receiver, |id| {
            reversed(bytes(fragments6(&id.syn6(25, &[]), &[8])))
        }),
        row("IPv6, SYN cut behind the TCP header", Evasion, |id| bytes(fragments6(&id.syn6(25, &[]), &[24]))),
        row("IPv6, SYN cut behind the TCP header, last first", Evasion, |id| {
            reversed(bytes(fragments6(&id.syn6(25, &[]), &[24])))
        }),
        row("IPv6, atomic fragment", Evasion, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::fragment(0, false)]))]
        }),
        row("IPv6, two atomic fragment headers", Receiver, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::fragment(0, false), Extension::fragment(0, false)]))]
        }),
        row("IPv6, destination options around an atomic fragment", Evasion, |id| {
            let options = Extension::new(extension::DESTINATION_OPTIONS);
            let chain = [options.clone(), Extension::fragment(0, false), options];
            vec![ethernet(&id.syn6(25, &chain))]
        }),
        row("IPv6, TCP only in the second fragment", Receiver, |id| {
            bytes(fragments6(&id.syn6(25, &[Extension::new(extension::DESTINATION_OPTIONS)]), &[8]))
        }),
        row("IPv6, TCP only in the second fragment, last first", Receiver, |id| {
            reversed(bytes(fragments6(&id.syn6(25, &[Extension::new(extension::DESTINATION_OPTIONS)]), &[8])))
        }),
        row("IPv6, chain cut between its headers", Receiver, |id| {
            let chain = vec![Extension::new(extension::DESTINATION_OPTIONS).bytes(24); 2];
            bytes(fragments6(&id.syn6(25, &chain), &[24]))
        }),
        row("IPv6, whole chain in the first fragment", Evasion, |id| {
            bytes(fragments6(&id.syn6(25, &[Extension::new(extension::DESTINATION_OPTIONS)]), &[32]))
        }),
        row("IPv6, hop-by-hop options", Evasion, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::new(extension::HOP_BY_HOP)]))]
        }),
        row("IPv6, hop-by-hop options and payload length 0", Receiver, |id| {
            let piece = Piece::from(id.syn(25)).within(Extension::new(extension::HOP_BY_HOP));
            vec![ethernet(&piece.within(id.header6().payload_length(0)).bytes())]
        }),
        row("IPv6, payload length 0", Receiver, |id| {
            vec![ethernet(&id.syn(25).within(id.header6().payload_length(0)).bytes())]
        }),
        row("IPv6, routing header without segments left", Evasion, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::new(extension::ROUTING)]))]
        }),
        row("IPv6, AH", Receiver, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::new(extension::AUTHENTICATION)]))]
        }),
        row("IPv6, mobility header", Receiver, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::new(extension::MOBILITY)]))]
        }),
        row("IPv6, hop-by-hop, routing, fragment, destination options", Evasion, |id| {
            let chain = [
                Extension::new(extension::HOP_BY_HOP),
                Extension::new(extension::DESTINATION_OPTIONS),
                Extension::new(extension::ROUTING),
                Extension::fragment(0, false),
                Extension::new(extension::DESTINATION_OPTIONS),
            ];
            vec![ethernet(&id.syn6(25, &chain))]
        }),
        row("IPv6, 248 bytes of padding in destination options", Receiver, |id| {
            vec![ethernet(&id.syn6(25, &[Extension::new(extension::DESTINATION_OPTIONS).bytes(248)]))]
        }),
        row("IPv6, 2048 bytes of an unknown option, in fragments", Evasion, |id| {
            bytes(fragments6(&unknown_options(id, 8, 256), &[1024]))
        }),
        row("IPv6, 1280 bytes of an unknown option", Evasion, |id| {
            vec![ethernet(&unknown_options(id, 5, 256))]
        }),
        row("IPv6 in LLC/SNAP", Receiver, |id| vec![id.syn(25).within(id.header6()).within(Snap).frame()]),
    ];
    for count in [1, 2, 5, 9, 10, 11, 12, 13, 14, 20, 60, 150] {
        rows.push(row(format!("IPv6, {count} destination options headers"), Evasion, move |id| {
            vec![ethernet(&id.syn6(25, &headers(extension::DESTINATION_OPTIONS, count)))]
        }));
    }
    rows
}

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
/// What QinQ was before its standard.
const OLD_TAG: u16 = 0x9100;

fn tagged_rows(site: &Site) -> Vec<Row> {
    use Kind::{Evasion, Receiver};
    let vlan = make_vlan(site, "vlan100", &["link", "eth1"], &["id", "100"]);
    let qinq = make_vlan(site, "qinq200", &["link", "eth1"], &["proto", "802.1ad", "id", "200"])
        .and_then(|()| make_vlan(site, "qinq300", &["link", "qinq200"], &["id", "300"]));
    let mut rows = Vec::new();
    for (family, name) in FAMILY.into_iter().enumerate() {
        let mut add = |what: &str, kind: Kind, here: Result<(), String>, tags: Vec<(u16, u16)>| {
            let mut row = row(format!("{name}, {what}"), kind, move |id| {
                vec![tagged(ethernet(&id.plain(family, 25)), &tags)]
            });
            if let Err(why) = here {
                row.build = Err(why);
            }
            rows.push(row);
        };
        // Number 0 is no VLAN but a priority: Linux takes such frames without a VLAN interface, however often tagged.
        add("priority tag", Evasion, Ok(()), vec![(C_TAG, 0xe000)]);
        add("802.1ad priority tag", Evasion, Ok(()), vec![(S_TAG, 0x2000)]);
        for count in [2, 5, 6, 7, 12, 40] {
            let tags = [(S_TAG, 0), (C_TAG, 0)].into_iter().cycle().take(count).collect();
            add(&format!("{count} priority tags"), Evasion, Ok(()), tags);
        }
        add("tag of a VLAN that is not there", Receiver, Ok(()), vec![(C_TAG, 7)]);
        add("0x9100 tag", Receiver, Ok(()), vec![(OLD_TAG, 0)]);
        add("802.1Q to a VLAN interface", Evasion, vlan.clone(), vec![(C_TAG, 100)]);
        add("802.1Q below a priority tag", Receiver, vlan.clone(), vec![(C_TAG, 0), (C_TAG, 100)]);
        add("QinQ to a VLAN interface", Evasion, qinq.clone(), vec![(S_TAG, 200), (C_TAG, 300)]);
    }
    rows
}

/// A VLAN interface of the edge, or why this kernel has none.
fn make_vlan(site: &Site, name: &str, link: &[&str], what: &[&str]) -> Result<(), String> {
    let add = [&["link", "add"], link, &["name", name, "type", "vlan"], what].concat();
    site.edge.ip(&add).and_then(|_| site.edge.ip(&["link", "set", name, "up"])).map(|_| ()).map_err(|error| {
        let why = error.to_string();
        if why.contains("Unknown device type") || why.contains("not supported") {
            "this kernel has no 802.1Q".to_owned()
        } else {
            why.lines().last().unwrap_or_default().to_owned()
        }
    })
}

/// What is not blocked.
fn allowed_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, name) in FAMILY.into_iter().enumerate() {
        rows.push(row(format!("{name} SYN to port 587"), Kind::Allowed, move |id| {
            vec![ethernet(&id.plain(family, 587))]
        }));
        rows.push(row(format!("{name} SYN to port 587, in two fragments"), Kind::Allowed, move |id| {
            let packet = id.plain(family, 587);
            let cut = if family == 0 { fragments4 } else { fragments6 };
            reversed(bytes(cut(&packet, &[24])))
        }));
        rows.push(row(format!("{name} SYN to port 587, two priority tags"), Kind::Allowed, move |id| {
            vec![tagged(ethernet(&id.plain(family, 587)), &[(S_TAG, 0), (C_TAG, 0)])]
        }));
    }
    rows.push(row("IPv6 SYN to port 587, 9 destination options headers", Kind::Allowed, |id| {
        vec![ethernet(&id.syn6(587, &vec![Extension::new(extension::DESTINATION_OPTIONS); 9]))]
    }));
    rows
}

/// Sends all rows' frames; whether each was answered with a SYN-ACK that came back to the customer.
fn answered(site: &Site, rows: &[Row], phase: u16) -> Result<Vec<bool>> {
    let ear = site.customer.listen("cust1")?;
    let mouth = site.customer.mouth("cust1")?;
    let tries = (0..).map(|number| Try { port: phase * 5_000 + number, id: phase * 1_000 + number });
    for (row, id) in rows.iter().zip(tries.clone()) {
        let Ok(build) = &row.build else { continue };
        mouth.send(build(id).iter().map(Vec::as_slice))?;
    }
    // Twice: what was answered late counts.
    let heard = [ear.hear()?, ear.hear()?].concat();
    Ok(rows.iter().zip(tries).map(|(row, id)| heard.contains(&(row.to, id.port))).collect())
}

/// One line of the table.
struct Line {
    name: String,
    without: &'static str,
    with: &'static str,
    ok: bool,
    note: String,
}

/// The ways in that customers' frames are filtered; the table shows the first, and what differs.
const MODES: [&str; 3] = ["native", "generic", "tc-ingress"];

const fn word(works: bool) -> &'static str {
    if works { "works" } else { "fails" }
}

impl Line {
    fn new(name: impl Into<String>, (without, with): (bool, bool), expected: (bool, bool)) -> Self {
        Self {
            name: name.into(),
            without: word(without),
            with: word(with),
            ok: (without, with) == expected,
            note: String::new(),
        }
    }

    /// `with` in every mode of [`MODES`].
    fn of(row: &Row, without: bool, with: [bool; 3], again: bool) -> Self {
        let allowed = row.kind == Kind::Allowed;
        let mut line = Self::new(row.name.clone(), (without, with[0]), (true, allowed));
        if let Err(why) = &row.build {
            (line.without, line.with, line.ok) = ("not run", "not run", true);
            line.note.clone_from(why);
            return line;
        }
        if row.kind == Kind::Receiver && !without {
            (line.without, line.ok) = ("refused by the receiver", !with[0]);
        }
        for (mode, with) in MODES.into_iter().zip(with).skip(1) {
            if with != allowed {
                line.ok = false;
            }
            if word(with) != line.with {
                line.note = format!("{mode}: {} {}", word(with), line.note);
            }
        }
        if without != again {
            line.ok = false;
            line.note = format!("after `detach`: {} {}", word(again), line.note);
        }
        line
    }
}

fn print(lines: &[Line]) {
    println!("{:<62} | {:<23} | {:<7} | ok", "evasion", "without op25b", "with");
    for Line { name, without, with, ok, note } in lines {
        let ok = if *ok { "ok" } else { "NO" };
        println!("{}", format!("{name:<62} | {without:<23} | {with:<7} | {ok} {note}").trim_end());
    }
}

/// All packets counted under a reason.
fn packets(filter: &Filter<'_>, reason: &str) -> Result<u64> {
    let named = |name: &str| name.split(' ').nth(2) == Some(reason);
    Ok(filter.counted()?.iter().filter(|(name, ..)| named(name)).map(|(_, packets, _)| packets).sum())
}

/// The fast host sends to the victim as the bot, the victim answers to the bot, which tells the fast host what it
/// needs to go on. Whether the victim's listener accepts and reads what the fast host wrote.
fn triangle(site: &Site, family: usize, port: u16) -> Result<bool> {
    const LINE: &[u8] = b"EHLO spam.example\r\n";
    const RELAYED: u16 = 4025;
    let [victim, bot, fast] = [VICTIM, BOT, FAST].map(|host| host[family].parse::<IpAddr>());
    let (victim, bot, fast) = (victim?, bot?, fast?);
    let answers = site.fast.within(|| UdpSocket::bind((fast, RELAYED)))??;
    answers.set_read_timeout(Some(PATIENCE))?;
    let from: IpAddr = CUSTOMER[family].parse()?;
    let (frames, relay) =
        site.customer.within(|| anyhow::Ok((all_frames()?, UdpSocket::bind((from, 0))?)))??;
    relay.connect((fast, RELAYED))?;
    let mouth = site.fast.mouth("eth0")?;
    let stop = AtomicBool::new(false);
    let completed = thread::scope(|scope| {
        let bot_program = scope.spawn(|| relay_answers(frames, port, &relay, &stop));
        let done = (|| -> Result<Option<TcpStream>> {
            spoof(&mouth, (bot, victim, port), Spoofed::Syn)?;
            let mut answer = [0; 4];
            let Ok(4) = answers.recv(&mut answer) else { return Ok(None) };
            let next = u32::from_be_bytes(answer).wrapping_add(1);
            spoof(&mouth, (bot, victim, port), Spoofed::Data(next, &[]))?;
            spoof(&mouth, (bot, victim, port), Spoofed::Data(next, LINE))?;
            accepted_from(&site.mail, SocketAddr::new(bot, port), PATIENCE)
        })();
        stop.store(true, Ordering::Relaxed);
        bot_program.join().map_err(|_| anyhow::anyhow!("the bot panicked"))??;
        done
    })?;
    let Some(mut stream) = completed else { return Ok(false) };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = vec![0; LINE.len()];
    Ok(stream.read_exact(&mut line).is_ok() && line == LINE)
}

enum Spoofed<'d> {
    Syn,
    /// Acknowledging this, with this payload.
    Data(u32, &'d [u8]),
}

/// Sends a segment to port 25 with somebody else's source.
fn spoof(mouth: &Mouth, (from, to, port): (IpAddr, IpAddr, u16), what: Spoofed<'_>) -> Result<()> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are of two families"),
    };
    let (tcp, payload) = match what {
        Spoofed::Syn => (ip.tcp(port, 25, 1, 64_240).syn(), [].as_slice()),
        Spoofed::Data(next, payload) => (ip.tcp(port, 25, 2, 64_240).psh().ack(next), payload),
    };
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload)?;
    mouth.send([frame.as_slice()])
}

/// Tells the fast host the sequence number of every SYN-ACK from port 25.
fn relay_answers(mut frames: File, port: u16, relay: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while !stop.load(Ordering::Relaxed) {
        let length = match frames.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            Err(error) => return Err(error).context("the bot's packet socket"),
        };
        let Ok(packet) = SlicedPacket::from_ethernet(&buffer[..length]) else { continue };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { continue };
        if (tcp.source_port(), tcp.destination_port()) == (25, port) && tcp.syn() && tcp.ack() {
            relay.send(&tcp.sequence_number().to_be_bytes())?;
        }
    }
    Ok(())
}

/// Every frame of the calling thread's namespace.
fn all_frames() -> Result<File> {
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain call; the result is checked below.
    let socket = unsafe { libc::socket(libc::AF_PACKET, flags, protocol) };
    ensure!(socket >= 0, "AF_PACKET: {}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(socket) }))
}

/// Triangular spam without a filter, with the return path enforced and with it monitored; a relay's answers always
/// pass.
fn triangular_lines(site: &Site) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut ports = 60_000_u16..;
    let mut port = || ports.next().context("a port");
    let relay = |family: usize| site.connects(RELAY[family], &site.relay);
    let mut without = Vec::new();
    for family in 0..2 {
        without.push((triangle(site, family, port()?)?, relay(family)?));
    }
    let enforced = KURUME.replacen("mode: enforce", "mode: enforce\n    return_path: enforce", 1);
    for (mode, policy, works, reason) in
        [("enforce", enforced.as_str(), false, "return-path"), ("monitor", KURUME, true, "would-return-path")]
    {
        let mut filter = Filter::new(&site.edge)?;
        filter.start(policy, &["--customer", "eth1", "--upstream", "eth0"])?;
        for (family, name) in FAMILY.into_iter().enumerate() {
            let (triangle_without, relay_without) = without[family];
            let before = packets(&filter, reason)?;
            let with = triangle(site, family, port()?)?;
            let counted = packets(&filter, reason)? - before;
            let name_of = |what: &str| format!("{name}, {what}, return_path: {mode}");
            let mut line = Line::new(name_of("triangular spam"), (triangle_without, with), (true, works));
            line.note = format!("{counted} {reason}");
            line.ok &= counted > 0;
            lines.push(line);
            let with = relay(family)?;
            lines.push(Line::new(
                name_of("customer to a relay's port 25"),
                (relay_without, with),
                (true, true),
            ));
        }
    }
    Ok(lines)
}

#[test]
fn what_makes_a_connection_without_op25b_makes_none_with_it() -> Result<()> {
    let site = Site::new()?;
    let mut rows = ipv4_rows();
    rows.extend(ipv6_rows());
    rows.extend(tagged_rows(&site));
    rows.extend(allowed_rows());
    let connects = || -> Result<Vec<[bool; 2]>> {
        (0..2)
            .map(|family| {
                Ok([site.connects(VICTIM[family], &site.mail)?, site.connects(RELAY[family], &site.relay)?])
            })
            .collect()
    };
    let without = (connects()?, answered(&site, &rows, 1)?);
    let mut with = Vec::new();
    let mut counted = Vec::new();
    for (phase, mode) in (2..).zip(MODES) {
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&KURUME.replace("[eth1]", &format!("[{{name: eth1, attach: {mode}}}]")), &[])?;
        with.push((connects()?, answered(&site, &rows, phase)?));
        counted.push((mode, packets(&filter, "blocked")?, packets(&filter, "malformed")?));
    }
    let again = answered(&site, &rows, 9)?;

    let mut lines = Vec::new();
    for (family, name) in FAMILY.into_iter().enumerate() {
        for (which, to, works) in [(0, "victim", false), (1, "relay", true)] {
            let (before, after) =
                (without.0[family][which], [0, 1, 2].map(|mode| with[mode].0[family][which]));
            let mut line =
                Line::new(format!("{name} connect() to the {to}"), (before, after[0]), (true, works));
            line.ok &= after == [works; 3];
            lines.push(line);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let with = [0, 1, 2].map(|mode: usize| with[mode].1[index]);
        lines.push(Line::of(row, without.1[index], with, again[index]));
    }
    lines.extend(triangular_lines(&site)?);
    print(&lines);
    for (mode, blocked, malformed) in &counted {
        println!("counted, {mode}: {blocked} blocked, {malformed} malformed");
    }

    let wrong: Vec<_> = lines.iter().filter(|line| !line.ok).map(|line| line.name.as_str()).collect();
    assert!(wrong.is_empty(), "{} of {} are not as they should be: {wrong:#?}", wrong.len(), lines.len());
    assert!(counted.iter().all(|(_, blocked, malformed)| *blocked > 0 && *malformed > 0), "{counted:?}");
    Ok(())
}
