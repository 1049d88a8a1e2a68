//! The page: whether the filter is in force in one look, then groups, the last day, sources, relays and interfaces.

#[cfg(test)]
mod said;

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use maud::{DOCTYPE, Markup, html};

use super::{
    trend::{self, Bar},
    view::{Reading, SourcesView, View},
    words::{Language, Word},
};
use crate::{
    figures::{OfGroup, number},
    history::Trend,
    situation::Suspended,
    sources::{Label, Source},
    status::{InterfaceStatus, Status},
};

/// How it looks.
pub(super) const STYLE: &str = include_str!("page.css");
/// Reads it anew every few seconds.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// Sources that are shown.
const SHOWN: usize = 25;

/// What one page shows.
pub(super) struct Page<'v> {
    pub(super) language: Language,
    pub(super) view: &'v View,
    pub(super) sources: &'v Reading<SourcesView>,
    /// None where no history is kept.
    pub(super) trend: Option<&'v Reading<Vec<Trend>>>,
    pub(super) now: Timestamp,
}

/// The page where nothing can be read.
pub(super) fn without_view(language: Language, instance: &str, why: &str) -> Markup {
    let word = |word: Word| word.text(language);
    frame(
        language,
        instance,
        html! {
            section #state .state.detached {
                p.verdict role="status" { span.mark aria-hidden="true" { "✕" } " " (word(Word::Unknown)) }
                p lang="en" { (why) }
            }
        },
    )
}

fn frame(language: Language, instance: &str, content: Markup) -> Markup {
    let word = |word: Word| word.text(language);
    let other = language.other();
    html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "op25b: " (instance) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#content" { (word(Word::Skip)) }
                header {
                    h1 { "op25b " small { (word(Word::Title)) } }
                    nav {
                        a href={ "/?lang=" (other.tag()) } lang=(other.tag()) hreflang=(other.tag()) {
                            (word(Word::OtherLanguage))
                        }
                    }
                }
                p #stale role="alert" hidden { (word(Word::Stale)) }
                main #content tabindex="-1" { (content) }
                footer {
                    (word(Word::Foot)) " "
                    @for path in ["/metrics", "/api/v1/status", "/api/v1/stats", "/api/v1/sources", "/api/v1/history-trend"] {
                        a href=(path) { (path) } " "
                    }
                }
            }
        }
    }
}

