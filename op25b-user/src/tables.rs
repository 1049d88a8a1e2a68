//! Policy → tables: nested prefixes become disjoint ranges, in lines as the kernel looks them up. Knows
//! nothing of maps.

mod table;

use std::{collections::HashMap, net::IpAddr};

use ipnetwork::IpNetwork;
use op25b_ebpf::{
    abi::{self, Customer, Server},
    address::{Address, Family},
    policy::Policy as Lookup,
    reply::{GOODBYE, OUT_OF_SEQUENCE, TEXTS, Text},
    table::{Line4, Line6, find},
    verdict::Verdict,
};

use self::table::Span;
pub use self::table::{Entry, Range, Table, TooLarge};
use crate::{
    document::{Action, Mode},
    policy::{Group, Notice, Policy},
    situation::Situation,
};

/// The tables of one generation, shared by its interfaces.
#[derive(Debug)]
pub struct Tables {
    /// What an IPv4 address is as a customer: [`Customer`].
    pub customers4: Table<Line4>,
    /// What an IPv6 address is as a customer.
    pub customers6: Table<Line6>,
    /// What an IPv4 address is as a server: a position in [`Tables::servers`].
    pub servers4: Table<Line4>,
    /// What an IPv6 address is as a server.
    pub servers6: Table<Line6>,
    /// The servers' properties; the first is "no server".
    pub servers: Vec<Server>,
    /// The groups by number; the first is "no group".
    pub groups: Vec<abi::Group>,
    /// `unknown_sources: block`.
    pub block_unknown: bool,
    /// What is said to blocked customers; the first is the operator's sentence, without bytes where there is none.
    pub texts: [Text; TEXTS],
}

/// What a prefix says of a customer's address.
#[derive(Clone, Copy)]
enum Says {
    Group(u32),
    Exempt,
    Quarantined { relays: bool },
}

impl Tables {
    /// Compiles a policy as it is in a situation. `number` gives each group the number its counters have had so far.
    ///
    /// # Errors
    ///
    /// When a table has more ranges, or the servers more values, than a lookup can tell apart.
    pub fn compile(
        policy: &Policy,
        situation: &Situation,
        number: impl Fn(&str) -> u32,
    ) -> Result<Self, TooLarge> {
        let mut customers = [Vec::new(), Vec::new()];
        let mut servers = [Vec::new(), Vec::new()];
        let mut groups = vec![abi::Group::default()];
        let mut scopes = 0;

        for (bit, relay) in policy.relays.iter().enumerate() {
            add(&mut servers, &situation.addresses(relay), Server { relays: 1 << bit, scopes: 0 });
        }
        for group in &policy.groups {
            let number = number(&group.name);
            add(&mut customers, &group.prefixes, Says::Group(number));
            let scope = if group.destinations.is_empty() { 0 } else { 1 << scopes };
            if scope != 0 {
                scopes += 1;
                add(&mut servers, &group.destinations, Server { relays: 0, scopes: scope });
            }
            let position = number as usize;
            if groups.len() <= position {
                groups.resize(position + 1, abi::Group::default());
            }
            groups[position] = compiled(group, situation.mode(group), scope);
        }
        for entry in policy.exemptions.iter().filter(|entry| situation.holds(entry)) {
            add(&mut customers, &entry.prefixes, Says::Exempt);
        }
        let quarantine = policy.quarantine.iter().filter(|entry| situation.holds(entry));
        for entry in quarantine.filter(|_| situation.quarantines()) {
            add(&mut customers, &entry.prefixes, Says::Quarantined { relays: entry.relays });
        }

        let [customers4, customers6] = customers;
        let [servers4, servers6] = servers;
        let mut known = Known::default();
        let tables = Self {
            customers4: Table::compile(customers4, customer_within)?,
            customers6: Table::compile(customers6, customer_within)?,
            servers4: Table::compile(servers4, |around, own| known.within(around, own))?,
            servers6: Table::compile(servers6, |around, own| known.within(around, own))?,
            servers: known.servers,
            groups,
            block_unknown: situation.blocks_unknown(policy),
            texts: [
                policy.notice.as_ref().and_then(Notice::text).unwrap_or_default(),
                Text::new(OUT_OF_SEQUENCE).unwrap_or_default(),
                Text::new(GOODBYE).unwrap_or_default(),
            ],
        };
        let servers = tables.servers.len();
        if servers > 1 << u16::BITS { Err(TooLarge::Servers(servers - 1)) } else { Ok(tables) }
    }
}

