//! What a user types and writes wrong: one line that names it, exit 1, nothing attached; and what `check` and `explain`
//! answer. Needs root for `explain`.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

const KURUME: &str = include_str!("../../policies/kurume.yaml");
/// A comment that stands where an error is to point.
const HERE: &str = "# HERE";
/// Nothing of this name is on any machine, so that even a `run` which takes a bad policy attaches nothing.
const NO_INTERFACE: &str = "op25b-none";
/// Time and address space that any command has.
const LIMIT: Duration = Duration::from_secs(5);
const MEMORY: libc::rlim_t = 1 << 30;

/// What a command did.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The one line of an error that is the user's to mend.
    fn error(&self) -> Result<&str> {
        ensure!(self.code == Some(1), "exit 1 was to be expected: {self:#?}");
        ensure!(self.stdout.is_empty(), "data on stdout: {self:#?}");
        ensure!(self.stderr.lines().count() == 1, "one line was to be expected: {self:#?}");
        self.stderr.trim_end().strip_prefix("error: ").with_context(|| format!("no `error: `: {self:#?}"))
    }

    fn lines(&self, prefix: &str) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with(prefix)).collect()
    }
}

fn op25b(arguments: &[&str]) -> Result<Answer> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_op25b"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec it only makes a system call.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
            match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let mut child = command.spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("{arguments:?} does not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    Ok(Answer {
        code: status.code(),
        signal: status.signal(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// A policy file of a test.
struct File {
    path: PathBuf,
    text: String,
    _directory: TempDir,
}

impl File {
    fn new(text: impl AsRef<[u8]>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("policy.yaml");
        fs::write(&path, &text)?;
        let text = String::from_utf8_lossy(text.as_ref()).into_owned();
        Ok(Self { path, text, _directory: directory })
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    fn check(&self) -> Result<Answer> {
        op25b(&["check", self.path()])
    }

    /// The error of `run`, which is also that of `check`, in text and as JSON; and nothing is left behind.
    fn error(&self) -> Result<String> {
        let instance = instance();
        let run =
            op25b(&["--instance", &instance, "run", "--policy", self.path(), "--customer", NO_INTERFACE])?;
        for trace in ["/sys/fs/bpf/op25b", "/run/op25b"].map(|directory| Path::new(directory).join(&instance))
        {
            ensure!(!trace.exists(), "{} was left behind", trace.display());
        }
        let error = run.error()?;
        ensure!(!error.contains(NO_INTERFACE), "`run` took the policy: {error}");
        ensure!(!error.contains(char::is_control), "control characters: {error:?}");
        let check = self.check()?;
        ensure!(check.code == Some(1), "{check:#?}");
        ensure!(check.lines("error: ") == [format!("error: {error}")], "not {error:?}: {check:#?}");
        let report = op25b(&["check", self.path(), "--json"])?;
        ensure!(report.code == Some(1), "{report:#?}");
        let report = report.json()?;
        ensure!(report["valid"] == false && report["errors"] == json!([error]), "{report}");
        Ok(error.to_owned())
    }

    /// `error`, and it points to a line marked [`HERE`] and has these words.
    fn names(&self, words: &[&str]) -> Result<()> {
        let error = self.error()?;
        let place = error
            .strip_prefix(&format!("{}:", self.path()))
            .with_context(|| format!("no file and line: {error}"))?;
        let line: usize = place.split(':').next().unwrap_or_default().parse().context(error.clone())?;
        let marked = self.text.lines().nth(line.wrapping_sub(1)).is_some_and(|line| line.contains(HERE));
        ensure!(marked, "line {line} is not where it is wrong: {error}\n{}", self.text);
        for word in words {
            ensure!(error.contains(word), "{word:?} is not in: {error}");
        }
        Ok(())
    }
}

fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("cli{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A valid policy, each part on its own, so that a test replaces the one that is to be wrong.
#[derive(Clone, Copy)]
struct Parts<'a> {
    head: &'a str,
    interfaces: &'a str,
    relays: &'a str,
    customers: &'a str,
    exemptions: &'a str,
    quarantine: &'a str,
    tail: &'a str,
}

const VALID: Parts<'_> = Parts {
    head: "version: 1\n",
    interfaces: "interfaces: {customer: [eth1]}\n",
    relays: "\
relays:
  - name: post
    addresses: [192.0.2.25]
",
    customers: "\
customers:
  - name: residential
    prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"]
    mode: enforce
    action: drop
  - name: business
    prefixes: [198.51.100.128/25]
    mode: monitor
",
    exemptions: "exemptions:\n  - prefixes: [203.0.113.128/28]\n    reason: static\n",
    quarantine: "quarantine:\n  - prefixes: [203.0.113.66/32]\n    reason: hacked\n",
    tail: "unknown_sources: pass\n",
};

impl Parts<'_> {
    fn file(&self) -> Result<File> {
        let Self { head, interfaces, relays, customers, exemptions, quarantine, tail } = self;
        File::new(format!("{head}{interfaces}{relays}{customers}{exemptions}{quarantine}{tail}"))
    }

    fn names(&self, words: &[&str]) -> Result<()> {
        self.file()?.names(words)
    }
}

/// A second group after a valid first one, of these lines.
fn second_group(lines: &[&str]) -> String {
    let first = "customers:\n  - name: residential\n    prefixes: [203.0.113.0/24, \"2001:db8:1000::/36\"]\n    mode: enforce\n    action: drop\n";
    format!("{first}  - {}\n", lines.join("\n    "))
}

#[test]
fn the_parts_are_valid_together() -> Result<()> {
    let answer = VALID.file()?.check()?;
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    Ok(())
}

#[test]
fn a_missing_file_is_named() -> Result<()> {
    for path in ["/nowhere/policy.yaml", "no-such-policy.yaml"] {
        let answer = op25b(&["run", "--policy", path, "--customer", NO_INTERFACE])?;
        let error = answer.error()?;
        assert!(error.contains(path) && error.contains("No such file"), "{error}");
    }
    Ok(())
}

#[test]
fn a_directory_is_no_policy() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_str().context("a path in UTF-8")?;
    let answer = op25b(&["run", "--policy", path, "--customer", NO_INTERFACE])?;
    let error = answer.error()?;
    assert!(error.contains(path) && error.contains("directory"), "{error}");
    Ok(())
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() -> Result<()> {
    File::new("version: 1\ncustomers: [ # HERE\n  - {name: a # HERE\nunknown_sources: pass # HERE\n")?
        .names(&[])?;
    File::new("version: 1\n\tcustomers: [] # HERE\n")?.names(&[])?;
    File::new("GIF89a, this is something else # HERE\n")?.names(&[])?;
    File::new("- version: 1 # HERE\n")?.names(&[])
}

#[test]
fn an_empty_file_is_refused() -> Result<()> {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "~\n"] {
        let error = File::new(text)?.error()?;
        assert!(error.contains("policy.yaml:"), "{text:?}: {error}");
    }
    Ok(())
}

