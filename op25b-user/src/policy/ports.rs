//! The interfaces of a policy, and those of the command line that replace them.

use op25b_ebpf::abi::Role;

use super::{Override, Port, reader::Reader};
use crate::document::{self, Attach, Interface, excerpt};

/// More are no router.
const MOST: usize = 4096;

impl Reader<'_> {
    pub(super) fn interfaces(
        &mut self,
        written: &document::Interfaces,
        replaced: &Override,
        block_unknown: bool,
    ) -> Vec<Port> {
        let plain = |names: &[String]| {
            names
                .iter()
                .map(|name| Interface { name: name.clone(), attach: Attach::Native })
                .collect::<Vec<_>>()
        };
        let flags_given = !replaced.customer.is_empty() || !replaced.upstream.is_empty();
        let (customer, upstream) = if flags_given {
            // `--customer eth1` keeps how the policy attaches to eth1.
            let known = |interfaces: Vec<Interface>, role: &[Interface], other: &[Interface]| {
                interfaces
                    .into_iter()
                    .map(|interface| {
                        let mut written = role.iter().chain(other);
                        written.find(|known| known.name == interface.name).cloned().unwrap_or(interface)
                    })
                    .collect::<Vec<_>>()
            };
            (
                known(plain(&replaced.customer), &written.customer, &written.upstream),
                known(plain(&replaced.upstream), &written.upstream, &written.customer),
            )
        } else {
            (written.customer.clone(), written.upstream.clone())
        };

        if customer.len() + upstream.len() > MOST {
            self.error("interfaces:", format_args!("more than {MOST} interfaces"));
            return Vec::new();
        }
        let mut ports: Vec<Port> = Vec::new();
        for (interface, role) in customer
            .iter()
            .map(|one| (one, Role::CUSTOMER))
            .chain(upstream.iter().map(|one| (one, Role::UPSTREAM)))
        {
            if interface.name.is_empty()
                || interface.name.len() > 15
                || interface.name.contains(['/', ':', ' ', '\t', '\n'])
            {
                self.error(
                    &interface.name,
                    format_args!(
                        "interface {:?}: a name has 1 to 15 bytes, no space, `/` or `:`",
                        excerpt(&interface.name)
                    ),
                );
            }
            if ports
                .iter()
                .any(|port| port.name == interface.name && two_xdp_modes(port.attach, interface.attach))
            {
                self.error(
                    &interface.name,
                    format_args!(
                        "interface {} is listed as native and as generic; XDP is one or the other",
                        interface.name
                    ),
                );
            }
            match ports.iter_mut().find(|port| port.name == interface.name && port.attach == interface.attach)
            {
                None => ports.push(Port { name: interface.name.clone(), role, attach: interface.attach }),
                Some(port) if port.role.0 & role.0 != 0 => {
                    let name = port.name.clone();
                    self.error(&name, format_args!("interface {name} is listed twice in one role"));
                }
                Some(port) => port.role = Role(port.role.0 | role.0),
            }
        }
        for port in &ports {
            if port.role == Role::BOTH && block_unknown {
                self.error(
                    "unknown_sources:",
                    format_args!(
                        "`unknown_sources: block` would block all mail from the Internet on {}, which has both roles; \
                         write `pass`",
                        port.name
                    ),
                );
            }
        }
        ports
    }
}

const fn two_xdp_modes(one: Attach, other: Attach) -> bool {
    matches!((one, other), (Attach::Native, Attach::Generic) | (Attach::Generic, Attach::Native))
}
