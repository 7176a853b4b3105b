//! Room for events: what the box gives up when its disk gets full, and in which order.
//!
//! ```text
//! receipted events → thumbnails that the hub has → thumbnails → clips, oldest first → the ring, oldest first
//! ```
//!
//! Owns this order, the outbox's share of the disk, and what is said when something was given up. An event is
//! refused only when nothing of that is left. May not touch a clip whose event the outbox has not taken, nor the
//! segment that a ring is writing.
//!
//! What is given up is named: the ring tells since when it holds footage (`ring_from` in the coverage events, which a
//! search shows as overwritten), and a fault event says what went and why.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::SignedDuration;
use prometheus::{IntCounterVec, Registry};

use super::clip::{ClipFile, clips_dir, read_clip_files};
use super::config::OutboxConfig;
use super::outbox::{NewEvent, Store};
use super::ring::Ring;
use super::upload;
use crate::limits::{OUTBOX_ROOM_STEP_BYTES_MAX, ROOM_CALM, ROOM_LOOK};
use crate::metrics::Part;
use crate::model::{ClockQuality, EventData, Fault, FaultPhase, Time};

/// The rings of a box, so that the oldest footage of all can be told. Clones share it.
#[derive(Clone, Default)]
pub struct Rings(Arc<Mutex<Vec<Arc<Mutex<Ring>>>>>);

impl Rings {
    pub fn add(&self, ring: Arc<Mutex<Ring>>) {
        self.0.lock().expect("no panic holds it").push(ring);
    }

    /// Removes the oldest segment of all rings; how many bytes that gave, or None if only those being written are
    /// left.
    fn give_up_oldest(&self) -> Option<u64> {
        let rings = self.0.lock().expect("no panic holds it").clone();
        let from = |ring: &Arc<Mutex<Ring>>| {
            let ring = ring.lock().expect("no panic holds it");
            ring.can_give_up().then(|| ring.oldest_start()).flatten()
        };
        let oldest = rings.iter().filter_map(|ring| Some((from(ring)?, ring))).min_by_key(|(from, _)| *from);
        oldest?.1.lock().expect("no panic holds it").give_up_oldest()
    }
}

/// Bytes of a file system: free for us, and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub free_bytes: u64,
    pub all_bytes: u64,
}

/// How the disk below a path is asked.
pub type AskDisk = Box<dyn Fn(&Path) -> io::Result<Disk> + Send>;

/// The real disk.
pub fn ask_disk(path: &Path) -> io::Result<Disk> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte, and statvfs writes the whole struct when it returns 0.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    let block_bytes = stat.f_frsize;
    Ok(Disk { free_bytes: stat.f_bavail * block_bytes, all_bytes: stat.f_blocks * block_bytes })
}

/// Makes room for the outbox. One owner; all calls block on the disk.
pub struct Room {
    data_dir: PathBuf,
    config: OutboxConfig,
    rings: Rings,
    ask_disk: AskDisk,
    freed: Freed,
    /// Bytes above its share that the outbox may use, because footage made way for them.
    borrowed_bytes: u64,
    looked: Option<Instant>,
    is_disk_unknown: bool,
    /// Nothing is left that could be given up.
    is_bare: bool,
    given_up: Told,
    given_up_last: Time,
    refused: Told,
}

/// Something that is told once when it begins and once when it ends.
#[derive(Debug, Default)]
struct Told {
    /// Since when, and what; None while all is well.
    now: Option<(Time, String)>,
    /// Raised, and not yet cleared.
    is_raised: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    UploadedThumbnail,
    Thumbnail,
    Clip,
    RingSegment,
}

/// What was given up.
#[derive(Clone)]
struct Freed {
    files: IntCounterVec,
    bytes: IntCounterVec,
}

const GIVEN_UP: &str = "footage_given_up";
const REFUSED: &str = "outbox_full";

