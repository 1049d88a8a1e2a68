//! A compiled table in a map.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_RDONLY_PROG},
    maps::Array,
};
use op25b_ebpf::table::{AnyLine, Lines, Root};

/// Flags of a table's map: no program can write to it. What a process could map begins with a page (Linux 5.5): so a line
/// of the table is a line of the cache.
pub(crate) const FLAGS: u32 = BPF_F_RDONLY_PROG | BPF_F_MMAPABLE;

/// Where a table of one address family lies.
pub(crate) struct Table<L: 'static> {
    pub(crate) lines: &'static Array<L>,
    pub(crate) root: &'static Global<Root>,
}

impl<L: AnyLine> Lines for Table<L> {
    type Line = L;

    #[inline(always)]
    fn root(&self) -> Root {
        self.root.load()
    }

    #[inline(always)]
    fn line(&self, number: u32) -> Option<&L> {
        self.lines.get(number)
    }
}
