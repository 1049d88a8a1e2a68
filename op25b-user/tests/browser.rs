//! The page in a real Chromium, as the daemon serves it: what it says, in both languages and both themes, on a small
//! screen and by keyboard. `OP25B_SCREENSHOTS=DIR` writes pictures.

#[path = "browser/chromium.rs"]
mod chromium;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod site;

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use chromium::Chromium;
use jiff::Timestamp;
use lab::{Filter, eventually, syn};
use rusqlite::{Connection, OpenFlags, params};
use serde_json::{Value, json};
use site::Site;

const PAGE: &str = "http://127.0.0.1:9025/";
/// Names that would be markup, script or another order of letters, were they not text.
const HOSTILE: &str = "<script>document.title='run'</script>";
const QUOTES: &str = "\"' onmouseover='x' & </td>";
const RIGHT_TO_LEFT: &str = "\u{5d0}\u{5d1}\u{5d2} abc";

/// The groups' names, and the relay's: hostile ones, but where pictures for people are made.
fn names() -> [&'static str; 3] {
    if is_for_people() { ["kurume", "omuta", "yanagawa"] } else { [HOSTILE, QUOTES, RIGHT_TO_LEFT] }
}

fn relay() -> &'static str {
    if is_for_people() { "post" } else { "<b>post</b>" }
}

fn is_for_people() -> bool {
    std::env::var_os("OP25B_SCREENSHOTS").is_some()
}

/// The daemon's page, quiet: hostile names, no history, nothing sent.
fn quiet(mode: &str) -> String {
    let [first, second, third] = names();
    json!({
        "version": 1,
        "timezone": "Asia/Tokyo",
        "interfaces": { "customer": ["eth1", "eth2"] },
        "relays": [{ "name": relay(), "addresses": ["192.0.2.25"] }],
        "customers": [
            { "name": first, "prefixes": ["203.0.113.0/26"], "mode": mode },
            { "name": second, "prefixes": ["203.0.113.64/26"], "mode": "monitor" },
            { "name": third, "prefixes": ["203.0.113.128/26"], "mode": "off" },
        ],
        "unknown_sources": "pass",
        "ipv6": "unfiltered",
        "metrics": { "listen": "127.0.0.1:9025" },
    })
    .to_string()
}

/// A provider in the middle of a roll-out.
fn busy(history: &str) -> String {
    json!({
        "version": 1,
        "operator": "Internet Kurume",
        "timezone": "Asia/Tokyo",
        "interfaces": { "customer": ["eth1"], "upstream": ["eth2"] },
        "relays": [
            { "name": "post", "addresses": ["192.0.2.25"] },
            { "name": "vpost", "hostname": "vpost.example.jp", "within": ["192.0.2.0/28"] },
        ],
        "customers": [
            { "name": "kurume", "prefixes": ["203.0.113.0/26"], "mode": "enforce" },
            { "name": "omuta", "prefixes": ["203.0.113.64/26"], "mode": "enforce", "enforce_from": "2099-04-01T00:00:00+09:00" },
            { "name": "yanagawa", "prefixes": ["203.0.113.128/26"], "mode": "monitor" },
            { "name": "mobile-cgn", "prefixes": ["203.0.113.240/28"], "mode": "enforce", "shared": true },
        ],
        "exemptions": [{ "prefixes": ["203.0.113.32/29"], "reason": "static", "ticket": "NOC-1301" }],
        "unknown_sources": "pass",
        "ipv6": "unfiltered",
        "metrics": { "listen": "127.0.0.1:9025" },
        "history": { "path": history, "keep": "90d" },
    })
    .to_string()
}

/// Every `css` as text.
fn texts(browser: &Chromium<'_>, css: &str) -> Result<Vec<String>> {
    let script =
        format!("return [...document.querySelectorAll({})].map(one => one.textContent.trim())", json!(css));
    Ok(serde_json::from_value(browser.run(&script)?)?)
}

/// Nothing was stopped by the page's policy, and no script of a label ran.
fn nothing_ran(browser: &Chromium<'_>) -> Result<()> {
    let title = browser.run("return document.title")?;
    ensure!(title.as_str().is_some_and(|title| title.starts_with("op25b")), "{title}");
    let scripts = browser.run("return [...document.scripts].map(one => one.getAttribute('src'))")?;
    ensure!(scripts == json!(["/page.js"]), "{scripts}");
    let outside = browser.run(
        "return performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith(location.origin))",
    )?;
    ensure!(outside == json!([]), "{outside}");
    Ok(())
}

