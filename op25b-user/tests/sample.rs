//! `status --sample`: every frame is seen for a moment, said how, and the filter is in force all the time.

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;

use std::{fs, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, KURUME, Namespace, eventually, syn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const CUSTOMER: &str = "203.0.113.10";
const OUTSIDE: &str = "192.0.2.200";

fn site() -> Result<(Namespace, Namespace)> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    Ok((customer, edge))
}

/// Frames of `kind`, while a sample is taken; what the sample says, and the warnings.
fn sampled(frame: &[u8], count: usize) -> Result<(serde_json::Value, Vec<String>)> {
    let (customer, edge) = site()?;
    let mut filter = Filter::new(&edge)?;
    filter.start(KURUME, &["--customer", "eth1"])?;
    let before = edge.xdp("eth1")?;
    let answer = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| -> Result<()> {
            thread::sleep(Duration::from_millis(700));
            customer.mouth("cust1")?.send(std::iter::repeat_n(frame, count))
        });
        let answer = filter.op25b(&["status", "--sample", "2s", "--json"])?;
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(answer)
    })?;
    ensure!(edge.xdp("eth1")? == before, "the program that was in force is back");
    let status = answer.json()?;
    Ok((status["samples"][0].clone(), warnings(&status)?))
}

fn warnings(status: &serde_json::Value) -> Result<Vec<String>> {
    let warnings = status["warnings"].as_array().context("status has warnings")?;
    Ok(warnings.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
}

fn seen(sample: &serde_json::Value, outcome: &str, through: &[&str]) -> u64 {
    let rows = sample["seen"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row =
        rows.iter().find(|row| row["outcome"] == outcome && row["through"] == serde_json::json!(through));
    row.and_then(|row| row["packets"].as_u64()).unwrap_or(0)
}

#[test]
fn blocked_and_passing_frames_are_both_seen() -> Result<()> {
    let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_000, 587);
    let (sample, warnings) = sampled(&frame, 200)?;
    ensure!(seen(&sample, "other-port", &[]) == 200, "{sample}");
    ensure!(sample["frames"].as_u64() >= Some(200), "{sample}");
    ensure!(!warnings.iter().any(|warning| warning.contains("could not be read")), "{warnings:?}");

    let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_000, 25);
    let (sample, _) = sampled(&frame, 50)?;
    ensure!(seen(&sample, "to-port-25", &[]) == 50, "{sample}");
    Ok(())
}

#[test]
fn tags_are_named() -> Result<()> {
    let mut frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_000, 443);
    frame.splice(12..12, [0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]);
    let (sample, _) = sampled(&frame, 30)?;
    ensure!(seen(&sample, "other-port", &["vlan"]) == 30, "{sample}");
    Ok(())
}

#[test]
fn a_port_that_never_shows_a_readable_frame_is_warned_of() -> Result<()> {
    let mut frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_000, 25);
    // A local experimental EtherType (IEEE 802).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let (sample, warnings) = sampled(&frame, 300)?;
    ensure!(seen(&sample, "not-ip", &[]) >= 300, "{sample}");
    ensure!(warnings.iter().any(|warning| warning.contains("could not be read as IP")), "{warnings:?}");
    Ok(())
}

#[test]
fn an_interface_that_goes_leaves_the_others_sampled_and_with_their_program() -> Result<()> {
    let (customer, edge) = site()?;
    edge.veth("eth2", &customer, "cust2")?;
    let mut filter = Filter::new(&edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    let (before, other) = (edge.xdp("eth1")?, edge.xdp("eth2")?);
    let sample = |why: &str| -> Result<()> {
        let answer = filter.op25b(&["status", "--sample", "2s", "--json"])?;
        ensure!(answer.code == Some(1), "one of two is open: {answer:?}");
        let status = answer.json()?;
        let sampled = status["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(sampled.len() == 1 && sampled[0]["interface"] == "eth1", "{sampled:?}");
        let told = warnings(&status)?;
        let expected = format!("eth2: not sampled: {why}");
        ensure!(told.iter().any(|warning| warning.starts_with(&expected)), "{told:?}");
        ensure!(edge.xdp("eth1")? == before, "the program that was in force is back");
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let goes = scope.spawn(|| -> Result<()> {
            ensure!(eventually(|| edge.xdp("eth2").is_ok_and(|now| now != other)), "no sample begins");
            thread::sleep(Duration::from_millis(700));
            edge.ip(&["link", "del", "eth2"]).map(drop)
        });
        let sampled = sample("it went away meanwhile");
        goes.join().map_err(|_| anyhow::anyhow!("the one that removes it panicked"))??;
        sampled
    })
    .context("while the sample is taken")?;
    sample("the interface does not exist").context("before the sample is taken")
}

#[test]
fn a_sample_that_is_interrupted_ends_with_the_program_that_was_in_force() -> Result<()> {
    let (_customer, edge) = site()?;
    let mut filter = Filter::new(&edge)?;
    filter.start(KURUME, &["--customer", "eth1"])?;
    let before = edge.xdp("eth1")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut command = filter.command(&["status", "--sample", "1h", "--json"])?;
        let sampling = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let begun = eventually(|| edge.xdp("eth1").is_ok_and(|now| now != before));
        kill(Pid::from_raw(i32::try_from(sampling.id())?), signal)?;
        let output = sampling.wait_with_output()?;
        ensure!(begun, "no sample begins: {output:?}");
        ensure!(edge.xdp("eth1")? == before, "{signal}: the program that was in force is back: {output:?}");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(status["samples"][0]["interface"] == "eth1", "{signal}: {output:?}");
    }
    Ok(())
}

/// Samples begin and end while policies change: in the end each interface runs the program of the generation in force.
#[test]
fn a_sample_never_goes_over_another_generation() -> Result<()> {
    let (customer, edge) = site()?;
    edge.veth("eth2", &customer, "cust2")?;
    let mut filter = Filter::new(&edge)?;
    filter.start(KURUME, &["--customer", "eth1", "--customer", "eth2"])?;
    thread::scope(|scope| -> Result<()> {
        let samples = scope.spawn(|| -> Result<()> {
            for _ in 0..30 {
                let answer = filter.op25b(&["status", "--sample", "20ms"])?;
                ensure!(answer.code == Some(0), "{answer:?}");
            }
            Ok(())
        });
        for number in 0..15 {
            filter.policy(&format!("{KURUME}# {number}\n"))?;
            let answer = filter.op25b(&["reload"])?;
            ensure!(answer.code == Some(0), "{answer:?}");
        }
        samples.join().map_err(|_| anyhow::anyhow!("the one that samples panicked"))?
    })?;
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(filter.state().join("generation.json"))?)?;
    ensure!(manifest["generation"] == 16, "{manifest}");
    for interface in manifest["interfaces"].as_array().context("interfaces")? {
        let name = interface["name"].as_str().context("a name")?;
        let runs = edge.xdp(name)?.map(|(_, program)| program);
        ensure!(interface["program"] == serde_json::json!(runs), "{name} runs {runs:?}: {interface}");
    }
    Ok(())
}
