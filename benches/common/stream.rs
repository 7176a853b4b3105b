//! Video files as a camera sends it, and the box's own eye on them.
//!
//! Owns how the benches' streams are encoded (as ../shared/videos/SOURCES.md has it), kept under target/motion-streams,
//! read back, and looked at: with the box's decoder and `MotionLook`, as fast as the machine can.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use camnet::edge::camera::motion_look::{self, MotionLook, MotionUnit};
use camnet::edge::config::MotionConfig;
use camnet::edge::motion::MotionChange;
use camnet::edge::{clock, fmp4};
use camnet::media::decode::{DecoderOutput, GreyDecoder};
use camnet::model::{Time, VideoCodec};
use tokio::sync::mpsc;

/// Another one, when anything changes that is drawn or how it is encoded.
const VERSION: u32 = 1;
/// Key frames of a camera, one every so many seconds.
const KEY_FRAME_S: u32 = 2;
/// Pictures that a decoder may keep back; further behind than that the stream waits for it.
const BEHIND_MAX: u64 = 8;
const PICTURE_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How a stream is encoded.
#[derive(Clone, Copy)]
pub struct Encoding {
    pub codec: VideoCodec,
    pub width: usize,
    pub height: usize,
    pub fps: f64,
    pub kbit: u32,
}

/// One stream in memory.
pub struct Video {
    pub path: PathBuf,
    pub fps: f64,
    codec: VideoCodec,
    codec_data: Vec<u8>,
    /// Access units, and whether each is a key frame.
    units: Vec<(bool, Bytes)>,
}

/// What was seen of a stream, and what it cost.
pub struct Looked {
    /// From and to, seconds.
    pub events: Vec<(f64, f64)>,
    pub units: u64,
    /// Units given to the decoder.
    pub decoded: u64,
    /// Of this process, decoding and all.
    pub cpu_s: f64,
}

impl Encoding {
    /// Where the stream of this name is kept.
    fn path(&self, name: &str) -> PathBuf {
        let codec = if self.codec == VideoCodec::H264 { "h264" } else { "h265" };
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/motion-streams");
        std::fs::create_dir_all(&dir).expect("target/ takes a folder");
        let Self { width, height, fps, .. } = self;
        dir.join(format!("{name}-{width}x{height}-{fps}-{codec}-v{VERSION}.mp4"))
    }

    /// The stream of this name: `count` pictures (I420), drawn unless it is kept from an earlier run.
    pub fn draw(&self, name: &str, count: u64, mut picture: impl FnMut(u64, &mut [u8])) -> Video {
        let path = self.path(&format!("{name}-{count}"));
        if !path.exists() {
            let (size, fps) = (format!("{}x{}", self.width, self.height), self.fps.to_string());
            let input = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", &fps, "-i", "-"];
            self.encode_to(&path, &input, |pipe| {
                let mut bytes = vec![0; self.width * self.height * 3 / 2];
                for n in 0..count {
                    picture(n, &mut bytes);
                    pipe.write_all(&bytes).expect("ffmpeg takes pictures");
                }
            });
        }
        Video::open(path, self.fps)
    }

    /// The stream of this name, made by ffmpeg from a file through filters.
    pub fn convert(&self, name: &str, input: &Path, filters: &str) -> Video {
        let path = self.path(name);
        if !path.exists() {
            let input = input.to_str().expect("a plain name");
            self.encode_to(&path, &["-i", input, "-vf", filters], |_| {});
        }
        Video::open(path, self.fps)
    }

    /// Runs ffmpeg on an input that `feed` may write; the file is there when it is whole.
    fn encode_to(&self, path: &Path, input: &[&str], feed: impl FnOnce(&mut ChildStdin)) {
        let part = path.with_extension("part");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y"]).args(input);
        let gop = (self.fps * f64::from(KEY_FRAME_S)).round().to_string();
        match self.codec {
            VideoCodec::H264 => {
                ffmpeg.args([
                    "-c:v",
                    "libx264",
                    "-preset",
                    "veryfast",
                    "-profile:v",
                    "main",
                    "-sc_threshold",
                    "0",
                ]);
                ffmpeg.args(["-g", &gop, "-keyint_min", &gop]);
            }
            VideoCodec::H265 => {
                ffmpeg.args(["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params"]);
                ffmpeg.arg(format!(
                    "keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes=0:log-level=none"
                ));
            }
        }
        let kbit = |share: u32| format!("{}k", self.kbit * share / 2);
        ffmpeg.args(["-tune", "zerolatency", "-pix_fmt", "yuv420p", "-an"]);
        ffmpeg.args(["-b:v", &kbit(2), "-maxrate", &kbit(3), "-bufsize", &kbit(4), "-f", "mp4"]).arg(&part);
        let mut child = ffmpeg.stdin(Stdio::piped()).spawn().expect("ffmpeg starts");
        feed(child.stdin.as_mut().expect("piped"));
        drop(child.stdin.take());
        assert!(child.wait().expect("ffmpeg ends").success(), "{} was not encoded", path.display());
        std::fs::rename(&part, path).expect("the file is there");
    }
}

