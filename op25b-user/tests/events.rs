//! Events: what commands and a collector are told of single frames, as it happens.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, KURUME, eventually, syn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use site::{CUSTOMER, OUTSIDE, RELAY, Site};

/// Processes of a test, ended by their number.
struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn follow(filter: &Filter<'_>, arguments: &[&str]) -> Result<Child> {
    let mut command = filter.command(&[&["events", "--follow", "--json"], arguments].concat())?;
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// The lines of a command that ends by itself.
fn lines(mut child: Child) -> Result<Vec<Value>> {
    ensure!(eventually(|| child.try_wait().is_ok_and(|status| status.is_some())), "it does not end");
    let mut text = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut text)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn started(instance: &Filter<'_>, clients: usize) -> bool {
    // The daemon takes clients in ten times a second, and looks at what they want once a second.
    let socket = instance.state().join("events");
    let there = eventually(|| socket.exists());
    thread::sleep(Duration::from_millis(1500 + 100 * clients as u64));
    there
}

#[test]
fn an_event_says_who_where_and_over_which_line() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
    let all = follow(&filter, &["--count", "3"])?;
    let relayed = follow(&filter, &["--count", "1", "--reason", "relay", "--source", "203.0.113.0/24"])?;
    ensure!(started(&filter, 2), "no socket");
    let plain = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_001, 25);
    // The same customer's neighbour, in a tag of VLAN 7 and a PPPoE session.
    let other = syn("203.0.113.11".parse()?, OUTSIDE.parse()?, 40_002, 25);
    let session = [
        other.get(..12).context("MACs")?,
        &[0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 0x12, 0x34, 0, 42, 0, 0x21],
        other.get(14..).context("IP")?,
    ]
    .concat();
    let ipv6 = syn("2001:db8:1000::9".parse()?, "2001:db8:ffff::25".parse()?, 40_003, 25);
    let relay = syn(CUSTOMER.parse()?, RELAY.parse()?, 40_004, 25);
    let mouth = site.customer.mouth("cust1")?;
    // Eleven of one connection are one event.
    mouth.send(std::iter::repeat_n(plain.as_slice(), 11))?;
    mouth.send([session.as_slice(), &ipv6, &relay])?;

    let heard = lines(all)?;
    let by_port =
        |port: u64| heard.iter().find(|event| event["source_port"] == port).context(port.to_string());
    let event = by_port(40_001)?;
    for (key, value) in [
        ("source", CUSTOMER),
        ("destination", OUTSIDE),
        ("customer", "residential"),
        ("reason", "blocked"),
        ("verdict", "drop"),
        ("interface", "eth1"),
        ("mac", "02:00:00:00:00:25"),
    ] {
        assert_eq!(event[key], value, "{key} of {event:#}");
    }
    assert_eq!((&event["destination_port"], &event["length"]), (&25.into(), &plain.len().into()));
    assert_eq!((&event["syn"], &event["frame"]), (&true.into(), &Value::Null));
    let event = by_port(40_002)?;
    assert_eq!((&event["vlans"][0], &event["pppoe_session"]), (&7.into(), &0x1234.into()), "{event:#}");
    assert_eq!(by_port(40_003)?["source"], "2001:db8:1000::9");
    let relayed = lines(relayed)?;
    assert_eq!(relayed[0]["relay"], "post", "{relayed:?}");
    assert_eq!(relayed[0]["verdict"], "pass");
    Ok(())
}

