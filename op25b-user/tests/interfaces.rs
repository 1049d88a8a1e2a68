//! Interfaces that go, come back, become others and change their names while the filter is on them.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, KURUME, eventually, syn};
use nix::sys::signal::Signal;
use site::{CUSTOMER, FILTERED, LENGTH, OPEN, OUTSIDE, Site, entries, tidy};

const BLOCKED: &str = "residential ipv4 blocked drop";
const WOULD_BLOCK: &str = "residential ipv4 would-block pass";
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(200);
const ETHERNET: usize = 14;

const MODES: [&str; 3] = ["native", "generic", "tc-ingress"];

fn policy(attach: &str) -> String {
    KURUME.replacen("[eth1]", &format!("[{{name: eth1, attach: {attach}}}]"), 1)
}

fn monitoring(text: &str) -> String {
    text.replacen("mode: enforce", "mode: monitor", 1)
}

/// An edge whose kernel takes what is sent outside: behind XDP and behind TC.
fn site(links: usize) -> Result<Site> {
    let site = Site::new(links)?;
    site.edge.address("lo", &[&format!("{OUTSIDE}/32")])?;
    site.edge.within(|| -> Result<()> {
        for key in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{key}/rp_filter"), "0")?;
        }
        Ok(())
    })??;
    for number in 1..=links {
        receive(&site, &format!("eth{number}"))?;
    }
    Ok(site)
}

/// The interface takes the frames of `lab::syn`.
fn receive(site: &Site, interface: &str) -> Result<()> {
    site.edge.within(|| fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0"))??;
    site.edge.ip(&["link", "set", interface, "address", "02:00:00:00:00:26"]).map(|_| ())
}

/// TCP segments that the edge's kernel has received.
fn segments(site: &Site) -> Result<usize> {
    let text = site.edge.within(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);

    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "InSegs").context("InSegs")?;
    Ok(value.parse()?)
}

/// How many of ten SYNs to port 25 outside and of ten to port 587 reach the edge's kernel.
fn through(site: &Site, peer: &str) -> Result<(usize, usize)> {
    let before = segments(site)?;
    site.send(peer, 10, CUSTOMER, 25)?;
    thread::sleep(PATIENCE);
    let between = segments(site)?;
    site.send(peer, 10, CUSTOMER, 587)?;
    eventually(|| segments(site).is_ok_and(|now| now >= between + 10));
    Ok((between - before, segments(site)? - between))
}

fn remove(site: &Site) -> Result<()> {
    site.edge.ip(&["link", "delete", "eth1"]).map(|_| ())
}

fn make(site: &Site) -> Result<()> {
    site.edge.veth("eth1", &site.customer, "cust1")?;
    receive(site, "eth1")
}

/// Waits until a fresh interface is filtered; how long that took.
fn filtered_again(filter: &Filter<'_>) -> Result<Duration> {
    let start = Instant::now();
    let whole = || filter.status().is_ok_and(|(code, status)| code == Some(0) && status["enforcing"] == true);
    ensure!(eventually(whole), "{:?}: {}", filter.status(), filter.said());
    Ok(start.elapsed())
}

