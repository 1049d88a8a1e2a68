//! What the manuals say can be followed: links lead somewhere, commands are ones that op25b takes and answers as written,
//! policies are valid, and translations hold the same commands. Needs root for `explain`.

mod markdown;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use markdown::{Block, Manual, commands, without_comment};
use op25b::cli::Cli;
use serde_yaml::{Mapping, Value};

/// Manuals and their translations, part for part.
const TWINS: [(&str, &str); 4] = [
    ("README.md", "docs/README.ja.md"),
    ("docs/cutover.md", "docs/cutover.ja.md"),
    ("docs/customers.md", "docs/customers.ja.md"),
    ("docs/noc/README.md", "docs/noc/README.ja.md"),
];
/// What the YAML of other programs begins with; all other YAML in the manuals is a policy's.
const FOREIGN: [&str; 3] = ["rule_files", "scrape_configs", "sources"];
/// The policy that a manual tells its reader to begin with, and one that blocks, as a router has it after the cut-over.
const COPIED: &str = "policies/minimal.yaml";
const INSTALLED: &str = "policies/kurume.yaml";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every file below a folder of the repository whose name ends so.
fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let path = root().join(folder);
    for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let name = Path::new(folder).join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(files(&name.to_string_lossy(), ending)?);
        } else if name.to_string_lossy().ends_with(ending) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn manuals() -> Result<Vec<Manual>> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("op25b-user/tests/README.md")];
    for folder in ["docs", "packaging"] {
        paths.extend(files(folder, ".md")?);
    }
    ensure!(paths.len() > 10, "only {} manuals", paths.len());
    paths.iter().map(|path| Manual::read(root(), path)).collect()
}

/// Fails with all that is wrong at once.
fn conclude(wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// Where a link leads from a file, as a path from the repository's root.
fn target(from: &Path, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in from.parent().unwrap_or(from).join(link).components() {
        match part {
            std::path::Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() -> Result<()> {
    let manuals = manuals()?;
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for manual in &manuals {
        for link in manual.links.iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(f, a)| (f, Some(a)));
            let path = if file.is_empty() { manual.path.clone() } else { target(&manual.path, file) };
            let known = anchor.is_none_or(|anchor| {
                let other = manuals.iter().find(|other| other.path == path);
                other.is_some_and(|other| other.anchors.iter().any(|known| known == anchor))
            });
            if !root().join(&path).exists() || !known {
                wrong.push(format!("{}: {link}", manual.path.display()));
            }
        }
    }
    ensure!(seen > 50, "only {seen} links");
    conclude(&wrong)
}

#[test]
fn files_that_policies_and_packages_name_are_there() -> Result<()> {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for folder in ["policies", "packaging"] {
        for path in files(folder, "")? {
            let text = fs::read_to_string(root().join(&path))?;
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "/.-_".contains(c)));
            for word in words.map(|word| word.trim_end_matches('.')) {
                // As written from the repository's root; what has another root is the router's.
                if (word.starts_with("docs/") || word.starts_with("policies/")) && word.contains('.') {
                    seen += 1;
                    if !root().join(word).exists() {
                        wrong.push(format!("{}: {word}", path.display()));
                    }
                }
            }
        }
    }
    ensure!(seen > 0, "no file is named");
    conclude(&wrong)
}

/// What op25b does not take of these words, if anything.
fn refused(words: &[String]) -> Option<clap::Error> {
    Cli::try_parse_from(words)
        .err()
        .filter(|error| !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion))
}

