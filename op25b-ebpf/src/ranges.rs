//! Lookup in a compiled table: disjoint ranges, sorted by their start, each good until the next one, and an index
//! that leads an address to the few ranges around it.

use crate::abi::{Range4, Range6, Slot};

/// A node of the index: buckets of equal width, one behind the other in its array.
///
/// The first bucket holds what lies below the node's ranges too, the last one what lies above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    /// The first bucket's number, counted from address zero.
    pub base: u64,
    /// How many buckets follow it.
    pub last: u32,
    /// Bits of [`Range::top`] within a bucket.
    pub shift: u32,
}

impl Node {
    /// The bucket of a key.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, top: u64) -> u32 {
        let bucket = (top >> (self.shift & 63)).saturating_sub(self.base);
        if bucket > self.last as u64 { self.last } else { bucket as u32 }
    }
}

/// Nodes from the root to a bucket, at most.
pub const LEVELS: u32 = 4;
/// Bound on the halvings of one bucket: 16 million ranges.
pub const HALVINGS: u32 = 24;

/// What a bucket of the index leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// One range fills it: the range's value.
    Value(u32),
    /// So many ranges hold in it, from this one on.
    Ranges {
        /// The range that holds where the bucket starts.
        first: u32,
        /// How many.
        count: u32,
    },
    /// More ranges than one bucket should have.
    Node {
        /// Where in the index its buckets are.
        at: u32,
        /// Which they are.
        node: Node,
    },
}

const NODE: u32 = 1 << 31;
const SHIFT: u32 = 25;

impl Slot {
    /// Packs a bucket.
    #[inline(always)]
    #[must_use]
    pub const fn new(bucket: Bucket) -> Self {
        match bucket {
            Bucket::Value(value) => Self { base: 0, first: value, rest: 0 },
            Bucket::Ranges { first, count } => Self { base: 0, first, rest: count },
            Bucket::Node { at, node: Node { base, last, shift } } => {
                Self { base, first: at, rest: NODE | shift << SHIFT | last }
            }
        }
    }

    /// The bucket.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self) -> Bucket {
        if self.rest == 0 {
            Bucket::Value(self.first)
        } else if self.rest & NODE == 0 {
            Bucket::Ranges { first: self.first, count: self.rest }
        } else {
            let (last, shift) = (self.rest & ((1 << SHIFT) - 1), self.rest >> SHIFT & 63);
            Bucket::Node { at: self.first, node: Node { base: self.base, last, shift } }
        }
    }
}

/// A range of one address family.
pub trait Range {
    /// An address, ordered as the ranges are.
    type Key: Copy + PartialOrd;

    /// Where it starts.
    fn start(&self) -> Self::Key;

    /// What holds in it.
    fn value(&self) -> u32;

    /// The upper bits of a key, which the index is made for.
    fn top(key: Self::Key) -> u64;
}

impl Range for Range4 {
    type Key = u32;

    #[inline(always)]
    fn start(&self) -> u32 {
        self.start
    }

    #[inline(always)]
    fn value(&self) -> u32 {
        self.value
    }

    #[inline(always)]
    fn top(key: u32) -> u64 {
        u64::from(key)
    }
}

impl Range for Range6 {
    type Key = (u64, u64);

    #[inline(always)]
    fn start(&self) -> (u64, u64) {
        (self.high, self.low)
    }

    #[inline(always)]
    fn value(&self) -> u32 {
        self.value
    }

    #[inline(always)]
    fn top((high, _): (u64, u64)) -> u64 {
        high
    }
}

/// A compiled table of one address family, wherever its entries lie.
pub trait Ranges {
    /// What its ranges are.
    type Range: Range;

    /// The index's root, whose buckets are the first slots.
    fn root(&self) -> Node;

    /// An entry of the index.
    fn slot(&self, number: u32) -> Option<Slot>;

    /// A range; `None` where there is none.
    fn range(&self, number: u32) -> Option<&Self::Range>;
}

/// The value that holds for `key`; zero where the table is empty.
#[inline(always)]
pub fn find<R: Ranges>(ranges: &R, key: <R::Range as Range>::Key) -> u32 {
    let top = R::Range::top(key);
    let mut number = ranges.root().bucket(top);
    for _ in 0..LEVELS {
        let Some(slot) = ranges.slot(number) else { return 0 };
        match slot.bucket() {
            Bucket::Value(value) => return value,
            Bucket::Ranges { first, count } => return search(ranges, key, first, count),
            Bucket::Node { at, node } => number = at.wrapping_add(node.bucket(top)),
        }
    }
    0
}

/// The last of `count` ranges that starts at the key or before it.
#[inline(always)]
fn search<R: Ranges>(ranges: &R, key: <R::Range as Range>::Key, mut first: u32, mut count: u32) -> u32 {
    for _ in 0..HALVINGS {
        if count <= 1 {
            break;
        }
        let half = count / 2;
        let middle = first.wrapping_add(half);
        if ranges.range(middle).is_some_and(|range| range.start() <= key) {
            first = middle;
        }
        count = count.wrapping_sub(half);
    }
    ranges.range(first).map_or(0, Range::value)
}

const _: () = assert!(size_of::<Node>() == 16);
