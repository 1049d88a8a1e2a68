//! `op25b selftest` on real interfaces: right on every hook and in every role, wrong when something else is attached or
//! decides, and nothing of it in the live counters.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use lab::{Answer, Filter, KURUME};
use nix::sys::signal::Signal;
use op25b::{
    attach::Hook,
    object::{self, Constants, Maps, Wire, program},
    policy::{Override, Policy},
    situation::Situation,
    sources::kept,
    tables::Tables,
};
use op25b_ebpf::{
    abi::{self, Count, Link, Role},
    source::{Key, Source},
};
use serde_json::Value;
use site::{OUTSIDE, Site};

/// A group of every mode and action, and everything else that makes a line.
const POLICY: &str = r#"
version: 1
operator: Internet Kurume
relays:
  - {name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}
  - {name: vpost, addresses: [192.0.2.26, "2001:db8:25::26"]}
customers:
  - {name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce, action: notice, return_path: enforce}
  - {name: office, prefixes: [203.0.113.64/26, "2001:db8:1800::/40"], mode: enforce, action: reset, relays: [vpost]}
  - {name: business, prefixes: [198.51.100.128/25, "2001:db8:2000::/36"], mode: monitor, return_path: enforce}
  - {name: lab, prefixes: [198.51.100.64/26, "2001:db8:3000::/36"], mode: off}
  - {name: mobile, prefixes: [198.51.100.32/27, "2001:db8:4000::/36"], mode: enforce, return_path: off, destinations: [192.0.2.128/25, "2001:db8:ffff::/48"]}
exemptions:
  - {prefixes: [203.0.113.128/28, "2001:db8:1000:80::/60"], reason: static address plan}
quarantine:
  - {prefixes: [203.0.113.66, "2001:db8:1800::66"], reason: hacked mail server}
  - {prefixes: [203.0.113.67, "2001:db8:1800::67"], reason: hacked mail server, relays: true}
unknown_sources: pass
notice: {text: "outbound port 25 is blocked (OP25B). Use port 587 or 465 with SMTP AUTH."}
"#;

/// What every case goes through, on an interface with Ethernet header and without.
const ETHERNET: &[&str] = &["ethernet", "vlan"];
const IP: &[&str] = &["ip"];

/// What is tried where customers' frames are judged, and met.
const FROM_CUSTOMERS: &[(&str, &str)] = &[
    ("group residential to a server outside, port 25", "notice: blocked"),
    ("group residential to a server outside, port 587", "pass: other"),
    ("group residential to a server outside, port 465", "pass: other"),
    ("group residential to a relay, port 25", "pass: relay"),
    ("group office to a server outside, port 25", "reset: blocked"),
    ("group office to a server outside, port 587", "pass: other"),
    ("group office to a relay, port 25", "pass: relay"),
    ("group office to a relay of others, port 25", "reset: blocked"),
    ("group business to a server outside, port 25", "pass: would-block"),
    ("group business to a relay, port 25", "pass: relay"),
    ("group lab to a server outside, port 25", "pass: exempt"),
    ("group lab to a relay, port 25", "pass: relay"),
    ("group mobile to a server outside, port 25", "drop: blocked"),
    ("group mobile to a server that is not in its destinations, port 25", "pass: out-of-scope"),
    ("group mobile to a relay, port 25", "pass: relay"),
    ("an exempt address to a server outside, port 25", "pass: exempt"),
    ("an exempt address to a relay, port 25", "pass: relay"),
    ("a quarantined address to a server outside, port 25", "drop: quarantined"),
    ("a quarantined address to a server outside, port 465", "pass: other"),
    ("a quarantined address to a relay, port 25", "drop: quarantined"),
    ("an address quarantined but for the relays to a server outside, port 25", "drop: quarantined"),
    ("an address quarantined but for the relays to a relay, port 25", "pass: relay"),
    ("an address in no group to a server outside, port 25", "pass: unknown-source"),
    ("an address in no group to a server outside, port 587", "pass: other"),
    ("an address in no group to a relay, port 25", "pass: relay"),
];

