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
    found::Found,
    policy::Policy,
    source::{
        DESTINATION_BITS, EVENT_INTERVAL, Event, KEPT, Key, Mark, REMEMBERED, SNAPSHOT, SOURCE_PACE, Source,
        Tcp, WINDOW, Window, destination_bit, is_syn, source_word, syn_hash,
    },
    verdict::{Flow, Verdict},
};

use super::{
    constants::{COARSE_CLOCK, EPOCH, SEED},
    frame::Frame,
    maps::Tables,
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

/// Enters a judged frame into its source's account.
#[inline(always)]
pub(super) fn account<F: Frame>(frame: &F, found: Found, answer: Answer) -> Entered {
    let now = now();
    let mark = frame.mark(found);
    let key = Key::new(found.customer_family_number(), frame.who(found, answer.group()), answer);
    let entered = match find(&key) {
        // SAFETY: a value of a map is there as long as the program runs, even where its entry is evicted meanwhile.
        Some((source, opened)) => unsafe { enter(source, opened, now, frame, found, mark, answer) },
        // No memory for it: the frame counts, its source does not, nor is it answered.
        None => Entered(
            u32::from(mark.syn() != 0) | (Entered::HAS_HAD_ITS_SHARE * u32::from(answer.is_answered())),
        ),
    };
    let mut kind = if entered.is_to_be_told() { Event::ATTEMPT } else { 0 };
    if answer.verdict() != Verdict::Pass as u8 && is_sampled() {
        kind |= Event::SAMPLE;
    }
    if kind != 0 {
        frame.tell(&event(frame, found, answer, now, kind));
    }
    entered
}

/// What names the customer's end of a frame, in the account's key.
#[inline(always)]
pub(super) fn who<F: Frame>(frame: &F, found: Found, group: u32) -> u64 {
    Flow::read(frame, found).map_or(0, |flow| source_word(flow.customer(), Tables.group(group)))
}

/// What tells a frame from others of its source.
#[inline(always)]
pub(super) fn mark<F: Frame>(frame: &F, found: Found) -> Mark {
    let Some(flow) = Flow::read(frame, found) else { return Mark(0) };
    let header: Option<Tcp> = if flow.readable { frame.read(found.transport_at()) } else { None };
    let syn = match header {
        Some(header) if is_syn(header) => syn_hash(header, flow.peer(), SEED.load()),
        _ => 0,
    };
    Mark::new(syn, destination_bit(flow.peer(), SEED.load()))
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

/// # Safety
///
/// `source` points to a value of [`SOURCES`]. Other CPUs may write to it at the same time: sums are atomic; what
/// else they overwrite is a destination, a SYN or the turn of an hour, which are approximate.
#[inline(always)]
unsafe fn enter<F: Frame>(
    source: *mut Source,
    opened: bool,
    now: u64,
    frame: &F,
    found: Found,
    mark: Mark,
    answer: Answer,
) -> Entered {
    // SAFETY: by the caller's promise; every offset below is inside a `Source`.
    unsafe {
        let number = (now + EPOCH.load()) / WINDOW;
        let window = (&raw mut (*source).windows).cast::<Window>().add((number & 1) as usize);
        if (*window).number != number {
            turn(source, window, number, now);
        }
        atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*window).packets, frame.packets(found));
        atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*window).bytes, frame.length() as u64);
        (*window).last = now;

        let bit = mark.destination_bit();
        let words = (&raw mut (*window).destinations).cast::<u64>();
        // The mask is a bound for the verifier.
        let word = words.add((bit as usize / 64) & (DESTINATION_BITS / 64 - 1));
        let mask = 1 << (bit % 64);
        if *word & mask == 0 {
            *word |= mask;
        }
        let syn = mark.syn();
        let attempt = syn != 0 && is_new(source, syn);
        if attempt {
            atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*window).attempts, 1);
        }
        // What repeats is not written again: the account is most of what a blocked frame costs.
        if (attempt || opened)
            && let Some(flow) = Flow::read(frame, found)
        {
            let peer = flow.peer();
            (*source).destination = [peer.high, peer.low];
            (*source).destination_family = peer.family as u32;
        }
        if opened {
            (*source).first = now;
        }
        let tell = (attempt || opened) && now.wrapping_sub((*source).told) >= EVENT_INTERVAL;
        if tell {
            (*source).told = now;
        }
        let mut entered = 0;
        if attempt {
            entered |= Entered::ATTEMPT;
        }
        if tell {
            entered |= Entered::TELL;
        }
        if answer.is_answered() {
            match SOURCE_PACE.next((*source).answered, now) {
                Some(next) => (*source).answered = next,
                None => entered |= Entered::HAS_HAD_ITS_SHARE,
            }
        }
        Entered(entered)
    }
}

/// Begins an hour: what the window held goes to what was before it.
///
/// # Safety
///
/// As of [`enter`]; `window` is one of the source's.
#[inline(always)]
unsafe fn turn(source: *mut Source, window: *mut Window, number: u64, now: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*source).packets += (*window).packets;
        (*source).bytes += (*window).bytes;
        (*source).attempts += (*window).attempts;
        *window = Window { number, first: now, ..Window::default() };
    }
}

/// Whether a SYN is none of the last, and remembers it.
///
/// # Safety
///
/// As of [`enter`].
#[inline(always)]
unsafe fn is_new(source: *mut Source, syn: u32) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        if (*source).syns.contains(&syn) {
            return false;
        }
        let turn = (*source).turn;
        let oldest = turn as usize & (REMEMBERED - 1);
        *(&raw mut (*source).syns).cast::<u32>().add(oldest) = syn;
        (*source).turn = turn.wrapping_add(1);
        true
    }
}

/// Whether a dropped frame is one for a capture.
#[inline(always)]
fn is_sampled() -> bool {
    let Some(every) = CAPTURE.get(0).copied() else { return false };
    // SAFETY: the helper takes nothing and returns a number.
    every != 0 && (every == 1 || unsafe { bpf_get_prandom_u32() } % every == 0)
}

#[inline(always)]
fn event<F: Frame>(frame: &F, found: Found, answer: Answer, time: u64, kind: u32) -> Event {
    let at_hand = frame.at_hand();
    Event {
        time,
        found: found.0,
        answer: answer.0,
        interface: frame.interface(),
        length: frame.length() as u32,
        captured: if at_hand < SNAPSHOT as u64 { at_hand as u32 } else { SNAPSHOT as u32 },
        kind,
        tag: frame.tag(),
    }
}

/// Hands an event to whoever listens.
#[inline(always)]
pub(super) fn tell(context: &impl EbpfContext, event: &Event) {
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
