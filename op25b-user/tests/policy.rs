//! What a policy and the files beside it mean: dates, names, prefixes, warnings; and what is wrong with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use op25b::{
    document,
    policy::{Override, Policy},
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A policy and its files in a directory of their own.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), contents).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, policy: &str) -> Result<Policy, Vec<String>> {
        fs::write(self.path("policy.yaml"), policy).unwrap();
        Policy::read(&self.path("policy.yaml"), &Override::default()).map_err(|invalid| {
            let directory = format!("{}/", self.0.path().display());
            invalid.errors.iter().map(|error| error.replace(&directory, "")).collect()
        })
    }

    fn valid(&self, policy: &str) -> Policy {
        self.read(policy).unwrap_or_else(|errors| panic!("{errors:#?}\n{policy}"))
    }

    /// The only error.
    fn error(&self, policy: &str) -> String {
        let errors = self.read(policy).expect_err(policy);
        let [error] = errors.as_slice() else { panic!("{errors:#?}") };
        error.clone()
    }

    /// The only error, which has these words.
    fn names(&self, policy: &str, words: &[&str]) {
        let error = self.error(policy);
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }

    /// The only warning, which has these words.
    fn warns(&self, policy: &str, words: &[&str]) {
        let warnings = self.valid(policy).warnings;
        let [warning] = warnings.as_slice() else { panic!("{warnings:#?}\n{policy}") };
        for word in words {
            assert!(warning.contains(word), "{word:?} is not in {warning:?}");
        }
    }
}

#[test]
fn destinations_are_kept_for_seven_days_where_the_policy_says_no_other_time() {
    let folder = Folder::new();
    let kept = |key: &str| {
        let tail = format!("history: {{ path: /h.db{key} }}\n");
        let policy = folder.valid(&policy(GROUP, &tail));
        policy.outputs.history.unwrap().keep_destinations
    };
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
    assert_eq!(kept(""), None);
    assert_eq!(kept(", keep_destinations: false"), None);
    assert_eq!(kept(", keep_destinations: true"), days(7));
    assert_eq!(kept(", keep_destinations: 14d"), days(14));
}

#[test]
fn a_notice_is_what_the_operator_says() {
    let group = ["prefixes: [203.0.113.0/24]", "mode: enforce", "action: notice"];
    let folder = Folder::new();
    let told = |head: &str, notice: &str| {
        let notice = folder.valid(&policy(&group, &format!("{head}notice: {notice}\n"))).notice.unwrap();
        let text = notice.text().unwrap();
        let bytes: Vec<u8> = text.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let sent = String::from_utf8(bytes[..text.length as usize].to_vec()).unwrap();
        assert_eq!(sent.trim_end_matches(['\r', '\n', ' ']), notice.line);
        assert!(sent.ends_with("\r\n") && sent.len().is_multiple_of(2) && sent.len() <= 150, "{sent:?}");
        (notice.line, notice.hangs_up)
    };
    let url = "https://www.example.jp/op25b";
    assert_eq!(
        told("operator: Internet Kurume\n", &format!("{{text: port 25 is blocked, url: \"{url}\"}}")),
        (format!("554 5.7.1 Internet Kurume: port 25 is blocked {url}"), false)
    );
    assert_eq!(
        told("", "{text: port 25 is blocked, reply: 421}"),
        ("421 4.7.1 port 25 is blocked".to_owned(), true)
    );
    assert_eq!(told("", "{text: odd}").0.len() % 2, 1);
    // The longest.
    assert_eq!(told("", &format!("{{text: {}}}", "x".repeat(138))).0.len(), 148);
}

