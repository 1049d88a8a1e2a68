//! The filter on real interfaces of a real kernel: what arrives, what is counted, what stays and what goes.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lab::{Filter, KURUME, Namespace, eventually, syn};
use nix::sys::signal::Signal;
use op25b::{
    object::{self, Constants, Maps},
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::abi::{Link, Role};

/// Of `policies/kurume.yaml`: group residential, enforcing.
const CUSTOMER: [&str; 2] = ["203.0.113.10", "2001:db8:1000::10"];
const RELAY: [&str; 2] = ["192.0.2.25", "2001:db8:25::25"];
const OUTSIDE: [&str; 2] = ["192.0.2.200", "2001:db8:ffff::25"];
/// Length of a SYN's frame: Ethernet, IP and TCP headers.
const LENGTH: [usize; 2] = [14 + 20 + 20, 14 + 40 + 20];

/// A customer's network and the provider's edge router; `eth1` and `eth2` of the edge lead to `cust1` and `cust2`.
struct Site {
    customer: Namespace,
    edge: Namespace,
}

impl Site {
    fn new() -> Result<Self> {
        let site = Self { customer: Namespace::new("customer")?, edge: Namespace::new("edge")? };
        site.edge.veth("eth1", &site.customer, "cust1")?;
        Ok(site)
    }

    fn with_two_links() -> Result<Self> {
        let site = Self::new()?;
        site.edge.veth("eth2", &site.customer, "cust2")?;
        Ok(site)
    }

    /// Sends a customer's SYNs into `cust1` or `cust2`.
    fn send(&self, interface: &str, count: usize, from: &str, to: &str, port: u16) -> Result<()> {
        let frame = syn(from.parse()?, to.parse()?, 40_000, port);
        self.customer.mouth(interface)?.send(std::iter::repeat_n(frame.as_slice(), count))
    }

    /// How many of ten SYNs to port 25 outside and of ten to port 587 arrive behind an interface of the edge.
    fn arriving(&self, interface: &str, peer: &str) -> Result<(usize, usize)> {
        let ear = self.edge.listen(interface)?;
        self.send(peer, 10, CUSTOMER[0], OUTSIDE[0], 25)?;
        self.send(peer, 10, CUSTOMER[0], OUTSIDE[0], 587)?;
        let heard = ear.hear()?;
        let to = |port: u16| heard.iter().filter(|(_, destination)| *destination == port).count();
        Ok((to(25), to(587)))
    }
}

/// Of ten SYNs each to port 25 and 587: what arrives through a filter in force, and through none.
const FILTERED: (usize, usize) = (0, 10);
const OPEN: (usize, usize) = (10, 10);

fn no_trace_of(filter: &Filter<'_>, site: &Site, interfaces: &[&str]) -> Result<()> {
    ensure!(!filter.pins().exists(), "{} is there", filter.pins().display());
    ensure!(!filter.state().exists(), "{} is there", filter.state().display());
    for interface in interfaces {
        let xdp = site.edge.xdp(interface)?;
        ensure!(xdp.is_none(), "{interface} has {xdp:?}");
    }
    Ok(())
}

/// Somebody else's XDP program on an interface, until it is dropped.
struct Foreign {
    id: u32,
    _link: OwnedFd,
}

impl Foreign {
    const NAME: &str = "foreign_pass";
    const NATIVE: u32 = 1 << 2;
    const GENERIC: u32 = 1 << 1;

    /// By the kernel's own interface, so that nothing of op25b is in it.
    fn attach(namespace: &Namespace, interface: &str, mode: u32) -> Result<Self> {
        // `r0 = XDP_PASS; exit`, eight bytes each.
        let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95].map(u64::from_le);
        let mut load = [0_u8; 128];
        write_at(&mut load, 0, &6_u32.to_ne_bytes()); // BPF_PROG_TYPE_XDP
        write_at(&mut load, 4, &(code.len() as u32).to_ne_bytes());
        write_at(&mut load, 8, &(code.as_ptr() as u64).to_ne_bytes());
        write_at(&mut load, 16, &(c"GPL".as_ptr() as u64).to_ne_bytes());
        write_at(&mut load, 48, Self::NAME.as_bytes());
        write_at(&mut load, 68, &37_u32.to_ne_bytes()); // BPF_XDP
        let program = bpf(5, &load).context("BPF_PROG_LOAD")?;
        let described = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let id = described.lines().find_map(|line| line.strip_prefix("prog_id:")).context("prog_id")?;
        let index: u32 = namespace.within(|| lab::interface_index(interface))??.try_into()?;
        let mut link = [0_u8; 128];
        write_at(&mut link, 0, &program.as_raw_fd().to_ne_bytes());
        write_at(&mut link, 4, &index.to_ne_bytes());
        write_at(&mut link, 8, &37_u32.to_ne_bytes());
        write_at(&mut link, 12, &mode.to_ne_bytes());
        let link = namespace.within(|| bpf(28, &link))?.context("BPF_LINK_CREATE")?;
        Ok(Self { id: id.trim().parse()?, _link: link })
    }
}

