//! The ways a frame can go: the host's functions and the loaded kernel programs, under one lab policy in variants.
#![allow(dead_code, reason = "each test binary goes its own ways")]
#![allow(clippy::expect_used, clippy::panic, reason = "a lab that cannot be set up fails the test")]

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Map, PerCpuArray},
    programs::{Program, TestRun as _, TestRunOptions, TestRunResult},
    util::KernelVersion,
};
use op25b::{
    document,
    object::{self, Constants, Maps, Wire, program},
    policy::{Override, Policy},
    situation::Situation,
    sources::kept,
    tables::Tables,
};
use op25b_ebpf::{
    abi::{Answer, CELLS, CELLS_OF_GROUP, Count, Link, Role, Softwire},
    address::Family,
    found::Outcome,
    frame::{self, Sight},
    reply::REPLIES,
    source::{Key, OPENED, Source},
    verdict::{self, Decision, Flow, Reason, Verdict},
};

/// The lab's policy, less its last lines. All prefixes are from the documentation ranges (RFC 5737, RFC 3849).
const POLICY: &str = include_str!("policy.yaml");

/// How the lab's policy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Variant {
    /// `unknown_sources: pass`, no softwire.
    Pass,
    /// `unknown_sources: block`.
    Block,
    /// `softwire: {identify_by: outer}`.
    Outer,
    /// `softwire: {identify_by: inner}`.
    Inner,
}

impl Variant {
    pub(crate) const ALL: [Self; 4] = [Self::Pass, Self::Block, Self::Outer, Self::Inner];

    const fn ending(self) -> &'static str {
        match self {
            Self::Pass => "unknown_sources: pass\n",
            Self::Block => "unknown_sources: block\n",
            Self::Outer => "unknown_sources: pass\nsoftwire: {}\n",
            Self::Inner => "unknown_sources: pass\nsoftwire: {identify_by: inner}\n",
        }
    }

    const fn softwire(self) -> Softwire {
        match self {
            Self::Pass | Self::Block => Softwire::Closed,
            Self::Outer => Softwire::Outer,
            Self::Inner => Softwire::Inner,
        }
    }
}

/// A policy and an interface's role under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) variant: Variant,
    pub(crate) role: Role,
}

impl Setting {
    /// Every setting that a policy file can bring about: `unknown_sources: block` is refused with both roles.
    pub(crate) fn all() -> Vec<Self> {
        let roles = [Role::CUSTOMER, Role::UPSTREAM, Role::BOTH];
        let every = Variant::ALL
            .into_iter()
            .flat_map(|variant| roles.into_iter().map(move |role| Self { variant, role }));
        every.filter(|setting| setting.variant != Variant::Block || setting.role != Role::BOTH).collect()
    }

    pub(crate) const fn sight(self, link: Link) -> Sight {
        Sight { link, role: self.role, softwire: self.variant.softwire(), submission: false }
    }

    /// As failures name it.
    pub(crate) fn name(self) -> String {
        let role = match self.role {
            Role::CUSTOMER => "customer",
            Role::UPSTREAM => "upstream",
            _ => "both roles",
        };
        format!("{role}, {:?}", self.variant).to_lowercase()
    }
}

/// A policy compiled for the lab.
#[derive(Debug)]
pub(crate) struct Office {
    pub(crate) policy: Policy,
    pub(crate) tables: Tables,
}

impl Office {
    /// The lab's policy in one variant, the way the daemon reads it.
    pub(crate) fn open(variant: Variant) -> Self {
        Self::of(&format!("{POLICY}{}", variant.ending()))
    }

    /// Any policy.
    pub(crate) fn of(text: &str) -> Self {
        let document = document::parse(text, "lab.yaml").expect("the lab's policy is of the right shape");
        let policy = Policy::from_document(document, "lab.yaml", text, &Override::default())
            .expect("the lab's policy is valid");
        let number = |name: &str| number(&policy, name);
        let tables =
            Tables::compile(&policy, &Situation::default(), number).expect("the lab's tables are small");
        Self { policy, tables }
    }

