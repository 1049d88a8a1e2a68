//! Changing what is in force: reload, trial, way back, suspension; by commands, signals, a changed file and by time.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{Answer, Filter, KURUME, eventually};
use nix::sys::signal::Signal;
use site::{CUSTOMER, FILTERED, LENGTH, OPEN, QUARANTINED, Site, UNKNOWN, link_id, tidy};

const BLOCKED: &str = "residential ipv4 blocked drop";
const WOULD_BLOCK: &str = "residential ipv4 would-block pass";
const SECOND: Duration = Duration::from_secs(1);

/// `policies/kurume.yaml`, as long, but group residential only counts.
fn monitoring() -> String {
    KURUME.replacen("mode: enforce", "mode: monitor", 1)
}

/// A file beside the policy.
fn beside(filter: &Filter<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = filter.path().with_file_name(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// Puts a file in the policy's place in one step.
fn replace(filter: &Filter<'_>, text: &str) -> Result<()> {
    Ok(fs::rename(beside(filter, "beside", text)?, filter.path())?)
}

fn done(answer: &Answer) -> Result<&str> {
    ensure!(answer.code == Some(0) && answer.stderr.is_empty(), "{answer:?}");
    Ok(&answer.stdout)
}

fn apply(filter: &Filter<'_>, path: &Path, more: &[&str]) -> Result<Answer> {
    filter.op25b(&[&["apply", path.to_str().context("UTF-8")?], more].concat())
}

fn says(filter: &Filter<'_>, words: &str) -> Result<()> {
    ensure!(eventually(|| filter.said().contains(words)), "{words:?} is not in: {}", filter.said());
    Ok(())
}

#[test]
fn reload_by_command_and_by_signal() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let before = (link_id(&filter, "eth1:native")?, site.flaps()?);
    assert_eq!(site.through()?, FILTERED);
    filter.policy(&monitoring())?;
    let answer = filter.op25b(&["reload"])?;
    assert!(done(&answer)?.contains("generation 2"), "{answer:?}");
    assert_eq!(site.through()?, OPEN);
    filter.policy(KURUME)?;
    filter.signal(Signal::SIGHUP)?;
    assert!(eventually(|| filter.generation() == 3), "{}", filter.said());
    assert_eq!(site.through()?, FILTERED);
    filter.counts(&[(BLOCKED, 20, 20 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    assert_eq!((link_id(&filter, "eth1:native")?, site.flaps()?), before, "swapped, never detached");
    tidy(&filter)
}

#[test]
fn an_invalid_file_leaves_what_is_in_force() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    assert_eq!(site.through()?, FILTERED);
    let before = (site.edge.xdp("eth1")?, link_id(&filter, "eth1:native")?);
    let unknown_key = KURUME.replace("operator: ", "operater: ");
    let no_prefix = KURUME.replace("203.0.113.0/24", "203.0.113.0/33");
    let gone = KURUME.replace("customer: [eth1]", "customer: [eth1, eth9]");
    for (text, expected) in [
        (unknown_key.as_str(), "policy.yaml:5"),
        (no_prefix.as_str(), "203.0.113.0/33"),
        (gone.as_str(), "eth9"),
        ("", "policy.yaml:"),
        ("customers: [", "policy.yaml:"),
    ] {
        filter.policy(text)?;
        let answer = filter.op25b(&["reload"])?;
        let error = answer.error()?;
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
        says(&filter, error)?;
        assert_eq!(answer.stdout, "", "nothing is done");
    }
    fs::remove_file(filter.path())?;
    assert!(filter.op25b(&["reload"])?.error()?.contains("policy.yaml"));
    filter.policy(&unknown_key)?;
    let said = filter.said().len();
    filter.signal(Signal::SIGHUP)?;
    assert!(eventually(|| filter.said().get(said..).is_some_and(|new| new.contains("policy.yaml:5"))));
    assert_eq!(filter.generation(), 1);
    assert_eq!((site.edge.xdp("eth1")?, link_id(&filter, "eth1:native")?), before);
    assert_eq!(site.through()?, FILTERED);
    filter.counts(&[(BLOCKED, 20, 20 * LENGTH)])?;
    tidy(&filter)?;
    filter.policy(&monitoring())?;
    done(&filter.op25b(&["reload"])?)?;
    assert_eq!(site.through()?, OPEN);
    Ok(())
}

#[test]
fn watch_takes_what_is_whole() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--watch"])?;
    replace(&filter, &monitoring())?;
    assert!(eventually(|| filter.generation() == 2), "replaced: {}", filter.said());
    assert_eq!(site.through()?, OPEN);

    // Written by a slow hand: what is there meanwhile is valid, and would block nobody.
    let (half, _) = KURUME.split_once("  - name: residential").context("two halves")?;
    filter.policy(&format!("{half}  []\nunknown_sources: pass\n"))?;
    thread::sleep(Duration::from_millis(300));
    filter.policy(KURUME)?;
    assert!(eventually(|| filter.generation() == 3), "written twice: {}", filter.said());
    thread::sleep(2 * SECOND);
    assert_eq!(filter.generation(), 3, "taken once: {}", filter.said());
    assert_eq!(site.through()?, FILTERED);

    replace(&filter, "version: 1\noperater: nobody\n")?;
    says(&filter, "policy.yaml:2")?;
    says(&filter, "stays")?;
    fs::remove_file(filter.path())?;
    thread::sleep(2 * SECOND);
    assert_eq!((filter.generation(), site.through()?), (3, FILTERED));

    filter.policy(&monitoring())?;
    assert!(eventually(|| filter.generation() == 4), "mended: {}", filter.said());

    // Of the same length and time, as from an archive whose times are all one.
    let time = fs::metadata(filter.path())?.modified()?;
    let path = beside(&filter, "beside", KURUME)?;
    fs::File::options().write(true).open(&path)?.set_modified(time)?;
    fs::rename(path, filter.path())?;
    assert!(eventually(|| filter.generation() == 5), "as long and as old: {}", filter.said());
    assert_eq!(site.through()?, FILTERED);
    filter.counts(&[(BLOCKED, 30, 30 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])
}

#[test]
fn apply_makes_another_file_the_policy_file() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    fs::set_permissions(filter.path(), fs::Permissions::from_mode(0o640))?;
    chown(filter.path(), Some(65_534), Some(65_534))?;
    let new = beside(&filter, "new.yaml", &monitoring())?;
    let answer = apply(&filter, &new, &[])?;
    assert!(done(&answer)?.contains("generation 2"), "{answer:?}");
    assert_eq!(site.through()?, OPEN);
    assert_eq!(fs::read_to_string(filter.path())?, monitoring());
    assert_eq!(fs::read_to_string(&new)?, monitoring());
    let file = fs::metadata(filter.path())?;
    assert_eq!(file.mode() & 0o7777, 0o640);
    assert_eq!((file.uid(), file.gid()), (65_534, 65_534), "who could read it still can");
    let (code, status) = filter.status()?;
    assert_eq!(
        (code, &status["policy"]["current"]),
        (Some(0), &true.into()),
        "the quarantine holds: {status}"
    );
    assert_eq!(status["unconfirmed"], serde_json::Value::Null);
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&[], &[])?;
    assert_eq!(site.through()?, OPEN);
    filter.counts(&[(WOULD_BLOCK, 20, 20 * LENGTH)])
}

#[test]
fn apply_of_what_cannot_be_changes_nothing() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let directory = filter.path().with_file_name("");
    let link = directory.join("link.yaml");
    symlink(filter.path(), &link)?;
    fs::create_dir(directory.join("sub"))?;
    for itself in [filter.path(), directory.join("sub/../policy.yaml"), link] {
        for more in [&["--confirm", "1m"][..], &[]] {
            let answer = apply(&filter, &itself, more)?;
            let error = answer.error().with_context(|| itself.display().to_string())?;
            assert!(error.contains("reload"), "what to do instead: {error}");
        }
    }
    for (text, expected) in [
        (KURUME.replace("operator: ", "operater: "), "new.yaml:5"),
        (KURUME.replace("[eth1]", "[eth1, eth9]"), "eth9"),
    ] {
        let new = beside(&filter, "new.yaml", &text)?;
        for more in [&["--confirm", "1m"][..], &[]] {
            let answer = apply(&filter, &new, more)?;
            assert!(answer.error()?.contains(expected), "{answer:?}");
        }
    }
    let nothing = directory.join("nothing.yaml");
    assert!(apply(&filter, &nothing, &[])?.error()?.contains("nothing.yaml"));
    assert!(apply(&filter, &directory, &[])?.error().is_ok());
    for length in ["0s", "10ms", "-5m", "soon"] {
        let new = beside(&filter, "new.yaml", &monitoring())?;
        let answer = apply(&filter, &new, &[&format!("--confirm={length}")])?;
        assert_eq!(answer.code, Some(1), "{answer:?}");
    }
    assert_eq!(filter.op25b(&["confirm"])?.error()?, "nothing waits to be confirmed");
    assert!(filter.op25b(&["apply", "--rollback"])?.error()?.contains("no policy before"));
    assert_eq!(fs::read_to_string(filter.path())?, KURUME);
    assert_eq!((filter.generation(), site.through()?), (1, FILTERED));
    tidy(&filter)
}

