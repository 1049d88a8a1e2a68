//! Prefixes of one address family → disjoint ranges and the index over them.

use std::{cmp::Ordering, ops::Range as Between};

use op25b_ebpf::{
    abi::{Range4, Range6, Slot},
    ranges::{Bucket, HALVINGS, LEVELS, Node, Range, Ranges},
};

/// One compiled table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table<R> {
    /// Disjoint, sorted; the first starts at zero.
    pub ranges: Vec<R>,
    /// Buckets by their upper bits: the root's, then those within them.
    pub index: Vec<Slot>,
    /// Where a lookup begins.
    pub root: Node,
    /// Entries of both that the longest lookup reads.
    pub steps: u8,
}

/// A table that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{ranges} ranges in one table; at most {}", 1_u32 << HALVINGS)]
pub struct TooLarge {
    ranges: usize,
}

/// A prefix and what it says.
#[derive(Clone, Copy)]
pub(super) struct Span<V> {
    pub(super) first: u128,
    pub(super) length: u8,
    pub(super) value: V,
}

impl<V> Span<V> {
    /// Prefixes nest or are disjoint: sorted so, one stands behind all that contain it.
    fn order(&self, other: &Self) -> Ordering {
        self.first.cmp(&other.first).then(self.length.cmp(&other.length))
    }

    fn last<R: Entry>(&self) -> u128 {
        self.first | R::LAST.checked_shr(u32::from(self.length)).unwrap_or(0)
    }
}

/// A range as one family's map holds it.
pub trait Entry: Copy + Range {
    /// Bits of an address below what the index is made for.
    const BELOW: u32;
    /// Addresses end here.
    const LAST: u128;

    /// From start and value.
    fn new(start: u128, value: u32) -> Self;

    /// Where it starts.
    fn address(&self) -> u128;
}

impl Entry for Range4 {
    const BELOW: u32 = 0;
    const LAST: u128 = u32::MAX as u128;

    fn new(start: u128, value: u32) -> Self {
        Self { start: start as u32, value }
    }

    fn address(&self) -> u128 {
        u128::from(self.start)
    }
}

impl Entry for Range6 {
    const BELOW: u32 = 64;
    const LAST: u128 = u128::MAX;

    fn new(start: u128, value: u32) -> Self {
        Self { high: (start >> 64) as u64, low: start as u64, value, reserved: 0 }
    }

