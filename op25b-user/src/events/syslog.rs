//! Events for a collector, as RFC 5424 has them, in a thread that may wait for it.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use super::{Event, decode::Told};
use crate::policy::Collector;
use anyhow::{Context as _, Result};

/// Events that wait for a collector.
const QUEUE: usize = 4096;
/// How long a collector may take to accept or to take a message.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after a failure it is tried again: this long at first, twice as long each time, this much at most.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// RFC 5424 §6.2.1: facility 3, system daemons.
const DAEMON: u8 = 3 * 8;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;
/// RFC 5424 §7.2.2: the private enterprise number that is reserved for examples (RFC 5612).
const ELEMENT: &str = "op25b@32473";

/// Hands events to a collector.
pub(super) struct Sender {
    queue: SyncSender<Arc<Told>>,
    lost: Arc<AtomicU64>,
}

impl Sender {
    /// Begins; ends when dropped.
    pub(super) fn start(to: Collector) -> Self {
        let (queue, events) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let sending = move || send(&to, &events, &counted);
        if let Err(error) = thread::Builder::new().name("op25b-syslog".into()).spawn(sending) {
            log::error!("no event goes to syslog: {error}");
        }
        Self { queue, lost }
    }

    /// Gives it an event; one for which there is no room is lost, and counted.
    pub(super) fn give(&self, told: &Arc<Told>) {
        if told.outside && self.queue.try_send(told.clone()).is_err() {
            self.lose(1);
        }
    }

    /// Events that nobody could keep.
    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }
}

fn send(to: &Collector, events: &Receiver<Arc<Told>>, lost: &AtomicU64) {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.map_or_else(|| "-".to_owned(), |host| header_word(&host, 255));
    let mut line: Option<Wire> = None;
    let mut wait = RETRY;
    loop {
        let message = match events.recv_timeout(Duration::from_secs(1)) {
            Ok(told) => message(&told.event, &host),
            Err(RecvTimeoutError::Timeout) if lost.load(Ordering::Relaxed) == 0 => continue,
            Err(RecvTimeoutError::Timeout) => loss(lost.swap(0, Ordering::Relaxed), &host),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let sent = match &mut line {
            Some(wire) => wire.send(&message),
            None => Wire::open(to).and_then(|mut wire| {
                wire.send(&message)?;
                line = Some(wire);
                Ok(())
            }),
        };
        match sent {
            Ok(()) => wait = RETRY,
            Err(error) => {
                lost.fetch_add(1, Ordering::Relaxed);
                if wait == RETRY {
                    log::warn!("syslog: {error:#}; events are kept for a while, and tried again");
                }
                line = None;
                thread::sleep(wait);
                wait = (2 * wait).min(LONGEST_RETRY);
            }
        }
    }
}

enum Wire {
    Local(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Wire {
    fn open(to: &Collector) -> Result<Self> {
        match to {
            Collector::Local(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path).with_context(|| format!("cannot reach {}", path.display()))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Local(socket))
            }
            Collector::Udp(address) => {
                let any: SocketAddr =
                    if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address).with_context(|| format!("cannot reach {address}"))?;
                Ok(Self::Udp(socket))
            }
            Collector::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)
                    .with_context(|| format!("cannot reach {address}"))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    fn send(&mut self, message: &str) -> Result<()> {
        match self {
            Self::Local(socket) => socket.send(message.as_bytes()).map(|_| ()),
            Self::Udp(socket) => socket.send(message.as_bytes()).map(|_| ()),
            // RFC 6587 §3.4.1: octet counting.
            Self::Tcp(stream) => stream.write_all(format!("{} {message}", message.len()).as_bytes()),
        }
        .context("the collector takes nothing")
    }
}

/// RFC 5424 §6.
fn message(event: &Event, host: &str) -> String {
    let severity = if event.verdict == "pass" { INFO } else { NOTICE };
    let mut data = format!("[{ELEMENT}");
    let mut add = |name: &str, value: &str| {
        // Writing to a text does not fail.
        let _ = write!(data, " {name}=\"{}\"", parameter(value));
    };
    add("source", &event.source.to_string());
    add("destination", &event.destination.to_string());
    if let (Some(from), Some(to)) = (event.source_port, event.destination_port) {
        add("source_port", &from.to_string());
        add("destination_port", &to.to_string());
    }
    if let Some(customer) = &event.customer {
        add("customer", customer);
    }
    add("reason", &event.reason);
    add("verdict", &event.verdict);
    add("interface", &event.interface);
    if let Some(mac) = &event.mac {
        add("mac", mac);
    }
    for vlan in &event.vlans {
        add("vlan", &vlan.to_string());
    }
    if let Some(session) = event.pppoe_session {
        add("pppoe_session", &session.to_string());
    }
    data.push(']');
    let text = format!("{} {} to {}: {}", event.verdict, event.source, event.destination, event.reason);
    frame(severity, &event.time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(), host, &data, &text)
}

fn loss(count: u64, host: &str) -> String {
    let data = format!("[{ELEMENT} lost=\"{count}\"]");
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    frame(WARNING, &now, host, &data, &format!("{count} events were lost"))
}

fn frame(severity: u8, time: &str, host: &str, data: &str, text: &str) -> String {
    format!("<{}>1 {time} {host} op25b {} event {data} {text}", DAEMON + severity, std::process::id())
}

/// RFC 5424 §6.3.3: three characters are escaped; control characters would end a line somewhere.
fn parameter(value: &str) -> String {
    let mut escaped = String::new();
    for character in value.chars() {
        match character {
            '"' | '\\' | ']' => escaped.extend(['\\', character]),
            control if control.is_control() => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// RFC 5424 §6: printable ASCII without spaces.
fn header_word(text: &str, longest: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn a_parameter_cannot_end_its_element() {
        assert_eq!(parameter("a\"]\\\nb"), "a\\\"\\]\\\\?b");
    }
}
