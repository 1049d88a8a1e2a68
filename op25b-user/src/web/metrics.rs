//! What Prometheus scrapes. No address is ever a label.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use op25b_ebpf::abi::{self, GROUPS};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Metric, Registry},
};

use super::view::{Reading, SourcesView, View};
use crate::{manifest::Manifest, status::Status};

type Labels = Vec<(&'static str, String)>;
type Fraction = Gauge<f64, std::sync::atomic::AtomicU64>;

const STATES: [&str; 5] = ["enforcing", "suspended", "monitoring", "partial", "detached"];

/// All metrics as OpenMetrics text. What cannot be read is missing, and nothing is enforced as far as is known.
pub(super) fn encode(
    view: &Reading<View>,
    sources: &Reading<SourcesView>,
    now: Timestamp,
) -> Result<String, fmt::Error> {
    let mut book = Book::default();
    let build = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("layout", abi::VERSION.to_string())];
    book.info("build", "This op25b", build.to_vec());
    match view {
        Ok(view) => {
            counters(&mut book, view);
            generation(&mut book, &view.manifest, &view.status);
            attachment(&mut book, &view.status);
            relays(&mut book, &view.status, now);
            changes(&mut book, &view.status, now);
            let names = view.manifest.numbers.len() as f64 / GROUPS as f64;
            book.fraction("map_fill_ratio", FILL, names, vec![("map", "groups".to_owned())]);
        }
        Err(_) => state(&mut book, "detached", false),
    }
    if let Ok(sources) = sources {
        accounts(&mut book, sources);
    }
    book.encode()
}

const FILL: &str =
    "Part of a map that is in use: accounts of sources, and names of groups, renamed and removed ones too";

fn counters(book: &mut Book, view: &View) {
    for counted in &view.counted {
        for total in counted.totals(&view.manifest) {
            let labels = vec![
                ("interface", counted.interface.clone()),
                ("role", counted.role.clone()),
                ("customer", total.customer.unwrap_or_default()),
                ("family", total.family.to_owned()),
                ("reason", total.reason.to_owned()),
                ("verdict", total.verdict.to_owned()),
            ];
            book.count("packets", "Frames judged", total.packets, labels.clone());
            book.count("bytes", "Bytes of them, link header included", total.bytes, labels.clone());
            book.count(
                "attempts",
                "Connection attempts: SYNs without retransmissions",
                total.attempts,
                labels,
            );
        }
    }
    for counted in &view.counted {
        for one in counted.replies() {
            let labels = vec![
                ("interface", counted.interface.clone()),
                ("role", counted.role.clone()),
                ("reply", one.reply.to_owned()),
            ];
            book.count("replies", "What became of frames that were to be answered", one.packets, labels);
        }
    }
    for one in &view.stats.submission {
        let labels = vec![
            ("customer", one.customer.clone().unwrap_or_default()),
            ("family", one.family.to_owned()),
            ("port", one.port.to_string()),
        ];
        book.count(
            "submission_connections",
            "SYNs to the submission ports of relays, where the policy counts them",
            one.attempts,
            labels,
        );
    }
}

fn generation(book: &mut Book, manifest: &Manifest, status: &Status) {
    let policy = vec![("hash", status.policy.hash.clone()), ("path", status.policy.path.clone())];
    book.info("policy", "The policy in force", policy);
    if let Some(current) = status.policy.current {
        book.gauge("policy_current", "Whether the policy file says what is in force", current, vec![]);
    }
    book.number("generation", "Counts up with each change", status.generation, vec![]);
    book.number("generation_age_seconds", "Since the generation took force", status.age, vec![]);
    book.gauge("daemon_up", "Whether the daemon runs; the filter does not need it", status.daemon, vec![]);
    book.gauge("policy_unconfirmed", "Whether a policy is on trial", status.unconfirmed.is_some(), vec![]);
    book.number("warnings", "What `op25b status` warns of", status.warnings.len() as u64, vec![]);
    for group in &manifest.groups {
        let labels = vec![("customer", group.name.clone()), ("mode", group.mode.clone())];
        book.gauge("customer_mode", "What a group does", true, labels);
    }
    state(book, status.state, status.enforcing);
}

fn state(book: &mut Book, now: &str, enforcing: bool) {
    book.gauge("enforcing", "Whether it is attached everywhere and the policy blocks", enforcing, vec![]);
    for state in STATES {
        book.gauge("state", "What `op25b status` says", state == now, vec![("state", state.to_owned())]);
    }
}

