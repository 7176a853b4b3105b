//! A camera worker against a real RTSP server on loopback.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::edge::fmp4;
use crate::edge::ring::read_fragment;
use crate::media::rtsp_server::{Credentials, Pictures, RtspServer};
use crate::model::merkle::MerkleTree;
use crate::model::{ClockSource, Coverage, EventData, Motion, MotionPhase, SpanState, VideoCodec};

/// A grey picture with a bar that walks.
struct Bar;

impl Pictures for Bar {
    fn width(&self) -> u32 {
        320
    }
    fn height(&self) -> u32 {
        180
    }
    fn fps(&self) -> u32 {
        10
    }
    fn picture(&mut self, n: u64) -> Vec<u8> {
        let at = (n as usize * 8) % 300;
        let row: Vec<u8> = (0..320).map(|x| if (at..at + 20).contains(&x) { 220 } else { 90 }).collect();
        let mut picture: Vec<u8> = row.repeat(180);
        picture.resize(320 * 180 * 3 / 2, 128);
        picture
    }
}

/// The same without the bar.
struct Still;

impl Pictures for Still {
    fn width(&self) -> u32 {
        320
    }
    fn height(&self) -> u32 {
        180
    }
    fn fps(&self) -> u32 {
        10
    }
    fn picture(&mut self, _: u64) -> Vec<u8> {
        let mut picture = vec![90; 320 * 180];
        picture.resize(320 * 180 * 3 / 2, 128);
        picture
    }
}

