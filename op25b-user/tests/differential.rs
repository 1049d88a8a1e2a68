//! Host against kernel on generated and mutated frames: one answer, one action, one counter, on every frame.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a frame that tells host and kernel apart fails the test"
)]

mod frames;
mod generate;
mod ways;

use std::collections::{BTreeMap, HashMap};

use op25b_ebpf::{abi::Link, found::Outcome, frame};

use crate::{
    frames::hex,
    generate::{Chance, Mix, setting},
    ways::{ENTRIES, Entry, Kernel, Office, Seen, Setting, Variant, may_be_refused, say, words},
};

const MIX: Mix = Mix { mail: 85, mutated: 35 };

/// One in so many frames also goes through the program that is attached.
const SAMPLE: u64 = 8;

fn is_mail(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::ToPort25 | Outcome::FromPort25)
}

/// One way through the kernel in one setting, and what its counters must say in the end.
struct Path {
    entry: &'static Entry,
    kernel: Kernel,
    due: BTreeMap<u32, (u64, u64)>,
}

impl Path {
    /// What is wrong, if anything; an error where the kernel refused the frame.
    fn compare(&self, seen: &Seen, frame: &[u8]) -> anyhow::Result<Option<String>> {
        let answer = self.kernel.run(self.entry.explain, frame)?;
        let expected = seen.answer();
        Ok((answer != expected.0)
            .then(|| format!("host {}, kernel {}", words(expected), words(op25b_ebpf::abi::Answer(answer)))))
    }

    /// The same of the program that is attached.
    fn act(&mut self, seen: &Seen, frame: &[u8]) -> anyhow::Result<Option<String>> {
        let action = self.kernel.run(self.entry.program, frame)?;
        if let Some(cell) = seen.cell() {
            let due = self.due.entry(cell).or_default();
            *due = (due.0 + 1, due.1 + frame.len() as u64);
        }
        Ok((action != self.entry.action(seen.decision.verdict))
            .then(|| format!("host {}, {} {action}", words(seen.answer()), self.entry.program)))
    }

    /// The shortest beginning of a frame that still tells the two apart.
    fn shrink<'a>(&self, office: &Office, setting: Setting, frame: &'a [u8]) -> &'a [u8] {
        let differs = |frame: &[u8]| {
            let seen = office.judge(setting, self.entry.link, frame);
            self.compare(&seen, frame).is_ok_and(|complaint| complaint.is_some())
        };
        (0..frame.len()).map(|length| &frame[..length]).find(|frame| differs(frame)).unwrap_or(frame)
    }
}

#[test]
fn host_and_kernel_agree_on_every_frame() {
    let frames = setting("OP25B_FRAMES", 100_000);
    let seed = setting("OP25B_SEED", 0x0925_2008);
    say(&format!("differential: OP25B_FRAMES={frames} OP25B_SEED={seed}"));
    let mut chance = Chance::new(seed);
    let offices = Variant::ALL.map(|variant| (variant, Office::open(variant)));
    let settings = Setting::all();
    let mut differences = Vec::new();
    let mut paths: HashMap<usize, Vec<Path>> = HashMap::new();
    for (number, setting) in settings.iter().enumerate() {
        let office = office(&offices, setting.variant);
        for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
            match Kernel::load(office, *setting, entry.link, &[entry.program, entry.explain]) {
                Ok(kernel) => {
                    paths.entry(number).or_default().push(Path { entry, kernel, due: BTreeMap::new() });
                }
                Err(error) => {
                    differences.push(format!("{} ({}): {error:#}", entry.name, setting.name()));
                }
            }
        }
    }

    let (mut mail, mut refused, mut compared, mut acted) = (0_u64, 0_u64, 0_u64, 0_u64);
    for number in 0..frames {
        let which = chance.below(settings.len());
        let setting = settings[which];
        let office = office(&offices, setting.variant);
        let frame = generate::frame(&mut chance, setting.role, MIX);
        let seen = office.judge(setting, Link::Ethernet, &frame);
        mail += u64::from(is_mail(seen.outcome));
        for path in paths.get_mut(&which).into_iter().flatten() {
            // Siblings of one hook are the same program: ask one of them, and both where frames are sampled.
            let sampled = number % SAMPLE == 0;
            if path.entry.name == "op25b_xdp_frags" && !sampled {
                continue;
            }
            let bare = match path.entry.link {
                Link::Ethernet => &frame[..],
                Link::Ip => frame.get(14..).unwrap_or_default(),
            };
            let seen = office.judge(setting, path.entry.link, bare);
            let mut complaint = match path.compare(&seen, bare) {
                Ok(complaint) => complaint,
                Err(_) if may_be_refused(path.entry, bare) => {
                    refused += 1;
                    continue;
                }
                Err(error) => Some(format!("{error:#}")),
            };
            compared += 1;
            if sampled && complaint.is_none() {
                complaint = path.act(&seen, bare).unwrap_or_else(|error| Some(format!("{error:#}")));
                acted += 1;
            }
            if let Some(complaint) = complaint {
                let short = path.shrink(office, setting, bare);
                differences.push(format!(
                    "frame {number} on {} ({}): {complaint}; frame {}; shortest beginning {}",
                    path.entry.name,
                    setting.name(),
                    hex(bare),
                    hex(short)
                ));
            }
        }
        if differences.len() >= 20 {
            break;
        }
    }
    for (number, path) in
        paths.iter().flat_map(|(number, paths)| paths.iter().map(move |path| (number, path)))
    {
        let counted = path.kernel.all_cells().expect("the counters can be read");
        let due =
            path.due.iter().map(|(cell, (packets, bytes))| (*cell, *packets, *bytes)).collect::<Vec<_>>();
        if counted != due {
            let wrong = counted.iter().filter(|cell| !due.contains(cell)).collect::<Vec<_>>();
            differences.push(format!(
                "counters of {} ({}): counted beside what is due (cell, packets, bytes): {wrong:?}",
                path.entry.name,
                settings[*number].name()
            ));
        }
    }
    say(&format!(
        "differential: {frames} frames, {mail} TCP/25 judged, {} differences \
         ({compared} answers and {acted} actions compared, {refused} refused by the test run)",
        differences.len()
    ));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(mail * 3 >= frames, "only {mail} of {frames} frames are TCP/25");
}