    /// The number that a group's counters have.
    pub(crate) fn group(&self, name: Option<&str>) -> u32 {
        name.map_or(0, |name| number(&self.policy, name))
    }

    /// A relay's number, from 1.
    pub(crate) fn relay(&self, name: Option<&str>) -> u32 {
        name.map_or(0, |name| {
            let position = self.policy.relays.iter().position(|relay| relay.name == name);
            position.unwrap_or_else(|| panic!("the lab has no relay {name}")) as u32 + 1
        })
    }

    /// "In no group" and every group.
    pub(crate) fn groups(&self) -> Vec<u32> {
        let numbers = self.policy.groups.iter().map(|group| number(&self.policy, &group.name));
        std::iter::once(0).chain(numbers).collect()
    }

    /// What the host's functions say of a frame.
    pub(crate) fn judge(&self, setting: Setting, link: Link, frame: &[u8]) -> Seen {
        let found = frame::parse(&frame, setting.sight(link));
        let outcome = found.outcome().expect("every walk ends in a named outcome");
        if !found.is_judged() {
            return Seen { outcome, decision: Decision::OTHER, family: Family::Ipv4 };
        }
        let flow = Flow::read(&frame, found).expect("the addresses of a judged frame can be read");
        let decision = verdict::decide(&flow, setting.role, &self.tables);
        Seen { outcome, decision, family: flow.customer.family }
    }
}

/// Groups keep the numbers that their counters once got: neither from 1 nor in order.
fn number(policy: &Policy, name: &str) -> u32 {
    let position = policy.groups.iter().position(|group| group.name == name);
    200 - 7 * position.unwrap_or_else(|| panic!("the lab has no group {name}")) as u32
}

/// What one way said of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) decision: Decision,
    /// Of the customer's address, where the frame is judged.
    pub(crate) family: Family,
}

impl Seen {
    /// The same as a sibling program says it.
    pub(crate) const fn answer(&self) -> Answer {
        let Decision { reason, verdict, group, .. } = self.decision;
        Answer::new(verdict as u8, reason as u8, self.outcome as u8, group, self.decision.relay())
    }

    /// The counter cell that must move, if any: `other` is not counted.
    pub(crate) fn cell(&self) -> Option<u32> {
        (self.decision.reason != Reason::Other).then(|| self.decision.cell(self.family))
    }
}

/// A sibling's answer in words.
pub(crate) fn words(answer: Answer) -> String {
    format!(
        "{} {} ({}) group {} relay {}",
        Verdict::from_number(answer.verdict()).name(),
        answer.reason().map_or("no reason", Reason::name),
        answer.outcome().map_or("no outcome", Outcome::name),
        answer.group(),
        answer.relay(),
    )
}

/// A way through the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// As the summary calls it.
    pub(crate) name: &'static str,
    /// The program that is attached.
    pub(crate) program: &'static str,
    /// Its sibling that answers.
    pub(crate) explain: &'static str,
    /// What frames start with.
    pub(crate) link: Link,
    /// What the program returns for a frame that goes on.
    pub(crate) pass: u32,
    /// And for one that vanishes.
    pub(crate) drop: u32,
    /// The first kernel that has it.
    pub(crate) since: (u8, u8),
}

/// XDP_DROP and XDP_PASS.
const XDP: (u32, u32) = (1, 2);
/// TC_ACT_SHOT and TC_ACT_UNSPEC.
const TC: (u32, u32) = (2, u32::MAX);

