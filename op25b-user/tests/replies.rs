//! What blocked customers are answered: named cases on the host's functions and through the loaded programs, whose
//! frames must be alike to the byte, and are read by another parser; what an attacker gets; what a source may have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod frames;
mod ways;

use std::{cell::RefCell, hash::Hasher as _, thread, time::Duration};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::time::{ClockId, clock_gettime};
use op25b::{
    object::{Constants, program},
    tables::Tables,
};
use op25b_ebpf::{
    abi::{Link, Role, Softwire},
    cookie::{AGE, Connection, Key, Keys, cookie},
    found::Found,
    frame::{self, Sight},
    packet::Packet,
    reply::{
        Reply, Speaker, Text, choose,
        craft::{Resized, Rewrite, craft},
    },
    verdict::{Reason, Verdict, cell},
};

use crate::{
    frames::{
        Ethernet, Extension, Ipv4, Ipv6, MORE_FRAGMENTS, Mpls, Piece, Pppoe, Snap, Tcp, Vlan, extension, flag,
    },
    ways::{ENTRIES, Entry, Kernel, Office, say},
};

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN;
const RST: u8 = flag::RST;
const PSH: u8 = flag::PSH;

const KEY: Key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const TEXT: &str = "outbound port 25 is blocked (OP25B). Use port 587 or 465 with SMTP AUTH.";
const LINE: &str = "554 5.7.1 Internet Kurume: outbound port 25 is blocked (OP25B). Use port 587 or 465 with SMTP AUTH. \
                    https://www.example.jp/op25b";
const COMMAND: &str = "503 5.5.1 Mail is not accepted here; QUIT";
const GOODBYE: &str = "221 2.0.0 Bye";

fn office(action: &str, reply: u16) -> Office {
    Office::of(&format!(
        r#"
version: 1
operator: Internet Kurume
relays: [{{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}}]
customers:
  - {{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce, action: {action}}}
  - {{name: shops, prefixes: [198.51.100.0/26], mode: enforce, action: notice}}
quarantine: [{{prefixes: [203.0.113.66]}}]
unknown_sources: pass
notice: {{reply: {reply}, text: "{TEXT}", url: "https://www.example.jp/op25b"}}
"#
    ))
}

/// Nanoseconds of CLOCK_MONOTONIC.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Waits where the period of cookies is about to change: host and kernel would see it at different moments.
fn settle() {
    let left = (1_u64 << AGE) - now() % (1 << AGE);
    if left < 40_000_000_000 {
        thread::sleep(Duration::from_nanos(left + 10_000_000));
    }
}

/// The host's voice, of a moment so many periods ago.
struct Voice<'a> {
    tables: &'a Tables,
    hangs_up: bool,
    ago: u32,
    /// Instead of the clock's.
    moment: Option<u64>,
}

impl Speaker for Voice<'_> {
    fn cookie(&self, connection: &Connection, before: bool) -> u32 {
        let now = self.moment.unwrap_or_else(now);
        let period = ((now >> AGE) as u32).wrapping_sub(self.ago + u32::from(before));
        cookie(KEY, connection.words(period))
    }

    fn text(&self, number: u32) -> Option<&Text> {
        self.tables.texts.get(number as usize)
    }

    fn hangs_up(&self) -> bool {
        self.hangs_up
    }
}

/// A frame that grows at its head and shrinks at its tail, as a driver's does.
struct Draft(RefCell<Vec<u8>>);

impl Packet for Draft {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.borrow().as_slice().read(offset)
    }

    fn length(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Rewrite for Draft {
    fn resize(&self, length: usize, _: usize) -> Option<Resized> {
        let mut frame = self.0.borrow_mut();
        let more = length.saturating_sub(frame.len());
        frame.truncate(length);
        frame.splice(0..0, std::iter::repeat_n(0xee, more));
        Some(Resized { old: more, summed: false })
    }

    fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.0.borrow_mut().get_mut(offset..offset + N)?.copy_from_slice(&bytes);
        Some(())
    }
}

/// Headers around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Nothing,
    Vlan,
    Pppoe,
    QinqPppoe,
    FiveVlansPppoe,
}

impl Around {
    const ALL: [Self; 5] = [Self::Nothing, Self::Vlan, Self::Pppoe, Self::QinqPppoe, Self::FiveVlansPppoe];

