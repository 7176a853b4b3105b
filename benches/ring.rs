//! What the ring costs a poor disk: bytes written and syncs for each byte and minute of video, and the start of a ring
//! that holds a month.
//!
//! A file of ../shared/videos is encoded as a camera would (10 pictures a second, a key frame every two), and its access
//! units go into a ring on the real disk as the recorder puts them there, at simulated time: what the process wrote is
//! the kernel's count (/proc/self/io, whole pages), not ours. `CAMNET_BENCH_SECONDS` (default 1200) of each stream.
//! `-- write` or `-- open` does the one only. Where this may mount, the same once more on ext4 on a loop device: what the file system adds.

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use camnet::edge::config::RingConfig;
use camnet::edge::fmp4::{self, Sample, TIMESCALE, Track, WallClock};
use camnet::edge::ring::{Report, Ring, Run};
use camnet::journal::counted_disk::{CountedDisk, Counts};
use camnet::journal::disk::{Access, Disk, DiskFile, ReadAt, RealDisk};
use camnet::model::{ClockQuality, ClockSource, Coverage, SpanState, SyncState, Time};
use common::Figures;
use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;

const FPS: i64 = 10;
const GOP: usize = 20;
const VIDEO: &str = "one-by-one-person-detection.mp4";
/// A month of segments of a minute.
const MONTH_SEGMENTS: i64 = 30 * 24 * 60;
/// As `limits::COVERAGE_HEARTBEAT` and `limits::RUN_MAX`.
const HEARTBEAT_S: i64 = 300;
const RUN_S: i64 = 3600;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|name| name == what);
    let mut out = Figures::append(Path::new(env!("CARGO_MANIFEST_DIR")));
    if is_wanted("write") {
        write(&mut out);
    }
    if is_wanted("open") {
        open_a_month(&mut out);
    }
}

fn write(out: &mut Figures) {
    let seconds = std::env::var("CAMNET_BENCH_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1200);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir_in(root.join("target")).expect("target/ takes a folder");
    for (name, kbit) in [("", 1000), (".4mbit", 4000)] {
        let stream = Stream::encode(&root.join("../shared/videos").join(VIDEO), kbit, folder.path());
        let written = record(&stream, &folder.path().join(format!("ring{kbit}")), seconds);
        written.add(out, name, &stream);
        if let Some(card) = Card::mount(folder.path()) {
            let before = card.written_bytes();
            let on_card = record(&stream, &card.dir.join("ring"), seconds);
            let bytes = card.written_bytes() - before;
            let baseline =
                json!({ "name": "what the process wrote", "value": on_card.written_per_video_byte() });
            let figure = format!("ring.card_bytes_per_video_byte{name}");
            out.add(&figure, bytes as f64 / on_card.video_bytes as f64, "ratio", None, "lower", baseline, 1);
        } else {
            println!("no right to mount: no figure of ext4");
        }
    }
}

/// Access units of one stream, again and again.
struct Stream {
    samples: Vec<(bool, Bytes)>,
    /// Bytes of ffmpeg's own fragmented MP4 for each byte of video.
    ffmpeg_ratio: f64,
}

impl Stream {
    fn encode(video: &Path, kbit: u32, folder: &Path) -> Self {
        let file = folder.join(format!("{kbit}.mp4"));
        let rate = format!("{kbit}k");
        let gop = GOP.to_string();
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-i"]).arg(video);
        ffmpeg.args(["-an", "-r", "10", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "0"]);
        ffmpeg.args(["-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0"]);
        ffmpeg.args([
            "-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", &rate, "-nal-hrd", "cbr",
        ]);
        ffmpeg.args(["-movflags", "+frag_keyframe+empty_moov"]).arg(&file);
        assert!(ffmpeg.status().expect("ffmpeg runs").success());
        let mut probe = Command::new("ffprobe");
        probe.args(["-v", "error", "-select_streams", "v", "-show_entries", "packet=size,flags"]);
        let packets = probe.args(["-of", "csv=p=0"]).arg(&file).output().expect("ffprobe runs").stdout;
        let mut copy = Command::new("ffmpeg");
        copy.args(["-v", "error", "-i"]).arg(&file).args(["-map", "0:v", "-c", "copy", "-f", "data", "-"]);
        let data = Bytes::from(copy.output().expect("ffmpeg runs").stdout);
        let mut at = 0;
        let samples: Vec<(bool, Bytes)> = String::from_utf8_lossy(&packets)
            .lines()
            .map(|line| {
                let (size, flags) = line.split_once(',').expect("size and flags");
                let size: usize = size.parse().expect("a size");
                at += size;
                (flags.starts_with('K'), data.slice(at - size..at))
            })
            .collect();
        assert!(at == data.len() && samples.len() > 100 && samples[0].0, "the packets are not what was said");
        let file_bytes = std::fs::metadata(&file).expect("it was written").len();
        Self { samples, ffmpeg_ratio: file_bytes as f64 / at as f64 }
    }

    /// Fragments as the recorder makes them: from key frame to key frame.
    fn fragments(&self) -> impl Iterator<Item = Vec<Sample>> + '_ {
        let mut pts = 0;
        let mut units = self.samples.iter().cycle().peekable();
        std::iter::from_fn(move || {
            let mut samples = Vec::new();
            while let Some(&&(sync, _)) = units.peek()
                && (!sync || samples.is_empty())
            {
                let (sync, data) = units.next().expect("there is one").clone();
                samples.push(Sample { pts, sync, data });
                pts += i64::from(TIMESCALE) / FPS;
            }
            Some(samples)
        })
    }
}

