//! Lookup in a compiled table: lines, each one cache line with the starts of a few ranges and what holds in them, and
//! nodes that lead an address to its line.

/// A node: lines for spans of equal width, one behind the other, and one for all that lies outside of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    /// The first span's number, counted from address zero.
    pub base: u64,
    /// How many spans there are; the line for the outside follows theirs.
    pub outside: u32,
    /// Bits of [`Word::top`] within a span.
    pub shift: u32,
}

impl Node {
    /// One line, whatever the key.
    pub const SINGLE: Self = Self { base: 0, outside: 0, shift: 0 };

    /// The line of a key, counted from the node's first one.
    #[inline(always)]
    #[must_use]
    pub const fn line(self, top: u64) -> u32 {
        let line = (top >> (self.shift & 63)).wrapping_sub(self.base);
        if line > self.outside as u64 { self.outside } else { line as u32 }
    }
}

/// Where lookups begin: a node, and what holds where it has no spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Root {
    /// Its lines are the first ones.
    pub node: Node,
    /// The value that holds outside of the spans, below as above; [`Root::DIFFERS`] where those differ.
    pub outside: u32,
    /// Zero.
    pub reserved: u32,
}

impl Root {
    /// No value: the line for the outside is to be read.
    pub const DIFFERS: u32 = u32::MAX;
    /// Nothing anywhere.
    pub const EMPTY: Self = Self { node: Node::SINGLE, outside: 0, reserved: 0 };

    /// The first line to read for a key, or else the value: most servers are outside of all that a policy names.
    #[inline(always)]
    const fn line(&self, top: u64) -> Result<u32, u32> {
        let line = self.node.line(top);
        if line == self.node.outside && self.outside != Self::DIFFERS { Err(self.outside) } else { Ok(line) }
    }
}

/// Nodes one below the other, at most; below them are branches.
pub const NODES: u32 = 4;
/// Ranges of a table, at most: their lines stay below the four gigabytes that Linux 5.10 gives an array.
pub const RANGES: usize = 1 << 23;
/// Lines that a lookup reads, at most: where nodes divide nothing, branches of four hold all ranges.
pub const LINES: u32 = NODES + RANGES.ilog2().div_ceil(2);

/// What a line holds starts in: all of an IPv4 address, half of an IPv6 address.
pub trait Word: Copy {
    /// An address.
    type Key: Copy;
    /// The first one's.
    const ZERO: Self;
    /// Words of an address.
    const WHOLE: usize;

    /// Those of an address; the second may be of none.
    fn words(key: Self::Key) -> [Self; 2];

    /// The upper bits of an address, by which nodes divide.
    fn top(key: Self::Key) -> u64;

    /// The upper bits that a word is.
    fn widened(self) -> u64;

    /// The word of upper bits.
    fn of(top: u64) -> Self;

    /// One where the key is less than the start with these words, else zero. No branch: which it is no processor can
    /// guess.
    fn less(key: Self::Key, start: &[Self]) -> u64;

    /// The same where the upper bits tell, and differ by less than 2^63.
    fn less_near(key: Self::Key, upper: Self) -> u64;
}

/// IPv4. The key is wider than it need be: a compiler that does not know that leaves the subtraction alone.
impl Word for u32 {
    type Key = u64;
    const ZERO: Self = 0;
    const WHOLE: usize = 1;

    fn words(key: u64) -> [Self; 2] {
        [key as Self, 0]
    }

    #[inline(always)]
    fn top(key: u64) -> u64 {
        key
    }

    #[inline(always)]
    fn widened(self) -> u64 {
        self.into()
    }

    fn of(top: u64) -> Self {
        top as Self
    }

    #[inline(always)]
    fn less(key: u64, start: &[Self]) -> u64 {
        Self::less_near(key, start[0])
    }

    #[inline(always)]
    fn less_near(key: u64, start: Self) -> u64 {
        key.wrapping_sub(start.into()) >> 63
    }
}