    fn wrap(self, packet: Piece) -> Piece {
        match self {
            Self::Nothing => packet,
            Self::Vlan => packet.within(Vlan(0x8100)),
            Self::Pppoe => packet.within(Pppoe::Plain),
            Self::QinqPppoe => packet.within(Pppoe::Plain).within(Vlan(0x8100)).within(Vlan(0x88a8)),
            Self::FiveVlansPppoe => {
                let tags = [0x8100, 0x8100, 0x9100, 0x8100, 0x88a8];
                tags.into_iter().fold(packet.within(Pppoe::Plain), |packet, tag| packet.within(Vlan(tag)))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

impl Ip {
    fn wrap(self, tcp: Tcp) -> Piece {
        match self {
            Self::V4 => tcp.within(Ipv4::new("203.0.113.9", "198.51.100.25")),
            Self::V6 => tcp.within(Ipv6::new("2001:db8:1000:aa::9", "2001:db8:ffff::25")),
        }
    }
}

/// What the answer must be: its flags, numbers and text.
struct Answer {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    text: String,
}

/// A segment of the client and what becomes of it.
struct Case {
    name: &'static str,
    segment: Tcp,
    reply: Reply,
    answer: Option<Answer>,
}

fn said(name: &'static str, segment: Tcp, reply: Reply, (flags, text): (u8, &str)) -> Case {
    let taken = segment.payload.len() as u32 + u32::from(segment.flags & FIN != 0);
    let answer = Answer {
        flags,
        sequence: segment.acknowledgement,
        acknowledgement: segment.sequence.wrapping_add(taken),
        text: text.to_owned(),
    };
    Case { name, segment, reply, answer: Some(answer) }
}

fn silent(name: &'static str, segment: Tcp, reply: Reply) -> Case {
    Case { name, segment, reply, answer: None }
}

fn reset(name: &'static str, segment: Tcp, reply: Reply) -> Case {
    let answer = if segment.flags & ACK != 0 {
        Answer { flags: RST, sequence: segment.acknowledgement, acknowledgement: 0, text: String::new() }
    } else {
        let controls = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
        let taken = segment.payload.len() as u32 + controls;
        let acknowledgement = segment.sequence.wrapping_add(taken);
        Answer { flags: RST | ACK, sequence: 0, acknowledgement, text: String::new() }
    };
    Case { name, segment, reply, answer: Some(answer) }
}

/// The whole conversation, and all that can go wrong in it; `cookie` is the number that our SYN had.
fn cases(cookie: u32, hangs_up: bool) -> Vec<Case> {
    let client = 0xffff_fff0_u32;
    // A blank makes the number of bytes even.
    let even = |line: &str| format!("{line}{}\r\n", if line.len().is_multiple_of(2) { "" } else { " " });
    let line = if hangs_up { LINE.replace("554 5.7.1", "421 4.7.1") } else { LINE.to_owned() };
    let (notice, command, goodbye) = (even(&line), even(COMMAND), even(GOODBYE));
    let heard = |bytes: usize| cookie.wrapping_add(1 + bytes as u32);
    let (greeted, told) = (heard(0), heard(notice.len()));
    let tcp = |acknowledgement| Tcp::mail().flags(ACK).numbers(client.wrapping_add(1), acknowledgement);
    let data = |acknowledgement, text: &[u8]| tcp(acknowledgement).flags(ACK | PSH).payload(text);
    let mss = MSS_OPTION;
    let opened = |name, segment: Tcp| {
        let acknowledgement = segment.sequence.wrapping_add(1);
        let answer = Answer { flags: SYN | ACK, sequence: cookie, acknowledgement, text: String::new() };
        Case { name, segment, reply: Reply::SynAck, answer: Some(answer) }
    };
    let syn = || Tcp::mail().numbers(client, 0);
    let (last, notice_flags) = (PSH | ACK | FIN, if hangs_up { PSH | ACK | FIN } else { PSH | ACK });
    let notice_reply = if hangs_up { Reply::LastNotice } else { Reply::Notice };
    let mut cases = vec![
        opened("syn", syn()),
        opened("syn_with_options", syn().options(&mss)),
        opened("syn_with_ecn", syn().flags(SYN | flag::ECE | flag::CWR)),
        opened("syn_with_data_is_not_taken", syn().payload(b"EHLO fast-open\r\n")),
        reset("syn_and_fin", syn().flags(SYN | FIN), Reply::Reset),
        reset("syn_and_ack", tcp(greeted).flags(SYN | ACK), Reply::Reset),
        reset("no_flags", tcp(greeted).flags(0), Reply::Reset),
        reset("fin_without_ack", tcp(greeted).flags(FIN), Reply::Reset),
        reset("data_without_ack", tcp(greeted).flags(PSH).payload(b"HELO a\r\n"), Reply::Reset),
        silent("rst", tcp(greeted).flags(RST), Reply::Silence),
        silent("rst_and_ack", tcp(told).flags(RST | ACK), Reply::Silence),
        silent("syn_and_rst", syn().flags(SYN | RST), Reply::Silence),
        said("ack_of_the_syn", tcp(greeted), notice_reply, (notice_flags, &notice)),
        said("ack_with_push", tcp(greeted).flags(ACK | PSH), notice_reply, (notice_flags, &notice)),
        said(
            "ack_with_ecn_and_urgent",
            tcp(greeted).flags(ACK | flag::ECE | flag::URG),
            notice_reply,
            (notice_flags, &notice),
        ),
        said(
            "keep_alive_before_the_notice",
            tcp(greeted).numbers(client, greeted),
            notice_reply,
            (notice_flags, &notice),
        ),
        said(
            "data_before_the_notice",
            data(greeted, b"EHLO hasty.example\r\n"),
            Reply::LastNotice,
            (last, &notice),
        ),
        said("fin_before_the_notice", tcp(greeted).flags(FIN | ACK), Reply::LastNotice, (last, &notice)),
        silent("window_zero", tcp(greeted).window(0), Reply::Silence),
        reset("window_below_the_notice", tcp(greeted).window(notice.len() as u16 - 1), Reply::Reset),
        said(
            "window_of_the_notice",
            tcp(greeted).window(notice.len() as u16),
            notice_reply,
            (notice_flags, &notice),
        ),
        reset("ack_of_no_syn", tcp(cookie), Reply::InvalidCookie),
        reset("ack_of_another_cookie", tcp(greeted.wrapping_add(0x0101_0101)), Reply::InvalidCookie),
        reset("ack_of_part_of_the_notice", tcp(heard(10)), Reply::Reset),
        silent("ack_of_the_notice", tcp(told), Reply::Silence),
        silent("keep_alive", tcp(told).numbers(client, told), Reply::Silence),
        said("one_byte_is_no_command", data(told, b"E"), Reply::Acknowledge, (ACK, "")),
        said("line_end_alone", data(told, b"\r\n"), Reply::OutOfSequence, (PSH | ACK, &command)),
        said("last_byte_of_a_line_end", data(told, b"\n"), Reply::OutOfSequence, (PSH | ACK, &command)),
        said("short_command", data(told, b"NOOP\n"), Reply::OutOfSequence, (PSH | ACK, &command)),
        said("short_half_of_a_command", data(told, b"EHLO "), Reply::Acknowledge, (ACK, "")),
        said("half_a_command", data(told, b"EHLO home.exam"), Reply::Acknowledge, (ACK, "")),
        said("command", data(told, b"EHLO home.example\r\n"), Reply::OutOfSequence, (PSH | ACK, &command)),
        said(
            "second_command",
            data(heard(notice.len() + command.len()), b"HELO a\r\n"),
            Reply::OutOfSequence,
            (PSH | ACK, &command),
        ),
        said(
            "twentieth_command",
            data(heard(notice.len() + 19 * command.len()), b"NOOP\r\n"),
            Reply::OutOfSequence,
            (PSH | ACK, &command),
        ),
        reset(
            "twenty_first_command",
            data(heard(notice.len() + 20 * command.len()), b"NOOP\r\n"),
            Reply::Reset,
        ),
        silent("window_zero_at_a_command", data(told, b"EHLO a\r\n").window(0), Reply::Silence),
        said("quit", data(told, b"QUIT\r\n"), Reply::Goodbye, (last, &goodbye)),
        said("quit_in_small_letters", data(told, b"quit\r\n"), Reply::Goodbye, (last, &goodbye)),
        said("command_and_quit", data(told, b"RSET\r\nQUIT\r\n"), Reply::Goodbye, (last, &goodbye)),
        said(
            "quit_and_fin",
            data(told, b"QUIT\r\n").flags(ACK | PSH | FIN),
            Reply::Goodbye,
            (last, &goodbye),
        ),
        said(
            "quit_after_a_command",
            data(heard(notice.len() + command.len()), b"QUIT\r\n"),
            Reply::Goodbye,
            (last, &goodbye),
        ),
        said("fin_after_the_notice", tcp(told).flags(FIN | ACK), Reply::Close, (FIN | ACK, "")),
        silent("ack_of_the_goodbye", tcp(heard(notice.len() + goodbye.len() + 1)), Reply::Silence),
        said(
            "fin_after_the_goodbye",
            tcp(heard(notice.len() + goodbye.len() + 1)).flags(FIN | ACK),
            Reply::Acknowledge,
            (ACK, ""),
        ),
        said(
            "fin_after_a_command_and_the_goodbye",
            tcp(heard(notice.len() + command.len() + goodbye.len() + 1)).flags(FIN | ACK),
            Reply::Acknowledge,
            (ACK, ""),
        ),
        silent("ack_of_our_fin", tcp(heard(notice.len() + 1)), Reply::Silence),
        said(
            "fin_after_a_command",
            tcp(heard(notice.len() + command.len())).flags(FIN | ACK),
            Reply::Close,
            (FIN | ACK, ""),
        ),
        silent(
            "ack_of_our_fin_after_a_command",
            tcp(heard(notice.len() + command.len() + 1)),
            Reply::Silence,
        ),
        said(
            "fin_after_our_fin",
            tcp(heard(notice.len() + 1)).flags(FIN | ACK),
            Reply::Acknowledge,
            (ACK, ""),
        ),
        said("quit_after_our_fin", data(heard(notice.len() + 1), b"QUIT\r\n"), Reply::Acknowledge, (ACK, "")),
        reset("ack_of_what_was_never_sent", tcp(heard(notice.len() + 7)), Reply::Reset),
        reset("ack_beyond_all_that_is_said", tcp(heard(4000)), Reply::InvalidCookie),
    ];
    // Of a connection that was there before: the cookie of none.
    cases.push(reset(
        "mail_that_was_on_its_way",
        data(greeted.wrapping_add(0x7000_0000), &[b'x'; 1200]),
        Reply::InvalidCookie,
    ));
    cases
}

const MSS_OPTION: [u8; 4] = [2, 4, 5, 0xb4];

/// Reads an answer with another parser and holds it against what it must be.
fn examine(case: &Case, link: Link, ip: Ip, frame: &[u8], sent: &[u8], context: &str) {
    let answer = case.answer.as_ref().unwrap();
    let sliced = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(frame),
        Link::Ip => SlicedPacket::from_ip(frame),
    };
    // etherparse stops at PPPoE: from there on it is a packet.
    let at = link_length(link, sent);
    let sliced = sliced.ok().filter(|sliced| sliced.transport.is_some());
    let sliced = sliced.unwrap_or_else(|| SlicedPacket::from_ip(&frame[at..]).expect(context));
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{context}: no TCP") };
    let numbers = (tcp.sequence_number(), tcp.acknowledgment_number());
    assert_eq!(numbers, (answer.sequence, answer.acknowledgement), "{context}: numbers");
    let bits = [(tcp.fin(), FIN), (tcp.syn(), SYN), (tcp.rst(), RST), (tcp.psh(), PSH), (tcp.ack(), ACK)];
    let flags = bits.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
    assert_eq!(flags, answer.flags, "{context}: flags");
    assert_eq!((tcp.source_port(), tcp.destination_port()), (25, case.segment.source), "{context}: ports");
    assert_eq!(String::from_utf8_lossy(tcp.payload()), answer.text, "{context}: text");
    let header = tcp.to_header();
    match sliced.net.as_ref().expect(context) {
        NetSlice::Ipv4(ipv4) => {
            assert_eq!(ip, Ip::V4, "{context}");
            let ip = ipv4.header().to_header();
            assert_eq!((ip.source, ip.destination), ([198, 51, 100, 25], [203, 0, 113, 9]), "{context}");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{context}: IPv4 checksum");
            assert_eq!(
                tcp.checksum(),
                header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap(),
                "{context}: TCP checksum"
            );
            let mss = if case.reply == Reply::SynAck { vec![2, 4, 2, 24] } else { vec![] };
            assert_eq!(tcp.options(), mss, "{context}: options");
        }
        NetSlice::Ipv6(ipv6) => {
            assert_eq!(ip, Ip::V6, "{context}");
            let ip = ipv6.header().to_header();
            assert_eq!(
                tcp.checksum(),
                header.calc_checksum_ipv6(&ip, tcp.payload()).unwrap(),
                "{context}: TCP checksum"
            );
            let mss = if case.reply == Reply::SynAck { vec![2, 4, 4, 196] } else { vec![] };
            assert_eq!(tcp.options(), mss, "{context}: options");
        }
        NetSlice::Arp(_) => panic!("{context}: ARP"),
    }
    if link == Link::Ethernet {
        assert_eq!((&frame[..6], &frame[6..12]), (&sent[6..12], &sent[..6]), "{context}: MAC addresses");
        let pppoe = sent[at - 8..at - 4] == [0x11, 0, 0, 1];
        let kept = if pppoe { at - 4 } else { at };
        assert_eq!(frame[12..kept], sent[12..kept], "{context}: headers in front");
        if pppoe {
            let length = frame.len() - at + 2;
            assert_eq!(frame[at - 4..at - 2], (length as u16).to_be_bytes(), "{context}: PPPoE length");
        }
    }
}

/// Bytes in front of the IP header of a frame of these tests.
fn link_length(link: Link, frame: &[u8]) -> usize {
    if link == Link::Ip {
        return 0;
    }
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81 | 0x91, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    if frame[at..at + 2] == [0x88, 0x64] { at + 10 } else { at + 2 }
}

struct Host<'a> {
    voice: Voice<'a>,
    action: Verdict,
}

impl Host<'_> {
    fn parse(link: Link, frame: &[u8]) -> Found {
        frame::parse(
            &frame,
            Sight { link, role: Role::CUSTOMER, softwire: Softwire::Closed, submission: false },
        )
    }

    /// What becomes of a frame, and the frame that is sent.
    fn answer(&self, link: Link, frame: &[u8]) -> (Reply, Option<Vec<u8>>) {
        let found = Self::parse(link, frame);
        let reply = choose(&frame, found, self.action, &self.voice);
        if !reply.is_sent() {
            return (reply, None);
        }
        let draft = Draft(RefCell::new(frame.to_vec()));
        craft(&draft, found, reply, &self.voice).expect("a draft has room");
        (reply, Some(draft.0.into_inner()))
    }
}

/// A kernel whose interface answers.
fn kernel(office: &Office, link: Link, hangs_up: bool, programs: &[&str]) -> Kernel {
    let constants = Constants {
        answers: true,
        hangs_up,
        cookie_keys: Keys::unchanged(KEY),
        ..Constants::bare(Role::CUSTOMER, link)
    };
    Kernel::with(office, constants, programs).unwrap()
}

/// What a program returns for a frame that it made into an answer: XDP_TX, TC_ACT_REDIRECT.
const fn returned(entry: &Entry) -> u32 {
    if entry.drop == 1 { 3 } else { 7 }
}

fn every_case(action: Verdict, hangs_up: bool, cases: impl Fn(u32) -> Vec<Case>) {
    settle();
    let office = office(action.name(), if hangs_up { 421 } else { 554 });
    let host = Host { voice: Voice { tables: &office.tables, hangs_up, ago: 0, moment: None }, action };
    let group = office.group(Some("residential"));
    let mut frames = 0;
    for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
        let kernel = kernel(&office, entry.link, hangs_up, &[entry.program]);
        for around in Around::ALL
            .into_iter()
            .filter(|around| entry.link == Link::Ethernet || *around == Around::Nothing)
        {
            for ip in [Ip::V4, Ip::V6] {
                let syn = around.wrap(ip.wrap(Tcp::mail()));
                let syn = if entry.link == Link::Ip { syn.bytes() } else { syn.frame() };
                let segment =
                    op25b_ebpf::segment::Segment::read(&syn.as_slice(), Host::parse(entry.link, &syn))
                        .unwrap();
                let cookie = host.voice.cookie(&segment.connection, false);
                for case in cases(cookie) {
                    let packet = around.wrap(ip.wrap(case.segment.clone()));
                    // As a wire has it.
                    let sent = if entry.link == Link::Ip {
                        packet.padded_to(54).bytes()
                    } else {
                        packet.within(Ethernet::default()).padded_to(60).bytes()
                    };
                    let context = format!(
                        "{}, {action:?}, hangs up: {hangs_up}, {around:?}, {ip:?}, {}",
                        case.name, entry.name
                    );
                    let (reply, made) = host.answer(entry.link, &sent);
                    assert_eq!(reply, case.reply, "{context}");
                    assert_eq!(made.is_some(), case.answer.is_some(), "{context}");

                    let (replies, cells) = (kernel.replies().unwrap(), kernel.cells(&[group]).unwrap());
                    let (returns, output) = kernel.run_into(entry.program, &sent).expect(&context);
                    let mut expected = replies;
                    expected[case.reply as usize] += 1;
                    assert_eq!(kernel.replies().unwrap(), expected, "{context}: counted replies");
                    let family = if ip == Ip::V4 {
                        op25b_ebpf::address::Family::Ipv4
                    } else {
                        op25b_ebpf::address::Family::Ipv6
                    };
                    let moved = cell(group, family, Reason::Blocked, action);
                    let packets = |cells: &[(u32, u64, u64)]| {
                        cells
                            .iter()
                            .find(|(number, ..)| *number == moved)
                            .map_or(0, |(_, packets, _)| *packets)
                    };
                    let after = kernel.cells(&[group]).unwrap();
                    assert_eq!(packets(&after), packets(&cells) + 1, "{context}: counter");
                    match made {
                        Some(made) => {
                            assert_eq!(returns, returned(entry), "{context}");
                            assert_eq!(
                                frames::hex(&output),
                                frames::hex(&made),
                                "{context}: host and kernel"
                            );
                            examine(&case, entry.link, ip, &made, &sent, &context);
                        }
                        None => assert_eq!(returns, entry.drop, "{context}"),
                    }
                    frames += 1;
                }
            }
        }
    }
    say(&format!(
        "replies: {action:?}{}: {frames} frames alike on host and kernel",
        if hangs_up { ", 421" } else { "" }
    ));
}

