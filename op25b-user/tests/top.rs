//! `op25b top` on a real terminal (tmux) while packets come: what it shows, what its keys do, what it leaves behind.

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod http;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod site;
#[path = "top/tmux.rs"]
mod tmux;

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::attempts;
use lab::{Filter, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use site::Site;
use tmux::Terminal;

const BOT: &str = "203.0.113.77";
const SETTINGS: &str = "203.0.113.10";
const MONITORED: &str = "203.0.113.140";
const SHARED: &str = "203.0.113.241";
const IPV6: &str = "2001:db8:1000:7::1";

const POLICY: &str = r#"
version: 1
timezone: Asia/Tokyo
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers:
  - {name: residential, prefixes: [203.0.113.0/25, "2001:db8:1000::/36"], mode: enforce}
  - {name: business, prefixes: [203.0.113.128/26], mode: monitor}
  - {name: mobile-cgn, prefixes: [203.0.113.240/28], mode: enforce, shared: true}
  - {name: "日本\u202e語\u200b", prefixes: [203.0.113.192/28], mode: "off"}
unknown_sources: pass
triage: {bot_destinations: 20, bot_attempts_per_minute: 100}
"#;

/// Attempts from a source to so many servers.
fn send(site: &Site, source: &str, count: u16, servers: u8) -> Result<()> {
    let frames = attempts(source, count, servers)?;
    site.customer.mouth("cust1")?.send(frames.iter().map(Vec::as_slice))
}

/// A filter in force that has judged what `busy` sends.
fn busy(site: &Site) -> Result<Filter<'_>> {
    let mut filter = Filter::new(&site.edge)?;
    filter.start(POLICY, &[])?;
    for (source, count, servers) in [(BOT, 90, 45), (SETTINGS, 95, 2), (MONITORED, 12, 3), (SHARED, 30, 25)] {
        send(site, source, count, servers)?;
    }
    let counted =
        || filter.counted().is_ok_and(|counted| counted.iter().map(|one| one.1).sum::<u64>() == 227);
    ensure!(eventually(counted), "{:?}", filter.counted());
    Ok(filter)
}

/// The text from a line that begins with `word`.
fn line<'s>(screen: &'s str, word: &str) -> Result<&'s str> {
    screen.lines().find(|line| line.starts_with(word)).with_context(|| format!("no {word:?} in\n{screen}"))
}

/// The sources on a screen, in their order.
fn order(screen: &str) -> Vec<&str> {
    let lines = screen.lines().skip_while(|line| !line.starts_with("source"));
    lines
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.contains(['.', ':']))
        .collect()
}

