//! From access units to motion: the recorder's side.
//!
//! Owns the queue to the motion worker. Never waits: what does not fit is dropped up to the next key
//! frame and counted, so that motion can't disturb the recording.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::metrics::CameraMetrics;
use super::session::AccessUnit;
use super::timing::{Mapping, ticks_ns};
use crate::edge::fmp4::{self, Track};
use crate::model::{ClockQuality, Time, VideoCodec};

/// One connection's stream, as a decoder wants to know it.
#[derive(Debug)]
pub struct Stream {
    pub codec: VideoCodec,
    pub codec_data: Vec<u8>,
}

/// What the motion worker is told.
#[derive(Debug)]
pub enum MotionInput {
    Unit(MotionUnit),
    /// The stream ended; what moves has ended with it.
    Ended,
}

#[derive(Debug, Clone)]
pub struct MotionUnit {
    pub stream: Arc<Stream>,
    pub data: Bytes,
    pub sync: bool,
    /// On a timeline of its own that goes on over connections.
    pub pts_ns: u64,
    pub time: Time,
    pub clock: ClockQuality,
}

/// The recorder's end of the queue.
pub struct MotionFeed {
    sender: Option<mpsc::Sender<MotionInput>>,
    metrics: CameraMetrics,
    stream: Option<Arc<Stream>>,
    /// The connection's first access unit and where it stands on the worker's timeline.
    first: Option<(i64, u64)>,
    newest_ns: u64,
    awaits_sync: bool,
}

/// Two connections are this far apart on the worker's timeline, so that it learns its background anew.
const PAUSE_NS: u64 = 10_000_000_000;

impl MotionFeed {
    /// Without a `sender` nothing is looked at.
    pub fn new(sender: Option<mpsc::Sender<MotionInput>>, metrics: CameraMetrics) -> Self {
        Self { sender, metrics, stream: None, first: None, newest_ns: 0, awaits_sync: true }
    }

    pub fn connected(&mut self) {
        self.first = None;
        self.stream = None;
        self.awaits_sync = true;
    }

    pub fn track(&mut self, track: &Track) {
        let codec_data = fmp4::codec_data(&track.sample_entry).unwrap_or_default().to_vec();
        let codec = fmp4::video_codec(&track.sample_entry);
        self.stream = codec.map(|codec| Arc::new(Stream { codec, codec_data }));
        self.awaits_sync = true;
    }

    pub fn unit(&mut self, unit: &AccessUnit, mapping: Mapping) {
        let (Some(sender), Some(stream)) = (&self.sender, &self.stream) else { return };
        if self.awaits_sync && !unit.sync {
            return;
        }
        let &mut (first, base_ns) = self.first.get_or_insert((unit.pts, self.newest_ns + PAUSE_NS));
        let pts_ns = i128::from(base_ns) + ticks_ns(unit.pts - first);
        let Ok(pts_ns) = u64::try_from(pts_ns) else { return };
        self.newest_ns = self.newest_ns.max(pts_ns);
        let sent = sender.try_send(MotionInput::Unit(MotionUnit {
            stream: stream.clone(),
            data: unit.data.clone(),
            sync: unit.sync,
            pts_ns,
            time: mapping.time(unit.pts),
            clock: mapping.clock,
        }));
        self.awaits_sync = sent.is_err();
        if sent.is_err() {
            self.metrics.motion_units_dropped.inc();
        }
    }

    pub fn ended(&mut self) {
        self.connected();
        if let Some(sender) = &self.sender {
            // If it is full, the worker sees the end by the silence.
            let _ = sender.try_send(MotionInput::Ended);
        }
    }
}
