//! How one camera is doing: what came of it since the last look, what its pictures are like, how deep its ring is.
//!
//! Owns the task that looks every few seconds and says it when it is due. Reads counters and the ring; may not slow down
//! who records.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::SignedDuration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::due::Due;
use crate::edge::camera::CameraMetrics;
use crate::edge::clock;
use crate::edge::outbox::{NewEvent, Outbox};
use crate::edge::ring::Ring;
use crate::limits::{CLOCK_OFF_MS, FEW_PICTURES_SHARE, HEALTH_LOOKS_EVERY, PACKETS_LOST_PPM};
use crate::model::{
    CameraHealth, ClockQuality, ClockSource, DeviceId, EventData, PictureFault, SelfTest, SelfTestResult,
    Status, SyncState, Time,
};

/// What the task needs of a camera.
pub struct CameraWatch {
    pub device: DeviceId,
    pub metrics: CameraMetrics,
    pub ring: Arc<Mutex<Ring>>,
    /// What is wrong with the pictures; None while nobody looks at them.
    pub picture: watch::Receiver<Option<Vec<PictureFault>>>,
    pub self_test: watch::Receiver<Option<SelfTest>>,
    pub clock: watch::Receiver<CameraClock>,
    pub outbox: Outbox,
    /// Days that the ring is to hold.
    pub ring_promise_days: u32,
    /// Where it is written down since when the camera has been recorded.
    pub data_dir: PathBuf,
}

/// What is known of a camera's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CameraClock {
    /// What the newest run is stamped with.
    pub stamped: Option<ClockQuality>,
    /// The camera's clock minus the box's by its newest sender report, milliseconds.
    pub off_ms: Option<i64>,
}

impl CameraClock {
    /// The clock of the pictures that come now: a run keeps the camera's, and what is stamped by the box is as good as the
    /// box's clock is by now.
    fn quality(self) -> ClockQuality {
        self.stamped.filter(|clock| clock.source == ClockSource::Camera).unwrap_or_else(clock::quality)
    }
}

/// What a report is about, when it is asked whether anything changed.
#[derive(Debug, Clone, PartialEq)]
struct Judged {
    reachable: bool,
    recording: bool,
    few_pictures: bool,
    loses: bool,
    clock_off: bool,
    picture: Option<Vec<PictureFault>>,
    self_test: Option<(Time, SelfTestResult)>,
}

/// Counters at one look.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub at: Instant,
    pub pictures: u64,
    pub key_frames: u64,
    pub bytes: u64,
    pub packets_lost: u64,
    pub fragments: u64,
}

/// What came of a camera between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    pub fps: f64,
    pub kbit_per_s: f64,
    pub lost_ppm: u64,
    pub key_interval_s: Option<f64>,
    /// Something was written to the ring.
    pub writes: bool,
}

/// Bytes of a packet, to tell how many there were: RTP over Ethernet.
const PACKET_BYTES: u64 = 1400;

impl Flow {
    pub fn between(before: &Counted, now: &Counted) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return Self::default();
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let key_frames = now.key_frames.saturating_sub(before.key_frames);
        let lost = now.packets_lost.saturating_sub(before.packets_lost);
        let came = now.bytes.saturating_sub(before.bytes) / PACKET_BYTES;
        Self {
            fps: round(rate(now.pictures, before.pictures)),
            kbit_per_s: round(rate(now.bytes, before.bytes) * 8.0 / 1000.0),
            lost_ppm: (lost * 1_000_000).checked_div(came + lost).unwrap_or(0),
            key_interval_s: (key_frames > 0).then(|| round(seconds / key_frames as f64)),
            writes: now.fragments > before.fragments,
        }
    }
}

/// One digit behind the point says enough, and does not look like a change.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Looks until `stop`.
pub async fn run(watch: CameraWatch, stop: CancellationToken) {
    let spread = f64::from(
        watch.device.as_str().bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)),
    ) / 255.0;
    let (mut due, mut before) = (Due::new(spread), watch.counted());
    let mut first = First::open(&watch.data_dir, &watch.device);
    // The most that it sent in one look is what it can.
    let mut usual_fps: f64 = 0.0;
    let mut every = tokio::time::interval(HEALTH_LOOKS_EVERY);
    every.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = watch.counted();
        let flow = Flow::between(&before, &now);
        before = now;
        // Slowly down again: a camera may be set to fewer.
        usual_fps = flow.fps.max(usual_fps * 0.999);
        let health = watch.health(flow, usual_fps, &mut first);
        if due.is_due(judged(&health), now.at) && !watch.say(health).await {
            due.not_said();
        }
    }
}

/// Since when a camera has been recorded, remembered for when the ring has begun to overwrite.
struct First {
    file: PathBuf,
    first: Option<Time>,
}

