//! The accounts of the sources of judged packets, and the events of who listens.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_xadd},
    mem::offset_of,
};

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, PerCpuArray, PerfEventArray},
};
use op25b_ebpf::{
    abi::Answer,
    address::{Address, Family},
    found::Found,
    policy::Policy,
    source::{
        Account, DESTINATION_BITS, Details, EVENT_INTERVAL, EVICTED, Entry, Event, KEPT, Key, Mark, OPENED,
        REMEMBERED, SNAPSHOT, SOURCE_PACE, TICK, Tcp, WAYS, WINDOW, Window, place, source_word,
    },
    verdict::{Flow, Verdict},
};

use super::{
    constants::{EPOCH, JIFFIES_BEGAN, JIFFY, LAST_SET, SEED},
    frame::Frame,
    maps::{self, Tables},
    replies::let_through,
};

/// The accounts, of all interfaces; they outlive the generation, and whoever reads them maps them. First the first place of
/// all sets, then the second of all, and so on.
#[map]
static SOURCES: Array<Account> = Array::with_max_entries(KEPT, BPF_F_MMAPABLE);
/// What else is kept of each, by the number of the account.
#[map]
static SOURCES_DETAILS: Array<Details> = Array::with_max_entries(KEPT, BPF_F_MMAPABLE);
/// How many accounts were ever [`OPENED`], and [`EVICTED`].
#[map]
static SOURCES_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);
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
    let Flow { customer, peer, .. } = *flow;
    let group = match customer.family {
        Family::Ipv4 => None,
        // Only there is something to look up.
        Family::Ipv6 => Tables.group(answer.group()),
    };
    let entry = Entry::new(answer, found.customer_family_number(), bytes, packets);
    let mark = mark(frame, found, peer);
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
    match find(key) {
        // SAFETY: what `find` returns.
        Some(place) => unsafe { enter(place, entry, mark, Address { family, high, low }) },
        // No room for it: the frame counts, its source does not, nor is it answered.
        None => u32::from(mark.syn() != 0) | (Entered::HAS_HAD_ITS_SHARE * u32::from(answer.is_answered())),
    }
}

/// Asks for the memory of an IPv4 source's account, which is needed as soon as the frame is decided: meanwhile it comes.
/// The length of IPv6 sources is not known yet.
#[inline(always)]
pub(super) fn expect(customer: Address) {
    if let Family::Ipv4 = customer.family {
        let (set, home) = place(customer.low, SEED.load(), LAST_SET.load());
        if let Some(account) = SOURCES.get(number(set, home)) {
            // SAFETY: an element of an array map.
            unsafe { (&raw const account.what).read_volatile() };
        }
    }
}

/// What tells a frame from others of its source.
#[inline(always)]
fn mark<F: Frame>(frame: &F, found: Found, peer: Address) -> Mark {
    let header: Option<Tcp> = if found.is_readable() { frame.read(found.transport_at()) } else { None };
    // Zeros rather than nothing: LLVM computes with what it has not read, which the verifier does not take.
    let header = header.unwrap_or_default();
    Mark::of(peer, header, SEED.load())
}

/// Where an account is.
struct Place {
    account: *mut Account,
    /// The number that its details have too.
    number: u32,
    /// Whether it was opened for this frame.
    opened: bool,
}

/// Bit of a number that [`op25b_open`] returns: the account was opened for this frame.
const OPENED_NOW: u32 = 1 << 31;

/// The number of a place of a set.
#[inline(always)]
fn number(set: u32, way: u32) -> u32 {
    (way & (WAYS - 1)) * (LAST_SET.load() + 1) + set
}

/// The account of a source.
#[inline(always)]
fn find(key: Key) -> Option<Place> {
    let (set, home) = place(key.address, SEED.load(), LAST_SET.load());
    for step in 0..WAYS {
        let number = number(set, home ^ step);
        let account = SOURCES.get_ptr_mut(number)?;
        // SAFETY: an element of an array map is there as long as the program runs. Another CPU may write to it at the same
        // time, a whole field at once.
        let (address, what) = unsafe {
            ((&raw const (*account).address).read_volatile(), (&raw const (*account).what).read_volatile())
        };
        if address == key.address && what == key.what {
            return Some(Place { account, number, opened: false });
        }
        // Accounts are never closed: behind one that was never anybody's there is none.
        if what == 0 {
            break;
        }
    }
    let opened = op25b_open(key.address, u64::from(key.what), u64::from(set), u64::from(home));
    let number = opened & !OPENED_NOW;
    Some(Place { account: SOURCES.get_ptr_mut(number)?, number, opened: opened & OPENED_NOW != 0 })
}

/// How often a CPU looks whether it can be the only one that opens an account in a set. Opening takes less than a
/// microsecond, and reading the clock between two looks some 20 ns: it waits for a few others, and not for one that is
/// interrupted there.
const LOOKS: u32 = 256;
/// No number of an account.
const NONE: u32 = !OPENED_NOW;