#[test]
fn a_notice_is_a_whole_conversation() {
    every_case(Verdict::Notice, false, |cookie| cases(cookie, false));
}

#[test]
fn a_notice_that_hangs_up_says_all_at_once() {
    every_case(Verdict::Notice, true, |cookie| cases(cookie, true));
}

#[test]
fn a_reset_answers_every_segment_but_a_reset() {
    every_case(Verdict::Reset, false, |cookie| {
        let others = cases(cookie, false).into_iter().map(|case| {
            let Case { name, segment, .. } = case;
            if segment.flags & RST == 0 {
                reset(name, segment, Reply::Reset)
            } else {
                silent(name, segment, Reply::Silence)
            }
        });
        others.collect()
    });
}

#[test]
fn cookies_are_siphash() {
    #[expect(deprecated, reason = "the one hasher of the standard library that is SipHash-2-4")]
    let mut hasher = std::hash::SipHasher::new_with_keys(KEY[0], KEY[1]);
    let words = [0, 0xcb00_7109, 1 << 63, u64::MAX, 0x9c40_0019_0000_0007];
    for word in words {
        hasher.write(&word.to_le_bytes());
    }
    assert_eq!(cookie(KEY, words), hasher.finish() as u32);
    // Every part of a connection, and the period, change it.
    for word in 0..words.len() {
        let mut other = words;
        other[word] ^= 1;
        assert_ne!(cookie(KEY, other), cookie(KEY, words), "word {word}");
    }
}

