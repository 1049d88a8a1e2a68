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

/// The kernel's jiffies, which it counts by CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    /// Nanoseconds of one; zero where nobody can count on them.
    pub length: u64,
    /// CLOCK_MONOTONIC when there was none, in nanoseconds, wrapping; mostly before its zero.
    pub began: u64,
}

impl Jiffies {
    /// Reads them until one begins: that was after the reading before, and so what is computed from them is never ahead of
    /// the clock. Of those of ten jiffies the one that is known best, or the first that is known well.
    ///
    /// # Errors
    ///
    /// When they or the clock cannot be read.
    pub fn measure(mut read: impl FnMut() -> Result<u64>) -> Result<Self> {
        let length = jiffy()?;
        let unknown = Self { length: 0, began: 0 };
        if length == 0 {
            return Ok(unknown);
        }
        let mut best = None;
        let (mut time, mut count) = (monotonic()?, read()?);
        // A jiffy is ten milliseconds at most.
        let until = time + 10 * length;
        while time < until {
            let (before, now, after) = (monotonic()?, read()?, monotonic()?);
            if now != count {
                let gap = after - time;
                if best.is_none_or(|(least, _)| gap < least) {
                    best = Some((gap, time.wrapping_sub(now.wrapping_mul(length))));
                }
                if gap < length / 4 {
                    break;
                }
            }
            (time, count) = (before, now);
        }
        // Where none begins nobody counts.
        Ok(best.map_or(unknown, |(_, began)| Self { length, began }))
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
fn monotonic() -> Result<u64> {
    Ok(u64::try_from(nanoseconds(ClockId::CLOCK_MONOTONIC)?)?)
}

/// Nanoseconds of a jiffy, which the coarse clock is exact to; zero where timers are no finer either: the kernel counts
/// interrupts then, and not by its clock.
fn jiffy() -> Result<u64> {
    let [fine, coarse] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_MONOTONIC_COARSE].map(clock_getres);
    let (fine, coarse) = (fine?.tv_nsec(), coarse?.tv_nsec());
    Ok(if fine < coarse { u64::try_from(coarse)? } else { 0 })
}

fn nanoseconds(clock: ClockId) -> Result<i128> {
    let time = clock_gettime(clock)?;
    Ok(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_tell_the_time_and_are_never_ahead_of_it() -> Result<()> {
        let length = jiffy()?;
        assert!((1_000_000..=10_000_000).contains(&length), "{length} ns: a kernel of another kind");
        // They begin 300 seconds before their 32 bits are full, and not when a jiffy of the clock does.
        let count = |time: u64| (time + 1_234_567) / length + 0xfff0_0000;
        let Jiffies { length, began } = Jiffies::measure(|| Ok(count(monotonic()?)))?;
        for _ in 0..100 {
            let time = monotonic()?;
            let told = count(time).wrapping_mul(length).wrapping_add(began);
            assert!(told <= time && time - told < 3 * length, "{told} at {time}");
        }
        Ok(())
    }

    #[test]
    fn nobody_counts_on_jiffies_that_stand_still() -> Result<()> {
        assert_eq!(Jiffies::measure(|| Ok(25))?.length, 0);
        Ok(())
    }
}
