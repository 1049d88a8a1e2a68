//! The accounts of the sources of judged packets, and the events of who listens.

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, PerfEventArray},
};
use op25b_ebpf::{
    abi::Answer,
    address::{Address, Family},
    found::Found,
    policy::Policy,
    source::{
        DESTINATION_BITS, EVENT_INTERVAL, Entry, Event, KEPT, Key, Mark, REMEMBERED, SNAPSHOT, SOURCE_PACE,
        Source, TOLD_UNIT, Tcp, WINDOW, source_word,
    },
    verdict::{Flow, Verdict},
};

use super::{
    constants::{COARSE_CLOCK, EPOCH, SEED},
    frame::Frame,
    maps::Tables,
    replies::let_through,
};

/// The accounts, of all interfaces; they outlive the generation.
#[map]
static SOURCES: LruHashMap<Key, Source> = LruHashMap::with_max_entries(KEPT, 0);
/// Accounts that were ever opened: what is no longer there was evicted.
#[map]
static SOURCES_OPENED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// An account without entries: it has no room on the stack.
#[map]
static BLANK: Array<Source> = Array::with_max_entries(1, 0);
/// Events, for the daemon that listens; nobody listening costs a look.
#[map]
static EVENTS: PerfEventArray<Event> = PerfEventArray::new(0);
/// Every how many dropped frames one is told for a capture; zero: none.
#[map]
static CAPTURE: Array<u32> = Array::with_max_entries(1, 0);

/// What a frame means to its source, as a subprogram returns it.
#[derive(Clone, Copy)]
pub(super) struct Entered(pub(super) u32);

impl Entered {
    const ATTEMPT: u32 = 1;
    const TELL: u32 = 2;
    const HAS_HAD_ITS_SHARE: u32 = 4;

    /// One, or none.
    #[inline(always)]
    pub(super) const fn attempts(self) -> u64 {
        (self.0 & Self::ATTEMPT) as u64
    }

    /// Nobody's account.
    pub(super) const NONE: Self = Self(0);

    /// Whether somebody is to hear of it.
    #[inline(always)]
    const fn is_to_be_told(self) -> bool {
        self.0 & Self::TELL != 0
    }

    /// Whether the source has been answered as often as it may be.
    #[inline(always)]
    pub(super) const fn has_had_its_share(self) -> bool {
        self.0 & Self::HAS_HAD_ITS_SHARE != 0
    }
}

/// Enters a judged frame into its source's account, and tells who listens.
#[inline(always)]
pub(super) fn account<F: Frame>(
    frame: &F,
    found: Found,
    flow: &Flow,
    answer: Answer,
    (packets, bytes): (u64, u64),
) -> Entered {
    let (customer, peer) = (flow.customer(), flow.peer());
    let group = match customer.family {
        Family::Ipv4 => None,
        // Only there is something to look up.
        Family::Ipv6 => Tables.group(answer.group()),
    };
    let entry = Entry::new(answer, found.customer_family_number(), bytes, packets);
    let mark = frame.mark(found, peer);
    let peer_family = (peer.family as u64) << PEER_FAMILY;
    let entered = Entered(op25b_account(
        source_word(customer, group),
        entry.0,
        mark.0 | peer_family,
        peer.high,
        peer.low,
    ));
    let mut kind = if entered.is_to_be_told() { Event::ATTEMPT } else { 0 };
    if answer.verdict() != Verdict::Pass as u8 && is_sampled() {
        kind |= Event::SAMPLE;
    }
    if kind != 0 {
        frame.tell(found, answer, kind);
    }
    entered
}

/// Nanoseconds that clocks of CPUs and interfaces may differ by.
const BEHIND: u64 = 1_000_000_000;
/// Bit of a mark on its way to [`op25b_account`].
const PEER_FAMILY: u32 = 63;

/// The account, of either hook's frames: verified once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_account(address: u64, entry: u64, mark: u64, high: u64, low: u64) -> u32 {
    let (entry, family) = (Entry(entry), if mark >> PEER_FAMILY == 0 { Family::Ipv4 } else { Family::Ipv6 });
    let answer = entry.answer();
    let key = Key::new(address, answer.group(), answer.reason_number(), entry.family());
    let mark = Mark(mark);
    match find(&key) {
        // SAFETY: a value of a map is there as long as the program runs, even where its entry is evicted meanwhile.
        Some((source, opened)) => unsafe {
            enter(source, opened, entry, mark, Address { family, high, low })
        },
        // No memory for it: the frame counts, its source does not, nor is it answered.
        None => u32::from(mark.syn() != 0) | (Entered::HAS_HAD_ITS_SHARE * u32::from(answer.is_answered())),
    }
}

/// What tells a frame from others of its source.
#[inline(always)]
pub(super) fn mark<F: Frame>(frame: &F, found: Found, peer: Address) -> Mark {
    let header: Option<Tcp> = if found.is_readable() { frame.read(found.transport_at()) } else { None };
    // Zeros rather than nothing: LLVM computes with what it has not read, which the verifier does not take.
    let header = header.unwrap_or_default();
    Mark::of(peer, header, SEED.load())
}

/// The account of a source, and whether it was opened for this frame.
#[inline(always)]
fn find(key: &Key) -> Option<(*mut Source, bool)> {
    if let Some(source) = SOURCES.get_ptr_mut(key) {
        return Some((source, false));
    }
    let blank = BLANK.get(0)?;
    let opened = SOURCES.insert(key, blank, u64::from(BPF_NOEXIST)).is_ok();
    if opened && let Some(count) = SOURCES_OPENED.get_ptr_mut(0) {
        // SAFETY: as in `maps::count`.
        unsafe { *count += 1 };
    }
    SOURCES.get_ptr_mut(key).map(|source| (source, opened))
}

