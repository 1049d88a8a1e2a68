//! Adds and removes exemptions and quarantines in a policy file's text, and leaves every other line as it is. The
//! outcome is read again and must differ by that entry alone.

use ipnetwork::IpNetwork;
use serde_yaml::Value;

/// What is to be added.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which.
    pub prefix: IpNetwork,
    /// Why.
    pub reason: String,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// Until when, as it is to be written.
    pub expires: Option<String>,
    /// Leaves a quarantined customer the relays.
    pub relays: bool,
}

/// A text that has to be edited by hand.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Written in a way that is not understood.
    #[error("`{key}` is written in a way that cannot be edited safely; {todo} by hand, then `op25b reload`")]
    ByHand {
        /// `exemptions` or `quarantine`.
        key: &'static str,
        /// What to do.
        todo: String,
    },
    /// Nothing to remove.
    #[error("no entry of `{key}` has {prefix}")]
    Missing {
        /// `exemptions` or `quarantine`.
        key: &'static str,
        /// Which.
        prefix: IpNetwork,
    },
}

/// The lines of a list of entries in a text.
struct Section {
    /// The line with the key.
    head: usize,
    /// Behind the last line of the list.
    end: usize,
    /// Columns in front of an entry's dash.
    indent: usize,
    /// First lines of the entries.
    entries: Vec<usize>,
}

/// Adds an entry to the list called `key`.
///
/// # Errors
///
/// When the list is written in a way that is not understood.
pub fn add(text: &str, key: &'static str, entry: &Entry) -> Result<String, EditError> {
    let by_hand = || EditError::ByHand { key, todo: format!("add {}", entry.prefix) };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match section(&lines, key) {
        Some(section) => {
            if lines[section.head].trim_end().ends_with("[]") {
                lines[section.head] = format!("{key}:");
            }
            lines.splice(section.end..section.end, written(entry, section.indent));
        }
        None if lines.iter().any(|line| line.starts_with(&format!("{key}:"))) => return Err(by_hand()),
        None => {
            lines.push(format!("{key}:"));
            lines.extend(written(entry, 2));
        }
    }
    let edited = joined(&lines, text);
    let mut expected = list(text, key).ok_or_else(by_hand)?;
    let added = list(&edited, key).and_then(|mut entries| entries.pop()).ok_or_else(by_hand)?;
    if prefixes(&added) != [entry.prefix] {
        return Err(by_hand());
    }
    expected.push(added);
    verified(text, edited, key, &expected).ok_or_else(by_hand)
}

