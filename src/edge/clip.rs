//! Clips (đoạn hình): spans of original video cut from the ring, with hash and thumbnail.
//!
//! ```text
//! <data_dir>/clips/<clip>.mp4  <clip>.jpg  <clip>.pending.json ─► outbox ─► <clip>.json ─► upload
//! ```
//!
//! Owns the folder of clips up to the moment the outbox has taken a clip's event; [`super::upload`]
//! has it from there. A clip is an init segment and whole fragments of one run, byte for byte. May not change the ring.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::camera::{CameraMetrics, accept};
use super::fmp4::{self, TIMESCALE};
use super::memory;
use super::outbox::{NewEvent, Outbox};
use super::ring::{self, FragmentEntry, Ring, RingError};
use crate::limits::{CLIP_SECONDS_MAX, FRAGMENT_SECONDS_MAX, STILL_SECONDS};
use crate::model::{ClipCut, ClockQuality, DeviceId, EventData, Sha256Hash, Still, Time, Video, VideoCodec};

/// Clips of one camera that wait to be cut; motion waits beyond it.
pub const JOBS_MAX: usize = 64;
/// Width of a thumbnail at most, pixels.
const THUMBNAIL_WIDTH_MAX: u32 = 480;
/// The picture of a still is this long before the end of its clip: the last ones may not be whole.
const LAST_PICTURE: jiff::SignedDuration = jiff::SignedDuration::from_millis(100);

/// A span that shall become a clip, or several where it is long or crosses runs.
#[derive(Debug, Clone)]
pub struct ClipJob {
    pub motion: Option<Uuid>,
    pub from: Time,
    pub to: Time,
    pub motion_start: Option<Time>,
    pub motion_end: Option<Time>,
    /// The moment for the thumbnail.
    pub peak: Option<Time>,
    pub peak_score: f64,
}

/// What stands beside a clip's file: the event that announces it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClipFile {
    pub version: u8,
    pub device: DeviceId,
    pub clock: ClockQuality,
    pub cut: ClipCut,
}

const CLIP_FILE_VERSION: u8 = 1;
const PENDING: &str = ".pending.json";

/// Why a clip could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    #[error("ring has no video from {from} to {to}")]
    Empty { from: Time, to: Time },
    #[error("clip can't be cut from the ring")]
    Ring(#[from] RingError),
    #[error("clip {path}: cannot {what}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("video parameters in the ring can't be read")]
    Track,
}

/// The folder that clips of all cameras of a box wait in.
pub fn clips_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("clips")
}

/// Cuts the clips of one camera.
#[derive(Clone)]
pub struct Cutter {
    pub device: DeviceId,
    pub ring: Arc<Mutex<Ring>>,
    pub clips_dir: PathBuf,
    pub outbox: Outbox,
    pub metrics: CameraMetrics,
}

/// One clip of the whole box at a time: what moves is often seen by several cameras at once, and a clip in the making is
/// in memory.
static TURN: Semaphore = Semaphore::const_new(1);

/// Announces what an earlier process left unannounced, then cuts `jobs` until they end.
pub async fn run(
    cutter: Cutter,
    mut jobs: mpsc::Receiver<ClipJob>,
    mut progress: watch::Receiver<Time>,
    shutdown: CancellationToken,
) {
    cutter.announce_pending(&shutdown).await;
    while let Some(job) = jobs.recv().await {
        wait_for_footage(&job, &mut progress, &shutdown).await;
        cutter.cut_and_announce(job, &shutdown).await;
    }
}

impl Cutter {
    /// Cuts the clips of a span, durably, in order. Blocks on the disk.
    pub fn cut(&self, job: &ClipJob) -> Result<Vec<ClipFile>, ClipError> {
        let parts = parts_of(self.fragments(job)?);
        if parts.is_empty() {
            return Err(ClipError::Empty { from: job.from, to: job.to });
        }
        parts.iter().map(|part| self.cut_part(job, part)).collect()
    }

