//! One RTSP connection to a camera: what it sends, as access units and sender reports.
//!
//! The only module that names retina; its types do not leave it. May not write to disk.
//!
//! retina strips parameter sets, which stand in the [`Track`]; every other NAL unit comes as it is. It calls only
//! IDR pictures random access points (0.4.21), so that is read from the NAL units here.
//!
//! RTP timestamps are presentation times; with B-frames they go back and forth, so their order is not
//! enforced here (retina can, and must not be asked to).

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use retina::client::{
    Credentials, Demuxed, InitialSequenceNumberPolicy, InitialTimestampPolicy, PlayOptions, Session,
    SessionOptions, SetupOptions, TcpTransportOptions, TeardownPolicy, Transport,
    UnassignedChannelDataPolicy,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoFrame};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::edge::config::CameraConfig;
use crate::edge::fmp4::{self, AudioTrack, Track};
use crate::limits::{ACCESS_UNIT_BYTES_MAX, CAMERA_CONNECT_MAX};
use crate::model::{Picture, Time, VideoCodec};

/// What a connection yields, in order.
#[derive(Debug)]
pub enum SessionItem {
    /// The parameter sets that all following access units need; again only when they change.
    Track(Track),
    Unit(AccessUnit),
    SenderReport(SenderReport),
    /// Only behind a [`Track`] with audio.
    Audio(AudioFrame),
    /// Its timeline is that of the audio.
    AudioReport(SenderReport),
}

/// One access unit, in decode order.
#[derive(Debug)]
pub struct AccessUnit {
    /// Presentation time in ticks of 90 kHz on the connection's own timeline.
    pub pts: i64,
    /// Decoding may begin here: an IDR picture, with H.265 any IRAP picture.
    pub sync: bool,
    pub data: Bytes,
    /// When its first packet arrived, by the box's clock.
    pub arrived: Time,
    /// RTP packets that were lost before it.
    pub lost_packets: u16,
}

/// One frame of AAC, or a packet of G.711.
#[derive(Debug)]
pub struct AudioFrame {
    /// When it begins, in ticks of the audio's clock on its own timeline.
    pub pts: i64,
    /// How long it lasts.
    pub ticks: u32,
    pub data: Bytes,
    pub arrived: Time,
    /// RTP packets that were lost before it.
    pub lost_packets: u16,
}

/// The camera says which moment of its clock belongs to which point of its timeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SenderReport {
    pub pts: i64,
    pub time: Time,
    pub arrived: Time,
}

/// Why a connection ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("camera url {url:?}: {why}")]
    Url { url: String, why: String },
    #[error("password file {path}: {why}")]
    Password { path: String, why: String },
    #[error("camera does not {step} within {seconds} s")]
    Slow { step: &'static str, seconds: u64 },
    #[error("camera can't be asked to {step}")]
    Refused { step: &'static str, source: retina::Error },
    #[error("camera has no H.264 or H.265 video")]
    NoVideo,
    #[error("camera's video parameters can't be used: {0}")]
    Parameters(String),
    #[error("no picture for {seconds} s")]
    Stalled { seconds: f64 },
    #[error("stream can't be read")]
    Broken(#[source] retina::Error),
    #[error("camera closed the stream")]
    Closed,
    #[error("access unit of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    #[error("recorder has ended")]
    RecorderGone,
}

impl SessionError {
    /// The stream had begun; otherwise the camera was not reached.
    pub fn began(&self) -> bool {
        matches!(self, Self::Stalled { .. } | Self::Broken(_) | Self::Closed | Self::TooLarge { .. })
    }

    /// The error and its causes on one short line, for people.
    pub fn in_short(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text.lines().next().unwrap_or_default().chars().take(300).collect()
    }
}

/// Connects, plays, and hands over what comes, until the connection fails or `shutdown`.
pub async fn run_once(
    camera: &CameraConfig,
    items: &mpsc::Sender<SessionItem>,
    shutdown: &CancellationToken,
) -> Result<(), SessionError> {
    let opened = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = open(camera) => opened,
    };
    let (mut demuxed, streams) = opened?;
    let stall = Duration::try_from(camera.stall).unwrap_or(CAMERA_CONNECT_MAX);
    let codec = codec_of(&demuxed.streams()[streams.video]).ok_or(SessionError::NoVideo)?;
    let mut track: Option<Track> = None;
    let mut last_unit = Instant::now();
    loop {
        let waited = last_unit.elapsed();
        let item = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            item = demuxed.next() => item,
            () = tokio::time::sleep(stall.saturating_sub(waited)) => {
                return Err(SessionError::Stalled { seconds: stall.as_secs_f64() });
            }
        };
        match item.ok_or(SessionError::Closed)?.map_err(SessionError::Broken)? {
            CodecItem::VideoFrame(frame) => {
                last_unit = Instant::now();
                if track.is_none() || frame.has_new_parameters() {
                    let now = track_of(&demuxed, &streams)?;
                    if track.as_ref() != Some(&now) {
                        send(items, SessionItem::Track(now.clone()), shutdown).await?;
                        track = Some(now);
                    }
                }
                send(items, SessionItem::Unit(unit_of(frame, codec)?), shutdown).await?;
            }
            CodecItem::AudioFrame(frame) if track.is_some() => {
                send(items, SessionItem::Audio(audio_frame_of(frame)?), shutdown).await?;
            }
            CodecItem::Rtcp(packet) => {
                if let Some(report) = report_of(&packet) {
                    let is_video = packet.stream_id() == streams.video;
                    let item = if is_video { SessionItem::SenderReport } else { SessionItem::AudioReport };
                    send(items, item(report), shutdown).await?;
                }
            }
            _ => {}
        }
    }
}

