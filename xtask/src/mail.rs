//! Real mail: Postfix servers in the lab's namespaces, messages sent with swaks, and the mailbox they reach.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::exec::{command_line, exec, feed, read};
use crate::lab::{Lab, Process, check_interrupt, last_lines, pause};

/// Where all mail of the demo goes; the mailbox's local part is the family that carries it.
const RECIPIENT_DOMAIN: &str = "example.net";

/// An account of the relay.
const REALM: &str = "post.ktarn.or.jp";
const USER: &str = "customer";
const PASSWORD: &str = "correct horse";

/// Long enough for a loaded machine, short enough to wait for at each blocked message.
const ANSWER: Duration = Duration::from_secs(4);
const DELIVERY: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(20);

/// Postfix changes its user and so loses the death signal of its parent; this ends one that is left behind.
const LIFETIME: Duration = Duration::from_secs(600);

/// `nobody`, who owns the mailbox.
const MAILBOX_OWNER: u32 = 65534;

/// A running Postfix with its own configuration, queue, mailbox and log.
pub(crate) struct MailServer {
    _master: Process,
    folder: PathBuf,
}

impl MailServer {
    /// Starts the provider's relay: port 25 for `customers`, 587 and 465 for who has a password; it passes
    /// mail on to the server with the addresses `outside`, over the family that the recipient names.
    pub(crate) fn start_relay(
        lab: &Lab,
        namespace: &str,
        parent: &Path,
        customers: [&str; 2],
        outside: [IpAddr; 2],
    ) -> Result<Self> {
        let folder = make_folder(parent, namespace)?;
        add_certificate(&folder)?;
        add_account(&folder)?;
        let main = relay_main_cf(&folder, customers, outside);
        Self::start(lab, namespace, folder, &main, RELAY_MASTER_CF)
    }

    /// Starts a mail server elsewhere in the Internet, which delivers to its mailbox.
    pub(crate) fn start_outside(lab: &Lab, namespace: &str, parent: &Path) -> Result<Self> {
        let folder = make_folder(parent, namespace)?;
        chown(folder.join("mailboxes"), Some(MAILBOX_OWNER), Some(MAILBOX_OWNER))?;
        let main = outside_main_cf(&folder);
        Self::start(lab, namespace, folder, &main, MASTER_CF)
    }

    fn start(lab: &Lab, namespace: &str, folder: PathBuf, main: &str, master: &str) -> Result<Self> {
        let configuration = folder.join("configuration");
        fs::write(configuration.join("main.cf"), main)?;
        fs::write(configuration.join("master.cf"), format!("{SERVICES}{master}"))?;
        // It makes the queue's folders, which master alone does not.
        exec(lab.command(namespace, "postfix").arg("-c").arg(&configuration).arg("check"))?;
        let programs = read(Command::new("postconf").args(["-dh", "daemon_directory"]))?;
        let master = Path::new(programs.trim()).join("master");
        let mut command = lab.daemon(namespace, master);
        command.arg("-c").arg(&configuration).args(["-e", &LIFETIME.as_secs().to_string()]);
        let mut master = Process::start(&mut command, &folder.join("output"))?;
        let log = folder.join("log");
        let started = || fs::read_to_string(&log).is_ok_and(|log| log.contains("daemon started"));
        master.wait_until(START, started).with_context(|| last_lines(&log))?;
        Ok(Self { _master: master, folder })
    }

    /// The end of its log.
    pub(crate) fn last_lines(&self) -> String {
        last_lines(&self.folder.join("log"))
    }

    fn has_received(&self, token: &str) -> bool {
        let Ok(mails) = fs::read_dir(self.folder.join("mailboxes/inbox/new")) else { return false };
        mails.flatten().any(|mail| fs::read_to_string(mail.path()).is_ok_and(|text| text.contains(token)))
    }
}