#[test]
fn op25b_takes_every_command_of_the_manuals() -> Result<()> {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for manual in manuals()? {
        for (line, words) in manual.blocks.iter().filter(|block| block.is_shell()).flat_map(commands) {
            if words[0] == "op25b" {
                seen += 1;
                wrong.extend(
                    refused(&words).map(|error| format!("{}: {line}: {error}", manual.path.display())),
                );
            }
        }
        for code in manual.codes.iter().filter(|code| code.starts_with("op25b ")) {
            seen += 1;
            // In a sentence `[--ticket …]` says what may be left out, `A` what to put in, and a command may be named by
            // its name alone.
            let nothing = ContextValue::String(String::new());
            let plain = code.replace(['[', ']'], "");
            for (_, words) in commands(&Block::shell(&plain)) {
                let placeholder =
                    |word: &String| word.contains('…') || word.chars().all(|c| c.is_ascii_uppercase());
                let error = refused(&words).filter(|error| match error.kind() {
                    ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingSubcommand => false,
                    // An option that is named by its name alone.
                    ErrorKind::InvalidValue if error.get(ContextKind::InvalidValue) == Some(&nothing) => {
                        false
                    }
                    ErrorKind::ValueValidation | ErrorKind::InvalidSubcommand => {
                        !words.iter().any(placeholder)
                    }
                    _ => true,
                });
                wrong.extend(error.map(|error| format!("{}: `{code}`: {error}", manual.path.display())));
            }
        }
    }
    ensure!(seen > 200, "only {seen} commands");
    conclude(&wrong)
}

#[test]
fn cargo_xtask_takes_every_command_of_the_manuals() -> Result<()> {
    // Each once, and where it was seen.
    let mut lines = BTreeMap::new();
    for manual in manuals()? {
        let codes: Vec<Block> = manual.codes.iter().map(|code| Block::shell(code)).collect();
        let blocks = manual.blocks.iter().filter(|block| block.is_shell()).chain(&codes);
        for (_, words) in blocks.flat_map(commands) {
            if words.starts_with(&["cargo".to_owned(), "xtask".to_owned()]) && words.len() > 2 {
                lines.entry(words[2..].to_vec()).or_insert_with(|| manual.path.clone());
            }
        }
    }
    ensure!(lines.len() >= 8, "only {lines:?}");
    let mut wrong = Vec::new();
    for (words, path) in &lines {
        // Words that are not known are refused before help is given.
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "xtask", "--"])
            .args(words)
            .arg("--help")
            .current_dir(root())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("{}: cargo xtask {}: {said}", path.display(), words.join(" ")));
        }
    }
    conclude(&wrong)
}

fn op25b<W: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = W>) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_op25b")).args(words).current_dir(root()).output()?)
}

/// `op25b check` of a policy that lies beside the examples, since it may name their files.
fn check(text: &str) -> Result<Output> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    fs::write(file.path(), text)?;
    op25b(["check".as_ref(), file.path().as_os_str()])
}

#[test]
fn policies_of_the_manuals_are_valid() -> Result<()> {
    let example = fs::read_to_string(root().join(INSTALLED))?;
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for manual in manuals()? {
        for block in manual.blocks.iter().filter(|block| block.language == "yaml") {
            let written: Mapping = serde_yaml::from_str(&block.text)
                .with_context(|| format!("{}: {}", manual.path.display(), block.text))?;
            let first = written.keys().next().and_then(Value::as_str).unwrap_or_default();
            if FOREIGN.contains(&first) {
                continue;
            }
            seen += 1;
            // A part takes the place of the same part of a whole one, indented lines that of a group's.
            let policy = if first == "version" {
                block.text.clone()
            } else {
                let mut whole: Mapping = serde_yaml::from_str(&example)?;
                let part = if block.text.starts_with(' ') {
                    let group = whole.get_mut("customers").and_then(|groups| groups.get_mut(0));
                    group.and_then(Value::as_mapping_mut).context("a group")?
                } else {
                    &mut whole
                };
                part.extend(written);
                serde_yaml::to_string(&whole)?
            };
            let answer = check(&policy)?;
            if !answer.status.success() {
                let said = String::from_utf8_lossy(&answer.stderr);
                wrong.push(format!("{}:\n{}\n{said}", manual.path.display(), block.text));
            }
        }
    }
    ensure!(seen >= 6, "only {seen} policies");
    conclude(&wrong)
}