async fn send(
    items: &mpsc::Sender<SessionItem>,
    item: SessionItem,
    shutdown: &CancellationToken,
) -> Result<(), SessionError> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        sent = items.send(item) => sent.map_err(|_| SessionError::RecorderGone),
    }
}

/// The streams that were set up, as retina counts them.
struct Streams {
    video: usize,
    audio: Option<(usize, AudioTrack)>,
}

async fn open(camera: &CameraConfig) -> Result<(Demuxed, Streams), SessionError> {
    let bad_url = |why: String| SessionError::Url { url: camera.url.clone(), why };
    let url = url::Url::parse(&camera.url).map_err(|e| bad_url(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SessionError::Url {
            url: format!("{}://…", url.scheme()),
            why: "user and password do not belong here".into(),
        });
    }
    let options = SessionOptions::default()
        .creds(credentials(camera).await?)
        .user_agent(format!("camnet/{}", env!("CARGO_PKG_VERSION")))
        // Over TCP: one attempt in the background on the old connection; nothing waits for it.
        .teardown(TeardownPolicy::Auto)
        .unassigned_channel_data(UnassignedChannelDataPolicy::Ignore);
    let mut session = step("describe its streams", Session::describe(url, options)).await?;
    let is_video = |s: &retina::client::Stream| s.media() == "video" && codec_of(s).is_some();
    let video = session.streams().iter().position(is_video).ok_or(SessionError::NoVideo)?;
    let setup = || {
        let transport = Transport::Tcp(TcpTransportOptions::default());
        SetupOptions::default().transport(transport).frame_format(FrameFormat::MP4)
    };
    step("set the stream up", session.setup(video, setup())).await?;
    let audio = if camera.audio { audio_of(camera, session.streams()) } else { None };
    if let Some((stream, _)) = &audio {
        step("set its audio up", session.setup(*stream, setup())).await?;
    }
    let play = PlayOptions::default()
        .initial_timestamp(InitialTimestampPolicy::Ignore)
        // Joining a stream that others watch reports false loss in half the cases otherwise.
        .initial_seq(InitialSequenceNumberPolicy::Ignore);
    let playing = step("play", session.play(play)).await?;
    let demuxed = playing.demuxed().map_err(|source| SessionError::Refused { step: "demux", source })?;
    Ok((demuxed, Streams { video, audio }))
}

/// The first audio stream that can be recorded. A camera whose audio can't be is recorded without.
fn audio_of(camera: &CameraConfig, streams: &[retina::client::Stream]) -> Option<(usize, AudioTrack)> {
    let mut refused = Vec::new();
    for (n, stream) in streams.iter().enumerate().filter(|(_, stream)| stream.media() == "audio") {
        match audio_track_of(stream) {
            Ok(track) => return Some((n, track)),
            Err(why) => refused.push(format!("{}: {why}", stream.encoding_name())),
        }
    }
    let why = if refused.is_empty() { "it sends none".to_owned() } else { refused.join("; ") };
    tracing::warn!(device = %camera.id, why, "no audio is recorded: set the camera to AAC or G.711, or audio = false");
    None
}

fn audio_track_of(stream: &retina::client::Stream) -> Result<AudioTrack, String> {
    let timescale = stream.clock_rate_hz();
    let channels = stream.channels().map_or(1, std::num::NonZeroU16::get);
    let kind = match stream.encoding_name() {
        // RFC 3551, 4.5.14.
        "pcma" => b"alaw",
        "pcmu" => b"ulaw",
        "mpeg4-generic" => {
            let Some(ParametersRef::Audio(parameters)) = stream.parameters() else {
                return Err("its parameters can't be used".into());
            };
            let sample_entry = parameters.mp4_sample_entry().build().map_err(|e| e.to_string())?;
            return Ok(AudioTrack { sample_entry, timescale });
        }
        _ => return Err("can't be recorded".into()),
    };
    let rate = u16::try_from(timescale).map_err(|_| format!("{timescale} Hz is too much"))?;
    Ok(AudioTrack { sample_entry: fmp4::plain_audio_entry(kind, channels, rate), timescale })
}

