//! One camera: connect, record, look for motion, and again.
//!
//! ```text
//! session (RTSP) ─► recorder ─► ring
//!                      ├─► coverage ──► outbox
//!                      └─► motion ─┬──► outbox
//!                                  └─► clip ─► outbox, upload
//! ```
//!
//! Owns the retry loop of a camera and the tasks behind it. `session` is the only module that names
//! retina.

mod audio;
mod metrics;
#[cfg(feature = "media")]
mod motion;
#[cfg(not(feature = "media"))]
#[path = "motion_off.rs"]
mod motion;
#[cfg(feature = "media")]
mod motion_worker;
mod recorder;
mod session;
mod timing;

#[cfg(all(test, feature = "demo"))]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::metrics::{CameraMetrics, CamerasMetrics};
use self::motion::MotionFeed;
use self::recorder::{Connection, Input, Recorder, chain};
use self::session::{SessionError, SessionItem};
use super::clip::{self, ClipJob};
use super::config::{CameraConfig, RingConfig};
use super::coverage::Tracker;
use super::outbox::{NewEvent, Outbox, OutboxError};
use super::ring::{Ring, RingError, RingRecovery};
use super::room::Rings;
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, DRAIN_MAX, EVENTS_QUEUE_MAX, RECORD_QUEUE_MAX, RING_RETRY};
use crate::model::{BoxId, DeviceId, GapCause, Time};
use crate::outage::Outage;

/// What the cameras of a box share.
#[derive(Clone)]
pub struct CameraContext {
    pub box_id: BoxId,
    pub data_dir: PathBuf,
    pub ring: RingConfig,
    pub outbox: Outbox,
    pub rings: Rings,
    pub metrics: CamerasMetrics,
}

/// Where the ring of a camera stands.
pub fn ring_dir(data_dir: &Path, device: &DeviceId) -> PathBuf {
    data_dir.join("ring").join(device.as_str())
}

/// Records `camera` until `shutdown`; then makes durable what there is and returns.
pub async fn run(context: CameraContext, camera: CameraConfig, shutdown: CancellationToken) {
    let metrics = context.metrics.of(&camera.id);
    let Some((ring, recovery)) = open_ring(&context, &camera, &metrics, &shutdown).await else { return };
    let ring = Arc::new(Mutex::new(ring));
    context.rings.add(ring.clone());
    let (events, event_queue) = mpsc::channel(EVENTS_QUEUE_MAX);
    let (progress, progressed) = watch::channel(Time::MIN);
    let (clip_jobs, clip_queue) = mpsc::channel(clip::JOBS_MAX);
    let motion = start_motion(&context, &camera, &metrics, clip_jobs, &shutdown);
    let cutter = clip::Cutter {
        device: camera.id.clone(),
        ring: ring.clone(),
        clips_dir: clip::clips_dir(&context.data_dir),
        outbox: context.outbox.clone(),
        metrics: metrics.clone(),
    };
    let clips = tokio::spawn(clip::run(cutter, clip_queue, progressed, shutdown.clone()));
    let speaker = tokio::spawn(speak(context.outbox.clone(), event_queue, shutdown.clone()));
    let mut recorder = Recorder {
        device: camera.id.clone(),
        ring,
        tracker: Tracker::default(),
        metrics: metrics.clone(),
        events,
        progress,
        motion: MotionFeed::new(motion.feed, metrics.clone()),
        connection: Connection::default(),
    };
    let (inputs, input_queue) = mpsc::channel(RECORD_QUEUE_MAX);
    let recording = tokio::spawn(async move {
        recorder.boot(recovery).await;
        recorder.serve(input_queue).await;
    });
    connect_again_and_again(&camera, inputs, &metrics, &shutdown).await;
    // In the order of the data: each ends when the one before it has.
    let drain = async {
        for task in [Some(recording), motion.worker, Some(clips), Some(speaker)].into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::error!(device = %camera.id, %error, "camera task failed");
            }
        }
    };
    if tokio::time::timeout(DRAIN_MAX, drain).await.is_err() {
        tracing::warn!(device = %camera.id, "camera did not drain in time");
    }
}