/// The page is no wider than a telephone; what is wider scrolls in its own box.
fn fits(browser: &Chromium<'_>) -> Result<()> {
    browser.screen(375, 800)?;
    let widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")?;
    ensure!(widths == json!([375, 375]), "{widths}");
    browser.screen(1280, 800)
}

/// Brightness of the page's background, 0 to 255.
fn brightness(browser: &Chromium<'_>) -> Result<u64> {
    let colour = browser.run("return getComputedStyle(document.body).backgroundColor")?;
    let colour = colour.as_str().context("a colour")?.to_owned();
    let parts: Vec<u64> =
        colour.split(|char: char| !char.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    Ok(parts.iter().take(3).sum::<u64>() / 3)
}

/// Text and background of every text are far enough apart (WCAG 2, 4.5 to 1).
fn can_be_read(browser: &Chromium<'_>) -> Result<()> {
    let poor = browser.run(
        "const light = c => { const [r,g,b] = c.match(/[\\d.]+/g).map(Number).map(v => (v/=255) <= .03928 ? v/12.92 : ((v+.055)/1.055)**2.4);
           return .2126*r + .7152*g + .0722*b; };
         const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
           if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255,255,255)'; };
         const poor = [];
         for (const e of document.querySelectorAll('body *')) {
           if (e.closest('svg, [hidden], script') || !e.checkVisibility()) continue;
           if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
           const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((a, b) => b - a);
           if ((a + .05) / (b + .05) < 4.5) poor.push(e.outerHTML.slice(0, 80));
         }
         return poor;",
    )?;
    ensure!(poor == json!([]), "too pale: {poor}");
    Ok(())
}

#[test]
fn hostile_names_are_text_and_states_are_words() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&quiet("enforce"), &[])?;
    let browser = Chromium::start(&site.edge)?;
    browser.screen(1280, 800)?;
    let shows = |words: &str| -> Result<()> {
        let reached = eventually(|| {
            let shown =
                browser.goto(&format!("{PAGE}?lang=en")).and_then(|()| browser.text("#state .verdict"));
            shown.is_ok_and(|shown| shown.contains(words))
        });
        ensure!(reached, "never {words:?}, but {:?}", browser.text("body"));
        Ok(())
    };

    shows("✓ ENFORCING")?;
    nothing_ran(&browser)?;
    let groups = texts(&browser, "#groups tbody th")?;
    ensure!(groups.get(..3) == Some(&names().map(str::to_owned)), "{groups:?}");
    ensure!(browser.text("#relays")?.contains(relay()));
    ensure!(browser.text("#trend")?.contains("history: {"), "how to turn it on");
    fits(&browser)?;
    can_be_read(&browser)?;
    let light = brightness(&browser)?;
    browser.picture("empty-light-en", 1100)?;
    browser.scheme("dark")?;
    let dark = brightness(&browser)?;
    ensure!(light > 200 && dark < 60, "light {light}, dark {dark}");
    can_be_read(&browser)?;
    browser.scheme("light")?;

    // The first key reaches the link that skips what comes before the content; Enter follows it.
    browser.goto(PAGE)?;
    browser.press("Tab", 9)?;
    ensure!(browser.run("return document.activeElement.className")? == "skip");
    let seen = browser.run("return document.activeElement.getBoundingClientRect().left >= 0")?;
    ensure!(seen == true, "the skip link is seen when it has the focus");

    browser.reads("ja-JP,ja;q=0.9,en;q=0.8")?;
    browser.goto(PAGE)?;
    ensure!(browser.text("#state .verdict")?.contains("規制中"));
    ensure!(browser.run("return document.documentElement.lang")? == "ja");
    fits(&browser)?;
    // The switch is a link, and it wins over what the browser would rather have.
    browser.run("document.querySelector('nav a').click()")?;
    ensure!(eventually(|| browser.text("#state .verdict").is_ok_and(|text| text.contains("ENFORCING"))));
    nothing_ran(&browser)?;

    let answer = filter.op25b(&["suspend", "--for", "2h"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    shows("SUSPENDED")?;
    can_be_read(&browser)?;
    browser.picture("suspended-light-en", 1100)?;
    browser.goto(&format!("{PAGE}?lang=ja"))?;
    ensure!(browser.text("#state .verdict")?.contains("一時停止中"));
    browser.scheme("dark")?;
    can_be_read(&browser)?;
    let answer = filter.op25b(&["resume"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    shows("✓ ENFORCING")?;

    filter.policy(&quiet("monitor"))?;
    let answer = filter.op25b(&["reload"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    shows("MONITORING, NOT BLOCKING")?;
    can_be_read(&browser)?;
    filter.policy(&quiet("enforce"))?;
    let answer = filter.op25b(&["reload"])?;
    ensure!(answer.code == Some(0), "{answer:?}");

    site.edge.ip(&["link", "delete", "eth2"])?;
    shows("NOT ENFORCING EVERYWHERE")?;
    ensure!(texts(&browser, "#interfaces .tag.bot")? == ["NOT ATTACHED"]);
    can_be_read(&browser)?;
    site.edge.ip(&["link", "delete", "eth1"])?;
    shows("✕ NOT ENFORCING")?;
    can_be_read(&browser)?;
    browser.picture("not-enforcing-dark-en", 1100)?;
    browser.goto(&format!("{PAGE}?lang=ja"))?;
    ensure!(browser.text("#state .verdict")?.contains("規制されていません"));
    browser.scheme("light")?;
    can_be_read(&browser)?;
    fits(&browser)?;
    browser.picture("not-enforcing-light-ja", 1100)
}

/// Answers every question for an IPv4 address with 192.0.2.10, others with nothing.
fn name_server(socket: &UdpSocket) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        // Past the header: the name, its type and class.
        let Some(name) = question.get(12..length).and_then(|rest| rest.iter().position(|byte| *byte == 0))
        else {
            continue;
        };
        let end = 12 + name + 5;
        let Some(asked) = question.get(..end.min(length)) else { continue };
        let ipv4 = asked.get(end - 3) == Some(&1);
        let mut answer = asked.to_vec();
        answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, u8::from(ipv4), 0, 0, 0, 0]);
        if ipv4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 10]);
        }
        let _ = socket.send_to(&answer, from);
    }
}