#[test]
fn answers_that_do_not_come_about_are_told_of() {
    let folder = Folder::new();
    let group = ["prefixes: [203.0.113.0/24]", "mode: enforce", "action: notice"];
    folder.names(&policy(&group, ""), &["residential", "notice:", "action: reset"]);
    let silent = ["prefixes: [203.0.113.0/24]", "mode: enforce"];
    folder.warns(&policy(&silent, "notice: {text: a}\n"), &["no group", "action: notice"]);
    let shared = [&silent[..], &["action: reset", "shared: true"]].concat();
    folder.warns(&policy(&shared, ""), &["residential", "shared", "by address"]);
    let egress = "interfaces: {customer: [{name: eth0, attach: tc-egress}]}\n";
    let reset = [&silent[..], &["action: reset"]].concat();
    folder.warns(&policy(&reset, egress), &["eth0", "tc-egress", "not answered"]);
    folder.names(
        &policy(&[&silent[..], &["action: notice"]].concat(), "operator: \u{4e45}\nnotice: {text: a}\n"),
        &["operator", "ASCII"],
    );
}

/// A policy with one group of these lines, and these behind it. The group's first line is the fifth.
fn policy(group: &[&str], tail: &str) -> String {
    format!(
        "version: 1\nrelays: [{{name: post, addresses: [192.0.2.25]}}]\ncustomers:\n  - name: residential\n    {}\n\
         unknown_sources: pass\nipv6: unfiltered\n{tail}",
        group.join("\n    ")
    )
}

const GROUP: &[&str] = &["prefixes: [203.0.113.0/24]", "mode: enforce"];
const FROM_FILE: &[&str] = &["prefixes_file: residential.txt", "mode: enforce"];

fn exemption(expires: &str) -> String {
    format!("exemptions:\n  - prefixes: [203.0.113.128/28]\n    expires: {expires}\n")
}

fn end(zone: &str, day: &str) -> Option<Timestamp> {
    let text = policy(GROUP, &format!("timezone: {zone}\n{}", exemption(day)));
    let document = document::parse(&text, "policy.yaml").unwrap();
    let read = Policy::from_document(document, "policy.yaml", &text, &Override::default()).unwrap();
    read.exemptions[0].expires
}

