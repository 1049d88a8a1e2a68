//! A compiled table in maps.

use aya_ebpf::{Global, maps::Array};
use op25b_ebpf::{
    abi::Slot,
    ranges::{Node, Range, Ranges},
};

/// Where a table of one address family lies.
pub(crate) struct Table<R: 'static> {
    pub(crate) ranges: &'static Array<R>,
    pub(crate) index: &'static Array<Slot>,
    pub(crate) root: &'static Global<Node>,
}

impl<R: Range> Ranges for Table<R> {
    type Range = R;

    #[inline(always)]
    fn root(&self) -> Node {
        self.root.load()
    }

    #[inline(always)]
    fn slot(&self, number: u32) -> Option<Slot> {
        self.index.get(number).copied()
    }

    #[inline(always)]
    fn range(&self, number: u32) -> Option<&R> {
        self.ranges.get(number)
    }
}