/// Opens an account, in place of the least recently seen where its set is full: its number, with [`OPENED_NOW`]. [`NONE`] if
/// another CPU was at it all the time: nobody waits long for that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_open(address: u64, what: u64, set: u64, home: u64) -> u32 {
    let (set, home, key) = (set as u32, home as u32, Key { address, what: what as u16 });
    let Some(first) = SOURCES_DETAILS.get_ptr_mut(set) else { return NONE };
    // SAFETY: an element of an array map is there as long as the program runs. Whose claim is the only one has the set for
    // itself, as far as accounts are opened; Linux 5.10 has no compare-and-exchange.
    unsafe {
        let claims = &raw mut (*first).claims;
        let mut mine = false;
        for _ in 0..LOOKS {
            if claims.read_volatile() != 0 {
                bpf_ktime_get_ns();
                continue;
            }
            atomic_xadd::<u64, u64, { Relaxed }>(claims, 1);
            if claims.read_volatile() == 1 {
                mine = true;
                break;
            }
            atomic_xadd::<u64, u64, { Relaxed }>(claims, u64::MAX);
        }
        if !mine {
            return NONE;
        }
        let number = room(key, set, home).unwrap_or(NONE);
        atomic_xadd::<u64, u64, { Relaxed }>(claims, u64::MAX);
        number
    }
}

/// What [`op25b_open`] returns.
///
/// # Safety
///
/// Nobody else opens an account in the set. Frames are entered meanwhile; those of an account that makes room may be in the
/// next one's.
#[inline(always)]
unsafe fn room(key: Key, set: u32, home: u32) -> Option<u32> {
    let tick = (now() >> TICK) as u32;
    let (mut chosen, mut silent, mut is_taken) = (NONE, i32::MIN, true);
    for step in 0..WAYS {
        let number = number(set, home ^ step);
        let account = SOURCES.get_ptr_mut(number)?;
        // SAFETY: an element of an array map.
        let Account { address, what, last, .. } = unsafe { *account };
        if what == key.what && address == key.address {
            // Another CPU was first.
            return Some(number);
        }
        if what == 0 {
            (chosen, is_taken) = (number, false);
            break;
        }
        // CPUs differ by a tick: one may be ahead of this.
        let since = tick.wrapping_sub(last).cast_signed();
        if since > silent {
            (chosen, silent) = (number, since);
        }
    }
    let (account, details) = (SOURCES.get_ptr_mut(chosen)?, SOURCES_DETAILS.get_ptr_mut(chosen)?);
    // Asked again rather than kept meanwhile: the stack is short.
    let now = now();
    let hour = ((now + EPOCH.load()) / WINDOW) as u32;
    // SAFETY: elements of array maps; of the words of details the last is not a source's.
    unsafe {
        // Written in this order, since others look: nobody's, nothing in it but its hour, whose it is.
        (&raw mut (*account).what).write_volatile(if is_taken { Key::CHANGES_HANDS } else { 0 });
        // Both at once: of the hour before others would make one of the source's.
        let hour_and_tick = u64::from(hour) | u64::from(tick) << 32;
        (&raw mut (*account).number).cast::<u64>().write_volatile(hour_and_tick);
        for word in 0..SUMS {
            account.cast::<u64>().add(1 + word).write_volatile(0);
        }
        // But for when its answers are due, as for when it was told of: who makes another make room goes on there, and gets
        // no share anew by it.
        for word in (0..Details::WORDS).filter(|word| *word != offset_of!(Details, answered) / 8) {
            details.cast::<u64>().add(word).write_volatile(0);
        }
        (&raw mut (*details).first).write_volatile(now);
        (&raw mut (*details).opened).write_volatile(now);
        (&raw mut (*account).peer).write_volatile(0);
        if !is_taken {
            (&raw mut (*account).told).write_volatile((tick as u16).wrapping_sub(EVENT_INTERVAL));
        }
        (&raw mut (*account).address).write_volatile(key.address);
        (&raw mut (*account).what).write_volatile(key.what);
    }
    maps::add(&SOURCES_COUNTS, OPENED);
    if is_taken {
        maps::add(&SOURCES_COUNTS, EVICTED);
    }
    Some(chosen | OPENED_NOW)
}

/// Words of an account between the address and its hour: sums and SYNs.
const SUMS: usize = offset_of!(Account, number) / 8 - 1;

/// What is never: details that are not there.
const UNKNOWN: u32 = Entered::HAS_HAD_ITS_SHARE;