fn write_at(attribute: &mut [u8; 128], at: usize, bytes: &[u8]) {
    for (to, from) in attribute.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
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
fn port_25_never_arrives_and_submission_and_the_relay_do() -> Result<()> {
    let site = Site::new()?;
    site.edge.address("eth1", &["203.0.113.1/24", "2001:db8:1000::1/64"])?;
    for (address, length) in RELAY.iter().chain(&OUTSIDE).zip(["32", "128", "32", "128"]) {
        site.edge.address("lo", &[&format!("{address}/{length}")])?;
    }
    site.customer.address("cust1", &["203.0.113.10/24", "2001:db8:1000::10/64"])?;
    site.customer.ip(&["route", "add", "default", "via", "203.0.113.1"])?;
    site.customer.ip(&["route", "add", "default", "via", "2001:db8:1000::1"])?;
    let _listeners = site.edge.within(|| {
        ["[::]:25", "[::]:465", "[::]:587"].map(TcpListener::bind).into_iter().collect::<io::Result<Vec<_>>>()
    })??;
    let connects = |to: &str, port: u16| -> Result<bool> {
        let to = SocketAddr::new(to.parse::<IpAddr>()?, port);
        site.customer.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(700)).is_ok())
    };
    for outside in OUTSIDE {
        assert!(connects(outside, 25)?, "without a filter {outside}:25 has to answer");
    }

    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    assert_eq!(site.edge.xdp("eth1")?.map(|(mode, _)| mode).as_deref(), Some("xdp"), "native");
    for (outside, relay) in OUTSIDE.into_iter().zip(RELAY) {
        assert!(!connects(outside, 25)?, "{outside}:25 is blocked");
        assert!(connects(outside, 587)?, "{outside}:587 passes");
        assert!(connects(outside, 465)?, "{outside}:465 passes");
        assert!(connects(relay, 25)?, "the relay {relay}:25 passes");
    }
    let blocked: Vec<_> =
        filter.counted()?.into_iter().filter(|(name, ..)| name.contains("blocked")).collect();
    assert_eq!(blocked.len(), 2, "one of each family: {blocked:?}");
    Ok(())
}

#[test]
fn counters_are_exactly_what_was_sent() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let ear = site.edge.listen("eth1")?;
    // From, to, port, how many, how they are counted, whether they pass.
    let cases = [
        (CUSTOMER, OUTSIDE, 25, 700, "residential FAMILY blocked drop", false),
        (CUSTOMER, RELAY, 25, 50, "residential FAMILY relay pass", true),
        (CUSTOMER, OUTSIDE, 587, 90, "", true),
        (CUSTOMER, OUTSIDE, 465, 80, "", true),
        (["203.0.113.130", "2001:db8:1000:80::1"], OUTSIDE, 25, 30, "residential FAMILY exempt pass", true),
        (["198.51.100.200", "2001:db8:2000::1"], OUTSIDE, 25, 40, "business FAMILY would-block pass", true),
        (["198.51.100.1", "2001:db8:9000::1"], OUTSIDE, 25, 60, "- FAMILY unknown-source pass", true),
    ];
    site.send("cust1", 20, "203.0.113.66", OUTSIDE[0], 25)?;
    let mut expected = vec![("residential ipv4 quarantined drop".to_owned(), 20, 20 * LENGTH[0])];
    let mut arriving = 0;
    for (from, to, port, count, name, passes) in cases {
        for (family, word) in ["ipv4", "ipv6"].into_iter().enumerate() {
            site.send("cust1", count, from[family], to[family], port)?;
            arriving += if passes { count } else { 0 };
            if !name.is_empty() {
                expected.push((name.replace("FAMILY", word), count, count * LENGTH[family]));
            }
        }
    }
    let expected: Vec<_> =
        expected.iter().map(|(name, packets, bytes)| (name.as_str(), *packets, *bytes)).collect();
    filter.counts(&expected)?;
    assert_eq!(ear.hear()?.len(), arriving);
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    assert_eq!(stats["generation"], 1);
    assert_eq!(
        stats["interfaces"],
        serde_json::json!([{ "name": "eth1", "role": "customer", "mode": "native" }])
    );
    Ok(())
}

