//! `op25b top` on a terminal: a live screen. What is read, what is shown of it and how it is drawn are apart, and keys
//! never wait for the kernel.

mod draw;
#[cfg(test)]
mod made;
mod model;
mod reading;
mod screen;

use std::{cmp::Ordering, time::Duration};

use anyhow::{Context as _, Result};
use op25b_ebpf::verdict::Reason;
use ratatui::crossterm::event::Event;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    model::{Model, Next},
    screen::Screen,
};
use crate::{
    cli::SortBy,
    instance::Instance,
    sources::{Filter, Source},
};

/// What is shown, and how often it is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these reasons; none: all that go past the relays.
    pub reasons: Option<Vec<Reason>>,
    /// Which sources.
    pub filter: Filter,
    /// What comes first.
    pub sort: SortBy,
    /// From one reading to the next.
    pub every: Duration,
}

/// Which of two sources comes first; those that are equal stay as they are: most attempts first.
#[must_use]
pub fn order(by: SortBy, one: &Source, other: &Source) -> Ordering {
    match by {
        SortBy::Attempts => other.attempts.cmp(&one.attempts),
        SortBy::Destinations => other.destinations.cmp(&one.destinations),
        SortBy::Rate => other.attempts_per_minute.total_cmp(&one.attempts_per_minute),
        SortBy::Packets => other.packets.cmp(&one.packets),
    }
}

/// Shows it until somebody quits, or a signal says so.
///
/// # Errors
///
/// When the terminal cannot be used.
pub async fn live(instance: &Instance, options: Options) -> Result<()> {
    // Before the screen is taken: none of them may end it as it is.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut readings = reading::start(instance, options.reasons.clone(), options.every)?;
    let mut screen = Screen::take()?;
    let mut events = screen::events()?;
    let mut model = Model::new(options);
    loop {
        // Keys that have come meanwhile are obeyed first: a slow line draws less often.
        if events.is_empty() {
            screen.draw(&mut model)?;
        }
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            event = events.recv() => match event.context("the terminal says nothing any more")?? {
                Event::Key(key) if model.key(key) == Next::Quit => return Ok(()),
                _ => {}
            },
            reading = readings.recv() => model.take(reading.context("nothing is read any more")?),
        }
    }
}
