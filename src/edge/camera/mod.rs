//! One camera: connect, record, look for motion, and again.
//!
//! ```text
//! session (RTSP) ─► recorder ─► ring
//!                      ├─► coverage ──► outbox
//!                      └─► motion ─┬──► outbox
//! sub (low-rate stream) ──┘        └─► clip ─► outbox, upload
//! ```
//!
//! Who looks for motion: `motion_worker` in the pictures of one of the two streams, or the camera itself, whose metadata
//! `motion_told` reads. Both say it by `motion_say`.
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
pub mod motion_look;
mod motion_say;
mod motion_told;
#[cfg(feature = "media")]
mod motion_watch;
#[cfg(feature = "media")]
mod motion_worker;
pub mod onvif;
pub mod probe;
mod recorder;
mod relay;
mod session;
#[cfg(feature = "media")]
mod sub;
mod timing;

#[cfg(all(test, feature = "demo"))]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::metrics::{CameraMetrics, CamerasMetrics};
use self::motion::{MotionFeed, Turns, Which};
use self::motion_say::MotionSay;
use self::recorder::{Connection, Input, Recorder, chain};
use self::session::{SessionError, SessionItem, Ways};
use super::clip::{self, ClipJob};
use super::clock::Watch;
use super::config::{CameraConfig, MotionSource, RingConfig};
use super::coverage::Tracker;
#[cfg(feature = "media")]
use super::health::eye::Eye;
use super::health::{self, camera::CameraClock};
use super::outbox::{NewEvent, Outbox, OutboxError};
use super::ring::{Ring, RingError, RingRecovery};
use super::room::Rings;
use super::still::{self, Stills, View};
use super::upload::First;
use crate::limits::{
    BACKOFF_FIRST, BACKOFF_MAX, DRAIN_MAX, EVENTS_QUEUE_MAX, METADATA_QUEUE_MAX, RECORD_QUEUE_MAX, RING_RETRY,
};
use crate::model::{BoxId, DeviceId, FaultPhase, GapCause, PictureFault, SeenBy, Time};
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
    pub clock: Watch,
    /// Where commands for stills come from, and where what is cut for them goes.
    pub stills: Stills,
    pub first: First,
}

/// Where the ring of a camera stands.
pub fn ring_dir(data_dir: &Path, device: &DeviceId) -> PathBuf {
    data_dir.join("ring").join(device.as_str())
}

