//! Document → policy: every value is read, and everything that is wrong is collected, so that one run of `check` shows
//! it all.

use std::{
    collections::HashSet,
    fmt, mem,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::abi::{GROUPS, MASK_BITS};

use super::{
    Exception, Group, Invalid, Override, Policy, Relay,
    companion::{self, LARGEST, exception_texts},
    contains,
    nesting::Nesting,
    places::{Cursor, Notes, Origin, Places},
    values,
};
use crate::document::{self, Action, Document, Ipv6, Mode, UnknownSources, Unsupported, excerpt};

/// Validates a document; `path` and `text` are what errors point into.
pub(super) fn read(
    document: Document,
    path: &Path,
    text: &str,
    interfaces: &Override,
) -> Result<Policy, Invalid> {
    let mut reader = Reader {
        places: Places::new(path.display().to_string(), text),
        directory: path.parent().unwrap_or(path),
        entry: Cursor::default(),
        moment: Timestamp::now(),
        timezone: TimeZone::UTC,
        bytes_left: LARGEST,
        files: Vec::new(),
        hash: Hash::of(text),
        errors: Notes::default(),
        warnings: Notes::default(),
    };
    let policy = reader.policy(document, interfaces);
    if reader.errors.is_empty() {
        Ok(policy)
    } else {
        Err(Invalid { errors: reader.errors.finish(&reader.places, "errors") })
    }
}

/// A policy file that is being read.
pub(super) struct Reader<'a> {
    pub(super) places: Places<'a>,
    /// Where its files lie.
    pub(super) directory: &'a Path,
    /// Where the entry starts that is being read.
    entry: Cursor,
    /// Now.
    pub(super) moment: Timestamp,
    pub(super) timezone: TimeZone,
    /// Bytes that its files may still have.
    pub(super) bytes_left: u64,
    pub(super) files: Vec<PathBuf>,
    pub(super) hash: Hash,
    errors: Notes,
    warnings: Notes,
}

/// A prefix of a group, and where it is written.
struct Owned {
    prefix: IpNetwork,
    /// The group's position.
    group: u32,
    origin: Origin,
}

