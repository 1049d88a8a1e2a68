//! The decision: a flow and a policy in, a named reason and a verdict out. The table of the manual, row by row.

use crate::{
    abi::{CELLS_OF_GROUP, Customer, Group, Mode, Role, Server},
    address::{Address, Family},
    found::Found,
    packet::Packet,
    policy::Policy,
};

/// What happens to the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// It goes on.
    Pass = 0,
    /// It vanishes.
    Drop = 1,
    /// It is answered with a reset.
    Reset = 2,
    /// It is answered with the operator's sentence.
    Notice = 3,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Drop, Self::Reset, Self::Notice];

    /// The name people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reset => "reset",
            Self::Notice => "notice",
        }
    }

    /// The verdict with this number; what is no number of a verdict drops.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Pass,
            2 => Self::Reset,
            3 => Self::Notice,
            _ => Self::Drop,
        }
    }
}

/// Why. The numbers are stable and never reused: counters, captures and people share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Not for this filter to judge.
    Other = 0,
    /// The source is quarantined.
    Quarantined = 1,
    /// The other end is a relay that the customer may use.
    Relay = 2,
    /// The customer is exempt, or its group is off.
    Exempt = 3,
    /// The source is in no group.
    UnknownSource = 4,
    /// The destination is outside the group's `destinations`.
    OutOfScope = 5,
    /// It would be blocked if the group were enforcing.
    WouldBlock = 6,
    /// Blocked.
    Blocked = 7,
    /// TCP without readable ports, where the group is not enforcing.
    WouldMalformed = 8,
    /// TCP without readable ports.
    Malformed = 9,
    /// From port 25 to a customer, where that is only watched.
    WouldReturnPath = 10,
    /// From port 25 to a customer.
    ReturnPath = 11,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Other,
        Self::Quarantined,
        Self::Relay,
        Self::Exempt,
        Self::UnknownSource,
        Self::OutOfScope,
        Self::WouldBlock,
        Self::Blocked,
        Self::WouldMalformed,
        Self::Malformed,
        Self::WouldReturnPath,
        Self::ReturnPath,
    ];

    /// The name people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Quarantined => "quarantined",
            Self::Relay => "relay",
            Self::Exempt => "exempt",
            Self::UnknownSource => "unknown-source",
            Self::OutOfScope => "out-of-scope",
            Self::WouldBlock => "would-block",
            Self::Blocked => "blocked",
            Self::WouldMalformed => "would-malformed",
            Self::Malformed => "malformed",
            Self::WouldReturnPath => "would-return-path",
            Self::ReturnPath => "return-path",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

/// The two ends of a judged packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The customer's end: whose packets are counted.
    pub customer: Address,
    /// The other end: the mail server.
    pub peer: Address,
    /// Whether the ports could be read.
    pub readable: bool,
    /// Whether it comes from port 25: the customer is its destination then.
    pub from_port_25: bool,
}

impl Flow {
    /// Reads the addresses that the walk found. `None` where the frame ends before them, which the walk excludes.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, found: Found) -> Option<Self> {
        Some(Self {
            customer: address(packet, found.customer_family(), found.customer_at())?,
            peer: address(packet, found.peer_family(), found.peer_at())?,
            readable: found.is_readable(),
            from_port_25: found.is_from_port_25(),
        })
    }

    /// Who sent it.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Address {
        if self.from_port_25 { self.peer } else { self.customer }
    }

    /// Who is to get it.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self) -> Address {
        if self.from_port_25 { self.customer } else { self.peer }
    }
}

#[inline(always)]
fn address<P: Packet>(packet: &P, family: Family, at: usize) -> Option<Address> {
    match family {
        Family::Ipv4 => packet.read(at).map(Address::ipv4),
        Family::Ipv6 => Some(Address::ipv6(packet.read(at)?, packet.read(at + 8)?)),
    }
}

/// The decision on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why.
    pub reason: Reason,
    /// What happens.
    pub verdict: Verdict,
    /// The customer's group, from 1; zero for none.
    pub group: u32,
    /// The relays that let it pass, a bit each.
    pub relays: u64,
}

impl Decision {
    /// Not for this filter to judge.
    pub const OTHER: Self = Self { reason: Reason::Other, verdict: Verdict::Pass, group: 0, relays: 0 };

    /// The first relay that let it pass, from 1; zero for none.
    #[inline(always)]
    #[must_use]
    pub const fn relay(&self) -> u32 {
        if self.relays == 0 { 0 } else { self.relays.trailing_zeros() + 1 }
    }

    /// The counter cell, in the counters of the interface.
    #[inline(always)]
    #[must_use]
    pub const fn cell(&self, family: Family) -> u32 {
        cell(self.group, family, self.reason, self.verdict)
    }
}

/// The counter cell of SYNs from a group to a relay's submission port: port 465 has a column of its own.
#[inline(always)]
#[must_use]
pub const fn submission_cell(group: u32, family: Family, implicit_tls: bool) -> u32 {
    // Column 0 is that of `other`, which is never counted; no reason has column 15.
    let column = if implicit_tls { 15 } else { 0 };
    (group & 0xff) * CELLS_OF_GROUP + family as u32 * (CELLS_OF_GROUP / 2) + column
}

