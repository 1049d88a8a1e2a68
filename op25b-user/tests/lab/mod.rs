//! Network namespaces, the frames between them and the op25b that runs in them, all gone when dropped; it must not
//! know what is tried.

use std::{
    cell::Cell,
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio, id},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};
use tempfile::TempDir;

/// The policy of the operator in `OP25B.md`, as shipped.
pub(crate) const KURUME: &str = include_str!("../../../policies/kurume.yaml");

/// How long anything may take that the machine does alone; an emulated machine says more in `OP25B_TEST_SECONDS`.
static LIMIT: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = env::var("OP25B_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
});
/// How often something is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// The op25b under test; `OP25B_BIN` names another, where the tests run away from where they were built.
pub(crate) fn op25b() -> PathBuf {
    env::var_os("OP25B_BIN").map_or_else(|| env!("CARGO_BIN_EXE_op25b").into(), PathBuf::from)
}

/// A name that no other test of this machine has: at most 15 bytes of `tag` are for people.
pub(crate) fn unique(tag: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{number}-{}", id(), tag.get(..15).unwrap_or(tag))
}

/// Waits until `ready`; false when that never comes.
pub(crate) fn eventually(mut ready: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ready() {
            return true;
        }
        if start.elapsed() > *LIMIT {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// A network namespace; its interfaces go with it.
pub(crate) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A new one, whose interfaces use IPv6 addresses at once and take none from advertisements.
    pub(crate) fn new(tag: &str) -> Result<Self> {
        let name = unique(tag);
        // Where the machine is only an initramfs, nobody has made it.
        fs::create_dir_all("/var/run")?;
        succeed(Command::new("ip").args(["netns", "add", &name]))?;
        let opened = File::open(Path::new("/var/run/netns").join(&name));
        let Ok(file) = opened else {
            remove_namespace(&name);
            bail!("namespace {name} was made but is not there");
        };
        let namespace = Self { name, file };
        namespace.within(|| {
            for key in ["all/accept_dad", "default/accept_dad", "all/accept_ra", "default/accept_ra"] {
                // A kernel without IPv6 fails later, where it matters.
                let _ = fs::write(Path::new("/proc/sys/net/ipv6/conf").join(key), "0");
            }
        })?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What `ip` prints about this namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<String> {
        succeed(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// An interface here and its peer in `there`, both up.
    pub(crate) fn veth(&self, here: &str, there: &Self, peer: &str) -> Result<()> {
        self.join(here, there, peer)?;
        self.ip(&["link", "set", here, "up"])?;
        there.ip(&["link", "set", peer, "up"])?;
        Ok(())
    }

    /// The same, both down.
    pub(crate) fn join(&self, here: &str, there: &Self, peer: &str) -> Result<()> {
        succeed(Command::new("ip").args(["link", "add", here, "netns", &self.name, "type", "veth"]).args([
            "peer",
            "name",
            peer,
            "netns",
            &there.name,
        ]))
        .map(drop)
    }

    /// Gives an interface addresses, each with its length.
    pub(crate) fn address(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.ip(&[&["address", "add", address, "dev", interface], nodad].concat())?;
        }
        Ok(())
    }

    /// Does something in this namespace: what is opened there stays there.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.file.as_fd();
        thread::scope(|scope| {
            let thread = scope.spawn(move || setns(namespace, CloneFlags::CLONE_NEWNET).map(|()| act()));
            match thread.join() {
                Ok(done) => Ok(done.context("cannot enter the namespace")?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// `program` in this namespace; it ends when the test does. `ip netns exec` would hide the pins in bpffs.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let namespace = self.file.as_fd().try_clone_to_owned()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec it only makes two system calls; the descriptor lives in the closure.
        unsafe {
            command.pre_exec(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                end_with_the_test()
            });
        }
        Ok(command)
    }

    /// How an interface runs XDP: `xdp`, `xdpgeneric`, …, or nothing; and the kernel's number of the program.
    pub(crate) fn xdp(&self, interface: &str) -> Result<Option<(String, u32)>> {
        let text = self.ip(&["link", "show", "dev", interface])?;
        let mut words = text.split_whitespace();
        let Some(mode) = words.clone().find(|word| word.starts_with("xdp")) else { return Ok(None) };
        let found = words.any(|word| word == "prog/xdp") && words.next() == Some("id");
        let program = words.next().filter(|_| found).with_context(|| format!("no program in: {text}"))?;
        Ok(Some((mode.to_owned(), program.parse()?)))
    }

    /// Opens an interface for sending whole frames.
    pub(crate) fn mouth(&self, interface: &str) -> Result<Mouth> {
        Ok(Mouth { socket: self.within(|| packet_socket(interface, 0))?? })
    }

    /// Listens to what comes in on an interface from now on.
    pub(crate) fn listen(&self, interface: &str) -> Result<Ear> {
        Ok(Ear { socket: self.within(|| packet_socket(interface, libc::ETH_P_ALL))?? })
    }

    /// Counts what comes in on an interface from a TCP port over IPv4 from now on.
    pub(crate) fn tally(&self, interface: &str, source_port: u16) -> Result<Tally> {
        let socket = self.within(|| packet_socket(interface, libc::ETH_P_ALL))??;
        // Load the half word behind Ethernet and IP headers; is it the port? Keep all of it, else nothing.
        let filter = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            filter(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 14 + 20),
            filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, source_port.into()),
            filter(libc::BPF_RET | libc::BPF_K, 0, 0, 1),
            filter(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // What is counted need not be kept.
        let room: i32 = 1;
        let mut set = Vec::new();
        // SAFETY: the options' values are these, their sizes are given, and the kernel copies them.
        unsafe {
            let option = |name, value, size: usize| {
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, size as libc::socklen_t)
            };
            set.push(option(libc::SO_ATTACH_FILTER, (&raw const program).cast(), size_of_val(&program)));
            set.push(option(libc::SO_RCVBUF, (&raw const room).cast(), size_of_val(&room)));
        }
        ensure!(set == [0, 0], "setsockopt: {}", io::Error::last_os_error());
        let ear = Ear { socket };
        // What the machine itself said before there was a filter is no frame of ours.
        ear.statistics()?;
        Ok(Tally { ear, counted: Cell::new(0) })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove_namespace(&self.name);
    }
}

fn remove_namespace(name: &str) {
    if let Err(error) = succeed(Command::new("ip").args(["netns", "delete", name])) {
        eprintln!("warning: {error:#}");
    }
}

/// The calling child gets SIGTERM when the thread that started it ends.
fn end_with_the_test() -> io::Result<()> {
    // SAFETY: sets an attribute of the calling process.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket for whole frames of one interface of the calling thread's namespace; protocol 0 hears nothing.
fn packet_socket(interface: &str, protocol: i32) -> Result<OwnedFd> {
    let index = interface_index(interface).with_context(|| format!("no interface {interface}"))?;
    let protocol = u16::try_from(protocol)?.to_be();
    // With a protocol it would hear every interface until it is bound.
    // SAFETY: plain call; the result is checked below.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "AF_PACKET: {}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let room: i32 = 64 << 20;
    // SAFETY: the option's value is an int, and its size is given.
    let enlarged = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const room).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    ensure!(enlarged == 0, "SO_RCVBUFFORCE: {}", io::Error::last_os_error());
    // SAFETY: an address of integers and bytes, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    // SAFETY: the address is of this family and its size is given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    ensure!(bound == 0, "bind to {interface}: {}", io::Error::last_os_error());
    Ok(socket)
}

/// The number of an interface of the calling thread's namespace.
pub(crate) fn interface_index(interface: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}

/// Puts whole frames on the wire of an interface.
pub(crate) struct Mouth {
    socket: OwnedFd,
}

impl Mouth {
    /// Sends frames, each exactly once.
    pub(crate) fn send<'f>(&self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
        for (number, frame) in frames.into_iter().enumerate() {
            self.send_one(frame)?;
            // The peer's queue has 256 places, and a full one loses frames without a word on old kernels.
            if number % 16 == 15 {
                thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(())
    }

    /// Sends frames as fast as it can, each exactly once; how many times there was no room for one.
    pub(crate) fn pour<'f>(&self, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<u64> {
        let start = Instant::now();
        let mut refused = 0;
        for frame in frames {
            // SAFETY: the buffer is as long as said.
            while unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) } < 0 {
                let error = io::Error::last_os_error();
                ensure!(error.raw_os_error() == Some(libc::ENOBUFS), "send: {error}");
                ensure!(start.elapsed() < *LIMIT, "the interface takes no frame");
                refused += 1;
                thread::yield_now();
            }
        }
        Ok(refused)
    }

    fn send_one(&self, frame: &[u8]) -> Result<()> {
        for _ in 0..1000 {
            // SAFETY: the buffer is as long as said.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if usize::try_from(sent).is_ok_and(|sent| sent == frame.len()) {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // The frame was not taken: it may be offered again.
            ensure!(error.raw_os_error() == Some(libc::ENOBUFS), "send: {error}");
            thread::sleep(Duration::from_millis(1));
        }
        bail!("the interface takes no frame")
    }
}

/// Hears every frame that arrives on an interface behind XDP.
pub(crate) struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// Source and destination ports of the TCP frames that have arrived since it was last asked, until it has been
    /// silent for a while.
    pub(crate) fn hear(&self) -> Result<Vec<(u16, u16)>> {
        let mut ports = Vec::new();
        let mut buffer = vec![0_u8; 16 << 10];
        let mut silent_since = Instant::now();
        while silent_since.elapsed() < Duration::from_millis(300) {
            let Some(length) = self.receive(&mut buffer)? else {
                thread::sleep(LOOK);
                continue;
            };
            if let Some(both) = tcp_ports(buffer.get(..length).unwrap_or_default()) {
                ports.push(both);
                silent_since = Instant::now();
            }
        }
        ensure!(self.lost()? == 0, "the listening socket was too small");
        Ok(ports)
    }

    /// One arrived frame's length, zero for one that was leaving.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        // SAFETY: an address of integers and bytes, for which zero is a value.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address are as long as said.
        let length = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        match usize::try_from(length) {
            Ok(_) if from.sll_pkttype == libc::PACKET_OUTGOING => Ok(Some(0)),
            Ok(length) => Ok(Some(length)),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error).context("receive"),
            },
        }
    }

    /// Frames that did not fit into the socket.
    pub(crate) fn lost(&self) -> Result<u32> {
        Ok(self.statistics()?.tp_drops)
    }

    /// Since they were last asked for.
    fn statistics(&self) -> Result<libc::tpacket_stats> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the option's value is this structure, and its size is given.
        let asked = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        ensure!(asked == 0, "PACKET_STATISTICS: {}", io::Error::last_os_error());
        Ok(statistics)
    }
}

