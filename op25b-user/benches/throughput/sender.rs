//! Frames that the kernel sends itself: BPF_PROG_TEST_RUN with live frames (Linux 5.18).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, TestRun as _, TestRunAttrs, TestRunOptions},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    SOURCES,
    site::{OUTSIDE, Site},
};

pub(crate) static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-bench"));

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// SYNs to port 25, all of them blocked.
    Blocked,
    /// One in a hundred is for port 25.
    Hundredth,
    /// None is: what an edge router lives on.
    None,
}

impl Load {
    /// What readers call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Blocked => "All blocked",
            Self::Hundredth => "1 % blocked, the rest forwarded",
            Self::None => "Nothing blocked, all forwarded",
        }
    }

    /// The part that passes a filter.
    pub(crate) const fn passes(self) -> f64 {
        match self {
            Self::Blocked => 0.0,
            Self::Hundredth => 0.99,
            Self::None => 1.0,
        }
    }

    /// Every how many frames one is for port 25; zero: as the frame says.
    const fn every(self) -> u32 {
        match self {
            Self::Hundredth => 100,
            Self::Blocked | Self::None => 0,
        }
    }

    const fn port(self) -> u16 {
        if matches!(self, Self::Blocked) { 25 } else { 443 }
    }
}

/// How frames come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the other end of a veth, as XDP frames.
    Wire,
    /// Into the router's stack behind XDP, as skbs: generic XDP and a native program exclude each other.
    Stack,
}

impl Way {
    /// What readers call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Wire => "over veth",
            Self::Stack => "put into the stack",
        }
    }
}

/// Sends from one CPU into one port.
pub(crate) struct Sender<'a> {
    site: &'a Site,
    port: usize,
    way: Way,
    object: Ebpf,
    frame: Vec<u8>,
    /// Where it is sent from.
    index: u32,
}

/// What became of frames.
pub(crate) struct Sent {
    pub(crate) took: Duration,
    /// Came in at the router's port.
    pub(crate) processed: u64,
    /// Came out behind it.
    pub(crate) passed: u64,
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const SEND: &str = "bench_send";
/// Frames that the kernel handles at once.
const BATCH: u32 = 64;

impl<'a> Sender<'a> {
    pub(crate) fn new(site: &'a Site, port: usize, load: Load, way: Way) -> Result<Self> {
        let action = if way == Way::Wire { XDP_TX } else { XDP_PASS };
        let (every, count) = (load.every(), SOURCES);
        let to = ethernet(&site.address("router", &Site::port(port))?)?;
        let mut object = EbpfLoader::new()
            .override_global("SENT_TO", &to, true)
            .override_global("SENT_BY", &action, true)
            .override_global("MAIL_EVERY", &every, true)
            .override_global("SOURCE_COUNT", &count, true)
            .override_global("ATTEMPTS", &1_u8, true)
            .load(BENCH)
            .context("the kernel does not take the sender's maps")?;
        op25b::object::load(&mut object, SEND)?;
        let frame = crate::lab::syn("10.0.0.1".parse()?, OUTSIDE.parse()?, 40_000, load.port());
        let index = match way {
            Way::Wire => site.index("customer", &format!("tx{port}"))?,
            Way::Stack => site.index("router", &Site::port(port))?,
        };
        Ok(Self { site, port, way, object, frame, index })
    }

    /// Sends so many frames.
    pub(crate) fn send(&mut self, count: u64) -> Result<Sent> {
        let Some(Program::Xdp(program)) = self.object.program(SEND) else { bail!("no program {SEND}") };
        let (port, cpu) = (Site::port(self.port), self.port);
        let before = (self.site.received("router", &port)?, self.site.received("world", "wan0")?);
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, self.frame.len() as u32, 0, self.index, 0, 0]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let namespace = if self.way == Way::Wire { &self.site.customer } else { &self.site.router };
        let took = namespace.within(|| -> Result<Duration> {
            let mut cpus = CpuSet::new();
            cpus.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
            let options = TestRunOptions {
                data_in: Some(&self.frame),
                ctx_in: Some(&context),
                repeat: u32::try_from(count)?,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..Default::default()
            };
            let start = Instant::now();
            program.test_run(options).context("the kernel sends no live frames (they need Linux 5.18)")?;
            Ok(start.elapsed())
        })??;
        let received = self.site.received("router", &port)? - before.0;
        let processed = if self.way == Way::Wire { received } else { count };
        let passed = self.site.received("world", "wan0")? - before.1;
        Ok(Sent { took, processed, passed })
    }
}

/// An Ethernet address as a number, its first byte lowest.
fn ethernet(written: &str) -> Result<u64> {
    let bytes =
        written.split(':').map(|byte| u64::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    ensure!(bytes.len() == 6, "{written} is no Ethernet address");
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | byte))
}