#[test]
fn a_date_lasts_to_the_end_of_its_day() {
    for (zone, day, end_of_day) in [
        ("Asia/Tokyo", "2027-03-31", "2027-04-01T00:00:00+09:00"),
        ("UTC", "2028-02-29", "2028-03-01T00:00:00Z"),
        // 23 hours, 25 hours.
        ("Europe/Berlin", "2027-03-28", "2027-03-29T00:00:00+02:00"),
        ("Europe/Berlin", "2027-10-31", "2027-11-01T00:00:00+01:00"),
        // There was no midnight.
        ("America/Sao_Paulo", "2018-11-03", "2018-11-04T01:00:00-02:00"),
        // 23 o'clock came twice.
        ("America/Sao_Paulo", "2018-02-17", "2018-02-18T00:00:00-03:00"),
        // Midnight came twice.
        ("America/Havana", "2018-11-03", "2018-11-04T00:00:00-04:00"),
        // The next day was left out.
        ("Pacific/Apia", "2011-12-29", "2011-12-31T00:00:00+14:00"),
    ] {
        assert_eq!(end(zone, day), Some(end_of_day.parse().unwrap()), "{day} in {zone}");
    }
    let utc = Folder::new().valid(&policy(GROUP, &exemption("2099-12-31")));
    assert_eq!(utc.timezone, TimeZone::UTC);
    assert_eq!(utc.exemptions[0].expires, Some("2100-01-01T00:00:00Z".parse().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// The moment before is still that day, and the moment itself no longer.
    #[test]
    fn every_date_ends_where_its_day_does(days in 0..80_000_i32, zone in 0..10_usize) {
        let name = [
            "Asia/Tokyo", "Europe/London", "America/New_York", "America/Sao_Paulo", "America/Havana",
            "Australia/Lord_Howe", "Africa/Cairo", "Asia/Tehran", "Pacific/Apia", "Asia/Beirut",
        ][zone];
        let zone = TimeZone::get(name).unwrap();
        let day = Date::new(1980, 1, 1).unwrap().checked_add(days.days()).unwrap();
        let end = end(name, &day.to_string()).unwrap();
        let last = end.checked_sub(1.nanosecond()).unwrap();
        prop_assert!(zone.to_datetime(end).date() > day, "{day} in {name} ends at {end}");
        prop_assert!(zone.to_datetime(last).date() <= day, "{day} in {name} ends at {end}");
    }
}

#[test]
fn a_moment_has_its_offset() {
    let folder = Folder::new();
    let from = |written: &str| {
        policy(&[GROUP, &[&format!("enforce_from: {written}")]].concat(), "timezone: Asia/Tokyo\n")
    };
    let read = folder.valid(&from("2008-04-01T00:00:00+09:00"));
    assert_eq!(read.groups[0].enforce_from, Some("2008-03-31T15:00:00Z".parse().unwrap()));
    assert_eq!(folder.valid(&from("2008-04-01T00:00:00Z")).warnings, [""; 0]);
    // What would be right is what was written, with the offset that it has there.
    for written in ["2008-04-01", "2008-04-01T00:00:00", "\"2008-04-01 00:00\""] {
        folder.names(
            &from(written),
            &[
                "policy.yaml:7: ",
                "residential",
                "enforce_from",
                written.trim_matches('"'),
                "2008-04-01T00:00:00+09:00",
            ],
        );
    }
    for written in ["soon", "2008-02-30T00:00:00+09:00", "\"\"", "~", "20080401", "1206975600"] {
        folder.names(&from(written), &["policy.yaml:7: ", "enforce_from", "+09:00"]);
    }
    for written in
        ["2027-3-31", "31.03.2027", "2027-02-29", "tomorrow", "2027-03-31T12:00:00", "\"\"", "20270331"]
    {
        folder.names(&policy(GROUP, &exemption(written)), &["policy.yaml:11: ", "expires", "2027-03-31"]);
    }
    folder.names(&policy(GROUP, &exemption("9999-12-31")), &["9999-12-31", "too far"]);
    let read = folder.valid(&policy(GROUP, &exemption("2099-03-31T12:00:00+09:00")));
    assert_eq!(read.exemptions[0].expires, Some("2099-03-31T03:00:00Z".parse().unwrap()));
}

#[test]
fn a_time_zone_that_nobody_knows_is_refused() {
    for zone in ["Asia/Kurume", "JST", "+09:00", "\"\"", "../../etc/passwd", "\"Asia/Tokyo\\0\""] {
        let tail = format!("timezone: {zone}\n");
        Folder::new().names(&policy(GROUP, &tail), &["policy.yaml:9: ", "timezone", "Asia/Tokyo"]);
    }
}

#[test]
fn a_date_that_does_nothing_is_warned_of() {
    let group = ["prefixes: [203.0.113.0/24]", "mode: monitor", "enforce_from: 2008-04-01T00:00:00+09:00"];
    Folder::new()
        .warns(&policy(&group, ""), &["policy.yaml:7: ", "residential", "enforce_from", "mode: monitor"]);
}

#[test]
fn an_ipv6_customer_has_48_to_64_bits() {
    let group = |length: &str| policy(&[GROUP, &[&format!("ipv6_source_length: {length}")]].concat(), "");
    for length in [48, 56, 64] {
        let read = Folder::new().valid(&group(&length.to_string()));
        assert_eq!(read.groups[0].ipv6_source_length, length);
    }
    for length in ["0", "47", "65", "128", "320", "-1"] {
        Folder::new().names(&group(length), &["policy.yaml:7: ", "ipv6_source_length", length, "48 to 64"]);
    }
    assert_eq!(Folder::new().valid(&policy(GROUP, "")).groups[0].ipv6_source_length, 64);
}

fn relay(lines: &[&str]) -> String {
    policy(GROUP, "").replace(
        "relays: [{name: post, addresses: [192.0.2.25]}]",
        &format!("relays:\n  - name: post\n    {}", lines.join("\n    ")),
    )
}

#[test]
fn a_relay_is_known_by_addresses_or_by_name() {
    let folder = Folder::new();
    let both = ["hostname: Post.ktarn.or.jp.", "within: [192.0.2.0/24]", "addresses: [192.0.2.25]"];
    let read = folder.valid(&relay(&both));
    assert_eq!(read.relays[0].hostname.as_deref(), Some("post.ktarn.or.jp"));
    assert_eq!((read.relays[0].within.len(), read.relays[0].prefixes.len(), read.warnings.len()), (1, 1, 0));
    folder.warns(&relay(&["hostname: post.ktarn.or.jp"]), &["policy.yaml:4: ", "post", "within"]);
    folder.warns(
        &relay(&["addresses: [192.0.2.25]", "within: [192.0.2.0/24]"]),
        &["policy.yaml:5: ", "hostname"],
    );
    folder.names(
        &relay(&["hostname: post.ktarn.or.jp", "addresses: [198.51.100.25]", "within: [192.0.2.0/24]"]),
        &["policy.yaml:5: ", "post", "198.51.100.25", "within"],
    );
    folder.names(&relay(&["hostname: a.jp", "within: [192.0.2.1/24]"]), &["policy.yaml:5: ", "192.0.2.0/24"]);
}

#[test]
fn what_is_no_hostname_is_refused() {
    let long = [["a"; 63].concat().as_str(); 4].join(".");
    for name in ["\"\"", "post_1.jp", "-post.jp", "post-.jp", "post..jp", "post .jp", "ポスト.jp", ".", &long]
    {
        let lines = [&format!("hostname: {name}") as &str, "within: [192.0.2.0/24]"];
        Folder::new().names(&relay(&lines), &["policy.yaml:4: ", "hostname", "post.ktarn.or.jp"]);
    }
    Folder::new().names(&relay(&["hostname: 192.0.2.25", "within: [192.0.2.0/24]"]), &["addresses"]);
}

#[test]
fn prefixes_come_from_a_file() {
    let text = "\u{feff}# customers\r\n203.0.113.0/25\r\n\r\n  203.0.113.128/26 # new\r\n203.0.113.192\r\n2001:db8::/32";
    let folder = Folder::new().with("residential.txt", text);
    let read = folder.valid(&policy(FROM_FILE, "").replace("ipv6: unfiltered\n", ""));
    let prefixes: Vec<_> = read.groups[0].prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["203.0.113.0/25", "203.0.113.128/26", "203.0.113.192/32", "2001:db8::/32"]);
    assert_eq!(read.files, [folder.path("residential.txt")]);
    let both = [FROM_FILE, &["prefixes: [198.51.100.0/24]"]].concat();
    assert_eq!(
        folder.valid(&policy(&both, "").replace("ipv6: unfiltered\n", "")).groups[0].prefixes.len(),
        5
    );
}

#[test]
fn an_error_names_the_line_of_the_file() {
    let check = |text: &str, words: &[&str]| {
        Folder::new().with("residential.txt", text).names(&policy(FROM_FILE, ""), words);
    };
    check("# a\n\n203.0.113.1/24\n", &["residential.txt:3: ", "residential", "203.0.113.0/24"]);
    check("203.0.113.0/24\r\nnobody\r\n", &["residential.txt:2: ", "\"nobody\" is no prefix"]);
    check("203.0.113.0/24,static\n", &["residential.txt:1: ", "is no prefix"]);
    check("203.0.113.0/24\n0.0.0.0/0\n", &["residential.txt:2: ", "allow_any"]);
    check("203.0.113.0/24\n\n203.0.113.0/24\n", &["residential.txt:3: ", "twice"]);
    check("203.0.113.0\0/24\n", &["residential.txt:1: ", "is no prefix"]);
    check("\n\n# nothing\n", &["residential.txt:1: ", "no prefix"]);
    let twice = [FROM_FILE, &["prefixes: [203.0.113.0/24]"]].concat();
    Folder::new()
        .with("residential.txt", "\n203.0.113.0/24\n")
        .names(&policy(&twice, ""), &["residential.txt:2: ", "203.0.113.0/24", "twice"]);
    let groups = policy(GROUP, "").replace(
        "unknown_sources",
        "  - name: business\n    mode: off\n    prefixes_file: residential.txt\nunknown_sources",
    );
    Folder::new()
        .with("residential.txt", "\n203.0.113.0/24\n")
        .names(&groups, &["residential.txt:2: ", "in group residential and in group business"]);
    Folder::new()
        .with("residential.txt", b"203.0.113.0/24\n203.0.113.\xff/24\n")
        .names(&policy(FROM_FILE, ""), &["residential.txt:2: ", "UTF-8"]);
}

#[test]
fn a_million_bad_lines_are_ten_and_a_count() {
    let folder = Folder::new().with("residential.txt", "nobody\n".repeat(1_000_000));
    let start = Instant::now();
    let errors = folder.read(&policy(FROM_FILE, "")).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(errors.len(), 11, "{errors:#?}");
    assert!(errors[9].starts_with("residential.txt:10: "), "{errors:#?}");
    assert!(errors[10].contains("residential.txt") && errors[10].contains("999990 more"), "{errors:#?}");
    let rows = format!("prefix,expires\n{}", "203.0.113.0/24,soon\n".repeat(1_000_000));
    let folder = Folder::new().with("static.csv", rows);
    let errors = folder.read(&policy(GROUP, "exemptions_file: static.csv\n")).unwrap_err();
    assert_eq!(errors.len(), 11, "{errors:#?}");
    assert!(errors[10].contains("999990 more"), "{errors:#?}");
    let folder = Folder::new().with("residential.txt", "203.0.113.0/24\n".repeat(1_000_000));
    let errors = folder.read(&policy(FROM_FILE, "")).unwrap_err();
    assert!(errors.len() == 11 && errors[10].contains("999989 more"), "{errors:#?}");
}

#[test]
fn a_file_that_is_missing_or_never_ends_is_refused() {
    for (file, word) in [
        ("missing.txt", "No such file"),
        ("/dev/zero", "regular"),
        (".", "regular"),
        ("\"\"", "regular"),
        ("\"a\\0b\"", ""),
    ] {
        for (key, line) in [("prefixes_file", 7), ("exemptions_file", 9), ("quarantine_file", 9)] {
            let written = format!("{key}: {file}");
            let text = match key {
                "prefixes_file" => policy(&[GROUP, &[&written]].concat(), ""),
                _ => policy(GROUP, &format!("{written}\n")),
            };
            Folder::new().names(&text, &[&format!("policy.yaml:{line}: "), key, word]);
        }
    }
    let folder = Folder::new();
    nix::unistd::mkfifo(&folder.path("residential.txt"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    folder.names(&policy(FROM_FILE, ""), &["policy.yaml:5: ", "residential.txt", "regular"]);
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let folder = Folder::new();
    fs::File::create(folder.path("residential.txt")).unwrap().set_len(1 << 40).unwrap();
    let start = Instant::now();
    folder.names(&policy(FROM_FILE, ""), &["policy.yaml:5: ", "residential.txt", "256 MiB"]);
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[test]
fn a_huge_line_in_a_file_is_one_short_error() {
    for part in ["x", "1", "203.0.113.0/24,", "\"", "\0"] {
        let folder = Folder::new().with("residential.txt", part.repeat(4 << 20));
        assert!(folder.error(&policy(FROM_FILE, "")).len() < 1000);
        let folder = Folder::new().with("static.csv", format!("prefix,reason\n{}", part.repeat(4 << 20)));
        assert!(folder.error(&policy(GROUP, "exemptions_file: static.csv\n")).len() < 1000);
    }
}

#[test]
fn exemptions_come_from_csv() {
    let text = "\u{feff}# plan\r\n\r\nticket,prefix,reason,expires\r\nNOC-1,203.0.113.16/28,\"office, second floor\",2099-03-31\r\n# gone\r\n,203.0.113.1,,\r\n";
    let folder = Folder::new().with("static.csv", text);
    let tail = format!("timezone: Asia/Tokyo\nexemptions_file: static.csv\n{}", exemption("2099-12-31"));
    let read = folder.valid(&policy(GROUP, &tail));
    assert_eq!((read.exemptions.len(), read.warnings.len()), (3, 0), "{:?}", read.warnings);
    let [_, office, bare] = read.exemptions.as_slice() else { panic!() };
    assert_eq!(office.reason.as_deref(), Some("office, second floor"));
    assert_eq!(office.ticket.as_deref(), Some("NOC-1"));
    assert_eq!(office.expires, Some("2099-03-31T15:00:00Z".parse().unwrap()));
    assert_eq!((bare.prefixes[0].to_string().as_str(), &bare.reason), ("203.0.113.1/32", &None));
    assert_eq!(read.files, [folder.path("static.csv")]);
}

#[test]
fn quarantine_comes_from_csv() {
    let rows = "prefix,relays\n203.0.113.1,true\n203.0.113.2,false\n203.0.113.3,\n";
    let folder = Folder::new().with("hacked.csv", rows);
    let read = folder.valid(&policy(GROUP, "quarantine_file: hacked.csv\n"));
    assert_eq!(read.quarantine.iter().map(|entry| entry.relays).collect::<Vec<_>>(), [true, false, false]);
    let folder = Folder::new().with("hacked.csv", rows.replace("true", "yes"));
    folder.names(
        &policy(GROUP, "quarantine_file: hacked.csv\n"),
        &["hacked.csv:2: ", "relays", "true or false"],
    );
}

#[test]
fn an_error_names_the_line_of_the_csv() {
    let header = "prefix,reason,ticket,expires";
    let check = |text: &str, words: &[&str]| {
        for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
            Folder::new()
                .with("static.csv", text)
                .names(&policy(GROUP, "exemptions_file: static.csv\n"), words);
        }
    };
    check("", &["static.csv:1: ", header]);
    check("# nothing\n", &["static.csv:1: ", header]);
    check("# a\n\nprefix,why\n", &["static.csv:3: ", "\"why\"", header]);
    check("prefix,relays\n", &["static.csv:1: ", "\"relays\"", header]);
    check("reason,ticket\n", &["static.csv:1: ", "`prefix`"]);
    check("prefix,prefix\n", &["static.csv:1: ", "prefix", "twice"]);
    check("prefix;reason\n", &["static.csv:1: ", "prefix;reason", header]);
    let with = |row: &str| format!("{header}\n# a\n\n203.0.113.1,a,b,\n\n# b\n{row}\n203.0.113.2,,,\n");
    check(&with("203.0.113.1/24,,,"), &["static.csv:7: ", "203.0.113.0/24"]);
    check(&with(",a,b,"), &["static.csv:7: ", "is no prefix"]);
    check(&with("203.0.113.3,a,b,31.3.2027"), &["static.csv:7: ", "expires", "31.3.2027", "2027-03-31"]);
    check(&with("203.0.113.3,a,b"), &["static.csv:7: ", "3 columns", "4"]);
    check(&with("203.0.113.3,a,b,,"), &["static.csv:7: ", "5 columns", "4"]);
    check(&with("203.0.113.1,a,b,"), &["static.csv:7: ", "203.0.113.1/32", "twice"]);
    check(&with("203.0.113.3,\"a,b,"), &["static.csv:7: ", "quote"]);
    check(&with("203.0.113.3,\"a\nb\",,"), &["static.csv:7: ", "reason", "one line"]);
    check(&with("203.0.113.3,a\x1b[2J,,"), &["static.csv:7: ", "reason", "control"]);
    // A quote left open takes the rest of the file.
    check("prefix,reason\n203.0.113.1,\"a\n203.0.113.2,b\n", &["static.csv:2: ", "quote"]);
}

#[test]
fn the_same_prefix_by_hand_and_in_the_file_is_refused() {
    let folder = Folder::new().with("static.csv", "prefix\n203.0.113.128/28\n");
    let tail = format!("exemptions_file: static.csv\n{}", exemption("2099-12-31"));
    folder.names(&policy(GROUP, &tail), &["static.csv:2: ", "203.0.113.128/28", "twice"]);
}

#[test]
fn the_hash_covers_the_files() {
    let text = policy(FROM_FILE, "exemptions_file: static.csv\n");
    let folder =
        Folder::new().with("residential.txt", "203.0.113.0/24\n").with("static.csv", "prefix\n203.0.113.1\n");
    let read = folder.valid(&text);
    assert_eq!(read.files, [folder.path("residential.txt"), folder.path("static.csv")]);
    let same =
        Folder::new().with("residential.txt", "203.0.113.0/24\n").with("static.csv", "prefix\n203.0.113.1\n");
    assert_eq!(read.hash, same.valid(&text).hash);
    let mut hashes = vec![read.hash, folder.valid(&format!("{text}# changed\n")).hash];
    let folder = folder.with("residential.txt", "203.0.113.0/24 # changed\n");
    hashes.push(folder.valid(&text).hash);
    let folder = folder.with("static.csv", "prefix\n203.0.113.2\n");
    hashes.push(folder.valid(&text).hash);
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}

#[test]
fn an_exemption_for_nobody_or_for_too_many_or_over_is_warned_of() {
    let folder = Folder::new()
        .with("static.csv", "prefix,expires\n203.0.113.1,\n198.51.100.1,\n203.0.113.2,2008-04-01\n");
    let warnings = folder.valid(&policy(GROUP, "exemptions_file: static.csv\n")).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings.iter().any(|line| line.contains("static.csv:3: ") && line.contains("198.51.100.1/32")));
    assert!(warnings.iter().any(|line| line.contains("static.csv:4: ") && line.contains("2008-04-02")));
    folder.warns(
        &policy(GROUP, &exemption("2008-04-01")),
        &["policy.yaml:10: ", "203.0.113.128/28", "2008-04-02"],
    );
    let quarantine = exemption("2008-04-01").replace("exemptions", "quarantine");
    folder.warns(
        &policy(GROUP, &quarantine),
        &["policy.yaml:10: ", "quarantine 203.0.113.128/28", "2008-04-02"],
    );
    let off: Vec<_> = GROUP.iter().map(|line| line.replace("mode: enforce", "mode: off")).collect();
    let off: Vec<_> = off.iter().map(String::as_str).collect();
    folder.warns(&policy(&off, &exemption("2099-12-31")), &["203.0.113.128/28", "nobody", "is off"]);
    // Where those in no group are blocked, it is for them.
    let blocking = |text: String| {
        let both = text.replace("203.0.113.0/24", "203.0.113.0/24, \"2001:db8:1000::/36\"");
        both.replace("pass\nipv6: unfiltered", "block\nipv6: filtered")
    };
    let wider = exemption("2099-12-31").replace("203.0.113.128/28", "203.0.112.0/22");
    for text in [policy(GROUP, &wider.replace("203.0.112.0/22", "198.51.100.0/24")), policy(&off, &wider)] {
        assert_eq!(folder.valid(&text).warnings.len(), 1, "{text}");
        assert_eq!(folder.valid(&blocking(text)).warnings, [""; 0]);
    }
    let shared = [GROUP, &["shared: true"]].concat();
    let read = folder.valid(&policy(&shared, ""));
    assert!(read.groups[0].shared && read.warnings.is_empty());
    folder.warns(
        &policy(&shared, &exemption("2099-12-31")),
        &["policy.yaml:11: ", "203.0.113.128/28", "shared"],
    );
    let around = exemption("2099-12-31").replace("203.0.113.128/28", "203.0.112.0/20");
    folder.warns(&policy(&shared, &around), &["203.0.112.0/20", "shared"]);
    assert_eq!(folder.valid(&policy(GROUP, &around)).warnings, [""; 0]);
}

fn shadowing(first: &str, others: &[&str]) -> Vec<String> {
    let mut text = format!(
        "version: 1\nrelays: [{{name: post, addresses: [192.0.2.25]}}]\nunknown_sources: pass\nipv6: filtered\ncustomers:\n  - {{name: seen, mode: off, prefixes: [\"2001:db8:ffff::/48\"]}}\n  - {{name: first, mode: off, allow_any: true, prefixes: [{first}]}}\n"
    );
    for (prefixes, number) in others.iter().zip(1..) {
        writeln!(text, "  - {{name: other{number}, mode: off, prefixes: [{prefixes}]}}").unwrap();
    }
    Folder::new().valid(&text).warnings
}

#[test]
fn a_group_that_others_cover_is_warned_of() {
    for (first, others) in [
        ("203.0.113.0/24", vec!["203.0.113.0/25, 203.0.113.128/25"]),
        ("203.0.113.0/24", vec!["203.0.113.0/25", "203.0.113.128/26, 203.0.113.192/27", "203.0.113.224/27"]),
        (
            "203.0.113.0/24, 198.51.100.0/31",
            vec!["203.0.113.0/25, 203.0.113.128/25", "198.51.100.0, 198.51.100.1"],
        ),
        ("\"2001:db8::/32\"", vec!["\"2001:db8::/33\"", "\"2001:db8:8000::/33\""]),
        ("0.0.0.0/0", vec!["0.0.0.0/1, 128.0.0.0/1"]),
    ] {
        let warnings = shadowing(first, &others);
        let shadowed: Vec<_> = warnings.iter().filter(|line| line.contains("for nobody")).collect();
        assert!(shadowed.len() == 1 && shadowed[0].contains("policy.yaml:7: group first"), "{warnings:#?}");
    }
    for (first, others) in [
        ("203.0.113.0/24", vec!["203.0.113.0/25"]),
        ("203.0.113.0/24, 203.0.113.128/25", vec!["203.0.113.0/25"]),
        ("203.0.113.0/24, 198.51.100.1", vec!["203.0.113.0/25, 203.0.113.128/25"]),
        ("203.0.113.0/24", vec!["203.0.113.0/25, 203.0.113.128/26, 203.0.113.192/27"]),
        ("\"::/0\"", vec!["\"2001:db8::/33\""]),
        ("\"::/0\"", vec!["\"2001:db8::/33\"", "0.0.0.0/1, 128.0.0.0/1"]),
    ] {
        let warnings = shadowing(first, &others);
        assert!(!warnings.iter().any(|line| line.contains("for nobody")), "{warnings:#?}");
    }
}

#[test]
fn a_relay_around_customers_is_warned_of() {
    let text = policy(GROUP, "").replace("192.0.2.25", "203.0.0.0/16");
    Folder::new().warns(&text, &["policy.yaml:2: ", "post", "203.0.0.0/16", "203.0.113.0/24", "residential"]);
}

/// So many distinct prefixes, in no order.
fn many(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let address =
            (0x0b00_0000_u32).wrapping_add((u64::from(number) * 7_919 % u64::from(count)) as u32 * 64);
        writeln!(text, "{}/{}", std::net::Ipv4Addr::from(address), 26 + number % 7).unwrap();
    }
    text
}

#[test]
fn a_hundred_thousand_of_each_are_read_soon() {
    let rows = |offset: u32| {
        let address = |number: u32| std::net::Ipv4Addr::from(0x0b00_0000 + number * 64 + offset);
        let rows = (0..100_000).map(|number| format!("{},static,NOC-1,2099-03-31\n", address(number)));
        format!("prefix,reason,ticket,expires\n{}", rows.collect::<String>())
    };
    let inline: String = (0..30_000)
        .map(|number: u32| {
            let address = std::net::Ipv4Addr::from(0x0b00_0000 + number * 64 + 2);
            format!("  - prefixes: [{address}]\n    reason: static\n    expires: 2099-12-31\n")
        })
        .collect();
    let folder = Folder::new()
        .with("residential.txt", many(100_000))
        .with("static.csv", rows(0))
        .with("hacked.csv", rows(1));
    let tail = format!("exemptions_file: static.csv\nquarantine_file: hacked.csv\nexemptions:\n{inline}");
    let start = Instant::now();
    let read = folder.valid(&policy(FROM_FILE, &tail));
    assert_eq!((read.exemptions.len(), read.quarantine.len()), (130_000, 100_000));
    assert!(read.warnings.len() <= 111, "{}", read.warnings.len());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

/// For people: `cargo test --release -p op25b-user --test policy -- --ignored --nocapture`.
#[test]
#[ignore = "a figure, which only a release build has"]
fn a_million_prefixes_are_read_within_a_second() {
    let folder = Folder::new().with("residential.txt", many(1_000_000));
    let text = policy(FROM_FILE, "");
    for _ in 0..3 {
        let start = Instant::now();
        let read = folder.valid(&text);
        println!("{} prefixes in {:?}", read.groups[0].prefixes.len(), start.elapsed());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}
