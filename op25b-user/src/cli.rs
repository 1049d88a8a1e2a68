//! What the user can type. Knows nothing of the rest: `cargo xtask dist` makes man pages and completions of it too.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use log::LevelFilter;

/// Outbound port 25 blocking for Linux edge routers, in XDP
#[derive(Debug, Parser)]
#[command(name = "op25b", version, propagate_version = true)]
pub struct Cli {
    /// Which of several filters on this router
    #[arg(long, global = true, default_value = "default", value_name = "NAME")]
    pub instance: String,
    /// What to say on stderr
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub log: LevelFilter,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach the filter and watch over it; it stays in force when this ends
    Run(Run),
    /// Tell whether a policy file is valid, what to look at, and how large it compiles
    Check(Check),
    /// Tell what changes for whom between two policies, or from what is in force to a policy
    Diff(Diff),
    /// Put the policy file in force again, after it was changed
    Reload,
    /// Put another policy in force; it becomes the policy file when all is well
    Apply(Apply),
    /// Keep what was applied for a trial
    Confirm,
    /// Block nothing for a while, without detaching
    Suspend(Suspend),
    /// Block again
    Resume,
    /// Exempt prefixes of customers, who may send then
    Exempt(Exceptions),
    /// Quarantine prefixes of customers, who may not send then, whatever else is written
    Quarantine(Exceptions),
    /// Tell what to look after
    #[command(subcommand)]
    Report(Report),
    /// Tell what happens to one frame, and why, by sending it through the real kernel program
    Explain(Explain),
    /// Tell what happens to every frame of a capture, by sending each through the real kernel program
    Replay(Replay),
    /// Try the running filter with frames made from the policy in force; counts nothing, exits 1 when one is judged wrong
    Selftest(Output),
    /// Show the counters
    Stats(Output),
    /// Show the groups and the sources that try most: live on a terminal, else once
    Top(Top),
    /// Show what happens, as it happens, at most once a second for each source, group and reason
    Events(Events),
    /// Write samples of what is dropped to a pcapng file
    Capture(Capture),
    /// Show what a source or a prefix did, hour by hour
    History(History),
    /// Tell all that is known of one customer, and what to tell the customer
    Source(Source),
    /// Prove that the filter is in force; exits 1 when it is not
    Status(Status),
    /// Remove the filter, its programs and its counters; the log of reads stays
    Detach,
}

/// `op25b run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Interface where frames from customers arrive; replaces the policy's interfaces
    #[arg(long, value_name = "IF")]
    pub customer: Vec<String>,
    /// Interface where frames from the Internet arrive; replaces the policy's interfaces
    #[arg(long, value_name = "IF")]
    pub upstream: Vec<String>,
    /// Put the policy file in force whenever it changes
    #[arg(long)]
    pub watch: bool,
    /// Ask this name server for the relays' hostnames, in place of those in /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub resolver: Option<SocketAddr>,
    /// Let dates come by a clock that the kernel does not know to be right
    #[arg(long)]
    pub trust_clock: bool,
    /// Log each judged frame in the kernel: for the lab, not for a router under load
    #[arg(long)]
    pub trace_frames: bool,
}

/// `op25b apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The policy file to put in force
    #[arg(required_unless_present = "rollback", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Go back by itself after this long, for example 5m, unless `op25b confirm` comes
    #[arg(long, value_name = "DURATION")]
    pub confirm: Option<humantime::Duration>,
    /// Go back to the policy that was in force before
    #[arg(long, conflicts_with_all = ["policy", "confirm"])]
    pub rollback: bool,
}

/// `op25b suspend`.
#[derive(Debug, Args)]
pub struct Suspend {
    /// Only this group; can be given several times
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// How long, for example 2h
    #[arg(
        long = "for",
        value_name = "DURATION",
        required_unless_present = "until",
        conflicts_with = "until"
    )]
    pub length: Option<humantime::Duration>,
    /// Until when, for example 2008-04-01T06:00:00+09:00
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
}