fn make_folder(parent: &Path, namespace: &str) -> Result<PathBuf> {
    let folder = parent.join(namespace);
    for inner in ["configuration/sasl", "queue", "data", "mailboxes"] {
        let path = folder.join(inner);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    exec(Command::new("chown").arg("postfix").arg(folder.join("data")))?;
    Ok(folder)
}

fn add_certificate(folder: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"])
        .args(["-subj", &format!("/CN={REALM}")])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"));
    exec(openssl.stderr(Stdio::null()))
}

fn add_account(folder: &Path) -> Result<()> {
    let accounts = folder.join("accounts");
    let mechanism = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {}\n",
        accounts.display()
    );
    // Debian's Postfix looks here whatever `cyrus_sasl_config_path` says.
    fs::write(folder.join("configuration/sasl/smtpd.conf"), mechanism)?;
    let mut saslpasswd2 = Command::new("saslpasswd2");
    saslpasswd2.args(["-p", "-c", "-u", REALM, "-f"]).arg(&accounts).arg(USER);
    feed(&mut saslpasswd2, PASSWORD)?;
    exec(Command::new("chown").arg("postfix").arg(&accounts))
}

/// What both servers have in common: nothing of the machine's own mail, and no name lookups.
fn main_cf(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    format!(
        "compatibility_level = 3.6
myhostname = {name}
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log
inet_interfaces = all
inet_protocols = all
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
smtputf8_enable = no
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_connect_timeout = 5s
"
    )
}

fn relay_main_cf(folder: &Path, customers: [&str; 2], outside: [IpAddr; 2]) -> String {
    let common = main_cf(folder, REALM);
    let [customers_ipv4, customers_ipv6] = customers.map(network);
    let [via_ipv4, via_ipv6] =
        outside.map(|address| format!("{{ {} = smtp:[{address}] }}", recipient(address)));
    let folder = folder.display();
    format!(
        "{common}mynetworks = {customers_ipv4} {customers_ipv6}
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
transport_maps = inline:{{ {via_ipv4}, {via_ipv6} }}
smtpd_tls_cert_file = {folder}/certificate.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_local_domain = {REALM}
cyrus_sasl_config_path = {folder}/configuration/sasl
"
    )
}

fn outside_main_cf(folder: &Path) -> String {
    let common = main_cf(folder, &format!("mx.{RECIPIENT_DOMAIN}"));
    let folder = folder.display();
    format!(
        "{common}mynetworks =
smtpd_relay_restrictions = reject_unauth_destination
virtual_mailbox_domains = {RECIPIENT_DOMAIN}
virtual_mailbox_base = {folder}/mailboxes
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:{MAILBOX_OWNER}
virtual_gid_maps = static:{MAILBOX_OWNER}
"
    )
}

/// Postfix wants the address of an IPv6 network in brackets.
fn network(prefix: &str) -> String {
    match prefix.split_once('/') {
        Some((address, length)) if address.contains(':') => format!("[{address}]/{length}"),
        _ => prefix.to_owned(),
    }
}

const SERVICES: &str = "\
postlog  unix-dgram n - n -    1 postlogd
cleanup  unix       n - n -    0 cleanup
qmgr     unix       n - n 300  1 qmgr
tlsmgr   unix       - - n 1000? 1 tlsmgr
rewrite  unix       - - n -    - trivial-rewrite
bounce   unix       - - n -    0 bounce
defer    unix       - - n -    0 bounce
trace    unix       - - n -    0 bounce
proxymap unix       - - n -    - proxymap
smtp     unix       - - n -    - smtp
error    unix       - - n -    - error
retry    unix       - - n -    - error
virtual  unix       - n n -    - virtual
anvil    unix       - - n -    1 anvil
scache   unix       - - n -    1 scache
";

const MASTER_CF: &str = "\
smtp inet n - n - - smtpd
";

const RELAY_MASTER_CF: &str = "\
smtp inet n - n - - smtpd
587  inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
465  inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
";

/// How a mail program gets its mail to a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Submission {
    /// Port 25, as servers and infected PCs do.
    Plain,
    /// RFC 6409: port 587, STARTTLS, SMTP AUTH.
    StartTls,
    /// RFC 8314 §3.3: port 465, TLS from the first byte, SMTP AUTH.
    ImplicitTls,
    /// Port 587 with a password that the server does not know.
    WrongPassword,
}

