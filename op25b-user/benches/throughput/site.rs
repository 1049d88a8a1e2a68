//! A customer's network, a router, and the world behind it.

use anyhow::Result;

use crate::{lab::Namespace, live::link};

/// `tx0` and `tx1` of the customer lead to `eth1` and `eth2` of the router, and its `eth0` to `wan0` of the world.
pub(crate) struct Site {
    pub(crate) customer: Namespace,
    pub(crate) router: Namespace,
    pub(crate) world: Namespace,
    pub(crate) ports: usize,
}

/// Where customers' mail goes, and all else; nobody there answers.
pub(crate) const OUTSIDE: &str = "198.51.100.25";

impl Site {
    pub(crate) fn new(ports: usize) -> Result<Self> {
        let site = Self {
            customer: Namespace::new("customer")?,
            router: Namespace::new("router")?,
            world: Namespace::new("world")?,
            ports,
        };
        for port in 0..ports {
            site.router.veth(&Self::port(port), &site.customer, &format!("tx{port}"))?;
        }
        site.router.veth("eth0", &site.world, "wan0")?;
        site.router.within(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            // Customers are not reached by a route of each.
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")
        })??;
        site.router.address("eth0", &["198.51.100.1/24"])?;
        site.router.ip(&["route", "add", "10.0.0.0/8", "dev", "eth1"])?;
        let world = link(&site.world, "wan0")?.address;
        site.router.ip(&["neigh", "add", OUTSIDE, "lladdr", &world, "dev", "eth0"])?;
        Ok(site)
    }

    /// The router's name of a customer port.
    pub(crate) fn port(number: usize) -> String {
        format!("eth{}", number + 1)
    }

    /// What a policy says of all customer ports.
    pub(crate) fn interfaces(&self, attach: &str) -> String {
        let written = |port| format!("{{name: {}, attach: {attach}}}", Self::port(port));
        (0..self.ports).map(written).collect::<Vec<_>>().join(", ")
    }
}
