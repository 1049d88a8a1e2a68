//! Reading the text of a policy file: what is hostile is refused before YAML is read, and errors get their lines.

use std::{
    borrow::Cow,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::Document;

/// A text that is no policy file, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Larger than [`LARGEST`].
    #[error("{}: larger than {} MiB", path.display(), LARGEST >> 20)]
    Large {
        /// Which.
        path: PathBuf,
    },
    /// A text that would take the reader more time or memory than a policy is worth.
    #[error("{path}:{line}: {what}")]
    Hostile {
        /// Which.
        path: String,
        /// From 1.
        line: usize,
        /// What is too much.
        what: &'static str,
    },
    /// Its YAML, a key or a value.
    #[error("{path}:{line}: {message}")]
    Yaml {
        /// Which.
        path: String,
        /// From 1; 1 where YAML names none.
        line: usize,
        /// One line.
        message: String,
    },
}

/// Largest policy file that is read, in bytes: YAML is slow. Prefixes by the million lie in files of their own.
pub const LARGEST: u64 = 16 << 20;

/// Reads a policy file.
///
/// # Errors
///
/// When it cannot be read or is not of this shape.
pub fn read(path: &Path) -> Result<(Document, String), ReadError> {
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    let mut text = String::new();
    // Not by the file's size: devices and pipes have none.
    File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(ReadError::Large { path: path.to_owned() });
    }
    let document = parse(&text, &path.display().to_string())?;
    Ok((document, text))
}

/// Parses the text of a policy file; `path` is named in errors.
///
/// # Errors
///
/// When the text is not of this shape.
pub fn parse(text: &str, path: &str) -> Result<Document, ReadError> {
    bounded(text, path)?;
    serde_yaml::from_str(text).map_err(|error| {
        let message = error.to_string();
        // YAML's own " at line 3 column 5" says again what the prefix says.
        let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
        let line = error.location().map_or(1, |location| location.line().max(1));
        let key = message.split_once("duplicate field `").and_then(|(_, rest)| rest.strip_suffix('`'));
        let (line, message) = match key {
            // YAML names the line where the mapping starts.
            Some(key) => (
                second_line_with_key(text, line, key),
                format!("key `{key}` is written twice; take one of them out"),
            ),
            None => (line, message.to_owned()),
        };
        ReadError::Yaml { path: path.to_owned(), line, message: printable(&shortened(&message, 500)) }
    })
}

/// Control characters made visible: what a file contains must not move anybody's cursor, turn the writing around or
/// forge a line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| if is_unseen(char) { char.escape_default().collect() } else { vec![char] })
        .collect()
}

/// Control characters, those of Unicode's bidirectional algorithm (UAX #9 §2), separators of lines, and spaces without
/// width. Joiners stay: some scripts need them.
fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// What a message shows of a text that may be long.
pub(crate) fn excerpt(text: &str) -> Cow<'_, str> {
    shortened(text, 80)
}

fn shortened(text: &str, length: usize) -> Cow<'_, str> {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// The line from `start` on that has this key for the second time.
fn second_line_with_key(text: &str, start: usize, key: &str) -> usize {
    if text.lines().nth(start - 1).is_some_and(|line| words(line, &format!("{key}:")) > 1) {
        return start;
    }
    let is_key = |line: &str| {
        line.trim_start_matches([' ', '-']).strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
    };
    let mut lines =
        (1..).zip(text.lines()).skip(start - 1).filter(|(_, line)| is_key(line)).map(|(number, _)| number);
    let first = lines.next().unwrap_or(start);
    lines.next().unwrap_or(first)
}

/// How often a line has `word`.
fn words(line: &str, word: &str) -> usize {
    line.match_indices(word).filter(|(start, _)| is_word(line, *start, word)).count()
}

/// Whether `word`, which stands at `start` of a line, is outside its comment, and not a part of a longer one.
pub(crate) fn is_word(line: &str, start: usize, word: &str) -> bool {
    let (before, behind) = (&line[..start], &line[start + word.len()..]);
    let part_of_word = |char: char| char.is_alphanumeric() || "./:-_".contains(char);
    // `mode:` ends with what may stand in a word.
    let ends = word.ends_with(':') || !behind.starts_with(part_of_word);
    let comment = before.trim_start().starts_with('#') || before.contains(" #");
    !word.is_empty() && ends && !comment && !before.ends_with(part_of_word)
}

/// Brackets open at once, levels of `- - -` in one line, and columns of indentation: a policy has four levels.
const DEEPEST: usize = 64;
/// Values and keys at most: each costs the YAML reader more than a hundred bytes of memory.
const MOST_NODES: usize = 2 << 20;

/// Refuses what the YAML reader would take quadratic time or unbounded memory for: deep nesting, very many values, and
/// long texts repeated by aliases.
fn bounded(text: &str, path: &str) -> Result<(), ReadError> {
    let mut open = 0_usize;
    let mut longest = 0;
    let mut aliases = 0_usize;
    let mut nodes = 0_usize;
    for (number, line) in text.lines().enumerate() {
        let hostile = |what| Err(ReadError::Hostile { path: path.to_owned(), line: number + 1, what });
        let indentation = line.len() - line.trim_start_matches([' ', '-', '?']).len();
        nodes += 1;
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => {
                    open += 1;
                    nodes += 1;
                }
                b']' | b'}' => open = open.saturating_sub(1),
                b'*' => aliases += 1,
                b',' => nodes += 1,
                _ => {}
            }
            if open > DEEPEST {
                return hostile("nested too deeply");
            }
        }
        if indentation > 2 * DEEPEST {
            return hostile("nested too deeply");
        }
        nodes += line.bytes().take(indentation).filter(|byte| *byte != b' ').count();
        if nodes > MOST_NODES {
            return hostile("too many values for a policy; put prefixes into a `prefixes_file`");
        }
        longest = longest.max(line.len());
        if aliases.saturating_mul(longest) as u64 > LARGEST {
            return hostile("too much text repeated by aliases");
        }
    }
    Ok(())
}