/// The same where answers are judged.
const TO_CUSTOMERS: &[(&str, &str)] = &[
    ("a server outside to group residential, from port 25", "drop: return-path"),
    ("a server outside to group residential, from port 587", "pass: other"),
    ("a relay to group residential, from port 25", "pass: relay"),
    ("a server outside to group office, from port 25", "pass: would-return-path"),
    ("a relay of others to group office, from port 25", "pass: would-return-path"),
    ("a server outside to group business, from port 25", "pass: would-return-path"),
    ("a server outside to group lab, from port 25", "pass: exempt"),
    ("a server outside to group mobile, from port 25", "pass: other"),
    ("a server that is not in its destinations to group mobile, from port 25", "pass: out-of-scope"),
    ("a server outside to an address in no group, from port 25", "pass: other"),
];

/// `selftest --json`: what it says, and the lines that are wrong.
fn tried(filter: &Filter<'_>) -> Result<(Answer, Value, Vec<Value>)> {
    let answer = filter.op25b(&["selftest", "--json"])?;
    let said = answer.json()?;
    let lines = said["lines"].as_array().context("lines")?;
    let wrong: Vec<Value> = lines.iter().filter(|line| line["ok"] != true).cloned().collect();
    ensure!(said["passed"] == wrong.is_empty(), "{said:#}");
    Ok((answer, said, wrong))
}

/// Every line is right.
fn passes(filter: &Filter<'_>) -> Result<Value> {
    let (answer, said, wrong) = tried(filter)?;
    ensure!(answer.code == Some(0) && wrong.is_empty(), "{wrong:#?} {}", answer.stderr);
    Ok(said)
}

/// Some line is wrong, and what to do is said; these lines.
fn fails(filter: &Filter<'_>) -> Result<Vec<Value>> {
    let (answer, _, wrong) = tried(filter)?;
    ensure!(answer.code == Some(1) && !wrong.is_empty(), "{answer:?}");
    let error = answer.stderr.lines().find(|line| line.starts_with("error: ")).context("an error")?;
    ensure!(error.contains("FAILED") && error.contains("op25b status"), "{error}");
    let told = filter.op25b(&["selftest"])?;
    ensure!(told.code == Some(1) && told.stdout.contains("FAILED"), "{told:?}");
    Ok(wrong)
}

/// What the lines of an interface got, by case, family and what the frame goes through.
fn met(said: &Value, interface: &str) -> Result<BTreeMap<(String, bool, String), String>> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut met = BTreeMap::new();
    for line in
        said["lines"].as_array().context("lines")?.iter().filter(|line| line["interface"] == interface)
    {
        let ipv6 = word(&line["frame"]["source"]).contains(':');
        let key = (word(&line["case"]), ipv6, word(&line["frame"]["through"]));
        ensure!(met.insert(key, word(&line["got"])).is_none(), "twice: {line}");
    }
    Ok(met)
}

/// Counters by their pins, and accounts.
type Live = (Vec<(String, String)>, Vec<(Key, Source)>);

/// Everything that is counted and accounted for, as it lies in the kernel.
fn live(filter: &Filter<'_>) -> Result<Live> {
    let mut counted = Vec::new();
    let mut read = |path: &Path| -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let map = MapData::from_pin(path)?;
        let cells = map.info()?.max_entries();
        let values = if name == object::COUNTERS {
            let map = PerCpuArray::<_, Wire<Count>>::try_from(Map::PerCpuArray(map))?;
            let all =
                (0..cells).map(|cell| Ok(map.get(&cell, 0)?.iter().map(|Wire(count)| *count).collect()));
            format!("{:?}", all.collect::<Result<Vec<Vec<_>>>>()?)
        } else {
            let map = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(map))?;
            let all = (0..cells).map(|cell| Ok(map.get(&cell, 0)?.to_vec()));
            format!("{:?}", all.collect::<Result<Vec<_>>>()?)
        };
        counted.push((path.display().to_string(), values));
        Ok(())
    };
    for interface in site::entries(&filter.pins().join("counters"))? {
        for name in object::OF_INTERFACE {
            read(&filter.pins().join("counters").join(&interface).join(name))?;
        }
    }
    let sources = filter.pins().join("sources");
    read(&sources.join(object::SOURCES_COUNTS))?;
    let open = |name: &str| MapData::from_pin(sources.join(name));
    let mut accounts: Vec<_> = kept(&open(object::SOURCES)?, &open(object::SOURCES_DETAILS)?)?.collect();
    accounts.sort_by_key(|(key, _)| format!("{key:?}"));
    Ok((counted, accounts))
}

