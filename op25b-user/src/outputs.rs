//! What runs beside the filter to tell people and programs of it, as the policy says.

use crate::{
    events::Listener,
    history::Recorder,
    instance::Instance,
    policy::{History, Metrics, Outputs, Syslog},
    web::Server,
};

/// What runs now, each with what it was started for.
#[derive(Default)]
pub struct Running {
    listener: Option<(Option<Syslog>, Listener)>,
    recorder: Option<(History, Recorder)>,
    server: Option<(Option<Metrics>, Server)>,
}

impl Running {
    /// Starts, replaces and ends what a policy says; leaves alone what it does not change.
    pub fn follow(&mut self, instance: &Instance, outputs: &Outputs) {
        replace(&mut self.listener, Some(&outputs.syslog), |to| Listener::start(instance, to.as_ref()));
        replace(&mut self.recorder, outputs.history.as_ref(), |config| Recorder::start(instance, config));
        replace(&mut self.server, Some(&outputs.metrics), |config| Server::start(instance, config.as_ref()));
    }
}

fn replace<C: Clone + PartialEq, T>(
    running: &mut Option<(C, T)>,
    wanted: Option<&C>,
    start: impl FnOnce(&C) -> T,
) {
    if running.as_ref().map(|(config, _)| config) == wanted {
        return;
    }
    // The one before ends first: it has the port, the database, the events.
    *running = None;
    *running = wanted.map(|config| (config.clone(), start(config)));
}
