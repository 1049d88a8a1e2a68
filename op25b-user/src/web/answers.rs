//! What is answered to which request.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    Client, metrics,
    page::{self, Page},
    view::{MOST, View, Views},
    words::Language,
};
use crate::history::note_request;

type Answer = Response<Full<Bytes>>;

/// No script but ours, nothing from elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src \
                      'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Of every answer. Who is blocked is nobody else's business, and old a moment later.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Sources that the API names unless told otherwise.
const LIMIT: usize = 20;

/// How long a client that reads what customers did is not noted again: a page that is open reads every five seconds.
const NOTED: Duration = Duration::from_secs(60);
/// Clients that are remembered for so long; of more than these each read is noted.
const CLIENTS: usize = 4096;

/// Answers requests.
pub(super) struct Answers {
    views: Views,
    loopback: bool,
    /// Who has been noted, and when.
    noted: Mutex<HashMap<Client, Instant>>,
}

/// Why there is no answer.
struct Refusal(StatusCode, String);

impl Answers {
    /// For clients at the socket, and at an address where there is one.
    pub(super) fn new(views: Views, listen: Option<SocketAddr>) -> Self {
        let loopback = listen.is_none_or(|listen| listen.ip().is_loopback());
        Self { views, loopback, noted: Mutex::default() }
    }

    /// Notes that a client reads what customers did.
    fn note(&self, client: Client, path: &'static str) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, at| at.elapsed() < NOTED);
        if noted.contains_key(&client) {
            return;
        }
        if noted.len() < CLIENTS {
            noted.insert(client, Instant::now());
        }
        let instance = self.views.instance.clone();
        // Nobody waits for the disk.
        spawn_blocking(move || note_request(&instance, &client, path));
    }

    /// Answers one request of a client.
    pub(super) async fn answer<B: Body>(&self, request: &Request<B>, client: Client) -> Answer {
        let path = request.uri().path();
        let mut answer = match self.dispatch(request, client).await {
            Ok(answer) => answer,
            Err(Refusal(status, why)) if path.starts_with("/api/") => {
                with(status, JSON, serde_json::json!({ "error": why }).to_string())
            }
            Err(Refusal(status, why)) => with(status, TEXT, why + "\n"),
        };
        let headers = answer.headers_mut();
        headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }

    async fn dispatch<B: Body>(&self, request: &Request<B>, client: Client) -> Result<Answer, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD: it is read-only".to_owned(),
            ));
        }
        // A name that somebody else's DNS points here would make their pages ours to a browser.
        if self.loopback && !request.headers().get_all(header::HOST).iter().all(is_own_host) {
            return Err(Refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "ask by address or as localhost; a proxy has to send such a `Host`".to_owned(),
            ));
        }
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/" => {
                self.note(client, "/");
                self.page(query, request.headers()).await
            }
            "/page.css" => Ok(with(StatusCode::OK, "text/css; charset=utf-8", page::STYLE)),
            "/page.js" => Ok(with(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT)),
            "/metrics" => self.metrics().await,
            "/api/v1/status" => {
                Query::read(query, &[])?;
                json(&self.now().await?.status)
            }
            "/api/v1/stats" => self.stats(&Query::read(query, &["reason", "group"])?).await,
            "/api/v1/sources" => {
                self.note(client, "/api/v1/sources");
                self.sources(Query::read(query, &["reason", "group", "limit"])?).await
            }
            "/api/v1/history-trend" => self.trend(&Query::read(query, &["reason", "group"])?).await,
            _ => Err(Refusal(
                StatusCode::NOT_FOUND,
                "there are /, /metrics and /api/v1/status, stats, sources and history-trend".to_owned(),
            )),
        }
    }

    async fn now(&self) -> Result<Arc<View>, Refusal> {
        self.views.now().await.map_err(unavailable)
    }

    async fn page(&self, query: &str, headers: &HeaderMap) -> Result<Answer, Refusal> {
        let written = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "lang");
        let language = asked
            .and_then(|(_, value)| Language::from_tag(&value))
            .unwrap_or_else(|| Language::accepted(written(header::ACCEPT_LANGUAGE).unwrap_or_default()));
        let view = match self.views.now().await {
            Ok(view) => view,
            Err(why) => {
                let page = page::without_view(language, self.views.instance.name(), &why);
                return Ok(with(StatusCode::SERVICE_UNAVAILABLE, HTML, page.into_string()));
            }
        };
        let (sources, trend) = tokio::join!(self.views.sources(), self.views.trend(&view.manifest));
        let page =
            Page { language, view: &view, sources: &sources, trend: trend.as_ref(), now: Timestamp::now() };
        Ok(with(StatusCode::OK, HTML, page.render().into_string()))
    }

    async fn metrics(&self) -> Result<Answer, Refusal> {
        let (view, sources) = tokio::join!(self.views.now(), self.views.sources());
        let text = metrics::encode(&view, &sources, Timestamp::now())
            .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(with(StatusCode::OK, OPENMETRICS, text))
    }

    async fn stats(&self, query: &Query) -> Result<Answer, Refusal> {
        let mut stats = self.now().await?.stats.clone();
        let reason = query.reason.map(Reason::name);
        stats.totals.retain(|total| {
            reason.is_none_or(|reason| total.reason == reason) && query.is_of(total.customer.as_deref())
        });
        stats.submission.retain(|submission| query.is_of(submission.customer.as_deref()));
        json(&stats)
    }

    async fn sources(&self, query: Query) -> Result<Answer, Refusal> {
        let manifest = self.now().await?.manifest.clone();
        let limit = query.limit.unwrap_or(LIMIT);
        let sources = self.views.filtered(manifest, query.reason, query.group, limit);
        let sources = sources.await.map_err(unavailable)?;
        json(&serde_json::json!({ "sources": sources }))
    }

    async fn trend(&self, query: &Query) -> Result<Answer, Refusal> {
        let view = self.now().await?;
        let Some(trend) = self.views.trend(&view.manifest).await else {
            let off =
                "no history is kept: write `history: {path: /var/lib/op25b/history.db}` into the policy";
            return Err(Refusal(StatusCode::NOT_FOUND, off.to_owned()));
        };
        let trend = trend.map_err(unavailable)?;
        let reason = query.reason.map(Reason::name);
        let hours: Vec<_> = trend
            .iter()
            .filter(|hour| {
                reason.is_none_or(|reason| hour.reason == reason) && query.is_of(hour.customer.as_deref())
            })
            .collect();
        json(&serde_json::json!({ "trend": hours }))
    }
}

