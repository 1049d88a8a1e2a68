//! The filter and an empty program, in the kernel.

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    programs::{Program, TestRun as _, TestRunOptions, Xdp},
};
use op25b::{
    object::{self, Build, Constants, Maps, program},
    tables::Tables,
};
use op25b_ebpf::{
    abi::{Link, Role, Softwire},
    cookie::Keys,
    source::{KEPT, OPENED},
};

use crate::{
    frames::{Ipv4, Tcp},
    paths::Stage,
    policy,
};

static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-bench"));

/// What is loaded.
pub(crate) struct Policy {
    pub(crate) action: &'static str,
    pub(crate) accounts: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { action: "drop", accounts: true }
    }
}

fn created(tables: &Tables, role: Role, accounts: bool, globals: &[(&str, &[u8])]) -> Result<Ebpf> {
    let constants = Constants {
        seed: 25,
        submission: true,
        answers: true,
        accounts,
        softwire: Softwire::Inner,
        cookie_keys: Keys::unchanged([1, 2]),
        ..Constants::bare(role, Link::Ethernet)
    };
    object::create_from(&Build { bytes: BENCH, globals, sources: KEPT }, tables, constants, Maps::Own)
}

fn xdp<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let Some(Program::Xdp(program)) = object.program(name) else { bail!("the object has no program {name}") };
    Ok(program)
}

/// Nanoseconds that a program takes for a frame, so many times.
fn timed(object: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<f64> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
    Ok(xdp(object, name)?.test_run(options)?.duration.as_nanos() as f64)
}

/// Bytes of an instruction.
const INSTRUCTION: u32 = 8;

/// The filter with everything that a policy can ask for compiled in.
pub(crate) struct Loaded {
    object: Ebpf,
}

