//! What the programs cost the verifier: every program, under all constants that it can have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use aya::Ebpf;
use op25b::{
    document,
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    tables::Tables,
};
use op25b_ebpf::abi::{Link, Role, Softwire};

/// The budget, so that replies will fit too.
const INSTRUCTIONS: u32 = 100_000;

const POLICY: &str = r#"
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers: [{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce}]
unknown_sources: pass
"#;

fn tables() -> Tables {
    let document = document::parse(POLICY, "policy").unwrap();
    let policy = Policy::from_document(document, "policy", POLICY, &Override::default()).unwrap();
    Tables::compile(&policy, |_| 1).unwrap()
}

fn verified(object: &mut Ebpf, name: &str) -> (u32, u32) {
    let program = object::load(object, name).unwrap();
    let info = program.info().unwrap();
    // Linux 5.16 tells; before that there is nothing to compare with.
    (info.verified_instruction_count().unwrap_or(0), info.size_translated().unwrap_or(0) / 8)
}

#[test]
fn every_program_passes_the_verifier_within_the_budget_whatever_its_constants() {
    let tables = tables();
    let mut worst = BTreeMap::new();
    for link in [Link::Ethernet, Link::Ip] {
        for role in [Role::CUSTOMER, Role::UPSTREAM, Role::BOTH] {
            for softwire in [Softwire::Closed, Softwire::Outer, Softwire::Inner] {
                // Logging has no branches that depend on the others.
                let trace = softwire == Softwire::Inner && role == Role::BOTH;
                let constants = Constants { link, role, softwire, trace };
                let mut object = object::create(&tables, constants, Maps::Own).unwrap();
                for name in programs() {
                    let cost = verified(&mut object, name);
                    let entry = worst.entry(name).or_insert(cost);
                    *entry = (*entry).max(cost);
                }
            }
        }
    }
    for (name, (verified, translated)) in worst {
        println!("verifier: {name}: {verified} instructions verified, {translated} loaded, at most");
        assert!(verified <= INSTRUCTIONS, "{name}: {verified} instructions, {INSTRUCTIONS} are the budget");
    }
}

/// All that this kernel takes: it knows nothing of `xdp.frags` before 5.18.
fn programs() -> Vec<&'static str> {
    let mut names = vec![
        program::XDP,
        program::SAMPLE_XDP,
        program::TC,
        program::SAMPLE_TC,
        program::EXPLAIN,
        program::EXPLAIN_TC,
        program::PASS,
    ];
    if program::multi_buffer() {
        names.extend([program::XDP_FRAGS, program::SAMPLE_FRAGS]);
    }
    names
}