#[test]
fn status_says_enforcing_and_exits_0() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let (code, status) = filter.status()?;
    assert_eq!(code, Some(0), "{status}");
    assert_eq!(status["enforcing"], true, "{status}");
    assert_eq!(status["generation"], 1, "{status}");
    let program = site.edge.xdp("eth1")?.map(|(_, program)| program);
    assert_eq!(status["interfaces"][0]["program"].as_u64(), program.map(u64::from), "{status}");
    let told = filter.op25b(&["status"])?;
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{told:?}");
    assert!(told.stdout.to_lowercase().contains("enforcing"), "{told:?}");
    Ok(())
}

#[test]
fn monitoring_passes_counts_and_is_not_called_enforcing() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    let policy = KURUME.replace("mode: enforce", "mode: monitor").replace("quarantine:", "exemptions_gone:");
    let policy =
        policy.split("exemptions_gone:").next().unwrap_or_default().to_owned() + "unknown_sources: pass\n";
    filter.start(&policy, &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, OPEN);
    filter.counts(&[("residential ipv4 would-block pass", 10, 10 * LENGTH[0])])?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(1), &false.into()), "{status}");
    Ok(())
}

fn stays_in_force_after(signal: Signal) -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    let ended = filter.stop(signal)?;
    if signal == Signal::SIGTERM {
        assert_eq!(ended.code(), Some(0), "SIGTERM ends it in order");
    } else {
        assert_eq!(ended.signal(), Some(signal as i32));
    }
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    filter.counts(&[("residential ipv4 blocked drop", 20, 20 * LENGTH[0])])?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(0), &true.into()), "{status}");
    assert_eq!(status["daemon"], false, "{status}");
    let told = filter.op25b(&["status"])?;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stderr.contains("warning: ") && told.stderr.contains("daemon"), "{told:?}");
    Ok(())
}

#[test]
fn sigterm_leaves_the_filter_in_force() -> Result<()> {
    stays_in_force_after(Signal::SIGTERM)
}

#[test]
fn sigkill_leaves_the_filter_in_force() -> Result<()> {
    stays_in_force_after(Signal::SIGKILL)
}

#[test]
fn run_again_swaps_without_a_gap_and_keeps_the_counters() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let ear = site.edge.listen("eth1")?;
    let [blocked, relayed, submitted] =
        [(1000, OUTSIDE[0], 25), (2000, RELAY[0], 25), (3000, OUTSIDE[0], 587)].map(|(from, to, port)| {
            Ok::<_, anyhow::Error>(syn(CUSTOMER[0].parse()?, to.parse()?, from, port))
        });
    let (blocked, relayed, submitted) = (blocked?, relayed?, submitted?);
    let burst: Vec<&[u8]> = std::iter::repeat_n(blocked.as_slice(), 14)
        .chain([relayed.as_slice(), submitted.as_slice()])
        .collect();
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
            for (number, signal) in [(2, Signal::SIGTERM), (3, Signal::SIGKILL), (4, Signal::SIGTERM)] {
                let before = site.edge.xdp("eth1")?;
                filter.stop(signal)?;
                thread::sleep(Duration::from_millis(50));
                filter.start(KURUME, &[])?;
                ensure!(filter.generation() == number, "generation {} follows", filter.generation());
                ensure!(filter.said().contains("swapped"), "{}", filter.said());
                let after = site.edge.xdp("eth1")?;
                ensure!(after.is_some() && after != before, "{before:?} became {after:?}");
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let bursts = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
        swaps.and(bursts)
    })?;
    let heard = ear.hear()?;
    let from = |port: u16| heard.iter().filter(|(source, _)| *source == port).count();
    assert!(bursts > 300, "a flood that lasts: {bursts} bursts");
    assert_eq!(from(1000), 0, "of {} blocked SYNs none passes a swap", bursts * 14);
    assert_eq!(from(2000), bursts, "nothing to the relay is lost");
    assert_eq!(from(3000), bursts, "nothing to port 587 is lost");
    filter.counts(&[
        ("residential ipv4 blocked drop", bursts * 14, bursts * 14 * LENGTH[0]),
        ("residential ipv4 relay pass", bursts, bursts * LENGTH[0]),
    ])
}

