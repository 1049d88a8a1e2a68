//! Numbered frames from the customer to the Internet, all the time, and an account of every one; it must not know what is
//! broken meanwhile.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::{Range, RangeInclusive},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use etherparse::PacketBuilder;
use serde::Serialize;

use crate::{
    lab::{Ear, eventually},
    network::{CUSTOMER, EDGE_MAC, Network, OUTSIDE, OUTSIDE6, RELAY},
};

/// Before the number of each frame, at its end.
const MARK: [u8; 8] = *b"op25b-no";
/// So many frames each time, and how long until the next: a thousand or two a second.
const BATCH: u64 = 16;
const PACE: Duration = Duration::from_millis(10);
/// How long a frame may be on its way.
const TRAVEL: Duration = Duration::from_millis(100);

/// A kind of frame: all in turn.
#[derive(Clone, Copy)]
struct Kind {
    source: &'static str,
    destination: &'static str,
    udp: bool,
    port: u16,
    /// What counts it, as `stats` names that; absent: nothing does.
    counted: Option<&'static str>,
    blocked: bool,
}

const fn kind(
    source: &'static str,
    destination: &'static str,
    udp: bool,
    port: u16,
    counted: Option<&'static str>,
    blocked: bool,
) -> Kind {
    Kind { source, destination, udp, port, counted, blocked }
}

const RESIDENTIAL: &str = "203.0.113.10";
const RESIDENTIAL6: &str = "2001:db8:1000::10";
const EXEMPT: &str = "203.0.113.130";

const KINDS: [Kind; 8] = [
    kind(RESIDENTIAL, OUTSIDE, false, 25, Some("residential ipv4 blocked drop"), true),
    kind(RESIDENTIAL6, OUTSIDE6, false, 25, Some("residential ipv6 blocked drop"), true),
    kind(RESIDENTIAL, OUTSIDE, false, 587, None, false),
    kind(RESIDENTIAL6, OUTSIDE6, false, 587, None, false),
    kind(RESIDENTIAL, OUTSIDE, true, 25, None, false),
    kind(RESIDENTIAL6, OUTSIDE6, true, 25, None, false),
    kind(RESIDENTIAL, RELAY, false, 25, Some("residential ipv4 relay pass"), false),
    kind(EXEMPT, OUTSIDE, false, 25, Some("residential ipv4 exempt pass"), false),
];

/// One that sends once.
const STRANGER: Kind = KINDS[1];

fn kind_of(number: u64) -> Kind {
    KINDS[(number % KINDS.len() as u64) as usize]
}

/// What the sender and those who break things tell each other.
#[derive(Default)]
pub(crate) struct Traffic {
    next: AtomicU64,
    stop: AtomicBool,
    /// The line is about to go down, and the sender knows.
    down: AtomicBool,
    known: AtomicBool,
    /// Frames without a number, of sources that each send one.
    strangers: AtomicU64,
}

impl Traffic {
    /// How many frames have been sent.
    pub(crate) fn sent(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Does something that takes the line down: what is sent meanwhile may be lost, and is counted as that.
    pub(crate) fn while_down<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.tell(true)?;
        // What was sent before arrives.
        thread::sleep(TRAVEL);
        let done = act();
        self.tell(false)?;
        done
    }

    fn tell(&self, down: bool) -> Result<()> {
        self.down.store(down, Ordering::SeqCst);
        ensure!(eventually(|| self.known.load(Ordering::SeqCst) == down), "the sender does not answer");
        Ok(())
    }

    /// Sends one frame to be blocked from each of so many customers.
    pub(crate) fn send_from_many(&self, network: &Network, customers: u32) -> Result<()> {
        let mouth = network.customer.mouth(CUSTOMER)?;
        let mut frame = STRANGER.frame();
        for customer in 0..customers {
            // The /64 of an Ethernet frame's IPv6 source, behind those of the others.
            frame[14 + 8 + 5..14 + 8 + 8].copy_from_slice(&(customer + (1 << 16)).to_be_bytes()[1..]);
            mouth.send([frame.as_slice()])?;
            if customer % 16 == 15 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        self.strangers.fetch_add(u64::from(customers), Ordering::SeqCst);
        Ok(())
    }

    /// Sends while something is done; what became of every frame.
    pub(crate) fn during(&self, network: &Network, act: impl FnOnce() -> Result<()>) -> Result<Ledger> {
        let ear = network.internet.listen("up0")?;
        let deaf = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(network));
            let receiver = scope.spawn(|| hear(&ear, &deaf));
            let started = eventually(|| self.sent() > BATCH || sender.is_finished());
            let done = if started { act() } else { Err(anyhow!("no traffic")) };
            self.stop.store(true, Ordering::SeqCst);
            let down = sender.join();
            thread::sleep(2 * TRAVEL);
            deaf.store(true, Ordering::SeqCst);
            let seen = receiver.join();
            done?;
            let panicked = |_| anyhow!("a thread panicked");
            let strangers = self.strangers.load(Ordering::SeqCst);
            Ok(Ledger {
                sent: self.sent(),
                strangers,
                down: down.map_err(panicked)??,
                seen: seen.map_err(panicked)??,
            })
        })
    }

    /// Sends until told to stop; the numbers of what was sent while the line was down.
    fn send(&self, network: &Network) -> Result<Vec<Range<u64>>> {
        let mut frames = KINDS.each_ref().map(Kind::frame);
        let mut ranges = Vec::new();
        let mut down_since = None;
        let mut mouth = Some(network.customer.mouth(CUSTOMER)?);
        while !self.stop.load(Ordering::SeqCst) {
            let down = self.down.load(Ordering::SeqCst);
            match (down, down_since) {
                (true, None) => down_since = Some(self.sent()),
                (false, Some(since)) => {
                    ranges.push(since..self.sent());
                    down_since = None;
                    // It may be another line.
                    mouth = Some(network.customer.mouth(CUSTOMER)?);
                }
                _ => {}
            }
            self.known.store(down, Ordering::SeqCst);
            for _ in 0..BATCH {
                let number = self.next.fetch_add(1, Ordering::SeqCst);
                let frame = &mut frames[(number % KINDS.len() as u64) as usize];
                let end = frame.len() - size_of::<u64>();
                frame[end..].copy_from_slice(&number.to_be_bytes());
                let sent = mouth.as_ref().context("no line").and_then(|mouth| mouth.send([frame.as_slice()]));
                if down && sent.is_err() {
                    mouth = network.customer.mouth(CUSTOMER).ok();
                } else {
                    sent.with_context(|| format!("frame {number}"))?;
                }
            }
            thread::sleep(PACE);
        }
        ranges.extend(down_since.map(|since| since..self.sent()));
        Ok(ranges)
    }
}