/// What a deeper prefix makes of what holds around it: the longest prefix decides among groups and among
/// quarantines; exemption and quarantine hold wherever one of theirs is around.
fn customer_within(around: u32, own: Says) -> u32 {
    match own {
        Says::Group(number) => around & !0xff | number,
        Says::Exempt => around | Customer::EXEMPT,
        Says::Quarantined { relays } => {
            let left = if relays { Customer::RELAYS_LEFT } else { 0 };
            around & !Customer::RELAYS_LEFT | Customer::QUARANTINED | left
        }
    }
}

/// The servers' properties, each once; the first is "no server".
struct Known {
    servers: Vec<Server>,
    numbers: HashMap<Server, u32>,
}

impl Default for Known {
    fn default() -> Self {
        Self { servers: vec![Server::default()], numbers: HashMap::from([(Server::default(), 0)]) }
    }
}

impl Known {
    /// The number of what a deeper prefix makes of what holds around it: all of both.
    fn within(&mut self, around: u32, own: Server) -> u32 {
        let around = self.servers[around as usize];
        let server = Server { relays: around.relays | own.relays, scopes: around.scopes | own.scopes };
        *self.numbers.entry(server).or_insert_with(|| {
            self.servers.push(server);
            self.servers.len() as u32 - 1
        })
    }
}

fn compiled(group: &Group, mode: Mode, scope: u64) -> abi::Group {
    abi::Group {
        relays: group.relays.iter().fold(0, |mask, bit| mask | 1 << bit),
        scope,
        mode: number(mode) as u8,
        action: verdict(group.action) as u8,
        return_path: number(group.return_path) as u8,
        source_length: group.ipv6_source_length,
        reserved: [0; 4],
    }
}

/// What an action makes of a blocked packet.
pub(crate) const fn verdict(action: Action) -> Verdict {
    match action {
        Action::Drop => Verdict::Drop,
        Action::Reset => Verdict::Reset,
        Action::Notice => Verdict::Notice,
    }
}

const fn number(mode: Mode) -> abi::Mode {
    match mode {
        Mode::Off => abi::Mode::Off,
        Mode::Monitor => abi::Mode::Monitor,
        Mode::Enforce => abi::Mode::Enforce,
    }
}

/// Adds prefixes to the spans of their family.
fn add<V: Copy>(spans: &mut [Vec<Span<V>>; 2], prefixes: &[IpNetwork], value: V) {
    for prefix in prefixes {
        let first = match prefix.network() {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        spans[usize::from(prefix.is_ipv6())].push(Span { first, length: prefix.prefix(), value });
    }
}

/// The host's answer to what the kernel asks its maps.
impl Lookup for Tables {
    fn customer(&self, address: Address) -> Customer {
        Customer(look_up(&self.customers4, &self.customers6, address))
    }

    fn server(&self, address: Address) -> Server {
        let number = look_up(&self.servers4, &self.servers6, address);
        self.servers.get(number as usize).copied().unwrap_or_default()
    }

    fn group(&self, number: u32) -> Option<&abi::Group> {
        if number == 0 { None } else { self.groups.get(number as usize) }
    }

    fn blocks_unknown_sources(&self) -> bool {
        self.block_unknown
    }
}

fn look_up(ipv4: &Table<Line4>, ipv6: &Table<Line6>, address: Address) -> u32 {
    match address.family {
        Family::Ipv4 => find(ipv4, address.low),
        Family::Ipv6 => find(ipv6, [address.high, address.low]),
    }
}