/// IPv6.
impl Word for u64 {
    type Key = [Self; 2];
    const ZERO: Self = 0;
    const WHOLE: usize = 2;

    fn words(key: [Self; 2]) -> [Self; 2] {
        key
    }

    #[inline(always)]
    fn top([high, _]: [Self; 2]) -> Self {
        high
    }

    #[inline(always)]
    fn widened(self) -> Self {
        self
    }

    fn of(top: Self) -> Self {
        top
    }

    #[inline(always)]
    fn less([high, low]: [Self; 2], start: &[Self]) -> Self {
        // The borrow of a subtraction.
        const fn borrow(from: u64, what: u64, before: u64) -> u64 {
            let left = from.wrapping_sub(what).wrapping_sub(before);
            (!from & what | !(from ^ what) & left) >> 63
        }
        borrow(high, start[0], borrow(low, start[1], 0))
    }

    #[inline(always)]
    fn less_near([high, _]: [Self; 2], upper: Self) -> Self {
        high.wrapping_sub(upper) >> 63
    }
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The end: its values are what was looked for, its starts are whole addresses.
    Leaf,
    /// A leaf whose starts are upper bits: the lower ones are zero. They are near every key that leads here.
    Near,
    /// Its starts are those of other lines.
    Branch {
        /// The last of them; the others follow, backwards.
        at: u32,
    },
    /// More ranges than a line or a branch holds.
    Node {
        /// Where its lines are.
        at: u32,
        /// Which they are.
        node: Node,
    },
}

/// A line of a table, in the kernel's map as here.
///
/// Starts need no order: what counts is how many are above a key. Places that are not used change nothing: in a leaf and a
/// branch they are zero, which is above no key; where starts are near they are the first one, with what holds before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line<W, const WORDS: usize, const VALUES: usize> {
    /// [`Kind`]: 0 leaf, 1 near, 2 branch, 3 node.
    pub kind: u16,
    /// What holds where so many starts are above; or where a branch or a node leads.
    pub values: [u16; VALUES],
    /// Starts of every range but the one that holds where the line's span starts.
    pub words: [W; WORDS],
}

/// A line of an IPv4 table: up to eleven ranges.
pub type Line4 = Line<u32, 10, 11>;
/// A line of an IPv6 table: up to seven ranges that start with a /64, or else four.
pub type Line6 = Line<u64, 6, 7>;

// A branch of four for each two bits of a range number.
const _: () = assert!(1_usize << (2 * (LINES - NODES)) >= RANGES);
const _: () = assert!(size_of::<Line4>() == 64 && size_of::<Line6>() == 64 && size_of::<Root>() == 24);

/// A line of whichever family.
pub trait AnyLine: Copy {
    /// What its starts are made of.
    type Word: Word;
    /// Ranges of a leaf and lines of a branch, at most.
    const RANGES: usize;
    /// Ranges of a leaf whose starts are near, at most.
    const NEAR: usize;

    /// Packs a line. Starts of a leaf and a branch rise; the values of a leaf are those of its ranges, the last one first.
    fn new(kind: Kind, starts: &[Key<Self>], values: &[u16]) -> Self;

    /// What it is.
    fn kind(&self) -> Kind;

    /// How many starts are above the key.
    fn above(&self, key: Key<Self>) -> u32;

    /// The same of starts that are near.
    fn above_near(&self, key: Key<Self>) -> u32;

    /// What holds where so many are.
    fn value(&self, above: u32) -> u16;
}

/// An address, as it is looked up among such lines.
pub type Key<L> = <<L as AnyLine>::Word as Word>::Key;

impl<W: Word, const WORDS: usize, const VALUES: usize> AnyLine for Line<W, WORDS, VALUES> {
    type Word = W;
    const RANGES: usize = WORDS / W::WHOLE + 1;
    const NEAR: usize = VALUES;