impl Loaded {
    pub(crate) fn new(policy: &Policy) -> Result<Self> {
        let text = format!(
            "version: 1
operator: Internet Kurume
interfaces: {{customer: [eth1], upstream: [eth1]}}
relays: [{{name: post, addresses: [192.0.2.25, \"2001:db8:25::25\"]}}]
customers:
  - {{name: residential, prefixes: [10.0.0.0/8, \"2001:db8:1000::/36\"], mode: enforce, action: {}, return_path: enforce}}
  - {{name: later, prefixes: [203.0.113.0/24], mode: monitor}}
exemptions: [{{prefixes: [10.0.1.0/24], reason: a static plan}}]
unknown_sources: pass
notice: {{text: {}}}
",
            policy.action,
            "x".repeat(110)
        );
        let mut object = created(&policy::tables(&text)?, Role::BOTH, policy.accounts, &[])?;
        object::load(&mut object, program::XDP)?;
        object::load(&mut object, program::PASS)?;
        Ok(Self { object })
    }

    /// Instructions of the filter as the kernel holds it, and how many the verifier looked at.
    pub(crate) fn instructions(&self) -> Result<[u32; 2]> {
        let info = xdp(&self.object, program::XDP)?.info()?;
        let held = info.size_translated().context("the kernel does not say how long the program is")?;
        let seen = info.verified_instruction_count().context("nor what was verified")?;
        Ok([held / INSTRUCTION, seen])
    }

    /// What the filter returns for a frame.
    pub(crate) fn returns(&self, frame: &[u8]) -> Result<u32> {
        object::run(xdp(&self.object, program::XDP)?, frame)
    }

    /// Nanoseconds for a frame, many times over: of the filter, or of an empty program.
    pub(crate) fn repeated(&self, ours: bool, frame: &[u8]) -> Result<f64> {
        timed(&self.object, if ours { program::XDP } else { program::PASS }, frame, 1_000_000)
    }

    /// The same, once.
    pub(crate) fn once(&self, ours: bool, frame: &[u8]) -> Result<f64> {
        timed(&self.object, if ours { program::XDP } else { program::PASS }, frame, 1)
    }

    /// The frame of a conversation's stage; what the filter answered before it is in it.
    pub(crate) fn staged(&self, stage: Stage) -> Result<Vec<u8>> {
        let Stage::Opened = stage else { return Ok(stage.frame(0)) };
        let mut made = vec![0; 512];
        let opening = Stage::Opening.frame(0);
        let options =
            TestRunOptions { data_in: Some(&opening), data_out: Some(&mut made), ..Default::default() };
        xdp(&self.object, program::XDP)?.test_run(options)?;
        let cookie: [u8; 4] =
            made.get(38..42).and_then(|bytes| bytes.try_into().ok()).context("no answer")?;
        Ok(stage.frame(u32::from_be_bytes(cookie).wrapping_add(1)))
    }
}

/// Blocked frames of many sources under many prefixes.
#[derive(Clone, Copy)]
pub(crate) struct Spreading {
    pub(crate) prefixes: u32,
    pub(crate) groups: usize,
    pub(crate) sources: u32,
    /// As far apart as the prefixes reach, and no neighbours.
    pub(crate) far_apart: bool,
    pub(crate) accounts: bool,
    /// Every frame another SYN.
    pub(crate) attempts: bool,
    /// And to another server.
    pub(crate) servers: bool,
}

const FILTER: &str = "bench_spread";
const FLOOR: &str = "bench_spread_floor";

/// The same in the kernel.
pub(crate) struct Running {
    object: Ebpf,
    frame: Vec<u8>,
}

impl Spreading {
    /// Loads it.
    pub(crate) fn load(&self) -> Result<Running> {
        ensure!(
            self.sources <= policy::covered(self.prefixes),
            "{} sources are not all customers",
            self.sources
        );
        let text = policy::text(&policy::prefixes(self.prefixes)?, self.groups, "eth1", self.accounts);
        let (count, attempts) = (self.sources.to_ne_bytes(), [u8::from(self.attempts)]);
        let servers = [u8::from(self.servers)];
        let stride = if self.far_apart { policy::covered(self.prefixes) / self.sources } else { 1 };
        let stride = stride.to_ne_bytes();
        let globals: [(&str, &[u8]); 4] = [
            ("SOURCE_COUNT", &count),
            ("ATTEMPTS", &attempts),
            ("SERVERS_VARY", &servers),
            ("STRIDE", &stride),
        ];
        let mut object = created(&policy::tables(&text)?, Role::CUSTOMER, self.accounts, &globals)?;
        object::load(&mut object, FILTER)?;
        object::load(&mut object, FLOOR)?;
        let frame = Tcp::mail().within(Ipv4::new("10.0.0.1", "198.51.100.25")).frame();
        Ok(Running { object, frame })
    }
}

impl Running {
    /// Nanoseconds for a frame: of the filter, or of a program that drops.
    pub(crate) fn run(&self, ours: bool) -> Result<f64> {
        timed(&self.object, if ours { FILTER } else { FLOOR }, &self.frame, 1_000_000)
    }

    /// Whether what ran is what was to run: every frame blocked, every source with its account.
    pub(crate) fn check(&self, spreading: &Spreading) -> Result<()> {
        let returns = object::run(xdp(&self.object, FILTER)?, &self.frame)?;
        ensure!(returns == 1, "the filter returns {returns} for a frame of a customer");
        let opened: aya::maps::PerCpuArray<_, u64> = aya::maps::PerCpuArray::try_from(
            self.object.map(object::SOURCES_COUNTS).context("no map of accounts opened")?,
        )?;
        let opened: u64 = opened.get(&OPENED, 0)?.iter().sum();
        let due = if spreading.accounts { u64::from(spreading.sources) } else { 0 };
        ensure!(
            opened >= due * 9 / 10 && (due > 0 || opened == 0),
            "{opened} accounts were opened for {due} sources"
        );
        Ok(())
    }
}
