//! Relays that the policy names by their hostname: the DNS is asked as often as its answers say, and what it said
//! last holds while it says nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    document::printable,
    durable,
    instance::Instance,
    policy::{Policy, Relay, contains},
    situation::Situation,
};

/// Addresses that a hostname may have.
pub const MOST: usize = 32;
/// How long an address holds after the DNS named it last: round robin answers with a few at a time.
const HOLDS: SignedDuration = SignedDuration::from_hours(24);
/// How old what is on the disk may be.
const WRITTEN: SignedDuration = SignedDuration::from_secs(60);
/// The DNS is not asked more often than this, whatever it says, and not less often.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// How long an answer may take.
const LIMIT: Duration = Duration::from_millis(2500);
/// When it is asked again after it did not answer.
const AGAIN: Duration = Duration::from_secs(10);
/// How long a policy waits for hostnames of which nothing is known yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the DNS said of one hostname.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// Its addresses, and when each was named last.
    pub addresses: BTreeMap<IpAddr, Timestamp>,
    /// When the last good answer came.
    pub answered: Option<Timestamp>,
    /// The name that it is an alias of.
    pub alias: Option<String>,
    /// Why the last question has no answer that can be used.
    pub failure: Option<String>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    hostname: String,
    said: Result<Said, String>,
}

#[derive(Debug)]
struct Said {
    addresses: BTreeSet<IpAddr>,
    alias: Option<String>,
    /// Why there is no answer for IPv4, for IPv6.
    failures: [Option<String>; 2],
}

/// What is known of all hostnames, and who asks.
pub struct Relays {
    known: BTreeMap<String, Known>,
    path: PathBuf,
    server: Option<SocketAddr>,
    answers: mpsc::Sender<Answer>,
    asked: BTreeSet<String>,
    asking: JoinSet<()>,
    /// Of which somebody has been told where they differ from the policy.
    compared: BTreeSet<String>,
}

impl Relays {
    /// Reads what was known when the daemon ran last. `server` is asked in place of those in `/etc/resolv.conf`.
    #[must_use]
    pub fn new(instance: &Instance, server: Option<SocketAddr>, answers: mpsc::Sender<Answer>) -> Self {
        let known = remembered(instance).unwrap_or_else(|error| {
            log::warn!("{error:#}; the relays' names are asked for anew");
            BTreeMap::new()
        });
        let (asked, asking, compared) = (BTreeSet::new(), JoinSet::new(), BTreeSet::new());
        Self { known, path: path(instance), server, answers, asked, asking, compared }
    }

    /// Asks for the hostnames of a policy from here on.
    pub fn ask_for(&mut self, policy: &Policy) {
        self.compared.clear();
        let wanted: BTreeSet<String> = hostnames(policy).map(|(_, name)| name.to_owned()).collect();
        if wanted == self.asked {
            return;
        }
        self.asking = JoinSet::new();
        if !wanted.is_empty() {
            match resolver(self.server) {
                Ok(resolver) => {
                    for hostname in wanted.clone() {
                        self.asking.spawn(ask(resolver.clone(), hostname, self.answers.clone()));
                    }
                }
                Err(error) => log::error!("cannot ask the DNS for the relays' names: {error:#}"),
            }
        }
        self.asked = wanted;
    }

