//! The daemon: what should be in force, as orders, dates and answers come, and the steps that bring it about.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{
    archive, clock,
    commands::No,
    control::Order,
    document::{self, Document, printable},
    durable,
    generation::{self, Logger},
    held::Held,
    instance::Instance,
    links,
    manifest::Manifest,
    outputs::Running,
    policy::{Override, Policy},
    relays::{Answer, Relays},
    situation::{Change, Situation, Suspended},
    state::{State, Suspension, Unconfirmed},
    tables::Tables,
};

/// How it was started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The policy file, absolute.
    pub policy: PathBuf,
    /// Interfaces given on the command line.
    pub overridden: Override,
    /// Whether judged frames are logged in the kernel.
    pub trace: bool,
    /// Whether dates come by a clock that nothing keeps right.
    pub trust_clock: bool,
    /// Whether the policy file is put in force when it changes.
    pub watch: bool,
    /// The name server to ask, in place of the system's.
    pub resolver: Option<SocketAddr>,
}

impl Setup {
    fn trusts_clock(&self) -> bool {
        self.trust_clock || clock::is_synchronised()
    }
}

/// A policy and the text that it is made of.
pub struct Ruling {
    /// As it is meant.
    pub policy: Policy,
    text: String,
    /// The file before it was read: what is written while it is read is another one.
    looked: Option<Look>,
}

impl Ruling {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// When it is not valid.
    pub fn read(path: &Path, overridden: &Override) -> Result<Self> {
        let looked = look(path);
        let (document, text) = document::read(path).map_err(|error| No::Input(error.to_string()))?;
        Self::new(document, text, path, overridden, Some(looked))
    }

    /// A text as it reads in place of the file at `path`.
    ///
    /// # Errors
    ///
    /// When it is not valid.
    pub fn parse(text: String, path: &Path, overridden: &Override) -> Result<Self> {
        let document = document::parse(&text, &path.display().to_string())
            .map_err(|error| No::Input(error.to_string()))?;
        Self::new(document, text, path, overridden, None)
    }

    fn new(
        document: Document,
        text: String,
        path: &Path,
        overridden: &Override,
        looked: Option<Look>,
    ) -> Result<Self> {
        let policy = Policy::from_document(document, &path.display().to_string(), &text, overridden)
            .map_err(|invalid| No::Input(invalid.to_string()))?;
        Ok(Self { policy, text, looked })
    }
}

/// A daemon at work.
pub struct Daemon {
    instance: Instance,
    setup: Setup,
    ruling: Ruling,
    /// What [`Order::Apply`] goes back to.
    before: Option<Ruling>,
    state: State,
    relays: Relays,
    answers: mpsc::Receiver<Answer>,
    manifest: Manifest,
    held: Held,
    /// What the manifest was made for.
    in_force: Situation,
    /// The dates that have come.
    moment: Timestamp,
    /// Whether a clock that is right has said so.
    moment_trusted: bool,
    /// When the interfaces are looked at without being told, and how long after a failure.
    look_again: Instant,
    look_wait: Duration,
    logger: Option<Logger>,
    /// Ends of the suspension and of the trial by a clock that nobody sets.
    suspension_ends: Option<Instant>,
    trial_ends: Option<Instant>,
    /// Something has been learnt that may change what should be in force.
    unsettled: bool,
    /// Not before this is tried again what has failed.
    retry: Option<Instant>,
    /// A change waits for the clock, and has been reported.
    waiting: Option<Timestamp>,
    watched: Watched,
    outputs: Running,
}

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often the interfaces are looked at without being told.
const LOOK: Duration = Duration::from_secs(10);
/// How long after a failure they are looked at again: this long at first, twice as long each time, [`RETRY`] at most.
const LOOK_WAIT: Duration = Duration::from_secs(1);

