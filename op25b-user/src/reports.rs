//! Reports over all sources: who has to move, whom to warn, who is infected.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use anyhow::Result;
use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::verdict::Reason;
use serde::Serialize;

use crate::{
    history::{Known, Moment, Pair, Span, Submissions, Sum, anonymous, zone},
    instance::Instance,
    manifest::Manifest,
    policy::{Triage, short},
    sources::{self, Label, is_outside},
};

/// What a report is of.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The span.
    pub span: Span,
    /// Only this group.
    pub group: Option<String>,
    /// Whether addresses are shortened.
    pub anonymize: bool,
}

impl Scope {
    fn has(&self, customer: Option<&str>) -> bool {
        self.group.as_deref().is_none_or(|group| customer == Some(group))
    }

    fn shown(&self, source: &IpNetwork) -> String {
        if self.anonymize { short(&anonymous(source)) } else { short(source) }
    }
}

/// From when on a source is a bot, or quiet, for people who look at a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// Destinations.
    pub bot_destinations: u64,
    /// Attempts a minute.
    pub bot_attempts_per_minute: u64,
    /// Seconds of silence.
    pub quiet_after: u64,
}

impl Thresholds {
    /// Those of a policy.
    #[must_use]
    pub const fn of(triage: &Triage) -> Self {
        Self {
            bot_destinations: triage.bot_destinations,
            bot_attempts_per_minute: triage.bot_attempts_per_minute,
            quiet_after: triage.quiet_after.as_secs(),
        }
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "bot? from {} servers within two hours or {} attempts a minute on, quiet after {}",
            self.bot_destinations,
            self.bot_attempts_per_minute,
            humantime::format_duration(Duration::from_secs(self.quiet_after))
        )
    }
}

/// `op25b report migration --json`.
#[derive(Debug, Serialize)]
pub struct Migration {
    /// Since when; none: all that is kept.
    pub since: Option<Moment>,
    /// The groups.
    pub groups: Vec<GroupCount>,
    /// Who still uses port 25, outside first.
    pub sources: Vec<Mover>,
    /// Connections to the relays' ports 587 and 465.
    pub submission: Vec<Submissions>,
    /// What this is based on.
    pub notes: Vec<String>,
}

/// Sources of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupCount {
    /// The group; none for sources in no group.
    pub customer: Option<String>,
    /// Those that use port 25 outside.
    pub outside: u64,
    /// Their attempts.
    pub outside_attempts: u64,
    /// Those that use port 25 to the relays.
    pub relay: u64,
    /// Their attempts.
    pub relay_attempts: u64,
}

/// A source that still uses port 25.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mover {
    /// The customer's address, or its IPv6 prefix.
    pub source: String,
    /// The group.
    pub customer: Option<String>,
    /// Many customers share the address.
    pub shared: bool,
    /// Frames to servers outside.
    pub outside_packets: u64,
    /// Attempts there.
    pub outside_attempts: u64,
    /// Frames to the relays.
    pub relay_packets: u64,
    /// Attempts there.
    pub relay_attempts: u64,
    /// Why.
    pub reasons: Vec<&'static str>,
    /// The first frame.
    pub first_seen: Moment,
    /// The last frame.
    pub last_seen: Moment,
}

/// `op25b report destinations --json`.
#[derive(Debug, Serialize)]
pub struct Destinations {
    /// Since when; none: all that is kept.
    pub since: Option<Moment>,
    /// Servers outside, those of most customers first.
    pub servers: Vec<Server>,
    /// What this is based on.
    pub notes: Vec<String>,
}

/// A server outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its address.
    pub destination: String,
    /// Sources that were there.
    pub customers: u64,
    /// The same by group.
    pub groups: Vec<InGroup>,
    /// When one was there last.
    pub last_seen: Moment,
}

/// Sources of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InGroup {
    /// The group.
    pub customer: Option<String>,
    /// Sources.
    pub customers: u64,
}

/// `op25b report abuse --json`.
#[derive(Debug, Serialize)]
pub struct Abuse {
    /// Since when; none: all that is kept.
    pub since: Option<Moment>,
    /// From when on a source is a bot.
    pub thresholds: Thresholds,
    /// Those, most destinations first.
    pub sources: Vec<Suspect>,
    /// Addresses of `shared` groups that do as much: who, nobody can tell.
    pub shared: Vec<Suspect>,
    /// What this is based on.
    pub notes: Vec<String>,
}

/// A source that does as much as a bot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// The customer's address, or its IPv6 prefix.
    pub source: String,
    /// The group.
    pub customer: Option<String>,
    /// What it looks like; none in a `shared` group.
    pub triage: Option<Label>,
    /// Most different servers at a time.
    pub destinations: u64,
    /// Most attempts a minute.
    pub attempts_per_minute: f64,
    /// Attempts in the hours in which it did.
    pub attempts: u64,
    /// Frames in those hours.
    pub packets: u64,
    /// The first frame in them.
    pub first_seen: Moment,
    /// The last frame in them.
    pub last_seen: Moment,
    /// Whether it has been silent since for as long as the policy calls quiet.
    pub quiet: bool,
}

