//! What is kept of one source of judged packets: who it is, how much it sent, how often it tried, to how many servers.
//!
//! An *attempt* is a SYN that none of the source's last four equals; what equals one is a retransmission of it. One
//! blocked `connect()` is eleven SYNs, so frames say little of how often somebody tried.

use crate::{
    abi::{Answer, Group},
    address::{Address, Family},
    segment::flag,
};

/// Accounts that there is room for.
pub const KEPT: u32 = 1 << 18;
/// Places of a set. A source's [`Key`] names its set, and in which place it is looked for first; it has the first one that
/// was free. The least recently seen of a full set makes room.
pub const WAYS: u32 = 16;
/// Neighbouring addresses whose accounts are neighbours too: as many as a page of memory holds.
const NEIGHBOURS: u64 = 64;
/// The counts of accounts: how many were opened.
pub const OPENED: u32 = 0;
/// And how many made room for others.
pub const EVICTED: u32 = 1;
/// Nanoseconds of a [`Window`].
pub const WINDOW: u64 = 3_600_000_000_000;
/// Bits of a window's map of destinations: linear counting stays within 15 % up to 1,000 of them.
pub const DESTINATION_BITS: usize = 512;
/// SYNs of a source that are remembered to tell an attempt from a retransmission.
pub const REMEMBERED: usize = 4;
/// Bits of a time in nanoseconds below a *tick*: it is 67 ms, and four bytes of them are nine years.
pub const TICK: u32 = 26;
/// Ticks that pass at least between two events of one source: a second.
pub const EVENT_INTERVAL: u16 = 15;
/// What a source is answered: two hundred frames a second, and a thousand at once; an answer has 250 bytes at most.
pub const SOURCE_PACE: Pace = Pace { interval: 5_000_000, burst: 5_000_000_000 };
/// What an interface answers: twenty thousand frames a second, and two thousand at once.
pub const INTERFACE_PACE: Pace = Pace { interval: 50_000, burst: 100_000_000 };
/// Bytes of a frame that travel with an event, at most.
pub const SNAPSHOT: usize = 128;

/// A rate with room for bursts, in nanoseconds: what is let through is due one interval after the one before, and may
/// come that much too early (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two.
    pub interval: u64,
    /// Before its time.
    pub burst: u64,
}

impl Pace {
    /// When the next one is due, if one may be let through now; `due` is that of this one.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, due: u64, now: u64) -> Option<u64> {
        if due > now + self.burst { None } else { Some(if due > now { due } else { now } + self.interval) }
    }
}

/// Who is accounted for, and under which name: an IPv4 address, or the network part of an IPv6 one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The IPv4 address, or the upper half of the IPv6 one as far as it names the source.
    pub address: u64,
    /// [`Account::what`].
    pub what: u16,
}

impl Key {
    /// Bit of an account that is somebody's.
    pub const USED: u16 = 1 << 15;
    /// [`Account::what`] of one that is between two: nobody's, and not the last of its set.
    pub const CHANGES_HANDS: u16 = 1 << 14;

    /// The key of a judged packet's source: its [`source_word`], and what was decided.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: u64, group: u32, reason: u8, family: u8) -> Self {
        let what = (group as u16 & 0xff) | (reason as u16 & 31) << 8 | (family as u16 & 1) << 13;
        Self { address, what: what | Self::USED }
    }

    /// The group's number, zero for none.
    #[must_use]
    pub const fn group(self) -> u32 {
        (self.what & 0xff) as u32
    }

    /// Number of a [`crate::verdict::Reason`].
    #[must_use]
    pub const fn reason(self) -> u8 {
        (self.what >> 8 & 31) as u8
    }

    /// Family of the address.
    #[must_use]
    pub const fn family(self) -> Family {
        if self.what >> 13 & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// The set of a source by its [`source_word`], and the place that is looked at first; `last_set` is one less than there are
/// sets, a power of two.
///
/// Customers' addresses are dense, so that neighbours share pages of memory; where the pages are and who shares a set
/// with whom depends on the seed: nobody can choose addresses that make room for each other. What was decided is not in it:
/// the memory is asked for before that is known.
#[inline(always)]
#[must_use]
pub const fn place(address: u64, seed: u64, last_set: u32) -> (u32, u32) {
    // Of what is delegated to IPv6 customers the lowest bits are zero, eight or sixteen of them.
    let near = address ^ address >> 8 ^ address >> 16;
    let chance = mix(seed, near / NEIGHBOURS);
    let set = (near & (NEIGHBOURS - 1) | chance.wrapping_mul(NEIGHBOURS)) as u32 & last_set;
    (set, (chance >> 60) as u32)
}

/// What an account is told of a frame beside its addresses, in one register, so that a BPF subprogram can take it.
///
/// | bits | what |
/// |---|---|
/// | 0–26 | [`Answer`] |
/// | 27 | family of the customer's address |
/// | 28–47 | bytes |
/// | 48–63 | packets that the frame stands for |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Packs the parts. A frame has less than a megabyte (IPv6 jumbograms within the host: 512 KiB).
    #[inline(always)]
    #[must_use]
    pub const fn new(answer: Answer, family: u8, bytes: u64, packets: u64) -> Self {
        Self(
            answer.0 as u64
                | (family as u64 & 1) << 27
                | (bytes & 0xf_ffff) << 28
                | (if packets > 0xffff { 0xffff } else { packets }) << 48,
        )
    }

    /// What was decided.
    #[inline(always)]
    #[must_use]
    pub const fn answer(self) -> Answer {
        Answer((self.0 & 0x7ff_ffff) as u32)
    }

    /// Number of the family of the customer's address.
    #[inline(always)]
    #[must_use]
    pub const fn family(self) -> u8 {
        (self.0 >> 27 & 1) as u8
    }

    /// Bytes of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 >> 28 & 0xf_ffff
    }

    /// Packets that it stands for.
    #[inline(always)]
    #[must_use]
    pub const fn packets(self) -> u64 {
        self.0 >> 48
    }
}