/// `op25b check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The policy file
    pub policy: PathBuf,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b exempt` and `op25b quarantine`.
#[derive(Debug, Args)]
pub struct Exceptions {
    /// The policy file, instead of the one in force
    #[arg(long, global = true, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Also put in force what else has been changed in the policy file and its files
    #[arg(long, global = true)]
    pub with_pending_changes: bool,
    /// What to do
    #[command(subcommand)]
    pub command: ExceptionCommand,
}

/// What to do with an exemption or a quarantine.
#[derive(Debug, Subcommand)]
pub enum ExceptionCommand {
    /// Write one into the policy file and put it in force
    Add(Add),
    /// Take one out of the policy file and put that in force
    Remove {
        /// Which
        prefix: IpNetwork,
    },
    /// Show all, those that expire first first
    List {
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
}

/// `op25b exempt add`.
#[derive(Debug, Args)]
pub struct Add {
    /// Which
    pub prefix: IpNetwork,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// Where that was decided
    #[arg(long)]
    pub ticket: Option<String>,
    /// The last day, for example 2027-03-31, or the moment with its offset
    #[arg(long, value_name = "DATE")]
    pub expires: Option<String>,
    /// Leave a quarantined customer the relays
    #[arg(long)]
    pub relays: bool,
}

/// `op25b report`.
#[derive(Debug, Subcommand)]
pub enum Report {
    /// Exemptions that have expired, or expire within 30 and 7 days
    Exemptions(ReportExemptions),
    /// Who still uses port 25 outside, and who to the relays: for reminders
    Migration(ReportMigration),
    /// Servers outside, and how many customers use each: whom to warn
    Destinations(ReportSince),
    /// Sources that look infected
    Abuse(ReportSince),
}

/// `op25b report migration`.
#[derive(Debug, Args)]
pub struct ReportMigration {
    /// Since when, of whom, and for whom
    #[command(flatten)]
    pub since: ReportSince,
    /// Only how many connections each group made to the relays' ports 587 and 465, day by day; with --csv as well
    #[arg(long, conflicts_with = "json")]
    pub trend: bool,
}

/// `op25b report destinations` and `abuse`, and most of `migration`.
#[derive(Debug, Args)]
pub struct ReportSince {
    /// Since when: a day like 2008-04-01, or a moment with its offset; absent: all that is kept
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Shorten addresses to /24 and /48
    #[arg(long)]
    pub anonymize: bool,
    /// For spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b top`.
#[derive(Debug, Args)]
pub struct Top {
    /// One screen as text, and no more
    #[arg(long)]
    pub once: bool,
    /// Only this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only sources in this prefix
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<IpNetwork>,
    /// Only this reason, for example relay; can be given several times. Absent: all but relay and exempt
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// What comes first
    #[arg(long, value_name = "COLUMN", default_value = "attempts")]
    pub sort: SortBy,
    /// Sources to show with --once; 0: all. Absent: 20, and all with --json
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    /// How often the live screen is read, for example 500ms
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub every: humantime::Duration,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Most connection attempts
    Attempts,
    /// Most different servers
    Destinations,
    /// Most attempts a minute
    Rate,
    /// Most frames
    Packets,
}

/// `op25b events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on until interrupted; without it what arrives within two seconds
    #[arg(long)]
    pub follow: bool,
    /// Only sources in this prefix
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<IpNetwork>,
    /// Only this reason, for example blocked; can be given several times. Absent: all but relay and exempt
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// End after so many
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// How to print it: one object a line
    #[command(flatten)]
    pub output: Output,
}

/// `op25b capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub write: PathBuf,
    /// One of how many dropped frames
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// End after this long, for example 1m
    #[arg(long = "for", value_name = "DURATION", default_value = "1m")]
    pub length: humantime::Duration,
    /// End after so many frames
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// Only sources in this prefix
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<IpNetwork>,
    /// Keep what follows the TCP header, up to 128 bytes of the frame: that is customers' mail
    #[arg(long)]
    pub payload: bool,
}

/// `op25b history`.
#[derive(Debug, Args)]
pub struct History {
    /// An address or a prefix of customers
    #[arg(value_name = "SOURCE|PREFIX")]
    pub source: IpNetwork,
    /// Since when: a day like 2008-04-01, or a moment with its offset; absent: all that is kept
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Until when: a day, which is included, or a moment with its offset
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Shorten addresses to /24 and /48
    #[arg(long)]
    pub anonymize: bool,
    /// For spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b source`.
#[derive(Debug, Args)]
pub struct Source {
    /// The customer's address
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
    /// When it had the address: a moment with its offset, or a day
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b report exemptions`.
#[derive(Debug, Args)]
pub struct ReportExemptions {
    /// The policy file, instead of the one in force
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Seen from which moment
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b diff`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct Diff {
    /// The policy file before; absent: the policy in force
    pub old: Option<PathBuf>,
    /// The policy file after
    pub new: PathBuf,
    /// At which moment, for example 2008-04-01T00:00:00+09:00
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// How to print it.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// Whose packets are judged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleName {
    /// Frames from customers
    Customer,
    /// Frames from the Internet
    Upstream,
}

/// `op25b explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A policy file, instead of the running generation
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Whose packets the interface judges
    #[arg(long)]
    pub role: RoleName,
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    pub src: IpAddr,
    /// Destination address
    #[arg(long, value_name = "ADDRESS")]
    pub dst: IpAddr,
    /// Source port
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    pub sport: u16,
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 25)]
    pub dport: u16,
    /// At which moment, for example 2008-04-01T00:00:00+09:00
    #[arg(long, value_name = "TIME", requires = "policy")]
    pub at: Option<Timestamp>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Count how every frame is seen for this long, for example 1s: proves that nothing goes by unread
    #[arg(long, value_name = "DURATION")]
    pub sample: Option<humantime::Duration>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// `op25b replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Whose packets the interface judges
    #[arg(long)]
    pub role: RoleName,
    /// Write the frames of one reason to a new pcapng file
    #[arg(long, value_name = "FILE", requires = "reason")]
    pub write: Option<PathBuf>,
    /// Which reason, for example blocked
    #[arg(long, requires = "write")]
    pub reason: Option<String>,
    /// How to print it: one object a line
    #[command(flatten)]
    pub output: Output,
    /// A pcap or pcapng file, plain or gzipped
    pub capture: PathBuf,
}