    fn fragments(&self, job: &ClipJob) -> Result<Vec<FragmentEntry>, ClipError> {
        let mut ring = self.ring.lock().expect("no panic holds it");
        // What a clip holds shall also be durable in the ring, and committed by the coverage.
        ring.sync()?;
        Ok(ring.fragments(job.from, job.to)?)
    }

    async fn cut_and_announce(&self, job: ClipJob, shutdown: &CancellationToken) {
        let (cutter, wanted) = (self.clone(), job.clone());
        let cut = {
            let _turn = TURN.acquire().await.expect("nobody closes it");
            tokio::task::spawn_blocking(move || {
                let cut = cutter.cut(&wanted);
                memory::give_back();
                cut
            })
            .await
        };
        match cut.expect("cutting does not panic and is not cancelled") {
            Ok(clips) => {
                for clip in clips {
                    self.metrics.clips.inc();
                    self.announce(clip, shutdown).await;
                }
            }
            Err(error) => {
                self.metrics.clips_failed.inc();
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(device = %self.device, %error, cause, from = %job.from, "clip can't be cut");
            }
        }
    }

    /// Cuts the seconds before `upto` and announces the clip; if they lie in several runs, the newest of them.
    pub async fn cut_still(&self, upto: Time, shutdown: &CancellationToken) -> Result<Uuid, ClipError> {
        let from = upto - jiff::SignedDuration::from_secs(STILL_SECONDS);
        let (motion, motion_start, motion_end) = (None, None, None);
        let peak = Some(upto - LAST_PICTURE);
        let job = ClipJob { motion, from, to: upto, motion_start, motion_end, peak, peak_score: 0.0 };
        let cutter = self.clone();
        let _turn = TURN.acquire().await.expect("nobody closes it");
        let cut = tokio::task::spawn_blocking(move || {
            let found = cutter.fragments(&job)?;
            let newest = parts_of(found).pop().ok_or(ClipError::Empty { from: job.from, to: job.to })?;
            let clip = cutter.cut_part(&job, &newest);
            memory::give_back();
            clip
        });
        let clip = cut.await.expect("cutting does not panic and is not cancelled")?;
        self.metrics.clips.inc();
        let id = clip.cut.clip;
        self.announce(clip, shutdown).await;
        Ok(id)
    }

    async fn announce(&self, clip: ClipFile, shutdown: &CancellationToken) {
        let id = clip.cut.clip;
        let event = NewEvent {
            device: Some(clip.device),
            time: clip.cut.start,
            clock: clip.clock,
            data: EventData::Clip(clip.cut),
        };
        if !accept(&self.outbox, event, shutdown).await {
            return;
        }
        let (from, to) = (self.path(id, PENDING), self.path(id, ".json"));
        let renamed = tokio::task::spawn_blocking(move || rename_durably(&from, &to)).await;
        if let Err(error) = renamed.expect("renaming does not panic") {
            tracing::error!(device = %self.device, clip = %id, %error, "clip can't be handed to the upload");
        }
    }

    async fn announce_pending(&self, shutdown: &CancellationToken) {
        let (dir, device) = (self.clips_dir.clone(), self.device.clone());
        let found = tokio::task::spawn_blocking(move || read_clip_files(&dir, PENDING)).await;
        match found.expect("reading does not panic") {
            Ok(clips) => {
                for clip in clips.into_iter().filter(|c| c.device == device) {
                    self.announce(clip, shutdown).await;
                }
            }
            Err(error) => tracing::error!(%device, %error, "folder of clips can't be read"),
        }
    }