#[test]
fn a_cookie_is_taken_for_one_period_more_and_no_longer() {
    settle();
    let office = office("notice", 554);
    let now = Host {
        voice: Voice { tables: &office.tables, hangs_up: false, ago: 0, moment: None },
        action: Verdict::Notice,
    };
    for (ago, reply) in [(0, Reply::Notice), (1, Reply::Notice), (2, Reply::InvalidCookie)] {
        let then = Voice { tables: &office.tables, hangs_up: false, ago, moment: None };
        let syn = Ip::V4.wrap(Tcp::mail()).frame();
        let found = Host::parse(Link::Ethernet, &syn);
        let segment = op25b_ebpf::segment::Segment::read(&syn.as_slice(), found).unwrap();
        let cookie = then.cookie(&segment.connection, false);
        let ack = Ip::V4.wrap(Tcp::mail().flags(ACK).numbers(2, cookie.wrapping_add(1))).frame();
        assert_eq!(now.answer(Link::Ethernet, &ack).0, reply, "{ago} periods ago");
    }
}

/// A secret takes over where a period begins; what the one before gave out is accepted as long as it would have been.
#[test]
fn another_secret_cuts_no_conversation() {
    const OTHER: Key = [25, 587];
    settle();
    let office = office("notice", 554);
    let period = (now() >> AGE) as u32;
    let long_since = Keys { since: u64::from(period.wrapping_sub(8)), ..Keys::unchanged(KEY) };
    let soon = long_since.renewed(period, OTHER);
    assert_eq!(soon.of(period.wrapping_add(1)), KEY, "that may have come when the generation takes force");
    assert_eq!(soon.of(period.wrapping_add(2)), OTHER);
    let just_now = Keys { old: KEY, new: OTHER, since: u64::from(period) };
    for (keys, own) in [(soon, KEY), (just_now, OTHER)] {
        assert_eq!(keys.renewed(period, [0, 0]), keys, "none is given up before its cookies are");
        let constants =
            Constants { answers: true, cookie_keys: keys, ..Constants::bare(Role::CUSTOMER, Link::Ethernet) };
        let kernel = Kernel::with(&office, constants, &[program::XDP]).unwrap();
        let syn = Ip::V4.wrap(Tcp::mail()).frame();
        let found = Host::parse(Link::Ethernet, &syn);
        let connection = op25b_ebpf::segment::Segment::read(&syn.as_slice(), found).unwrap().connection;
        let (_, answer) = kernel.run_into(program::XDP, &syn).unwrap();
        let sequence = u32::from_be_bytes(*answer[14 + 20 + 4..].first_chunk().unwrap());
        assert_eq!(sequence, cookie(own, connection.words(period)));
        let before = period.wrapping_sub(1);
        for (key, period, reply) in [
            (own, period, Reply::Notice),
            (KEY, before, Reply::Notice),
            (OTHER, before, Reply::InvalidCookie),
        ] {
            let cookie = cookie(key, connection.words(period));
            let ack = Ip::V4.wrap(Tcp::mail().flags(ACK).numbers(2, cookie.wrapping_add(1))).frame();
            let replies = kernel.replies().unwrap()[reply as usize];
            kernel.run(program::XDP, &ack).unwrap();
            assert_eq!(kernel.replies().unwrap()[reply as usize], replies + 1, "{key:?} in {period}");
        }
    }
    // What was to begin in a later period than there can be is of another boot: nothing is left of it.
    let long_ago = Keys { old: KEY, new: OTHER, since: 7 };
    assert_eq!(long_ago.renewed(0, [1, 2]), Keys { old: KEY, new: [1, 2], since: 2 });
    assert_eq!(long_ago.renewed(7, [1, 2]), long_ago);
    assert_eq!(long_ago.renewed(8, [1, 2]), Keys { old: OTHER, new: [1, 2], since: 10 });
}

