//! The commands that want events: each has a queue and a thread, and the slow lose what they do not read.

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Event, decode::Told};
use crate::{commands::No, instance::Instance};

/// Commands at a time.
const MOST: usize = 16;
/// Events that wait for one that reads slowly.
const QUEUE: usize = 4096;
/// How long a command may take to say what it wants, and to take what it is given.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line of a command, in bytes.
const LONGEST: u64 = 4096;

/// What a command wants.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Samples of what is dropped: one of so many.
    pub capture_every: Option<u32>,
    /// The frames' first bytes too.
    pub snapshots: bool,
}

/// A line to a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// Events that nobody could keep, since the last line.
    Lost {
        /// How many.
        lost: u64,
    },
    /// One event.
    Event(Box<Event>),
}

/// The commands that listen now.
#[derive(Clone, Default)]
pub(super) struct Clients {
    all: Arc<Mutex<Vec<Client>>>,
}

struct Client {
    asked: Asked,
    /// Dropped frames that it has not been given a sample of.
    owed: u64,
    queue: SyncSender<Arc<Told>>,
    lost: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
}

impl Clients {
    /// Takes a command in, in a thread of its own: it may say nothing.
    pub(super) fn admit(&self, stream: UnixStream) {
        let clients = self.clone();
        let served = thread::Builder::new().name("op25b-client".into()).spawn(move || {
            // One that goes away is no failure.
            if let Err(error) = clients.serve(stream) {
                log::debug!("a command that listened for events has gone: {error:#}");
            }
        });
        if let Err(error) = served {
            log::warn!("cannot take in a command that wants events: {error}");
        }
    }

    fn serve(&self, stream: UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(LONGEST)).read_line(&mut line)?;
        let asked = serde_json::from_str(&line)?;
        let (queue, events) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let gone = Arc::new(AtomicBool::new(false));
        {
            let mut all = self.lock();
            if all.len() >= MOST {
                let _ = stream.shutdown(Shutdown::Both);
                anyhow::bail!("{MOST} commands listen already");
            }
            all.push(Client { asked, owed: 0, queue, lost: lost.clone(), gone: gone.clone() });
        }
        let done = hand_over(&stream, &events, &lost, asked);
        gone.store(true, Ordering::Relaxed);
        done
    }

    /// Whether nobody listens; those that have gone are forgotten.
    pub(super) fn is_empty(&self) -> bool {
        let mut all = self.lock();
        all.retain(|client| !client.gone.load(Ordering::Relaxed));
        all.is_empty()
    }

    /// Gives an event to all that want its kind; a sample stands for `every` dropped frames.
    pub(super) fn give(&self, told: &Arc<Told>, every: u32) {
        for client in self.lock().iter_mut() {
            let wanted = match client.asked.capture_every {
                Some(asked) => told.sample && due(&mut client.owed, asked, every),
                None => told.attempt,
            };
            if wanted && let Err(TrySendError::Full(_)) = client.queue.try_send(told.clone()) {
                client.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells all that the kernel had no room for some.
    pub(super) fn lose(&self, count: u64) {
        for client in self.lock().iter() {
            client.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// One of how many dropped frames is wanted; zero: none.
    pub(super) fn capture_every(&self) -> u32 {
        self.lock().iter().filter_map(|client| client.asked.capture_every).min().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one that wants a sample of `asked` dropped frames gets this one, which stands for `every` of them: the kernel
/// samples as often as the keenest wants.
fn due(owed: &mut u64, asked: u32, every: u32) -> bool {
    *owed += u64::from(every);
    let due = *owed >= u64::from(asked);
    if due {
        // Before the kernel knows of one that wants more, less is owed than can be given.
        *owed = (*owed - u64::from(asked)).min(u64::from(asked.saturating_sub(1)));
    }
    due
}

fn hand_over(
    mut stream: &UnixStream,
    events: &Receiver<Arc<Told>>,
    lost: &AtomicU64,
    asked: Asked,
) -> Result<()> {
    let mut write = |line: &Line| -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        Ok(stream.write_all(&text)?)
    };
    loop {
        // Looked at now and then, so that one that has gone does not keep its place.
        let event = match events.recv_timeout(Duration::from_secs(1)) {
            Ok(event) => Some(event),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost != 0 || event.is_none() {
            write(&Line::Lost { lost })?;
        }
        if let Some(event) = event {
            let mut told = event.event.clone();
            if asked.snapshots {
                told.frame = Some(event.frame.iter().map(|byte| format!("{byte:02x}")).collect());
            }
            let event = told;
            write(&Line::Event(Box::new(event)))?;
        }
    }
}

/// Asks the daemon of an instance for events.
///
/// # Errors
///
/// When no daemon listens.
pub fn connect(instance: &Instance, asked: Asked) -> Result<Lines<BufReader<UnixStream>>> {
    let path = instance.events();
    let stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => No::Input(format!(
            "no daemon runs for instance {}, and it is the daemon that hears of events; `op25b run --policy FILE` \
             starts it, `op25b top --once` and `op25b stats` need none",
            instance.name()
        ))
        .into(),
        std::io::ErrorKind::PermissionDenied => {
            anyhow::Error::new(No::Input(format!("{}: not permitted; run it as root", path.display())))
        }
        _ => anyhow::Error::new(error).context(format!("cannot connect to {}", path.display())),
    })?;
    let mut line = serde_json::to_vec(&asked)?;
    line.push(b'\n');
    (&stream).write_all(&line).context("the daemon does not listen")?;
    Ok(BufReader::new(stream).lines())
}

#[cfg(test)]
mod tests {
    use super::due;

    #[test]
    fn each_gets_its_own_rate() {
        let given = |asked: u32, every: u32| {
            let mut owed = 0;
            (0..1000).filter(|_| due(&mut owed, asked, every)).count()
        };
        // Of a thousand samples, each of so many frames.
        for (asked, every, expected) in [(1, 1, 1000), (10, 1, 100), (10, 4, 400), (3, 2, 666), (2, 5, 1000)]
        {
            assert_eq!(given(asked, every), expected, "one of {asked}, sampled one of {every}");
        }
    }
}
