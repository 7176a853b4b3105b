//! H.264 or H.265 access units in, small grey pictures out: what the motion detector looks at.
//!
//! Owns one decoding pipeline of one camera, and which decoder of this machine it has. Never blocks its caller: what does not fit is skipped
//! up to the next key frame and counted. A pipeline that fails, ends or silently gives nothing says
//! so once; its owner then drops it and starts another. May not decide what moved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use tokio::sync::mpsc;

use super::shrink::Shrink;
use super::{MediaError, caps_name, chain, element, error_detail, fast_decoder, init, parser};
use crate::limits::{
    ACCESS_UNIT_BYTES_MAX, DECODER_PENDING_FRAMES_MAX, DECODER_SILENT_FRAMES_MIN, DECODER_SILENT_MAX,
    MOTION_PICTURE_EVERY, MOTION_QUEUE_MAX,
};
use crate::model::{Picture, VideoCodec};

const PIPELINE: &str = "motion";

/// A small grey picture, rows one after another without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreyFrame {
    /// Time of the access unit it was decoded from, as pushed.
    pub pts_ns: u64,
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

#[derive(Debug)]
pub enum DecoderOutput {
    Frame(GreyFrame),
    /// The pipeline is of no more use (`motion_pipeline_stalled`). Said once.
    Fault {
        detail: String,
    },
}

/// One camera's decoder. Dropping it stops the pipeline, which may take some milliseconds.
pub struct GreyDecoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    shared: Arc<Shared>,
    watch: StallWatch,
    codec: VideoCodec,
    name: String,
    /// What came last was to be decoded alone; none before the first.
    alone: Option<bool>,
    skipping: bool,
    /// Began again in the middle: pictures that need those before are left out up to the next key frame.
    resumed: bool,
}

impl GreyDecoder {
    /// Starts a pipeline for a stream with these parameter sets (`codec_data`: the body of `avcC` or
    /// `hvcC`). Small pictures (see [`Shrink`]) come out of the receiver.
    pub fn start(
        codec: VideoCodec,
        codec_data: &[u8],
    ) -> Result<(Self, mpsc::Receiver<DecoderOutput>), MediaError> {
        init()?;
        // One place more than pictures may take, so that the fault always has room.
        let (outputs, receiver) = mpsc::channel(MOTION_QUEUE_MAX + 1);
        let shared = Arc::new(Shared::new(outputs));
        let source = access_unit_source(codec, codec_data);
        let sink = grey_sink(&shared);
        let (pipeline, name) = build(codec, &source, &sink)?;
        watch_bus(&pipeline, &shared);
        // Owned from here on, so that an error on the way stops what was started.
        let watch = StallWatch::default();
        let decoder = Self {
            pipeline,
            source,
            shared,
            watch,
            codec,
            name,
            alone: None,
            skipping: false,
            resumed: false,
        };
        decoder.pipeline.set_state(gst::State::Playing).map_err(|e| {
            let detail = decoder.shared.fault_detail().unwrap_or_else(|| e.to_string());
            MediaError::Pipeline { pipeline: PIPELINE, detail }
        })?;
        Ok((decoder, receiver))
    }

    /// The decoder that was chosen, as GStreamer calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands over one access unit (NAL units with 4-byte lengths, as in MP4). Does not wait: when the
    /// pipeline is behind, access units are skipped up to the next key frame. What follows one that was pushed
    /// [alone](Self::push_alone) begins with a key frame, and times never go back.
    pub fn push(&mut self, access_unit: Bytes, pts_ns: u64) -> Result<(), MediaError> {
        self.push_one(access_unit, pts_ns, false)
    }

    /// Hands over a key frame whose picture is wanted at once: decoders keep pictures back until they know that none
    /// comes before them.
    pub fn push_alone(&mut self, key_frame: Bytes, pts_ns: u64) -> Result<(), MediaError> {
        self.push_one(key_frame, pts_ns, true)
    }

