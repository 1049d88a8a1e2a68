//! What the screen shows of a reading, and what keys do to that. Knows no terminal.

use std::{cmp::Ordering, ops::Range};

use ipnetwork::IpNetwork;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    Options, order,
    reading::{Key, Line, Reading},
};
use crate::{cli::SortBy, sources::Filter};

/// Characters of a filter: a group's name has fewer bytes, an IPv6 prefix too.
const LONGEST: usize = 64;

/// Whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Quit,
}

/// Which table the keys move in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Groups,
    Sources,
}

/// A place in a list of which a part is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) selected: usize,
    first: usize,
    height: usize,
}

impl Cursor {
    /// What is shown of `length` lines where there is room for `height`.
    pub(super) fn show(&mut self, length: usize, height: usize) -> Range<usize> {
        self.height = height;
        self.selected = self.selected.min(length.saturating_sub(1));
        let least = (self.selected + 1).saturating_sub(height);
        self.first = self.first.clamp(least, self.selected.max(least)).min(length.saturating_sub(height));
        self.first..length.min(self.first + height)
    }

    /// False: this key moves nothing.
    fn key(&mut self, code: KeyCode, length: usize) -> bool {
        let (page, last) = (self.height.max(1), length.saturating_sub(1));
        self.selected = match code {
            KeyCode::Up | KeyCode::Char('k') => self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected + 1,
            KeyCode::PageUp => self.selected.saturating_sub(page),
            KeyCode::PageDown => self.selected + page,
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => return false,
        }
        .min(last);
        true
    }
}

/// The state of the screen.
pub(super) struct Model {
    pub(super) options: Options,
    /// The one that is shown.
    pub(super) reading: Option<Reading>,
    /// The latest, while the screen stands still.
    waiting: Option<Reading>,
    /// Why there is none newer.
    pub(super) problem: Option<String>,
    pub(super) paused: bool,
    pub(super) pane: Pane,
    pub(super) groups: Cursor,
    pub(super) sources: Cursor,
    /// The sources that the filter keeps, in their order: places in the reading.
    pub(super) shown: Vec<usize>,
    /// The one source that is looked at.
    pub(super) detail: Option<Key>,
    /// What is being typed for a filter.
    pub(super) prompt: Option<String>,
    /// What is to be said of the last key.
    pub(super) message: Option<String>,
}

