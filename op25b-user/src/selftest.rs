//! Whether the running filter does what the policy in force promises: frames made from the policy through the
//! generation's own tables, by programs that write to no live counter, once it is shown that they are what is attached.

mod cases;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{MapInfo, PerCpuArray},
    programs::{Program, ProgramInfo},
};
use op25b_ebpf::{abi::Answer, verdict::Verdict};
use serde::Serialize;

use self::cases::{Case, Source};
use crate::{
    attach::Hook,
    commands::No,
    counters,
    explain::{self, Explanation, Syn},
    generation,
    instance::Instance,
    manifest::{Interface, Manifest},
    object::{self, Constants, Maps},
    policy::Policy,
    relays,
    situation::Situation,
    status,
    tables::Tables,
};

/// `op25b selftest --json`.
#[derive(Debug, Serialize)]
pub struct Selftest {
    /// Which of several filters.
    pub instance: String,
    /// The running generation.
    pub generation: u64,
    /// Whether every line is right.
    pub passed: bool,
    /// What was tried.
    pub lines: Vec<Line>,
    /// What no frame could be made for.
    pub untried: Vec<String>,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub struct Line {
    /// As `ip link` shows it.
    pub interface: String,
    /// How it is attached.
    pub attach: &'static str,
    /// Whose frame it is and where it goes, or what else was looked at.
    pub case: String,
    /// The frame; none where something else was looked at.
    pub frame: Option<Tried>,
    /// What the policy promises.
    pub expected: String,
    /// What was met.
    pub got: String,
    /// Whether that is the same.
    pub ok: bool,
}

/// A frame that was tried.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tried {
    /// Its ends.
    #[serde(flatten)]
    pub syn: Syn,
    /// What it has before its IP packet.
    pub through: &'static str,
}

/// Tries the running generation, by the policy that it was made from.
///
/// # Errors
///
/// When the policy's files are others by now, the generation has gone meanwhile, or the kernel refuses.
pub async fn run(instance: &Instance, manifest: &Manifest, policy: &Policy) -> Result<Selftest> {
    if policy.hash != manifest.hash {
        return Err(No::Input(format!(
            "the policy in force, or a file that it names, has changed since it took force, so that nobody can tell what it \
             promises; `op25b reload` puts {} in force as it is now, then `op25b selftest` again",
            manifest.policy.display()
        ))
        .into());
    }
    let situation = Situation {
        suspended: manifest.suspended.clone(),
        ..relays::situation(instance, policy, manifest.moment)
    };
    let number = |name: &str| manifest.numbers.get(name).copied().unwrap_or(0);
    let tables = Tables::compile(policy, &situation, number).map_err(|error| No::Input(error.to_string()))?;
    let source = Source { policy, situation: &situation, tables: &tables };
    let mut lines = Vec::new();
    let mut untried = BTreeSet::new();
    for known in &manifest.interfaces {
        let line = |case: &str, expected, got| Line::new(known, case, None, expected, got);
        let running = match status::running(instance, known).await? {
            Ok(running) => running,
            // What nobody meets there proves nothing.
            Err(problem) => {
                lines.push(line("what is attached", format!("program {}", known.program), problem));
                continue;
            }
        };
        let constants =
            generation::constants(policy, manifest, known.judges(), known.ethernet, known.answers);
        let bench = Bench::set_up(instance, manifest, known, running, &tables, constants)?;
        lines.extend(bench.identity(running)?.map(|(case, expected, got)| line(case, expected, got)));
        let cases = source.cases(constants.role, known.ethernet, number);
        untried.extend(cases.untried);
        let mut judged = 0;
        for case in &cases.all {
            let (line, is_judged) = bench.attempt(manifest, case)?;
            judged += u64::from(is_judged);
            lines.push(line);
        }
        let counted = bench.counted()?;
        lines.push(line("what is counted, apart", format!("{judged} frames"), format!("{counted} frames")));
    }
    let now = Manifest::read(instance)?.map(|now| now.generation);
    if now != Some(manifest.generation) {
        return Err(No::Input("a change took force meanwhile; `op25b selftest` again".to_owned()).into());
    }
    Ok(Selftest {
        instance: instance.name().to_owned(),
        generation: manifest.generation,
        passed: lines.iter().all(|line| line.ok),
        lines,
        untried: untried.into_iter().collect(),
    })
}

impl Line {
    fn new(known: &Interface, case: &str, frame: Option<Tried>, expected: String, got: String) -> Self {
        Self {
            interface: known.name.clone(),
            attach: known.mode.name(),
            case: case.to_owned(),
            frame,
            ok: expected == got,
            expected,
            got,
        }
    }
}

/// What frames of one interface are tried with.
struct Bench<'a> {
    known: &'a Interface,
    tables: &'a Tables,
    constants: Constants,
    /// The program that is attached, by its pin.
    attached: ProgramInfo,
    /// Its sibling, which says what is decided and why, and writes to no map.
    sibling: Program,
    /// The same program once more: with the generation's tables, and counters and accounts of its own.
    twin: aya::Ebpf,
    name: &'static str,
    /// Maps by which both decide: the tables, and the constants that the sibling shares with what is attached.
    decided_by: BTreeSet<u32>,
}

