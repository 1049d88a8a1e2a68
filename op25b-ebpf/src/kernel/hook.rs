//! What both hooks do with a frame, as subprograms: the verifier looks at each once, for any input, instead of once
//! for every way through the ones before it.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use op25b_ebpf::{
    abi::{Answer, Count},
    address::Family,
    found::{FARTHEST, Found, Wrapping},
    frame::{self, Extension, Look, Network, SUBMISSIONS, Tags, parse},
    packet::Packet,
    policy::Policy,
    reply::{
        Reply, Speaker,
        craft::{self, Resized, Rewrite},
    },
    segment::{self, Extent, flag},
    source::{Tcp, is_syn},
    verdict::{Flow, Reason, Verdict, decide, submission_cell},
};

use super::{
    constants::{ACCOUNTS, ANSWERS, Constants},
    frame::{Frame, TcFrame, XdpFrame},
    maps::{self, Tables},
    replies,
    sources::{self, Entered},
};

/// The subprograms of one hook, and the frame that calls them. Their names end with the hook's: a BPF object has one of
/// each name.
macro_rules! hook {
    ($hook:ident, $frame:ident, $context:ty, $logger:ident) => {
        mod $hook {
            use super::*;

            impl Packet for $frame {
                #[inline(always)]
                fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
                    self.bytes(offset)
                }

                #[inline(always)]
                fn peek<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
                    self.bytes_at_hand(offset)
                }

                #[inline(always)]
                fn read_one_way<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
                    self.bytes_one_way(offset)
                }

                #[inline(always)]
                fn length(&self) -> usize {
                    self.length()
                }

                #[inline(always)]
                fn is_whole(&self) -> bool {
                    self.is_whole()
                }

                #[inline(always)]
                fn walk(&self, _: impl Look) -> Found {
                    Found(walk(self.context))
                }

                #[inline(always)]
                fn network(&self, Network { at, family }: Network, _: impl Look) -> Found {
                    let ipv6 = matches!(family, Family::Ipv6);
                    Found(network(self.context, at as u64, u64::from(ipv6)))
                }

                #[inline(always)]
                fn all_tags(&self) -> Tags {
                    unpack_tags(all_tags(self.context))
                }

                #[inline(always)]
                fn more_tags(&self, kind: u16, at: usize) -> Tags {
                    unpack_tags(more_tags(self.context, u64::from(kind), at as u64))
                }

                #[inline(always)]
                fn extension(&self, protocol: u8, at: usize) -> Extension {
                    unpack(extension(self.context, u64::from(protocol), at as u64))
                }

                #[inline(always)]
                fn extent(&self, found: Found) -> Option<Extent> {
                    match extent(self.context, found.0) {
                        CUT => None,
                        packed => {
                            Some(Extent { data: packed as u32, end: (packed >> 32) as u32 & FARTHEST as u32 })
                        }
                    }
                }
            }

            impl Rewrite for $frame {
                #[inline(always)]
                fn resize(&self, length: usize, tcp: usize) -> Option<Resized> {
                    self.resize(length, tcp)
                }

                #[inline(always)]
                fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
                    self.write(offset, bytes)
                }

                #[inline(always)]
                fn turn(&self, link: craft::Link, (blank, end): (usize, usize)) -> Option<()> {
                    let place = link.old as u64 | (link.bytes as u64) << 32;
                    let blank = blank as u64 | (end as u64) << 32;
                    if turn(self.context, place, link.pppoe as u64, blank) == 0 { None } else { Some(()) }
                }

                #[inline(always)]
                fn put(&self, at: usize, length: usize, [first, second, third]: [u64; 3]) -> Option<()> {
                    let place = at as u64 | (length as u64) << 32;
                    if put(self.context, place, first, second, third) == 0 { None } else { Some(()) }
                }

                #[inline(always)]
                fn say(&self, at: usize, number: u32, _: &impl Speaker) -> Option<()> {
                    if say(self.context, at as u64, u64::from(number)) == 0 { None } else { Some(()) }
                }
            }

            impl Frame for $frame {
                type Context = $context;

                #[inline(always)]
                fn new(context: *mut $context) -> Self {
                    Self { context }
                }

                #[inline(always)]
                fn stripped(&self) -> Wrapping {
                    self.stripped()
                }

                #[inline(always)]
                fn interface(&self) -> u32 {
                    self.interface()
                }

                #[inline(always)]
                fn at_hand(&self) -> u64 {
                    self.at_hand()
                }

                #[inline(always)]
                fn tag(&self) -> u32 {
                    self.tag()
                }

                #[inline(always)]
                fn judge(&self, found: Found) -> Verdict {
                    Verdict::from_number(judge(self.context, found.0) as u8)
                }

                #[inline(always)]
                fn note_submission(&self, found: Found) {
                    submission(self.context, found.0);
                }

                #[inline(always)]
                fn choose(&self, found: Found, action: Verdict) -> Reply {
                    Reply::from_number(choose(self.context, found.0, action as u64) as u8)
                }

                #[inline(always)]
                fn craft(&self, found: Found, reply: Reply) -> Reply {
                    Reply::from_number(craft(self.context, found.0, reply as u64) as u8)
                }

                #[inline(always)]
                fn reply(&self, found: Found, action: Verdict) -> bool {
                    reply(self.context, found.0, action as u64) != 0
                }

                #[inline(always)]
                fn tell(&self, found: Found, answer: Answer, kind: u32) {
                    tell(self.context, found.0, u64::from(answer.0), u64::from(kind));
                }
            }

            #[unsafe(export_name = concat!("op25b_walk_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn walk(context: *mut $context) -> u64 {
                frame::walk(&$frame { context }, Constants).0
            }

            #[unsafe(export_name = concat!("op25b_network_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn network(context: *mut $context, at: u64, ipv6: u64) -> u64 {
                // A bound for the verifier; the walk has made sure of less.
                let at = at as usize & FARTHEST;
                let family = if ipv6 == 0 { Family::Ipv4 } else { Family::Ipv6 };
                frame::network(&$frame { context }, Network { at, family }, Constants).0
            }

            #[unsafe(export_name = concat!("op25b_all_tags_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn all_tags(context: *mut $context) -> u64 {
                pack_tags(frame::all_tags(&$frame { context }))
            }

            #[unsafe(export_name = concat!("op25b_more_tags_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn more_tags(context: *mut $context, kind: u64, at: u64) -> u64 {
                let at = at as usize & FARTHEST;
                pack_tags(frame::more_tags(&$frame { context }, kind as u16, at))
            }

            #[unsafe(export_name = concat!("op25b_extension_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn extension(context: *mut $context, protocol: u64, at: u64) -> u64 {
                pack(frame::extension(&$frame { context }, protocol as u8, at as usize))
            }

            #[unsafe(export_name = concat!("op25b_judge_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn judge(context: *mut $context, found: u64) -> u32 {
                let frame = $frame { context };
                let found = Found(found);
                let Some(flow) = Flow::read(&frame, found) else {
                    return Verdict::Pass as u32;
                };
                if ACCOUNTS.load() != 0 {
                    sources::expect(flow.customer);
                }
                let mut answer = decided(found, &flow);
                // A return path to nobody's customer: not for this filter to judge, and not to count.
                if answer.reason_number() == Reason::Other as u8 {
                    return Verdict::Pass as u32;
                }
                maps::seen(found);
                let (packets, bytes) = (frame.packets(found), frame.length() as u64);
                if ANSWERS.load() == 0 {
                    answer = answer.unanswered();
                }
                let entered = if ACCOUNTS.load() == 0 {
                    Entered::NONE
                } else {
                    sources::account(&frame, found, &flow, answer, (packets, bytes))
                };
                if entered.has_had_its_share() {
                    answer = answer.unanswered();
                    replies::count(Reply::SourceLimit);
                }
                let attempts = entered.attempts();
                let cell = answer.cell(found.customer_family_number());
                maps::count(cell, Count { packets, bytes, attempts });
                // The loader sets the level; at its default the verifier cuts this away.
                debug!(
                    &$logger::new(context),
                    "judged: outcome {}, group {}, reason {}, verdict {}",
                    found.outcome_number(),
                    answer.group(),
                    answer.reason_number(),
                    answer.verdict()
                );
                u32::from(answer.verdict())
            }

            #[unsafe(export_name = concat!("op25b_tell_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn tell(context: *mut $context, found: u64, answer: u64, kind: u64) -> u32 {
                let (frame, answer) = ($frame { context }, Answer(answer as u32));
                sources::tell(&frame, &<$logger>::new(context), Found(found), answer, kind as u32);
                0
            }

            #[unsafe(export_name = concat!("op25b_extent_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn extent(context: *mut $context, found: u64) -> u64 {
                match segment::extent(&$frame { context }, Found(found)) {
                    Some(Extent { data, end }) => u64::from(data) | u64::from(end) << 32,
                    None => CUT,
                }
            }

            #[unsafe(export_name = concat!("op25b_choose_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn choose(context: *mut $context, found: u64, action: u64) -> u32 {
                replies::chosen(&$frame { context }, Found(found), Verdict::from_number(action as u8)) as u32
            }

            #[unsafe(export_name = concat!("op25b_craft_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn craft(context: *mut $context, found: u64, reply: u64) -> u32 {
                replies::crafted(&$frame { context }, Found(found), Reply::from_number(reply as u8)) as u32
            }

            #[unsafe(export_name = concat!("op25b_turn_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn turn(context: *mut $context, place: u64, pppoe: u64, blank: u64) -> u32 {
                let halves = |both: u64| (both as usize & FARTHEST, (both >> 32) as usize & FARTHEST);
                let (old, bytes) = halves(place);
                let link = craft::Link { old, bytes, pppoe: pppoe as usize };
                u32::from(craft::turn(&$frame { context }, link, halves(blank)).is_some())
            }

            #[unsafe(export_name = concat!("op25b_put_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn put(
                context: *mut $context,
                place: u64,
                first: u64,
                second: u64,
                third: u64,
            ) -> u32 {
                let (at, length) = (place as usize & FARTHEST, (place >> 32) as usize);
                u32::from(craft::put(&$frame { context }, at, length, [first, second, third]).is_some())
            }

            #[unsafe(export_name = concat!("op25b_say_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn say(context: *mut $context, at: u64, number: u64) -> u32 {
                u32::from(replies::said(&$frame { context }, at as usize & FARTHEST, number as u32).is_some())
            }

            #[unsafe(export_name = concat!("op25b_reply_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn reply(context: *mut $context, found: u64, action: u64) -> u32 {
                let action = Verdict::from_number(action as u8);
                u32::from(replies::reply(&$frame { context }, Found(found), action))
            }

            #[unsafe(export_name = concat!("op25b_submission_", stringify!($hook)))]
            #[inline(never)]
            extern "C" fn submission(context: *mut $context, found: u64) -> u32 {
                u32::from(count_submission(&$frame { context }, Found(found)).is_some())
            }
        }
    };
}