/// Enters a frame; what [`Entered`] holds.
///
/// # Safety
///
/// `source` points to a value of [`SOURCES`]. Other CPUs may write to it at the same time: sums are atomic; what
/// else they overwrite is a destination, a SYN or the turn of an hour, which are approximate.
#[inline(always)]
unsafe fn enter(source: *mut Source, opened: bool, entry: Entry, mark: Mark, peer: Address) -> u32 {
    let now = now();
    // SAFETY: by the caller's promise; every offset below is inside a `Source`.
    unsafe {
        let time = now + EPOCH.load();
        // A division only where the hour turns. It has begun already for who is a little behind: another CPU, or an
        // interface whose epoch was read a moment later.
        let into = time.wrapping_sub((*source).number.wrapping_mul(WINDOW));
        if into >= WINDOW && into.wrapping_neg() > BEHIND {
            turn(source, time / WINDOW, now);
        }
        atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*source).packets, entry.packets());
        atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*source).bytes, entry.bytes());
        (*source).last = now;

        let mut entered = 0;
        let syn = mark.syn();
        if syn != 0 && !(*source).syns.contains(&syn) {
            let oldest = (*source).attempts as usize & (REMEMBERED - 1);
            *(&raw mut (*source).syns).cast::<u32>().add(oldest) = syn;
            atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*source).attempts, 1);
            entered |= Entered::ATTEMPT;
        }
        let attempt = entered != 0;
        // What repeats is neither looked for nor written again: memory is most of what a blocked frame costs.
        if (*source).peer != mark.peer() {
            let bit = mark.destination_bit();
            let words = (&raw mut (*source).destinations).cast::<u64>();
            // The mask is a bound for the verifier.
            let word = words.add((bit as usize / 64) & (DESTINATION_BITS / 64 - 1));
            let mask = 1 << (bit % 64);
            if *word & mask == 0 {
                *word |= mask;
            }
            if attempt || opened {
                (*source).peer = mark.peer();
                (*source).destination = [peer.high, peer.low];
                (*source).destination_family = peer.family as u64;
            }
        }
        if opened {
            (*source).opened = now;
        }
        let unit = (now >> TOLD_UNIT) as u32;
        if (attempt || opened) && unit.wrapping_sub((*source).told) >= EVENT_INTERVAL {
            (*source).told = unit;
            entered |= Entered::TELL;
        }
        if entry.answer().is_answered() && !let_through(SOURCE_PACE, &raw mut (*source).answered, now) {
            entered |= Entered::HAS_HAD_ITS_SHARE;
        }
        entered
    }
}

/// Begins an hour: the one before the last goes to the sums.
///
/// # Safety
///
/// As of [`enter`].
#[inline(always)]
unsafe fn turn(source: *mut Source, number: u64, now: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*source).packets_before += (*source).before.packets;
        (*source).bytes_before += (*source).before.bytes;
        (*source).attempts_before += (*source).before.attempts;
        // First of all, so that others do not turn it too.
        let ended = (*source).number;
        (*source).number = number;
        (*source).before = (*source).hour();
        (*source).before.number = ended;
        (*source).packets = 0;
        (*source).bytes = 0;
        // The oldest comes first, since the count says which it is and begins anew.
        // Written out: Linux 5.10 reads the stack at places that are known only.
        let (mut syns, oldest) = ((*source).syns, (*source).attempts);
        if oldest & 1 != 0 {
            syns = [syns[1], syns[2], syns[3], syns[0]];
        }
        if oldest & 2 != 0 {
            syns = [syns[2], syns[3], syns[0], syns[1]];
        }
        (*source).syns = syns;
        (*source).attempts = 0;
        (*source).peer = 0;
        (*source).first = now;
        (*source).destinations = [0; DESTINATION_BITS / 64];
    }
}

/// Whether a dropped frame is one for a capture.
#[inline(always)]
fn is_sampled() -> bool {
    let Some(every) = CAPTURE.get(0).copied() else { return false };
    // SAFETY: the helper takes nothing and returns a number.
    every != 0 && (every == 1 || unsafe { bpf_get_prandom_u32() } % every == 0)
}

/// Hands an event to whoever listens.
#[inline(always)]
pub(super) fn tell<F: Frame>(frame: &F, context: &impl EbpfContext, found: Found, answer: Answer, kind: u32) {
    let at_hand = frame.at_hand();
    let event = Event {
        time: now(),
        found: found.0,
        answer: answer.0,
        interface: frame.interface(),
        length: frame.length() as u32,
        captured: if at_hand < SNAPSHOT as u64 { at_hand as u32 } else { SNAPSHOT as u32 },
        kind,
        tag: frame.tag(),
    };
    EVENTS.output(context, event, event.captured);
}

/// Nanoseconds of CLOCK_MONOTONIC, at the last tick where the kernel has a clock for that.
#[inline(always)]
pub(super) fn now() -> u64 {
    if COARSE_CLOCK.load() != 0 {
        // SAFETY: the helper takes nothing and returns a number.
        return unsafe { bpf_ktime_get_coarse_ns() };
    }
    // SAFETY: as above.
    unsafe { bpf_ktime_get_ns() }
}