impl<'a> Bench<'a> {
    fn set_up(
        instance: &Instance,
        manifest: &Manifest,
        known: &'a Interface,
        running: u32,
        tables: &'a Tables,
        constants: Constants,
    ) -> Result<Self> {
        let hook = known.hook;
        // A moment of `status --sample` attaches the other one.
        let name = if running == known.program { hook.program() } else { hook.sampling_program() };
        let pinned =
            |name: &str| hook.open(&instance.program(manifest.generation, name, &known.name, known.mode));
        let attached = pinned(name)?.info()?;
        let sibling = pinned(hook.sibling())?;
        let generation = instance.generation(manifest.generation);
        let mut twin = object::create(tables, constants, Maps::Scratch { tables: &generation })?;
        let used = maps(&object::load(&mut twin, name)?.info()?)?;
        let of_sibling = maps(&sibling.info()?)?;

        let ids = |directory: &std::path::Path, names: &[&str]| -> Result<BTreeSet<u32>> {
            names
                .iter()
                .map(|name| {
                    let pin = directory.join(name);
                    let map = MapInfo::from_pin(&pin);
                    Ok(map.with_context(|| format!("cannot open the map {}", pin.display()))?.id())
                })
                .collect()
        };
        let live: BTreeSet<u32> = ids(&instance.counters(&known.name, known.mode), &object::OF_INTERFACE)?
            .union(&ids(&instance.sources(), &object::OF_INSTANCE)?)
            .copied()
            .collect();
        ensure!(
            used.is_disjoint(&live) && of_sibling.is_disjoint(&live),
            "{}: the programs to try would count with the live counters; nothing was tried",
            known.name
        );
        let shared: BTreeSet<u32> = ids(&generation, &object::TABLES)?;
        let decided_by = used.intersection(&shared).chain(&of_sibling).copied().collect();
        Ok(Self { known, tables, constants, attached, sibling, twin, name, decided_by })
    }

    fn twin(&self) -> Result<&Program> {
        self.twin.program(self.name).with_context(|| format!("the object has no program {}", self.name))
    }

    /// What shows that frames are tried with what is attached: its instructions, and the maps by which it decides.
    fn identity(&self, running: u32) -> Result<[(&'static str, String, String); 2]> {
        let program = |id: u32, tag: u64| format!("program {id}, tag {tag:016x}");
        let count = self.decided_by.len();
        let missing: Vec<String> =
            (&self.decided_by - &maps(&self.attached)?).iter().map(ToString::to_string).collect();
        let has = if missing.is_empty() {
            format!("all {count} maps")
        } else {
            format!("not all: map {} is none of its", missing.join(", "))
        };
        Ok([
            (
                "what is attached",
                program(running, self.twin()?.info()?.tag()),
                program(self.attached.id(), self.attached.tag()),
            ),
            ("its tables and constants", format!("all {count} maps"), has),
        ])
    }

    /// Tries a frame; also whether it is one that is counted.
    fn attempt(&self, manifest: &Manifest, case: &Case) -> Result<(Line, bool)> {
        let Case { name, syn, through, promised: (verdict, reason) } = case;
        let frame = explain::frame(*syn, *through)?;
        let decided = Answer(object::run_either(&self.sibling, &frame)?);
        let done = done(self.known.hook, object::run_either(self.twin()?, &frame)?);
        let expected = format!("{}: {}", verdict.name(), reason.name());
        let Explanation { verdict, reason, .. } = Explanation::of(manifest, decided);
        let mut got = format!("{verdict}: {reason}");
        let due = match Verdict::from_number(decided.verdict()) {
            Verdict::Pass => "passes",
            Verdict::Reset | Verdict::Notice if self.constants.answers => "is answered",
            Verdict::Drop | Verdict::Reset | Verdict::Notice => "is dropped",
        };
        if done != due {
            got += &format!(", but it {done}");
        }
        let by_host = explain::on_the_host(self.tables, self.constants, &frame);
        if by_host != decided {
            let other = Explanation::of(manifest, by_host);
            got += &format!(", but by the policy's tables {}: {}", other.verdict, other.reason);
        }
        let tried = Tried { syn: *syn, through: through.name() };
        Ok((Line::new(self.known, name, Some(tried), expected, got), reason != "other"))
    }

    /// Frames that the twin has counted for itself.
    fn counted(&self) -> Result<u64> {
        let map = self.twin.map(object::COUNTERS).context("the object has no counters")?;
        let counters = PerCpuArray::try_from(map)?;
        let groups = 0..=op25b_ebpf::abi::GROUPS as u32;
        Ok(counters::nonzero(&counters, groups)?.iter().map(|(_, count)| count.packets).sum())
    }
}

/// The kernel's numbers of a program's maps.
fn maps(program: &ProgramInfo) -> Result<BTreeSet<u32>> {
    let maps = program
        .map_ids()
        .map_err(|error| No::Input(format!("cannot ask for a program's maps ({error}); run it as root")))?;
    Ok(maps.unwrap_or_default().into_iter().collect())
}

/// What a program did with a frame, by what it returned (linux/bpf.h, linux/pkt_cls.h).
const fn done(hook: Hook, returned: u32) -> &'static str {
    match (hook, returned.cast_signed()) {
        (Hook::Xdp, 2) | (Hook::Tcx | Hook::Clsact, -1) => "passes",
        (Hook::Xdp, 1) | (Hook::Tcx | Hook::Clsact, 2) => "is dropped",
        (Hook::Xdp, 3) | (Hook::Tcx | Hook::Clsact, 7) => "is answered",
        _ => "meets something else",
    }
}
