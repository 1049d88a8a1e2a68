//! What the customers send, captured on their side, and what op25b says of it frame by frame.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::POLICY;
use crate::exec::read;
use crate::lab::{Lab, Process, pause};
use crate::report::Report;

/// Running captures, one a namespace.
pub(crate) struct Captures {
    running: Vec<(Process, PathBuf)>,
}

impl Captures {
    /// Captures from now on the TCP that `namespaces` send.
    pub(crate) fn start(lab: &Lab, namespaces: &[&str], folder: &Path) -> Result<Self> {
        let mut running = Vec::new();
        for namespace in namespaces {
            let file = folder.join(format!("{namespace}.pcap"));
            let mut command = lab.daemon(namespace, "tcpdump");
            command.args(["-i", "uplink", "-Q", "out", "-U", "-Z", "root", "-w"]).arg(&file).arg("tcp");
            let mut process = Process::start(&mut command, &folder.join(format!("{namespace}.tcpdump.log")))?;
            // Its file header is written when it listens.
            process
                .wait_until(Duration::from_secs(10), || file.metadata().is_ok_and(|file| file.len() > 0))
                .with_context(|| format!("tcpdump does not capture in {namespace}"))?;
            running.push((process, file));
        }
        Ok(Self { running })
    }

    /// Ends the captures and adds a line to `report` for each reason: frames that `op25b replay` judges so, and
    /// packets that the running filter counted.
    pub(crate) fn compare(
        self,
        op25b: &Path,
        stats: &Value,
        keep: Option<&Path>,
        report: &mut Report,
    ) -> Result<()> {
        pause(Duration::from_millis(500))?;
        let mut lines = String::new();
        for (mut process, file) in self.running {
            process.stop()?;
            lines += &read(
                Command::new(op25b)
                    .args(["replay", "--json", "--role", "customer", "--policy", POLICY])
                    .arg(&file),
            )?;
            if let (Some(folder), Some(name)) = (keep, file.file_name()) {
                std::fs::create_dir_all(folder)?;
                std::fs::copy(&file, folder.join(name))
                    .with_context(|| format!("cannot keep {} in {}", file.display(), folder.display()))?;
            }
        }
        let frames = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        for reason in ["blocked", "relay", "exempt"] {
            let replayed = frames.iter().filter(|frame| frame["reason"] == reason).count() as u64;
            let rows = stats["totals"].as_array().context("`op25b stats --json` has no totals")?;
            let rows = rows.iter().filter(|row| row["reason"] == reason);
            let counted = rows.filter_map(|row| row["packets"].as_u64()).sum::<u64>();
            report.add(
                format!("frames captured that replay calls {reason}, op25b counted"),
                &replayed,
                &counted,
            );
        }
        Ok(())
    }
}