/// Records `camera` until `shutdown`; then makes durable what there is and returns.
pub async fn run(context: CameraContext, camera: CameraConfig, shutdown: CancellationToken) {
    let metrics = context.metrics.of(&camera.id);
    let began = context.clock.read().time;
    let Some(opened) = open_ring(&context, &camera, &metrics, &shutdown).await else { return };
    let OpenedRing { ring, recovery, failed } = opened;
    let ring = Arc::new(Mutex::new(ring));
    context.rings.add(ring.clone());
    let (events, event_queue) = mpsc::channel(EVENTS_QUEUE_MAX);
    let (progress, progressed) = watch::channel(Time::MIN);
    let (clip_jobs, clip_queue) = mpsc::channel(clip::JOBS_MAX);
    let (picture, picture_told) = watch::channel(None);
    let (clock_told, clock_heard) = watch::channel(CameraClock::default());
    let (self_test, self_test_told) = watch::channel(None);
    let view = View { is_meant: Arc::default(), picture: picture_told.clone() };
    let motion = Motion::start(&context, &camera, &metrics, clip_jobs, (picture, &view), &shutdown);
    let health = health::camera::CameraWatch {
        device: camera.id.clone(),
        metrics: metrics.clone(),
        ring: ring.clone(),
        picture: picture_told,
        self_test: self_test_told,
        clock: clock_heard,
        outbox: context.outbox.clone(),
        ring_promise_days: context.ring.days,
        data_dir: context.data_dir.clone(),
    };
    let health = tokio::spawn(health::camera::run(health, shutdown.clone()));
    let self_test = tokio::spawn(health::self_test::run(ring.clone(), self_test, shutdown.clone()));
    let cutter = clip::Cutter {
        device: camera.id.clone(),
        ring: ring.clone(),
        clips_dir: clip::clips_dir(&context.data_dir),
        outbox: context.outbox.clone(),
        metrics: metrics.clone(),
    };
    let still_orders = context.stills.open(&camera.id);
    let stills = still::run(
        cutter.clone(),
        still_orders,
        progressed.clone(),
        context.first.clone(),
        view,
        shutdown.clone(),
    );
    let stills = tokio::spawn(stills);
    let clips = tokio::spawn(clip::run(cutter, clip_queue, progressed, shutdown.clone()));
    let speaker = tokio::spawn(speak(context.outbox.clone(), event_queue, shutdown.clone()));
    let mut recorder = Recorder {
        device: camera.id.clone(),
        ring,
        tracker: Tracker::default(),
        metrics: metrics.clone(),
        events,
        progress,
        motion: MotionFeed::new(Which::Recorded, motion.turns, motion.feed, metrics.clone()),
        told: motion.told,
        connection: Connection::default(),
        is_ring_faulty: failed.is_some(),
        clock: context.clock.clone(),
        era: None,
        clock_told,
    };
    let (inputs, input_queue) = mpsc::channel(RECORD_QUEUE_MAX);
    let recording = tokio::spawn(async move {
        recorder.boot(recovery, began, failed).await;
        recorder.serve(input_queue).await;
    });
    connect_again_and_again(&camera, inputs, &metrics, &shutdown).await;
    // In the order of the data: each ends when the one before it has.
    let drain = async {
        for task in
            [recording].into_iter().chain(motion.tasks).chain([clips, stills, speaker, health, self_test])
        {
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

/// Those who look for motion.
struct Motion {
    turns: Arc<Turns>,
    /// Where access units of the recorded stream go to be looked at.
    feed: Option<mpsc::Sender<motion::MotionInput>>,
    /// Where the camera's metadata go.
    told: Option<mpsc::Sender<motion_told::ToldInput>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Motion {
    fn start(
        context: &CameraContext,
        camera: &CameraConfig,
        metrics: &CameraMetrics,
        clips: mpsc::Sender<ClipJob>,
        (picture, view): (watch::Sender<Option<Vec<PictureFault>>>, &View),
        shutdown: &CancellationToken,
    ) -> Self {
        let mut motion = Self { turns: Arc::default(), feed: None, told: None, tasks: Vec::new() };
        let config = &camera.motion;
        let say = |seen_by| MotionSay {
            device: camera.id.clone(),
            config: config.clone(),
            outbox: context.outbox.clone(),
            clips: clips.clone(),
            shutdown: shutdown.clone(),
            seen_by,
            event: None,
        };
        if config.enabled && config.source != MotionSource::Pixels {
            motion.hear(say(SeenBy::Camera), context.clock.clone());
        }
        if config.enabled && config.source != MotionSource::Camera {
            motion.look(context, camera, metrics, (say(SeenBy::Pixels), picture, view), shutdown);
        }
        motion
    }

    /// Starts who reads what the camera says.
    fn hear(&mut self, say: MotionSay, clock: Watch) {
        let (told, queue) = mpsc::channel(METADATA_QUEUE_MAX);
        let tells = self.turns.camera_tells.clone();
        let hearer = motion_told::MotionTold { say, clock, tells, seen: Default::default() };
        self.told = Some(told);
        self.tasks.push(tokio::spawn(hearer.run(queue)));
    }

    /// Starts who looks at the pictures of the recorded stream, or of the low-rate one.
    #[cfg(feature = "media")]
    fn look(
        &mut self,
        context: &CameraContext,
        camera: &CameraConfig,
        metrics: &CameraMetrics,
        (say, picture, view): (MotionSay, watch::Sender<Option<Vec<PictureFault>>>, &View),
        shutdown: &CancellationToken,
    ) {
        let eye = Eye::open(&context.data_dir, &camera.id, picture, view.is_meant.clone());
        let (feed, queue) = mpsc::channel(crate::limits::MOTION_QUEUE_MAX);
        let worker = motion_worker::MotionWorker::new(say, eye, metrics.clone());
        self.tasks.push(tokio::spawn(worker.run(queue)));
        if let Some(sub_url) = &camera.sub_url {
            let feed = MotionFeed::new(Which::Sub, self.turns.clone(), Some(feed.clone()), metrics.clone());
            let camera = CameraConfig { url: sub_url.clone(), audio: false, ..camera.clone() };
            let sub = sub::SubStream { camera, feed, clock: context.clock.clone() };
            self.tasks.insert(0, tokio::spawn(sub.run(shutdown.clone())));
        }
        self.feed = Some(feed);
    }

    #[cfg(not(feature = "media"))]
    fn look(
        &mut self,
        _context: &CameraContext,
        camera: &CameraConfig,
        _metrics: &CameraMetrics,
        _say: (MotionSay, watch::Sender<Option<Vec<PictureFault>>>, &View),
        _shutdown: &CancellationToken,
    ) {
        tracing::warn!(device = %camera.id, "built without feature media: motion is known only if the camera tells it");
    }
}

struct OpenedRing {
    ring: Ring,
    recovery: RingRecovery,
    /// Why it could not be opened at first.
    failed: Option<(GapCause, String)>,
}

/// Opens the ring, again and again if it must be. What else the box does goes on meanwhile, and the technician is told.
async fn open_ring(
    context: &CameraContext,
    camera: &CameraConfig,
    metrics: &CameraMetrics,
    shutdown: &CancellationToken,
) -> Option<OpenedRing> {
    let mut failed = None;
    let mut is_told = false;
    loop {
        let (dir, config) = (ring_dir(&context.data_dir, &camera.id), context.ring.clone());
        let opened = tokio::task::spawn_blocking(move || Ring::open(&dir, config)).await;
        let error: RingError = match opened.expect("opening a ring does not panic") {
            Ok((ring, recovery)) => return Some(OpenedRing { ring, recovery, failed }),
            Err(error) => error,
        };
        metrics.ring_errors.inc();
        let (cause, detail) = (recorder::cause_of(&error), chain(&error));
        if failed.is_none() {
            tracing::error!(device = %camera.id, error = detail, "ring can't be opened");
        }
        if !is_told {
            let event = recorder::fault_event(&camera.id, FaultPhase::Raised, detail.clone());
            is_told = context.outbox.accept(event).await.is_ok();
        }
        failed = Some((cause, detail));
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
    let asks = camera.motion.enabled && camera.motion.source != MotionSource::Pixels;
    let mut ways = if asks { Ways::with_metadata() } else { Ways::default() };
    while !shutdown.is_cancelled() {
        let (ended, pictures) = connect(camera, &mut ways, &inputs, metrics, &mut outage, shutdown).await;
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
        if ways.learn(&error) {
            tracing::warn!(device = %camera.id, relay = ways.relay, "camera is taken another way from now on");
            continue;
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
    ways: &mut Ways,
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
        let ended = session::run_once(camera, ways, &items, shutdown).await;
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