#[test]
fn apply_takes_no_turn_from_who_edits_the_policy_file() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let new = beside(&filter, "new.yaml", &monitoring())?;
    // As `op25b exempt add` holds it while it edits.
    let editing = op25b::durable::lock_directory_of(&filter.path())?;
    let answer = apply(&filter, &new, &[])?;
    assert!(answer.code != Some(0) && answer.stderr.contains("another command edits"), "{answer:?}");
    assert_eq!((fs::read_to_string(filter.path())?.as_str(), site.through()?), (KURUME, FILTERED));
    assert_eq!(filter.generation(), 1, "not for a moment");
    drop(editing);
    done(&apply(&filter, &new, &[])?)?;
    assert_eq!(fs::read_to_string(filter.path())?, monitoring());
    Ok(())
}

/// A file that no other can take the place of, as one that is mounted into a container.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Result<Self> {
        let status = Command::new("mount").arg("--bind").args([&path, &path]).status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_policy_file_that_cannot_be_replaced_is_still_what_is_in_force() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let _mounted = Mounted::new(filter.path())?;
    let new = beside(&filter, "new.yaml", &monitoring())?;
    let answer = apply(&filter, &new, &[])?;
    assert!(answer.code != Some(0) && answer.stderr.contains("policy.yaml"), "{answer:?}");
    assert_eq!(site.through()?, FILTERED, "all or nothing");
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["policy"]["current"]), (Some(0), &true.into()), "{status}");
    Ok(())
}

