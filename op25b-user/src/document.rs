//! The policy file as it is written: keys and shapes, nothing of their meaning. Unknown keys are errors everywhere,
//! because in a filter an ignored key is an open port.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Of the format; 1.
    pub version: u32,
    /// Named in the notice and in reports.
    pub operator: Option<String>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub timezone: Option<Unsupported>,
    /// Where to attach.
    #[serde(default)]
    pub interfaces: Interfaces,
    /// The provider's mail servers.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// The customer groups.
    pub customers: Vec<Customer>,
    /// Prefixes that may send.
    #[serde(default)]
    pub exemptions: Vec<Exemption>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub exemptions_file: Option<Unsupported>,
    /// Prefixes that may not.
    #[serde(default)]
    pub quarantine: Vec<Quarantine>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub quarantine_file: Option<Unsupported>,
    /// Sources in no group.
    pub unknown_sources: UnknownSources,
    /// Whether IPv6 is filtered at all.
    #[serde(default)]
    pub ipv6: Ipv6,
    /// IPv4 in IPv6.
    pub softwire: Option<Softwire>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub notice: Option<Unsupported>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub metrics: Option<Unsupported>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub history: Option<Unsupported>,
}

/// A key of the format that this version does not act on yet. Refused, never ignored.
#[derive(Clone, Copy, Debug)]
pub struct Unsupported;

/// A key that is there is written, with a value or without.
fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Unsupported>, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Ok(Some(Unsupported))
}

/// The interfaces of each role.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interfaces {
    /// Frames from customers arrive here.
    #[serde(default)]
    pub customer: Vec<Interface>,
    /// Frames from the Internet arrive here.
    #[serde(default)]
    pub upstream: Vec<Interface>,
}

/// One interface: its name, or its name and how to attach.
#[derive(Clone, Debug)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// Where in the stack.
    pub attach: Attach,
}

/// Where in the stack the filter sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// XDP in the driver.
    #[default]
    Native,
    /// XDP behind the driver: slower, works everywhere.
    Generic,
    /// TC, arriving frames.
    TcIngress,
    /// TC, leaving frames.
    TcEgress,
}

impl Attach {
    /// The word in the policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
        }
    }
}

// Not an untagged enum: that would swallow the message about the wrong key.
impl<'de> Deserialize<'de> for Interface {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            name: String,
            #[serde(default)]
            attach: Attach,
        }

        struct ShortOrLong;

        impl<'de> Visitor<'de> for ShortOrLong {
            type Value = Interface;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an interface name, or {name: eth1, attach: generic}")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Interface, E> {
                Ok(Interface { name: name.to_owned(), attach: Attach::default() })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Interface, M::Error> {
                let Long { name, attach } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Interface { name, attach })
            }
        }

        deserializer.deserialize_any(ShortOrLong)
    }
}

/// A mail server of the provider.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Its name in reports.
    pub name: String,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub hostname: Option<Unsupported>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub within: Option<Unsupported>,
    /// Addresses or prefixes.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A customer group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// Its name in reports.
    pub name: String,
    /// Whose packets these are.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub prefixes_file: Option<Unsupported>,
    /// Must be written.
    pub mode: Mode,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub enforce_from: Option<Unsupported>,
    /// What happens to a blocked packet.
    #[serde(default)]
    pub action: Action,
    /// Relays the group may reach; absent: all of them.
    pub relays: Option<Vec<String>>,
    /// Where port 25 is blocked; empty: everywhere.
    #[serde(default)]
    pub destinations: Vec<String>,
    /// Packets from port 25, on `upstream` interfaces.
    pub return_path: Option<Mode>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub shared: Option<Unsupported>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub ipv6_source_length: Option<Unsupported>,
    /// Allows a prefix of length 0.
    #[serde(default)]
    pub allow_any: bool,
}

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    Off,
    /// Count.
    Monitor,
    /// Block.
    Enforce,
}

impl Mode {
    /// The word in the policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Monitor => "monitor",
            Self::Enforce => "enforce",
        }
    }
}

/// What happens to a blocked packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It vanishes.
    #[default]
    Drop,
    /// It is reset.
    Reset,
    /// It is answered.
    Notice,
}

/// Prefixes that may send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exemption {
    /// Which.
    pub prefixes: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub expires: Option<Unsupported>,
}

/// Prefixes that may not send, whatever else is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Which.
    pub prefixes: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// See [`Unsupported`].
    #[serde(default, deserialize_with = "written")]
    pub expires: Option<Unsupported>,
    /// Leaves them the relays.
    #[serde(default)]
    pub relays: bool,
}

/// What happens to a source in no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSources {
    /// It passes, counted.
    Pass,
    /// It is blocked.
    Block,
}

/// Whether IPv6 is filtered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// By the groups' IPv6 prefixes.
    #[default]
    Filtered,
    /// Not at all; must be written where no group has an IPv6 prefix.
    Unfiltered,
}

/// IPv4 in IPv6.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{identify_by: outer}` or `{identify_by: inner}`")]
pub struct Softwire {
    /// Which address names the customer.
    #[serde(default)]
    pub identify_by: IdentifyBy,
}

/// Which address of a softwire names the customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentifyBy {
    /// The IPv6 one.
    #[default]
    Outer,
    /// The IPv4 one.
    Inner,
}

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

/// Largest policy file that is read, in bytes.
pub const LARGEST: u64 = 64 << 20;

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
        ReadError::Yaml { path: path.to_owned(), line, message: printable(&message) }
    })
}

/// Control characters made visible: what a file contains must not move anybody's cursor or forge a line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| if char.is_control() { char.escape_default().collect() } else { vec![char] })
        .collect()
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

/// How often a line has `word` outside its comment, and not as a part of a longer one.
pub(crate) fn words(line: &str, word: &str) -> usize {
    let line = line.split(" #").next().unwrap_or(line);
    if word.is_empty() || line.trim_start().starts_with('#') {
        return 0;
    }
    let part_of_word = |char: char| char.is_alphanumeric() || "./:-_".contains(char);
    let whole = |start: &usize| {
        let before = line[..*start].chars().next_back();
        let behind = line[start + word.len()..].chars().next();
        // `mode:` ends with what may stand in a word.
        let ends = word.ends_with(':') || !behind.is_some_and(part_of_word);
        ends && !before.is_some_and(part_of_word)
    };
    line.match_indices(word).map(|(start, _)| start).filter(whole).count()
}

/// Brackets open at once, levels of `- - -` in one line, and columns of indentation: a policy has four levels.
const DEEPEST: usize = 64;

/// Refuses what the YAML reader would take quadratic time or unbounded memory for: deep nesting, and long texts
/// repeated by aliases.
fn bounded(text: &str, path: &str) -> Result<(), ReadError> {
    let mut open = 0_usize;
    let mut longest = 0;
    let mut aliases = 0_usize;
    for (number, line) in text.lines().enumerate() {
        let hostile = |what| ReadError::Hostile { path: path.to_owned(), line: number + 1, what };
        let indentation = line.len() - line.trim_start_matches([' ', '-', '?']).len();
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                b'*' => aliases += 1,
                _ => {}
            }
            if open > DEEPEST || indentation > 2 * DEEPEST {
                return Err(hostile("nested too deeply"));
            }
        }
        longest = longest.max(line.len());
        if aliases.saturating_mul(longest) as u64 > LARGEST {
            return Err(hostile("too much text repeated by aliases"));
        }
    }
    Ok(())
}