impl Daemon {
    /// Puts the policy in force.
    ///
    /// # Errors
    ///
    /// When it cannot be; what was in force before still is.
    pub async fn start(instance: &Instance, setup: Setup, ruling: Ruling) -> Result<Self> {
        let mut previous = Manifest::read_to_replace(instance)?;
        if let Some(previous) = &mut previous {
            links::follow_renames(instance, previous).await?;
        }
        let mut state = State::read(instance).unwrap_or_else(|error| {
            log::error!("{error:#}; nothing is suspended, dates come by the clock");
            State::default()
        });
        for warning in &ruling.policy.warnings {
            log::warn!("{warning}");
        }
        let now = Timestamp::now();
        if let Some(over) = state.suspension.take_if(|suspension| suspension.until <= now) {
            log::warn!("the suspension until {:.0} ended while no daemon ran", over.until);
        }
        let unconfirmed = state.unconfirmed.take();
        let moment = now.max(state.reached);
        report_missed(&ruling.policy, previous.as_ref(), moment);
        let moment_trusted = setup.trusts_clock();
        if !moment_trusted && !ruling.policy.changes().is_empty() {
            log::warn!(
                "the clock is not synchronised: dates are taken as it shows them now, those to come wait until it is; \
                 `--trust-clock` where something else keeps it right"
            );
        }
        let (sender, mut answers) = mpsc::channel(16);
        let mut relays = Relays::new(instance, setup.resolver, sender);
        relays.ask_for(&ruling.policy);
        relays.wait_for_unknown(&ruling.policy, &mut answers).await;
        let situation = situation(&state, &relays, &ruling.policy, moment);
        let (manifest, logger) =
            enforce(instance, &setup, &ruling.policy, &situation, previous.as_ref()).await?;
        // A crash can come between the file and the note that it is confirmed.
        if let Some(unconfirmed) = unconfirmed.filter(|trial| trial.hash != ruling.policy.hash) {
            log::warn!(
                "{} was applied and never confirmed: rolled back to {}",
                printable(&unconfirmed.policy.display().to_string()),
                setup.policy.display()
            );
        }
        let watched = Watched::new(&setup.policy, &ruling);
        let mut daemon = Self {
            instance: instance.clone(),
            setup,
            ruling,
            before: None,
            state,
            relays,
            answers,
            manifest,
            held: Held::default(),
            in_force: situation,
            moment,
            moment_trusted,
            look_again: Instant::now() + LOOK,
            look_wait: LOOK_WAIT,
            logger,
            suspension_ends: None,
            trial_ends: None,
            unsettled: false,
            retry: None,
            waiting: None,
            watched,
            outputs: Running::default(),
        };
        daemon.held.hold(instance);
        daemon.outputs.follow(instance, &daemon.ruling.policy.outputs);
        daemon.suspension_ends = daemon.state.suspension.as_ref().map(|suspension| after(suspension.until));
        daemon.try_to_remember();
        daemon.archive();
        Ok(daemon)
    }

    /// Does what a command wants, and says what was done.
    ///
    /// # Errors
    ///
    /// When it cannot be done; what was in force before still is.
    pub async fn obey(&mut self, order: Order, by: &str) -> Result<String> {
        let by = printable(by);
        let done = match order {
            Order::Reload { why } => self.reload().await.map(|done| match why {
                Some(why) => format!("{done}; {}", printable(&why)),
                None => done,
            }),
            Order::Apply { policy, confirm } => self.apply(&policy, confirm).await,
            Order::Confirm => self.confirm(),
            Order::Rollback => self.rollback().await,
            Order::Suspend { what, until } => self.suspend(what, until, &by).await,
            Order::Resume => self.resume().await,
        };
        match &done {
            Ok(done) => log::info!("{done} (by {by})"),
            Err(error) => log::warn!("refused what {by} wants: {error:#}"),
        }
        done
    }

    /// Reads the policy file again.
    async fn reload(&mut self) -> Result<String> {
        self.refuse_during_trial()?;
        let ruling = Ruling::read(&self.setup.policy, &self.setup.overridden)?;
        self.watched = Watched::new(&self.setup.policy, &ruling);
        self.rule(ruling).await?;
        self.archive();
        Ok(format!("generation {}: {} is in force", self.manifest.generation, self.setup.policy.display()))
    }

