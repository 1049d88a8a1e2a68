//! What the screen shows, read from the pins in a thread of its own: with the daemon or without.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use tokio::{
    runtime::{self, Runtime},
    sync::mpsc::{Receiver, channel},
};

use crate::{
    counters,
    figures::OfGroup,
    instance::Instance,
    manifest::Manifest,
    sources::{self, Source, is_outside},
    status::{self, Status},
};

/// Readings of which the screen shows how many packets were blocked.
pub(super) const KEPT: usize = 60;
/// How often the interfaces and the policy file are looked at; a new generation is looked at once.
const LOOK: Duration = Duration::from_secs(10);
/// Reading takes at most this part of the time, whatever was asked for: the router has other work.
const SHARE: u32 = 10;

/// Everything that is shown at a time.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(super) at: Timestamp,
    pub(super) manifest: Manifest,
    pub(super) status: Arc<Status>,
    pub(super) groups: Vec<Group>,
    /// Most attempts first.
    pub(super) sources: Vec<Line>,
    /// Accounts that had to make room for others.
    pub(super) evicted: u64,
}

/// A group: what was counted, and how fast.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) figures: OfGroup,
    pub(super) pace: Option<Pace>,
    /// Packets that were or would be blocked, reading by reading, the latest last.
    pub(super) recent: Vec<u64>,
}

/// A source, and how fast it is.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) source: Source,
    pub(super) pace: Option<Pace>,
}

impl Line {
    /// What names it from one reading to the next.
    pub(super) fn key(&self) -> Key {
        (self.source.prefix, self.source.customer.clone())
    }
}

/// A source in a group.
pub(super) type Key = (IpNetwork, Option<String>);

/// How fast something was between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    pub(super) packets_per_second: f64,
    pub(super) attempts_per_minute: f64,
}

/// Packets and attempts.
type Counts = (u64, u64);

/// What has come since. An account that was opened anew meanwhile, or a counter, began at nothing.
const fn since(before: u64, now: u64) -> u64 {
    if now < before { now } else { now - before }
}

impl Pace {
    fn between(before: Counts, now: Counts, passed: Duration) -> Self {
        let seconds = passed.as_secs_f64().max(0.001);
        Self {
            packets_per_second: since(before.0, now.0) as f64 / seconds,
            attempts_per_minute: since(before.1, now.1) as f64 * 60.0 / seconds,
        }
    }
}

/// What the reading before has found, for the difference.
#[derive(Default)]
struct Before {
    at: Option<Instant>,
    sources: HashMap<Key, Counts>,
    groups: HashMap<Option<String>, (Counts, VecDeque<u64>)>,
}

impl Before {
    /// Puts to each group and source how fast it was, and keeps what they are now.
    fn compare(
        &mut self,
        at: Instant,
        groups: Vec<OfGroup>,
        sources: Vec<Source>,
    ) -> (Vec<Group>, Vec<Line>) {
        let passed = self.at.replace(at).map(|before| at.duration_since(before));
        let mut known = std::mem::take(&mut self.groups);
        let groups = groups.into_iter().map(|figures| {
            let now = (figures.blocked + figures.would, figures.attempts);
            let (before, mut recent) = known.remove(&figures.name).unwrap_or_default();
            if passed.is_some() {
                recent.push_back(since(before.0, now.0));
                recent.drain(..recent.len().saturating_sub(KEPT));
            }
            let shown = recent.iter().copied().collect();
            self.groups.insert(figures.name.clone(), (now, recent));
            Group { figures, pace: passed.map(|passed| Pace::between(before, now, passed)), recent: shown }
        });
        let groups = groups.collect();
        let known = std::mem::take(&mut self.sources);
        let sources = sources.into_iter().map(|source| {
            let mut line = Line { source, pace: None };
            let (key, now) = (line.key(), (line.source.packets, line.source.attempts));
            let before = known.get(&key).copied().unwrap_or_default();
            line.pace = passed.map(|passed| Pace::between(before, now, passed));
            self.sources.insert(key, now);
            line
        });
        let sources = sources.collect();
        (groups, sources)
    }
}

