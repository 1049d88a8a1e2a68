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
    let trial = State::read(instance)?.unconfirmed;
    // The text of a policy on trial is not kept yet.
    let policy = match trial.filter(|_| archive::find(instance, &manifest.hash).is_none()) {
        Some(trial) => Policy::read(&trial.policy, &Override::default())
            .map_err(|invalid| No::Input(invalid.to_string()))?,
        None => in_force(instance, &manifest)?,
    };
    let done = selftest::run(instance, &manifest, &policy).await?;
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
        "instance {}: {failed} of {} lines FAILED; `op25b status` says what is attached, `op25b reload` puts the policy in \
         force anew",
        instance.name(),
        done.lines.len()
    ))
    .into())
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
        log::warn!("not tried: {untried}");
    }
    if !done.passed {
        return Ok(());
    }
    print(&format!(
        "instance {}: generation {} does what its policy says: {} lines ok, and nothing of it is counted",
        done.instance,
        done.generation,
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