fn office(offices: &[(Variant, Office)], variant: Variant) -> &Office {
    let found = offices.iter().find(|(other, _)| *other == variant);
    &found.expect("every variant is open").1
}

#[test]
fn plain_never_disagrees_with_the_walk() {
    let frames = setting("OP25B_FRAMES", 100_000);
    let mut chance = Chance::new(setting("OP25B_SEED", 0x0925_2008));
    let mut plain = 0_u64;
    let mut differences = Vec::new();
    for _ in 0..frames {
        let setting = chance.pick(&Setting::all());
        // Everyday frames are what `plain` is for: few layers, many mutations.
        let mut frame = if chance.percent(50) {
            everyday(&mut chance)
        } else {
            generate::frame(&mut chance, setting.role, MIX)
        };
        let link = if chance.percent(25) { Link::Ip } else { Link::Ethernet };
        if matches!(link, Link::Ip) {
            frame.drain(..frame.len().min(14));
        }
        let sight = setting.sight(link);
        let Some(quick) = frame::plain(&&frame[..], sight) else { continue };
        plain += 1;
        let walked = frame::walk(&&frame[..], sight);
        if quick != walked {
            differences.push(format!(
                "{} {link:?}: plain {:?}, walk {:?}; frame {}",
                setting.name(),
                quick.outcome(),
                walked.outcome(),
                hex(&frame)
            ));
        }
    }
    say(&format!("plain: {plain} of {frames} frames are everyday ones, {} differences", differences.len()));
    assert!(
        differences.is_empty(),
        "{} differences, the first:\n{}",
        differences.len(),
        differences.into_iter().take(10).collect::<Vec<_>>().join("\n")
    );
    assert!(plain * 4 >= frames, "only {plain} of {frames} frames are everyday ones");
}

/// A TCP segment, bare or behind tags and PPPoE, with a field or two changed.
fn everyday(chance: &mut Chance) -> Vec<u8> {
    let tcp = frames::Tcp::new(chance.pick(&[25, 40_000]), chance.pick(&[25, 587]));
    let mut piece = if chance.percent(50) {
        tcp.within(frames::Ipv4::new("203.0.113.5", "192.0.2.10"))
    } else {
        tcp.within(frames::Ipv6::new("2001:db8:1000::5", "2001:db8:e000::10"))
    };
    let wrapped = chance.percent(50);
    if wrapped && chance.percent(50) {
        piece = piece.within(chance.pick(&[
            frames::Pppoe::Plain,
            frames::Pppoe::Plain,
            frames::Pppoe::Compressed,
        ]));
    }
    for _ in 0..if wrapped { chance.below(4) } else { 0 } {
        piece = piece.within(frames::Vlan(chance.pick(&[0x8100, 0x88a8, 0x9100])));
    }
    let mut frame = piece.frame();
    for _ in 0..chance.below(3) {
        let at = 12 + chance.below(if wrapped { 34 } else { 14 });
        frame[at] = if chance.percent(50) { chance.below(64) as u8 } else { chance.bits() as u8 };
    }
    if chance.percent(10) {
        let length = 14 + chance.below(frame.len() - 13);
        frame.truncate(length);
    }
    frame
}
