//! The counters, from the pins: they are there with the daemon or without.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use op25b_ebpf::{
    abi::{CELLS, CELLS_OF_GROUP, Count, SEEN_CELLS},
    address::Family,
    found::{Outcome, Wrapping, seen_cell},
    frame::{SUBMISSION, SUBMISSIONS},
    reply::{REPLIES, Reply},
    verdict::{Reason, Verdict, cell, submission_cell},
};
use serde::Serialize;

use crate::{
    commands::No,
    instance::Instance,
    manifest::{Interface as Attached, Manifest},
    object::{self, Wire},
};

/// `op25b stats --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The running generation.
    pub generation: u64,
    /// Where it is attached.
    pub interfaces: Vec<Interface>,
    /// All that has been judged, summed over interfaces.
    pub totals: Vec<Total>,
    /// Connections to the relays' submission ports; empty where they are not counted.
    pub submission: Vec<Submission>,
    /// What became of frames that were to be answered; empty where no group answers.
    pub replies: Vec<Replied>,
    /// How the judged frames were seen.
    pub seen: Vec<Seen>,
}

/// What became of frames that were to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replied {
    /// What was sent, or why nothing was.
    pub reply: &'static str,
    /// Frames.
    pub packets: u64,
}

/// Frames that were seen in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How the walk through the frame ended.
    pub outcome: &'static str,
    /// What was looked through on the way.
    pub through: Vec<&'static str>,
    /// Frames.
    pub packets: u64,
}

/// An interface and how it is attached.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// `customer`, `upstream` or `both`.
    pub role: String,
    /// `native`, `generic`, `tc-ingress` or `tc-egress`.
    pub mode: &'static str,
}

/// What has been counted of a group, family, reason and verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Total {
    /// The group; none for sources in no group.
    pub customer: Option<String>,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Why.
    pub reason: &'static str,
    /// What happened.
    pub verdict: &'static str,
    /// Frames.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
    /// Connection attempts.
    pub attempts: u64,
}

/// Connections from a group to the submission ports of its relays, where the policy counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submission {
    /// The group.
    pub customer: Option<String>,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// 587 or 465.
    pub port: u16,
    /// SYNs, retransmissions included.
    pub attempts: u64,
}

/// What a cell of the counters is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The group's number, zero for none.
    pub group: u32,
    /// Family of the customer's address.
    pub family: Family,
    /// Why.
    pub reason: Reason,
    /// What happened.
    pub verdict: Verdict,
}

impl Cell {
    /// The cells of one group.
    fn of_group(group: u32) -> impl Iterator<Item = (u32, Self)> {
        [Family::Ipv4, Family::Ipv6].into_iter().flat_map(move |family| {
            Reason::ALL.into_iter().flat_map(move |reason| {
                Verdict::ALL.into_iter().filter(move |verdict| occurs(reason, *verdict)).map(move |verdict| {
                    (cell(group, family, reason, verdict), Self { group, family, reason, verdict })
                })
            })
        })
    }
}

/// What submission is counted by.
const SUBMISSION_CELLS: [(Family, u16); 4] = [
    (Family::Ipv4, SUBMISSION),
    (Family::Ipv4, SUBMISSIONS),
    (Family::Ipv6, SUBMISSION),
    (Family::Ipv6, SUBMISSIONS),
];

/// Which verdicts a reason can have: the table of the manual, right column.
const fn occurs(reason: Reason, verdict: Verdict) -> bool {
    match reason {
        Reason::Other => false,
        Reason::Blocked => !matches!(verdict, Verdict::Pass),
        Reason::UnknownSource => matches!(verdict, Verdict::Pass | Verdict::Drop),
        Reason::Quarantined | Reason::Malformed | Reason::ReturnPath => matches!(verdict, Verdict::Drop),
        Reason::Relay
        | Reason::Exempt
        | Reason::OutOfScope
        | Reason::WouldBlock
        | Reason::WouldMalformed
        | Reason::WouldReturnPath => matches!(verdict, Verdict::Pass),
    }
}

/// Name of a family in output.
#[must_use]
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

/// What one interface has counted.
#[derive(Clone, Debug)]
pub struct Counted {
    /// As `ip link` shows it.
    pub interface: String,
    /// `customer`, `upstream` or `both`; `former` where the policy no longer names it.
    pub role: String,
    cells: Vec<(Cell, Count)>,
    submission: Vec<((u32, Family, u16), u64)>,
    seen: Vec<u64>,
    replies: Vec<u64>,
}

