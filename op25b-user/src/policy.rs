//! The policy as it is meant: validated, named, with what a network engineer should be warned of. Knows nothing of
//! tables or the kernel.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::abi::{GROUPS, MASK_BITS, Role};
use serde::{Deserialize, Serialize};

use crate::document::{
    self, Action, Attach, Document, IdentifyBy, Interface, Ipv6, Mode, UnknownSources, Unsupported,
    printable, words,
};

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
    /// Whether a source in no group is blocked.
    pub block_unknown: bool,
    /// Whether IPv4 in IPv6 is looked through.
    pub softwire: Option<IdentifyBy>,
    /// Where dates without a time end.
    pub timezone: TimeZone,
    /// Files that belong to it beside the policy file itself, in the order in which it names them.
    pub files: Vec<PathBuf>,
    /// What should be looked at, one line each.
    pub warnings: Vec<String>,
    /// Of the text, so that two routers can be compared: 16 hexadecimal digits.
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
    /// Reads and validates a policy file.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn read(path: &Path, interfaces: &Override) -> Result<Self, Invalid> {
        let (document, text) =
            document::read(path).map_err(|error| Invalid { errors: vec![error.to_string()] })?;
        Self::from_document(document, &path.display().to_string(), &text, interfaces)
    }

    /// Validates a document; `path` and `text` are what errors point into.
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
        let mut reader = Reader { path, text, entry: 0, errors: Vec::new(), warnings: Vec::new() };
        let policy = reader.policy(document, interfaces);
        if reader.errors.is_empty() { Ok(policy) } else { Err(Invalid { errors: reader.errors }) }
    }
}