#[test]
fn two_documents_are_refused() -> Result<()> {
    let text = format!("{KURUME}\n---\n{KURUME}");
    let error = File::new(text)?.error()?;
    assert!(error.contains("policy.yaml:"), "{error}");
    Ok(())
}

#[test]
fn bytes_that_are_no_utf_8_are_refused() -> Result<()> {
    let mut bytes = KURUME.as_bytes().to_vec();
    bytes.extend_from_slice(b"# Soci\xe9t\xe9\n");
    let error = File::new(bytes)?.error()?;
    assert!(error.contains("policy.yaml") && error.contains("UTF-8"), "{error}");
    let utf_16: Vec<u8> =
        std::iter::once(0xfeff).chain(KURUME.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let error = File::new(utf_16)?.error()?;
    assert!(error.contains("policy.yaml") && error.contains("UTF-8"), "{error}");
    Ok(())
}

#[test]
fn a_zero_byte_is_refused() -> Result<()> {
    let error = File::new(KURUME.replace("pass #", "pass \0 #"))?.error()?;
    assert!(error.contains("policy.yaml:") && error.contains("control"), "{error}");
    Ok(())
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_fine() -> Result<()> {
    for text in [
        KURUME.replace('\n', "\r\n"),
        format!("\u{feff}{KURUME}"),
        format!("\u{feff}{KURUME}").replace('\n', "\r\n"),
        KURUME.trim_end().to_owned(),
    ] {
        let answer = File::new(text)?.check()?;
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    }
    Ok(())
}

#[test]
fn a_line_is_counted_right_in_a_windows_file() -> Result<()> {
    let text =
        VALID.file()?.text.replace("203.0.113.128/28]", "203.0.113.129/28] # HERE").replace('\n', "\r\n");
    File::new(text)?.names(&["203.0.113.129/28"])
}

#[test]
fn an_unknown_key_is_named_at_every_level() -> Result<()> {
    let unknown =
        |parts: Parts<'_>, key: &str| parts.names(&[&format!("`{key}`"), "expected"]).context(key.to_owned());
    unknown(
        Parts { tail: "unknown_sources: pass\nunknown_source: pass # HERE\n", ..VALID },
        "unknown_source",
    )?;
    unknown(
        Parts { interfaces: "interfaces:\n  customer: [eth1]\n  customers: [eth2] # HERE\n", ..VALID },
        "customers",
    )?;
    unknown(
        Parts {
            interfaces: "interfaces:\n  customer:\n    - eth1\n    - {name: eth2, atach: generic} # HERE\n",
            ..VALID
        },
        "atach",
    )?;
    unknown(
        Parts {
            relays: "relays:\n  - name: post\n    addresses: [192.0.2.25]\n    adresses: [192.0.2.26] # HERE\n",
            ..VALID
        },
        "adresses",
    )?;
    let customers =
        second_group(&["name: business", "prefixes: [198.51.100.0/24]", "mode: monitor", "relay: [] # HERE"]);
    unknown(Parts { customers: &customers, ..VALID }, "relay")?;
    unknown(
        Parts { exemptions: "exemptions:\n  - prefixes: [203.0.113.128/28]\n    until: x # HERE\n", ..VALID },
        "until",
    )?;
    unknown(
        Parts {
            exemptions: "exemptions:\n  - prefixes: [203.0.113.128/28]\n    relays: true # HERE\n",
            ..VALID
        },
        "relays",
    )?;
    unknown(
        Parts {
            quarantine: "quarantine:\n  - prefixes: [203.0.113.66/32]\n    relay: true # HERE\n",
            ..VALID
        },
        "relay",
    )?;
    unknown(
        Parts { tail: "unknown_sources: pass\nsoftwire:\n  identify: inner # HERE\n", ..VALID },
        "identify",
    )
}

#[test]
fn a_key_written_twice_is_refused() -> Result<()> {
    Parts { tail: "unknown_sources: pass # HERE\nunknown_sources: block # HERE\n", ..VALID }
        .names(&["unknown_sources"])?;
    let customers = second_group(&[
        "name: business",
        "prefixes: [198.51.100.0/24]",
        "mode: enforce # HERE",
        "mode: monitor # HERE",
    ]);
    Parts { customers: &customers, ..VALID }.names(&["mode"])?;
    Parts { interfaces: "interfaces: {customer: [{name: eth1, name: eth2}]} # HERE\n", ..VALID }
        .names(&["name"])
}

#[test]
fn a_prefix_with_host_bits_is_refused_with_the_right_one() -> Result<()> {
    let customers = second_group(&[
        "name: business",
        "mode: monitor",
        "prefixes:",
        "- 198.51.100.128/25",
        "- 198.51.100.1/25 # HERE",
    ]);
    Parts { customers: &customers, ..VALID }.names(&["business", "198.51.100.1/25", "198.51.100.0/25"])?;
    let customers = second_group(&["name: business", "mode: monitor", "prefixes: [203.0.113.1/24] # HERE"]);
    Parts { customers: &customers, ..VALID }.names(&["business", "203.0.113.1/24", "203.0.113.0/24"])?;
    // The end of another prefix.
    let customers = second_group(&[
        "name: business",
        "mode: monitor",
        "prefixes:",
        "- 198.51.100.0/24",
        "- 8.51.100.0/8 # HERE",
    ]);
    Parts { customers: &customers, ..VALID }.names(&["8.51.100.0/8", "8.0.0.0/8"])?;
    Parts { exemptions: "exemptions:\n  - prefixes: [\"2001:db8:1000::1/64\"] # HERE\n", ..VALID }
        .names(&["2001:db8:1000::1/64", "2001:db8:1000::/64"])?;
    Parts { relays: "relays:\n  - name: post\n    addresses: [192.0.2.25/24] # HERE\n", ..VALID }.names(&[
        "post",
        "192.0.2.25/24",
        "192.0.2.0/24",
    ])
}

#[test]
fn what_is_no_address_is_refused() -> Result<()> {
    for bad in [
        "203.0.113.300",
        "203.0.113.0/33",
        "203.0.113.0/",
        "203.0.113",
        "2001:db8::/129",
        "nobody",
        "",
        "1e3",
    ] {
        let customers =
            second_group(&["name: business", "mode: monitor", &format!("prefixes: [\"{bad}\"] # HERE")]);
        let quoted = format!("{bad:?}");
        Parts { customers: &customers, ..VALID }
            .names(&["business", &quoted, "203.0.113.0/24"])
            .with_context(|| quoted.clone())?;
    }
    Ok(())
}

#[test]
fn a_relay_without_address_is_refused() -> Result<()> {
    for relay in ["  - name: post # HERE\n", "  - name: post # HERE\n    addresses: [] # HERE\n"] {
        let relays = format!("relays:\n{relay}");
        Parts { relays: &relays, ..VALID }.names(&["post", "address"])?;
    }
    Ok(())
}

#[test]
fn a_prefix_written_twice_is_refused() -> Result<()> {
    let customers = "\
customers:
  - name: residential
    mode: enforce
    prefixes:
      - 203.0.113.0/24 # HERE
      - 198.51.100.0/24
      - \"2001:db8:1000::/36\"
      - 203.0.113.0/24 # HERE
";
    Parts { customers, ..VALID }.names(&["residential", "203.0.113.0/24", "twice"])?;
    let customers =
        customers.replace("  - 203.0.113.0/24 # HERE\n      - 198", "  - 203.0.113.0/24\n      - 198");
    let customers =
        customers.replace(" # HERE", "").replace("\"2001:db8:1000::/36\"", "\"2001:db8:1000::/36\" # HERE");
    let customers =
        customers.replace("- 203.0.113.0/24\n      - 198", "- \"2001:0db8:1000::/36\" # HERE\n      - 198");
    Parts { customers: &customers, ..VALID }
        .names(&["residential", "2001:db8:1000::/36", "twice"])
        .context("the same, spelled otherwise")?;
    Parts {
        exemptions: "exemptions:\n  - prefixes: [203.0.113.128/28] # HERE\n  - prefixes: [203.0.113.128/28] # HERE\n",
        ..VALID
    }
    .names(&["203.0.113.128/28", "twice"])
}

#[test]
fn a_prefix_in_two_groups_is_refused() -> Result<()> {
    let customers = second_group(&["name: business", "mode: monitor", "prefixes: [203.0.113.0/24] # HERE"])
        .replace("1000::/36\"]", "1000::/36\"] # HERE");
    Parts { customers: &customers, ..VALID }.names(&["residential", "business", "203.0.113.0/24"])
}

#[test]
fn a_prefix_in_a_group_and_in_exemptions_is_normal() -> Result<()> {
    let exemptions = "exemptions:\n  - prefixes: [203.0.113.0/24]\n";
    let answer = Parts { exemptions, ..VALID }.file()?.check()?;
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    Ok(())
}

#[test]
fn names_written_twice_are_refused() -> Result<()> {
    let customers =
        second_group(&["name: residential # HERE", "mode: monitor", "prefixes: [198.51.100.0/24]"]).replacen(
            "name: residential\n",
            "name: residential # HERE\n",
            1,
        );
    Parts { customers: &customers, ..VALID }.names(&["\"residential\""])?;
    let relays = "\
relays:
  - name: post # HERE
    addresses: [192.0.2.25]
  - name: post # HERE
    addresses: [192.0.2.26]
";
    Parts { relays, ..VALID }.names(&["\"post\""])?;
    let file = Parts { interfaces: "interfaces: {customer: [eth1, eth1]}\n", ..VALID }.file()?;
    let check = file.check()?;
    let place = format!("error: {}:2: ", file.path());
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stderr.starts_with(&place) && check.stderr.contains("eth1"), "{check:?}");
    Ok(())
}

#[test]
fn a_policy_for_nobody_is_refused() -> Result<()> {
    let customers = second_group(&["name: business # HERE", "mode: monitor", "prefixes: [] # HERE"]);
    Parts { customers: &customers, ..VALID }.names(&["business", "prefix"])?;
    let tail = "unknown_sources: pass\nipv6: unfiltered\n";
    Parts { customers: "customers: [] # HERE\n", tail, ..VALID }.names(&["`customers`", "empty"])
}

#[test]
fn an_empty_list_of_customers_is_one_error() -> Result<()> {
    Parts { customers: "customers: [] # HERE\n", ..VALID }.names(&["`customers`", "empty"])
}

#[test]
fn an_exception_for_nobody_is_refused() -> Result<()> {
    Parts { exemptions: "exemptions:\n  - prefixes: [] # HERE\n", ..VALID }
        .names(&["exemptions", "prefix"])?;
    Parts { quarantine: "quarantine:\n  - prefixes: [] # HERE\n", ..VALID }.names(&["quarantine", "prefix"])
}

#[test]
fn what_must_be_written_is_asked_for() -> Result<()> {
    let customers = second_group(&["name: business # HERE", "prefixes: [198.51.100.0/24] # HERE"]);
    Parts { customers: &customers, ..VALID }.names(&["`mode`"])?;
    let everywhere = |parts: Parts<'_>| -> Result<File> {
        File::new(parts.file()?.text.lines().map(|line| format!("{line} # HERE\n")).collect::<String>())
    };
    everywhere(Parts { tail: "", ..VALID })?.names(&["`unknown_sources`"])?;
    everywhere(Parts { head: "", ..VALID })?.names(&["`version`"])?;
    everywhere(Parts { customers: "", ..VALID })?.names(&["`customers`"])
}