impl Model {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            reading: None,
            waiting: None,
            problem: None,
            paused: false,
            pane: Pane::Sources,
            groups: Cursor::default(),
            sources: Cursor::default(),
            shown: Vec::new(),
            detail: None,
            prompt: None,
            message: None,
        }
    }

    /// News; an error leaves what is shown.
    pub(super) fn take(&mut self, reading: Result<Reading, String>) {
        match reading {
            Ok(reading) => {
                self.problem = None;
                if self.paused && self.reading.is_some() {
                    self.waiting = Some(reading);
                } else {
                    self.show(reading);
                }
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    fn show(&mut self, reading: Reading) {
        let selected = self.selected().map(Line::key);
        self.reading = Some(reading);
        self.arrange(selected);
    }

    /// Filters and sorts anew. Whoever has moved to a source stays there; the top of the list stays the top.
    fn arrange(&mut self, selected: Option<Key>) {
        let Some(reading) = &self.reading else { return };
        let kept = reading.sources.iter().enumerate();
        let mut kept: Vec<(usize, &Line)> =
            kept.filter(|(_, line)| self.options.filter.keeps(&line.source)).collect();
        let by = self.options.sort;
        kept.sort_by(|(_, one), (_, other)| compare(by, one, other));
        let found = selected
            .filter(|_| self.sources.selected != 0)
            .and_then(|key| kept.iter().position(|(_, line)| line.key() == key));
        self.shown = kept.into_iter().map(|(place, _)| place).collect();
        self.sources.selected =
            found.unwrap_or(self.sources.selected).min(self.shown.len().saturating_sub(1));
    }

    /// The source that is selected.
    pub(super) fn selected(&self) -> Option<&Line> {
        self.reading.as_ref()?.sources.get(*self.shown.get(self.sources.selected)?)
    }

    /// The source that is looked at, as far as there is still an account of it.
    pub(super) fn looked_at(&self) -> Option<&Line> {
        let key = self.detail.as_ref()?;
        self.reading
            .as_ref()?
            .sources
            .iter()
            .find(|line| line.source.prefix == key.0 && line.source.customer == key.1)
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        // Some terminals also tell when a key is let go.
        if key.kind == KeyEventKind::Release {
            return Next::Go;
        }
        self.message = None;
        // Alt is Esc and a key at once, and would do both.
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
            return if key == interrupt { Next::Quit } else { Next::Go };
        }
        match (self.prompt.take(), key.code) {
            (Some(text), code) => self.type_filter(text, code),
            (None, KeyCode::Char(' ')) => self.pause(),
            (None, KeyCode::Char('q') | KeyCode::Esc) if self.detail.is_some() => self.detail = None,
            (None, KeyCode::Esc) if self.options.filter != Filter::default() => {
                self.filter(Filter::default())
            }
            (None, KeyCode::Char('q') | KeyCode::Esc) => return Next::Quit,
            (None, _) if self.detail.is_some() => {}
            (None, code) => self.list(code),
        }
        Next::Go
    }

    /// A key in the list.
    fn list(&mut self, code: KeyCode) {
        let groups = self.reading.as_ref().map_or(0, |reading| reading.groups.len());
        let moved = match self.pane {
            Pane::Groups => self.groups.key(code, groups),
            Pane::Sources => self.sources.key(code, self.shown.len()),
        };
        match code {
            _ if moved => {}
            KeyCode::Enter if self.pane == Pane::Sources => self.detail = self.selected().map(Line::key),
            KeyCode::Enter => self.choose_group(),
            KeyCode::Tab | KeyCode::BackTab => {
                self.pane = if self.pane == Pane::Groups { Pane::Sources } else { Pane::Groups };
            }
            KeyCode::Char('/') => self.prompt = Some(String::new()),
            KeyCode::Char('s') => self.sort(match self.options.sort {
                SortBy::Attempts => SortBy::Destinations,
                SortBy::Destinations => SortBy::Rate,
                SortBy::Rate => SortBy::Packets,
                SortBy::Packets => SortBy::Attempts,
            }),
            KeyCode::Char('a') => self.sort(SortBy::Attempts),
            KeyCode::Char('f') => self.sort(SortBy::Destinations),
            KeyCode::Char('r') => self.sort(SortBy::Rate),
            KeyCode::Char('p') => self.sort(SortBy::Packets),
            _ => {}
        }
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        if let Some(reading) = self.waiting.take().filter(|_| !self.paused) {
            self.show(reading);
        }
    }

    fn sort(&mut self, by: SortBy) {
        self.options.sort = by;
        // What comes first by another key is what is asked for.
        self.sources.selected = 0;
        self.arrange(None);
    }

    fn filter(&mut self, filter: Filter) {
        self.options.filter = filter;
        self.sources.selected = 0;
        self.arrange(None);
    }

    /// Only the sources of the group that is selected.
    fn choose_group(&mut self) {
        let group = self.reading.as_ref().and_then(|reading| reading.groups.get(self.groups.selected));
        match group.map(|group| group.figures.name.clone()) {
            Some(Some(name)) => {
                self.pane = Pane::Sources;
                self.filter(Filter { group: Some(name), prefix: None });
            }
            Some(None) => self.message = Some("sources in no group have no name to filter by".to_owned()),
            None => {}
        }
    }

    /// A key while a filter is typed.
    fn type_filter(&mut self, mut text: String, code: KeyCode) {
        match code {
            KeyCode::Esc => return,
            KeyCode::Enter => return self.parse_filter(text.trim()),
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Char(char) if !char.is_control() && text.chars().count() < LONGEST => text.push(char),
            _ => {}
        }
        self.prompt = Some(text);
    }

    /// A group's name, else an address or a prefix; nothing: no filter. What is neither changes nothing.
    fn parse_filter(&mut self, text: &str) {
        let known = |reading: &Reading| reading.manifest.numbers.contains_key(text);
        if text.is_empty() {
            self.filter(Filter::default());
        } else if self.reading.as_ref().is_some_and(known) {
            self.filter(Filter { group: Some(text.to_owned()), prefix: None });
        } else if let Ok(prefix) = text.parse::<IpNetwork>() {
            self.filter(Filter { group: None, prefix: Some(prefix) });
        } else {
            self.message = Some(format!("neither a group nor a prefix: {text}"));
        }
    }
}

/// As the text form orders them, but a rate is that between two readings first.
fn compare(by: SortBy, one: &Line, other: &Line) -> Ordering {
    let now = |line: &Line| {
        let pace = line.pace.unwrap_or_default();
        (pace.attempts_per_minute, pace.packets_per_second)
    };
    let first = match by {
        SortBy::Rate => {
            let ((attempts, packets), (than_attempts, than_packets)) = (now(one), now(other));
            than_attempts.total_cmp(&attempts).then(than_packets.total_cmp(&packets))
        }
        _ => Ordering::Equal,
    };
    first.then_with(|| order(by, &one.source, &other.source))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::made::reading, *};

    fn model(sources: u32) -> Model {
        let mut model = Model::new(Options {
            reasons: None,
            filter: Filter::default(),
            sort: SortBy::Attempts,
            every: Duration::from_secs(2),
        });
        model.take(Ok(reading(3, sources)));
        // As drawing would: ten lines of each.
        model.sources.show(model.shown.len(), 10);
        model
    }

    fn press(model: &mut Model, codes: &[KeyCode]) -> Next {
        codes.iter().fold(Next::Go, |_, code| model.key((*code).into()))
    }

    fn write(model: &mut Model, text: &str) -> Next {
        let codes: Vec<KeyCode> = text.chars().map(KeyCode::Char).collect();
        press(model, &codes)
    }

    fn selected(model: &Model) -> Option<&str> {
        model.selected().map(|line| line.source.source.as_str())
    }

    #[test]
    fn keys_move_and_stay_within() {
        let mut model = model(25);
        for (code, place) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::Char('j'), 2),
            (KeyCode::Char('k'), 1),
            (KeyCode::PageDown, 11),
            (KeyCode::PageDown, 21),
            (KeyCode::PageDown, 24),
            (KeyCode::Down, 24),
            (KeyCode::PageUp, 14),
            (KeyCode::Home, 0),
            (KeyCode::End, 24),
            (KeyCode::Char('g'), 0),
            (KeyCode::Char('G'), 24),
        ] {
            press(&mut model, &[code]);
            assert_eq!(model.sources.selected, place, "{code:?}");
            let shown = model.sources.show(25, 10);
            assert!(shown.contains(&place) && shown.len() == 10, "{shown:?}");
        }
        // Fewer than before, and none.
        model.take(Ok(reading(3, 5)));
        assert_eq!(model.sources.selected, 4);
        model.take(Ok(reading(3, 0)));
        press(&mut model, &[KeyCode::Down, KeyCode::PageDown, KeyCode::End, KeyCode::Enter]);
        assert_eq!((model.sources.selected, selected(&model), &model.detail), (0, None, &None));
        assert!(model.sources.show(0, 0).is_empty());
    }

    #[test]
    fn a_list_scrolls_no_more_than_it_must() {
        let mut cursor = Cursor::default();
        for (selected, shown) in [(0, 0..4), (3, 0..4), (4, 1..5), (2, 1..5), (0, 0..4), (9, 6..10)] {
            cursor.selected = selected;
            assert_eq!(cursor.show(10, 4), shown, "{selected}");
        }
        // A larger screen shows more before, not nothing behind.
        assert_eq!(cursor.show(10, 8), 2..10);
        assert_eq!(cursor.show(3, 8), 0..3);
    }

    #[test]
    fn sorting_starts_at_the_top_and_a_reading_leaves_who_is_selected() {
        let mut model = model(25);
        assert_eq!(selected(&model), Some("203.0.113.0"));
        write(&mut model, "f");
        // 14 * 7 = 98.
        assert_eq!(selected(&model), Some("203.0.113.14"));
        write(&mut model, "r");
        assert_eq!(selected(&model), Some("203.0.113.24"));
        for sort in [SortBy::Packets, SortBy::Attempts, SortBy::Destinations, SortBy::Rate] {
            write(&mut model, "s");
            assert_eq!(model.options.sort, sort);
        }
        // With nine more before it.
        write(&mut model, "jj");
        assert_eq!(selected(&model), Some("203.0.113.22"));
        model.take(Ok(reading(3, 34)));
        assert_eq!(selected(&model), Some("203.0.113.22"));
        assert_eq!(model.sources.selected, 11);
    }

    #[test]
    fn a_filter_is_a_group_or_a_prefix_and_else_changes_nothing() {
        let mut model = model(30);
        let typed = |model: &mut Model, text: &str| {
            write(model, &format!("/{text}"));
            press(model, &[KeyCode::Enter]);
            (model.shown.len(), model.message.clone())
        };
        assert_eq!(typed(&mut model, "group-1"), (10, None));
        assert_eq!(typed(&mut model, "203.0.113.0/28"), (16, None));
        assert_eq!(typed(&mut model, "203.0.113.7"), (1, None));
        assert_eq!(typed(&mut model, "2001:db8::/32"), (0, None));
        assert_eq!(typed(&mut model, " 203.0.113.0/28 "), (16, None));
        for bad in ["203.0.113.0/33", "group-9", "203.0.113", "::/129", "/", "q"] {
            let (shown, message) = typed(&mut model, bad);
            assert_eq!(shown, 16, "{bad}");
            assert!(message.is_some_and(|message| message.ends_with(bad)), "{bad}");
        }
        // Said until the next key.
        press(&mut model, &[KeyCode::Down]);
        assert_eq!(model.message, None);
        assert_eq!(typed(&mut model, ""), (30, None));
        // What is typed is no command, can be taken back, and has an end.
        assert_eq!(write(&mut model, "/qsa "), Next::Go);
        press(&mut model, &[KeyCode::Backspace, KeyCode::Backspace]);
        assert_eq!(model.prompt.as_deref(), Some("qs"));
        write(&mut model, &"x".repeat(200));
        assert_eq!(model.prompt.as_ref().map(String::len), Some(LONGEST));
        press(&mut model, &[KeyCode::Esc]);
        assert_eq!((model.prompt.clone(), model.shown.len()), (None, 30));
    }

    #[test]
    fn a_group_is_chosen_in_its_table() {
        let mut model = model(30);
        model.groups.show(3, 3);
        press(&mut model, &[KeyCode::Tab, KeyCode::End, KeyCode::Enter]);
        assert_eq!(model.options.filter.group.as_deref(), Some("group-2"));
        assert_eq!((model.pane, model.shown.len()), (Pane::Sources, 10));
        // Step by step back, and out.
        press(&mut model, &[KeyCode::Enter]);
        assert!(model.looked_at().is_some());
        assert_eq!(press(&mut model, &[KeyCode::Esc]), Next::Go);
        assert_eq!(model.detail, None);
        assert_eq!(press(&mut model, &[KeyCode::Esc]), Next::Go);
        assert_eq!(model.options.filter, Filter::default());
        assert_eq!(press(&mut model, &[KeyCode::Esc]), Next::Quit);
    }

    #[test]
    fn who_is_looked_at_stays_and_may_go() {
        let mut model = model(30);
        press(&mut model, &[KeyCode::Down, KeyCode::Enter]);
        model.take(Ok(reading(3, 40)));
        assert_eq!(model.looked_at().map(|line| line.source.source.as_str()), Some("203.0.113.1"));
        model.take(Ok(reading(3, 1)));
        assert!(model.detail.is_some() && model.looked_at().is_none());
        assert_eq!(write(&mut model, "q"), Next::Go);
        assert_eq!(write(&mut model, "q"), Next::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        write(&mut model, "/203");
        assert_eq!(model.key(interrupt), Next::Quit);
    }

    #[test]
    fn while_it_stands_still_the_latest_waits() {
        let mut model = model(3);
        write(&mut model, " ");
        for sources in [4, 5, 6] {
            model.take(Ok(reading(3, sources)));
            assert_eq!(model.shown.len(), 3);
        }
        // What goes wrong is said at once.
        model.take(Err("gone".to_owned()));
        assert_eq!(model.problem.as_deref(), Some("gone"));
        write(&mut model, " ");
        assert_eq!(model.shown.len(), 6);
        model.take(Ok(reading(3, 7)));
        assert_eq!((model.shown.len(), model.problem.clone()), (7, None));
    }

    #[test]
    fn as_many_sources_as_there_is_room_for_are_no_burden() {
        let mut model = model(op25b_ebpf::source::KEPT);
        let start = std::time::Instant::now();
        write(&mut model, "f");
        let sorted = start.elapsed();
        write(&mut model, "jj");
        let moved = start.elapsed() - sorted;
        model.take(Ok(reading(3, op25b_ebpf::source::KEPT)));
        println!("top: of {} sources sorting takes {sorted:?}, moving {moved:?}", model.shown.len());
        // Ten times what is due: this is a development build, and the machine has other work.
        assert!(
            sorted < Duration::from_secs(1) && moved < Duration::from_millis(10),
            "{sorted:?}, {moved:?}"
        );
    }

    #[test]
    fn before_the_first_reading_nothing_breaks() {
        let mut model = Model::new(Options {
            reasons: None,
            filter: Filter::default(),
            sort: SortBy::Rate,
            every: Duration::from_secs(2),
        });
        write(&mut model, "jkgGsafrp/x");
        press(
            &mut model,
            &[KeyCode::Enter, KeyCode::Tab, KeyCode::Enter, KeyCode::PageDown, KeyCode::Char(' ')],
        );
        model.take(Ok(reading(3, 3)));
        // There was nothing to stand still.
        assert_eq!(model.shown.len(), 3);
    }
}
