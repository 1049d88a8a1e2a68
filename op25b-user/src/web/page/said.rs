//! What the page says of views that are made up: every state in both languages, hostile names, nothing at all, and
//! more than there is room for.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use ipnetwork::IpNetwork;
use jiff::SignedDuration;

use super::*;
use crate::{
    attach::Hook,
    counters::{Stats, Total},
    manifest::{Group, Manifest},
    relays::Known,
    situation::Change,
    state::{Suspension, Unconfirmed},
    status::PolicyStatus,
};

/// 2008-04-01, 12:30 in Tokyo.
const NOW: i64 = 1_207_020_600;
/// Names that would be markup were they not text.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\" onload=\"alert(1)",
    "' autofocus onfocus='alert(1)",
    "</td></table><img src=x onerror=alert(1)>",
    "<!-- --><svg/onload=alert(1)>&lt;",
];

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap_or_default()
}

fn view(state: &'static str, groups: &[&str]) -> View {
    let groups: Vec<Group> = groups
        .iter()
        .map(|name| Group {
            name: (*name).to_owned(),
            mode: "enforce".to_owned(),
            shared: false,
            ipv6_source_length: 64,
        })
        .collect();
    let manifest = Manifest {
        groups: groups.clone(),
        timezone: "Asia/Tokyo".to_owned(),
        since: now(),
        ..Manifest::default()
    };
    let status = Status {
        enforcing: state == "enforcing",
        state,
        instance: "default".to_owned(),
        generation: 3,
        age: 60,
        daemon: true,
        policy: PolicyStatus {
            path: "/etc/op25b.yaml".to_owned(),
            hash: "abc".to_owned(),
            current: Some(true),
        },
        groups,
        ..Status::default()
    };
    let stats = Stats {
        generation: 3,
        interfaces: Vec::new(),
        totals: Vec::new(),
        submission: Vec::new(),
        replies: Vec::new(),
        seen: Vec::new(),
    };
    View { manifest, status, counted: Vec::new(), stats }
}

fn total(customer: &str, reason: &'static str, verdict: &'static str, packets: u64) -> Total {
    let customer = (!customer.is_empty()).then(|| customer.to_owned());
    Total { customer, family: "ipv4", reason, verdict, packets, bytes: packets * 60, attempts: packets / 11 }
}

fn source(number: u32, customer: &str, triage: Option<Label>) -> Source {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 113, 0)) + number);
    Source {
        source: address.to_string(),
        customer: Some(customer.to_owned()),
        packets: 1100,
        bytes: 66_000,
        attempts: 100,
        destinations: 50,
        first_seen: now(),
        last_seen: now(),
        last_destination: Ipv4Addr::new(192, 0, 2, 200).into(),
        attempts_per_minute: 1.25,
        triage,
        reasons: Vec::new(),
        prefix: IpNetwork::from(std::net::IpAddr::from(address)),
    }
}

fn nobody() -> SourcesView {
    SourcesView {
        accounts: Vec::new(),
        entries: 0,
        room: 65_536,
        evicted: 0,
        top: Vec::new(),
        triage: Vec::new(),
    }
}

fn said(language: Language, view: &View, sources: SourcesView, trend: Option<Vec<Trend>>) -> String {
    let (sources, trend) = (Ok(Arc::new(sources)), trend.map(|trend| Ok(Arc::new(trend))));
    let page = Page { language, view, sources: &sources, trend: trend.as_ref(), now: now() };
    page.render().into_string()
}

#[test]
fn every_state_has_its_words_and_its_colour() {
    for (state, english, japanese) in [
        ("enforcing", "ENFORCING", "規制中"),
        ("suspended", "SUSPENDED", "一時停止中"),
        ("monitoring", "MONITORING, NOT BLOCKING", "監視のみ"),
        ("partial", "NOT ENFORCING EVERYWHERE", "一部で規制されていません"),
        ("detached", "NOT ENFORCING", "規制されていません"),
        ("a state that is not known yet", "NOT ENFORCING", "規制されていません"),
    ] {
        for (language, words) in [(Language::English, english), (Language::Japanese, japanese)] {
            let page = said(language, &view(state, &["a"]), nobody(), None);
            let verdict = page.split("class=\"verdict\"").nth(1).and_then(|rest| rest.split("</p>").next());
            let verdict = verdict.unwrap_or_default();
            assert!(verdict.contains(words), "{state}: {verdict}");
            if state == "enforcing" {
                assert!(verdict.contains('✓') && !verdict.contains("NOT"), "{verdict}");
            } else {
                assert!(
                    !verdict.contains('✓') && !page.contains("class=\"state enforcing\""),
                    "{state}: {verdict}"
                );
            }
        }
    }
}

