//! What the manuals have an operator type on a router does there what it says: every command that a running filter
//! answers, in the manuals' order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod markdown;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Parser as _;
use lab::{Filter, KURUME, Namespace, syn};
use markdown::{Block, Manual, commands};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use op25b::cli::Cli;

const MANUALS: [&str; 7] = [
    "README.md",
    "docs/deploy.md",
    "docs/cutover.md",
    "docs/actions.md",
    "docs/privacy.md",
    "docs/noc/README.md",
    "docs/noc/runbook.md",
];

/// What asks a policy file, not a filter, is tried in `documents`; `run` is what all of this runs on, `replay` has a test
/// of its own, and so has the end of all of it.
fn is_elsewhere(words: &[String]) -> bool {
    let has = |option: &str| words.iter().any(|word| word == option);
    matches!(words[0].as_str(), "check" | "run" | "replay" | "detach")
        || has("--policy")
        || words[0] == "diff" && words.iter().filter(|word| word.ends_with(".yaml")).count() == 2
        || has("--instance")
}

/// Brings the filter to where a command is typed, quietly: something to confirm or to roll back, something to resume.
fn before(filter: &Filter<'_>, words: &[String], new: &str) {
    let is_rolled_back = words[0] == "apply" && words.iter().any(|word| word == "--rollback");
    if words[0] == "confirm" || is_rolled_back {
        filter.op25b(&["apply", new, "--confirm", "5m"]).unwrap();
    } else if words[0] == "resume" {
        filter.op25b(&["suspend", "--for", "1h"]).unwrap();
    }
}

/// Ends what a command may have begun.
fn after(filter: &Filter<'_>) {
    for words in [["confirm"], ["resume"], ["reload"]] {
        filter.op25b(&words).unwrap();
    }
}

/// Runs a command, with Ctrl-C for what would go on; its exit code and what it said.
fn typed(filter: &Filter<'_>, words: &[String]) -> (Option<i32>, String) {
    let goes_on = words.iter().any(|word| word == "--follow") || words[0] == "capture";
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words[0] == "top" && !words.contains(&"--once") {
        // The screen has tests of its own.
        words.push("--once");
    }
    let mut command = filter.command(&words).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (start, mut asked) = (Instant::now(), false);
    while goes_on && child.try_wait().unwrap().is_none() {
        if !asked && start.elapsed() > Duration::from_secs(2) {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
            asked = true;
        }
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!(
                "{words:?} goes on after SIGINT, which is ignored by what a shell starts in its background"
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let code = if goes_on { output.status.code().or(Some(0)) } else { output.status.code() };
    (code, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn commands_of_the_manuals_do_on_a_running_filter() {
    let (customer, edge) = (Namespace::new("customer").unwrap(), Namespace::new("edge").unwrap());
    edge.veth("eth1", &customer, "cust1").unwrap();
    let mut filter = Filter::new(&edge).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policy = format!(
        "{KURUME}\nhistory: {{ path: {}, keep_destinations: 60d }}\n",
        folder.path().join("history.db").display()
    );
    filter.start(&policy, &[]).unwrap();
    let (new, file) = (folder.path().join("new.yaml"), folder.path().join("file"));
    fs::write(&new, format!("{policy}# changed\n")).unwrap();
    let frame = |port| syn([203, 0, 113, 10].into(), [198, 51, 100, 25].into(), port, 25);
    let frames: Vec<_> = (0..40).map(|number| frame(40_000 + number)).collect();
    customer.mouth("cust1").unwrap().send(frames.iter().map(Vec::as_slice)).unwrap();

    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2)).to_string();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut done, mut wrong) = (BTreeSet::new(), Vec::new());
    for manual in MANUALS {
        let manual = Manual::read(&root, Path::new(manual)).unwrap();
        let codes: Vec<Block> = manual.codes.iter().map(|code| Block::shell(code)).collect();
        for (line, words) in
            manual.blocks.iter().filter(|block| block.is_shell()).chain(&codes).flat_map(commands)
        {
            let Some(words) = words.strip_prefix(&["op25b".to_owned()]).filter(|words| !words.is_empty())
            else {
                continue;
            };
            let blank = |word: &String| {
                word.contains(['[', '…', '$']) || word.chars().all(|c| c.is_ascii_uppercase() || c == '|')
            };
            if is_elsewhere(words) || words.iter().any(blank) || !done.insert(words.to_vec()) {
                continue;
            }
            // Named only, in a sentence.
            if Cli::try_parse_from(["op25b"].into_iter().chain(words.iter().map(String::as_str))).is_err() {
                continue;
            }
            let mut option = String::new();
            let there = |word: &String| match (std::mem::replace(&mut option, word.clone()), word.as_str()) {
                // The manual's dates will have passed one day, and a second shows as much as ten.
                (option, _) if option == "--expires" => "2099-03-31".to_owned(),
                (option, _) if option == "--until" => soon.clone(),
                (option, _) if option == "--sample" => "1s".to_owned(),
                (_, word) => match word {
                    "/etc/op25b/policy.yaml" | "policy.yaml" => filter.path().display().to_string(),
                    "new.yaml" => new.display().to_string(),
                    word if word.ends_with(".pcapng") => file.display().to_string(),
                    word => word.to_owned(),
                },
            };
            let words: Vec<String> = words.iter().map(there).collect();
            before(&filter, &words, &new.display().to_string());
            let (code, said) = typed(&filter, &words);
            after(&filter);
            println!("followed: {code:?} {line}");
            if code != Some(0) {
                wrong.push(format!("{}: {line}: {code:?}: {said}", manual.path.display()));
            }
        }
    }
    assert!(done.len() >= 30, "only {} commands", done.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    filter.stop(Signal::SIGTERM).unwrap();
}
