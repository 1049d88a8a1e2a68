//! A look at all frames for a moment: a sampling twin of the program is swapped in, and out again. What passes
//! unjudged is counted at no other time, so that it pays nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::{
    attach,
    counters::{Seen, name_seen, read_seen},
    document::Attach,
    instance::Instance,
    interface,
    manifest::{Interface, Manifest},
    object,
};

/// What was seen on one interface.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// As `ip link` shows it.
    pub interface: String,
    /// How it is attached.
    pub mode: &'static str,
    /// How long the sampling program was in force.
    pub seconds: f64,
    /// Frames that the program saw.
    pub frames: u64,
    /// Frames that the interface counted meanwhile, in the program's direction.
    pub received: u64,
    /// How they were seen, most frames first.
    pub seen: Vec<Seen>,
    /// Whether the NIC takes VLAN tags off before XDP sees the frame.
    pub strips_vlan: bool,
}

/// Below this many frames a share says nothing.
const ENOUGH: u64 = 100;

impl Sample {
    /// What a network engineer should look at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let name = &self.interface;
        let mut warnings = Vec::new();
        if self.strips_vlan {
            warnings.push(format!(
                "{name}: the NIC takes VLAN tags off before XDP sees them; `ethtool -K {name} rxvlan off` shows them"
            ));
        }
        let unread = ["not-ip", "cut-header", "too-many-vlan-tags", "too-many-mpls-labels", "bad-ip-header"];
        let blind: u64 =
            self.seen.iter().filter(|seen| unread.contains(&seen.outcome)).map(|seen| seen.packets).sum();
        // The far end's own chatter is IP even where the customers' frames are not.
        if self.frames >= ENOUGH && blind > self.frames / 100 * 95 {
            warnings.push(format!(
                "{name}: {blind} frames of {} could not be read as IP; is this the customers' interface, and is its \
                 encapsulation one that op25b looks through?",
                self.frames
            ));
        }
        if self.received >= ENOUGH && self.frames < self.received / 10 * 9 {
            warnings.push(format!(
                "{name}: the interface counted {} frames, the program saw {}: something reaches the router beside it",
                self.received, self.frames
            ));
        }
        warnings
    }
}

/// Samples every interface of the generation for `duration`.
///
/// # Errors
///
/// When a program cannot be swapped; the filter itself is in force all the time.
pub async fn take(instance: &Instance, manifest: &Manifest, duration: Duration) -> Result<Vec<Sample>> {
    let mut before = Vec::new();
    let start = Instant::now();
    for interface in &manifest.interfaces {
        before.push(Mark::of(instance, interface).await?);
        let sampling = interface.hook.sampling_program();
        attach::swap(instance, manifest.generation, sampling, &interface.name, interface.mode)?;
    }
    tokio::time::sleep(duration).await;
    // Each goes back, whatever becomes of the others.
    let back: Vec<_> = manifest
        .interfaces
        .iter()
        .map(|interface| {
            let program = interface.hook.program();
            attach::swap(instance, manifest.generation, program, &interface.name, interface.mode)
        })
        .collect();
    back.into_iter().collect::<Result<()>>()?;
    let seconds = start.elapsed().as_secs_f64();

    let mut samples = Vec::new();
    for (interface, before) in manifest.interfaces.iter().zip(before) {
        let after = Mark::of(instance, interface).await?;
        let packets: Vec<u64> =
            after.seen.iter().zip(&before.seen).map(|(after, before)| after - before).collect();
        samples.push(Sample {
            interface: interface.name.clone(),
            mode: interface.mode.name(),
            seconds,
            frames: packets.iter().sum(),
            received: after.received.saturating_sub(before.received),
            seen: name_seen(&packets),
            strips_vlan: matches!(interface.mode, Attach::Native | Attach::Generic)
                && interface::strips_vlan(&interface.name).await == Some(true),
        });
    }
    Ok(samples)
}

/// Counters at one moment.
struct Mark {
    seen: Vec<u64>,
    received: u64,
}

impl Mark {
    async fn of(instance: &Instance, interface: &Interface) -> Result<Self> {
        let directory = instance.counters(&interface.name, interface.mode);
        let found = interface::require(&interface.name).await?;
        Ok(Self {
            seen: read_seen(&directory.join(object::SAMPLED))?,
            received: if interface.mode == Attach::TcEgress { found.sent } else { found.received },
        })
    }
}