#[test]
fn a_screen_shows_what_was_sent_and_obeys_keys() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = busy(&site)?;
    let terminal = Terminal::start(&site.edge, 80, 24)?;
    terminal.run(&filter, &[], &["top", "--every", "500ms"])?;

    let screen = terminal.shows("4 sources by attempts")?;
    ensure!(screen.starts_with(" ENFORCING "), "{screen}");
    ensure!(line(&screen, "residential")?.contains("enforce       185"), "{screen}");
    let business = line(&screen, "business")?;
    ensure!(business.contains("monitor") && business.contains(" 12 "), "{screen}");
    ensure!(screen.contains(r"日本\u{202e}語") && !screen.contains(['\u{202e}', '\u{200b}']), "{screen}");
    ensure!(order(&screen) == [SETTINGS, BOT, SHARED, MONITORED], "{screen}");
    let bot = line(&screen, BOT)?;
    ensure!(bot.contains("residential") && bot.contains("bot?") && bot.contains(" 90 "), "{screen}");
    ensure!(line(&screen, SETTINGS)?.contains("settings?"), "{screen}");
    let shared: Vec<&str> = line(&screen, SHARED)?.split_whitespace().collect();
    ensure!(shared.get(1..4) == Some(&["mobile-cgn", "-", "30"]), "{screen}");
    ensure!(line(&screen, "q quit")?.contains("/ filter"), "{screen}");

    // Rates: with packets going on there are bars, and the source that sends now comes first.
    terminal.keys(&["r"])?;
    terminal.shows("by rate")?;
    let fast = eventually(|| {
        send(&site, MONITORED, 12, 3).is_ok()
            && terminal.screen().is_ok_and(|screen| order(&screen).first() == Some(&MONITORED))
    });
    ensure!(fast, "{}", terminal.screen()?);
    let screen = terminal.screen()?;
    ensure!(line(&screen, "business")?.contains('█'), "{screen}");

    terminal.keys(&["f"])?;
    let screen = terminal.shows("by servers")?;
    ensure!(order(&screen).first() == Some(&BOT), "{screen}");
    terminal.keys(&["s"])?;
    terminal.shows("by rate")?;
    terminal.keys(&["s", "s"])?;
    terminal.shows("by attempts")?;

    // A filter that is none is said to be none and changes nothing.
    terminal.keys(&["/", "203.0.113.300", "Enter"])?;
    let screen = terminal.shows("neither a group nor a prefix: 203.0.113.300")?;
    ensure!(order(&screen).len() == 4, "{screen}");
    terminal.keys(&["/", "203.0.113.128/25", "Enter"])?;
    let screen = terminal.shows("only in 203.0.113.128/25")?;
    ensure!(order(&screen).len() == 2 && !screen.contains(BOT), "{screen}");
    terminal.keys(&["/", "residential", "Enter"])?;
    let screen = terminal.shows("only group residential")?;
    ensure!(order(&screen) == [SETTINGS, BOT], "{screen}");
    terminal.keys(&["Escape"])?;
    terminal.shows("4 sources by attempts")?;
    // The same by the table of groups.
    terminal.keys(&["Tab", "Down", "Down", "Enter"])?;
    let screen = terminal.shows("only group mobile-cgn")?;
    ensure!(order(&screen) == [SHARED], "{screen}");
    terminal.keys(&["Escape"])?;
    terminal.shows("4 sources by attempts")?;
    terminal.keys(&["f"])?;
    terminal.shows("4 sources by servers")?;

    // One source.
    terminal.keys(&["Enter"])?;
    let screen = terminal.shows("first seen")?;
    for fact in [
        "source       203.0.113.77",
        "group        residential, mode enforce",
        "attempts     90,",
        "blocked 90 attempts in 90 frames",
        "servers      about 4",
        "the last 192.0.2.144",
        "triage       bot?",
        "bot? from 20 servers within two hours or 100 attempts a minute on",
        "quiet after 6h",
        "op25b source 203.0.113.77",
        "+09:00",
    ] {
        ensure!(screen.contains(fact), "no {fact:?} in\n{screen}");
    }
    terminal.keys(&["q"])?;
    terminal.shows("4 sources by servers")?;

    // Standing still, and going on.
    terminal.keys(&["Space"])?;
    terminal.shows("PAUSED")?;
    send(&site, IPV6, 7, 1)?;
    thread::sleep(Duration::from_millis(1500));
    ensure!(order(&terminal.screen()?).len() == 4, "{}", terminal.screen()?);
    terminal.keys(&["Space"])?;
    let screen = terminal.shows("5 sources by servers")?;
    ensure!(line(&screen, "2001:db8:1000:7::/64")?.contains("residential"), "{screen}");

    // Another size: more columns. Too small: said. And back.
    terminal.resize(120, 40)?;
    let screen = terminal.shows("last server")?;
    ensure!(line(&screen, BOT)?.contains("192.0.2.144"), "{screen}");
    terminal.resize(30, 6)?;
    terminal.shows("too few")?;
    terminal.resize(80, 24)?;
    terminal.shows("5 sources by servers")?;

    // Somebody suspends it, all or a part: that is what is seen first.
    let order_of = |arguments: &[&str]| -> Result<()> {
        let answer = filter.op25b(arguments)?;
        ensure!(answer.code == Some(0), "{answer:?}");
        Ok(())
    };
    order_of(&["suspend", "--for", "2h"])?;
    let screen = terminal.shows(" SUSPENDED ")?;
    ensure!(line(&screen, "suspended: everything until")?.ends_with("+09:00"), "{screen}");
    order_of(&["suspend", "--group", "residential", "--for", "2h"])?;
    let screen = terminal.shows(" SUSPENDED IN PART ")?;
    ensure!(screen.contains("suspended: residential until"), "{screen}");
    order_of(&["resume"])?;
    terminal.shows(" ENFORCING ")?;

    // The daemon is killed: the kernel goes on, and so does this.
    filter.stop(Signal::SIGKILL)?;
    send(&site, SETTINGS, 200, 2)?;
    terminal.keys(&["a"])?;
    let goes_on = eventually(|| {
        let screen = terminal.screen().unwrap_or_default();
        line(&screen, SETTINGS).is_ok_and(|line| line.contains(" 295 "))
    });
    ensure!(goes_on, "{}", terminal.screen()?);
    terminal.shows("no daemon runs; the filter goes on without it")?;

    // Detached: said, and the last reading stays.
    let answer = filter.op25b(&["detach"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let screen = terminal.shows("CANNOT READ")?;
    ensure!(screen.contains("is not attached") && screen.contains(BOT), "{screen}");

    terminal.keys(&["q"])?;
    terminal.is_given_back()
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() -> Result<()> {
    let site = Site::new(1)?;
    let filter = busy(&site)?;
    let terminal = Terminal::start(&site.edge, 80, 24)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        terminal.run(&filter, &[], &["top"])?;
        terminal.shows("4 sources by attempts")?;
        kill(terminal.child()?, signal)?;
        terminal.is_given_back().with_context(|| signal.to_string())?;
    }
    for key in ["q", "Escape", "C-c"] {
        terminal.run(&filter, &[], &["top"])?;
        terminal.shows("4 sources by attempts")?;
        terminal.keys(&[key])?;
        terminal.is_given_back().with_context(|| key.to_owned())?;
    }
    // What is refused is refused before the terminal is taken.
    for (arguments, why) in [
        (["top", "--every", "10ms"], "500ms to 1h"),
        (["top", "--every", "2h"], "500ms to 1h"),
        (["top", "--group", "nobody"], "no customer group is called"),
    ] {
        terminal.run(&filter, &[], &arguments)?;
        terminal.shows(why)?;
        terminal.is_given_back()?;
    }
    // As text where that is asked for.
    terminal.run(&filter, &[], &["top", "--once"])?;
    terminal.shows("4 of 4 sources; bot? from 20 servers")?;
    terminal.is_given_back()?;

    // Its terminal goes away: so does it.
    terminal.run(&filter, &[], &["top"])?;
    terminal.shows("4 sources by attempts")?;
    let child = terminal.child()?;
    drop(terminal);
    ensure!(eventually(|| !runs(child)), "it runs without a terminal");
    Ok(())
}

fn runs(process: Pid) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn without_colours_there_is_none() -> Result<()> {
    let site = Site::new(1)?;
    let filter = busy(&site)?;
    let terminal = Terminal::start(&site.edge, 120, 40)?;
    terminal.run(&filter, &[("NO_COLOR", "1")], &["top"])?;
    terminal.shows("4 sources by attempts")?;
    let plain = terminal.attributes()?;
    ensure!(colours(&plain).is_empty(), "{:?} in\n{plain}", colours(&plain));
    // Which line is selected is seen all the same.
    ensure!(plain.contains("\u{1b}[7m"), "{plain}");
    terminal.keys(&["Enter"])?;
    terminal.shows("first seen")?;
    let plain = terminal.attributes()?;
    ensure!(colours(&plain).is_empty(), "{:?} in\n{plain}", colours(&plain));
    terminal.keys(&["C-c"])?;
    terminal.is_given_back()?;

    terminal.run(&filter, &[], &["top"])?;
    terminal.shows("4 sources by attempts")?;
    let coloured = terminal.attributes()?;
    ensure!(!colours(&coloured).is_empty(), "{coloured}");
    terminal.keys(&["q"])?;
    terminal.is_given_back()
}

/// Colours that are set: ECMA-48 §8.3.117, 30 to 48 and 90 to 107 but for "as usual".
fn colours(text: &str) -> Vec<u32> {
    let sequences = text.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
    let numbers = sequences.flat_map(|(numbers, _)| numbers.split([';', ':']));
    let numbers = numbers.filter_map(|number| number.parse().ok());
    numbers.filter(|number| matches!(number, 30..=38 | 40..=48 | 90..=107)).collect()
}
