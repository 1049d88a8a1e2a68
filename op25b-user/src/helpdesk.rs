//! All that is known of one customer's address, and what to tell the customer: for the help desk.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    document::Mode,
    explain::{self, Syn},
    history::{Hourly, Known, Moment, Span, zone},
    instance::Instance,
    manifest::Manifest,
    policy::{Exception, Group, Override, Policy, longest, short},
    relays,
    reports::Thresholds,
    situation::{Situation, Suspended},
    sources::{self, Account, Label, Source, is_outside},
};

/// `op25b source --json`.
#[derive(Debug, Serialize)]
pub struct Desk {
    /// The address that was asked for.
    pub address: IpAddr,
    /// The span that counts, with `--at`.
    pub from: Option<Moment>,
    /// Its end.
    pub to: Option<Moment>,
    /// The group that it is in now; none for no group.
    pub customer: Option<String>,
    /// What that group does now.
    pub mode: Option<String>,
    /// Many customers share the address.
    pub shared: bool,
    /// Why it may send.
    pub exemption: Option<Exceptional>,
    /// Why it may not.
    pub quarantine: Option<Exceptional>,
    /// What would happen now.
    pub decisions: Vec<Decision>,
    /// What the kernel knows of it; not with `--at`.
    pub live: Vec<Source>,
    /// From when on a source is a bot, or quiet.
    pub thresholds: Thresholds,
    /// What it did, hour by hour.
    pub history: Vec<Hourly>,
    /// What to tell the customer.
    pub advice: Vec<String>,
    /// What this is based on, and what could not be read.
    pub notes: Vec<String>,
}

/// An exemption or a quarantine that holds.
#[derive(Clone, Debug, Serialize)]
pub struct Exceptional {
    /// Of which prefix.
    pub prefix: String,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// Until when; none: for good.
    pub expires: Option<Moment>,
}

/// What the running generation does with a SYN to port 25.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// `outside`, `destinations` (those of the group) or `relay`.
    pub to: &'static str,
    /// Which relay.
    pub relay: Option<String>,
    /// The address that was tried.
    pub destination: IpAddr,
    /// `pass`, `drop`, `reset` or `notice`.
    pub verdict: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl Decision {
    fn blocks(&self) -> bool {
        self.verdict != "pass"
    }
}

/// Asks all there is to ask. What cannot be read is said in the notes.
///
/// # Errors
///
/// When there is no memory for it.
pub fn look(
    instance: &Instance,
    manifest: &Manifest,
    address: IpAddr,
    around: Option<Span>,
    now: Timestamp,
) -> Result<Desk> {
    let zone = zone(&manifest.timezone);
    let prefix = IpNetwork::from(address);
    let known = Known::gather(instance, manifest, Some(&prefix))?;
    let mut notes = known.notes;
    let yesterday = now.as_second().saturating_sub(24 * 3600);
    let span =
        around.unwrap_or(Span { from: Timestamp::from_second(yesterday).unwrap_or(now), to: Timestamp::MAX });
    let history = known.reader.hours(&prefix, span).unwrap_or_else(|error| {
        notes.push(format!("{error:#}"));
        Vec::new()
    });
    match known.reader.gaps(span) {
        Ok(gaps) => notes.extend(gaps.iter().map(|gap| gap.sentence(&zone))),
        Err(error) => notes.push(format!("{error:#}")),
    }
    let live = match around {
        None => live(&known.accounts, manifest, now),
        Some(_) => Vec::new(),
    };
    let moment = |at| Moment::new(at, &zone);
    if let Some(span) = around {
        notes.push(format!(
            "addresses change hands: only what was done from {} to {} counts; group, exemption and what would happen \
             are those of now",
            moment(span.from),
            moment(span.to)
        ));
    }
    let mut desk = Desk {
        address,
        from: around.map(|span| moment(span.from)),
        to: around.map(|span| moment(span.to)),
        customer: None,
        mode: None,
        shared: false,
        exemption: None,
        quarantine: None,
        decisions: Vec::new(),
        live,
        thresholds: Thresholds::of(&manifest.outputs.triage),
        history,
        advice: Vec::new(),
        notes,
    };
    let policy = match Policy::read(&manifest.policy, &Override::default()) {
        Ok(policy) => {
            if policy.hash != manifest.hash {
                desk.notes.push(format!(
                    "{} has changed since it took force: exemptions are shown as it says now",
                    manifest.policy.display()
                ));
            }
            Some(policy)
        }
        Err(invalid) => {
            desk.notes.push(format!(
                "the policy file cannot be used any more, so no exemption, quarantine or relay is shown: {}",
                invalid.errors.join("; ")
            ));
            None
        }
    };
    desk.decide(instance, manifest, policy.as_ref(), now);
    let group = policy.as_ref().and_then(|policy| {
        let name = desk.customer.as_deref()?;
        policy.groups.iter().find(|group| group.name == name)
    });
    desk.advice = advice(&desk, manifest, group, around.is_some(), now);
    Ok(desk)
}

