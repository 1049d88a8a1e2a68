//! The fuzzer's seeds are the frames of the case table, a file a case, named by it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "cases/mod.rs"]
mod cases;
mod frames;
mod ways;

use std::{collections::BTreeSet, fs, path::Path};

use op25b_ebpf::abi::Link;

/// Longer frames are no seeds: libFuzzer is told not to go there.
const LONGEST: usize = 2_047;

/// `OP25B_WRITE_SEEDS=1` writes them anew.
#[test]
fn every_seed_is_a_case_and_every_case_a_seed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../op25b-ebpf/fuzz/seeds");
    let write = std::env::var_os("OP25B_WRITE_SEEDS").is_some();
    let mut known = BTreeSet::new();
    for case in cases::all().iter().filter(|case| case.frame.len() <= LONGEST) {
        let sight = case.setting.sight(Link::Ethernet);
        let how = sight.link as u8 | sight.role.0 << 1 | (sight.softwire as u8) << 3;
        let seed = [&[how], case.frame.as_slice()].concat();
        let path = directory.join(&*case.name);
        if write {
            fs::write(&path, &seed).unwrap();
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(
            committed == seed,
            "seed {} is not its case's frame; OP25B_WRITE_SEEDS=1 writes them anew",
            case.name
        );
        known.insert(case.name.to_string());
    }
    for entry in fs::read_dir(&directory).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name), "seed {name} is no case any more; remove it");
    }
}
