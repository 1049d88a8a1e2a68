//! Runs other programs; a failure names the exact command line.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `command` to its end with the terminal as its output.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    finish(command, "").map(drop)
}

/// Runs `command` to its end with `input` as its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    finish(command.stdin(Stdio::piped()), input).map(drop)
}

/// Runs `command` to its end and returns what it wrote on standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    finish(command.stdout(Stdio::piped()), "")
}

/// Where `program` is, if it can be run by its name.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// `command` as one would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.display(), quoted(&value.to_string_lossy()));
        }
    }
    line.push_str(&quoted(&command.get_program().to_string_lossy()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(&argument.to_string_lossy()));
    }
    line
}

fn finish(command: &mut Command, input: &str) -> Result<String> {
    let output = run(command, input).with_context(|| format!("cannot run `{}`", command_line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed, {}", command_line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    child.wait_with_output()
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_line_as_one_would_type_it() {
        let mut command = Command::new("sh");
        command.env("WHO", "a customer").args(["-c", "exit 3"]);
        let message = exec(&mut command).map_err(|error| error.to_string());
        assert_eq!(message, Err("`WHO='a customer' sh -c 'exit 3'` failed, exit status: 3".to_owned()));
    }

    #[test]
    fn the_input_is_what_the_program_reads() -> Result<()> {
        feed(Command::new("grep").args(["-qx", "a line"]), "a line\n")
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = exec(&mut Command::new("no-such-program")).map_err(|error| error.to_string());
        assert_eq!(message, Err("cannot run `no-such-program`".to_owned()));
    }
}
