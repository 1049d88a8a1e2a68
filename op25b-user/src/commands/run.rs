//! `op25b run`: puts the policy in force and watches over it. The filter stays when this ends.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};

use crate::{
    cli,
    control::{self, Order, Reply, Request},
    daemon::{Daemon, Ruling, Setup},
    generation,
    instance::Instance,
    links,
    manifest::Manifest,
    policy::Override,
    preflight,
};

/// How often the daemon looks for what comes by itself.
const TICK: Duration = Duration::from_millis(200);

pub(super) async fn run(instance: &Instance, arguments: &cli::Run) -> Result<()> {
    let setup = Setup {
        policy: std::path::absolute(&arguments.policy)?,
        overridden: Override { customer: arguments.customer.clone(), upstream: arguments.upstream.clone() },
        trace: arguments.trace_frames,
        trust_clock: arguments.trust_clock,
        watch: arguments.watch,
        resolver: arguments.resolver,
    };
    // Before the policy is looked at: that may be what is wrong.
    if Manifest::is_interrupted(instance) {
        preflight::check()?;
        let _lock = instance.lock()?;
        generation::recover(instance).await?;
    }
    let ruling = Ruling::read(&arguments.policy, &setup.overridden)?;
    let previous = Manifest::read_to_replace(instance)?;
    generation::places(&ruling.policy, &arguments.policy, previous.as_ref()).await?;
    preflight::check()?;
    let lock = instance.lock()?;
    // Before the interfaces are looked at, so that no change of theirs goes unheard.
    let mut changes = links::listen()?;
    // Before it is in force: a SIGHUP must not end it, and a command waits instead of finding nobody.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut control = control::take(control::listen(instance)?);
    let mut daemon = match Daemon::start(instance, setup, ruling).await {
        Ok(daemon) => daemon,
        Err(error) => {
            control::close(instance);
            return Err(error);
        }
    };

    // Not under systemd: nobody to tell, which is fine.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                // Both outcomes are in the log.
                let _ = daemon.obey(Order::Reload { why: None }, "SIGHUP").await;
            }
            Some((request, stream)) = control.recv() => serve(&mut daemon, request, stream).await,
            Some(noticed) = changes.recv() => daemon.look_at_interfaces(noticed).await,
            _ = tick.tick() => daemon.tick().await,
        }
    }
    if daemon.leaves_the_filter() {
        log::info!(
            "instance {}: ending; the filter stays in force, `op25b detach` removes it",
            instance.name()
        );
    } else {
        log::error!(
            "instance {}: ending, and the filter with it, since nothing pins it any more",
            instance.name()
        );
    }
    control::close(instance);
    // What it writes last is written before another daemon may begin.
    drop(daemon);
    drop(lock);
    Ok(())
}

async fn serve(daemon: &mut Daemon, request: Request, mut stream: UnixStream) {
    let reply = Reply::from(daemon.obey(request.order, &request.by).await);
    control::answer(&mut stream, &reply).await;
}
