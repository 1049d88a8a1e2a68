//! What is broken, one fault a function: it breaks, waits until the daemon answers and all is in force again, and says how
//! long that took.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::{
    clock::Clock,
    lab::{Filter, KURUME, eventually},
    mounts::{mount_bpffs, unmount_bpffs},
    names::{SERVER, Zone, say},
    network::{EDGE, Network, RELAY, STATE},
    traffic::Traffic,
};

const HOSTNAME: &str = "post.example.net";
const HISTORY: &str = "/var/lib/op25b/history.db";
const HOUR: i64 = 3600;

/// Where things are broken.
pub(crate) struct Scene<'n> {
    pub(crate) network: &'n Network,
    pub(crate) traffic: &'n Traffic,
    pub(crate) filter: Filter<'n>,
    pub(crate) clock: Clock,
    pub(crate) zone: Zone,
    pub(crate) chance: Rng,
    /// That the clock is ahead.
    pub(crate) hours: i64,
}

/// Breaks something; how long it took until all was well again.
pub(crate) type Fault = fn(&mut Scene<'_>) -> Result<Duration>;

/// A policy that blocks all that is to be blocked, in one of two ways; `keep` is of the history, which begins anew where
/// that changes.
pub(crate) fn policy(strict: bool, keep: u32) -> String {
    let unknown = if strict { "block" } else { "pass" };
    KURUME
        .replacen("version: 1", &format!("version: 1\nhistory: {{path: {HISTORY}, keep: {keep}d}}"), 1)
        .replacen("mode: enforce", "mode: enforce\n    enforce_from: 2008-04-01T00:00:00+09:00", 1)
        .replacen(
            "relays:\n",
            &format!("relays:\n  - {{name: named, hostname: {HOSTNAME}, within: [192.0.2.0/24]}}\n"),
            1,
        )
        .replacen("unknown_sources: pass", &format!("unknown_sources: {unknown}"), 1)
}

/// Days that the history is kept.
pub(crate) const KEEP: u32 = 90;

impl Scene<'_> {
    /// Starts the daemon as it lies there.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.filter.start_again(&["--trust-clock", "--watch", "--resolver", SERVER], &self.clock.variables())
    }

    /// The name server says what is right.
    pub(crate) fn names_are_right(&self) {
        say(&self.zone, HOSTNAME, &[RELAY]);
    }

    /// Waits until the filter is in force everywhere and the daemon answers.
    fn recovers(&self, since: Instant) -> Result<Duration> {
        let well = || {
            let enforcing = self
                .filter
                .status()
                .is_ok_and(|(_, status)| status["enforcing"] == true && status["daemon"] == true);
            // Refused by the daemon itself, and changes nothing.
            let answer = || self.filter.op25b(&["confirm"]);
            enforcing && answer().is_ok_and(|answer| answer.stderr.contains("nothing waits"))
        };
        ensure!(eventually(well), "it does not recover: {:?}: {}", self.filter.status(), self.filter.said());
        Ok(since.elapsed())
    }

    fn reload(&self, text: &str) -> Result<()> {
        self.filter.policy(text)?;
        let answer = self.filter.op25b(&["reload"])?;
        ensure!(answer.code == Some(0), "{answer:?}");
        Ok(())
    }

    /// The history's thread looks at its file at once.
    fn touch_history(&self) -> Result<()> {
        self.reload(&policy(false, KEEP - 1))?;
        self.reload(&policy(false, KEEP))
    }

    fn says(&self, words: &str) -> Result<()> {
        ensure!(eventually(|| self.filter.said().contains(words)), "never {words:?}: {}", self.filter.said());
        Ok(())
    }
}

pub(crate) fn killed(scene: &mut Scene<'_>) -> Result<Duration> {
    let strict = scene.chance.bool();
    scene.filter.policy(&policy(strict, KEEP))?;
    let order: &[&str] = if scene.chance.bool() { &["reload"] } else { &["apply", "--rollback"] };
    let mut command = scene.filter.command(order)?;
    let mut command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    thread::sleep(Duration::from_micros(scene.chance.u64(..80_000)));
    let since = Instant::now();
    scene.filter.stop(Signal::SIGKILL)?;
    command.wait()?;
    scene.start()?;
    let took = scene.recovers(since)?;
    scene.reload(&policy(false, KEEP))?;
    Ok(took)
}