/// All that sources do, with a label for what they do outside: an exempt mail server knows many others.
fn live(accounts: &[Account], manifest: &Manifest, now: Timestamp) -> Vec<Source> {
    let mut live = sources::summarise(accounts, manifest, now, |_| true);
    let outside = sources::summarise(accounts, manifest, now, is_outside);
    for source in &mut live {
        let same = |one: &&Source| one.prefix == source.prefix && one.customer == source.customer;
        let outside = outside.iter().find(same);
        source.triage = outside.and_then(|outside| outside.triage);
        if let Some(outside) = outside {
            source.destinations = outside.destinations;
            source.attempts_per_minute = outside.attempts_per_minute;
        }
    }
    live
}

impl Desk {
    fn decide(&mut self, instance: &Instance, manifest: &Manifest, policy: Option<&Policy>, now: Timestamp) {
        // Of three, one is no relay. Nothing is sent: the kernel's program only answers.
        let mut group = None;
        let mut outside: Option<Decision> = None;
        for destination in strangers(self.address.is_ipv6()) {
            let Some((decision, customer)) = self.ask(instance, manifest, "outside", destination) else {
                break;
            };
            group = customer;
            if outside.as_ref().is_none_or(|known| known.reason == "relay") {
                outside = Some(decision);
            }
        }
        self.decisions.extend(outside);
        if let Some(policy) = policy {
            let situation = Situation {
                suspended: manifest.suspended.clone(),
                ..relays::situation(instance, policy, now)
            };
            let ipv6 = self.address.is_ipv6();
            let family = |prefix: &&IpNetwork| prefix.is_ipv6() == ipv6;
            if self.decisions.is_empty() {
                let own = longest(&policy.groups, |group| &group.prefixes, self.address);
                group = own.map(|(_, group)| group.name.clone());
            }
            let own = policy.groups.iter().find(|known| Some(&known.name) == group.as_ref());
            if let Some(scope) = own.and_then(|group| group.destinations.iter().find(family)) {
                let asked = self.ask(instance, manifest, "destinations", scope.network());
                self.decisions.extend(asked.map(|(decision, _)| decision));
            }
            for relay in &policy.relays {
                if let Some(prefix) = situation.addresses(relay).iter().find(family) {
                    let asked = self.ask(instance, manifest, "relay", prefix.network());
                    let named = |(decision, _)| Decision { relay: Some(relay.name.clone()), ..decision };
                    self.decisions.extend(asked.map(named));
                }
            }
            let zone = &policy.timezone;
            let best = |entries: &[Exception], holds: bool| {
                let entries = entries.iter().filter(|entry| holds && situation.holds(entry));
                let found = longest(entries, |entry| &entry.prefixes, self.address);
                found.map(|(prefix, entry)| Exceptional {
                    prefix: short(prefix),
                    reason: entry.reason.clone(),
                    ticket: entry.ticket.clone(),
                    expires: entry.expires.map(|end| Moment::new(end, zone)),
                })
            };
            self.exemption = best(&policy.exemptions, true);
            self.quarantine = best(&policy.quarantine, situation.quarantines());
        }
        let settings = manifest.groups.iter().find(|known| Some(&known.name) == group.as_ref());
        self.mode = settings.map(|group| group.mode.clone());
        self.shared = settings.is_some_and(|group| group.shared);
        self.customer = group;
    }

