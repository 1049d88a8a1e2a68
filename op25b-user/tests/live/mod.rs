//! Frames that the kernel sends itself, millions a second: BPF_PROG_TEST_RUN with live frames (Linux 5.18).
#![allow(dead_code, reason = "tests and benchmarks use different parts of it")]

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

use crate::lab::{Namespace, syn};

/// The object of the benchmarks.
pub(crate) static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-bench"));

/// Source ports of frames to port 25, and of those to port 443.
pub(crate) const MAIL_FROM: u16 = 40_025;
/// Likewise.
pub(crate) const WEB_FROM: u16 = 40_443;

/// What is sent: SYNs of customers from 10.0.0.0 on.
pub(crate) struct Mix {
    /// How many customers.
    pub(crate) sources: u32,
    /// Of a hundred frames, how many are for port 25.
    pub(crate) mail: u32,
}

/// How frames come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Out of the interface, to the other end of a veth, as XDP frames.
    Wire,
    /// Into the interface's own stack behind native XDP, as skbs.
    Stack,
}

/// A sender.
pub(crate) struct Live<'a> {
    namespace: &'a Namespace,
    object: Ebpf,
    frame: Vec<u8>,
    interface: u32,
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const SEND: &str = "bench_send";
/// Frames that the kernel handles at once.
const BATCH: u32 = 64;

impl<'a> Live<'a> {
    /// On an interface, to an Ethernet address and a server.
    pub(crate) fn new(
        (namespace, interface): (&'a Namespace, &str),
        (ethernet, server): (&str, &str),
        way: Way,
        mix: &Mix,
    ) -> Result<Self> {
        let action = if way == Way::Wire { XDP_TX } else { XDP_PASS };
        let to = address(ethernet)?;
        let mut object = EbpfLoader::new()
            .override_global("SENT_TO", &to, true)
            .override_global("SENT_BY", &action, true)
            .override_global("MAIL", &mix.mail, true)
            .override_global("SOURCE_COUNT", &mix.sources, true)
            .override_global("ATTEMPTS", &1_u8, true)
            .load(BENCH)
            .context("the kernel does not take the sender's maps")?;
        op25b::object::load(&mut object, SEND)?;
        let frame = syn("10.0.0.1".parse()?, server.parse()?, WEB_FROM, 443);
        Ok(Self { namespace, object, frame, interface: link(namespace, interface)?.index })
    }

    /// Sends so many frames from one CPU. How long that took.
    pub(crate) fn send(&self, count: u32, cpu: usize) -> Result<Duration> {
        let Some(Program::Xdp(program)) = self.object.program(SEND) else { bail!("no program {SEND}") };
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, self.frame.len() as u32, 0, self.interface, 0, 0];
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.namespace.within(|| -> Result<Duration> {
            let mut cpus = CpuSet::new();
            cpus.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
            let options = TestRunOptions {
                data_in: Some(&self.frame),
                ctx_in: Some(&context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..Default::default()
            };
            let start = Instant::now();
            program.test_run(options).context("the kernel sends no live frames (they need Linux 5.18)")?;
            Ok(start.elapsed())
        })?
    }
}

/// An Ethernet address as a number, its first byte lowest.
fn address(written: &str) -> Result<u64> {
    let bytes =
        written.split(':').map(|byte| u64::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    ensure!(bytes.len() == 6, "{written} is no Ethernet address");
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | byte))
}

/// What the kernel says of an interface.
pub(crate) struct Interface {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// Its Ethernet address.
    pub(crate) address: String,
    /// Frames that it has received.
    pub(crate) received: u64,
}

/// Looks at an interface.
pub(crate) fn link(namespace: &Namespace, interface: &str) -> Result<Interface> {
    let text = namespace.ip(&["-j", "-s", "link", "show", "dev", interface])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let link = links.get(0).with_context(|| format!("no interface {interface}: {text}"))?;
    Ok(Interface {
        index: link["ifindex"].as_u64().context("no number")? as u32,
        address: link["address"].as_str().context("no address")?.to_owned(),
        received: link["stats64"]["rx"]["packets"].as_u64().context("no count of frames")?,
    })
}
