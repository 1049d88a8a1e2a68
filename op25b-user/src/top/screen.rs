//! The terminal: taken, drawn on, and given back however this ends.

use std::{env, io, thread};

use anyhow::{Context as _, Result};
use log::LevelFilter;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    draw::{Paint, draw},
    model::Model,
};

/// The terminal, given back when dropped; when something panics, the hook does that first, so that the message is read.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    paint: Paint,
    log: LevelFilter,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| give_back()).context("cannot use the terminal")?;
        // https://no-color.org
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let log = log::max_level();
        // What is logged goes to the same terminal.
        log::set_max_level(LevelFilter::Off);
        Ok(Self { terminal, paint: Paint { colours: !plain }, log })
    }

    /// Draws what has changed.
    pub(super) fn draw(&mut self, model: &mut Model) -> Result<()> {
        let paint = self.paint;
        self.terminal.draw(|frame| draw(frame, model, paint)).context("cannot draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        log::set_max_level(self.log);
    }
}

/// A terminal that has gone away needs nothing.
fn give_back() {
    let _ = ratatui::try_restore();
}

/// Keys, and changes of the terminal's size, from a thread that ends with the process.
pub(super) fn events() -> Result<UnboundedReceiver<io::Result<Event>>> {
    let (sender, receiver) = unbounded_channel();
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let event = event::read();
            let last = event.is_err();
            if sender.send(event).is_err() || last {
                return;
            }
        }
    })?;
    Ok(receiver)
}