impl Room {
    pub fn new(
        data_dir: &Path,
        config: OutboxConfig,
        rings: Rings,
        ask_disk: AskDisk,
        metrics: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let part = Part::new(metrics, "camnet_edge_given_up_");
        let counter = |name: &str, help: &str| part.counters(name, help, &["what"]);
        let freed = Freed {
            files: counter("files_total", "Files given up so that the outbox has room")?,
            bytes: counter("bytes_total", "Bytes given up so that the outbox has room")?,
        };
        Ok(Self {
            data_dir: data_dir.to_owned(),
            config,
            rings,
            ask_disk,
            freed,
            borrowed_bytes: 0,
            looked: None,
            is_disk_unknown: false,
            is_bare: false,
            given_up: Told::default(),
            given_up_last: Time::MIN,
            refused: Told::default(),
        })
    }

    /// Looks whether the outbox and the disk have room, makes it if not, and lets `store` have it. Cheap when it was
    /// done a moment ago.
    pub fn make(&mut self, store: &mut Store, now: Time) {
        let bytes = store.bytes();
        let is_near = bytes + self.step_bytes() > self.allowed_bytes();
        if !is_near && self.looked.is_some_and(|at| at.elapsed() < ROOM_LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut wanted = self.wanted_bytes(bytes);
        if wanted > 0 {
            // Receipted events are kept for a hub that was restored from a backup, disk permitting.
            store.drop_receipted_now();
            wanted = self.wanted_bytes(store.bytes());
        }
        if wanted > 0 {
            self.give_up(wanted, now);
        } else {
            self.is_bare = false;
        }
        let calm = SignedDuration::try_from(ROOM_CALM).expect("minutes fit");
        if now.duration_since(self.given_up_last) > calm {
            self.given_up.now = None;
        }
        if store.bytes() + self.step_bytes() <= self.config.bytes {
            self.borrowed_bytes = 0;
        }
        store.set_bytes_max(self.allowed_bytes());
    }

    /// The outbox refused an event: for want of room if nothing is left to give up.
    pub fn refused(&mut self, why: &str, now: Time) {
        if self.refused.now.is_none() {
            tracing::error!(why, "events are refused: nothing is left that could be given up for them");
            self.refused.now = Some((now, why.to_owned()));
        }
    }

    /// What the hub should know of this and was not told, for the outbox.
    pub fn news(&self, clock: ClockQuality, now: Time) -> Vec<NewEvent> {
        let mut news = Vec::new();
        for (fault, told) in [(GIVEN_UP, &self.given_up), (REFUSED, &self.refused)] {
            let event = |phase, time, detail: &str| NewEvent {
                device: None,
                time,
                clock,
                data: EventData::Fault(Fault { fault: fault.into(), phase, detail: detail.to_owned() }),
            };
            match &told.now {
                Some((since, detail)) if !told.is_raised => {
                    news.push(event(FaultPhase::Raised, *since, detail))
                }
                None if told.is_raised => news.push(event(FaultPhase::Cleared, now, "there is room again")),
                _ => {}
            }
        }
        news
    }

    /// The outbox took events, and [`Room::news`] with them.
    pub fn accepted(&mut self) {
        self.given_up.is_raised = self.given_up.now.is_some();
        // That an event is taken at all means that none is refused any more; the end is told with the next ones.
        self.refused.is_raised = self.refused.now.take().is_some();
    }

    fn allowed_bytes(&self) -> u64 {
        self.config.bytes + self.borrowed_bytes
    }

    /// Room is made in steps, so that it is not looked for with each event.
    fn step_bytes(&self) -> u64 {
        (self.config.bytes / 16).clamp(1, OUTBOX_ROOM_STEP_BYTES_MAX)
    }

    /// Bytes that must be given up: for the outbox's share, and for the disk.
    fn wanted_bytes(&mut self, outbox_bytes: u64) -> u64 {
        let share = (outbox_bytes + self.step_bytes()).saturating_sub(self.allowed_bytes());
        let disk = match (self.ask_disk)(&self.data_dir) {
            Ok(disk) => {
                self.is_disk_unknown = false;
                // A small disk can't keep the reserve of a large one.
                let reserve = self.config.disk_reserve_bytes.min(disk.all_bytes / 50);
                reserve.saturating_sub(disk.free_bytes)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_disk_unknown, true) {
                    tracing::warn!(%error, path = %self.data_dir.display(), "free disk space is not known");
                }
                0
            }
        };
        share.max(disk)
    }

