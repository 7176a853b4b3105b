//! A TCP proxy that a test can cut, stall or leave half open, to be put between a client and a broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with the connections through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Open connections are closed; new ones are closed at once.
    Cut,
    /// Nothing moves, in either direction, until the mode is [`Mode::Pass`] again: then everything does.
    Stall,
    /// The far end is gone and the near end is not told: what it writes is swallowed. Connections that were open
    /// stay dead; their owner must notice. New ones get nowhere until the mode is [`Mode::Pass`] again.
    HalfOpen,
}

/// A proxy on a port of its own, until it is dropped.
pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
    taken: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `to` on this machine.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, seen) = watch::channel(Mode::Pass);
        let taken = Arc::new(AtomicU64::new(0));
        let count = taken.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                while connections.try_join_next().is_some() {}
                connections.spawn(carry(near, to, seen.clone()));
            }
        });
        Self { port, mode, taken, task }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Connections so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, to: u16, mut mode: watch::Receiver<Mode>) {
    if until(&mut mode, &[Mode::Pass, Mode::Cut]).await != Some(Mode::Pass) {
        return;
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let broken = {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        tokio::select! {
            () = forward(near_read, far_write, mode.clone()) => return,
            () = forward(far_read, near_write, mode.clone()) => return,
            broken = until(&mut mode, &[Mode::Cut, Mode::HalfOpen]) => broken,
        }
    };
    drop(far);
    if broken == Some(Mode::HalfOpen) {
        let mut buffer = vec![0; 16 << 10];
        let swallow = async { while near.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
        tokio::select! {
            () = swallow => {}
            _ = until(&mut mode, &[Mode::Cut]) => {}
        }
    }
}

async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let is_open = until(&mut mode, &[Mode::Pass, Mode::Cut, Mode::HalfOpen]).await.is_some();
        if !is_open || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits for one of these modes; None when the proxy is gone.
async fn until(mode: &mut watch::Receiver<Mode>, wanted: &[Mode]) -> Option<Mode> {
    mode.wait_for(|mode| wanted.contains(mode)).await.ok().map(|mode| *mode)
}