fn state(filter: &Filter<'_>) -> Result<(Option<i32>, String)> {
    let (code, status) = filter.status()?;
    Ok((code, status["state"].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn one_that_is_made_anew_is_filtered_within_a_second() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        remove(&site)?;
        assert!(eventually(|| filter.said().contains("eth1: is gone")), "{}", filter.said());
        assert_eq!(state(&filter)?, (Some(1), "detached".to_owned()), "{mode}");
        make(&site)?;
        let took = filtered_again(&filter)?;
        assert!(took < SECOND, "{mode}: {took:?}");
        let told = filter.said().lines().find(|line| line.contains("there anew")).map(str::to_owned);
        println!("{mode}: filtered {took:?} after it was made, `status` included; {told:?}");
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        // Faster than anybody looks.
        for _ in 0..5 {
            remove(&site)?;
            make(&site)?;
            let took = filtered_again(&filter)?;
            assert!(took < SECOND, "{mode}: {took:?}");
        }
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        filter.counts(&[(BLOCKED, 30, 30 * LENGTH)])?;
        assert_eq!(filter.generation(), 1);
        tidy(&filter)?;
    }
    Ok(())
}

#[test]
fn one_that_has_the_number_of_the_one_before_is_filtered() -> Result<()> {
    let site = site(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let index = site.edge.within(|| lab::interface_index("eth1"))??.to_string();
    for _ in 0..5 {
        // Nobody looks in between.
        let batch = filter.path().with_file_name("batch");
        fs::write(
            &batch,
            format!(
                "link delete eth1\nlink add eth1 index {index} type veth peer name peer1\nlink set eth1 up\n"
            ),
        )?;
        filter.signal(Signal::SIGSTOP)?;
        let made = site.edge.ip(&["-batch", &batch.display().to_string()]);
        filter.signal(Signal::SIGCONT)?;
        made?;
        assert!(filtered_again(&filter)? < SECOND);
    }
    Ok(())
}

#[test]
fn one_that_is_away_when_the_daemon_starts_is_filtered_when_it_comes() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        filter.stop(Signal::SIGKILL)?;
        remove(&site)?;
        filter.start_again(&[], &[])?;
        assert_eq!(state(&filter)?, (Some(1), "detached".to_owned()), "{mode}");
        make(&site)?;
        assert!(filtered_again(&filter)? < SECOND, "{mode}");
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        // Gone and back with nobody there to see it.
        filter.stop(Signal::SIGKILL)?;
        remove(&site)?;
        make(&site)?;
        assert_eq!(through(&site, "cust1")?, OPEN, "{mode}: nobody is there");
        assert_eq!(state(&filter)?, (Some(1), "detached".to_owned()), "{mode}");
        filter.start_again(&[], &[])?;
        assert_eq!((state(&filter)?.0, through(&site, "cust1")?), (Some(0), FILTERED), "{mode}");
        filter.counts(&[(BLOCKED, 30, 30 * LENGTH)])?;
        tidy(&filter)?;
    }
    Ok(())
}

#[test]
fn one_that_was_never_there_keeps_no_other_from_being_filtered() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        let text = |names: &str| {
            let ports: Vec<String> =
                names.split(' ').map(|name| format!("{{name: {name}, attach: {mode}}}")).collect();
            KURUME.replacen("[eth1]", &format!("[{}]", ports.join(", ")), 1)
        };
        let answer = filter.refused(&text("eth8 eth9"), &[])?;
        assert!(answer.error()?.contains("eth8 does not exist"), "{mode}: {answer:?}");
        assert!(!filter.pins().exists(), "{mode}: nothing was attached");

        filter.start(&text("eth2 eth1 eth3"), &[])?;
        for name in ["eth2", "eth3"] {
            assert!(filter.said().contains(&format!("{name}: does not exist")), "{mode}: {}", filter.said());
        }
        assert_eq!(state(&filter)?, (Some(1), "partial".to_owned()), "{mode}");
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        // Now that a policy is in force, a name that is not there is a slip of the pen.
        filter.policy(&text("eth2 eth1 eth4"))?;
        assert!(filter.op25b(&["reload"])?.error()?.contains("eth4 does not exist"), "{mode}");
        for name in ["eth2", "eth3"] {
            site.edge.veth(name, &site.customer, &name.replace("eth", "cust"))?;
            receive(&site, name)?;
        }
        assert!(filtered_again(&filter)? < SECOND, "{mode}");
        assert_eq!(through(&site, "cust2")?, FILTERED, "{mode}");
        filter.counts(&[(BLOCKED, 20, 20 * LENGTH)])?;
        tidy(&filter)?;
    }
    Ok(())
}

