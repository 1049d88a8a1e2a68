//! What all answers are made of: read on demand from the pins, shared by all who ask at the same time.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{spawn, spawn_blocking},
    time::sleep,
};

use crate::{
    clock,
    counters::{self, Counted, Stats},
    history::{self, Trend},
    instance::Instance,
    manifest::Manifest,
    sources::{self, Account, Label, Source},
    status::{self, Drift, Status},
};

/// Sources that one answer names at most: `op25b top --json` names all.
pub(super) const MOST: usize = 1000;
/// Hours of the trend.
pub(super) const TREND_HOURS: i64 = 24;
/// What was read is thrown away when nobody has asked for so long.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Why there is nothing to show, in words.
pub(super) type Reading<T> = Result<Arc<T>, Arc<str>>;

/// What is in force, and what has been counted.
pub(super) struct View {
    pub(super) manifest: Manifest,
    pub(super) status: Status,
    /// By interface.
    pub(super) counted: Vec<Counted>,
    /// Over all of them.
    pub(super) stats: Stats,
}

/// Who was judged.
pub(super) struct SourcesView {
    pub(super) accounts: Vec<Account>,
    pub(super) entries: u64,
    pub(super) room: u64,
    pub(super) evicted: u64,
    /// Those that send past the relays, most attempts first, at most [`MOST`].
    pub(super) top: Vec<Source>,
    /// How many of those there are by group and triage.
    pub(super) triage: Vec<(Option<String>, Option<Label>, u64)>,
}

/// Everything that is read.
pub(super) struct Views {
    pub(super) instance: Instance,
    view: Kept<View>,
    sources: Kept<SourcesView>,
    trend: Kept<Vec<Trend>>,
    drift: Kept<(u64, Drift)>,
    filtering: Semaphore,
}

impl Views {
    pub(super) fn new(instance: Instance) -> Self {
        let seconds = Duration::from_secs;
        Self {
            instance,
            view: Kept::new(seconds(1), seconds(1)),
            // A hundred thousand accounts take a moment; who looks again meanwhile sees those of a few seconds ago.
            sources: Kept::new(seconds(2), seconds(15)),
            trend: Kept::new(seconds(5), seconds(60)),
            drift: Kept::new(seconds(2), seconds(60)),
            filtering: Semaphore::new(1),
        }
    }

    /// What is in force now.
    pub(super) async fn now(&self) -> Reading<View> {
        if let Some((read, true)) = self.view.look() {
            return read;
        }
        // The comparison with the file may take longer than all else: it is kept longer, and not waited for twice.
        let manifest = Manifest::require(&self.instance).map_err(|error| in_words(&error))?;
        let drift = self.drift_of(&manifest).await?;
        let (instance, handle) = (self.instance.clone(), Handle::current());
        let read = move || {
            let counted = counters::read_each(&instance, &manifest)?;
            let stats = counters::summed(&counted, &manifest);
            let looked = status::look_with(&instance, &manifest, drift, &stats.totals);
            let status = handle.block_on(looked)?;
            Ok(View { manifest, status, counted, stats })
        };
        self.view.get(blocking(read)).await
    }

    /// Another policy in force is compared anew.
    async fn drift_of(&self, manifest: &Manifest) -> Result<Drift, Arc<str>> {
        loop {
            let known = manifest.clone();
            let read = move || Ok((known.generation, status::drift(&known)));
            let drift = self.drift.get(blocking(read)).await?;
            if drift.0 >= manifest.generation {
                return Ok(drift.1.clone());
            }
            self.drift.forget();
        }
    }

    /// Who was judged until a moment ago.
    pub(super) async fn sources(&self) -> Reading<SourcesView> {
        let instance = self.instance.clone();
        self.sources.get(blocking(move || read_sources(&instance))).await
    }

    /// Sources of one reason or group, most attempts first.
    pub(super) async fn filtered(
        &self,
        manifest: Manifest,
        reason: Option<Reason>,
        group: Option<String>,
        limit: usize,
    ) -> Result<Vec<Source>, Arc<str>> {
        let view = self.sources().await?;
        if reason.is_none() && group.is_none() {
            return Ok(view.top.iter().take(limit).cloned().collect());
        }
        // One after the other: each goes through all accounts.
        let _turn = self.filtering.acquire().await.map_err(|error| in_words(&error.into()))?;
        let found = blocking(move || {
            let wanted =
                |this: Reason| reason.map_or_else(|| sources::is_outside(this), |reason| this == reason);
            let mut found = sources::summarise(&view.accounts, &manifest, Timestamp::now(), wanted);
            found.retain(|source| group.is_none() || source.customer == group);
            found.truncate(limit);
            found.shrink_to_fit();
            Ok(found)
        });
        found.await.map_err(|error| in_words(&error))
    }

