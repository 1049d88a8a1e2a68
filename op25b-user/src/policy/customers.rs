//! The customer groups: each prefix is in one.

use std::fmt;

use ipnetwork::IpNetwork;
use op25b_ebpf::abi::{GROUPS, MASK_BITS};

use super::{Group, Relay, nesting::Nesting, places::Origin, reader::Reader, values};
use crate::document::{self, Mode, excerpt};

/// A prefix of a group, and where it is written.
struct Owned {
    prefix: IpNetwork,
    /// The group's position.
    group: u32,
    origin: Origin,
}

impl Reader<'_> {
    pub(super) fn groups(
        &mut self,
        written: &[document::Customer],
        relays: &[Relay],
    ) -> (Vec<Group>, Nesting) {
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
            // Not made for errors that nobody is shown.
            let known = fmt::from_fn(|known| {
                known
                    .write_str(&relays.iter().map(|relay| relay.name.as_str()).collect::<Vec<_>>().join(", "))
            });
            self.error(name, format_args!("{of}: no relay is called {:?}; known: {known}", excerpt(name)));
        }
        found
    }
}
