//! One JPEG out of a clip: what an officer sees before playing it.
//!
//! Blocks its thread; call it from `spawn_blocking`. Decodes from the start of the bytes it is given,
//! so give it the init segment and the fragments around the moment, not an hour.

use std::time::Instant;

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{MediaError, caps_name, chain, element, error_detail, init, parser, plain_decoder};
use crate::limits::{CLIP_BYTES_MAX, STILL_MAX};
use crate::model::VideoCodec;

const PIPELINE: &str = "still";
const JPEG_QUALITY: i32 = 80;
/// For a picture that does not say how long it stands.
const PICTURE_USUAL: gst::ClockTime = gst::ClockTime::from_mseconds(100);
/// How often a wait looks at the bus.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(50);

/// The picture nearest to `at_ns` after the first one that can be shown, or else its last, as a JPEG that
/// is at most `width_max` pixels wide. `mp4` is an init segment and whole fragments.
pub fn still_jpeg(codec: VideoCodec, mp4: Bytes, at_ns: u64, width_max: u32) -> Result<Vec<u8>, MediaError> {
    init()?;
    if mp4.len() as u64 > CLIP_BYTES_MAX {
        return Err(MediaError::TooLarge { what: "clip", bytes: mp4.len() });
    }
    let deadline = Instant::now() + STILL_MAX;
    let picture = picture_at(codec, mp4, at_ns, deadline)?;
    encode(&picture, width_max, deadline)
}

/// A pipeline that is stopped when it goes out of scope.
struct Running {
    pipeline: gst::Pipeline,
    out: gst_app::AppSink,
}

impl Running {
    fn start(pipeline: gst::Pipeline, out: gst_app::AppSink) -> Result<Self, MediaError> {
        let running = Self { pipeline, out };
        running.pipeline.set_state(gst::State::Playing).map_err(|e| failed(e.to_string()))?;
        Ok(running)
    }

    /// The next sample; None at the end.
    fn next(&self, deadline: Instant) -> Result<Option<gst::Sample>, MediaError> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        loop {
            if let Some(sample) = self.out.try_pull_sample(TICK) {
                return Ok(Some(sample));
            }
            let message = bus.pop_filtered(&[gst::MessageType::Error]);
            if let Some(gst::MessageView::Error(error)) = message.as_ref().map(|m| m.view()) {
                return Err(failed(error_detail(error)));
            }
            if self.out.is_eos() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(MediaError::Timeout { pipeline: PIPELINE, waited: STILL_MAX });
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(%error, "still pipeline does not stop");
        }
    }
}

/// Decodes up to the picture that is wanted.
fn picture_at(
    codec: VideoCodec,
    mp4: Bytes,
    at_ns: u64,
    deadline: Instant,
) -> Result<gst::Sample, MediaError> {
    let pipeline = gst::Pipeline::new();
    let source = gst_app::AppSrc::builder().format(gst::Format::Bytes).max_bytes(0).block(false).build();
    let demux = element("qtdemux")?;
    let (parse, decode) = (parser(codec)?, plain_decoder(codec)?);
    let out = gst_app::AppSink::builder().sync(false).max_buffers(2).enable_last_sample(false).build();
    chain(&pipeline, PIPELINE, &[source.upcast_ref(), &demux])?;
    chain(&pipeline, PIPELINE, &[&parse, &decode, out.upcast_ref()])?;
    let sink = parse.static_pad("sink").expect("a parser has a sink pad");
    demux.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps();
        let video = caps.is_some_and(|c| c.structure(0).is_some_and(|s| s.name() == caps_name(codec)));
        // Without a link the demultiplexer fails by itself, and the bus says so.
        if video && !sink.is_linked() {
            let _ = pad.link(&sink);
        }
    });
    let running = Running::start(pipeline, out)?;
    let pushed = source.push_buffer(gst::Buffer::from_slice(mp4)).and_then(|_| source.end_of_stream());
    pushed.map_err(|e| failed(format!("clip refused: {e}")))?;

    let (mut place_ns, mut last) = (0u64, None);
    while let Some(sample) = running.next(deadline)? {
        if let Some(last) = &last {
            let step_ns = step_ns(last, &sample);
            // The nearest one: a moment that was measured lies a little beside the picture's own.
            if place_ns.saturating_add(step_ns / 2) >= at_ns {
                break;
            }
            place_ns = place_ns.saturating_add(step_ns);
        }
        last = Some(sample);
    }
    last.ok_or(MediaError::NoPicture)
}

