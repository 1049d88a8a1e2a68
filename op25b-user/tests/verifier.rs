//! What the programs cost the verifier: every program's instructions, under all constants that it can have, and its
//! stack.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aya::Ebpf;
use aya_obj::{Object, generated::bpf_insn};
use op25b::{
    document,
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::abi::{Link, Role, Softwire};

/// What the verifier says of a program that it takes. aya asks it only about those that it does not take, and kernels
/// before 5.16 tell it nowhere else.
#[cfg(target_arch = "x86_64")]
mod words {
    use std::{
        arch::asm,
        sync::{Mutex, PoisonError},
    };

    use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_PROG_LOAD};
    use libc::{SYS_bpf, c_long};

    /// `BPF_LOG_STATS`.
    const STATS: u32 = 4;

    static LAST: Mutex<String> = Mutex::new(String::new());

    /// Of the program that was loaded last.
    pub(super) fn last() -> String {
        LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stands in for the C library's function of this name, which aya calls: a program is loaded with a log.
    #[unsafe(no_mangle)]
    extern "C" fn syscall(
        number: c_long,
        command: c_long,
        attribute: c_long,
        size: c_long,
        d: c_long,
    ) -> c_long {
        let mut log = [0_u8; 1 << 16];
        let mut copy;
        let mut attribute = attribute;
        let mut logged = false;
        if number == SYS_bpf && command as u32 == BPF_PROG_LOAD as u32 {
            // SAFETY: aya passes the whole attribute of a program to load; this works on a copy of it.
            unsafe {
                copy = *(attribute as *const bpf_attr);
                // aya asks what the kernel can do, with programs of its own.
                let ours = copy.__bindgen_anon_3.prog_name.map(|byte| byte as u8).starts_with(b"op25b_");
                logged = ours && copy.__bindgen_anon_3.log_level == 0;
                if logged {
                    copy.__bindgen_anon_3.log_level = STATS;
                    copy.__bindgen_anon_3.log_size = log.len() as u32;
                    copy.__bindgen_anon_3.log_buf = log.as_mut_ptr() as u64;
                    attribute = &raw const copy as c_long;
                }
            }
        }
        let result: c_long;
        // SAFETY: the system call that the caller asked for; a log that it did not ask for is `log`, which lives on.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") command, in("rsi") attribute, in("rdx") size, in("r10") d,
                lateout("rcx") _, lateout("r11") _,
            );
        }
        if logged && result >= 0 {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) =
                String::from_utf8_lossy(&log[..end]).into_owned();
        }
        if (-4095..0).contains(&result) {
            // SAFETY: this thread's own.
            unsafe { *libc::__errno_location() = -result as i32 };
            return -1;
        }
        result
    }
}

/// The budget, a tenth of what the kernel allows.
const INSTRUCTIONS: u32 = 100_000;

const POLICY: &str = r#"
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers: [{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce}]
unknown_sources: pass
"#;

/// What holds below all prefixes is not what holds above them: lookups end in more ways.
const HALVES: &str = r#"
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers:
- {name: lower, prefixes: [0.0.0.0/1, "::/1"], mode: enforce, allow_any: true, destinations: [0.0.0.0/1, "::/1"]}
- {name: islands, prefixes: [203.0.113.0/24, 198.51.100.0/24, "2001:db8:1000::/36"], mode: enforce}
unknown_sources: pass
"#;

fn tables(text: &str) -> Tables {
    let document = document::parse(text, "policy").unwrap();
    let policy = Policy::from_document(document, "policy", text, &Override::default()).unwrap();
    Tables::compile(&policy, &Situation::default(), |_| 1).unwrap()
}