/// Enters a frame; what [`Entered`] holds.
///
/// # Safety
///
/// `place` is that of an account of [`SOURCES`], with its number. Other CPUs may write to it at the same time: sums are
/// atomic; what else they overwrite is a destination, a SYN or the turn of an hour, which are approximate.
#[inline(always)]
unsafe fn enter(place: Place, entry: Entry, mark: Mark, peer: Address) -> u32 {
    let now = now();
    let tick = (now >> TICK) as u32;
    let Place { account, number, opened } = place;
    // SAFETY: by the caller's promise; every offset below is inside an `Account` or its `Details`.
    unsafe {
        let time = now + EPOCH.load();
        // A division only where the hour turns. It has begun already for who is a little behind: another CPU, or an
        // interface whose epoch was read a moment later.
        let into = time.wrapping_sub(u64::from((*account).number) * WINDOW);
        if into >= WINDOW && into.wrapping_neg() > BEHIND {
            let Some(details) = SOURCES_DETAILS.get_ptr_mut(number) else { return UNKNOWN };
            turn(account, details, (time / WINDOW) as u32, now);
        }
        atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*account).bytes, entry.bytes());
        (*account).last = tick;

        let mut entered = 0;
        let syn = mark.syn();
        if syn != 0 && !(*account).syns.contains(&syn) {
            let oldest = (*account).attempts as usize & (REMEMBERED - 1);
            *(&raw mut (*account).syns).cast::<u32>().add(oldest) = syn;
            atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*account).attempts, 1);
            entered |= Entered::ATTEMPT;
        }
        let attempt = entered != 0;
        let repeats = entry.packets() - u64::from(entered);
        if repeats != 0 {
            atomic_xadd::<u64, u64, { Relaxed }>(&raw mut (*account).repeats, repeats);
        }
        // What repeats is neither looked for nor written again.
        if (*account).peer != mark.peer() {
            let Some(details) = SOURCES_DETAILS.get_ptr_mut(number) else { return UNKNOWN };
            let bit = mark.destination_bit();
            let words = (&raw mut (*details).destinations).cast::<u64>();
            // The mask is a bound for the verifier.
            let word = words.add((bit as usize / 64) & (DESTINATION_BITS / 64 - 1));
            let mask = 1 << (bit % 64);
            if *word & mask == 0 {
                *word |= mask;
            }
            if attempt || opened {
                (*account).peer = mark.peer();
                (*details).destination = [peer.high, peer.low];
                (*details).destination_family = peer.family as u64;
            }
        }
        let since = (tick as u16).wrapping_sub((*account).told);
        // Who tells the time a little later than who told of it has not waited for nine years.
        if (attempt || opened) && since.wrapping_add(EVENT_INTERVAL) >= 2 * EVENT_INTERVAL {
            (*account).told = tick as u16;
            entered |= Entered::TELL;
        }
        if entry.answer().is_answered() {
            let Some(details) = SOURCES_DETAILS.get_ptr_mut(number) else { return UNKNOWN };
            if !let_through(SOURCE_PACE, &raw mut (*details).answered, now) {
                entered |= Entered::HAS_HAD_ITS_SHARE;
            }
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
unsafe fn turn(account: *mut Account, details: *mut Details, number: u32, now: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        // Read before: what is waited for are the details, and meanwhile another CPU may turn it.
        let first = (&raw const (*details).first).read_volatile();
        let sums = (
            (*details).packets_before + (*details).before.packets,
            (*details).bytes_before + (*details).before.bytes,
            (*details).attempts_before + (*details).before.attempts,
        );
        let ended = (&raw const (*account).number).read_volatile();
        if ended == number {
            return;
        }
        let Account { repeats, bytes, attempts, mut syns, last, .. } = *account;
        (&raw mut (*account).number).write_volatile(number);
        (&raw mut (*account).repeats).write_volatile(0);
        (&raw mut (*account).bytes).write_volatile(0);
        (&raw mut (*account).attempts).write_volatile(0);
        (&raw mut (*details).first).write_volatile(now);
        (*account).peer = 0;
        ((*details).packets_before, (*details).bytes_before, (*details).attempts_before) = sums;
        (*details).before = Window {
            number: u64::from(ended),
            packets: repeats + attempts,
            bytes,
            attempts,
            first,
            last: first.max(u64::from(last) << TICK),
            destinations: (*details).destinations,
        };
        (*details).destinations = [0; DESTINATION_BITS / 64];
        // The oldest comes first, since the count says which it is and begins anew.
        // Written out: Linux 5.10 reads the stack at places that are known only.
        if attempts & 1 != 0 {
            syns = [syns[1], syns[2], syns[3], syns[0]];
        }
        if attempts & 2 != 0 {
            syns = [syns[2], syns[3], syns[0], syns[1]];
        }
        (*account).syns = syns;
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

/// Nanoseconds of CLOCK_MONOTONIC, as they were at the last jiffy.
#[inline(always)]
pub(super) fn now() -> u64 {
    if JIFFY.load() == 0 {
        // SAFETY: the helper takes nothing and returns a number.
        return unsafe { bpf_ktime_get_ns() };
    }
    // SAFETY: as above.
    unsafe { bpf_jiffies64() }.wrapping_mul(JIFFY.load()).wrapping_add(JIFFIES_BEGAN.load())
}
