//! The files beside a policy: prefixes one a line, exemptions and quarantines as CSV.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use csv::{ReaderBuilder, StringRecord, Trim};
use ipnetwork::IpNetwork;

use super::{
    Exception,
    places::{Origin, lines},
    reader::Reader,
    values,
};
use crate::document::excerpt;

/// Bytes that the files of one policy have at most, together.
pub(super) const LARGEST: u64 = 256 << 20;
/// Lines of a file of prefixes at most.
const MOST_LINES: u32 = 4 << 20;
/// Rows of one file at most: each is an entry of its own, with its texts.
const MOST_ROWS: usize = 1 << 20;

/// Columns of `exemptions_file`.
pub(super) const EXEMPTIONS: &[&str] = &["prefix", "reason", "ticket", "expires"];
/// Columns of `quarantine_file`.
pub(super) const QUARANTINE: &[&str] = &["prefix", "reason", "ticket", "expires", "relays"];

impl Reader<'_> {
    /// Reads a companion file: its number and text, without a byte order mark.
    fn companion(&mut self, key: &str, written: &str) -> Option<(u32, String)> {
        let path = self.directory.join(written);
        let mut bytes = match read_at_most(&path, self.bytes_left) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.error(
                    &format!("{key}:"),
                    format_args!(
                        "`{key}: {}`: {}: {error}; name a file, from the policy's directory",
                        excerpt(written),
                        path.display()
                    ),
                );
                return None;
            }
        };
        self.bytes_left -= bytes.len() as u64;
        self.hash.file(&bytes);
        let file = self.places.add(path.display().to_string());
        self.files.push(path);
        if bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some((file, text)),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let line = lines(&error.as_bytes()[..good]) + 1;
                self.error_at(
                    Origin::Companion { file, line },
                    "",
                    "this is no UTF-8 text; save it as UTF-8",
                );
                None
            }
        }
    }

    /// Hands over each prefix of a file.
    pub(super) fn prefixes_file(
        &mut self,
        of: &str,
        written: &str,
        mut each: impl FnMut(&mut Self, IpNetwork, Origin),
    ) {
        let Some((file, text)) = self.companion("prefixes_file", written) else { return };
        let mut nothing = true;
        for (line, number) in text.lines().zip(1..) {
            let origin = Origin::Companion { file, line: number };
            if number > MOST_LINES {
                self.error_at(
                    origin,
                    "",
                    format_args!("{of}: more than {MOST_LINES} lines; aggregate the prefixes"),
                );
                return;
            }
            let prefix = line.split('#').next().unwrap_or_default().trim();
            if prefix.is_empty() {
                continue;
            }
            nothing = false;
            match values::prefix(prefix) {
                Ok(prefix) => each(self, prefix, origin),
                Err(error) => self.error_at(origin, "", format_args!("{of}: {error}")),
            }
        }
        if nothing {
            self.error_at(
                Origin::Companion { file, line: 1 },
                "",
                format_args!("{of}: no prefix in it; write one a line, like 203.0.113.0/24"),
            );
        }
    }

    /// Adds each row of a CSV file to a list of exceptions.
    pub(super) fn exceptions_file(
        &mut self,
        key: &str,
        written: &str,
        columns: &'static [&'static str],
        list: &mut Vec<(Exception, Origin)>,
    ) {
        let Some((file, text)) = self.companion(key, written) else { return };
        let mut csv = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .trim(Trim::All)
            .from_reader(text.as_bytes());
        let mut header: Option<Vec<&str>> = None;
        let mut record = StringRecord::new();
        let mut rows = 0;
        // What the reader could refuse, reading and UTF-8, is done.
        while csv.read_record(&mut record).unwrap_or_default() {
            let origin = Origin::Companion { file, line: line(&text, &record) };
            if record.iter().all(str::is_empty) {
                continue;
            }
            let Some(header) = &header else {
                match names(&record, columns) {
                    Ok(names) => header = Some(names),
                    Err(error) => return self.error_at(origin, "", error),
                }
                continue;
            };
            rows += 1;
            if rows > MOST_ROWS {
                return self.error_at(origin, "", format_args!("more than {MOST_ROWS} rows; aggregate them"));
            }
            match self.row(header, &record) {
                Ok(exception) => list.push((exception, origin)),
                Err(error) => self.error_at(origin, "", error),
            }
        }
        if header.is_none() {
            self.error_at(
                Origin::Companion { file, line: 1 },
                "",
                format_args!("no header; the first line is {}", columns.join(",")),
            );
        }
    }

    fn row(&self, header: &[&str], record: &StringRecord) -> Result<Exception, String> {
        if record.len() != header.len() {
            return Err(format!(
                "{} columns where the header has {}; put a text with a comma in quotes, and close them",
                record.len(),
                header.len()
            ));
        }
        let mut exception =
            Exception { prefixes: Vec::new(), reason: None, ticket: None, relays: false, expires: None };
        for (column, value) in header.iter().zip(record) {
            let text = || (!value.is_empty()).then(|| value.to_owned());
            match *column {
                "prefix" => {
                    exception.prefixes = vec![values::prefix(value).map_err(|error| error.to_string())?];
                }
                "reason" => exception.reason = text(),
                "ticket" => exception.ticket = text(),
                "relays" => match value {
                    "true" => exception.relays = true,
                    "false" | "" => {}
                    _ => return Err(format!("relays {:?}: write true or false", excerpt(value))),
                },
                _ if value.is_empty() => {}
                _ => {
                    let end = values::end(value, &self.timezone);
                    exception.expires = Some(end.map_err(|error| format!("expires {error}"))?);
                }
            }
        }
        not_one_line(&exception).map_or(Ok(exception), |(_, error)| Err(error))
    }
}