/// Reads again and again until nobody listens any more; an error is news too, and the next reading may be none.
pub(super) fn start(
    instance: &Instance,
    reasons: Option<Vec<Reason>>,
    every: Duration,
) -> Result<Receiver<Result<Reading, String>>> {
    let (sender, receiver) = channel(1);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let instance = instance.clone();
    let mut reader = Reader { instance, reasons, runtime, before: Before::default(), looked: None };
    thread::Builder::new().name("reader".to_owned()).spawn(move || {
        loop {
            let start = Instant::now();
            let read = reader.read().map_err(|error| format!("{error:#}"));
            let took = start.elapsed();
            if sender.blocking_send(read).is_err() {
                return;
            }
            thread::sleep(every.max(took * SHARE).saturating_sub(took));
        }
    })?;
    Ok(receiver)
}

struct Reader {
    instance: Instance,
    reasons: Option<Vec<Reason>>,
    runtime: Runtime,
    before: Before,
    /// What was last looked at dearly, and until when that is news.
    looked: Option<(Arc<Status>, Instant)>,
}

impl Reader {
    fn read(&mut self) -> Result<Reading> {
        let manifest = Manifest::require(&self.instance)?;
        let stats = counters::read(&self.instance, &manifest)?;
        let accounts = sources::read(&self.instance, &manifest)?;
        let (at, now) = (Instant::now(), Timestamp::now());
        let wanted = |reason| match &self.reasons {
            Some(reasons) => reasons.contains(&reason),
            None => is_outside(reason),
        };
        let sources = sources::summarise(&accounts.accounts, &manifest, now, wanted);
        let counted = sources.iter().map(|source| (&source.customer, 1));
        let groups = OfGroup::all(&manifest, &stats.totals, counted);
        let (groups, sources) = self.before.compare(at, groups, sources);
        let status = self.look(&manifest)?;
        Ok(Reading { at: now, manifest, status, groups, sources, evicted: accounts.evicted })
    }

    /// What is in force: asks the kernel for each interface, and reads the policy file and all that it names.
    fn look(&mut self, manifest: &Manifest) -> Result<Arc<Status>> {
        if let Some((status, until)) = &self.looked
            && status.generation == manifest.generation
            && Instant::now() < *until
        {
            return Ok(status.clone());
        }
        let start = Instant::now();
        let status = Arc::new(self.runtime.block_on(status::look(&self.instance, manifest))?);
        let took = start.elapsed();
        self.looked = Some((status.clone(), Instant::now() + LOOK.max(took * SHARE)));
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made, *};

    #[test]
    fn rates_are_between_two_readings() {
        let (mut before, start) = (Before::default(), Instant::now());
        let figures = |blocked, would, attempts| OfGroup {
            name: Some("one".to_owned()),
            blocked,
            would,
            attempts,
            ..OfGroup::default()
        };
        let source = |packets, attempts| {
            let mut line = made::reading(1, 1).sources;
            line.truncate(1);
            line.into_iter().map(move |line| Source { packets, attempts, ..line.source }).collect::<Vec<_>>()
        };
        let later = |seconds| start + Duration::from_secs(seconds);
        let pace =
            |packets_per_second, attempts_per_minute| Some(Pace { packets_per_second, attempts_per_minute });

        let (groups, lines) = before.compare(start, vec![figures(100, 0, 10)], source(50, 5));
        assert_eq!((groups[0].pace, lines[0].pace), (None, None));
        assert!(groups[0].recent.is_empty());
        let (groups, lines) = before.compare(later(2), vec![figures(110, 10, 12)], source(60, 6));
        assert_eq!((groups[0].pace, lines[0].pace), (pace(10.0, 60.0), pace(5.0, 30.0)));
        assert_eq!(groups[0].recent, [20]);
        // Opened anew: from nothing.
        let (groups, lines) = before.compare(later(4), vec![figures(4, 0, 1)], source(2, 1));
        assert_eq!((groups[0].pace, lines[0].pace), (pace(2.0, 30.0), pace(1.0, 30.0)));
        assert_eq!(groups[0].recent, [20, 4]);
        for second in 0..200 {
            before.compare(later(6 + second), vec![figures(4 + second, 0, 1)], Vec::new());
        }
        let (groups, lines) = before.compare(later(300), vec![figures(1000, 0, 1)], source(2, 1));
        assert_eq!(groups[0].recent.len(), KEPT);
        assert_eq!(groups[0].recent.last(), Some(&(1000 - 203)));
        // Was not there: it has come since.
        assert!(lines[0].pace.is_some_and(|pace| pace.packets_per_second > 0.0));
    }
}