struct Base<'m> {
    known: Known,
    zone: TimeZone,
    manifest: &'m Manifest,
}

impl<'m> Base<'m> {
    fn gather(instance: &Instance, manifest: &'m Manifest, scope: &Scope) -> Result<Self> {
        let mut known = Known::gather(instance, manifest, None)?;
        let zone = zone(&manifest.timezone);
        if known.history {
            known.notes.insert(0, "based on the history and on the accounts as they are now".to_owned());
        }
        known.notes.extend(known.reader.gaps(scope.span)?.iter().map(|gap| gap.sentence(&zone)));
        Ok(Self { known, zone, manifest })
    }

    fn moment(&self, at: Timestamp) -> Moment {
        Moment::new(at, &self.zone)
    }

    fn since(&self, span: Span) -> Option<Moment> {
        (span.from != Span::ALL.from).then(|| self.moment(span.from))
    }

    fn is_shared(&self, customer: Option<&str>) -> bool {
        self.manifest.groups.iter().any(|group| group.shared && Some(group.name.as_str()) == customer)
    }
}

/// Who still uses port 25 outside, and who to the relays.
///
/// # Errors
///
/// When the history cannot be read.
pub fn migration(instance: &Instance, manifest: &Manifest, scope: &Scope) -> Result<Migration> {
    let base = Base::gather(instance, manifest, scope)?;
    let mut by_source: BTreeMap<(IpNetwork, Option<String>), Vec<Sum>> = BTreeMap::new();
    for sum in base.known.reader.sums(scope.span)? {
        let counts = sum.reason == Reason::Relay.name() || sources::is_outside_name(sum.reason);
        if counts && scope.has(sum.customer.as_deref()) {
            by_source.entry((sum.source, sum.customer.clone())).or_default().push(sum);
        }
    }
    let mut groups: BTreeMap<Option<String>, GroupCount> = BTreeMap::new();
    let mut sources = Vec::new();
    for ((source, customer), sums) in by_source {
        let (Some(first), Some(last)) =
            (sums.iter().map(|sum| sum.first).min(), sums.iter().map(|sum| sum.last).max())
        else {
            continue;
        };
        let total = |outside: bool, of: fn(&Sum) -> u64| -> u64 {
            sums.iter().filter(|sum| sources::is_outside_name(sum.reason) == outside).map(of).sum()
        };
        let outside = sums.iter().filter(|sum| sources::is_outside_name(sum.reason));
        let mover = Mover {
            source: scope.shown(&source),
            shared: base.is_shared(customer.as_deref()),
            customer: customer.clone(),
            outside_packets: total(true, |sum| sum.packets),
            outside_attempts: sources::tried(outside.map(|sum| (sum.reason, sum.attempts))),
            relay_packets: total(false, |sum| sum.packets),
            relay_attempts: total(false, |sum| sum.attempts),
            reasons: sums.iter().map(|sum| sum.reason).collect::<BTreeSet<_>>().into_iter().collect(),
            first_seen: base.moment(first),
            last_seen: base.moment(last),
        };
        let group = groups
            .entry(customer.clone())
            .or_insert_with(|| GroupCount { customer, ..GroupCount::default() });
        group.outside += u64::from(mover.outside_packets != 0);
        group.outside_attempts += mover.outside_attempts;
        group.relay += u64::from(mover.relay_packets != 0);
        group.relay_attempts += mover.relay_attempts;
        sources.push(mover);
    }
    sources.sort_by(|one, other| {
        let figures = |mover: &Mover| (mover.outside_attempts, mover.outside_packets, mover.relay_attempts);
        figures(other).cmp(&figures(one))
    });
    let mut submission = base.known.reader.submissions(scope.span, &base.zone)?;
    submission.retain(|day| scope.has(day.customer.as_deref()));
    let mut notes = base.known.notes.clone();
    if !manifest.outputs.count_submission {
        notes.push(
            "connections to ports 587 and 465 are not counted (`count_submission: true` in the policy)"
                .to_owned(),
        );
    } else if !base.known.history {
        notes.push("the days of ports 587 and 465 are known from the history only".to_owned());
    }
    Ok(Migration {
        since: base.since(scope.span),
        groups: groups.into_values().collect(),
        sources,
        submission,
        notes,
    })
}