#[test]
fn a_new_policy_takes_force_and_counters_keep_their_groups() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    site.send("cust1", 10, CUSTOMER[0], OUTSIDE[0], 25)?;
    site.send("cust1", 5, "198.51.100.200", OUTSIDE[0], 25)?;
    let first = [("residential ipv4 blocked drop", 10, 540), ("business ipv4 would-block pass", 5, 270)];
    filter.counts(&first)?;
    filter.stop(Signal::SIGTERM)?;
    // Other order, one group fewer, a new one, and business enforces.
    let policy = "\
version: 1
interfaces: {customer: [eth1]}
relays: [{name: vpost, addresses: [192.0.2.26]}]
customers:
  - {name: wireless, prefixes: [203.0.113.0/24], mode: monitor}
  - {name: business, prefixes: [198.51.100.128/25], mode: enforce}
unknown_sources: pass
ipv6: unfiltered
";
    filter.start(policy, &[])?;
    site.send("cust1", 3, CUSTOMER[0], OUTSIDE[0], 25)?;
    site.send("cust1", 4, "198.51.100.200", OUTSIDE[0], 25)?;
    let mut expected = first.to_vec();
    expected.push(("wireless ipv4 would-block pass", 3, 162));
    expected.push(("business ipv4 blocked drop", 4, 216));
    filter.counts(&expected)?;
    let answer = filter.op25b(&[
        "explain",
        "--role",
        "customer",
        "--src",
        CUSTOMER[0],
        "--dst",
        OUTSIDE[0],
        "--json",
    ])?;
    assert_eq!(
        answer.json()?,
        serde_json::json!(
            { "verdict": "pass", "reason": "would-block", "customer": "wireless", "relay": null }
        ),
        "explain asks the running generation"
    );
    filter.counts(&expected).context("explain counts nothing")
}

#[test]
fn status_tells_that_the_policy_file_has_changed() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let path = filter.policy(&KURUME.replace("mode: monitor", "mode: enforce"))?;
    let told = filter.op25b(&["status"])?;
    let path = path.display().to_string();
    assert!(told.stderr.contains("warning: ") && told.stderr.contains(&path), "{told:?}");
    assert_eq!(told.code, Some(0), "what is in force is in force: {told:?}");
    Ok(())
}

#[test]
fn detach_removes_everything_and_twice_is_fine() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    filter.stop(Signal::SIGTERM)?;
    for times in 1..=2 {
        let answer = filter.op25b(&["detach"])?;
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{times}: {answer:?}");
        no_trace_of(&filter, &site, &["eth1", "eth2"])?;
    }
    assert_eq!(site.arriving("eth1", "cust1")?, OPEN);
    assert_eq!(filter.status()?.0, Some(1));
    Ok(())
}

#[test]
fn detach_ends_the_daemon() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let answer = filter.op25b(&["detach"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(filter.ended()?.code(), Some(0));
    no_trace_of(&filter, &site, &["eth1"])
}

/// The kernel lets go of a link a moment after its pin.
#[test]
fn who_starts_right_after_detach_does_not_meet_the_program_before() -> Result<()> {
    let site = Site::new()?;
    for _ in 0..10 {
        let mut filter = Filter::new(&site.edge)?;
        filter.start(KURUME, &[])?;
        let answer = filter.op25b(&["detach"])?;
        assert_eq!((answer.code, site.edge.xdp("eth1")?), (Some(0), None), "{answer:?}");
        filter.ended()?;
    }
    Ok(())
}

/// The usual policy, with generic XDP.
fn generic() -> String {
    KURUME.replace("customer: [eth1]", "customer: [{name: eth1, attach: generic}]")
}

#[test]
fn generic_is_used_where_it_is_written() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    let policy = generic();
    filter.start(&policy, &[])?;
    assert_eq!(site.edge.xdp("eth1")?.map(|(mode, _)| mode).as_deref(), Some("xdpgeneric"));
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    assert_eq!(stats["interfaces"][0]["mode"], "generic");
    filter.stop(Signal::SIGKILL)?;
    filter.start(&policy, &[])?;
    assert!(filter.said().contains("swapped"), "{}", filter.said());
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    filter.op25b(&["detach"])?;
    no_trace_of(&filter, &site, &["eth1"])
}

