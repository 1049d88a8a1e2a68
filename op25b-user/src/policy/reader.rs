//! Document → policy: every value is read, and everything that is wrong is collected, so that one run of `check` shows
//! it all.

use std::{
    collections::HashSet,
    fmt, mem,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};

use super::{
    Group, Invalid, Override, Policy,
    companion::{self, LARGEST},
    exceptions::Written,
    places::{Cursor, Notes, Origin, Places},
    values,
};
use crate::document::{Document, Ipv6, UnknownSources};

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
    pub(super) entry: Cursor,
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
    pub(super) fn enter(&mut self, near: &str) {
        self.entry = self.places.find(self.entry, near).unwrap_or(self.entry);
    }

    /// What follows is about the whole file.
    pub(super) fn leave(&mut self) {
        self.entry = Cursor::default();
    }

    /// A value that is there and right; an error at its key where it is wrong.
    pub(super) fn value<T>(&mut self, key: &str, of: &str, read: Option<Result<T, String>>) -> Option<T> {
        read?.map_err(|error| self.error(&format!("{key}:"), format_args!("{of}{error}"))).ok()
    }

    fn policy(&mut self, document: Document, replaced: &Override) -> Policy {
        if document.version != 1 {
            self.error("version:", format_args!("version {} is not known; write 1", document.version));
        }
        if let Some(operator) = &document.operator {
            self.name("operator:", "operator", operator);
        }
        let timezone = document.timezone.as_deref().map(values::timezone);
        self.timezone = self.value("timezone", "", timezone).unwrap_or(TimeZone::UTC);

        let outputs = self.outputs(&document);
        let notice = self.notice(&document);
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

        self.without_accounts(&outputs, &groups);
        self.warn_of_answers(notice.as_ref(), &groups, &interfaces);
        self.warn_of_relays(&relays, &groups, &nesting);
        self.warn_of_shadowed(&groups, &nesting);
        self.warn_of_exemptions(&exemptions, &groups, &nesting, block_unknown);
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
            notice,
            block_unknown,
            softwire: document.softwire.map(|softwire| softwire.identify_by),
            timezone: self.timezone.clone(),
            outputs,
            files: mem::take(&mut self.files),
            warnings: mem::take(&mut self.warnings).finish(&self.places, "warnings"),
            hash: self.hash.digits(),
        }
    }

    pub(super) fn prefixes(&mut self, key: &str, of: &str, written: &[String]) -> Vec<IpNetwork> {
        written.iter().filter_map(|text| self.prefix(key, of, text)).collect()
    }

    pub(super) fn prefix(&mut self, key: &str, of: &str, text: &str) -> Option<IpNetwork> {
        values::prefix(text)
            .map_err(|error| {
                // An escaped text is written in another way than it reads.
                let near = self.places.find(self.entry, text).map_or(key, |_| text);
                self.error(near, format_args!("{of}: {error}"));
            })
            .ok()
    }

    pub(super) fn unique(&mut self, of: &str, prefixes: &[IpNetwork]) {
        let mut seen = HashSet::new();
        for prefix in prefixes {
            if !seen.insert(prefix) {
                self.twice([Origin::Policy(self.entry); 2], prefix, of);
            }
        }
    }

    /// An error at the second place where a prefix is written.
    pub(super) fn twice(&mut self, places: [Origin; 2], prefix: &IpNetwork, of: &str) {
        let word = prefix.to_string();
        let origin = self.places.second(places, &word);
        self.error_at(origin, &word, format_args!("{of}: prefix {prefix} is written twice"));
    }

    pub(super) fn unique_names<'p>(
        &mut self,
        section: &str,
        what: &str,
        names: impl Iterator<Item = &'p str>,
    ) {
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
    pub(super) fn name(&mut self, near: &str, what: &str, name: &str) {
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
