//! The embedded kernel object: created with a generation's tables and one interface's constants. The only place
//! that hands structures to the kernel.

use std::{fs, io::ErrorKind, path::Path, sync::OnceLock};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Map, MapError},
    programs::{Program, ProgramError, TestRun, TestRunOptions, TestRunResult},
    util::KernelVersion,
};
use nix::libc;
use op25b_ebpf::{
    abi::{self, Count, Link, Role, Server, Softwire},
    cookie::Keys,
    frame::Sight,
    reply::Text,
    source::{Account, Details, KEPT, WAYS},
    table::{Line4, Line6, Root},
};

use crate::{
    bulk,
    clock::{self, Jiffies},
    document::IdentifyBy,
    policy::Policy,
    tables::Tables,
};

/// The object as it was built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-kernel"));
/// What reads the kernel's jiffies.
static CLOCK: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-clock"));

/// A structure of the ABI, as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Wire<T: Copy>(
    /// The structure.
    pub T,
);

// SAFETY: `repr(C)`, integers only, no padding: sizes are asserted where they are defined.
unsafe impl Pod for Wire<Line4> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Line6> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Server> {}
// SAFETY: as above.
unsafe impl Pod for Wire<abi::Group> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Root> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Count> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Account> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Details> {}
// SAFETY: as above.
unsafe impl Pod for Wire<Text> {}
// SAFETY: integers only.
unsafe impl Pod for Wire<Keys> {}
// SAFETY: integers only.
unsafe impl Pod for Wire<[u64; 2]> {}

/// What a generation fixes for one interface.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// What its frames start with.
    pub link: Link,
    /// Whose packets are judged.
    pub role: Role,
    /// IPv4 in IPv6.
    pub softwire: Softwire,
    /// Whether submission is counted: SYNs to the relays' ports 587 and 465.
    pub submission: bool,
    /// Whether sources are accounted for.
    pub accounts: bool,
    /// Of the places of accounts and the hashes of destinations and SYNs, the same as long as accounts are kept.
    pub seed: u64,
    /// Whether blocked frames are answered where the group says so.
    pub answers: bool,
    /// Whether the notice ends the conversation.
    pub hangs_up: bool,
    /// The secrets of the sequence numbers in answers.
    pub cookie_keys: Keys,
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
        Self {
            softwire,
            submission: policy.outputs.count_submission,
            accounts: policy.outputs.account_sources,
            hangs_up: policy.notice.as_ref().is_some_and(|notice| notice.hangs_up),
            ..Self::bare(role, link)
        }
    }

    /// The same under a policy that asks for nothing more.
    #[must_use]
    pub const fn bare(role: Role, link: Link) -> Self {
        Self {
            link,
            role,
            softwire: Softwire::Closed,
            submission: false,
            accounts: true,
            seed: 0,
            answers: false,
            hangs_up: false,
            cookie_keys: Keys::unchanged([0; 2]),
            trace: false,
        }
    }

    /// The same for the core on the host.
    #[must_use]
    pub const fn sight(self) -> Sight {
        Sight { link: self.link, role: self.role, softwire: self.softwire, submission: self.submission }
    }
}

/// Where the maps of an object live.
#[derive(Clone, Copy, Debug)]
pub enum Maps<'a> {
    /// With the object alone: for `explain --policy` and tests.
    Own,
    /// Pinned: `tables` are a generation's, made by its first interface; `counters` are the interface's and `sources`
    /// the instance's, and outlive generations.
    Pinned {
        /// Directory of the tables.
        tables: &'a Path,
        /// Directory of the counters.
        counters: &'a Path,
        /// Directory of the sources' accounts.
        sources: &'a Path,
    },
    /// A generation's tables as they are pinned there, and all that is written to with the object alone.
    Scratch {
        /// Directory of the tables.
        tables: &'a Path,
    },
}

impl<'a> Maps<'a> {
    /// Where the tables are pinned.
    const fn tables(self) -> Option<&'a Path> {
        match self {
            Self::Own => None,
            Self::Pinned { tables, .. } | Self::Scratch { tables } => Some(tables),
        }
    }
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
    /// Reads the kernel's jiffies; in an object of its own.
    pub const CLOCK: &str = "op25b_clock";
    /// Passes everything; the floor of measurements.
    pub const PASS: &str = "op25b_pass";

    /// Whether this kernel takes frames of several buffers.
    #[must_use]
    pub fn multi_buffer() -> bool {
        super::KernelVersion::current().is_ok_and(|kernel| kernel >= super::KernelVersion::new(5, 18, 0))
    }
}