/// A frame that the kernel has merged out of several is answered as one.
#[test]
fn a_merged_frame_is_answered_as_one() {
    settle();
    let office = office("notice", 554);
    let kernel = kernel(&office, Link::Ethernet, false, &[program::TC]);
    // Of no conversation of ours, one that was alive when the filter came.
    for ip in [Ip::V4, Ip::V6] {
        let segment = Tcp::mail().flags(ACK | PSH).numbers(1, 2).payload(&[b'x'; 1000]);
        let frame = ip.wrap(segment).frame();
        let before = kernel.replies().unwrap()[Reply::InvalidCookie as usize];
        let (returned, merged) = kernel.run_merged(program::TC, &frame, 500).unwrap();
        assert_eq!(returned, 7);
        assert_eq!(kernel.replies().unwrap()[Reply::InvalidCookie as usize], before + 1);
        let (_, single) = kernel.run_into(program::TC, &frame).unwrap();
        assert_eq!(frames::hex(&merged), frames::hex(&single));
    }
}

/// Frames that are blocked and get no answer, and what is counted of that.
#[test]
fn what_cannot_be_addressed_is_dropped() {
    let office = office("notice", 554);
    let kernel = kernel(&office, Link::Ethernet, false, &[program::XDP, program::TC]);
    let v4 = || Ip::V4.wrap(Tcp::mail());
    let v6 = || Ip::V6.wrap(Tcp::mail());
    // Tags of VLAN 0, of which Linux takes any number.
    let plain = v4().frame();
    let eight = [&plain[..12], &[0x81, 0, 0, 0].repeat(8), &plain[12..]].concat();
    let behind = |extension: Extension| {
        let inside = Tcp::mail().within(extension);
        inside.within(Ipv6::new("2001:db8:1000:aa::9", "2001:db8:ffff::25")).frame()
    };
    let ipv4 = || Ipv4::new("203.0.113.9", "198.51.100.25");
    let with = |at: usize, byte: u8| {
        let mut frame = v4().frame();
        frame[at] = byte;
        frame
    };
    let cases = [
        ("mpls", v4().within(Mpls(1)).frame()),
        ("snap", v4().within(Snap).frame()),
        ("compressed_ppp_protocol", v6().within(Pppoe::Compressed).frame()),
        ("eight_priority_tags", eight),
        ("cut_tcp_header", v4().frame()[..14 + 20 + 8].to_vec()),
        ("first_fragment", Tcp::mail().within(ipv4().fragment(MORE_FRAGMENTS)).frame()),
        ("ipv6_first_fragment", behind(Extension::fragment(0, true))),
        ("ipv6_atomic_fragment", behind(Extension::fragment(0, false))),
        ("ipv6_routing_header", behind(Extension::new(extension::ROUTING))),
        ("ipv6_destination_options", behind(Extension::new(extension::DESTINATION_OPTIONS).bytes(24))),
        (
            "authentication_header",
            Tcp::mail().within(Extension::new(extension::AUTHENTICATION)).within(ipv4()).frame(),
        ),
        ("from_a_group_of_stations", with(6, 0xff)),
        ("to_a_group_of_stations", with(0, 0x33)),
        ("to_a_multicast_address", Tcp::mail().within(Ipv4::new("203.0.113.9", "224.0.0.1")).frame()),
        ("to_broadcast", Tcp::mail().within(Ipv4::new("203.0.113.9", "255.255.255.255")).frame()),
        (
            "to_an_ipv6_multicast_address",
            Tcp::mail().within(Ipv6::new("2001:db8:1000:aa::9", "ff02::1")).frame(),
        ),
        ("to_itself", Tcp::mail().within(Ipv4::new("203.0.113.9", "203.0.113.9")).frame()),
        ("tcp_in_the_padding", Tcp::mail().within(ipv4().total_length(24)).frame()),
        ("packet_longer_than_its_frame", Tcp::mail().within(ipv4().total_length(1500)).frame()),
        ("header_of_four_words", with(14 + 20 + 12, 0x40)),
    ];
    for (name, frame) in cases {
        for entry in ENTRIES.iter().filter(|entry| {
            matches!(entry.program, program::XDP | program::TC) && entry.link == Link::Ethernet
        }) {
            if ways::may_be_refused(entry, &frame) {
                continue;
            }
            let before = kernel.replies().unwrap()[Reply::Unaddressable as usize];
            assert_eq!(kernel.run(entry.program, &frame).unwrap(), entry.drop, "{name}, {}", entry.name);
            let after = kernel.replies().unwrap()[Reply::Unaddressable as usize];
            assert_eq!(after, before + 1, "{name}, {}", entry.name);
        }
    }
    // Never answered, and not even asked: quarantined, malformed; nobody's and other ports pass.
    let replies = kernel.replies().unwrap();
    let quarantined = Tcp::mail().within(Ipv4::new("203.0.113.66", "198.51.100.25")).frame();
    let ipv6_in_ipv6 = v6().within(Ipv6::new("2001:db8:1000:aa::9", "2001:db8:ffff::25")).frame();
    let malformed = Ip::V4.wrap(Tcp::mail()).frame()[..14 + 20 + 2].to_vec();
    let relay = Tcp::mail().within(Ipv4::new("203.0.113.9", "192.0.2.25")).frame();
    let submission = Ip::V4.wrap(Tcp::new(40_000, 587)).frame();
    let nobody = Tcp::mail().within(Ipv4::new("198.18.0.9", "198.51.100.25")).frame();
    for (name, frame, action) in [
        ("quarantined", quarantined, 1),
        ("ipv6_in_ipv6", ipv6_in_ipv6, 2),
        ("malformed", malformed, 1),
        ("relay", relay, 2),
        ("submission", submission, 2),
        ("nobody", nobody, 2),
    ] {
        assert_eq!(kernel.run(program::XDP, &frame).unwrap(), action, "{name}");
    }
    assert_eq!(kernel.replies().unwrap(), replies, "none of them was to be answered");
}

