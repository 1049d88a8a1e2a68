//! Relays by their hostname: what a name server in the edge's namespace says, refuses to say and says no more.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
mod names;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, eventually};
use names::{SERVER, Zone, name_server, say};
use nix::sys::signal::Signal;
use site::{CUSTOMER, Site};

const POLICY: &str = "\
version: 1
interfaces: {customer: [eth1]}
relays:
  - {name: post, hostname: post.example.net, within: [192.0.2.0/24, \"2001:db8:25::/48\"]}
  - {name: written, hostname: written.example.net, addresses: [192.0.2.99]}
customers:
  - {name: residential, prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"], mode: enforce}
unknown_sources: pass
";

/// Why the running generation lets a customer's packet to port 25 pass, or not.
fn reason(filter: &Filter<'_>, destination: &str) -> Result<String> {
    let source = if destination.contains(':') { "2001:db8:1000::10" } else { CUSTOMER };
    let answer =
        filter.op25b(&["explain", "--json", "--role", "customer", "--src", source, "--dst", destination])?;
    Ok(answer.json()?["reason"].as_str().context("no reason")?.to_owned())
}

fn becomes(filter: &Filter<'_>, destination: &str, expected: &str) -> Result<()> {
    let same = || reason(filter, destination).is_ok_and(|reason| reason == expected);
    ensure!(eventually(same), "{destination} never becomes {expected}: {}", filter.said());
    Ok(())
}

#[test]
fn a_relay_follows_its_name_and_stays_when_the_dns_is_gone() -> Result<()> {
    let site = Site::new(1)?;
    let zone = Zone::default();
    name_server(&site.edge, zone.clone())?;
    say(&zone, "post.example.net", &["192.0.2.25", "2001:db8:25::25"]);
    say(&zone, "written.example.net", &["192.0.2.98"]);
    let mut filter = Filter::new(&site.edge)?;
    filter.start(POLICY, &["--resolver", SERVER])?;
    assert_eq!(reason(&filter, "192.0.2.25")?, "relay", "known before the first packet: {}", filter.said());
    assert_eq!(reason(&filter, "2001:db8:25::25")?, "relay");
    assert_eq!(reason(&filter, "192.0.2.26")?, "blocked");
    // Written addresses decide; the name is only compared.
    assert_eq!(reason(&filter, "192.0.2.99")?, "relay");
    assert_eq!(reason(&filter, "192.0.2.98")?, "blocked");
    assert!(eventually(|| filter.said().contains("the DNS also names 192.0.2.98")), "{}", filter.said());

    // Who starts the daemon again is told again.
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&["--resolver", SERVER], &[])?;
    assert!(eventually(|| filter.said().contains("the DNS also names 192.0.2.98")), "{}", filter.said());

    // Another answer adds; what was named a moment ago stays.
    say(&zone, "post.example.net", &["192.0.2.26"]);
    becomes(&filter, "192.0.2.26", "relay")?;
    assert_eq!(reason(&filter, "192.0.2.25")?, "relay");
    assert!(filter.said().contains("post.example.net: +192.0.2.26"), "{}", filter.said());
    let (_, status) = filter.status()?;
    let known = &status["hostnames"]["post.example.net"];
    assert!(known["addresses"]["192.0.2.26"].is_string(), "{status}");
    assert_eq!(known["alias"], "mx.hosting.example.", "{status}");

    // Outside `within`, a customer's, too many: refused, reported, nothing changes.
    let many: Vec<String> = (1..=33).map(|host| format!("192.0.2.{host}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (addresses, words) in [
        (&["198.51.100.66"][..], "198.51.100.66 is refused: outside `within`"),
        (&many, "addresses within a day, 32 at most are taken"),
    ] {
        say(&zone, "post.example.net", addresses);
        assert!(eventually(|| filter.said().contains(words)), "{words}: {}", filter.said());
        assert_eq!(reason(&filter, "198.51.100.66")?, "blocked");
        assert_eq!(reason(&filter, "192.0.2.7")?, "blocked");
        assert_eq!(reason(&filter, "192.0.2.25")?, "relay");
    }

    // Gone: what it said last stays, over a restart too.
    zone.lock().unwrap_or_else(PoisonError::into_inner).clear();
    assert!(eventually(|| filter.said().contains("the DNS does not answer")), "{}", filter.said());
    assert_eq!(reason(&filter, "192.0.2.25")?, "relay");
    filter.stop(Signal::SIGKILL)?;
    let start = Instant::now();
    filter.start(POLICY, &["--resolver", SERVER])?;
    assert!(start.elapsed() < Duration::from_secs(3), "waits for no DNS: {:?}", start.elapsed());
    assert_eq!(reason(&filter, "192.0.2.25")?, "relay");
    assert_eq!(reason(&filter, "192.0.2.26")?, "relay");
    Ok(())
}

#[test]
fn a_daemon_starts_without_dns_and_says_what_that_means() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    // Nobody listens there.
    filter.start(POLICY, &["--resolver", SERVER])?;
    assert_eq!(reason(&filter, "192.0.2.25")?, "blocked");
    assert_eq!(reason(&filter, "192.0.2.99")?, "relay", "written addresses need no DNS");
    let words = "no address of it is known: customers cannot reach it on port 25";
    assert!(eventually(|| filter.said().contains(words)), "{}", filter.said());
    let (code, status) = filter.status()?;
    assert_eq!(code, Some(0), "{status}");
    assert!(status["warnings"].to_string().contains("post.example.net"), "{status}");
    // It comes back by itself.
    let zone = Zone::default();
    say(&zone, "post.example.net", &["192.0.2.25"]);
    name_server(&site.edge, zone)?;
    becomes(&filter, "192.0.2.25", "relay")
}
