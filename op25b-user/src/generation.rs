//! Putting a policy in force as a generation: everything is loaded and pinned first, then swapped interface by
//! interface under a journal, so that a crash in between is completed or reverted.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use op25b_ebpf::abi::{Link, Role};

use crate::{
    attach::{self, Attached, Hook},
    commands::No,
    document::Attach,
    durable,
    instance::Instance,
    interface::{self, Interface},
    links,
    manifest::{self, Manifest},
    object::{self, Constants, Maps},
    policy::{Policy, Port, UNANSWERED_ON_EGRESS},
    tables::Tables,
};

/// Reader of what the kernel half logs.
pub type Logger = EbpfLogger<&'static dyn log::Log>;

/// A policy's interface, and the one that has its name; one that an earlier generation had may be away, and at the first
/// start one that has not come yet.
pub struct Place<'a> {
    port: &'a Port,
    interface: Interface,
    /// Whether blocked frames are answered there.
    answers: bool,
    /// Why not, though a group says so.
    unanswered: Option<String>,
}

/// Looks for the interfaces that a policy names.
///
/// # Errors
///
/// When there is none, a new one is missing or one cannot be filtered at the hook.
pub async fn places<'a>(
    policy: &'a Policy,
    path: &Path,
    previous: Option<&Manifest>,
) -> Result<Vec<Place<'a>>> {
    if policy.interfaces.is_empty() {
        return Err(No::Input(format!(
            "{}: no interface; write `interfaces: {{customer: [eth1]}}` or give --customer eth1",
            path.display()
        ))
        .into());
    }
    let mut places = Vec::new();
    for port in &policy.interfaces {
        let named = previous.and_then(|previous| previous.port(&port.name, port.attach));
        let known = previous.and_then(|previous| previous.interface(&port.name, port.attach)).or(named);
        let renamed = match named.filter(|named| named.name != port.name) {
            Some(renamed) => interface::find(&renamed.name).await?,
            None => None,
        };
        let interface = match (interface::find(&port.name).await?.or(renamed), known) {
            (Some(interface), _) => interface,
            // Somebody has just written this name.
            (None, None) if previous.is_some() => return Err(interface::missing(&port.name)),
            (None, known) => {
                // One that comes as another kind than this gets a generation of its own.
                let ethernet = known.is_none_or(|known| known.ethernet);
                Interface { name: port.name.clone(), ethernet, ..Interface::default() }
            }
        };
        if !interface.ethernet && Hook::of(port.attach) == Hook::Xdp {
            return Err(No::Input(format!(
                "{}: frames without Ethernet header are filtered at the TC hook; write `{{name: {}, attach: \
                 tc-ingress}}`",
                port.name, port.name
            ))
            .into());
        }
        let answers = policy.answers() && port.role.judges_customers();
        let unanswered = if answers { unanswered(port.attach, &interface).await } else { None };
        places.push(Place { port, interface, answers: answers && unanswered.is_none(), unanswered });
    }
    // After a boot some come later; that none is there is another machine's policy.
    match places.first() {
        Some(first) if previous.is_none() && places.iter().all(|place| place.interface.index == 0) => {
            Err(interface::missing(&first.port.name))
        }
        _ => Ok(places),
    }
}

/// Why blocked frames cannot be answered on an interface, where a group says that they are.
pub(crate) async fn unanswered(attach: Attach, interface: &Interface) -> Option<String> {
    let why = match attach {
        Attach::TcIngress => return None,
        Attach::TcEgress => return Some(UNANSWERED_ON_EGRESS.to_owned()),
        _ if interface.index == 0 => "it is not there".to_owned(),
        _ if interface.bond => "a bond does not say whether its members take VLAN tags off".to_owned(),
        Attach::Native | Attach::Generic => match interface::strips_vlan(&interface.name).await {
            Some(false) => return None,
            Some(true) => format!(
                "the driver takes VLAN tags off, so that answers would leave without them; `ethtool -K {} rxvlan off \
                 rx-vlan-stag-hw-parse off` leaves them on",
                interface.name
            ),
            None => "nobody can tell whether the driver takes VLAN tags off".to_owned(),
        },
    };
    Some(format!("blocked frames are dropped and not answered: {why}"))
}

