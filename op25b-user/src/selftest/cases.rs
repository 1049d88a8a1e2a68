//! A policy → the frames to try on an interface, and what the policy promises each, read from it as a person would: by
//! no table, and by nothing that decides in the kernel.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use op25b_ebpf::{
    abi::{Customer, Role, Server},
    address::{Address, Family},
    policy::Policy as Lookup,
    table::{Line4, Line6},
    verdict::{Reason, Verdict},
};

use crate::{
    document::{Mode, printable},
    explain::{Syn, Through},
    helpdesk::strangers,
    policy::{Group, Policy, longest},
    situation::Situation,
    sources,
    tables::{Entry, Table, Tables, verdict},
};

/// A customer's port, which decides nothing.
const ANY_PORT: u16 = 40_000;
/// RFC 5321, RFC 6409, RFC 8314.
const MAIL: u16 = 25;
const SUBMISSION: [u16; 2] = [587, 465];

/// One frame to try.
pub(super) struct Case {
    /// Whose it is, and where it goes.
    pub(super) name: String,
    pub(super) syn: Syn,
    pub(super) through: Through,
    pub(super) promised: (Verdict, Reason),
}

/// The frames of an interface, and in words what no address was found for.
#[derive(Default)]
pub(super) struct Cases {
    pub(super) all: Vec<Case>,
    pub(super) untried: Vec<String>,
}

/// What cases are made from.
pub(super) struct Source<'a> {
    pub(super) policy: &'a Policy,
    pub(super) situation: &'a Situation,
    pub(super) tables: &'a Tables,
}

/// A customer to try: in words, what is looked for in the tables, and whether one not found is worth a word.
struct Wanted {
    who: String,
    is: Box<dyn Fn(Customer) -> bool>,
    is_missed: bool,
}