impl Reader<'_> {
    /// An error in the policy's text, at the first line of the current entry that has `near` as a word of its own.
    pub(super) fn error(&mut self, near: &str, message: impl fmt::Display) {
        self.error_at(Origin::Policy(self.entry), near, message);
    }

    pub(super) fn error_at(&mut self, origin: Origin, near: &str, message: impl fmt::Display) {
        self.errors.add(&mut self.places, origin, near, message);
    }

    pub(super) fn warn(&mut self, near: &str, message: impl fmt::Display) {
        self.warn_at(Origin::Policy(self.entry), near, message);
    }

    pub(super) fn warn_at(&mut self, origin: Origin, near: &str, message: impl fmt::Display) {
        self.warnings.add(&mut self.places, origin, near, message);
    }

    /// What follows is about the entry that starts behind the current one with `near`.
    fn enter(&mut self, near: &str) {
        self.entry = self.places.find(self.entry, near).unwrap_or(self.entry);
    }

    /// What follows is about the whole file.
    fn leave(&mut self) {
        self.entry = Cursor::default();
    }

    fn refuse(&mut self, key: &str, written: Option<Unsupported>) {
        if written.is_some() {
            self.error(&format!("{key}:"), format_args!("`{key}` is not yet supported; take it out"));
        }
    }

    /// A value that is there and right; an error at its key where it is wrong.
    fn value<T>(&mut self, key: &str, of: &str, read: Option<Result<T, String>>) -> Option<T> {
        read?.map_err(|error| self.error(&format!("{key}:"), format_args!("{of}{error}"))).ok()
    }

    fn policy(&mut self, document: Document, replaced: &Override) -> Policy {
        if document.version != 1 {
            self.error("version:", format_args!("version {} is not known; write 1", document.version));
        }
        self.refuse("notice", document.notice);
        self.refuse("metrics", document.metrics);
        self.refuse("history", document.history);
        if let Some(operator) = &document.operator {
            self.name("operator:", "operator", operator);
        }
        let timezone = document.timezone.as_deref().map(values::timezone);
        self.timezone = self.value("timezone", "", timezone).unwrap_or(TimeZone::UTC);

        let relays = self.relays(&document.relays);
        let (groups, nesting) = self.groups(&document.customers, &relays);
        let exemptions = self.exceptions(
            "exemptions",
            document.exemptions.into_iter().map(|entry| Written {
                prefixes: entry.prefixes,
                expires: entry.expires,
                reason: entry.reason,
                ticket: entry.ticket,
                relays: false,
            }),
            document.exemptions_file.as_deref(),
            companion::EXEMPTIONS,
        );
        let quarantine = self.exceptions(
            "quarantine",
            document.quarantine.into_iter().map(|entry| Written {
                prefixes: entry.prefixes,
                expires: entry.expires,
                reason: entry.reason,
                ticket: entry.ticket,
                relays: entry.relays,
            }),
            document.quarantine_file.as_deref(),
            companion::QUARANTINE,
        );
        let block_unknown = document.unknown_sources == UnknownSources::Block;
        self.ipv6(document.ipv6, &groups, block_unknown);
        let interfaces = self.interfaces(&document.interfaces, replaced, block_unknown);

        self.warn_of_relays(&relays, &groups, &nesting);
        self.warn_of_shadowed(&groups, &nesting);
        self.warn_of_exemptions(&exemptions, &groups, &nesting);
        self.warn_of_expired("quarantine", &quarantine);
        if relays.is_empty() {
            self.warn("relays", "no relays: customers in enforcing groups reach no mail server on port 25");
        }

        Policy {
            operator: document.operator,
            interfaces,
            relays,
            groups,
            exemptions: exemptions.into_iter().map(|(entry, _)| entry).collect(),
            quarantine: quarantine.into_iter().map(|(entry, _)| entry).collect(),
            block_unknown,
            softwire: document.softwire.map(|softwire| softwire.identify_by),
            timezone: self.timezone.clone(),
            files: mem::take(&mut self.files),
            warnings: mem::take(&mut self.warnings).finish(&self.places, "warnings"),
            hash: self.hash.digits(),
        }
    }

    fn relays(&mut self, written: &[document::Relay]) -> Vec<Relay> {
        if written.len() > MASK_BITS {
            self.error("relays:", format_args!("{} relays; at most {MASK_BITS}", written.len()));
        }
        self.unique_names("relays:", "relay", written.iter().map(|relay| relay.name.as_str()));
        self.enter("relays:");
        let relays = written.iter().take(MASK_BITS).map(|relay| self.relay(relay)).collect();
        self.leave();
        relays
    }

    fn relay(&mut self, relay: &document::Relay) -> Relay {
        self.enter(&relay.name);
        let of = format!("relay {}", excerpt(&relay.name));
        if relay.addresses.is_empty() && relay.hostname.is_none() {
            self.error(
                &relay.name,
                format_args!("{of} has no address; give `addresses: [192.0.2.25]` or a `hostname`"),
            );
        }
        let prefixes = self.prefixes("addresses:", &of, &relay.addresses);
        self.unique(&of, &prefixes);
        let hostname = relay.hostname.as_deref().map(values::hostname);
        let hostname = self.value("hostname", &format!("{of}: "), hostname);
        let written = relay.within.as_deref().unwrap_or_default();
        let within = self.prefixes("within:", &format!("{of}, within"), written);
        self.unique(&format!("{of}, within"), &within);
        for prefix in &prefixes {
            if !within.is_empty() && !within.iter().any(|around| contains(around, prefix)) {
                let shown = super::short(prefix);
                self.error(
                    &shown,
                    format_args!("{of}: {shown} is not in `within`; put it in, or take the address out"),
                );
            }
        }
        if relay.within.is_some() && relay.hostname.is_none() {
            self.warn("within:", format_args!("{of}: `within` does nothing without `hostname`"));
        }
        if hostname.is_some() && prefixes.is_empty() && within.is_empty() {
            self.warn(
                "hostname:",
                format_args!(
                    "{of}: whatever the DNS answers will be a relay; give `within` with the prefixes of your servers"
                ),
            );
        }
        Relay { name: relay.name.clone(), prefixes, hostname, within }
    }

    fn groups(&mut self, written: &[document::Customer], relays: &[Relay]) -> (Vec<Group>, Nesting) {
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
        let mut owned = Vec::new();
        self.enter("customers:");
        let groups: Vec<Group> = written
            .iter()
            .take(GROUPS)
            .zip(0..)
            .map(|(group, number)| self.group(group, number, relays, &mut owned))
            .collect();
        self.leave();
        // Stable: of two that are the same, the first that is written stays the first.
        owned.sort_by_key(|owned| owned.prefix);
        for pair in owned.windows(2) {
            if let [first, second] = pair
                && first.prefix == second.prefix
            {
                self.owned_twice(&groups, first, second);
            }
        }
        owned.dedup_by_key(|owned| owned.prefix);
        (groups, Nesting::new(owned.iter().map(|owned| (owned.prefix, owned.group))))
    }

    fn owned_twice(&mut self, groups: &[Group], first: &Owned, second: &Owned) {
        let [one, other] = [first, second].map(|owned| &groups[owned.group as usize].name);
        let prefix = first.prefix;
        if first.group == second.group {
            self.twice([first.origin, second.origin], &prefix, &format!("group {one}"));
        } else {
            self.error_at(
                second.origin,
                &prefix.to_string(),
                format_args!(
                    "prefix {prefix} is in group {one} and in group {other}; a customer is in one group"
                ),
            );
        }
    }

    fn group(
        &mut self,
        group: &document::Customer,
        number: u32,
        relays: &[Relay],
        owned: &mut Vec<Owned>,
    ) -> Group {
        self.enter(&group.name);
        let of = format!("group {}", excerpt(&group.name));
        if group.action != Action::Drop {
            self.error("action:", format_args!("{of}: only `action: drop` is supported yet"));
        }
        let mut prefixes = Vec::new();
        let mut add = |reader: &mut Self, prefix: IpNetwork, origin| {
            if prefix.prefix() == 0 && !group.allow_any {
                reader.error_at(
                    origin,
                    &prefix.to_string(),
                    format_args!("{of}: {prefix} is everybody; write `allow_any: true` if that is meant"),
                );
            }
            prefixes.push(prefix);
            owned.push(Owned { prefix, group: number, origin });
        };
        for text in &group.prefixes {
            if let Some(prefix) = self.prefix("prefixes:", &of, text) {
                add(self, prefix, Origin::Policy(self.entry));
            }
        }
        if let Some(file) = &group.prefixes_file {
            self.prefixes_file(&of, file, add);
        } else if group.prefixes.is_empty() {
            self.error(
                &group.name,
                format_args!("{of} has no prefix; give `prefixes: [203.0.113.0/24]` or a `prefixes_file`"),
            );
        }
        let relays = match &group.relays {
            None => (0..relays.len()).collect(),
            Some(names) => names.iter().filter_map(|name| self.relay_called(&of, name, relays)).collect(),
        };
        let destinations =
            self.prefixes("destinations:", &format!("{of}, destinations"), &group.destinations);
        self.unique(&format!("{of}, destinations"), &destinations);
        let enforce_from =
            group.enforce_from.as_deref().map(|written| values::moment(written, &self.timezone));
        let enforce_from = self.value("enforce_from", &format!("{of}: enforce_from "), enforce_from);
        if group.enforce_from.is_some() && group.mode != Mode::Enforce {
            self.warn(
                "enforce_from:",
                format_args!("{of}: `enforce_from` does nothing in `mode: {}`", group.mode.name()),
            );
        }
        let ipv6_source_length = group.ipv6_source_length.unwrap_or(64);
        if !(48..=64).contains(&ipv6_source_length) {
            self.error(
                "ipv6_source_length:",
                format_args!(
                    "{of}: ipv6_source_length {ipv6_source_length}: write 48 to 64, what a customer gets"
                ),
            );
        }
        Group {
            name: group.name.clone(),
            prefixes,
            mode: group.mode,
            action: group.action,
            relays,
            destinations,
            return_path: group.return_path.unwrap_or(Mode::Monitor),
            enforce_from,
            shared: group.shared,
            ipv6_source_length: ipv6_source_length as u8,
        }
    }

    fn relay_called(&mut self, of: &str, name: &str, relays: &[Relay]) -> Option<usize> {
        let found = relays.iter().position(|relay| relay.name == name);
        if found.is_none() {
            let known = relays.iter().map(|relay| relay.name.as_str()).collect::<Vec<_>>().join(", ");
            self.error(name, format_args!("{of}: no relay is called {:?}; known: {known}", excerpt(name)));
        }
        found
    }

    /// Exemptions or quarantines, each with where it is written.
    fn exceptions(
        &mut self,
        key: &str,
        written: impl Iterator<Item = Written>,
        file: Option<&str>,
        columns: &'static [&'static str],
    ) -> Vec<(Exception, Origin)> {
        let mut list = Vec::new();
        self.enter(&format!("{key}:"));
        for (entry, number) in written.zip(1..) {
            list.push(self.exception(key, number, entry));
        }
        self.leave();
        if let Some(file) = file {
            self.exceptions_file(&format!("{key}_file"), file, columns, &mut list);
        }
        let mut places: Vec<(IpNetwork, Origin)> = list
            .iter()
            .flat_map(|(entry, origin)| entry.prefixes.iter().map(move |prefix| (*prefix, *origin)))
            .collect();
        places.sort_by_key(|(prefix, _)| *prefix);
        for pair in places.windows(2) {
            if let [(prefix, first), (same, second)] = pair
                && prefix == same
            {
                self.twice([*first, *second], prefix, key);
            }
        }
        list
    }

    fn exception(&mut self, key: &str, number: usize, written: Written) -> (Exception, Origin) {
        self.enter(written.prefixes.first().map_or("prefixes:", String::as_str));
        let origin = Origin::Policy(self.entry);
        if written.prefixes.is_empty() {
            self.error(
                "prefixes:",
                format_args!("entry {number} of `{key}` has no prefix; give `prefixes: [203.0.113.128/28]`"),
            );
        }
        let expires = written.expires.as_deref().map(|text| values::end(text, &self.timezone));
        let exception = Exception {
            prefixes: self.prefixes("prefixes:", key, &written.prefixes),
            reason: written.reason,
            ticket: written.ticket,
            relays: written.relays,
            expires: self.value("expires", &format!("{key}: expires "), expires),
        };
        if let Err(error) = exception_texts(&exception) {
            self.error(error.split(' ').next().unwrap_or_default(), format_args!("{key}: {error}"));
        }
        // The next entry starts behind this one, even where it starts alike.
        self.entry = self.places.next(self.entry);
        (exception, origin)
    }

    fn prefixes(&mut self, key: &str, of: &str, written: &[String]) -> Vec<IpNetwork> {
        written.iter().filter_map(|text| self.prefix(key, of, text)).collect()
    }

    fn prefix(&mut self, key: &str, of: &str, text: &str) -> Option<IpNetwork> {
        values::prefix(text)
            .map_err(|error| {
                // An escaped text is written in another way than it reads.
                let near = self.places.find(self.entry, text).map_or(key, |_| text);
                self.error(near, format_args!("{of}: {error}"));
            })
            .ok()
    }

    fn unique(&mut self, of: &str, prefixes: &[IpNetwork]) {
        let mut seen = HashSet::new();
        for prefix in prefixes {
            if !seen.insert(prefix) {
                self.twice([Origin::Policy(self.entry); 2], prefix, of);
            }
        }
    }

    /// An error at the second place where a prefix is written.
    fn twice(&mut self, places: [Origin; 2], prefix: &IpNetwork, of: &str) {
        let word = prefix.to_string();
        let origin = self.places.second(places, &word);
        self.error_at(origin, &word, format_args!("{of}: prefix {prefix} is written twice"));
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
            self.entry = self.places.next(self.entry);
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
}

/// An exemption or a quarantine of the document.
struct Written {
    prefixes: Vec<String>,
    reason: Option<String>,
    ticket: Option<String>,
    expires: Option<String>,
    relays: bool,
}

/// FNV-1a: tells two texts apart; no secret hangs on it.
pub(super) struct Hash(u64);

impl Hash {
    fn of(text: &str) -> Self {
        let mut hash = Self(0xcbf2_9ce4_8422_2325);
        hash.add(text.as_bytes());
        hash
    }

    /// Adds a file's contents behind a byte that no UTF-8 has, so that nothing moves from one file to the next unseen.
    pub(super) fn file(&mut self, bytes: &[u8]) {
        self.add(&[0xff]);
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0 =
            bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn digits(&self) -> String {
        format!("{:016x}", self.0)
    }
}
