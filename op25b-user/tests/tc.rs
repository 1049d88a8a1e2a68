//! The filter at the TC hook: arriving and leaving frames, interfaces without Ethernet header, segmentation offload,
//! and what is left of it when it goes.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::{SchedClassifier, TcAttachType},
    util::KernelVersion,
};
use etherparse::{SlicedPacket, TransportSlice};
use lab::{Filter, KURUME, Namespace, eventually, finish, syn};
use nix::sys::signal::Signal;

/// Of `policies/kurume.yaml`: group residential, enforcing.
const CUSTOMER: [&str; 2] = ["203.0.113.10", "2001:db8:1000::10"];
const EXEMPT: [&str; 2] = ["203.0.113.130", "2001:db8:1000:80::1"];
const RELAY: [&str; 2] = ["192.0.2.25", "2001:db8:25::25"];
const OUTSIDE: [&str; 2] = ["192.0.2.200", "2001:db8:ffff::25"];
/// Customers behind `tun0`.
const TUNNELLED: [&str; 2] = ["203.0.113.34", "2001:db8:1000:2::34"];
/// Length of a SYN's frame: Ethernet, IP and TCP headers.
const LENGTH: [usize; 2] = [14 + 20 + 20, 14 + 40 + 20];
const ETHERNET: usize = 14;
const PATIENCE: Duration = Duration::from_millis(700);

/// `customer` – `edge` – `outside`, where the relay is too. `eth1` of the edge leads to `cust1`, `eth0` to `out0`.
struct Site {
    customer: Namespace,
    edge: Namespace,
    outside: Namespace,
}

impl Site {
    fn new() -> Result<Self> {
        let site = Self {
            customer: Namespace::new("customer")?,
            edge: Namespace::new("edge")?,
            outside: Namespace::new("outside")?,
        };
        site.edge.within(|| -> io::Result<()> {
            for (key, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                // Where the machine checks sources, frames from nowhere would not get to the outside.
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ] {
                fs::write(format!("/proc/sys/net/{key}"), value)?;
            }
            Ok(())
        })??;
        site.edge.veth("eth1", &site.customer, "cust1")?;
        site.edge.veth("eth0", &site.outside, "out0")?;
        // To this the frames of `lab::syn` go.
        site.edge.ip(&["link", "set", "eth1", "address", "02:00:00:00:00:26"])?;
        site.customer.address("cust1", &["203.0.113.10/24", "203.0.113.130/24"])?;
        site.customer.address("cust1", &["2001:db8:1000::10/64"])?;
        // Never a source by itself: what does not choose has the other.
        let exempt = "address add 2001:db8:1000:80::1/64 dev cust1 preferred_lft 0 nodad";
        site.customer.ip(&exempt.split(' ').collect::<Vec<_>>())?;
        site.edge.address("eth1", &["203.0.113.1/24", "2001:db8:1000::1/64", "2001:db8:1000:80::2/64"])?;
        site.edge.address("eth0", &["192.0.2.1/24", "2001:db8:ffff::1/64", "2001:db8:25::1/64"])?;
        site.outside.address("out0", &["192.0.2.200/24", "192.0.2.25/24"])?;
        site.outside.address("out0", &["2001:db8:ffff::25/64", "2001:db8:25::25/64"])?;
        for (namespace, via) in [
            (&site.customer, ["203.0.113.1", "2001:db8:1000::1"]),
            (&site.outside, ["192.0.2.1", "2001:db8:ffff::1"]),
        ] {
            for via in via {
                namespace.ip(&["route", "add", "default", "via", via])?;
            }
        }
        Ok(site)
    }

    /// Somebody who answers outside.
    fn listen(&self) -> Result<Vec<TcpListener>> {
        self.outside
            .within(|| {
                [25, 587]
                    .map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
                    .into_iter()
                    .collect::<io::Result<Vec<_>>>()
            })?
            .context("listen")
    }

    /// Whether the customer's kernel gets a connection.
    fn connects(&self, to: &str, port: u16) -> Result<bool> {
        let to = SocketAddr::new(to.parse()?, port);
        self.customer.within(|| TcpStream::connect_timeout(&to, PATIENCE).is_ok())
    }

    /// Whether customers reach the outside's ports 25 and 587 and the relay's 25, by family.
    fn reached(&self) -> Result<[[bool; 3]; 2]> {
        let of = |family: usize| -> Result<[bool; 3]> {
            Ok([
                self.connects(OUTSIDE[family], 25)?,
                self.connects(OUTSIDE[family], 587)?,
                self.connects(RELAY[family], 25)?,
            ])
        };
        Ok([of(0)?, of(1)?])
    }

    fn send(&self, count: usize, from: &str, to: &str, port: u16) -> Result<()> {
        let frame = syn(from.parse()?, to.parse()?, 40_000, port);
        self.customer.mouth("cust1")?.send(std::iter::repeat_n(frame.as_slice(), count))
    }