/// Every way through the kernel.
pub(crate) const ENTRIES: [Entry; 4] = [
    Entry {
        name: "op25b_xdp",
        program: program::XDP,
        explain: program::EXPLAIN,
        link: Link::Ethernet,
        drop: XDP.0,
        pass: XDP.1,
        since: (5, 10),
    },
    Entry {
        name: "op25b_xdp_frags",
        program: program::XDP_FRAGS,
        explain: program::EXPLAIN,
        link: Link::Ethernet,
        drop: XDP.0,
        pass: XDP.1,
        since: (5, 18),
    },
    Entry {
        name: "op25b_tc",
        program: "op25b_tc",
        explain: "op25b_explain_tc",
        link: Link::Ethernet,
        drop: TC.0,
        pass: TC.1,
        since: (5, 10),
    },
    Entry {
        name: "op25b_tc on raw IP",
        program: "op25b_tc",
        explain: "op25b_explain_tc",
        link: Link::Ip,
        drop: TC.0,
        pass: TC.1,
        since: (5, 10),
    },
];

impl Entry {
    /// Whether this kernel has it.
    pub(crate) fn is_here(&self) -> bool {
        let since = KernelVersion::new(self.since.0, self.since.1, 0);
        KernelVersion::current().is_ok_and(|kernel| kernel >= since)
    }

    /// Whether a driver ever hands the program such a frame: several buffers are for programs that say so. A test
    /// run does not ask.
    pub(crate) fn never_meets(&self, frame: &[u8]) -> bool {
        frame.len() > PAGE && self.program == program::XDP
    }

    /// What the program returns for a verdict.
    pub(crate) const fn action(&self, verdict: Verdict) -> u32 {
        if matches!(verdict, Verdict::Pass) { self.pass } else { self.drop }
    }
}

/// What a test run may refuse: at TC less than the fixed header of an IP packet, at XDP less than a byte behind
/// Ethernet, and everywhere more than a page has room for.
pub(crate) const fn may_be_refused(entry: &Entry, frame: &[u8]) -> bool {
    let shortest = if entry.drop == TC.0 { 54 } else { 15 };
    frame.len() < shortest || frame.len() > PAGE
}

/// What fits into one buffer of a test run, less some room.
const PAGE: usize = 3500;

/// An object in the kernel, with a policy's tables and one interface's constants.
pub(crate) struct Kernel {
    object: Ebpf,
}

impl Kernel {
    /// Creates it and loads these programs.
    pub(crate) fn load(office: &Office, setting: Setting, link: Link, programs: &[&str]) -> Result<Self> {
        let softwire = setting.variant.softwire();
        Self::with(office, Constants { softwire, ..Constants::bare(setting.role, link) }, programs)
    }

    /// The same with any constants.
    pub(crate) fn with(office: &Office, constants: Constants, programs: &[&str]) -> Result<Self> {
        let mut object = object::create(&office.tables, constants, Maps::Own)?;
        for program in programs {
            object::load(&mut object, program)?;
        }
        Ok(Self { object })
    }

    /// Runs a program on a frame and returns what it returned.
    pub(crate) fn run(&self, program: &str, frame: &[u8]) -> Result<u32> {
        Ok(self
            .test_run(program, TestRunOptions { data_in: Some(frame), ..Default::default() })?
            .return_value)
    }

    /// The same, and what it made of the frame.
    pub(crate) fn run_into(&self, program: &str, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        self.run_for_frame(program, TestRunOptions { data_in: Some(frame), ..Default::default() })
    }