impl Video {
    /// Reads what ffmpeg wrote: one track, its samples one after another.
    fn open(path: PathBuf, fps: f64) -> Self {
        let file = Bytes::from(std::fs::read(&path).expect("a stream"));
        let moov = find(&file, b"moov").expect("a moov");
        let inside = |path: &[&[u8; 4]]| path.iter().try_fold(moov, |within, kind| find(within, kind));
        let table = |kind| inside(&[b"trak", b"mdia", b"minf", b"stbl", kind]);
        let entry = &table(b"stsd").expect("a sample entry")[8..];
        let sizes = numbers(&table(b"stsz").expect("sizes")[12..]);
        let keys: Vec<usize> = numbers(&table(b"stss").expect("key frames")[8..]);
        let mdat = file.slice_ref(find(&file, b"mdat").expect("samples"));
        assert_eq!(sizes.iter().sum::<usize>(), mdat.len(), "{}: nothing but samples", path.display());
        let mut at = 0;
        let unit = |(n, size): (usize, usize)| {
            at += size;
            (keys.binary_search(&(n + 1)).is_ok(), mdat.slice(at - size..at))
        };
        let units: Vec<_> = sizes.into_iter().enumerate().map(unit).collect();
        let codec = fmp4::video_codec(entry).expect("H.264 or H.265");
        let codec_data = fmp4::codec_data(entry).expect("parameter sets").to_vec();
        Self { path, fps, codec, codec_data, units }
    }

    pub fn seconds(&self) -> f64 {
        self.units.len() as f64 / self.fps
    }

    /// Looks for motion as the box does. What it costs before `counted_from_s` is not counted.
    pub fn look(&self, every_picture: bool, counted_from_s: f64) -> Looked {
        let mut before = (crate::common::cpu_s("self"), 0);
        let mut eye = Eye::open(self, every_picture);
        let counted_from = (counted_from_s * self.fps) as usize;
        let stream = Arc::new(motion_look::Stream { codec: self.codec, codec_data: self.codec_data.clone() });
        for (n, (sync, data)) in self.units.iter().enumerate() {
            let pts_ns = (n as f64 * 1e9 / self.fps) as u64;
            let (time, clock) = (Time::now(), clock::quality());
            let (stream, data, sync) = (stream.clone(), data.clone(), *sync);
            if n == counted_from && n > 0 {
                before = (crate::common::cpu_s("self"), eye.decoder.frames_in());
            }
            eye.take(MotionUnit { stream, data, sync, pts_ns, time, clock });
        }
        let last = eye.look.finish();
        eye.note(last);
        let cpu_s = crate::common::cpu_s("self") - before.0;
        assert_eq!(eye.decoder.frames_dropped(), 0, "every picture was read");
        let units = (self.units.len() - counted_from) as u64;
        Looked { events: eye.events, units, decoded: eye.decoder.frames_in() - before.1, cpu_s }
    }
}

/// The worker of a camera without what it says on the wire.
struct Eye {
    look: MotionLook,
    decoder: GreyDecoder,
    outputs: mpsc::Receiver<DecoderOutput>,
    runtime: tokio::runtime::Runtime,
    began_s: Option<f64>,
    events: Vec<(f64, f64)>,
}

impl Eye {
    fn open(video: &Video, every_picture: bool) -> Self {
        let (decoder, outputs) = GreyDecoder::start(video.codec, &video.codec_data).expect("a decoder");
        let config = MotionConfig { every_picture, ..MotionConfig::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let look = MotionLook::new(config);
        Self { look, decoder, outputs, runtime, began_s: None, events: Vec::new() }
    }

    fn take(&mut self, unit: MotionUnit) {
        self.look.take(unit);
        while let Some(due) = self.look.next(self.decoder.has_room()) {
            match due.alone {
                true => self.decoder.push_alone(due.unit.data, due.decoder_ns),
                false => self.decoder.push(due.unit.data, due.decoder_ns),
            }
            .expect("it is decoded");
            // A camera's next unit comes long after the picture of this one.
            self.see(if due.alone { 0 } else { BEHIND_MAX });
        }
    }

    /// Sees what was decoded, until the decoder has no more than so many units left.
    fn see(&mut self, behind_max: u64) {
        let behind = |of: &GreyDecoder| of.frames_in() - of.frames_skipped() - of.frames_out();
        let until = Instant::now() + PICTURE_MAX;
        loop {
            let is_up = behind(&self.decoder) <= behind_max;
            let output = match self.outputs.try_recv() {
                Ok(output) => output,
                Err(_) if is_up => return,
                // Not every picture is made small and given out.
                Err(_) => {
                    let wait = async { tokio::time::timeout(LOOK_AGAIN, self.outputs.recv()).await };
                    let Ok(output) = self.runtime.block_on(wait) else {
                        assert!(Instant::now() < until, "pictures come");
                        continue;
                    };
                    output.expect("the decoder goes on")
                }
            };
            let DecoderOutput::Frame(frame) = output else { panic!("{output:?}") };
            let change = self.look.see(&frame).change;
            self.note(change);
        }
    }

    fn note(&mut self, change: Option<MotionChange>) {
        match change {
            Some(MotionChange::Start { at_ns, .. }) => self.began_s = Some(at_ns as f64 / 1e9),
            Some(MotionChange::End { at_ns, .. }) => {
                let from_s = self.began_s.take().expect("an end follows a start");
                self.events.push((from_s, at_ns as f64 / 1e9));
            }
            None => {}
        }
    }
}

/// The body of the first box of a kind.
fn find<'a>(boxes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = boxes;
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        assert!((8..=rest.len()).contains(&size), "a box of {size} bytes in {}", rest.len());
        if rest[4..8] == *kind {
            return Some(&rest[8..size]);
        }
        rest = &rest[size..];
    }
    None
}

fn numbers(bytes: &[u8]) -> Vec<usize> {
    bytes.as_chunks::<4>().0.iter().map(|number| u32::from_be_bytes(*number) as usize).collect()
}