/// Puts compiled tables in force as the generation `manifest`, which names its interfaces from here on. When that
/// fails, everything is as it was before.
///
/// # Errors
///
/// When the kernel or an interface refuses.
pub async fn enforce(
    instance: &Instance,
    policy: &Policy,
    tables: &Tables,
    places: &[Place<'_>],
    previous: Option<&Manifest>,
    manifest: &mut Manifest,
    trace: bool,
) -> Result<Option<Logger>> {
    let kept = previous.map(|previous| previous.generation);
    // Without a manifest there may be a filter all the same.
    let nothing_held = previous.is_none() && !instance.pins().join("links").exists();
    // What a crash left of a generation that never took force.
    remove_all_but(instance, kept)?;
    let other = previous.filter(|previous| !previous.is_of_this_version());
    if let Some(other) = other {
        log::warn!(
            "replaces the generation of another version of op25b (layout {}); counters start anew",
            other.abi
        );
    }
    if previous.is_none() || other.is_some() {
        forget_counts(instance)?;
    }
    let prepared = prepare(instance, policy, tables, places, manifest, trace)
        .and_then(|logger| manifest.begin(instance).map(|()| logger));
    let done = match prepared {
        Ok(logger) => complete(instance, manifest, previous).await.map(|done| (done, logger)),
        Err(error) => Err(error),
    };
    let (done, logger) = match done {
        Ok(done) => done,
        Err(error) => {
            revert(instance, manifest, previous).await;
            remove_all_but(instance, kept)?;
            if other.is_some() {
                // They are of this version, and would be in the way of that one.
                forget_counts(instance)?;
            }
            if nothing_held {
                forget(instance);
            }
            return Err(error.context("nothing was changed"));
        }
    };
    for (interface, how) in done {
        let how = match how {
            Attached::Anew => "attached",
            Attached::Swapped => "swapped without a gap",
        };
        log::info!("{}: {how}, {}, role {}", interface.name, interface.mode.name(), interface.role);
    }
    Ok(logger)
}

/// Removes counters and accounts that no manifest tells of, or that another version made: the kernel would take them for what
/// they are not. Programs that are attached keep theirs.
fn forget_counts(instance: &Instance) -> Result<()> {
    durable::remove_all(&instance.pins().join("counters"))?;
    durable::remove_all(&instance.sources())?;
    Ok(())
}

/// Loads and pins the programs of all interfaces, so that no packet meets an empty table.
fn prepare(
    instance: &Instance,
    policy: &Policy,
    tables: &Tables,
    places: &[Place<'_>],
    manifest: &mut Manifest,
    trace: bool,
) -> Result<Option<Logger>> {
    let generation = instance.generation(manifest.generation);
    let mut logger = None;
    for Place { port, interface, answers, unanswered } in places {
        if interface.index == 0 {
            log::warn!(
                "{}: does not exist, nothing is filtered there; the filter is attached when it comes",
                port.name
            );
        }
        if let Some(why) = unanswered {
            log::warn!("{}: {why}", interface.name);
        }
        let counters = instance.counters(&interface.name, port.attach);
        let sources = instance.sources();
        for directory in [&counters, &generation, &sources] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let constants =
            Constants { trace, ..constants(policy, manifest, port.role, interface.ethernet, *answers) };
        let maps = Maps::Pinned { tables: &generation, counters: &counters, sources: &sources };
        let mut object = object::create(tables, constants, maps)?;
        let hook = Hook::of(port.attach);
        let mut pinned = |name| -> Result<u32> {
            let pin = instance.program(manifest.generation, name, &interface.name, port.attach);
            let program = object::load(&mut object, name)?;
            program.pin(&pin).with_context(|| format!("cannot pin the program {}", pin.display()))?;
            Ok(program.info()?.id())
        };
        let program = pinned(hook.program())?;
        let sampling = pinned(hook.sampling_program())?;
        pinned(hook.sibling())?;
        manifest.interfaces.push(manifest::Interface {
            answers: *answers,
            unanswered: unanswered.clone(),
            ..manifest::Interface::new(port, interface, program, sampling)
        });
        // The maps and programs are pinned: nothing but the logs, in one map for all, is needed from here on.
        if trace && logger.is_none() {
            logger = Some(EbpfLogger::init(&mut object)?);
        }
    }
    Ok(logger)
}

/// What a generation fixes for one of its interfaces.
pub(crate) fn constants(
    policy: &Policy,
    manifest: &Manifest,
    role: Role,
    ethernet: bool,
    answers: bool,
) -> Constants {
    let link = if ethernet { Link::Ethernet } else { Link::Ip };
    Constants {
        seed: manifest.seed,
        answers,
        cookie_keys: manifest.cookie_keys,
        ..Constants::new(policy, role, link)
    }
}

/// Swaps every interface that does not run the generation yet, and makes it the one in force.
async fn complete<'a>(
    instance: &Instance,
    manifest: &'a Manifest,
    previous: Option<&Manifest>,
) -> Result<Vec<(&'a manifest::Interface, Attached)>> {
    let mut done = Vec::new();
    let swapping = instance.swapping();
    for known in &manifest.interfaces {
        // One that is away is attached when it comes.
        let Some(interface) = interface::find(&known.name).await? else { continue };
        let running = attach::programs(&interface, &known.name, known.mode).await?;
        if !running.contains(&known.program) {
            let how = attach::attach(instance, manifest.generation, &interface, known.mode, &running)?;
            done.push((known, how));
        }
    }
    manifest.commit(instance)?;
    drop(swapping);
    if let Err(error) =
        leave_others(instance, previous, manifest).and_then(|()| leave_strays(instance, manifest))
    {
        log::error!("{error:#}");
    }
    if let Err(error) = remove_all_but(instance, Some(manifest.generation)) {
        log::warn!("{error:#}");
    }
    Ok(done)
}

/// Brings the interfaces that run the generation back to what they ran before.
async fn revert(instance: &Instance, manifest: &Manifest, previous: Option<&Manifest>) {
    for known in &manifest.interfaces {
        if let Err(error) = revert_one(instance, known, previous).await {
            log::error!("{}: cannot go back to the policy before: {error:#}", known.name);
        }
    }
    if let Err(error) = Manifest::give_up(instance) {
        log::error!("{error:#}");
    }
}

async fn revert_one(
    instance: &Instance,
    known: &manifest::Interface,
    previous: Option<&Manifest>,
) -> Result<()> {
    let Some(interface) = interface::find(&known.name).await? else { return Ok(()) };
    if !attach::programs(&interface, &known.name, known.mode).await?.contains(&known.program) {
        return Ok(());
    }
    match previous.filter(|previous| previous.interface(&known.name, known.mode).is_some()) {
        Some(previous) => {
            attach::swap(instance, previous.generation, known.hook.program(), &known.name, known.mode)
        }
        None => attach::detach(instance, &known.name, known.mode).map(|_| ()),
    }
}

/// Completes, or else reverts, a change that a daemon died in.
///
/// # Errors
///
/// When what it left cannot be read.
pub async fn recover(instance: &Instance) -> Result<()> {
    let next = match Manifest::interrupted(instance) {
        Ok(Some(next)) => next,
        Ok(None) => return Ok(()),
        // Of another version, or damaged. What follows swaps every interface, whatever it runs.
        Err(error) => {
            log::warn!("an interrupted change cannot be completed: {error:#}");
            return Manifest::give_up(instance);
        }
    };
    let previous = Manifest::read_to_replace(instance)?;
    match complete(instance, &next, previous.as_ref()).await {
        Ok(done) => log::warn!(
            "the change to generation {} was interrupted; it is completed now ({} of {} interfaces were left)",
            next.generation,
            done.len(),
            next.interfaces.len()
        ),
        Err(error) => {
            log::warn!(
                "the change to generation {} was interrupted and cannot be completed ({error:#}); it is reverted",
                next.generation
            );
            revert(instance, &next, previous.as_ref()).await;
        }
    }
    Ok(())
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

/// Takes the filter off interfaces that no manifest names, since a daemon died before it did.
fn leave_strays(instance: &Instance, manifest: &Manifest) -> Result<()> {
    let kept: HashSet<_> = manifest.interfaces.iter().map(|one| instance.link(&one.name, one.mode)).collect();
    let Ok(entries) = fs::read_dir(instance.pins().join("links")) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        // One that is on its way to a new name is not a stray.
        if kept.contains(&path) || path.to_string_lossy().ends_with(links::ASIDE) {
            continue;
        }
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        log::warn!("{}: removed, since the policy does not name its interface", path.display());
    }
    Ok(())
}

fn remove_all_but(instance: &Instance, kept: Option<u64>) -> Result<()> {
    let directory = instance.pins().join("generations");
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse::<u64>().ok();
        if number.is_none() || number != kept {
            durable::remove_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Leaves no trace of an instance that never was.
fn forget(instance: &Instance) {
    for directory in [instance.pins(), instance.state()] {
        if let Err(error) = durable::remove_all(&directory) {
            log::warn!("{error:#}");
        }
    }
}