fn attachment(book: &mut Book, status: &Status) {
    for interface in &status.interfaces {
        let labels = vec![("interface", interface.name.clone()), ("mode", interface.mode.to_owned())];
        let attached = "Whether the kernel runs this generation's program there";
        book.gauge("interface_attached", attached, interface.attached, labels.clone());
        book.gauge("attach_mode", "How an interface is attached", true, labels);
    }
}

fn relays(book: &mut Book, status: &Status, now: Timestamp) {
    for (hostname, known) in &status.hostnames {
        let labels = vec![("hostname", hostname.clone())];
        if let Some(answered) = known.answered {
            let age = now.duration_since(answered).as_secs_f64().max(0.0);
            book.fraction(
                "relay_age_seconds",
                "Since the DNS last named a relay's addresses",
                age,
                labels.clone(),
            );
        }
        let addresses = known.addresses.len() as u64;
        book.number("relay_addresses", "Addresses that a relay's hostname has", addresses, labels);
    }
}

fn changes(book: &mut Book, status: &Status, now: Timestamp) {
    if let Some(change) = &status.next_change {
        let left = change.at.duration_since(now).as_secs_f64();
        book.fraction("next_change_seconds", "Until something happens by itself", left, vec![]);
    }
    // A suspension that should have ended is one too.
    let over = status.suspension.as_ref().is_some_and(|suspension| suspension.until < now);
    let overdue = status.overdue.len() as u64 + u64::from(over);
    book.number("changes_overdue", "What should have happened by itself", overdue, vec![]);
}

fn accounts(book: &mut Book, sources: &SourcesView) {
    book.number("sources", "Accounts of sources, one for each group and reason", sources.entries, vec![]);
    book.number("sources_capacity", "Accounts that there is room for", sources.room, vec![]);
    book.count("sources_evicted", "Accounts that had to make room for others", sources.evicted, vec![]);
    let fill = sources.entries as f64 / (sources.room.max(1)) as f64;
    book.fraction("map_fill_ratio", FILL, fill, vec![("map", "sources".to_owned())]);
    for (customer, label, number) in &sources.triage {
        let labels = vec![
            ("customer", customer.clone().unwrap_or_default()),
            ("triage", label.map_or("none", |label| label.name()).to_owned()),
        ];
        book.number("sources_by_triage", "Sources that send past the relays", *number, labels);
    }
}

/// Metrics as they are found, each registered once.
#[derive(Default)]
struct Book {
    registry: Registry,
    counters: BTreeMap<&'static str, Family<Labels, Counter>>,
    fractions: BTreeMap<&'static str, Family<Labels, Fraction>>,
}

impl Book {
    fn count(&mut self, name: &'static str, help: &'static str, value: u64, labels: Labels) {
        family(&mut self.registry, &mut self.counters, name, help).get_or_create(&labels).inc_by(value);
    }

    fn fraction(&mut self, name: &'static str, help: &'static str, value: f64, labels: Labels) {
        family(&mut self.registry, &mut self.fractions, name, help).get_or_create(&labels).set(value);
    }

    fn number(&mut self, name: &'static str, help: &'static str, value: u64, labels: Labels) {
        self.fraction(name, help, value as f64, labels);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: bool, labels: Labels) {
        self.fraction(name, help, f64::from(u8::from(value)), labels);
    }

    fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.registry.register(format!("op25b_{name}"), help, Info::new(labels));
    }

    fn encode(self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn family<'b, M>(
    registry: &mut Registry,
    families: &'b mut BTreeMap<&'static str, Family<Labels, M>>,
    name: &'static str,
    help: &'static str,
) -> &'b Family<Labels, M>
where
    M: Default,
    Family<Labels, M>: Metric + Clone,
{
    families.entry(name).or_insert_with(|| {
        let family = Family::default();
        registry.register(format!("op25b_{name}"), help, family.clone());
        family
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn without_a_view_nothing_is_enforced() {
        let gone: Arc<str> = "gone".into();
        let text = encode(&Err(gone.clone()), &Err(gone), Timestamp::UNIX_EPOCH).unwrap_or_default();
        assert!(text.contains("\nop25b_enforcing{} 0.0\n"), "{text}");
        assert!(text.contains("op25b_state{state=\"detached\"} 1.0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn labels_stay_labels() {
        let mut book = Book::default();
        book.count("packets", "Frames", 1, vec![("customer", "a\"} 1\nop25b_enforcing 1\\".to_owned())]);
        let text = book.encode().unwrap_or_default();
        assert!(text.contains(r#"op25b_packets_total{customer="a\"} 1\nop25b_enforcing 1\\"} 1"#), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("op25b_enforcing")), "{text}");
    }
}