#[test]
fn a_change_from_native_to_generic_is_done_or_refused_but_never_left_out() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    let policy = generic();
    let how = || Ok::<_, anyhow::Error>(site.edge.xdp("eth1")?.map(|(mode, _)| mode));
    match filter.start(&policy, &[]) {
        Ok(()) => assert_eq!(how()?.as_deref(), Some("xdpgeneric"), "as written"),
        Err(_) => {
            assert_eq!(how()?.as_deref(), Some("xdp"), "as before");
            let answer = filter.refused(&policy, &[])?;
            let error = answer.error()?;
            ensure!(error.contains("op25b detach"), "the cure for its own program: {error}");
        }
    }
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    let said = stats["interfaces"][0]["mode"].as_str();
    let is = how()?.map(|mode| if mode == "xdp" { "native" } else { "generic" });
    assert_eq!(said, is, "stats tells how it really is attached");
    Ok(())
}

#[test]
fn another_xdp_program_is_named_and_no_interface_is_touched() -> Result<()> {
    for mode in [Foreign::NATIVE, Foreign::GENERIC] {
        let site = Site::with_two_links()?;
        let foreign = Foreign::attach(&site.edge, "eth2", mode)?;
        let filter = Filter::new(&site.edge)?;
        let answer = filter.refused(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
        let error = answer.error()?;
        for word in ["eth2", Foreign::NAME, &foreign.id.to_string()] {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
        no_trace_of(&filter, &site, &["eth1"])?;
        assert_eq!(site.edge.xdp("eth2")?.map(|(_, id)| id), Some(foreign.id));
        assert_eq!(site.arriving("eth1", "cust1")?, OPEN);
    }
    Ok(())
}

#[test]
fn a_pin_in_the_place_of_a_link_is_named_and_left_alone() -> Result<()> {
    let site = Site::new()?;
    let filter = Filter::new(&site.edge)?;
    let policy = Policy::read(&filter.policy(KURUME)?, &Override::default())?;
    let tables = Tables::compile(&policy, &Situation::now(), |name| policy.position(name))?;
    let object = object::create(&tables, Constants::bare(Role::CUSTOMER, Link::Ethernet), Maps::Own)?;
    let pin = filter.pins().join("links/eth1:native");
    fs::create_dir_all(pin.parent().context("a directory")?)?;
    object.map("CUSTOMER_GROUPS").context("a map")?.pin(&pin)?;
    let answer = filter.refused(KURUME, &[])?;
    let error = answer.error()?;
    assert!(error.contains(&pin.display().to_string()) && error.contains("remove it"), "{error}");
    assert!(pin.exists(), "it is somebody else's");
    assert_eq!((site.edge.xdp("eth1")?, site.arriving("eth1", "cust1")?), (None, OPEN));
    Ok(())
}

#[test]
fn a_refused_change_leaves_the_generation_before_in_force() -> Result<()> {
    let site = Site::with_two_links()?;
    let foreign = Foreign::attach(&site.edge, "eth2", Foreign::NATIVE)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    let before = site.edge.xdp("eth1")?;
    let looser = KURUME.replace("mode: enforce", "mode: monitor");
    let answer = filter.refused(&looser, &["--customer", "eth1", "--customer", "eth2"])?;
    assert!(answer.error()?.contains("eth2"), "{answer:?}");
    // The policy file as it was, since `status` compares.
    filter.policy(KURUME)?;
    assert_eq!(site.edge.xdp("eth1")?, before, "the program before");
    assert_eq!(site.edge.xdp("eth2")?.map(|(_, id)| id), Some(foreign.id));
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["generation"]), (Some(0), &1.into()), "{status}");
    filter.counts(&[("residential ipv4 blocked drop", 10, 540)])?;
    drop(foreign);
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    assert_eq!(site.arriving("eth2", "cust2")?, FILTERED);
    Ok(())
}

#[test]
fn an_interface_that_the_policy_no_longer_names_is_detached() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    assert_eq!(site.arriving("eth2", "cust2")?, FILTERED);
    filter.stop(Signal::SIGTERM)?;
    filter.start(KURUME, &["--customer", "eth1"])?;
    assert_eq!(site.edge.xdp("eth2")?, None);
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    assert_eq!(site.arriving("eth2", "cust2")?, OPEN);
    assert_eq!(filter.status()?.0, Some(0));
    // What was counted on the one that is left stays counted.
    filter.counts(&[("residential ipv4 blocked drop", 20, 20 * LENGTH[0])])
}

