//! `cargo xtask kernels`: the kernel tests under Debian's kernels in virtual machines, beside this machine's own.

mod checks;
mod debian;
mod guest;
mod image;
mod modules;
mod outcome;
mod sources;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use checks::Checks;
use outcome::Outcome;

use crate::{root, setup};

/// Kernels that are tested at a time. Each keeps less than a processor busy, since its tests also wait.
const AT_A_TIME: usize = 3;

/// What the kernels and the machines' consoles are kept in; git ignores it.
const CACHE: &str = ".cache/kernels";

/// A kernel to test under.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11
    #[value(name = "5.10", alias = "bullseye")]
    Bullseye,
    /// Debian 12
    #[value(name = "6.1", alias = "bookworm")]
    Bookworm,
    /// Debian 13
    #[value(name = "6.12", alias = "trixie")]
    Trixie,
    /// Debian unstable
    #[value(name = "7.x", alias = "sid")]
    Sid,
    /// This machine's own
    Host,
}

/// Those that run in virtual machines.
pub(crate) const EMULATED: [Kernel; 4] = [Kernel::Bullseye, Kernel::Bookworm, Kernel::Trixie, Kernel::Sid];

impl Kernel {
    fn name(self) -> &'static str {
        self.suite().unwrap_or("host")
    }

    /// The suite of Debian that has it; none has this machine's own.
    fn suite(self) -> Option<&'static str> {
        match self {
            Self::Bullseye => Some("bullseye"),
            Self::Bookworm => Some("bookworm"),
            Self::Trixie => Some("trixie"),
            Self::Sid => Some("sid"),
            Self::Host => None,
        }
    }
}

/// Runs the kernel tests under `chosen`, or under all kernels, and prints a line for each.
pub(crate) fn run(chosen: &[Kernel]) -> Result<()> {
    root::require("cargo xtask kernels")?;
    setup::run()?;
    root::mount_bpffs()?;
    let _lock = lock()?;
    let checks = Checks::build()?;
    let chosen = |kernel: &Kernel| chosen.is_empty() || chosen.contains(kernel);
    let kernels: Vec<Kernel> = Kernel::value_variants().iter().copied().filter(chosen).collect();
    let failed = test_all(&kernels, &checks)?;
    if failed > 0 {
        bail!("{failed} of {} kernels failed", kernels.len());
    }
    println!("all {} kernels are ok", kernels.len());
    Ok(())
}

/// Held, so that two runs never write one cache or one console.
fn lock() -> Result<File> {
    fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
    let path = Path::new(CACHE).join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!("another run holds {}", path.display());
    }
    Ok(lock)
}

/// Returns how many failed.
fn test_all(kernels: &[Kernel], checks: &Checks) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let common = folder.path().join("common");
    image::common(checks, &common)?;
    let queue = Mutex::new(kernels.iter().copied().enumerate());
    let (sender, results) = mpsc::channel();
    Ok(thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let (sender, queue, common) = (sender.clone(), &queue, &common);
            scope.spawn(move || {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some((position, kernel)) = next() {
                    let _ = sender.send((position, test(kernel, checks, common)));
                }
            });
        }
        drop(sender);
        report_in_order(kernels, results)
    }))
}

fn test(kernel: Kernel, checks: &Checks, common: &Path) -> Timed {
    let Some(suite) = kernel.suite() else { return timed(|| checks.run_here()) };
    match debian::kernel(suite, Path::new(CACHE)) {
        Ok(kernel) => timed(|| guest::run(suite, &kernel, checks, common)),
        Err(error) => Timed { seconds: 0.0, outcome: Err(error) },
    }
}

/// The lines in the kernels' order, each as soon as those before it are there. Returns how many failed.
fn report_in_order(kernels: &[Kernel], results: Receiver<(usize, Timed)>) -> usize {
    let mut waiting = BTreeMap::new();
    let mut failed = 0;
    let mut remaining = kernels.iter().enumerate().peekable();
    for (position, result) in results {
        waiting.insert(position, result);
        while let Some((position, kernel)) = remaining.peek()
            && let Some(result) = waiting.remove(position)
        {
            failed += usize::from(!report(kernel.name(), result));
            remaining.next();
        }
    }
    failed
}

/// Prints what came of one kernel, and returns whether all of it is as it should be.
fn report(name: &str, result: Timed) -> bool {
    match result.outcome {
        Ok(outcome) => {
            println!("{}, {:.1} s", outcome.line(), result.seconds);
            for figure in outcome.figures() {
                println!("  {figure}");
            }
            if !outcome.is_ok() {
                println!("{}", outcome.complaint());
            }
            outcome.is_ok()
        }
        Err(error) => {
            println!("{name}  FAILED: {error:#}");
            false
        }
    }
}

/// What came of one kernel, and how long that took.
struct Timed {
    seconds: f64,
    outcome: Result<Outcome>,
}

fn timed(test: impl FnOnce() -> Result<Outcome>) -> Timed {
    let start = Instant::now();
    let outcome = test();
    Timed { seconds: start.elapsed().as_secs_f64(), outcome }
}