/// Instructions verified and loaded, and the stack of each function, of a program.
fn verified(object: &mut Ebpf, name: &str) -> (u32, u32, String) {
    let program = object::load(object, name).unwrap();
    let words = words::last();
    let info = program.info().unwrap();
    let after = |label: &str| words.lines().rev().find_map(|line| line.strip_prefix(label));
    let said: Option<u32> = after("processed ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    let told = info.verified_instruction_count();
    // Linux 5.16 tells it here; before, and at least until 6.18, it is in the log.
    assert!(told.is_some() || said.is_some(), "{name}: {words}");
    assert!(told.is_none() || said.is_none() || told == said, "{name}: {told:?}, {words}");
    let stack = after("stack depth ").unwrap_or("not told").to_owned();
    (told.or(said).unwrap_or(u32::MAX), info.size_translated().unwrap_or(0) / 8, stack)
}

#[test]
fn every_program_passes_the_verifier_within_the_budget_whatever_its_constants() {
    let (tables, halves) = (tables(POLICY), tables(HALVES));
    let mut worst = BTreeMap::new();
    for link in [Link::Ethernet, Link::Ip] {
        for role in [Role::CUSTOMER, Role::UPSTREAM, Role::BOTH] {
            for softwire in [Softwire::Closed, Softwire::Outer, Softwire::Inner] {
                // Logging has no branches that depend on the others.
                let trace = softwire == Softwire::Inner && role == Role::BOTH;
                let constants = Constants {
                    softwire,
                    submission: true,
                    answers: true,
                    hangs_up: link == Link::Ip,
                    trace,
                    ..Constants::bare(role, link)
                };
                // How lookups end has nothing to do with what frames start with.
                let most = role == Role::BOTH && link == Link::Ethernet;
                for tables in [&tables, &halves].into_iter().take(if most { 2 } else { 1 }) {
                    let mut object = object::create(tables, constants, Maps::Own).unwrap();
                    for name in programs() {
                        let cost = verified(&mut object, name);
                        let entry = worst.entry(name).or_insert_with(|| cost.clone());
                        *entry = entry.clone().max(cost);
                    }
                }
            }
        }
    }
    for (name, (verified, translated, stack)) in worst {
        println!(
            "verifier: {name}: {verified} instructions verified, {translated} loaded, at most; stack {stack}"
        );
        assert!(verified <= INSTRUCTIONS, "{name}: {verified} instructions, {INSTRUCTIONS} are the budget");
    }
}

/// What the kernel allows a program and all that it calls (`MAX_BPF_STACK`).
const STACK: u32 = 512;

/// The frame pointer.
const R10: u8 = 10;

/// Bytes below the frame pointer that one instruction reaches.
fn reach(instructions: &[bpf_insn], at: usize) -> u32 {
    let instruction = &instructions[at];
    let depth = match instruction.code & 7 {
        // Loads from the frame, stores to it.
        1 if instruction.src_reg() == R10 => -i32::from(instruction.off),
        2 | 3 if instruction.dst_reg() == R10 => -i32::from(instruction.off),
        // `rN = r10`, then `rN += -depth`: the address of a local.
        7 if instruction.code == 0xbf && instruction.src_reg() == R10 => {
            let register = instruction.dst_reg();
            let next = instructions.get(at + 1..at + 4).unwrap_or_default();
            let add = next.iter().find(|next| next.code == 0x07 && next.dst_reg() == register);
            add.map_or(0, |add| -add.imm)
        }
        _ => 0,
    };
    u32::try_from(depth).unwrap_or(0)
}

/// The deepest chain of calls from the function that starts at `start`, each frame as the verifier rounds it.
fn chain(instructions: &[bpf_insn], starts: &BTreeSet<usize>, start: usize) -> u32 {
    let end = starts.range(start + 1..).next().copied().unwrap_or(instructions.len());
    let own = (start..end).map(|at| reach(instructions, at)).max().unwrap_or(0);
    let called = calls(instructions, start..end).map(|callee| chain(instructions, starts, callee));
    own.max(1).next_multiple_of(32) + called.max().unwrap_or(0)
}

/// Where the functions start that these instructions call.
fn calls(instructions: &[bpf_insn], range: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    range
        .filter(|at| instructions[*at].code == 0x85 && instructions[*at].src_reg() == 1)
        .map(|at| (at as i64 + 1 + i64::from(instructions[at].imm)) as usize)
}

#[test]
fn every_program_and_all_that_it_calls_fit_the_stack() {
    let mut object = Object::parse(object::OBJECT).unwrap();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    let programs: BTreeMap<_, _> = object.programs.iter().collect();
    for (name, program) in programs {
        let instructions = &object.functions[&program.function_key()].instructions;
        let starts = [0].into_iter().chain(calls(instructions, 0..instructions.len())).collect();
        let stack = chain(instructions, &starts, 0);
        println!("verifier: {name}: {stack} bytes of stack along the deepest chain of calls");
        assert!(stack <= STACK, "{name}: {stack} bytes of stack, {STACK} are there");
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