/// Removes a prefix from the list called `key`, and its entry where it has no other.
///
/// # Errors
///
/// When it is not there, or written in a way that is not understood.
pub fn remove(text: &str, key: &'static str, prefix: IpNetwork) -> Result<String, EditError> {
    let by_hand = || EditError::ByHand { key, todo: format!("take {prefix} out") };
    let missing = EditError::Missing { key, prefix };
    let mut expected = list(text, key).ok_or_else(by_hand)?;
    let Some(at) = expected.iter().position(|entry| prefixes(entry).contains(&prefix)) else {
        return Err(missing);
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let section = section(&lines, key).ok_or_else(by_hand)?;
    let start = *section.entries.get(at).ok_or_else(by_hand)?;
    let end = section.entries.get(at + 1).copied().unwrap_or(section.end);
    if prefixes(&expected[at]).len() == 1 {
        expected.remove(at);
        // What stands between two entries is said of the next one.
        let last = (start..end).rev().find(|line| !is_blank(&lines[*line])).unwrap_or(start);
        lines.drain(start..=last);
        if expected.is_empty() {
            lines[section.head] = format!("{key}: []");
        }
    } else {
        let places = expected[at].get_mut("prefixes").and_then(Value::as_sequence_mut).ok_or_else(by_hand)?;
        places.retain(|written| parsed(written) != Some(prefix));
        let line = (start..end).find(|line| without(&lines[*line], prefix).is_some()).ok_or_else(by_hand)?;
        match without(&lines[line], prefix) {
            Some(rest) if rest.trim().is_empty() => drop(lines.remove(line)),
            Some(rest) => lines[line] = rest,
            None => {}
        }
    }
    let edited = joined(&lines, text);
    verified(text, edited, key, &expected).ok_or_else(by_hand)
}

/// A line without a prefix in it, and without the comma that goes with it; empty where nothing else is in it.
fn without(line: &str, prefix: IpNetwork) -> Option<String> {
    let ends = |text: &str| text.chars().next().is_none_or(|next| ",] \"'".contains(next));
    let starts = |text: &str| text.chars().next_back().is_none_or(|before| ",[ \"'".contains(before));
    for word in [prefix.to_string(), prefix.ip().to_string()] {
        let found = line.match_indices(&word).find(|(at, _)| {
            let (before, behind) = (&line[..*at], &line[at + word.len()..]);
            starts(before) && ends(behind)
        });
        let Some((at, _)) = found else { continue };
        let (before, behind) = (&line[..at], &line[at + word.len()..]);
        let before = before.trim_end_matches(['"', '\'']);
        let behind = behind.trim_start_matches(['"', '\'']);
        if before.trim() == "-" {
            return Some(String::new());
        }
        return Some(match behind.trim_start().strip_prefix(',') {
            Some(rest) => format!("{before}{}", rest.trim_start()),
            None => format!("{}{behind}", before.trim_end().trim_end_matches(',')),
        });
    }
    None
}

/// Finds the block list below a key that starts a line.
fn section(lines: &[String], key: &str) -> Option<Section> {
    let head = lines.iter().position(|line| line.starts_with(&format!("{key}:")))?;
    let value = lines[head][key.len() + 1..].split(" #").next().unwrap_or_default().trim();
    if !matches!(value, "" | "[]") {
        return None;
    }
    let mut section = Section { head, end: head + 1, indent: 2, entries: Vec::new() };
    for (number, line) in lines.iter().enumerate().skip(head + 1) {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if is_blank(line) {
            continue;
        }
        let is_entry =
            line[indent..].starts_with("- ") || line.trim_end().ends_with('-') && line.trim() == "-";
        if section.entries.is_empty() && is_entry {
            section.indent = indent;
        }
        if is_entry && indent == section.indent {
            section.entries.push(number);
        } else if indent <= section.indent {
            break;
        }
        section.end = number + 1;
    }
    Some(section)
}

/// Neither a key nor a value is in the line.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn written(entry: &Entry, indent: usize) -> Vec<String> {
    let indent = " ".repeat(indent);
    // A JSON string is a YAML string in double quotes.
    let quoted =
        |text: &str| Value::from(text).as_str().map(|text| serde_json::Value::from(text).to_string());
    let mut lines = vec![format!("{indent}- prefixes: [\"{}\"]", entry.prefix)];
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{indent}  {key}: {value}"));
        }
    };
    line("reason", quoted(&entry.reason));
    line("ticket", entry.ticket.as_deref().and_then(quoted));
    line("expires", entry.expires.clone());
    line("relays", entry.relays.then(|| "true".to_owned()));
    lines
}

fn joined(lines: &[String], like: &str) -> String {
    let end = if like.contains("\r\n") { "\r\n" } else { "\n" };
    lines.join(end) + end
}

/// The edited text, if everything else in it reads as before.
fn verified(text: &str, edited: String, key: &str, expected: &[Value]) -> Option<String> {
    let mut before: Value = serde_yaml::from_str(text).ok()?;
    let after: Value = serde_yaml::from_str(&edited).ok()?;
    before.as_mapping_mut()?.insert(key.into(), Value::Sequence(expected.to_vec()));
    (before == after).then_some(edited)
}