hook!(xdp, XdpFrame, xdp_md, XdpContext);
hook!(tc, TcFrame, __sk_buff, TcContext);

/// What the kernel does with a frame.
pub(crate) enum Action {
    /// It goes on.
    Pass,
    /// It vanishes.
    Drop,
    /// It goes back out of the interface that it came from, made into the answer to it.
    Return,
}

/// What happens to a frame. 99.9 % of traffic leaves at the first return: no map, no counter.
#[inline(always)]
pub(crate) fn filter<F: Frame>(context: *mut F::Context) -> Action {
    let frame = F::new(context);
    let found = parse(&frame, Constants);
    if !found.is_judged() {
        return not_judged(&frame, found);
    }
    act(&frame, found.through(frame.stripped()))
}

#[inline(always)]
fn act<F: Frame>(frame: &F, found: Found) -> Action {
    match frame.judge(found) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop => Action::Drop,
        action if frame.reply(found, action) => Action::Return,
        _ => Action::Drop,
    }
}

/// The same, and notes how every frame was seen: swapped in for a second when somebody wants to know.
#[inline(always)]
pub(super) fn sample<F: Frame>(context: *mut F::Context) -> Action {
    let frame = F::new(context);
    let found = parse(&frame, Constants).through(frame.stripped());
    maps::sampled(found);
    if found.is_judged() { act(&frame, found) } else { not_judged(&frame, found) }
}

