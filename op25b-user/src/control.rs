//! How the commands that change something reach the daemon: a line of JSON each way over a socket of root's own.

use std::{io, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    commands::No,
    instance::{self, Instance},
    situation::Suspended,
};

/// How long a command may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest line, in bytes.
const LONGEST: u64 = 1 << 16;

/// What a command wants.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub order: Order,
    /// Who wants it.
    pub by: String,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Read the policy file again.
    Reload {
        /// What has been changed in it.
        why: Option<String>,
    },
    /// Put another policy file in force.
    Apply {
        /// Which, absolute.
        policy: PathBuf,
        /// Go back by itself after this many seconds, unless it is confirmed.
        confirm: Option<u64>,
    },
    /// Keep what was applied.
    Confirm,
    /// Go back to the policy before.
    Rollback,
    /// Block nothing for a while.
    Suspend {
        /// What.
        what: Suspended,
        /// Until when.
        until: Timestamp,
    },
    /// Block again.
    Resume,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done: in words.
    Done(String),
    /// It is refused, for a reason that the user can do something about.
    Refused(String),
    /// It has failed.
    Failed(String),
}

impl From<Result<String>> for Reply {
    fn from(result: Result<String>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(error) => {
                let words = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
                if error.is::<No>() { Self::Refused(words) } else { Self::Failed(words) }
            }
        }
    }
}

/// Tells the daemon of an instance what to do, and waits until it is done.
///
/// # Errors
///
/// When there is no daemon, or it does not do it.
pub async fn ask(instance: &Instance, order: Order) -> Result<String> {
    let path = instance.socket();
    let mut stream = UnixStream::connect(&path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => No::Input(format!(
            "no daemon runs for instance {}; `op25b run --policy FILE` takes over without a gap, `op25b detach` \
             removes the filter",
            instance.name()
        ))
        .into(),
        io::ErrorKind::PermissionDenied => {
            No::Input(format!("{}: not permitted; run it as root", path.display())).into()
        }
        _ => anyhow::Error::new(error).context(format!("cannot reach the daemon at {}", path.display())),
    })?;
    let mut line = serde_json::to_string(&Request { order, by: user() })?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.context("cannot tell the daemon")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("the daemon does not answer")?;
    if answer.is_empty() {
        anyhow::bail!("the daemon ended before it answered; `op25b status` tells what is in force");
    }
    match serde_json::from_str(&answer).context("the daemon is of another version")? {
        Reply::Done(done) => Ok(done),
        Reply::Refused(why) => Err(No::Input(why).into()),
        Reply::Failed(why) => Err(anyhow::anyhow!(why)),
    }
}

/// Who types, behind sudo too.
pub(crate) fn user() -> String {
    let name = ["SUDO_USER", "LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok());
    name.unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()))
}

/// Listens for commands.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn listen(instance: &Instance) -> Result<UnixListener> {
    Ok(UnixListener::from_std(instance::listen(&instance.socket(), 0o600)?)?)
}

/// Takes the socket away: nobody listens any more.
pub fn close(instance: &Instance) {
    if let Err(error) = crate::durable::remove(&instance.socket()) {
        log::warn!("{error:#}");
    }
}

/// What commands want, each with where its answer goes; those that say nothing keep no other waiting.
#[must_use]
pub fn take(listener: UnixListener) -> mpsc::Receiver<(Request, UnixStream)> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(hand_over(stream, sender.clone()))),
                Err(error) => {
                    log::warn!("cannot take a command: {error}");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    });
    receiver
}

async fn hand_over(mut stream: UnixStream, sender: mpsc::Sender<(Request, UnixStream)>) {
    match hear(&mut stream).await {
        // Nobody takes it when the daemon ends: the command sees the connection close.
        Ok(request) => drop(sender.send((request, stream)).await),
        Err(error) => answer(&mut stream, &Reply::from(Err(error))).await,
    }
}

/// Reads what a command wants.
async fn hear(stream: &mut UnixStream) -> Result<Request> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream).take(LONGEST);
    timeout(PATIENCE, reader.read_line(&mut line)).await.context("a command says nothing")??;
    serde_json::from_str(&line).context("a command of another version")
}

/// Tells a command what became of it. One that has gone away is no error.
pub async fn answer(stream: &mut UnixStream, reply: &Reply) {
    if let Ok(line) = serde_json::to_string(reply) {
        let _ = timeout(PATIENCE, stream.write_all(line.as_bytes())).await;
    }
}