#[test]
fn a_policy_none_of_whose_interfaces_is_there_is_refused() -> Result<()> {
    let site = Site::new()?;
    let filter = Filter::new(&site.edge)?;
    let answer = filter.refused(KURUME, &["--customer", "eth9"])?;
    assert!(answer.error()?.contains("eth9"), "{answer:?}");
    no_trace_of(&filter, &site, &["eth1"])
}

#[test]
fn jumbo_frames_work_or_the_cure_is_named() -> Result<()> {
    let site = Site::new()?;
    site.edge.ip(&["link", "set", "eth1", "mtu", "9000"])?;
    site.customer.ip(&["link", "set", "cust1", "mtu", "9000"])?;
    let mut filter = Filter::new(&site.edge)?;
    if filter.start(KURUME, &[]).is_ok() {
        assert_eq!(
            site.edge.xdp("eth1")?.map(|(mode, _)| mode).as_deref(),
            Some("xdp"),
            "native, as written"
        );
        assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
        return Ok(());
    }
    let answer = filter.refused(KURUME, &[])?;
    let error = answer.error()?;
    for word in ["eth1", "9000", "mtu", "attach: generic"] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    no_trace_of(&filter, &site, &["eth1"])?;
    filter.start(&generic(), &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED, "the cure works");
    Ok(())
}

#[test]
fn a_name_with_a_dot_works() -> Result<()> {
    let site = Site::new()?;
    site.edge.veth("eth0.100", &site.customer, "cust0.100")?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&KURUME.replace("[eth1]", "[eth0.100]"), &[])?;
    assert_eq!(site.arriving("eth0.100", "cust0.100")?, FILTERED);
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    assert_eq!(stats["interfaces"][0]["name"], "eth0.100");
    filter.stop(Signal::SIGTERM)?;
    filter.start(&KURUME.replace("[eth1]", "[eth0.100]"), &[])?;
    assert!(filter.said().contains("swapped"), "{}", filter.said());
    let answer = filter.op25b(&["detach"])?;
    assert!(answer.stdout.contains("eth0.100"), "{answer:?}");
    no_trace_of(&filter, &site, &["eth0.100"])
}

#[test]
fn a_one_armed_router_judges_both_ways_on_one_interface() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--upstream", "eth1"])?;
    let ear = site.edge.listen("eth1")?;
    let answers =
        |from: &str, to: &str| -> Result<Vec<u8>> { Ok(syn(from.parse()?, to.parse()?, 25, 40_000)) };
    for family in 0..2 {
        site.send("cust1", 10, CUSTOMER[family], OUTSIDE[family], 25)?;
        site.send("cust1", 20, CUSTOMER[family], RELAY[family], 25)?;
        let from_outside = answers(OUTSIDE[family], CUSTOMER[family])?;
        site.customer.mouth("cust1")?.send(std::iter::repeat_n(from_outside.as_slice(), 30))?;
        let from_relay = answers(RELAY[family], CUSTOMER[family])?;
        site.customer.mouth("cust1")?.send(std::iter::repeat_n(from_relay.as_slice(), 40))?;
        // The relay delivers to a customer's own mail server.
        site.send("cust1", 50, RELAY[family], CUSTOMER[family], 25)?;
    }
    let mut expected = Vec::new();
    for (family, length) in ["ipv4", "ipv6"].into_iter().zip(LENGTH) {
        expected.push((format!("residential {family} blocked drop"), 10, 10 * length));
        expected.push((format!("residential {family} relay pass"), 20 + 40, 60 * length));
        expected.push((format!("residential {family} would-return-path pass"), 30, 30 * length));
        expected.push((format!("- {family} relay pass"), 50, 50 * length));
    }
    let expected: Vec<_> =
        expected.iter().map(|(name, packets, bytes)| (name.as_str(), *packets, *bytes)).collect();
    filter.counts(&expected)?;
    assert_eq!(ear.hear()?.len(), 2 * (20 + 30 + 40 + 50));
    let stats = filter.op25b(&["stats", "--json"])?.json()?;
    assert_eq!(stats["interfaces"].as_array().map(Vec::len), Some(1), "{stats}");
    assert_eq!(filter.status()?.0, Some(0));
    Ok(())
}