/// How long a picture stands until the one behind it. Without `tfdt`, as the ring writes fragments, the demultiplexer
/// begins at zero again with each fragment: then the first one's duration has to do.
fn step_ns(picture: &gst::Sample, next: &gst::Sample) -> u64 {
    let (Some(picture), Some(next)) = (picture.buffer(), next.buffer()) else { return 0 };
    let step = next.pts().zip(picture.pts()).and_then(|(next, pts)| next.checked_sub(pts));
    let step = step.filter(|step| !step.is_zero()).or(picture.duration());
    step.unwrap_or(PICTURE_USUAL).nseconds()
}

fn encode(picture: &gst::Sample, width_max: u32, deadline: Instant) -> Result<Vec<u8>, MediaError> {
    let (Some(caps), Some(buffer)) = (picture.caps(), picture.buffer_owned()) else {
        return Err(MediaError::NoPicture);
    };
    let size =
        caps.structure(0).and_then(|s| Some((s.get::<i32>("width").ok()?, s.get::<i32>("height").ok()?)));
    let (width, height) = size.ok_or(MediaError::NoPicture)?;
    let (width, height) = fit(width, height, width_max);
    let pipeline = gst::Pipeline::new();
    let source = gst_app::AppSrc::builder().caps(&caps.to_owned()).format(gst::Format::Time).build();
    let (scale, convert, jpeg) = (element("videoscale")?, element("videoconvert")?, element("jpegenc")?);
    let wanted = element("capsfilter")?;
    let wanted_caps = gst::Caps::builder("video/x-raw").field("width", width).field("height", height).build();
    wanted.set_property("caps", wanted_caps);
    jpeg.set_property("quality", JPEG_QUALITY);
    let out = gst_app::AppSink::builder().sync(false).max_buffers(1).build();
    chain(&pipeline, PIPELINE, &[source.upcast_ref(), &scale, &convert, &wanted, &jpeg, out.upcast_ref()])?;
    let running = Running::start(pipeline, out)?;
    let pushed = source.push_buffer(buffer).and_then(|_| source.end_of_stream());
    pushed.map_err(|e| failed(format!("picture refused: {e}")))?;
    let sample = running.next(deadline)?.ok_or(MediaError::NoPicture)?;
    let map = sample.buffer().and_then(|b| b.map_readable().ok()).ok_or(MediaError::NoPicture)?;
    Ok(map.to_vec())
}

/// The size of a picture that is at most `width_max` wide, in its own proportions and even.
fn fit(width: i32, height: i32, width_max: u32) -> (i32, i32) {
    let width_max = i32::try_from(width_max).unwrap_or(i32::MAX).max(16);
    if width <= width_max {
        return (width, height);
    }
    let scaled = i64::from(height) * i64::from(width_max) / i64::from(width);
    (width_max & !1, (scaled as i32 & !1).max(2))
}