    async fn apply(&mut self, path: &Path, confirm: Option<u64>) -> Result<String> {
        self.refuse_during_trial()?;
        if same_file(path, &self.setup.policy) {
            return Err(No::Input(format!(
                "{} is the policy file itself; `op25b reload` puts it in force, `op25b apply` takes another file and \
                 replaces this one when all is well",
                path.display()
            ))
            .into());
        }
        let there = Ruling::read(path, &self.setup.overridden)?;
        let here = Ruling::parse(there.text, &self.setup.policy, &self.setup.overridden)?;
        if here.policy.hash != there.policy.hash {
            return Err(No::Input(format!(
                "{} names files that are others beside {}; put it there, or write their whole paths",
                path.display(),
                self.setup.policy.display()
            ))
            .into());
        }
        let hash = here.policy.hash.clone();
        let _turn = confirm.is_none().then(|| self.turn()).transpose()?;
        let before = self.rule(here).await?;
        let Some(seconds) = confirm else {
            self.settle_on_text_or(before).await?;
            return Ok(format!(
                "generation {}: {} is in force, and is {} now",
                self.manifest.generation,
                path.display(),
                self.setup.policy.display()
            ));
        };
        let length = Duration::from_secs(seconds);
        let until = Timestamp::now().checked_add(length).unwrap_or(Timestamp::MAX);
        self.state.unconfirmed = Some(Unconfirmed { policy: path.to_owned(), hash, until });
        if let Err(error) = self.remember() {
            self.state.unconfirmed = None;
            self.rule(before).await?;
            return Err(error);
        }
        self.before = Some(before);
        self.trial_ends = Instant::now().checked_add(length);
        Ok(format!(
            "generation {}: {} is in force until {until:.0}; `op25b confirm` keeps it, else it is rolled back",
            self.manifest.generation,
            path.display()
        ))
    }

    fn confirm(&mut self) -> Result<String> {
        if self.state.unconfirmed.is_none() {
            return Err(No::Input("nothing waits to be confirmed".to_owned()).into());
        }
        let before = self.before.as_ref().map(|before| before.text.clone()).unwrap_or_default();
        let _turn = self.turn()?;
        self.settle_on_text(&before)?;
        self.state.unconfirmed = None;
        self.before = None;
        self.trial_ends = None;
        self.try_to_remember();
        Ok(format!(
            "confirmed: generation {} stays, and is {} now",
            self.manifest.generation,
            self.setup.policy.display()
        ))
    }

    async fn rollback(&mut self) -> Result<String> {
        if self.state.unconfirmed.is_some() {
            self.end_trial().await?;
            return Ok(format!("generation {}: rolled back", self.manifest.generation));
        }
        let Some((kept, text)) = archive::before(&self.instance, &self.ruling.text)? else {
            return Err(No::Input("no policy before this one is kept".to_owned()).into());
        };
        let ruling = Ruling::parse(text, &self.setup.policy, &self.setup.overridden)
            .with_context(|| format!("the policy kept as {} does not hold any more", kept.path.display()))?;
        let as_it_was = kept.hash.is_none_or(|hash| hash == ruling.policy.hash);
        let _turn = self.turn()?;
        let before = self.rule(ruling).await?;
        self.settle_on_text_or(before).await?;
        let files = if as_it_was {
            ""
        } else {
            "; files that it names have changed since and are in force as they are"
        };
        Ok(format!(
            "generation {}: rolled back to the policy before, which is {} again{files}",
            self.manifest.generation,
            self.setup.policy.display()
        ))
    }

    async fn suspend(&mut self, what: Suspended, until: Timestamp, by: &str) -> Result<String> {
        if until <= Timestamp::now() {
            return Err(No::Input(format!("{until} is over already")).into());
        }
        if let Suspended::Groups(groups) = &what {
            let known = |name: &String| self.ruling.policy.groups.iter().any(|group| group.name == *name);
            if let Some(unknown) = groups.iter().find(|name| !known(name)) {
                return Err(No::Input(format!("no customer group is called {unknown:?}")).into());
            }
        }
        let words = match &what {
            Suspended::Groups(groups) => {
                format!("group {} blocks nothing", groups.iter().cloned().collect::<Vec<_>>().join(", "))
            }
            _ => "nothing is blocked".to_owned(),
        };
        let before = self.state.suspension.replace(Suspension { what, until, by: by.to_owned() });
        // Written first: one that no restart knows of must not begin.
        let done = match self.remember() {
            Ok(()) => self.settle(self.moment).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.state.suspension = before;
            self.try_to_remember();
            return Err(error);
        }
        self.suspension_ends = Some(after(until));
        Ok(format!("generation {}: suspended, {words} until {until:.0}", self.manifest.generation))
    }

    async fn resume(&mut self) -> Result<String> {
        let before = self.state.suspension.take();
        if before.is_none() {
            return Err(No::Input("nothing is suspended".to_owned()).into());
        }
        if let Err(error) = self.settle(self.moment).await {
            self.state.suspension = before;
            return Err(error);
        }
        self.try_to_remember();
        self.suspension_ends = None;
        Ok(format!("generation {}: resumed, the policy is in force again", self.manifest.generation))
    }

    /// Whether the filter stays in force without this daemon.
    #[must_use]
    pub fn leaves_the_filter(&self) -> bool {
        self.held.outlives_the_daemon()
    }