    /// The last day, hour by hour; `None` where no history is kept.
    pub(super) async fn trend(&self, manifest: &Manifest) -> Option<Reading<Vec<Trend>>> {
        let path = manifest.outputs.history.as_ref()?.path.clone();
        if let Some((read, true)) = self.trend.look() {
            return Some(read);
        }
        let (manifest, accounts) = (manifest.clone(), self.sources().await);
        let read = move || {
            let since = Timestamp::now() - jiff::SignedDuration::from_hours(TREND_HOURS - 1);
            let mut trend = history::trend(&path, since)?;
            // It is written every half a minute: what came since shows too, if it can be read.
            if let Ok(view) = accounts {
                history::lay_over(
                    &mut trend,
                    &history::rows(&view.accounts, &manifest, clock::epoch()?),
                    since,
                );
            }
            Ok(trend)
        };
        Some(self.trend.get(blocking(read)).await)
    }
}

fn read_sources(instance: &Instance) -> Result<SourcesView> {
    let manifest = Manifest::require(instance)?;
    let sources::Accounts { accounts, room, evicted } = sources::read(instance, &manifest)?;
    let mut top = sources::summarise(&accounts, &manifest, Timestamp::now(), sources::is_outside);
    let mut triage = std::collections::BTreeMap::new();
    for group in &manifest.groups {
        for label in [Label::Settings, Label::Bot, Label::Quiet] {
            triage.insert((Some(group.name.clone()), Some(label)), 0);
        }
    }
    for source in &top {
        *triage.entry((source.customer.clone(), source.triage)).or_default() += 1;
    }
    top.truncate(MOST);
    top.shrink_to_fit();
    Ok(SourcesView {
        entries: accounts.len() as u64,
        room,
        evicted,
        top,
        triage: triage.into_iter().map(|((group, label), number)| (group, label, number)).collect(),
        accounts,
    })
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(read).await.context("cannot read what the page shows")?
}

fn in_words(error: &anyhow::Error) -> Arc<str> {
    format!("{error:#}").into()
}

/// Something that was read, for as long as it is news.
struct Kept<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<T> {
    fresh: Duration,
    usable: Duration,
    value: Mutex<Option<Value<T>>>,
    /// One reads for all.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Value<T> {
    read: Reading<T>,
    at: Instant,
    took: Duration,
}

/// How long nobody tries again after a failure.
const FAILED: Duration = Duration::from_secs(1);
/// Reading takes at most this part of the time.
const SHARE: u32 = 25;

impl<T: Send + Sync + 'static> Kept<T> {
    /// What is younger than `fresh` is answered; what is younger than `usable` too, while it is read anew.
    fn new(fresh: Duration, usable: Duration) -> Self {
        let (value, turn) = (Mutex::new(None), Arc::default());
        Self { inner: Arc::new(Inner { fresh, usable, value, turn }) }
    }

    async fn get(&self, make: impl Future<Output = Result<T>> + Send + 'static) -> Reading<T> {
        match self.look() {
            Some((read, true)) => return read,
            Some((read, false)) => {
                if let Ok(turn) = self.inner.turn.clone().try_lock_owned() {
                    spawn(self.clone().make(make, turn));
                }
                return read;
            }
            None => {}
        }
        let turn = self.inner.turn.clone().lock_owned().await;
        if let Some((read, true)) = self.look() {
            return read;
        }
        // Goes on when the client goes away: whoever comes next finds it done.
        spawn(self.clone().make(make, turn)).await.unwrap_or_else(|error| Err(in_words(&error.into())))
    }

    async fn make(
        self,
        make: impl Future<Output = Result<T>>,
        _turn: tokio::sync::OwnedMutexGuard<()>,
    ) -> Reading<T> {
        let at = Instant::now();
        let read = make.await.map(Arc::new).map_err(|error| in_words(&error));
        let took = at.elapsed();
        *self.lock() = Some(Value { read: read.clone(), at, took });
        let kept = self.clone();
        spawn(async move {
            sleep(FORGOTTEN.max(took * SHARE)).await;
            let mut value = kept.lock();
            if value.as_ref().is_some_and(|value| value.at == at) {
                *value = None;
            }
        });
        read
    }

    /// What is there, and whether it is news.
    fn look(&self) -> Option<(Reading<T>, bool)> {
        let value = self.lock();
        let value = value.as_ref()?;
        let least = value.took * SHARE;
        let age = value.at.elapsed();
        // What could not be read may be there a moment later: the database is made when it is first written to.
        let most = if value.read.is_err() { FAILED } else { Duration::MAX };
        let fresh = age < self.inner.fresh.min(most).max(least);
        (fresh || age < self.inner.usable.min(most)).then(|| (value.read.clone(), fresh))
    }

    fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Value<T>>> {
        self.inner.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
