//! The recorder with a real ring: on a clock that is set, and on a real disk that gets full.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use prometheus::Registry;

use super::*;
use crate::edge::camera::CamerasMetrics;
use crate::edge::camera::motion::Which;
use crate::edge::clock::SetClock;
use crate::edge::config::RingConfig;
use crate::edge::ring::read_fragment;
use crate::limits::SENDER_REPORT_WAIT;
use crate::model::{ClockCorrection, SpanState, SyncState};

const FRAME_TICKS: i64 = TIMESCALE as i64 / 10;

/// A camera of ten pictures a second, its recorder, and what that says.
struct Camera {
    recorder: Recorder,
    events: mpsc::Receiver<NewEvent>,
    told: Vec<NewEvent>,
    clock: SetClock,
    pts: i64,
    frame_bytes: usize,
}

impl Camera {
    async fn start(dir: &Path, clock: SetClock, config: RingConfig, frame_bytes: usize) -> Self {
        let watch = Watch::of(Box::new(clock.clone()));
        Self::start_with(dir, clock, watch, config, frame_bytes).await
    }

    async fn start_with(
        dir: &Path,
        clock: SetClock,
        watch: Watch,
        config: RingConfig,
        frame_bytes: usize,
    ) -> Self {
        let (ring, recovery) = Ring::open(dir, config).unwrap();
        let device: DeviceId = "cam-01".parse().unwrap();
        let metrics = CamerasMetrics::register(&Registry::new()).unwrap().of(&device);
        let (sender, events) = mpsc::channel(10_000);
        let began = watch.read().time;
        let mut recorder = Recorder {
            clock_told: tokio::sync::watch::channel(Default::default()).0,
            device,
            ring: Arc::new(Mutex::new(ring)),
            tracker: Tracker::default(),
            metrics: metrics.clone(),
            events: sender,
            progress: watch::Sender::new(Time::MIN),
            motion: MotionFeed::new(Which::Recorded, Arc::default(), None, metrics),
            told: None,
            connection: Connection::default(),
            is_ring_faulty: false,
            clock: watch,
            era: None,
        };
        recorder.boot(recovery, began, None).await;
        recorder.take(Input::Connected).await;
        let mut sample_entry = vec![0; 120];
        sample_entry[3] = 120;
        sample_entry[4..8].copy_from_slice(b"avc1");
        let track = Track { sample_entry, width: 0, height: 0, audio: None };
        recorder.take(Input::Item(SessionItem::Track(track))).await;
        Self { recorder, events, told: vec![], clock, pts: 0, frame_bytes }
    }

    /// The camera sends pictures for so long; every tenth is a key frame.
    async fn sends(&mut self, seconds: i64) {
        for n in 0..seconds * 10 {
            // Nobody waits for sender reports: this camera has none.
            self.recorder.connection.began = Some(Instant::now() - SENDER_REPORT_WAIT);
            let unit = AccessUnit {
                pts: self.pts,
                sync: n % 10 == 0,
                data: fmp4::tests::nal(if n % 10 == 0 { 0x65 } else { 0x41 }, self.frame_bytes),
                arrived: self.clock.now(),
                lost_packets: 0,
            };
            self.recorder.take(Input::Item(SessionItem::Unit(unit))).await;
            self.pts += FRAME_TICKS;
            self.clock.pass(0.1);
        }
        self.recorder.tick().await;
        self.told.extend(std::iter::from_fn(|| self.events.try_recv().ok()));
    }

    fn coverage(&self) -> Vec<Coverage> {
        let mut spans: Vec<Coverage> = Vec::new();
        for event in &self.told {
            let EventData::Coverage(report) = &event.data else { continue };
            match spans.iter_mut().find(|span| span.span == report.span) {
                Some(span) => *span = report.clone(),
                None => spans.push(report.clone()),
            }
        }
        spans
    }

    fn corrections(&self) -> Vec<&ClockCorrection> {
        let of = |event: &'_ NewEvent| matches!(event.data, EventData::Clock(_));
        let all = self.told.iter().filter(|event| of(event));
        all.filter_map(|event| if let EventData::Clock(c) = &event.data { Some(c) } else { None }).collect()
    }

    fn faults(&self) -> Vec<(&str, FaultPhase)> {
        let fault = |event: &'_ NewEvent| match &event.data {
            EventData::Fault(fault) => Some(fault.phase),
            _ => None,
        };
        self.told.iter().filter_map(fault).map(|phase| (RING_FAULT, phase)).collect()
    }
}

fn config(bytes: u64, segment_s: i64) -> RingConfig {
    RingConfig { days: 30, bytes_per_camera: bytes, segment: SignedDuration::from_secs(segment_s) }
}

const TRUE_START: i64 = 1_772_000_000;

