//! Readings for tests, made of nothing.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use jiff::Timestamp;

use super::reading::{Group, Line, Pace, Reading};
use crate::{
    figures::OfGroup,
    manifest::{self, Manifest},
    policy::short,
    sources::{ByReason, Label, Source},
    status::Status,
};

/// A name that would move the cursor, colour the screen and turn the writing around.
pub(super) const HOSTILE: &str = "evil\u{1b}[31m\r\n\u{202e}\u{9b}2J\u{7}";

/// Groups `one`, `two`, …, the first of them hostile, and sources in turn in each; of every number there is another.
pub(super) fn reading(groups: u32, sources: u32) -> Reading {
    let name = |number: u32| if number == 0 { HOSTILE.to_owned() } else { format!("group-{number}") };
    let manifest = Manifest {
        generation: 7,
        since: Timestamp::from_second(1_200_000_000).unwrap_or_default(),
        numbers: (0..groups).map(|number| (name(number), number + 1)).collect(),
        groups: (0..groups)
            .map(|number| manifest::Group {
                name: name(number),
                mode: if number % 2 == 0 { "enforce" } else { "monitor" }.to_owned(),
                shared: false,
                ipv6_source_length: 64,
            })
            .collect(),
        timezone: "Asia/Tokyo".to_owned(),
        ..Manifest::default()
    };
    let pace = |number: u32| Pace {
        packets_per_second: f64::from(number),
        attempts_per_minute: f64::from(number) * 2.0,
    };
    let at = Timestamp::from_second(1_200_007_200).unwrap_or_default();
    Reading {
        at,
        status: Arc::new(status(&manifest)),
        groups: (0..groups)
            .map(|number| Group {
                figures: OfGroup {
                    name: Some(name(number)),
                    mode: manifest.groups.get(number as usize).map(|group| group.mode.clone()),
                    blocked: u64::from(number) * 1_000_003,
                    ..OfGroup::default()
                },
                pace: Some(pace(number)),
                recent: (0..60).map(|packets| packets * u64::from(number)).collect(),
            })
            .collect(),
        sources: (0..sources).map(|number| line(number, name(number % groups), pace(number), at)).collect(),
        manifest,
        evicted: 0,
    }
}

fn line(number: u32, group: String, pace: Pace, at: Timestamp) -> Line {
    let address = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(203, 0, 113, 0)) + number);
    let prefix = IpNetwork::from(std::net::IpAddr::from(address));
    // Most attempts first, as they come; the other figures have other orders.
    let attempts = 1_000_000 - u64::from(number);
    let source = Source {
        source: short(&prefix),
        customer: Some(group),
        packets: attempts * 11,
        bytes: attempts * 660,
        attempts,
        destinations: u64::from(number) * 7 % 100,
        first_seen: at,
        last_seen: at,
        last_destination: [192, 0, 2, 1].into(),
        attempts_per_minute: 0.5,
        triage: [None, Some(Label::Bot), Some(Label::Settings), Some(Label::Quiet)]
            .get(number as usize % 4)
            .copied()
            .flatten(),
        reasons: vec![ByReason { reason: "blocked", packets: attempts * 11, attempts }],
        prefix,
    };
    Line { source, pace: Some(pace) }
}

fn status(manifest: &Manifest) -> Status {
    Status {
        enforcing: true,
        state: "enforcing",
        instance: "edge".to_owned(),
        generation: manifest.generation,
        daemon: true,
        groups: manifest.groups.clone(),
        ..Status::default()
    }
}
