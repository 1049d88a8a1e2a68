//! The daemon's ear: a thread that takes the kernel's records and hands them on.

use std::{
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{
        Array, Map, MapData, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};

use super::{clients::Clients, decode::Decoder, syslog::Sender};
use crate::{
    clock, durable,
    instance::{self, Instance},
    manifest::Manifest,
    object::{CAPTURE, EVENTS},
    policy,
};

/// How often records are taken. With the size of the buffers this bounds what a flood costs.
const TAKE: Duration = Duration::from_millis(100);
/// How often the generation and its pins are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Pages of each processor's buffer: about 350 records.
const PAGES: usize = 16;
/// Records of one turn that are read, of all processors; the others are lost, and counted.
const MOST: u64 = 1000;

/// Listens in a thread of its own, until it is dropped.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins. What a socket refuses is logged and tried again: it never concerns the filter.
    #[must_use]
    pub fn start(instance: &Instance, collector: Option<&policy::Syslog>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut ear = Ear {
            instance: instance.clone(),
            clients: Clients::default(),
            syslog: collector.map(|collector| Sender::start(collector.to.clone())),
            socket: None,
            source: None,
            complained: false,
        };
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("op25b-events".into()).spawn(move || ear.listen(&stopped));
        let thread = thread.map_err(|error| log::error!("nobody hears of events: {error}")).ok();
        Self { stop, thread }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Ear {
    instance: Instance,
    clients: Clients,
    syslog: Option<Sender>,
    socket: Option<UnixListener>,
    source: Option<Source>,
    /// A failure has been logged, and not been over since.
    complained: bool,
}

/// The pinned maps, opened.
struct Source {
    /// The kernel's number of the map: another one is pinned when counters begin anew.
    map: u32,
    manifest: Manifest,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    capture: Array<MapData, u32>,
    every: u32,
}

impl Ear {
    fn listen(&mut self, stopped: &AtomicBool) {
        let mut next = Instant::now();
        while !stopped.load(Ordering::Relaxed) {
            if next <= Instant::now() {
                match self.look() {
                    Ok(()) => self.complained = false,
                    Err(error) if !self.complained => {
                        log::error!("nobody hears of events: {error:#}; tried again every second");
                        self.complained = true;
                    }
                    Err(_) => {}
                }
                next = Instant::now() + LOOK;
            }
            if let Some(socket) = &self.socket {
                while let Ok((stream, _)) = socket.accept() {
                    self.clients.admit(stream);
                }
            }
            self.take();
            thread::sleep(TAKE);
        }
        if let Some(source) = &mut self.source {
            // Nobody would take the samples.
            let _ = source.capture.set(0, 0, 0);
        }
        if self.socket.is_some()
            && let Err(error) = durable::remove(&self.instance.events())
        {
            log::warn!("{error:#}");
        }
    }

    fn look(&mut self) -> Result<()> {
        if self.socket.is_none() {
            self.socket = Some(instance::listen(&self.instance.events(), 0o600)?);
        }
        let path = self.instance.sources().join(EVENTS);
        let Some(manifest) = Manifest::read(&self.instance)?.filter(|_| path.exists()) else {
            // Not attached: nothing to hear of.
            self.source = None;
            return Ok(());
        };
        let map = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let number = map.info()?.id();
        match &mut self.source {
            Some(source) if source.map == number => source.manifest = manifest,
            source => *source = Some(Source::open(&self.instance, map, number, manifest)?),
        }
        if let Some(source) = &mut self.source {
            // Forgets those that have gone.
            let every = if self.clients.is_empty() { 0 } else { self.clients.capture_every() };
            if every != source.every {
                source.capture.set(0, every, 0).context("cannot ask for samples")?;
                source.every = every;
            }
        }
        Ok(())
    }

    fn take(&mut self) {
        let Some(source) = &mut self.source else { return };
        let Ok(epoch) = clock::epoch() else { return };
        let decoder = Decoder { manifest: &source.manifest, epoch };
        let (clients, syslog) = (&self.clients, &self.syslog);
        let idle = clients.is_empty() && syslog.is_none();
        let (mut lost, mut read) = (0, 0);
        for buffer in &mut source.buffers {
            buffer.for_each(|event| match event {
                // Nobody to be told.
                PerfEvent::Sample { .. } if idle => {}
                PerfEvent::Sample { .. } if read >= MOST => lost += 1,
                PerfEvent::Sample { head, tail } => {
                    read += 1;
                    let whole;
                    let record = if tail.is_empty() {
                        head
                    } else {
                        whole = [head, tail].concat();
                        &whole
                    };
                    if let Some(told) = decoder.decode(record) {
                        let told = Arc::new(told);
                        clients.give(&told, source.every);
                        if let Some(syslog) = syslog.as_ref().filter(|_| told.attempt) {
                            syslog.give(&told);
                        }
                    }
                }
                PerfEvent::Lost { count } => lost += count,
            });
        }
        if lost != 0 {
            clients.lose(lost);
            if let Some(syslog) = syslog {
                syslog.lose(lost);
            }
        }
    }
}

impl Source {
    fn open(instance: &Instance, map: MapData, number: u32, manifest: Manifest) -> Result<Self> {
        let mut events = PerfEventArray::try_from(Map::PerfEventArray(map)).context("no map of events")?;
        let cpus = online_cpus().map_err(|(_, error)| error).context("cannot count the processors")?;
        let buffers = cpus.into_iter().map(|cpu| Ok(events.open(cpu, Some(PAGES))?));
        let buffers = buffers.collect::<Result<Vec<_>>>().context(
            "cannot make buffers for events; to others than root Debian's kernels give them after `sysctl -w \
             kernel.perf_event_paranoid=2`",
        )?;
        let path = instance.sources().join(CAPTURE);
        let capture = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut capture = Array::try_from(Map::Array(capture)).context("no map of samples")?;
        capture.set(0, 0, 0).context("cannot ask for samples")?;
        Ok(Self { map: number, manifest, buffers, capture, every: 0 })
    }
}
