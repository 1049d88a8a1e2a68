//! What the program costs a frame that is not mail, and what the accounts of sources cost one that is blocked:
//! nanoseconds over an empty program, or without accounts, in one run.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Mutex;

use aya::{
    Ebpf,
    programs::{Program, TestRun as _, TestRunOptions, Xdp},
};
use op25b::{
    document,
    object::{self, Build, Constants, Maps, program},
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::{
    abi::{Link, Role, Softwire},
    cookie::Keys,
    source::KEPT,
};

const POLICY: &str = r#"
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers: [{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce}]
unknown_sources: pass
"#;

fn tables(text: &str) -> Tables {
    let document = document::parse(text, "policy").unwrap();
    let policy = Policy::from_document(document, "policy", text, &Override::default()).unwrap();
    Tables::compile(&policy, &Situation::default(), |_| 1).unwrap()
}

#[test]
fn a_frame_that_is_not_mail_pays_a_few_nanoseconds() {
    let _alone = ALONE.lock();
    // Everything that a policy can ask for.
    let constants = Constants {
        softwire: Softwire::Inner,
        submission: true,
        answers: true,
        cookie_keys: Keys::unchanged([1, 2]),
        ..Constants::bare(Role::BOTH, Link::Ethernet)
    };
    let mut object = object::create(&tables(POLICY), constants, Maps::Own).unwrap();
    object::load(&mut object, program::XDP).unwrap();
    object::load(&mut object, program::PASS).unwrap();

    let mut bare =
        object::create(&tables(POLICY), Constants { accounts: false, ..constants }, Maps::Own).unwrap();
    object::load(&mut bare, program::XDP).unwrap();

    for (name, frame, limit) in frames() {
        // One after the other, so that both meet the machine in the same mood.
        let runs: Vec<(f64, f64, f64)> = (0..61)
            .map(|_| {
                let run = |object, name| nanoseconds(object, name, &frame);
                (run(&object, program::PASS), run(&object, program::XDP), run(&bare, program::XDP))
            })
            .collect();
        // The least is what a program takes; what is above it is the machine's other work.
        let least = |of: fn(&(f64, f64, f64)) -> f64| runs.iter().map(of).fold(f64::INFINITY, f64::min);
        let (floor, ours) = (least(|run| run.0), least(|run| run.1));
        let (over, ratio) = (ours - floor, ours / floor);
        let without = least(|run| run.2);
        println!(
            "cost: {name}: {ours:.0} ns, {over:.0} over an empty program ({floor:.0}), {:.0} over one without accounts",
            ours - without
        );
        // It is the same code: what they differ by is the machine's.
        assert!(
            ours <= without * limit || ours - without <= FEW,
            "{name}: accounts cost who has none {} ns",
            ours - without
        );
        // A ratio, since machines differ; where an empty program takes next to nothing, what few instructions take.
        assert!(
            ratio <= limit || over <= limit * FEW,
            "{name}: {ratio:.2} times an empty program, {limit} are allowed; {over:.0} ns over it"
        );
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
    let options = TestRunOptions { data_in: Some(frame), repeat: 500_000, ..Default::default() };
    program.test_run(options).expect("the kernel runs the program").duration.as_nanos() as f64
}

/// Nanoseconds over an empty program that are few for a frame that may take one and a half times as long as it.
const FEW: f64 = 12.0;
/// One at a time: each measures the same processor.
static ALONE: Mutex<()> = Mutex::new(());
static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-bench"));

/// The filter in the benchmark's object, which sends itself the same SYN from ever other sources.
fn spread(sources: u32, attempts: bool, accounts: bool) -> Ebpf {
    let tables = tables(&POLICY.replace("203.0.113.0/24", "10.0.0.0/8"));
    let constants = Constants { seed: 25, accounts, ..Constants::bare(Role::CUSTOMER, Link::Ethernet) };
    let (count, attempts) = (sources.to_ne_bytes(), [u8::from(attempts)]);
    let globals: [(&str, &[u8]); 2] = [("SOURCE_COUNT", &count), ("ATTEMPTS", &attempts)];
    let build = Build { bytes: BENCH, globals: &globals, sources: KEPT };
    let mut object = object::create_from(&build, &tables, constants, Maps::Own).unwrap();
    object::load(&mut object, SPREAD).unwrap();
    object::load(&mut object, FLOOR).unwrap();
    object
}

const SPREAD: &str = "bench_spread";
/// The same frames, dropped by a program that looks at none.
const FLOOR: &str = "bench_spread_floor";

#[test]
fn the_accounts_of_sources_cost_a_blocked_frame_little() {
    let _alone = ALONE.lock();
    let frame = [
        [2u8; 12].as_slice(),
        &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 198, 51, 100, 25],
        &[0x9c, 0x40, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    for sources in [1, 1 << 17] {
        for attempts in [false, true] {
            let (with, without) = (spread(sources, attempts, true), spread(sources, attempts, false));
            // Every account is opened before anything is measured.
            nanoseconds(&with, SPREAD, &frame);
            let runs: Vec<[f64; 3]> = (0..7)
                .map(|_| {
                    [(&without, FLOOR), (&without, SPREAD), (&with, SPREAD)]
                        .map(|(object, name)| nanoseconds(object, name, &frame))
                })
                .collect();
            let least = |of: usize| runs.iter().map(|run| run[of]).fold(f64::INFINITY, f64::min);
            let [empty, floor, ours] = [0, 1, 2].map(least);
            let what = if attempts { "attempts" } else { "retransmissions" };
            println!(
                "cost: blocked, {what} of {sources} sources: {ours:.0} ns, {:.0} of them for accounts; {empty:.0} in a \
                 program that drops all",
                ours - floor
            );
            let most = 12.0 * empty.max(FEW);
            assert!(floor - empty <= most, "{floor} ns without accounts, {empty} where nothing is looked at");
            // 131,072 accounts are cache misses, whose time is the machine's and its neighbours': only a bound.
            let limit = if sources == 1 { 12.0 } else { 40.0 };
            assert!(ours <= floor * limit, "{ours} ns with accounts, {floor} without: over {limit} times");
        }
    }
}

/// The middle of many single runs, in nanoseconds: a frame that is answered is another frame afterwards, and cannot be
/// run again.
fn single_runs(object: &Ebpf, name: &str, frame: &[u8], returns: u32) -> f64 {
    let Some(Program::Xdp(program)) = object.program(name) else { panic!("no XDP program {name}") };
    let mut times: Vec<f64> = (0..900)
        .map(|_| {
            let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
            let run = program.test_run(options).expect("the kernel runs the program");
            assert_eq!(run.return_value, returns, "{name}");
            run.duration.as_nanos() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
fn an_answer_costs_less_than_a_microsecond_more_than_a_drop() {
    const TX: u32 = 3;
    let _alone = ALONE.lock();
    let policy = |action: &str| {
        let answering = POLICY.replace("mode: enforce", &format!("mode: enforce, action: {action}"));
        tables(&format!("{answering}operator: Internet Kurume\nnotice: {{text: {}}}\n", "x".repeat(110)))
    };
    let load = |action: &str| {
        let constants = Constants {
            answers: true,
            cookie_keys: Keys::unchanged([1, 2]),
            ..Constants::bare(Role::CUSTOMER, Link::Ethernet)
        };
        let mut object = object::create(&policy(action), constants, Maps::Own).unwrap();
        object::load(&mut object, program::XDP).unwrap();
        object::load(&mut object, program::PASS).unwrap();
        object
    };
    let segment = |acknowledgement: u32, flags: u8| {
        let ip = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 203, 0, 113, 9, 198, 51, 100, 25];
        let [a, b, c, d] = acknowledgement.to_be_bytes();
        let tcp = [0x9c, 0x40, 0, 25, 0, 0, 0, 1, a, b, c, d, 0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0];
        [[2_u8; 12].as_slice(), &[8, 0], &ip, &tcp, &[0; 6]].concat()
    };
    let syn = segment(0, 2);
    let empty = single_runs(&load("drop"), program::PASS, &syn, 2);
    let drop = single_runs(&load("drop"), program::XDP, &syn, 1);
    let reset = single_runs(&load("reset"), program::XDP, &syn, TX);
    let opened = load("notice");
    let syn_ack = single_runs(&opened, program::XDP, &syn, TX);
    // The cookie is in the answer to the SYN.
    let Some(Program::Xdp(program)) = opened.program(program::XDP) else { panic!("no XDP program") };
    let greeted = {
        // One answer more is within what the source may have at once.
        let mut made = vec![0; 512];
        let options = TestRunOptions { data_in: Some(&syn), data_out: Some(&mut made), ..Default::default() };
        program.test_run(options).unwrap();
        u32::from_be_bytes([made[38], made[39], made[40], made[41]]).wrapping_add(1)
    };
    let notice = single_runs(&load("notice"), program::XDP, &segment(greeted, 0x10), TX);
    println!(
        "cost: single runs, over an empty program ({empty:.0} ns): drop {:.0} ns, reset {:.0}, SYN-ACK {:.0}, notice {:.0}",
        drop - empty,
        reset - empty,
        syn_ack - empty,
        notice - empty
    );
    for (name, cost) in [("reset", reset), ("SYN-ACK", syn_ack), ("notice", notice)] {
        // Machines differ and are shared: only a bound, beside the time of a drop in the same run.
        assert!(cost - empty <= (drop - empty) * 10.0 + 1000.0, "{name}: {cost} ns, a drop {drop}");
    }
}
