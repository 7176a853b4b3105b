//! A working copy of a clip: small H.264 that every browser plays, for a slow link or where H.265 can't be shown.
//!
//! Blocks its thread; call it from `spawn_blocking`. Reads the original as a stream and never holds more than some
//! pictures of it. The copy has every picture that could be decoded, at its own time: the first stands from zero on
//! (pictures that need the group before the clip are left out by a decoder), and AAC as it is. May not change the
//! original.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::timed::{Shown, Timed};
use super::{MediaError, caps_name, chain, element, error_detail, init, parser, plain_decoder};
use crate::limits::{
    AUDIO_BYTES_WAITING_MAX, COPY_KBIT_PER_S, COPY_MAKE_MAX, COPY_SILENT_MAX, COPY_WIDTH_MAX,
};
use crate::model::VideoCodec;

const PIPELINE: &str = "copy";
/// Key frames so far apart, pictures: two seconds or more of any camera.
const KEY_FRAME_PICTURES: u32 = 50;
/// x264's quality where the picture is easy; `COPY_KBIT_PER_S` bounds the rest.
const X264_QUALITY: u32 = 22;
/// Original bytes and pictures that wait.
const SOURCE_BYTES: u64 = 2 << 20;
const PICTURES_WAITING: u32 = 8;
const TIMESCALE: u32 = 90_000;
/// How often a wait looks at progress.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// What went through the pipeline.
#[derive(Default)]
struct Counts {
    pictures_in: AtomicU64,
    pictures_out: AtomicU64,
}

/// Reads the clip `original` and writes its working copy to `to`, which it makes or overwrites. What an error leaves
/// there is worth nothing; the caller removes it, and what lies [`beside`] it. `stop` ends it early.
pub fn working_copy(
    codec: VideoCodec,
    original: File,
    to: &Path,
    stop: &AtomicBool,
) -> Result<(), MediaError> {
    init()?;
    let mut timed = Timed::new(original);
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"moov") {
        let piece = timed.piece().map_err(unreadable)?;
        if piece.is_empty() || head.len() > (1 << 20) {
            return Err(MediaError::NoPicture);
        }
        head.extend(piece);
    }
    let has_aac = timed.audio() == Some(*b"mp4a");
    let counts = Arc::new(Counts::default());
    let (pipeline, source) = build(codec, has_aac, to, &counts, timed.shown())?;
    let running = Running(pipeline);
    running.0.set_state(gst::State::Playing).map_err(|e| failed(e.to_string()))?;
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| feed(&source, head, timed));
        let ended = wait(&running.0, &counts, stop);
        // Also lets go a feeder that waits for room.
        let stopped = running.0.set_state(gst::State::Null);
        let fed = feeder.join().map_err(|_| failed("the reader of the clip panicked".into()))?;
        // What can't be read is the cause, whatever the pipeline makes of it.
        fed.and(ended)?;
        stopped.map_err(|e| failed(e.to_string())).map(|_| ())
    })?;
    judge(&counts)
}

/// A pipeline that is stopped when it goes out of scope.
struct Running(gst::Pipeline);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_state(gst::State::Null) {
            tracing::warn!(%error, "copy pipeline does not stop");
        }
    }
}

/// A pipeline that failed to negotiate ends well and with nothing, and a decoder may give up in the middle: counting
/// tells. A clip that begins in an open group loses some pictures at its beginning, and nothing else.
fn judge(counts: &Counts) -> Result<(), MediaError> {
    let pictures_in = counts.pictures_in.load(Ordering::Relaxed);
    let pictures_out = counts.pictures_out.load(Ordering::Relaxed);
    if pictures_out == 0 {
        return Err(MediaError::NoPicture);
    }
    if pictures_out + 8 < pictures_in - pictures_in / 10 {
        return Err(failed(format!("only {pictures_out} of {pictures_in} pictures can be decoded")));
    }
    Ok(())
}