#[test]
fn what_is_changed_while_one_is_away_is_what_it_finds() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        remove(&site)?;
        filter.policy(&monitoring(&policy(mode)))?;
        let answer = filter.op25b(&["reload"])?;
        assert_eq!(answer.code, Some(0), "{mode}: {answer:?}");
        assert_eq!(state(&filter)?, (Some(1), "detached".to_owned()), "{mode}");
        make(&site)?;
        assert!(filtered_again(&filter)? < SECOND, "{mode}");
        assert_eq!(through(&site, "cust1")?, OPEN, "{mode}");
        remove(&site)?;
        assert_eq!(filter.op25b(&["suspend", "--for", "1s"])?.code, Some(0), "{mode}");
        filter.policy(&policy(mode))?;
        assert_eq!(filter.op25b(&["reload"])?.code, Some(0), "{mode}");
        assert!(eventually(|| filter.said().contains("suspension is over")), "{mode}: {}", filter.said());
        make(&site)?;
        assert!(filtered_again(&filter)? < SECOND, "{mode}");
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        filter.counts(&[(BLOCKED, 20, 20 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
        tidy(&filter)?;
    }
    Ok(())
}

fn rename(site: &Site, from: &str, to: &str) -> Result<()> {
    site.edge.ip(&["link", "set", from, "down"])?;
    site.edge.ip(&["link", "set", from, "name", to])?;
    site.edge.ip(&["link", "set", to, "up"]).map(|_| ())
}

#[test]
fn one_that_is_renamed_keeps_its_filter_and_its_counters() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        rename(&site, "eth1", "wan0")?;
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        // What a daemon does about it takes a moment; no change of its own comes in between.
        thread::sleep(SECOND / 2);
        rename(&site, "wan0", "eth1")?;
        assert!(filtered_again(&filter)? < SECOND, "{mode}");
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        filter.counts(&[(BLOCKED, 30, 30 * LENGTH)])?;
        filter.policy(&monitoring(&policy(mode)))?;
        let answer = filter.op25b(&["reload"])?;
        assert_eq!(answer.code, Some(0), "{mode}: {answer:?}; {}", filter.said());
        assert_eq!(through(&site, "cust1")?, OPEN, "{mode}");
        filter.counts(&[(BLOCKED, 30, 30 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
        tidy(&filter)?;
        assert_eq!(entries(&filter.pins().join("links"))?, [format!("eth1:{mode}")]);
    }
    Ok(())
}

#[test]
fn what_ends_by_itself_ends_on_one_that_is_renamed() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(filter.op25b(&["suspend", "--for", "2s"])?.code, Some(0));
        rename(&site, "eth1", "wan0")?;
        assert_eq!(through(&site, "cust1")?, OPEN, "{mode}");
        assert!(eventually(|| filter.said().contains("the suspension is over")), "{mode}: {}", filter.said());
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}");
        filter.counts(&[(BLOCKED, 10, 10 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    }
    Ok(())
}

#[test]
fn a_daemon_killed_while_it_follows_a_new_name_follows_it_later() -> Result<()> {
    for moved in 0..4 {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(KURUME, &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        filter.stop(Signal::SIGKILL)?;
        rename(&site, "eth1", "wan0")?;
        // Half of the pins have been taken aside, some have their new names.
        let pins = filter.pins();
        for (number, directory) in ["links", "counters", "generations/1"].into_iter().enumerate() {
            for name in entries(&pins.join(directory))?.iter().filter(|name| name.contains("eth1")) {
                let from = pins.join(directory).join(name);
                let to = match number {
                    number if number < moved => name.replace("eth1", "wan0"),
                    number if number == moved => format!("{name}:renamed"),
                    _ => continue,
                };
                fs::rename(from, pins.join(directory).join(to))?;
            }
        }
        filter.start(&KURUME.replace("[eth1]", "[wan0]"), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED, "{moved}");
        assert!(filter.said().contains("swapped"), "{moved}: {}", filter.said());
        filter.counts(&[(BLOCKED, 20, 20 * LENGTH)])?;
        tidy(&filter)?;
    }
    Ok(())
}

#[test]
fn another_that_has_the_name_of_a_renamed_one_is_said_not_to_be_filtered() -> Result<()> {
    let site = site(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    rename(&site, "eth1", "wan0")?;
    thread::sleep(SECOND / 2);
    site.edge.veth("eth1", &site.customer, "cust2")?;
    receive(&site, "eth1")?;
    assert_eq!(through(&site, "cust1")?, FILTERED, "what was filtered still is");
    let warned = || filter.op25b(&["status"]).is_ok_and(|told| told.stderr.contains("another interface"));
    assert!(eventually(warned), "{:?}", filter.op25b(&["status"]));
    // Whoever has read that decides.
    assert_eq!(filter.op25b(&["reload"])?.code, Some(0), "{}", filter.said());
    assert_eq!(through(&site, "cust2")?, FILTERED, "as the policy says: {}", filter.said());
    // What wan0 counted stays counted.
    filter.counts(&[(BLOCKED, 20, 20 * LENGTH)])
}

/// A tun interface of the edge called `eth1`: what is written is received there, without any Ethernet header.
fn tunnel(site: &Site) -> Result<File> {
    let file = site.edge.within(|| -> Result<File> {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        // `struct ifreq`: a name of 16 bytes, then what the request takes.
        let mut request = [0_u8; 40];
        request[..4].copy_from_slice(b"eth1");
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the request reads and writes a `struct ifreq`, which is 40 bytes.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) };
        ensure!(set == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        Ok(file)
    })??;
    site.edge.ip(&["link", "set", "eth1", "up"])?;
    Ok(file)
}

#[test]
fn one_that_comes_back_without_ethernet_header_is_filtered_or_said_not_to_be() -> Result<()> {
    for mode in MODES {
        let site = site(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy(mode), &[])?;
        assert_eq!(through(&site, "cust1")?, FILTERED);
        remove(&site)?;
        let mut tunnel = tunnel(&site)?;
        thread::sleep(SECOND);
        let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_000, 25);
        for _ in 0..10 {
            tunnel.write_all(&frame[ETHERNET..])?;
        }
        let blocked: u64 = filter.counted()?.iter().map(|(_, packets, _)| packets).sum();
        let (code, status) = filter.status()?;
        assert!(
            (code == Some(0) && blocked == 20) || (code == Some(1) && blocked == 10),
            "{mode}: exit {code:?}, {blocked} blocked: {status}; {}",
            filter.said()
        );
        assert!(filter.runs(), "{mode}: {}", filter.said());
        // And as it was before.
        drop(tunnel);
        assert!(eventually(|| site.edge.ip(&["link", "show", "dev", "eth1"]).is_err()));
        make(&site)?;
        assert!(filtered_again(&filter)? < SECOND, "{mode}: {}", filter.said());
        assert_eq!(through(&site, "cust1")?, FILTERED, "{mode}: {}", filter.said());
    }
    Ok(())
}

#[test]
fn one_that_comes_back_as_what_cannot_be_filtered_is_said_not_to_be() -> Result<()> {
    let site = site(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    remove(&site)?;
    site.edge.ip(&["link", "add", "eth1", "type", "bridge"])?;
    site.edge.ip(&["link", "set", "eth1", "up"])?;
    assert!(eventually(|| filter.said().contains("attach: generic")), "the cure: {}", filter.said());
    assert_eq!(state(&filter)?, (Some(1), "detached".to_owned()));
    assert!(filter.runs());
    remove(&site)?;
    make(&site)?;
    assert!(filtered_again(&filter)? < SECOND);
    assert_eq!(through(&site, "cust1")?, FILTERED);
    filter.counts(&[(BLOCKED, 10, 10 * LENGTH)])
}

#[test]
fn of_two_the_one_that_stays_is_filtered_all_the_time() -> Result<()> {
    let site = site(2)?;
    let mut filter = Filter::new(&site.edge)?;
    let both = KURUME.replacen("[eth1]", "[eth1, eth2]", 1);
    filter.start(&both, &[])?;
    remove(&site)?;
    assert!(eventually(|| filter.said().contains("eth1: is gone")), "{}", filter.said());
    assert_eq!(through(&site, "cust2")?, FILTERED);
    assert_eq!(state(&filter)?, (Some(1), "partial".to_owned()));
    filter.policy(&monitoring(&both))?;
    assert_eq!(filter.op25b(&["reload"])?.code, Some(0), "{}", filter.said());
    assert_eq!(through(&site, "cust2")?, OPEN);
    filter.policy(&both)?;
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&[], &[])?;
    assert_eq!(through(&site, "cust2")?, FILTERED);
    assert_eq!(state(&filter)?, (Some(1), "partial".to_owned()));
    make(&site)?;
    assert!(filtered_again(&filter)? < SECOND);
    assert_eq!((through(&site, "cust1")?, through(&site, "cust2")?), (FILTERED, FILTERED));
    filter.counts(&[(BLOCKED, 40, 40 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    tidy(&filter)
}

#[test]
fn one_that_the_policy_no_longer_names_is_left_even_after_a_crash() -> Result<()> {
    let site = site(2)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&KURUME.replacen("[eth1]", "[eth1, eth2]", 1), &[])?;
    assert_eq!(through(&site, "cust2")?, FILTERED);
    filter.stop(Signal::SIGKILL)?;
    // A daemon that dies between making a generation the one in force and leaving eth2 leaves this.
    let path = filter.state().join("generation.json");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    if let Some(interfaces) = manifest["interfaces"].as_array_mut() {
        interfaces.retain(|interface| interface["name"] == "eth1");
    }
    fs::write(&path, manifest.to_string())?;
    filter.start(KURUME, &[])?;
    assert_eq!(through(&site, "cust1")?, FILTERED);
    assert_eq!(site.edge.xdp("eth2")?, None, "{}", filter.said());
    assert_eq!(through(&site, "cust2")?, OPEN);
    filter.counts(&[(BLOCKED, 20, 20 * LENGTH)])
}
