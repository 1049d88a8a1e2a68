//! What a real Prometheus makes of the metrics, the alert rules and the dashboard.

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod http;
#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use http::{Answer, HOSTILE, LISTEN, attempts, get, listens, policy, say_to};
use lab::{Filter, Namespace, eventually, finish, syn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn noc() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/noc")
}

fn promtool(arguments: &[&str]) -> Result<lab::Answer> {
    let mut command = Command::new("promtool");
    finish(command.args(arguments).current_dir(noc()), Duration::from_secs(30))
        .context("promtool is in Debian's package prometheus; `cargo xtask setup` installs it")
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() -> Result<()> {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]] {
        let answer = promtool(&arguments)?;
        ensure!(answer.code == Some(0), "{}\n{}", answer.stdout, answer.stderr);
    }
    // Every alert is tried both ways, and explained in both languages.
    let read = |name: &str| fs::read_to_string(noc().join(name));
    let (rules, tests) = (read("alerts.yml")?, read("alerts-test.yml")?);
    let manuals = [read("README.md")?, read("README.ja.md")?];
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let tried = tests.split(&format!("alertname: {alert}")).count() - 1;
        ensure!(tried >= 2, "{alert} is tried {tried} times");
        ensure!(
            manuals.iter().all(|manual| manual.contains(&format!("| {alert} |"))),
            "{alert} is not explained"
        );
    }
    Ok(())
}

/// A Prometheus of this test; it ends with it.
struct Prometheus<'n> {
    namespace: &'n Namespace,
    process: Child,
    folder: tempfile::TempDir,
}

const PROMETHEUS: &str = "127.0.0.1:9090";
/// Where a router has its policy.
const POLICY: &str = "/etc/op25b/policy.yaml";

impl<'n> Prometheus<'n> {
    fn start(namespace: &'n Namespace, targets: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = noc().join("alerts.yml").canonicalize()?;
        let config = serde_json::json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "op25b",
                "static_configs": [{"targets": targets}],
                // Routers have their policy in one place, filters of a test in folders of their own.
                "metric_relabel_configs": [{
                    "source_labels": ["path"],
                    "regex": ".+",
                    "target_label": "path",
                    "replacement": POLICY,
                }],
            }],
        });
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, config.to_string())?;
        let log = fs::File::create(folder.path().join("log"))?;
        let process = namespace
            .command("prometheus")?
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .arg("--log.level=warn")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("prometheus is in Debian's package of that name; `cargo xtask setup` installs it")?;
        Ok(Self { namespace, process, folder })
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What its HTTP API answers.
    fn ask(&self, path: &str) -> Result<Value> {
        let text = format!("GET {path} HTTP/1.0\r\nHost: {PROMETHEUS}\r\n\r\n");
        let answer: Answer = say_to(self.namespace, PROMETHEUS, text.as_bytes())?;
        let value = answer.json()?;
        ensure!(value["status"] == "success", "{path}: {value}");
        Ok(value["data"].clone())
    }

    /// The samples of an expression, by a label.
    fn query(&self, expression: &str, label: &str) -> Result<BTreeMap<String, f64>> {
        let encoded: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}"))?;
        let samples = data["result"].as_array().with_context(|| format!("no vector: {data}"))?;
        samples
            .iter()
            .map(|sample| {
                let name = sample["metric"][label].as_str().unwrap_or_default().to_owned();
                let value = sample["value"][1].as_str().context("a sample has a value")?.parse()?;
                Ok((name, value))
            })
            .collect()
    }

    /// Waits for exactly these samples.
    fn comes_to(&self, expression: &str, label: &str, expected: &[(&str, f64)]) -> Result<()> {
        let expected: BTreeMap<String, f64> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let mut last = Ok(BTreeMap::new());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            last = self.query(expression, label);
            if last.as_ref().is_ok_and(|last| *last == expected) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(200));
        }
        bail!("{expression}: {last:?}, to be expected {expected:?}; {}", self.said())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.process.id()) else { return };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if !eventually(|| matches!(self.process.try_wait(), Ok(Some(_)))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// A router with its customer.
fn router(noc: &Namespace, number: u8) -> Result<(Namespace, Namespace, String)> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    edge.veth("mgmt0", noc, &format!("edge{number}"))?;
    edge.address("mgmt0", &[&format!("192.0.2.{}/30", 4 * number + 129)])?;
    noc.address(&format!("edge{number}"), &[&format!("192.0.2.{}/30", 4 * number + 130)])?;
    let listen = format!("192.0.2.{}:9025", 4 * number + 129);
    Ok((customer, edge, listen))
}