#[inline(always)]
fn not_judged<F: Frame>(frame: &F, found: Found) -> Action {
    if Constants.submission() && found.is_submission() {
        frame.note_submission(found);
    }
    Action::Pass
}

/// Counts a SYN from a group to a submission port of one of its relays: per group, never per source.
#[inline(always)]
fn count_submission<F: Frame>(frame: &F, found: Found) -> Option<()> {
    let header: Tcp = frame.read(found.transport_at())?;
    // One that has ACK set opens nothing.
    if !is_syn(header) || header[13] & flag::ACK != 0 {
        return None;
    }
    let flow = Flow::read(frame, found)?;
    let number = Tables.customer(flow.customer).group();
    let group = Tables.group(number)?;
    if Tables.server(flow.peer).relays & group.relays == 0 {
        return None;
    }
    let implicit_tls = u16::from_be_bytes([header[2], header[3]]) == SUBMISSIONS;
    let cell = submission_cell(number, flow.customer.family, implicit_tls);
    maps::count(cell, Count { packets: 1, bytes: frame.length() as u64, attempts: 1 });
    Some(())
}

/// What would happen to a frame; counts nothing.
#[inline(always)]
pub(super) fn explain<F: Frame>(context: *mut F::Context) -> u32 {
    let frame = F::new(context);
    let found = parse(&frame, Constants);
    if !found.is_judged() {
        return Answer::new(0, 0, found.outcome_number(), 0, 0).0;
    }
    Flow::read(&frame, found).map_or(0, |flow| decided(found, &flow).0)
}