#[test]
fn a_source_is_told_of_once_a_second_and_the_slow_disturb_nobody() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
    // One that says nothing, and one that asks and never reads.
    let silent = UnixStream::connect(filter.state().join("events"))?;
    let lazy = UnixStream::connect(filter.state().join("events"))?;
    std::io::Write::write_all(&mut &lazy, b"{\"capture_every\":null,\"snapshots\":true}\n")?;
    let mut child = follow(&filter, &["--source", CUSTOMER])?;
    ensure!(started(&filter, 3), "no socket");
    let mouth = site.customer.mouth("cust1")?;
    for second in 0..3_u16 {
        for port in 0..200 {
            let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 41_000 + second * 200 + port, 25);
            mouth.send([frame.as_slice()])?;
        }
        thread::sleep(Duration::from_millis(1100));
    }
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    let heard = BufReader::new(child.stdout.take().context("no stdout")?).lines().count();
    child.wait()?;
    assert!((3..=4).contains(&heard), "{heard} events of 600 attempts in three seconds");
    drop((silent, lazy));
    let (code, status) = filter.status()?;
    ensure!(code == Some(0), "{status:#}");
    filter.stop(Signal::SIGTERM)?;
    let answer = filter.op25b(&["events"])?;
    ensure!(answer.code == Some(1) && answer.stderr.contains("no daemon runs"), "{answer:?}");
    Ok(())
}

#[test]
fn a_capture_holds_headers_and_no_mail() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("dropped.pcapng");
    let file = path.display().to_string();
    let child = filter.command(&["capture", "--write", &file, "--count", "20"])?.spawn()?;
    let mut ends = Ends(vec![child]);
    ensure!(started(&filter, 1), "no socket");
    let mut frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_001, 25);
    // A segment with mail in it: length, no SYN but ACK and PSH.
    let mail = b"MAIL FROM:<someone@example.jp>\r\n".repeat(10);
    let length = (20 + 20 + mail.len()) as u16;
    frame.get_mut(16..18).context("length")?.copy_from_slice(&length.to_be_bytes());
    *frame.get_mut(47).context("flags")? = 0x18;
    frame.extend(&mail);
    site.customer.mouth("cust1")?.send(std::iter::repeat_n(frame.as_slice(), 30))?;
    let child = ends.0.first_mut().context("the capture")?;
    ensure!(eventually(|| child.try_wait().is_ok_and(|status| status.is_some())), "it does not end");
    let read = |field: &str| -> Result<String> {
        let output = Command::new("tshark")
            .args(["-r", &file, "-T", "fields", "-e", field])
            .output()
            .context("cannot run tshark")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let times = read("frame.time_epoch")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    for time in times.lines() {
        let time: f64 = time.parse()?;
        assert!((now - time).abs() < 60.0, "captured at {time}, and it is {now}");
    }
    let lengths = read("frame.len")?;
    assert_eq!(lengths.lines().count(), 20);
    assert!(lengths.lines().all(|line| line == frame.len().to_string()), "{lengths}");
    assert!(read("frame.cap_len")?.lines().all(|line| line == "54"), "{}", read("frame.cap_len")?);
    assert!(read("tcp.dstport")?.lines().all(|line| line == "25"));
    let bytes = fs::read(&path)?;
    assert_eq!(
        fs::metadata(&path)?.permissions().mode() & 0o777,
        0o600,
        "customers' frames are its owner's alone"
    );
    assert!(!bytes.windows(9).any(|window| window == b"MAIL FROM"), "there is mail in it");
    // Who asks for it gets 128 bytes of each, mail and all.
    let whole = directory.path().join("payload.pcapng");
    let answer = {
        let path = whole.display().to_string();
        let mut child =
            filter.command(&["capture", "--payload", "--write", &path, "--count", "5"])?.spawn()?;
        ensure!(started(&filter, 1), "no socket");
        site.customer.mouth("cust1")?.send(std::iter::repeat_n(frame.as_slice(), 30))?;
        ensure!(eventually(|| child.try_wait().is_ok_and(|status| status.is_some())), "it does not end");
        fs::read(&whole)?
    };
    assert!(answer.windows(9).any(|window| window == b"MAIL FROM"), "there is no mail in it");
    // One that is there is kept.
    let answer = filter.op25b(&["capture", "--write", &file, "--for", "1s"])?;
    ensure!(answer.code == Some(1) && answer.stderr.contains("is there"), "{answer:?}");
    assert_eq!(fs::read(&path)?, bytes);
    Ok(())
}