    /// Frames that an interface of the edge has received.
    fn received(&self, interface: &str) -> Result<u64> {
        let text = self.edge.ip(&["-j", "-s", "link", "show", "dev", interface])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let statistics =
            if links[0]["stats64"].is_null() { &links[0]["stats"] } else { &links[0]["stats64"] };
        statistics["rx"]["packets"].as_u64().with_context(|| text.clone())
    }

    /// The programs of others and ours at the TC hook of an interface, as whoever looks can see them.
    fn classifiers(&self, interface: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if has_tcx()? {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) =
                    self.edge.within(|| SchedClassifier::query_tcx(interface, direction))??;
                found.extend(programs.iter().map(|program| format!("tcx {}", program.id())));
            }
        }
        for direction in ["ingress", "egress"] {
            let mut command = self.edge.command("tc")?;
            command.args(["filter", "show", "dev", interface, direction]);
            // Where there is no `tc`, only tcx can be looked at.
            let Ok(answer) = finish(&mut command, Duration::from_secs(5)) else { continue };
            found.extend(answer.stdout.lines().map(str::to_owned));
        }
        Ok(found)
    }
}

/// Customers reach neither family's port 25 outside, and all else.
const FILTERED: [[bool; 3]; 2] = [[false, true, true]; 2];
const OPEN: [[bool; 3]; 2] = [[true; 3]; 2];

fn has_tcx() -> Result<bool> {
    Ok(KernelVersion::current()? >= KernelVersion::new(6, 6, 0))
}

/// `policies/kurume.yaml` with other interfaces.
fn policy(interfaces: &str) -> String {
    KURUME.replacen("customer: [eth1]", interfaces, 1)
}

fn at_ingress() -> String {
    policy("customer: [{name: eth1, attach: tc-ingress}]")
}

/// `status` says that all is in force, on these interfaces in these modes, by tcx where the kernel has it.
fn in_force(filter: &Filter<'_>, expected: &[(&str, &str)]) -> Result<()> {
    let (code, status) = filter.status()?;
    ensure!(code == Some(0) && status["enforcing"] == true, "{status}");
    let interfaces = status["interfaces"].as_array().with_context(|| format!("no interfaces: {status}"))?;
    let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = interfaces.iter().map(|one| (word(one, "name"), word(one, "mode"))).collect();
    let mut expected: Vec<_> =
        expected.iter().map(|(name, mode)| ((*name).to_owned(), (*mode).to_owned())).collect();
    found.sort();
    expected.sort();
    ensure!(found == expected, "{status}");
    let links = fs::read_dir(filter.pins().join("links")).map_or(0, Iterator::count);
    let pinned = expected.iter().filter(|(_, mode)| !mode.starts_with("tc-")).count();
    let pinned = if has_tcx()? { expected.len() } else { pinned };
    ensure!(links == pinned, "{links} links, to be expected {pinned}: {status}");
    Ok(())
}

/// All packets counted under a reason, of both families.
fn packets(filter: &Filter<'_>, reason: &str) -> Result<u64> {
    let named = |name: &str| name.split(' ').nth(2) == Some(reason);
    Ok(filter.counted()?.iter().filter(|(name, ..)| named(name)).map(|(_, packets, _)| packets).sum())
}

#[test]
fn tc_ingress_passes_drops_and_counts_what_xdp_does() -> Result<()> {
    let mut outcomes = Vec::new();
    for (mode, text) in [("native", KURUME.to_owned()), ("tc-ingress", at_ingress())] {
        let site = Site::new()?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&text, &[])?;
        in_force(&filter, &[("eth1", mode)])?;
        // Nobody listens outside: an answer would have the customer's kernel send more.
        let ear = site.outside.listen("out0")?;
        site.send(5, "203.0.113.66", OUTSIDE[0], 25)?;
        for family in 0..2 {
            let business = ["198.51.100.200", "2001:db8:2000::1"][family];
            let unknown = ["198.51.100.1", "2001:db8:9000::1"][family];
            for (count, from, to, port) in [
                (100, CUSTOMER[family], OUTSIDE[family], 25),
                (20, CUSTOMER[family], RELAY[family], 25),
                (30, CUSTOMER[family], OUTSIDE[family], 587),
                (40, CUSTOMER[family], OUTSIDE[family], 465),
                (11, EXEMPT[family], OUTSIDE[family], 25),
                (12, business, OUTSIDE[family], 25),
                (13, unknown, OUTSIDE[family], 25),
            ] {
                site.send(count, from, to, port)?;
            }
        }
        let mut heard = ear.hear()?;
        heard.sort_unstable();
        heard.retain(|(from, _)| *from == 40_000);
        outcomes.push((mode, filter.counted()?, heard));
    }
    let [(_, counted, heard), (_, counted_at_tc, heard_at_tc)] = outcomes.as_slice() else { unreachable!() };
    assert_eq!(heard.len(), 2 * (20 + 30 + 40 + 11 + 12 + 13), "what passes XDP");
    assert_eq!(heard_at_tc, heard);
    assert_eq!(counted_at_tc, counted);
    assert!(counted.contains(&("residential ipv6 blocked drop".to_owned(), 100, 100 * LENGTH[1] as u64)));
    Ok(())
}

