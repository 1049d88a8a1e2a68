//! What the program costs a frame that is not mail: nanoseconds over an empty program, in one run.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use aya::{
    Ebpf,
    programs::{Program, TestRun as _, TestRunOptions, Xdp},
};
use op25b::{
    document,
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::abi::{Link, Role, Softwire};

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
    Tables::compile(&policy, &Situation::default(), |_| 1).unwrap()
}

#[test]
fn a_frame_that_is_not_mail_pays_a_few_nanoseconds() {
    let constants = Constants {
        link: Link::Ethernet,
        role: Role::CUSTOMER,
        softwire: Softwire::Closed,
        submission: false,
        seed: 0,
        trace: false,
    };
    let mut object = object::create(&tables(), constants, Maps::Own).unwrap();
    object::load(&mut object, program::XDP).unwrap();
    object::load(&mut object, program::PASS).unwrap();

    for (name, frame, limit) in frames() {
        // One after the other, so that both meet the machine in the same mood.
        let runs: Vec<(f64, f64)> = (0..31)
            .map(|_| {
                (nanoseconds(&object, program::PASS, &frame), nanoseconds(&object, program::XDP, &frame))
            })
            .collect();
        // The least is what a program takes; what is above it is the machine's other work.
        let least = |of: fn(&(f64, f64)) -> f64| runs.iter().map(of).fold(f64::INFINITY, f64::min);
        let (floor, ours) = (least(|run| run.0), least(|run| run.1));
        let (over, ratio) = (ours - floor, ours / floor);
        println!("cost: {name}: {ours:.0} ns, {over:.0} over an empty program ({floor:.0})");
        // A ratio, since machines differ; the nanoseconds above are for people.
        assert!(ratio <= limit, "{name}: {ratio:.2} times an empty program, {limit} are allowed");
    }
}

fn frames() -> [(&'static str, Vec<u8>, f64); 4] {
    let ethernet = |kind: [u8; 2]| [[2; 6].as_slice(), &[2; 6], &kind].concat();
    let tcp = [[0x9c, 0x40, 1, 0xbb].as_slice(), &[0; 8], &[0x50, 2], &[0; 6]].concat();
    let ipv4 = |protocol| {
        [[0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0].as_slice(), &[203, 0, 113, 9], &[198, 51, 100, 25]]
            .concat()
    };
    let qinq_pppoe =
        [[0x88, 0xa8, 0, 9, 0x81, 0, 0, 9, 0x88, 0x64, 0x11, 0, 0, 1, 0, 62, 0, 0x57].as_slice()].concat();
    let ipv6 = [[0x60, 0, 0, 0, 0, 20, 6, 64].as_slice(), &[0x20; 32]].concat();
    [
        ("IPv4 TCP to port 443", [ethernet([8, 0]), ipv4(6), tcp.clone()].concat(), 1.5),
        ("IPv4 UDP", [ethernet([8, 0]), ipv4(17), tcp.clone()].concat(), 1.5),
        ("IPv6 TCP to port 443", [ethernet([0x86, 0xdd]), ipv6.clone(), tcp.clone()].concat(), 1.5),
        (
            "IPv6 TCP to port 443 in PPPoE in two VLAN tags",
            [vec![2; 12], qinq_pppoe, ipv6, tcp].concat(),
            2.2,
        ),
    ]
}

fn nanoseconds(object: &Ebpf, name: &str, frame: &[u8]) -> f64 {
    let Some(Program::Xdp(program)) = object.program(name) else { panic!("no XDP program {name}") };
    let program: &Xdp = program;
    let options = TestRunOptions { data_in: Some(frame), repeat: 2_000_000, ..Default::default() };
    program.test_run(options).expect("the kernel runs the program").duration.as_nanos() as f64
}