#[test]
fn an_unknown_word_is_refused_with_the_known_ones() -> Result<()> {
    let customers = second_group(&["name: business", "prefixes: [198.51.100.0/24]", "mode: block # HERE"]);
    Parts { customers: &customers, ..VALID }.names(&["block", "`off`", "`monitor`", "`enforce`"])?;
    Parts { tail: "unknown_sources: drop # HERE\n", ..VALID }.names(&["drop", "`pass`", "`block`"])?;
    Parts { interfaces: "interfaces: {customer: [{name: eth1, attach: driver}]} # HERE\n", ..VALID }
        .names(&["driver", "`native`", "`generic`"])?;
    Parts { head: "version: 2 # HERE\n", ..VALID }.names(&["2", "1"])
}

#[test]
fn a_notice_is_one_line_that_fits() -> Result<()> {
    let long = format!("{{text: \"{}\"}}", "x".repeat(140));
    let wrong = [
        ("{reply: 554}", ["text", "missing"]),
        ("{text: \"\"}", ["text", "ASCII"]),
        ("{text: \"a\\r\\nb\"}", ["text", "no line breaks"]),
        ("{text: \"\\u30dd\\u30fc\\u30c8\"}", ["text", "ASCII"]),
        ("{text: a, reply: 550}", ["550", "421"]),
        ("{text: a, url: www.example.jp}", ["url", "https://"]),
        ("{text: a, url: \"https://a b\"}", ["url", "blanks"]),
        ("{text: a, txt: b}", ["txt", "url"]),
        (&long, ["152 bytes", "150"]),
    ];
    for (notice, words) in wrong {
        let tail = format!("unknown_sources: pass\nnotice: {notice} # HERE\n");
        Parts { tail: &tail, ..VALID }.names(&words)?;
    }
    Ok(())
}

