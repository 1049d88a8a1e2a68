//! A terminal in a namespace, by a tmux of its own in which a shell runs; it must not know what is tried.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::{Filter, Namespace, eventually};

/// What the shell says when it waits.
const PROMPT: &str = "shell>";

/// The terminal, and all in it, gone when dropped.
pub(crate) struct Terminal {
    files: TempDir,
    server: Child,
}

impl Terminal {
    /// One of so many columns and rows.
    pub(crate) fn start(namespace: &Namespace, columns: u16, rows: u16) -> Result<Self> {
        let files = tempfile::tempdir()?;
        // In the foreground, so that it ends with the test.
        let server = namespace
            .command("tmux")?
            .args(["-u", "-f", "/dev/null", "-D", "-S"])
            .arg(files.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_remove("TMUX")
            .spawn()
            .context("cannot start tmux; install the packages that tests/README.md names")?;
        let this = Self { files, server };
        ensure!(eventually(|| this.socket().exists()), "tmux does not listen");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = format!("PS1='{PROMPT} ' exec sh -i");
        this.tmux(&[
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env",
            "-u",
            "NO_COLOR",
            "sh",
            "-c",
            &shell,
        ])?;
        this.shows(PROMPT)?;
        Ok(this)
    }

    fn socket(&self) -> PathBuf {
        self.files.path().join("socket")
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("tmux")
            .args(["-u", "-S"])
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .env_remove("TMUX")
            .output()?;
        ensure!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types an op25b command of this filter, with variables before it.
    pub(crate) fn run(
        &self,
        filter: &Filter<'_>,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<()> {
        let command = filter.command(arguments)?;
        let mut words = vec!["clear;".to_owned()];
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        words.push(command.get_program().to_string_lossy().into_owned());
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        self.keys(&[&words.join(" "), "Enter"])
    }

    /// Presses keys by tmux's names, or types texts.
    pub(crate) fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(|_| ())
    }

    /// What is on it now.
    pub(crate) fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the sequences of colours and the like.
    pub(crate) fn attributes(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-e", "-p"])
    }

    /// Waits until a text is on it.
    pub(crate) fn shows(&self, text: &str) -> Result<String> {
        let mut screen = String::new();
        let shown = eventually(|| {
            screen = self.screen().unwrap_or_default();
            screen.contains(text)
        });
        ensure!(shown, "never {text:?}, but\n{screen}");
        Ok(screen)
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).map(|_| ())
    }

    /// What the shell has started.
    pub(crate) fn child(&self) -> Result<Pid> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let child = children.split_whitespace().next().context("the shell runs nothing")?;
        Ok(Pid::from_raw(child.parse()?))
    }

    /// The shell has the terminal again, as it was: no alternate screen, a cursor, and what is typed is seen.
    pub(crate) fn is_given_back(&self) -> Result<()> {
        let state = || {
            self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{pane_current_command}"])
        };
        let mut last = String::new();
        let back = eventually(|| {
            last = state().unwrap_or_default();
            last.trim() == "0 1 sh"
        });
        ensure!(back, "alternate screen, cursor, command: {last}\n{}", self.screen()?);
        self.keys(&["stty -a", "Enter"])?;
        let settings = self.shows("echoke")?;
        for mode in ["icanon", "echo", "isig", "icrnl", "opost"] {
            let on = settings.split_whitespace().any(|word| word.trim_end_matches(';') == mode);
            if !on {
                bail!("{mode} is off:\n{settings}");
            }
        }
        self.keys(&["clear", "Enter"])?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
