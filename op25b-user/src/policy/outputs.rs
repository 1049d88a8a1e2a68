//! What people and programs are told, and where: metrics, history, syslog, and from when on a source is a bot.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Group, reader::Reader};
use crate::document::{self, Action, Document, excerpt};

/// What people and programs are told, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// HTTP, off where there is none.
    pub metrics: Option<Metrics>,
    /// The database, off where there is none.
    pub history: Option<History>,
    /// Events for a collector, off where there is none.
    pub syslog: Option<Syslog>,
    /// From when on a source is a bot.
    pub triage: Triage,
    /// Whether submission is counted.
    pub count_submission: bool,
    /// Whether sources are accounted for.
    pub account_sources: bool,
}

/// What a policy says that says nothing of them.
impl Default for Outputs {
    fn default() -> Self {
        Self {
            metrics: None,
            history: None,
            syslog: None,
            triage: Triage::default(),
            count_submission: false,
            account_sources: true,
        }
    }
}

/// OpenMetrics, the page and the API over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// Hourly accounts of sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The database.
    pub path: PathBuf,
    /// How long hours are kept.
    pub keep: Duration,
    /// Bytes that it may take.
    pub max_bytes: u64,
    /// How long destinations are kept by source; none: they are not.
    pub keep_destinations: Option<Duration>,
}

/// Events for a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Which.
    pub to: Collector,
}

/// Where RFC 5424 messages go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Collector {
    /// A local socket, /dev/log.
    Local(PathBuf),
    /// RFC 5426.
    Udp(SocketAddr),
    /// RFC 6587, counted octets.
    Tcp(SocketAddr),
}

/// From when on a source is a bot, or quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triage {
    /// Destinations within two hours.
    pub bot_destinations: u64,
    /// Attempts a minute.
    pub bot_attempts_per_minute: u64,
    /// Silence.
    pub quiet_after: Duration,
}

/// A mail client knows one or two servers, and asks every few minutes.
impl Default for Triage {
    fn default() -> Self {
        Self { bot_destinations: 10, bot_attempts_per_minute: 30, quiet_after: Duration::from_secs(6 * 3600) }
    }
}

/// What nobody is told where sources are not accounted for.
pub(crate) const NO_ACCOUNTS: &str = "sources are not accounted for (`account_sources: false`): groups' packets and bytes \
     are counted, attempts are not, and nobody knows who sent them";

const DAY: u64 = 24 * 3600;
/// How long hours are kept where the policy does not say.
const KEEP: Duration = Duration::from_secs(90 * DAY);
/// How long destinations are kept where the policy says that they are, and not how long.
const KEEP_DESTINATIONS: Duration = Duration::from_secs(7 * DAY);
/// Ten years: what is kept longer is a slip of the finger.
const LONGEST: Duration = Duration::from_secs(3660 * DAY);
/// MiB of the database where the policy does not say.
const MAX_MIB: i64 = 1024;

