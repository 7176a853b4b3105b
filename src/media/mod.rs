//! Everything that GStreamer does: the motion detector's decoder, stills, the hub's working copies, and the demo's
//! cameras.
//!
//! The only module that names GStreamer; its types do not leave it. May not know what the pictures
//! are for, and may not touch the store.

pub mod copy;
pub mod decode;
#[cfg(feature = "demo")]
pub mod rtsp_server;
pub mod shrink;
pub mod still;
pub mod timed;

use std::time::Duration;

use gst::prelude::*;
use gstreamer as gst;

use crate::model::VideoCodec;

/// Why GStreamer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("gstreamer can't start")]
    Init(#[source] gst::glib::Error),
    #[error("gstreamer element {element} is missing; deploy/install-deps.sh installs it")]
    ElementMissing { element: &'static str },
    #[error("{pipeline} pipeline: {detail}")]
    Pipeline { pipeline: &'static str, detail: String },
    #[error("{pipeline} pipeline gave nothing for {waited:?}")]
    Timeout { pipeline: &'static str, waited: Duration },
    #[error("{what} of {bytes} bytes is too large")]
    TooLarge { what: &'static str, bytes: usize },
    #[error("no picture in the clip")]
    NoPicture,
    #[error("the decoder has stopped: {0}")]
    Stopped(String),
}

/// Starts GStreamer once; every entry of this module calls it.
fn init() -> Result<(), MediaError> {
    gst::init().map_err(MediaError::Init)
}

/// Makes an element, naming it when it is not installed.
fn element(name: &'static str) -> Result<gst::Element, MediaError> {
    gst::ElementFactory::make(name).build().map_err(|_| MediaError::ElementMissing { element: name })
}

/// What GStreamer calls a codec.
fn caps_name(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "video/x-h264",
        VideoCodec::H265 => "video/x-h265",
    }
}

fn parser(codec: VideoCodec) -> Result<gst::Element, MediaError> {
    match codec {
        VideoCodec::H264 => element("h264parse"),
        VideoCodec::H265 => element("h265parse"),
    }
}

/// A decoder that is always there. It takes one thread: a box has many cameras and few cores.
fn plain_decoder(codec: VideoCodec) -> Result<gst::Element, MediaError> {
    let decode = match codec {
        VideoCodec::H264 => element("avdec_h264")?,
        VideoCodec::H265 => element("avdec_h265")?,
    };
    decode.set_property("max-threads", 1i32);
    Ok(decode)
}

/// The machine's own decoder, where it has one that starts (VA-API, then V4L2 without and with state), else the plain one.
fn fast_decoder(codec: VideoCodec) -> Result<gst::Element, MediaError> {
    let names = match codec {
        VideoCodec::H264 => ["vah264dec", "v4l2slh264dec", "v4l2h264dec"],
        VideoCodec::H265 => ["vah265dec", "v4l2slh265dec", "v4l2h265dec"],
    };
    for decode in names.iter().filter_map(|name| gst::ElementFactory::make(name).build().ok()) {
        // Opens the device: a plugin may be there without it.
        let starts = decode.set_state(gst::State::Ready).is_ok();
        let stopped = decode.set_state(gst::State::Null).is_ok();
        if starts && stopped {
            return Ok(decode);
        }
    }
    plain_decoder(codec)
}

/// Adds `elements` to `pipeline` and links them in order.
fn chain(pipeline: &gst::Pipeline, name: &'static str, elements: &[&gst::Element]) -> Result<(), MediaError> {
    let failed = |e: gst::glib::BoolError| MediaError::Pipeline { pipeline: name, detail: e.to_string() };
    pipeline.add_many(elements.iter().copied()).map_err(failed)?;
    gst::Element::link_many(elements.iter().copied()).map_err(failed)
}

/// What an error message says, with the element that said it.
fn error_detail(error: &gst::message::Error) -> String {
    let from = error.src().map(|s| s.name().to_string()).unwrap_or_default();
    match error.debug() {
        Some(debug) => format!("{from}: {} ({debug})", error.error()),
        None => format!("{from}: {}", error.error()),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Video for tests, encoded on the spot.

    use bytes::Bytes;
    use gst::prelude::*;
    use gstreamer as gst;
    use gstreamer_app as gst_app;

    use crate::model::VideoCodec;

    pub struct EncodedStream {
        pub codec: VideoCodec,
        pub codec_data: Vec<u8>,
        pub access_units: Vec<(Bytes, u64)>,
    }

    /// Moving bars as H.264 with a key frame every 2 s.
    pub fn avc_stream(width: u32, height: u32, fps: u32, frames: u32) -> EncodedStream {
        let encoder = format!(
            "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={} ! h264parse ! \
             video/x-h264,stream-format=avc,alignment=au",
            fps * 2
        );
        encoded(VideoCodec::H264, &encoder, width, height, fps, frames)
    }

    /// Moving bars as H.265 in open groups: every 2 s a CRA picture, with two pictures behind it that are shown
    /// before it and need the group before.
    pub fn hevc_stream(width: u32, height: u32, fps: u32, frames: u32) -> EncodedStream {
        let gop = fps * 2;
        let encoder = format!(
            "x265enc speed-preset=ultrafast log-level=0 option-string=\"open-gop=1:keyint={gop}:min-keyint={gop}\
             :scenecut=0:bframes=2:b-adapt=0:rc-lookahead=5:pools=1:frame-threads=1\" ! h265parse ! \
             video/x-h265,stream-format=hvc1,alignment=au"
        );
        encoded(VideoCodec::H265, &encoder, width, height, fps, frames)
    }

    fn encoded(
        codec: VideoCodec,
        encoder: &str,
        width: u32,
        height: u32,
        fps: u32,
        frames: u32,
    ) -> EncodedStream {
        let samples = run_to_end(&format!(
            "videotestsrc num-buffers={frames} horizontal-speed=2 ! \
             video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 ! \
             {encoder} ! appsink name=out sync=false"
        ));
        let caps = samples[0].caps().expect("samples have caps").to_owned();
        let codec_data = caps.structure(0).unwrap().get::<gst::Buffer>("codec_data").unwrap();
        let first_pts = samples[0].buffer().unwrap().pts().unwrap();
        let access_units = samples.iter().map(|sample| {
            let buffer = sample.buffer().unwrap();
            let bytes = buffer.map_readable().unwrap().to_vec();
            // An encoder that reorders begins far from zero.
            (Bytes::from(bytes), (buffer.pts().unwrap() - first_pts).nseconds())
        });
        let codec_data = codec_data.map_readable().unwrap().to_vec();
        EncodedStream { codec, codec_data, access_units: access_units.collect() }
    }

    /// All pictures of an MP4 file, small and grey.
    pub fn grey_pictures(path: &std::path::Path, width: usize, height: usize) -> Vec<Vec<u8>> {
        let samples = run_to_end(&format!(
            "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 ! videoscale add-borders=false ! videoconvert \
             ! video/x-raw,format=GRAY8,width={width},height={height} ! appsink name=out sync=false",
            path.display()
        ));
        let pixels = |sample: &gst::Sample| sample.buffer().unwrap().map_readable().unwrap().to_vec();
        samples.iter().map(pixels).collect()
    }

    /// Runs a pipeline with an `appsink name=out` to its end and returns what came out.
    pub fn run_to_end(description: &str) -> Vec<gst::Sample> {
        super::init().unwrap();
        let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let out = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let samples = std::iter::from_fn(|| out.try_pull_sample(gst::ClockTime::from_seconds(20))).collect();
        let complete = out.is_eos();
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(complete, "{description} did not end");
        samples
    }

    /// Runs a pipeline until its sinks have seen the end.
    pub fn run_until_eos(description: &str) {
        super::init().unwrap();
        let pipeline = gst::parse::launch(description).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let bus = pipeline.bus().unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(30), &ends);
        pipeline.set_state(gst::State::Null).unwrap();
        let ended = message.is_some_and(|m| m.type_() == gst::MessageType::Eos);
        assert!(ended, "{description} did not end");
    }
}
