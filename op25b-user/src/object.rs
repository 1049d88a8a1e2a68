//! The embedded kernel object: created with a generation's tables and one interface's constants. The only place
//! that hands structures to the kernel.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, MapData},
    programs::{Program, ProgramError, TestRun, TestRunOptions, TestRunResult},
    util::KernelVersion,
};
use op25b_ebpf::{
    abi::{self, Count, Link, Range4, Range6, Role, Server, Softwire},
    frame::Sight,
    ranges::Shape,
};

use crate::{
    document::IdentifyBy,
    policy::Policy,
    tables::{Table, Tables},
};

/// The object as it was built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-kernel"));

/// A structure of the ABI, as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Wire<T: Copy>(
    /// The structure.
    pub T,
);

// SAFETY: `repr(C)`, integers only, no padding: sizes are asserted in the ABI.
unsafe impl Pod for Wire<Range4> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Range6> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Server> {}
// SAFETY: as above.
unsafe impl Pod for Wire<abi::Group> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Shape> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Count> {}

/// What a generation fixes for one interface.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// What its frames start with.
    pub link: Link,
    /// Whose packets are judged.
    pub role: Role,
    /// IPv4 in IPv6.
    pub softwire: Softwire,
    /// Whether judged frames are logged in the kernel.
    pub trace: bool,
}

impl Constants {
    /// An interface of this kind and role under a policy.
    #[must_use]
    pub fn new(policy: &Policy, role: Role, link: Link) -> Self {
        let softwire = match policy.softwire {
            None => Softwire::Closed,
            Some(IdentifyBy::Outer) => Softwire::Outer,
            Some(IdentifyBy::Inner) => Softwire::Inner,
        };
        Self { link, role, softwire, trace: false }
    }

    /// The same for the core on the host.
    #[must_use]
    pub const fn sight(self) -> Sight {
        Sight { link: self.link, role: self.role, softwire: self.softwire }
    }
}

/// Where the maps of an object live.
#[derive(Clone, Copy, Debug)]
pub enum Maps<'a> {
    /// With the object alone: for `explain --policy` and tests.
    Own,
    /// Pinned: `tables` are a generation's, made by its first interface; `counters` are the interface's, and outlive
    /// generations.
    Pinned {
        /// Directory of the tables.
        tables: &'a Path,
        /// Directory of the counters.
        counters: &'a Path,
    },
}

/// A BPF program's name in the object.
pub mod program {
    /// Attached to an interface on kernels before multi-buffer frames.
    pub const XDP: &str = "op25b_xdp";
    /// Attached to an interface, takes frames of several buffers (Linux 5.18).
    pub const XDP_FRAGS: &str = "op25b_xdp_frags";
    /// Attached to the TC hook.
    pub const TC: &str = "op25b_tc";
    /// Answers what would happen; never attached.
    pub const EXPLAIN: &str = "op25b_explain";
    /// The same, for the TC hook.
    pub const EXPLAIN_TC: &str = "op25b_explain_tc";
    /// [`XDP`], counting how each frame was seen.
    pub const SAMPLE_XDP: &str = "op25b_sample_xdp";
    /// [`XDP_FRAGS`], counting how each frame was seen.
    pub const SAMPLE_FRAGS: &str = "op25b_sample_frags";
    /// [`TC`], counting how each frame was seen.
    pub const SAMPLE_TC: &str = "op25b_sample_tc";
    /// Passes everything; the floor of measurements.
    pub const PASS: &str = "op25b_pass";

    /// Whether this kernel takes frames of several buffers.
    #[must_use]
    pub fn multi_buffer() -> bool {
        super::KernelVersion::current().is_ok_and(|kernel| kernel >= super::KernelVersion::new(5, 18, 0))
    }
}

const TABLES: [&str; 11] = [
    "CUSTOMERS4",
    "CUSTOMERS4_INDEX",
    "CUSTOMERS6",
    "CUSTOMERS6_INDEX",
    "SERVERS4",
    "SERVERS4_INDEX",
    "SERVERS6",
    "SERVERS6_INDEX",
    "SERVERS",
    "CUSTOMER_GROUPS",
    "AYA_LOGS",
];
/// The map of [`Count`] cells.
pub const COUNTERS: &str = "COUNTERS";
/// The map of how judged frames were seen.
pub const SEEN: &str = "SEEN";
/// The map of how all frames were seen while sampling.
pub const SAMPLED: &str = "SAMPLED";