#[test]
fn what_is_told_and_where_is_read_strictly() -> Result<()> {
    let wrong = [
        ("metrics: {listen: \"9025\"}", ["listen", "127.0.0.1:9025"]),
        ("metrics: {listen: \"192.0.2.1:9025\"}", ["192.0.2.1:9025", "allow_remote"]),
        ("history: {path: history.db}", ["history.db", "/var/lib/op25b/history.db"]),
        ("history: {path: /var/lib/op25b/history.db, keep: 1s}", ["keep", "90d"]),
        ("history: {path: /var/lib/op25b/history.db, max_mib: 0}", ["max_mib", "1048576"]),
        ("history: {path: /h.db, keep_destinations: week}", ["keep_destinations", "90d"]),
        ("history: {path: /h.db, keep_destinations: 7}", ["keep_destinations", "`true`, or a time like 7d"]),
        ("history: {path: /h.db, keep_destinations: }", ["keep_destinations", "`true`, or a time like 7d"]),
        ("syslog: {to: \"udp://collector\"}", ["collector", "udp://192.0.2.14:514"]),
        ("syslog: {to: log}", ["log", "/dev/log"]),
        ("triage: {bot_destinations: 0}", ["bot_destinations", "1000000"]),
        ("triage: {bots: 1}", ["bots", "bot_destinations"]),
        ("count_submission: perhaps", ["count_submission", "boolean"]),
        ("account_sources: no one", ["account_sources", "boolean"]),
        ("account_sources: false\nhistory: {path: /h.db}", ["history", "account_sources: true"]),
        ("account_sources: false\nsyslog: {to: /dev/log}", ["syslog", "account_sources: true"]),
    ];
    for (line, words) in wrong {
        let tail = format!("unknown_sources: pass\n{line} # HERE\n");
        Parts { tail: &tail, ..VALID }.names(&words)?;
    }
    Ok(())
}

#[test]
fn a_name_of_ten_kilobytes_is_refused_in_one_short_line() -> Result<()> {
    let name = format!("name: {} # HERE", "x".repeat(10_240));
    let customers = second_group(&[&name, "prefixes: [198.51.100.0/24]", "mode: monitor"]);
    Parts { customers: &customers, ..VALID }.names(&["name", "bytes"])
}

#[test]
fn nobody_is_answered_where_nobody_is_accounted_for() -> Result<()> {
    let customers = second_group(&[
        "name: business # HERE",
        "prefixes: [198.51.100.0/24]",
        "mode: monitor",
        "action: reset",
    ]);
    let tail = "unknown_sources: pass\naccount_sources: false\n";
    Parts { customers: &customers, tail, ..VALID }.names(&["business", "answers", "account_sources: true"])
}

#[test]
fn an_action_that_is_none_is_refused_where_it_is_written() -> Result<()> {
    // The group before says `action: drop`.
    let customers = second_group(&[
        "name: business",
        "prefixes: [198.51.100.0/24]",
        "mode: monitor",
        "action: reject # HERE",
    ]);
    Parts { customers: &customers, ..VALID }.names(&["reject", "`drop`", "`reset`", "`notice`"])
}

#[test]
fn a_key_without_a_value_is_not_ignored() -> Result<()> {
    for line in ["enforce_from:", "prefixes_file: ~"] {
        let line = format!("{line} # HERE");
        let customers =
            second_group(&["name: business", "prefixes: [198.51.100.0/24]", "mode: monitor", &line]);
        Parts { customers: &customers, ..VALID }.names(&[line.split(':').next().unwrap_or_default()])?;
    }
    for line in ["relays:", "return_path:"] {
        let line = format!("{line} # HERE");
        let customers =
            second_group(&["name: business", "prefixes: [198.51.100.0/24]", "mode: monitor", &line]);
        Parts { customers: &customers, ..VALID }.names(&[])?;
    }
    for key in ["notice", "exemptions_file", "quarantine_file", "timezone", "metrics"] {
        let tail = format!("unknown_sources: pass\n{key}: # HERE\n");
        Parts { tail: &tail, ..VALID }.names(&[key])?;
    }
    Parts { relays: "relays:\n  - name: post\n    addresses: [192.0.2.25]\n    hostname: # HERE\n", ..VALID }
        .names(&["hostname"])
}