/// Counts frames that arrive on an interface behind XDP, however many.
pub(crate) struct Tally {
    ear: Ear,
    counted: Cell<u64>,
}

impl Tally {
    /// So far.
    pub(crate) fn count(&self) -> Result<u64> {
        // Those that did not fit are among them (packet(7)).
        self.counted.set(self.counted.get() + u64::from(self.ear.statistics()?.tp_packets));
        Ok(self.counted.get())
    }
}

fn tcp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
        _ => None,
    }
}

/// A SYN as an Ethernet frame that no stack answers: it is for another machine's MAC address.
pub(crate) fn syn(source: IpAddr, destination: IpAddr, source_port: u16, destination_port: u16) -> Vec<u8> {
    // Locally administered addresses (IEEE 802).
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x25], [2, 0, 0, 0, 0, 0x26]);
    let ip = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (source, destination) => ethernet.ipv6(as_ipv6(source), as_ipv6(destination), 64),
    };
    let tcp = ip.tcp(source_port, destination_port, 1, 64_240).syn();
    let mut frame = Vec::new();
    // Into memory, and without a payload, there is nothing that can fail.
    let _ = tcp.write(&mut frame, &[]);
    frame
}

fn as_ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Data.
    pub(crate) stdout: String,
    /// The rest.
    pub(crate) stderr: String,
}