    fn cut_part(&self, job: &ClipJob, part: &[FragmentEntry]) -> Result<ClipFile, ClipError> {
        let (first, last) = (&part[0], &part[part.len() - 1]);
        let run = &first.run;
        let codec = fmp4::codec_name(&run.track.sample_entry).ok_or(ClipError::Track)?;
        let clip = Uuid::now_v7();
        std::fs::create_dir_all(&self.clips_dir).map_err(io_error("create", &self.clips_dir))?;
        let (bytes, sha256) = write_clip(&self.path(clip, ".mp4"), part)?;
        let peak = job.peak.filter(|p| (first.start..last.end).contains(p));
        let still_time = peak.unwrap_or(first.start);
        let thumbnail = self.thumbnail(clip, scene_of(part, still_time), still_time)?;
        let cut = ClipCut {
            clip,
            motion: job.motion,
            start: first.start,
            end: last.end,
            motion_start: job.motion_start,
            motion_end: job.motion_end,
            peak_score: job.peak_score,
            bytes,
            sha256,
            video: Video { codec, width: run.track.width, height: run.track.height },
            audio_codec: run.track.audio.as_ref().and_then(|a| fmp4::audio_codec_name(&a.sample_entry)),
            thumbnail,
            run: run.run,
            first_fragment: first.number,
            fragments: part.iter().map(|f| f.sha256).collect(),
        };
        let file =
            ClipFile { version: CLIP_FILE_VERSION, device: self.device.clone(), clock: run.clock, cut };
        let json = serde_json::to_vec(&file).expect("a clip has only plain fields");
        write_durably(&self.path(clip, PENDING), &json)?;
        Ok(file)
    }

    /// The thumbnail from `scene`, written; none when there is no decoder or it fails: the clip matters more.
    fn thumbnail(&self, clip: Uuid, scene: &[FragmentEntry], time: Time) -> Result<Option<Still>, ClipError> {
        let codec = fmp4::video_codec(&scene[0].run.track.sample_entry).ok_or(ClipError::Track)?;
        // In an open group the first picture that can be shown stands behind the beginning.
        let lead_ticks = fmp4::find_fragment(&ring::read_fragment(&scene[0])?)
            .map_or(0, |found| found.first_decoded_pts - found.first_pts);
        let shown_from = ring::after_ticks(scene[0].start, lead_ticks);
        let at_ns = u64::try_from(time.duration_since(shown_from).as_nanos()).unwrap_or(0);
        let Some(jpeg) = still(codec, whole_clip(scene)?, at_ns, clip) else { return Ok(None) };
        write_durably(&self.path(clip, ".jpg"), &jpeg)?;
        Ok(Some(Still { sha256: Sha256Hash::of(&jpeg), bytes: jpeg.len() as u64, time }))
    }

    fn path(&self, clip: Uuid, suffix: &str) -> PathBuf {
        self.clips_dir.join(format!("{clip}{suffix}"))
    }
}

/// The fragment that shows `time`, from the key frame that it needs: a still is decoded from that alone.
fn scene_of(part: &[FragmentEntry], time: Time) -> &[FragmentEntry] {
    let shown = part.iter().rposition(|f| f.start <= time).unwrap_or(0);
    let key = part[..=shown].iter().rposition(|f| f.sync).unwrap_or(0);
    &part[key..=shown]
}

/// The clips in `dir` whose event stands in a file that ends with `suffix`, oldest first.
/// Those whose event the outbox has taken end with `.json`, the others with `.pending.json`.
pub(super) fn read_clip_files(dir: &Path, suffix: &str) -> Result<Vec<ClipFile>, ClipError> {
    let ids = clip_ids(dir, suffix)?;
    Ok(ids.into_iter().filter_map(|id| read_clip_file(dir, id, suffix)).collect())
}

/// As [`read_clip_files`], their names only: while the hub is away there may be very many.
pub(super) fn clip_ids(dir: &Path, suffix: &str) -> Result<Vec<Uuid>, ClipError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    for entry in entries {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // A clip's id and nothing else before the suffix, so that `.json` is not `.pending.json`.
        found.extend(name.strip_suffix(suffix).and_then(|id| Uuid::try_parse(id).ok()));
    }
    // Clip ids are UUIDv7: their order is that of their making.
    found.sort();
    Ok(found)
}

/// The file of a clip. None if it was given up, or, which is logged, can't be read or understood.
pub(super) fn read_clip_file(dir: &Path, id: Uuid, suffix: &str) -> Option<ClipFile> {
    let path = dir.join(format!("{id}{suffix}"));
    match std::fs::read(&path).map(|json| serde_json::from_slice::<ClipFile>(&json)) {
        Ok(Ok(clip)) if clip.cut.clip == id => return Some(clip),
        Ok(Ok(_)) => tracing::error!(path = %path.display(), "clip file names another clip"),
        Ok(Err(error)) => {
            tracing::error!(path = %path.display(), %error, "clip file can't be understood")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "clip file can't be read"),
    }
    None
}

pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ClipError> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("write", &part))?;
    rename_durably(&part, path)
}

/// Writes the clip of these fragments durably, one after another: a long clip takes no more memory than a short one.
/// How many bytes it has, and their hash.
fn write_clip(path: &Path, fragments: &[FragmentEntry]) -> Result<(u64, Sha256Hash), ClipError> {
    let part = path.with_extension("part");
    let write = || -> Result<(u64, Sha256Hash), ClipError> {
        let mut file = File::create(&part).map_err(io_error("create", &part))?;
        let (mut size, mut hasher) = (0, Sha256::new());
        let mut add = |bytes: &[u8]| {
            size += bytes.len() as u64;
            hasher.update(bytes);
            file.write_all(bytes).map_err(io_error("write", &part))
        };
        add(&init_segment(fragments))?;
        for fragment in fragments {
            add(&ring::read_fragment(fragment)?)?;
        }
        file.sync_all().map_err(io_error("sync", &part))?;
        Ok((size, Sha256Hash(hasher.finalize().into())))
    };
    let written = write().inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    rename_durably(&part, path)?;
    Ok(written)
}

fn rename_durably(from: &Path, to: &Path) -> Result<(), ClipError> {
    let dir = to.parent().unwrap_or(Path::new("."));
    std::fs::rename(from, to).and_then(|()| File::open(dir)?.sync_all()).map_err(io_error("rename", to))
}

/// Until the ring reaches behind the span, or it is plain that it will not.
async fn wait_for_footage(job: &ClipJob, progress: &mut watch::Receiver<Time>, shutdown: &CancellationToken) {
    let ahead = Duration::try_from(job.to.duration_since(Time::now())).unwrap_or_default();
    let longest = ahead.min(Duration::from_secs(CLIP_SECONDS_MAX));
    let patience = longest + Duration::from_secs(FRAGMENT_SECONDS_MAX + 5);
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = progress.wait_for(|&end| end >= job.to) => {}
        () = tokio::time::sleep(patience) => {}
    }
}

/// Splits fragments where the run changes, one is missing, or a clip is long enough. Each part begins
/// with a fragment that can be decoded alone.
fn parts_of(fragments: Vec<FragmentEntry>) -> Vec<Vec<FragmentEntry>> {
    let ticks_max = i64::from(TIMESCALE) * CLIP_SECONDS_MAX as i64;
    let mut parts: Vec<Vec<FragmentEntry>> = Vec::new();
    for fragment in fragments {
        let goes_on =
            parts.last().and_then(|part| Some((part.first()?, part.last()?))).is_some_and(|(first, last)| {
                let follows = last.run.run == fragment.run.run && last.number + 1 == fragment.number;
                let fits = fragment.end_pts - first.first_pts <= ticks_max || !fragment.sync;
                follows && fits
            });
        match parts.last_mut() {
            Some(part) if goes_on => part.push(fragment),
            _ if fragment.sync => parts.push(vec![fragment]),
            _ => {}
        }
    }
    parts
}

fn init_segment(part: &[FragmentEntry]) -> Vec<u8> {
    let duration = part[part.len() - 1].end_pts - part[0].first_pts;
    fmp4::init_segment(&part[0].run.track, Some(duration.max(0) as u64))
}

pub(super) fn whole_clip(part: &[FragmentEntry]) -> Result<Vec<u8>, ClipError> {
    let mut bytes = init_segment(part);
    bytes.reserve_exact(part.iter().map(|fragment| fragment.bytes as usize).sum());
    for fragment in part {
        bytes.extend_from_slice(&ring::read_fragment(fragment)?);
    }
    Ok(bytes)
}

