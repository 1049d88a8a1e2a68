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
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task,
    time::{sleep, timeout},
};

use self::{answers::Answers, view::Views};
use crate::{instance::Instance, policy};

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

/// Serves in a thread of its own, until it is dropped.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins. A port that is taken is logged and tried again: it never concerns the filter.
    #[must_use]
    pub fn start(instance: &Instance, config: &policy::Metrics) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (instance, listen) = (instance.clone(), config.listen);
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

fn run(instance: Instance, listen: SocketAddr, stopped: oneshot::Receiver<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .thread_name("web-reader")
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        tokio::select! {
            _ = stopped => {}
            () = serve(instance, listen) => {}
        }
    });
    // Not waiting for who still reads: the port and the connections are closed all the same.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(instance: Instance, listen: SocketAddr) {
    let listener = bind(listen).await;
    let answers = Arc::new(Answers::new(Views::new(instance), listen));
    let mut connections: VecDeque<task::JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, client) = match listener.accept().await {
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
async fn converse(stream: TcpStream, client: SocketAddr, answers: Arc<Answers>) {
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(&request, client.ip()).await) }
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