#[test]
fn everybody_is_a_customer_only_where_that_is_meant() -> Result<()> {
    for all in ["0.0.0.0/0", "::/0"] {
        let line = format!("prefixes: [\"{all}\"] # HERE");
        let customers = second_group(&["name: business", "mode: monitor", &line]);
        Parts { customers: &customers, ..VALID }.names(&["business", all, "allow_any"])?;
        let customers = second_group(&["name: business", "mode: monitor", "allow_any: true", &line]);
        let answer = Parts { customers: &customers, ..VALID }.file()?.check()?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
    }
    Ok(())
}

#[test]
fn ipv6_without_a_prefix_must_be_said() -> Result<()> {
    let customers =
        "customers: # HERE\n  - {name: business, prefixes: [198.51.100.0/24], mode: monitor} # HERE\n";
    Parts { customers, exemptions: "", quarantine: "", ..VALID }.names(&["IPv6", "ipv6: unfiltered"])?;
    Parts { tail: "unknown_sources: pass\nipv6: unfiltered # HERE\n", ..VALID }
        .names(&["ipv6", "residential"])
}

#[test]
fn a_group_with_an_unknown_relay_is_refused_with_the_known_ones() -> Result<()> {
    let customers = second_group(&[
        "name: business",
        "prefixes: [198.51.100.0/24]",
        "mode: monitor",
        "relays: [pots] # HERE",
    ]);
    Parts { customers: &customers, ..VALID }.names(&["business", "\"pots\"", "post"])
}