struct Written {
    seconds: i64,
    video_bytes: u64,
    process_bytes: u64,
    counts: Counts,
    fragments: usize,
}

impl Written {
    fn written_per_video_byte(&self) -> f64 {
        self.process_bytes as f64 / self.video_bytes as f64
    }

    fn add(&self, out: &mut Figures, name: &str, stream: &Stream) {
        let n = self.fragments;
        let minutes = self.seconds as f64 / 60.0;
        let ffmpeg =
            json!({ "name": "the file of ffmpeg -movflags +frag_keyframe", "value": stream.ffmpeg_ratio });
        let figure = format!("ring.bytes_written_per_video_byte{name}");
        out.add(&figure, self.written_per_video_byte(), "ratio", Some(1.02), "lower", ffmpeg.clone(), n);
        let appended = self.counts.written_bytes as f64 / self.video_bytes as f64;
        out.add(
            &format!("ring.bytes_appended_per_video_byte{name}"),
            appended,
            "ratio",
            Some(1.02),
            "lower",
            ffmpeg,
            n,
        );
        let syncs = (self.counts.file_syncs + self.counts.folder_syncs) as f64 / minutes;
        let each =
            json!({ "name": "a sync of each fragment and its entry", "value": 2.0 * n as f64 / minutes });
        out.add(&format!("ring.fsyncs_per_min{name}"), syncs, "1/min", Some(16.0), "lower", each, n);
    }
}

/// So much video into a ring, at simulated time, with the reports that go with it.
fn record(stream: &Stream, dir: &Path, seconds: i64) -> Written {
    let disk = CountedDisk::new(Arc::new(RealDisk));
    // Small enough to go round.
    let config = RingConfig { days: 30, bytes_per_camera: 100 << 20, segment: SignedDuration::from_secs(60) };
    let (mut ring, _) = Ring::open_on(Arc::new(disk.clone()), dir, config).expect("the ring opens");
    disk.take();
    let (process_before, began) = (process_written_bytes(), Instant::now());
    let (mut video_bytes, mut fragments, mut span) = (0, 0, Uuid::nil());
    let mut dts = 0;
    for samples in stream.fragments() {
        let first = samples[0].pts / i64::from(TIMESCALE);
        let last = samples.last().expect("not empty").pts + i64::from(TIMESCALE) / FPS;
        let end = last / i64::from(TIMESCALE);
        if end > seconds {
            break;
        }
        if first % RUN_S == 0 {
            ring.end_run().1.expect("the disk takes it");
            let run = run_from(first);
            span = run.run;
            ring.begin_run(run);
        }
        let wall = WallClock { time: at(first), camera: true };
        let fragment = fmp4::fragment(1, &samples, Some(last), dts, wall);
        dts = fragment.end_dts;
        ring.append(&fragment, at(first), at(end)).expect("the disk takes it");
        ring.sync_if_due(began + Duration::from_secs(end as u64)).expect("the disk takes it");
        if first % HEARTBEAT_S < 2 {
            ring.report(vec![report(span, first, end)]).expect("the disk takes it");
        }
        video_bytes += samples.iter().map(|sample| sample.data.len() as u64).sum::<u64>();
        fragments += 1;
    }
    ring.end_run().1.expect("the disk takes it");
    let process_bytes = process_written_bytes() - process_before;
    Written { seconds, video_bytes, process_bytes, counts: disk.take(), fragments }
}

/// Bytes that this process made the kernel write to disks, in pages.
fn process_written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux tells");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("it is there");
    line.parse().expect("a number")
}

/// A small ext4 on a loop device; taken away when dropped.
struct Card {
    dir: PathBuf,
    device: String,
}