/// How often each number arrives, until told to stop.
fn hear(ear: &Ear, deaf: &AtomicBool) -> Result<Vec<u8>> {
    let (mut seen, mut buffer) = (Vec::<u8>::new(), vec![0; 16 << 10]);
    while !deaf.load(Ordering::SeqCst) {
        while let Some(length) = ear.receive(&mut buffer)? {
            let frame = buffer.get(..length).unwrap_or_default();
            let Some((frame, number)) = frame.split_last_chunk() else { continue };
            let number = usize::try_from(u64::from_be_bytes(*number))?;
            if !frame.ends_with(&MARK) {
                continue;
            }
            if seen.len() <= number {
                seen.resize(number + 1, 0);
            }
            seen[number] = seen[number].saturating_add(1);
        }
        thread::sleep(Duration::from_millis(2));
    }
    ensure!(ear.lost()? == 0, "the listening socket was too small");
    Ok(seen)
}

impl Kind {
    /// Without its number.
    fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x25], EDGE_MAC);
        let text = [MARK, [0; 8]].concat();
        let mut frame = Vec::new();
        let ip = match (self.source.parse(), self.destination.parse()) {
            (Ok(IpAddr::V4(source)), Ok(IpAddr::V4(destination))) => {
                ethernet.ipv4(source.octets(), destination.octets(), 64)
            }
            (Ok(IpAddr::V6(source)), Ok(IpAddr::V6(destination))) => {
                ethernet.ipv6(source.octets(), destination.octets(), 64)
            }
            _ => unreachable!("the kinds are written down here"),
        };
        // Into memory there is nothing that can fail.
        let _ = if self.udp {
            ip.udp(40_000, self.port).write(&mut frame, &text)
        } else {
            ip.tcp(40_000, self.port, 1, 64_240).syn().write(&mut frame, &text)
        };
        frame
    }
}

/// What became of every frame.
pub(crate) struct Ledger {
    sent: u64,
    strangers: u64,
    down: Vec<Range<u64>>,
    seen: Vec<u8>,
}

/// What became of some frames.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Account {
    /// While the line was up.
    pub(crate) sent: u64,
    /// To be blocked, and arrived.
    pub(crate) leaked: u64,
    /// Not to be blocked, and never arrived.
    pub(crate) lost: u64,
    /// Sent into a line that was down.
    pub(crate) down: u64,
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.leaked += other.leaked;
        self.lost += other.lost;
        self.down += other.down;
    }
}

impl Ledger {
    /// Of the frames with these numbers.
    pub(crate) fn account(&self, numbers: Range<u64>) -> Account {
        let mut account = Account::default();
        for number in numbers {
            let (arrived, down) = (self.arrived(number), self.is_down(number));
            account.leaked += u64::from(kind_of(number).blocked && arrived);
            account.lost += u64::from(!kind_of(number).blocked && !arrived && !down);
            account.down += u64::from(down);
            account.sent += u64::from(!down);
        }
        account
    }

    /// The numbers of those that arrived more than once.
    pub(crate) fn doubled(&self) -> Vec<usize> {
        let twice = self.seen.iter().enumerate().filter(|(_, times)| **times > 1);
        twice.map(|(number, _)| number).collect()
    }

    /// What each counter must show at least and at most: frames sent while the line went down may have been counted.
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, RangeInclusive<u64>> {
        let mut counters = BTreeMap::<_, (u64, u64)>::new();
        if let Some(counter) = STRANGER.counted {
            counters.insert(counter, (self.strangers, self.strangers));
        }
        for number in 0..self.sent {
            let kind = kind_of(number);
            let Some(counter) = kind.counted else { continue };
            let (least, most) = counters.entry(counter).or_default();
            *most += 1;
            // What arrived was counted, whatever the line did; what is blocked arrives nowhere.
            let surely = if kind.blocked { !self.is_down(number) } else { self.arrived(number) };
            *least += u64::from(surely);
        }
        counters.into_iter().map(|(name, (least, most))| (name, least..=most)).collect()
    }

    fn arrived(&self, number: u64) -> bool {
        self.seen.get(number as usize).is_some_and(|times| *times > 0)
    }

    fn is_down(&self, number: u64) -> bool {
        self.down.iter().any(|range| range.contains(&number))
    }
}
