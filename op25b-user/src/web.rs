//! OpenMetrics, the page and the API: read-only, over HTTP.

mod answers;
mod metrics;
mod page;
mod trend;
mod view;
mod words;

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt::{self, Display},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, CapsHashSet};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
    task,
    time::{sleep, timeout},
};

use self::{answers::Answers, view::Views};
use crate::{
    durable,
    instance::{self, Instance},
    policy,
};

/// Connections at once; the oldest makes room for the next.
const CONNECTIONS: usize = 64;
/// How long a request's header may take to arrive.
const HEADER: Duration = Duration::from_secs(5);
/// How long a request and its answer may take together.
const WHOLE: Duration = Duration::from_secs(10);
/// Bytes of a request's header.
const HEADER_BYTES: usize = 16 << 10;
/// Lines of a request's header.
const HEADER_LINES: usize = 64;
/// How often a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long nobody is let in where the process has no more descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// Threads that read maps and files: the page, its sources, its trend and one filtered list at a time.
const READERS: usize = 4;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Over the network.
    Address(IpAddr),
    /// Over the socket, by number.
    User(u32),
}

impl Display for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(out, "client={address}"),
            Self::User(number) => write!(out, "uid={number}"),
        }
    }
}

/// Serves in a thread of its own, until it is dropped.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins: at the instance's socket, and where the policy says. A port that is taken is logged and tried again: it
    /// never concerns the filter.
    #[must_use]
    pub fn start(instance: &Instance, config: Option<&policy::Metrics>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (instance, listen) = (instance.clone(), config.map(|config| config.listen));
        let thread = thread::Builder::new().name("web".to_owned()).spawn(move || {
            if let Err(error) = run(instance, listen, stopped) {
                log::error!(
                    "metrics: {error:#}; no metrics and no page, the filter is in force all the same"
                );
            }
        });
        let thread = thread.inspect_err(|error| {
            log::error!("metrics: no thread: {error}; no metrics and no page until `op25b reload`");
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        // Nothing in it blocks: the port is free a moment later.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(instance: Instance, listen: Option<SocketAddr>, stopped: oneshot::Receiver<()>) -> Result<()> {
    let socket = bind_socket(&instance);
    give_up()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .thread_name("web-reader")
        .build()
        .context("no runtime")?;
    let answers = Arc::new(Answers::new(Views::new(instance.clone()), listen));
    runtime.block_on(async {
        tokio::select! {
            _ = stopped => {}
            () = serve_group(socket, answers.clone()) => {}
            () = serve_network(listen, answers) => {}
        }
    });
    // Not waiting for who still reads: the port and the connections are closed all the same.
    runtime.shutdown_background();
    durable::remove(&instance.reading())
}

/// Keeps what reading takes: CAP_BPF for the pins, CAP_NET_ADMIN to ask what is attached (`BPF_PROG_QUERY`); and root's
/// own right to files, where it is root. The threads that this one starts have no more either.
fn give_up() -> Result<()> {
    let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_DAC_OVERRIDE];
    let failed = "cannot give up capabilities";
    let mut kept = caps::read(None, CapSet::Permitted).context(failed)?;
    kept.retain(|capability| needed.contains(capability));
    for (set, capabilities) in [
        (CapSet::Ambient, &CapsHashSet::new()),
        (CapSet::Inheritable, &CapsHashSet::new()),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        caps::set(None, set, capabilities).context(failed)?;
    }
    Ok(())
}

/// For who is in the group that the daemon runs as: they need no privilege to read.
async fn serve_group(socket: Result<UnixListener>, answers: Arc<Answers>) {
    match socket.and_then(|socket| Ok(tokio::net::UnixListener::from_std(socket)?)) {
        Ok(listener) => {
            serve(answers, async || {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((stream, Client::User(user)))
            })
            .await;
        }
        Err(error) => {
            log::error!("{error:#}; the group cannot read, the filter is in force all the same");
            std::future::pending().await
        }
    }
}

fn bind_socket(instance: &Instance) -> Result<UnixListener> {
    let listener = instance::listen(&instance.reading(), 0o660)?;
    // The group may pass through the directory and ask there, and has nothing else in it.
    let directory = instance.state();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o710))
        .with_context(|| format!("cannot let the group into {}", directory.display()))?;
    Ok(listener)
}

async fn serve_network(listen: Option<SocketAddr>, answers: Arc<Answers>) {
    let Some(listen) = listen else { return std::future::pending().await };
    let listener = bind(listen).await;
    serve(answers, async || {
        let (stream, client) = listener.accept().await?;
        Ok((stream, Client::Address(client.ip())))
    })
    .await;
}

async fn serve<S>(answers: Arc<Answers>, accept: impl AsyncFn() -> io::Result<(S, Client)>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections: VecDeque<task::JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, client) = match accept().await {
            Ok(accepted) => accepted,
            // The client went away before it was let in.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                sleep(BREATH).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(task::spawn(converse(stream, client, answers.clone())));
    }
}

/// Listens, as soon as nobody else does.
async fn bind(listen: SocketAddr) -> TcpListener {
    let mut said = None;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                log::info!("metrics: page and metrics at http://{listen}/");
                return listener;
            }
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    log::error!(
                        "metrics: cannot listen on {listen}: {error}; end what listens there (`ss -ltnp`), or write \
                         another `metrics: listen`; tried again every {} s, the filter is in force all the same",
                        AGAIN.as_secs()
                    );
                    said = Some(error);
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// One request and its answer. What the client does wrong is its own affair: nothing of it is logged.
async fn converse<S>(stream: S, client: Client, answers: Arc<Answers>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(&request, client).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_LINES)
        // A connection that is kept takes the place of one that asks.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(WHOLE, connection).await;
}
