//! `cargo xtask fuzz`: libFuzzer on the core, from the committed seeds.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::exec;
use crate::setup;

const SEEDS: &str = "op25b-ebpf/fuzz/seeds";
/// What libFuzzer finds on the way: kept between runs, not committed.
const CORPUS: &str = ".cache/fuzz/corpus";
/// Inputs that break something land here.
const FOUND: &str = ".cache/fuzz/found/";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The instrumentation that libFuzzer steers by. It is in stable rustc; no sanitizer: the core has no unsafe code.
const INSTRUMENTATION: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
];

/// Fuzzes for so many seconds.
pub(crate) fn run(seconds: u64) -> Result<()> {
    setup::run()?;
    for directory in [CORPUS, FOUND] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    // A target of its own, so that build scripts and macros are not instrumented.
    exec(
        Command::new("cargo")
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"))
            .args(["build", "--release", "--package", "op25b-fuzz", "--features", "libfuzzer"])
            .args(["--target", TARGET, "--target-dir", ".cache/fuzz/target"]),
    )?;
    let program = Path::new(".cache/fuzz/target").join(TARGET).join("release/fuzz-frame");
    exec(
        Command::new(program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={FOUND}"))
            .args(["-max_len=2048", "-print_final_stats=1", CORPUS, SEEDS]),
    )
}
