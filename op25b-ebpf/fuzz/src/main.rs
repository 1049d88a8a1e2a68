//! The core under libFuzzer: any bytes end in a named outcome, the shortcut never contradicts the walk, and what is
//! judged can be read and decided.
//!
//! The first byte of an input picks how the frame is looked at, the rest is the frame.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|input: &[u8]| look(input));

/// Without libFuzzer: runs the inputs given as files, to look at one that it found.
#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::io::Result<()> {
    for path in std::env::args().skip(1) {
        look(&std::fs::read(path)?);
    }
    Ok(())
}

use op25b_ebpf::{
    abi::{Customer, Group, Link, Mode, Role, Server, Softwire},
    address::Address,
    frame::{Sight, parse, plain, walk},
    policy::Policy,
    verdict::{Flow, decide},
};

fn look(input: &[u8]) {
    let Some((how, frame)) = input.split_first() else { return };
    let sight = Sight {
        link: Link::from_number(how & 1),
        role: Role(how >> 1 & 3),
        softwire: Softwire::from_number(how >> 3 & 3),
        submission: how & 32 != 0,
    };
    let found = parse(&frame, sight);
    assert!(found.outcome().is_some(), "outcome {} has no name", found.outcome_number());

    let walked = walk(&frame, sight);
    if let Some(shortcut) = plain(&frame, sight) {
        assert_eq!(shortcut.is_judged(), walked.is_judged(), "the shortcut and the walk differ");
        assert!(!shortcut.is_judged() || shortcut == walked, "the shortcut and the walk differ");
    }

    if found.is_judged() {
        let flow = Flow::read(&frame, found);
        assert!(flow.is_some(), "a judged frame without addresses");
        if let Some(flow) = flow {
            let policy = Pick(flow.customer.low ^ flow.peer.low);
            let decision = decide(&flow, sight.role, &policy);
            assert!(decision.group <= 255 && decision.relay() <= 64, "{decision:?}");
        }
    }
}

/// A policy that says something else to each address, so that every row of the table is reached.
struct Pick(u64);

impl Policy for Pick {
    fn customer(&self, address: Address) -> Customer {
        Customer((address.low ^ self.0) as u32 & 0x7ff)
    }

    fn server(&self, address: Address) -> Server {
        Server { relays: address.low & self.0, scopes: address.low >> 8 & self.0 }
    }

    fn group(&self, number: u32) -> Option<&Group> {
        static ENFORCING: Group = Group {
            relays: 3,
            scope: 0,
            mode: Mode::Enforce as u8,
            action: 1,
            return_path: Mode::Enforce as u8,
            source_length: 64,
            reserved: [0; 4],
        };
        if number & 1 == 1 { Some(&ENFORCING) } else { None }
    }

    fn blocks_unknown_sources(&self) -> bool {
        self.0 & 1 == 1
    }
}
