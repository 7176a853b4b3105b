//! The boxes' listener: TLS with mandatory client certificates, and who is at the other end.
//!
//! Handshakes run side by side, each with a deadline, so that one slow box keeps nobody waiting. A box is
//! who its certificate's common name says. A revoked certificate fails in the handshake, and its open connections are
//! closed. Serves uploads, and what a box asks about itself (`own`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::{drain, own, tus};
use crate::hub::clips::ClipStore;
use crate::hub::enrol::book::Serial;
use crate::hub::enrol::{Enrol, Revocation, Shown};
use crate::hub::metrics::HubMetrics;
use crate::limits::{BOX_CONNECTIONS_MAX, TLS_HANDSHAKE_MAX, UPLOAD_STALE_AFTER};
use crate::model::{BoxId, Time};
use crate::mqtt::HUB_NAME;
use crate::tls::{self, Identity, TlsError};

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct BoxPeer {
    pub box_id: BoxId,
    pub serial: Serial,
    pub expires: Time,
    pub address: SocketAddr,
}

impl BoxPeer {
    pub fn shown(&self) -> Shown {
        let Self { box_id, serial, expires, .. } = self.clone();
        Shown { box_id, serial, expires }
    }
}

/// What this listener needs.
pub struct BoxesWeb {
    pub clips: Arc<ClipStore>,
    pub enrol: Enrol,
    pub metrics: HubMetrics,
}

/// The listener's TLS: whoever has no certificate of our CA, or a revoked one, gets nowhere.
pub fn boxes_tls(identity: &Identity, enrol: Enrol) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    tls::server_config(identity, |inner| Arc::new(NotRevoked { inner, enrol }))
}

/// Serves uploads until `shutdown`, and cleans up what boxes left behind.
pub async fn serve_boxes(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    web: BoxesWeb,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let BoxesWeb { clips, enrol, metrics } = web;
    let address = listener.local_addr()?;
    let (ready, connections) = mpsc::channel(64);
    let door = Door { enrol: enrol.clone(), open: Arc::default() };
    // From before the first connection: none is missed.
    let closing = tokio::spawn(close_revoked(door.clone(), enrol.revocations()));
    let accepting = tokio::spawn(accept(
        listener,
        TlsAcceptor::from(tls),
        ready,
        door,
        metrics.clone(),
        shutdown.clone(),
    ));
    let cleaning = tokio::spawn(clean(clips.clone(), shutdown.clone()));
    let app: Router = tus::router(clips, metrics.clone()).merge(own::router(enrol, metrics));
    let app = app.into_make_service_with_connect_info::<BoxPeer>();
    let serve = axum::serve(BoxListener { address, connections }, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let done = drain(std::future::IntoFuture::into_future(serve), shutdown).await;
    accepting.abort();
    cleaning.abort();
    closing.abort();
    done
}

/// Who is let in, and who is in.
#[derive(Clone)]
struct Door {
    enrol: Enrol,
    open: Arc<Mutex<Open>>,
}

/// Connections by number, and what closes each.
#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, (BoxId, Serial, CancellationToken)>,
}

/// One connection's place among the open ones, until it is dropped.
struct Place {
    number: u64,
    open: Arc<Mutex<Open>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.open).connections.remove(&self.number);
    }
}

impl Door {
    fn enter(&self, peer: &BoxPeer) -> (Place, CancellationToken) {
        let close = CancellationToken::new();
        let mut open = lock(&self.open);
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, (peer.box_id.clone(), peer.serial.clone(), close.clone()));
        (Place { number, open: self.open.clone() }, close)
    }

    fn close(&self, closes: impl Fn(&BoxId, &Serial) -> bool) {
        for (box_id, serial, close) in lock(&self.open).connections.values() {
            if closes(box_id, serial) {
                tracing::warn!(%box_id, %serial, "connection of a revoked certificate closed");
                close.cancel();
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes what is revoked while it is open.
async fn close_revoked(door: Door, mut revocations: broadcast::Receiver<Revocation>) {
    use broadcast::error::RecvError;
    loop {
        match revocations.recv().await {
            Ok(Revocation { box_id, serial }) => {
                door.close(|of, shown| *of == box_id && serial.as_ref().is_none_or(|serial| serial == shown));
            }
            // Too many at once to hear each: every open one is looked at.
            Err(RecvError::Lagged(_)) => door.close(|of, shown| door.enrol.check(of, shown).is_err()),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Refuses revoked certificates in the handshake, after the CA's own check.
#[derive(Debug)]
struct NotRevoked {
    inner: Arc<dyn ClientCertVerifier>,
    enrol: Enrol,
}

impl ClientCertVerifier for NotRevoked {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        // Who is no box is told so after the handshake.
        if let Some(shown) = shown_by(end_entity)
            && let Err(error) = self.enrol.check(&shown.box_id, &shown.serial)
        {
            tracing::warn!(%error, "certificate of a box refused");
            return Err(CertificateError::Revoked.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
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
    door: Door,
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
        let (tls, ready, door) = (tls.clone(), ready.clone(), door.clone());
        let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let connected = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = shake_hands(stream, address, tls, accepted.1, door, &metrics) => connected,
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
    door: Door,
    metrics: &HubMetrics,
) -> Result<(BoxConnection, BoxPeer), (&'static str, String)> {
    let stream = match tokio::time::timeout(TLS_HANDSHAKE_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(("handshake", error.to_string())),
        Err(_) => return Err(("timeout", "no handshake".into())),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = certificates.first().and_then(|c| shown_by(c));
    let shown = shown.ok_or(("name", "the certificate's common name is no box id".to_owned()))?;
    let Shown { box_id, serial, expires } = shown.clone();
    let peer = BoxPeer { box_id, serial, expires, address };
    // Entered before it is checked: a revocation in between closes it.
    let (entered, close) = door.enter(&peer);
    let arrived = tokio::task::spawn_blocking(move || door.enrol.arrives(&shown)).await;
    arrived.expect("arriving does not panic").map_err(|error| ("revoked", error.to_string()))?;
    metrics.box_connections.inc();
    let connection = BoxConnection {
        stream,
        open: metrics.box_connections.clone(),
        closed: Box::pin(close.cancelled_owned()),
        _place: place,
        _entered: entered,
    };
    Ok((connection, peer))
}

/// The box that a verified certificate names.
pub fn shown_by(certificate: &[u8]) -> Option<Shown> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    if names.next().is_some() || name == HUB_NAME {
        return None;
    }
    let expires = Time::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(Shown { box_id: BoxId::new(name).ok()?, serial: Serial::of(certificate.raw_serial()), expires })
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
        Ok(BoxPeer { box_id, serial: Serial::read(""), expires: Time::MAX, address: self.address })
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
    /// Its certificate was revoked.
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
    _entered: Place,
}

impl BoxConnection {
    /// Also wakes the task when that happens later.
    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the certificate is revoked"))
            }
            Poll::Pending => Ok(()),
        }
    }
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
        self.check_open(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
