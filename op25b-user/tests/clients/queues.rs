//! Mail servers of a customer, which keep a queue: each gets mail for as many servers of the world as there are to be
//! connections, since one that refused is left alone for a while.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Line,
    lab::{eventually, finish},
};

/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

const SERVICES: &str = "\
postlog  unix-dgram n - n - 1 postlogd
127.0.0.1:2525 inet n - n - - smtpd
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp     unix - - n - 20 smtp
error    unix - - n - - error
retry    unix - - n - - error
discard  unix - - n - - discard
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
";

/// Hands mail for so many servers to the one that listens here, no faster than one customer is answered.
const INJECT: &str = r#"
import smtplib, sys, time
with smtplib.SMTP("127.0.0.1", 2525, "localhost", timeout=60) as server:
    for number in range(1, int(sys.argv[1]) + 1):
        time.sleep(0.03)
        server.sendmail("a@example.com", ["b@[%s%d]" % (sys.argv[2], number)], "Subject: test\n\ntest\n")
"#;

/// What stands before the number of a server in a mail address, for each family.
pub(crate) const WORLDS: [&str; 2] = ["198.51.100.", "IPv6:2001:db8:ff::"];

/// Lets Postfix send so many mails; what it logs when it is done with each.
pub(crate) fn postfix(line: &Line, world: &str, count: usize, skips_5xx_greeting: bool) -> Result<String> {
    let folder = tempfile::Builder::new().prefix("postfix-").tempdir_in(line.folder.path())?;
    let at = folder.path();
    fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let configuration = at.join("configuration");
    for inner in ["configuration", "queue", "data"] {
        fs::create_dir(at.join(inner))?;
    }
    let skips = if skips_5xx_greeting { "yes" } else { "no" };
    let own = at.display();
    fs::write(
        configuration.join("main.cf"),
        format!(
            "compatibility_level = 3.6
myhostname = customer.example
queue_directory = {own}/queue
data_directory = {own}/data
maillog_file_prefixes = {own}
maillog_file = {own}/log
inet_interfaces = loopback-only
inet_protocols = all
mydestination =
alias_maps =
alias_database =
notify_classes =
transport_maps = inline:{{ example.com=discard: }}
smtputf8_enable = no
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_connect_timeout = 20s
resolve_dequoted_address = yes
smtp_skip_5xx_greeting = {skips}
"
        ),
    )?;
    fs::write(configuration.join("master.cf"), SERVICES)?;
    let customer = &line.customer;
    let owned = finish(customer.command("chown")?.arg("postfix").arg(at.join("data")), SHORT)?;
    ensure!(owned.code == Some(0), "{}", owned.stderr);
    let checked = finish(customer.command("postfix")?.arg("-c").arg(&configuration).arg("check"), SHORT)?;
    ensure!(checked.code == Some(0), "{}{}", checked.stdout, checked.stderr);
    let programs = finish(customer.command("postconf")?.args(["-dh", "daemon_directory"]), SHORT)?.stdout;
    let mut master = customer
        .command(Path::new(programs.trim()).join("master"))?
        .arg("-c")
        .arg(&configuration)
        // It changes its user and so loses the death signal of its parent; this ends one that is left behind.
        .args(["-e", "300"])
        .spawn()
        .context("cannot run Postfix")?;
    let log = at.join("log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let done = (|| {
        ensure!(eventually(|| read().contains("daemon started")), "Postfix does not start: {}", read());
        let injected =
            finish(customer.command("python3")?.args(["-c", INJECT, &count.to_string(), world]), LONG)?;
        ensure!(injected.code == Some(0), "{}\n{}", injected.stderr, read());
        let tried = || read().lines().filter(|line| is_of_the_world(line)).count();
        let start = Instant::now();
        while tried() < count {
            ensure!(start.elapsed() < LONG, "Postfix tried {} of {count}: {}", tried(), read());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(read().lines().filter(|line| is_of_the_world(line)).collect::<Vec<_>>().join("\n"))
    })();
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(master.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    );
    master.wait()?;
    done
}

/// A line of Postfix's log that says what became of a mail.
fn is_of_the_world(line: &str) -> bool {
    line.contains("status=") && line.contains("to=<b@[")
}

/// Lets Exim send so many mails, one after another; what it logs.
pub(crate) fn exim(line: &Line, world: &str, count: usize) -> Result<String> {
    let program = program()?;
    let folder = tempfile::Builder::new().prefix("exim-").tempdir_in(line.folder.path())?;
    let at = folder.path();
    for inner in ["spool", "log"] {
        fs::create_dir(at.join(inner))?;
        chown(at.join(inner), Some(NOBODY), Some(NOBODY))?;
    }
    chown(at, Some(NOBODY), Some(NOBODY))?;
    // Debian's Exim looks its user up before it reads its configuration.
    for (file, entry) in [
        ("passwd", "Debian-exim:x:65534:65534::/nonexistent:/usr/sbin/nologin"),
        ("group", "Debian-exim:x:65534:"),
    ] {
        let known = fs::read_to_string(Path::new("/etc").join(file))?;
        fs::write(at.join(file), format!("{known}\n{entry}\n"))?;
    }
    let (own, exim_path) = (at.display(), program.display());
    let configuration = at.join("configuration");
    fs::write(
        &configuration,
        format!(
            "primary_hostname = customer.example
exim_path = {exim_path}
exim_user = nobody
exim_group = nogroup
keep_environment =
spool_directory = {own}/spool
log_file_path = {own}/log/%s
allow_domain_literals = true
local_interfaces = 127.0.0.1
begin routers
literal:
  driver = ipliteral
  transport = smtp
begin transports
smtp:
  driver = smtp
begin retry
* * F,1h,5m
"
        ),
    )?;
    let script = format!(
        "mount --bind {own}/passwd /etc/passwd && mount --bind {own}/group /etc/group &&
         number=1
         while [ $number -le {count} ]; do
             printf 'Subject: test\\n\\ntest\\n' |
                 {exim_path} -C {} -odf -f a@example.com \"b@[{world}$number]\" || true
             sleep 0.02
             number=$((number + 1))
         done",
        configuration.display()
    );
    let done = finish(line.customer.command("unshare")?.args(["-m", "sh", "-c", &script]), LONG)?;
    ensure!(done.code == Some(0), "{}{}", done.stdout, done.stderr);
    let said = fs::read_to_string(at.join("log/main"))?;
    // Each of its own server: `==` is kept, `**` is given back.
    Ok(said
        .lines()
        .filter(|line| line.contains(" == b@[") || line.contains(" ** b@["))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// The one that `cargo xtask setup` unpacked.
fn program() -> Result<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/exim/usr/sbin/exim4");
    kept.canonicalize().with_context(|| format!("{}: `cargo xtask setup` puts it there", kept.display()))
}

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);
