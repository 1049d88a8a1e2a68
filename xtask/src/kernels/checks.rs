//! What runs under every kernel: op25b itself, then its kernel tests; a shell script that says how each one ended.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::outcome::Outcome;
use crate::exec::read;

/// Integration tests of op25b-user that ask the kernel, and of each the tests whose answer can differ from kernel to
/// kernel; none named: all of them. An emulated machine is some twenty times slower than this one, so what is the
/// loader's own logic runs here only.
const TESTS: &[(&str, &[&str])] = &[
    ("cases", &[]),
    ("verifier", &[]),
    ("tables", &["kernel_finds"]),
    ("replies", &[]),
    (
        "attach",
        &[
            "port_25_never_arrives",
            "counters_are_exactly",
            "sigkill_leaves",
            "run_again_swaps",
            "detach_removes",
        ],
    ),
    (
        "tc",
        &[
            "tc_ingress_blocks",
            "tc_egress_of_the_uplink",
            "without_ethernet_header_is_filtered",
            "somebody_else",
            "run_again_swaps",
        ],
    ),
    ("selftest", &["on_xdp_and_tc"]),
];

/// Seconds that one check may take, in an emulated machine beside others.
const LIMIT: u32 = 900;

/// Seconds that a test waits there for what takes a moment here.
const PATIENCE: u32 = 120;

/// Starts the lines with which the script tells its reader where it is.
pub(super) const MARK: &str = "@op25b ";

/// One command, right when it ends with 0 and says what is expected.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) expected: &'static str,
    pub(super) command: String,
}

/// All checks, and the files that they need.
pub(super) struct Checks {
    checks: Vec<Check>,
    programs: Vec<PathBuf>,
    package: PathBuf,
    policies: PathBuf,
}

impl Checks {
    /// Builds op25b and its tests, as `cargo test` does.
    pub(super) fn build() -> Result<Self> {
        let messages = read(
            Command::new("cargo")
                .args(["test", "--no-run", "--package", "op25b-user"])
                .args(["--message-format", "json-render-diagnostics"])
                .args(TESTS.iter().flat_map(|(test, _)| ["--test", test])),
        )?;
        let artifacts: Vec<Value> =
            messages.lines().filter_map(|message| serde_json::from_str(message).ok()).collect();
        let workspace = env::current_dir()?;
        let policies = workspace.join("policies");

        let op25b = executable(&artifacts, "bin", "op25b")?;
        let policy = policies.join("kurume.yaml");
        let mut checks = vec![Check {
            name: "explain",
            expected: "drop: blocked",
            command: format!(
                "'{}' explain --policy '{}' --role customer --src 203.0.113.10 --dst 198.51.100.25",
                op25b.display(),
                policy.display()
            ),
        }];
        let mut programs = vec![op25b];
        for (name, only) in TESTS {
            let test = executable(&artifacts, "test", name)?;
            // Captured and shown at the end, so that no line of a test is mixed with one of its harness.
            let command = format!("'{}' --show-output --test-threads=1 {}", test.display(), only.join(" "));
            checks.push(Check { name, expected: "", command });
            programs.push(test);
        }
        Ok(Self { checks, programs, package: workspace.join("op25b-user"), policies })
    }

    /// Runs them under this machine's own kernel.
    pub(super) fn run_here(&self) -> Result<Outcome> {
        let script = self.script();
        let transcript = read(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()))?;
        Ok(Outcome::read(&transcript, self))
    }

    /// What runs them, one after another; the same on this machine and in a virtual one.
    pub(super) fn script(&self) -> String {
        let mut script = format!(
            "cd '{}'\nexport OP25B_TEST_SECONDS={PATIENCE}\necho \"{MARK}kernel $(uname -r) $(uname -v)\"\n",
            self.package.display()
        );
        for Check { name, command, .. } in &self.checks {
            script.push_str(&format!(
                "echo '{MARK}begin {name}'\n\
                 timeout -k 5 {LIMIT} {command} 2>&1\n\
                 echo \"{MARK}end $?\"\n"
            ));
        }
        script
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter()
    }

    /// The executables.
    pub(super) fn programs(&self) -> impl Iterator<Item = &Path> {
        self.programs.iter().map(PathBuf::as_path)
    }

    /// Folders whose files the checks read, and where they run.
    pub(super) fn folders(&self) -> [&Path; 2] {
        [&self.policies, &self.package]
    }
}

/// Where cargo put an executable.
fn executable(artifacts: &[Value], kind: &str, name: &str) -> Result<PathBuf> {
    let wanted = |artifact: &&Value| {
        let target = &artifact["target"];
        // A binary's own unit tests have the binary's name.
        let tested = artifact["profile"]["test"] == true;
        target["name"] == name && target["kind"][0] == kind && tested == (kind == "test")
    };
    let artifact =
        artifacts.iter().find(wanted).with_context(|| format!("op25b-user has no {kind} called `{name}`"))?;
    let path = artifact["executable"].as_str().with_context(|| format!("cargo built no {kind} `{name}`"))?;
    Ok(path.into())
}