impl Source<'_> {
    /// Every case of an interface with this role.
    pub(super) fn cases(&self, role: Role, ethernet: bool, number: impl Fn(&str) -> u32) -> Cases {
        let mut cases = Cases::default();
        for family in [Family::Ipv4, Family::Ipv6] {
            for Wanted { who, is, is_missed } in self.wanted(family, &number) {
                match self.customer(family, &*is) {
                    Some(address) => {
                        let customer = Standing::of(self, address);
                        if role.judges_customers() {
                            self.add(&mut cases, &who, &customer, Way::Sends, ethernet);
                        }
                        if role.judges_upstream() {
                            self.add(&mut cases, &who, &customer, Way::Receives, ethernet);
                        }
                    }
                    None if is_missed => cases.untried.push(format!(
                        "{who}: no {} address was found that is neither exempt, quarantined, a relay, nor in another group",
                        name(family)
                    )),
                    None => {}
                }
            }
        }
        cases
    }

    fn wanted(&self, family: Family, number: impl Fn(&str) -> u32) -> Vec<Wanted> {
        let of_family = |prefix: &IpNetwork| prefix.is_ipv6() == matches!(family, Family::Ipv6);
        let groups = self.policy.groups.iter().filter(|group| group.prefixes.iter().any(of_family));
        let mut wanted: Vec<Wanted> = groups
            .map(|group| {
                let number = number(&group.name);
                Wanted {
                    who: format!("group {}", printable(&group.name)),
                    is: Box::new(move |customer| customer == Customer(number)),
                    is_missed: true,
                }
            })
            .collect();
        let mut others = |who: &str, is: fn(Customer) -> bool| {
            wanted.push(Wanted { who: who.to_owned(), is: Box::new(is), is_missed: false });
        };
        others("an exempt address", |customer| {
            customer.has(Customer::EXEMPT) && !customer.has(Customer::QUARANTINED)
        });
        others("a quarantined address", |customer| {
            customer.has(Customer::QUARANTINED) && !customer.has(Customer::RELAYS_LEFT)
        });
        others("an address quarantined but for the relays", |customer| {
            customer.has(Customer::QUARANTINED | Customer::RELAYS_LEFT)
        });
        others("an address in no group", |customer| customer == Customer::UNKNOWN);
        wanted
    }

    /// The frames of one customer, one way.
    fn add(&self, cases: &mut Cases, who: &str, customer: &Standing<'_>, way: Way, ethernet: bool) {
        let known = self.tables.group(self.tables.customer(key(customer.address)).group());
        let (relays, scope) = known.map_or((u64::MAX, 0), |group| (group.relays, group.scope));
        let servers: [(&str, &dyn Fn(Server) -> bool); 4] = [
            ("a server outside", &|server| server.relays == 0 && server.scopes & scope == scope),
            ("a relay", &|server| server.relays & relays != 0),
            ("a relay of others", &|server| server.relays != 0 && server.relays & relays == 0),
            ("a server that is not in its destinations", &|server| {
                scope != 0 && server.relays == 0 && server.scopes & scope == 0
            }),
        ];
        for (place, (what, is)) in servers.into_iter().enumerate() {
            let first = place == 0;
            let Some(server) = self.server(customer.address, is) else {
                if first {
                    cases
                        .untried
                        .push(format!("{who}: there is no server outside that it could be kept from"));
                }
                continue;
            };
            for port in [MAIL].into_iter().chain(SUBMISSION.into_iter().filter(|_| first)) {
                let promised = match way {
                    _ if port != MAIL => (Verdict::Pass, Reason::Other),
                    Way::Sends => customer.sends_to(self, server),
                    Way::Receives => customer.receives_from(self, server),
                };
                let name = match way {
                    Way::Sends => format!("{who} to {what}, port {port}"),
                    Way::Receives => format!("{what} to {who}, from port {port}"),
                };
                let throughs: &[Through] = match (ethernet, first && port == MAIL) {
                    (false, _) => &[Through::Ip],
                    (true, false) => &[Through::Ethernet, Through::Vlan],
                    (true, true) => &[Through::Ethernet, Through::Vlan, Through::PppoeInVlans],
                };
                cases.all.extend(throughs.iter().map(|through| Case {
                    name: name.clone(),
                    syn: way.syn(customer.address, server, port),
                    through: *through,
                    promised,
                }));
            }
        }
    }

    /// An address that is this as a customer and no relay.
    fn customer(&self, family: Family, is: &dyn Fn(Customer) -> bool) -> Option<IpAddr> {
        let tables = self.tables;
        let fits =
            |address: &IpAddr| is(tables.customer(key(*address))) && tables.server(key(*address)).relays == 0;
        let may = |value| is(Customer(value));
        find(family, &tables.customers4, &tables.customers6, may, fits)
    }

    /// Another address than the customer's that is this as a server, and no customer where there is such a one.
    fn server(&self, customer: IpAddr, is: impl Fn(Server) -> bool) -> Option<IpAddr> {
        let tables = self.tables;
        let all = |address: &IpAddr| *address != customer && is(tables.server(key(*address)));
        let stranger = |address: &IpAddr| all(address) && tables.customer(key(*address)) == Customer::UNKNOWN;
        let may = |value: u32| tables.servers.get(value as usize).is_some_and(|server| is(*server));
        let (four, six) = (&tables.servers4, &tables.servers6);
        let family = family(customer);
        find(family, four, six, may, stranger).or_else(|| find(family, four, six, may, all))
    }
}

/// The first address that fits: of the documentation ranges, else near the start of a table's range whose value may be
/// right. For people not the first one there: that is often a network's own.
fn find(
    family: Family,
    ipv4: &Table<Line4>,
    ipv6: &Table<Line6>,
    may: impl Fn(u32) -> bool,
    fits: impl Fn(&IpAddr) -> bool,
) -> Option<IpAddr> {
    fn near<L: Entry>(
        table: &Table<L>,
        may: impl Fn(u32) -> bool,
        fits: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let starts =
            table.ranges.iter().filter(|range| may(range.value)).map(|range| L::address(range.start));
        let near = starts.flat_map(|start| {
            [1, 0].map(|step| {
                let address = start.saturating_add(step).min(L::LAST);
                sources::address([(address >> 64) as u64, address as u64], L::LAST == u128::MAX)
            })
        });
        near.into_iter().find(|address| fits(address))
    }
    let stranger = strangers(matches!(family, Family::Ipv6)).into_iter().find(&fits);
    stranger.or_else(|| match family {
        Family::Ipv4 => near(ipv4, may, fits),
        Family::Ipv6 => near(ipv6, may, fits),
    })
}

/// Which way a frame goes, seen from the customer.
#[derive(Clone, Copy)]
enum Way {
    Sends,
    Receives,
}

impl Way {
    const fn syn(self, customer: IpAddr, server: IpAddr, port: u16) -> Syn {
        match self {
            Self::Sends => {
                Syn { source: customer, destination: server, source_port: ANY_PORT, destination_port: port }
            }
            Self::Receives => {
                Syn { source: server, destination: customer, source_port: port, destination_port: ANY_PORT }
            }
        }
    }
}