    fn give_up(&mut self, wanted: u64, now: Time) {
        let mut given = Given::default();
        let dir = clips_dir(&self.data_dir);
        let clips = match read_clip_files(&dir, ".json") {
            Ok(clips) => clips,
            Err(error) => {
                tracing::error!(%error, "folder of clips can't be read");
                Vec::new()
            }
        };
        let is_enough = |given: &Given| given.bytes() >= wanted;
        for what in [What::UploadedThumbnail, What::Thumbnail, What::Clip] {
            for clip in &clips {
                if is_enough(&given) {
                    break;
                }
                given.add(what, remove(&dir, clip, what));
            }
        }
        while !is_enough(&given) {
            let Some(bytes) = self.rings.give_up_oldest() else { break };
            given.add(What::RingSegment, Some(bytes));
        }
        self.borrowed_bytes += given.bytes();
        self.count(&given);
        let was_bare = std::mem::replace(&mut self.is_bare, !is_enough(&given));
        if given.bytes() > 0 {
            self.given_up_last = now;
            let detail = given.to_string();
            if self.given_up.now.is_none() {
                tracing::warn!(detail, "the outbox needs room: footage is given up");
                self.given_up.now = Some((now, detail));
            } else {
                tracing::info!(detail, "more footage is given up for the outbox");
            }
        } else if self.is_bare && !was_bare {
            tracing::error!(wanted, "nothing is left that could be given up for the outbox");
        }
    }

    fn count(&self, given: &Given) {
        for (what, files, bytes) in &given.0 {
            self.freed.files.with_label_values(&[what.as_str()]).inc_by(*files);
            self.freed.bytes.with_label_values(&[what.as_str()]).inc_by(*bytes);
        }
    }
}

/// Files and bytes of each kind.
#[derive(Default)]
struct Given(Vec<(What, u64, u64)>);

impl Given {
    fn add(&mut self, what: What, bytes: Option<u64>) {
        let Some(bytes) = bytes else { return };
        match self.0.iter_mut().find(|(known, ..)| *known == what) {
            Some((_, files, all)) => {
                *files += 1;
                *all += bytes;
            }
            None => self.0.push((what, 1, bytes)),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(.., bytes)| bytes).sum()
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (what, files, bytes)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{} × {files} ({bytes} bytes)", what.as_str())?;
        }
        Ok(())
    }
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::UploadedThumbnail => "uploaded thumbnail",
            Self::Thumbnail => "thumbnail",
            Self::Clip => "clip",
            Self::RingSegment => "ring segment",
        }
    }
}