    fn push_one(&mut self, access_unit: Bytes, pts_ns: u64, alone: bool) -> Result<(), MediaError> {
        if let Some(detail) = self.shared.fault_detail() {
            return Err(MediaError::Stopped(detail));
        }
        if access_unit.len() > ACCESS_UNIT_BYTES_MAX {
            return Err(MediaError::TooLarge { what: "access unit", bytes: access_unit.len() });
        }
        self.shared.frames_in.fetch_add(1, Ordering::Relaxed);
        let counts = Counts {
            offered: self.frames_in(),
            taken: self.frames_in() - self.frames_skipped(),
            out: self.frames_out(),
        };
        if let Some(detail) = self.watch.check(counts, Instant::now()) {
            self.shared.fault(detail.clone());
            return Err(MediaError::Stopped(detail));
        }
        let begins = self.alone != Some(alone);
        if self.must_skip(&access_unit, begins) {
            self.shared.frames_skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mut buffer = gst::Buffer::from_slice(access_unit);
        let fresh = buffer.get_mut().expect("a new buffer has one owner");
        fresh.set_pts(gst::ClockTime::from_nseconds(pts_ns));
        let pushed = match self.alone.replace(alone) {
            Some(before) if before == alone => self.source.push_buffer(buffer),
            _ => self.source.push_sample(&begin(&buffer, alone)),
        };
        pushed.map(|_| ()).map_err(|e| {
            let detail = self.shared.fault_detail().unwrap_or_else(|| format!("buffer refused: {e}"));
            self.shared.fault(detail.clone());
            MediaError::Stopped(detail)
        })
    }

    /// True while the next access unit would not be skipped. For those who decode files, not cameras.
    pub fn has_room(&self) -> bool {
        self.source.property::<u64>("current-level-buffers") < MOTION_QUEUE_MAX as u64
    }

    /// Access units offered.
    pub fn frames_in(&self) -> u64 {
        self.shared.frames_in.load(Ordering::Relaxed)
    }

    /// Pictures that the decoder gave, read or not, made small or not.
    pub fn frames_out(&self) -> u64 {
        self.shared.frames_out.load(Ordering::Acquire)
    }

    /// Access units that were not decoded because the pipeline was behind.
    pub fn frames_skipped(&self) -> u64 {
        self.shared.frames_skipped.load(Ordering::Relaxed)
    }

    /// Pictures that were decoded but dropped because nobody had read the ones before.
    pub fn frames_dropped(&self) -> u64 {
        self.shared.frames_dropped.load(Ordering::Relaxed)
    }

    /// Warnings on the bus: damaged pictures and the like; the last one is part of a later fault.
    pub fn warnings(&self) -> u64 {
        self.shared.warnings.load(Ordering::Relaxed)
    }

    pub fn stop(self) {
        drop(self);
    }

    fn must_skip(&mut self, access_unit: &[u8], begins: bool) -> bool {
        let picture = self.codec.picture(access_unit);
        if !self.has_room() {
            self.skipping = true;
        } else if picture == Some(Picture::RandomAccess) {
            self.resumed = std::mem::take(&mut self.skipping) || begins;
        }
        // A decoder leaves these out where a stream begins, but does not know that it begins again.
        self.skipping || (self.resumed && picture == Some(Picture::SkippedLeading))
    }
}

impl Drop for GreyDecoder {
    fn drop(&mut self) {
        // Before the state, so that what the shutdown itself says is no fault.
        self.shared.closing();
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(%error, "motion pipeline does not stop");
        }
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
    }
}

/// What the pipeline's threads and the owner share.
struct Shared {
    outputs: mpsc::Sender<DecoderOutput>,
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    frames_skipped: AtomicU64,
    frames_dropped: AtomicU64,
    warnings: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closing: bool,
    fault: Option<String>,
    last_warning: Option<String>,
}