/// A policy that blocks nobody, on trial.
fn on_trial<'s>(site: &'s Site, length: &str) -> Result<Filter<'s>> {
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    assert_eq!(site.through()?, FILTERED);
    let new = beside(&filter, "new.yaml", &monitoring())?;
    let answer = apply(&filter, &new, &["--confirm", length])?;
    assert!(done(&answer)?.contains("op25b confirm"), "{answer:?}");
    assert_eq!(fs::read_to_string(filter.path())?, KURUME, "not yet");
    Ok(filter)
}

#[test]
fn a_trial_ends_by_itself_and_nothing_comes_in_between() -> Result<()> {
    let site = Site::new(1)?;
    let filter = on_trial(&site, "5s")?;
    let start = Instant::now();
    assert_eq!(site.through()?, OPEN);
    let new = beside(&filter, "newer.yaml", KURUME)?;
    for answer in
        [apply(&filter, &new, &[])?, apply(&filter, &new, &["--confirm", "1m"])?, filter.op25b(&["reload"])?]
    {
        let error = answer.error()?;
        assert!(error.contains("new.yaml") && error.contains("op25b confirm"), "{error}");
    }
    filter.signal(Signal::SIGHUP)?;
    says(&filter, "refused what SIGHUP wants")?;
    let told = filter.op25b(&["status"])?;
    assert!(told.stdout.contains("on trial") && told.stdout.contains("new.yaml"), "{told:?}");
    assert!(filter.status()?.1["unconfirmed"].is_object());
    assert_eq!(filter.generation(), 2);
    assert!(eventually(|| filter.generation() == 3), "{}", filter.said());
    let took = start.elapsed();
    assert!((4 * SECOND..7 * SECOND).contains(&took), "5 s were said, it took {took:?}");
    assert_eq!(site.through()?, FILTERED);
    says(&filter, "not confirmed in time")?;
    let (code, status) = filter.status()?;
    assert_eq!((code, &status["unconfirmed"]), (Some(0), &serde_json::Value::Null), "{status}");
    assert_eq!(fs::read_to_string(filter.path())?, KURUME);
    assert!(filter.op25b(&["confirm"])?.error().is_ok(), "too late");
    filter.counts(&[(BLOCKED, 20, 20 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    done(&filter.op25b(&["reload"])?)?;
    tidy(&filter)
}

#[test]
fn a_trial_does_not_outlive_its_daemon() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let site = Site::new(1)?;
        let mut filter = on_trial(&site, "1h")?;
        filter.stop(signal)?;
        assert_eq!(site.through()?, OPEN, "the filter goes on without a daemon");
        filter.start_again(&[], &[])?;
        says(&filter, "never confirmed")?;
        assert_eq!(site.through()?, FILTERED);
        assert_eq!(filter.status()?.1["unconfirmed"], serde_json::Value::Null);
        filter.stop(Signal::SIGTERM)?;
        filter.start_again(&[], &[])?;
        assert!(!filter.said().contains("never confirmed"), "said once: {}", filter.said());
        filter.counts(&[(BLOCKED, 20, 20 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    }
    Ok(())
}

#[test]
fn a_trial_is_kept_or_taken_back() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = on_trial(&site, "2s")?;
    assert!(done(&filter.op25b(&["confirm"])?)?.contains("confirmed"));
    assert_eq!(fs::read_to_string(filter.path())?, monitoring());
    thread::sleep(3 * SECOND);
    assert_eq!((site.through()?, filter.generation()), (OPEN, 2), "it stays");
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&[], &[])?;
    assert!(!filter.said().contains("never confirmed"), "{}", filter.said());
    assert_eq!(site.through()?, OPEN);

    let site = Site::new(1)?;
    let filter = on_trial(&site, "1h")?;
    done(&filter.op25b(&["apply", "--rollback"])?)?;
    assert_eq!(site.through()?, FILTERED);
    assert_eq!(fs::read_to_string(filter.path())?, KURUME);
    assert!(filter.op25b(&["confirm"])?.error().is_ok());
    assert_eq!(filter.status()?.0, Some(0));
    Ok(())
}

#[test]
fn what_is_written_during_a_trial_is_not_lost() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &["--watch"])?;
    let new = beside(&filter, "new.yaml", &monitoring())?;
    done(&apply(&filter, &new, &["--confirm", "4s"])?)?;
    let edited = KURUME.replace("unknown_sources: pass", "unknown_sources: block");
    replace(&filter, &edited)?;
    assert!(eventually(|| filter.said().contains("not confirmed in time")), "{}", filter.said());
    let current = || filter.status().is_ok_and(|(_, status)| status["policy"]["current"] == true);
    assert!(eventually(current), "the file is watched: {}", filter.said());
    assert_eq!(site.arriving_from(UNKNOWN)?, 0);
    assert_eq!(fs::read_to_string(filter.path())?, edited);
    filter.counts(&[("- ipv4 unknown-source drop", 10, 10 * LENGTH)])
}