fn failed(detail: String) -> MediaError {
    MediaError::Pipeline { pipeline: PIPELINE, detail }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::testing::{run_to_end, run_until_eos};

    /// A clip of 4 s at 10 fps whose pictures grow lighter from start to end; fragmented or not.
    fn clip(codec: VideoCodec, fragmented: bool) -> Bytes {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.mp4");
        let dark = "videotestsrc num-buffers=20 pattern=solid-color foreground-color=0xff202020";
        let light = "videotestsrc num-buffers=20 pattern=solid-color foreground-color=0xffe0e0e0";
        let caps = "video/x-raw,format=I420,width=640,height=360,framerate=10/1";
        let options = if fragmented { "fragment-duration=1000" } else { "" };
        let encoder = match codec {
            VideoCodec::H264 => "x264enc tune=zerolatency key-int-max=10",
            VideoCodec::H265 => {
                "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=10 log-level=0 ! h265parse"
            }
        };
        run_until_eos(&format!(
            "concat name=c ! {encoder} ! mp4mux {options} ! filesink location={} \
             {dark} ! {caps} ! c. {light} ! {caps} ! c.",
            path.display()
        ));
        std::fs::read(path).unwrap().into()
    }

    /// Width, height and mean of the luma of a JPEG.
    fn look(jpeg: &[u8]) -> (i32, i32, f64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("still.jpg");
        std::fs::write(&path, jpeg).unwrap();
        let samples = run_to_end(&format!(
            "filesrc location={} ! jpegdec ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=out sync=false",
            path.display()
        ));
        let caps = samples[0].caps().unwrap().structure(0).unwrap().to_owned();
        let bytes = samples[0].buffer().unwrap().map_readable().unwrap().to_vec();
        let mean = bytes.iter().map(|&b| f64::from(b)).sum::<f64>() / bytes.len() as f64;
        (caps.get("width").unwrap(), caps.get("height").unwrap(), mean)
    }

    #[test]
    fn the_picture_of_the_moment_is_found() {
        let second = 1_000_000_000u64;
        // As the ring writes fragments: nothing says where in time they stand.
        let timeless = |clip: Bytes| -> Bytes {
            let mut clip = clip.to_vec();
            let starts: Vec<usize> = (0..clip.len() - 4).filter(|&at| &clip[at..at + 4] == b"tfdt").collect();
            assert!(starts.len() > 2, "fragments have a tfdt");
            for at in starts {
                clip[at..at + 4].copy_from_slice(b"free");
            }
            clip.into()
        };
        let (h264, h265) = (VideoCodec::H264, VideoCodec::H265);
        for (codec, clip, fragmented) in [
            (h264, clip(h264, true), "yes"),
            (h264, clip(h264, false), "no"),
            (h264, timeless(clip(h264, true)), "without tfdt"),
            (h265, timeless(clip(h265, true)), "without tfdt"),
        ] {
            // (offset, width asked, size expected, light)
            let table = [
                (0, 320, (320, 180), false),
                (19 * second / 10, 640, (640, 360), false),
                (2 * second, 640, (640, 360), true),
                (3 * second, 1920, (640, 360), true),
                (60 * second, 100, (100, 56), true),
            ];
            for (at_ns, width_max, size, light) in table {
                let jpeg = still_jpeg(codec, clip.clone(), at_ns, width_max).unwrap();
                assert_eq!(jpeg[..2], [0xff, 0xd8]);
                let (width, height, mean) = look(&jpeg);
                assert_eq!((width, height), size, "at {at_ns}");
                assert_eq!(mean > 128.0, light, "at {at_ns}, fragmented {fragmented}: mean {mean}");
            }
        }
    }

    #[test]
    fn what_is_no_clip_is_an_error_soon() {
        let clip = clip(VideoCodec::H264, true);
        let start = Instant::now();
        for bytes in
            [Bytes::new(), Bytes::from_static(b"not a film"), clip.slice(..200), Bytes::from(vec![0; 5000])]
        {
            let length = bytes.len();
            assert!(still_jpeg(VideoCodec::H264, bytes, 0, 320).is_err(), "{length} bytes");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // A clip whose last fragment is torn still gives its first picture.
        assert!(still_jpeg(VideoCodec::H264, clip.slice(..clip.len() - 100), 0, 320).is_ok());
    }
}
