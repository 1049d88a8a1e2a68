//! What a frame's link layer says of its sender, for people who look for a customer's line.

use crate::{
    abi::Link,
    frame::{ETHERNET, LLC_LENGTH, TAGS, TYPE_PPPOE_SESSION, is_tag},
    packet::Packet,
};

/// The sender's hardware address, VLANs and PPPoE session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Source MAC address; none without an Ethernet header.
    pub mac: Option<[u8; 6]>,
    vlans: [u16; TAGS],
    count: usize,
    /// PPPoE session number (RFC 2516).
    pub session: Option<u16>,
}

impl Layers {
    /// VLAN numbers, the outermost first; priority tags are none.
    #[must_use]
    pub fn vlans(&self) -> &[u16] {
        self.vlans.get(..self.count).unwrap_or_default()
    }
}

/// Reads the link layer as far as it goes.
#[must_use]
pub fn layers<P: Packet>(packet: &P, link: Link) -> Layers {
    let mut layers = Layers::default();
    if matches!(link, Link::Ip) {
        return layers;
    }
    layers.mac = packet.read(6);
    let Some(mut kind) = packet.u16(ETHERNET - 2) else { return layers };
    let mut at = ETHERNET;
    while is_tag(kind) {
        let Some([high, low, next_high, next_low]) = packet.read::<4>(at) else { return layers };
        let vlan = u16::from_be_bytes([high, low]) & 0xfff;
        if vlan != 0
            && let Some(place) = layers.vlans.get_mut(layers.count)
        {
            *place = vlan;
            layers.count += 1;
        }
        kind = u16::from_be_bytes([next_high, next_low]);
        at += 4;
    }
    if kind <= LLC_LENGTH {
        // RFC 1042: the type is behind LLC and the organisation's code.
        let Some(inner) = packet.u16(at + 6) else { return layers };
        kind = inner;
        at += 8;
    }
    if kind == TYPE_PPPOE_SESSION {
        layers.session = packet.u16(at + 2);
    }
    layers
}