#[test]
fn rollback_goes_to_the_policy_before() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    done(&apply(&filter, &beside(&filter, "new.yaml", &monitoring())?, &[])?)?;
    let third = KURUME.replace("unknown_sources: pass", "unknown_sources: block");
    done(&apply(&filter, &beside(&filter, "third.yaml", &third)?, &[])?)?;
    assert_eq!((site.through()?, site.arriving_from(UNKNOWN)?), (FILTERED, 0));
    done(&filter.op25b(&["apply", "--rollback"])?)?;
    assert_eq!((site.through()?, site.arriving_from(UNKNOWN)?), (OPEN, 10));
    assert_eq!(fs::read_to_string(filter.path())?, monitoring());
    // The one before that was the third: twice is where it began.
    done(&filter.op25b(&["apply", "--rollback"])?)?;
    assert_eq!((site.through()?, site.arriving_from(UNKNOWN)?), (FILTERED, 0));
    assert_eq!(fs::read_to_string(filter.path())?, third);
    assert_eq!(filter.status()?.0, Some(0));
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&[], &[])?;
    done(&filter.op25b(&["apply", "--rollback"])?)?;
    assert_eq!(site.through()?, OPEN, "what is kept outlives the daemon");
    Ok(())
}

/// Sources that are blocked each for another reason.
fn strict<'s>(site: &'s Site, arguments: &[&str]) -> Result<Filter<'s>> {
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&KURUME.replace("unknown_sources: pass", "unknown_sources: block"), arguments)?;
    assert_eq!(from_each(site)?, [0, 0, 0]);
    Ok(filter)
}

