//! The maps, each behind the question it answers.

use aya_ebpf::{
    bindings::BPF_F_RDONLY_PROG,
    macros::map,
    maps::{Array, PerCpuArray},
};
use op25b_ebpf::{
    abi::{CELLS, Count, Customer, GROUPS, Group, SEEN_CELLS, Server},
    address::{Address, Family},
    found::Found,
    policy::Policy,
    table::{Line4, Line6, find, glance},
};

use super::{
    constants::{BLOCK_UNKNOWN, CUSTOMERS4_ROOT, CUSTOMERS6_ROOT, SERVERS4_ROOT, SERVERS6_ROOT},
    table::{self, Table},
};

// The loader sets the sizes of a generation's tables and fills them; no program can write to them.

/// The customers' table, IPv4.
#[map]
static CUSTOMERS4: Array<Line4> = Array::with_max_entries(1, table::FLAGS);
/// The customers' table, IPv6.
#[map]
static CUSTOMERS6: Array<Line6> = Array::with_max_entries(1, table::FLAGS);
/// The servers' table, IPv4; its values are entries of [`SERVERS`].
#[map]
static SERVERS4: Array<Line4> = Array::with_max_entries(1, table::FLAGS);
/// The servers' table, IPv6.
#[map]
static SERVERS6: Array<Line6> = Array::with_max_entries(1, table::FLAGS);
/// What is known of a server; entry 0 is no server.
#[map]
static SERVERS: Array<Server> = Array::with_max_entries(1, BPF_F_RDONLY_PROG);
/// The groups, by number; entry 0 is no group.
#[map]
static CUSTOMER_GROUPS: Array<Group> = Array::with_max_entries(GROUPS as u32 + 1, BPF_F_RDONLY_PROG);

/// The counters of this interface; they outlive the generation.
#[map]
static COUNTERS: PerCpuArray<Count> = PerCpuArray::with_max_entries(CELLS, 0);

/// How judged frames of this interface were seen; outlives the generation like [`COUNTERS`].
#[map]
static SEEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(SEEN_CELLS, 0);
/// How all frames were seen, while a sampling program is attached.
#[map]
static SAMPLED: PerCpuArray<u64> = PerCpuArray::with_max_entries(SEEN_CELLS, 0);

/// The tables of this generation.
pub(crate) struct Tables;

impl Policy for Tables {
    #[inline(always)]
    fn customer(&self, address: Address) -> Customer {
        let Address { family, high, low } = address;
        Customer(customers().glance(address).unwrap_or_else(|| op25b_customer(family as u64, high, low)))
    }

    #[inline(always)]
    fn server(&self, address: Address) -> Server {
        let Address { family, high, low } = address;
        let entry = servers().glance(address).unwrap_or_else(|| op25b_server(family as u64, high, low));
        // Most are none.
        if entry == 0 { Server::default() } else { SERVERS.get(entry).copied().unwrap_or_default() }
    }

    #[inline(always)]
    fn group(&self, number: u32) -> Option<&Group> {
        if number == 0 { None } else { CUSTOMER_GROUPS.get(number) }
    }

    #[inline(always)]
    fn blocks_unknown_sources(&self) -> bool {
        BLOCK_UNKNOWN.load() != 0
    }
}

/// A table of both families.
struct Both {
    ipv4: Table<Line4>,
    ipv6: Table<Line6>,
}

impl Both {
    /// See [`glance`]: without a call.
    #[inline(always)]
    fn glance(&self, Address { family, high, low }: Address) -> Option<u32> {
        match family {
            Family::Ipv4 => glance(&self.ipv4, low),
            Family::Ipv6 => glance(&self.ipv6, [high, low]),
        }
    }

    /// See [`find`].
    #[inline(always)]
    fn find(&self, family: u64, high: u64, low: u64) -> u32 {
        if family == Family::Ipv4 as u64 { find(&self.ipv4, low) } else { find(&self.ipv6, [high, low]) }
    }
}

#[inline(always)]
fn customers() -> Both {
    Both {
        ipv4: Table { lines: &CUSTOMERS4, root: &CUSTOMERS4_ROOT },
        ipv6: Table { lines: &CUSTOMERS6, root: &CUSTOMERS6_ROOT },
    }
}

/// Its values are entries of [`SERVERS`].
#[inline(always)]
fn servers() -> Both {
    Both {
        ipv4: Table { lines: &SERVERS4, root: &SERVERS4_ROOT },
        ipv6: Table { lines: &SERVERS6, root: &SERVERS6_ROOT },
    }
}

/// The customers' table, verified once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_customer(family: u64, high: u64, low: u64) -> u32 {
    customers().find(family, high, low)
}

/// The servers' table, verified once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_server(family: u64, high: u64, low: u64) -> u32 {
    servers().find(family, high, low)
}

/// Notes how a judged frame was seen.
#[inline(always)]
pub(crate) fn seen(found: Found) {
    add(&SEEN, found.cell());
}

/// Notes how any frame was seen.
#[inline(always)]
pub(crate) fn sampled(found: Found) {
    add(&SAMPLED, found.cell());
}

/// Adds one to a count that is each CPU's own.
#[inline(always)]
pub(super) fn add(map: &PerCpuArray<u64>, cell: u32) {
    if let Some(count) = map.get_ptr_mut(cell) {
        // SAFETY: as in `count`.
        unsafe { *count += 1 };
    }
}

/// Adds to a cell of this interface.
#[inline(always)]
pub(crate) fn count(cell: u32, more: Count) {
    if let Some(count) = COUNTERS.get_ptr_mut(cell) {
        // SAFETY: the pointer is to this CPU's own copy, and a program is not interrupted by another of its hook.
        unsafe {
            (*count).packets += more.packets;
            (*count).bytes += more.bytes;
            (*count).attempts += more.attempts;
        }
    }
}