/// What the policy says of a customer's address.
struct Standing<'a> {
    address: IpAddr,
    group: Option<&'a Group>,
    is_exempt: bool,
    /// Whether a quarantine leaves it the relays.
    quarantine: Option<bool>,
}

impl<'a> Standing<'a> {
    fn of(source: &Source<'a>, address: IpAddr) -> Self {
        let (policy, situation) = (source.policy, source.situation);
        let holding = |entries: &'a [_]| {
            longest(entries.iter().filter(|entry| situation.holds(entry)), |entry| &entry.prefixes, address)
        };
        let quarantine = holding(&policy.quarantine).filter(|_| situation.quarantines());
        Self {
            address,
            group: longest(&policy.groups, |group| &group.prefixes, address).map(|(_, group)| group),
            is_exempt: holding(&policy.exemptions).is_some(),
            quarantine: quarantine.map(|(_, entry)| entry.relays),
        }
    }

    /// Whether a server is one of the relays, and of those that the customer may reach.
    fn relay(&self, source: &Source<'_>, server: IpAddr) -> (bool, bool) {
        let at = |position: &usize| {
            let relay = source.policy.relays.get(*position);
            relay.is_some_and(|relay| contain(&source.situation.addresses(relay), server))
        };
        let any = (0..source.policy.relays.len()).any(|position| at(&position));
        (any, self.group.map_or(any, |group| group.relays.iter().any(at)))
    }

    /// Role `customer`, TCP to port 25: the manual's rows 2 to 8.
    fn sends_to(&self, source: &Source<'_>, server: IpAddr) -> (Verdict, Reason) {
        let (is_relay, may_reach) = self.relay(source, server);
        if self.quarantine.is_some_and(|relays| !(relays && is_relay)) {
            return (Verdict::Drop, Reason::Quarantined);
        }
        if may_reach {
            return (Verdict::Pass, Reason::Relay);
        }
        let Some(group) = self.group.filter(|_| !self.is_exempt) else {
            return match (self.is_exempt, source.situation.blocks_unknown(source.policy)) {
                (true, _) => (Verdict::Pass, Reason::Exempt),
                (false, true) => (Verdict::Drop, Reason::UnknownSource),
                (false, false) => (Verdict::Pass, Reason::UnknownSource),
            };
        };
        match source.situation.mode(group) {
            Mode::Off => (Verdict::Pass, Reason::Exempt),
            _ if is_out_of_scope(group, server) => (Verdict::Pass, Reason::OutOfScope),
            Mode::Monitor => (Verdict::Pass, Reason::WouldBlock),
            Mode::Enforce => (verdict(group.action), Reason::Blocked),
        }
    }

    /// Role `upstream`, TCP from port 25.
    fn receives_from(&self, source: &Source<'_>, server: IpAddr) -> (Verdict, Reason) {
        let is_quarantined = self.quarantine.is_some();
        let mode = self.group.map(|group| source.situation.mode(group));
        if self.group.is_none() && !is_quarantined {
            return (Verdict::Pass, Reason::Other);
        }
        if !is_quarantined && (self.is_exempt || mode == Some(Mode::Off)) {
            return (Verdict::Pass, Reason::Exempt);
        }
        if self.relay(source, server).1 {
            return (Verdict::Pass, Reason::Relay);
        }
        match self.group {
            None => (Verdict::Drop, Reason::ReturnPath),
            Some(group) if is_out_of_scope(group, server) => (Verdict::Pass, Reason::OutOfScope),
            Some(group) => match (group.return_path, mode) {
                (Mode::Off, _) => (Verdict::Pass, Reason::Other),
                (Mode::Enforce, Some(Mode::Enforce)) => (Verdict::Drop, Reason::ReturnPath),
                _ => (Verdict::Pass, Reason::WouldReturnPath),
            },
        }
    }
}

fn is_out_of_scope(group: &Group, server: IpAddr) -> bool {
    !group.destinations.is_empty() && !contain(&group.destinations, server)
}

fn contain(prefixes: &[IpNetwork], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(address))
}

/// An address as tables know it.
fn key(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::ipv4(address.octets()),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            Address { family: Family::Ipv6, high: (bits >> 64) as u64, low: bits as u64 }
        }
    }
}

const fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}