#[cfg(feature = "media")]
fn still(codec: VideoCodec, mp4: Vec<u8>, at_ns: u64, clip: Uuid) -> Option<Vec<u8>> {
    let made = crate::media::still::still_jpeg(codec, mp4.into(), at_ns, THUMBNAIL_WIDTH_MAX);
    made.map_err(|error| tracing::warn!(%clip, %error, "clip has no thumbnail")).ok()
}

#[cfg(not(feature = "media"))]
fn still(_codec: VideoCodec, _mp4: Vec<u8>, _at_ns: u64, _clip: Uuid) -> Option<Vec<u8>> {
    let _ = THUMBNAIL_WIDTH_MAX;
    None
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> ClipError {
    let path = path.to_owned();
    move |source| ClipError::Io { what, path: path.clone(), source }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::edge::camera::CamerasMetrics;
    use crate::edge::config::RingConfig;
    use crate::edge::fmp4::{Sample, Track, WallClock};
    use crate::edge::outbox::OutboxError;
    use crate::edge::ring::Run;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_772_000_000 + seconds).unwrap()
    }

    /// A cutter whose ring has so many fragments of one second, and the ids of the clips that the outbox takes.
    pub fn cutter(dir: &Path, seconds: i64, takes: bool) -> (Cutter, mpsc::UnboundedReceiver<Uuid>) {
        let (outbox, mut accepts) = Outbox::new();
        let (announced, clips) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(accept) = accepts.recv().await {
                let EventData::Clip(cut) = accept.event.data else { panic!("only clips are announced") };
                let _ = announced.send(cut.clip);
                let _ = accept.done.send(if takes { Ok(()) } else { Err(OutboxError::Closed) });
            }
        });
        let device: DeviceId = "cam-01".parse().unwrap();
        let cutter = Cutter {
            ring: Arc::new(Mutex::new(ring(&dir.join("ring"), seconds))),
            clips_dir: clips_dir(dir),
            outbox,
            metrics: CamerasMetrics::register(&prometheus::Registry::new()).unwrap().of(&device),
            device,
        };
        (cutter, clips)
    }

    fn ring(dir: &Path, seconds: i64) -> Ring {
        let config =
            RingConfig { days: 1, bytes_per_camera: 1 << 24, segment: jiff::SignedDuration::from_secs(60) };
        let (mut ring, _) = Ring::open(dir, config).unwrap();
        let mut sample_entry = vec![0; 86];
        sample_entry[4..8].copy_from_slice(b"avc1");
        sample_entry.extend_from_slice(&[0, 0, 0, 15]);
        sample_entry.extend_from_slice(b"avcC\x01\x64\x00\x1f\xff\xe0\x00");
        let track = Track { sample_entry, width: 640, height: 360, audio: None };
        ring.begin_run(Run {
            run: Uuid::now_v7(),
            start: at(0),
            clock: super::super::clock::quality(),
            track,
        });
        for second in 0..seconds {
            let pts = second * i64::from(TIMESCALE);
            let sample = Sample { pts, sync: true, data: fmp4::tests::nal(0x65, 100) };
            let wall = WallClock { time: at(second), camera: true };
            let fragment = fmp4::fragment(1, &[sample], Some(pts + i64::from(TIMESCALE)), pts, wall);
            ring.append(&fragment, at(second), at(second + 1)).unwrap();
        }
        ring
    }

    fn job(from: i64, to: i64) -> ClipJob {
        let (motion, motion_start, motion_end, peak) = (Some(Uuid::now_v7()), None, None, None);
        ClipJob { motion, from: at(from), to: at(to), motion_start, motion_end, peak, peak_score: 0.0 }
    }

    /// What a process does with the clips that it finds.
    async fn start_again(dir: &Path, takes: bool) -> Vec<Uuid> {
        let (cutter, mut clips) = cutter(dir, 0, takes);
        cutter.announce_pending(&CancellationToken::new()).await;
        drop(cutter);
        let mut announced = Vec::new();
        while let Some(clip) = clips.recv().await {
            announced.push(clip);
        }
        announced
    }

    #[tokio::test]
    async fn a_clip_is_announced_until_the_outbox_took_it_and_always_by_the_same_id() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _) = cutter(dir.path(), 5, true);
        let made = tokio::task::spawn_blocking(move || cutter.cut(&job(1, 4)).map(|clips| (clips, cutter)));
        let (clips, cutter) = made.await.unwrap().unwrap();
        let id = clips[0].cut.clip;
        let (pending, handed_over) = (cutter.path(id, PENDING), cutter.path(id, ".json"));
        drop(cutter);
        assert!(pending.exists(), "the process ends between writing and announcing");

        assert_eq!(start_again(dir.path(), false).await, [id]);
        assert!(pending.exists() && !handed_over.exists(), "the outbox did not take it");
        assert_eq!(start_again(dir.path(), true).await, [id]);
        assert!(!pending.exists() && handed_over.exists());
        std::fs::rename(&handed_over, &pending).unwrap();
        assert_eq!(start_again(dir.path(), true).await, [id], "the process ended before the rename");
        assert!(start_again(dir.path(), true).await.is_empty());
        let video = std::fs::read(handed_over.with_extension("mp4")).unwrap();
        assert_eq!(Sha256Hash::of(&video), clips[0].cut.sha256);
    }

    #[tokio::test]
    async fn clips_stand_in_the_order_of_their_making_and_one_that_was_given_up_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _) = cutter(dir.path(), 300, true);
        let cut = tokio::task::spawn_blocking(move || cutter.cut(&job(10, 290))).await.unwrap().unwrap();
        let made: Vec<Uuid> = cut.iter().map(|clip| clip.cut.clip).collect();
        let dir = clips_dir(dir.path());
        assert_eq!(clip_ids(&dir, PENDING).unwrap(), made);
        assert!(clip_ids(&dir, ".json").unwrap().is_empty(), "none is handed over");
        assert_eq!(read_clip_file(&dir, made[1], PENDING).unwrap().cut.sha256, cut[1].cut.sha256);
        std::fs::remove_file(dir.join(format!("{}{PENDING}", made[1]))).unwrap();
        assert!(read_clip_file(&dir, made[1], PENDING).is_none());
        assert_eq!(read_clip_files(&dir, PENDING).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_still_is_the_newest_seconds_and_announced() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, mut announced) = cutter(dir.path(), 20, true);
        let clip = cutter.cut_still(at(20), &CancellationToken::new()).await.unwrap();
        assert_eq!(announced.recv().await, Some(clip));
        let file = read_clip_file(&clips_dir(dir.path()), clip, ".json").unwrap();
        assert_eq!((file.cut.start, file.cut.end), (at(20 - STILL_SECONDS), at(20)));
        let nothing = cutter.cut_still(at(90), &CancellationToken::new()).await;
        assert!(matches!(nothing, Err(ClipError::Empty { .. })), "{nothing:?}");
    }

    #[tokio::test]
    async fn a_clip_of_footage_that_changed_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _) = cutter(dir.path(), 5, true);
        let last = cutter.ring.lock().unwrap().fragments(at(4), at(5)).unwrap().pop().unwrap();
        let mut segment = std::fs::read(&*last.path).unwrap();
        segment[last.offset as usize + 20] ^= 1;
        std::fs::write(&*last.path, segment).unwrap();
        let made = tokio::task::spawn_blocking(move || cutter.cut(&job(0, 5))).await.unwrap();
        assert!(matches!(made, Err(ClipError::Ring(RingError::Changed { .. }))), "{made:?}");
        assert_eq!(std::fs::read_dir(clips_dir(dir.path())).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_long_span_becomes_clips_that_touch() {
        let dir = tempfile::tempdir().unwrap();
        let (cutter, _) = cutter(dir.path(), 300, true);
        let cut = tokio::task::spawn_blocking(move || cutter.cut(&job(10, 290))).await.unwrap().unwrap();
        let spans: Vec<_> = cut.iter().map(|clip| (clip.cut.start, clip.cut.end)).collect();
        assert_eq!(spans, [(at(10), at(130)), (at(130), at(250)), (at(250), at(290))]);
        let fragments: usize = cut.iter().map(|clip| clip.cut.fragments.len()).sum();
        assert_eq!(fragments, 280, "each fragment is in one clip");
    }
}
