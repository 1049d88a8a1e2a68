//! The wall clock, and whether the kernel thinks that it is right.

use std::mem::MaybeUninit;

use anyhow::Result;
use nix::{
    libc,
    time::{ClockId, clock_getres, clock_gettime},
};
use op25b_ebpf::cookie;

/// Whether something keeps the clock right (`adjtimex(2)`: no `STA_UNSYNC`). A router's clock may say 1970 until its
/// first answer from a time server.
#[must_use]
pub fn is_synchronised() -> bool {
    let mut clock = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeroes is a `timex` that asks and sets nothing; the kernel writes into it and keeps no pointer.
    let (answer, clock) = unsafe { (libc::adjtimex(clock.as_mut_ptr()), clock.assume_init()) };
    answer != -1 && clock.status & libc::STA_UNSYNC == 0
}

/// Nanoseconds from CLOCK_MONOTONIC, by which the kernel half tells time, to the time since the Unix epoch.
///
/// # Errors
///
/// When a clock cannot be read.
pub fn epoch() -> Result<u64> {
    let since = nanoseconds(ClockId::CLOCK_REALTIME)? - nanoseconds(ClockId::CLOCK_MONOTONIC)?;
    // A clock that shows a time before 1970 counts hours from its start.
    Ok(u64::try_from(since).unwrap_or(0))
}

/// Period of the cookies that the kernel half gives out now ([`cookie::AGE`]).
///
/// # Errors
///
/// When the clock cannot be read.
pub fn cookie_period() -> Result<u32> {
    // Cut off as in the kernel half.
    Ok((nanoseconds(ClockId::CLOCK_MONOTONIC)? >> cookie::AGE) as u32)
}

/// The kernel's jiffies, as it counts them from before CLOCK_MONOTONIC begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    /// Nanoseconds of one.
    pub length: u64,
    /// CLOCK_MONOTONIC when there was none, in nanoseconds; mostly before its zero.
    pub began: u64,
}

impl Jiffies {
    /// Jiffies that were counted at a time or later: what is computed from them is never ahead of the clock.
    #[must_use]
    pub const fn new(count: u64, length: u64, time: u64) -> Self {
        Self { length, began: time.wrapping_sub(count.wrapping_add(1).wrapping_mul(length)) }
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
///
/// # Errors
///
/// When it cannot be read.
pub fn monotonic() -> Result<u64> {
    Ok(u64::try_from(nanoseconds(ClockId::CLOCK_MONOTONIC)?)?)
}

/// Nanoseconds of a jiffy: what the coarse clock is exact to.
///
/// # Errors
///
/// When the kernel does not say.
pub fn jiffy() -> Result<u64> {
    let length = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(u64::try_from(length.tv_nsec())?)
}

fn nanoseconds(clock: ClockId) -> Result<i128> {
    let time = clock_gettime(clock)?;
    Ok(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}