#[test]
fn an_upstream_interface_drops_the_return_path_when_enforced() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    let policy = KURUME.replacen("mode: enforce", "mode: enforce\n    return_path: enforce", 1);
    filter.start(&policy, &["--customer", "eth1", "--upstream", "eth2"])?;
    let ear = site.edge.listen("eth2")?;
    for (from, count) in [(OUTSIDE[0], 10), (RELAY[0], 20)] {
        let frame = syn(from.parse()?, CUSTOMER[0].parse()?, 25, 40_000);
        site.customer.mouth("cust2")?.send(std::iter::repeat_n(frame.as_slice(), count))?;
    }
    // Mail from the Internet to port 25 of a customer is not outbound.
    site.send("cust2", 30, OUTSIDE[0], CUSTOMER[0], 25)?;
    filter.counts(&[
        ("residential ipv4 return-path drop", 10, 10 * LENGTH[0]),
        ("residential ipv4 relay pass", 20, 20 * LENGTH[0]),
    ])?;
    assert_eq!(ear.hear()?.len(), 20 + 30);
    Ok(())
}

#[test]
fn an_interface_made_anew_is_attached_anew() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    site.edge.ip(&["link", "delete", "eth1"])?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(1), &false.into()), "gone: {status}");
    site.edge.veth("eth1", &site.customer, "cust1")?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["enforcing"]), (Some(1), &false.into()), "back, without a filter: {status}");
    assert_eq!(site.arriving("eth1", "cust1")?, OPEN);
    filter.start(KURUME, &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    assert_eq!(filter.status()?.0, Some(0));
    Ok(())
}

#[test]
fn a_renamed_interface_is_not_opened_without_a_word() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    // What was eth1 is eth7 now, and what was eth2 is eth1.
    for (before, after) in [("eth1", "eth7"), ("eth2", "eth1")] {
        site.edge.ip(&["link", "set", before, "down"])?;
        site.edge.ip(&["link", "set", before, "name", after])?;
        site.edge.ip(&["link", "set", after, "up"])?;
    }
    assert!(site.edge.xdp("eth7")?.is_some(), "a link follows its interface");
    assert_eq!(filter.status()?.0, Some(1), "eth1 has no filter");
    filter.start(KURUME, &[])?;
    assert_eq!(site.arriving("eth1", "cust2")?, FILTERED);
    let said = filter.said();
    assert!(site.edge.xdp("eth7")?.is_some() || said.contains("eth7"), "eth7 was opened; said: {said}");
    Ok(())
}

#[test]
fn detach_works_after_the_interface_is_gone() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    site.edge.ip(&["link", "delete", "eth1"])?;
    let answer = filter.op25b(&["detach"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    no_trace_of(&filter, &site, &[])
}

#[test]
fn two_instances_on_two_interfaces_never_meet() -> Result<()> {
    let site = Site::with_two_links()?;
    let (mut one, mut two) = (Filter::new(&site.edge)?, Filter::new(&site.edge)?);
    one.start(KURUME, &["--customer", "eth1"])?;
    two.start(KURUME, &["--customer", "eth2"])?;
    site.send("cust1", 10, CUSTOMER[0], OUTSIDE[0], 25)?;
    site.send("cust2", 20, CUSTOMER[0], OUTSIDE[0], 25)?;
    one.counts(&[("residential ipv4 blocked drop", 10, 540)])?;
    two.counts(&[("residential ipv4 blocked drop", 20, 1080)])?;
    assert_eq!(one.op25b(&["detach"])?.code, Some(0));
    no_trace_of(&one, &site, &["eth1"])?;
    assert_eq!(two.status()?.0, Some(0));
    assert_eq!(site.arriving("eth1", "cust1")?, OPEN);
    assert_eq!(site.arriving("eth2", "cust2")?, FILTERED);
    Ok(())
}

#[test]
fn an_interface_belongs_to_one_instance() -> Result<()> {
    let site = Site::new()?;
    let (mut one, two) = (Filter::new(&site.edge)?, Filter::new(&site.edge)?);
    one.start(KURUME, &[])?;
    let answer = two.refused(KURUME, &[])?;
    assert!(answer.error()?.contains("eth1"), "{answer:?}");
    assert!(!two.pins().exists() && !two.state().exists());
    assert_eq!(one.status()?.0, Some(0));
    Ok(())
}

#[test]
fn an_instance_runs_once() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let answer = filter.refused(KURUME, &["--customer", "eth2"])?;
    assert!(answer.error()?.contains("running"), "{answer:?}");
    assert_eq!(site.edge.xdp("eth2")?, None);
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["generation"]), (Some(0), &1.into()), "{status}");
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    assert_eq!(filter.op25b(&["detach"])?.code, Some(0), "it still knows whom to end");
    assert_eq!(filter.ended()?.code(), Some(0));
    Ok(())
}