impl Answer {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its data.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The one line of an error; fails where it is more, less, or not the user's to mend.
    pub(crate) fn error(&self) -> Result<&str> {
        ensure!(self.code == Some(1), "exit 1 was to be expected: {self:?}");
        // What it warned of before is not the error.
        let mut lines =
            self.stderr.lines().filter(|line| !line.starts_with("warning: ") && !line.starts_with("warn: "));
        let line = lines.next().with_context(|| format!("no error: {self:?}"))?;
        ensure!(lines.next().is_none(), "more than one line: {self:?}");
        line.strip_prefix("error: ").with_context(|| format!("no `error: `: {self:?}"))
    }
}

/// One filter of a test: an instance of op25b in a namespace, detached when dropped.
pub(crate) struct Filter<'n> {
    namespace: &'n Namespace,
    instance: String,
    files: TempDir,
    daemon: Option<Child>,
}

impl<'n> Filter<'n> {
    /// An instance that is not running yet.
    pub(crate) fn new(namespace: &'n Namespace) -> Result<Self> {
        Ok(Self { namespace, instance: unique("filter"), files: tempfile::tempdir()?, daemon: None })
    }

    /// The directory of its pins, by the manual.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/op25b").join(&self.instance)
    }

    /// The directory of its state.
    pub(crate) fn state(&self) -> PathBuf {
        Path::new("/run/op25b").join(&self.instance)
    }

    /// The directory of what outlives a boot, by the manual.
    pub(crate) fn persistent(&self) -> PathBuf {
        Path::new("/var/lib/op25b").join(&self.instance)
    }

    /// Writes its policy file.
    pub(crate) fn policy(&self, text: &str) -> Result<PathBuf> {
        fs::write(self.path(), text)?;
        Ok(self.path())
    }

    /// Where its policy file lies.
    pub(crate) fn path(&self) -> PathBuf {
        self.files.path().join("policy.yaml")
    }

    /// op25b with this instance, not started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(op25b())?;
        command.args(["--instance", &self.instance]).args(arguments);
        Ok(command)
    }

    /// A command that ends by itself.
    pub(crate) fn op25b(&self, arguments: &[&str]) -> Result<Answer> {
        finish(&mut self.command(arguments)?, *LIMIT)
    }

    /// A command run as nobody, without capabilities, from a copy of op25b that nobody may read.
    pub(crate) fn as_nobody(&self, arguments: &[&str]) -> Result<Answer> {
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("op25b");
        fs::copy(op25b(), &copy)?;
        for path in [directory.path(), &copy] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        let mut command = self.namespace.command(&copy)?;
        command.args(["--instance", &self.instance]).args(arguments);
        // SAFETY: between fork and exec it only makes system calls.
        unsafe {
            command.pre_exec(|| {
                setgroups(&[])?;
                setgid(Gid::from_raw(65_534))?;
                setuid(Uid::from_raw(65_534))?;
                Ok(())
            });
        }
        // A child that another test is just starting may still have the copy open for writing.
        let mut answer = finish(&mut command, *LIMIT);
        for _ in 0..100 {
            let busy = |error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy;
            if !answer.as_ref().is_err_and(|error| error.downcast_ref().is_some_and(busy)) {
                break;
            }
            thread::sleep(LOOK);
            answer = finish(&mut command, *LIMIT);
        }
        answer
    }

    /// `run` of a policy that it has to refuse.
    pub(crate) fn refused(&self, policy: &str, arguments: &[&str]) -> Result<Answer> {
        let path = self.policy(policy)?;
        let path = path.to_str().context("a path in UTF-8")?;
        let answer = self.op25b(&[&["run", "--policy", path], arguments].concat())?;
        ensure!(answer.code.is_some(), "`run` ran: {answer:?}");
        Ok(answer)
    }

    /// Starts the daemon and waits until it has put this policy in force everywhere.
    pub(crate) fn start(&mut self, policy: &str, arguments: &[&str]) -> Result<()> {
        self.policy(policy)?;
        self.start_again(arguments, &[])
    }

    /// The same with the policy file as it lies, and variables for the daemon.
    pub(crate) fn start_again(&mut self, arguments: &[&str], variables: &[(&str, &OsStr)]) -> Result<()> {
        let before = self.generation();
        self.spawn(arguments, variables)?;
        self.takes_force_after(before)
    }

    /// Starts the daemon with the policy file as it lies, and does not wait.
    pub(crate) fn spawn(&mut self, arguments: &[&str], variables: &[(&str, &OsStr)]) -> Result<()> {
        let log = File::create(self.log())?;
        let child = self
            .command(&["run", "--policy"])?
            .arg(self.path())
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Waits until the daemon has put a generation after `before` in force everywhere.
    fn takes_force_after(&mut self, before: u64) -> Result<()> {
        let child = self.daemon.as_mut().context("no daemon to wait for")?;
        let mut ended = None;
        let mut status = None;
        let started = {
            let instance = &self.instance;
            let namespace = self.namespace;
            eventually(|| {
                ended = child.try_wait().ok().flatten();
                let command = namespace.command(op25b()).and_then(|mut command| {
                    finish(command.args(["--instance", instance, "status", "--json"]), *LIMIT)
                });
                status = command.and_then(|answer| answer.json()).ok();
                let generation = status.as_ref().and_then(|status| status["generation"].as_u64());
                ended.is_some() || generation.is_some_and(|generation| generation > before)
            })
        };
        if let Some(status) = ended {
            self.daemon = None;
            bail!("`run` ended, {status}: {}", self.said());
        }
        ensure!(started, "`run` has not taken force: {}; status {status:?}", self.said());
        // It is in force before it says so.
        ensure!(eventually(|| self.said().contains("in force")), "`run` does not say so: {}", self.said());
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.files.path().join("log")
    }

    /// What the daemon has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let daemon = self.daemon.as_ref().context("no daemon")?;
        Ok(Pid::from_raw(i32::try_from(daemon.id())?))
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Whether the daemon has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| matches!(daemon.try_wait(), Ok(None)))
    }

    /// Ends the daemon with a signal and waits for it.
    pub(crate) fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon to end")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), signal)?;
        wait(&mut daemon)
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon to wait for")?;
        wait(&mut daemon)
    }

    /// The generation in force; zero for none.
    pub(crate) fn generation(&self) -> u64 {
        let answer = self.op25b(&["stats", "--json"]).and_then(|answer| answer.json());
        answer.ok().and_then(|stats| stats["generation"].as_u64()).unwrap_or(0)
    }

    /// `status --json`, and its exit code.
    pub(crate) fn status(&self) -> Result<(Option<i32>, serde_json::Value)> {
        let answer = self.op25b(&["status", "--json"])?;
        Ok((answer.code, answer.json()?))
    }

    /// What has been counted, as `customer family reason verdict` (`-` for no customer), packets, bytes.
    pub(crate) fn counted(&self) -> Result<Vec<(String, u64, u64)>> {
        let answer = self.op25b(&["stats", "--json"])?;
        ensure!(answer.code == Some(0), "stats: {answer:?}");
        let stats = answer.json()?;
        let totals = stats["totals"].as_array().with_context(|| format!("no totals: {stats}"))?;
        let mut counted = Vec::new();
        for total in totals {
            let word = |key: &str| total[key].as_str().unwrap_or("-").to_owned();
            let name = ["customer", "family", "reason", "verdict"].map(word).join(" ");
            let number = |key: &str| total[key].as_u64().with_context(|| format!("no {key}: {total}"));
            counted.push((name, number("packets")?, number("bytes")?));
        }
        counted.sort();
        Ok(counted)
    }

    /// Waits until exactly this has been counted; fails showing what has.
    pub(crate) fn counts(&self, expected: &[(&str, usize, usize)]) -> Result<()> {
        let mut expected = expected
            .iter()
            .map(|(name, packets, bytes)| ((*name).to_owned(), *packets as u64, *bytes as u64))
            .collect::<Vec<_>>();
        expected.sort();
        let mut last = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            last = self.counted()?;
            if last == expected {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        bail!("counted {last:#?}, to be expected {expected:#?}")
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            if thread::panicking() {
                eprintln!("the daemon said: {}", self.said());
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = self.op25b(&["detach"]);
        // For an op25b whose `detach` does not work; the log of reads is left anyway.
        let _ = fs::remove_dir_all(self.pins());
        let _ = fs::remove_dir_all(self.state());
        let _ = fs::remove_dir_all(self.persistent());
    }
}

/// Runs a command that must end by itself; one that does not is killed, and has no exit code then.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Result<Answer> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    // Read while it runs: a pipe holds 64 KiB, and whoever writes more waits.
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > limit {
            child.kill()?;
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let read = |reader: thread::JoinHandle<_>| reader.join().unwrap_or_else(|_| Ok(Vec::new()));
    Ok(Answer::new(Output { status: child.wait()?, stdout: read(stdout)?, stderr: read(stderr)? }))
}

fn reader(pipe: Option<impl io::Read + Send + 'static>) -> thread::JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
    })
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut ended = None;
    eventually(|| {
        ended = child.try_wait().ok().flatten();
        ended.is_some()
    });
    if ended.is_none() {
        child.kill()?;
        child.wait()?;
    }
    ended.context("the daemon does not end")
}

/// Runs a command that must succeed and returns what it printed.
fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {} (signal {:?}): {}",
        output.status,
        output.status.signal(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