/// No clock at the start of the machine; the network tells the time a minute later.
#[tokio::test]
async fn what_was_recorded_before_the_time_was_known_keeps_its_times_and_is_corrected_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let year_1970 = Time::from_second(30).unwrap();
    let clock = SetClock::at(year_1970);
    let mut camera = Camera::start(dir.path(), clock.clone(), config(1 << 30, 10), 300).await;
    camera.sends(60).await;
    assert!(camera.corrections().is_empty());
    let off_s = TRUE_START - 30;
    clock.step(off_s);
    clock.sync(SyncState::Synced);
    camera.sends(60).await;
    camera.recorder.take(Input::Lost { cause: GapCause::StreamBroken, detail: "it ended".into() }).await;
    camera.sends(0).await;

    let corrections = camera.corrections();
    assert_eq!(corrections.len(), 1, "{:?}", camera.told);
    let correction = corrections[0].clone();
    assert_eq!(correction.correction_ms, off_s * 1000);
    assert_eq!((correction.from, correction.upto.as_second()), (year_1970, 90));
    let meant = correction.spans.clone().unwrap();
    let spans = camera.coverage();
    let recorded: Vec<_> = spans.iter().filter(|span| span.state == SpanState::Recorded).collect();
    assert_eq!(recorded.len(), 2, "{spans:#?}");
    assert!(meant.contains(&recorded[0].span) && !meant.contains(&recorded[1].span));
    assert!(recorded[0].start < Time::from_second(100).unwrap(), "its time stays what it was");

    // In true time it is one account from the start on, with a moment lost when the clock was set.
    let by = SignedDuration::from_secs(off_s);
    let mut whole: Vec<_> = spans
        .iter()
        .map(|span| {
            if meant.contains(&span.span) {
                (span.start + by, span.upto + by)
            } else {
                (span.start, span.upto)
            }
        })
        .filter(|(start, upto)| start < upto)
        .collect();
    whole.sort();
    assert_eq!(whole[0].0, Time::from_second(TRUE_START).unwrap());
    whole.windows(2).for_each(|pair| assert_eq!(pair[0].1, pair[1].0, "{spans:#?}"));
    assert!(whole.last().unwrap().1 >= Time::from_second(TRUE_START + 119).unwrap(), "{whole:?}");

    // The ring says what was known when.
    let fragments = camera.recorder.ring.lock().unwrap().fragments(Time::MIN, Time::MAX).unwrap();
    for fragment in &fragments {
        let is_first = fragment.run.run == recorded[0].span;
        let sync = if is_first { SyncState::Unsynced } else { SyncState::Synced };
        assert_eq!(fragment.run.clock.sync, sync);
        assert_eq!(fragment.start < Time::from_second(1_000).unwrap(), is_first);
    }
    drop(camera);
}

#[tokio::test]
async fn another_process_of_the_same_start_corrects_what_the_one_before_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::at(Time::from_second(30).unwrap());
    let mut camera = Camera::start(dir.path(), clock.clone(), config(1 << 30, 10), 300).await;
    camera.sends(30).await;
    let run = camera.coverage().into_iter().find(|span| span.state == SpanState::Recorded).unwrap().span;
    let watch = camera.recorder.clock.clone();
    // Killed.
    drop(camera);
    clock.pass(20.0);
    let mut again = Camera::start_with(dir.path(), clock.clone(), watch, config(1 << 30, 10), 300).await;
    again.sends(10).await;
    clock.step(TRUE_START - 30);
    clock.sync(SyncState::Synced);
    again.sends(10).await;
    let meant: Vec<Uuid> = again.corrections().iter().flat_map(|c| c.spans.clone().unwrap()).collect();
    assert!(meant.contains(&run), "{meant:?}");
    let spans = again.coverage();
    let off = spans.iter().find(|span| span.cause() == Some(GapCause::BoxOff)).unwrap();
    assert!(meant.contains(&off.span), "the time between the two was told by the same clock: {spans:#?}");
    assert_eq!(meant.len(), spans.iter().filter(|s| s.start < Time::from_second(1_000).unwrap()).count());
}

/// A file system of a few megabytes; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// None where we may not mount.
    fn mount(at: &'a Path, bytes: u64) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "camnet-test"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    /// Another program takes all room that is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn on_a_real_full_disk_recording_waits_says_why_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 4 << 20) else {
        return eprintln!("no right to mount: the real full disk is skipped");
    };
    let clock = SetClock::at(Time::from_second(TRUE_START).unwrap());
    clock.sync(SyncState::Synced);
    let mut camera = Camera::start(&dir.path().join("ring"), clock, config(1 << 30, 2), 10_000).await;
    // 100 kB a second: the ring fills the disk, and goes round by itself.
    camera.sends(60).await;
    let newest = camera.recorder.ring.lock().unwrap().upto().unwrap();
    assert!(newest > Time::from_second(TRUE_START + 50).unwrap(), "the oldest made way: {newest}");
    assert!(camera.faults().is_empty(), "{:?}", camera.faults());
    // All that can be given up was given up for events, and another program has taken it.
    while camera.recorder.ring.lock().unwrap().give_up_oldest().is_some() {}
    disk.fill();
    camera.sends(6).await;
    assert_eq!(camera.faults(), [(RING_FAULT, FaultPhase::Raised)], "told once");
    let full = SpanState::Gap { cause: GapCause::DiskFull };
    assert!(
        camera.coverage().last().is_some_and(|span| span.state == full && span.open),
        "{:?}",
        camera.coverage()
    );
    disk.free();
    for _ in 0..10 {
        camera.recorder.connection.paused_until =
            camera.recorder.connection.paused_until.map(|_| Instant::now());
        camera.sends(2).await;
    }
    assert_eq!(camera.faults().last(), Some(&(RING_FAULT, FaultPhase::Cleared)));
    let spans = camera.coverage();
    assert!(spans.last().is_some_and(|span| span.state == SpanState::Recorded), "{spans:#?}");
    spans.windows(2).for_each(|pair| assert_eq!(pair[0].upto, pair[1].start, "{spans:#?}"));
    let fragments = camera.recorder.ring.lock().unwrap().fragments(Time::MIN, Time::MAX).unwrap();
    assert!(fragments.len() > 10 && fragments.iter().all(|f| read_fragment(f).is_ok()));
    drop(camera);
    assert!(Duration::from_secs(5) <= RING_RETRY, "the test does not wait for it");
}