/// The tables of a generation, which no program writes to, and the ring of what it logs.
pub const TABLES: [&str; 8] = [
    "CUSTOMERS4",
    "CUSTOMERS6",
    "SERVERS4",
    "SERVERS6",
    "SERVERS",
    "CUSTOMER_GROUPS",
    "NOTICE_TEXTS",
    "AYA_LOGS",
];
/// The table that is pinned last.
const FILLED: &str = TABLES[0];
/// The map of [`Count`] cells.
pub const COUNTERS: &str = "COUNTERS";
/// The map of how judged frames were seen.
pub const SEEN: &str = "SEEN";
/// The map of how all frames were seen while sampling.
pub const SAMPLED: &str = "SAMPLED";
/// What became of frames that were to be answered.
pub const REPLIES: &str = "REPLIES";
/// The map of the sources' accounts.
pub const SOURCES: &str = "SOURCES";
/// What else is kept of each.
pub const SOURCES_DETAILS: &str = "SOURCES_DETAILS";
/// How many accounts were ever opened, and made room for others.
pub const SOURCES_COUNTS: &str = "SOURCES_COUNTS";
/// Where the kernel's events arrive.
pub const EVENTS: &str = "EVENTS";
/// How many dropped frames one is told of for a capture.
pub const CAPTURE: &str = "CAPTURE";
/// What outlives generations and is an interface's.
pub const OF_INTERFACE: [&str; 4] = [COUNTERS, SEEN, SAMPLED, REPLIES];
/// What outlives generations and is the instance's.
pub const OF_INSTANCE: [&str; 5] = [SOURCES, SOURCES_DETAILS, SOURCES_COUNTS, EVENTS, CAPTURE];
/// Accounts that an object alone has room for: it is asked, and not attached.
const SOURCES_ALONE: u32 = 1 << 10;

/// Creates the maps, fills the tables where they are new, and relocates the programs. Loads and attaches none.
///
/// # Errors
///
/// When the kernel refuses, with what it refused.
pub fn create(tables: &Tables, constants: Constants, maps: Maps<'_>) -> Result<Ebpf> {
    create_from(&Build { bytes: OBJECT, globals: &[], sources: SOURCES_ALONE }, tables, constants, maps)
}

/// An object that contains the filter.
pub struct Build<'a> {
    /// As it was built.
    pub bytes: &'a [u8],
    /// Constants of its own.
    pub globals: &'a [(&'a str, &'a [u8])],
    /// Accounts of sources that there is room for, where they are not pinned: [`WAYS`] times a power of two.
    pub sources: u32,
}

/// The same of another object: a benchmark's.
///
/// # Errors
///
/// As of [`create`].
pub fn create_from(build: &Build<'_>, tables: &Tables, constants: Constants, maps: Maps<'_>) -> Result<Ebpf> {
    let level = if constants.trace { aya_log::Level::Debug as u8 } else { 0 };
    let (link, role, softwire) = (constants.link as u8, constants.role.0, constants.softwire as u8);
    let multi_buffer = u8::from(program::multi_buffer());
    let jiffies = jiffies()?;
    let (submission, accounts) = (u8::from(constants.submission), u8::from(constants.accounts));
    let (answers, hangs_up) = (u8::from(constants.answers), u8::from(constants.hangs_up));
    let (epoch, cookie_keys) = (clock::epoch()?, Wire(constants.cookie_keys));
    let block_unknown = u8::from(tables.block_unknown);
    let roots = [
        Wire(tables.customers4.root),
        Wire(tables.customers6.root),
        Wire(tables.servers4.root),
        Wire(tables.servers6.root),
    ];
    // Pinned ones have the size that the object says.
    let sources = if matches!(maps, Maps::Pinned { .. }) { KEPT } else { build.sources };
    let last_set = sources / WAYS - 1;
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(aya_log::LEVEL, &level, true)
        .override_global("LINK", &link, true)
        .override_global("ROLE", &role, true)
        .override_global("SOFTWIRE", &softwire, true)
        .override_global("MULTI_BUFFER", &multi_buffer, true)
        .override_global("BLOCK_UNKNOWN", &block_unknown, true)
        .override_global("SUBMISSION", &submission, true)
        .override_global("ACCOUNTS", &accounts, true)
        .override_global("JIFFY", &jiffies.length, true)
        .override_global("JIFFIES_BEGAN", &jiffies.began, true)
        .override_global("EPOCH", &epoch, true)
        .override_global("SEED", &constants.seed, true)
        .override_global("LAST_SET", &last_set, true)
        .override_global("ANSWERS", &answers, true)
        .override_global("HANGS_UP", &hangs_up, true)
        .override_global("COOKIE_KEYS", &cookie_keys, true)
        .override_global("CUSTOMERS4_ROOT", &roots[0], true)
        .override_global("CUSTOMERS6_ROOT", &roots[1], true)
        .override_global("SERVERS4_ROOT", &roots[2], true)
        .override_global("SERVERS6_ROOT", &roots[3], true);
    let sizes = sizes(tables);
    for size in &sizes {
        loader.map_max_entries(size.name, u32::try_from(size.entries)?);
    }
    let pinned = maps.tables().filter(|tables| tables.join(FILLED).exists());
    if let Some(tables) = pinned {
        for name in TABLES {
            loader.map_pin_path(name, tables.join(name));
        }
    }
    match maps {
        Maps::Pinned { counters, sources, .. } => {
            for name in OF_INTERFACE {
                loader.map_pin_path(name, counters.join(name));
            }
            for name in OF_INSTANCE {
                loader.map_pin_path(name, sources.join(name));
            }
        }
        Maps::Scratch { tables } if pinned.is_none() => {
            anyhow::bail!("{} is gone: the tables are not pinned any more", tables.display());
        }
        Maps::Own | Maps::Scratch { .. } => {
            loader.map_max_entries(SOURCES, sources);
            loader.map_max_entries(SOURCES_DETAILS, sources);
        }
    }
    for (name, value) in build.globals {
        loader.override_global(name, *value, true);
    }
    let object = loader.load(build.bytes).map_err(|error| without_room(error, &sizes))?;
    if pinned.is_none() {
        fill(&object, tables)?;
        if let Maps::Pinned { tables, .. } = maps {
            pin(&object, tables)?;
        }
    }
    Ok(object)
}

