//! Figures as people read them: what was counted of each group, numbers, and how long something takes.

use std::{collections::BTreeMap, time::Duration};

use op25b_ebpf::verdict::Reason;

use crate::{counters::Total, manifest::Manifest, sources::is_return_path};

/// What has been counted of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfGroup {
    /// None for sources in no group.
    pub name: Option<String>,
    /// `off`, `monitor` or `enforce`; none where the policy does not name it.
    pub mode: Option<String>,
    /// Frames that did not pass.
    pub blocked: u64,
    /// Frames that would not.
    pub would: u64,
    /// Other frames.
    pub allowed: u64,
    /// Attempts of what was or would be blocked, without answers to them.
    pub attempts: u64,
    /// How many sources there are.
    pub sources: u64,
}

impl OfGroup {
    /// The policy's groups in its order, then those that were and have counted, then who is in none.
    #[must_use]
    pub fn all<'s>(
        manifest: &Manifest,
        totals: &[Total],
        sources: impl IntoIterator<Item = (&'s Option<String>, u64)>,
    ) -> Vec<Self> {
        let named = |name: &str, mode| Self { name: Some(name.to_owned()), mode, ..Self::default() };
        let groups = &manifest.groups;
        let mut rows: Vec<Self> =
            groups.iter().map(|group| named(&group.name, Some(group.mode.clone()))).collect();
        let mut places: BTreeMap<Option<String>, usize> =
            rows.iter().enumerate().map(|(place, row)| (row.name.clone(), place)).collect();
        let known = |name: &Option<String>| groups.iter().any(|group| Some(&group.name) == name.as_ref());
        let mut others: Vec<&Option<String>> =
            totals.iter().map(|total| &total.customer).filter(|name| !known(name)).collect();
        others.sort_by_key(|name| (name.is_none(), *name));
        others.dedup();
        for name in others {
            places.insert(name.clone(), rows.len());
            rows.push(Self { name: name.clone(), ..Self::default() });
        }
        for total in totals {
            let Some(row) = places.get(&total.customer).and_then(|place| rows.get_mut(*place)) else {
                continue;
            };
            let would = total.reason.starts_with("would-");
            match total.verdict {
                "pass" if would => row.would += total.packets,
                "pass" => row.allowed += total.packets,
                _ => row.blocked += total.packets,
            }
            // An answered connection is one attempt.
            let answers = Reason::from_name(total.reason).is_some_and(is_return_path);
            if (would || total.verdict != "pass") && !answers {
                row.attempts += total.attempts;
            }
        }
        for (customer, number) in sources {
            if let Some(row) = places.get(customer).and_then(|place| rows.get_mut(*place)) {
                row.sources += number;
            }
        }
        rows
    }

    /// Both together, under this one's name.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.blocked += other.blocked;
        self.would += other.would;
        self.allowed += other.allowed;
        self.attempts += other.attempts;
        self.sources += other.sources;
        self
    }
}

/// With a comma before every third digit.
#[must_use]
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same in so many characters, seven at least: thousands or more where all digits have no room.
#[must_use]
pub fn number_within(value: u64, width: usize) -> String {
    let mut text = number(value);
    let mut value = value;
    for unit in ["k", "M", "G", "T", "P"] {
        if text.len() <= width {
            break;
        }
        value /= 1000;
        text = format!("{}{unit}", number(value));
    }
    text
}

/// A rate: with one decimal where that says something.
#[must_use]
pub fn rate(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { number_within(value.round() as u64, 7) }
}

/// How long, in the unit that people would take.
#[must_use]
pub fn roughly(length: Duration) -> String {
    let seconds = length.as_secs();
    let unit = match seconds {
        0..120 => 1,
        120..7200 => 60,
        7200..172_800 => 3600,
        _ => 86_400,
    };
    humantime::format_duration(Duration::from_secs(seconds / unit * unit)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn large_numbers_find_room() {
        for (value, text) in [(123_456, "123,456"), (1_234_567, "1,234k"), (12_345_678_901, "12,345M")] {
            assert_eq!(number_within(value, 7), text);
        }
        assert!(number_within(u64::MAX, 7).len() <= 7);
        for (value, text) in [(0.0, "0.0"), (0.25, "0.2"), (99.96, "100"), (7_600_000.0, "7,600k")] {
            assert_eq!(rate(value), text);
        }
    }

    #[test]
    fn lengths_are_rough() {
        for (seconds, text) in
            [(0, "0s"), (119, "1m 59s"), (3725, "1h 2m"), (90_000, "1day 1h"), (200_000, "2days")]
        {
            assert_eq!(roughly(Duration::from_secs(seconds)), text);
        }
    }
}
