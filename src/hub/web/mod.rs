//! HTTP: the officers' listener (console, API) and the boxes' (uploads).
//!
//! Owns routes, headers and problem details. A handler parses, calls, renders; what it calls lives
//! elsewhere. May not listen for officers beyond loopback until login exists.

mod api;
mod ask;
pub mod boxes;
pub mod console;
mod copies;
pub mod enrol;
mod events;
mod fleet;
pub mod lamp;
mod lighting;
pub mod openapi;
mod own;
mod places;
mod problem;
mod stac;
mod stream;
mod timeline;
pub mod tus;
pub mod video;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::access::Gate;
use super::catalog::Catalog;
use super::clips::ClipStore;
use super::command::Commands;
use super::copies::Copies;
use super::enrol::Enrol;
use super::fleet::device_figures::{self, DeviceSeries};
use super::fleet::keeper::Keeper;
use super::metrics::{HubMetrics, render};
use super::photos::Photos;
use super::registry::Registry;
use super::reindex::Rebuilder;
use super::replay::Replay;
use super::search::Search;
use super::search::atlas::{Atlas, Atlases};
pub use super::status::HubStatus;
use crate::limits::{COMMIT_EVENTS_MAX, DRAIN_MAX};
use crate::model::BoxId;
pub use fleet::still::Taking;
pub use own::serve_invited;
pub use problem::Problem;

/// What the officers' handlers call.
pub struct Web {
    pub catalog: Arc<dyn Catalog>,
    pub rebuilder: Arc<Rebuilder>,
    pub registry: Arc<Registry>,
    pub gate: Arc<Gate>,
    pub clips: Arc<ClipStore>,
    pub copies: Arc<Copies>,
    pub fleet: Keeper,
    pub photos: Arc<Photos>,
    /// Cameras that a still is taken of right now.
    pub taking: Taking,
    /// What questions know of the registry; begins empty.
    pub atlases: Arc<Atlases>,
    pub metrics: HubMetrics,
    pub device_series: DeviceSeries,
    pub status: Arc<HubStatus>,
    pub replay: Replay,
    pub commands: Commands,
    pub enrol: Enrol,
    /// Who looks until login exists: the gate must know this name.
    pub actor: String,
    /// The hub runs as a demonstration; the console says so.
    pub demo: bool,
    pub base_map: Option<console::BaseMap>,
}

impl Web {
    /// The registry as it is known now, made ready for questions.
    async fn atlas(&self) -> Arc<Atlas> {
        let (atlases, history) = (self.atlases.clone(), self.registry.history());
        blocking(move || atlases.of(history)).await
    }

    fn search(&self) -> Search {
        let status = self.status.clone();
        let is_offline = move |box_id: &BoxId| status.online(box_id) == Some(false);
        Search::new(self.catalog.clone(), Arc::new(is_offline))
    }
}

/// The routes of the officers' listener.
pub fn officers_router(web: Arc<Web>) -> Router {
    Router::new()
        .nest("/api/v1", api::router())
        .nest("/stac", stac::router().fallback(not_found))
        .route("/stac/", get(stac::landing))
        .route("/api/{*rest}", axum::routing::any(not_found))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/metrics/devices", get(device_metrics))
        .route("/openapi.json", get(openapi::serve))
        .route("/basemap.json", get(console::base_map_place))
        .route("/basemap.pmtiles", get(console::base_map))
        .fallback(console::serve)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(web.clone(), measure))
        .layer(from_fn(guard))
        .with_state(web)
}

/// Serves officers until `shutdown`; then open answers have a deadline.
pub async fn serve_officers(
    listener: TcpListener,
    web: Arc<Web>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listen = listener.local_addr()?;
    if !listen.ip().is_loopback() {
        let why =
            format!("{listen} is not a loopback address; until login exists officers are served there only");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let copies = web.copies.clone();
    let cleaning = tokio::spawn(copies::clean(copies.clone(), shutdown.clone()));
    let app = officers_router(web).into_make_service_with_connect_info::<SocketAddr>();
    let serve = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let served = drain(serve.into_future(), shutdown).await;
    cleaning.abort();
    copies.stop();
    served
}

/// Waits for `serve`, but after `shutdown` no longer than the drain may take.
async fn drain(serve: impl Future<Output = io::Result<()>>, shutdown: CancellationToken) -> io::Result<()> {
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        done = serve => done,
        () = deadline => Ok(()),
    }
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such resource")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this resource does not know that method")
}

/// Ready when the index has caught up with the journal and the broker is there.
async fn ready(State(web): State<Arc<Web>>) -> Response {
    let lag = web.status.journal_next.load(Ordering::Relaxed).saturating_sub(web.catalog.applied());
    let broker_up = web.status.broker_up.load(Ordering::Relaxed);
    let index_ready = lag <= 2 * COMMIT_EVENTS_MAX as u64;
    let is_ready = index_ready && broker_up;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": is_ready, "index_lag": lag, "broker_up": broker_up });
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(web): State<Arc<Web>>) -> Response {
    let journal_next = web.status.journal_next.load(Ordering::Relaxed);
    web.metrics.journal_next.set(journal_next as i64);
    web.metrics.index_applied.set(web.catalog.applied() as i64);
    web.metrics.broker_up.set(web.status.broker_up.load(Ordering::Relaxed).into());
    let text = blocking(move || web.metrics.render()).await;
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

/// Figures with a series for each device and box.
async fn device_metrics(State(web): State<Arc<Web>>) -> Result<Response, Problem> {
    let text = blocking(move || {
        web.fleet.look(|inner| {
            web.device_series.check(inner.roster.devices.len()).map_err(Problem::not_found)?;
            let mut text = device_figures::text(inner)
                .map_err(|error| Problem::internal(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
            text.extend(render(web.metrics.of_each()));
            Ok::<_, Problem>(text)
        })
    });
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text.await?).into_response())
}

async fn measure(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    web.metrics.request("officers", route, response.status().as_u16(), began.elapsed());
    response
}

const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; \
    worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

/// Answers only to loopback names (a page elsewhere could else rebind its own name to this machine), and
/// puts the security headers on every answer.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|a| a.as_str()));
    let mut response = if host.is_some_and(is_loopback_name) {
        match is_foreign(&request, host) {
            false => next.run(request).await,
            true => {
                let detail = "a page of another site may not ask this hub to do anything";
                Problem::new(StatusCode::FORBIDDEN, detail).into_response()
            }
        }
    } else {
        let detail = "this hub answers to localhost, 127.0.0.1 and [::1] only";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a page from elsewhere lets an officer's browser do something: browsers name the page's origin with each request
/// that is not just a reading one (Fetch Standard, "Origin header").
fn is_foreign(request: &Request, host: Option<&str>) -> bool {
    if request.method().is_safe() {
        return false;
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.map(|(_, authority)| authority) != host
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// Runs what blocks on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}

#[cfg(test)]
mod tests;