/// An interface, what each case goes through there, and the cases with what they meet.
type Wanted = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// Every case is right on these interfaces, nothing is counted by it, and it is told in words too.
fn right(site: &Site, interfaces: &str, wanted: &[Wanted]) -> Result<()> {
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&format!("{POLICY}interfaces: {interfaces}\n"), &[])?;
    site.send("cust1", 7, "203.0.113.10", 25)?;
    site.send("cust1", 5, "198.51.100.200", 25)?;
    filter.counts(&[
        ("residential ipv4 blocked drop", 7, 7 * site::LENGTH),
        ("business ipv4 would-block pass", 5, 5 * site::LENGTH),
    ])?;
    let before = live(&filter)?;
    let said = passes(&filter)?;
    assert!(live(&filter)? == before, "something was counted");

    for (interface, ways, cases) in wanted {
        let met = met(&said, interface)?;
        for (case, got) in *cases {
            for ipv6 in [false, true] {
                for way in *ways {
                    let key = ((*case).to_owned(), ipv6, (*way).to_owned());
                    assert_eq!(met.get(&key).map(String::as_str), Some(*got), "{interface}: {key:?}");
                }
            }
        }
        let wrapped =
            met.iter().filter(|((_, _, way), got)| way == "pppoe-in-vlans" && got.contains("blocked"));
        if *cases == FROM_CUSTOMERS {
            assert_eq!(wrapped.count() > 0, *ways == ETHERNET, "{interface}");
        }
    }
    assert_eq!(said["untried"], serde_json::json!([]));

    let told = filter.op25b(&["selftest"])?;
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{told:?}");
    let last = told.stdout.lines().last().unwrap_or_default();
    assert!(last.contains("generation 1") && last.contains("lines ok"), "{last}");
    assert!(!told.stdout.contains("FAILED"), "{told:?}");
    assert!(live(&filter)? == before, "something was counted");
    Ok(())
}

#[test]
fn on_xdp_and_tc_all_is_right_and_nothing_is_counted() -> Result<()> {
    let interfaces = "{customer: [eth1, {name: eth2, attach: tc-ingress}], upstream: [eth1]}";
    let wanted = [
        ("eth1", ETHERNET, FROM_CUSTOMERS),
        ("eth1", ETHERNET, TO_CUSTOMERS),
        ("eth2", ETHERNET, FROM_CUSTOMERS),
    ];
    right(&Site::new(2)?, interfaces, &wanted)
}

#[test]
fn every_hook_role_and_kind_of_interface_is_right() -> Result<()> {
    let site = Site::new(6)?;
    site.edge.ip(&["tuntap", "add", "dev", "tun0", "mode", "tun"])?;
    site.edge.ip(&["link", "set", "tun0", "up"])?;
    let interfaces = "
  customer:
    - eth1
    - {name: eth2, attach: generic}
    - {name: eth3, attach: tc-ingress}
    - {name: eth4, attach: tc-egress}
    - eth6
    - {name: tun0, attach: tc-ingress}
  upstream: [eth5, eth6]";
    let wanted = [
        ("eth1", ETHERNET, FROM_CUSTOMERS),
        ("eth2", ETHERNET, FROM_CUSTOMERS),
        ("eth3", ETHERNET, FROM_CUSTOMERS),
        ("eth4", ETHERNET, FROM_CUSTOMERS),
        ("eth5", ETHERNET, TO_CUSTOMERS),
        ("eth6", ETHERNET, FROM_CUSTOMERS),
        ("eth6", ETHERNET, TO_CUSTOMERS),
        ("tun0", IP, FROM_CUSTOMERS),
    ];
    right(&site, interfaces, &wanted)
}

#[test]
fn where_blocked_frames_are_answered_they_are() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let own = ["-K", "eth1", "rxvlan", "off", "rx-vlan-stag-hw-parse", "off"];
    let answer = lab::finish(site.edge.command("ethtool")?.args(own), std::time::Duration::from_secs(5))?;
    ensure!(answer.code == Some(0), "{answer:?}");
    filter.start(&KURUME.replacen("mode: enforce", "mode: enforce\n    action: reset", 1), &[])?;
    let (_, status) = filter.status()?;
    ensure!(status["interfaces"][0]["unanswered"].is_null(), "{status}");
    let met = met(&passes(&filter)?, "eth1")?;
    let case = "group residential to a server outside, port 25".to_owned();
    for way in ["ethernet", "vlan", "pppoe-in-vlans"] {
        let key = (case.clone(), true, way.to_owned());
        assert_eq!(met.get(&key).map(String::as_str), Some("reset: blocked"), "{way}");
    }
    Ok(())
}