/// Creates the maps, fills the tables where they are new, and relocates the programs. Loads and attaches none.
///
/// # Errors
///
/// When the kernel refuses, with what it refused.
pub fn create(tables: &Tables, constants: Constants, maps: Maps<'_>) -> Result<Ebpf> {
    let level = if constants.trace { aya_log::Level::Debug as u8 } else { 0 };
    let (link, role, softwire) = (constants.link as u8, constants.role.0, constants.softwire as u8);
    let multi_buffer = u8::from(program::multi_buffer());
    let block_unknown = u8::from(tables.block_unknown);
    let shapes = [
        Wire(tables.customers4.shape),
        Wire(tables.customers6.shape),
        Wire(tables.servers4.shape),
        Wire(tables.servers6.shape),
    ];
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(aya_log::LEVEL, &level, true)
        .override_global("LINK", &link, true)
        .override_global("ROLE", &role, true)
        .override_global("SOFTWIRE", &softwire, true)
        .override_global("MULTI_BUFFER", &multi_buffer, true)
        .override_global("BLOCK_UNKNOWN", &block_unknown, true)
        .override_global("CUSTOMERS4_SHAPE", &shapes[0], true)
        .override_global("CUSTOMERS6_SHAPE", &shapes[1], true)
        .override_global("SERVERS4_SHAPE", &shapes[2], true)
        .override_global("SERVERS6_SHAPE", &shapes[3], true);
    for (name, length) in [
        ("CUSTOMERS4", tables.customers4.ranges.len()),
        ("CUSTOMERS4_INDEX", tables.customers4.index.len()),
        ("CUSTOMERS6", tables.customers6.ranges.len()),
        ("CUSTOMERS6_INDEX", tables.customers6.index.len()),
        ("SERVERS4", tables.servers4.ranges.len()),
        ("SERVERS4_INDEX", tables.servers4.index.len()),
        ("SERVERS6", tables.servers6.ranges.len()),
        ("SERVERS6_INDEX", tables.servers6.index.len()),
        ("SERVERS", tables.servers.len()),
    ] {
        loader.map_max_entries(name, u32::try_from(length)?);
    }
    let mut fresh = true;
    if let Maps::Pinned { tables, counters } = maps {
        fresh = !tables.join(TABLES[0]).exists();
        for name in TABLES {
            loader.map_pin_path(name, tables.join(name));
        }
        for name in [COUNTERS, SEEN, SAMPLED] {
            loader.map_pin_path(name, counters.join(name));
        }
    }
    let mut object = loader.load(OBJECT).context("the kernel does not take op25b's maps")?;
    if fresh {
        fill(&mut object, tables)?;
    }
    Ok(object)
}

fn fill(object: &mut Ebpf, tables: &Tables) -> Result<()> {
    table(object, "CUSTOMERS4", "CUSTOMERS4_INDEX", &tables.customers4)?;
    table(object, "CUSTOMERS6", "CUSTOMERS6_INDEX", &tables.customers6)?;
    table(object, "SERVERS4", "SERVERS4_INDEX", &tables.servers4)?;
    table(object, "SERVERS6", "SERVERS6_INDEX", &tables.servers6)?;
    array(object, "SERVERS", tables.servers.iter().map(|server| Wire(*server)))?;
    array(object, "CUSTOMER_GROUPS", tables.groups.iter().map(|group| Wire(*group)))
}

fn table<R: Copy>(object: &mut Ebpf, ranges: &str, index: &str, table: &Table<R>) -> Result<()>
where
    Wire<R>: Pod,
{
    array(object, ranges, table.ranges.iter().map(|range| Wire(*range)))?;
    array(object, index, table.index.iter().copied())
}

fn array<V: Pod>(object: &mut Ebpf, name: &str, values: impl Iterator<Item = V>) -> Result<()> {
    let map = object.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    let mut array: Array<&mut MapData, V> = Array::try_from(map)?;
    for (position, value) in values.enumerate() {
        array
            .set(u32::try_from(position)?, value, 0)
            .with_context(|| format!("cannot fill entry {position} of map {name}"))?;
    }
    Ok(())
}

/// Loads one program of the object into the kernel.
///
/// # Errors
///
/// When the verifier or the kernel refuses it.
pub fn load<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    let program = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => anyhow::bail!("program {name} is of another kind: {:?}", other.prog_type()),
    }
    .map_err(explained)
    .with_context(|| format!("the kernel does not take program {name}"))?;
    Ok(program)
}

/// Shortens the verifier's log to its last lines: the reason is there.
fn explained(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines = log.lines().rev().filter(|line| !line.is_empty()).take(6).collect::<Vec<_>>();
            let tail = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
            anyhow::Error::new(io_error).context(format!("verifier: {tail}"))
        }
        other => other.into(),
    }
}

/// Runs a program on one frame and returns what it returned.
///
/// # Errors
///
/// When the kernel refuses the frame: it takes 14 bytes and more.
pub fn run(
    program: &impl for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
    frame: &[u8],
) -> Result<u32> {
    let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
    Ok(program.test_run(options).context("cannot run the program on a frame")?.return_value)
}
