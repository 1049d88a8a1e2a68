//! Lookup in a compiled table: disjoint ranges, sorted by their start, each good until the next one, and an index
//! over their upper bits.

use crate::abi::{Range4, Range6};

/// The form of a compiled table: a constant of its generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Shape {
    /// What the first bucket starts at, in [`Ranges::top`].
    pub base: u64,
    /// Number of the last bucket; the index has two entries more.
    pub last_bucket: u32,
    /// How far a bucket's number is shifted in [`Ranges::top`].
    pub shift: u8,
    /// Halvings that the fullest bucket needs.
    pub halvings: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// A range as a map of one address family holds it.
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
    /// An address, ordered as the ranges are.
    type Key: Copy + PartialOrd;

    /// The upper bits of a key, which the index is made for.
    fn top(key: Self::Key) -> u64;

    /// The form of the table.
    fn shape(&self) -> Shape;

    /// Entry of the index: the range that holds where the bucket starts.
    fn index(&self, bucket: u32) -> Option<u32>;

    /// The start of a range; `None` where there is none.
    fn start(&self, range: u32) -> Option<Self::Key>;

    /// The value of a range.
    fn value(&self, range: u32) -> Option<u32>;
}

/// Bound on the halvings: 16 million ranges.
pub const HALVINGS: u8 = 24;

/// The bucket of a key: keys below the base are in the first, those above the last one's start in the last.
#[inline(always)]
#[must_use]
pub fn bucket(shape: Shape, top: u64) -> u32 {
    let bucket = top.saturating_sub(shape.base) >> (shape.shift & 63);
    if bucket > u64::from(shape.last_bucket) { shape.last_bucket } else { bucket as u32 }
}

/// The value that holds for `key`; zero where the table is empty.
#[inline(always)]
pub fn find<R: Ranges>(ranges: &R, key: R::Key) -> u32 {
    let shape = ranges.shape();
    let bucket = bucket(shape, R::top(key));
    let (Some(mut first), Some(behind)) = (ranges.index(bucket), ranges.index(bucket + 1)) else {
        return 0;
    };
    // The range that holds where the next bucket starts may start in this one.
    let mut behind = behind.wrapping_add(1);
    for step in 0..HALVINGS {
        if step >= shape.halvings || first.wrapping_add(1) >= behind {
            break;
        }
        let middle = first.wrapping_add(behind.wrapping_sub(first) / 2);
        match ranges.start(middle) {
            Some(start) if start <= key => first = middle,
            _ => behind = middle,
        }
    }
    ranges.value(first).unwrap_or(0)
}

const _: () = assert!(size_of::<Shape>() == 16);
