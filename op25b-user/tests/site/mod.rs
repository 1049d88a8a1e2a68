//! A customer's network and the provider's edge router, between them what is filtered; it must not know what is tried.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};

use crate::lab::{Filter, Namespace, syn};

/// Of `policies/kurume.yaml`: in group residential, enforcing; quarantined; in no group.
pub(crate) const CUSTOMER: &str = "203.0.113.10";
pub(crate) const QUARANTINED: &str = "203.0.113.66";
pub(crate) const UNKNOWN: &str = "198.51.100.1";
pub(crate) const OUTSIDE: &str = "192.0.2.200";
pub(crate) const RELAY: &str = "192.0.2.25";
/// Length of a SYN's frame: Ethernet, IPv4 and TCP headers.
pub(crate) const LENGTH: usize = 14 + 20 + 20;

/// Of ten SYNs each to port 25 and 587: what arrives through a filter in force, and through none.
pub(crate) const FILTERED: (usize, usize) = (0, 10);
pub(crate) const OPEN: (usize, usize) = (10, 10);

/// `eth1`, `eth2`, … of the edge lead to `cust1`, `cust2`, ….
pub(crate) struct Site {
    pub(crate) customer: Namespace,
    pub(crate) edge: Namespace,
}

impl Site {
    pub(crate) fn new(links: usize) -> Result<Self> {
        let site = Self { customer: Namespace::new("customer")?, edge: Namespace::new("edge")? };
        for number in 1..=links {
            site.edge.veth(&format!("eth{number}"), &site.customer, &format!("cust{number}"))?;
        }
        Ok(site)
    }

    /// Sends a customer's SYNs to port 25 outside into `cust1`, `cust2`, ….
    pub(crate) fn send(&self, peer: &str, count: usize, from: &str, port: u16) -> Result<()> {
        let frame = syn(from.parse()?, OUTSIDE.parse()?, 40_000, port);
        self.customer.mouth(peer)?.send(std::iter::repeat_n(frame.as_slice(), count))
    }

    /// How many of ten SYNs of a source to port 25 outside arrive behind `eth1`.
    pub(crate) fn arriving_from(&self, source: &str) -> Result<usize> {
        let ear = self.edge.listen("eth1")?;
        self.send("cust1", 10, source, 25)?;
        Ok(ear.hear()?.len())
    }

    /// How many of ten SYNs to port 25 outside and of ten to port 587 arrive behind an interface of the edge.
    pub(crate) fn arriving(&self, interface: &str, peer: &str) -> Result<(usize, usize)> {
        let ear = self.edge.listen(interface)?;
        self.send(peer, 10, CUSTOMER, 25)?;
        self.send(peer, 10, CUSTOMER, 587)?;
        let heard = ear.hear()?;
        let to = |port: u16| heard.iter().filter(|(_, destination)| *destination == port).count();
        Ok((to(25), to(587)))
    }

    /// The same behind `eth1`.
    pub(crate) fn through(&self) -> Result<(usize, usize)> {
        self.arriving("eth1", "cust1")
    }

    /// How often the link of the edge's `eth1` has gone up or down.
    pub(crate) fn flaps(&self) -> Result<u64> {
        let text = self.edge.ip(&["-s", "-s", "-j", "link", "show", "dev", "eth1"])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        links[0]["stats64"]["tx"]["carrier_changes"].as_u64().with_context(|| text.clone())
    }
}

/// The kernel's number of a pinned link, such as `eth1:native`.
pub(crate) fn link_id(filter: &Filter<'_>, name: &str) -> Result<u32> {
    let pin = filter.pins().join("links").join(name);
    Ok(FdLink::from(PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?).info()?.id())
}

/// What lies in a directory, sorted.
pub(crate) fn entries(directory: &Path) -> Result<Vec<String>> {
    let listed = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut names = Vec::new();
    for entry in listed {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Exactly one generation is pinned, everywhere it is the one in force, and no pin is on its way elsewhere.
pub(crate) fn tidy(filter: &Filter<'_>) -> Result<()> {
    let (_, status) = filter.status()?;
    let generations = entries(&filter.pins().join("generations"))?;
    ensure!(generations == [status["generation"].to_string()], "{generations:?} pinned: {status}");
    for directory in ["links", "counters", &format!("generations/{}", status["generation"])] {
        let pins = entries(&filter.pins().join(directory))?;
        ensure!(!pins.iter().any(|pin| pin.ends_with(":renamed")), "{directory}: {pins:?}");
    }
    ensure!(!filter.state().join("journal.json").exists(), "a journal is left");
    Ok(())
}
