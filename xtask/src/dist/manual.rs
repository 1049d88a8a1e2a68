//! Man pages and shell completions, from what op25b itself parses its arguments with.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

// The file itself, since op25b's library takes a BPF toolchain to build, and `setup` is there to find one.
#[path = "../../../op25b-user/src/cli.rs"]
#[expect(unreachable_pub, reason = "it is a module of a library elsewhere")]
mod cli;

/// Where each shell looks, and what it wants the file to be called.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions/op25b"),
    (Shell::Zsh, "usr/share/zsh/vendor-completions/_op25b"),
    (Shell::Fish, "usr/share/fish/vendor_completions.d/op25b.fish"),
];

/// Writes a man page for op25b and for each of its commands into `folder`.
pub(super) fn man_pages(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // `help` and its copies of all commands would be a page for each.
    let command = cli::Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).context("cannot write the man pages")
}

/// Writes the completions below `root`.
pub(super) fn completions(root: &Path) -> Result<()> {
    for (shell, place) in COMPLETIONS {
        let path = root.join(place);
        fs::create_dir_all(path.parent().context("a completion without a folder")?)?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut cli::Cli::command(), "op25b", &mut text);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_is_completed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        man_pages(folder.path())?;
        completions(folder.path())?;
        for command in cli::Cli::command().get_subcommands() {
            let name = command.get_name();
            let page = fs::read_to_string(folder.path().join(format!("op25b-{name}.1")))?;
            assert!(page.contains("SYNOPSIS"), "{name}");
            for (_, place) in COMPLETIONS {
                assert!(fs::read_to_string(folder.path().join(place))?.contains(name), "{name} in {place}");
            }
        }
        let page = fs::read_to_string(folder.path().join("op25b.1"))?;
        assert!(page.contains("op25b \\- Outbound port 25 blocking"), "{page}");
        Ok(())
    }
}