impl First {
    fn open(data_dir: &Path, device: &DeviceId) -> Self {
        let file = data_dir.join("health").join(format!("{device}.first"));
        let first = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Self { file, first }
    }

    /// The first moment that the ring ever held; it holds footage `from` now.
    fn since(&mut self, from: Option<Time>) -> Option<Time> {
        let known = self.first.into_iter().chain(from).min();
        if known != self.first {
            self.first = known;
            let text = known.map_or(String::new(), |first| first.to_string());
            let folder = self.file.parent().unwrap_or(Path::new("."));
            if let Err(error) =
                std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&self.file, text))
            {
                tracing::warn!(file = %self.file.display(), %error, "since when it records can't be written down");
            }
        }
        known
    }
}

fn judged(health: &CameraHealth) -> Judged {
    Judged {
        reachable: health.reachable,
        recording: health.recording,
        few_pictures: health.fps < health.fps_expected.unwrap_or(0.0) * FEW_PICTURES_SHARE,
        loses: health.lost_ppm > PACKETS_LOST_PPM,
        clock_off: health.clock.sync == SyncState::Unsynced
            || health.camera_clock_ms.is_some_and(|ms| ms.saturating_abs() > CLOCK_OFF_MS),
        picture: health.picture.clone(),
        self_test: health.self_test.as_ref().map(|test| (test.at, test.result)),
    }
}

impl CameraWatch {
    fn counted(&self) -> Counted {
        let metrics = &self.metrics;
        Counted {
            at: Instant::now(),
            pictures: metrics.access_units.get(),
            key_frames: metrics.key_frames.get(),
            bytes: metrics.bytes.get(),
            packets_lost: metrics.lost_packets.get(),
            fragments: metrics.fragments.get(),
        }
    }

    fn health(&self, flow: Flow, usual_fps: f64, first: &mut First) -> CameraHealth {
        let now = Time::now();
        let from = self.ring.lock().unwrap_or_else(PoisonError::into_inner).from();
        let clock = *self.clock.borrow();
        let promise = f64::from(self.ring_promise_days);
        let days = |time: SignedDuration| round(time.as_secs_f64() / 86_400.0);
        CameraHealth {
            reachable: self.metrics.connected.get() > 0 && flow.fps > 0.0,
            recording: flow.writes,
            fps: flow.fps,
            fps_expected: (usual_fps > 0.0).then(|| round(usual_fps)),
            kbit_per_s: flow.kbit_per_s,
            lost_ppm: flow.lost_ppm,
            key_interval_s: flow.key_interval_s,
            clock: clock.quality(),
            camera_clock_ms: clock.off_ms,
            ring_days: from.map(|from| days(now.duration_since(from))),
            ring_days_due: first.since(from).map(|first| days(now.duration_since(first)).min(promise)),
            picture: self.picture.borrow().clone(),
            self_test: self.self_test.borrow().clone(),
        }
    }

    async fn say(&self, health: CameraHealth) -> bool {
        let is_well =
            health.reachable && health.recording && health.picture.iter().flatten().next().is_none();
        let status = Status { working: is_well, detail: None, camera: Some(health), of_box: None };
        let event = NewEvent {
            device: Some(self.device.clone()),
            time: Time::now(),
            clock: clock::quality(),
            data: EventData::Status(status),
        };
        self.outbox.accept(event).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_the_ring_should_hold_is_counted_from_the_first_recording_ever() {
        let dir = tempfile::tempdir().unwrap();
        let device: DeviceId = "cam-01".parse().unwrap();
        let at = |second| Time::from_second(second).unwrap();
        let mut first = First::open(dir.path(), &device);
        assert_eq!(first.since(None), None);
        assert_eq!(first.since(Some(at(100))), Some(at(100)));
        let mut again = First::open(dir.path(), &device);
        assert_eq!(again.since(Some(at(900))), Some(at(100)), "the ring has begun to overwrite");
    }

    #[test]
    fn what_came_between_two_looks_is_told_in_figures() {
        let at = Instant::now();
        let before =
            Counted { at, pictures: 100, key_frames: 4, bytes: 1_000_000, packets_lost: 0, fragments: 9 };
        let now = Counted {
            at: at + Duration::from_secs(10),
            pictures: 350,
            key_frames: 9,
            bytes: 2_400_000,
            packets_lost: 10,
            fragments: 14,
        };
        let flow = Flow::between(&before, &now);
        let expected =
            Flow { fps: 25.0, kbit_per_s: 1120.0, lost_ppm: 9900, key_interval_s: Some(2.0), writes: true };
        assert_eq!(flow, expected);
        let nothing = Counted { at: at + Duration::from_secs(10), ..before };
        assert_eq!(Flow::between(&before, &nothing), Flow::default());
        assert_eq!(Flow::between(&before, &before), Flow::default());
    }
}
