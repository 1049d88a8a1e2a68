//! Where something is written: a line of a companion file, or one in the policy's text, which is searched for it since
//! the YAML reader gives no places.

use crate::document::{is_word, printable};

/// The start of a line of the policy's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    offset: u32,
    /// From 0.
    line: u32,
}

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the policy's text, at this line or behind.
    Policy(Cursor),
    /// In a companion file.
    Companion {
        /// Its number.
        file: u32,
        /// From 1.
        line: u32,
    },
}

impl Origin {
    const fn file(self) -> usize {
        match self {
            Self::Policy(_) => 0,
            Self::Companion { file, .. } => file as usize,
        }
    }
}

/// Bytes of the policy's text that are searched at most: the places in a hostile one are not worth more.
const PATIENCE: usize = 256 << 20;

/// The policy's text and the names of its files.
pub(super) struct Places<'t> {
    text: &'t str,
    /// The policy file is the first.
    files: Vec<String>,
    patience: usize,
}

impl<'t> Places<'t> {
    pub(super) fn new(path: String, text: &'t str) -> Self {
        Self { text, files: vec![path], patience: PATIENCE }
    }

    /// The number of a companion file.
    pub(super) fn add(&mut self, path: String) -> u32 {
        self.files.push(path);
        self.files.len() as u32 - 1
    }

    /// The first line from `from` on that has `near` as a word of its own.
    pub(super) fn find(&mut self, from: Cursor, near: &str) -> Option<Cursor> {
        self.find_again(from, near, 0)
    }

    /// The same, after `before` others.
    fn find_again(&mut self, from: Cursor, near: &str, before: usize) -> Option<Cursor> {
        if near.is_empty() {
            return None;
        }
        let text = &self.text[from.offset as usize..];
        let (mut searched, mut before) = (0, before);
        for (hit, _) in text.match_indices(near) {
            let start = text[..hit].rfind('\n').map_or(0, |end| end + 1);
            self.patience = self.patience.saturating_sub(hit - searched + hit - start + 1);
            searched = hit;
            if self.patience == 0 {
                return None;
            }
            if is_word(&text[start..], hit - start, near) {
                if before == 0 {
                    let line = from.line + lines(&text.as_bytes()[..start]);
                    return Some(Cursor { offset: from.offset + start as u32, line });
                }
                before -= 1;
            }
        }
        self.patience = self.patience.saturating_sub(text.len() - searched);
        None
    }

    /// The line behind this one.
    pub(super) fn next(&self, cursor: Cursor) -> Cursor {
        let behind = self.text[cursor.offset as usize..].find('\n');
        behind.map_or(cursor, |end| Cursor { offset: cursor.offset + end as u32 + 1, line: cursor.line + 1 })
    }

    /// `file:line: `
    fn name(&mut self, origin: Origin, near: &str) -> String {
        let line = match origin {
            Origin::Policy(cursor) => self.find(cursor, near).unwrap_or(cursor).line + 1,
            Origin::Companion { line, .. } => line,
        };
        format!("{}:{line}: ", self.files[origin.file()])
    }

    /// Where something is written for the second time.
    pub(super) fn second(&mut self, [first, second]: [Origin; 2], near: &str) -> Origin {
        match second {
            Origin::Policy(cursor) if first == second => {
                Origin::Policy(self.find_again(cursor, near, 1).unwrap_or(cursor))
            }
            _ => second,
        }
    }
}

/// Lines that end in a text.
pub(super) fn lines(text: &[u8]) -> u32 {
    text.iter().filter(|byte| **byte == b'\n').count() as u32
}

/// Errors, or warnings: of each file as many as somebody reads, and the count of the rest.
#[derive(Default)]
pub(super) struct Notes {
    lines: Vec<String>,
    /// By file.
    counts: Vec<usize>,
}

impl Notes {
    pub(super) fn add(
        &mut self,
        places: &mut Places<'_>,
        origin: Origin,
        near: &str,
        message: impl std::fmt::Display,
    ) {
        let file = origin.file();
        self.counts.resize(self.counts.len().max(file + 1), 0);
        self.counts[file] += 1;
        if self.counts[file] <= shown(file) {
            self.lines.push(printable(&format!("{}{message}", places.name(origin, near))));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// One line each. `kind` is what they are.
    pub(super) fn finish(mut self, places: &Places<'_>, kind: &str) -> Vec<String> {
        for (file, (count, name)) in self.counts.into_iter().zip(&places.files).enumerate() {
            if count > shown(file) {
                self.lines.push(printable(&format!("{name}: {} more {kind}", count - shown(file))));
            }
        }
        self.lines
    }
}

/// A policy is written by hand, its companions by programs, which do one thing wrong a million times.
const fn shown(file: usize) -> usize {
    if file == 0 { 100 } else { 10 }
}