    fn address(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

impl<R: Entry> Table<R> {
    /// `within` makes a prefix's value from what holds around it and what it says; outside of all it is zero.
    pub(super) fn compile<V: Copy>(
        spans: Vec<Span<V>>,
        within: impl FnMut(u32, V) -> u32,
    ) -> Result<Self, TooLarge> {
        let ranges = flatten(spans, within);
        if ranges.len() > 1 << HALVINGS {
            return Err(TooLarge { ranges: ranges.len() });
        }
        let mut index = Index { ranges: &ranges, slots: Vec::new(), steps: 1 };
        let (_, root) = index.node(1..ranges.len(), 1);
        let Index { slots: index, steps, .. } = index;
        Ok(Self { ranges, index, root, steps })
    }
}

/// Nested prefixes → disjoint ranges, each good until the next one starts.
fn flatten<R: Entry, V: Copy>(mut spans: Vec<Span<V>>, mut within: impl FnMut(u32, V) -> u32) -> Vec<R> {
    spans.sort_by(Span::order);
    let mut ranges = Vec::with_capacity(2 * spans.len() + 1);
    ranges.push(R::new(0, 0));
    // Last addresses and values of the prefixes that contain the current one.
    let mut open: Vec<(u128, u32)> = Vec::new();
    for span in &spans {
        close(&mut open, &mut ranges, span.first);
        let value = within(around(&open), span.value);
        push(&mut ranges, span.first, value);
        open.push((span.last::<R>(), value));
    }
    close(&mut open, &mut ranges, u128::MAX);
    // One that ends with the last address has nothing behind it.
    ranges
}

fn around(open: &[(u128, u32)]) -> u32 {
    open.last().map_or(0, |(_, value)| *value)
}

/// Ends the prefixes that end before `next`.
fn close<R: Entry>(open: &mut Vec<(u128, u32)>, ranges: &mut Vec<R>, next: u128) {
    while let Some((last, _)) = open.pop_if(|(last, _)| *last < next) {
        if last < R::LAST {
            push(ranges, last + 1, around(open));
        }
    }
}

/// Adds a range; one that starts where the last one does replaces it, one that says the same is part of it.
fn push<R: Entry>(ranges: &mut Vec<R>, start: u128, value: u32) {
    ranges.pop_if(|last| last.address() == start);
    if ranges.last().is_none_or(|before| before.value() != value) {
        ranges.push(R::new(start, value));
    }
}

/// Buckets of a node for each range, as long as they are few enough to stay in a processor's cache: the more of them, the more
/// alike they are, and the better a processor guesses what comes.
const PER_RANGE: u64 = 8;
const ROOMY: u64 = 1 << 15;
/// Buckets of one node, at most.
const BUCKETS: u64 = 1 << 20;
/// A bucket with more ranges becomes a node.
const CROWD: usize = 8;

/// How many buckets that many ranges are worth.
fn worth(ranges: usize) -> u64 {
    let ranges = ranges as u64;
    ranges.max(ROOMY.min(PER_RANGE * ranges)).min(BUCKETS)
}

/// An index as it grows.
struct Index<'a, R> {
    ranges: &'a [R],
    slots: Vec<Slot>,
    steps: u8,
}

impl<R: Entry> Index<'_, R> {
    /// Adds a node for ranges that start in one place, all others elsewhere, and says where its buckets are.
    fn node(&mut self, inner: Between<usize>, level: u32) -> (u32, Node) {
        let (bottom, top) = match inner.clone().next_back() {
            Some(last) => (self.top(inner.start), self.top(last)),
            None => (0, 0),
        };
        // It spans what the ranges do: a provider's prefixes all start alike.
        let most = worth(inner.len());
        let shift = (0..63).find(|shift| (top - bottom) >> shift < most).unwrap_or(63);
        // One bucket before and one behind, for the keys outside.
        let base = (bottom >> shift).saturating_sub(1);
        let last = (top >> shift) - base + 1;
        let at = self.slots.len();
        self.slots.resize(at + last as usize + 1, Slot::default());
        let mut rest = inner;
        for bucket in 0..=last {
            let starts = self.ranges[rest.clone()].iter();
            let here = starts.take_while(|range| (R::top(range.start()) >> shift) - base == bucket).count();
            let within = rest.start..rest.start + here;
            rest.start = within.end;
            self.slots[at + bucket as usize] = Slot::new(self.bucket(within, shift, level));
        }
        (at as u32, Node { base, last: last as u32, shift })
    }

    /// A bucket with the ranges that start in it.
    fn bucket(&mut self, inner: Between<usize>, shift: u32, level: u32) -> Bucket {
        // The range that holds where the bucket starts is the one before, unless the first one starts there.
        let below = (1 << (R::BELOW + shift)) - 1;
        let aligned = !inner.is_empty() && self.ranges[inner.start].address() & below == 0;
        let first = if aligned { inner.start } else { inner.start - 1 };
        let count = inner.end - first;
        if count == 1 {
            return Bucket::Value(self.ranges[first].value());
        }
        let divisible = level < LEVELS && self.top(inner.start) != self.top(inner.end - 1);
        if count > CROWD && divisible {
            let (at, node) = self.node(inner, level + 1);
            return Bucket::Node { at, node };
        }
        // A slot for each level, the halvings, the value.
        let steps = level + (count - 1).ilog2() + 2;
        self.steps = self.steps.max(steps as u8);
        Bucket::Ranges { first: first as u32, count: count as u32 }
    }

    fn top(&self, number: usize) -> u64 {
        R::top(self.ranges[number].start())
    }
}

impl<R: Entry> Ranges for Table<R> {
    type Range = R;

    fn root(&self) -> Node {
        self.root
    }

    fn slot(&self, number: u32) -> Option<Slot> {
        self.index.get(number as usize).copied()
    }

    fn range(&self, number: u32) -> Option<&R> {
        self.ranges.get(number as usize)
    }
}
