//! The table of a run, and what must be true of it.

use std::{
    fmt::{self, Display, Formatter, Write as _},
    fs,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{
    CellAlignment, Table,
    presets::{ASCII_MARKDOWN, UTF8_BORDERS_ONLY},
};

use crate::{
    lab::Filter,
    resources::Resources,
    traffic::{Account, Ledger},
};

/// A daemon's resident memory may grow by so much over all reloads.
const GROWTH_KIB: u64 = 4096;

/// A fault, and what it did.
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) times: u32,
    pub(crate) frames: Account,
    pub(crate) recovered: Duration,
}

/// All of a run.
pub(crate) struct Run {
    pub(crate) faults: Vec<Row>,
    pub(crate) openings: Vec<Row>,
    /// Before and after the reloads.
    pub(crate) before: Resources,
    pub(crate) after: Resources,
    pub(crate) took: Duration,
}

impl Run {
    /// Nothing leaked, nothing lost, nothing left.
    pub(crate) fn verdict(&self) -> Result<()> {
        for row in &self.faults {
            let Account { leaked, lost, .. } = row.frames;
            ensure!(leaked == 0 && lost == 0, "{}: {leaked} leaked, {lost} lost", row.fault);
        }
        for ((what, before), (_, after)) in self.before.counts().into_iter().zip(self.after.counts()) {
            ensure!(before == after, "{what}: {before} became {after}");
        }
        let (before, after) = (self.before.resident_kib, self.after.resident_kib);
        ensure!(after <= before + GROWTH_KIB, "the daemon's memory: {before} KiB became {after}");
        Ok(())
    }

    /// `docs/chaos.md`.
    pub(crate) fn document(&self) -> Result<String> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).context("model name")?;
        let threads = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let machine = format!("{} ({threads} threads)", model.trim_start_matches(['\t', ' ', ':']));
        let mut text = INTRODUCTION.to_owned();
        write!(
            text,
            "On Linux {}, {machine}, in {:.0} min:\n\n",
            kernel.trim(),
            self.took.as_secs_f64() / 60.0
        )?;
        write!(text, "{}\n\n{}\n\n", table(&self.faults, true, ASCII_MARKDOWN), self.held())?;
        write!(text, "{FAULTS}{}\n\n{OPENINGS}", table(&self.openings, false, ASCII_MARKDOWN))?;
        Ok(text)
    }

    fn held(&self) -> String {
        let counts = self.before.counts().into_iter().zip(self.after.counts());
        let mut words: Vec<String> =
            counts.map(|((what, before), (_, after))| format!("{what} {before} → {after}")).collect();
        let mib = |resources: &Resources| resources.resident_kib as f64 / 1024.0;
        words.push(format!("its memory {:.1} → {:.1} MiB", mib(&self.before), mib(&self.after)));
        format!("Before and after the reloads: {}. After `detach`: none.", words.join(", "))
    }
}

impl Display for Run {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n{}\n", table(&self.faults, true, UTF8_BORDERS_ONLY), self.held())?;
        writeln!(out, "What opens port 25, and for how long:")?;
        write!(out, "{}", table(&self.openings, false, UTF8_BORDERS_ONLY))
    }
}

fn table(rows: &[Row], sum: bool, preset: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(preset);
    table.set_header(["fault", "times", "frames", "leaked", "lost", "line down", "recovered in"]);
    let mut all = Account::default();
    let mut times = 0;
    for row in rows {
        all += row.frames;
        times += row.times;
        table.add_row(cells(
            &row.fault,
            row.times,
            row.frames,
            &format!("{:.0} ms", row.recovered.as_secs_f64() * 1e3),
        ));
    }
    if sum {
        table.add_row(cells("all", times, all, ""));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cells(fault: &str, times: u32, frames: Account, recovered: &str) -> [String; 7] {
    let Account { sent, leaked, lost, down } = frames;
    [
        fault.to_owned(),
        times.to_string(),
        sent.to_string(),
        leaked.to_string(),
        lost.to_string(),
        down.to_string(),
        recovered.to_owned(),
    ]
}

/// Every judged frame is counted once, and nothing is counted that was not sent.
pub(crate) fn counters_add_up(filter: &Filter<'_>, ledger: &Ledger) -> Result<()> {
    let doubled = ledger.doubled();
    ensure!(doubled.is_empty(), "arrived twice: frames {doubled:?}");
    let counted = filter.counted()?;
    let expected = ledger.counters();
    for (name, packets, _) in &counted {
        let range =
            expected.get(name.as_str()).with_context(|| format!("{name}: {packets} counted, none sent"))?;
        ensure!(range.contains(packets), "{name}: {packets} counted, {range:?} to be expected");
    }
    ensure!(counted.len() == expected.len(), "counted {counted:?}, to be expected {expected:?}");
    Ok(())
}

const INTRODUCTION: &str = "\
# Broken on purpose

`cargo xtask chaos` breaks what a filter depends on, one thing after the other, while numbered frames run from a customer
through a filtered router to the Internet, some 1,500 a second, IPv4 and IPv6: mail that is to be blocked, mail to a relay
known by its name and of an exempt customer, ports 587, and UDP. Every one is accounted for: *leaked* was to be blocked
and arrived, *lost* was to arrive and did not, *line down* was sent into an interface that was itself down or gone. It has
its own mounts and namespaces and touches nothing of the machine's but a memory cgroup of its own. `--quick` does each a
few times, in about a minute, and writes nothing.

";

const FAULTS: &str = "\
*Recovered* is the longest time until `op25b status` said ENFORCING everywhere and the daemon answered; of reloads, the
longest one. The run also holds that each counter shows what was sent, no frame more (but for those of a line that went
down), and that nothing arrived twice.

| fault | what is done, and what must come of it |
|---|---|
| killed | SIGKILL within 80 ms of a `reload` or a rollback; the next start completes or reverts it |
| disks full | not a byte fits in `/var/lib/op25b` and `/run/op25b`: `suspend` is refused, the daemon is killed and started there |
| history | every page of the database is noise: it is set aside and begun anew |
| clock | two days on, two days back, ten years on, to before `enforce_from`, and right again |
| name server | addresses outside `within`, a customer's, forty, another each second, none, silence: the relay stays the relay |
| answers | from the name server's own address to every port of the router |
| interface down, removed, renamed | taken down, deleted and made anew by the same name, called `wan0` and `eth1` again |
| MTU, channels | changed while the program is attached |
| bpffs | unmounted; nothing can be changed until one is mounted, where the daemon pins what it holds |
| memory | a cgroup leaves 8 to 64 MiB to a policy of 300,000 prefixes: the kernel kills the daemon, or it refuses |
| sources | more than there are accounts for: old ones make room, `top` says so, the counters know every frame |
| half written | the policy file ends somewhere: refused |
| compressed day | 24 times the clock goes on by an hour: the history has each |
| reloads | one policy, the other policy; neither may pass what both block |

## What opens port 25

";

const OPENINGS: &str = "\
The daemon was there before the line carried, each time; nothing promises that: until the kernel has told of an interface
nobody can filter it. Make it, wait until `op25b status` says `attached`, and
bring it up then: that is the row of the first table. Where that is not to be had (PPP), filter where customers'
packets leave, by `attach: tc-egress` on an uplink that stays.

bpffs holds the filter while no daemon runs: unmounting it then takes the filter off at once, and `status` and the alert
say so. Under a daemon it does not: the daemon holds what is in force, and pins it again where a bpffs is mounted.
";