/// What names a source in [`Key::address`].
#[inline(always)]
#[must_use]
pub fn source_word(customer: Address, group: Option<&Group>) -> u64 {
    match customer.family {
        Family::Ipv4 => customer.low,
        // 64 is all of the upper half, like zero.
        Family::Ipv6 => match group.map_or(0, |group| group.source_length & 63) {
            0 => customer.high,
            length => customer.high & u64::MAX << (64 - length),
        },
    }
}

/// What tells a frame from others of its source, in one register.
///
/// | bits | what |
/// |---|---|
/// | 0–31 | hash of its SYN, zero for none |
/// | 32–61 | hash of its other end |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

impl Mark {
    /// Of a frame to this peer; `header` is its TCP header, zeros where that cannot be read.
    #[inline(always)]
    #[must_use]
    pub const fn of(peer: Address, header: Tcp, seed: u64) -> Self {
        let hash = address_hash(peer, seed);
        let syn = if is_syn(header) { syn_hash(header, hash) } else { 0 };
        Self(syn as u64 | hash >> 34 << 32)
    }

    /// Hash of the SYN, zero for none.
    #[inline(always)]
    #[must_use]
    pub const fn syn(self) -> u32 {
        self.0 as u32
    }

    /// Hash of the other end, never zero.
    #[inline(always)]
    #[must_use]
    pub const fn peer(self) -> u32 {
        (self.0 >> 32) as u32 & 0x3fff_ffff | 1 << 30
    }

    /// [`destination_bit`]: of one [`Mark::peer`], one bit.
    #[inline(always)]
    #[must_use]
    pub const fn destination_bit(self) -> u32 {
        self.peer() & (DESTINATION_BITS as u32 - 1)
    }
}

/// One hour of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Hours since the Unix epoch, as the clock was set when the generation took force.
    pub number: u64,
    /// Frames.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
    /// Attempts.
    pub attempts: u64,
    /// Time of the first frame, in nanoseconds of CLOCK_MONOTONIC.
    pub first: u64,
    /// Time of the last frame.
    pub last: u64,
    /// A bit for the hash of each destination.
    pub destinations: [u64; DESTINATION_BITS / 64],
}

/// What is kept of a source and every frame needs: whose it is, and the running hour. One cache line, since waiting for
/// memory is most of what a blocked frame costs; a frame to another server needs its [`Details`] too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Account {
    /// [`Key::address`].
    pub address: u64,
    /// Frames of the hour that were no attempts: one atomic sum a frame less than with all of them.
    pub repeats: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its attempts; their lowest bits say which of the remembered SYNs is the oldest.
    pub attempts: u64,
    /// Hashes of the last SYNs.
    pub syns: [u32; REMEMBERED],
    /// [`Window::number`] of the hour.
    pub number: u32,
    /// Tick of its last frame.
    pub last: u32,
    /// [`Mark::peer`] of the hour's last frame that was an attempt, or the first one; zero for none.
    pub peer: u32,
    /// The group's number in the low byte, [`crate::verdict::Reason`] and [`Family`] above; zero: nobody's.
    pub what: u16,
    /// The lower half of the tick of the last event: it says the same again after 73 minutes, for who has had none since.
    pub told: u16,
}