fn from_each(site: &Site) -> Result<[usize; 3]> {
    Ok([site.arriving_from(CUSTOMER)?, site.arriving_from(QUARANTINED)?, site.arriving_from(UNKNOWN)?])
}

#[test]
fn suspended_nothing_at_all_is_dropped_until_it_ends_by_itself() -> Result<()> {
    let site = Site::new(1)?;
    let filter = strict(&site, &[])?;
    let before = (link_id(&filter, "eth1:native")?, site.flaps()?);
    let start = Instant::now();
    let answer = filter.op25b(&["suspend", "--for", "6s"])?;
    assert!(done(&answer)?.contains("suspended"), "{answer:?}");
    assert_eq!(from_each(&site)?, [10, 10, 10], "whatever blocked them");
    let (code, status) = filter.status()?;
    assert_eq!(code, Some(1), "{status}");
    assert_eq!((&status["state"], &status["enforcing"]), (&"suspended".into(), &false.into()), "{status}");
    let told = filter.op25b(&["status"])?;
    assert!(told.code == Some(1) && told.stdout.contains("SUSPENDED"), "{told:?}");
    assert!(told.stdout.contains("until "), "{told:?}");
    assert!(eventually(|| filter.generation() == 3), "{}", filter.said());
    let took = start.elapsed();
    assert!((5 * SECOND..8 * SECOND).contains(&took), "6 s were said, it took {took:?}");
    assert_eq!(from_each(&site)?, [0, 0, 0]);
    says(&filter, "the suspension is over")?;
    assert_eq!(filter.status()?.0, Some(0));
    assert_eq!((link_id(&filter, "eth1:native")?, site.flaps()?), before, "swapped, never detached");
    filter.counts(&[
        (BLOCKED, 20, 20 * LENGTH),
        (WOULD_BLOCK, 20, 20 * LENGTH),
        ("residential ipv4 quarantined drop", 20, 20 * LENGTH),
        ("- ipv4 unknown-source drop", 20, 20 * LENGTH),
        ("- ipv4 unknown-source pass", 10, 10 * LENGTH),
    ])?;
    tidy(&filter)
}

#[test]
fn one_group_is_suspended_and_resumed() -> Result<()> {
    let site = Site::new(1)?;
    let filter = strict(&site, &[])?;
    done(&filter.op25b(&["suspend", "--group", "residential", "--for", "1h"])?)?;
    assert_eq!(from_each(&site)?, [10, 0, 0]);
    let told = filter.op25b(&["status"])?;
    assert!(told.code == Some(1) && told.stdout.contains("suspended: residential"), "{told:?}");
    // What is suspended is suspended in the next policy too.
    done(&filter.op25b(&["reload"])?)?;
    assert_eq!(from_each(&site)?, [10, 0, 0]);
    // Wider, then narrower again.
    done(&filter.op25b(&["suspend", "--for", "1h"])?)?;
    assert_eq!(from_each(&site)?, [10, 10, 10]);
    done(&filter.op25b(&["suspend", "--group", "residential", "--for", "1h"])?)?;
    assert_eq!(from_each(&site)?, [10, 0, 0]);
    done(&filter.op25b(&["resume"])?)?;
    assert_eq!(from_each(&site)?, [0, 0, 0]);
    assert_eq!(filter.status()?.0, Some(0));
    Ok(())
}

