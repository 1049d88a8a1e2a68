//! What is allowed and most likely not meant.

use super::{
    Exception, Group, Relay,
    nesting::{Nested, Nesting},
    places::Origin,
    reader::Reader,
    short,
};
use crate::document::Mode;

impl Reader<'_> {
    /// Relays that customers' prefixes contain, or the other way round.
    pub(super) fn warn_of_relays(&mut self, relays: &[Relay], groups: &[Group], nesting: &Nesting) {
        for relay in relays {
            for prefix in &relay.prefixes {
                let (name, address) = (&relay.name, short(prefix));
                if let Some(Nested { prefix: around, group, .. }) = nesting.around(prefix) {
                    self.warn(
                        name,
                        format_args!(
                            "relay {name} ({address}) lies inside {around} of group {}: its own mail would be judged \
                             as a customer's",
                            groups[*group as usize].name
                        ),
                    );
                } else if let Some(Nested { prefix: inner, group, .. }) = nesting.within(prefix).next() {
                    self.warn(
                        name,
                        format_args!(
                            "relay {name} ({address}) contains {inner} of group {}: customers would reach each other \
                             on port 25",
                            groups[*group as usize].name
                        ),
                    );
                }
            }
        }
    }

    /// Groups that decide for nobody.
    pub(super) fn warn_of_shadowed(&mut self, groups: &[Group], nesting: &Nesting) {
        for (group, deciding) in groups.iter().zip(nesting.deciding(groups.len())) {
            // A group without any prefix is an error, and not this.
            if !deciding && !group.prefixes.is_empty() {
                self.warn(
                    &group.name,
                    format_args!(
                        "group {} is for nobody: longer prefixes of other groups cover it",
                        group.name
                    ),
                );
            }
        }
    }

    /// Exemptions that are over, exempt nobody, or more than one customer an address.
    pub(super) fn warn_of_exemptions(
        &mut self,
        exemptions: &[(Exception, Origin)],
        groups: &[Group],
        nesting: &Nesting,
        block_unknown: bool,
    ) {
        self.warn_of_expired("exemption", exemptions);
        let moment = self.moment;
        for (entry, origin) in
            exemptions.iter().filter(|(entry, _)| entry.expires.is_none_or(|end| moment < end))
        {
            for prefix in &entry.prefixes {
                let around = nesting.around(prefix);
                let customers: Vec<&Group> = around
                    .into_iter()
                    .chain(nesting.within(prefix))
                    .map(|nested| &groups[nested.group as usize])
                    .collect();
                // Sources in no group may be blocked too: those of them it exempts.
                let groups_alone = around.is_some() || !block_unknown;
                if customers.is_empty() && groups_alone {
                    self.warn_at(
                        *origin,
                        &prefix.to_string(),
                        format_args!("exemption {prefix} exempts nobody: it is in no group"),
                    );
                } else if groups_alone && customers.iter().all(|group| group.mode == Mode::Off) {
                    self.warn_at(
                        *origin,
                        &prefix.to_string(),
                        format_args!(
                            "exemption {prefix} exempts nobody: group {} is off and judges no frame",
                            customers[0].name
                        ),
                    );
                } else if let Some(group) = customers.iter().find(|group| group.shared) {
                    self.warn_at(
                        *origin,
                        &prefix.to_string(),
                        format_args!(
                            "exemption {prefix} is in group {}, which is shared: it exempts everybody behind the \
                             address",
                            group.name
                        ),
                    );
                }
            }
        }
    }

    /// Entries that are over.
    pub(super) fn warn_of_expired(&mut self, kind: &str, entries: &[(Exception, Origin)]) {
        for (entry, origin) in entries {
            if let (Some(end), Some(prefix)) = (entry.expires, entry.prefixes.first())
                && end <= self.moment
            {
                let end = end.to_zoned_datetime(self.timezone.clone()).strftime("%Y-%m-%d %H:%M %Z");
                self.warn_at(
                    *origin,
                    &prefix.to_string(),
                    format_args!("{kind} {prefix} expired at {end}: take it out, or give it a new date"),
                );
            }
        }
    }
}
