//! A customer, the provider's edge router and the Internet, with real forwarding between them; it must not know what is
//! tried.

use std::{fs, io::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{lab::Namespace, mounts};

/// Where state lies that outlives a boot, and state that does not.
pub(crate) const STATE: [&str; 2] = ["/var/lib/op25b", "/run/op25b"];
/// The edge's interface towards the customer, and the customer's end.
pub(crate) const EDGE: &str = "eth1";
pub(crate) const CUSTOMER: &str = "cust1";
/// The edge's address on the wire, as `lab::syn` has it too.
pub(crate) const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x26];
const EDGE_MAC_TEXT: &str = "02:00:00:00:00:26";
const INTERNET_MAC: &str = "02:00:00:00:00:27";

/// What is sent to: somebody's mail server, and the provider's relay that is known by its name.
pub(crate) const OUTSIDE: &str = "192.0.2.200";
pub(crate) const OUTSIDE6: &str = "2001:db8:ffff::200";
pub(crate) const RELAY: &str = "192.0.2.77";

/// Mounts of this process's own, and state there: nothing is left when it ends, however it ends.
pub(crate) fn leave_the_machine_alone() -> Result<()> {
    mounts::own()?;
    for (directory, size) in [(STATE[0], "size=128m"), (STATE[1], "size=4m"), ("/run/netns", "size=1m")] {
        mounts::mount_tmpfs(directory, size)?;
    }
    Ok(())
}

pub(crate) struct Network {
    pub(crate) customer: Namespace,
    pub(crate) edge: Namespace,
    pub(crate) internet: Namespace,
}

impl Network {
    pub(crate) fn new() -> Result<Self> {
        let network = Self {
            customer: Namespace::new("customer")?,
            edge: Namespace::new("edge")?,
            internet: Namespace::new("internet")?,
        };
        let edge = &network.edge;
        edge.within(|| -> Result<()> {
            for (key, value) in [
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
            ] {
                fs::write(Path::new("/proc/sys/net").join(key), value)?;
            }
            Ok(())
        })??;
        edge.veth("eth0", &network.internet, "up0")?;
        network.internet.ip(&["link", "set", "up0", "address", INTERNET_MAC])?;
        edge.address("eth0", &["192.0.2.1/24", "2001:db8:ffff::1/64"])?;
        for address in [OUTSIDE, OUTSIDE6, RELAY] {
            edge.ip(&[
                "neighbour",
                "replace",
                address,
                "lladdr",
                INTERNET_MAC,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ])?;
        }
        network.make()?;
        network.bring_up()?;
        Ok(network)
    }

    /// Makes the customer's line, whose end at the edge is down.
    pub(crate) fn make(&self) -> Result<()> {
        self.edge.join(EDGE, &self.customer, CUSTOMER)?;
        self.edge.ip(&["link", "set", EDGE, "address", EDGE_MAC_TEXT])?;
        self.customer.ip(&["link", "set", CUSTOMER, "up"]).map(drop)
    }

    /// Makes it and brings it up as fast as can be: a process for each command would give the daemon time.
    pub(crate) fn make_up(&self) -> Result<()> {
        let mut commands = tempfile::NamedTempFile::new()?;
        writeln!(
            commands,
            "link add {EDGE} address {EDGE_MAC_TEXT} type veth peer name {CUSTOMER} netns {}\nlink set {EDGE} up",
            self.customer.name()
        )?;
        self.on_the_edge("ip", &["-batch", &commands.path().to_string_lossy()])?;
        self.customer.ip(&["link", "set", CUSTOMER, "up"]).map(drop)
    }

    pub(crate) fn bring_up(&self) -> Result<()> {
        self.edge.ip(&["link", "set", EDGE, "up"]).map(drop)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        self.edge.ip(&["link", "delete", EDGE]).map(drop)
    }

    /// Runs a program in the edge's namespace that must succeed.
    pub(crate) fn on_the_edge(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let command: &mut Command = &mut self.edge.command(program)?;
        let output = command.args(arguments).output().with_context(|| format!("cannot run {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