#[test]
fn tc_ingress_blocks_connections_whatever_their_tags() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    assert_eq!(site.reached()?, OPEN, "without a filter");
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&at_ingress(), &[])?;
    assert_eq!(site.reached()?, FILTERED);
    let before = packets(&filter, "blocked")?;
    // The kernel takes the first tag off and puts it beside the frame; number 0 is a priority, and no VLAN.
    let ear = site.outside.listen("out0")?;
    let mut sent = 0;
    for family in 0..2 {
        for tags in 1..=5 {
            let mut frame = syn(CUSTOMER[family].parse()?, OUTSIDE[family].parse()?, 40_000, 25);
            frame.splice(12..12, [0x81, 0, 0, 0].repeat(tags));
            site.customer.mouth("cust1")?.send([frame.as_slice()])?;
            sent += 1;
        }
    }
    assert_eq!(ear.hear()?, [], "tagged");
    // A connection that was tried above may be tried again.
    let blocked = packets(&filter, "blocked")? - before;
    assert!(blocked >= sent, "{blocked} of {sent}");
    Ok(())
}

#[test]
fn tc_egress_of_the_uplink_blocks_customers_on_their_way_out() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    assert_eq!(site.reached()?, OPEN, "without a filter");
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&policy("customer: [{name: eth0, attach: tc-egress}]"), &[])?;
    in_force(&filter, &[("eth0", "tc-egress")])?;
    assert_eq!(site.reached()?, FILTERED);
    let own = site.edge.within(|| {
        OUTSIDE.map(|to| {
            let to = to.parse::<IpAddr>().map(|to| SocketAddr::new(to, 25)).map_err(io::Error::other);
            to.and_then(|to| TcpStream::connect_timeout(&to, PATIENCE)).is_ok()
        })
    })?;
    assert_eq!(own, [true; 2], "the router's own mail is no customer's");
    assert!(packets(&filter, "blocked")? >= 2 && packets(&filter, "unknown-source")? >= 2);
    let before = packets(&filter, "blocked")?;
    let ear = site.outside.listen("out0")?;
    site.send(50, CUSTOMER[0], OUTSIDE[0], 25)?;
    assert_eq!(ear.hear()?.iter().filter(|ports| **ports == (40_000, 25)).count(), 0);
    let after = packets(&filter, "blocked")?;
    assert!((50..60).contains(&(after - before)), "{before} blocked, then {after}");
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert_eq!(site.reached()?, OPEN, "after `detach`");
    assert_eq!(site.classifiers("eth0")?, [""; 0]);
    Ok(())
}

/// A tun interface of the edge: what is written is received there, without any Ethernet header.
struct Tunnel {
    file: File,
}

impl Tunnel {
    fn new(site: &Site) -> Result<Self> {
        Self::with(site, libc::IFF_TUN | libc::IFF_NO_PI)
    }

    fn with(site: &Site, flags: i32) -> Result<Self> {
        site.edge.ip(&["tuntap", "add", "dev", "tun0", "mode", "tun"])?;
        let file = site.edge.within(|| -> Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            // `struct ifreq`: a name of 16 bytes, then what the request takes.
            let mut request = [0_u8; 40];
            request[..4].copy_from_slice(b"tun0");
            request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
            // SAFETY: the request reads and writes a `struct ifreq`, which is 40 bytes.
            let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) };
            ensure!(set == 0, "TUNSETIFF: {}", io::Error::last_os_error());
            Ok(file)
        })??;
        site.edge.ip(&["link", "set", "tun0", "up"])?;
        site.edge.ip(&["route", "add", "203.0.113.32/28", "dev", "tun0"])?;
        site.edge.ip(&["route", "add", "2001:db8:1000:2::/64", "dev", "tun0"])?;
        Ok(Self { file })
    }

    /// Writes SYNs from a port up, and says which of them were answered with a SYN-ACK.
    fn answered(&mut self, from: u16) -> Result<[[bool; 3]; 2]> {
        let mut wanted = Vec::new();
        for family in 0..2 {
            for (to, port) in [(OUTSIDE, 25), (OUTSIDE, 587), (RELAY, 25)] {
                let own = from + wanted.len() as u16;
                let frame = syn(TUNNELLED[family].parse()?, to[family].parse()?, own, port);
                self.file.write_all(&frame[ETHERNET..])?;
                wanted.push((port, own));
            }
        }
        let mut heard = Vec::new();
        let mut buffer = vec![0; 2048];
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.file.read(&mut buffer) {
                Ok(length) => {
                    let Ok(packet) = SlicedPacket::from_ip(&buffer[..length]) else { continue };
                    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { continue };
                    if tcp.syn() && tcp.ack() {
                        heard.push((tcp.source_port(), tcp.destination_port()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(5))
                }
                Err(error) => return Err(error).context("read from tun0"),
            }
        }
        let of = |index: usize| wanted.get(index).is_some_and(|ports| heard.contains(ports));
        Ok([[of(0), of(1), of(2)], [of(3), of(4), of(5)]])
    }
}

