//! What may be done to a frame without changing its verdict, and what may be done to a dropped one without saving it.
#![allow(clippy::expect_used, clippy::panic, reason = "a frame that is saved fails the test")]

mod frames;
mod generate;
mod ways;

use std::sync::LazyLock;

use op25b_ebpf::{
    abi::{Link, Role},
    found::Outcome,
    verdict::{Reason, Verdict},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    frames::{
        Ethernet, Extension, Ipv4, Ipv6, MORE_FRAGMENTS, Mpls, Piece, Pppoe, Snap, Tcp, Vlan, extension,
        fragments4, fragments6, hex,
    },
    generate::{CUSTOMERS4, CUSTOMERS6, SERVERS4, SERVERS6},
    ways::{Office, Seen, Setting, Variant},
};

static OFFICES: LazyLock<[Office; 4]> = LazyLock::new(|| Variant::ALL.map(Office::open));

fn judge(setting: Setting, frame: &[u8]) -> Seen {
    OFFICES[setting.variant as usize].judge(setting, Link::Ethernet, frame)
}

fn is_dropped(setting: Setting, frame: &[u8]) -> bool {
    judge(setting, frame).decision.verdict != Verdict::Pass
}

/// TCP that an interface judges, on IP.
#[derive(Clone, Debug)]
struct Judged {
    setting: Setting,
    ipv6: bool,
    customer: usize,
    server: usize,
    /// From port 25.
    answer: bool,
    flags: u8,
    payload: usize,
    options: usize,
}

impl Judged {
    fn tcp(&self) -> Tcp {
        let tcp = if self.answer { Tcp::answer() } else { Tcp::mail() };
        tcp.flags(self.flags).payload(&vec![0; self.payload])
    }

    fn ipv4(&self) -> Ipv4 {
        let customer = CUSTOMERS4[self.customer % CUSTOMERS4.len()];
        let server = SERVERS4[self.server % SERVERS4.len()];
        let header = if self.answer { Ipv4::new(server, customer) } else { Ipv4::new(customer, server) };
        header.options(4 * self.options)
    }

    fn ipv6(&self) -> Ipv6 {
        let customer = CUSTOMERS6[self.customer % CUSTOMERS6.len()];
        let server = SERVERS6[self.server % SERVERS6.len()];
        if self.answer { Ipv6::new(server, customer) } else { Ipv6::new(customer, server) }
    }

