//! A compiled table in a map.

use aya_ebpf::{Global, maps::Array};
use op25b_ebpf::table::{AnyLine, Lines, Node};

/// Where a table of one address family lies.
pub(crate) struct Table<L: 'static> {
    pub(crate) lines: &'static Array<L>,
    pub(crate) root: &'static Global<Node>,
}

impl<L: AnyLine> Lines for Table<L> {
    type Line = L;

    #[inline(always)]
    fn root(&self) -> Node {
        self.root.load()
    }

    #[inline(always)]
    fn line(&self, number: u32) -> Option<&L> {
        self.lines.get(number)
    }
}
