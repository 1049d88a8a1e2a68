//! Prefixes of one address family → disjoint ranges → the lines that the kernel looks them up in.

use std::{cmp::Ordering, fmt::Debug, ops::Range as Between};

use op25b_ebpf::table::{AnyLine, Key, Kind, Line4, Line6, Lines, NODES, Node, RANGES, Root, Word as _};

/// One compiled table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table<L: Entry> {
    /// Disjoint, sorted; the first starts at zero.
    pub ranges: Vec<Range<L::Start>>,
    /// The same, as the kernel looks them up: the root's lines, then those that they lead to.
    pub lines: Vec<L>,
    /// Where a lookup begins.
    pub root: Root,
    /// Lines that the longest lookup reads.
    pub steps: u8,
}

/// A range: it is good until the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<S> {
    /// Its first address.
    pub start: S,
    /// What holds in it.
    pub value: u32,
}

/// What does not fit into tables.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    /// Prefixes of one family.
    #[error("{0} ranges in one table; at most {RANGES}")]
    Ranges(usize),
    /// Relays and `destinations` that overlap in ever other ways.
    #[error("servers are {0} different sets of relays and destinations; at most {values}", values = u16::MAX)]
    Servers(usize),
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

    fn last<L: Entry>(&self) -> u128 {
        self.first | L::LAST.checked_shr(u32::from(self.length)).unwrap_or(0)
    }
}

/// A line, and how its family's addresses are written.
pub trait Entry: AnyLine {
    /// The start of a range.
    type Start: Copy + Debug + Eq;
    /// Bits of an address below those that nodes divide by.
    const BELOW: u32;
    /// Addresses end here.
    const LAST: u128;

    /// From an address.
    fn start(address: u128) -> Self::Start;

    /// To an address.
    fn address(start: Self::Start) -> u128;

    /// To what is looked up.
    fn key(start: Self::Start) -> Key<Self>;
}

impl Entry for Line4 {
    type Start = u32;
    const BELOW: u32 = 0;
    const LAST: u128 = u32::MAX as u128;

    fn start(address: u128) -> u32 {
        address as u32
    }

    fn address(start: u32) -> u128 {
        start.into()
    }

    fn key(start: u32) -> u64 {
        start.into()
    }
}

impl Entry for Line6 {
    type Start = [u64; 2];
    const BELOW: u32 = 64;
    const LAST: u128 = u128::MAX;

    fn start(address: u128) -> [u64; 2] {
        [(address >> 64) as u64, address as u64]
    }

    fn address([high, low]: [u64; 2]) -> u128 {
        u128::from(high) << 64 | u128::from(low)
    }

    fn key(start: [u64; 2]) -> [u64; 2] {
        start
    }
}

impl<L: Entry> Table<L> {
    /// `within` makes a prefix's value from what holds around it and what it says; outside of all it is zero. Values are
    /// at most [`u16::MAX`].
    pub(super) fn compile<V: Copy>(
        spans: Vec<Span<V>>,
        within: impl FnMut(u32, V) -> u32,
    ) -> Result<Self, TooLarge> {
        let ranges = flatten::<L, V>(spans, within);
        if ranges.len() > RANGES {
            return Err(TooLarge::Ranges(ranges.len()));
        }
        let mut layout = Layout { ranges: &ranges, lines: Vec::new(), steps: 0 };
        let root = layout.root();
        let Layout { lines, steps, .. } = layout;
        Ok(Self { ranges, lines, root, steps })
    }
}

/// Nested prefixes → disjoint ranges, each good until the next one starts.
fn flatten<L: Entry, V: Copy>(
    mut spans: Vec<Span<V>>,
    mut within: impl FnMut(u32, V) -> u32,
) -> Vec<Range<L::Start>> {
    spans.sort_by(Span::order);
    let mut ranges = Vec::with_capacity(2 * spans.len() + 1);
    ranges.push(Range { start: L::start(0), value: 0 });
    // Last addresses and values of the prefixes that contain the current one.
    let mut open: Vec<(u128, u32)> = Vec::new();
    for span in &spans {
        close::<L>(&mut open, &mut ranges, span.first);
        let value = within(around(&open), span.value);
        push(&mut ranges, L::start(span.first), value);
        open.push((span.last::<L>(), value));
    }
    close::<L>(&mut open, &mut ranges, u128::MAX);
    // One that ends with the last address has nothing behind it.
    ranges
}

fn around(open: &[(u128, u32)]) -> u32 {
    open.last().map_or(0, |(_, value)| *value)
}

/// Ends the prefixes that end before `next`.
fn close<L: Entry>(open: &mut Vec<(u128, u32)>, ranges: &mut Vec<Range<L::Start>>, next: u128) {
    while let Some((last, _)) = open.pop_if(|(last, _)| *last < next) {
        if last < L::LAST {
            push(ranges, L::start(last + 1), around(open));
        }
    }
}

/// Adds a range; one that starts where the last one does replaces it, one that says the same is part of it.
fn push<S: PartialEq>(ranges: &mut Vec<Range<S>>, start: S, value: u32) {
    ranges.pop_if(|last| last.start == start);
    if ranges.last().is_none_or(|before| before.value != value) {
        ranges.push(Range { start, value });
    }
}

/// Lines of one node, at most.
const MOST: usize = 1 << 21;
/// So few lines that a node need not save any.
const FEW: usize = 1 << 10;

/// Lines as they are laid out.
struct Layout<'a, L: Entry> {
    ranges: &'a [Range<L::Start>],
    lines: Vec<L>,
    steps: u8,
}