impl Account {
    /// Frames of the hour.
    #[inline(always)]
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.repeats.wrapping_add(self.attempts)
    }

    /// Whose it is, if anybody's.
    #[must_use]
    pub const fn key(&self) -> Option<Key> {
        if self.what & Key::USED == 0 { None } else { Some(Key { address: self.address, what: self.what }) }
    }
}

/// What else is kept of a source. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Details {
    /// The hour's destinations, as in [`Window::destinations`].
    pub destinations: [u64; DESTINATION_BITS / 64],
    /// Time of the hour's first frame.
    pub first: u64,
    /// When the answers that the source has had would be due, one after the other: [`Pace`].
    pub answered: u64,
    /// The destination of the last attempt, as [`Address`] has it; of the first frame where there was none.
    pub destination: [u64; 2],
    /// Its family.
    pub destination_family: u64,
    /// Time of the first frame of all.
    pub opened: u64,
    /// Frames before the two hours.
    pub packets_before: u64,
    /// Bytes before them.
    pub bytes_before: u64,
    /// Attempts before them.
    pub attempts_before: u64,
    /// The hour before in which there were frames.
    pub before: Window,
    /// In the first place of a set: how many CPUs want to open an account in it.
    pub claims: u64,
}

impl Details {
    /// Words before [`Details::claims`], which are the source's.
    pub const WORDS: usize = 31;
}

/// What is kept of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its account.
    pub account: Account,
    /// What else is kept of it.
    pub details: Details,
}

impl Source {
    /// The hour of the last frame.
    #[must_use]
    pub fn hour(&self) -> Window {
        Window {
            number: u64::from(self.account.number),
            packets: self.account.packets(),
            bytes: self.account.bytes,
            attempts: self.account.attempts,
            first: self.details.first,
            // A tick is shorter than it may take from the first frame to the last.
            last: self.details.first.max(u64::from(self.account.last) << TICK),
            destinations: self.details.destinations,
        }
    }

    /// Its last hours in which there were frames, two at most.
    pub fn hours(&self) -> impl Iterator<Item = Window> {
        [self.hour(), self.details.before].into_iter().filter(|window| window.packets != 0)
    }
}

/// What the kernel tells of one frame of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// [`crate::found::Found`].
    pub found: u64,
    /// [`crate::abi::Answer`].
    pub answer: u32,
    /// Number of the interface.
    pub interface: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// How many of them follow this.
    pub captured: u32,
    /// Why it is told: [`Event::ATTEMPT`] and [`Event::SAMPLE`].
    pub kind: u32,
    /// A VLAN tag that travels beside the frame (TC): its sixteen bits, and bit 16 where there is one.
    pub tag: u32,
}

impl Event {
    /// Something that the source had not done within the last second.
    pub const ATTEMPT: u32 = 1;
    /// A sample of what is dropped, for a capture.
    pub const SAMPLE: u32 = 2;
    /// Bit of [`Event::tag`] where there is a tag.
    pub const TAGGED: u32 = 1 << 16;
}

/// The first bytes of a TCP header: ports, sequence number, acknowledgement, offset and flags (RFC 9293 §3.1).
pub type Tcp = [u8; 14];

/// Whether a segment opens a connection, or answers one that does.
#[inline(always)]
#[must_use]
pub const fn is_syn(header: Tcp) -> bool {
    header[13] & flag::SYN != 0
}

/// What tells a SYN from another: its destination, ports and sequence number. Never zero.
#[inline(always)]
const fn syn_hash(header: Tcp, peer_hash: u64) -> u32 {
    let ports = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as u64;
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as u64;
    (mix(peer_hash, ports << 32 | sequence) >> 32) as u32 | 1
}

/// The bit of a destination in [`Window::destinations`]. The seed keeps others from choosing servers that share one.
#[inline(always)]
#[must_use]
pub const fn destination_bit(peer: Address, seed: u64) -> u32 {
    Mark(address_hash(peer, seed) >> 34 << 32).destination_bit()
}

#[inline(always)]
const fn address_hash(address: Address, seed: u64) -> u64 {
    mix(mix(seed ^ address.family as u64, address.high), address.low)
}

/// Two rounds of multiply and shift: spreads what comes in over all bits of what goes out.
#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let mut mixed = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 32;
    mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

const _: () = {
    assert!(size_of::<Window>() == 112);
    assert!(size_of::<Account>() == 64);
    assert!(size_of::<Details>() == 256 && core::mem::offset_of!(Details, claims) == 8 * Details::WORDS);
    assert!(KEPT.is_power_of_two() && WAYS == 16);
    assert!(size_of::<Event>() == 40);
};