struct Worker {
    motions: mpsc::UnboundedReceiver<Motion>,
    metrics: CamerasMetrics,
    coverage: mpsc::UnboundedReceiver<Coverage>,
    seen: Vec<Coverage>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    fn start(data_dir: &Path, camera: &CameraConfig) -> Self {
        let (outbox, mut accepts) = Outbox::new();
        let (reports, coverage) = mpsc::unbounded_channel();
        let (moved, motions) = mpsc::unbounded_channel();
        let metrics = CamerasMetrics::register(&prometheus::Registry::new()).unwrap();
        tokio::spawn(async move {
            while let Some(accept) = accepts.recv().await {
                match accept.event.data {
                    EventData::Coverage(report) => drop(reports.send(report)),
                    EventData::Motion(motion) => drop(moved.send(motion)),
                    _ => {}
                }
                let _ = accept.done.send(Ok(()));
            }
        });
        let context = CameraContext {
            box_id: "box-01".parse().unwrap(),
            data_dir: data_dir.to_owned(),
            ring: RingConfig::default(),
            outbox,
            rings: Default::default(),
            metrics: metrics.clone(),
            clock: Watch::of_machine(data_dir),
            stills: Default::default(),
            first: Default::default(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(context, camera.clone(), shutdown.clone()));
        Self { motions, metrics, coverage, seen: Vec::new(), shutdown, task }
    }

    async fn until(&mut self, what: &str, found: impl Fn(&Coverage) -> bool) -> Coverage {
        let wait = async {
            loop {
                let report = self.coverage.recv().await.expect("the worker lives");
                self.seen.push(report.clone());
                if found(&report) {
                    return report;
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("no report of {what} within 30 s"))
    }

    async fn stop(mut self) -> Vec<Coverage> {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(15), self.task).await.expect("it drains").unwrap();
        while let Some(report) = self.coverage.recv().await {
            self.seen.push(report);
        }
        self.seen
    }
}

fn is_open(report: &Coverage, state: SpanState) -> bool {
    report.open && report.state == state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_is_a_gap_and_a_restart_goes_on_where_the_ring_ends() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials { user: "viewer".into(), password: "bí mật 1".into() };
    let server = RtspServer::start(0, Some(&credentials)).unwrap();
    let mount = server.mount_drawn("cam", Bar).unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "bí mật 1\n").unwrap();
    std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let camera: CameraConfig = toml::from_str(&format!(
        "id = 'cam-01'\nurl = '{}'\nuser = 'viewer'\npassword_file = '{}'\nstall = 'PT2S'\nmotion.enabled = false",
        server.url("cam"),
        password_file.display()
    ))
    .unwrap();

    let mut worker = Worker::start(dir.path(), &camera);
    let first = worker.until("a recording", |r| is_open(r, SpanState::Recorded)).await;
    mount.set_stalled(true);
    let broken = SpanState::Gap { cause: GapCause::StreamBroken };
    worker.until("the stall", |r| is_open(r, broken)).await;
    mount.set_stalled(false);
    worker.until("a second recording", |r| is_open(r, SpanState::Recorded) && r.span != first.span).await;
    let mut seen = worker.stop().await;

    let mut worker = Worker::start(dir.path(), &camera);
    let known: Vec<_> = seen.iter().map(|r| r.span).collect();
    worker.until("a third recording", |r| is_open(r, SpanState::Recorded) && !known.contains(&r.span)).await;
    seen.extend(worker.stop().await);
    check_account(&seen);
    check_ring(dir.path(), &camera, &seen);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_of_h265_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = RtspServer::start(0, None).unwrap();
    server.mount_drawn_as("cam", Bar, VideoCodec::H265).unwrap();
    let camera: CameraConfig =
        toml::from_str(&format!("id = 'cam-01'\nurl = '{}'\nmotion.enabled = false", server.url("cam")))
            .unwrap();
    let mut worker = Worker::start(dir.path(), &camera);
    worker.until("a recording", |r| is_open(r, SpanState::Recorded)).await;
    worker.stop().await;

    let (ring, recovery) = Ring::open(&ring_dir(dir.path(), &camera.id), RingConfig::default()).unwrap();
    assert!(recovery.lost.is_empty() && recovery.torn_bytes == 0, "{recovery:?}");
    let fragments = ring.fragments(Time::MIN, Time::MAX).unwrap();
    assert!(!fragments.is_empty());
    for fragment in &fragments {
        let track = &fragment.run.track;
        assert_eq!((track.width, track.height), (320, 180));
        let codec = fmp4::codec_name(&track.sample_entry).unwrap();
        assert!(codec.starts_with("hvc1.1.6.L"), "{codec}");
        assert!(fragment.sync, "each begins with a random access point");
        let found = fmp4::find_fragment(&read_fragment(fragment).unwrap()).unwrap();
        assert_eq!((found.first_pts, found.end_pts), (fragment.first_pts, fragment.end_pts));
    }
    server.stop();
}

/// No hole and no overlap, over a restart too.
fn check_account(reports: &[Coverage]) {
    let mut spans: Vec<Coverage> = Vec::new();
    for report in reports {
        match spans.iter_mut().find(|s| s.span == report.span) {
            Some(span) => *span = report.clone(),
            None => spans.push(report.clone()),
        }
    }
    for pair in spans.windows(2) {
        assert_eq!(pair[0].upto, pair[1].start, "{spans:#?}");
        assert!(!pair[0].open, "{spans:#?}");
    }
    let causes: Vec<_> = spans.iter().map(Coverage::cause).collect();
    let starts = causes.iter().filter(|c| **c == Some(GapCause::CameraUnreachable)).count();
    assert_eq!(starts, 2, "{causes:?}");
    assert!(spans.iter().filter(|s| s.state == SpanState::Recorded).count() >= 3, "{causes:?}");
}

/// The roots that were reported are those of the fragments in the ring.
fn check_ring(data_dir: &Path, camera: &CameraConfig, reports: &[Coverage]) {
    let (ring, recovery) = Ring::open(&ring_dir(data_dir, &camera.id), RingConfig::default()).unwrap();
    assert!(recovery.lost.is_empty() && recovery.torn_bytes == 0, "{recovery:?}");
    let fragments = ring.fragments(Time::MIN, Time::MAX).unwrap();
    for report in reports.iter().filter(|r| r.state == SpanState::Recorded) {
        let commitment = report.run.expect("a recorded span has its commitment");
        let of_run = fragments.iter().filter(|f| f.run.run == report.span);
        let leaves: Vec<_> = of_run.take(commitment.fragments as usize).map(|f| f.sha256).collect();
        assert_eq!(leaves.len() as u64, commitment.fragments);
        assert_eq!(MerkleTree::from_leaves(&leaves).root(), commitment.merkle_root);
    }
    for fragment in &fragments {
        read_fragment(fragment).unwrap();
        assert_eq!(fragment.run.clock.source, ClockSource::Camera);
    }
}

/// Nothing moves in the recorded stream, so what is seen to move was seen in the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn motion_is_looked_for_in_the_low_rate_stream_while_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let server = RtspServer::start(0, None).unwrap();
    let _recorded = server.mount_drawn("main", Still).unwrap();
    let sub = server.mount_drawn("sub", Bar).unwrap();
    let camera: CameraConfig = toml::from_str(&format!(
        "id = 'cam-01'\nurl = '{}'\nsub_url = '{}'\nstall = 'PT2S'\nmotion.source = 'pixels'",
        server.url("main"),
        server.url("sub"),
    ))
    .unwrap();
    let mut worker = Worker::start(dir.path(), &camera);
    let mut next = async |phase| {
        let waited = tokio::time::timeout(Duration::from_secs(60), worker.motions.recv()).await;
        let motion = waited.unwrap_or_else(|_| panic!("no {phase:?} within 60 s")).expect("the worker lives");
        assert_eq!(motion.phase, phase);
        motion
    };
    let start = next(MotionPhase::Start).await;
    sub.set_stalled(true);
    let mut end = next(MotionPhase::End).await;
    // The bar leaves the picture now and then; and the stream may have been stalled in between.
    while let Ok(Some(motion)) = tokio::time::timeout(Duration::from_secs(6), worker.motions.recv()).await {
        end = motion;
    }
    assert_eq!(end.phase, MotionPhase::End);
    assert!(end.end.unwrap() > start.start && start.region.is_some());
    // The recorded stream is looked at again.
    let pictures = worker.metrics.of(&camera.id).motion_frames.get();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while worker.metrics.of(&camera.id).motion_frames.get() < pictures + 3 {
        assert!(std::time::Instant::now() < deadline, "nobody looks at the recorded stream");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.stop().await;
}