#[test]
fn two_roles_and_blocked_unknown_sources_are_refused() -> Result<()> {
    let file = Parts {
        interfaces: "interfaces: {customer: [op25b-none], upstream: [op25b-none]}\n",
        tail: "unknown_sources: block # HERE\n",
        ..VALID
    }
    .file()?;
    let run = ["run", "--policy", file.path()];
    let flags = ["--customer", NO_INTERFACE, "--upstream", NO_INTERFACE];
    for arguments in [run.to_vec(), [&run[..], &flags].concat()] {
        let answer = op25b(&arguments)?;
        let error = answer.error()?;
        let line = file.text.lines().count();
        for word in [&format!("{}:{line}: ", file.path()), "unknown_sources", NO_INTERFACE, "pass"] {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }
    assert_eq!(file.check()?.code, Some(1));
    Ok(())
}

#[test]
fn an_error_points_to_its_line_and_not_to_the_first_like_it() -> Result<()> {
    let comment = "\
# residential: 203.0.113.0/24, post: 192.0.2.25; mode: enforce, action: drop, prefixes: eth1, customers: relays:
# 198.51.100.0/24 business 203.0.113.1/24 203.0.113.300 nobody unknown_sources: ipv6: version: expires:
version: 1
";
    let with = Parts { head: comment, ..VALID };
    let group = |lines: &[&str]| second_group(&[&["name: business", "mode: monitor"], lines].concat());
    let customers = group(&["prefixes: [203.0.113.1/24] # HERE"]);
    Parts { customers: &customers, ..with }.names(&["203.0.113.1/24"])?;
    let customers = group(&["prefixes: [203.0.113.300] # HERE"]);
    Parts { customers: &customers, ..with }.names(&["203.0.113.300"])?;
    let customers = group(&["prefixes:", "- 198.51.100.0/24", "- 8.51.100.0/8 # HERE"]);
    Parts { customers: &customers, ..with }.names(&["8.51.100.0/8"])?;
    Parts { relays: "relays:\n  - name: post # HERE\n", ..with }.names(&["post"])?;
    Parts { customers: "customers: [] # HERE\n", tail: "unknown_sources: pass\nipv6: unfiltered\n", ..with }
        .names(&["empty"])?;
    let twice = "exemptions:\n  - prefixes: [203.0.113.0/24] # HERE\n  - prefixes: [203.0.113.0/24] # HERE\n";
    Parts { exemptions: twice, ..with }.names(&["twice"])
}

#[test]
fn control_characters_never_reach_the_terminal() -> Result<()> {
    for (line, what) in [
        (r#""\e[2Jx": 1 # HERE"#, "a key"),
        (r#"operator: "\e[2Jx" # HERE"#, "a name"),
        (r#"ipv6: "\e[2Jx" # HERE"#, "a word"),
        (r#"softwire: "\e[2Jx" # HERE"#, "a value"),
    ] {
        let tail = format!("unknown_sources: pass\n{line}\n");
        Parts { tail: &tail, ..VALID }.names(&["[2Jx"]).context(what)?;
    }
    let customers = second_group(&["name: business", "mode: monitor", r#"prefixes: ["\e[2Jx"] # HERE"#]);
    Parts { customers: &customers, ..VALID }.names(&["[2Jx"])?;
    let relays = r#"relays: [{name: "\e[2Jx", addresses: [192.0.2.25]}] # HERE
"#;
    Parts { relays, ..VALID }.names(&["[2Jx"])
}

#[test]
fn several_errors_are_told_at_once_each_in_a_line() -> Result<()> {
    let file = Parts {
        exemptions: "exemptions:\n  - prefixes: [203.0.113.129/28]\n",
        quarantine: "quarantine:\n  - prefixes: [nobody]\n",
        ..VALID
    }
    .file()?;
    let check = file.check()?;
    assert_eq!((check.code, check.lines("error: ").len()), (Some(1), 2), "{check:?}");
    let run = op25b(&["run", "--policy", file.path(), "--customer", NO_INTERFACE])?;
    assert_eq!(
        (run.code, run.lines("error: ").len(), run.stderr.lines().count()),
        (Some(1), 2, 2),
        "{run:?}"
    );
    Ok(())
}

#[test]
fn deep_nesting_ends_soon() -> Result<()> {
    for depth in [1_000, 100_000] {
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
            let text = format!("version: {}{}\n", open.repeat(depth), close.repeat(depth));
            let answer = File::new(text)?.check().with_context(|| format!("{depth} times {open:?}"))?;
            assert_eq!(
                (answer.code, answer.lines("error: ").len()),
                (Some(1), 1),
                "{depth} {open:?} {:?}",
                answer.signal
            );
        }
    }
    Ok(())
}

#[test]
fn an_alias_bomb_ends_soon() -> Result<()> {
    let mut laughs = String::from("version: 1\nnotice:\n  - &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        laughs += &format!("  - &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    let long = format!(
        "version: 1\nnotice:\n  - &long \"{}\"\n  - [{}]\n",
        "x".repeat(100_000),
        vec!["*long"; 20_000].join(", ")
    );
    let names = format!(
        "version: 1\noperator: &long \"{}\"\nunknown_sources: pass\ncustomers:\n  - {{name: a, mode: off, prefixes: [{}]}}\n",
        "x".repeat(100_000),
        vec!["*long"; 20_000].join(", ")
    );
    for (what, text) in [("laughs", laughs), ("long", long), ("prefixes", names)] {
        let answer = File::new(text)?.check().context(what)?;
        assert_eq!(answer.code, Some(1), "{what}: signal {:?}", answer.signal);
        assert!(answer.stderr.len() < 1 << 20, "{what}: {} bytes of errors", answer.stderr.len());
    }
    Ok(())
}

#[test]
fn a_file_without_end_is_refused() -> Result<()> {
    let answer = op25b(&["check", "/dev/zero"])?;
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("/dev/zero") && !answer.stderr.contains("memory"), "{answer:?}");
    let file = File::new("")?;
    fs::File::options().write(true).open(&file.path)?.set_len(1 << 40)?;
    let error = file.error()?;
    assert!(error.contains("policy.yaml") && error.contains("larger"), "{error}");
    Ok(())
}

#[test]
fn one_line_of_a_gigabyte_is_refused() -> Result<()> {
    let file = File::new("")?;
    let mut text = io::BufWriter::new(fs::File::create(&file.path)?);
    let line = "x".repeat(1 << 20);
    for _ in 0..128 {
        text.write_all(line.as_bytes())?;
    }
    text.into_inner()?.set_len(1 << 30)?;
    let error = file.error()?;
    assert!(error.contains("policy.yaml") && error.contains("larger"), "{error}");
    Ok(())
}

/// Shapes that a policy never has, as large as they are read.
#[test]
fn a_large_hostile_text_ends_soon() -> Result<()> {
    let size = 16 << 20;
    let repeated =
        |start: &str, part: &str| format!("{start}{}", part.repeat((size - start.len()) / part.len()));
    for (what, text) in [
        ("one word", repeated("version: ", "x")),
        ("words", repeated("operator: ", "x ")),
        ("lines of a word", repeated("operator: ", "x\n ")),
        ("a list in a line", repeated("customers: [", "x,")),
        ("a list", repeated("customers:\n", "- x\n")),
        ("lists in lists", repeated("customers:\n", &format!("{}x\n", "- ".repeat(60)))),
        ("lists in brackets", repeated("customers: [", &format!("{}{},", "[".repeat(60), "]".repeat(60)))),
        ("keys", repeated("", "x:\n")),
        ("question marks", repeated("{", "?,")),
        ("colons", repeated("{", ":,")),
        ("empty lines", repeated("version: 1", "\n")),
        ("comments", repeated("version: 1\n", "#\n")),
        ("anchors", repeated("customers: [", "&a x,")),
        ("tags", repeated("customers: [", "!a x,")),
        ("documents", repeated("", "---\n")),
        ("directives", repeated("", "%x\n")),
        ("a quote", repeated("operator: \"", "x\\n")),
        ("a block", repeated("operator: |\n", "  x\n")),
        ("spaces", repeated("version:", " ")),
        ("tabs", repeated("version:", "\t")),
        (
            "bad prefixes",
            repeated("version: 1\nunknown_sources: pass\ncustomers: [{name: a, mode: off, prefixes: [", "x,")
                + "]}]",
        ),
        (
            "bad prefixes in a few lines",
            repeated(
                "version: 1\nunknown_sources: pass\ncustomers:\n- name: a\n  mode: off\n  prefixes:\n",
                &format!("  - {}\n", "1.2.3.4-".repeat(1000)),
            ),
        ),
    ] {
        let start = Instant::now();
        let answer = File::new(text)?.check().context(what)?;
        println!("{what}: {:?}", start.elapsed());
        assert_eq!((answer.code, answer.signal), (Some(1), None), "{what}: {:.500}", answer.stderr);
        assert!(answer.stderr.len() < 1 << 16, "{what}: {} bytes of errors", answer.stderr.len());
    }
    Ok(())
}

#[test]
fn a_bad_instance_name_is_refused() -> Result<()> {
    let long = "x".repeat(33);
    for name in ["", "a/b", "../default", ".", "a.b", "a b", "a\nb", "é", long.as_str()] {
        for command in [&["status"][..], &["stats"], &["detach"], &["run", "--policy", "/nowhere"]] {
            let answer = op25b(&[&["--instance", name], command].concat())?;
            let error = answer.error().with_context(|| format!("{name:?}"))?;
            assert!(error.contains("instance") && error.contains("letters"), "{name:?}: {error}");
        }
    }
    Ok(())
}

#[test]
fn what_is_typed_wrong_exits_1() -> Result<()> {
    let explain = ["explain", "--role", "customer", "--src", "203.0.113.10", "--dst", "192.0.2.200"];
    let with = |more: &[&'static str]| [&explain[..], more].concat();
    for (arguments, word) in [
        (vec!["frobnicate"], "frobnicate"),
        (vec![], ""),
        (vec!["run"], "--policy"),
        (vec!["check"], ""),
        (vec!["explain", "--src", "203.0.113.10", "--dst", "192.0.2.200"], "--role"),
        (vec!["explain", "--role", "customer", "--src", "nobody", "--dst", "192.0.2.200"], "nobody"),
        (with(&["--dport", "65536"]), "65536"),
        (with(&["--sport", "-1"]), ""),
        (vec!["explain", "--role", "both", "--src", "203.0.113.10", "--dst", "192.0.2.200"], "both"),
        (vec!["status", "--xml"], "--xml"),
    ] {
        let answer = op25b(&arguments)?;
        assert_eq!(answer.code, Some(1), "the user's input is exit 1: {arguments:?}: {answer:#?}");
        assert!(answer.stderr.contains(word), "{arguments:?}: {answer:#?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let answer = op25b(arguments)?;
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    }
    Ok(())
}

#[test]
fn explain_wants_two_addresses_of_one_family() -> Result<()> {
    let file = File::new(KURUME)?;
    for (src, dst) in [("203.0.113.10", "2001:db8::1"), ("2001:db8::1", "203.0.113.10")] {
        let answer =
            op25b(&["explain", "--policy", file.path(), "--role", "customer", "--src", src, "--dst", dst])?;
        let error = answer.error()?;
        assert!(error.contains(src) && error.contains(dst) && error.contains("famil"), "{error}");
    }
    Ok(())
}

#[test]
fn an_instance_that_is_not_attached_is_said_to_be() -> Result<()> {
    let instance = instance();
    let explain = ["explain", "--role", "customer", "--src", "203.0.113.10", "--dst", "192.0.2.200"];
    for command in [&["stats"][..], &["stats", "--json"], &["selftest"], &["selftest", "--json"], &explain] {
        let answer = op25b(&[&["--instance", &instance], command].concat())?;
        let error = answer.error()?;
        assert!(
            error.contains(&instance) && error.contains("not attached") && error.contains("run"),
            "{error}"
        );
    }
    let status = op25b(&["--instance", &instance, "status"])?;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.contains(&instance) && status.stdout.contains("not attached"), "{status:?}");
    let status = op25b(&["--instance", &instance, "status", "--json"])?;
    assert_eq!((status.code, status.json()?["enforcing"].as_bool()), (Some(1), Some(false)), "{status:?}");
    let detach = op25b(&["--instance", &instance, "detach"])?;
    assert_eq!((detach.code, detach.stderr.as_str()), (Some(0), ""), "{detach:?}");
    assert!(!Path::new("/run/op25b").join(&instance).exists(), "asking leaves nothing behind");
    Ok(())
}

#[test]
fn a_policy_without_interfaces_checks_and_does_not_run() -> Result<()> {
    let file = Parts { interfaces: "", ..VALID }.file()?;
    assert_eq!(file.check()?.code, Some(0));
    let answer = op25b(&["--instance", &instance(), "run", "--policy", file.path()])?;
    let error = answer.error()?;
    assert!(error.contains(file.path()) && error.contains("--customer"), "{error}");
    Ok(())
}

#[test]
fn a_relay_inside_a_customer_prefix_is_warned_of() -> Result<()> {
    let file = Parts {
        relays: "relays:\n  - name: post\n    addresses: [192.0.2.25]\n  - name: inside\n    addresses: [203.0.113.25] # HERE\n",
        ..VALID
    }
    .file()?;
    let answer = file.check()?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let warnings = answer.lines("warning: ");
    assert_eq!(answer.stderr.lines().collect::<Vec<_>>(), warnings);
    let [warning] = warnings.as_slice() else { anyhow::bail!("one warning: {answer:?}") };
    for word in [file.path(), "inside", "203.0.113.25", "203.0.113.0/24", "residential"] {
        assert!(warning.contains(word), "{word} is not in: {warning}");
    }
    let report = op25b(&["check", file.path(), "--json"])?;
    assert_eq!(report.code, Some(0));
    let report = report.json()?;
    assert_eq!(report["valid"], true, "{report}");
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1), "{report}");
    Ok(())
}

#[test]
fn exemptions_that_end_soon_are_reported() -> Result<()> {
    // A date is the whole day, of UTC where the policy names no other time zone.
    let ends =
        [("2099-06-30", "later"), ("2099-01-05", "week"), ("2098-12-31", "over"), ("2099-01-20", "month")];
    let entries = ends.iter().enumerate().map(|(number, (end, reason))| {
        format!("  - {{prefixes: [203.0.113.{number}/32], reason: {reason}, expires: {end}}}\n")
    });
    let exemptions = format!("exemptions:\n{}", entries.collect::<String>());
    let file = Parts { exemptions: &exemptions, ..VALID }.file()?;
    let at = "2099-01-01T00:00:00Z";
    let report = op25b(&["report", "exemptions", "--policy", file.path(), "--at", at, "--json"])?;
    let rows = report.json()?;
    let rows = rows.as_array().context("rows")?;
    let soon: Vec<_> = rows.iter().map(|row| [&row["reason"], &row["soon"]]).collect();
    assert_eq!(soon, [["over", "expired"], ["week", "7d"], ["month", "30d"]], "{rows:#?}");
    let told = op25b(&["report", "exemptions", "--policy", file.path(), "--at", at])?;
    for words in ["expired", "within 7d", "within 30d"] {
        assert!(told.stdout.contains(words), "{told:?}");
    }
    assert!(!told.stdout.contains("later"), "{told:?}");
    Ok(())
}

#[test]
fn what_a_date_will_change_is_shown_before_it_comes() -> Result<()> {
    let dated = "mode: enforce\n    enforce_from: 2099-04-01T00:00:00Z";
    let monitored = VALID.customers.replacen("mode: enforce", "mode: monitor", 1);
    let later = VALID.customers.replacen("mode: enforce", dated, 1);
    let old = Parts { customers: &monitored, ..VALID }.file()?;
    let new = Parts { customers: &later, ..VALID }.file()?;
    let differences = |at: &str| -> Result<Vec<[String; 3]>> {
        let answer = op25b(&["diff", old.path(), new.path(), "--at", at, "--json"])?;
        let told = answer.json()?;
        let all = told["customers"].as_array().context("customers")?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> = all
            .iter()
            .map(|one| [&one["from"]["customer"], &one["from"]["reason"], &one["to"]["reason"]].map(word))
            .collect();
        all.dedup();
        Ok(all)
    };
    assert_eq!(differences("2099-03-31T23:59:59Z")?, [[""; 3]; 0]);
    assert_eq!(differences("2099-04-01T00:00:00Z")?, [["residential", "would-block", "blocked"]]);
    Ok(())
}

#[test]
fn check_as_json_has_one_shape() -> Result<()> {
    let valid = op25b(&["check", File::new(KURUME)?.path(), "--json"])?;
    assert_eq!((valid.code, valid.stderr.as_str()), (Some(0), ""), "{valid:?}");
    let valid = valid.json()?;
    assert_eq!((&valid["valid"], &valid["errors"]), (&json!(true), &json!([])), "{valid}");
    assert!(valid["warnings"].is_array() && valid["tables"].is_object(), "{valid}");
    let missing = op25b(&["check", "/nowhere/policy.yaml", "--json"])?;
    assert_eq!((missing.code, missing.stderr.as_str()), (Some(1), ""), "{missing:?}");
    let missing = missing.json()?;
    assert_eq!(missing["valid"], false, "{missing}");
    assert_eq!(missing["errors"].as_array().map(Vec::len), Some(1), "{missing}");
    assert!(missing["warnings"].is_array(), "{missing}");
    Ok(())
}

#[test]
fn every_policy_that_is_shipped_is_valid() -> Result<()> {
    let mut loaded = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let answer = op25b(&["check", path.to_str().context("a path in UTF-8")?])?;
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{}: {answer:?}", path.display());
        loaded += 1;
    }
    assert!(loaded >= 3, "kurume.yaml, minimal.yaml and staged.yaml at least");
    Ok(())
}

/// `explain --json` of one SYN against a policy.
fn explained(file: &File, role: &str, src: &str, dst: &str, ports: [u16; 2]) -> Result<Value> {
    let [sport, dport] = ports.map(|port| port.to_string());
    let answer = op25b(&[
        "explain",
        "--policy",
        file.path(),
        "--role",
        role,
        "--src",
        src,
        "--dst",
        dst,
        "--sport",
        &sport,
        "--dport",
        &dport,
        "--json",
    ])?;
    ensure!(answer.code == Some(0) && answer.stderr.is_empty(), "{answer:?}");
    answer.json()
}

#[test]
fn explain_tells_verdict_reason_group_and_relay() -> Result<()> {
    const OUTSIDE: [&str; 2] = ["192.0.2.200", "2001:db8:ffff::25"];
    const POST: [&str; 2] = ["192.0.2.25", "2001:db8:25::25"];
    const VPOST: [&str; 2] = ["192.0.2.26", "2001:db8:25::26"];
    const CUSTOMER: [&str; 2] = ["203.0.113.10", "2001:db8:1000::10"];
    const BUSINESS: [&str; 2] = ["198.51.100.200", "2001:db8:2000::10"];
    const EXEMPT: [&str; 2] = ["203.0.113.130", "2001:db8:1000:80::10"];
    const UNKNOWN: [&str; 2] = ["198.51.100.1", "2001:db8:9000::10"];
    let file = File::new(KURUME)?;
    let residential = json!("residential");
    for (src, dst, port, verdict, reason, customer, relay) in [
        (CUSTOMER, OUTSIDE, 25, "drop", "blocked", Some("residential"), None),
        (CUSTOMER, POST, 25, "pass", "relay", Some("residential"), Some("post")),
        (CUSTOMER, VPOST, 25, "pass", "relay", Some("residential"), Some("vpost")),
        (CUSTOMER, OUTSIDE, 587, "pass", "other", None, None),
        (CUSTOMER, OUTSIDE, 465, "pass", "other", None, None),
        (CUSTOMER, OUTSIDE, 2525, "pass", "other", None, None),
        (EXEMPT, OUTSIDE, 25, "pass", "exempt", Some("residential"), None),
        (UNKNOWN, OUTSIDE, 25, "pass", "unknown-source", None, None),
        (BUSINESS, OUTSIDE, 25, "pass", "would-block", Some("business"), None),
        (BUSINESS, POST, 25, "pass", "relay", Some("business"), Some("post")),
    ] {
        for (src, dst) in src.into_iter().zip(dst) {
            assert_eq!(
                explained(&file, "customer", src, dst, [40_000, port])?,
                json!({ "verdict": verdict, "reason": reason, "customer": customer, "relay": relay }),
                "{src} to {dst}:{port}"
            );
        }
    }
    for dst in [OUTSIDE[0], POST[0]] {
        assert_eq!(
            explained(&file, "customer", "203.0.113.66", dst, [40_000, 25])?,
            json!({ "verdict": "drop", "reason": "quarantined", "customer": residential, "relay": null }),
            "quarantined, to {dst}"
        );
    }
    for (src, reason, relay) in [(OUTSIDE, "would-return-path", None), (POST, "relay", Some("post"))] {
        for (src, dst) in src.into_iter().zip(CUSTOMER) {
            assert_eq!(
                explained(&file, "upstream", src, dst, [25, 40_000])?,
                json!({ "verdict": "pass", "reason": reason, "customer": residential, "relay": relay }),
                "upstream, {src} to {dst}"
            );
        }
    }
    Ok(())
}

#[test]
fn explain_in_words_tells_the_same() -> Result<()> {
    let file = File::new(KURUME)?;
    let answer = op25b(&[
        "explain",
        "--policy",
        file.path(),
        "--role",
        "customer",
        "--src",
        "203.0.113.10",
        "--dst",
        "192.0.2.200",
    ])?;
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    for word in ["drop", "blocked", "residential"] {
        assert!(answer.stdout.contains(word), "{answer:?}");
    }
    Ok(())
}

#[test]
fn explain_refuses_a_bad_policy_like_run() -> Result<()> {
    let file = Parts { exemptions: "exemptions:\n  - prefixes: [nobody] # HERE\n", ..VALID }.file()?;
    let answer = op25b(&[
        "explain",
        "--policy",
        file.path(),
        "--role",
        "customer",
        "--src",
        "203.0.113.10",
        "--dst",
        "192.0.2.200",
    ])?;
    assert_eq!(answer.error()?, file.error()?);
    Ok(())
}
