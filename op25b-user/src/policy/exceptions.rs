//! Exemptions and quarantines, by hand and from files.

use ipnetwork::IpNetwork;

use super::{Exception, companion::not_one_line, places::Origin, reader::Reader, values};

/// An exemption or a quarantine of the document.
pub(super) struct Written {
    pub(super) prefixes: Vec<String>,
    pub(super) reason: Option<String>,
    pub(super) ticket: Option<String>,
    pub(super) expires: Option<String>,
    pub(super) relays: bool,
}

impl Reader<'_> {
    /// Exemptions or quarantines, each with where it is written.
    pub(super) fn exceptions(
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
        if let Some((text, error)) = not_one_line(&exception) {
            self.error(&format!("{text}:"), format_args!("{key}: {error}"));
        }
        // The next entry starts behind this one, even where it starts alike.
        self.entry = self.places.next(self.entry);
        (exception, origin)
    }
}