/// The counter cell of a group, family, reason and verdict. Two reasons have more than one verdict.
#[inline(always)]
#[must_use]
pub const fn cell(group: u32, family: Family, reason: Reason, verdict: Verdict) -> u32 {
    cell_by_number(group, family as u8, reason as u8, verdict as u8)
}

/// The same by the numbers of its parts.
#[inline(always)]
#[must_use]
pub const fn cell_by_number(group: u32, family: u8, reason: u8, verdict: u8) -> u32 {
    const BLOCKED: u8 = Reason::Blocked as u8;
    const UNKNOWN: u8 = Reason::UnknownSource as u8;
    const RESET: u8 = Verdict::Reset as u8;
    const NOTICE: u8 = Verdict::Notice as u8;
    const DROP: u8 = Verdict::Drop as u8;
    let column = match (reason, verdict) {
        (BLOCKED, RESET) => 12,
        (BLOCKED, NOTICE) => 13,
        (UNKNOWN, DROP) => 14,
        _ => reason as u32 & 15,
    };
    (group & 0xff) * CELLS_OF_GROUP + (family as u32 & 1) * (CELLS_OF_GROUP / 2) + column
}

/// Decides a packet that the walk calls judged.
#[inline(always)]
pub fn decide<P: Policy>(flow: &Flow, role: Role, policy: &P) -> Decision {
    // Without ports nobody can say that it comes from port 25.
    if !flow.readable && !role.judges_customers() {
        return Decision::OTHER;
    }
    // Looked up once for both directions: in the kernel each place where it is asked costs the verifier's time.
    let (customer, server) = (policy.customer(flow.customer), policy.server(flow.peer));
    if flow.from_port_25 {
        to_customer(customer, server, policy)
    } else {
        from_customer(flow, role, customer, server, policy)
    }
}

/// Role `customer`: rows 2 to 8.
#[inline(always)]
fn from_customer<P: Policy>(
    flow: &Flow,
    role: Role,
    customer: Customer,
    server: Server,
    policy: &P,
) -> Decision {
    let group = policy.group(customer.group());
    let decided = |reason, verdict, relays| Decision { reason, verdict, group: customer.group(), relays };

    if customer.has(Customer::QUARANTINED) && !(server.relays != 0 && customer.has(Customer::RELAYS_LEFT)) {
        return decided(Reason::Quarantined, Verdict::Drop, 0);
    }
    // Without ports there is no telling whether the packet is for a relay's port 25.
    let relays = server.relays & group.map_or(u64::MAX, |group| group.relays);
    if flow.readable && relays != 0 {
        return decided(Reason::Relay, Verdict::Pass, relays);
    }
    if flow.readable && role.judges_upstream() {
        let sender = policy.server(flow.customer);
        if sender.relays != 0 {
            return decided(Reason::Relay, Verdict::Pass, sender.relays);
        }
    }
    if customer.has(Customer::EXEMPT) {
        return decided(Reason::Exempt, Verdict::Pass, 0);
    }
    let Some(group) = group else {
        let verdict = if policy.blocks_unknown_sources() { Verdict::Drop } else { Verdict::Pass };
        return decided(Reason::UnknownSource, verdict, 0);
    };
    if group.mode == Mode::Off as u8 {
        return decided(Reason::Exempt, Verdict::Pass, 0);
    }
    if flow.readable && is_out_of_scope(group, server) {
        return decided(Reason::OutOfScope, Verdict::Pass, 0);
    }
    match (group.mode == Mode::Enforce as u8, flow.readable) {
        (true, true) => decided(Reason::Blocked, Verdict::from_number(group.action), 0),
        (true, false) => decided(Reason::Malformed, Verdict::Drop, 0),
        (false, true) => decided(Reason::WouldBlock, Verdict::Pass, 0),
        (false, false) => decided(Reason::WouldMalformed, Verdict::Pass, 0),
    }
}

/// Role `upstream`: TCP from port 25.
#[inline(always)]
fn to_customer<P: Policy>(customer: Customer, sender: Server, policy: &P) -> Decision {
    let group = policy.group(customer.group());
    let decided = |reason, verdict, relays| Decision { reason, verdict, group: customer.group(), relays };

    let quarantined = customer.has(Customer::QUARANTINED);
    if group.is_none() && !quarantined {
        return Decision::OTHER;
    }
    if !quarantined
        && (customer.has(Customer::EXEMPT) || group.is_some_and(|group| group.mode == Mode::Off as u8))
    {
        return decided(Reason::Exempt, Verdict::Pass, 0);
    }
    let relays = sender.relays & group.map_or(u64::MAX, |group| group.relays);
    if relays != 0 {
        return decided(Reason::Relay, Verdict::Pass, relays);
    }
    // A quarantined address in no group has nobody who could ask for less.
    let Some(group) = group else {
        return decided(Reason::ReturnPath, Verdict::Drop, 0);
    };
    if is_out_of_scope(group, sender) {
        return decided(Reason::OutOfScope, Verdict::Pass, 0);
    }
    if group.return_path == Mode::Off as u8 {
        return Decision::OTHER;
    }
    if group.mode != Mode::Enforce as u8 || group.return_path == Mode::Monitor as u8 {
        return decided(Reason::WouldReturnPath, Verdict::Pass, 0);
    }
    decided(Reason::ReturnPath, Verdict::Drop, 0)
}

#[inline(always)]
const fn is_out_of_scope(group: &Group, server: Server) -> bool {
    group.scope != 0 && server.scopes & group.scope == 0
}