#[test]
fn an_interface_without_ethernet_header_is_filtered_at_tc() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let mut tunnel = Tunnel::new(&site)?;
    assert_eq!(tunnel.answered(41_000)?, OPEN, "without a filter");
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&policy("customer: [{name: tun0, attach: tc-ingress}]"), &[])?;
    in_force(&filter, &[("tun0", "tc-ingress")])?;
    let asked = ["explain", "--role", "customer", "--src", TUNNELLED[0], "--dst", OUTSIDE[0]];
    let answer = filter.op25b(&asked)?;
    assert!(answer.stdout.starts_with("drop: blocked"), "{answer:?}");
    assert_eq!(tunnel.answered(42_000)?, FILTERED);
    let counted: Vec<_> =
        filter.counted()?.into_iter().map(|(name, packets, _)| format!("{packets} {name}")).collect();
    let mut expected = Vec::new();
    for family in ["ipv4", "ipv6"] {
        expected.push(format!("1 residential {family} blocked drop"));
        expected.push(format!("1 residential {family} relay pass"));
    }
    assert_eq!(counted, expected);
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert_eq!(site.classifiers("tun0")?, [""; 0]);
    assert_eq!(tunnel.answered(43_000)?, OPEN, "after `detach`");
    // Beside XDP on an interface that has one.
    filter.start(&policy("customer: [{name: tun0, attach: tc-ingress}]\n  upstream: [eth0]"), &[])?;
    in_force(&filter, &[("tun0", "tc-ingress"), ("eth0", "native")])?;
    assert_eq!(tunnel.answered(44_000)?, FILTERED);
    Ok(())
}