fn readable_by_all(path: &Path) -> Result<String> {
    let directory = path.parent().context("a directory")?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

#[test]
fn without_root_run_names_the_capability_and_check_works() -> Result<()> {
    let site = Site::new()?;
    let filter = Filter::new(&site.edge)?;
    let path = readable_by_all(&filter.policy(KURUME)?)?;
    let check = filter.as_nobody(&["check", &path])?;
    assert_eq!(check.code, Some(0), "{check:?}");
    let run = filter.as_nobody(&["run", "--policy", &path])?;
    assert!(run.error()?.contains("CAP_BPF"), "{run:?}");
    no_trace_of(&filter, &site, &["eth1"])?;
    let explain = filter.as_nobody(&[
        "explain",
        "--policy",
        &path,
        "--role",
        "customer",
        "--src",
        CUSTOMER[0],
        "--dst",
        OUTSIDE[0],
    ])?;
    assert!(explain.error()?.contains("CAP_BPF"), "{explain:?}");
    Ok(())
}

#[test]
fn without_root_nothing_is_said_of_a_filter_that_cannot_be_seen() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    readable_by_all(&filter.policy(KURUME)?)?;
    for command in ["status", "stats", "detach"] {
        let answer = filter.as_nobody(&[command])?;
        let error = answer.error().with_context(|| format!("`{command}` as nobody"))?;
        assert!(error.contains("root") || error.contains("CAP_"), "{command}: {error}");
    }
    assert_eq!(filter.status()?.0, Some(0), "nobody detached it");
    Ok(())
}

#[test]
fn status_notices_that_somebody_took_the_program_off() -> Result<()> {
    let site = Site::with_two_links()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    filter.stop(Signal::SIGTERM)?;
    fs::remove_dir_all(filter.pins().join("links"))?;
    assert!(eventually(|| matches!(site.edge.xdp("eth1"), Ok(None))), "no pin, no filter");
    let told = filter.op25b(&["status"])?;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("eth1") && told.stdout.contains("eth2"), "{told:?}");
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    assert_eq!(site.arriving("eth2", "cust2")?, FILTERED);
    Ok(())
}

/// What it knew of itself is gone, but the filter is there: a policy that cannot be put in force leaves it there.
#[test]
fn a_filter_that_no_file_tells_of_outlives_a_failure() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    fs::remove_file(filter.state().join("generation.json"))?;
    let answer = filter.refused(&generic(), &[])?;
    assert!(answer.error()?.contains("eth1"), "{answer:?}");
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    // One that can be takes its place, with counters of its own: no file says whose those before were.
    filter.start(KURUME, &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    Ok(())
}

#[test]
fn a_new_version_replaces_the_one_before_without_a_gap() -> Result<()> {
    let site = Site::new()?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    filter.stop(Signal::SIGTERM)?;
    let path = filter.state().join("generation.json");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    manifest["abi"] = 0.into();
    // What that version did not have yet.
    let fields = manifest.as_object_mut().context("an object")?;
    fields.retain(|name, _| ["abi", "generation", "interfaces"].contains(&name.as_str()));
    fs::write(&path, manifest.to_string())?;
    for command in ["status", "stats"] {
        let answer = filter.op25b(&[command])?;
        assert!(answer.error()?.contains("another version"), "{answer:?}");
    }
    // Its accounts were a map of another kind.
    let accounts = filter.pins().join("sources").join(object::SOURCES);
    let counts = MapData::from_pin(filter.pins().join("sources").join(object::SOURCES_COUNTS))?;
    fs::remove_file(&accounts)?;
    counts.pin(&accounts)?;
    let program = site.edge.xdp("eth1")?;
    filter.start(KURUME, &[])?;
    assert!(filter.said().contains("swapped without a gap"), "{}", filter.said());
    assert!(filter.said().contains("counters start anew"), "{}", filter.said());
    assert_ne!(site.edge.xdp("eth1")?, program);
    assert_eq!(filter.counted()?, []);
    assert_eq!(site.arriving("eth1", "cust1")?, FILTERED);
    Ok(())
}