/// Removes what is meant of one clip; how many bytes that gave, None if it was not there.
fn remove(dir: &Path, clip: &ClipFile, what: What) -> Option<u64> {
    let id = clip.cut.clip;
    let path = |suffix: &str| dir.join(format!("{id}{suffix}"));
    let size = |suffix: &str| std::fs::metadata(path(suffix)).map(|meta| meta.len()).ok();
    let remove = |suffix: &str| match std::fs::remove_file(path(suffix)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(%error, path = %path(suffix).display(), "file can't be given up");
            false
        }
        _ => true,
    };
    match what {
        What::UploadedThumbnail if !upload::is_thumbnail_done(dir, id) => None,
        What::UploadedThumbnail | What::Thumbnail => {
            let bytes = size(".jpg")?;
            remove(".jpg").then_some(bytes)
        }
        // As after an upload: the event first, so that no crash leaves a clip that was announced without its video.
        What::Clip => {
            let bytes = size(".mp4")?;
            let is_gone = [".json", ".upload.json", ".jpg", ".mp4"].into_iter().all(remove);
            is_gone.then_some(bytes)
        }
        What::RingSegment => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use uuid::Uuid;

    use super::*;
    use crate::edge::config::RingConfig;
    use crate::edge::fmp4::{self, Sample, TIMESCALE, Track, WallClock};
    use crate::edge::outbox::{EpochStart, OutboxError};
    use crate::edge::ring::Run;
    use crate::model::{
        BoxId, ClipCut, ClockSource, DeviceId, Epoch, Sha256Hash, Status, Still, SyncState, Video,
    };
    use crate::wire::Receipt;

    const CLOCK: ClockQuality = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Unknown,
        offset_ms: None,
        uncertainty_ms: None,
    };
    const CLIP_BYTES: usize = 60_000;
    const THUMBNAIL_BYTES: usize = 20_000;
    const SEGMENTS: i64 = 4;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_772_000_000 + seconds).unwrap()
    }

    /// A ring with segments of one second.
    fn ring(dir: &Path, from: i64) -> Arc<Mutex<Ring>> {
        let config =
            RingConfig { days: 1, bytes_per_camera: 1 << 30, segment: SignedDuration::from_millis(500) };
        let (mut ring, _) = Ring::open(dir, config).unwrap();
        let mut sample_entry = vec![0; 120];
        sample_entry[3] = 120;
        sample_entry[4..8].copy_from_slice(b"avc1");
        let track = Track { sample_entry, width: 0, height: 0, audio: None };
        ring.begin_run(Run { run: Uuid::now_v7(), start: at(from), clock: CLOCK, track });
        for second in 0..SEGMENTS {
            let pts = second * i64::from(TIMESCALE);
            let sample = Sample { pts, sync: true, data: fmp4::tests::nal(0x65, 50_000) };
            let wall = WallClock { time: at(from + second), camera: true };
            let fragment = fmp4::fragment(1, &[sample], Some(pts + i64::from(TIMESCALE)), pts, wall);
            ring.append(&fragment, at(from + second), at(from + second + 1)).unwrap();
        }
        Arc::new(Mutex::new(ring))
    }

    fn clip(dir: &Path, suffix: &str, progress: Option<&str>) -> Uuid {
        std::fs::create_dir_all(dir).unwrap();
        let (id, sha256, time) = (Uuid::now_v7(), Sha256Hash::of(b""), at(0));
        let cut = ClipCut {
            clip: id,
            motion: None,
            start: time,
            end: time,
            motion_start: None,
            motion_end: None,
            peak_score: 0.0,
            bytes: CLIP_BYTES as u64,
            sha256,
            video: Video { codec: "avc1".into(), width: 1, height: 1 },
            audio_codec: None,
            thumbnail: Some(Still { sha256, bytes: THUMBNAIL_BYTES as u64, time }),
            run: id,
            first_fragment: 0,
            fragments: vec![],
        };
        let device: DeviceId = "cam-01".parse().unwrap();
        let file = ClipFile { version: 1, device, clock: CLOCK, cut };
        let write =
            |suffix: &str, bytes: &[u8]| std::fs::write(dir.join(format!("{id}{suffix}")), bytes).unwrap();
        write(".mp4", &vec![1; CLIP_BYTES]);
        write(".jpg", &vec![1; THUMBNAIL_BYTES]);
        write(suffix, &serde_json::to_vec(&file).unwrap());
        if let Some(progress) = progress {
            write(".upload.json", progress.as_bytes());
        }
        id
    }

    fn event() -> NewEvent {
        let data = EventData::Status(Status::new(true, Some("x".repeat(600))));
        NewEvent { device: None, time: at(0), clock: CLOCK, data }
    }

    fn bytes_below(dir: &Path) -> u64 {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let bytes = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
            true => bytes_below(&entry.path()),
            false => entry.metadata().unwrap().len(),
        };
        entries.map(bytes).sum()
    }

    /// A box's folder: two rings, two clips that the hub may have (of the second it has the thumbnail), and one clip
    /// whose event the outbox has not taken.
    struct World {
        _dir: tempfile::TempDir,
        data_dir: PathBuf,
        clips: [Uuid; 3],
        rings: [Arc<Mutex<Ring>>; 2],
        store: Store,
        room: Room,
    }

    impl World {
        fn new(config: OutboxConfig, disk_bytes: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let data_dir = dir.path().to_owned();
            let folder = clips_dir(&data_dir);
            let clips = [
                clip(&folder, ".json", None),
                clip(&folder, ".json", Some(r#"{"thumbnail":null,"thumbnail_done":true,"clip":null}"#)),
                clip(&folder, ".pending.json", None),
            ];
            let rings =
                [("a", 100), ("b", 0)].map(|(name, from)| ring(&data_dir.join("ring").join(name), from));
            let all = Rings::default();
            rings.iter().for_each(|ring| all.add(ring.clone()));
            let box_id = BoxId::new("box-01").unwrap();
            let (store, _) = Store::open(&data_dir.join("outbox"), &box_id, at(0), CLOCK).unwrap();
            // A disk of this size that holds nothing but the folder.
            let ask_disk = Box::new(move |path: &Path| {
                let free_bytes = disk_bytes.saturating_sub(bytes_below(path));
                Ok(Disk { free_bytes, all_bytes: disk_bytes })
            });
            let room = Room::new(&data_dir, config, all, ask_disk, &Registry::new()).unwrap();
            Self { _dir: dir, data_dir, clips, rings, store, room }
        }

        fn has(&self, clip: usize, suffix: &str) -> bool {
            clips_dir(&self.data_dir).join(format!("{}{suffix}", self.clips[clip])).exists()
        }

        /// What is left, in the order in which it may go.
        fn left(&self) -> Vec<bool> {
            let segments = |ring: usize| {
                let dir = self.data_dir.join("ring").join(["a", "b"][ring]);
                let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
                names.filter(|name| name.to_string_lossy().ends_with(".mp4")).count() as i64
            };
            let mut left =
                vec![self.has(1, ".jpg"), self.has(0, ".jpg"), self.has(0, ".mp4"), self.has(1, ".mp4")];
            // The second ring has the older footage.
            for ring in [1, 0] {
                left.extend((1..SEGMENTS).map(|n| segments(ring) > SEGMENTS - n));
            }
            assert!(self.has(2, ".jpg") && self.has(2, ".mp4"), "a clip that the outbox has not taken stays");
            assert!(segments(0) >= 1 && segments(1) >= 1, "the segment that is being written stays");
            left
        }

        /// As the uplink does it.
        fn accept(&mut self, events: Vec<NewEvent>, now: Time) -> Result<Vec<NewEvent>, OutboxError> {
            self.room.make(&mut self.store, now);
            let news = self.room.news(CLOCK, now);
            let all = events.into_iter().chain(news.clone()).collect();
            match self.store.accept(all) {
                Ok(_) => self.room.accepted(),
                Err(error) => {
                    self.room.refused(&error.to_string(), now);
                    return Err(error);
                }
            }
            Ok(news)
        }
    }

    fn told(news: &[NewEvent]) -> Vec<(String, FaultPhase)> {
        let fault = |event: &NewEvent| match &event.data {
            EventData::Fault(fault) => (fault.fault.clone(), fault.phase),
            other => panic!("{other:?}"),
        };
        news.iter().map(fault).collect()
    }

    #[test]
    fn footage_makes_way_for_events_in_order_and_only_then_an_event_is_refused() {
        let mut world = World::new(OutboxConfig { bytes: 100_000, disk_reserve_bytes: 0 }, 1 << 40);
        let all = world.left();
        assert_eq!(all.len() as i64, 4 + 2 * (SEGMENTS - 1));
        assert!(all.iter().all(|&is_left| is_left));
        let mut news = Vec::new();
        let mut steps = vec![all];
        let mut accepted = 0;
        let refused = loop {
            match world.accept((0..5).map(|_| event()).collect(), at(0)) {
                Ok(told) => news.extend(told),
                Err(error) => break error,
            }
            accepted += 5;
            let left = world.left();
            if steps.last() != Some(&left) {
                steps.push(left);
            }
            assert!(accepted < 10_000, "it is never full");
        };
        assert!(matches!(refused, OutboxError::Full { .. }), "{refused}");
        assert!(world.left().iter().all(|is_left| !is_left), "only then: {:?}", world.left());
        for left in &steps {
            let first = left.iter().position(|&is_left| is_left).unwrap_or(left.len());
            assert!(left[first..].iter().all(|&is_left| is_left), "out of order: {left:?}");
        }
        assert!(steps.len() > 6, "little by little: {steps:?}");
        assert_eq!(told(&news), [(GIVEN_UP.to_owned(), FaultPhase::Raised)], "once");
        let held_from = world.rings.each_ref().map(|ring| ring.lock().unwrap().from().unwrap());
        assert_eq!(
            held_from,
            [at(100 + SEGMENTS - 1), at(SEGMENTS - 1)],
            "the ring tells what is overwritten"
        );
        let owed = world.store.unreceipted_count();
        assert!(owed > accepted, "nothing that was accepted is gone");

        // The hub has all of it: there is room again, and the box tells what happened in between.
        world.accept(vec![event()], at(1)).unwrap_err();
        let epoch: Epoch = world.store.epoch();
        let upto = owed as u64;
        world.store.receipt(&Receipt { epoch, upto, missing: vec![], refused: vec![] }).unwrap();
        // An outbox drops closed segments only; this closes the one that is open.
        world.store.begin(EpochStart::draw(at(2), CLOCK)).unwrap();
        let raised = world.accept(vec![], at(2)).unwrap();
        assert_eq!(told(&raised), [(REFUSED.to_owned(), FaultPhase::Raised)]);
        assert_eq!(raised[0].time, at(0), "when it began");
        let cleared = world.accept(vec![event()], at(3)).unwrap();
        assert_eq!(told(&cleared), [(REFUSED.to_owned(), FaultPhase::Cleared)]);
        assert_eq!(told(&world.accept(vec![event()], at(4)).unwrap()), []);
        world.room.looked = None;
        let calm = world.accept(vec![event()], at(5) + SignedDuration::try_from(ROOM_CALM).unwrap()).unwrap();
        assert_eq!(told(&calm), [(GIVEN_UP.to_owned(), FaultPhase::Cleared)]);
    }

    #[test]
    fn a_disk_that_fills_costs_footage_before_events() {
        let disk_bytes = 900_000;
        let config = OutboxConfig { bytes: 1 << 30, disk_reserve_bytes: 1 << 30 };
        let mut world = World::new(config, disk_bytes);
        let reserve = disk_bytes / 50;
        let filler = world.data_dir.join("other");
        let mut filled = 0;
        while world.left().iter().any(|&is_left| is_left) {
            // Another program fills what is free.
            filled += disk_bytes - bytes_below(&world.data_dir);
            std::fs::write(&filler, vec![1; filled as usize]).unwrap();
            world.room.looked = None;
            let before = world.left();
            world.accept(vec![event()], at(0)).unwrap();
            let left = world.left();
            let first = left.iter().position(|&is_left| is_left).unwrap_or(left.len());
            assert!(left[first..].iter().all(|&is_left| is_left), "out of order: {left:?}");
            assert_ne!(before, left, "something was given up");
            let free = disk_bytes.saturating_sub(bytes_below(&world.data_dir));
            assert!(free + 4096 >= reserve, "{free} of {reserve} are free");
        }
    }

    #[test]
    fn the_real_disk_answers() {
        let dir = tempfile::tempdir().unwrap();
        let disk = ask_disk(dir.path()).unwrap();
        assert!(disk.free_bytes > 0 && disk.free_bytes <= disk.all_bytes, "{disk:?}");
        assert!(ask_disk(Path::new("/no/such/folder")).is_err());
    }
}
