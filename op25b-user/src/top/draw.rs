//! How it looks: two lines of what is in force, the groups, the sources or one of them, and the keys. Colours only
//! repeat what words say.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    symbols::bar,
    text::{Line as Text, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    model::{Model, Pane},
    reading::{Group, KEPT, Line, Pace, Reading},
};
use crate::{
    cli::SortBy,
    document::printable,
    figures::{number, number_within, rate, roughly},
    history::{Moment, zone},
    reports::Thresholds,
    sources::{Filter, Label},
    status::Status,
};

/// With less nothing can be read.
const LEAST: (u16, u16) = (60, 12);

const KEYS: &str = "q quit  j/k move  Enter detail  s sort  / filter  Tab groups  Space pause";
const KEYS_OF_GROUPS: &str = "q quit  j/k move  Enter only this group  Tab sources  Space pause";
const KEYS_OF_DETAIL: &str = "q back  Space pause";

/// Whether there are colours; bold and reversed letters there are always.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) colours: bool,
}

impl Paint {
    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// What is wrong, or may be infected.
    fn alarm(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn caution(self) -> Style {
        self.colour(Color::Yellow)
    }

    fn fine(self) -> Style {
        self.colour(Color::Green)
    }

    fn faint(self) -> Style {
        if self.colours { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    fn label(self, label: Option<Label>) -> Style {
        match label {
            Some(Label::Bot) => self.alarm(),
            Some(Label::Settings) => self.caution(),
            Some(Label::Quiet) | None => self.faint(),
        }
    }
}

const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, paint: Paint) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let needed = format!(
            "{} by {} characters are too few for op25b top: {} by {} at least. q quits",
            area.width, area.height, LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(needed).wrap(Wrap { trim: true }), area);
        return;
    }
    let groups = model.reading.as_ref().map_or(0, |reading| reading.groups.len());
    // Sources have two thirds at least.
    let groups = u16::try_from(groups).unwrap_or(u16::MAX).clamp(1, (area.height - 5) / 3);
    let parts = if model.detail.is_some() {
        [Constraint::Length(2), Constraint::Length(0), Constraint::Min(1), Constraint::Length(1)]
    } else {
        [Constraint::Length(2), Constraint::Length(1 + groups), Constraint::Min(1), Constraint::Length(1)]
    };
    let [head, upper, lower, foot] = Layout::vertical(parts).areas(area);
    draw_head(frame, head, model, paint);
    draw_foot(frame, foot, model, paint);
    match (&model.reading, &model.detail) {
        (None, _) => frame.render_widget("reading …", lower),
        (Some(_), Some(_)) => draw_detail(frame, lower, model, paint),
        (Some(_), None) => {
            draw_groups(frame, upper, model, paint);
            draw_sources(frame, lower, model, paint);
        }
    }
}

/// Whether it is in force, in one look; below it what somebody should know.
fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    let [first, second] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
    let Some(reading) = &model.reading else {
        if let Some(problem) = &model.problem {
            frame.render_widget(Text::from(printable(problem)).style(paint.alarm()), first);
        }
        return;
    };
    let status = &reading.status;
    let (word, meaning) = status.in_words().split_once(": ").unwrap_or((status.in_words(), ""));
    let (word, style) = match status.state {
        _ if model.problem.is_some() => ("CANNOT READ".to_owned(), paint.alarm()),
        "enforcing" if status.enforcing => (word.to_uppercase(), paint.fine()),
        "enforcing" | "suspended" | "monitoring" => (word.to_uppercase(), paint.caution()),
        _ => (word.to_uppercase(), paint.alarm()),
    };
    let zone = zone(&reading.manifest.timezone);
    let age = reading.at.duration_since(reading.manifest.since);
    let mut left = vec![
        Span::styled(format!(" {word} "), style.patch(REVERSED).patch(HEADING)),
        Span::raw(format!(
            " {}, generation {}, {} old",
            status.instance,
            reading.manifest.generation,
            roughly(Duration::try_from(age).unwrap_or_default())
        )),
    ];
    if model.paused {
        left.insert(1, Span::styled(" PAUSED ", REVERSED));
    }
    let time = Moment::new(reading.at, &zone).to_string();
    let width = u16::try_from(time.len()).unwrap_or(u16::MAX);
    let [left_area, right_area] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).spacing(1).areas(first);
    frame.render_widget(Text::from(left), left_area);
    frame.render_widget(Text::from(time), right_area);

    let notices = notices(model, status, meaning, &zone);
    let more = match notices.len() {
        0 | 1 => String::new(),
        several => format!("  (+{}: op25b status)", several - 1),
    };
    let [left_area, right_area] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(more.len() as u16)]).areas(second);
    let style = if model.problem.is_some() { paint.alarm() } else { paint.caution() };
    let notice = notices.first().map(|notice| printable(notice)).unwrap_or_default();
    frame.render_widget(Text::from(notice).style(style), left_area);
    frame.render_widget(Text::from(more), right_area);
}