    fn new(kind: Kind, starts: &[W::Key], values: &[u16]) -> Self {
        fn put<T: Copy>(places: &mut [T], values: impl Iterator<Item = T>) {
            places.iter_mut().zip(values).for_each(|(place, value)| *place = value);
        }
        let halves = |number: u32| [number as u16, (number >> 16) as u16];
        let mut line = Self { kind: 0, values: [0; VALUES], words: [W::ZERO; WORDS] };
        put(&mut line.values, values.iter().copied());
        let whole = starts.iter().flat_map(|start| W::words(*start).into_iter().take(W::WHOLE));
        match kind {
            Kind::Leaf => put(&mut line.words, whole),
            Kind::Near => {
                line.kind = 1;
                let upper = starts.iter().chain(starts.first().into_iter().cycle());
                put(&mut line.words, upper.map(|start| W::of(W::top(*start))));
                put(&mut line.values, values.iter().chain(values.last().into_iter().cycle()).copied());
            }
            Kind::Branch { at } => {
                line.kind = 2;
                put(&mut line.words, whole);
                put(&mut line.values, halves(at).into_iter());
            }
            Kind::Node { at, node } => {
                line.kind = 3;
                line.words[0] = W::of(node.base);
                let [at, outside] = [at, node.outside].map(halves);
                put(&mut line.values, at.into_iter().chain(outside).chain([node.shift as u16]));
            }
        }
        line
    }

    #[inline(always)]
    fn kind(&self) -> Kind {
        let whole = |first: usize| u32::from(self.values[first]) | u32::from(self.values[first + 1]) << 16;
        match self.kind {
            0 => Kind::Leaf,
            1 => Kind::Near,
            2 => Kind::Branch { at: whole(0) },
            _ => {
                let (base, shift) = (self.words[0].widened(), u32::from(self.values[4]));
                Kind::Node { at: whole(0), node: Node { base, outside: whole(2), shift } }
            }
        }
    }

    #[inline(always)]
    fn above(&self, key: W::Key) -> u32 {
        let mut above = 0;
        for start in self.words.chunks_exact(W::WHOLE) {
            above += W::less(key, start);
        }
        above as u32
    }

    #[inline(always)]
    fn above_near(&self, key: W::Key) -> u32 {
        let mut above = 0;
        for upper in self.words {
            above += W::less_near(key, upper);
        }
        above as u32
    }

    #[inline(always)]
    fn value(&self, above: u32) -> u16 {
        self.values.get(above as usize).copied().unwrap_or(0)
    }
}

/// A compiled table of one address family, wherever its lines lie.
pub trait Lines {
    /// What its lines are.
    type Line: AnyLine;

    /// Where to begin.
    fn root(&self) -> Root;

    /// A line; `None` where there is none.
    fn line(&self, number: u32) -> Option<&Self::Line>;
}

/// The value that holds for `key`, where one line says it or none need be read: so it is in most policies. The others
/// ask [`find`].
#[inline(always)]
pub fn glance<L: Lines>(lines: &L, key: Key<L::Line>) -> Option<u32> {
    let number = match lines.root().line(<L::Line as AnyLine>::Word::top(key)) {
        Ok(number) => number,
        Err(value) => return Some(value),
    };
    let line = lines.line(number)?;
    if matches!(line.kind(), Kind::Near) { Some(u32::from(line.value(line.above_near(key)))) } else { None }
}

/// The value that holds for `key`; zero where the table is empty.
#[inline(always)]
pub fn find<L: Lines>(lines: &L, key: Key<L::Line>) -> u32 {
    let top = <L::Line as AnyLine>::Word::top(key);
    let mut number = match lines.root().line(top) {
        Ok(number) => number,
        Err(value) => return value,
    };
    for _ in 0..LINES {
        let Some(line) = lines.line(number) else { return 0 };
        number = match line.kind() {
            Kind::Near => return u32::from(line.value(line.above_near(key))),
            Kind::Leaf => return u32::from(line.value(line.above(key))),
            Kind::Branch { at } => at.wrapping_add(line.above(key)),
            Kind::Node { at, node } => at.wrapping_add(node.line(top)),
        };
    }
    0
}