impl Shared {
    fn new(outputs: mpsc::Sender<DecoderOutput>) -> Self {
        Self {
            outputs,
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            frames_skipped: AtomicU64::new(0),
            frames_dropped: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Sends a picture, made small, unless it is before `next_ns`, the time of the next one that is wanted.
    fn picture(&self, sample: &gst::Sample, next_ns: &mut u64) -> Result<(), &'static str> {
        let pts = sample.buffer().and_then(|buffer| buffer.pts());
        let pts_ns = pts.ok_or("a decoded picture has no time")?.nseconds();
        if pts_ns >= *next_ns {
            *next_ns = pts_ns + MOTION_PICTURE_EVERY.as_nanos() as u64;
            self.frame(grey_frame(sample, pts_ns).ok_or("a decoded picture is not what its caps say")?);
        }
        Ok(())
    }

    fn frame(&self, frame: GreyFrame) {
        // The last place in the queue belongs to the fault; there is one thread that sends frames.
        let sent = self.outputs.capacity() > 1 && self.outputs.try_send(DecoderOutput::Frame(frame)).is_ok();
        if !sent {
            self.frames_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fault(&self, detail: String) {
        let mut state = self.state();
        if state.closing || state.fault.is_some() {
            return;
        }
        let detail = match &state.last_warning {
            Some(warning) => format!("{detail}; last warning: {warning}"),
            None => detail,
        };
        state.fault = Some(detail.clone());
        // Fails only if the reader is gone, who then needs no fault.
        let _ = self.outputs.try_send(DecoderOutput::Fault { detail });
    }

    fn warning(&self, text: String) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.state().last_warning = Some(text);
    }

    fn fault_detail(&self) -> Option<String> {
        self.state().fault.clone()
    }

    fn closing(&self) {
        self.state().closing = true;
    }
}

/// Tells a pipeline that takes frames but gives none. A pipeline that failed to negotiate takes
/// every buffer and says nothing, so the bus alone is no proof of life.
#[derive(Default)]
struct StallWatch {
    at_last_out: Counts,
    /// When the first frame went in that has not led to a picture yet.
    waiting_since: Option<Instant>,
    last_push: Option<Instant>,
}

/// Frames offered by the owner, taken by the pipeline (offered less skipped), and given back by it.
#[derive(Default, Clone, Copy, PartialEq)]
struct Counts {
    offered: u64,
    taken: u64,
    out: u64,
}

impl StallWatch {
    /// Called with every frame that goes in, that frame counted.
    fn check(&mut self, counts: Counts, now: Instant) -> Option<String> {
        let paused = self.last_push.is_some_and(|last| now - last > DECODER_SILENT_MAX / 2);
        self.last_push = Some(now);
        if counts.out != self.at_last_out.out || paused {
            // A decoder rightly holds some frames back while its input pauses.
            self.at_last_out = Counts { offered: counts.offered - 1, taken: counts.taken - 1, ..counts };
            self.waiting_since = None;
        }
        let since = *self.waiting_since.get_or_insert(now);
        let waited = now - since;
        let offered = counts.offered - self.at_last_out.offered;
        let taken = counts.taken.saturating_sub(self.at_last_out.taken);
        // A burst fills the queue and is skipped from there on, so it does not reach the first limit.
        let too_many = taken > DECODER_PENDING_FRAMES_MAX;
        let too_long = offered > DECODER_SILENT_FRAMES_MIN && waited > DECODER_SILENT_MAX;
        (too_many || too_long).then(|| {
            let (waited_ms, out) = (waited.as_millis(), counts.out);
            format!("{offered} frames went in over {waited_ms} ms and none came out ({out} before)")
        })
    }
}

fn access_unit_source(codec: VideoCodec, codec_data: &[u8]) -> gst_app::AppSrc {
    let stream_format = match codec {
        VideoCodec::H264 => "avc",
        VideoCodec::H265 => "hvc1",
    };
    let caps = gst::Caps::builder(caps_name(codec))
        .field("stream-format", stream_format)
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(codec_data.to_vec()))
        .build();
    gst_app::AppSrc::builder()
        .caps(&caps)
        .format(gst::Format::Time)
        .is_live(true)
        .property("handle-segment-change", true)
        .property("max-buffers", MOTION_QUEUE_MAX as u64)
        .max_bytes(0)
        .block(false)
        .build()
}

/// The first buffer of a segment. In one of key frames only, a decoder gives each picture at once.
fn begin(buffer: &gst::Buffer, alone: bool) -> gst::Sample {
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::ZERO);
    if alone {
        segment.set_flags(gst::SegmentFlags::TRICKMODE | gst::SegmentFlags::TRICKMODE_KEY_UNITS);
    }
    gst::Sample::builder().buffer(buffer).segment(&segment).build()
}

fn grey_sink(shared: &Arc<Shared>) -> gst_app::AppSink {
    // What decoders give; in all of these the picture's luma comes first.
    let formats = gst::List::new(["I420", "NV12", "Y42B", "Y444", "GRAY8"]);
    let caps = gst::Caps::builder("video/x-raw").field("format", formats).build();
    let shared = shared.clone();
    let mut next_ns = 0;
    let on_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let sent = shared.picture(&sample, &mut next_ns);
        // Counted when it can be read.
        shared.frames_out.fetch_add(1, Ordering::Release);
        sent.map(|()| gst::FlowSuccess::Ok).map_err(|detail| {
            shared.fault(detail.into());
            gst::FlowError::Error
        })
    };
    gst_app::AppSink::builder()
        .caps(&caps)
        .sync(false)
        .max_buffers(2)
        .enable_last_sample(false)
        .callbacks(gst_app::AppSinkCallbacks::builder().new_sample(on_sample).build())
        .build()
}

