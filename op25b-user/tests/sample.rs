//! `status --sample`: every frame is seen for a moment, said how, and the filter is in force all the time.

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, KURUME, Namespace, syn};

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
    let warnings = status["warnings"].as_array().context("status has warnings")?;
    let warnings = warnings.iter().filter_map(|warning| warning.as_str().map(str::to_owned)).collect();
    Ok((status["samples"][0].clone(), warnings))
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