impl Card {
    fn mount(folder: &Path) -> Option<Self> {
        let (image, dir) = (folder.join("card.img"), folder.join("card"));
        std::fs::create_dir_all(&dir).ok()?;
        std::fs::File::create(&image).and_then(|file| file.set_len(512 << 20)).ok()?;
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image.to_str()?])?;
        let device = run("losetup", &["--find", "--show", image.to_str()?])?;
        if run("mount", &["-t", "ext4", &device, dir.to_str()?]).is_none() {
            run("losetup", &["-d", &device]);
            return None;
        }
        Some(Self { dir, device })
    }

    /// Sectors of 512 bytes that the device was given (Documentation/block/stat.rst).
    fn written_bytes(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).expect("the device is there");
        let sectors = stat.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok()).expect("a number");
        sectors * 512
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// How long it takes to open a ring of a month after a power cut, and what is read for it.
fn open_a_month(out: &mut Figures) {
    let folder =
        tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("target")).expect("a folder");
    let dir = folder.path();
    let config = RingConfig { days: 31, bytes_per_camera: 64 << 30, segment: SignedDuration::from_secs(60) };
    // Its files need be no larger than their entries: nothing of it is looked at.
    let (mut ring, _) = Ring::open_on(Arc::new(NoSyncs), dir, config.clone()).expect("the ring opens");
    let mut sample_data = vec![0, 0, 0, 60, 0x65];
    sample_data.resize(64, 1);
    let data = Bytes::from(sample_data);
    let mut span = Uuid::nil();
    for minute in 0..MONTH_SEGMENTS {
        let start = minute * 60;
        if start % RUN_S == 0 {
            ring.end_run().1.expect("memory takes it");
            let run = run_from(start);
            span = run.run;
            ring.begin_run(run);
        }
        let wall = WallClock { time: at(start), camera: true };
        let sample = Sample { pts: start * i64::from(TIMESCALE), sync: true, data: data.clone() };
        let fragment = fmp4::fragment(1, &[sample], Some((start + 60) * i64::from(TIMESCALE)), 0, wall);
        ring.append(&fragment, at(start), at(start + 60)).expect("memory takes it");
        if start % HEARTBEAT_S == 0 {
            ring.report(vec![report(span, start, start + 60)]).expect("memory takes it");
        }
    }
    ring.sync().expect("memory takes it");
    // Nobody closes it: its last segment is looked at when it is opened for the first time.
    drop(ring);
    let counted = CountedDisk::new(Arc::new(RealDisk));
    let mut took_ms: Vec<f64> = Vec::new();
    let mut read = Counts::default();
    for _ in 0..5 {
        let began = Instant::now();
        let disk: Arc<dyn Disk> = Arc::new(counted.clone());
        let (ring, recovery) = Ring::open_on(disk, dir, config.clone()).expect("the ring opens");
        took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        read = counted.take();
        assert!(recovery.lost.is_empty() && ring.from() == Some(at(0)), "{:?}", recovery.lost);
    }
    took_ms.sort_by(f64::total_cmp);
    let opened = read.opened.iter().filter(|path| path.extension().is_some_and(|e| e == "mp4")).count();
    let baseline = json!({ "name": "segments in the ring", "value": MONTH_SEGMENTS, "opened": opened,
        "read_bytes": read.read_bytes });
    out.add("ring.open_ms", took_ms[2], "ms", Some(1000.0), "lower", baseline, took_ms.len());
}

/// The real disk, but nothing waits for it.
struct NoSyncs;

struct NoSyncsFile(Arc<dyn DiskFile>);

impl Disk for NoSyncs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NoSyncsFile(RealDisk.create(path)?)))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NoSyncsFile(RealDisk.open(path, access)?)))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        RealDisk.lock(path)
    }
    fn draw(&self) -> u32 {
        RealDisk.draw()
    }
}

impl ReadAt for NoSyncsFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }
}

impl DiskFile for NoSyncsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
}

fn at(second: i64) -> Time {
    Time::from_second(1_772_000_000 + second).expect("in the calendar")
}

fn run_from(second: i64) -> Run {
    let clock = ClockQuality {
        source: ClockSource::Camera,
        sync: SyncState::Synced,
        offset_ms: Some(3),
        uncertainty_ms: Some(20),
    };
    let mut sample_entry = vec![0; 160];
    sample_entry[3] = 160;
    sample_entry[4..8].copy_from_slice(b"avc1");
    Run {
        run: Uuid::now_v7(),
        start: at(second),
        clock,
        track: Track { sample_entry, width: 768, height: 432, audio: None },
    }
}

fn report(span: Uuid, start: i64, upto: i64) -> Report {
    let coverage = Coverage {
        span,
        state: SpanState::Recorded,
        start: at(start),
        upto: at(upto),
        open: true,
        run: None,
        ring_from: Some(at(0)),
        detail: None,
    };
    Report { coverage, era: None }
}
