//! bpffs, which holds the filter while no daemon runs, is unmounted under one: it holds the filter itself, and pins it again.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod mounts;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use anyhow::{Result, ensure};
use lab::{Filter, KURUME, eventually};
use mounts::unmount_bpffs;
use nix::sys::signal::Signal;
use site::{FILTERED, LENGTH, OPEN, Site, link_id, tidy};

const BLOCKED: &str = "residential ipv4 blocked drop";
const MODES: [&str; 3] = ["native", "generic", "tc-ingress"];

fn says(filter: &Filter<'_>, words: &str) -> Result<()> {
    ensure!(eventually(|| filter.said().contains(words)), "never {words:?}: {}", filter.said());
    Ok(())
}

#[test]
fn a_daemon_holds_the_filter_and_pins_it_again() -> Result<()> {
    mounts::own()?;
    for mode in MODES {
        let policy = KURUME.replacen("[eth1]", &format!("[{{name: eth1, attach: {mode}}}]"), 1);
        let site = Site::new(1)?;
        let mut filter = Filter::new(&site.edge)?;
        filter.start(&policy, &[])?;
        let link = link_id(&filter, &format!("eth1:{mode}"))?;
        let blocks = |filter: &Filter<'_>, times: usize| -> Result<()> {
            site.send("cust1", 10, site::CUSTOMER, 25)?;
            filter.counts(&[(BLOCKED, 10 * times, 10 * times * LENGTH)])
        };
        blocks(&filter, 1)?;

        unmount_bpffs()?;
        says(&filter, "nothing can be changed")?;
        let refused = filter.op25b(&["reload"])?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("nothing was changed"), "{refused:?}");
        site.send("cust1", 10, site::CUSTOMER, 25)?;

        // Every command that reads mounts it where it is not, as this does.
        filter.op25b(&["status"])?;
        says(&filter, "is pinned there, without a gap")?;
        blocks(&filter, 3)?;
        ensure!(filter.status()?.0 == Some(0), "{:?}", filter.status()?);
        ensure!(link_id(&filter, &format!("eth1:{mode}"))? == link, "the same link");
        ensure!(filter.op25b(&["reload"])?.code == Some(0), "{}", filter.said());
        tidy(&filter)?;
        // It is the pins that hold it now.
        filter.stop(Signal::SIGTERM)?;
        says(&filter, "the filter stays in force")?;
        blocks(&filter, 4)?;
        filter.start(&policy, &[])?;
        blocks(&filter, 5)?;

        unmount_bpffs()?;
        says(&filter, "nothing can be changed")?;
        filter.stop(Signal::SIGTERM)?;
        says(&filter, "ending, and the filter with it")?;
        if mode == "native" {
            ensure!(eventually(|| site.through().is_ok_and(|through| through == OPEN)), "something holds it");
        }
        filter.start(&policy, &[])?;
        if mode == "native" {
            ensure!(site.through()? == FILTERED, "{}", filter.said());
        }
    }
    Ok(())
}