/// The entries under a key; none where it is not there.
fn list(text: &str, key: &str) -> Option<Vec<Value>> {
    let document: Value = serde_yaml::from_str(text).ok()?;
    match document.get(key) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Sequence(entries)) => Some(entries.clone()),
        Some(_) => None,
    }
}

fn prefixes(entry: &Value) -> Vec<IpNetwork> {
    let written = entry.get("prefixes").and_then(Value::as_sequence);
    written.into_iter().flatten().filter_map(parsed).collect()
}

fn parsed(written: &Value) -> Option<IpNetwork> {
    written.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{EditError, Entry, add, remove};

    const POLICY: &str = "\
version: 1
# Who may send.
exemptions:
  # The mail servers of a bank.
  - prefixes: [203.0.113.8/29, 203.0.113.128/28] # both floors
    reason: static address plan

  # One more.
  - prefixes:
      - 2001:db8:1000:25::/64
      - 203.0.113.77
    ticket: NOC-2
# Nobody yet.
quarantine: []
unknown_sources: pass
";

    fn entry(prefix: &str) -> Entry {
        Entry {
            prefix: prefix.parse().unwrap(),
            reason: "a \"static\" plan: #1".to_owned(),
            ticket: None,
            expires: Some("2027-03-31".to_owned()),
            relays: false,
        }
    }

    #[test]
    fn an_entry_is_added_behind_the_others_and_comments_stay() {
        let edited = add(POLICY, "exemptions", &entry("203.0.113.9/32")).unwrap();
        let expected = POLICY.replace(
            "    ticket: NOC-2\n",
            "    ticket: NOC-2\n  - prefixes: [\"203.0.113.9/32\"]\n    reason: \"a \\\"static\\\" plan: #1\"\n    expires: \
             2027-03-31\n",
        );
        assert_eq!(edited, expected);
    }

    #[test]
    fn an_empty_list_and_a_missing_one_get_their_first_entry() {
        let edited = add(POLICY, "quarantine", &entry("203.0.113.9/32")).unwrap();
        assert!(edited.contains("quarantine:\n  - prefixes: [\"203.0.113.9/32\"]\n"), "{edited}");
        let edited = add("version: 1\n", "quarantine", &entry("203.0.113.9/32")).unwrap();
        assert!(edited.starts_with("version: 1\nquarantine:\n  - prefixes:"), "{edited}");
        assert_eq!(
            remove(&edited, "quarantine", "203.0.113.9/32".parse().unwrap()).unwrap(),
            "version: 1\nquarantine: []\n"
        );
    }

    #[test]
    fn a_prefix_is_removed_from_its_entry_and_the_last_one_with_it() {
        let without = |text: &str, prefix: &str| remove(text, "exemptions", prefix.parse().unwrap()).unwrap();
        let one = without(POLICY, "203.0.113.8/29");
        assert!(one.contains("- prefixes: [203.0.113.128/28] # both floors\n"), "{one}");
        let other = without(POLICY, "203.0.113.128/28");
        assert!(other.contains("- prefixes: [203.0.113.8/29] # both floors\n"), "{other}");
        let none = without(&one, "203.0.113.128/28");
        assert!(!none.contains("both floors") && none.contains("  # One more.\n"), "{none}");
        let bare = without(POLICY, "203.0.113.77/32");
        assert_eq!(bare, POLICY.replace("      - 203.0.113.77\n", ""));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let flow = "exemptions: [{prefixes: [203.0.113.8/29], reason: x}]\n";
        assert!(matches!(add(flow, "exemptions", &entry("203.0.113.9/32")), Err(EditError::ByHand { .. })));
        let missing = remove(POLICY, "exemptions", "192.0.2.1/32".parse().unwrap());
        assert!(matches!(missing, Err(EditError::Missing { .. })));
        // The next key would be swallowed, were it edited line by line alone.
        let anchored = "a: &x [1]\nexemptions: *x\n";
        assert!(matches!(
            add(anchored, "exemptions", &entry("203.0.113.9/32")),
            Err(EditError::ByHand { .. })
        ));
    }
}
