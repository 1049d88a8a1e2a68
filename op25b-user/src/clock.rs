//! The wall clock, and whether the kernel thinks that it is right.

use std::mem::MaybeUninit;

use nix::libc;

/// Whether something keeps the clock right (`adjtimex(2)`: no `STA_UNSYNC`). A router's clock may say 1970 until its
/// first answer from a time server.
#[must_use]
pub fn is_synchronised() -> bool {
    let mut clock = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeroes is a `timex` that asks and sets nothing; the kernel writes into it and keeps no pointer.
    let (answer, clock) = unsafe { (libc::adjtimex(clock.as_mut_ptr()), clock.assume_init()) };
    answer != -1 && clock.status & libc::STA_UNSYNC == 0
}
