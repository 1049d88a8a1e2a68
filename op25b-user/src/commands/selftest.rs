//! `op25b selftest`: frames made from the policy in force through the running filter; exits 1 when one is judged wrong.

use anyhow::Result;

use super::{No, diff::in_force, print, print_json};
use crate::{
    archive, cli,
    instance::Instance,
    manifest::Manifest,
    policy::{Override, Policy},
    preflight,
    selftest::{self, Line, Selftest, Tried},
    state::State,
};

pub(super) async fn selftest(instance: &Instance, output: cli::Output) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    preflight::check()?;
    let done = selftest::run(instance, &manifest, &policy(instance, &manifest)?).await?;
    if output.json {
        print_json(&done)?
    } else {
        tell(&done)?
    }
    if done.passed {
        return Ok(());
    }
    let failed = done.lines.iter().filter(|line| !line.ok).count();
    Err(No::Input(format!(
        "instance {}: {failed} of {} lines FAILED; `op25b status` says what is attached, `op25b reload` (without a \
         daemon `op25b run`; after an upgrade restart the daemon) puts the policy in force anew",
        instance.name(),
        done.lines.len()
    ))
    .into())
}

/// The policy in force, as it is kept; that of a trial is not, nor in the first moment that of a reload.
fn policy(instance: &Instance, manifest: &Manifest) -> Result<Policy> {
    if archive::find(instance, &manifest.hash).is_some() {
        return in_force(instance, manifest);
    }
    let path =
        State::read(instance)?.unconfirmed.map_or_else(|| manifest.policy.clone(), |trial| trial.policy);
    Ok(Policy::read(&path, &Override::default()).map_err(|invalid| No::Input(invalid.to_string()))?)
}

fn tell(done: &Selftest) -> Result<()> {
    let mut rows = super::table(&["interface", "case", "frame", "what happens", ""]);
    for line in &done.lines {
        let Line { interface, case, frame, expected, got, ok, .. } = line;
        let frame = frame.map_or_else(|| "-".to_owned(), words);
        let end = if *ok { "ok".to_owned() } else { format!("FAILED, expected {expected}") };
        rows.add_row([interface, case, &frame, got, &end]);
    }
    print(&rows.to_string())?;
    for untried in &done.untried {
        eprintln!("warning: not tried: {untried}");
    }
    if !done.passed {
        return Ok(());
    }
    print(&format!(
        "instance {}: generation {} does what its policy says{}: {} lines ok, and nothing of it is counted",
        done.instance,
        done.generation,
        if done.untried.is_empty() { "" } else { ", as far as it was tried" },
        done.lines.len()
    ))
}

fn words(Tried { syn, through }: Tried) -> String {
    let end = |address: std::net::IpAddr, port| std::net::SocketAddr::new(address, port).to_string();
    format!(
        "{} > {}, {}",
        end(syn.source, syn.source_port),
        end(syn.destination, syn.destination_port),
        through
    )
}