fn grey_frame(sample: &gst::Sample, pts_ns: u64) -> Option<GreyFrame> {
    let caps = sample.caps()?.structure(0)?;
    let (width, height) = (caps.get::<i32>("width").ok()?, caps.get::<i32>("height").ok()?);
    let (width, height) = (usize::try_from(width).ok()?, usize::try_from(height).ok()?);
    let small = Shrink::of(width, height)?;
    let map = sample.buffer()?.map_readable().ok()?;
    // GStreamer's own layout of these formats: rows of luma are padded to 4 bytes.
    let pixels = small.means(&map, width.next_multiple_of(4))?;
    Some(GreyFrame { pts_ns, width: small.width, height: small.height, pixels })
}

/// The pipeline, and the name of the decoder in it.
fn build(
    codec: VideoCodec,
    source: &gst_app::AppSrc,
    sink: &gst_app::AppSink,
) -> Result<(gst::Pipeline, String), MediaError> {
    let pipeline = gst::Pipeline::new();
    let decode = fast_decoder(codec)?;
    let name = decode.factory().map_or_else(String::new, |factory| factory.name().to_string());
    // Does nothing to what decoders commonly give.
    let convert = element("videoconvert")?;
    let parse = parser(codec)?;
    chain(&pipeline, PIPELINE, &[source.upcast_ref(), &parse, &decode, &convert, sink.upcast_ref()])?;
    Ok((pipeline, name))
}