/// Pushes the clip's bytes until its end, or until the pipeline wants no more.
fn feed(source: &gst_app::AppSrc, head: Vec<u8>, mut timed: Timed<File>) -> Result<(), MediaError> {
    let mut piece = head;
    while !piece.is_empty() {
        if source.push_buffer(gst::Buffer::from_slice(piece)).is_err() {
            // It is stopped; the bus says why.
            return Ok(());
        }
        piece = match timed.piece() {
            Ok(piece) => piece,
            Err(error) => {
                let _ = source.end_of_stream();
                return Err(unreadable(error));
            }
        };
    }
    let _ = source.end_of_stream();
    Ok(())
}

/// Waits for the end, an error, or silence.
fn wait(pipeline: &gst::Pipeline, counts: &Counts, stop: &AtomicBool) -> Result<(), MediaError> {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let began = Instant::now();
    let (mut seen, mut seen_at) = (0, began);
    loop {
        let message = bus.timed_pop_filtered(TICK, &[gst::MessageType::Eos, gst::MessageType::Error]);
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(error)) => return Err(failed(error_detail(error))),
            Some(_) => return Ok(()),
            None if stop.load(Ordering::Relaxed) => {
                return Err(MediaError::Stopped("the hub stops".into()));
            }
            None => {}
        }
        let now = counts.pictures_in.load(Ordering::Relaxed) + counts.pictures_out.load(Ordering::Relaxed);
        if now != seen {
            (seen, seen_at) = (now, Instant::now());
        }
        for (waited, most) in [(seen_at.elapsed(), COPY_SILENT_MAX), (began.elapsed(), COPY_MAKE_MAX)] {
            if waited >= most {
                return Err(MediaError::Timeout { pipeline: PIPELINE, waited });
            }
        }
    }
}

fn build(
    codec: VideoCodec,
    has_aac: bool,
    to: &Path,
    counts: &Arc<Counts>,
    shown: Shown,
) -> Result<(gst::Pipeline, gst_app::AppSrc), MediaError> {
    let pipeline = gst::Pipeline::new();
    let source =
        gst_app::AppSrc::builder().format(gst::Format::Bytes).max_bytes(SOURCE_BYTES).block(true).build();
    let demux = element("qtdemux")?;
    chain(&pipeline, PIPELINE, &[source.upcast_ref(), &demux])?;
    let (mux, sink) = (element("mp4mux")?, element("filesink")?);
    mux.set_property("faststart", true);
    mux.set_property("faststart-file", beside(to).to_string_lossy().as_ref());
    sink.set_property("location", to.to_string_lossy().as_ref());
    sink.set_property("sync", false);
    chain(&pipeline, PIPELINE, &[&mux, &sink])?;

    let (parse, last) = video_branch(&pipeline, codec, counts)?;
    into_mux(&mux, "video_%u", &last)?;
    let encoded = parse.static_pad("sink").expect("a parser has a sink pad");
    encoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(picture)) = &mut info.data
            && let Some(ns) = shown.next()
        {
            let picture = picture.make_mut();
            picture.set_pts(gst::ClockTime::from_nseconds(ns));
            // The demultiplexer's own would lie behind some of these.
            picture.set_dts(gst::ClockTime::NONE);
        }
        gst::PadProbeReturn::Ok
    });
    let mut inputs = vec![(caps_name(codec), parse)];
    if has_aac {
        let (queue, parse) = (queue(0, AUDIO_BYTES_WAITING_MAX as u32)?, element("aacparse")?);
        chain(&pipeline, PIPELINE, &[&queue, &parse])?;
        into_mux(&mux, "audio_%u", &parse)?;
        inputs.push(("audio/mpeg", queue));
    }
    demux.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps();
        let name = caps.as_ref().and_then(|c| c.structure(0)).map(|s| s.name().to_string());
        let input = inputs.iter().find(|(wanted, _)| name.as_deref() == Some(wanted));
        let Some(sink) = input.and_then(|(_, element)| element.static_pad("sink")) else { return };
        // Without a link the demultiplexer fails by itself, and the bus says so.
        if !sink.is_linked() {
            let _ = pad.link(&sink);
        }
    });
    Ok((pipeline, source))
}

