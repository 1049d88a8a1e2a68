//! One filter on this router: its name, and where its pins and its state lie, so that instances never meet.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{commands::No, document::Attach, durable};

/// Where the BPF file system is mounted (systemd and bpftool agree on it).
pub const BPFFS: &str = "/sys/fs/bpf";
/// State that lives as long as the pins: until the next boot.
const STATE: &str = "/run/op25b";
/// State that outlives a boot.
const PERSISTENT: &str = "/var/lib/op25b";

/// One filter on this router.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
}

impl Instance {
    /// The instance called `name`.
    ///
    /// # Errors
    ///
    /// When the name cannot be a file's in bpffs.
    pub fn new(name: &str) -> Result<Self> {
        let fits = !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !fits {
            return Err(No::Input(format!("instance {name:?}: 1 to 32 letters, digits, `-` and `_`")).into());
        }
        Ok(Self { name: name.to_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join("op25b").join(&self.name)
    }

    /// The pinned link of an interface at one hook.
    #[must_use]
    pub fn link(&self, interface: &str, attach: Attach) -> PathBuf {
        self.pins().join("links").join(pin_name(interface, attach))
    }

    /// The directory of the pinned counters of an interface at one hook.
    #[must_use]
    pub fn counters(&self, interface: &str, attach: Attach) -> PathBuf {
        self.pins().join("counters").join(pin_name(interface, attach))
    }

    /// The interface whose pinned counters are in this directory.
    #[must_use]
    pub fn interface_of_counters(directory: &Path) -> String {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.rsplit_once(':').map_or(name.clone(), |(interface, _)| interface.replace(':', "."))
    }

    /// The directory of the pinned accounts of sources.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.pins().join("sources")
    }

    /// The pins of one generation: its tables and its programs.
    #[must_use]
    pub fn generation(&self, number: u64) -> PathBuf {
        self.pins().join("generations").join(number.to_string())
    }

    /// A generation's program for an interface at one hook.
    #[must_use]
    pub fn program(&self, generation: u64, program: &str, interface: &str, attach: Attach) -> PathBuf {
        self.generation(generation).join(format!("{program}:{}", pin_name(interface, attach)))
    }

    /// The directory of its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// The directory of what outlives a boot.
    #[must_use]
    pub fn persistent(&self) -> PathBuf {
        Path::new(PERSISTENT).join(&self.name)
    }

    /// Where its daemon listens to the commands that change something.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state().join("socket")
    }

    /// Where its daemon answers who may read, over HTTP.
    #[must_use]
    pub fn reading(&self) -> PathBuf {
        self.state().join("read")
    }

    /// Where its daemon hands events to commands.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.state().join("events")
    }

    /// Waits for the moment in which nobody else swaps programs, and keeps it until what is returned is dropped: a change
    /// of the generation, a sample that begins or ends, or who looks at what is attached. None after a second: who stands
    /// still keeps nobody from anything.
    #[must_use]
    pub fn swapping(&self) -> Option<File> {
        let file = File::open(self.state()).ok()?;
        if patiently(Duration::from_secs(1), || file.try_lock().is_ok()) {
            return Some(file);
        }
        log::warn!("another process of instance {} stands still while it swaps programs", self.name);
        None
    }

    /// Takes the instance for this process, until the file is closed.
    ///
    /// # Errors
    ///
    /// When another process has it.
    pub fn lock(&self) -> Result<File> {
        let directory = self.state();
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // `status` holds the lock for a moment to see whether somebody else does: not to be taken for a daemon.
        if !patiently(Duration::from_secs(1), || file.try_lock().is_ok()) {
            let owner = read_pid(&mut file).map_or_else(String::new, |pid| format!(" (process {pid})"));
            return Err(No::Input(format!(
                "instance {} is running already{owner}; stop it, or choose another --instance",
                self.name
            ))
            .into());
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    }

    /// Ends the daemon of this instance, if there is one, and takes the instance.
    ///
    /// # Errors
    ///
    /// When it does not end within five seconds.
    pub fn take_over(&self) -> Result<Option<File>> {
        let path = self.state().join("lock");
        let Ok(mut file) = File::options().read(true).write(true).open(&path) else {
            return Ok(None);
        };
        if file.try_lock().is_ok() {
            return Ok(Some(file));
        }
        let pid = read_pid(&mut file).with_context(|| format!("{} names no process", path.display()))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot end process {pid}"))?;
        if patiently(Duration::from_secs(5), || file.try_lock().is_ok()) {
            return Ok(Some(file));
        }
        anyhow::bail!("process {pid} does not end");
    }

    /// Whether a daemon has the instance.
    #[must_use]
    pub fn is_running(&self) -> bool {
        File::open(self.state().join("lock")).is_ok_and(|file| file.try_lock().is_err())
    }
}

/// Listens at one of an instance's sockets, for who may write to it by its mode. The listener does not block.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    let failed = || format!("cannot listen at {}", path.display());
    // A daemon that was killed leaves its socket; this one holds the lock.
    durable::remove(path)?;
    let listener = UnixListener::bind(path).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)?;
    listener.set_nonblocking(true).with_context(failed)?;
    Ok(listener)
}

/// Tries until it works or the time is over.
fn patiently(limit: Duration, mut works: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !works() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// bpffs refuses names with a dot (`eth0.100`), interfaces never have a colon.
fn pin_name(interface: &str, attach: Attach) -> String {
    format!("{}:{}", interface.replace('.', ":"), attach.name())
}