/// Fills a file system, until the value is dropped.
struct Full(PathBuf);

impl Full {
    fn new(directory: &str) -> Result<Self> {
        let full = Self(Path::new(directory).join("full"));
        let mut file = File::create(&full.0)?;
        // In ever smaller pieces, so that nothing fits any more.
        for size in [64 << 10, 1 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(full)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(crate) fn disk_full(scene: &mut Scene<'_>) -> Result<Duration> {
    let full = STATE.map(Full::new);
    // What cannot be written down must not begin.
    let suspended = scene.filter.op25b(&["suspend", "--for", "1h"])?;
    ensure!(suspended.code != Some(0), "suspended on a full disk: {suspended:?}");
    scene.filter.policy(&policy(true, KEEP - 1))?;
    // Done or refused; in neither case may anything pass.
    let _ = scene.filter.op25b(&["reload"])?;
    scene.filter.stop(Signal::SIGKILL)?;
    scene.filter.spawn(&["--trust-clock", "--resolver", SERVER], &scene.clock.variables())?;
    thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    drop(full);
    if scene.filter.runs() {
        scene.filter.stop(Signal::SIGTERM)?;
    }
    scene.start()?;
    let took = scene.recovers(since)?;
    scene.touch_history()?;
    Ok(took)
}

pub(crate) fn history_corrupted(scene: &mut Scene<'_>) -> Result<Duration> {
    scene.touch_history()?;
    ensure!(eventually(|| Path::new(HISTORY).exists()), "no history: {}", scene.filter.said());
    let file = File::options().write(true).open(HISTORY)?;
    let length = file.metadata()?.len().max(4096);
    for page in 0..length / 4096 {
        let noise: Vec<u8> = std::iter::repeat_with(|| scene.chance.u8(..)).take(4096).collect();
        file.write_all_at(&noise, page * 4096)?;
    }
    let since = Instant::now();
    scene.touch_history()?;
    let whole =
        || scene.filter.op25b(&["history", "203.0.113.0/24"]).is_ok_and(|answer| answer.code == Some(0));
    ensure!(
        eventually(whole),
        "{:?}: {}",
        scene.filter.op25b(&["history", "203.0.113.0/24"]),
        scene.filter.said()
    );
    scene.recovers(since)
}

pub(crate) fn clock_jumps(scene: &mut Scene<'_>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let year = 365 * 24 * HOUR;
    for apart in [2 * 24 * HOUR, -2 * 24 * HOUR, 10 * year, -24 * year, 0] {
        scene.clock.set(apart)?;
        let since = Instant::now();
        thread::sleep(Duration::from_millis(300));
        let strict = scene.chance.bool();
        scene.reload(&policy(strict, KEEP))?;
        longest = longest.max(scene.recovers(since)?);
    }
    Ok(longest)
}

pub(crate) fn dns_lies(scene: &mut Scene<'_>) -> Result<Duration> {
    // Outside `within`; a customer's; more than are taken; the right one and others, another each second; none; silence.
    let many: Vec<String> = (1..=40).map(|host| format!("192.0.2.{host}")).collect();
    let mut lies =
        vec![vec!["198.51.100.66"], vec!["203.0.113.10"], many.iter().map(String::as_str).collect()];
    lies.extend(many.iter().take(3).map(|another| vec![RELAY, another.as_str()]));
    lies.push(Vec::new());
    for lie in &lies {
        say(&scene.zone, HOSTNAME, lie);
        thread::sleep(Duration::from_millis(1200));
    }
    scene.zone.lock().unwrap_or_else(PoisonError::into_inner).clear();
    thread::sleep(Duration::from_millis(1200));
    let since = Instant::now();
    scene.names_are_right();
    scene.recovers(since)
}

pub(crate) fn dns_floods(scene: &mut Scene<'_>) -> Result<Duration> {
    let port = SERVER.rsplit_once(':').context("a port")?.1.parse::<u16>()?;
    let noise: Vec<u8> = std::iter::repeat_with(|| scene.chance.u8(..)).take(512).collect();
    let since = Instant::now();
    // Answers that nobody asked for, to every port that the daemon may ask from.
    scene.network.edge.within(|| -> Result<()> {
        let server = std::net::UdpSocket::bind("127.0.0.1:0")?;
        for target in 1024..=u16::MAX {
            if target != port {
                // A port where nobody listens says so; that is not what is tried.
                let _ = server.send_to(&noise, ("127.0.0.1", target));
            }
        }
        Ok(())
    })??;
    scene.recovers(since)
}

pub(crate) fn line_down(scene: &mut Scene<'_>) -> Result<Duration> {
    let since = scene.traffic.while_down(|| {
        scene.network.edge.ip(&["link", "set", EDGE, "down"])?;
        thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        scene.network.bring_up()?;
        Ok(since)
    })?;
    scene.recovers(since)
}

pub(crate) fn line_removed(scene: &mut Scene<'_>) -> Result<Duration> {
    let took = scene.traffic.while_down(|| {
        scene.network.remove()?;
        thread::sleep(Duration::from_millis(100));
        let since = Instant::now();
        scene.network.make()?;
        let took = scene.recovers(since)?;
        // By the manual: up only when the filter is on it.
        scene.network.bring_up()?;
        Ok(took)
    })?;
    Ok(took)
}

pub(crate) fn line_removed_and_up_at_once(scene: &mut Scene<'_>) -> Result<Duration> {
    let since = scene.traffic.while_down(|| {
        scene.network.remove()?;
        thread::sleep(Duration::from_millis(100));
        let since = Instant::now();
        scene.network.make_up()?;
        Ok(since)
    })?;
    scene.recovers(since)
}

pub(crate) fn line_renamed(scene: &mut Scene<'_>) -> Result<Duration> {
    let rename = |from: &str, to: &str| -> Result<()> {
        scene.traffic.while_down(|| {
            scene.network.edge.ip(&["link", "set", from, "down"])?;
            scene.network.edge.ip(&["link", "set", from, "name", to])?;
            scene.network.edge.ip(&["link", "set", to, "up"]).map(drop)
        })
    };
    rename(EDGE, "wan0")?;
    let since = Instant::now();
    let took = scene.recovers(since)?;
    rename("wan0", EDGE)?;
    let since = Instant::now();
    Ok(took.max(scene.recovers(since)?))
}

pub(crate) fn mtu_changes(scene: &mut Scene<'_>) -> Result<Duration> {
    let since = Instant::now();
    for mtu in ["9000", "1400", "1500"] {
        scene.network.edge.ip(&["link", "set", EDGE, "mtu", mtu])?;
        thread::sleep(Duration::from_millis(50));
    }
    scene.recovers(since)
}

pub(crate) fn channels_change(scene: &mut Scene<'_>) -> Result<Duration> {
    let since = Instant::now();
    for channels in ["2", "1"] {
        // The driver takes its queues down for it, as cards do.
        scene.traffic.while_down(|| {
            scene.network.on_the_edge("ethtool", &["-L", EDGE, "rx", channels, "tx", channels])
        })?;
    }
    scene.recovers(since)
}

pub(crate) fn bpffs_unmounted(scene: &mut Scene<'_>) -> Result<Duration> {
    unmount_bpffs()?;
    scene.says("nothing can be changed")?;
    let refused = scene.filter.op25b(&["reload"])?;
    ensure!(refused.code != Some(0), "a generation that nothing pins: {refused:?}");
    thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    mount_bpffs()?;
    let took = scene.recovers(since)?;
    scene.reload(&policy(false, KEEP))?;
    Ok(took)
}

pub(crate) fn bpffs_unmounted_without_daemon(scene: &mut Scene<'_>) -> Result<Duration> {
    scene.filter.stop(Signal::SIGTERM)?;
    unmount_bpffs()?;
    thread::sleep(Duration::from_millis(500));
    mount_bpffs()?;
    let since = Instant::now();
    scene.filter.spawn(&["--trust-clock", "--resolver", SERVER], &scene.clock.variables())?;
    scene.recovers(since)
}

/// A memory cgroup, gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(process: i32) -> Result<Self> {
        let name = format!("op25b-chaos-{}", std::process::id());
        let parents = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let parent = parents.into_iter().find(|parent| parent.join("cgroup.procs").exists());
        let cgroup = Self(parent.context("no cgroup file system is mounted")?.join(name));
        fs::create_dir(&cgroup.0).with_context(|| format!("cannot make {}", cgroup.0.display()))?;
        fs::write(cgroup.0.join("cgroup.procs"), process.to_string())?;
        Ok(cgroup)
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|name| self.0.join(name));
        let file = files.iter().find(|file| file.exists()).context("the cgroup limits no memory")?;
        fs::write(file, bytes.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever is left in it goes to the one above.
        let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for process in left.lines() {
            let _ = fs::write(self.0.with_file_name("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

pub(crate) fn memory_exhausted(scene: &mut Scene<'_>) -> Result<Duration> {
    let prefixes = scene.filter.path().with_file_name("many.txt");
    let mut text = String::new();
    for number in 0..300_000_u32 {
        let [_, b, c, d] = (number * 32).to_be_bytes();
        text += &format!("10.{b}.{c}.{d}/28\n");
    }
    fs::write(&prefixes, text)?;
    let large = policy(false, KEEP).replacen(
        "customers:\n",
        &format!("customers:\n  - {{name: many, prefixes_file: {}, mode: enforce}}\n", prefixes.display()),
        1,
    );
    let cgroup = Cgroup::new(scene.filter.pid()?.as_raw())?;
    cgroup.limit(scene.chance.u64(8..64) << 20)?;
    scene.filter.policy(&large)?;
    let answer = scene.filter.op25b(&["reload"])?;
    let killed = answer.stderr.contains("the daemon ended");
    let since = Instant::now();
    drop(cgroup);
    scene.filter.policy(&policy(false, KEEP))?;
    if killed {
        scene.filter.ended()?;
        scene.start()?;
    }
    scene.recovers(since)
}

pub(crate) fn accounts_exhausted(scene: &mut Scene<'_>) -> Result<Duration> {
    let since = Instant::now();
    scene.traffic.send_from_many(scene.network, 400_000)?;
    let took = since.elapsed();
    let screen = scene.filter.op25b(&["top", "--once"])?;
    ensure!(screen.stdout.contains("had to make room"), "{screen:?}");
    Ok(scene.recovers(since)?.saturating_sub(took))
}

pub(crate) fn half_written(scene: &mut Scene<'_>) -> Result<Duration> {
    let text = policy(scene.chance.bool(), KEEP);
    // From here on it says all that it means.
    let whole = text.find("unknown_sources: pass").or_else(|| text.find("unknown_sources: block"));
    let cut = scene.chance.usize(..whole.context("unknown_sources")?);
    let before = scene.filter.generation();
    scene.filter.policy(text.get(..cut).context("in ASCII")?)?;
    let refused = scene.filter.op25b(&["reload"])?;
    ensure!(refused.code == Some(1), "the first {cut} bytes of a policy: {refused:?}");
    ensure!(scene.filter.generation() == before, "it is in force: {}", scene.filter.said());
    let since = Instant::now();
    scene.reload(&text)?;
    scene.recovers(since)
}

/// An hour of the clock, and what comes with it.
pub(crate) fn an_hour_passes(scene: &mut Scene<'_>) -> Result<Duration> {
    scene.hours += 1;
    scene.clock.set(scene.hours * HOUR)?;
    let since = Instant::now();
    scene.touch_history()?;
    thread::sleep(Duration::from_millis(500));
    scene.recovers(since)
}

/// Many reloads: the longest.
pub(crate) fn reloads(scene: &mut Scene<'_>, count: u32) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for number in 0..count {
        scene.filter.policy(&policy(number % 2 == 0, KEEP))?;
        let since = Instant::now();
        let answer = scene.filter.op25b(&["reload"])?;
        ensure!(answer.code == Some(0), "reload {number}: {answer:?}");
        longest = longest.max(since.elapsed());
    }
    scene.reload(&policy(false, KEEP))?;
    scene.recovers(Instant::now())?;
    Ok(longest)
}

/// How many hours the history knows of.
pub(crate) fn hours_of_history(scene: &Scene<'_>) -> Result<usize> {
    let answer = scene.filter.op25b(&["history", "203.0.113.0/24", "--json"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let rows = answer.json()?;
    let rows = rows.as_array().with_context(|| format!("no rows: {rows}"))?;
    Ok(rows.iter().map(|row| row["hour"].to_string()).collect::<BTreeSet<_>>().len())
}