    /// What happens to a SYN, and the group that its source is in.
    fn ask(
        &mut self,
        instance: &Instance,
        manifest: &Manifest,
        to: &'static str,
        destination: IpAddr,
    ) -> Option<(Decision, Option<String>)> {
        let syn = Syn { source: self.address, destination, source_port: 40_000, destination_port: 25 };
        match explain::by_generation(manifest, instance, "customer", syn) {
            Ok(answer) => {
                let (verdict, reason) = (answer.verdict, answer.reason);
                Some((Decision { to, relay: None, destination, verdict, reason }, answer.customer))
            }
            Err(error) => {
                let note = format!("what would happen cannot be asked: {error:#}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                None
            }
        }
    }
}

/// Addresses of the documentation ranges, which no policy has for customers all at once.
pub(crate) fn strangers(ipv6: bool) -> Vec<IpAddr> {
    let addresses: [[u16; 8]; 3] = [
        [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe],
        [0x3fff, 0xfff, 0, 0, 0, 0, 0, 0xfe],
        [0x2001, 0xdb8, 0, 0xffff, 0, 0, 0, 0xfe],
    ];
    if ipv6 {
        return addresses.into_iter().map(|words| std::net::Ipv6Addr::from(words).into()).collect();
    }
    [[192, 0, 2, 254], [198, 51, 100, 254], [203, 0, 113, 254]].into_iter().map(IpAddr::from).collect()
}

/// What was seen, as far as it is told to the customer.
#[derive(Default)]
struct Seen {
    outside: u64,
    attempts: u64,
    relay: u64,
    destinations: u64,
    label: Option<Label>,
}

impl Seen {
    fn of(desk: &Desk, manifest: &Manifest) -> Self {
        let outside = desk.history.iter().filter(|hour| sources::is_outside_name(hour.reason));
        let attempts = sources::tried(outside.map(|hour| (hour.reason, hour.attempts)));
        let mut seen = Self { attempts, ..Self::default() };
        let triage = &manifest.outputs.triage;
        for hour in &desk.history {
            if hour.reason == "relay" {
                seen.relay += hour.packets;
            } else if sources::is_outside_name(hour.reason) {
                seen.outside += hour.packets;
                seen.destinations = seen.destinations.max(hour.destinations);
                let rate = sources::per_minute(hour.attempts, hour.first.at, hour.last.at);
                let label = sources::label(triage, hour.destinations, rate, Duration::ZERO);
                if hour.attempts != 0 && seen.label != Some(Label::Bot) {
                    seen.label = Some(label);
                }
            }
        }
        if desk.from.is_some() {
            return seen;
        }
        for source in &desk.live {
            for by in &source.reasons {
                if by.reason == "relay" {
                    seen.relay = seen.relay.max(by.packets);
                } else if sources::is_outside_name(by.reason) {
                    seen.outside = seen.outside.max(by.packets);
                }
            }
            if seen.outside != 0 && seen.label != Some(Label::Bot) {
                seen.label = source.triage.or(seen.label);
            }
        }
        seen
    }
}

const SETTINGS: &str = "in the mail program, change the port of the outgoing server (SMTP) from 25 to 587 (or 465) \
                        and turn on SMTP authentication (user name and password)";

fn advice(
    desk: &Desk,
    manifest: &Manifest,
    group: Option<&Group>,
    then: bool,
    now: Timestamp,
) -> Vec<String> {
    let seen = Seen::of(desk, manifest);
    let mut advice = Vec::new();
    let why = |entry: &Exceptional| {
        let words = [entry.reason.as_deref(), entry.ticket.as_deref()];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
    };
    let until = |entry: &Exceptional| {
        entry.expires.map_or_else(|| "for good".to_owned(), |end| format!("until {end}"))
    };
    if let Some(entry) = &desk.quarantine {
        advice.push(format!(
            "quarantined {}{}: it cannot send on port 25 before the machine is cleaned and the quarantine is removed",
            until(entry),
            why(entry)
        ));
    } else if let Some(entry) = &desk.exemption {
        advice.push(format!("exempt {}{}: port 25 is open for this customer", until(entry), why(entry)));
    }
    match &manifest.suspended {
        Suspended::Nothing => {}
        suspended if desk.customer.as_deref().is_some_and(|group| suspended.includes(group)) => {
            advice.push("blocking is suspended for now: trouble with mail has another cause".to_owned());
        }
        _ => {}
    }
    if desk.shared {
        advice.push(
            "many customers share this address and cannot be told apart: what was seen may be another's; ask which \
             port the customer's mail program uses"
                .to_owned(),
        );
    }
    let blocked = desk.decisions.iter().any(|decision| decision.blocks() && decision.relay.is_none());
    let outside = seen.outside != 0;
    // Who is not looked at has not been seen, whatever it does.
    let unseen = !manifest.outputs.account_sources;
    match seen.label {
        _ if unseen && blocked => advice.push(format!("if it uses port 25, that is blocked: {SETTINGS}")),
        _ if desk.shared || !outside => {}
        Some(Label::Bot) => advice.push(format!(
            "probably infected: {} attempts to about {} servers outside{}; have every device behind this connection \
             checked for malware, and then change the mail passwords",
            seen.attempts,
            seen.destinations.max(desk.live.iter().map(|source| source.destinations).max().unwrap_or(0)),
            if then { " then" } else { "" },
        )),
        Some(Label::Quiet) if desk.exemption.is_none() => advice.push(format!(
            "it has tried nothing for a while; if mail still fails: {SETTINGS}"
        )),
        _ if desk.exemption.is_some() || desk.quarantine.is_some() => {}
        _ if blocked => advice.push(format!("mail on port 25 is blocked: {SETTINGS}")),
        _ => advice.push(match group.and_then(|group| group.enforce_from).filter(|from| *from > now) {
            Some(from) => format!(
                "not blocked yet, but from {} on: {SETTINGS}",
                Moment::new(from, &zone(&manifest.timezone))
            ),
            None => format!("not blocked now, but it sends past our mail servers on port 25: {SETTINGS}"),
        }),
    }
    if seen.relay != 0 {
        advice.push(
            "it uses port 25 to our own mail server, which goes on working; port 587 with SMTP authentication is \
             recommended"
                .to_owned(),
        );
    }
    if !outside && seen.relay == 0 && !unseen {
        let used = desk.history.iter().any(|hour| hour.packets != 0) || !desk.live.is_empty();
        if !used {
            advice.push(format!(
                "nothing on port 25 was seen from this address{}: trouble with mail has another cause, or the \
                 customer has another address",
                if then { " then" } else { "" }
            ));
        }
    }
    if desk.customer.is_none() && desk.quarantine.is_none() && !desk.decisions.is_empty() {
        advice.push("the address is in no customer group".to_owned());
    }
    if group.is_some_and(|group| group.mode == Mode::Off) {
        advice.push("its group is off: nothing of it is blocked".to_owned());
    }
    advice
}