/// Entries of a table's map and what they take.
struct Size {
    name: &'static str,
    entries: usize,
    bytes: usize,
}

fn sizes(tables: &Tables) -> [Size; 5] {
    fn size<T>(name: &'static str, values: &[T]) -> Size {
        Size { name, entries: values.len(), bytes: size_of_val(values) }
    }
    [
        size("CUSTOMERS4", &tables.customers4.lines),
        size("CUSTOMERS6", &tables.customers6.lines),
        size("SERVERS4", &tables.servers4.lines),
        size("SERVERS6", &tables.servers6.lines),
        size("SERVERS", &tables.servers),
    ]
}

/// Names the table that the kernel has no memory for, its size and the cure.
fn without_room(error: EbpfError, sizes: &[Size]) -> anyhow::Error {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = &error
        && let Some(size) = sizes.iter().find(|size| size.name == name.as_str())
        && matches!(io_error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG | libc::EPERM))
    {
        let Size { name, entries, bytes } = size;
        return anyhow::anyhow!(
            "the kernel has no memory for table {name}: {entries} entries, {} KiB ({io_error}); raise the limit \
             (systemd: MemoryMax=, before Linux 5.11 LimitMEMLOCK=infinity) or write fewer prefixes",
            bytes.div_ceil(1024)
        );
    }
    anyhow::Error::new(error).context("the kernel does not take op25b's maps")
}

/// Pins filled tables. The one that tells a later run so comes last: a crash on the way leaves none to be trusted.
fn pin(object: &Ebpf, directory: &Path) -> Result<()> {
    for name in TABLES.into_iter().filter(|name| *name != FILLED).chain([FILLED]) {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let map = object.map(name).with_context(|| format!("the object has no map {name}"))?;
        map.pin(&path).with_context(|| format!("cannot pin table {}", path.display()))?;
    }
    Ok(())
}

fn fill(object: &Ebpf, tables: &Tables) -> Result<()> {
    array(object, "CUSTOMERS4", &tables.customers4.lines)?;
    array(object, "CUSTOMERS6", &tables.customers6.lines)?;
    array(object, "SERVERS4", &tables.servers4.lines)?;
    array(object, "SERVERS6", &tables.servers6.lines)?;
    array(object, "SERVERS", &tables.servers)?;
    array(object, "CUSTOMER_GROUPS", &tables.groups)?;
    array(object, "NOTICE_TEXTS", &tables.texts)
}

fn array<T: Copy>(object: &Ebpf, name: &str, values: &[T]) -> Result<()>
where
    Wire<T>: Pod,
{
    let Some(Map::Array(map)) = object.map(name) else { anyhow::bail!("the object has no array {name}") };
    bulk::write(map, values).with_context(|| format!("cannot fill map {name}"))
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

/// How the kernel counts its jiffies: asked once, so that all interfaces and generations tell the same time.
fn jiffies() -> Result<Jiffies> {
    static JIFFIES: OnceLock<Jiffies> = OnceLock::new();
    if let Some(jiffies) = JIFFIES.get() {
        return Ok(*jiffies);
    }
    let jiffies = count_jiffies().context("cannot find out how the kernel counts time")?;
    // Another thread may have been first: its answer is everybody's.
    Ok(*JIFFIES.get_or_init(|| jiffies))
}

fn count_jiffies() -> Result<Jiffies> {
    // The kernel's types are not asked for.
    let mut object = EbpfLoader::new().btf(None).load(CLOCK)?;
    let Program::SchedClassifier(program) = load(&mut object, program::CLOCK)? else {
        anyhow::bail!("program {} is of another kind", program::CLOCK);
    };
    Jiffies::measure(|| {
        let mut frame = [0; 64];
        let options =
            TestRunOptions { data_in: Some(&[0; 64]), data_out: Some(&mut frame), ..Default::default() };
        program.test_run(options).context("cannot run the program that reads the kernel's clock")?;
        let count = frame.first_chunk().context("the frame has no room for a count")?;
        Ok(u64::from_ne_bytes(*count))
    })
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

/// The same of a program of either hook.
///
/// # Errors
///
/// As of [`run`], or when the program is of neither.
pub fn run_either(program: &Program, frame: &[u8]) -> Result<u32> {
    match program {
        Program::Xdp(program) => run(program, frame),
        Program::SchedClassifier(program) => run(program, frame),
        other => anyhow::bail!("a program of another kind: {:?}", other.prog_type()),
    }
}