impl Submission {
    /// The port of the server.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Plain => 25,
            Self::StartTls | Self::WrongPassword => 587,
            Self::ImplicitTls => 465,
        }
    }

    fn arguments(self) -> Vec<&'static str> {
        let login = |password| ["--auth", "PLAIN", "--auth-user", USER, "--auth-password", password];
        match self {
            Self::Plain => Vec::new(),
            Self::StartTls => [&["--tls"][..], &login(PASSWORD)].concat(),
            Self::ImplicitTls => [&["--tls-on-connect"][..], &login(PASSWORD)].concat(),
            Self::WrongPassword => [&["--tls"][..], &login("wrong")].concat(),
        }
    }
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in the mailbox outside.
    Delivered,
    /// The server took it, and the mailbox never got it.
    Lost,
    /// Nothing answered the attempt to connect, and the mailbox did not get it.
    Blocked,
    /// Something answered in a mail server's place, with this line, and the mailbox did not get it.
    Told(String),
    /// The server did not accept the password.
    LoginRefused,
    /// Anything else, in the words of the mail program.
    Failed(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delivered => "delivered",
            Self::Lost => "accepted, never delivered",
            Self::Blocked => "blocked, no answer",
            Self::LoginRefused => "login refused",
            Self::Told(line) => return write!(f, "told: {line}"),
            Self::Failed(reason) => reason,
        })
    }
}

/// Sends a message from `namespace` to `server`, and watches the mailbox `outside` for it.
pub(crate) fn send(
    lab: &Lab,
    namespace: &str,
    server: IpAddr,
    submission: Submission,
    outside: &MailServer,
    token: &str,
) -> Result<Fate> {
    let mut swaks = lab.command(namespace, "swaks");
    swaks
        .arg(if server.is_ipv4() { "-4" } else { "-6" })
        .args(["--server", &server.to_string(), "--port", &submission.port().to_string()])
        .args(["--timeout", &ANSWER.as_secs().to_string(), "--helo", "customer.example"])
        .args(["--from", "customer@example.com", "--to", &recipient(server)])
        .args(["--header", &format!("Subject: {token}"), "--body", "sent by the op25b demo"])
        .args(submission.arguments());
    let output = swaks
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", command_line(&swaks)))?;
    // Ctrl-C ends swaks too, and that says nothing about the message.
    check_interrupt()?;
    let said = [output.stdout, output.stderr].concat();
    fate(output.status.code(), &String::from_utf8_lossy(&said), outside, token)
}

/// The exit codes are those of swaks' manual.
fn fate(code: Option<i32>, said: &str, outside: &MailServer, token: &str) -> Result<Fate> {
    Ok(match code {
        Some(0) if is_delivered(outside, token)? => Fate::Delivered,
        Some(0) => Fate::Lost,
        Some(2) if timed_out(said) && !outside.has_received(token) => Fate::Blocked,
        Some(21) if !outside.has_received(token) => match greeting(said) {
            Some(line) => Fate::Told(line.to_owned()),
            None => Fate::Failed(reason(said)),
        },
        Some(28) if said.contains("535 ") => Fate::LoginRefused,
        _ => Fate::Failed(reason(said)),
    })
}

/// The two wordings are those of Perl's sockets and of the kernel.
fn timed_out(said: &str) -> bool {
    said.contains("connect: timeout") || said.contains("connect: Connection timed out")
}

fn is_delivered(outside: &MailServer, token: &str) -> Result<bool> {
    let start = Instant::now();
    while !outside.has_received(token) {
        if start.elapsed() > DELIVERY {
            return Ok(false);
        }
        pause(Duration::from_millis(50))?;
    }
    Ok(true)
}

/// The first line that the server said, where it refuses.
fn greeting(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("<** ")).map(str::trim)
}

/// The last line in which swaks reports an error.
fn reason(said: &str) -> String {
    let mut errors = said.lines().filter(|line| line.starts_with("***") || line.starts_with("<**"));
    errors.next_back().unwrap_or("no reason given").trim().to_owned()
}

fn recipient(server: IpAddr) -> String {
    let family = if server.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{family}@{RECIPIENT_DOMAIN}")
}