/// A group that somebody has suspended is one that somebody must not forget.
#[test]
fn one_suspended_group_is_not_enforcing() {
    let mut view = view("enforcing", &["a", "b"]);
    view.status.enforcing = false;
    view.status.suspension = Some(Suspension {
        what: Suspended::Groups(["b".to_owned()].into()),
        until: now() + SignedDuration::from_hours(2),
        by: "root".to_owned(),
    });
    let page = said(Language::English, &view, nobody(), None);
    assert!(page.contains("SUSPENDED") && page.contains("2008-04-01 14:30:00 +09:00"), "{page}");
    assert!(!page.contains("class=\"state enforcing\""), "{page}");
}

#[test]
fn names_are_text_wherever_they_are_shown() {
    let mut view = view("enforcing", &HOSTILE);
    let hostile = || HOSTILE.join(" ");
    view.manifest.relays = HOSTILE.map(str::to_owned).to_vec();
    view.status.instance = hostile();
    view.status.policy.path = hostile();
    view.status.warnings = vec![hostile()];
    view.status.overdue = vec![Change { at: now(), what: hostile() }];
    view.status.next_change = Some(Change { at: now(), what: hostile() });
    view.status.suspension =
        Some(Suspension { what: Suspended::Groups([hostile()].into()), until: now(), by: hostile() });
    view.status.unconfirmed =
        Some(Unconfirmed { policy: hostile().into(), hash: "abc".to_owned(), until: now() });
    let known = Known { alias: Some(hostile()), failure: Some(hostile()), ..Known::default() };
    view.status.hostnames = BTreeMap::from([(hostile(), known)]);
    view.status.interfaces = vec![InterfaceStatus {
        name: hostile(),
        role: hostile(),
        mode: "native",
        hook: Hook::Xdp,
        attached: false,
        program: 1,
        problem: Some(hostile()),
        unanswered: Some(hostile()),
    }];
    view.stats.totals = vec![total(&hostile(), "blocked", "drop", 11)];
    let sources = SourcesView { top: vec![source(1, &hostile(), None)], ..nobody() };
    let trend = vec![Trend {
        hour: now(),
        customer: Some(hostile()),
        reason: "blocked".to_owned(),
        packets: 11,
        attempts: 1,
        sources: 1,
    }];
    for language in [Language::English, Language::Japanese] {
        let page = said(language, &view, nobody(), None);
        let clean = said(language, &self::view("enforcing", &["a"]), nobody(), None);
        for markup in ["<script", "<img", "<svg", "<!--", "</td></table>"] {
            assert_eq!(page.matches(markup).count(), clean.matches(markup).count(), "{markup}: {page}");
        }
        let shown = SourcesView { top: sources.top.clone(), ..nobody() };
        let page = said(language, &view, shown, Some(trend.clone()));
        // One script that is ours, one drawing that is ours.
        assert_eq!(page.matches("<script").count(), 1, "{page}");
        assert_eq!(page.matches("<svg").count(), 1, "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
        // Each quote of a name is written out, so that it ends no attribute.
        assert!(!page.contains("\" onload=") && page.contains("&quot; onload=&quot;"), "{page}");
        for inline in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}: {page}");
        }
    }
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let page = said(Language::English, &view("monitoring", &[]), nobody(), None);
    for words in [
        "No source has sent past the relays yet.",
        "nothing is scheduled",
        "history: { path: /var/lib/op25b/history.db, keep: 90d }",
        "The policy names none.",
        "10 destinations or more",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = said(Language::English, &view("monitoring", &[]), nobody(), Some(Vec::new()));
    assert!(page.contains("Nothing has been written down") && !page.contains("<svg"), "{page}");
}

#[test]
fn a_busy_view_is_summed_and_cut() {
    let mut view = view("enforcing", &["a", "b"]);
    view.stats.totals = vec![
        total("a", "blocked", "drop", 1_100_000),
        total("a", "relay", "pass", 22),
        total("b", "would-block", "pass", 330),
        total("gone", "blocked", "notice", 44),
        total("", "unknown-source", "pass", 55),
        total("a", "blocked", "reset", u64::from(u32::MAX)),
    ];
    let labels = [Some(Label::Bot), Some(Label::Settings), Some(Label::Quiet), None];
    let top: Vec<Source> =
        (0..200).zip(labels.into_iter().cycle()).map(|(number, label)| source(number, "a", label)).collect();
    let sources = SourcesView {
        triage: vec![(Some("a".to_owned()), Some(Label::Bot), 12_000), (Some("b".to_owned()), None, 5)],
        top,
        entries: 12_005,
        evicted: 4_321,
        ..nobody()
    };
    let page = said(Language::Japanese, &view, sources, None);
    for words in [
        "4,296,067,295",
        "330",
        "gone",
        "現ポリシーになし",
        "グループ外",
        "12,000",
        "ボット?",
        "設定?",
        "沈静",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert_eq!(page.matches("203.0.113.").count(), SHOWN, "no more sources than are shown");
    assert!(page.contains("12,005件中25件") && page.contains("記録4,321件"), "{page}");
    // Every table says what it holds, and every section has a heading.
    assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
}
