//! A customer's line: what goes into a tap interface comes out of another in whatever headers the access network has,
//! and the other way round; some of it gets lost on request.
#![allow(dead_code, reason = "each test binary has lines of its own")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Mouth, Namespace};

/// What the access network puts around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Ethernet alone.
    Plain,
    /// PPPoE in two VLAN tags.
    QinqPppoe,
}

/// Two tags and the PPPoE header of session 1 up to its length field.
const QINQ_PPPOE: [u8; 14] = [0x88, 0xa8, 0, 9, 0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 0, 1];

/// The line, as long as this lives.
pub(crate) struct Wire {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Frames that were lost.
    lost: Arc<AtomicU64>,
}

impl Wire {
    /// Makes the tap interface `tap` in a namespace, and joins it with `line` there. Of each direction so many frames
    /// in a thousand get lost.
    pub(crate) fn new(
        namespace: &Namespace,
        tap: &str,
        line: &str,
        access: Access,
        lost_of_thousand: u64,
    ) -> Result<Self> {
        let near = namespace.within(|| open_tap(tap))??;
        namespace.ip(&["link", "set", tap, "up"])?;
        let (ends, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ear, mouth) = (namespace.listen(line)?, namespace.mouth(line)?);
        let mut chance = Chance { state: 0x2545_f491_4f6c_dd1d, lost_of_thousand, lost: lost.clone() };
        let mut other = Chance { state: 0x9e37_79b9_7f4a_7c15, lost_of_thousand, lost: lost.clone() };

        let (mut inward, stop) = (near.try_clone()?, ends.clone());
        let up = thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while !stop.load(Ordering::Relaxed) {
                match inward.read(&mut buffer) {
                    Ok(length) if !chance.loses() => {
                        let frame = wrap(access, &buffer[..length]);
                        send(&mouth, &frame);
                    }
                    Ok(_) => {}
                    Err(_) => thread::sleep(Duration::from_micros(200)),
                }
            }
        });
        let (mut outward, stop) = (near, ends.clone());
        let down = thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while !stop.load(Ordering::Relaxed) {
                match ear.receive(&mut buffer) {
                    // Zero is one that was leaving.
                    Ok(Some(0)) => {}
                    Ok(Some(length)) => {
                        if let Some(frame) = unwrap(access, &buffer[..length])
                            && !other.loses()
                        {
                            // A tap that is down takes nothing; the line has nobody to tell.
                            let _ = outward.write(&frame);
                        }
                    }
                    _ => thread::sleep(Duration::from_micros(200)),
                }
            }
        });
        Ok(Self { ends, threads: vec![up, down], lost })
    }

    /// Frames that were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(mouth: &Mouth, frame: &[u8]) {
    // An interface that is gone takes nothing; the line has nobody to tell.
    let _ = mouth.send([frame]);
}

/// Says which frames get lost: the same ones in every run.
struct Chance {
    state: u64,
    lost_of_thousand: u64,
    lost: Arc<AtomicU64>,
}

impl Chance {
    /// xorshift64.
    fn loses(&mut self) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let loses = self.state % 1000 < self.lost_of_thousand;
        self.lost.fetch_add(u64::from(loses), Ordering::Relaxed);
        loses
    }
}

fn wrap(access: Access, frame: &[u8]) -> Vec<u8> {
    let (Access::QinqPppoe, [head @ .., high, low], packet) = (access, &frame[..14], &frame[14..]) else {
        return frame.to_vec();
    };
    let protocol: [u8; 2] = match [*high, *low] {
        [8, 0] => [0, 0x21],
        [0x86, 0xdd] => [0, 0x57],
        // Neighbours are looked for on the line itself.
        _ => return frame.to_vec(),
    };
    let length = (packet.len() as u16 + 2).to_be_bytes();
    [head, &QINQ_PPPOE, &length, &protocol, packet].concat()
}

/// The packet in a frame of the line; the kernel has taken the outer tag off by then.
fn unwrap(access: Access, frame: &[u8]) -> Option<Vec<u8>> {
    if access == Access::Plain {
        return Some(frame.to_vec());
    }
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    if frame.get(at..at + 2)? != [0x88, 0x64] {
        return Some(frame.to_vec());
    }
    let kind: [u8; 2] = match frame.get(at + 8..at + 10)? {
        [0, 0x21] => [8, 0],
        [0, 0x57] => [0x86, 0xdd],
        _ => return None,
    };
    Some([&frame[..12], &kind, &frame[at + 10..]].concat())
}

/// TUNSETIFF: an interface of the calling thread's namespace that speaks Ethernet.
fn open_tap(name: &str) -> Result<File> {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
    // SAFETY: an address of integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "{name} is too long");
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is of the kind that this call takes.
    let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(made == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    // SAFETY: flags of an open file.
    let set = unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    ensure!(set == 0, "O_NONBLOCK: {}", io::Error::last_os_error());
    Ok(tap)
}
