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
/// The DNS is not asked more often than this, whatever it says, and not less often.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
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
}

/// What is known of all hostnames, and who asks.
pub struct Relays {
    known: BTreeMap<String, Known>,
    path: PathBuf,
    server: Option<SocketAddr>,
    answers: mpsc::Sender<Answer>,
    asked: BTreeSet<String>,
    asking: JoinSet<()>,
}

impl Relays {
    /// Reads what was known when the daemon ran last. `server` is asked in place of those in `/etc/resolv.conf`.
    #[must_use]
    pub fn new(instance: &Instance, server: Option<SocketAddr>, answers: mpsc::Sender<Answer>) -> Self {
        let known = remembered(instance).unwrap_or_else(|error| {
            log::warn!("{error:#}; the relays' names are asked for anew");
            BTreeMap::new()
        });
        let (asked, asking) = (BTreeSet::new(), JoinSet::new());
        Self { known, path: path(instance), server, answers, asked, asking }
    }

    /// Asks for the hostnames of a policy from here on.
    pub fn ask_for(&mut self, policy: &Policy) {
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
        let failure = match said.and_then(|said| usable(policy, &hostname, said)) {
            Ok(said) => {
                for address in said.addresses {
                    known.addresses.insert(address, now);
                }
                // Only a good answer takes anything away.
                known.addresses.retain(|_, seen| now.duration_since(*seen) < HOLDS);
                known.answered = Some(now);
                known.alias = said.alias;
                None
            }
            Err(failure) => Some(failure),
        };
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
            compare(policy, &hostname, &after);
        }
        if let Err(error) = self.write() {
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

/// What of an answer can be used: addresses that no relay of the name refuses.
fn usable(policy: &Policy, hostname: &str, mut said: Said) -> Result<Said, String> {
    if said.addresses.len() > MOST {
        return Err(format!("the DNS names {} addresses, {MOST} at most are taken", said.addresses.len()));
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
        (false, true) => Ok(said),
        (false, false) => {
            log::warn!("{hostname}: {}", refused.join("; "));
            Ok(said)
        }
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
    builder.build()
}

/// Asks for one hostname for ever.
async fn ask(resolver: TokioResolver, hostname: String, answers: mpsc::Sender<Answer>) {
    loop {
        let (said, wait) = match look_up(&resolver, &hostname).await {
            Ok((said, ttl)) => (Ok(said), ttl.clamp(TTL.0, TTL.1)),
            Err(error) => (Err(printable(&error)), AGAIN),
        };
        if answers.send(Answer { hostname: hostname.clone(), said }).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

/// Both families. One that fails takes nothing from the other's answer; that there are none of it is no failure.
async fn look_up(resolver: &TokioResolver, hostname: &str) -> Result<(Said, Duration), String> {
    // No search list: the name is the whole of it.
    let name = format!("{}.", hostname.trim_end_matches('.'));
    let mut said = Said { addresses: BTreeSet::new(), alias: None };
    let mut ttl = TTL.1;
    let mut failure = None;
    for kind in [RecordType::A, RecordType::AAAA] {
        match resolver.lookup(name.as_str(), kind).await {
            Ok(found) => {
                for record in found.answers() {
                    ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                    match &record.data {
                        RData::CNAME(alias) => said.alias = Some(printable(&alias.0.to_utf8())),
                        data => said.addresses.extend(data.ip_addr()),
                    }
                }
            }
            Err(error) if error.is_no_records_found() && !error.is_nx_domain() => {}
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if said.addresses.is_empty() => Err(format!("the DNS does not answer: {error}")),
        _ => Ok((said, ttl)),
    }
}