#[test]
fn headers_that_are_in_the_way_are_left_out_of_the_answer() {
    settle();
    let office = office("notice", 554);
    let host = Host {
        voice: Voice { tables: &office.tables, hangs_up: false, ago: 0, moment: None },
        action: Verdict::Notice,
    };
    let kernel = kernel(&office, Link::Ethernet, false, &[program::XDP, program::TC]);
    let frames = [
        ("ipv4_options", Tcp::mail().within(Ipv4::new("203.0.113.9", "198.51.100.25").options(24)).frame()),
        ("a_long_segment", Ip::V4.wrap(Tcp::mail().flags(ACK).payload(&[b'x'; 1400])).frame()),
        ("padding", Ip::V4.wrap(Tcp::mail()).frame().into_iter().chain([0xaa; 40]).collect()),
    ];
    for (name, frame) in frames {
        let (reply, made) = host.answer(Link::Ethernet, &frame);
        let made = made.unwrap_or_else(|| panic!("{name}: {reply:?}"));
        for (program, returns) in [(program::XDP, 3), (program::TC, 7)] {
            let (returned, output) = kernel.run_into(program, &frame).unwrap();
            assert_eq!(returned, returns, "{name}, {program}");
            assert_eq!(frames::hex(&output), frames::hex(&made), "{name}, {program}");
        }
    }
}

