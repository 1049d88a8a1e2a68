//! Manuals as a reader sees them: headings, links, code, and the commands in it; it must not know what is right.

use std::{fs, path::Path, path::PathBuf};

use anyhow::{Context as _, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A file in Markdown.
#[derive(Default)]
pub(crate) struct Manual {
    /// From the repository's root.
    pub(crate) path: PathBuf,
    /// The levels of its headings, in their order.
    pub(crate) levels: Vec<u8>,
    /// What can be behind a `#` in a link to it.
    pub(crate) anchors: Vec<String>,
    /// Where its links and pictures lead.
    pub(crate) links: Vec<String>,
    /// Its fenced code.
    pub(crate) blocks: Vec<Block>,
    /// Code within sentences.
    pub(crate) codes: Vec<String>,
    /// Its tables, in their order.
    pub(crate) tables: Vec<Table>,
}

/// A table.
#[derive(Default)]
pub(crate) struct Table {
    /// How many columns it has.
    pub(crate) columns: usize,
    /// What each row below the heading begins with, as far as no translation changes it: code, or a number that stands
    /// alone.
    pub(crate) rows: Vec<String>,
}

/// Fenced code.
#[derive(Default)]
pub(crate) struct Block {
    /// What the fence calls it.
    pub(crate) language: String,
    /// Without the fence and its indentation.
    pub(crate) text: String,
}

impl Block {
    /// What one would type.
    pub(crate) fn shell(text: &str) -> Self {
        Self { language: "sh".to_owned(), text: text.to_owned() }
    }

    /// Whether it is what one would type.
    pub(crate) fn is_shell(&self) -> bool {
        ["sh", "console"].contains(&self.language.as_str())
    }
}

impl Manual {
    /// Reads a file of the repository.
    pub(crate) fn read(root: &Path, path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        let mut manual = Self { path: path.to_owned(), ..Self::default() };
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let mut cell: Option<Cell> = None;
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { level, .. }) => {
                    manual.levels.push(level as u8);
                    heading = Some(String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    manual.anchors.extend(heading.take().map(|text| slug(&text)))
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    manual.links.push(dest_url.into_string());
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block { language: language.into_string(), text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => manual.blocks.extend(block.take()),
                Event::Start(Tag::Table(columns)) => {
                    manual.tables.push(Table { columns: columns.len(), rows: Vec::new() });
                }
                Event::Start(Tag::TableRow) => cell = Some(Cell::default()),
                // The row's first.
                Event::End(TagEnd::TableCell) => {
                    if let (Some(cell), Some(table)) = (cell.take(), manual.tables.last_mut()) {
                        table.rows.push(cell.untranslated());
                    }
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    manual.anchors.extend(attributes(&html, "id"));
                    manual.links.extend(attributes(&html, "href"));
                    manual.links.extend(attributes(&html, "src"));
                }
                Event::Text(words) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&words);
                    }
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    if let Some(cell) = &mut cell {
                        cell.words.push_str(&words);
                    }
                }
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    if let Some(cell) = &mut cell {
                        cell.codes.push(code.to_string());
                    }
                    manual.codes.push(code.into_string());
                }
                _ => {}
            }
        }
        Ok(manual)
    }
}

/// What stands in a cell of a table.
#[derive(Default)]
struct Cell {
    words: String,
    codes: Vec<String>,
}

impl Cell {
    fn untranslated(self) -> String {
        let words = self.words.trim();
        let number = words.chars().all(|c| c.is_ascii_digit() || " .,%".contains(c));
        let mut parts = self.codes;
        parts.extend((number && words.contains(|c: char| c.is_ascii_digit())).then(|| words.to_owned()));
        parts.join(" ")
    }
}

/// What an attribute is set to in a piece of HTML.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let set = format!("{name}=\"");
    let values = html.split(&set).skip(1).filter_map(|rest| rest.split('"').next());
    values.map(str::to_owned).collect()
}

/// The anchor that a heading has on the forge.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A line without the comment that ends it.
pub(crate) fn without_comment(line: &str) -> &str {
    let code = line.match_indices('#').map(|(at, _)| line.get(..at).unwrap_or(line)).find(|code| {
        let quoted = |quote| code.matches(quote).count() % 2 == 1;
        (code.is_empty() || code.ends_with(' ')) && !quoted('"') && !quoted('\'')
    });
    code.unwrap_or(line).trim_end()
}

/// The commands of a block as a shell would split them, each with its line; what is set there stands in place of its
/// name.
pub(crate) fn commands(block: &Block) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut set: Vec<(String, String)> = Vec::new();
    for line in block.text.lines() {
        let mut replaced = without_comment(line).replace("; ", " ; ");
        for (name, value) in &set {
            replaced = replaced.replace(&format!("${name}"), value);
        }
        let words = shlex::split(&replaced).unwrap_or_default();
        for command in words.split(|word| [";", "|", ">", "&&"].contains(&word.as_str())) {
            let assigned = |word: &&String| {
                let name = word.split('=').next().unwrap_or_default();
                word.contains('=')
                    && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            };
            let before: Vec<&String> = command.iter().take_while(assigned).collect();
            let words = command.get(before.len()..).unwrap_or_default();
            if words.is_empty() {
                set.extend(before.iter().filter_map(|word| {
                    word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
                }));
            } else {
                found.push((line.to_owned(), words.to_vec()));
            }
        }
    }
    found
}