    /// Waits a moment for answers to questions that never had one.
    pub async fn wait_for_unknown(&mut self, policy: &Policy, answers: &mut mpsc::Receiver<Answer>) {
        let unknown = |relays: &Self| {
            hostnames(policy).any(|(_, name)| {
                relays
                    .known
                    .get(name)
                    .is_none_or(|known| known.addresses.is_empty() && known.failure.is_none())
            })
        };
        let end = Instant::now() + PATIENCE;
        while unknown(self) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(Some(answer)) = timeout(left, answers.recv()).await else { return };
            self.take(policy, answer, Timestamp::now());
        }
    }

    /// Takes an answer. What is refused of it, and what changes, is logged.
    pub fn take(&mut self, policy: &Policy, answer: Answer, now: Timestamp) {
        let Answer { hostname, said } = answer;
        let known = self.known.entry(hostname.clone()).or_default();
        let before: BTreeSet<IpAddr> = known.addresses.keys().copied().collect();
        let written = known.answered;
        let holds = |seen: &Timestamp| now.duration_since(*seen) < HOLDS;
        let held =
            known.addresses.iter().filter(|(_, seen)| holds(seen)).map(|(address, _)| *address).collect();
        let failure = match said.and_then(|said| usable(policy, &hostname, &held, said)) {
            Ok((said, refused)) => {
                for address in said.addresses {
                    known.addresses.insert(address, now);
                }
                // Only a good answer takes anything away, of its own family.
                known.addresses.retain(|address, seen| {
                    let failed = &said.failures[usize::from(address.is_ipv6())];
                    failed.is_some() || holds(seen)
                });
                known.answered = Some(now);
                known.alias = said.alias;
                let [ipv4, ipv6] = said.failures;
                let all: Vec<String> = refused.into_iter().chain(ipv4).chain(ipv6).collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
            Err(failure) => Some(failure),
        };
        let changed = failure != known.failure;
        if failure != known.failure {
            match &failure {
                Some(failure) => log::warn!("{hostname}: {failure}; {}", rest(before.len())),
                None if known.failure.is_some() => log::info!("{hostname}: the DNS answers again"),
                None => {}
            }
            known.failure = failure;
        }
        let after: BTreeSet<IpAddr> = known.addresses.keys().copied().collect();
        if after != before {
            log::info!("{hostname}: {}", changes(&before, &after));
        }
        let anew = known.answered == Some(now) && self.compared.insert(hostname.clone());
        if anew || after != before {
            compare(policy, &hostname, &after);
        }
        // The disk need not know each time that nothing is new.
        let old = written.is_none_or(|written| now.duration_since(written) > WRITTEN);
        if (changed || after != before || old)
            && let Err(error) = self.write()
        {
            log::warn!("{error:#}; a restart without DNS will not know the relays");
        }
    }

    /// The addresses of a policy's relays, by the relay's name.
    #[must_use]
    pub fn addresses(&self, policy: &Policy) -> BTreeMap<String, BTreeSet<IpAddr>> {
        addresses(&self.known, policy)
    }

    fn write(&self) -> Result<()> {
        durable::replace(&self.path, &serde_json::to_string_pretty(&self.known)?)
    }
}

/// A moment, and the relays as a daemon of this instance knew them last.
#[must_use]
pub fn situation(instance: &Instance, policy: &Policy, moment: Timestamp) -> Situation {
    // Nobody else's business on a machine where no daemon has run, or for who may not read what it knew.
    let known = remembered(instance).unwrap_or_default();
    Situation { resolved: addresses(&known, policy), ..Situation::at(moment) }
}

