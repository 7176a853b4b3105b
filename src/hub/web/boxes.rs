//! The boxes' listener: TLS with mandatory client certificates, and who is at the other end.
//!
//! Handshakes run side by side, each with a deadline, so that one slow box keeps nobody waiting. A box is
//! who its certificate's common name says. Serves uploads only.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{drain, tus};
use crate::hub::clips::ClipStore;
use crate::hub::metrics::HubMetrics;
use crate::limits::{BOX_CONNECTIONS_MAX, TLS_HANDSHAKE_MAX, UPLOAD_STALE_AFTER};
use crate::model::BoxId;
use crate::mqtt::HUB_NAME;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct BoxPeer {
    pub box_id: BoxId,
    pub address: SocketAddr,
}

/// Serves uploads until `shutdown`, and cleans up what boxes left behind.
pub async fn serve_boxes(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    clips: Arc<ClipStore>,
    metrics: HubMetrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (ready, connections) = mpsc::channel(64);
    let accepting =
        tokio::spawn(accept(listener, TlsAcceptor::from(tls), ready, metrics.clone(), shutdown.clone()));
    let cleaning = tokio::spawn(clean(clips.clone(), shutdown.clone()));
    let app: Router = tus::router(clips, metrics);
    let app = app.into_make_service_with_connect_info::<BoxPeer>();
    let serve = axum::serve(BoxListener { address, connections }, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let done = drain(std::future::IntoFuture::into_future(serve), shutdown).await;
    accepting.abort();
    cleaning.abort();
    done
}

async fn clean(clips: Arc<ClipStore>, shutdown: CancellationToken) {
    loop {
        let removed = clips.clean(UPLOAD_STALE_AFTER).await;
        if removed > 0 {
            tracing::info!(removed, "stale uploads removed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(3600)) => {}
        }
    }
}

/// Accepts, and shakes hands with many at once.
async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<(BoxConnection, BoxPeer)>,
    metrics: HubMetrics,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(BOX_CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let place = places.clone().acquire_owned().await.expect("never closed");
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, address) = match accepted.0 {
            Ok(connection) => connection,
            Err(error) => {
                // For instance too many open files: others may close some.
                tracing::warn!(%error, "connection of a box not accepted");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_millis(200)) => continue,
                }
            }
        };
        let (tls, ready, metrics, shutdown) = (tls.clone(), ready.clone(), metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let connected = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = shake_hands(stream, address, tls, accepted.1, &metrics) => connected,
            };
            match connected {
                Ok(connection) => drop(ready.send(connection).await),
                Err((reason, error)) => {
                    metrics.box_connections_failed.with_label_values(&[reason]).inc();
                    tracing::debug!(%address, reason, error, "connection refused");
                }
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    place: OwnedSemaphorePermit,
    metrics: &HubMetrics,
) -> Result<(BoxConnection, BoxPeer), (&'static str, String)> {
    let stream = match tokio::time::timeout(TLS_HANDSHAKE_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(("handshake", error.to_string())),
        Err(_) => return Err(("timeout", "no handshake".into())),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let box_id = certificates.first().and_then(|c| box_of(c));
    let box_id = box_id.ok_or(("name", "the certificate's common name is no box id".to_owned()))?;
    metrics.box_connections.inc();
    let connection = BoxConnection { stream, open: metrics.box_connections.clone(), _place: place };
    Ok((connection, BoxPeer { box_id, address }))
}

/// The box that a verified certificate names.
fn box_of(certificate: &[u8]) -> Option<BoxId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    if names.next().is_some() || name == HUB_NAME {
        return None;
    }
    BoxId::new(name).ok()
}

struct BoxListener {
    address: SocketAddr,
    connections: mpsc::Receiver<(BoxConnection, BoxPeer)>,
}

impl Listener for BoxListener {
    type Io = BoxConnection;
    type Addr = BoxPeer;

    async fn accept(&mut self) -> (BoxConnection, BoxPeer) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // Shutting down: nobody comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<BoxPeer> {
        let box_id = BoxId::new(HUB_NAME).expect("the hub's name has the form of an id");
        Ok(BoxPeer { box_id, address: self.address })
    }
}

impl Connected<IncomingStream<'_, BoxListener>> for BoxPeer {
    fn connect_info(stream: IncomingStream<'_, BoxListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection that gives its place back when it ends.
struct BoxConnection {
    stream: TlsStream<TcpStream>,
    open: prometheus::IntGauge,
    _place: OwnedSemaphorePermit,
}

impl Drop for BoxConnection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl AsyncRead for BoxConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
