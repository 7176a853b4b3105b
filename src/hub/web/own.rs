//! What a box asks about itself, on the boxes' listener: `/box/v1/hello`, `/certificate`, `/config`. And `/enrol/v1`, the
//! listener for boxes that come with an invitation and have no certificate yet.
//!
//! A handler parses, calls, renders. Who asks is known by the certificate, but for the invited.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::boxes::BoxPeer;
use super::{Problem, blocking, drain, not_found};
use crate::hub::enrol::{Enrol, EnrolError};
use crate::hub::metrics::HubMetrics;
use crate::limits::{
    BACKOFF_FIRST, BOX_REQUEST_BYTES_MAX, ENROL_CONNECTION_MAX, ENROL_CONNECTIONS_MAX, TLS_HANDSHAKE_MAX,
};
use crate::wire::enrol::{
    Accepted, CERTIFICATE_PATH, CONFIG_PATH, ENROL_CA_PATH, ENROL_PATH, Enrolment, HELLO_PATH, Hello,
    KeyProof, Renewed, SetConfig, Welcome,
};

type Peer = ConnectInfo<BoxPeer>;

/// The routes of a box that has its certificate.
pub fn router(enrol: Enrol, metrics: HubMetrics) -> Router {
    Router::new()
        .route(HELLO_PATH, post(hello))
        .route(CERTIFICATE_PATH, post(certificate))
        .route(CONFIG_PATH, get(config))
        .layer(from_fn_with_state(metrics, measure))
        .with_state(enrol)
}

async fn measure(State(metrics): State<HubMetrics>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    metrics.request("boxes", route, response.status().as_u16(), began.elapsed());
    response
}

async fn hello(
    State(enrol): State<Enrol>,
    ConnectInfo(peer): Peer,
    body: Body,
) -> Result<Json<Welcome>, Problem> {
    let hello: Hello = json(body).await?;
    Ok(Json(blocking(move || enrol.hello(&peer.shown(), hello)).await?))
}

async fn certificate(
    State(enrol): State<Enrol>,
    ConnectInfo(peer): Peer,
    body: Body,
) -> Result<Json<Renewed>, Problem> {
    let key: KeyProof = json(body).await?;
    Ok(Json(blocking(move || enrol.renew(&peer.shown(), &key)).await?))
}

async fn config(State(enrol): State<Enrol>, ConnectInfo(peer): Peer) -> Result<Json<SetConfig>, Problem> {
    let wanted = enrol.wanted(&peer.box_id);
    wanted.map(Json).ok_or_else(|| Problem::not_found("nothing is set for this box"))
}

async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = to_bytes(body, BOX_REQUEST_BYTES_MAX).await.map_err(|_| {
        let detail = format!("at most {BOX_REQUEST_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    serde_json::from_slice(&body).map_err(|error| Problem::bad_request(format!("body: {error}")))
}

impl From<EnrolError> for Problem {
    fn from(error: EnrolError) -> Self {
        let status = match &error {
            EnrolError::NoAuthority | EnrolError::NoListener | EnrolError::NoName => StatusCode::CONFLICT,
            EnrolError::Unwelcome(_) | EnrolError::NotInvited => StatusCode::FORBIDDEN,
            EnrolError::Proof(_) | EnrolError::Config(_) | EnrolError::Why | EnrolError::HubName => {
                StatusCode::BAD_REQUEST
            }
            EnrolError::Enough(_) => StatusCode::TOO_MANY_REQUESTS,
            EnrolError::NoKey(_) | EnrolError::Certificate(_) => {
                return Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &error);
            }
            EnrolError::Book(_) => return Self::internal(StatusCode::SERVICE_UNAVAILABLE, &error),
        };
        Self::new(status, error.to_string())
    }
}

// --- with an invitation ---

/// Serves the invited until `shutdown`. Anybody may come here: connections are few, short, and say little.
pub async fn serve_invited(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    enrol: Enrol,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = Router::new()
        .route(ENROL_PATH, post(accept))
        .route(ENROL_CA_PATH, get(ca))
        .fallback(not_found)
        .with_state(enrol);
    let address = listener.local_addr()?;
    let (ready, connections) = mpsc::channel(ENROL_CONNECTIONS_MAX);
    let shaking = tokio::spawn(shake_hands(listener, TlsAcceptor::from(tls), ready, shutdown.clone()));
    let serve = axum::serve(InvitedListener { address, connections }, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let done = drain(std::future::IntoFuture::into_future(serve), shutdown).await;
    shaking.abort();
    done
}

async fn shake_hands(
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<(ShortConnection, SocketAddr)>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(ENROL_CONNECTIONS_MAX));
    loop {
        let (accepted, place) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let place = places.clone().acquire_owned().await.expect("never closed");
                (listener.accept().await, place)
            } => accepted,
        };
        let Ok((stream, address)) = accepted else {
            // For instance too many open files: others may close some.
            tokio::time::sleep(BACKOFF_FIRST).await;
            continue;
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(TLS_HANDSHAKE_MAX, tls.accept(stream)).await;
            if let Ok(Ok(stream)) = shaken {
                let over = Box::pin(tokio::time::sleep(ENROL_CONNECTION_MAX));
                drop(ready.send((ShortConnection { stream, over, _place: place }, address)).await);
            }
        });
    }
}

struct InvitedListener {
    address: SocketAddr,
    connections: mpsc::Receiver<(ShortConnection, SocketAddr)>,
}

impl Listener for InvitedListener {
    type Io = ShortConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ShortConnection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // Shutting down: nobody comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that breaks off when its time is over.
struct ShortConnection {
    stream: TlsStream<TcpStream>,
    over: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl ShortConnection {
    /// Also wakes the task when that happens later.
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.over.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for ShortConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ShortConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn ca(State(enrol): State<Enrol>) -> Result<String, Problem> {
    Ok(enrol.ca()?)
}

async fn accept(State(enrol): State<Enrol>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let accepted: Accepted = json(body).await?;
    // As the box came it will come again.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => host.to_owned(),
    };
    let box_id = accepted.box_id.clone();
    let enrolled = blocking(move || enrol.accept(&accepted, &host)).await;
    match &enrolled {
        Ok(_) => tracing::info!(%box_id, "a box came with its invitation"),
        Err(error) => tracing::warn!(%box_id, %error, "an invitation was refused"),
    }
    let enrolment: Enrolment = enrolled?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(enrolment)).into_response())
}
