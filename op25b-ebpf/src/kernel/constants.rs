//! What a generation fixes for one interface: the loader writes these before the program is verified, and the
//! verifier cuts away what they switch off.

use aya_ebpf::Global;
use op25b_ebpf::{
    abi::{Link, Role, Softwire},
    cookie::Keys,
    frame::Look,
    source::{KEPT, WAYS},
    table::Root,
};

/// [`Link`].
#[unsafe(no_mangle)]
pub(crate) static LINK: Global<u8> = Global::new(0);
/// [`Role`].
#[unsafe(no_mangle)]
pub(crate) static ROLE: Global<u8> = Global::new(0);
/// [`Softwire`].
#[unsafe(no_mangle)]
pub(crate) static SOFTWIRE: Global<u8> = Global::new(0);
/// `unknown_sources: block`.
#[unsafe(no_mangle)]
pub(crate) static BLOCK_UNKNOWN: Global<u8> = Global::new(0);
/// Whether the kernel knows frames of several buffers (Linux 5.18), and so can tell how long they are.
#[unsafe(no_mangle)]
pub(crate) static MULTI_BUFFER: Global<u8> = Global::new(0);
/// Whether submission is counted.
#[unsafe(no_mangle)]
pub(crate) static SUBMISSION: Global<u8> = Global::new(0);
/// Whether sources are accounted for.
#[unsafe(no_mangle)]
pub(crate) static ACCOUNTS: Global<u8> = Global::new(1);
/// Whether blocked frames can be answered on this interface.
#[unsafe(no_mangle)]
pub(crate) static ANSWERS: Global<u8> = Global::new(0);
/// Whether the notice ends the conversation.
#[unsafe(no_mangle)]
pub(crate) static HANGS_UP: Global<u8> = Global::new(0);
/// The secrets that cookies are made with.
#[unsafe(no_mangle)]
pub(crate) static COOKIE_KEYS: Global<Keys> = Global::new(Keys::unchanged([0; 2]));
/// Nanoseconds of a jiffy; zero where the kernel does not count them by its clock. The kernel's jiffies are read without a
/// call (Linux 5.6, 64-bit, with a JIT).
#[unsafe(no_mangle)]
pub(crate) static JIFFY: Global<u64> = Global::new(0);
/// CLOCK_MONOTONIC when there had been no jiffy, in nanoseconds; they begin to count before it does.
#[unsafe(no_mangle)]
pub(crate) static JIFFIES_BEGAN: Global<u64> = Global::new(0);
/// Nanoseconds from CLOCK_MONOTONIC to the time since the Unix epoch.
#[unsafe(no_mangle)]
pub(crate) static EPOCH: Global<u64> = Global::new(0);
/// Of the places of accounts and the hashes of destinations, so that nobody outside knows which are alike.
#[unsafe(no_mangle)]
pub(crate) static SEED: Global<u64> = Global::new(0);
/// Number of the last set of accounts; their number is a power of two.
#[unsafe(no_mangle)]
pub(crate) static LAST_SET: Global<u32> = Global::new(KEPT / WAYS - 1);
/// Where lookups in the customers' IPv4 table begin.
#[unsafe(no_mangle)]
pub(crate) static CUSTOMERS4_ROOT: Global<Root> = Global::new(Root::EMPTY);
/// Where lookups in the customers' IPv6 table begin.
#[unsafe(no_mangle)]
pub(crate) static CUSTOMERS6_ROOT: Global<Root> = Global::new(Root::EMPTY);
/// Where lookups in the servers' IPv4 table begin.
#[unsafe(no_mangle)]
pub(crate) static SERVERS4_ROOT: Global<Root> = Global::new(Root::EMPTY);
/// Where lookups in the servers' IPv6 table begin.
#[unsafe(no_mangle)]
pub(crate) static SERVERS6_ROOT: Global<Root> = Global::new(Root::EMPTY);

/// This interface's constants, loaded where they are asked for: the everyday frame needs one of them.
#[derive(Clone, Copy)]
pub(crate) struct Constants;

impl Look for Constants {
    #[inline(always)]
    fn link(self) -> Link {
        Link::from_number(LINK.load())
    }

    #[inline(always)]
    fn role(self) -> Role {
        Role(ROLE.load())
    }

    #[inline(always)]
    fn softwire(self) -> Softwire {
        Softwire::from_number(SOFTWIRE.load())
    }

    #[inline(always)]
    fn submission(self) -> bool {
        SUBMISSION.load() != 0
    }
}
