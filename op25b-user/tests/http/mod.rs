//! A plain HTTP client that a namespace's loopback hears, and what the tests of the page send and expect of it; it must
//! not know how the answer comes about.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Namespace, eventually, syn};

/// Where op25b listens in its namespace.
pub(crate) const LISTEN: &str = "127.0.0.1:9025";

/// A group whose name would do something to a page that took it for markup, and to a label that is not escaped.
pub(crate) const HOSTILE: &str = r#"<script>document.title="x"</script>"'\&"#;

/// Two groups that are judged, one of them with a hostile name, one behind shared addresses; `more` goes to the end.
pub(crate) fn policy(listen: &str, more: &str) -> String {
    let hostile = serde_json::Value::from(HOSTILE);
    format!(
        r#"
version: 1
timezone: Asia/Tokyo
interfaces: {{customer: [eth1]}}
relays:
  - {{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}}
customers:
  - {{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce}}
  - {{name: {hostile}, prefixes: [198.51.100.128/25, "2001:db8:2000::/36"], mode: monitor}}
unknown_sources: pass
metrics: {{listen: "{listen}"}}
{more}
"#
    )
}

/// Attempts from a source to as many servers: each SYN is one, from a port of its own.
pub(crate) fn attempts(source: &str, count: u16, servers: u8) -> Result<Vec<Vec<u8>>> {
    let source = source.parse()?;
    (0..count)
        .map(|number| {
            let server = format!("192.0.2.{}", 100 + number % u16::from(servers));
            Ok(syn(source, server.parse()?, 10_000 + number, 25))
        })
        .collect()
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no header: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok(Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// A connection to op25b in a namespace.
pub(crate) fn connect(namespace: &Namespace, to: &str) -> Result<TcpStream> {
    let to: SocketAddr = to.parse()?;
    let stream = namespace.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Says something to op25b and reads until it closes.
pub(crate) fn say(namespace: &Namespace, text: &[u8]) -> Result<Answer> {
    say_to(namespace, LISTEN, text)
}

/// Says something to whoever listens there and reads until the other end closes.
pub(crate) fn say_to(namespace: &Namespace, to: &str, text: &[u8]) -> Result<Answer> {
    let mut stream = connect(namespace, to)?;
    stream.write_all(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Answer::read(&answer)
}

/// Asks for a path with headers, each with its line's end.
pub(crate) fn ask(namespace: &Namespace, path: &str, headers: &str) -> Result<Answer> {
    say(namespace, format!("GET {path} HTTP/1.1\r\nHost: {LISTEN}\r\n{headers}\r\n").as_bytes())
}

/// Asks for a path, and insists.
pub(crate) fn get(namespace: &Namespace, path: &str) -> Result<Answer> {
    let answer = ask(namespace, path, "")?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(answer)
}

/// Waits until somebody listens.
pub(crate) fn listens(namespace: &Namespace, to: &str) -> bool {
    eventually(|| connect(namespace, to).is_ok())
}