#[test]
fn a_super_packet_whose_segments_nobody_has_counted_yet_counts_as_many() -> Result<()> {
    let site = Site::new()?;
    // What a virtual machine or a VPN program hands over in one piece, as vhost and tun do.
    let mut tunnel = Tunnel::with(&site, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&policy("customer: [{name: tun0, attach: tc-ingress}]"), &[])?;
    const SEGMENT: u16 = 1000;
    const SEGMENTS: u64 = 7;
    for family in 0..2 {
        let frame = syn(TUNNELLED[family].parse()?, OUTSIDE[family].parse()?, 40_000, 25);
        let mut packet = frame[ETHERNET..].to_vec();
        let headers = packet.len();
        packet.resize(headers + 6 * usize::from(SEGMENT) + 1, 0x2e);
        let (length_at, length) = if family == 0 { (2, packet.len()) } else { (4, packet.len() - 40) };
        packet[length_at..length_at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        // ACK, since segments of a SYN make no sense.
        packet[headers - 20 + 13] = 16;
        // `struct virtio_net_hdr`: NEEDS_CSUM; TCPV4 or TCPV6; header length, segment size, where the checksum starts
        // and where it goes.
        let mut whole = vec![1, if family == 0 { 1 } else { 4 }];
        for word in [headers as u16, SEGMENT, headers as u16 - 20, 16] {
            whole.extend_from_slice(&word.to_ne_bytes());
        }
        whole.extend_from_slice(&packet);
        tunnel.file.write_all(&whole)?;
    }
    let counted: Vec<_> =
        filter.counted()?.into_iter().map(|(name, packets, _)| format!("{packets} {name}")).collect();
    assert_eq!(
        counted,
        ["ipv4", "ipv6"].map(|family| format!("{SEGMENTS} residential {family} blocked drop"))
    );
    Ok(())
}

#[test]
fn xdp_on_an_interface_without_ethernet_header_is_refused_with_the_cure() -> Result<()> {
    let site = Site::new()?;
    let _tunnel = Tunnel::new(&site)?;
    for attach in ["native", "generic"] {
        let filter = Filter::new(&site.edge)?;
        let answer =
            filter.refused(&policy(&format!("customer: [eth1, {{name: tun0, attach: {attach}}}]")), &[])?;
        let error = answer.error()?;
        assert!(error.contains("tun0") && error.contains("attach: tc-ingress"), "{attach}: {error}");
        assert_eq!((site.edge.xdp("tun0")?, site.edge.xdp("eth1")?), (None, None), "{attach}");
        assert!(!filter.pins().exists() && !filter.state().exists(), "{attach}");
    }
    Ok(())
}

/// Somebody else's program on an interface, until it is dropped: `r0 = its answer; exit`.
struct Foreign {
    _link: OwnedFd,
}

impl Foreign {
    /// Passes all, in native XDP: BPF_PROG_TYPE_XDP, BPF_XDP, XDP_FLAGS_DRV_MODE, XDP_PASS.
    const XDP: [u32; 4] = [6, 37, 4, 2];
    /// Drops all, behind what is at tcx ingress already: BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_INGRESS, BPF_F_AFTER,
    /// TC_ACT_SHOT.
    const TCX: [u32; 4] = [3, 46, 1 << 4, 2];

    fn attach(namespace: &Namespace, interface: &str, kind: [u32; 4]) -> Result<Self> {
        let [program_type, place, flags, answer] = kind;
        let program = Self::load(program_type, place, answer)?;
        let index = namespace.within(|| lab::interface_index(interface))??;
        let link = attribute(&[
            (0, &program.as_raw_fd().to_ne_bytes()),
            (4, &index.to_ne_bytes()),
            (8, &place.to_ne_bytes()),
            (12, &flags.to_ne_bytes()),
        ]);
        Ok(Self { _link: namespace.within(|| bpf(28, &link))?.context("BPF_LINK_CREATE")? })
    }

    fn load(program_type: u32, place: u32, answer: u32) -> Result<OwnedFd> {
        let code: [u64; 2] = [u64::from(answer) << 32 | 0xb7, 0x95].map(u64::from_le);
        let load = attribute(&[
            (0, &program_type.to_ne_bytes()),
            (4, &(code.len() as u32).to_ne_bytes()),
            (8, &(code.as_ptr() as u64).to_ne_bytes()),
            (16, &(c"GPL".as_ptr() as u64).to_ne_bytes()),
            (48, b"foreign"),
            (68, &place.to_ne_bytes()),
        ]);
        bpf(5, &load).context("BPF_PROG_LOAD")
    }

    /// A classifier of clsact that lets all pass, where `tc` puts it by itself: first, with the first number.
    fn classifier(namespace: &Namespace, interface: &str) -> Result<()> {
        let program = Self::load(Self::TCX[0], 0, u32::MAX)?;
        let pin = CString::new(format!("/sys/fs/bpf/{}", lab::unique("foreign")))?;
        let attribute =
            attribute(&[(0, &(pin.as_ptr() as u64).to_ne_bytes()), (8, &program.as_raw_fd().to_ne_bytes())]);
        // BPF_OBJ_PIN; it returns no descriptor.
        // SAFETY: as in `bpf`.
        let pinned = unsafe { libc::syscall(libc::SYS_bpf, 6, attribute.as_ptr(), attribute.len()) };
        ensure!(pinned == 0, "BPF_OBJ_PIN: {}", io::Error::last_os_error());
        let path = pin.to_str()?;
        let filter = ["filter", "add", "dev", interface, "ingress", "pref", "1", "handle", "1"];
        let tc = |arguments: &[&str]| -> Result<lab::Answer> {
            finish(namespace.command("tc")?.args(arguments), Duration::from_secs(5))
        };
        let added = tc(&["qdisc", "add", "dev", interface, "clsact"]).and_then(|_| {
            tc(&[&filter, ["bpf", "direct-action", "object-pinned", path].as_slice()].concat())
        });
        fs::remove_file(path)?;
        let added = added?;
        ensure!(added.code == Some(0), "{added:?}");
        Ok(())
    }
}

fn attribute(fields: &[(usize, &[u8])]) -> [u8; 128] {
    let mut attribute = [0; 128];
    for (at, bytes) in fields {
        attribute[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    attribute
}

/// A command of bpf(2) that returns a descriptor.
fn bpf(command: i32, attribute: &[u8; 128]) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is larger than any kernel's that matters and zero beyond what is meant; what it points to
    // outlives the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), attribute.len()) };
    match i32::try_from(descriptor) {
        // SAFETY: just opened, and nobody else has it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn tc_works_beside_another_xdp_program() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let _foreign = Foreign::attach(&site.edge, "eth1", Foreign::XDP)?;
    let foreign = site.edge.xdp("eth1")?;
    assert!(foreign.is_some());
    let mut filter = Filter::new(&site.edge)?;
    let answer = filter.refused(KURUME, &[])?;
    assert!(answer.error()?.contains("attach: tc-ingress"), "{answer:?}");
    filter.start(&at_ingress(), &[])?;
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    assert_eq!(site.reached()?, FILTERED);
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert_eq!(site.edge.xdp("eth1")?, foreign, "it is still there");
    assert_eq!(site.reached()?, OPEN, "after `detach`");
    Ok(())
}

#[test]
fn programs_behind_at_tc_have_their_say_about_what_passes() -> Result<()> {
    if !has_tcx()? {
        println!("not run: this kernel has no tcx for the other program");
        return Ok(());
    }
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let earlier = Foreign::attach(&site.edge, "eth1", Foreign::TCX)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&at_ingress(), &[])?;
    // It was there first, and still op25b sees what it drops.
    site.send(10, CUSTOMER[0], OUTSIDE[0], 25)?;
    filter.counts(&[("residential ipv4 blocked drop", 10, 10 * LENGTH[0])])?;
    assert!(!site.connects(OUTSIDE[0], 587)?, "another program drops it");
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    drop(earlier);
    assert!(eventually(|| site.connects(OUTSIDE[0], 587).is_ok_and(|connects| connects)));
    let _later = Foreign::attach(&site.edge, "eth1", Foreign::TCX)?;
    assert!(!site.connects(OUTSIDE[0], 587)?, "another program drops it");
    filter.stop(Signal::SIGTERM)?;
    filter.start(&at_ingress(), &[])?;
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    assert!(filter.said().contains("swapped"), "{}", filter.said());
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert_eq!(site.classifiers("eth1")?.len(), 1, "the other program stays");
    Ok(())
}

#[test]
fn a_classifier_of_somebody_else_stays() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    Foreign::classifier(&site.edge, "eth1")?;
    let there = || Ok::<_, anyhow::Error>(site.classifiers("eth1")?.join("\n").contains("foreign"));
    assert!(there()?);
    let mut filter = Filter::new(&site.edge)?;
    if let Err(refused) = filter.start(&at_ingress(), &[]) {
        // Refusing is right where the place is taken, if it says so.
        assert!(filter.said().contains("eth1") && there()?, "{refused:#}");
        return Ok(());
    }
    assert!(there()?, "op25b took it off: {:#?}", site.classifiers("eth1")?);
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    assert_eq!(site.reached()?, FILTERED);
    filter.stop(Signal::SIGTERM)?;
    filter.start(&at_ingress(), &[])?;
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert!(there()?, "`detach` took it off");
    Ok(())
}

#[test]
fn a_policy_moves_an_interface_from_xdp_to_tc_and_back() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    filter.start(&at_ingress(), &[])?;
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    assert_eq!(site.edge.xdp("eth1")?, None);
    assert_eq!(site.reached()?, FILTERED, "at tc");
    filter.stop(Signal::SIGTERM)?;
    filter.start(KURUME, &[])?;
    in_force(&filter, &[("eth1", "native")])?;
    assert_eq!(site.classifiers("eth1")?, [""; 0]);
    assert_eq!(site.reached()?, FILTERED, "at XDP");
    Ok(())
}

