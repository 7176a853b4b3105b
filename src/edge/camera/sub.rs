//! The low-rate stream of a camera: looked at for motion, never recorded.
//!
//! Owns its connection. While it does not come, the recorded stream is looked at; what fails here disturbs nothing else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::motion::MotionFeed;
use super::session::{self, SessionItem, Ways};
use super::timing::{Mapping, Timing};
use super::with_jitter;
use crate::edge::clock::Watch;
use crate::edge::config::CameraConfig;
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::outage::Outage;

pub struct SubStream {
    /// The camera, with the low-rate stream's address.
    pub camera: CameraConfig,
    pub feed: MotionFeed,
    pub clock: Watch,
}

impl SubStream {
    /// Connects, again and again, until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = BACKOFF_FIRST;
        let mut ways = Ways::default();
        let mut outage = Outage::default();
        while !shutdown.is_cancelled() {
            let (ended, pictures) = self.connect(&mut ways, &shutdown).await;
            self.feed.ended();
            let Err(error) = ended else { continue };
            if pictures > 0 {
                (backoff, outage) = (BACKOFF_FIRST, Outage::default());
            }
            let (device, error_text) = (&self.camera.id, error.in_short());
            if outage.failed(&error_text) {
                tracing::warn!(%device, error = error_text, "low-rate stream lost, motion is looked for in the recorded one");
            }
            if ways.learn(&error) {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(with_jitter(backoff)) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }

    async fn connect(
        &mut self,
        ways: &mut Ways,
        shutdown: &CancellationToken,
    ) -> (Result<(), session::SessionError>, u64) {
        let (items, mut item_queue) = mpsc::channel(1);
        let camera = Arc::new(self.camera.clone());
        let session = async {
            let ended = session::run_once(&camera, ways, &items, shutdown).await;
            drop(items);
            ended
        };
        let mut pictures = 0;
        let look = async {
            self.feed.connected();
            let (mut timing, mut mapping) = (Timing::default(), None);
            while let Some(item) = item_queue.recv().await {
                match item {
                    SessionItem::Track(track) => self.feed.track(&track),
                    SessionItem::SenderReport(report) => timing.report(report),
                    SessionItem::Unit(unit) => {
                        pictures += 1;
                        timing.unit(unit.pts, unit.arrived);
                        if mapping.as_ref().is_none_or(|mapping: &Mapping| timing.has_shifted(mapping)) {
                            mapping = timing.choose(self.clock.read().quality);
                        }
                        if let Some(mapping) = mapping {
                            self.feed.unit(&unit, mapping);
                        }
                    }
                    _ => {}
                }
            }
        };
        let (ended, ()) = tokio::join!(session, look);
        (ended, pictures)
    }
}