/// Nothing is remembered of a conversation: what is sent again is answered again, alike to the byte, and what is never
/// finished keeps nobody else from being answered.
#[test]
fn what_is_sent_again_is_answered_again() {
    settle();
    let office = office("notice", 554);
    let kernel = kernel(&office, Link::Ethernet, false, &[program::XDP, program::TC]);
    let wrap = |segment: Tcp| Ip::V4.wrap(segment).frame();
    for (program, returns) in [(program::XDP, 3), (program::TC, 7)] {
        let twice = |name: &str, frame: &[u8]| {
            let (returned, first) = kernel.run_into(program, frame).unwrap();
            assert_eq!(returned, returns, "{name}, {program}");
            let (_, again) = kernel.run_into(program, frame).unwrap();
            assert_eq!(frames::hex(&again), frames::hex(&first), "{name}, {program}");
            first
        };
        let opened = twice("retransmitted_syn", &wrap(Tcp::mail().numbers(7, 0)));
        let cookie = u32::from_be_bytes(*opened[14 + 20 + 4..].first_chunk().unwrap());
        let greeted = cookie.wrapping_add(1);
        let other = Tcp { source: 40_001, ..Tcp::mail().numbers(9, 0) };
        twice("half_open_and_another_connection", &wrap(other));
        let notice = twice("retransmitted_ack", &wrap(Tcp::mail().flags(ACK).numbers(8, greeted)));
        let told = greeted.wrapping_add((notice.len() - 14 - 40) as u32);
        let command = Tcp::mail().flags(ACK | PSH).numbers(8, told).payload(b"EHLO home.example\r\n");
        twice("retransmitted_command", &wrap(command));
    }
}

#[test]
fn a_softwire_is_dropped_since_nobody_there_can_be_addressed() {
    let office = office("notice", 554);
    let constants = Constants {
        softwire: Softwire::Outer,
        answers: true,
        cookie_keys: Keys::unchanged(KEY),
        ..Constants::bare(Role::CUSTOMER, Link::Ethernet)
    };
    let kernel = Kernel::with(&office, constants, &[program::XDP]).unwrap();
    let inner = Tcp::mail().within(Ipv4::new("192.168.1.9", "198.51.100.25"));
    let frame = inner.within(Ipv6::new("2001:db8:1000:aa::9", "2001:db8:ffff::1")).frame();
    assert_eq!(kernel.run(program::XDP, &frame).unwrap(), 1);
    assert_eq!(kernel.replies().unwrap()[Reply::Unaddressable as usize], 1);
}