#[inline(always)]
fn decided(found: Found, flow: &Flow) -> Answer {
    let decision = decide(flow, Constants.role(), &Tables);
    let answer = Answer::new(
        decision.verdict as u8,
        decision.reason as u8,
        found.outcome_number(),
        decision.group,
        decision.relay(),
    );
    Answer(forgotten(answer.0.into(), found.0) as u32)
}

/// A number of which the verifier knows nothing any more, so that it follows one way from here on and not one for each
/// value; of `unknown` it knew nothing before.
#[inline(always)]
fn forgotten(mut number: u64, unknown: u64) -> u64 {
    // SAFETY: two instructions on registers, the second of which takes back what the first one does.
    unsafe {
        core::arch::asm!(
            "{number} ^= {unknown}",
            "{number} ^= {unknown}",
            number = inout(reg) number,
            unknown = in(reg) unknown,
            options(nomem, nostack, pure, preserves_flags)
        );
    }
    number
}

const CUT: u64 = u64::MAX;
const LATER_FRAGMENT: u64 = u64::MAX - 1;

/// An extension header's answer as a subprogram returns it: what follows in the low byte, its offset above.
#[inline(always)]
fn pack(extension: Extension) -> u64 {
    match extension {
        Extension::Passed(protocol, at) => (at as u64) << 8 | u64::from(protocol),
        Extension::LaterFragment => LATER_FRAGMENT,
        Extension::Cut => CUT,
    }
}

#[inline(always)]
fn unpack(packed: u64) -> Extension {
    match packed {
        CUT => Extension::Cut,
        LATER_FRAGMENT => Extension::LaterFragment,
        _ => Extension::Passed(packed as u8, (packed >> 8) as usize & FARTHEST),
    }
}

/// Tags as a subprogram returns them: the type in the low 16 bits, the offset above, how many name a VLAN above that.
#[inline(always)]
fn pack_tags(tags: Tags) -> u64 {
    match tags {
        Tags::Passed { kind, at, vlans } => u64::from(kind) | (at as u64) << 16 | (vlans as u64) << 32,
        Tags::Cut => CUT,
    }
}

#[inline(always)]
fn unpack_tags(packed: u64) -> Tags {
    match packed {
        CUT => Tags::Cut,
        _ => Tags::Passed {
            kind: packed as u16,
            at: (packed >> 16) as usize & FARTHEST,
            vlans: (packed >> 32) as usize & 0xff,
        },
    }
}
