//! Cameras of many makes, with their faults: the box's real camera code against [`crate::bad_camera`] and VLC.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camnet::edge::camera::{self, CameraContext, CameraMetrics, CamerasMetrics, ring_dir};
use camnet::edge::config::{CameraConfig, RingConfig};
use camnet::edge::fmp4;
use camnet::edge::outbox::Outbox;
use camnet::edge::ring::{Ring, Run, read_fragment};
use camnet::model::{
    ClockSource, Coverage, DeviceId, EventData, GapCause, Motion, MotionPhase, SeenBy, SpanState, Time,
};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::bad_camera::{BadCamera, Behaviour, Clip, Fault, Takes, Unit, split_nals};
use crate::world::{HubWorld, Process, accepted, free_port, run, wait_for};

/// Longest that a test waits for what should come by itself.
const SOON: Duration = Duration::from_secs(40);

fn camera(id: &str, url: &str, rest: &str) -> CameraConfig {
    toml::from_str(&format!("id = '{id}'\nurl = '{url}'\nmotion.enabled = false\n{rest}")).unwrap()
}

/// Cameras as the box runs them: one task each, one outbox, which takes everything.
struct Cameras {
    metrics: CamerasMetrics,
    reports: Arc<std::sync::Mutex<HashMap<DeviceId, Vec<Coverage>>>>,
    motions: Arc<std::sync::Mutex<Vec<Motion>>>,
    shutdown: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Cameras {
    fn start(dir: &Path, cameras: &[CameraConfig]) -> Self {
        let (outbox, mut accepts) = Outbox::new();
        let reports = Arc::new(std::sync::Mutex::new(HashMap::<DeviceId, Vec<Coverage>>::new()));
        let kept = reports.clone();
        let motions = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = motions.clone();
        tokio::spawn(async move {
            while let Some(accept) = accepts.recv().await {
                match (accept.event.device, accept.event.data) {
                    (Some(device), EventData::Coverage(report)) => {
                        kept.lock().unwrap().entry(device).or_default().push(report);
                    }
                    (_, EventData::Motion(motion)) => seen.lock().unwrap().push(motion),
                    _ => {}
                }
                let _ = accept.done.send(Ok(()));
            }
        });
        let metrics = CamerasMetrics::register(&prometheus::Registry::new()).unwrap();
        let context = CameraContext {
            box_id: "box-01".parse().unwrap(),
            data_dir: dir.to_owned(),
            ring: RingConfig::default(),
            outbox,
            rings: Default::default(),
            metrics: metrics.clone(),
            clock: camnet::edge::clock::Watch::of_machine(dir),
            stills: Default::default(),
            first: Default::default(),
        };
        let shutdown = CancellationToken::new();
        let start =
            |c: &CameraConfig| tokio::spawn(camera::run(context.clone(), c.clone(), shutdown.clone()));
        Self { tasks: cameras.iter().map(start).collect(), metrics, reports, motions, shutdown }
    }

    fn metrics(&self, id: &str) -> CameraMetrics {
        self.metrics.of(&id.parse().unwrap())
    }

    async fn until_units(&self, id: &str, units: u64) {
        let metrics = self.metrics(id);
        let arrived = || async { (metrics.access_units.get() >= units).then_some(()) };
        wait_for(&format!("{units} access units of {id}"), SOON, arrived).await;
    }

    /// Waits for a report; its detail comes with it.
    async fn until_gap(&self, id: &str, cause: GapCause, words: &str) {
        let id: DeviceId = id.parse().unwrap();
        wait_for(&format!("a gap of {id}: {cause:?}, {words:?}"), SOON, || async {
            let reports = self.reports.lock().unwrap().get(&id).cloned().unwrap_or_default();
            let found = |r: &Coverage| {
                r.state == SpanState::Gap { cause }
                    && r.detail.as_ref().is_some_and(|detail| detail.contains(words))
            };
            reports.iter().any(found).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(20), task).await.expect("it drains").unwrap();
        }
    }
}

/// A camera's word that something moves, or no longer does, as Hikvision says it.
fn notice(is_on: bool) -> String {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/onvif_metadata/hikvision_motion");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("Value=\"true\""), "{text}");
    text.replace("Value=\"true\"", &format!("Value=\"{is_on}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_tells_of_motion_is_believed_and_nothing_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let metadata = vec![notice(false), notice(true), notice(true), notice(true), notice(false)];
    let server = BadCamera::start(Behaviour { metadata, repeat: true, ..Behaviour::good(&[&clip]) }).await;
    let told: CameraConfig =
        toml::from_str(&format!("id = 'cam-01'\nurl = '{}'\nmotion.source = 'camera'", server.url()))
            .unwrap();
    let cameras = Cameras::start(dir.path(), &[told]);
    let motions = wait_for("a motion's end", SOON, || async {
        let motions = cameras.motions.lock().unwrap().clone();
        motions.iter().any(|motion| motion.phase == MotionPhase::End).then_some(motions)
    })
    .await;
    let [start, end] = &motions[..] else { panic!("{motions:?}") };
    assert_eq!((start.phase, start.seen_by), (MotionPhase::Start, Some(SeenBy::Camera)));
    // Three of five messages, one behind each tenth picture.
    let lasted = end.end.unwrap().duration_since(start.start).as_secs_f64();
    assert!((0.5..4.5).contains(&lasted), "{motions:?}");
    assert_eq!(cameras.metrics("cam-01").motion_units_decoded.get(), 0);
    cameras.stop().await;
}

/// One run of a ring, as it can be read back.
struct Recording {
    run: Arc<Run>,
    nals: Vec<Vec<u8>>,
    /// Init segment and fragments: what a player gets.
    file: Vec<u8>,
    start: Time,
    end: Time,
}

fn recordings(dir: &Path, id: &str) -> Vec<Recording> {
    let (ring, recovery) = Ring::open(&ring_dir(dir, &id.parse().unwrap()), RingConfig::default()).unwrap();
    assert!(recovery.lost.is_empty(), "{recovery:?}");
    let mut recordings: Vec<Recording> = Vec::new();
    for fragment in ring.fragments(Time::MIN, Time::MAX).unwrap() {
        let bytes = read_fragment(&fragment).unwrap();
        if recordings.last().is_none_or(|last| last.run.run != fragment.run.run) {
            let file = fmp4::init_segment(&fragment.run.track, None);
            let (run, start, end) = (fragment.run.clone(), fragment.start, fragment.end);
            recordings.push(Recording { run, nals: Vec::new(), file, start, end });
        }
        let recording = recordings.last_mut().unwrap();
        recording.nals.extend(split_nals(mdat(&bytes)));
        recording.file.extend_from_slice(&bytes);
        recording.end = fragment.end;
    }
    recordings
}

fn mdat(mut bytes: &[u8]) -> &[u8] {
    loop {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        if &bytes[4..8] == b"mdat" {
            return &bytes[8..length];
        }
        bytes = &bytes[length..];
    }
}

fn nals_of(units: &[Unit]) -> Vec<Vec<u8>> {
    units.iter().flat_map(|unit| unit.nals.iter().cloned()).collect()
}

/// Says where two lists differ instead of printing megabytes.
fn assert_same(found: &[Vec<u8>], expected: &[Vec<u8>], what: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(
        (found.len(), differs),
        (expected.len(), None),
        "{what}: number of NAL units, first that differs"
    );
}

/// Records one play of a camera from its first to its last access unit, over one connection.
async fn record(dir: &Path, behaviour: Behaviour, rest: &str) -> (Vec<Recording>, BadCamera) {
    let units: usize = behaviour.clips.iter().map(|clip| clip.units.len()).sum();
    let units = units - behaviour.first_unit - usize::from(behaviour.joins_at_packet > 0);
    let source = BadCamera::start(behaviour).await;
    let config = camera("cam-01", &source.url(), &format!("stall = 'PT60S'\n{rest}"));
    let cameras = Cameras::start(dir, &[config]);
    cameras.until_units("cam-01", units as u64).await;
    let metrics = cameras.metrics("cam-01");
    cameras.stop().await;
    assert_eq!(metrics.connections_failed.get(), 0);
    assert_eq!(source.count(|seen| &seen.plays), 1);
    (recordings(dir, "cam-01"), source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_changes_goes_on_as_a_new_run_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let small = Clip::encode(dir.path(), "320x180", 2, 0);
    let large = Clip::encode(dir.path(), "640x360", 2, 0);
    // The same size with B-frames: other parameter sets.
    let other = Clip::encode(dir.path(), "640x360", 2, 2);
    assert_ne!(large.sets, other.sets);
    let clips = [&small, &large, &other];
    let (runs, _source) = record(dir.path(), Behaviour::good(&clips), "").await;
    let sizes: Vec<(u32, u32)> = runs.iter().map(|r| (r.run.track.width, r.run.track.height)).collect();
    assert_eq!(sizes, [(320, 180), (640, 360), (640, 360)]);
    for (run, clip) in runs.iter().zip(clips) {
        assert_same(&run.nals, &clip.nals(), &format!("run {}", run.run.run));
        let entry = &run.run.track.sample_entry;
        let holds = |set: &Vec<u8>| entry.windows(set.len()).any(|w| w == set);
        assert!(clip.sets.iter().all(holds), "each run has its own parameter sets");
        decode(dir.path(), &run.file);
    }
    for pair in runs.windows(2) {
        let seam_ms = (pair[1].start.as_millisecond() - pair[0].end.as_millisecond()).abs();
        assert!(seam_ms < 100, "{seam_ms} ms between two runs");
    }
}

/// A decoder that knows nothing of us has nothing to complain about.
fn decode(dir: &Path, file: &[u8]) {
    let path = dir.join("run.mp4");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-v", "warning", "-i"])
        .arg(&path)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "ffmpeg warns");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameter_sets_may_be_missing_in_the_sdp_or_come_late() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "640x360", 3, 0);
    let good = Behaviour::good(&[&clip]);
    let in_band = |from| Behaviour { sets_in_sdp: false, sets_in_band_from: from, ..good.clone() };
    // What is recorded begins with the first key frame behind the parameter sets; there is one each 25 pictures.
    let cases = [
        ("in the SDP only", Behaviour { sets_in_band_from: None, ..good.clone() }, 0),
        ("in-band only", in_band(Some(0)), 0),
        ("in-band, late", in_band(Some(50)), 50),
        ("joined inside a key frame", Behaviour { joins_at_packet: 5, ..good.clone() }, 25),
        ("in-band, joined between key frames", Behaviour { first_unit: 10, ..in_band(Some(0)) }, 25),
    ];
    for (i, (what, behaviour, first)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let (runs, _source) = record(&dir, behaviour, "").await;
        assert_eq!(runs.len(), 1, "{what}");
        assert_same(&runs[0].nals, &nals_of(&clip.units[first..]), what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b_frames_keep_their_order_and_their_times() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 3, 2);
    let out_of_order = clip.units.windows(2).any(|pair| pair[1].pts < pair[0].pts);
    assert!(out_of_order, "the clip has B-frames");
    let (runs, _source) = record(dir.path(), Behaviour::good(&[&clip]), "").await;
    assert_eq!(runs.len(), 1);
    assert_same(&runs[0].nals, &clip.nals(), "in decode order");
    let path = dir.path().join("run.mp4");
    std::fs::write(&path, &runs[0].file).unwrap();
    let listed = run(Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=pts", "-of", "csv=p=0"])
        .arg(&path));
    let shown: Vec<i64> = listed.lines().map(|line| line.trim_matches(',').parse().unwrap()).collect();
    let first = shown.iter().min().unwrap();
    let shown: Vec<i64> = shown.iter().map(|pts| pts - first).collect();
    assert_eq!(shown, clip.units.iter().map(|unit| unit.pts).collect::<Vec<_>>());
    decode(dir.path(), &runs[0].file);
}

#[tokio::test(flavor = "multi_thread")]
async fn h265_is_taken_as_h264_is() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode_h265(dir.path(), "640x360", 3);
    let large = Clip::encode_h265(dir.path(), "960x540", 2);
    let good = Behaviour::good(&[&clip]);
    // Key frames stand where the encoder puts them; decoding order has them a little before 25, 50.
    let key = |behind: usize| {
        let is_key = |unit: &Unit| unit.nals.iter().any(|nal| (16..=21).contains(&(nal[0] >> 1 & 0x3f)));
        behind + clip.units[behind..].iter().position(is_key).unwrap()
    };
    let cases = [
        ("in the SDP only", Behaviour { sets_in_band_from: None, ..good.clone() }, 0),
        (
            "in-band, late",
            Behaviour { sets_in_sdp: false, sets_in_band_from: Some(30), ..good.clone() },
            key(30),
        ),
        ("over UDP", Behaviour { takes: Takes::Udp, ..good.clone() }, 0),
        ("joined inside a key frame", Behaviour { joins_at_packet: 5, ..good.clone() }, key(1)),
    ];
    for (i, (what, behaviour, first)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let (runs, _source) = record(&dir, behaviour, "").await;
        assert_eq!(runs.len(), 1, "{what}");
        assert_same(&runs[0].nals, &nals_of(&clip.units[first..]), what);
    }
    let changes = dir.path().join("changes");
    let (runs, _source) = record(&changes, Behaviour::good(&[&clip, &large]), "").await;
    assert_eq!(runs.iter().map(|r| r.run.track.width).collect::<Vec<_>>(), [640, 960]);
    for (run, clip) in runs.iter().zip([&clip, &large]) {
        assert_same(&run.nals, &clip.nals(), "mid-stream change");
        decode(&changes, &run.file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sender_reports_the_box_clock_gives_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 5, 0);
    let silent = Behaviour { sender_reports: false, ..Behaviour::good(&[&clip]) };
    let before = Time::now();
    let (runs, _source) = record(dir.path(), silent, "").await;
    assert_eq!(runs.len(), 1);
    assert_same(&runs[0].nals, &clip.nals(), "without RTCP");
    assert_eq!(runs[0].run.clock.source, ClockSource::Box);
    assert!(runs[0].start >= before && runs[0].end <= Time::now() + Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_kept_alive_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 6, 0);
    let strict = Behaviour { timeout_s: 2, ..Behaviour::good(&[&clip]) };

    // It does throw out who keeps silent.
    let source = BadCamera::start(strict.clone()).await;
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", source.port)).await.unwrap();
    let read = tokio::time::timeout(SOON, silent.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(source.count(|seen| &seen.thrown_out), 1);

    for (i, takes) in [Takes::Tcp, Takes::Udp].into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let (runs, source) = record(&dir, Behaviour { takes, ..strict.clone() }, "").await;
        assert_eq!(source.count(|seen| &seen.thrown_out), 0);
        assert!(source.count(|seen| &seen.keep_alives) >= 3);
        assert_same(&runs[0].nals, &clip.nals(), "over several timeouts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_confuses_keep_alives_is_lost_once_only() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 6, 0);
    let good = Behaviour { timeout_s: 2, ..Behaviour::good(&[&clip]) };
    let cases = [
        ("wrong CSeq", Behaviour { keep_alive_off: -1, ..good.clone() }),
        ("no answer", Behaviour { answers_keep_alives: false, ..good.clone() }),
    ];
    for (i, (what, behaviour)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let source = BadCamera::start(behaviour).await;
        let cameras = Cameras::start(&dir, &[camera("cam-01", &source.url(), "stall = 'PT60S'")]);
        let ended = || async { (source.count(|seen| &seen.ended) == 1).then_some(()) };
        wait_for("a whole play", SOON, ended).await;
        let metrics = cameras.metrics("cam-01");
        // All of the second connection has arrived when its last picture has.
        let count = clip.units.len() as u64;
        let arrived = || async { (metrics.access_units.get() > count).then_some(()) };
        wait_for("its pictures", SOON, arrived).await;
        cameras.stop().await;
        assert_eq!(metrics.connections_failed.get(), 1, "{what}");
        assert_eq!(source.count(|seen| &seen.plays), 2, "{what}");
        assert_eq!(
            source.count(|seen| &seen.thrown_out),
            0,
            "{what}: the keep-alives still reach the camera"
        );
        assert!(source.count(|seen| &seen.keep_alives) >= 4, "{what}");
        let runs = recordings(&dir, "cam-01");
        assert_eq!(runs.len(), 2, "{what}");
        assert_same(&runs[1].nals, &clip.nals(), what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_is_taken_where_tcp_is_refused_or_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let good = Behaviour::good(&[&clip]);
    let cases = [
        ("TCP first", Takes::Both, "", 0),
        ("UDP where TCP is refused", Takes::Udp, "transport = 'auto'", 1),
        ("UDP as asked", Takes::Both, "transport = 'udp'", 1),
        ("TCP as asked", Takes::Tcp, "transport = 'tcp'", 0),
    ];
    for (i, (what, takes, config, over_udp)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let (runs, source) = record(&dir, Behaviour { takes, ..good.clone() }, config).await;
        assert_eq!(source.count(|seen| &seen.over_udp), over_udp, "{what}");
        assert_same(&runs[0].nals, &clip.nals(), what);
    }
    for (i, (takes, config, words)) in [
        (Takes::Udp, "transport = 'tcp'", "transport \"tcp\" is refused"),
        (Takes::Tcp, "transport = 'udp'", "transport \"udp\" is refused"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = BadCamera::start(Behaviour { takes, ..good.clone() }).await;
        let dir = dir.path().join(format!("refused-{i}"));
        let cameras = Cameras::start(&dir, &[camera("cam-01", &source.url(), config)]);
        cameras.until_gap("cam-01", GapCause::CameraUnreachable, words).await;
        cameras.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stops_or_sends_noise_is_a_gap_and_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let cases = [
        (Fault::Stall(30), "no picture for 2 s"),
        (Fault::NoiseBytes(30), "stream can't be read"),
        (Fault::NoisePackets(30), "stream can't be read"),
        (Fault::Close(30), "camera closed the stream"),
    ];
    for (i, (fault, words)) in cases.into_iter().enumerate() {
        let dir = dir.path().join(i.to_string());
        let source = BadCamera::start(Behaviour { fault, ..Behaviour::good(&[&clip]) }).await;
        let cameras = Cameras::start(&dir, &[camera("cam-01", &source.url(), "stall = 'PT2S'")]);
        cameras.until_gap("cam-01", GapCause::StreamBroken, words).await;
        cameras.until_units("cam-01", 60).await;
        cameras.stop().await;
        let runs = recordings(&dir, "cam-01");
        assert!(runs.len() >= 2, "{words}: {} runs", runs.len());
        for run in &runs[..2] {
            assert_same(&run.nals, &nals_of(&clip.units[..30]), words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_jumps_is_a_gap_and_loses_no_picture() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 3, 0);
    let jumps = Behaviour { jump: Some((50, 20 * 90_000)), ..Behaviour::good(&[&clip]) };
    let (runs, _source) = record(dir.path(), jumps, "").await;
    assert_eq!(runs.len(), 2);
    assert_same(&runs[0].nals, &nals_of(&clip.units[..50]), "before");
    assert_same(&runs[1].nals, &nals_of(&clip.units[50..]), "behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_at_once_is_asked_again_more_and_more_rarely() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 1, 0);
    let source = BadCamera::start(Behaviour { fault: Fault::CloseAtOnce, ..Behaviour::good(&[&clip]) }).await;
    let began = Instant::now();
    let cameras = Cameras::start(dir.path(), &[camera("cam-01", &source.url(), "")]);
    let tries = || async { (source.count(|seen| &seen.connections) >= 4).then_some(()) };
    wait_for("the fourth try", SOON, tries).await;
    // Half of 250, 500 and 1000 ms at least.
    assert!(began.elapsed() >= Duration::from_millis(875), "{:?}", began.elapsed());
    cameras.until_gap("cam-01", GapCause::CameraUnreachable, "describe").await;
    cameras.stop().await;
}

/// Every fault at once on one box, and beside them a camera that behaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_misbehaves_disturbs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let long = Clip::encode(dir.path(), "320x180", 12, 0);
    let good = Behaviour::good(&[&clip]);
    let bad = [
        Behaviour { fault: Fault::CloseAtOnce, ..good.clone() },
        Behaviour { fault: Fault::NotRtsp, ..good.clone() },
        Behaviour { fault: Fault::Stall(10), ..good.clone() },
        Behaviour { fault: Fault::NoiseBytes(10), ..good.clone() },
        Behaviour { fault: Fault::NoisePackets(10), ..good.clone() },
        Behaviour { fault: Fault::Close(10), ..good.clone() },
        Behaviour { keep_alive_off: -1, timeout_s: 2, repeat: true, ..good.clone() },
        Behaviour { sets_in_sdp: false, sets_in_band_from: None, repeat: true, ..good.clone() },
        Behaviour { jump: Some((20, 20 * 90_000)), repeat: true, ..good.clone() },
        Behaviour { login: Some("viewer:secret".into()), ..good.clone() },
    ];
    let source = BadCamera::start(Behaviour::good(&[&long])).await;
    let mut sources = Vec::new();
    let entry = |id: &str, url: &str| {
        format!("[[camera]]\nid = \"{id}\"\nurl = \"{url}\"\nstall = \"2s\"\nmotion.enabled = false\n")
    };
    let mut config = entry("cam-good", &source.url());
    for (i, behaviour) in bad.into_iter().enumerate() {
        let bad_source = BadCamera::start(behaviour).await;
        config += &entry(&format!("cam-bad-{i:02}"), &bad_source.url());
        sources.push(bad_source);
    }
    // The hub is away, which is a state and no failed start.
    let world = HubWorld::new(dir.path(), &["box-01"]);
    world.box_config("box-01", &config);
    let process = world.start_box("box-01");
    let ended = || async { (source.count(|seen| &seen.ended) == 1).then_some(()) };
    wait_for("the whole play of the good camera", SOON, ended).await;
    process.stop();

    for (i, bad_source) in sources.iter().enumerate() {
        assert!(bad_source.count(|seen| &seen.connections) >= 1, "bad camera {i} was asked");
    }
    assert_eq!(source.count(|seen| &seen.connections), 1);
    let runs = recordings(&world.dir.join("box-01"), "cam-good");
    assert_eq!(runs.len(), 1);
    // The last pictures may be on their way when the box is stopped.
    let sent = long.nals();
    assert!(runs[0].nals.len() + 10 > sent.len(), "{} of {} NAL units", runs[0].nals.len(), sent.len());
    assert_same(&runs[0].nals, &sent[..runs[0].nals.len()], "beside misbehaving cameras");
    let events = accepted(&world.dir.join("box-01"));
    let broken = |camera: &str| {
        let of_camera = events.values().filter(|e| e["source"].as_str().unwrap().ends_with(camera));
        of_camera.filter(|e| e["data"]["cause"] == "stream_broken").count()
    };
    assert_eq!(broken("/cam-good"), 0);
    assert!(broken("/cam-bad-05") > 0, "the account of who closes has gaps");
}

/// VLC as a camera: UDP only, parameter sets in-band only as far as retina is concerned (its SDP line ends in a
/// semicolon), a real server that others wrote.
#[tokio::test(flavor = "multi_thread")]
async fn vlc_is_recorded_over_udp() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 20, 0);
    let (port, log) = (free_port(), dir.path());
    let _vlc = Process::start(log, "vlc", &mut vlc(dir.path(), "320x180-20-0.mp4", port));
    let reached = || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() };
    wait_for("VLC to listen", SOON, reached).await;
    let url = format!("rtsp://127.0.0.1:{port}/cam");
    let cameras = Cameras::start(dir.path(), &[camera("cam-01", &url, "")]);
    cameras.until_units("cam-01", 150).await;
    let metrics = cameras.metrics("cam-01");
    let reports = cameras.reports.clone();
    cameras.stop().await;
    let broken = SpanState::Gap { cause: GapCause::StreamBroken };
    let reports = std::mem::take(&mut *reports.lock().unwrap());
    assert!(reports.values().flatten().all(|report| report.state != broken), "{reports:?}");
    assert_eq!(metrics.lost_packets.get(), 0);
    let runs = recordings(dir.path(), "cam-01");
    // VLC's first sender report comes after some seconds; with it begins a run by its clock.
    assert!(runs.len() <= 2, "{} runs", runs.len());
    let nals: Vec<Vec<u8>> = runs.iter().flat_map(|run| run.nals.iter().cloned()).collect();
    // VLC adds access unit delimiters and leaves SEI out; the slices are the camera's.
    let slices = |nals: &[Vec<u8>]| -> Vec<Vec<u8>> {
        nals.iter().filter(|nal| matches!(nal[0] & 0x1f, 1 | 5)).cloned().collect()
    };
    let (found, sent) = (slices(&nals), slices(&clip.nals()));
    assert!(found.len() > 100, "{} slices", found.len());
    let stands = sent.windows(found.len()).any(|window| window == found);
    assert!(stands, "the {} slices do not stand in the file as they are", found.len());
    decode(dir.path(), &runs[0].file);
}

/// VLC does not run as root.
fn vlc(dir: &Path, file: &str, port: u16) -> Command {
    let is_root = run(Command::new("id").arg("-u")).trim() == "0";
    let mut command = if is_root {
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(dir));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cvlc"]);
        command
    } else {
        Command::new("cvlc")
    };
    let sout = format!("#rtp{{sdp=rtsp://127.0.0.1:{port}/cam}}");
    command
        .args(["-I", "dummy", "--no-audio", "--loop", "--sout-keep", "--sout", &sout])
        .arg(dir.join(file))
        .env("HOME", "/nonexistent");
    command
}