fn remote(listen: &str, more: &str) -> String {
    let local = policy(listen, more);
    local.replace(&format!("listen: \"{listen}\""), &format!("listen: \"{listen}\", allow_remote: true"))
}

/// Names of metrics in a text of rules or panels.
fn names(text: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !word(character))
        .filter(|word| word.starts_with("op25b_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_real_prometheus_sees_two_routers_to_the_packet() -> Result<()> {
    let noc_side = Namespace::new("noc")?;
    let (customer1, edge1, listen1) = router(&noc_side, 0)?;
    let (customer2, edge2, listen2) = router(&noc_side, 1)?;
    let (mut filter1, mut filter2) = (Filter::new(&edge1)?, Filter::new(&edge2)?);
    let counting = "count_submission: true";
    filter1.start(&remote(&listen1, counting), &[])?;
    // By generic XDP; with a name that the DNS does not know, and dates: one that comes now and waits for the clock, which
    // nothing synchronises here, and one far off.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let dates = "operator: Elsewhere\nexemptions:\n  \
                 - {prefixes: [203.0.113.64/28], reason: test, ticket: T-1, expires: 2099-03-31}\n";
    let other = remote(&listen2, dates)
        .replace("customer: [eth1]", "customer: [{name: eth1, attach: generic}]")
        .replace("mode: monitor}", &format!("mode: enforce, enforce_from: \"{soon:.0}\"}}"))
        .replace(
            "  - {name: post,",
            "  - {name: named, hostname: post.example.invalid, within: [192.0.2.0/24]}\n  - {name: post,",
        );
    filter2.start(&other, &[])?;
    ensure!(
        listens(&noc_side, &listen1) && listens(&noc_side, &listen2),
        "{} {}",
        filter1.said(),
        filter2.said()
    );

    let prometheus = Prometheus::start(&noc_side, &[&listen1, &listen2])?;
    let both = |one: f64, other: f64| [(listen1.as_str(), one), (listen2.as_str(), other)];
    prometheus.comes_to("up", "instance", &both(1.0, 1.0))?;

    let blocked = attempts("203.0.113.10", 137, 20)?;
    let again = blocked.first().context("a frame")?.clone();
    let monitored = attempts("198.51.100.200", 11, 3)?;
    let to_submission = syn([203, 0, 113, 12].into(), [192, 0, 2, 25].into(), 40_000, 587);
    let frames = blocked.iter().chain(&monitored).chain([&to_submission]);
    customer1.mouth("cust1")?.send(frames.map(Vec::as_slice))?;
    let again = [again.as_slice(), again.as_slice(), again.as_slice()];
    customer2.mouth("cust1")?.send(again)?;

    let by_instance = |name: &str, filter: &str| format!("sum by (instance) ({name}{{{filter}}})");
    prometheus.comes_to(&by_instance("op25b_packets_total", ""), "instance", &both(148.0, 3.0))?;
    let dropped = r#"interface="eth1",role="customer",customer="residential",family="ipv4",reason="blocked",verdict="drop""#;
    prometheus.comes_to(&by_instance("op25b_packets_total", dropped), "instance", &both(137.0, 3.0))?;
    prometheus.comes_to(
        &by_instance("op25b_bytes_total", dropped),
        "instance",
        &both(137.0 * 54.0, 3.0 * 54.0),
    )?;
    // Three times the same SYN are one attempt.
    prometheus.comes_to(&by_instance("op25b_attempts_total", dropped), "instance", &both(137.0, 1.0))?;
    prometheus.comes_to(
        r#"sum by (customer) (op25b_packets_total{verdict="pass"})"#,
        "customer",
        &[(HOSTILE, 11.0)],
    )?;
    prometheus.comes_to("op25b_submission_connections_total", "port", &[("587", 1.0)])?;
    prometheus.comes_to("op25b_enforcing", "instance", &both(1.0, 1.0))?;
    prometheus.comes_to("op25b_generation", "instance", &both(1.0, 1.0))?;
    prometheus.comes_to(
        r#"op25b_sources_by_triage{triage="bot?"} > 0"#,
        "instance",
        &[(listen1.as_str(), 1.0)],
    )?;
    prometheus.comes_to("op25b_attach_mode == 1", "mode", &[("generic", 1.0), ("native", 1.0)])?;
    prometheus.comes_to(
        "count by (path) (count by (path, hash) (op25b_policy_info))",
        "path",
        &[(POLICY, 2.0)],
    )?;
    // What the commands say is what Prometheus has.
    ensure!(filter1.counted()?.iter().map(|(_, packets, _)| packets).sum::<u64>() == 148);

    prometheus.comes_to(
        r#"count by (path) (ALERTS{alertname="Op25bPolicyDiffers",alertstate=~"pending|firing"})"#,
        "path",
        &[(POLICY, 1.0)],
    )?;
    // On what the routers really say.
    let answer = filter2.op25b(&["suspend", "--for", "1h"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let nobody = syn([198, 18, 0, 9].into(), [192, 0, 2, 200].into(), 40_000, 25);
    customer2.mouth("cust1")?.send([nobody.as_slice()])?;
    filter2.policy(&other.replace("Elsewhere", "Nowhere"))?;
    for alert in [
        "Op25bNotEnforcing",
        "Op25bUnknownSources",
        "Op25bGenericMode",
        "Op25bRelayStale",
        "Op25bChangeOverdue",
        "Op25bPolicyFileDiffers",
    ] {
        if alert == "Op25bChangeOverdue" && op25b::clock::is_synchronised() {
            println!("metrics: {alert} is not seen here: the clock is right, and the date was taken in time");
            continue;
        }
        let waiting = format!(
            r#"count by (alertname, instance) (ALERTS{{alertname="{alert}",alertstate=~"pending|firing"}})"#
        );
        prometheus.comes_to(&waiting, "instance", &[(listen2.as_str(), 1.0)])?;
    }
    // Every panel can be asked for, and every metric in rules and panels exists, but for what there is not here.
    let dashboard = fs::read_to_string(noc().join("dashboard.json"))?;
    let value: Value = serde_json::from_str(&dashboard)?;
    let panels = value["panels"].as_array().context("panels")?;
    let mut asked = 0;
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let expression = target["expr"].as_str().context("an expression")?.replace("$router", ".*");
        prometheus.query(&expression, "instance").with_context(|| expression.clone())?;
        asked += 1;
    }
    ensure!(asked >= 12, "{asked} expressions");
    let known: BTreeSet<String> = prometheus
        .ask("/api/v1/label/__name__/values")?
        .as_array()
        .context("names")?
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    // Of a name that was answered once: see the tests of hostnames.
    let elsewhere = ["op25b_relay_age_seconds"];
    for name in names(&dashboard).union(&names(&fs::read_to_string(noc().join("alerts.yml"))?)) {
        ensure!(known.contains(name) || elsewhere.contains(&name.as_str()), "{name} is nowhere: {known:?}");
    }
    Ok(())
}

#[test]
fn the_text_is_openmetrics_and_names_no_address() -> Result<()> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    let mut filter = Filter::new(&edge)?;
    // A date to come, and a relay whose name is never answered.
    let text = policy(
        LISTEN,
        "exemptions: [{prefixes: [203.0.113.64/28], reason: test, ticket: T-1, expires: 2099-03-31}]",
    )
    .replace(
        "  - {name: post,",
        "  - {name: named, hostname: post.example.invalid, within: [192.0.2.0/24]}\n  - {name: post,",
    );
    filter.start(&text, &[])?;
    ensure!(listens(&edge, LISTEN), "{}", filter.said());
    let frames = attempts("203.0.113.10", 20, 20)?;
    customer.mouth("cust1")?.send(frames.iter().map(Vec::as_slice))?;
    filter.counts(&[("residential ipv4 blocked drop", 20, 20 * 54)])?;
    thread::sleep(Duration::from_secs(3));
    let answer = get(&edge, "/metrics")?;
    let kind = answer.header("content-type");
    ensure!(kind == Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), "{kind:?}");
    let text = answer.body;
    ensure!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    for line in [
        r#"op25b_packets_total{interface="eth1",role="customer",customer="residential",family="ipv4",reason="blocked",verdict="drop"} 20"#,
        r#"op25b_interface_attached{interface="eth1",mode="native"} 1.0"#,
        r#"op25b_state{state="enforcing"} 1.0"#,
        r#"op25b_sources_capacity{} 262144.0"#,
        r#"op25b_sources_evicted_total{} 0"#,
        r#"op25b_changes_overdue{} 0.0"#,
        r#"op25b_daemon_up{} 1.0"#,
        r#"op25b_relay_addresses{hostname="post.example.invalid"} 0.0"#,
    ] {
        ensure!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    ensure!(
        text.contains("op25b_next_change_seconds{} ") && text.contains("op25b_build_info{version="),
        "{text}"
    );
    ensure!(text.contains("op25b_map_fill_ratio{map=\"sources\"}"), "{text}");
    ensure!(!text.contains("203.0.113.") && !text.contains("192.0.2."), "an address: {text}");
    Ok(())
}
