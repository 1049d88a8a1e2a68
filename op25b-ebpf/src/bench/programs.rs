//! The programs, run by BPF_PROG_TEST_RUN, and their maps.

use core::borrow::Borrow;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_RDONLY_PROG, xdp_action::XDP_PASS},
    macros::{map, xdp},
    maps::{Array, LpmTrie, lpm_trie::Key},
    programs::XdpContext,
};
use op25b_ebpf::table::{Line4, Line6, Root, find};

use crate::kernel::table::{self, Table};

/// Addresses to look up, as on the wire; their number is a power of two.
#[map]
static KEYS: Array<[u64; 2]> = Array::with_max_entries(1, BPF_F_RDONLY_PROG);
/// How many were looked up, the sum of what was found, and from `check` how many were found, how many differ.
#[map]
static TALLY: Array<[u64; 4]> = Array::with_max_entries(1, 0);

#[map]
static LINES4: Array<Line4> = Array::with_max_entries(1, table::FLAGS);
#[map]
static LINES6: Array<Line6> = Array::with_max_entries(1, table::FLAGS);
#[map]
static TRIE4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(1, 0);
#[map]
static TRIE6: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static ROOT4: Global<Root> = Global::new(Root::EMPTY);
#[unsafe(no_mangle)]
static ROOT6: Global<Root> = Global::new(Root::EMPTY);
/// Number of the last key.
#[unsafe(no_mangle)]
static LAST_KEY: Global<u32> = Global::new(0);

/// A trie's key where its address can be written in whole words.
#[repr(C, align(8))]
struct Aligned<K> {
    before: u32,
    key: Key<K>,
}

impl<K> Aligned<K> {
    #[inline(always)]
    const fn new(length: u32, address: K) -> Self {
        Self { before: 0, key: Key::new(length, address) }
    }
}

impl<K> Borrow<Key<K>> for Aligned<K> {
    #[inline(always)]
    fn borrow(&self) -> &Key<K> {
        &self.key
    }
}

// Subprograms, as the filter has for what a glance does not tell; the floor is one that looks nothing up.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floor(high: u64, low: u64) -> u32 {
    (high ^ low) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table4(key: u64) -> u32 {
    find(&Table { lines: &LINES4, root: &ROOT4 }, key)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table6(high: u64, low: u64) -> u32 {
    find(&Table { lines: &LINES6, root: &ROOT6 }, [u64::from_be(high), u64::from_be(low)])
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trie4(key: u64) -> u32 {
    TRIE4.get(Aligned::new(32, key as u32)).copied().unwrap_or(0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trie6(high: u64, low: u64) -> u32 {
    TRIE6.get(Aligned::new(128, [high, low])).copied().unwrap_or(0)
}

/// Asks `what` about the next key.
#[inline(always)]
fn next(what: impl FnOnce(u64, u64) -> u32) -> u32 {
    if let Some(tally) = TALLY.get_ptr_mut(0) {
        // SAFETY: the map's only entry; one run at a time uses it.
        let [count, sum, ..] = unsafe { &mut *tally };
        if let Some([high, low]) = KEYS.get(*count as u32 & LAST_KEY.load()) {
            *sum = sum.wrapping_add(u64::from(what(*high, *low)));
        }
        *count = count.wrapping_add(1);
    }
    XDP_PASS
}

/// Asks table and trie about the next key.
#[inline(always)]
fn compare(table: impl FnOnce(u64, u64) -> u32, trie: impl FnOnce(u64, u64) -> u32) -> u32 {
    let mut answers = (0, 0);
    let action = next(|high, low| {
        answers = (table(high, low), trie(high, low));
        answers.0
    });
    if let Some(tally) = TALLY.get_ptr_mut(0) {
        // SAFETY: as in `next`.
        let [.., found, different] = unsafe { &mut *tally };
        *found += u64::from(answers.0 != 0);
        *different += u64::from(answers.0 != answers.1);
    }
    action
}

#[xdp]
pub(crate) fn bench_floor(_: XdpContext) -> u32 {
    next(|high, low| floor(high, low))
}

#[xdp]
pub(crate) fn bench_table4(_: XdpContext) -> u32 {
    next(|high, _| table4(u32::from_be(high as u32).into()))
}

#[xdp]
pub(crate) fn bench_table6(_: XdpContext) -> u32 {
    next(|high, low| table6(high, low))
}

#[xdp]
pub(crate) fn bench_trie4(_: XdpContext) -> u32 {
    next(|high, _| trie4(high))
}

#[xdp]
pub(crate) fn bench_trie6(_: XdpContext) -> u32 {
    next(|high, low| trie6(high, low))
}

#[xdp]
pub(crate) fn bench_check4(_: XdpContext) -> u32 {
    compare(|high, _| table4(u32::from_be(high as u32).into()), |high, _| trie4(high))
}

#[xdp]
pub(crate) fn bench_check6(_: XdpContext) -> u32 {
    compare(|high, low| table6(high, low), |high, low| trie6(high, low))
}
