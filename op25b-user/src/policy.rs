//! The policy as it is meant: validated, named, with what a network engineer should be warned of. Knows nothing of
//! tables or the kernel.

mod companion;
mod customers;
mod exceptions;
mod nesting;
mod notice;
mod outputs;
mod places;
mod ports;
mod reader;
mod relays;
mod values;
mod warnings;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::abi::Role;
use serde::{Deserialize, Serialize};

pub use notice::Notice;
pub(crate) use notice::UNANSWERED_ON_EGRESS;
pub(crate) use outputs::NO_ACCOUNTS;
pub use outputs::{Collector, History, Metrics, Outputs, Syslog, Triage};
pub(crate) use values::{end, start};

use crate::document::{self, Action, Attach, Document, IdentifyBy, Mode};

/// A valid policy.
#[derive(Debug)]
pub struct Policy {
    /// Who runs the network.
    pub operator: Option<String>,
    /// Where to attach, one entry an interface.
    pub interfaces: Vec<Port>,
    /// The provider's mail servers.
    pub relays: Vec<Relay>,
    /// The customer groups.
    pub groups: Vec<Group>,
    /// Prefixes that may send.
    pub exemptions: Vec<Exception>,
    /// Prefixes that may not.
    pub quarantine: Vec<Exception>,
    /// What groups with `action: notice` are told.
    pub notice: Option<Notice>,
    /// Whether a source in no group is blocked.
    pub block_unknown: bool,
    /// Whether IPv4 in IPv6 is looked through.
    pub softwire: Option<IdentifyBy>,
    /// Where dates without a time end.
    pub timezone: TimeZone,
    /// What people and programs are told, and where.
    pub outputs: Outputs,
    /// Files that belong to it beside the policy file itself, in the order in which it names them.
    pub files: Vec<PathBuf>,
    /// What should be looked at, one line each.
    pub warnings: Vec<String>,
    /// Of the text and the files, so that two routers can be compared: 16 hexadecimal digits.
    pub hash: String,
}

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As `ip link` shows it.
    pub name: String,
    /// Whose packets are judged there.
    pub role: Role,
    /// Where in the stack.
    pub attach: Attach,
}

/// A mail server of the provider.
#[derive(Debug)]
pub struct Relay {
    /// Its name in reports.
    pub name: String,
    /// Its addresses as they are written.
    pub prefixes: Vec<IpNetwork>,
    /// What it is called in the DNS: resolved where no addresses are written, compared with them where they are.
    pub hostname: Option<String>,
    /// Where answers of the DNS must lie; empty: anywhere.
    pub within: Vec<IpNetwork>,
}

/// A customer group.
#[derive(Debug)]
pub struct Group {
    /// Its name in reports.
    pub name: String,
    /// Whose packets these are.
    pub prefixes: Vec<IpNetwork>,
    /// What is done with them.
    pub mode: Mode,
    /// What happens to a blocked packet.
    pub action: Action,
    /// Relays the group may reach: positions in [`Policy::relays`].
    pub relays: Vec<usize>,
    /// Where port 25 is blocked; empty: everywhere.
    pub destinations: Vec<IpNetwork>,
    /// Packets from port 25, on `upstream` interfaces.
    pub return_path: Mode,
    /// When `mode: enforce` begins; `monitor` until then.
    pub enforce_from: Option<Timestamp>,
    /// Many customers behind one address: nobody is told apart.
    pub shared: bool,
    /// Length of the prefix that is one IPv6 customer.
    pub ipv6_source_length: u8,
}

/// An exemption or a quarantine.
#[derive(Debug)]
pub struct Exception {
    /// Which.
    pub prefixes: Vec<IpNetwork>,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// A quarantine that leaves the relays.
    pub relays: bool,
    /// The first moment at which it no longer holds.
    pub expires: Option<Timestamp>,
}

/// What is wrong with a policy file, all of it, one line each.
#[derive(Debug)]
pub struct Invalid {
    /// `file:line: what`, at least one.
    pub errors: Vec<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.errors.join("\n"))
    }
}

impl std::error::Error for Invalid {}

/// Interfaces given on the command line; they replace the policy's, since they differ per router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// `--customer`.
    pub customer: Vec<String>,
    /// `--upstream`.
    pub upstream: Vec<String>,
}

impl Policy {
    /// Whether a group's blocked frames are answered.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.groups.iter().any(|group| group.action != Action::Drop)
    }

    /// Reads and validates a policy file.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn read(path: &Path, interfaces: &Override) -> Result<Self, Invalid> {
        let (document, text) =
            document::read(path).map_err(|error| Invalid { errors: vec![error.to_string()] })?;
        reader::read(document, path, &text, interfaces)
    }

    /// Validates a document; `path` and `text` are what errors point into, and its files lie beside `path`.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn from_document(
        document: Document,
        path: &str,
        text: &str,
        interfaces: &Override,
    ) -> Result<Self, Invalid> {
        reader::read(document, Path::new(path), text, interfaces)
    }
}

/// Whether all of `inner` lies in `outer`.
#[must_use]
pub fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// The longest prefix around an address, and the entry that it is of.
pub fn longest<'a, T>(
    entries: impl IntoIterator<Item = &'a T>,
    prefixes: impl Fn(&'a T) -> &'a [IpNetwork],
    address: IpAddr,
) -> Option<(&'a IpNetwork, &'a T)> {
    let all = entries.into_iter().flat_map(|entry| prefixes(entry).iter().map(move |prefix| (prefix, entry)));
    all.filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.prefix())
}

/// A prefix of one address without its length.
#[must_use]
pub fn short(prefix: &IpNetwork) -> String {
    let whole = if prefix.is_ipv6() { 128 } else { 32 };
    if prefix.prefix() == whole { prefix.ip().to_string() } else { prefix.to_string() }
}