/// What a request narrows down.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    reason: Option<Reason>,
    group: Option<String>,
    limit: Option<usize>,
}

impl Query {
    /// A parameter that is not known is refused, like a key of the policy: its answer would not be what was asked for.
    fn read(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
        let mut read = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let known_key = known.iter().copied().find(|known| *known == key);
            match known_key {
                Some("reason") => {
                    let reason = Reason::from_name(&value);
                    read.reason = Some(reason.ok_or_else(|| {
                        let names = Reason::ALL.map(Reason::name).join(", ");
                        refuse(format!("reason: one of {names}"))
                    })?);
                }
                Some("group") => read.group = Some(value.into_owned()),
                Some("limit") => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    read.limit = Some(limit.ok_or_else(|| {
                        refuse(format!("limit: 1 to {MOST}; `op25b top --once --json --limit 0` names all"))
                    })?);
                }
                _ if known.is_empty() => return Err(refuse("there are no parameters".to_owned())),
                _ => return Err(refuse(format!("the parameters are {}", known.join(", ")))),
            }
        }
        Ok(read)
    }

    fn is_of(&self, customer: Option<&str>) -> bool {
        self.group.is_none() || self.group.as_deref() == customer
    }
}

/// Whether a `Host` is an address or `localhost`, with a port or without.
fn is_own_host(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let Ok(authority) = host.parse::<hyper::http::uri::Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn unavailable(why: Arc<str>) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
}

fn json(value: &impl Serialize) -> Result<Answer, Refusal> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(with(StatusCode::OK, JSON, text))
}

fn with(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_own_hosts() {
        let own = |host: &str| HeaderValue::from_str(host).is_ok_and(|host| is_own_host(&host));
        for host in ["127.0.0.1", "127.0.0.1:9025", "[::1]:9025", "[::1]", "localhost", "LocalHost:1"] {
            assert!(own(host), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "localhost.example.com:9025", "", "a b", "[::1"]
        {
            assert!(!own(host), "{host}");
        }
    }

    #[test]
    fn parameters_are_read_strictly() {
        let known = ["reason", "group", "limit"];
        let read = |query| Query::read(query, &known).map_err(|refusal| refusal.1);
        let all =
            Query { reason: Some(Reason::WouldBlock), group: Some("a b&<c".to_owned()), limit: Some(7) };
        assert_eq!(read("reason=would-block&group=a+b%26%3Cc&limit=7"), Ok(all));
        assert_eq!(read(""), Ok(Query::default()));
        for refused in ["reason=x", "limit=0", "limit=1001", "limit=-1", "limit=", "x=1", "reason"] {
            assert!(read(refused).is_err(), "{refused}");
        }
        assert!(Query::read("group=a", &[]).is_err());
    }
}