#[test]
fn what_cannot_be_suspended_is_refused() -> Result<()> {
    let site = Site::new(1)?;
    let filter = strict(&site, &[])?;
    for arguments in [
        &["suspend", "--for", "0s"][..],
        &["suspend", "--until", "2008-04-01T00:00:00+09:00"],
        &["suspend", "--until", "tomorrow"],
        &["suspend"],
        &["suspend", "--for", "1h", "--until", "2099-04-01T00:00:00Z"],
        &["suspend", "--group", "nobody", "--for", "1h"],
        &["suspend", "--group", "residential", "--group", "nobody", "--for", "1h"],
        &["suspend", "--group", "", "--for", "1h"],
        &["resume"],
    ] {
        let answer = filter.op25b(arguments)?;
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""), "{arguments:?}: {answer:?}");
    }
    let answer = filter.op25b(&["suspend", "--group", "nobody", "--for", "1h"])?;
    assert!(answer.error()?.contains("nobody"), "{answer:?}");
    assert!(filter.op25b(&["resume"])?.error()?.contains("nothing is suspended"));
    assert_eq!((filter.status()?.0, filter.generation()), (Some(0), 1));
    // Longer than any clock runs.
    done(&filter.op25b(&["suspend", "--for", "500000years"])?)?;
    assert_eq!(filter.status()?.0, Some(1));
    done(&filter.op25b(&["resume"])?)?;
    assert_eq!(from_each(&site)?, [0, 0, 0]);
    Ok(())
}

#[test]
fn a_suspension_outlives_the_daemon_and_ends_on_time() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = strict(&site, &[])?;
    let start = Instant::now();
    done(&filter.op25b(&["suspend", "--for", "8s"])?)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        filter.stop(signal)?;
        assert_eq!(site.arriving_from(QUARANTINED)?, 10, "without a daemon");
        filter.start_again(&[], &[])?;
        assert_eq!(site.arriving_from(QUARANTINED)?, 10, "still suspended");
        assert_eq!(filter.status()?.0, Some(1));
    }
    assert!(start.elapsed() < 8 * SECOND, "too slow to tell");
    assert!(eventually(|| filter.generation() == 5), "{}", filter.said());
    let took = start.elapsed();
    assert!((7 * SECOND..10 * SECOND).contains(&took), "8 s were said, it took {took:?}");
    assert_eq!(from_each(&site)?, [0, 0, 0]);
    assert_eq!(filter.status()?.0, Some(0));
    tidy(&filter)
}

#[test]
fn a_suspension_that_ended_while_no_daemon_ran_is_over_at_the_start() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = strict(&site, &[])?;
    done(&filter.op25b(&["suspend", "--for", "1s"])?)?;
    filter.stop(Signal::SIGKILL)?;
    thread::sleep(2 * SECOND);
    assert_eq!(site.arriving_from(CUSTOMER)?, 10, "nobody is there to end it");
    let told = filter.op25b(&["status"])?;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("overdue"), "that it should be over: {told:?}");
    filter.start_again(&[], &[])?;
    assert_eq!(from_each(&site)?, [0, 0, 0]);
    assert!(filter.said().contains("suspension"), "that it is over is said: {}", filter.said());
    assert_eq!(filter.status()?.0, Some(0));
    Ok(())
}

const ORDERS: [&[&str]; 6] = [
    &["reload"],
    &["apply", "/nothing.yaml"],
    &["apply", "--rollback"],
    &["confirm"],
    &["suspend", "--for", "1h"],
    &["resume"],
];

#[test]
fn without_a_daemon_it_is_said_what_to_do() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let nobody_there = |filter: &Filter<'_>| -> Result<()> {
        for order in ORDERS {
            let answer = filter.op25b(order)?;
            let error = answer.error().with_context(|| format!("{order:?}"))?;
            ensure!(error.contains("no daemon") && error.contains("op25b run"), "{order:?}: {error}");
        }
        Ok(())
    };
    nobody_there(&filter).context("never attached")?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        filter.start(KURUME, &[])?;
        filter.stop(signal)?;
        nobody_there(&filter).with_context(|| signal.to_string())?;
    }
    assert_eq!(site.through()?, FILTERED);
    Ok(())
}

