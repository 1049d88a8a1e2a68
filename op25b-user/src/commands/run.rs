//! `op25b run`: puts the policy in force and watches over it. The filter stays when this ends.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use op25b_ebpf::abi::Link;
use tokio::signal::unix::{SignalKind, signal};

use super::No;
use crate::{
    attach::{self, Attached, Hook},
    cli,
    instance::Instance,
    interface::{self, Interface},
    manifest::{self, Manifest},
    object::{self, Constants, Maps},
    policy::{Override, Policy, Port},
    preflight,
    situation::Situation,
    tables::Tables,
};

pub(super) async fn run(instance: &Instance, arguments: &cli::Run) -> Result<()> {
    let interfaces = Override { customer: arguments.customer.clone(), upstream: arguments.upstream.clone() };
    let policy =
        Policy::read(&arguments.policy, &interfaces).map_err(|invalid| No::Input(invalid.to_string()))?;
    if policy.interfaces.is_empty() {
        return Err(No::Input(format!(
            "{}: no interface; write `interfaces: {{customer: [eth1]}}` or give --customer eth1",
            arguments.policy.display()
        ))
        .into());
    }
    for warning in &policy.warnings {
        log::warn!("{warning}");
    }
    let mut ports = Vec::new();
    for port in &policy.interfaces {
        let interface = interface::require(&port.name).await?;
        if !interface.ethernet && Hook::of(port.attach) == Hook::Xdp {
            return Err(No::Input(format!(
                "{}: frames without Ethernet header are filtered at the TC hook; write `{{name: {}, attach: \
                 tc-ingress}}`",
                port.name, port.name
            ))
            .into());
        }
        let running = attach::programs(&interface, &port.name, port.attach).await?;
        ports.push((port, interface, running));
    }
    preflight::check()?;
    let lock = instance.lock()?;

    let mut previous = Manifest::read(instance)?;
    if let Some(previous) = &mut previous {
        follow_renames(instance, previous).await?;
    }
    let manifest = Manifest::following(previous.as_ref(), &policy, &arguments.policy)?;
    let mut logs = enforce(instance, &policy, &ports, previous.as_ref(), manifest, arguments.trace_frames)?;

    // Not under systemd: nobody to tell, which is fine.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => logs.iter_mut().for_each(EbpfLogger::flush),
        }
    }
    log::info!("instance {}: ending; the filter stays in force, `op25b detach` removes it", instance.name());
    drop(lock);
    Ok(())
}

/// An interface that was renamed takes its pins along, so that it is neither attached twice nor left behind.
async fn follow_renames(instance: &Instance, previous: &mut Manifest) -> Result<()> {
    let holders = interface::holders().await?;
    let mut renamed = Vec::new();
    for known in &mut previous.interfaces {
        let holder = [known.program, known.sampling_program].iter().find_map(|program| holders.get(program));
        let Some(now) = holder.filter(|now| **now != known.name) else { continue };
        log::warn!("{} is called {now} now", known.name);
        renamed.push((std::mem::replace(&mut known.name, now.clone()), now.clone(), known.mode, known.hook));
    }
    // Two steps, since two interfaces can have changed names with each other.
    let beside = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{name}:renamed"))
    };
    for step in 0..2 {
        for (before, now, mode, hook) in &renamed {
            let mut moves = vec![
                (instance.link(before, *mode), instance.link(now, *mode)),
                (instance.counters(before, *mode), instance.counters(now, *mode)),
            ];
            for program in [hook.program(), hook.sampling_program(), hook.sibling()] {
                moves.push((
                    instance.program(previous.generation, program, before, *mode),
                    instance.program(previous.generation, program, now, *mode),
                ));
            }
            for (from, to) in moves {
                let (from, to) = if step == 0 { (from.clone(), beside(&from)) } else { (beside(&from), to) };
                if to.is_dir() {
                    // Counters of an interface that had the name once and is gone.
                    fs::remove_dir_all(&to).with_context(|| format!("cannot remove {}", to.display()))?;
                }
                fs::rename(&from, &to)
                    .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
            }
        }
    }
    if !renamed.is_empty() {
        previous.write(instance)?;
    }
    Ok(())
}

type Logger = EbpfLogger<&'static dyn log::Log>;

/// An interface's programs, loaded and pinned, not yet in force.
struct Ready<'a> {
    port: &'a Port,
    interface: &'a Interface,
    running: &'a [u32],
    object: Ebpf,
}