#[test]
fn commands_that_need_no_filter_answer_as_the_manuals_say() -> Result<()> {
    let (mut wrong, mut verdicts) = (Vec::new(), 0);
    for manual in manuals()? {
        for (line, words) in manual.blocks.iter().filter(|block| block.is_shell()).flat_map(commands) {
            let asks = match words.get(1).map(String::as_str) {
                Some("check") => true,
                Some("diff") => words.iter().filter(|word| word.ends_with(".yaml")).count() == 2,
                Some("explain" | "report") => words.iter().any(|word| word == "--policy"),
                _ => false,
            };
            if words[0] != "op25b" || !asks {
                continue;
            }
            let there = |word: &String| match word.as_str() {
                "/etc/op25b/policy.yaml" | "new.yaml" => INSTALLED.to_owned(),
                "policy.yaml" => COPIED.to_owned(),
                other => other.to_owned(),
            };
            let answer = op25b(words[1..].iter().map(there))?;
            let said = String::from_utf8_lossy(&answer.stdout);
            // `# drop: blocked` behind `explain` is what it answers.
            let comment = line.get(without_comment(&line).len()..).unwrap_or_default();
            let promised = comment.trim_start_matches(['#', ' ']);
            let promised = promised.split([';', ',']).next().unwrap_or_default().trim();
            let kept = words[1] != "explain" || promised.is_empty() || {
                verdicts += 1;
                said.lines().next().is_some_and(|first| first.split(',').next() == Some(promised))
            };
            if !answer.status.success() || !kept {
                wrong.push(format!("{}: {line}: {answer:?}", manual.path.display()));
            }
        }
    }
    ensure!(verdicts >= 12, "only {verdicts} answers are promised");
    conclude(&wrong)
}

#[test]
fn every_example_can_be_asked() -> Result<()> {
    let mut wrong = Vec::new();
    let examples: Vec<String> =
        files("policies", ".yaml")?.iter().map(|path| path.display().to_string()).collect();
    ensure!(examples.len() >= 4, "{examples:?}");
    for path in &examples {
        let from = ["--src", "203.0.113.10", "--dst", "198.51.100.25"];
        for words in [
            &["check", path][..],
            &["diff", COPIED, path],
            &["report", "exemptions", "--policy", path],
            &[&["explain", "--policy", path, "--role", "customer"], &from[..]].concat(),
        ] {
            let answer = op25b(words)?;
            if !answer.status.success() {
                wrong.push(format!("{words:?}: {answer:?}"));
            }
        }
    }
    conclude(&wrong)
}

#[test]
fn translations_have_the_same_parts_and_the_same_commands() -> Result<()> {
    let mut wrong = Vec::new();
    for (one, other) in TWINS {
        let [one, other] = [one, other].map(|path| Manual::read(root(), Path::new(path)));
        let (one, other) = (one?, other?);
        let mut compare = |what: &str, one: Vec<String>, other: Vec<String>, name: &Path| {
            if one != other {
                wrong.push(format!("{}: {what}: {other:#?} instead of {one:#?}", name.display()));
            }
        };
        let levels = |manual: &Manual| manual.levels.iter().map(ToString::to_string).collect();
        compare("levels of headings", levels(&one), levels(&other), &other.path);
        let blocks = |manual: &Manual| {
            let lines =
                |block: &Block| block.text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
            manual.blocks.iter().map(|block| format!("{}\n{}", block.language, lines(block))).collect()
        };
        compare("code", blocks(&one), blocks(&other), &other.path);
        let named = |manual: &Manual| {
            let mut codes = manual.codes.clone();
            codes.retain(|code| code.starts_with("op25b ") || code.starts_with("cargo xtask "));
            codes.sort();
            codes.dedup();
            codes
        };
        compare("commands in sentences", named(&one), named(&other), &other.path);
        let tables = |manual: &Manual| {
            let tables = manual.tables.iter();
            tables
                .map(|table| {
                    format!(
                        "{} columns, {} rows: {}",
                        table.columns,
                        table.rows.len(),
                        table.rows.join(" | ")
                    )
                })
                .collect()
        };
        compare("tables", tables(&one), tables(&other), &other.path);
    }
    conclude(&wrong)
}