#[test]
fn nobody_changes_anything() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    for order in ORDERS {
        let answer = filter.as_nobody(order)?;
        let error = answer.error().with_context(|| format!("{order:?}"))?;
        assert!(error.contains("root"), "{order:?}: {error}");
    }
    let socket = fs::metadata(filter.state().join("socket"))?;
    assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
    assert_eq!((filter.generation(), site.through()?), (1, FILTERED));
    Ok(())
}

#[test]
fn nonsense_on_the_socket_stops_nothing() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let socket = filter.state().join("socket");
    let tell = |bytes: &[u8]| -> Result<String> {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(10 * SECOND))?;
        // Whoever is told too much may hang up.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let hung_up = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(read.is_ok() || hung_up, "no answer: {read:?}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let nested = "[".repeat(50_000) + "\n";
    let long = vec![b'x'; 8 << 20];
    for nonsense in [
        b"\n".as_slice(),
        b"{}\n",
        b"{\"order\":\"Explode\",\"by\":\"me\"}\n",
        b"{\"order\":{\"Suspend\":{\"what\":\"everything\",\"until\":\"never\"}},\"by\":\"me\"}\n",
        b"{\"order\":{\"Apply\":{\"policy\":\"../relative\",\"confirm\":18446744073709551615}},\"by\":\"me\"}\n",
        b"\xff\xfe\x00\n",
        b"GET / HTTP/1.1\r\n\r\n",
        nested.as_bytes(),
        &long,
    ] {
        let answer = tell(nonsense)?;
        let start = nonsense.get(..nonsense.len().min(60)).unwrap_or_default();
        assert!(!answer.contains("Done"), "{start:?}: {answer}");
        assert!(filter.runs(), "{start:?} ended it: {}", filter.said());
    }
    // A name that would look like a line of the log.
    let forged = "{\"order\":\"Resume\",\"by\":\"me\\nerror: forged \\u001b[31m\"}\n";
    assert!(tell(forged.as_bytes())?.contains("nothing is suspended"));
    assert!(!filter.said().lines().any(|line| line.starts_with("error: forged")), "{}", filter.said());
    assert!(!filter.said().contains('\u{1b}'), "{}", filter.said());
    // One that does not wait for its answer.
    UnixStream::connect(&socket)?.write_all(b"{\"order\":{\"Reload\":{\"why\":null}},\"by\":\"me\"}\n")?;
    assert!(eventually(|| filter.generation() == 2), "{}", filter.said());

    // Those that say nothing keep nobody waiting, nor what comes by itself.
    let silent = (0..8).map(|_| UnixStream::connect(&socket)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    done(&filter.op25b(&["suspend", "--for", "1s"])?)?;
    assert!(eventually(|| filter.generation() == 4), "{}", filter.said());
    let took = start.elapsed();
    assert!(took < 4 * SECOND, "{} silent ones held it up for {took:?}", silent.len());
    assert!(filter.runs());
    assert_eq!(site.through()?, FILTERED);
    filter.counts(&[(BLOCKED, 10, 10 * LENGTH)])
}