/// From the parser of the original to H.264 again; its first and last element.
fn video_branch(
    pipeline: &gst::Pipeline,
    codec: VideoCodec,
    counts: &Arc<Counts>,
) -> Result<(gst::Element, gst::Element), MediaError> {
    let (parse, decode) = (parser(codec)?, plain_decoder(codec)?);
    let (waiting, scale, convert) =
        (queue(PICTURES_WAITING, 0)?, element("videoscale")?, element("videoconvert")?);
    let (small, (encode, out)) = (element("capsfilter")?, encoder()?);
    chain(pipeline, PIPELINE, &[&parse, &decode, &waiting, &scale, &convert, &small, &encode, &out])?;
    count_pictures(&parse, "src", counts.clone(), |counts| &counts.pictures_in);
    count_pictures(&encode, "src", counts.clone(), |counts| &counts.pictures_out);
    let decoded = decode.static_pad("src").expect("a decoder has a source pad");
    let (is_first, begins_ns) = (AtomicBool::new(true), AtomicU64::new(0));
    decoded.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER, move |_, info| {
        match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => match event.view() {
                gst::EventView::Caps(caps) => small.set_property("caps", small_caps(caps.caps())),
                gst::EventView::Segment(segment) => {
                    let start = segment.segment().downcast_ref::<gst::ClockTime>().and_then(|s| s.start());
                    begins_ns.store(start.map_or(0, gst::ClockTime::nseconds), Ordering::Relaxed);
                }
                _ => {}
            },
            Some(gst::PadProbeData::Buffer(buffer)) if is_first.swap(false, Ordering::Relaxed) => {
                let begins = gst::ClockTime::from_nseconds(begins_ns.load(Ordering::Relaxed));
                stand_from(buffer.make_mut(), begins);
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    Ok((parse, out))
}

/// A picture stands from where the clip begins to where it stood.
fn stand_from(picture: &mut gst::BufferRef, begins: gst::ClockTime) {
    let Some(late) = picture.pts().and_then(|pts| pts.checked_sub(begins)) else { return };
    let duration = picture.duration().map(|duration| duration + late);
    picture.set_pts(begins);
    picture.set_duration(duration);
}

fn count_pictures(
    element: &gst::Element,
    pad: &str,
    counts: Arc<Counts>,
    of: impl Fn(&Counts) -> &AtomicU64 + Send + Sync + 'static,
) {
    let pad = element.static_pad(pad).expect("parsers and encoders have a source pad");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        of(&counts).fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
}

/// x264 where it is there, else OpenH264, and what makes its stream fit into MP4. One thread, no B-frames: what comes
/// out has the times of what went in.
fn encoder() -> Result<(gst::Element, gst::Element), MediaError> {
    if let Ok(encode) = element("x264enc") {
        encode.set_property_from_str("pass", "qual");
        encode.set_property_from_str("speed-preset", "veryfast");
        encode.set_property("quantizer", X264_QUALITY);
        encode.set_property("bitrate", COPY_KBIT_PER_S);
        encode.set_property("vbv-buf-capacity", 2_000u32);
        encode.set_property("key-int-max", KEY_FRAME_PICTURES);
        encode.set_property("bframes", 0u32);
        encode.set_property("rc-lookahead", 10i32);
        encode.set_property("threads", 1u32);
        // Not a parser: that takes the duration from the last picture.
        let main = element("capsfilter")?;
        let caps = gst::Caps::builder("video/x-h264").field("profile", "main").field("stream-format", "avc");
        main.set_property("caps", caps.build());
        return Ok((encode, main));
    }
    let encode = element("openh264enc")?;
    encode.set_property("bitrate", COPY_KBIT_PER_S * 1000);
    encode.set_property("gop-size", KEY_FRAME_PICTURES);
    encode.set_property("multi-thread", 1u32);
    Ok((encode, element("h264parse")?))
}

/// The decoded pictures' caps, small: square pixels, even, at most [`COPY_WIDTH_MAX`] wide, 8 bits.
fn small_caps(decoded: &gst::CapsRef) -> gst::Caps {
    let small = gst::Caps::builder("video/x-raw").field("format", "I420");
    let size = decoded.structure(0).and_then(|s| {
        let par = s.get::<gst::Fraction>("pixel-aspect-ratio").unwrap_or(gst::Fraction::new(1, 1));
        Some(fit(s.get("width").ok()?, s.get("height").ok()?, par.numer(), par.denom()))
    });
    // What has no size fails by itself.
    let Some((width, height)) = size else { return small.build() };
    let square = gst::Fraction::new(1, 1);
    small.field("width", width).field("height", height).field("pixel-aspect-ratio", square).build()
}

/// The size in square pixels of a picture whose pixels are `par_n` to `par_d`.
fn fit(width: i32, height: i32, par_n: i32, par_d: i32) -> (i32, i32) {
    let (width, height) = (f64::from(width.max(1)), f64::from(height.max(1)));
    let shown = width * f64::from(par_n.max(1)) / f64::from(par_d.max(1));
    let by = (f64::from(COPY_WIDTH_MAX) / shown).min(1.0);
    // A picture of nonsense proportions is cut to what an encoder takes.
    let even = |size: f64| ((size / 2.0).round() as i32 * 2).clamp(16, 4 * COPY_WIDTH_MAX as i32);
    (even(shown * by), even(height * by))
}

/// A queue bounded by either; 0 does not bound.
fn queue(buffers: u32, bytes: u32) -> Result<gst::Element, MediaError> {
    let queue = element("queue")?;
    queue.set_property("max-size-buffers", buffers);
    queue.set_property("max-size-bytes", bytes);
    queue.set_property("max-size-time", 0u64);
    Ok(queue)
}

fn into_mux(mux: &gst::Element, template: &str, last: &gst::Element) -> Result<(), MediaError> {
    let input =
        mux.request_pad_simple(template).ok_or_else(|| failed(format!("mp4mux has no {template}")))?;
    if template.starts_with("video") {
        input.set_property("trak-timescale", TIMESCALE);
    }
    let source = last.static_pad("src").expect("parsers have a source pad");
    source.link(&input).map_err(|e| failed(e.to_string())).map(|_| ())
}

/// Where the muxer keeps the pictures until it knows the head.
pub fn beside(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".mdat");
    name.into()
}

fn unreadable(error: std::io::Error) -> MediaError {
    failed(format!("the clip can't be read: {error}"))
}

fn failed(detail: String) -> MediaError {
    MediaError::Pipeline { pipeline: PIPELINE, detail }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::testing::{run_to_end, run_until_eos};

    static GOES_ON: AtomicBool = AtomicBool::new(false);

    /// A clip as the ring has it: fragments without a place in time.
    fn clip(dir: &Path, encoder: &str, size: (u32, u32), audio: &str) -> PathBuf {
        let path = dir.join("clip.mp4");
        let (width, height) = size;
        run_until_eos(&format!(
            "videotestsrc num-buffers=60 horizontal-speed=3 ! \
             video/x-raw,format=I420,width={width},height={height},framerate=10/1 ! {encoder} ! mux. {audio} \
             mp4mux name=mux fragment-duration=1000 ! filesink location={}",
            path.display()
        ));
        let mut bytes = std::fs::read(&path).unwrap();
        let starts: Vec<usize> = (0..bytes.len() - 4).filter(|&at| &bytes[at..at + 4] == b"tfdt").collect();
        assert!(starts.len() > 2, "fragments have a tfdt");
        for at in starts {
            bytes[at..at + 4].copy_from_slice(b"free");
        }
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_copy_is_small_h264_with_the_times_of_the_original() {
        let h264 = "x264enc tune=zerolatency key-int-max=10";
        let h265 = "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=10 log-level=0 ! h265parse";
        let aac = "audiotestsrc num-buffers=258 ! audio/x-raw,rate=44100 ! avenc_aac ! aacparse ! mux.";
        let (avc, hevc) = (VideoCodec::H264, VideoCodec::H265);
        let table = [
            (avc, h264, (1280, 720), "", (640, 360)),
            (hevc, h265, (1280, 720), "", (640, 360)),
            (avc, h264, (320, 242), aac, (320, 242)),
            (hevc, h265, (704, 576), aac, (640, 524)),
        ];
        for (codec, encoder, size, audio, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            let clip = clip(dir.path(), encoder, size, audio);
            let before = std::fs::read(&clip).unwrap();
            let to = dir.path().join("copy.mp4");
            working_copy(codec, File::open(&clip).unwrap(), &to, &GOES_ON).unwrap();
            assert_eq!(std::fs::read(&clip).unwrap(), before, "the original stays as it is");
            assert!(!beside(&to).exists());
            let copy = std::fs::read(&to).unwrap();
            let place = |kind: &[u8]| copy.windows(4).position(|w| w == kind);
            assert!(place(b"moov") < place(b"mdat"), "it can be played while it comes");
            assert_eq!(place(b"mp4a").is_some(), !audio.is_empty());
            let pictures = run_to_end(&format!(
                "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 ! appsink name=out sync=false",
                to.display()
            ));
            let caps = pictures[0].caps().unwrap().structure(0).unwrap().to_owned();
            assert_eq!((caps.get("width").unwrap(), caps.get("height").unwrap()), expected);
            let times: Vec<u64> =
                pictures.iter().map(|p| p.buffer().unwrap().pts().unwrap().mseconds()).collect();
            let expected: Vec<u64> = (0..60).map(|n| n * 100).collect();
            assert_eq!(times, expected, "{encoder}");
        }
    }

    #[test]
    fn a_copy_of_open_groups_begins_at_zero_with_the_first_picture_that_can_be_shown() {
        let dir = tempfile::tempdir().unwrap();
        let encoder = "x265enc speed-preset=ultrafast log-level=0 option-string=\"open-gop=1:keyint=20:min-keyint=20\
                       :scenecut=0:bframes=2:b-adapt=0:rc-lookahead=5:pools=1:frame-threads=1\" ! h265parse";
        let clip = clip(dir.path(), encoder, (640, 360), "");
        let to = dir.path().join("copy.mp4");
        working_copy(VideoCodec::H265, File::open(&clip).unwrap(), &to, &GOES_ON).unwrap();
        let pictures = run_to_end(&format!(
            "filesrc location={} ! qtdemux ! h264parse ! appsink name=out sync=false",
            to.display()
        ));
        let times: Vec<u64> =
            pictures.iter().map(|p| p.buffer().unwrap().pts().unwrap().mseconds()).collect();
        // This muxer puts the first picture at 200 ms and says that the clip ends at 6 s: two lie behind its end.
        assert_eq!((times[0], times[1], times.len()), (0, 300, 58));
    }

    #[test]
    fn what_is_no_clip_is_an_error_soon() {
        let dir = tempfile::tempdir().unwrap();
        let clip = clip(dir.path(), "x264enc tune=zerolatency key-int-max=10", (320, 180), "");
        let whole = std::fs::read(&clip).unwrap();
        let moof = whole.windows(4).position(|w| w == b"moof").unwrap();
        let mdat = whole.windows(4).position(|w| w == b"mdat").unwrap();
        let mut garbled = whole.clone();
        garbled[mdat + 4..].iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
        let mut table = vec![Vec::new(), b"not a film".to_vec(), vec![0; 5000], garbled];
        table.extend([100, moof - 4, moof + 20, mdat + 4].map(|length| whole[..length].to_vec()));
        let began = Instant::now();
        for bytes in table {
            std::fs::write(&clip, &bytes).unwrap();
            let (file, to) = (File::open(&clip).unwrap(), dir.path().join("copy.mp4"));
            let made = working_copy(VideoCodec::H264, file, &to, &GOES_ON);
            assert!(made.is_err(), "{} bytes", bytes.len());
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn sizes_are_even_and_keep_their_proportions() {
        let table = [
            ((1920, 1080, 1, 1), (640, 360)),
            ((640, 480, 1, 1), (640, 480)),
            ((704, 576, 12, 11), (640, 480)),
            ((353, 241, 1, 1), (354, 242)),
            ((1, 1, 1, 1), (16, 16)),
        ];
        for ((width, height, par_n, par_d), expected) in table {
            assert_eq!(fit(width, height, par_n, par_d), expected, "{width} x {height}");
        }
    }
}