#[test]
fn an_interface_made_anew_is_filtered_at_tc_anew() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&at_ingress(), &[])?;
    filter.stop(Signal::SIGTERM)?;
    site.edge.ip(&["link", "delete", "eth1"])?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(1), &false.into()), "gone: {status}");
    site.edge.veth("eth1", &site.customer, "cust1")?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(1), &false.into()), "back, without a filter: {status}");
    filter.start(&at_ingress(), &[])?;
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    site.send(10, CUSTOMER[0], OUTSIDE[0], 25)?;
    filter.counts(&[("residential ipv4 blocked drop", 10, 10 * LENGTH[0])])?;
    site.edge.ip(&["link", "delete", "eth1"])?;
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0), "after the interface is gone");
    assert!(!filter.pins().exists() && !filter.state().exists());
    Ok(())
}

#[test]
fn run_again_swaps_at_tc_without_a_gap_and_detach_leaves_nothing() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&at_ingress(), &[])?;
    let ear = site.outside.listen("out0")?;
    let blocked = syn(CUSTOMER[0].parse()?, OUTSIDE[0].parse()?, 1000, 25);
    let submitted = syn(CUSTOMER[0].parse()?, OUTSIDE[0].parse()?, 3000, 587);
    let burst: Vec<&[u8]> =
        std::iter::repeat_n(blocked.as_slice(), 15).chain([submitted.as_slice()]).collect();
    let stop = AtomicBool::new(false);
    let bursts = thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<usize> {
            let mouth = site.customer.mouth("cust1")?;
            let mut bursts = 0;
            while !stop.load(Ordering::Relaxed) && bursts < 5_000 {
                mouth.send(burst.iter().copied())?;
                bursts += 1;
            }
            Ok(bursts)
        });
        let swaps = (|| -> Result<()> {
            for (number, signal) in [(2, Signal::SIGTERM), (3, Signal::SIGKILL)] {
                let before = site.classifiers("eth1")?;
                filter.stop(signal)?;
                filter.start(&at_ingress(), &[])?;
                ensure!(filter.generation() == number, "generation {} follows", filter.generation());
                ensure!(filter.said().contains("swapped"), "{}", filter.said());
                let after = site.classifiers("eth1")?;
                ensure!(before != after && before.len() == after.len(), "{before:?} became {after:?}");
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let bursts = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
        swaps.and(bursts)
    })?;
    let heard = ear.hear()?;
    let from = |port: u16| heard.iter().filter(|(source, _)| *source == port).count();
    assert!(bursts > 100, "a flood that lasts: {bursts} bursts");
    assert_eq!(from(1000), 0, "of {} blocked SYNs none passes a swap", bursts * 15);
    assert_eq!(from(3000), bursts, "nothing to port 587 is lost");
    filter.counts(&[("residential ipv4 blocked drop", bursts * 15, bursts * 15 * LENGTH[0])])?;
    in_force(&filter, &[("eth1", "tc-ingress")])?;
    let answer = filter.op25b(&["detach"])?;
    assert!(answer.code == Some(0) && answer.stdout.contains("eth1"), "{answer:?}");
    assert_eq!(site.classifiers("eth1")?, [""; 0]);
    assert!(!filter.pins().exists() && !filter.state().exists());
    if let Ok(answer) = finish(site.edge.command("bpftool")?.args(["net", "show"]), Duration::from_secs(5)) {
        assert!(!answer.stdout.contains("eth1"), "{answer:?}");
    }
    let _listeners = site.listen()?;
    assert_eq!(site.reached()?, OPEN);
    Ok(())
}