    /// Runs a program at the TC hook on a frame that the kernel has merged out of segments of so many bytes.
    pub(crate) fn run_merged(&self, program: &str, frame: &[u8], segment: u32) -> Result<(u32, Vec<u8>)> {
        // `gso_segs` and `gso_size` of a `__sk_buff`; the kernel takes no others but marks and times.
        let mut context = [0_u8; 192];
        for (at, value) in [(164, frame.len() as u32 / segment + 1), (176, segment)] {
            context.get_mut(at..at + 4).context("within it")?.copy_from_slice(&value.to_ne_bytes());
        }
        self.run_for_frame(
            program,
            TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..Default::default() },
        )
    }

    fn run_for_frame(&self, program: &str, options: TestRunOptions<'_>) -> Result<(u32, Vec<u8>)> {
        let mut made = vec![0; options.data_in.map_or(0, <[u8]>::len) + 512];
        let result = self.test_run(program, TestRunOptions { data_out: Some(&mut made), ..options })?;
        let (action, length) = (result.return_value, result.data_size_out as usize);
        made.truncate(length);
        Ok((action, made))
    }

    fn test_run(&self, program: &str, options: TestRunOptions<'_>) -> Result<TestRunResult> {
        Ok(match self.object.program(program).with_context(|| format!("no program {program}"))? {
            Program::Xdp(program) => program.test_run(options)?,
            Program::SchedClassifier(program) => program.test_run(options)?,
            _ => anyhow::bail!("{program} is of a kind that the lab cannot run"),
        })
    }

    /// What became of frames that were to be answered, by the number of the reply.
    pub(crate) fn replies(&self) -> Result<Vec<u64>> {
        let map = self.object.map("REPLIES").context("the object does not count replies")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        (0..REPLIES).map(|reply| Ok(counts.get(&reply, 0)?.iter().sum())).collect()
    }

    /// The accounts of sources, and how many were ever opened.
    pub(crate) fn accounts(&self) -> Result<(Vec<(Key, Source)>, u64)> {
        let opened = self.object.map(object::SOURCES_COUNTS).context("the object does not count accounts")?;
        let opened: PerCpuArray<_, u64> = PerCpuArray::try_from(opened)?;
        Ok((accounts(&self.object)?, opened.get(&OPENED, 0)?.iter().sum()))
    }

    /// One counter cell over all CPUs.
    pub(crate) fn cell(&self, number: u32) -> Result<Count> {
        let map = self.object.map("COUNTERS").context("the object has no counters")?;
        let counters: PerCpuArray<_, Wire<Count>> = PerCpuArray::try_from(map)?;
        Ok(counters.get(&number, 0)?.iter().fold(Count::default(), |sum, Wire(count)| Count {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
            attempts: sum.attempts + count.attempts,
        }))
    }

    /// The counter cells of these groups that are not zero: number, packets, bytes.
    pub(crate) fn cells(&self, groups: &[u32]) -> Result<Vec<(u32, u64, u64)>> {
        let map = self.object.map("COUNTERS").context("the object has no counters")?;
        let counters: PerCpuArray<_, Wire<Count>> = PerCpuArray::try_from(map)?;
        let mut cells = Vec::new();
        for number in groups.iter().flat_map(|group| group * CELLS_OF_GROUP..(group + 1) * CELLS_OF_GROUP) {
            let values = counters.get(&number, 0)?;
            let sum = values
                .iter()
                .fold((0, 0), |(packets, bytes), Wire(count)| (packets + count.packets, bytes + count.bytes));
            if sum != (0, 0) {
                cells.push((number, sum.0, sum.1));
            }
        }
        Ok(cells)
    }

    /// The same of every group there can be.
    pub(crate) fn all_cells(&self) -> Result<Vec<(u32, u64, u64)>> {
        self.cells(&(0..CELLS / CELLS_OF_GROUP).collect::<Vec<_>>())
    }
}

/// The accounts of sources that an object has.
pub(crate) fn accounts(object: &Ebpf) -> Result<Vec<(Key, Source)>> {
    let (Some(Map::Array(accounts)), Some(Map::Array(details))) =
        (object.map(object::SOURCES), object.map(object::SOURCES_DETAILS))
    else {
        anyhow::bail!("the object has no accounts");
    };
    Ok(kept(accounts, details)?.collect())
}

/// Says a line whether or not the test harness captures output.
pub(crate) fn say(line: &str) {
    use std::io::Write as _;
    // Nobody to tell when standard output is closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}
