//! The provider's mail servers.

use op25b_ebpf::abi::MASK_BITS;

use super::{Relay, nesting::Nesting, reader::Reader, short, values};
use crate::document::{self, excerpt};

impl Reader<'_> {
    pub(super) fn relays(&mut self, written: &[document::Relay]) -> Vec<Relay> {
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
        let mut sorted = within.clone();
        sorted.sort();
        let bounds = Nesting::new(sorted.into_iter().map(|prefix| (prefix, 0)));
        for prefix in &prefixes {
            if !within.is_empty() && bounds.around(prefix).is_none() {
                let shown = short(prefix);
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
}