impl Counted {
    /// What became of frames that were to be answered.
    #[must_use]
    pub fn replies(&self) -> Vec<Replied> {
        name_replies(&self.replies)
    }

    /// By group, family, reason and verdict.
    #[must_use]
    pub fn totals(&self, manifest: &Manifest) -> Vec<Total> {
        self.cells.iter().map(|(cell, count)| total(*cell, *count, manifest)).collect()
    }
}

/// Reads the counters of an instance, summed over interfaces.
///
/// # Errors
///
/// When its pins are gone or of another version.
pub fn read(instance: &Instance, manifest: &Manifest) -> Result<Stats> {
    Ok(summed(&read_each(instance, manifest)?, manifest))
}

/// Reads the counters of an instance, interface by interface.
///
/// # Errors
///
/// As of [`read`].
pub fn read_each(instance: &Instance, manifest: &Manifest) -> Result<Vec<Counted>> {
    let mut directories: BTreeMap<PathBuf, (String, String)> = BTreeMap::new();
    // What was counted on interfaces that the policy no longer names has been counted.
    let kept = fs::read_dir(instance.pins().join("counters")).into_iter().flatten().filter_map(Result::ok);
    for path in kept.map(|entry| entry.path()).filter(|path| path.join(object::COUNTERS).exists()) {
        let name = Instance::interface_of_counters(&path);
        directories.insert(path, (name, "former".to_owned()));
    }
    for Attached { name, mode, role, .. } in &manifest.interfaces {
        directories.insert(instance.counters(name, *mode), (name.clone(), role.clone()));
    }
    let mut all = Vec::new();
    for (directory, (interface, role)) in directories {
        let counters = open(&directory.join(object::COUNTERS))?;
        let groups = std::iter::once(0).chain(manifest.numbers.values().copied());
        let mut submission = Vec::new();
        for group in manifest.numbers.values().copied() {
            for (family, port) in SUBMISSION_CELLS {
                let cell = submission_cell(group, family, port == SUBMISSIONS);
                submission.push(((group, family, port), sum(&counters, cell)?.packets));
            }
        }
        all.push(Counted {
            interface,
            role,
            cells: nonzero(&counters, groups)?,
            submission,
            seen: read_cells(&directory.join(object::SEEN), SEEN_CELLS)?,
            replies: read_cells(&directory.join(object::REPLIES), REPLIES)?,
        });
    }
    Ok(all)
}

/// The sums over interfaces.
#[must_use]
pub fn summed(all: &[Counted], manifest: &Manifest) -> Stats {
    let mut sums: BTreeMap<Cell, Count> = BTreeMap::new();
    let mut submissions: BTreeMap<(u32, Family, u16), u64> = BTreeMap::new();
    let mut seen = vec![0; SEEN_CELLS as usize];
    let mut replies = vec![0; REPLIES as usize];
    for counted in all {
        for (sum, packets) in
            seen.iter_mut().zip(&counted.seen).chain(replies.iter_mut().zip(&counted.replies))
        {
            *sum += packets;
        }
        for (cell, count) in &counted.cells {
            let sum = sums.entry(*cell).or_default();
            *sum = plus(*sum, *count);
        }
        for (cell, attempts) in &counted.submission {
            *submissions.entry(*cell).or_default() += attempts;
        }
    }
    let interfaces = manifest
        .interfaces
        .iter()
        .map(|interface| Interface {
            name: interface.name.clone(),
            role: interface.role.clone(),
            mode: interface.mode.name(),
        })
        .collect();
    let submission = submissions
        .into_iter()
        .filter(|(_, attempts)| *attempts != 0)
        .map(|((group, family, port), attempts)| Submission {
            customer: manifest.group(group).map(str::to_owned),
            family: family_name(family),
            port,
            attempts,
        })
        .collect();
    Stats {
        generation: manifest.generation,
        interfaces,
        totals: sums.into_iter().map(|(cell, count)| total(cell, count, manifest)).collect(),
        submission,
        replies: name_replies(&replies),
        seen: name_seen(&seen),
    }
}

