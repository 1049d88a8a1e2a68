//! Where another suite of Debian is: where this machine's own apt configuration says that its suite is.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const OS_RELEASE: &str = "/etc/os-release";
const LIST: &str = "/etc/apt/sources.list";
const PARTS: &str = "/etc/apt/sources.list.d";

/// Writes this machine's sources of Debian, made those of `suite`, into `folder`.
pub(super) fn derive(suite: &str, folder: &Path) -> Result<()> {
    let os = fs::read_to_string(OS_RELEASE).with_context(|| format!("cannot read {OS_RELEASE}"))?;
    let own = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .with_context(|| format!("{OS_RELEASE} has no VERSION_CODENAME"))?;

    let mut files = vec![Path::new(LIST).to_owned()];
    for file in fs::read_dir(PARTS).with_context(|| format!("cannot list {PARTS}"))? {
        files.push(file?.path());
    }
    let mut found = false;
    for file in files {
        let (Some(name), Some(extension)) = (file.file_name(), file.extension()) else { continue };
        let derived = match (extension.to_str(), fs::read_to_string(&file)) {
            (Some("list"), Ok(text)) => lines(&text, own, suite),
            (Some("sources"), Ok(text)) => stanzas(&text, own, suite),
            _ => continue,
        };
        if !derived.is_empty() {
            found = true;
            fs::write(folder.join(name), derived)?;
        }
    }
    if !found {
        bail!("{LIST} and {PARTS} name no mirror of Debian {own} whose {suite} could be used");
    }
    Ok(())
}

/// A `sources.list`: a source a line.
fn lines(text: &str, own: &str, suite: &str) -> String {
    let mut derived = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut changed = false;
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| {
                let other = renamed(word, own, suite);
                changed |= other.is_some();
                other.unwrap_or_else(|| word.to_owned())
            })
            .collect();
        if changed && words[0] == "deb" && words.iter().any(|word| word == "main") {
            derived.push_str(&words.join(" "));
            derived.push('\n');
        }
    }
    derived
}

/// A `.sources` file: stanzas of `Key: value` with an empty line after each.
fn stanzas(text: &str, own: &str, suite: &str) -> String {
    let mut derived = String::new();
    for stanza in text.split("\n\n") {
        let mut changed = false;
        let mut other = String::new();
        for line in stanza.lines() {
            if let Some(suites) = line.strip_prefix("Suites:") {
                let suites: Vec<String> =
                    suites.split_whitespace().filter_map(|word| renamed(word, own, suite)).collect();
                changed = !suites.is_empty();
                other.push_str(&format!("Suites: {}\n", suites.join(" ")));
            } else if line.starts_with("Types:") {
                other.push_str("Types: deb\n");
            } else if !line.starts_with('#') {
                other.push_str(line);
                other.push('\n');
            }
        }
        if changed && other.split_whitespace().any(|word| word == "main") {
            derived.push_str(&other);
            derived.push('\n');
        }
    }
    derived
}

/// What this machine's suite is called for `suite`, if `word` is this machine's suite.
fn renamed(word: &str, own: &str, suite: &str) -> Option<String> {
    let names = [own, "oldoldstable", "oldstable", "stable", "testing", "unstable", "sid"];
    // Older suites still get kernels there. Unstable has none.
    match word.strip_suffix("-security") {
        None if names.contains(&word) => Some(suite.to_owned()),
        Some(base) if names.contains(&base) && suite != "sid" => Some(format!("{suite}-security")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_mirrors_and_options() {
        let text = "# deb http://mirror.test/debian bookworm main\n\
                    deb [signed-by=/k] http://mirror.test/debian bookworm main contrib # ours\n\
                    deb http://mirror.test/debian bookworm-updates main\n\
                    deb http://mirror.test/security bookworm-security main\n\
                    deb http://other.test/apt other-bookworm main\n";
        assert_eq!(
            lines(text, "bookworm", "bullseye"),
            "deb [signed-by=/k] http://mirror.test/debian bullseye main contrib\n\
             deb http://mirror.test/security bullseye-security main\n"
        );
        assert_eq!(
            lines(text, "bookworm", "sid"),
            "deb [signed-by=/k] http://mirror.test/debian sid main contrib\n"
        );
    }

    #[test]
    fn stanzas_keep_their_mirrors_and_keys() {
        let text = "Types: deb deb-src\n# a remark\nURIs: http://mirror.test/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k\n\n\
                    Types: deb\nURIs: http://other.test/node\nSuites: nodistro\nComponents: main\n";
        assert_eq!(
            stanzas(text, "bookworm", "trixie"),
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\nSigned-By: /k\n\n"
        );
    }
}
