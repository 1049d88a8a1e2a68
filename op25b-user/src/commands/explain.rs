//! `op25b explain`: one frame through the real kernel program.

use anyhow::Result;
use aya::programs::Xdp;
use jiff::Timestamp;
use op25b_ebpf::abi::{Answer, Link, Role};

use super::{No, print, print_json};
use crate::{
    cli::{self, RoleName},
    explain::{Explanation, Syn, Through, by_generation, frame, sentence},
    instance::Instance,
    manifest::Manifest,
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    preflight, relays,
    situation::Situation,
    tables::Tables,
};

pub(super) fn explain(instance: &Instance, arguments: &cli::Explain) -> Result<()> {
    let syn = Syn {
        source: arguments.src,
        destination: arguments.dst,
        source_port: arguments.sport,
        destination_port: arguments.dport,
    };
    let frame = frame(syn, Through::Ethernet)?;
    preflight::check()?;
    let explanation = match &arguments.policy {
        Some(path) => {
            let policy =
                Policy::read(path, &Override::default()).map_err(|invalid| No::Input(invalid.to_string()))?;
            {
                let moment = arguments.at.unwrap_or_else(Timestamp::now);
                by_policy(
                    &policy,
                    &relays::situation(instance, &policy, moment),
                    role(arguments.role),
                    &frame,
                )?
            }
        }
        None => by_generation(&Manifest::require(instance)?, instance, wanted(arguments.role), syn)?,
    };
    if arguments.output.json {
        return print_json(&explanation);
    }
    let mut line = format!("{}: {}", explanation.verdict, explanation.reason);
    if let Some(customer) = &explanation.customer {
        line += &format!(", customer group {customer}");
    }
    if let Some(relay) = &explanation.relay {
        line += &format!(", relay {relay}");
    }
    print(&format!("{line}\n{}", sentence(explanation.reason)))
}

pub(super) const fn role(name: RoleName) -> Role {
    match name {
        RoleName::Customer => Role::CUSTOMER,
        RoleName::Upstream => Role::UPSTREAM,
    }
}

const fn wanted(name: RoleName) -> &'static str {
    match name {
        RoleName::Customer => "customer",
        RoleName::Upstream => "upstream",
    }
}

fn by_policy(policy: &Policy, situation: &Situation, role: Role, frame: &[u8]) -> Result<Explanation> {
    let tables = Tables::compile(policy, situation, |name| policy.position(name))
        .map_err(|error| No::Input(error.to_string()))?;
    let constants = Constants::new(policy, role, Link::Ethernet);
    let mut object = object::create(&tables, constants, Maps::Own)?;
    let program: &mut Xdp = object::load(&mut object, program::EXPLAIN)?.try_into()?;
    let answer = Answer(object::run(program, frame)?);
    let name = |number: u32| number.checked_sub(1).map(|position| position as usize);
    Ok(Explanation::new(
        answer,
        |group| policy.groups.get(name(group)?).map(|group| group.name.clone()),
        |relay| policy.relays.get(name(relay)?).map(|relay| relay.name.clone()),
    ))
}