#[test]
fn each_capture_has_its_own_rate_and_an_interrupted_one_says_what_it_has_written() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
    let directory = tempfile::tempdir()?;
    let mut ends = Ends(Vec::new());
    for every in ["10", "1"] {
        let file = directory.path().join(every).display().to_string();
        let mut command = filter.command(&["capture", "--write", &file, "--every", every])?;
        ends.0.push(command.stderr(Stdio::piped()).spawn()?);
    }
    ensure!(started(&filter, 2), "no socket");
    let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, 40_001, 25);
    site.customer.mouth("cust1")?.send(std::iter::repeat_n(frame.as_slice(), 200))?;
    thread::sleep(Duration::from_millis(500));
    for (child, expected) in ends.0.iter_mut().zip([20, 200]) {
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        ensure!(eventually(|| child.try_wait().is_ok_and(|status| status.is_some())), "it does not end");
        let mut said = String::new();
        child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
        ensure!(child.wait()?.success(), "{said}");
        assert!(said.ends_with(&format!("\n{expected} frames written, 0 lost\n")), "{said}");
    }
    Ok(())
}

/// A real collector, by all three ways.
#[test]
fn rsyslog_understands_what_it_gets() -> Result<()> {
    let site = Site::new(1)?;
    let directory = tempfile::tempdir()?;
    let (socket, log) = (directory.path().join("log"), directory.path().join("messages"));
    let config = directory.path().join("rsyslog.conf");
    fs::write(
        &config,
        format!(
            "module(load=\"imudp\")\nmodule(load=\"imtcp\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             module(load=\"mmpstrucdata\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"5514\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"5515\")\n\
             input(type=\"imuxsock\" Socket=\"{}\" UseSpecialParser=\"off\" ParseHostname=\"on\")\n\
             template(name=\"fields\" type=\"string\" string=\"%inputname% %syslogfacility-text%.%syslogseverity-text% \
             %app-name% %msgid% %$!rfc5424-sd!op25b@32473!source% %$!rfc5424-sd!op25b@32473!customer% \
             %$!rfc5424-sd!op25b@32473!reason%\\n\")\n\
             action(type=\"mmpstrucdata\")\naction(type=\"omfile\" file=\"{}\" template=\"fields\")\n",
            socket.display(),
            log.display()
        ),
    )?;
    let pid = directory.path().join("pid");
    let daemon = site
        .edge
        .command("rsyslogd")?
        .args(["-n", "-f"])
        .arg(&config)
        .arg("-i")
        .arg(&pid)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start rsyslogd")?;
    let _ends = Ends(vec![daemon]);
    ensure!(eventually(|| socket.exists()), "rsyslogd does not listen");
    let mut filter = Filter::new(&site.edge)?;
    let ways = [
        (format!("{}", socket.display()), "imuxsock"),
        ("udp://127.0.0.1:5514".to_owned(), "imudp"),
        ("tcp://127.0.0.1:5515".to_owned(), "imtcp"),
    ];
    let policy =
        |to: &str| KURUME.replace("residential", "home \\\"]x") + &format!("\nsyslog: {{to: \"{to}\"}}\n");
    for (number, (to, input)) in ways.iter().enumerate() {
        let text = policy(to).replace("name: home \\\"]x", "name: 'home \\\"]x'");
        if number == 0 {
            filter.start(&text, &[])?;
        } else {
            filter.policy(&text)?;
            let answer = filter.op25b(&["reload"])?;
            ensure!(answer.code == Some(0), "{answer:?}");
        }
        ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
        thread::sleep(Duration::from_millis(1200));
        site.send("cust1", 3, &format!("203.0.113.{}", 20 + number), 25)?;
        let expected = format!("{input} daemon.notice op25b event 203.0.113.{} ", 20 + number);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(
            eventually(|| said()
                .lines()
                .any(|line| line.starts_with(&expected) && line.ends_with(" blocked"))),
            "{input}: no {expected:?} in {}; {}",
            said(),
            filter.said()
        );
        let line = said().lines().find(|line| line.starts_with(&expected)).map(str::to_owned);
        assert!(line.is_some_and(|line| line.contains("\"]x")), "the group's name: {}", said());
    }
    Ok(())
}
