//! A virtual machine that starts a kernel, runs the checks, and ends.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::checks::Checks;
use super::debian::Kernel;
use super::modules::Modules;
use super::outcome::Outcome;
use super::{CACHE, image};
use crate::exec::command_line;
use crate::setup::Emulator;

/// How long a machine may run. Emulated, it is some twenty times slower than this one.
const LIMIT: Duration = Duration::from_secs(2400);

/// Ends the machine when its kernel fails. A program is always at the same addresses, since the emulator would
/// translate it anew for others: that was four fifths of what it translated, and a third of the time.
const KERNEL_LINE: &str = "console=ttyS0 quiet oops=panic panic=-1 norandmaps";

/// How often a machine is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What the tests use, where the kernel has it as modules.
const MODULES: [&str; 8] = ["veth", "8021q", "pppoe", "act_bpf", "cls_bpf", "sch_ingress", "dummy", "tun"];

/// Runs the checks under `kernel`.
pub(super) fn run(suite: &str, kernel: &Kernel, checks: &Checks, common: &Path) -> Result<Outcome> {
    let modules = Modules::find(&kernel.modules)?;
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("initramfs");
    image::whole(common, &modules.in_order(&MODULES)?, &archive)?;

    let console = Path::new(CACHE).join(format!("{suite}.log"));
    let ended = start(kernel, &archive, &console)?;
    let transcript = fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    let mut outcome = Outcome::read(&String::from_utf8_lossy(&transcript), checks);
    let missing = modules.missing(&MODULES);
    if !missing.is_empty() {
        outcome.note(format!("not in this kernel: {}", missing.join(", ")));
    }
    if !ended {
        outcome.note(format!("ended after {LIMIT:?}; its console: {}", console.display()));
    }
    Ok(outcome)
}

/// Returns whether the machine ended by itself.
fn start(kernel: &Kernel, archive: &Path, console: &Path) -> Result<bool> {
    let output = File::create(console).with_context(|| format!("cannot create {}", console.display()))?;
    // It ends with us, however we end.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    Emulator::find().context("no emulator works any more")?.add_to(&mut command);
    command
        .args(["-accel", "tcg", "-cpu", "max", "-m", "2048"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", KERNEL_LINE, "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(output);
    let mut machine = command.spawn().with_context(|| format!("cannot run `{}`", command_line(&command)))?;
    let start = Instant::now();
    while machine.try_wait()?.is_none() {
        if start.elapsed() > LIMIT {
            machine.kill()?;
            machine.wait()?;
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}