    /// What comes by itself: dates, ends of suspensions and trials, a changed file. To be called a few times a second.
    pub async fn tick(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        self.held.look(&self.instance);
        if self.look_again <= Instant::now() {
            self.look_at_interfaces(Instant::now()).await;
        }
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            return;
        }
        self.retry = None;
        if let Err(error) = self.advance().await {
            log::error!("{error:#}; tried again in {} s", RETRY.as_secs());
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    /// Every step has its turn, whatever becomes of the one before. The first failure is returned.
    async fn advance(&mut self) -> Result<()> {
        let now = Timestamp::now();
        let mut done = self.end_what_is_over(now).await;
        while let Ok(answer) = self.answers.try_recv() {
            self.relays.take(&self.ruling.policy, answer, now);
            self.unsettled = true;
        }
        if self.unsettled {
            let settled = self.settle(self.moment).await;
            self.unsettled = settled.is_err();
            done = done.and(settled);
        }
        done = done.and(self.believe_the_clock(now).await);
        done = done.and(self.take_dates(now).await);
        // What changes during a trial is taken after it.
        if self.setup.watch && self.state.unconfirmed.is_none() && self.watched.has_settled_on_another() {
            match self.reload().await {
                Ok(done) => log::info!("{done} (the file has changed)"),
                Err(error) => log::warn!("the file has changed, the policy in force stays: {error:#}"),
            }
        }
        done
    }

    /// Ends a trial and a suspension when their time is over.
    async fn end_what_is_over(&mut self, now: Timestamp) -> Result<()> {
        let over = |until: Timestamp, ends: Option<Instant>| {
            until <= now || ends.is_some_and(|ends| ends <= Instant::now())
        };
        let mut done = Ok(());
        if self.state.unconfirmed.as_ref().is_some_and(|trial| over(trial.until, self.trial_ends)) {
            done = self.end_trial().await;
            if done.is_ok() {
                log::warn!("generation {}: not confirmed in time, rolled back", self.manifest.generation);
            }
        }
        let suspension = self.state.suspension.as_ref();
        if suspension.is_some_and(|suspension| over(suspension.until, self.suspension_ends)) {
            let resumed = self.resume().await.map(|done| log::warn!("{done}: the suspension is over"));
            done = done.and(resumed);
        }
        done
    }

    /// Dates that a wrong clock has brought or kept away are set right when it is right.
    async fn believe_the_clock(&mut self, now: Timestamp) -> Result<()> {
        if self.moment_trusted || !self.setup.trusts_clock() {
            return Ok(());
        }
        let moment = self.state.reached.max(now);
        if self.ruling.policy.changes().is_empty() {
            (self.moment, self.in_force.moment) = (moment, moment);
        } else {
            log::info!("the clock is synchronised: dates come by it from here on");
            self.settle(moment).await?;
        }
        self.moment_trusted = true;
        self.try_to_remember();
        Ok(())
    }

    /// Takes the changes whose moment has come.
    async fn take_dates(&mut self, now: Timestamp) -> Result<()> {
        // The manifest knows the next one; to ask the policy takes time.
        let Some(next) = self.manifest.upcoming.first().filter(|next| next.at <= now) else { return Ok(()) };
        if !self.setup.trusts_clock() {
            if self.waiting != Some(next.at) {
                log::warn!("{} ({}): waits, since the clock is not synchronised", next.what, next.at);
                self.waiting = Some(next.at);
            }
            return Ok(());
        }
        let come = |change: &Change| self.moment < change.at && change.at <= now;
        let due: Vec<Change> = self.ruling.policy.changes().into_iter().filter(come).collect();
        self.settle(now).await?;
        self.try_to_remember();
        for change in &due {
            log::info!("generation {}: {} ({})", self.manifest.generation, change.what, change.at);
        }
        Ok(())
    }

    /// Interfaces may have come, gone or changed their names.
    pub async fn look_at_interfaces(&mut self, noticed: Instant) {
        let looked = match links::follow_renames(&self.instance, &mut self.manifest).await {
            Ok(()) => links::attach_new(&self.instance, &mut self.manifest, noticed).await,
            Err(error) => Err(error),
        };
        let done = match looked {
            Ok(true) => self.enforce(self.moment).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        self.held.hold(&self.instance);
        self.look_again = match done {
            Ok(()) => {
                self.look_wait = LOOK_WAIT;
                Instant::now() + LOOK
            }
            Err(error) => {
                log::error!("{error:#}; looked at again in {} s", self.look_wait.as_secs());
                let wait = self.look_wait;
                self.look_wait = (2 * wait).min(RETRY);
                Instant::now() + wait
            }
        };
    }

    /// Puts another policy in force and returns the one before.
    async fn rule(&mut self, ruling: Ruling) -> Result<Ruling> {
        let before = std::mem::replace(&mut self.ruling, ruling);
        self.relays.ask_for(&self.ruling.policy);
        self.relays.wait_for_unknown(&self.ruling.policy, &mut self.answers).await;
        if let Err(error) = self.enforce(self.latest()).await {
            self.ruling = before;
            self.relays.ask_for(&self.ruling.policy);
            return Err(error);
        }
        for warning in &self.ruling.policy.warnings {
            log::warn!("{warning}");
        }
        self.try_to_remember();
        Ok(before)
    }

    /// Puts the same policy in force as it is at another moment or in another state.
    async fn settle(&mut self, moment: Timestamp) -> Result<()> {
        if self.situation(moment) == self.in_force { Ok(()) } else { self.enforce(moment).await }
    }

    async fn enforce(&mut self, moment: Timestamp) -> Result<()> {
        // Where pins are to be, those in force come first.
        self.held.look(&self.instance);
        let situation = self.situation(moment);
        let previous = Some(&self.manifest);
        let (manifest, logger) =
            enforce(&self.instance, &self.setup, &self.ruling.policy, &situation, previous).await?;
        // Only a clock that is right makes it later.
        self.moment_trusted |= moment > self.moment;
        self.moment = moment;
        self.manifest = manifest;
        self.held.hold(&self.instance);
        self.logger = logger;
        self.in_force = situation;
        self.outputs.follow(&self.instance, &self.ruling.policy.outputs);
        Ok(())
    }

    fn situation(&self, moment: Timestamp) -> Situation {
        situation(&self.state, &self.relays, &self.ruling.policy, moment)
    }

    async fn end_trial(&mut self) -> Result<()> {
        if let Some(before) = self.before.take() {
            let tried = std::mem::replace(&mut self.ruling, before);
            if let Err(error) = self.enforce(self.latest()).await {
                self.before = Some(std::mem::replace(&mut self.ruling, tried));
                return Err(error);
            }
            self.relays.ask_for(&self.ruling.policy);
        }
        self.state.unconfirmed = None;
        self.trial_ends = None;
        self.try_to_remember();
        Ok(())
    }

    fn refuse_during_trial(&self) -> Result<()> {
        match &self.state.unconfirmed {
            None => Ok(()),
            Some(trial) => Err(No::Input(format!(
                "{} waits to be confirmed until {:.0}; `op25b confirm` or `op25b apply --rollback` first",
                trial.policy.display(),
                trial.until
            ))
            .into()),
        }
    }

    /// The dates that have come: by the clock, where that can be trusted.
    fn latest(&self) -> Timestamp {
        if self.setup.trusts_clock() { self.moment.max(Timestamp::now()) } else { self.moment }
    }

    /// This daemon's turn at the policy file. Who edits it waits for this daemon meanwhile: no waiting for that here.
    fn turn(&self) -> Result<Option<fs::File>> {
        durable::try_lock_directory_of(&self.setup.policy)
    }

    /// The policy in force becomes what the policy file says, which was `before`. Another text in it is an edit that
    /// nobody has put in force: it is kept beside it.
    fn settle_on_text(&mut self, before: &str) -> Result<()> {
        let path = &self.setup.policy;
        if let Ok(text) = fs::read_to_string(path)
            && text != before
            && text != self.ruling.text
        {
            let edited = path.with_extension("edited");
            durable::replace(&edited, &text)?;
            log::warn!("{} was edited meanwhile; the edit is kept as {}", path.display(), edited.display());
        }
        durable::replace(path, &self.ruling.text)?;
        self.watched = Watched::new(path, &self.ruling);
        self.archive();
        Ok(())
    }

    /// The same, or else what was in force before is again.
    async fn settle_on_text_or(&mut self, before: Ruling) -> Result<()> {
        if let Err(error) = self.settle_on_text(&before.text) {
            self.rule(before).await.context("the policy before cannot be put in force again")?;
            return Err(error.context("the policy before is in force again"));
        }
        Ok(())
    }

    fn archive(&self) {
        if let Err(error) = archive::keep(&self.instance, &self.ruling.text, &self.ruling.policy.hash) {
            log::warn!("there will be no way back to this policy: {error:#}");
        }
    }

    /// Writes the state down. Only a clock that can be trusted says which dates have come for good.
    fn remember(&mut self) -> Result<()> {
        if self.moment_trusted {
            self.state.reached = self.state.reached.max(self.moment);
        }
        self.state.write(&self.instance)
    }

    /// The same where the filter must go on whatever the disk says.
    fn try_to_remember(&mut self) {
        if let Err(error) = self.remember() {
            log::error!("{error:#}; a restart will not know what is suspended and which dates have come");
        }
    }
}

/// What decides now beside the policy.
fn situation(state: &State, relays: &Relays, policy: &Policy, moment: Timestamp) -> Situation {
    let suspended = state.suspension.as_ref().map(|suspension| suspension.what.clone());
    Situation { moment, suspended: suspended.unwrap_or_default(), resolved: relays.addresses(policy) }
}

async fn enforce(
    instance: &Instance,
    setup: &Setup,
    policy: &Policy,
    situation: &Situation,
    previous: Option<&Manifest>,
) -> Result<(Manifest, Option<Logger>)> {
    let places = generation::places(policy, &setup.policy, previous).await?;
    let mut manifest = Manifest::following(previous, policy, situation, &setup.policy, &setup.overridden)?;
    let tables = Tables::compile(policy, situation, |name| manifest.numbers.get(name).copied().unwrap_or(0))
        .map_err(|error| No::Input(error.to_string()))?;
    let logger =
        generation::enforce(instance, policy, &tables, &places, previous, &mut manifest, setup.trace).await?;
    let word = if manifest.blocks { "in force" } else { "in force; it blocks nothing yet" };
    log::info!("instance {}: generation {} {word}", instance.name(), manifest.generation);
    Ok((manifest, logger))
}

/// Says what would have happened by itself if a daemon had run.
fn report_missed(policy: &Policy, previous: Option<&Manifest>, moment: Timestamp) {
    // Another version's says nothing of dates.
    let Some(previous) = previous.filter(|previous| previous.is_of_this_version()) else { return };
    for change in policy.changes().iter().filter(|change| previous.moment < change.at && change.at <= moment)
    {
        log::warn!("{} ({}): came while no daemon ran, is taken now", change.what, change.at);
    }
}

/// The moment of `until` by a clock that nobody sets.
fn after(until: Timestamp) -> Instant {
    let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
    // So far away that it never comes.
    let never = Duration::from_secs(1 << 32);
    Instant::now() + left.min(never)
}

/// The policy's files, to notice that one has changed.
struct Watched {
    files: Vec<PathBuf>,
    known: Vec<Look>,
    /// Another look than what is known; taken as it is when it does not change again.
    seen: Option<Vec<Look>>,
    next: Instant,
}

/// What tells a file from the one that was there before, where it is there: number, length, and when it was written
/// and put there (`cp -p`, `tar` and image builders set the first of the two times as they like).
type Look = Option<(u64, u64, SystemTime, i64, i64)>;

/// How often the files are looked at.
const WATCH: Duration = Duration::from_millis(500);

impl Watched {
    fn new(path: &Path, ruling: &Ruling) -> Self {
        let files = std::iter::once(path.to_owned()).chain(ruling.policy.files.iter().cloned()).collect();
        let mut watched = Self { files, known: Vec::new(), seen: None, next: Instant::now() };
        watched.known = watched.look();
        if let (Some(known), Some(looked)) = (watched.known.first_mut(), ruling.looked) {
            *known = looked;
        }
        watched
    }

    fn look(&self) -> Vec<Look> {
        self.files.iter().map(|file| look(file)).collect()
    }

    /// Whether a file has changed, and has been left alone since the last look: an editor may write in pieces.
    fn has_settled_on_another(&mut self) -> bool {
        if Instant::now() < self.next {
            return false;
        }
        self.next = Instant::now() + WATCH;
        let now = self.look();
        if now == self.known {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return false;
        }
        self.known = now;
        self.seen = None;
        true
    }
}

/// Whether two paths lead to one file, through links too.
fn same_file(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    one == other || file(one).is_some_and(|one| file(other) == Some(one))
}

fn look(file: &Path) -> Look {
    let file = fs::metadata(file).ok()?;
    Some((file.ino(), file.len(), file.modified().ok()?, file.ctime(), file.ctime_nsec()))
}