/// A virtual machine's or a container's kernel leaves the TCP checksum to what carries its frames: the answer's too is
/// added up by whoever sends it then, here by the edge router's kernel, and is looked at by the customer's.
#[test]
fn who_leaves_checksums_to_the_hardware_is_answered() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let tx = |namespace: &Namespace, interface: &str, state: &str| -> Result<()> {
        let answer = finish(
            namespace.command("ethtool")?.args(["-K", interface, "tx", state]),
            Duration::from_secs(5),
        )?;
        ensure!(answer.code == Some(0), "{answer:?}");
        Ok(())
    };
    tx(&site.customer, "cust1", "on")?;
    tx(&site.edge, "eth1", "off")?;
    let mut filter = Filter::new(&site.edge)?;
    for action in ["reset", "notice"] {
        let policy = format!(
            "version: 1\noperator: Internet Kurume\n\
             interfaces: {{customer: [{{name: eth1, attach: tc-ingress}}]}}\n\
             customers: [{{name: residential, prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], mode: enforce, \
             action: {action}}}]\nunknown_sources: pass\nnotice: {{text: Port 25 is blocked.}}\n"
        );
        filter.start(&policy, &[])?;
        for server in OUTSIDE {
            let to = SocketAddr::new(server.parse()?, 25);
            let said = site.customer.within(|| -> io::Result<String> {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let mut line = [0; 150];
                let length = stream.read(&mut line)?;
                Ok(String::from_utf8_lossy(&line[..length]).into_owned())
            })?;
            match said {
                Ok(line) => {
                    assert_eq!(action, "notice", "{server}: {line}");
                    assert!(line.starts_with("554 5.7.1 Internet Kurume: Port 25 is blocked."), "{line:?}");
                }
                Err(error) => {
                    assert_eq!((action, error.kind()), ("reset", ErrorKind::ConnectionRefused), "{server}");
                }
            }
        }
        let answer = filter.op25b(&["stats", "--json"])?;
        ensure!(answer.code == Some(0) && !answer.stdout.contains("no-room"), "{answer:?}");
        filter.stop(Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn segmentation_offload_counts_every_segment() -> Result<()> {
    const BYTES: usize = 3_000_000;
    /// At an MTU of 1500: no segment has more.
    const LARGEST: [usize; 2] = [1500 - 20 - 20, 1500 - 40 - 20];
    let site = Site::new()?;
    let listeners = site.listen()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&at_ingress(), &[])?;
    let ethtool = |namespace: &Namespace, interface: &str, state: &str| -> Result<bool> {
        let mut command = namespace.command("ethtool")?;
        command.args(["-K", interface, "tso", state, "gso", state, "gro", state]);
        Ok(finish(&mut command, Duration::from_secs(5)).is_ok_and(|answer| answer.code == Some(0)))
    };
    let send = |family: usize| -> Result<(u64, u64, u64)> {
        let name = format!("residential {} exempt pass", ["ipv4", "ipv6"][family]);
        let counted = || -> Result<(u64, u64)> {
            let all = filter.counted()?;
            Ok(all
                .iter()
                .find(|(of, ..)| *of == name)
                .map_or((0, 0), |(_, packets, bytes)| (*packets, *bytes)))
        };
        let (before, frames) = (counted()?, site.received("eth1")?);
        let to = SocketAddr::new(OUTSIDE[family].parse()?, 25);
        let from: IpAddr = EXEMPT[family].parse()?;
        thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| -> io::Result<usize> {
                let (mut stream, _) = listeners[0].accept()?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                io::copy(&mut stream, &mut io::sink()).map(|bytes| bytes as usize)
            });
            let sent = site.customer.within(|| -> Result<()> {
                let mut stream = connect_from(from, to)?;
                stream.set_write_timeout(Some(Duration::from_secs(10)))?;
                Ok(stream.write_all(&vec![0x2e; BYTES])?)
            })?;
            sent?;
            let read = reader.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
            ensure!(read == BYTES, "{read} bytes arrived");
            Ok(())
        })?;
        // The last acknowledgements.
        thread::sleep(Duration::from_millis(100));
        let (after, frames_after) = (counted()?, site.received("eth1")?);
        Ok((after.0 - before.0, after.1 - before.1, frames_after - frames))
    };
    println!("family | offload | counted | frames received | least on the wire");
    for family in 0..2 {
        let least = BYTES.div_ceil(LARGEST[family]) as u64;
        let mut figures = Vec::new();
        for state in ["on", "off"] {
            if !ethtool(&site.customer, "cust1", state)? | !ethtool(&site.edge, "eth1", state)? {
                println!("{family} | {state}: not run, there is no ethtool here");
                continue;
            }
            let (packets, bytes, frames) = send(family)?;
            println!("IPv{} | {state:>7} | {packets:>7} | {frames:>15} | {least}", [4, 6][family]);
            assert!(packets >= least, "{state}: {packets} packets counted, at least {least} were sent");
            // What is no segment: the handshake, acknowledgements of nothing, partly filled ones.
            assert!(
                packets <= least * 3 / 2,
                "{state}: {packets} packets counted, {least} or a few more were sent"
            );
            assert!(bytes >= BYTES as u64, "{state}: {bytes} bytes counted");
            figures.push((packets, frames));
        }
        if let [(on, frames_on), (_, frames_off)] = figures.as_slice() {
            assert!(frames_on < on, "there was no super-packet: {figures:?}");
            assert!(*frames_off >= least, "there was one without offload: {figures:?}");
        }
    }
    Ok(())
}