impl Reader<'_> {
    /// What cannot be had where sources are not accounted for.
    pub(super) fn without_accounts(&mut self, outputs: &Outputs, groups: &[Group]) {
        if outputs.account_sources {
            return;
        }
        let mut needed = |near: &str, what: fmt::Arguments<'_>| {
            self.error(near, format_args!("{what}; write `account_sources: true`, or leave it out"));
        };
        if outputs.history.is_some() {
            needed(
                "history:",
                format_args!(
                    "history: is made of sources' accounts, and `account_sources: false` keeps none"
                ),
            );
        }
        if outputs.syslog.is_some() {
            needed(
                "syslog:",
                format_args!(
                    "syslog: tells what sources' accounts hold, and `account_sources: false` keeps none"
                ),
            );
        }
        for group in groups.iter().filter(|group| group.action != Action::Drop) {
            needed(
                &group.name,
                format_args!(
                    "group {}: answers are limited by source, and `account_sources: false` counts none of them",
                    group.name
                ),
            );
        }
        self.warn("account_sources:", NO_ACCOUNTS);
    }

    pub(super) fn outputs(&mut self, document: &Document) -> Outputs {
        self.leave();
        Outputs {
            metrics: document.metrics.as_ref().and_then(|written| self.metrics(written)),
            history: document.history.as_ref().and_then(|written| self.history(written)),
            syslog: document.syslog.as_ref().and_then(|written| self.syslog(written)),
            triage: self.triage(&document.triage),
            count_submission: document.count_submission,
            account_sources: document.account_sources,
        }
    }

    fn metrics(&mut self, written: &document::Metrics) -> Option<Metrics> {
        self.enter("metrics:");
        let listen = written.listen.parse().map_err(|_| {
            format!("{:?} is no address with a port; write one like 127.0.0.1:9025", excerpt(&written.listen))
        });
        let listen: Option<SocketAddr> = self.value("listen", "metrics: listen ", Some(listen));
        if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && !written.allow_remote) {
            self.error(
                "listen:",
                format_args!(
                    "metrics: {listen} can be reached by others, and there is no password; write a loopback address, \
                     or `allow_remote: true` if a firewall or a proxy stands before it"
                ),
            );
        }
        self.leave();
        Some(Metrics { listen: listen? })
    }

    fn history(&mut self, written: &document::History) -> Option<History> {
        self.enter("history:");
        let path = Path::new(&written.path);
        if !path.is_absolute() || written.path.chars().any(char::is_control) {
            self.error(
                "path:",
                format_args!(
                    "history: path {:?}: write one like /var/lib/op25b/history.db",
                    excerpt(&written.path)
                ),
            );
        }
        let keep = self.duration("keep", "history", written.keep.as_deref()).unwrap_or(KEEP);
        let keep_destinations = match &written.keep_destinations {
            None | Some(document::Keep::Usual(false)) => None,
            Some(document::Keep::Usual(true)) => Some(KEEP_DESTINATIONS),
            Some(document::Keep::For(text)) => self.duration("keep_destinations", "history", Some(text)),
        };
        let max_mib = written.max_mib.unwrap_or(MAX_MIB);
        if !(1..=1 << 20).contains(&max_mib) {
            self.error("max_mib:", format_args!("history: max_mib {max_mib}: write 1 to 1048576"));
        }
        self.leave();
        Some(History {
            path: path.to_owned(),
            keep,
            max_bytes: max_mib.unsigned_abs() << 20,
            keep_destinations,
        })
    }

    fn syslog(&mut self, written: &document::Syslog) -> Option<Syslog> {
        self.enter("syslog:");
        let to = collector(&written.to);
        let to = self.value("to", "syslog: to ", Some(to));
        self.leave();
        Some(Syslog { to: to? })
    }

    fn triage(&mut self, written: &document::Triage) -> Triage {
        self.enter("triage:");
        let default = Triage::default();
        let mut number = |key: &str, written: Option<i64>, default: u64| match written {
            None => default,
            Some(number) if (1..=1_000_000).contains(&number) => number.unsigned_abs(),
            Some(number) => {
                self.error(&format!("{key}:"), format_args!("triage: {key} {number}: write 1 to 1000000"));
                default
            }
        };
        let bot_destinations = number("bot_destinations", written.bot_destinations, default.bot_destinations);
        let bot_attempts_per_minute = number(
            "bot_attempts_per_minute",
            written.bot_attempts_per_minute,
            default.bot_attempts_per_minute,
        );
        let quiet_after = self.duration("quiet_after", "triage", written.quiet_after.as_deref());
        self.leave();
        Triage {
            bot_destinations,
            bot_attempts_per_minute,
            quiet_after: quiet_after.unwrap_or(default.quiet_after),
        }
    }

    fn duration(&mut self, key: &str, of: &str, written: Option<&str>) -> Option<Duration> {
        let read = written.map(|text| match humantime::parse_duration(text) {
            Ok(duration) if (Duration::from_secs(60)..=LONGEST).contains(&duration) => Ok(duration),
            _ => Err(format!("{:?}: write a time like 90d or 6h, a minute to ten years", excerpt(text))),
        });
        self.value(key, &format!("{of}: {key} "), read)
    }
}

fn collector(text: &str) -> Result<Collector, String> {
    let address = |text: &str| text.parse::<SocketAddr>().ok();
    let read = if let Some(rest) = text.strip_prefix("udp://") {
        address(rest).map(Collector::Udp)
    } else if let Some(rest) = text.strip_prefix("tcp://") {
        address(rest).map(Collector::Tcp)
    } else {
        let path = Path::new(text);
        (path.is_absolute() && !text.contains(char::is_control)).then(|| Collector::Local(path.to_owned()))
    };
    read.ok_or_else(|| {
        format!(
            "{:?}: write a socket's path like /dev/log, or udp://192.0.2.14:514, or tcp://192.0.2.14:601",
            excerpt(text)
        )
    })
}
