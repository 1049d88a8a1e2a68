//! Network namespaces, what runs in them, and their removal; it must not know what is tried in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exec::{command_line, exec, read};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often something is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process may take to end when asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Namespaces called `op25b-NAME-…`, which end with this value.
pub(crate) struct Lab {
    name: &'static str,
    namespaces: Vec<String>,
    /// Held, so that two labs of one name never meet.
    _lock: File,
}

/// One end of a link: an interface of a namespace, and its addresses with prefix lengths.
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) addresses: [&'a str; 2],
}

impl Lab {
    /// An empty lab, after removing what a killed one of the same name left.
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        let lock = lock(name)?;
        ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot handle signals")?;
        let lab = Self { name, namespaces: Vec::new(), _lock: lock };
        let leftover = read(Command::new("ip").args(["netns", "list"]))?;
        for namespace in leftover.lines().filter_map(|line| line.split(' ').next()) {
            if namespace.starts_with(&lab.full_name("")) {
                remove(namespace)?;
            }
        }
        Ok(lab)
    }

    /// Adds a namespace whose interfaces use their addresses at once and take none from advertisements.
    pub(crate) fn add_namespace(&mut self, namespace: &str) -> Result<()> {
        let full = self.full_name(namespace);
        exec(Command::new("ip").args(["netns", "add", &full]))?;
        self.namespaces.push(full);
        for key in ["all.accept_dad", "default.accept_dad", "all.accept_ra", "default.accept_ra"] {
            self.set(namespace, &format!("net.ipv6.conf.{key}"), 0)?;
        }
        self.ip(namespace, &["link", "set", "lo", "up"])
    }

    /// Lets `namespace` forward between its interfaces.
    pub(crate) fn make_router(&self, namespace: &str) -> Result<()> {
        self.set(namespace, "net.ipv4.ip_forward", 1)?;
        self.set(namespace, "net.ipv6.conf.all.forwarding", 1)
    }

    /// Joins two namespaces with a veth pair.
    pub(crate) fn link(&self, a: &End<'_>, b: &End<'_>) -> Result<()> {
        exec(
            Command::new("ip")
                .args(["link", "add", a.interface, "netns", &self.full_name(a.namespace), "type", "veth"])
                .args(["peer", "name", b.interface, "netns", &self.full_name(b.namespace)]),
        )?;
        for end in [a, b] {
            for address in end.addresses {
                self.ip(end.namespace, &["address", "add", address, "dev", end.interface])?;
            }
            self.ip(end.namespace, &["link", "set", end.interface, "up"])?;
        }
        Ok(())
    }

    /// Sends everything of `namespace` that is not on its own link through these gateways.
    pub(crate) fn route_through(&self, namespace: &str, gateways: [&str; 2]) -> Result<()> {
        for gateway in gateways {
            self.ip(namespace, &["route", "add", "default", "via", gateway])?;
        }
        Ok(())
    }

    /// `program` in `namespace`; it ends when this process is killed.
    pub(crate) fn command(&self, namespace: &str, program: impl AsRef<Path>) -> Command {
        // `ip netns exec` would mount a new /sys and so hide the pins in bpffs.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/{}", self.full_name(namespace)))
            .args(["setpriv", "--pdeathsig", "TERM"])
            .arg(program.as_ref());
        command
    }

    /// `program` in `namespace`, to run in the background.
    pub(crate) fn daemon(&self, namespace: &str, program: impl AsRef<Path>) -> Command {
        // In its own session, since Ctrl-C at the terminal is for us: we end the others in their order.
        let mut command = self.command(namespace, "setsid");
        command.arg(program.as_ref());
        command
    }

    fn ip(&self, namespace: &str, arguments: &[&str]) -> Result<()> {
        exec(Command::new("ip").args(["-n", &self.full_name(namespace)]).args(arguments))
    }

    fn set(&self, namespace: &str, key: &str, value: u32) -> Result<()> {
        exec(self.command(namespace, "sysctl").args(["-q", "-w", &format!("{key}={value}")]))
    }

    fn full_name(&self, namespace: &str) -> String {
        format!("op25b-{}-{namespace}", self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            if let Err(error) = remove(namespace) {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

fn lock(name: &str) -> Result<File> {
    let path = format!("/run/lock/op25b-{name}");
    let lock = File::create(&path).with_context(|| format!("cannot create {path}"))?;
    if lock.try_lock().is_err() {
        bail!("another {name} is running, it holds {path}");
    }
    Ok(lock)
}

fn remove(namespace: &str) -> Result<()> {
    exec(Command::new("ip").args(["netns", "delete", namespace]))
}

/// A program in the background that ends with this value.
pub(crate) struct Process {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which [`Lab::daemon`] made; its output goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let line = command_line(command);
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run `{line}`"))?;
        Ok(Self { child, line, log: log.to_owned() })
    }

    /// Waits until `ready`, for at most `limit`, and fails when the program ends before that.
    pub(crate) fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended early, {status}\n{}", self.line, last_lines(&self.log));
            }
            if start.elapsed() > limit {
                bail!("`{}` is not ready after {limit:?}\n{}", self.line, last_lines(&self.log));
            }
            pause(LOOK)?;
        }
        Ok(())
    }

    /// Asks the program to end, and kills it when it does not.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        exec(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > GRACE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("`{}` did not end within {GRACE:?} and was killed", self.line);
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Waits, and fails once Ctrl-C or a request to end has come.
pub(crate) fn pause(time: Duration) -> Result<()> {
    thread::sleep(time);
    check_interrupt()
}

/// Fails once Ctrl-C or a request to end has come.
pub(crate) fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// The end of a log, for a message about what went wrong.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(20)..];
    format!("{}:\n  {}", log.display(), last.join("\n  "))
}