/// Reads the bus in the thread that posts, so that no thread or main loop waits for it.
fn watch_bus(pipeline: &gst::Pipeline, shared: &Arc<Shared>) {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let shared = shared.clone();
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => shared.fault(error_detail(error)),
            gst::MessageView::Eos(_) => shared.fault("the pipeline ended unasked".into()),
            gst::MessageView::Warning(warning) => shared.warning(warning.error().to_string()),
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::testing::{EncodedStream, avc_stream, hevc_stream};

    const FRAME_NS: u64 = 100_000_000;

    /// Pictures that a decoder of H.265 keeps for itself until it knows that none comes before them.
    const HELD_BACK: usize = 4;

    /// Pictures of an open group that are shown before its first one.
    const LEADING: u64 = 2;

    fn held_back(stream: &EncodedStream) -> usize {
        if stream.codec == VideoCodec::H265 { HELD_BACK } else { 0 }
    }

    /// Pushes with back pressure, as a file reader would, and collects what comes out.
    fn decode_all(stream: &EncodedStream) -> (Vec<DecoderOutput>, GreyDecoder) {
        let (mut decoder, mut outputs) = GreyDecoder::start(stream.codec, &stream.codec_data).unwrap();
        let mut got = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut patience = DECODER_SILENT_MAX / 3;
        for (access_unit, pts) in &stream.access_units {
            // A pipeline that takes nothing any more must not stop the clock that tells it: as a camera would, go on.
            let room_by = Instant::now() + patience;
            while !decoder.has_room() {
                if Instant::now() > room_by {
                    patience = Duration::from_millis(500);
                    break;
                }
                std::thread::yield_now();
            }
            if decoder.push(access_unit.clone(), *pts).is_err() {
                break;
            }
            while let Ok(output) = outputs.try_recv() {
                got.push(output);
            }
        }
        // A pipeline may fail before it takes anything, so the count alone does not say that all was read.
        let expected = stream.access_units.len().saturating_sub(held_back(stream));
        while got.len() < expected && Instant::now() < deadline {
            match outputs.try_recv() {
                Ok(output @ DecoderOutput::Fault { .. }) => {
                    got.push(output);
                    break;
                }
                Ok(output) => got.push(output),
                Err(_) => std::thread::yield_now(),
            }
        }
        (got, decoder)
    }

    #[test]
    fn every_access_unit_becomes_a_grey_picture_with_its_time() {
        for stream in [avc_stream(640, 360, 10, 150), hevc_stream(640, 360, 10, 150)] {
            let codec = stream.codec;
            let (got, decoder) = decode_all(&stream);
            assert_eq!(decoder.frames_in(), 150);
            assert!(got.len() >= 150 - held_back(&stream), "{codec:?}: {}", got.len());
            assert_eq!(decoder.frames_skipped() + decoder.frames_dropped(), 0);
            let mut times: Vec<u64> = stream.access_units.iter().map(|(_, pts)| *pts).collect();
            times.sort_unstable();
            for (output, pts) in got.iter().zip(times) {
                let DecoderOutput::Frame(frame) = output else { panic!("{codec:?}: {output:?}") };
                assert_eq!((frame.pts_ns, frame.width, frame.height), (pts, 320, 180), "{codec:?}");
                assert_eq!(frame.pixels.len(), 320 * 180);
            }
            let DecoderOutput::Frame(first) = &got[0] else { panic!() };
            assert!(
                first.pixels.iter().any(|&p| p > 150) && first.pixels.iter().any(|&p| p < 60),
                "bars have contrast"
            );
        }
    }

    /// Where a stream of open groups is entered, the pictures that need what was before are left out, no others.
    #[test]
    fn a_stream_may_begin_at_any_random_access_point() {
        let mut stream = hevc_stream(640, 360, 10, 100);
        let kind = |unit: &(Bytes, u64)| VideoCodec::H265.picture(&unit.0);
        let is_start = |unit: &(Bytes, u64)| kind(unit) == Some(Picture::RandomAccess);
        let second = 1 + stream.access_units[1..].iter().position(is_start).expect("a second group");
        stream.access_units.drain(..second);
        let left_out: Vec<u64> = stream.access_units[1..]
            .iter()
            .take_while(|unit| !is_start(unit))
            .filter(|unit| kind(unit) == Some(Picture::SkippedLeading))
            .map(|(_, pts)| *pts)
            .collect();
        assert!(!left_out.is_empty(), "an open group has pictures that are shown before its first one");
        let mut expected: Vec<u64> = stream.access_units.iter().map(|(_, pts)| *pts).collect();
        expected.retain(|pts| !left_out.contains(pts));
        expected.sort_unstable();
        let (mut decoder, mut outputs) = GreyDecoder::start(stream.codec, &stream.codec_data).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut got = Vec::new();
        let mut units = stream.access_units.iter().peekable();
        while got.len() + HELD_BACK < expected.len() && Instant::now() < deadline {
            if let Some((access_unit, pts)) = units.next_if(|_| decoder.has_room()) {
                decoder.push(access_unit.clone(), *pts).unwrap();
            }
            match outputs.try_recv() {
                Ok(DecoderOutput::Frame(frame)) => got.push(frame.pts_ns),
                Ok(fault) => panic!("{fault:?}"),
                Err(_) => std::thread::yield_now(),
            }
        }
        assert!(got.len() + HELD_BACK >= expected.len() && expected.starts_with(&got), "{got:?}");
    }

    /// Key frames alone, then every picture from an earlier one on: each comes out when it is due.
    #[test]
    fn a_key_frame_alone_comes_out_at_once_and_all_pictures_after_it() {
        for stream in [avc_stream(640, 360, 10, 100), hevc_stream(640, 360, 10, 100)] {
            let codec = stream.codec;
            let (mut decoder, mut outputs) = GreyDecoder::start(codec, &stream.codec_data).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut next = || loop {
                match outputs.try_recv() {
                    Ok(DecoderOutput::Frame(frame)) => return frame,
                    Ok(fault) => panic!("{codec:?}: {fault:?}"),
                    Err(_) => assert!(Instant::now() < deadline, "{codec:?}: no picture"),
                }
                std::thread::yield_now();
            };
            let is_key = |unit: &&(Bytes, u64)| codec.picture(&unit.0) == Some(Picture::RandomAccess);
            let keys: Vec<_> = stream.access_units.iter().filter(is_key).collect();
            assert!(keys.len() >= 4, "{codec:?}: {}", keys.len());
            for round in 0..2u64 {
                let later_ns = round * 1000 * FRAME_NS;
                let mut alone = Vec::new();
                for (unit, pts_ns) in &keys {
                    decoder.push_alone(unit.clone(), later_ns + pts_ns).unwrap();
                    // What is left of the round before comes first.
                    let frame =
                        std::iter::repeat_with(&mut next).find(|frame| frame.pts_ns >= later_ns).unwrap();
                    assert_eq!(frame.pts_ns, later_ns + pts_ns, "{codec:?}");
                    alone.push(frame.pixels);
                }
                // Back to the second key frame, on times that go on.
                let from = stream.access_units.iter().position(|unit| unit.1 == keys[1].1).unwrap();
                let later_ns = later_ns + 500 * FRAME_NS;
                for (unit, pts_ns) in &stream.access_units[from..] {
                    decoder.push(unit.clone(), later_ns + pts_ns).unwrap();
                }
                let first = next();
                assert_eq!((first.pts_ns, &first.pixels), (later_ns + keys[1].1, &alone[1]), "{codec:?}");
                let last_ns = later_ns + keys[3].1;
                while next().pts_ns < last_ns {}
            }
        }
    }

    #[test]
    fn a_pipeline_that_gives_nothing_is_a_fault_once() {
        let delimiter = Bytes::from_static(&[0, 0, 0, 2, 9, 0xf0]);
        let stream = avc_stream(640, 360, 10, 1);
        let mut only_delimiters = EncodedStream { access_units: Vec::new(), ..stream };
        for n in 0..200 {
            only_delimiters.access_units.push((delimiter.clone(), n * FRAME_NS));
        }
        let (got, mut decoder) = decode_all(&only_delimiters);
        assert!(matches!(got.as_slice(), [DecoderOutput::Fault { .. }]), "{got:?}");
        assert!(matches!(decoder.push(delimiter, 0), Err(MediaError::Stopped(_))));
    }

    #[test]
    fn bytes_that_are_no_video_are_a_fault() {
        let stream = avc_stream(640, 360, 10, 1);
        for codec_data in [vec![], vec![1, 2, 3], stream.codec_data] {
            let junk = EncodedStream {
                codec: stream.codec,
                codec_data,
                access_units: (0..200).map(|n| (Bytes::from(vec![0xa5; 2000]), n * FRAME_NS)).collect(),
            };
            let (got, _) = decode_all(&junk);
            assert!(matches!(got.last(), Some(DecoderOutput::Fault { .. })), "{got:?}");
        }
    }

    #[test]
    fn a_decoder_that_falls_behind_skips_to_a_key_frame_and_goes_on() {
        for stream in [avc_stream(1280, 720, 10, 400), hevc_stream(1280, 720, 10, 400)] {
            falls_behind(stream);
        }
    }

    fn falls_behind(stream: EncodedStream) {
        let (flood, calm) = stream.access_units.split_at(300);
        let (mut decoder, mut outputs) = GreyDecoder::start(stream.codec, &stream.codec_data).unwrap();
        for (access_unit, pts) in flood {
            decoder.push(access_unit.clone(), *pts).expect("a burst is no fault");
        }
        let skipped = decoder.frames_skipped();
        assert!(skipped > 0, "memory is faster than the decoder");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut last_pts = 0;
        for (access_unit, pts) in calm {
            while !decoder.has_room() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            decoder.push(access_unit.clone(), *pts).unwrap();
        }
        let last = calm[calm.len() - 1 - held_back(&stream)].1;
        while last_pts < last && Instant::now() < deadline {
            match outputs.try_recv() {
                Ok(DecoderOutput::Frame(frame)) => last_pts = frame.pts_ns,
                Ok(fault) => panic!("{fault:?}"),
                Err(_) => std::thread::yield_now(),
            }
        }
        assert!(last_pts >= last, "{:?}: {last_pts}", stream.codec);
        let skipped = decoder.frames_skipped() - skipped;
        assert!(skipped < 20 + LEADING, "{skipped}: skips only up to the next key frame");
    }

    #[test]
    fn silence_is_a_stall_only_while_frames_keep_going_in() {
        let start = Instant::now();
        // (name, step between pushes in ms, pushes, frames out after n pushes, stalled)
        type Case = (&'static str, u64, u64, fn(u64) -> u64, bool);
        let table: [Case; 6] = [
            ("all come out", 100, 1000, |n| n, false),
            ("some are held back for reordering", 100, 1000, |n| n.saturating_sub(16), false),
            ("none comes out of a fast camera", 20, 200, |_| 0, true),
            ("none comes out of a slow camera", 1000, 30, |_| 0, true),
            ("a handful does not make a stall", 1000, 15, |_| 0, false),
            ("they stop coming after a while", 100, 400, |n| n.min(200), true),
        ];
        for (name, step_ms, pushes, out_after, stalled) in table {
            let mut watch = StallWatch::default();
            let found = (1..=pushes).any(|n| {
                let counts = Counts { offered: n, taken: n, out: out_after(n - 1) };
                watch.check(counts, start + Duration::from_millis(n * step_ms)).is_some()
            });
            assert_eq!(found, stalled, "{name}");
        }
        let mut watch = StallWatch::default();
        for n in 1..=20 {
            // A camera that was away for a minute between two frames.
            let at = start + Duration::from_secs(n * 60);
            assert_eq!(watch.check(Counts { offered: n, taken: n, out: 0 }, at), None);
        }
    }
}