/// Servers outside, and how many customers use each.
///
/// # Errors
///
/// When the history cannot be read.
pub fn destinations(instance: &Instance, manifest: &Manifest, scope: &Scope) -> Result<Destinations> {
    let base = Base::gather(instance, manifest, scope)?;
    let mut pairs = base.known.reader.visits(scope.span)?;
    let mut notes = base.known.notes.clone();
    let keeps = manifest.outputs.history.as_ref().is_some_and(|config| config.keep_destinations.is_some());
    if base.known.history && !keeps {
        notes.push(
            "destinations are not kept (`keep_destinations: true` in `history:` keeps them for 7 days)"
                .to_owned(),
        );
    }
    notes.push(
        "of each source only the last server is known at a time, one every 30 seconds: who tries many is at more than \
         are counted"
            .to_owned(),
    );
    let outside = base.known.accounts.iter().filter(|account| is_outside(account.reason));
    pairs.extend(outside.filter(|account| scope.span.touches(account.last, account.last)).map(|account| {
        Pair {
            destination: account.last_destination,
            source: account.source,
            customer: manifest.group(account.group).map(str::to_owned),
            last: account.last,
        }
    }));
    let mut servers: BTreeMap<String, Visitors> = BTreeMap::new();
    for pair in pairs.into_iter().filter(|pair| scope.has(pair.customer.as_deref())) {
        let shown = scope.shown(&IpNetwork::from(pair.destination));
        let visitors = servers.entry(shown).or_default();
        visitors.sources.insert((pair.customer, pair.source));
        visitors.last = visitors.last.max(pair.last);
    }
    let mut servers: Vec<Server> = servers
        .into_iter()
        .map(|(destination, Visitors { sources, last })| {
            let mut groups: BTreeMap<Option<String>, u64> = BTreeMap::new();
            for (customer, _) in &sources {
                *groups.entry(customer.clone()).or_default() += 1;
            }
            let different: BTreeSet<&IpNetwork> = sources.iter().map(|(_, source)| source).collect();
            Server {
                destination,
                customers: different.len() as u64,
                groups: groups
                    .into_iter()
                    .map(|(customer, customers)| InGroup { customer, customers })
                    .collect(),
                last_seen: base.moment(last),
            }
        })
        .collect();
    servers.sort_by_key(|server| std::cmp::Reverse(server.customers));
    Ok(Destinations { since: base.since(scope.span), servers, notes })
}

/// Sources that look infected.
///
/// # Errors
///
/// When the history cannot be read.
pub fn abuse(instance: &Instance, manifest: &Manifest, scope: &Scope, now: Timestamp) -> Result<Abuse> {
    let base = Base::gather(instance, manifest, scope)?;
    let triage = &manifest.outputs.triage;
    let mut suspects: HashMap<(IpNetwork, Option<String>), Figures> = HashMap::new();
    let hours =
        base.known.reader.busy_hours(scope.span, triage.bot_destinations, triage.bot_attempts_per_minute)?;
    for hour in hours {
        let rate = sources::per_minute(hour.attempts, hour.first, hour.last);
        let figures = Figures {
            destinations: hour.destinations,
            rate,
            attempts: hour.attempts,
            packets: hour.packets,
            first: hour.first,
            last: hour.last,
        };
        suspects
            .entry((hour.source, hour.customer))
            .and_modify(|known| known.add(&figures))
            .or_insert(figures);
    }
    // Two hours together can be more than each of them.
    for source in sources::summarise(&base.known.accounts, manifest, now, is_outside) {
        let silent = Duration::ZERO;
        let busy =
            sources::label(triage, source.destinations, source.attempts_per_minute, silent) == Label::Bot;
        if source.attempts == 0 || !busy || !scope.span.touches(source.first_seen, source.last_seen) {
            continue;
        }
        suspects
            .entry((source.prefix, source.customer))
            .and_modify(|known| {
                known.destinations = known.destinations.max(source.destinations);
                known.rate = known.rate.max(source.attempts_per_minute);
                known.last = known.last.max(source.last_seen);
            })
            .or_insert(Figures {
                destinations: source.destinations,
                rate: source.attempts_per_minute,
                attempts: source.attempts,
                packets: source.packets,
                first: source.first_seen,
                last: source.last_seen,
            });
    }
    let mut rows: Vec<Suspect> = suspects
        .into_iter()
        .filter(|((_, customer), _)| scope.has(customer.as_deref()))
        .map(|((source, customer), figures)| {
            let shared = base.is_shared(customer.as_deref());
            let silent = Duration::try_from(now.duration_since(figures.last)).unwrap_or_default();
            Suspect {
                source: scope.shown(&source),
                customer,
                triage: (!shared).then_some(Label::Bot),
                destinations: figures.destinations,
                attempts_per_minute: (figures.rate * 10.0).round() / 10.0,
                attempts: figures.attempts,
                packets: figures.packets,
                first_seen: base.moment(figures.first),
                last_seen: base.moment(figures.last),
                quiet: silent >= triage.quiet_after,
            }
        })
        .collect();
    rows.sort_by(|one, other| {
        (other.destinations, other.attempts, &one.source).cmp(&(
            one.destinations,
            one.attempts,
            &other.source,
        ))
    });
    let (shared, sources) = rows.into_iter().partition(|row| row.triage.is_none());
    Ok(Abuse {
        since: base.since(scope.span),
        thresholds: Thresholds::of(triage),
        sources,
        shared,
        notes: base.known.notes,
    })
}

/// Who was at a server.
#[derive(Default)]
struct Visitors {
    sources: BTreeSet<(Option<String>, IpNetwork)>,
    last: Timestamp,
}

/// The highest of several hours, and their sums.
struct Figures {
    destinations: u64,
    rate: f64,
    attempts: u64,
    packets: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.destinations = self.destinations.max(other.destinations);
        self.rate = self.rate.max(other.rate);
        self.attempts += other.attempts;
        self.packets += other.packets;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}