/// What somebody should know, the gravest first.
fn notices(model: &Model, status: &Status, meaning: &str, zone: &TimeZone) -> Vec<String> {
    let mut notices: Vec<String> = model.problem.iter().cloned().collect();
    let broken = status.interfaces.iter().filter_map(|interface| {
        interface.problem.as_ref().map(|problem| format!("{}: {problem}", interface.name))
    });
    notices.extend(broken);
    match &status.suspension {
        Some(suspension) => notices.push(format!(
            "suspended: {} until {}",
            suspension.what,
            Moment::new(suspension.until, zone)
        )),
        None if !meaning.is_empty() => notices.push(meaning.to_owned()),
        None => {}
    }
    notices.extend(status.warnings.iter().cloned());
    if let Some(trial) = &status.unconfirmed {
        notices.push(format!("a policy is on trial until {}", Moment::new(trial.until, zone)));
    }
    if let Some(reading) = model.reading.as_ref().filter(|reading| reading.evicted != 0) {
        notices.push(format!("{} accounts had to make room for others", number(reading.evicted)));
    }
    notices
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    if let Some(text) = &model.prompt {
        let before = "group or prefix: ";
        let line = Text::from(vec![Span::styled(before, HEADING), Span::raw(text.as_str())]);
        let column = u16::try_from(line.width()).unwrap_or(u16::MAX);
        frame.render_widget(line, area);
        frame.set_cursor_position((area.x + column.min(area.width - 1), area.y));
    } else if let Some(message) = &model.message {
        frame.render_widget(Text::from(printable(message)).style(paint.alarm()), area);
    } else {
        let keys = match model.pane {
            _ if model.detail.is_some() => KEYS_OF_DETAIL,
            Pane::Groups => KEYS_OF_GROUPS,
            Pane::Sources => KEYS,
        };
        frame.render_widget(Text::from(keys).style(paint.faint()), area);
    }
}

/// A column: its name, its width, and how wide the screen must be for it.
struct Column<T> {
    name: &'static str,
    width: u16,
    from: u16,
    number: bool,
    cell: fn(&T) -> String,
    by: Option<SortBy>,
}

const fn text<T>(name: &'static str, width: u16, from: u16, cell: fn(&T) -> String) -> Column<T> {
    Column { name, width, from, number: false, cell, by: None }
}

const fn figure<T>(name: &'static str, width: u16, from: u16, cell: fn(&T) -> String) -> Column<T> {
    Column { name, width, from, number: true, cell, by: None }
}

impl<T> Column<T> {
    const fn sorted(mut self, by: SortBy) -> Self {
        self.by = Some(by);
        self
    }

    fn line(&self, text: String) -> Text<'static> {
        let line = Text::from(text);
        if self.number { line.right_aligned() } else { line }
    }

    fn heading(&self, sort: Option<SortBy>) -> Cell<'static> {
        let style = if self.by.is_some() && self.by == sort { REVERSED } else { Style::new() };
        Cell::from(self.line(self.name.to_owned())).style(style)
    }
}

fn group_name(name: Option<&str>) -> String {
    name.map_or_else(|| "(no group)".to_owned(), printable)
}

