//! `replay`: captures of every kind are judged frame by frame, and what is no capture is said in a line.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use flate2::{Compression, write::GzEncoder};
use pcap_file::{
    DataLink,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter},
    pcapng::{
        Block, PcapNgReader, PcapNgWriter,
        blocks::{enhanced_packet::EnhancedPacketBlock, interface_description::InterfaceDescriptionBlock},
    },
};

const POLICY: &str = include_str!("../../policies/kurume.yaml");

struct Desk {
    files: tempfile::TempDir,
}

impl Desk {
    fn new() -> Result<Self> {
        let desk = Self { files: tempfile::tempdir()? };
        std::fs::write(desk.path("policy.yaml"), POLICY)?;
        Ok(desk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn replay(&self, arguments: &[&str], capture: &Path) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_op25b"));
        command.args(["replay", "--role", "customer", "--policy"]).arg(self.path("policy.yaml"));
        Ok(command.args(arguments).arg(capture).output()?)
    }

    fn lines(&self, capture: &Path) -> Result<Vec<serde_json::Value>> {
        let output = self.replay(&["--json"], capture)?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    fn refused(&self, capture: &Path) -> Result<String> {
        let output = self.replay(&["--json"], capture)?;
        ensure!(output.status.code() == Some(1), "exit 1 was to be expected: {output:?}");
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            error.lines().count() == 1 && error.starts_with("error: "),
            "one line was to be expected: {error}"
        );
        Ok(error)
    }
}

fn frame(port: u16) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([203, 0, 113, 10], [198, 51, 100, 25], 64)
        .tcp(40_000, port, 1, 1024)
        .syn();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"EHLO customer.example\r\n")?;
    Ok(bytes)
}

fn pcap(link: DataLink, frames: &[(Vec<u8>, u32)]) -> Result<Vec<u8>> {
    let header = PcapHeader { datalink: link, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header)?;
    for (bytes, length) in frames {
        writer.write_packet(&PcapPacket::new(Duration::from_secs(1), *length, bytes))?;
    }
    Ok(writer.into_writer())
}

fn whole(bytes: Vec<u8>) -> (Vec<u8>, u32) {
    let length = bytes.len() as u32;
    (bytes, length)
}

#[test]
fn pcap_pcapng_and_gzip_are_judged_alike() -> Result<()> {
    let desk = Desk::new()?;
    let frames = [frame(25)?, frame(587)?];
    let plain = pcap(DataLink::ETHERNET, &frames.clone().map(whole))?;
    std::fs::write(desk.path("a.pcap"), &plain)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain)?;
    std::fs::write(desk.path("a.pcap.gz"), gzip.finish()?)?;
    let mut writer = PcapNgWriter::new(Vec::new())?;
    writer.write_pcapng_block(InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: Vec::new(),
    })?;
    for bytes in &frames {
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_secs(1),
            original_len: bytes.len() as u32,
            data: bytes.into(),
            options: Vec::new(),
        })?;
    }
    std::fs::write(desk.path("a.pcapng"), writer.into_inner())?;
    let expected = serde_json::json!([
        {"frame": 1, "verdict": "drop", "reason": "blocked", "customer": "residential", "relay": null},
        {"frame": 2, "verdict": "pass", "reason": "other", "customer": null, "relay": null},
    ]);
    for name in ["a.pcap", "a.pcap.gz", "a.pcapng"] {
        let lines = desk.lines(&desk.path(name))?;
        ensure!(serde_json::Value::from(lines.clone()) == expected, "{name}: {lines:?}");
    }
    Ok(())
}

#[test]
fn raw_ip_is_judged_and_other_links_are_named() -> Result<()> {
    let desk = Desk::new()?;
    let ip = frame(25)?.split_off(14);
    std::fs::write(desk.path("raw.pcap"), pcap(DataLink::RAW, &[whole(ip.clone())])?)?;
    let lines = desk.lines(&desk.path("raw.pcap"))?;
    ensure!(lines[0]["reason"] == "blocked", "{lines:?}");
    std::fs::write(desk.path("ppp.pcap"), pcap(DataLink::PPP, &[whole(ip)])?)?;
    let lines = desk.lines(&desk.path("ppp.pcap"))?;
    ensure!(lines[0]["verdict"].is_null() && lines[0]["reason"] == "link-type", "{lines:?}");
    Ok(())
}