fn total(cell: Cell, count: Count, manifest: &Manifest) -> Total {
    let Count { packets, bytes, attempts } = count;
    Total {
        customer: manifest.group(cell.group).map(str::to_owned),
        family: family_name(cell.family),
        reason: cell.reason.name(),
        verdict: cell.verdict.name(),
        packets,
        bytes,
        attempts,
    }
}

/// Reads a pinned map of how frames were seen: packets by [`op25b_ebpf::found::seen_cell`].
///
/// # Errors
///
/// When it is missing or has another layout.
pub fn read_seen(path: &Path) -> Result<Vec<u64>> {
    read_cells(path, SEEN_CELLS)
}

fn name_replies(packets: &[u64]) -> Vec<Replied> {
    Reply::ALL
        .into_iter()
        .zip(packets)
        .filter(|(_, packets)| **packets != 0)
        .map(|(reply, packets)| Replied { reply: reply.name(), packets: *packets })
        .collect()
}

/// The cells of a pinned map, each over all CPUs.
fn read_cells(path: &Path, cells: u32) -> Result<Vec<u64>> {
    let map =
        MapData::from_pin(path).with_context(|| format!("cannot open the counters {}", path.display()))?;
    let map: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(map)).context("the counters have another layout")?;
    (0..cells).map(|cell| Ok(map.get(&cell, 0)?.iter().sum())).collect()
}

/// Puts names to what [`read_seen`] returned, without what was not seen; most frames first.
#[must_use]
pub fn name_seen(packets: &[u64]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for outcome in Outcome::ALL {
        for wrapping in (0..32).map(Wrapping) {
            let cell = seen_cell(outcome as u8, wrapping) as usize;
            let packets = packets.get(cell).copied().unwrap_or(0);
            if packets == 0 {
                continue;
            }
            let through = Wrapping::NAMES
                .into_iter()
                .filter(|(one, _)| wrapping.has(*one))
                .map(|(_, name)| name)
                .collect();
            seen.push(Seen { outcome: outcome.name(), through, packets });
        }
    }
    seen.sort_by_key(|seen| std::cmp::Reverse(seen.packets));
    seen
}

/// The counters of one interface.
type Counters<T> = PerCpuArray<T, Wire<Count>>;

/// Opens the pinned counters of an interface.
///
/// # Errors
///
/// When they are missing or have another layout.
fn open(path: &Path) -> Result<Counters<MapData>> {
    let map =
        MapData::from_pin(path).with_context(|| format!("cannot open the counters {}", path.display()))?;
    let entries = map.info()?.max_entries();
    if entries != CELLS {
        return Err(No::Input(format!(
            "{} has {entries} cells, this version of op25b has {CELLS}; `op25b detach` removes it",
            path.display()
        ))
        .into());
    }
    PerCpuArray::try_from(Map::PerCpuArray(map)).context("the counters have another layout")
}

/// The cells of these groups that have counted something, over all CPUs.
///
/// # Errors
///
/// When the map cannot be read.
pub fn nonzero<T: std::borrow::Borrow<MapData>>(
    counters: &Counters<T>,
    groups: impl Iterator<Item = u32>,
) -> Result<Vec<(Cell, Count)>> {
    let mut found = Vec::new();
    for group in groups.filter(|group| *group < CELLS / CELLS_OF_GROUP) {
        for (number, cell) in Cell::of_group(group) {
            let sum = sum(counters, number)?;
            if sum != Count::default() {
                found.push((cell, sum));
            }
        }
    }
    Ok(found)
}

/// One cell over all CPUs.
fn sum<T: std::borrow::Borrow<MapData>>(counters: &Counters<T>, cell: u32) -> Result<Count> {
    Ok(counters.get(&cell, 0)?.iter().fold(Count::default(), |sum, Wire(count)| plus(sum, *count)))
}

const fn plus(one: Count, other: Count) -> Count {
    Count {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        attempts: one.attempts + other.attempts,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CELLS_OF_GROUP, Cell, Family, SUBMISSION_CELLS, SUBMISSIONS, submission_cell};

    #[test]
    fn every_cell_counts_one_thing_of_its_own_group() {
        let group = 7;
        let submission = SUBMISSION_CELLS
            .map(|(family, port): (Family, u16)| submission_cell(group, family, port == SUBMISSIONS));
        let all: Vec<u32> = Cell::of_group(group).map(|(cell, _)| cell).chain(submission).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert!(all.iter().all(|cell| cell / CELLS_OF_GROUP == group), "{all:?}");
    }
}
