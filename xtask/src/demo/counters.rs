//! Two independent counts of the same packets: nftables where they are sent, op25b where they are judged.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::filter::Filter;
use super::{CUSTOMER, STATIC_CUSTOMER, Server, family};
use crate::exec::{exec, read};
use crate::lab::{Lab, pause};
use crate::report::Report;

const TABLE: &str = "op25b_demo";

/// Packets that must be counted alike: on their way from a customer to a server, and under a reason.
const COUNTED: [(&str, Server, &str); 3] = [
    (CUSTOMER, Server::Outside, "blocked"),
    (CUSTOMER, Server::Relay, "relay"),
    (STATIC_CUSTOMER, Server::Outside, "exempt"),
];

/// Counts from now on what `namespaces` send to port 25 of each server.
pub(crate) fn install(lab: &Lab, namespaces: &[&str]) -> Result<()> {
    for namespace in namespaces {
        exec(lab.command(namespace, "nft").arg(ruleset()))?;
    }
    Ok(())
}

/// Adds a line to `report` for each of what must be equal.
pub(crate) fn compare(lab: &Lab, filter: &Filter<'_>, report: &mut Report) -> Result<()> {
    // The last connections' closing packets may still be on their way.
    pause(Duration::from_millis(500))?;
    let stats = filter.stats()?;
    let mut explained = 0;
    for (namespace, server, reason) in COUNTED {
        for address in server.addresses() {
            let family = family(address);
            let sent = sent(lab, namespace, server, family)?;
            let counted = counted(&stats, |row| row["reason"] == reason && row["family"] == family)?;
            let tried = format!("packets {namespace} → {server}:25, {family}: nft sent, op25b {reason}");
            report.add(tried, &sent, &counted);
            explained += counted;
        }
    }
    let all = counted(&stats, |_| true)?;
    report.add("packets that op25b counted for any other reason".to_owned(), &0, &(all - explained));
    Ok(())
}

fn ruleset() -> String {
    let mut counters = String::new();
    let mut rules = String::new();
    for server in [Server::Relay, Server::Outside] {
        for address in server.addresses() {
            let family = family(address);
            let header = if address.is_ipv4() { "ip" } else { "ip6" };
            counters.push_str(&format!("counter {server}_{family} {{}}; "));
            rules
                .push_str(&format!("{header} daddr {address} tcp dport 25 counter name {server}_{family}; "));
        }
    }
    format!(
        "table inet {TABLE} {{ {counters} chain sent {{ type filter hook output priority 0; {rules} }}; }}"
    )
}

fn sent(lab: &Lab, namespace: &str, server: Server, family: &str) -> Result<u64> {
    let name = format!("{server}_{family}");
    let listing =
        read(lab.command(namespace, "nft").args(["--json", "list", "counter", "inet", TABLE, &name]))?;
    let listing: Value = serde_json::from_str(&listing).context("nft wrote no JSON")?;
    let objects = listing["nftables"].as_array().context("nft lists nothing")?;
    let packets = objects.iter().find_map(|object| object["counter"]["packets"].as_u64());
    packets.with_context(|| format!("nft does not list the counter {name}"))
}

fn counted(stats: &Value, wanted: impl Fn(&Value) -> bool) -> Result<u64> {
    let rows = stats["totals"].as_array().context("`op25b stats --json` has no totals")?;
    rows.iter()
        .filter(|row| wanted(row))
        .map(|row| row["packets"].as_u64().with_context(|| format!("a total without packets: {row}")))
        .sum()
}
