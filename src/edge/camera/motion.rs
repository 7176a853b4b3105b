//! From access units to motion: the recorder's side.
//!
//! Owns the queue to the motion worker, which takes one stream at a time: the recorded one, or the low-rate one while
//! that comes; none while the camera itself tells of motion. Never waits: what does not fit is dropped up to the next
//! key frame and counted, so that motion can't disturb the recording.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// What the feeds of one camera share.
#[derive(Default)]
pub struct Turns {
    /// The newest time on the worker's timeline.
    newest_ns: AtomicU64,
    /// The low-rate stream comes.
    sub_comes: AtomicBool,
    /// The camera tells of motion itself.
    pub camera_tells: Arc<AtomicBool>,
}

/// Which stream a feed has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Recorded,
    Sub,
}

/// One stream's end of the queue.
pub struct MotionFeed {
    which: Which,
    turns: Arc<Turns>,
    sender: Option<mpsc::Sender<MotionInput>>,
    metrics: CameraMetrics,
    stream: Option<Arc<Stream>>,
    /// The connection's first access unit and where it stands on the worker's timeline.
    first: Option<(i64, u64)>,
    awaits_sync: bool,
}

/// Two connections, and two streams, are this far apart on the worker's timeline, so that it learns its background anew.
const PAUSE_NS: u64 = 10_000_000_000;

impl MotionFeed {
    /// Without a `sender` nothing is looked at.
    pub fn new(
        which: Which,
        turns: Arc<Turns>,
        sender: Option<mpsc::Sender<MotionInput>>,
        metrics: CameraMetrics,
    ) -> Self {
        Self { which, turns, sender, metrics, stream: None, first: None, awaits_sync: true }
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
        if !self.has_turn() {
            (self.first, self.awaits_sync) = (None, true);
            return;
        }
        if self.awaits_sync && !unit.sync {
            return;
        }
        if self.which == Which::Sub {
            self.turns.sub_comes.store(true, Ordering::Relaxed);
        }
        let newest_ns = || self.turns.newest_ns.load(Ordering::Relaxed);
        let &mut (first, base_ns) = self.first.get_or_insert_with(|| (unit.pts, newest_ns() + PAUSE_NS));
        let pts_ns = i128::from(base_ns) + ticks_ns(unit.pts - first);
        let Ok(pts_ns) = u64::try_from(pts_ns) else { return };
        self.turns.newest_ns.fetch_max(pts_ns, Ordering::Relaxed);
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
        let had_turn = self.has_turn();
        self.connected();
        if self.which == Which::Sub {
            self.turns.sub_comes.store(false, Ordering::Relaxed);
        }
        if had_turn && let Some(sender) = &self.sender {
            // If it is full, the worker sees the end by the silence.
            let _ = sender.try_send(MotionInput::Ended);
        }
    }

    fn has_turn(&self) -> bool {
        let sub_comes = self.turns.sub_comes.load(Ordering::Relaxed);
        let camera_tells = self.turns.camera_tells.load(Ordering::Relaxed);
        !camera_tells && (self.which == Which::Sub || !sub_comes)
    }
}
