//! The running op25b of a demo, attached to the edge router's interfaces and detached at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::exec::{exec, read};
use crate::lab::{Lab, Process};

const INSTANCE: &str = "demo";

/// Where op25b pins the links, programs and counters of this instance.
const PINS: &str = "/sys/fs/bpf/op25b/demo";

const READY: Duration = Duration::from_secs(20);

/// An enforcing filter; it is detached when this value ends.
pub(crate) struct Filter<'a> {
    lab: &'a Lab,
    namespace: &'a str,
    program: PathBuf,
    daemon: Process,
    attached: bool,
}

impl<'a> Filter<'a> {
    /// Starts op25b in `namespace` on its `customers` interfaces, and waits until it says that it enforces.
    pub(crate) fn start(
        lab: &'a Lab,
        namespace: &'a str,
        program: &Path,
        policy: &str,
        customers: &[&str],
        log: &Path,
    ) -> Result<Self> {
        if Path::new(PINS).exists() {
            // A killed demo left them; their interfaces are gone.
            exec(&mut op25b(lab, namespace, program, "detach"))?;
        }
        let mut run = lab.daemon(namespace, program);
        run.args(["run", "--instance", INSTANCE, "--policy", policy]);
        for interface in customers {
            run.args(["--customer", interface]);
        }
        let daemon = Process::start(&mut run, log)?;
        let mut filter = Self { lab, namespace, program: program.to_owned(), daemon, attached: true };
        filter.wait_until_enforcing().context("op25b does not enforce")?;
        Ok(filter)
    }

    /// What `op25b stats` counted.
    pub(crate) fn stats(&self) -> Result<Value> {
        let stats = read(op25b(self.lab, self.namespace, &self.program, "stats").arg("--json"))?;
        serde_json::from_str(&stats).with_context(|| format!("`op25b stats --json` wrote no JSON: {stats}"))
    }

    /// Ends op25b and takes the filter off the interfaces.
    pub(crate) fn detach(mut self) -> Result<()> {
        self.end()
    }

    fn wait_until_enforcing(&mut self) -> Result<()> {
        let mut status = op25b(self.lab, self.namespace, &self.program, "status");
        status.arg("--json").stdout(Stdio::null()).stderr(Stdio::null());
        self.daemon.wait_until(READY, || status.status().is_ok_and(|status| status.success()))
    }

    fn end(&mut self) -> Result<()> {
        self.daemon.stop()?;
        // The filter stays in force without its daemon, so that is not enough.
        exec(&mut op25b(self.lab, self.namespace, &self.program, "detach"))?;
        self.attached = false;
        Ok(())
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        // Without pins nothing was attached, and detaching would only hide the first error behind a second.
        if self.attached
            && Path::new(PINS).exists()
            && let Err(error) = self.end()
        {
            eprintln!("warning: {error:#}");
        }
    }
}

fn op25b(lab: &Lab, namespace: &str, program: &Path, task: &str) -> Command {
    let mut command = lab.command(namespace, program);
    command.args([task, "--instance", INSTANCE]);
    command
}