/// The key of a text that is not one line, and what is wrong: reasons and tickets go into terminals, logs and pages.
pub(super) fn not_one_line(exception: &Exception) -> Option<(&'static str, String)> {
    let texts = [("reason", &exception.reason), ("ticket", &exception.ticket)];
    texts.into_iter().find_map(|(key, text)| {
        let text = text.as_ref().filter(|text| text.chars().any(char::is_control))?;
        let shown = excerpt(text);
        Some((
            key,
            format!("{key} {shown:?}: write one line without control characters, and close every quote"),
        ))
    })
}

/// The columns' names, of which `known` may be written.
fn names(record: &StringRecord, known: &'static [&'static str]) -> Result<Vec<&'static str>, String> {
    let right = known.join(",");
    let mut names = Vec::new();
    for written in record {
        match known.iter().find(|name| **name == written) {
            None => return Err(format!("no column is called {:?}; the header is {right}", excerpt(written))),
            Some(name) if names.contains(name) => return Err(format!("column {name} is there twice")),
            Some(name) => names.push(*name),
        }
    }
    if names.contains(&"prefix") {
        Ok(names)
    } else {
        Err(format!("no column `prefix`; the header is {right}"))
    }
}

/// Where a record's text begins: its position is that of the comments and empty lines before it.
fn line(text: &str, record: &StringRecord) -> u32 {
    let Some(position) = record.position() else { return 1 };
    let mut line = position.line();
    let mut rest = &text[position.byte() as usize..];
    while rest.starts_with(['\r', '\n', '#']) {
        let end = if rest.starts_with('\r') { Some(0) } else { rest.find('\n') };
        let Some(end) = end else { break };
        line += u64::from(rest[end..].starts_with('\n'));
        rest = &rest[end + 1..];
    }
    line as u32
}

/// A file's bytes, `most` at most. Pipes and devices, which may never end, are no files.
fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is no regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    // It may grow meanwhile.
    if file.metadata()?.len() <= most && file.take(most + 1).read_to_end(&mut bytes)? as u64 <= most {
        return Ok(bytes);
    }
    Err(io::Error::other(format!("too large; a policy's files have {} MiB together at most", LARGEST >> 20)))
}