/// A day as it goes: more in the evening.
fn remember(path: &std::path::Path) -> Result<()> {
    // Made by the daemon, not by this.
    let book = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    book.execute("INSERT OR IGNORE INTO customers (name) VALUES ('kurume'), ('yanagawa')", [])?;
    let now = Timestamp::now().as_second().div_euclid(3600);
    for back in 1..24_i64 {
        let hour = now - back;
        let tide = 40 + 9 * (12 - (hour - 3).rem_euclid(24)).abs() + (hour * 7).rem_euclid(23);
        for (name, reason, attempts) in [("kurume", "blocked", tide * 3), ("yanagawa", "would-block", tide)] {
            let reason = op25b_ebpf::verdict::Reason::ALL
                .into_iter()
                .find(|known| known.name() == reason)
                .context("a reason")? as i64;
            book.execute(
                "INSERT OR IGNORE INTO trends SELECT ?1, id, ?2, ?3 * 11, ?3, 12 FROM customers WHERE name = ?4",
                params![hour * 3600, reason, attempts, name],
            )?;
        }
    }
    Ok(())
}

/// Old settings, bots, and many behind an address.
fn traffic() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut send = |from: u8, servers: u8, attempts: u16| {
        for attempt in 0..attempts {
            let to = Ipv4Addr::new(198, 51, 100, (attempt % u16::from(servers)) as u8 + 1);
            let from = IpAddr::from([203, 0, 113, from]);
            let frame = syn(from, to.into(), 40_000 + attempt, 25);
            frames.extend(std::iter::repeat_n(frame, 11));
        }
    };
    for number in 1..=24 {
        send(number, 1 + number % 2, 3 + u16::from(number % 7));
    }
    for bot in [77, 9, 140] {
        send(bot, 250, 500);
    }
    send(130, 2, 9);
    send(245, 40, 90);
    send(33, 5, 12);
    frames
}