#[test]
fn what_the_capture_cut_off_is_marked_and_judged_by_what_is_there() -> Result<()> {
    let desk = Desk::new()?;
    let bytes = frame(25)?;
    let length = bytes.len() as u32;
    let frames = [(bytes[..54].to_vec(), length), (bytes[..10].to_vec(), length), (Vec::new(), length)];
    std::fs::write(desk.path("cut.pcap"), pcap(DataLink::ETHERNET, &frames)?)?;
    let lines = desk.lines(&desk.path("cut.pcap"))?;
    ensure!(lines.iter().all(|line| line["truncated"] == true), "{lines:?}");
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].clone()).collect();
    ensure!(reasons == ["blocked", "other", "other"], "{lines:?}");
    Ok(())
}

#[test]
fn what_is_no_capture_is_said_in_a_line() -> Result<()> {
    let desk = Desk::new()?;
    let plain = pcap(DataLink::ETHERNET, &[whole(frame(25)?), whole(frame(587)?)])?;
    for (name, bytes, expected) in [
        ("empty.pcap", Vec::new(), "empty"),
        ("text.pcap", b"no capture at all, but text".to_vec(), "no capture file"),
        ("header.pcap", plain[..20].to_vec(), "damaged pcap header"),
        ("cut.pcap", plain[..plain.len() - 5].to_vec(), "damaged behind frame 1"),
        ("gzip.pcap.gz", vec![0x1f, 0x8b, 8, 0, 1, 2, 3], "gzip.pcap.gz"),
    ] {
        std::fs::write(desk.path(name), bytes)?;
        let error = desk.refused(&desk.path(name))?;
        ensure!(error.contains(expected) && error.contains(name), "{name}: {error}");
    }
    ensure!(desk.refused(&desk.path("missing.pcap"))?.contains("missing.pcap"), "the missing file is named");
    // Bytes that go wrong in the middle never make it panic.
    for at in 24..plain.len() {
        let mut bytes = plain.clone();
        bytes[at] ^= 0xff;
        std::fs::write(desk.path("flipped.pcap"), bytes)?;
        if at % 7 == 0 {
            let code = desk.replay(&["--json"], &desk.path("flipped.pcap"))?.status.code();
            ensure!(matches!(code, Some(0 | 1)), "byte {at}: {code:?}");
        }
    }
    Ok(())
}

#[test]
fn the_frames_of_one_reason_go_into_a_capture_of_their_own() -> Result<()> {
    let desk = Desk::new()?;
    let frames = [frame(25)?, frame(587)?, frame(25)?].map(whole);
    std::fs::write(desk.path("a.pcap"), pcap(DataLink::ETHERNET, &frames)?)?;
    let picked = desk.path("blocked.pcapng");
    let picked_name = picked.display().to_string();
    let output = desk.replay(&["--write", &picked_name, "--reason", "blocked"], &desk.path("a.pcap"))?;
    ensure!(output.status.success(), "{output:?}");
    let mut reader = PcapNgReader::new(std::fs::File::open(&picked)?)?;
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block? {
            found.push(packet.data.into_owned());
        }
    }
    ensure!(found == [frames[0].0.clone(), frames[2].0.clone()], "{found:?}");
    let output = desk.replay(&["--write", &picked_name, "--reason", "nonsense"], &desk.path("a.pcap"))?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(())
}

#[test]
fn a_hundred_thousand_frames_take_less_than_a_second_or_two() -> Result<()> {
    let desk = Desk::new()?;
    let frames = vec![whole(frame(25)?); 200_000];
    std::fs::write(desk.path("many.pcap"), pcap(DataLink::ETHERNET, &frames)?)?;
    let start = Instant::now();
    let lines = desk.lines(&desk.path("many.pcap"))?;
    let rate = lines.len() as f64 / start.elapsed().as_secs_f64();
    println!("replay: {} frames, {rate:.0} a second", lines.len());
    ensure!(lines.len() == frames.len(), "{} lines", lines.len());
    // A tenth of what it does on an idle machine in a release build.
    ensure!(rate > 20_000.0, "{rate:.0} frames a second");
    let mut reader = PcapReader::new(std::fs::File::open(desk.path("many.pcap"))?)?;
    ensure!(reader.next_packet().is_some(), "the capture is one");
    Ok(())
}
