//! Relays by their hostname: what a name server in the edge's namespace says, refuses to say and says no more.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use lab::{Filter, Namespace, eventually};
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

const SERVER: &str = "127.0.0.1:5353";

/// What the name server says of a name; nothing: it fails.
type Zone = Arc<Mutex<BTreeMap<&'static str, Vec<IpAddr>>>>;

/// A name server in a namespace: answers hold a second; names that it does not know fail. It ends with the process.
fn name_server(namespace: &Namespace, zone: Zone) -> Result<()> {
    let socket = namespace.within(|| UdpSocket::bind(SERVER))??;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).ok().and_then(|query| answer(&query, &zone));
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

fn answer(query: &Message, zone: &Zone) -> Option<Vec<u8>> {
    let question = query.queries.first()?;
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    let zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
    match zone.get(question.name().to_string().trim_end_matches('.')) {
        None => answer.metadata.response_code = ResponseCode::ServFail,
        Some(addresses) => {
            // Every name is an alias, as those of hosted mail are.
            let alias: Name = "mx.hosting.example.".parse().ok()?;
            answer.add_answer(Record::from_rdata(
                question.name().clone(),
                1,
                RData::CNAME(CNAME(alias.clone())),
            ));
            for address in addresses {
                let data = match (address, question.query_type()) {
                    (IpAddr::V4(address), RecordType::A) => RData::A(A(*address)),
                    (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(*address)),
                    _ => continue,
                };
                answer.add_answer(Record::from_rdata(alias.clone(), 1, data));
            }
        }
    }
    answer.to_vec().ok()
}

fn say(zone: &Zone, name: &'static str, addresses: &[&str]) {
    let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    zone.lock().unwrap_or_else(PoisonError::into_inner).insert(name, addresses);
}

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