#[test]
fn a_busy_router_is_shown_as_it_is() -> Result<()> {
    let site = Site::new(2)?;
    let files = tempfile::tempdir()?;
    let history = files.path().join("history.db");
    let socket = site.edge.within(|| UdpSocket::bind("127.0.0.1:5353"))??;
    thread::spawn(move || name_server(&socket));
    let mut filter = Filter::new(&site.edge)?;
    filter.policy(&busy(history.to_str().context("a path in UTF-8")?))?;
    filter.start_again(&["--resolver", "127.0.0.1:5353"], &[])?;
    ensure!(eventually(|| remember(&history).is_ok()), "{:?}", remember(&history));
    let frames = traffic();
    let mouth = site.customer.mouth("cust1")?;
    // No more at once than the interface's ring holds.
    for some in frames.chunks(100) {
        mouth.send(some.iter().map(Vec::as_slice))?;
        thread::sleep(Duration::from_millis(2));
    }
    let browser = Chromium::start(&site.edge)?;
    browser.screen(1280, 800)?;

    let shown = eventually(|| {
        let rows =
            browser.goto(&format!("{PAGE}?lang=en")).and_then(|()| texts(&browser, "#groups tbody tr"));
        rows.is_ok_and(|rows| rows.len() == 5)
            && browser.text("#relays").is_ok_and(|text| text.contains("192.0.2.10"))
    });
    ensure!(shown, "{:?}", browser.text("body"));
    let (_, status) = filter.status()?;
    let dropped = status["dropped_packets"].as_u64().context("dropped_packets")?;
    let cells = |row: usize| texts(&browser, &format!("#groups tbody tr:nth-child({row}) > *"));
    let number = |text: &String| text.replace(',', "").parse::<u64>().context("a number");
    let total = cells(5)?;
    ensure!(number(total.get(2).context("a cell")?)? == dropped, "{total:?}, {dropped} dropped");
    let carriers = cells(4)?;
    ensure!(
        carriers.get(..5) == Some(&["mobile-cgn", "enforce", "990", "0", "90"].map(str::to_owned)),
        "{carriers:?}"
    );
    let waiting = cells(2)?;
    ensure!(
        waiting.get(..5) == Some(&["omuta", "monitor", "0", "5,500", "500"].map(str::to_owned)),
        "{waiting:?}"
    );

    let triage = texts(&browser, "#sources tbody td:nth-child(3)")?;
    let of = |word: &str| triage.iter().filter(|shown| shown.as_str() == word).count();
    ensure!(of("bot?") == 3 && of("-") == 1 && of("settings?") == triage.len() - 4, "{triage:?}");
    let first = texts(&browser, "#sources tbody th")?;
    ensure!(first.len() == 25, "{first:?}");
    ensure!(browser.text("#sources")?.contains("10 destinations or more"), "the thresholds");
    ensure!(browser.text("#facts")?.contains("group omuta begins to enforce, 2099-04-01 00:00:00 +09:00"));
    ensure!(browser.text("#relays")?.contains("vpost.example.jp"));
    ensure!(texts(&browser, "#interfaces tbody td:nth-child(3)")? == ["native", "native"]);
    let bars = browser.run("return [...document.querySelectorAll('svg rect.blocked')].filter(r => r.height.baseVal.value > 0).length")?;
    ensure!(bars.as_u64().is_some_and(|bars| bars >= 22), "{bars} bars of the day");
    let captions =
        browser.run("return [...document.querySelectorAll('table')].every(table => table.caption)")?;
    ensure!(captions == Value::Bool(true));
    nothing_ran(&browser)?;
    fits(&browser)?;
    can_be_read(&browser)?;

    // Read anew without a click, and what was opened stays open.
    browser.run("document.querySelector('#trend-details').open = true")?;
    let before = browser.text("#facts")?;
    ensure!(eventually(|| browser.text("#facts").is_ok_and(|now| now != before)), "the page is read anew");
    ensure!(browser.run("return document.querySelector('#trend-details').open")? == true);

    for (language, scheme) in [("en", "light"), ("ja", "dark"), ("ja", "light"), ("en", "dark")] {
        browser.scheme(scheme)?;
        browser.goto(&format!("{PAGE}?lang={language}"))?;
        can_be_read(&browser)?;
        if (language, scheme) != ("en", "dark") && (language, scheme) != ("ja", "light") {
            browser.picture(&format!("busy-{scheme}-{language}"), 1100)?;
        }
    }
    browser.picture("busy-dark-en-telephone", 375)?;

    // A daemon that is gone is said to be gone.
    filter.stop(nix::sys::signal::Signal::SIGKILL)?;
    let stale = eventually(|| {
        browser.run("return !document.getElementById('stale').hidden").is_ok_and(|shown| shown == true)
    });
    ensure!(stale, "the page says that it is old");
    Ok(())
}
