//! The seam between the decision and the tables: four questions, answered by maps in the kernel and by a plain
//! struct on the host.

use crate::{
    abi::{Customer, Group, Server},
    address::Address,
};

/// The policy of one generation.
pub trait Policy {
    /// What the address is as a customer: the longest prefix among groups, exemption, quarantine.
    fn customer(&self, address: Address) -> Customer;

    /// What the address is as a mail server: relay, `destinations`.
    fn server(&self, address: Address) -> Server;

    /// The group with this number, from 1.
    fn group(&self, number: u32) -> Option<&Group>;

    /// `unknown_sources: block`.
    fn blocks_unknown_sources(&self) -> bool;
}