fn per_second(pace: Option<Pace>) -> String {
    pace.map_or_else(|| "-".to_owned(), |pace| rate(pace.packets_per_second))
}

fn per_minute(pace: Option<Pace>) -> String {
    pace.map_or_else(|| "-".to_owned(), |pace| rate(pace.attempts_per_minute))
}

/// Without the bars, which take the rest.
const GROUPS: [Column<Group>; 7] = [
    text("group", 16, 0, |group| group_name(group.figures.name.as_deref())),
    text("mode", 7, 0, |group| {
        let former = if group.figures.name.is_some() { "former" } else { "" };
        group.figures.mode.clone().unwrap_or_else(|| former.to_owned())
    }),
    figure("blocked", 9, 0, |group| number_within(group.figures.blocked, 9)),
    figure("would-block", 11, 70, |group| number_within(group.figures.would, 11)),
    figure("passed", 9, 90, |group| number_within(group.figures.allowed, 9)),
    figure("pkts/s", 7, 0, |group| per_second(group.pace)),
    figure("att/min", 7, 0, |group| per_minute(group.pace)),
];

fn draw_groups(frame: &mut Frame<'_>, area: Rect, model: &mut Model, paint: Paint) {
    let Some(reading) = &model.reading else { return };
    let columns: Vec<&Column<Group>> = GROUPS.iter().filter(|column| column.from <= area.width).collect();
    let used: u16 = columns.iter().map(|column| column.width + 1).sum();
    let bars = usize::from(area.width.saturating_sub(used)).min(KEPT);
    let range = model.groups.show(reading.groups.len(), usize::from(area.height.saturating_sub(1)));
    let hidden = reading.groups.len() - range.len();
    let above = if hidden == 0 { "lately".to_owned() } else { format!("+{hidden} groups") };
    let rows = reading.groups.get(range.clone()).unwrap_or_default().iter().map(|group| {
        let mode = match group.figures.mode.as_deref() {
            Some("enforce") => paint.fine(),
            Some("monitor") => paint.caution(),
            _ => paint.faint(),
        };
        let cells = columns.iter().map(|column| {
            let style = if column.name == "mode" { mode } else { Style::new() };
            Cell::from(column.line((column.cell)(group))).style(style)
        });
        Row::new(cells.chain([Cell::from(sparkline(&group.recent, bars))]))
    });
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let heading = columns.iter().map(|column| column.heading(None)).chain([Cell::from(above)]);
    let table = Table::new(rows, widths.chain([Constraint::Length(bars as u16)]))
        .header(Row::new(heading).style(HEADING))
        .row_highlight_style(REVERSED);
    let selected = (model.pane == Pane::Groups).then(|| model.groups.selected - range.start);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

/// The latest readings, the highest bar for the most packets of them; something is never nothing.
fn sparkline(recent: &[u64], width: usize) -> String {
    let shown = recent.get(recent.len().saturating_sub(width)..).unwrap_or_default();
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let levels = bar::NINE_LEVELS;
    let symbols = [
        levels.empty,
        levels.one_eighth,
        levels.one_quarter,
        levels.three_eighths,
        levels.half,
        levels.five_eighths,
        levels.three_quarters,
        levels.seven_eighths,
        levels.full,
    ];
    let symbol = |packets: &u64| {
        let level = (u128::from(*packets) * 8).div_ceil(u128::from(most)) as usize;
        symbols.get(level).copied().unwrap_or(levels.full)
    };
    // The latest is at the right from the beginning.
    std::iter::repeat_n(levels.empty, width - shown.len()).chain(shown.iter().map(symbol)).collect()
}

const SOURCES: [Column<Line>; 9] = [
    text("source", 23, 0, |line| line.source.source.clone()),
    text("group", 12, 75, |line| group_name(line.source.customer.as_deref())),
    text("triage", 9, 0, |line| line.source.triage.map_or("-", Label::name).to_owned()),
    figure("attempts", 8, 0, |line: &Line| number_within(line.source.attempts, 8)).sorted(SortBy::Attempts),
    figure("servers", 7, 0, |line: &Line| number_within(line.source.destinations, 7))
        .sorted(SortBy::Destinations),
    figure("pkts/s", 7, 80, |line| per_second(line.pace)),
    figure("att/min", 7, 0, |line: &Line| per_minute(line.pace)).sorted(SortBy::Rate),
    figure("packets", 11, 112, |line: &Line| number_within(line.source.packets, 11)).sorted(SortBy::Packets),
    text("last server", 24, 120, |line| line.source.last_destination.to_string()),
];

fn draw_sources(frame: &mut Frame<'_>, area: Rect, model: &mut Model, paint: Paint) {
    let Some(reading) = &model.reading else { return };
    let [title, area] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let by = match model.options.sort {
        SortBy::Attempts => "attempts",
        SortBy::Destinations => "servers",
        SortBy::Rate => "rate",
        SortBy::Packets => "packets",
    };
    let sources = if model.shown.len() == 1 { "source" } else { "sources" };
    let mut words = vec![format!("{} {sources} by {by}", number(model.shown.len() as u64))];
    if let Some(reasons) = &model.options.reasons {
        let names: Vec<&str> = reasons.iter().map(|reason| reason.name()).collect();
        words.push(format!("only {}", names.join(", ")));
    }
    match &model.options.filter {
        Filter { group: None, prefix: None } => {}
        Filter { group, prefix } => {
            let group = group.iter().map(|group| format!("only group {}", printable(group)));
            words.extend(group.chain(prefix.iter().map(|prefix| format!("only in {prefix}"))));
            words.push("Esc shows all".to_owned());
        }
    }
    frame.render_widget(Text::from(words.join("; ")).style(paint.colour(Color::Cyan)), title);

    let room = usize::from(area.height.saturating_sub(1));
    let range = model.sources.show(model.shown.len(), room);
    if model.shown.is_empty() {
        let nobody = "nobody has used port 25 yet, as far as this looks";
        frame.render_widget(nobody, area);
        return;
    }
    let columns: Vec<&Column<Line>> = SOURCES.iter().filter(|column| column.from <= area.width).collect();
    let lines = model.shown.get(range.clone()).unwrap_or_default();
    let rows = lines.iter().filter_map(|place| reading.sources.get(*place)).map(|line| {
        Row::new(columns.iter().map(|column| {
            let style = if column.name == "triage" { paint.label(line.source.triage) } else { Style::new() };
            Cell::from(column.line((column.cell)(line))).style(style)
        }))
    });
    // Names have what is left.
    let widths = columns.iter().map(|column| match column.name {
        "group" => Constraint::Fill(1),
        _ => Constraint::Length(column.width),
    });
    let heading = columns.iter().map(|column| column.heading(Some(model.options.sort)));
    let table =
        Table::new(rows, widths).header(Row::new(heading).style(HEADING)).row_highlight_style(REVERSED);
    let selected = (model.pane == Pane::Sources).then(|| model.sources.selected - range.start);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

/// All that is known of one source without asking anybody else.
fn draw_detail(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    let Some((reading, (prefix, group))) = model.reading.as_ref().zip(model.detail.as_ref()) else { return };
    let Some(line) = model.looked_at() else {
        let gone = format!("{prefix}, {}: no account of it any more", group_name(group.as_deref()));
        frame.render_widget(Text::from(gone), area);
        return;
    };
    let facts = facts(reading, line, &zone(&reading.manifest.timezone));
    let lines: Vec<Text<'_>> = facts
        .into_iter()
        .map(|(name, fact)| {
            let style = if name == "triage" { paint.label(line.source.triage) } else { Style::new() };
            Text::from(vec![Span::styled(format!("{name:<13}"), HEADING), Span::styled(fact, style)])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

fn facts(reading: &Reading, line: &Line, zone: &TimeZone) -> Vec<(&'static str, String)> {
    let source = &line.source;
    let manifest = &reading.manifest;
    let settings = manifest.groups.iter().find(|group| Some(&group.name) == source.customer.as_ref());
    let mode = settings.map_or_else(String::new, |group| {
        let shared = if group.shared { ", shared by many customers" } else { "" };
        format!(", mode {}{shared}", group.mode)
    });
    let moment = |at| Moment::new(at, zone).to_string();
    let mut facts = vec![
        ("source", source.source.clone()),
        ("group", group_name(source.customer.as_deref()) + &mode),
        ("first seen", moment(source.first_seen)),
        ("last seen", moment(source.last_seen)),
        (
            "attempts",
            format!(
                "{}, {} a minute within the last hour",
                number(source.attempts),
                rate(source.attempts_per_minute)
            ),
        ),
        ("packets", format!("{}, {} bytes", number(source.packets), number(source.bytes))),
    ];
    facts.extend(source.reasons.iter().map(|by| ("reason", by.to_string())));
    if let Some(pace) = line.pace {
        facts.push((
            "now",
            format!(
                "{} packets a second, {} attempts a minute",
                rate(pace.packets_per_second),
                rate(pace.attempts_per_minute)
            ),
        ));
    }
    let nothing = match settings {
        Some(group) if group.shared => "none, since nobody is told apart",
        _ => "none, no attempt",
    };
    facts.extend([
        (
            "servers",
            format!(
                "about {} within two hours, the last {}",
                number(source.destinations),
                source.last_destination
            ),
        ),
        ("triage", source.triage.map_or(nothing, Label::name).to_owned()),
    ]);
    // Both do not fit into one line.
    let thresholds = Thresholds::of(&manifest.outputs.triage).to_string();
    facts.extend(thresholds.split(", ").map(|one| ("", one.to_owned())));
    facts.push(("more", format!("op25b source {}", source.prefix.ip())));
    facts
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::{
        super::{Options, made},
        *,
    };

    fn model(groups: u32, sources: u32) -> Model {
        let every = Duration::from_secs(2);
        let options = Options { reasons: None, filter: Filter::default(), sort: SortBy::Attempts, every };
        let mut model = Model::new(options);
        model.take(Ok(made::reading(groups, sources)));
        model
    }

    /// What is drawn, line by line; whatever it is, no cell may do anything to a terminal.
    fn drawn(model: &mut Model, width: u16, height: u16, colours: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
        let Ok(frame) = terminal.draw(|frame| draw(frame, model, Paint { colours }));
        for row in 0..height {
            let mut line = String::new();
            for column in 0..width {
                let cell = &frame.buffer[(column, row)];
                let symbol = cell.symbol();
                let moves = |char: char| char.is_control() || char == '\u{202e}';
                assert!(!symbol.contains(moves), "{symbol:?} at {column}, {row}");
                assert!(colours || (cell.fg, cell.bg) == (Color::Reset, Color::Reset), "{column}, {row}");
                line += symbol;
            }
            lines.push(line.trim_end().to_owned());
        }
        lines
    }

    #[test]
    fn eighty_columns_have_room() {
        let mut model = model(3, 100);
        let screen = drawn(&mut model, 80, 24, true);
        assert_eq!(screen.len(), 24);
        assert_eq!(
            screen[0],
            " ENFORCING  edge, generation 7, 2h old                 2008-01-11T08:20:00+09:00"
        );
        assert_eq!(screen[1], "");
        assert_eq!(screen[2], "group            mode      blocked would-block  pkts/s att/min lately");
        assert!(screen[3].starts_with("evil\\u{1b}[31m\\r enforce         0           0"), "{}", screen[3]);
        assert!(screen[4].starts_with("group-1          monitor 1,000,003           0     1.0     2.0 "));
        assert!(screen[4].ends_with('█'), "{}", screen[4]);
        assert_eq!(screen[6], "100 sources by attempts");
        assert_eq!(
            screen[7],
            "source                  group         triage    attempts servers  pkts/s att/min"
        );
        assert!(screen[8].starts_with("203.0.113.0             evil\\u{1b}[31 -"), "{}", screen[8]);
        assert!(
            screen[9].starts_with(
                "203.0.113.1             group-1       bot?       999,999       7     1.0     2.0"
            )
        );
        assert!(screen[22].starts_with("203.0.113.14 "), "{}", screen[22]);
        assert_eq!(screen[23], KEYS);
    }

    #[test]
    fn wider_screens_show_more_and_narrow_ones_less() {
        let mut model = model(3, 100);
        let wide = drawn(&mut model, 120, 40, true);
        assert!(wide[2].contains("passed") && wide[7].contains("packets last server"), "{wide:#?}");
        assert!(wide[39].starts_with("q quit") && wide[38].starts_with("203.0.113.30 "), "{wide:#?}");
        let narrow = drawn(&mut model, 60, 12, true);
        assert!(
            !narrow[2].contains("would-block") && narrow[5].starts_with("+1")
                || narrow[2].ends_with("+1 groups")
        );
        assert!(narrow.iter().any(|line| line.starts_with("203.0.113.0 ")), "{narrow:#?}");
        // Whatever the size, and whatever is shown, it is drawn; what cannot be read says so.
        for width in [1, 2, 10, 59, 60, 79, 200] {
            for height in [1, 2, 5, 11, 12, 13, 24, 60] {
                for keys in ["", "j", "/x", "/x\n", "\n", "\t", "\tG\n", " "] {
                    let mut model = self::model(255, 3);
                    for char in keys.chars() {
                        let code = match char {
                            '\n' => KeyCode::Enter,
                            '\t' => KeyCode::Tab,
                            char => KeyCode::Char(char),
                        };
                        model.key(code.into());
                    }
                    let screen = drawn(&mut model, width, height, false).join(" ");
                    let small = width < LEAST.0 || height < LEAST.1;
                    assert_eq!(small, !screen.contains("ENFORCING"), "{width} {height} {keys:?}");
                }
            }
        }
        assert!(drawn(&mut model, 40, 8, true).join(" ").contains("too few"));
    }

    #[test]
    fn one_source_is_told_whole() {
        let mut model = model(3, 100);
        model.key(KeyCode::Down.into());
        model.key(KeyCode::Enter.into());
        let screen = drawn(&mut model, 80, 24, true);
        for line in [
            "source       203.0.113.1",
            "group        group-1, mode monitor",
            "first seen   2008-01-11T08:20:00+09:00",
            "attempts     999,999, 0.5 a minute within the last hour",
            "reason       blocked 999999 attempts in 10999989 frames",
            "now          1.0 packets a second, 2.0 attempts a minute",
            "servers      about 7 within two hours, the last 192.0.2.1",
            "triage       bot?",
            "more         op25b source 203.0.113.1",
            KEYS_OF_DETAIL,
        ] {
            assert!(screen.iter().any(|drawn| drawn == line), "no {line:?} in {screen:#?}");
        }
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let mut model = model(3, 1);
        model.take(Err(format!("cannot\nread {}", made::HOSTILE)));
        let screen = drawn(&mut model, 80, 24, false);
        assert!(
            screen[0].starts_with(" CANNOT READ ") && screen[1].starts_with("cannot\\nread"),
            "{screen:#?}"
        );
        assert!(screen.iter().any(|line| line.starts_with("203.0.113.0")), "{screen:#?}");
        model.key(KeyCode::Char(' ').into());
        assert!(drawn(&mut model, 80, 24, false)[0].contains("PAUSED"));
    }

    #[test]
    fn nothing_sent_is_said() {
        let screen = drawn(&mut model(1, 0), 80, 24, true);
        assert!(screen.iter().any(|line| line.starts_with("nobody has used port 25")), "{screen:#?}");
    }

    #[test]
    fn bars_are_high_where_much_was() {
        assert_eq!(sparkline(&[], 3), "   ");
        assert_eq!(sparkline(&[0, 1, 1000, 500], 6), "   ▁█▄");
        assert_eq!(sparkline(&[0, 0, 5, 0], 2), "█ ");
        assert_eq!(sparkline(&[u64::MAX, 1], 2), "█▁");
    }
}
