//! A look at all frames for a moment: a sampling twin of the program is swapped in, and out again. What passes
//! unjudged is counted at no other time, so that it pays nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    attach,
    counters::{Seen, name_seen, read_seen},
    document::Attach,
    instance::Instance,
    interface,
    manifest::{Interface, Manifest},
    object, status,
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
/// Of an interface that was there a moment ago.
const GONE: &str = "it went away meanwhile";

impl Sample {
    async fn between(interface: &Interface, before: &Mark, after: &Mark, seconds: f64) -> Self {
        let packets: Vec<u64> = after
            .seen
            .iter()
            .zip(&before.seen)
            .map(|(after, before)| after.saturating_sub(*before))
            .collect();
        Self {
            interface: interface.name.clone(),
            mode: interface.mode.name(),
            seconds,
            frames: packets.iter().sum(),
            received: after.received.saturating_sub(before.received),
            seen: name_seen(&packets),
            strips_vlan: matches!(interface.mode, Attach::Native | Attach::Generic)
                && interface::strips_vlan(&interface.name).await == Some(true),
        }
    }

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

/// A sample of an interface, or which one has none and why.
pub type Sampled = Result<Sample, String>;

/// Samples every interface that the generation is in force on, for `duration` or until a signal says so.
///
/// # Errors
///
/// When a program cannot be swapped. The filter itself is in force all the time, and no sampling program stays.
pub async fn take(instance: &Instance, manifest: &Manifest, duration: Duration) -> Result<Vec<Sampled>> {
    // Who loses patience must not leave the sampling program behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let start = Instant::now();
    let (mut samples, mut marked) = (Vec::new(), Vec::new());
    for interface in &manifest.interfaces {
        let mark = match status::running(instance, interface).await? {
            Ok(_) => Mark::of(instance, interface).await?.ok_or_else(|| GONE.to_owned()),
            Err(why) => Err(why),
        };
        match mark {
            Ok(mark) => marked.push((interface, mark)),
            Err(why) => samples.push(Err(unsampled(interface, &why))),
        }
    }
    let swap = |interface: &Interface, program| {
        attach::swap(instance, manifest.generation, program, &interface.name, interface.mode)
    };
    let mut replaced = false;
    let swapped = turn(instance, manifest, &mut replaced, || {
        marked.iter().try_for_each(|(interface, _)| swap(interface, interface.hook.sampling_program()))
    });
    if swapped.is_ok() && !replaced {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
    // Each goes back, whatever becomes of the others.
    let back = turn(instance, manifest, &mut replaced, || {
        Ok(marked.iter().map(|(interface, _)| swap(interface, interface.hook.program())).collect::<Vec<_>>())
    })?;
    if let Err(error) = swapped {
        for failed in back.into_iter().filter_map(Result::err) {
            log::error!("{failed:#}");
        }
        return Err(error);
    }
    if replaced {
        let why = "another generation has taken its place meanwhile";
        samples.extend(marked.iter().map(|(interface, _)| Err(unsampled(interface, why))));
        return Ok(samples);
    }
    let seconds = start.elapsed().as_secs_f64();

    for ((interface, before), back) in marked.into_iter().zip(back) {
        let after = Mark::of(instance, interface).await?.filter(|after| after.index == before.index);
        samples.push(match after {
            None => Err(unsampled(interface, GONE)),
            Some(after) => {
                back?;
                Ok(Sample::between(interface, &before, &after, seconds).await)
            }
        });
    }
    Ok(samples)
}

/// Swaps while no generation is being put in force. Not at all where another one is by now, whose programs are in the place
/// of all others: `replaced` says so.
fn turn<T: Default>(
    instance: &Instance,
    manifest: &Manifest,
    replaced: &mut bool,
    swap: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let _swapping = instance.swapping();
    *replaced |= Manifest::read(instance)?.is_none_or(|now| now.generation != manifest.generation);
    if *replaced { Ok(T::default()) } else { swap() }
}

/// Says that an interface has no sample.
fn unsampled(interface: &Interface, why: &str) -> String {
    format!("{}: not sampled: {why}", interface.name)
}

/// Counters at one moment.
struct Mark {
    /// The kernel's number of the interface: another one can have its name later.
    index: u32,
    seen: Vec<u64>,
    received: u64,
}

impl Mark {
    /// None where there is no such interface.
    async fn of(instance: &Instance, interface: &Interface) -> Result<Option<Self>> {
        let directory = instance.counters(&interface.name, interface.mode);
        let Some(found) = interface::find(&interface.name).await? else { return Ok(None) };
        Ok(Some(Self {
            index: found.index,
            seen: read_seen(&directory.join(object::SAMPLED))?,
            received: if interface.mode == Attach::TcEgress { found.sent } else { found.received },
        }))
    }
}