/// Loads everything first, so that no packet meets an empty table, then swaps interface by interface; a failure
/// takes back what was done.
fn enforce(
    instance: &Instance,
    policy: &Policy,
    ports: &[(&Port, Interface, Vec<u32>)],
    previous: Option<&Manifest>,
    mut manifest: Manifest,
    trace: bool,
) -> Result<Vec<Logger>> {
    let tables =
        Tables::compile(policy, &Situation::now(), |name| manifest.numbers.get(name).copied().unwrap_or(0))
            .map_err(|error| No::Input(error.to_string()))?;
    let generation = instance.generation(manifest.generation);
    // What a crash left of a generation that never took force.
    remove_generations_but(instance, previous.map(|previous| previous.generation))?;

    let mut ready = Vec::new();
    for (port, interface, running) in ports {
        let counters = instance.counters(&port.name, port.attach);
        fs::create_dir_all(&counters).with_context(|| format!("cannot make {}", counters.display()))?;
        fs::create_dir_all(&generation).with_context(|| format!("cannot make {}", generation.display()))?;
        let link = if interface.ethernet { Link::Ethernet } else { Link::Ip };
        let constants = Constants { trace, ..Constants::new(policy, port.role, link) };
        let maps = Maps::Pinned { tables: &generation, counters: &counters };
        let mut object = object::create(&tables, constants, maps)?;
        let hook = Hook::of(port.attach);
        let mut pinned = |name| -> Result<u32> {
            let pin = instance.program(manifest.generation, name, &port.name, port.attach);
            let program = object::load(&mut object, name)?;
            program.pin(&pin).with_context(|| format!("cannot pin the program {}", pin.display()))?;
            Ok(program.info()?.id())
        };
        let id = pinned(hook.program())?;
        let sampling = pinned(hook.sampling_program())?;
        pinned(hook.sibling())?;
        manifest.interfaces.push(manifest::Interface::new(port, id, sampling));
        ready.push(Ready { port, interface, running, object });
    }

    let mut done: Vec<(&Port, Attached)> = Vec::new();
    for one in &mut ready {
        match attach::attach(instance, one.port, one.interface, one.running, &mut one.object) {
            Ok(how) => done.push((one.port, how)),
            Err(error) => {
                take_back(instance, previous, &done);
                remove_generations_but(instance, previous.map(|previous| previous.generation))?;
                if previous.is_none() {
                    forget(instance);
                }
                return Err(error.context("nothing was changed"));
            }
        }
    }
    manifest.write(instance)?;
    leave_others(instance, previous, &manifest)?;
    remove_generations_but(instance, Some(manifest.generation))?;

    for (port, how) in &done {
        let how = match how {
            Attached::Anew => "attached",
            Attached::Swapped => "swapped without a gap",
        };
        log::info!("{}: {how}, {}, role {}", port.name, port.attach.name(), manifest::role_name(port.role));
    }
    let word = if manifest.blocks { "in force" } else { "in force; it blocks nothing yet" };
    log::info!("instance {}: generation {} {word}", instance.name(), manifest.generation);

    // The maps and programs are pinned: nothing but the logs is needed from here on.
    if !trace {
        return Ok(Vec::new());
    }
    ready.into_iter().take(1).map(|mut one| Ok(EbpfLogger::init(&mut one.object)?)).collect()
}

/// Brings the interfaces that were already changed back to what they ran before.
fn take_back(instance: &Instance, previous: Option<&Manifest>, done: &[(&Port, Attached)]) {
    for (port, how) in done {
        let result = match (how, previous) {
            (Attached::Swapped, Some(previous)) => {
                let name = Hook::of(port.attach).program();
                attach::swap(instance, previous.generation, name, &port.name, port.attach)
            }
            _ => attach::detach(instance, &port.name, port.attach).map(|_| ()),
        };
        if let Err(error) = result {
            log::error!("{}: cannot go back to the policy before: {error:#}", port.name);
        }
    }
}

/// Takes the filter off interfaces that the policy no longer names.
fn leave_others(instance: &Instance, previous: Option<&Manifest>, manifest: &Manifest) -> Result<()> {
    let kept: HashSet<_> = manifest.interfaces.iter().map(|one| (one.name.as_str(), one.mode)).collect();
    let before = previous.map(|previous| previous.interfaces.as_slice()).unwrap_or_default();
    for interface in before.iter().filter(|one| !kept.contains(&(one.name.as_str(), one.mode))) {
        if attach::detach(instance, &interface.name, interface.mode)? {
            log::warn!(
                "{}: detached from {}, since the policy no longer names it",
                interface.name,
                interface.mode.name()
            );
        }
    }
    Ok(())
}

fn remove_generations_but(instance: &Instance, kept: Option<u64>) -> Result<()> {
    let directory = instance.pins().join("generations");
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse::<u64>().ok();
        if number.is_none() || number != kept {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Leaves no trace of an instance that never was.
fn forget(instance: &Instance) {
    for directory in [instance.pins(), instance.state()] {
        if let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", directory.display());
        }
    }
}