impl<L: Entry> Layout<'_, L> {
    fn root(&mut self) -> Root {
        let all = self.ranges.len();
        let (first, last) = (self.ranges[0].value, self.ranges[all - 1].value);
        let outside = if first == last { first } else { Root::DIFFERS };
        let node = if all > 1 {
            self.node(1..all, 0).1
        } else {
            let at = self.room(1);
            self.leaf(at, 0..all, Kind::Leaf, 1);
            Node::SINGLE
        };
        Root { node, outside, reserved: 0 }
    }

    /// Adds a node for ranges that start in one place, all others elsewhere, and says where its lines are. `steps`: lines
    /// that a lookup has read before.
    fn node(&mut self, inner: Between<usize>, steps: u8) -> (u32, Node) {
        // It spans what the ranges do: a provider's prefixes all start alike.
        let shift = self.shift(inner.clone());
        let base = self.top(inner.start) >> shift;
        let spans = (self.top(inner.end - 1) >> shift) - base + 1;
        let at = self.room(spans as usize + 1);
        let (before, behind) = (&self.ranges[inner.start - 1], &self.ranges[inner.end - 1]);
        let outside = [behind.value, before.value].map(|value| value as u16);
        self.lines[at + spans as usize] = L::new(Kind::Leaf, &[L::key(behind.start)], &outside);
        let mut rest = inner;
        for span in 0..spans {
            let inside = |number: &usize| (self.top(*number) >> shift) - base == span;
            let within = rest.start..rest.start + rest.clone().take_while(inside).count();
            rest.start = within.end;
            self.span(at + span as usize, within, shift, steps + 1);
        }
        (at as u32, Node { base, outside: spans as u32, shift })
    }

    /// How wide a node's spans are. More lines mean that fewer of them are too full, and more memory: a line is worth a
    /// quarter of a range that needs another one.
    fn shift(&self, inner: Between<usize>) -> u32 {
        let (bottom, top) = (self.top(inner.start), self.top(inner.end - 1));
        let fewest = (inner.len() / 64).max(FEW).min(inner.len() / 4).max(1);
        let widths = std::iter::successors(Some(fewest), |lines| Some(2 * lines))
            .take_while(|lines| *lines <= inner.len().min(MOST))
            .map(|lines| (0..63).find(|shift| (top - bottom) >> shift < lines as u64).unwrap_or(63));
        let cost = |shift: &u32| {
            let span = |range: &Range<L::Start>| L::Word::top(L::key(range.start)) >> shift;
            let spans = self.ranges[inner.clone()].chunk_by(|one, other| span(one) == span(other));
            let full: usize = spans.map(<[_]>::len).filter(|starts| *starts >= L::NEAR).sum();
            4 * full + ((top - bottom) >> shift) as usize
        };
        widths.min_by_key(cost).unwrap_or(63)
    }

    /// Fills the line of a span in which these ranges start. `steps`: lines that a lookup has read with it.
    fn span(&mut self, at: usize, inner: Between<usize>, shift: u32, steps: u8) {
        // The range that holds where the span starts is the one before, unless the first one starts there.
        let below = (1 << (L::BELOW + shift)) - 1;
        let aligned = !inner.is_empty() && L::address(self.ranges[inner.start].start) & below == 0;
        let ranges = if aligned { inner.start } else { inner.start - 1 }..inner.end;
        let divisible = !inner.is_empty() && self.top(inner.start) != self.top(inner.end - 1);
        if ranges.len() > 4 * L::NEAR && divisible && u32::from(steps) < NODES {
            let (first, node) = self.node(inner, steps);
            self.lines[at] = L::new(Kind::Node { at: first, node }, &[], &[]);
        } else {
            self.branch(at, ranges, steps);
        }
    }

    /// Fills a line within a node, and those below it where it is too small for these ranges.
    fn branch(&mut self, at: usize, ranges: Between<usize>, steps: u8) {
        let is_near = |range: &Range<L::Start>| L::address(range.start).trailing_zeros() >= L::BELOW;
        let near = self.ranges[ranges.clone()].iter().skip(1).all(is_near);
        let (kind, most) = if near { (Kind::Near, L::NEAR) } else { (Kind::Leaf, L::RANGES) };
        if ranges.len() <= most {
            return self.leaf(at, ranges, kind, steps);
        }
        let mut width = most;
        while ranges.len() > width * L::RANGES {
            width *= L::RANGES;
        }
        let parts: Vec<_> =
            ranges.clone().step_by(width).map(|first| first..ranges.end.min(first + width)).collect();
        let first = self.room(parts.len());
        let starts: Vec<_> = parts.iter().skip(1).map(|part| L::key(self.ranges[part.start].start)).collect();
        self.lines[at] = L::new(Kind::Branch { at: first as u32 }, &starts, &[]);
        for (above, part) in parts.into_iter().rev().enumerate() {
            self.branch(first + above, part, steps + 1);
        }
    }

    fn leaf(&mut self, at: usize, ranges: Between<usize>, kind: Kind, steps: u8) {
        let ranges = &self.ranges[ranges];
        let starts: Vec<_> = ranges.iter().skip(1).map(|range| L::key(range.start)).collect();
        let values: Vec<_> = ranges.iter().rev().map(|range| range.value as u16).collect();
        self.lines[at] = L::new(kind, &starts, &values);
        self.steps = self.steps.max(steps);
    }

    /// Adds so many lines and says where.
    fn room(&mut self, lines: usize) -> usize {
        let at = self.lines.len();
        self.lines.resize(at + lines, L::new(Kind::Leaf, &[], &[]));
        at
    }

    fn top(&self, number: usize) -> u64 {
        L::Word::top(L::key(self.ranges[number].start))
    }
}

impl<L: Entry> Lines for Table<L> {
    type Line = L;

    fn root(&self) -> Root {
        self.root
    }

    fn line(&self, number: u32) -> Option<&L> {
        self.lines.get(number as usize)
    }
}