#[test]
fn what_is_in_force_is_tried_and_not_what_is_written() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let listed = KURUME.replacen("203.0.113.0/24, ", "", 1).replacen(
        "    mode: enforce",
        "    prefixes_file: list.txt\n    mode: enforce",
        1,
    );
    let path = filter.policy(&listed)?;
    let list = path.with_file_name("list.txt");
    fs::write(&list, "203.0.113.0/24\n")?;
    filter.start(&listed, &[])?;
    let key = ("group residential to a server outside, port 25".to_owned(), false, "vlan".to_owned());
    let got = |said: &Value| Ok::<_, anyhow::Error>(met(said, "eth1")?.get(&key).cloned());
    assert_eq!(got(&passes(&filter)?)?.as_deref(), Some("drop: blocked"));

    // Edited and not reloaded.
    filter.policy(&listed.replacen("mode: enforce", "mode: monitor", 1))?;
    assert_eq!(got(&passes(&filter)?)?.as_deref(), Some("drop: blocked"));
    // A date that will come is not there yet, a suspension is.
    filter.policy(&listed)?;
    let answer = filter.op25b(&["suspend", "--for", "1h"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(got(&passes(&filter)?)?.as_deref(), Some("pass: would-block"));
    assert_eq!(filter.op25b(&["resume"])?.code, Some(0));
    // On trial.
    let trial = path.with_file_name("trial.yaml");
    fs::write(&trial, listed.replacen("    mode: enforce", "    mode: enforce\n    action: reset", 1))?;
    let answer = filter.op25b(&["apply", trial.to_str().context("UTF-8")?, "--confirm", "10m"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(got(&passes(&filter)?)?.as_deref(), Some("reset: blocked"));
    assert_eq!(filter.op25b(&["apply", "--rollback"])?.code, Some(0));
    assert_eq!(got(&passes(&filter)?)?.as_deref(), Some("drop: blocked"));

    // Whose addresses these were nobody knows any more.
    fs::write(&list, "203.0.113.0/25\n")?;
    let answer = filter.op25b(&["selftest"])?;
    let error = answer.error()?;
    assert!(error.contains("has changed") && error.contains("op25b reload"), "{error}");
    let answer = filter.op25b(&["reload"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    passes(&filter)?;
    Ok(())
}

#[test]
fn a_group_without_an_address_of_its_own_is_named() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&KURUME.replacen("[203.0.113.128/28", "[203.0.113.0/24", 1), &[])?;
    let said = passes(&filter)?;
    let untried = said["untried"].as_array().context("untried")?;
    assert!(untried.len() == 1 && untried[0].to_string().contains("residential"), "{said:#}");
    let told = filter.op25b(&["selftest"])?;
    assert!(told.code == Some(0) && told.stderr.contains("not tried: group residential"), "{told:?}");
    Ok(())
}

#[test]
fn without_the_program_an_interface_fails() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&KURUME.replacen("[eth1]", "[eth1, eth2]", 1), &[])?;
    passes(&filter)?;
    // The daemon would attach it again.
    filter.stop(Signal::SIGTERM)?;
    passes(&filter)?;
    fs::remove_file(filter.pins().join("links/eth1:native"))?;
    let wrong = fails(&filter)?;
    ensure!(wrong.len() == 1, "{wrong:#?}");
    assert_eq!((&wrong[0]["interface"], &wrong[0]["case"]), (&"eth1".into(), &"what is attached".into()));
    assert!(wrong[0]["got"].as_str().unwrap_or_default().contains("gone"), "{wrong:#?}");
    site.edge.ip(&["link", "delete", "eth2"])?;
    let wrong = fails(&filter)?;
    ensure!(wrong.len() == 2, "{wrong:#?}");
    assert!(wrong[1]["got"].as_str().unwrap_or_default().contains("does not exist"), "{wrong:#?}");
    Ok(())
}

#[test]
fn another_program_at_the_link_fails() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    filter.stop(Signal::SIGTERM)?;
    let policy = Policy::read(&filter.path(), &Override::default())?;
    let tables = Tables::compile(&policy, &Situation::now(), |name| policy.position(name))?;
    let constants = Constants::bare(Role::CUSTOMER, Link::Ethernet);
    let link = filter.pins().join("links/eth1:native");
    // One that passes everything, and op25b's own with tables that say the same.
    for name in [program::PASS, program::XDP] {
        let mut object = object::create(&tables, constants, Maps::Own)?;
        let program: &mut Xdp = object::load(&mut object, name)?.try_into()?;
        let pinned = FdLink::from(PinnedLink::from_pin(&link)?);
        let other = program.attach_to_link(XdpLink::try_from(pinned)?)?;
        let wrong = fails(&filter)?;
        ensure!(wrong.len() == 1 && wrong[0]["case"] == "what is attached", "{wrong:#?}");
        let got = wrong[0]["got"].as_str().unwrap_or_default().to_owned();
        let id = program.info()?.id();
        assert!(got.contains(&format!("program {id} is attached")), "{got}");
        drop(program.take_link(other)?);
    }

    // One that has taken the place of op25b's wherever `status` looks.
    let mut object = object::create(&tables, constants, Maps::Own)?;
    let other: &mut Xdp = object::load(&mut object, program::PASS)?.try_into()?;
    let pinned = FdLink::from(PinnedLink::from_pin(&link)?);
    let attached = other.attach_to_link(XdpLink::try_from(pinned)?)?;
    drop(other.take_link(attached)?);
    let pin = filter.pins().join(format!("generations/1/{}:eth1:native", Hook::Xdp.program()));
    fs::remove_file(&pin)?;
    other.pin(&pin)?;
    let path = filter.state().join("generation.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    manifest["interfaces"][0]["program"] = other.info()?.id().into();
    fs::write(&path, manifest.to_string())?;
    assert_eq!(filter.status()?.0, Some(0));
    let wrong = fails(&filter)?;
    let cases: Vec<_> = wrong.iter().filter_map(|line| line["case"].as_str()).collect();
    assert_eq!(cases, ["what is attached", "its tables and constants"], "{wrong:#?}");
    Ok(())
}

#[test]
fn altered_tables_fail() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let pin = filter.pins().join("generations/1/CUSTOMER_GROUPS");
    let mut groups = Array::<_, Wire<abi::Group>>::try_from(Map::Array(MapData::from_pin(pin)?))?;
    let (number, Wire(group)) = (1..4)
        .map(|number| Ok((number, groups.get(&number, 0)?)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .find(|(_, Wire(group))| group.mode == abi::Mode::Enforce as u8)
        .context("a group that enforces")?;
    let monitoring = abi::Group { mode: abi::Mode::Monitor as u8, ..group };
    groups.set(number, Wire(monitoring), 0)?;
    let wrong = fails(&filter)?;
    for line in &wrong {
        let case = line["case"].as_str().unwrap_or_default();
        ensure!(case == "group residential to a server outside, port 25", "{line}");
        assert_eq!(line["expected"], "drop: blocked", "{line}");
        assert_eq!(line["got"], "pass: would-block, but by the policy's tables drop: blocked", "{line}");
    }
    assert_eq!(wrong.len(), 6, "both families, three ways: {wrong:#?}");
    groups.set(number, Wire(group), 0)?;
    passes(&filter)?;

    // The same in a map that nobody decides by.
    let policy = Policy::read(&filter.path(), &Override::default())?;
    let tables = Tables::compile(&policy, &Situation::now(), |name| policy.position(name))?;
    let object = object::create(&tables, Constants::bare(Role::CUSTOMER, Link::Ethernet), Maps::Own)?;
    let pin = filter.pins().join("generations/1/CUSTOMERS4");
    fs::remove_file(&pin)?;
    object.map("CUSTOMERS4").context("a table")?.pin(&pin)?;
    let wrong = fails(&filter)?;
    ensure!(wrong.len() == 1 && wrong[0]["case"] == "its tables and constants", "{wrong:#?}");
    Ok(())
}

#[test]
fn without_a_filter_or_without_rights_it_says_so() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let answer = filter.op25b(&["selftest"])?;
    let error = answer.error()?;
    assert!(error.contains("not attached") && error.contains("op25b run"), "{error}");
    filter.start(KURUME, &[])?;
    let answer = filter.as_nobody(&["selftest"])?;
    let error = answer.error()?;
    assert!(error.contains("root"), "{error}");
    // The fields are as `explain` calls them.
    let said = passes(&filter)?;
    let frame = said["lines"].as_array().and_then(|lines| lines.iter().find(|line| !line["frame"].is_null()));
    let Some(frame) = frame else { bail!("no frame: {said:#}") };
    assert_eq!(frame["frame"]["destination"], OUTSIDE.replace("200", "254"), "{frame}");
    Ok(())
}
