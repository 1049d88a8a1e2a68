//! The answers to blocked frames: their texts, their share, their counters.

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};

use aya_ebpf::{
    bindings::BPF_F_RDONLY_PROG,
    macros::map,
    maps::{Array, PerCpuArray},
};
use op25b_ebpf::{
    cookie::{AGE, Connection, cookie},
    found::Found,
    reply::{
        REPLIES, Reply, Speaker, TEXTS, Text, choose,
        craft::{Failure, craft, say},
    },
    source::{INTERFACE_PACE, Pace},
    verdict::Verdict,
};

use super::{
    constants::{ANSWERS, COOKIE_KEYS, HANGS_UP},
    frame::Frame,
    maps,
    sources::now,
};

/// The texts of this generation.
#[map]
static NOTICE_TEXTS: Array<Text> = Array::with_max_entries(TEXTS as u32, BPF_F_RDONLY_PROG);
/// What became of frames of this interface that were to be answered; outlives the generation.
#[map(name = "REPLIES")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REPLIES, 0);
/// When the interface's next answer is due, whichever CPU gives it.
#[map]
static REPLIES_DUE: Array<u64> = Array::with_max_entries(1, 0);

/// This generation's voice.
pub(super) struct Voice;

impl Speaker for Voice {
    #[inline(always)]
    fn cookie(&self, connection: &Connection, before: bool) -> u32 {
        let period = ((now() >> AGE) as u32).wrapping_sub(u32::from(before));
        let [a, b, c, d, e] = connection.words(period);
        op25b_cookie(a, b, c, d, e)
    }

    #[inline(always)]
    fn text(&self, number: u32) -> Option<&Text> {
        NOTICE_TEXTS.get(number)
    }

    #[inline(always)]
    fn hangs_up(&self) -> bool {
        HANGS_UP.load() != 0
    }
}

/// The cookie, verified once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_cookie(a: u64, b: u64, c: u64, d: u64, e: u64) -> u32 {
    // The period is the low half of the last word.
    cookie(COOKIE_KEYS.load().of(e as u32), [a, b, c, d, e])
}

/// Makes a blocked frame into its answer. Whether there is one to send.
#[inline(always)]
pub(super) fn reply<F: Frame>(frame: &F, found: Found, action: Verdict) -> bool {
    if ANSWERS.load() == 0 {
        return false;
    }
    let wanted = frame.choose(found, action);
    let mut reply = wanted;
    if wanted.is_sent() {
        reply = if is_due() { frame.craft(found, wanted) } else { Reply::InterfaceLimit };
    }
    count(reply);
    // What cannot be said in words is said by a reset, which takes no room: nobody is left hanging.
    if matches!(reply, Reply::NoRoom) && !matches!(wanted, Reply::Reset | Reply::InvalidCookie) {
        reply = frame.craft(found, Reply::Reset);
        count(reply);
    }
    reply.is_sent()
}

/// See [`choose`].
#[inline(always)]
pub(super) fn chosen<F: Frame>(frame: &F, found: Found, action: Verdict) -> Reply {
    choose(frame, found, action, &Voice)
}

/// See [`craft`]: the reply, or what kept it.
#[inline(always)]
pub(super) fn crafted<F: Frame>(frame: &F, found: Found, reply: Reply) -> Reply {
    match craft(frame, found, reply, &Voice) {
        Ok(()) => reply,
        Err(Failure::NoRoom) => Reply::NoRoom,
        Err(Failure::Spoilt) => Reply::Spoilt,
    }
}

/// See [`craft::say`].
#[inline(always)]
pub(super) fn said<F: Frame>(frame: &F, at: usize, number: u32) -> Option<()> {
    say(frame, at, Voice.text(number)?)
}

/// Counts what became of a frame that was to be answered.
#[inline(always)]
pub(super) fn count(reply: Reply) {
    maps::add(&COUNTS, reply as u32);
}

/// Whether the interface may answer now.
#[inline(always)]
fn is_due() -> bool {
    let Some(due) = REPLIES_DUE.get_ptr_mut(0) else { return false };
    // SAFETY: an element of an array map.
    unsafe { let_through(INTERFACE_PACE, due, now()) }
}

/// Whether one more may be let through, of which `due` says when. CPUs that let through at once add their intervals one
/// after another; only where the time was behind may one write over another's: one too many for each CPU at most.
///
/// # Safety
///
/// `due` lies in a map, aligned; races read one of the values written.
#[inline(always)]
pub(super) unsafe fn let_through(pace: Pace, due: *mut u64, now: u64) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let old = due.read_volatile();
        match pace.next(old, now) {
            None => return false,
            Some(_) if old > now => {
                atomic_xadd::<u64, u64, { Relaxed }>(due, pace.interval);
            }
            Some(next) => due.write_volatile(next),
        }
    }
    true
}