    /// The packet, with these extension headers where it is IPv6.
    fn packet(&self, extensions: &[u8]) -> Piece {
        if !self.ipv6 {
            return self.tcp().within(self.ipv4());
        }
        let piece = extensions
            .iter()
            .fold(Piece::from(self.tcp()), |piece, kind| piece.within(Extension::new(*kind)));
        piece.within(self.ipv6())
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    select(Setting::all())
}

fn judged() -> impl Strategy<Value = Judged> {
    (setting(), any::<bool>(), 0..40_usize, 0..9_usize, any::<bool>(), any::<u8>(), 0..64_usize, 0..=10_usize)
        .prop_map(|(setting, ipv6, customer, server, answer, flags, payload, options)| {
            let answer = match setting.role {
                Role::CUSTOMER => false,
                Role::UPSTREAM => true,
                _ => answer,
            };
            Judged { setting, ipv6, customer, server, answer, flags, payload, options }
        })
}

/// Frames from customers that are dropped whole.
fn dropped() -> impl Strategy<Value = Judged> {
    judged().prop_filter("dropped from a customer", |judged| {
        let seen = judge(judged.setting, &judged.packet(&[]).frame());
        seen.decision.verdict != Verdict::Pass && !judged.answer
    })
}

/// A softwire by its outer address.
const SOFTWIRE: Setting = Setting { variant: Variant::Outer, role: Role::CUSTOMER };

/// IPv4 and IPv6 addresses whose softwire is dropped whole.
fn dropped_softwire() -> impl Strategy<Value = Judged> {
    judged()
        .prop_map(|judged| Judged { setting: SOFTWIRE, answer: false, ..judged })
        .prop_filter("dropped from a softwire's customer", |judged| {
            is_dropped(SOFTWIRE, &judged.tcp().within(judged.ipv4()).within(judged.ipv6()).frame())
        })
}

/// What lies between Ethernet and IP.
#[derive(Clone, Debug)]
struct Wrapping {
    tags: Vec<u16>,
    snap: bool,
    pppoe: Option<bool>,
    labels: usize,
}

impl Wrapping {
    fn around(&self, piece: Piece) -> Piece {
        let mut piece = piece;
        if self.labels != 0 {
            piece = piece.within(Mpls(self.labels));
        }
        if let Some(compressed) = self.pppoe {
            piece = piece.within(if compressed { Pppoe::Compressed } else { Pppoe::Plain });
        }
        if self.snap {
            piece = piece.within(Snap);
        }
        self.tags.iter().fold(piece, |piece, kind| piece.within(Vlan(*kind)))
    }
}

fn wrapping() -> impl Strategy<Value = Wrapping> {
    let tag = select(vec![0x8100_u16, 0x88a8, 0x9100]);
    let labels = prop_oneof![Just(0_usize), 1..=8_usize];
    (vec(tag, 0..=5), any::<bool>(), option::of(any::<bool>()), labels)
        .prop_map(|(tags, snap, pppoe, labels)| Wrapping { tags, snap, pppoe, labels })
}

fn extensions() -> impl Strategy<Value = Vec<u8>> {
    vec(select(extension::ALL.to_vec()), 0..=12)
}

/// AH in IPv4, by its lengths.
fn authentications() -> impl Strategy<Value = Vec<usize>> {
    vec((3..20_usize).prop_map(|words| words * 4), 1..=12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn wrapping_changes_nothing(judged in judged(), wrapping in wrapping(), extensions in extensions()) {
        let bare = judge(judged.setting, &judged.packet(&[]).frame());
        let frame = wrapping.around(judged.packet(&extensions)).frame();
        let wrapped = judge(judged.setting, &frame);
        prop_assert_eq!(bare, wrapped, "{}", hex(&frame));
        prop_assert!(matches!(wrapped.outcome, Outcome::ToPort25 | Outcome::FromPort25));
    }

    #[test]
    fn authentication_headers_in_ipv4_change_nothing(
        judged in judged(),
        wrapping in wrapping(),
        lengths in authentications(),
    ) {
        let judged = Judged { ipv6: false, ..judged };
        let bare = judge(judged.setting, &judged.packet(&[]).frame());
        let piece = lengths.iter().fold(Piece::from(judged.tcp()), |piece, bytes| {
            piece.within(Extension::new(extension::AUTHENTICATION).bytes(*bytes))
        });
        let frame = wrapping.around(piece.within(judged.ipv4())).frame();
        prop_assert_eq!(bare, judge(judged.setting, &frame), "{}", hex(&frame));
    }

    #[test]
    fn bytes_behind_the_packet_change_nothing(
        judged in judged(),
        wrapping in wrapping(),
        extensions in extensions(),
        padding in vec(any::<u8>(), 0..80),
    ) {
        let piece = wrapping.around(judged.packet(&extensions));
        let padded = piece.clone().padded_with(&padding).frame();
        // LLC is told from an EtherType by a length that padding does not enter.
        prop_assert_eq!(judge(judged.setting, &piece.frame()), judge(judged.setting, &padded), "{}", hex(&padded));
    }

    #[test]
    fn softwire_is_known_by_the_address_that_the_policy_names(
        judged in judged(),
        wrapping in wrapping(),
        extensions in extensions(),
    ) {
        let inner = Judged { ipv6: false, ..judged.clone() };
        let outer = Judged { ipv6: true, ..judged };
        let piece = extensions
            .iter()
            .fold(inner.packet(&[]), |piece, kind| piece.within(Extension::new(*kind)));
        let frame = wrapping.around(piece.within(outer.ipv6())).frame();
        let seen = judge(inner.setting, &frame);
        match inner.setting.variant {
            Variant::Inner => prop_assert_eq!(seen, judge(inner.setting, &inner.packet(&[]).frame())),
            Variant::Outer => {
                let bare = judge(outer.setting, &outer.packet(&[]).frame());
                prop_assert_eq!(seen.outcome, bare.outcome);
                // The customer is the outer address; relays and destinations are what the inner one says.
                if bare.decision.reason != Reason::Other && seen.decision.reason != Reason::Other {
                    prop_assert_eq!(seen.decision.group, bare.decision.group);
                    prop_assert_eq!(seen.family, bare.family);
                }
            }
            Variant::Pass | Variant::Block => prop_assert_eq!(seen.outcome, Outcome::OtherProtocol),
        }
    }

    #[test]
    fn fragments_of_a_dropped_packet_cannot_be_put_together(
        judged in dropped(),
        wrapping in wrapping(),
        extensions in extensions(),
        cuts in vec(0..200_usize, 0..6),
    ) {
        let packet = judged.packet(&extensions).bytes();
        let fragments = if judged.ipv6 { fragments6(&packet, &cuts) } else { fragments4(&packet, &cuts) };
        // Nothing is put together without the first fragment.
        let first = wrapping.around(fragments[0].clone()).frame();
        prop_assert!(is_dropped(judged.setting, &first), "{}", hex(&first));
        // And none is dropped that only carries what comes later, except inside the TCP header.
        for later in &fragments[1..] {
            let frame = wrapping.around(later.clone()).frame();
            let seen = judge(judged.setting, &frame);
            prop_assert!(
                seen.decision.verdict == Verdict::Pass || seen.outcome == Outcome::FragmentInTcpHeader,
                "{}",
                hex(&frame)
            );
        }
    }

    #[test]
    fn first_fragment_however_tiny_is_dropped(
        judged in dropped(),
        wrapping in wrapping(),
        extensions in extensions(),
        kept in 0..40_usize,
        padding in vec(any::<u8>(), 0..40),
    ) {
        // A sender may cut where no router would, and fill the frame up with what it likes.
        let piece = extensions
            .iter()
            .filter(|_| judged.ipv6)
            .take(11)
            .fold(Piece::from(judged.tcp()), |piece, kind| piece.within(Extension::new(*kind)))
            .cut_to(kept);
        let packet = if judged.ipv6 {
            piece.within(Extension::fragment(0, true)).within(judged.ipv6())
        } else {
            piece.within(judged.ipv4().fragment(MORE_FRAGMENTS))
        };
        let frame = wrapping.around(packet.padded_with(&padding)).frame();
        prop_assert!(is_dropped(judged.setting, &frame), "{}", hex(&frame));
    }

    #[test]
    fn outer_fragments_of_a_dropped_softwire_cannot_be_put_together(
        judged in dropped_softwire(),
        wrapping in wrapping(),
        cuts in vec(0..120_usize, 0..6),
        padding in vec(any::<u8>(), 0..40),
    ) {
        let packet = judged.tcp().within(judged.ipv4()).within(judged.ipv6());
        let first = fragments6(&packet.bytes(), &cuts)[0].clone();
        let frame = wrapping.around(first.padded_with(&padding)).frame();
        prop_assert!(is_dropped(SOFTWIRE, &frame), "{}", hex(&frame));
    }

    #[test]
    fn truncation_saves_no_dropped_frame(
        judged in dropped(),
        wrapping in wrapping(),
        extensions in extensions(),
    ) {
        let piece = wrapping.around(judged.packet(&extensions)).within(Ethernet::default());
        let fixed = piece.network() + if judged.ipv6 { 40 } else { 20 };
        let frame = piece.bytes();
        for length in 0..=frame.len() {
            let seen = judge(judged.setting, &frame[..length]);
            if length < fixed {
                // No host can take it.
                prop_assert_eq!(seen.decision.reason, Reason::Other, "{}", hex(&frame[..length]));
            } else {
                prop_assert_ne!(seen.decision.verdict, Verdict::Pass, "{}", hex(&frame[..length]));
            }
        }
    }

    #[test]
    fn truncation_saves_no_dropped_softwire(
        judged in dropped_softwire(),
        wrapping in wrapping(),
        extensions in extensions(),
    ) {
        let inner = judged.tcp().within(judged.ipv4());
        let piece = extensions.iter().fold(inner, |piece, kind| piece.within(Extension::new(*kind)));
        let piece = wrapping.around(piece.within(judged.ipv6())).within(Ethernet::default());
        let options = 4 * judged.options;
        let (fixed, frame) = (piece.transport() - options, piece.bytes());
        for length in fixed..=frame.len() {
            prop_assert!(is_dropped(SOFTWIRE, &frame[..length]), "{}", hex(&frame[..length]));
        }
    }
}

/// Offsets in a frame end somewhere; addresses that lie beyond are not to be read from another place.
#[test]
fn softwire_behind_16_kib_of_headers_is_not_judged_by_other_bytes() {
    for length in (15_904..16_600).step_by(8) {
        let inner = Tcp::mail().within(Ipv4::new("203.0.113.129", "192.0.2.10"));
        let mut piece = inner;
        let mut left = length;
        while left != 0 {
            let bytes = left.min(2048);
            piece = piece.within(Extension::new(extension::ROUTING).bytes(bytes));
            left -= bytes;
        }
        let mut frame = piece.within(Ipv6::new("2001:db8:1000::5", "2001:db8:e000::10")).frame();
        // A relay's address, where offsets that are cut to their lower bits lead.
        frame[..12].copy_from_slice(&[192, 0, 2, 25].repeat(3));
        for shift in 0..4 {
            frame[..12].rotate_left(1);
            assert!(
                is_dropped(SOFTWIRE, &frame),
                "{length} bytes of headers, MAC addresses turned by {shift}"
            );
        }
    }
}
