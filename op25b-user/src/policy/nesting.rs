//! Prefixes as they lie in one another, each with its group.

use ipnetwork::IpNetwork;

use super::contains;

/// One prefix of a group.
pub(super) struct Nested {
    pub(super) prefix: IpNetwork,
    /// The group's position.
    pub(super) group: u32,
    /// Position of the shortest step outwards.
    around: Option<u32>,
}

/// Prefixes in order: each stands behind all that contain it.
pub(super) struct Nesting(Vec<Nested>);

impl Nesting {
    /// From prefixes in order.
    pub(super) fn new(sorted: impl Iterator<Item = (IpNetwork, u32)>) -> Self {
        let mut all: Vec<Nested> = Vec::with_capacity(sorted.size_hint().0);
        for (prefix, group) in sorted {
            let mut around = all.len().checked_sub(1).map(|last| last as u32);
            while let Some(position) = around
                && !contains(&all[position as usize].prefix, &prefix)
            {
                around = all[position as usize].around;
            }
            all.push(Nested { prefix, group, around });
        }
        Self(all)
    }

    /// The longest prefix that contains this one.
    pub(super) fn around(&self, prefix: &IpNetwork) -> Option<&Nested> {
        // Everything between a prefix and what contains it lies in that too.
        let mut last = self.0.partition_point(|nested| nested.prefix <= *prefix).checked_sub(1);
        while let Some(position) = last {
            let nested = &self.0[position];
            if contains(&nested.prefix, prefix) {
                return Some(nested);
            }
            last = nested.around.map(|around| around as usize);
        }
        None
    }

    /// All that this prefix contains.
    pub(super) fn within<'n>(&'n self, prefix: &'n IpNetwork) -> impl Iterator<Item = &'n Nested> {
        let first = self.0.partition_point(|nested| nested.prefix < *prefix);
        self.0[first..].iter().take_while(|nested| contains(prefix, &nested.prefix))
    }

    /// Whether each of so many groups decides for any address: longer prefixes leave it one.
    pub(super) fn deciding(&self, groups: usize) -> Vec<bool> {
        let mut covered = vec![0_u128; self.0.len()];
        for nested in &self.0 {
            if let Some(around) = nested.around {
                covered[around as usize] = covered[around as usize].wrapping_add(addresses(&nested.prefix));
            }
        }
        let mut deciding = vec![false; groups];
        for (nested, covered) in self.0.iter().zip(covered) {
            deciding[nested.group as usize] |= covered != addresses(&nested.prefix);
        }
        deciding
    }
}

/// Addresses of a prefix. All of IPv6 has one more than this type counts: it passes for never covered.
fn addresses(prefix: &IpNetwork) -> u128 {
    let bits = if prefix.is_ipv6() { 128 } else { 32 };
    1_u128.checked_shl(bits - u32::from(prefix.prefix())).unwrap_or(u128::MAX)
}