#[test]
fn an_edit_during_a_trial_is_not_lost_when_the_trial_is_confirmed() -> Result<()> {
    let site = Site::new(1)?;
    let filter = on_trial(&site, "1m")?;
    let edit = KURUME.replace("Internet Kurume", "Internet Yanagawa");
    filter.policy(&edit)?;
    let answer = filter.op25b(&["confirm"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(fs::read_to_string(filter.path())?, monitoring());
    assert_eq!(fs::read_to_string(filter.path().with_extension("edited"))?, edit);
    says(&filter, "the edit is kept as")?;
    assert_eq!(site.through()?, OPEN);
    Ok(())
}

#[test]
fn a_trial_that_was_confirmed_in_the_moment_of_a_crash_is_not_called_rolled_back() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = on_trial(&site, "1m")?;
    filter.stop(Signal::SIGKILL)?;
    // The file comes first, the note of it last.
    filter.policy(&monitoring())?;
    filter.start_again(&[], &[])?;
    assert!(!filter.said().contains("rolled back"), "{}", filter.said());
    assert_eq!(site.through()?, OPEN);
    Ok(())
}

#[test]
fn a_pending_edit_is_compared_with_what_is_in_force() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let prefixes = beside(&filter, "more.txt", "198.51.100.192/27\n")?;
    let with_file =
        |text: &str| text.replacen("    mode: enforce", "    prefixes_file: more.txt\n    mode: enforce", 1);
    let path = filter.path();
    let path = path.to_str().context("UTF-8")?;
    assert!(filter.op25b(&["diff", path])?.code == Some(1), "there is nothing in force");
    filter.start(&with_file(KURUME), &[])?;
    let diff = || filter.op25b(&["diff", path]);
    // It is in force before it is kept.
    ensure!(eventually(|| diff().is_ok_and(|answer| answer.code == Some(0))), "{:?}", diff()?);
    assert_eq!(done(&diff()?)?.trim(), "nothing changes for anybody");
    let edited = with_file(KURUME).replacen("mode: enforce", "mode: monitor", 1);
    filter.policy(&edited)?;
    let answer = diff()?;
    assert!(
        done(&answer)?.contains("gains    residential: blocked -> residential: would-block"),
        "{answer:?}"
    );
    let same = filter.op25b(&["diff", path, path])?;
    assert_eq!(done(&same)?.trim(), "nothing changes for anybody", "two files still are two files");
    // A prefix file of before is not kept.
    fs::write(&prefixes, "198.51.100.192/28\n")?;
    let answer = diff()?;
    assert!(
        answer.code == Some(0) && answer.stderr.contains("files that the policy in force names"),
        "{answer:?}"
    );
    done(&filter.op25b(&["reload"])?)?;
    assert_eq!(done(&diff()?)?.trim(), "nothing changes for anybody");

    let back = filter.op25b(&["apply", "--rollback"])?;
    assert!(done(&back)?.contains("files that it names have changed since"), "{back:?}");
    let new = beside(&filter, "new.yaml", &format!("{edited}# New.\n"))?;
    done(&apply(&filter, &new, &["--confirm", "1m"])?)?;
    let answer = diff()?;
    assert!(answer.error()?.contains("new.yaml, on trial"), "{answer:?}");
    done(&filter.op25b(&["confirm"])?)?;
    assert_eq!(done(&diff()?)?.trim(), "nothing changes for anybody");
    Ok(())
}

#[test]
fn an_exemption_takes_no_other_edit_along() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&monitoring(), &[])?;
    // Somebody else's edit, not reloaded yet: the group enforces.
    filter.policy(KURUME)?;
    for command in [
        &["exempt", "add", "203.0.113.5", "--reason", "own mail server"][..],
        &["quarantine", "add", "203.0.113.6", "--reason", "hacked"],
        &["quarantine", "remove", QUARANTINED],
    ] {
        let answer = filter.op25b(command)?;
        let error = answer.error()?;
        for cure in ["op25b diff", "op25b reload", "--with-pending-changes", "nothing was changed"] {
            assert!(error.contains(cure), "{cure:?} is not in: {error}");
        }
        assert_eq!(fs::read_to_string(filter.path())?, KURUME);
        assert_eq!((filter.generation(), site.through()?), (1, OPEN));
    }
    let add = ["exempt", "add", "203.0.113.5", "--reason", "own mail server", "--with-pending-changes"];
    done(&filter.op25b(&add)?)?;
    assert_eq!((filter.generation(), site.through()?), (2, FILTERED));
    assert_eq!(site.arriving_from("203.0.113.5")?, 10);
    // What is in force is what the file says: no more is asked for.
    done(&filter.op25b(&["exempt", "remove", "203.0.113.5"])?)?;
    assert_eq!(site.arriving_from("203.0.113.5")?, 0);
    tidy(&filter)
}

#[test]
fn of_exemptions_that_are_added_at_once_none_is_lost() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let addresses: Vec<String> = (0..6).map(|number| format!("203.0.113.{}", 200 + number)).collect();
    let started: Result<Vec<_>> = addresses
        .iter()
        .map(|address| {
            let mut command = filter.command(&["exempt", "add", address, "--reason", "at once"])?;
            Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
        })
        .collect();
    for child in started? {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(filter.path())?;
    for address in &addresses {
        assert!(text.contains(address), "{address} is not in: {text}");
        assert_eq!(site.arriving_from(address)?, 10);
    }
    tidy(&filter)
}