/// Collects everything that is wrong, so that one run of `check` shows it all.
struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    /// Line, from 0, where the entry starts that is being read.
    entry: usize,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// `file:line: `, the line being the first behind the current entry's start that has `near` as a word of its own.
    fn place(&self, near: &str) -> String {
        let found = self.text.lines().enumerate().skip(self.entry).find(|(_, line)| has_word(line, near));
        format!("{}:{}: ", self.path, found.map_or(self.entry, |(line, _)| line) + 1)
    }

    fn error(&mut self, near: &str, message: impl fmt::Display) {
        self.errors.push(printable(&format!("{}{message}", self.place(near))));
    }

    fn warn(&mut self, near: &str, message: impl fmt::Display) {
        self.warnings.push(printable(&format!("{}{message}", self.place(near))));
    }

    /// What follows is about the entry that starts behind the current one with `near`.
    fn enter(&mut self, near: &str) {
        let found = self.text.lines().enumerate().skip(self.entry).find(|(_, line)| has_word(line, near));
        self.entry = found.map_or(self.entry, |(line, _)| line);
    }

    /// What follows is about the whole file.
    fn leave(&mut self) {
        self.entry = 0;
    }

    fn refuse(&mut self, key: &str, written: Option<Unsupported>) {
        if written.is_some() {
            self.error(&format!("{key}:"), format_args!("`{key}` is not yet supported; take it out"));
        }
    }

    fn policy(&mut self, document: Document, replaced: &Override) -> Policy {
        if document.version != 1 {
            self.error("version:", format_args!("version {} is not known; write 1", document.version));
        }
        self.refuse("timezone", document.timezone);
        self.refuse("exemptions_file", document.exemptions_file);
        self.refuse("quarantine_file", document.quarantine_file);
        self.refuse("notice", document.notice);
        self.refuse("metrics", document.metrics);
        self.refuse("history", document.history);
        if let Some(operator) = &document.operator {
            self.name("operator:", "operator", operator);
        }

        let relays = self.relays(&document.relays);
        let groups = self.groups(&document.customers, &relays);
        self.enter("exemptions:");
        let mut exemptions = Vec::new();
        for (entry, number) in document.exemptions.iter().zip(1..) {
            exemptions.push(Exception {
                prefixes: self.exception("exemptions", number, &entry.prefixes, entry.expires),
                reason: entry.reason.clone(),
                ticket: entry.ticket.clone(),
                relays: false,
                expires: None,
            });
        }
        self.leave();
        self.enter("exemptions:");
        self.unique("exemptions", exemptions.iter().flat_map(|entry| &entry.prefixes));
        self.leave();
        self.enter("quarantine:");
        let mut quarantine = Vec::new();
        for (entry, number) in document.quarantine.iter().zip(1..) {
            quarantine.push(Exception {
                prefixes: self.exception("quarantine", number, &entry.prefixes, entry.expires),
                reason: entry.reason.clone(),
                ticket: entry.ticket.clone(),
                relays: entry.relays,
                expires: None,
            });
        }
        self.leave();
        self.enter("quarantine:");
        self.unique("quarantine", quarantine.iter().flat_map(|entry| &entry.prefixes));
        self.leave();
        let block_unknown = document.unknown_sources == UnknownSources::Block;
        self.ipv6(document.ipv6, &groups, block_unknown);
        let interfaces = self.interfaces(&document.interfaces, replaced, block_unknown);

        self.warn_of_relays_in_groups(&relays, &groups);
        self.warn_of_idle_exemptions(&exemptions, &groups);
        if relays.is_empty() {
            self.warn("relays", "no relays: customers in enforcing groups reach no mail server on port 25");
        }

        Policy {
            operator: document.operator,
            interfaces,
            relays,
            groups,
            exemptions,
            quarantine,
            block_unknown,
            softwire: document.softwire.map(|softwire| softwire.identify_by),
            timezone: TimeZone::UTC,
            files: Vec::new(),
            warnings: std::mem::take(&mut self.warnings),
            hash: hash(self.text),
        }
    }

    fn interfaces(
        &mut self,
        written: &document::Interfaces,
        replaced: &Override,
        block_unknown: bool,
    ) -> Vec<Port> {
        let plain = |names: &[String]| {
            names
                .iter()
                .map(|name| Interface { name: name.clone(), attach: Attach::Native })
                .collect::<Vec<_>>()
        };
        let flags_given = !replaced.customer.is_empty() || !replaced.upstream.is_empty();
        let (customer, upstream) = if flags_given {
            // `--customer eth1` keeps how the policy attaches to eth1.
            let known = |interfaces: Vec<Interface>, role: &[Interface], other: &[Interface]| {
                interfaces
                    .into_iter()
                    .map(|interface| {
                        let mut written = role.iter().chain(other);
                        written.find(|known| known.name == interface.name).cloned().unwrap_or(interface)
                    })
                    .collect::<Vec<_>>()
            };
            (
                known(plain(&replaced.customer), &written.customer, &written.upstream),
                known(plain(&replaced.upstream), &written.upstream, &written.customer),
            )
        } else {
            (written.customer.clone(), written.upstream.clone())
        };

        let mut ports: Vec<Port> = Vec::new();
        for (interface, role) in customer
            .iter()
            .map(|one| (one, Role::CUSTOMER))
            .chain(upstream.iter().map(|one| (one, Role::UPSTREAM)))
        {
            if interface.name.is_empty()
                || interface.name.len() > 15
                || interface.name.contains(['/', ':', ' ', '\t', '\n'])
            {
                self.error(
                    &interface.name,
                    format_args!(
                        "interface {:?}: a name has 1 to 15 bytes, no space, `/` or `:`",
                        interface.name
                    ),
                );
            }
            if ports
                .iter()
                .any(|port| port.name == interface.name && two_xdp_modes(port.attach, interface.attach))
            {
                self.error(
                    &interface.name,
                    format_args!(
                        "interface {} is listed as native and as generic; XDP is one or the other",
                        interface.name
                    ),
                );
            }
            match ports.iter_mut().find(|port| port.name == interface.name && port.attach == interface.attach)
            {
                None => ports.push(Port { name: interface.name.clone(), role, attach: interface.attach }),
                Some(port) if port.role.0 & role.0 != 0 => {
                    let name = port.name.clone();
                    self.error(&name, format_args!("interface {name} is listed twice in one role"));
                }
                Some(port) => port.role = Role(port.role.0 | role.0),
            }
        }
        for port in &ports {
            if port.role == Role::BOTH && block_unknown {
                self.error(
                    "unknown_sources:",
                    format_args!(
                        "`unknown_sources: block` would block all mail from the Internet on {}, which has both roles; \
                         write `pass`",
                        port.name
                    ),
                );
            }
        }
        ports
    }

    fn relays(&mut self, written: &[document::Relay]) -> Vec<Relay> {
        if written.len() > MASK_BITS {
            self.error("relays:", format_args!("{} relays; at most {MASK_BITS}", written.len()));
        }
        self.unique_names("relays:", "relay", written.iter().map(|relay| relay.name.as_str()));
        let mut relays = Vec::new();
        self.enter("relays:");
        for relay in written {
            self.enter(&relay.name);
            self.refuse("hostname", relay.hostname);
            self.refuse("within", relay.within);
            if relay.addresses.is_empty() {
                self.error(
                    &relay.name,
                    format_args!("relay {} has no address; give `addresses: [192.0.2.25]`", relay.name),
                );
            }
            let prefixes = self.prefixes("addresses:", &format!("relay {}", relay.name), &relay.addresses);
            self.unique(&format!("relay {}", relay.name), &prefixes);
            relays.push(Relay { name: relay.name.clone(), prefixes, hostname: None, within: Vec::new() });
        }
        self.leave();
        relays
    }

    fn groups(&mut self, written: &[document::Customer], relays: &[Relay]) -> Vec<Group> {
        if written.is_empty() {
            self.error(
                "customers:",
                "`customers` is empty: nobody would be filtered; name at least one group",
            );
        }
        if written.len() > GROUPS {
            self.error("customers:", format_args!("{} customer groups; at most {GROUPS}", written.len()));
        }
        if written.iter().filter(|group| !group.destinations.is_empty()).count() > MASK_BITS {
            self.error("destinations:", format_args!("more than {MASK_BITS} groups have `destinations`"));
        }
        self.unique_names("customers:", "customer group", written.iter().map(|group| group.name.as_str()));
        let mut owners: HashMap<IpNetwork, String> = HashMap::new();
        let mut groups = Vec::new();
        self.enter("customers:");
        for group in written {
            self.enter(&group.name);
            let of = format!("group {}", group.name);
            self.refuse("prefixes_file", group.prefixes_file);
            self.refuse("enforce_from", group.enforce_from);
            self.refuse("shared", group.shared);
            self.refuse("ipv6_source_length", group.ipv6_source_length);
            if group.action != Action::Drop {
                self.error("action:", format_args!("{of}: only `action: drop` is supported yet"));
            }
            let prefixes = self.prefixes("prefixes:", &of, &group.prefixes);
            if prefixes.is_empty() && group.prefixes.is_empty() {
                self.error(
                    &group.name,
                    format_args!("{of} has no prefix; give `prefixes: [203.0.113.0/24]`"),
                );
            }
            for prefix in &prefixes {
                if prefix.prefix() == 0 && !group.allow_any {
                    self.error(
                        &prefix.to_string(),
                        format_args!("{of}: {prefix} is everybody; write `allow_any: true` if that is meant"),
                    );
                }
                if let Some(owner) = owners.insert(*prefix, group.name.clone()) {
                    let twice = if owner == group.name {
                        format!("{of}: prefix {prefix} is written twice")
                    } else {
                        format!("prefix {prefix} is in group {owner} and in {of}; a customer is in one group")
                    };
                    if owner == group.name {
                        self.twice(prefix, twice);
                    } else {
                        self.error(&prefix.to_string(), twice);
                    }
                }
            }
            let allowed = match &group.relays {
                None => (0..relays.len()).collect(),
                Some(names) => names.iter().filter_map(|name| self.relay_called(&of, name, relays)).collect(),
            };
            let destinations =
                self.prefixes("destinations:", &format!("{of}, destinations"), &group.destinations);
            self.unique(&format!("{of}, destinations"), &destinations);
            groups.push(Group {
                name: group.name.clone(),
                prefixes,
                mode: group.mode,
                action: group.action,
                relays: allowed,
                destinations,
                return_path: group.return_path.unwrap_or(Mode::Monitor),
                enforce_from: None,
                shared: false,
                ipv6_source_length: 64,
            });
        }
        self.leave();
        groups
    }

    fn relay_called(&mut self, of: &str, name: &str, relays: &[Relay]) -> Option<usize> {
        let found = relays.iter().position(|relay| relay.name == name);
        if found.is_none() {
            let known = relays.iter().map(|relay| relay.name.as_str()).collect::<Vec<_>>().join(", ");
            self.error(name, format_args!("{of}: no relay is called {name:?}; known: {known}"));
        }
        found
    }

    fn exception(
        &mut self,
        key: &str,
        number: usize,
        written: &[String],
        expires: Option<Unsupported>,
    ) -> Vec<IpNetwork> {
        self.enter(written.first().map_or("prefixes:", String::as_str));
        self.refuse("expires", expires);
        if written.is_empty() {
            self.error(
                "prefixes:",
                format_args!("entry {number} of `{key}` has no prefix; give `prefixes: [203.0.113.128/28]`"),
            );
        }
        let prefixes = self.prefixes("prefixes:", key, written);
        // The next entry starts behind this one, even where it starts alike.
        self.entry += 1;
        prefixes
    }

    fn prefixes(&mut self, key: &str, of: &str, written: &[String]) -> Vec<IpNetwork> {
        written.iter().filter_map(|text| self.prefix(key, of, text)).collect()
    }

    fn prefix(&mut self, key: &str, of: &str, text: &str) -> Option<IpNetwork> {
        // `/255.255.255.0` is not a length.
        let has_length = text.split_once('/').is_none_or(|(_, length)| length.parse::<u8>().is_ok());
        let prefix: IpNetwork = match text.parse() {
            Ok(prefix) if has_length => prefix,
            _ => {
                self.error(
                    // An escaped text is written in another way than it reads.
                    if self.text.lines().skip(self.entry).any(|line| has_word(line, text)) {
                        text
                    } else {
                        key
                    },
                    format_args!(
                        "{of}: {text:?} is no prefix; write one like 203.0.113.0/24 or 2001:db8::/32"
                    ),
                );
                return None;
            }
        };
        if prefix.ip() != prefix.network() {
            self.error(
                text,
                format_args!(
                    "{of}: {text} has bits beyond its length; {}/{} is the prefix it lies in",
                    prefix.network(),
                    prefix.prefix()
                ),
            );
            return None;
        }
        Some(prefix)
    }

    fn unique<'p>(&mut self, of: &str, prefixes: impl IntoIterator<Item = &'p IpNetwork>) {
        let mut seen = HashSet::new();
        for prefix in prefixes {
            if !seen.insert(prefix) {
                self.twice(prefix, format_args!("{of}: prefix {prefix} is written twice"));
            }
        }
    }

    /// An error at the second place where a prefix is written.
    fn twice(&mut self, prefix: &IpNetwork, message: impl fmt::Display) {
        let word = prefix.to_string();
        let start = self.entry;
        let lines = self.text.lines().enumerate().skip(start);
        let mut places = lines.flat_map(|(number, line)| std::iter::repeat_n(number, words(line, &word)));
        let first = places.next().unwrap_or(start);
        self.entry = places.next().unwrap_or(first);
        self.error(&word, message);
        self.entry = start;
    }

    fn unique_names<'p>(&mut self, section: &str, what: &str, names: impl Iterator<Item = &'p str>) {
        let mut seen = HashSet::new();
        self.enter(section);
        for name in names {
            self.enter("name:");
            self.name("name:", what, name);
            if !seen.insert(name) {
                self.error("name:", format_args!("two {what}s are called {name:?}"));
            }
            self.entry += 1;
        }
        self.leave();
    }

    /// Names go into terminals, logs, metrics and pages.
    fn name(&mut self, near: &str, what: &str, name: &str) {
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            let shown = name.chars().take(64).collect::<String>();
            self.error(
                near,
                format_args!("{what} {shown:?}: a name has 1 to 64 bytes and no control characters"),
            );
        }
    }

    fn ipv6(&mut self, written: Ipv6, groups: &[Group], block_unknown: bool) {
        let with_ipv6 = groups.iter().find(|group| group.prefixes.iter().any(IpNetwork::is_ipv6));
        match (written, with_ipv6) {
            // Without groups there is an error already.
            (Ipv6::Filtered, None) if !groups.is_empty() => self.error(
                "customers:",
                "no group has an IPv6 prefix, so IPv6 would pass unfiltered; add prefixes or write `ipv6: unfiltered`",
            ),
            (Ipv6::Unfiltered, Some(group)) => self.error(
                "ipv6:",
                format_args!("`ipv6: unfiltered`, but group {} has IPv6 prefixes; take one out", group.name),
            ),
            (Ipv6::Unfiltered, None) if block_unknown => self.error(
                "ipv6:",
                "`ipv6: unfiltered`, but `unknown_sources: block` would block every IPv6 source; write `pass`",
            ),
            _ => {}
        }
    }

    fn warn_of_relays_in_groups(&mut self, relays: &[Relay], groups: &[Group]) {
        for relay in relays {
            for prefix in &relay.prefixes {
                for group in groups {
                    if let Some(around) = group.prefixes.iter().find(|around| contains(around, prefix)) {
                        self.warn(
                            &relay.name,
                            format_args!(
                                "relay {} ({}) lies inside {around} of group {}: its own mail would be judged as a \
                                 customer's",
                                relay.name,
                                short(prefix),
                                group.name
                            ),
                        );
                    }
                }
            }
        }
    }

    fn warn_of_idle_exemptions(&mut self, exemptions: &[Exception], groups: &[Group]) {
        // Group prefixes by length, so that each exemption looks for its surroundings in a few steps.
        let mut by_length: BTreeMap<(bool, u8), HashSet<IpAddr>> = BTreeMap::new();
        for prefix in groups.iter().flat_map(|group| &group.prefixes) {
            by_length.entry((prefix.is_ipv6(), prefix.prefix())).or_default().insert(prefix.network());
        }
        for prefix in exemptions.iter().flat_map(|entry| &entry.prefixes) {
            let inside = by_length.iter().any(|((ipv6, length), networks)| {
                *ipv6 == prefix.is_ipv6()
                    && *length <= prefix.prefix()
                    && IpNetwork::new(prefix.ip(), *length)
                        .is_ok_and(|around| networks.contains(&around.network()))
            });
            let around =
                || groups.iter().flat_map(|group| &group.prefixes).any(|inner| contains(prefix, inner));
            if !inside && !around() {
                self.warn(
                    &prefix.to_string(),
                    format_args!("exemption {prefix} exempts nobody: it is in no group"),
                );
            }
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    words(line, word) > 0
}

const fn two_xdp_modes(one: Attach, other: Attach) -> bool {
    matches!((one, other), (Attach::Native, Attach::Generic) | (Attach::Generic, Attach::Native))
}

/// Whether all of `inner` lies in `outer`.
#[must_use]
pub fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// A prefix of one address without its length.
#[must_use]
pub fn short(prefix: &IpNetwork) -> String {
    let whole = if prefix.is_ipv6() { 128 } else { 32 };
    if prefix.prefix() == whole { prefix.ip().to_string() } else { prefix.to_string() }
}

/// FNV-1a: tells two texts apart; no secret hangs on it.
fn hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