/// A connection with a chosen source.
fn connect_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain call; the result is checked below.
    let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for (call, address) in [("bind", SocketAddr::new(from, 0)), ("connect", to)] {
        let mut bytes = [0_u8; 28];
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let length = match address.ip() {
            IpAddr::V4(ip) => {
                bytes[4..8].copy_from_slice(&ip.octets());
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(ip) => {
                bytes[8..24].copy_from_slice(&ip.octets());
                size_of::<libc::sockaddr_in6>()
            }
        };
        let act = if call == "bind" { libc::bind } else { libc::connect };
        // SAFETY: the address is of the socket's family and no longer than the buffer.
        let done = unsafe { act(socket.as_raw_fd(), bytes.as_ptr().cast(), length as libc::socklen_t) };
        ensure!(done == 0, "{call}: {}", io::Error::last_os_error());
    }
    Ok(TcpStream::from(socket))
}

#[test]
fn one_interface_has_xdp_for_what_arrives_and_tc_for_what_leaves() -> Result<()> {
    let site = Site::new()?;
    let _listeners = site.listen()?;
    let mut filter = Filter::new(&site.edge)?;
    let both = policy("customer: [{name: eth0, attach: tc-egress}]\n  upstream: [eth0]").replacen(
        "mode: enforce",
        "mode: enforce\n    return_path: enforce",
        1,
    );
    filter.start(&both, &[])?;
    in_force(&filter, &[("eth0", "tc-egress"), ("eth0", "native")])?;
    assert_eq!(site.reached()?, FILTERED);
    // Answers to what the customer never sent itself.
    let before = packets(&filter, "return-path")?;
    let mac = site.edge.ip(&["-br", "link", "show", "dev", "eth0"])?;
    let mac: Vec<u8> = mac
        .split_whitespace()
        .find(|word| word.matches(':').count() == 5)
        .context("an address")?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    let ear = site.customer.listen("cust1")?;
    for family in 0..2 {
        for (from, count) in [(OUTSIDE, 10), (RELAY, 20)] {
            let mut frame = syn(from[family].parse()?, CUSTOMER[family].parse()?, 25, 50_000);
            frame[..6].copy_from_slice(&mac);
            let mouth = site.outside.mouth("out0")?;
            mouth.send(std::iter::repeat_n(frame.as_slice(), count))?;
        }
    }
    let heard = ear.hear()?;
    assert_eq!(heard.iter().filter(|ports| **ports == (25, 50_000)).count(), 2 * 20);
    assert_eq!(packets(&filter, "return-path")? - before, 2 * 10);
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    assert_eq!(stats["interfaces"].as_array().map(Vec::len), Some(2), "{stats}");
    filter.stop(Signal::SIGTERM)?;
    filter.start(&both, &[])?;
    assert_eq!(filter.said().matches("swapped").count(), 2, "{}", filter.said());
    assert_eq!(site.reached()?, FILTERED);
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0));
    assert_eq!((site.edge.xdp("eth0")?, site.classifiers("eth0")?), (None, Vec::new()));
    assert_eq!(site.reached()?, OPEN);
    Ok(())
}
