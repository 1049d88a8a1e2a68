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
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Next::Quit } else { Next::Go };
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
