//! The thread that writes the accounts down as they grow.

use std::{
    collections::HashSet,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    HOUR,
    book::Book,
    failure::{Failure, Kind},
    reading::Reading,
};
use crate::{document::printable, instance::Instance, policy};

/// How often the pins are read.
const POLL: Duration = Duration::from_secs(30);
/// How soon it is tried again where another process had the database for a moment: a reader while it is made.
const AGAIN: Duration = Duration::from_secs(1);
/// How often that is worth it.
const TRIES: u32 = 5;
/// How long the last reading may take before the daemon ends without it.
const LAST: Duration = Duration::from_secs(5);

/// Writes the accounts down as they grow, in a thread of its own, until it is dropped.
pub struct Recorder {
    stop: Option<SyncSender<()>>,
    ended: Receiver<()>,
}

impl Recorder {
    /// Begins. What the disk or the database refuses is logged and tried again: it never concerns the filter.
    #[must_use]
    pub fn start(instance: &Instance, config: &policy::History) -> Self {
        let (stop, stopped) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let mut work =
            Work { instance: instance.clone(), book: Book::new(config), told: HashSet::new(), busy: 0 };
        let thread = thread::Builder::new().name("history".to_owned()).spawn(move || {
            work.run(&stopped);
            // Nobody waits when the daemon has ended meanwhile.
            let _ = end.send(());
        });
        if let Err(error) = thread {
            log::error!("history: no thread for it: {error}; nothing is written down");
        }
        Self { stop: Some(stop), ended }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop = None;
        // A disk that hangs must not keep the daemon.
        let _ = self.ended.recv_timeout(LAST);
    }
}

/// What the thread has.
struct Work {
    instance: Instance,
    book: Book,
    /// Failures that have been told since it last went well.
    told: HashSet<Kind>,
    /// How often in a row another process had the database.
    busy: u32,
}

impl Work {
    fn run(&mut self, stopped: &Receiver<()>) {
        loop {
            let wait = self.poll();
            if !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                break;
            }
        }
        // What came since the last time.
        self.poll();
    }

    /// Reads and writes once. How long to wait then.
    fn poll(&mut self) -> Duration {
        let done = match Reading::take(&self.instance) {
            Ok(reading) => self.book.record(&reading, Timestamp::now()),
            Err(error) => Err(Failure::new(Kind::Pins, format!("{error:#}"))),
        };
        let mut wait = until_next(Timestamp::now());
        match done {
            Ok(()) if self.told.is_empty() => {}
            Ok(()) => {
                self.busy = 0;
                log::info!("history: it is written down again");
                self.told.clear();
            }
            Err(failure) => {
                self.busy = if failure.kind == Kind::Busy { self.busy + 1 } else { 0 };
                if (1..=TRIES).contains(&self.busy) {
                    wait = AGAIN.min(wait);
                }
                self.tell(&failure, wait);
            }
        }
        wait
    }

    fn tell(&mut self, failure: &Failure, wait: Duration) {
        if self.told.insert(failure.kind) {
            log::error!(
                "history: {}; tried again in {} s, the filter is in force all the same",
                printable(&failure.to_string()),
                wait.as_secs()
            );
        }
    }
}

/// How long to wait: not over a full hour, since what is read right behind it is how the hour has ended.
fn until_next(now: Timestamp) -> Duration {
    let left = HOUR - now.as_second().rem_euclid(HOUR);
    // A moment later, so that it is behind it in the kernel too.
    POLL.min(Duration::from_secs(left.unsigned_abs()) + Duration::from_millis(100))
}