/// Tries to deliver an event until the outbox takes it; false if it never did.
pub(crate) async fn accept(outbox: &Outbox, event: NewEvent, shutdown: &CancellationToken) -> bool {
    let mut backoff = BACKOFF_FIRST;
    loop {
        match outbox.accept(event.clone()).await {
            Ok(()) => return true,
            Err(OutboxError::Closed) => return false,
            Err(error) => tracing::warn!(%error, "outbox did not take an event"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
}

struct Motion {
    feed: Option<mpsc::Sender<motion::MotionInput>>,
    worker: Option<tokio::task::JoinHandle<()>>,
}

#[cfg(feature = "media")]
fn start_motion(
    context: &CameraContext,
    camera: &CameraConfig,
    metrics: &CameraMetrics,
    clips: mpsc::Sender<ClipJob>,
    shutdown: &CancellationToken,
) -> Motion {
    if !camera.motion.enabled {
        return Motion { feed: None, worker: None };
    }
    let (feed, queue) = mpsc::channel(crate::limits::MOTION_QUEUE_MAX);
    let worker = motion_worker::MotionWorker::new(
        camera.id.clone(),
        camera.motion.clone(),
        context.outbox.clone(),
        clips,
        metrics.clone(),
        shutdown.clone(),
    );
    Motion { feed: Some(feed), worker: Some(tokio::spawn(worker.run(queue))) }
}

#[cfg(not(feature = "media"))]
fn start_motion(
    _context: &CameraContext,
    camera: &CameraConfig,
    _metrics: &CameraMetrics,
    _clips: mpsc::Sender<ClipJob>,
    _shutdown: &CancellationToken,
) -> Motion {
    if camera.motion.enabled {
        tracing::warn!(device = %camera.id, "built without feature media: no motion is detected");
    }
    Motion { feed: None, worker: None }
}

async fn open_ring(
    context: &CameraContext,
    camera: &CameraConfig,
    metrics: &CameraMetrics,
    shutdown: &CancellationToken,
) -> Option<(Ring, RingRecovery)> {
    loop {
        let (dir, config) = (ring_dir(&context.data_dir, &camera.id), context.ring.clone());
        let opened = tokio::task::spawn_blocking(move || Ring::open(&dir, config)).await;
        let error: RingError = match opened.expect("opening a ring does not panic") {
            Ok(opened) => return Some(opened),
            Err(error) => error,
        };
        metrics.ring_errors.inc();
        tracing::error!(device = %camera.id, error = %chain(&error), "ring can't be opened");
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(RING_RETRY) => {}
        }
    }
}

/// The retry loop. Ends, and with it `inputs`, at shutdown.
async fn connect_again_and_again(
    camera: &CameraConfig,
    inputs: mpsc::Sender<Input>,
    metrics: &CameraMetrics,
    shutdown: &CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut outage = Outage::default();
    while !shutdown.is_cancelled() {
        let (ended, pictures) = connect(camera, &inputs, metrics, &mut outage, shutdown).await;
        metrics.connected.set(0);
        let Err(error) = ended else { continue };
        if matches!(error, SessionError::RecorderGone) {
            return;
        }
        metrics.connections_failed.inc();
        log_lost(&camera.id, &error, pictures, &mut outage);
        let cause = if error.began() { GapCause::StreamBroken } else { GapCause::CameraUnreachable };
        if inputs.send(Input::Lost { cause, detail: error.in_short() }).await.is_err() {
            return;
        }
        if pictures > 0 {
            backoff = BACKOFF_FIRST;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(with_jitter(backoff)) => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
}

/// At warn what is new, at debug each further try.
fn log_lost(device: &DeviceId, error: &SessionError, pictures: u64, outage: &mut Outage) {
    let error = error.in_short();
    let (is_news, failures) = (outage.failed(&error), outage.failures());
    if is_news {
        tracing::warn!(%device, error, pictures, failures, "camera lost");
    } else {
        tracing::debug!(%device, error, pictures, failures, "camera is still lost");
    }
}

/// One connection; how it ended and how many pictures came.
async fn connect(
    camera: &CameraConfig,
    inputs: &mpsc::Sender<Input>,
    metrics: &CameraMetrics,
    outage: &mut Outage,
    shutdown: &CancellationToken,
) -> (Result<(), SessionError>, u64) {
    if inputs.send(Input::Connected).await.is_err() {
        return (Err(SessionError::RecorderGone), 0);
    }
    let (items, mut item_queue) = mpsc::channel(1);
    let mut pictures = 0;
    let forward = async {
        while let Some(item) = item_queue.recv().await {
            if matches!(item, SessionItem::Unit(_)) {
                pictures += 1;
                metrics.connected.set(1);
                if let Some(failures) = outage.ended() {
                    tracing::info!(device = %camera.id, failures, "camera is back");
                }
            }
            if inputs.send(Input::Item(item)).await.is_err() {
                return;
            }
        }
    };
    let session = async {
        let ended = session::run_once(camera, &items, shutdown).await;
        drop(items);
        ended
    };
    let (ended, ()) = tokio::join!(session, forward);
    (ended, pictures)
}

/// Half to all of `backoff`, so that many boxes behind one switch do not come back in step.
fn with_jitter(backoff: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    backoff.mul_f64(0.5 + f64::from(random) / 512.0)
}

/// Carries reports to the outbox, in order, so that the recorder never waits for it.
async fn speak(outbox: Outbox, mut events: mpsc::Receiver<NewEvent>, shutdown: CancellationToken) {
    while let Some(event) = events.recv().await {
        if !accept(&outbox, event, &shutdown).await {
            return;
        }
    }
}
