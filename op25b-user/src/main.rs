//! The `op25b` command: the one place that prints an error and picks the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use op25b::{
    cli::Cli,
    commands::{self, No},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell is nothing to fail for.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    env_logger::Builder::new()
        .filter_level(cli.log)
        .format(|out, record| {
            use std::io::Write as _;
            let level = match record.level() {
                log::Level::Info => String::new(),
                level => format!("{}: ", level.as_str().to_lowercase()),
            };
            writeln!(out, "{level}{}", record.args())
        })
        .init();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Exit 1: the user's input, or the answer is no. Exit 2: unexpected.
        Err(error) => match error.downcast_ref::<No>() {
            Some(No::Answer) => ExitCode::from(1),
            Some(No::Input(_)) => {
                tell(&error);
                ExitCode::from(1)
            }
            None => {
                tell(&error);
                ExitCode::from(2)
            }
        },
    }
}

/// A policy can be wrong in several ways: a line each.
fn tell(error: &anyhow::Error) {
    for line in in_one_line(error).lines() {
        eprintln!("error: {line}");
    }
}

/// The error and its causes. A library's error often repeats its cause: said once is enough.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| {
        if line.is_empty() {
            cause
        } else if line.contains(&cause) {
            line
        } else {
            format!("{line}: {cause}")
        }
    })
}