async fn step<T>(
    step: &'static str,
    what: impl Future<Output = Result<T, retina::Error>>,
) -> Result<T, SessionError> {
    match tokio::time::timeout(CAMERA_CONNECT_MAX, what).await {
        Ok(done) => done.map_err(|source| SessionError::Refused { step, source }),
        Err(_) => Err(SessionError::Slow { step, seconds: CAMERA_CONNECT_MAX.as_secs() }),
    }
}

async fn credentials(camera: &CameraConfig) -> Result<Option<Credentials>, SessionError> {
    let Some(username) = camera.user.clone() else { return Ok(None) };
    let password = match camera.password_file.clone() {
        None => String::new(),
        Some(path) => {
            let shown = path.display().to_string();
            let read = tokio::task::spawn_blocking(move || read_secret(&path)).await;
            read.unwrap_or_else(|e| Err(e.to_string()))
                .map_err(|why| SessionError::Password { path: shown, why })?
        }
    };
    Ok(Some(Credentials { username, password }))
}

/// A secret of one line from a file that only its owner may read.
fn read_secret(path: &Path) -> Result<String, String> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    const SECRET_BYTES_MAX: u64 = 4096;
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mode = file.metadata().map_err(|e| e.to_string())?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("others may read it (mode {:03o}); set it to 600", mode & 0o777));
    }
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn track_of(demuxed: &Demuxed, streams: &Streams) -> Result<Track, SessionError> {
    let Some(ParametersRef::Video(parameters)) = demuxed.streams()[streams.video].parameters() else {
        return Err(SessionError::Parameters("there are none with the first picture".into()));
    };
    let (width, height) = parameters.pixel_dimensions();
    let mut entry = parameters.mp4_sample_entry();
    if let Some((h, v)) = parameters.pixel_aspect_ratio()
        && let (Ok(h), Ok(v)) = (u16::try_from(h), u16::try_from(v))
        && h != v
    {
        entry = entry.with_aspect_ratio((h, v));
    }
    let sample_entry = entry.build().map_err(|e| SessionError::Parameters(e.to_string()))?;
    let audio = streams.audio.as_ref().map(|(_, track)| track.clone());
    Ok(Track { sample_entry, width, height, audio })
}

fn codec_of(stream: &retina::client::Stream) -> Option<VideoCodec> {
    match stream.encoding_name() {
        "h264" => Some(VideoCodec::H264),
        "h265" => Some(VideoCodec::H265),
        _ => None,
    }
}

fn unit_of(frame: VideoFrame, codec: VideoCodec) -> Result<AccessUnit, SessionError> {
    let pts = frame.timestamp().timestamp();
    let (arrived, lost_packets) = (wall(frame.start_ctx().received()), frame.loss());
    let data = Bytes::from(frame.into_data());
    if data.len() > ACCESS_UNIT_BYTES_MAX {
        return Err(SessionError::TooLarge { bytes: data.len() });
    }
    let sync = codec.picture(&data) == Some(Picture::RandomAccess);
    Ok(AccessUnit { pts, sync, data, arrived, lost_packets })
}

fn audio_frame_of(frame: retina::codec::AudioFrame) -> Result<AudioFrame, SessionError> {
    if frame.data().len() > ACCESS_UNIT_BYTES_MAX {
        return Err(SessionError::TooLarge { bytes: frame.data().len() });
    }
    Ok(AudioFrame {
        pts: frame.timestamp().timestamp(),
        ticks: frame.frame_length().get(),
        data: Bytes::copy_from_slice(frame.data()),
        arrived: wall(frame.ctx().received()),
        lost_packets: frame.loss(),
    })
}

fn report_of(packet: &retina::rtcp::ReceivedCompoundPacket) -> Option<SenderReport> {
    let pts = packet.rtp_timestamp()?.timestamp();
    let first = packet.pkts().next()?;
    let report = first.as_sender_report().ok()??;
    let time = fmp4::from_ntp(report.ntp_timestamp().0)?;
    Some(SenderReport { pts, time, arrived: wall(packet.ctx().received()) })
}

/// The box's wall clock at an instant of the recent past.
fn wall(at: Instant) -> Time {
    let ago = jiff::SignedDuration::try_from(at.elapsed()).unwrap_or_default();
    Time::now().checked_sub(ago).unwrap_or_else(|_| Time::now())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "mật khẩu\n").unwrap();
        for (mode, taken) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), taken, "{mode:o}: {read:?}");
            assert!(read.is_err() || read == Ok("mật khẩu".to_owned()));
        }
    }
}