/// What a daemon of this instance knew last, by hostname.
///
/// # Errors
///
/// When it cannot be read.
pub fn remembered(instance: &Instance) -> Result<BTreeMap<String, Known>> {
    let path = path(instance);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The addresses of a policy's relays, by the relay's name, as far as they are known.
#[must_use]
pub fn addresses(known: &BTreeMap<String, Known>, policy: &Policy) -> BTreeMap<String, BTreeSet<IpAddr>> {
    hostnames(policy)
        .map(|(relay, name)| {
            let addresses = known.get(name).into_iter().flat_map(|known| known.addresses.keys().copied());
            // The policy may have become narrower than what was once taken.
            (
                relay.name.clone(),
                addresses.filter(|address| refusal(policy, relay, *address).is_none()).collect(),
            )
        })
        .collect()
}

/// The relays that have a hostname, and that.
fn hostnames(policy: &Policy) -> impl Iterator<Item = (&Relay, &str)> {
    policy.relays.iter().filter_map(|relay| Some((relay, relay.hostname.as_deref()?)))
}

/// What of an answer can be used, addresses that no relay of the name refuses; and what cannot.
fn usable(
    policy: &Policy,
    hostname: &str,
    held: &BTreeSet<IpAddr>,
    mut said: Said,
) -> Result<(Said, Option<String>), String> {
    // Together, since an answer can be another each time.
    let all = held.union(&said.addresses).count();
    if all > MOST && !said.addresses.is_subset(held) {
        return Err(format!("the DNS names {all} addresses within a day, {MOST} at most are taken"));
    }
    let relays: Vec<&Relay> =
        hostnames(policy).filter(|(_, name)| *name == hostname).map(|(relay, _)| relay).collect();
    let mut refused = Vec::new();
    said.addresses.retain(|address| {
        let why: Option<Vec<String>> = relays.iter().map(|relay| refusal(policy, relay, *address)).collect();
        match why.and_then(|why| why.into_iter().next()) {
            Some(why) => {
                refused.push(why);
                false
            }
            None => true,
        }
    });
    match (said.addresses.is_empty(), refused.is_empty()) {
        (true, true) => Err("the DNS names no address".to_owned()),
        (true, false) => Err(refused.join("; ")),
        (false, true) => Ok((said, None)),
        (false, false) => Ok((said, Some(refused.join("; ")))),
    }
}

/// Why an address that the DNS names is not taken as a relay's.
fn refusal(policy: &Policy, relay: &Relay, address: IpAddr) -> Option<String> {
    let host = ipnetwork::IpNetwork::from(address);
    if !relay.within.is_empty() && !relay.within.iter().any(|around| contains(around, &host)) {
        return Some(format!("{address} is refused: outside `within` of relay {}", relay.name));
    }
    let mut prefixes =
        policy.groups.iter().flat_map(|group| group.prefixes.iter().map(move |one| (group, one)));
    let (group, prefix) = prefixes.find(|(_, prefix)| contains(prefix, &host))?;
    Some(format!("{address} is refused: a customer's, in {prefix} of group {}", group.name))
}

/// Says so where the policy's addresses are not those of the DNS.
fn compare(policy: &Policy, hostname: &str, said: &BTreeSet<IpAddr>) {
    for (relay, _) in
        hostnames(policy).filter(|(relay, name)| *name == hostname && !relay.prefixes.is_empty())
    {
        let unwritten: Vec<String> = said
            .iter()
            .filter(|address| !relay.prefixes.iter().any(|prefix| prefix.contains(**address)))
            .map(ToString::to_string)
            .collect();
        if !unwritten.is_empty() {
            log::warn!(
                "relay {}: the DNS also names {}, which the policy does not; its `addresses` decide",
                relay.name,
                unwritten.join(", ")
            );
        }
    }
}

fn changes(before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) -> String {
    let gone = before.difference(after).map(|address| format!("-{address}"));
    let come = after.difference(before).map(|address| format!("+{address}"));
    gone.chain(come).collect::<Vec<_>>().join(" ")
}

fn rest(known: usize) -> String {
    match known {
        0 => "no address of it is known: customers cannot reach it on port 25".to_owned(),
        known => format!("the {known} known before stay"),
    }
}

fn path(instance: &Instance) -> PathBuf {
    instance.persistent().join("relays.json")
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut name_server.connections {
                connection.port = server.port();
            }
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    // Asked when an answer's time is over: a cache would only keep it longer.
    builder.options_mut().cache_size = 0;
    builder.options_mut().timeout = Duration::from_secs(2);
    builder.build()
}

/// Asks for one hostname for ever.
async fn ask(resolver: TokioResolver, hostname: String, answers: mpsc::Sender<Answer>) {
    loop {
        let (said, wait) = match look_up(&resolver, &hostname).await {
            Ok((said, ttl)) => (Ok(said), ttl.clamp(TTL.0, TTL.1)),
            Err(error) => (Err(error), AGAIN),
        };
        if answers.send(Answer { hostname: hostname.clone(), said }).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

/// Both families at once: one that fails, or whose answer never comes, takes nothing from the other's. That there are
/// no addresses of a family is no failure.
async fn look_up(resolver: &TokioResolver, hostname: &str) -> Result<(Said, Duration), String> {
    // No search list: the name is the whole of it.
    let name = format!("{}.", hostname.trim_end_matches('.'));
    let question = |kind| timeout(LIMIT, resolver.lookup(name.as_str(), kind));
    let (ipv4, ipv6) = tokio::join!(question(RecordType::A), question(RecordType::AAAA));
    let mut said = Said { addresses: BTreeSet::new(), alias: None, failures: [None, None] };
    let mut ttl = TTL.1;
    for (answer, failure) in [ipv4, ipv6].into_iter().zip(&mut said.failures) {
        match answer {
            Ok(Ok(found)) => {
                for record in found.answers() {
                    ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                    match &record.data {
                        RData::CNAME(alias) => said.alias = Some(printable(&alias.0.to_utf8())),
                        data => said.addresses.extend(data.ip_addr()),
                    }
                }
            }
            Ok(Err(error)) if error.is_no_records_found() && !error.is_nx_domain() => {}
            Ok(Err(error)) => *failure = Some(printable(&format!("the DNS does not answer: {error}"))),
            Err(_) => *failure = Some("the DNS does not answer".to_owned()),
        }
    }
    match said.failures.iter().flatten().next() {
        Some(failure) if said.addresses.is_empty() => Err(failure.clone()),
        Some(_) => Ok((said, AGAIN)),
        None => Ok((said, ttl)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::{document, policy::Override};

    const POLICY: &str = "\
version: 1
relays: [{name: post, hostname: post.example.net}]
customers: [{name: residential, prefixes: [203.0.113.0/24], mode: enforce}]
ipv6: unfiltered
unknown_sources: pass
";

    fn policy() -> Policy {
        let document = document::parse(POLICY, "policy").unwrap();
        Policy::from_document(document, "policy", POLICY, &Override::default()).unwrap()
    }

    /// What is known at each hour, when these answers come at these hours.
    fn known_after(answers: &[(i64, &[&str])]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let (sender, _) = mpsc::channel(1);
        let mut relays = Relays {
            known: BTreeMap::new(),
            path: folder.path().join("relays.json"),
            server: None,
            answers: sender,
            asked: BTreeSet::new(),
            asking: JoinSet::new(),
            compared: BTreeSet::new(),
        };
        for (hour, addresses) in answers {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            let said = Ok(Said { addresses, alias: None, failures: [None, None] });
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(*hour);
            relays.take(&policy(), Answer { hostname: "post.example.net".to_owned(), said }, now);
        }
        let addresses = relays.addresses(&policy());
        addresses["post"].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_holds_for_a_day_after_it_was_named_last() {
        assert_eq!(known_after(&[(0, &["192.0.2.1"]), (23, &["192.0.2.2"])]), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(known_after(&[(0, &["192.0.2.1"]), (24, &["192.0.2.2"])]), ["192.0.2.2"]);
    }

    #[test]
    fn only_a_good_answer_takes_an_address_away() {
        for bad in [&[][..], &["203.0.113.5"]] {
            assert_eq!(known_after(&[(0, &["192.0.2.1"]), (99, bad)]), ["192.0.2.1"], "{bad:?}");
        }
    }

    #[test]
    fn a_day_has_32_addresses_whatever_many_answers_name_them() {
        let names =
            |range: std::ops::Range<u8>| range.map(|host| format!("192.0.2.{host}")).collect::<Vec<_>>();
        let (some, others) = (names(0..20), names(20..40));
        let (some, others): (Vec<&str>, Vec<&str>) =
            (some.iter().map(String::as_str).collect(), others.iter().map(String::as_str).collect());
        assert_eq!(known_after(&[(0, &some), (1, &others)]).len(), 20);
        let after_a_day = known_after(&[(0, &some), (1, &others), (24, &others)]);
        assert_eq!(after_a_day.len(), 20);
        assert!(after_a_day.contains(&"192.0.2.39".to_owned()), "{after_a_day:?}");
    }

    #[test]
    fn a_customers_address_is_refused_and_the_others_are_taken() {
        assert_eq!(known_after(&[(0, &["203.0.113.5", "192.0.2.1"])]), ["192.0.2.1"]);
    }
}