#[test]
fn an_interface_that_does_not_answer_drops_and_says_so() {
    let office = office("notice", 554);
    let kernel =
        Kernel::with(&office, Constants::bare(Role::CUSTOMER, Link::Ethernet), &[program::XDP]).unwrap();
    let frame = Ip::V4.wrap(Tcp::mail()).frame();
    assert_eq!(kernel.run(program::XDP, &frame).unwrap(), 1);
    let group = office.group(Some("residential"));
    let dropped = cell(group, op25b_ebpf::address::Family::Ipv4, Reason::Blocked, Verdict::Drop);
    let cells = kernel.cells(&[group]).unwrap();
    assert_eq!(
        cells.iter().map(|(number, packets, _)| (*number, *packets)).collect::<Vec<_>>(),
        [(dropped, 1)]
    );
    assert_eq!(kernel.replies().unwrap().iter().sum::<u64>(), 0);
}

#[test]
fn one_source_is_answered_as_often_as_it_may_be_and_no_more() {
    let office = office("notice", 554);
    let kernel = kernel(&office, Link::Ethernet, false, &[program::XDP]);
    let frame = Ip::V4.wrap(Tcp::mail()).frame();
    let start = now();
    let mut answered = 0;
    for _ in 0..5_000 {
        answered += u64::from(kernel.run(program::XDP, &frame).unwrap() == 3);
    }
    // A thousand at once and two hundred a second, with a clock that ticks every few milliseconds.
    let seconds = (now() - start) as f64 / 1e9;
    let most = 1_002 + (seconds * 200.0) as u64;
    say(&format!("replies: one source: {answered} of 5000 SYNs answered in {seconds:.3} s, at most {most}"));
    assert!((1_000..=most).contains(&answered), "{answered}, at most {most}");
    let replies = kernel.replies().unwrap();
    assert_eq!(replies[Reply::SynAck as usize], answered);
    assert_eq!(replies[Reply::SourceLimit as usize], 5_000 - answered);
    let group = office.group(Some("residential"));
    let family = op25b_ebpf::address::Family::Ipv4;
    let of = |verdict| kernel.cell(cell(group, family, Reason::Blocked, verdict)).unwrap().packets;
    assert_eq!(
        (of(Verdict::Notice), of(Verdict::Drop)),
        (answered, 5_000 - answered),
        "what was limited is a drop"
    );
    // Another source has a share of its own.
    let other = Tcp::mail().within(Ipv4::new("203.0.113.10", "198.51.100.25")).frame();
    assert_eq!(kernel.run(program::XDP, &other).unwrap(), 3);
}

#[test]
fn many_sources_are_answered_as_often_as_an_interface_may() {
    let office = office("notice", 554);
    let kernel = kernel(&office, Link::Ethernet, false, &[program::XDP]);
    let start = now();
    let mut answered = 0;
    for number in 0..10_000_u32 {
        let [.., high, low] = number.to_be_bytes();
        let source = format!("2001:db8:1000:{high:02x}{low:02x}::9");
        let frame = Tcp::mail().within(Ipv6::new(&source, "2001:db8:ffff::25")).frame();
        answered += u64::from(kernel.run(program::XDP, &frame).unwrap() == 3);
    }
    let seconds = (now() - start) as f64 / 1e9;
    // Two ticks of the clock more.
    let most = (2_400.0 + seconds * 20_000.0) as u64;
    say(&format!("replies: 10000 sources: {answered} SYNs answered in {seconds:.3} s, at most {most}"));
    assert!((2_000..=most).contains(&answered), "{answered}, at most {most}");
    let replies = kernel.replies().unwrap();
    // Where the machine is fast enough to meet the limit at all.
    assert!(replies[Reply::InterfaceLimit as usize] > 0 || seconds > 0.3, "{seconds} s");
    // The accounts that a test's object has room for are fewer than the sources: each comes anew.
    assert_eq!(replies[Reply::SynAck as usize] + replies[Reply::InterfaceLimit as usize], 10_000);
}

#[test]
fn guessed_acknowledgements_get_no_notice() {
    let office = office("notice", 554);
    let host = Host {
        voice: Voice { tables: &office.tables, hangs_up: false, ago: 0, moment: Some(5 << AGE) },
        action: Verdict::Notice,
    };
    let frame = Ip::V4.wrap(Tcp::mail().flags(ACK)).frame();
    let at = 14 + 20;
    let mut guess = 0x2545_f491_4f6c_dd1d_u64;
    let mut frame = frame;
    let (mut invalid, mut other) = (0, 0);
    // An emulated machine, which says how patient one must be, has fewer.
    let all = if std::env::var_os("OP25B_TEST_SECONDS").is_some() { 1_000_000 } else { 10_000_000 };
    let guesses: u32 = std::env::var("OP25B_GUESSES").ok().map_or(all, |text| text.parse().unwrap());
    for _ in 0..guesses {
        // xorshift64: any numbers will do, as long as they are all different.
        guess ^= guess << 13;
        guess ^= guess >> 7;
        guess ^= guess << 17;
        frame[at + 8..at + 12].copy_from_slice(&(guess as u32).to_be_bytes());
        frame[at..at + 2].copy_from_slice(&((guess >> 32) as u16 | 1024).to_be_bytes());
        let slice = frame.as_slice();
        match choose(&slice, Host::parse(Link::Ethernet, slice), Verdict::Notice, &host.voice) {
            Reply::InvalidCookie => invalid += 1,
            Reply::Notice | Reply::LastNotice => panic!("a guess was right: {}", frames::hex(&frame)),
            _ => other += 1,
        }
    }
    say(&format!(
        "replies: {guesses} guessed acknowledgements: {invalid} invalid, {other} within what was said, no notice"
    ));
    // Some numbers lie within a kilobyte behind one of the two cookies.
    assert!(f64::from(other) < f64::from(guesses) * 1e-6 + 10.0, "{other}");
}