impl Page<'_> {
    /// The whole of it.
    pub(super) fn render(&self) -> Markup {
        frame(
            self.language,
            &self.view.status.instance,
            html! {
                (self.state())
                (self.warnings())
                (self.groups())
                (self.trend())
                (self.sources())
                (self.interfaces())
                (self.relays())
            },
        )
    }

    fn word(&self, word: Word) -> &'static str {
        word.text(self.language)
    }

    fn state(&self) -> Markup {
        let status = &self.view.status;
        let (class, mark, name, means) = match status.state {
            // A group that is suspended is not enforced.
            "enforcing" if !status.enforcing => ("suspended", "‖", Word::Suspended, Word::SuspendedMeans),
            "enforcing" => ("enforcing", "✓", Word::Enforcing, Word::EnforcingMeans),
            "suspended" => ("suspended", "‖", Word::Suspended, Word::SuspendedMeans),
            "monitoring" => ("monitoring", "○", Word::Monitoring, Word::MonitoringMeans),
            "partial" => ("partial", "✕", Word::Partial, Word::PartialMeans),
            _ => ("detached", "✕", Word::Detached, Word::DetachedMeans),
        };
        html! {
            section #state .state.(class) {
                p.verdict role="status" { span.mark aria-hidden="true" { (mark) } " " (self.word(name)) }
                p { (self.word(means)) }
            }
            section #facts {
                dl {
                    (self.fact(Word::Dropped, html! { (number(status.dropped_packets)) }))
                    (self.fact(Word::Judged, html! { (number(status.judged_packets)) }))
                    (self.fact(Word::NextChange, self.next_change(status)))
                    @for change in &status.overdue {
                        (self.fact(Word::Overdue, html! { strong { (change.what) ", " (self.time(change.at)) } }))
                    }
                    @if let Some(suspension) = &status.suspension {
                        (self.fact(Word::SuspendedUntil, html! {
                            (self.time(suspension.until)) ": "
                            @match &suspension.what {
                                Suspended::Groups(groups) => @for group in groups { code { (group) } " " },
                                _ => (self.word(Word::Everything)),
                            }
                            " (" (self.word(Word::By)) " " (suspension.by) ")"
                        }))
                    }
                    @if let Some(trial) = &status.unconfirmed {
                        (self.fact(Word::Trial, html! {
                            (self.time(trial.until)) ": " code { (trial.policy.display()) }
                        }))
                    }
                    (self.fact(Word::Policy, html! { code { (status.policy.path) } }))
                    (self.fact(Word::Hash, html! { code { (status.policy.hash) } }))
                    (self.fact(Word::Generation, html! { (status.generation) }))
                    (self.fact(Word::Since, self.time(self.view.manifest.since)))
                    (self.fact(Word::Instance, html! { code { (status.instance) } }))
                    (self.fact(Word::ReadAt, self.time(self.now)))
                }
            }
        }
    }

    fn fact(&self, name: Word, value: Markup) -> Markup {
        html! { div { dt { (self.word(name)) } dd { (value) } } }
    }

    fn next_change(&self, status: &Status) -> Markup {
        match &status.next_change {
            Some(change) => html! { (change.what) ", " (self.time(change.at)) },
            None => html! { (self.word(Word::NoChange)) },
        }
    }

    fn warnings(&self) -> Markup {
        let warnings = &self.view.status.warnings;
        html! {
            section #warnings aria-labelledby="warnings-title" {
                h2 #warnings-title { (self.word(Word::Warnings)) }
                @if warnings.is_empty() {
                    p { (self.word(Word::NoWarnings)) }
                } @else {
                    ul.warnings lang="en" { @for warning in warnings { li { (warning) } } }
                }
            }
        }
    }

    fn groups(&self) -> Markup {
        let counted = self.sources.as_deref().map(|sources| sources.triage.as_slice()).unwrap_or_default();
        let counted = counted.iter().map(|(customer, _, number)| (customer, *number));
        let rows = OfGroup::all(&self.view.manifest, &self.view.stats.totals, counted);
        let all = rows.iter().fold(OfGroup::default(), |all, row| all.and(row));
        let cells = |row: &OfGroup| {
            html! {
                td.number { (number(row.blocked)) }
                td.number { (number(row.would)) }
                td.number { (number(row.attempts)) }
                td.number { (number(row.allowed)) }
                td.number { (number(row.sources)) }
            }
        };
        html! {
            section #groups aria-labelledby="groups-title" {
                h2 #groups-title { (self.word(Word::Groups)) }
                (self.table(Word::GroupsCaption, &[
                    (Word::Group, false), (Word::Mode, false), (Word::BlockedPackets, true), (Word::WouldPackets, true),
                    (Word::Attempts, true), (Word::AllowedPackets, true), (Word::SourceNumber, true),
                ], html! {
                    @for row in &rows {
                        tr {
                            th scope="row" {
                                @match &row.name { Some(name) => (name), None => em { (self.word(Word::NoGroup)) } }
                            }
                            td { (self.mode(row)) }
                            (cells(row))
                        }
                    }
                    tr.sum { th scope="row" { (self.word(Word::Total)) } td {} (cells(&all)) }
                }))
                p.note { (self.word(Word::AttemptsMeans)) }
                @if let Err(why) = self.sources { p.problem lang="en" { (why) } }
            }
        }
    }

    fn mode(&self, row: &OfGroup) -> Markup {
        let (class, name) = match (row.mode.as_deref(), &row.name) {
            (Some("enforce"), _) => ("enforce", self.word(Word::ModeEnforce)),
            (Some("monitor"), _) => ("monitor", self.word(Word::ModeMonitor)),
            (Some(_), _) => ("off", self.word(Word::ModeOff)),
            (None, Some(_)) => ("off", self.word(Word::FormerGroup)),
            (None, None) => return html! {},
        };
        html! { span.tag.(class) { (name) } }
    }

    fn trend(&self) -> Markup {
        let content = match self.trend {
            None => html! {
                p { (self.word(Word::TrendOff)) }
                pre { code { "history: { path: /var/lib/op25b/history.db, keep: 90d }" } }
            },
            Some(Err(why)) => html! { p.problem lang="en" { (why) } },
            Some(Ok(hours)) => {
                let bars = trend::bars(hours, self.now);
                if bars.iter().all(|bar| bar.sum() == 0) {
                    html! { p { (self.word(Word::TrendEmpty)) } }
                } else {
                    self.drawing(&bars)
                }
            }
        };
        html! {
            section #trend aria-labelledby="trend-title" {
                h2 #trend-title { (self.word(Word::Trend)) }
                (content)
            }
        }
    }

    fn drawing(&self, bars: &[Bar]) -> Markup {
        let most = bars.iter().map(Bar::sum).max().unwrap_or(0);
        let hour = |at: Timestamp| at.to_zoned_datetime(self.zone()).strftime("%H:%M").to_string();
        let tell = |bar: &Bar| {
            let (blocked, would) = (self.word(Word::Blocked), self.word(Word::Would));
            format!("{}: {blocked} {}, {would} {}", hour(bar.hour), number(bar.blocked), number(bar.would))
        };
        html! {
            p.legend {
                span.swatch.blocked aria-hidden="true" {} (self.word(Word::Blocked)) " "
                span.swatch.would aria-hidden="true" {} (self.word(Word::Would)) " · "
                (self.word(Word::Most)) ": " strong { (number(most)) }
            }
            (trend::draw(bars, self.word(Word::TrendCaption), hour, tell))
            details #trend-details {
                summary { (self.word(Word::TrendTable)) }
                (self.table(Word::TrendCaption, &[(Word::Hour, false), (Word::Blocked, true), (Word::Would, true)], html! {
                    @for bar in bars {
                        tr {
                            th scope="row" { (hour(bar.hour)) }
                            td.number { (number(bar.blocked)) }
                            td.number { (number(bar.would)) }
                        }
                    }
                }))
            }
        }
    }

    fn sources(&self) -> Markup {
        let content = match self.sources {
            Err(why) => html! { p.problem lang="en" { (why) } },
            Ok(sources) if sources.top.is_empty() => html! { p { (self.word(Word::NoSources)) } },
            Ok(sources) => {
                let all: u64 = sources.triage.iter().map(|(_, _, number)| number).sum();
                let shown = sources.top.len().min(SHOWN) as u64;
                html! {
                    (self.table(Word::SourcesCaption, &[
                        (Word::Source, false), (Word::Group, false), (Word::Triage, false), (Word::Attempts, true),
                        (Word::Destinations, true), (Word::PerMinute, true), (Word::Packets, true),
                        (Word::LastSeen, false), (Word::LastDestination, false),
                    ], html! { @for source in sources.top.iter().take(SHOWN) { (self.source(source)) } }))
                    @if all > shown {
                        p.note { (self.word(Word::More).replace("{shown}", &number(shown)).replace("{all}", &number(all))) }
                    }
                    @if sources.evicted != 0 {
                        p.note { (self.word(Word::Evicted).replace("{}", &number(sources.evicted))) }
                    }
                }
            }
        };
        let triage = &self.view.manifest.outputs.triage;
        let means = self
            .word(Word::TriageMeans)
            .replace("{destinations}", &number(triage.bot_destinations))
            .replace("{rate}", &number(triage.bot_attempts_per_minute))
            .replace("{quiet}", &self.duration(triage.quiet_after));
        html! {
            section #sources aria-labelledby="sources-title" {
                h2 #sources-title { (self.word(Word::Sources)) }
                (content)
                p.note { (means) }
            }
        }
    }

    fn source(&self, source: &Source) -> Markup {
        let (class, triage) = match source.triage {
            Some(Label::Bot) => ("bot", Word::TriageBot),
            Some(Label::Settings) => ("settings", Word::TriageSettings),
            Some(Label::Quiet) => ("quiet", Word::TriageQuiet),
            None => ("none", Word::TriageNone),
        };
        html! {
            tr {
                th scope="row" { code { (source.source) } }
                td { @match &source.customer { Some(name) => (name), None => em { (self.word(Word::NoGroup)) } } }
                td { span.tag.(class) { (self.word(triage)) } }
                td.number { (number(source.attempts)) }
                td.number { (number(source.destinations)) }
                td.number { (format!("{:.1}", source.attempts_per_minute)) }
                td.number { (number(source.packets)) }
                td { (self.time(source.last_seen)) }
                td { code { (source.last_destination) } }
            }
        }
    }

    fn interfaces(&self) -> Markup {
        html! {
            section #interfaces aria-labelledby="interfaces-title" {
                h2 #interfaces-title { (self.word(Word::Interfaces)) }
                (self.table(Word::InterfacesCaption, &[
                    (Word::Interface, false), (Word::Role, false), (Word::AttachMode, false), (Word::State, false),
                ], html! { @for interface in &self.view.status.interfaces { (self.interface(interface)) } }))
            }
        }
    }

    fn interface(&self, interface: &InterfaceStatus) -> Markup {
        let role = match interface.role.as_str() {
            "both" => Word::RoleBoth,
            "upstream" => Word::RoleUpstream,
            _ => Word::RoleCustomer,
        };
        html! {
            tr {
                th scope="row" { code { (interface.name) } }
                td { (self.word(role)) }
                td { code { (interface.mode) } }
                td {
                    @if interface.attached {
                        span.tag.enforce { (self.word(Word::Attached)) }
                    } @else {
                        span.tag.bot { (self.word(Word::NotAttached)) }
                    }
                    @if let Some(problem) = &interface.problem { " " span lang="en" { (problem) } }
                }
            }
        }
    }

    fn relays(&self) -> Markup {
        let (relays, hostnames) = (&self.view.manifest.relays, &self.view.status.hostnames);
        html! {
            section #relays aria-labelledby="relays-title" {
                h2 #relays-title { (self.word(Word::Relays)) }
                @if relays.is_empty() {
                    p { (self.word(Word::NoRelays)) }
                } @else {
                    p { (self.word(Word::RelayNames)) @for relay in relays { " " code { (relay) } } }
                }
                @if hostnames.is_empty() && !relays.is_empty() {
                    p { (self.word(Word::NoHostnames)) }
                } @else if !hostnames.is_empty() {
                    (self.table(Word::RelaysCaption, &[
                        (Word::Hostname, false), (Word::Addresses, false), (Word::Answered, false),
                    ], html! {
                        @for (hostname, known) in hostnames {
                            tr {
                                th scope="row" {
                                    (hostname)
                                    @if let Some(alias) = &known.alias { " → " (alias) }
                                }
                                td { @for address in known.addresses.keys() { code { (address) } " " } }
                                td {
                                    @match known.answered {
                                        Some(answered) => (self.ago(answered)),
                                        None => strong { (self.word(Word::Never)) },
                                    }
                                    @if let Some(failure) = &known.failure { " " span.problem lang="en" { (failure) } }
                                }
                            }
                        }
                    }))
                }
            }
        }
    }

    /// A table that scrolls in its own box where it is wider than the page; the keyboard reaches the box.
    fn table(&self, caption: Word, columns: &[(Word, bool)], rows: Markup) -> Markup {
        html! {
            div.scroll tabindex="0" role="region" aria-label=(self.word(caption)) {
                table {
                    caption { (self.word(caption)) }
                    thead {
                        tr {
                            @for (column, numeric) in columns {
                                th.number[*numeric] scope="col" { (self.word(*column)) }
                            }
                        }
                    }
                    tbody { (rows) }
                }
            }
        }
    }

    /// A policy is only in force with a time zone that is known.
    fn zone(&self) -> TimeZone {
        TimeZone::get(&self.view.manifest.timezone).unwrap_or(TimeZone::UTC)
    }

    fn time(&self, at: Timestamp) -> Markup {
        let text = at.to_zoned_datetime(self.zone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string();
        html! { time datetime=(at) { (text) } }
    }

    fn ago(&self, at: Timestamp) -> String {
        let passed = Duration::try_from(self.now.duration_since(at)).unwrap_or_default();
        self.word(Word::Ago).replace("{}", &self.duration(passed))
    }

    fn duration(&self, duration: Duration) -> String {
        let seconds = duration.as_secs();
        let (value, word) = match seconds {
            0..120 => (seconds, Word::Seconds),
            120..7200 => (seconds / 60, Word::Minutes),
            7200..172_800 => (seconds / 3600, Word::Hours),
            _ => (seconds / 86_400, Word::Days),
        };
        self.word(word).replace("{}", &value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nothing_can_be_read_is_text() {
        let page = without_view(Language::Japanese, "edge", "<script>alert(1)</script>").into_string();
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("状態不明") && page.contains("lang=\"ja\""), "{page}");
    }
}
