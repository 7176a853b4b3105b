//! One RTSP connection to a camera: what it sends, as access units and sender reports.
//!
//! The only module that names retina; its types do not leave it. May not write to disk.
//!
//! retina strips parameter sets, which stand in the [`Track`]; every other NAL unit comes as it is. It calls only
//! IDR pictures random access points (0.4.21), so that is read from the NAL units here.
//!
//! RTP timestamps are presentation times; with B-frames they go back and forth, so their order is not
//! enforced here (retina can, and must not be asked to).

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use retina::client::{
    Credentials, Demuxed, Described, InitialSequenceNumberPolicy, InitialTimestampPolicy, PlayOptions,
    Session, SessionIdPolicy, SessionOptions, SetupOptions, TcpTransportOptions, TeardownPolicy,
    UdpTransportOptions, UnassignedChannelDataPolicy,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoFrame};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::onvif::{self, Metadata, OnvifError};
use super::relay::Relay;
use crate::edge::config::{CameraConfig, Transport};
use crate::edge::fmp4::{self, AudioTrack, Track};
use crate::limits::{ACCESS_UNIT_BYTES_MAX, CAMERA_CONNECT_MAX, CAMERA_KEY_FRAME_WAIT, METADATA_PAUSE};
use crate::model::{Picture, Time, VideoCodec};
use crate::tls;

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
    /// Only to who asked, see [`Ways::with_metadata`].
    Metadata(MetadataMessage),
}

/// One message of the camera's ONVIF metadata stream.
#[derive(Debug)]
pub struct MetadataMessage {
    /// When its first packet arrived, by the box's clock; what is in it tells the time by the camera's.
    pub arrived: Time,
    /// What it says, or why it can't be read: then it is counted and left out.
    pub content: Result<Metadata, OnvifError>,
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
    #[error("transport {asked:?} is refused by the camera; configure transport = \"auto\"")]
    Transport { asked: &'static str },
    #[error("camera has no H.264 or H.265 video")]
    NoVideo,
    #[error("camera's video parameters can't be used: {0}")]
    Parameters(String),
    #[error(
        "pictures come, but {what} within {seconds} s, so they can't be recorded; set the camera's key frame \
         interval (I frame interval, GOP) to 2 s"
    )]
    NoStart { what: &'static str, seconds: u64 },
    #[error("the way to the camera can't be repaired")]
    Relay(#[source] std::io::Error),
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
        matches!(
            self,
            Self::Stalled { .. }
                | Self::Broken(_)
                | Self::Closed
                | Self::TooLarge { .. }
                | Self::Parameters(_)
                | Self::NoStart { .. }
        )
    }

    /// The status of the camera's answer, where that is what went wrong.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => source.status_code(),
            _ => None,
        }
    }

    /// The camera's answer to a keep-alive had the wrong number, or never came. retina 0.4.21 ends the session
    /// then (its issues #133 and #136) and says so in words only.
    fn is_keep_alive(&self) -> bool {
        const WORDS: [&str; 2] = ["Unexpected RTSP response", "failed to respond to keepalive"];
        let Self::Broken(error) = self else { return false };
        let text = error.to_string();
        WORDS.iter().any(|words| text.contains(words))
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

/// What a camera's connections taught about it; whoever connects again keeps it.
#[derive(Debug, Default)]
pub struct Ways {
    /// It answers keep-alives so that they can't be told from other answers: [`Relay`] answers in its place.
    pub relay: bool,
    /// It refused TCP.
    pub udp: bool,
    /// Its ONVIF metadata stream is wanted, where it has one.
    ask_metadata: bool,
    /// The connection has that stream.
    has_metadata: bool,
    /// A connection with that stream broke: until then, the recording goes before it.
    no_metadata_until: Option<Instant>,
}

impl Ways {
    /// For who wants the metadata stream as well.
    pub fn with_metadata() -> Self {
        Self { ask_metadata: true, ..Self::default() }
    }

    /// The metadata stream is left out because a connection with it broke.
    pub fn is_without_metadata(&self) -> bool {
        self.no_metadata_until.is_some_and(|until| Instant::now() < until)
    }

    /// Learns from how a connection ended; true if the next one goes another way and need not wait. Datagrams do
    /// not pass through the relay: over UDP nothing helps.
    pub fn learn(&mut self, error: &SessionError) -> bool {
        if error.is_keep_alive() {
            let is_new = !self.relay && !self.udp;
            self.relay |= is_new;
            return is_new;
        }
        // retina does not tell by which of two streams it was, and an odd message is an error to it.
        let by_metadata = matches!(error, SessionError::Broken(_)) && self.has_metadata;
        if by_metadata {
            self.no_metadata_until = Some(Instant::now() + METADATA_PAUSE);
        }
        by_metadata
    }
}

/// Connects, plays, and hands over what comes, until the connection fails or `shutdown`.
pub async fn run_once(
    camera: &CameraConfig,
    ways: &mut Ways,
    items: &mpsc::Sender<SessionItem>,
    shutdown: &CancellationToken,
) -> Result<(), SessionError> {
    let opened = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = open(camera, ways) => opened,
    };
    let Opened { mut demuxed, streams, _relay } = opened?;
    let mut start = Start::new();
    let stall = Duration::try_from(camera.stall).unwrap_or(CAMERA_CONNECT_MAX);
    let codec = codec_of(&demuxed.streams()[streams.video]).ok_or(SessionError::NoVideo)?;
    let mut track: Option<Track> = None;
    let mut last_unit = Instant::now();
    let mut has_joined = false;
    loop {
        let waited = last_unit.elapsed();
        let item = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            item = demuxed.next() => item,
            () = tokio::time::sleep(stall.saturating_sub(waited)) => {
                return Err(SessionError::Stalled { seconds: stall.as_secs_f64() });
            }
        };
        let item = match item.ok_or(SessionError::Closed)? {
            Err(error) if !has_joined && is_inside_a_picture(&error) => continue,
            item => item.map_err(SessionError::Broken)?,
        };
        match item {
            CodecItem::VideoFrame(frame) => {
                (last_unit, has_joined) = (Instant::now(), true);
                if track.is_none() || frame.has_new_parameters() {
                    // Cameras that send their parameter sets with key frames only are joined in between.
                    let now = track_of(&demuxed, &streams)?;
                    if let Some(now) = now.filter(|now| track.as_ref() != Some(now)) {
                        send(items, SessionItem::Track(now.clone()), shutdown).await?;
                        track = Some(now);
                    }
                }
                let unit = unit_of(frame, codec)?;
                start.check(track.is_some(), unit.sync)?;
                send(items, SessionItem::Unit(unit), shutdown).await?;
            }
            CodecItem::AudioFrame(frame) if track.is_some() => {
                send(items, SessionItem::Audio(audio_frame_of(frame)?), shutdown).await?;
            }
            CodecItem::Rtcp(packet) if streams.has(packet.stream_id()) => {
                if let Some(report) = report_of(&packet) {
                    let is_video = packet.stream_id() == streams.video;
                    let item = if is_video { SessionItem::SenderReport } else { SessionItem::AudioReport };
                    send(items, item(report), shutdown).await?;
                }
            }
            CodecItem::MessageFrame(message) => {
                let arrived = wall(message.ctx().received());
                let content = onvif::parse(message.data());
                send(items, SessionItem::Metadata(MetadataMessage { arrived, content }), shutdown).await?;
            }
            _ => {}
        }
    }
}

/// The first packets may be the rest of a picture that began before this client joined (VLC over UDP begins
/// wherever it is). retina 0.4.21 calls that an error and goes on with the next picture when asked again.
fn is_inside_a_picture(error: &retina::Error) -> bool {
    error.to_string().contains("start bit unset while no frag in progress")
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

/// The streams that are recorded, as retina counts them.
struct Streams {
    video: usize,
    audio: Option<(usize, AudioTrack)>,
}

impl Streams {
    fn has(&self, stream: usize) -> bool {
        stream == self.video || self.audio.as_ref().is_some_and(|(audio, _)| stream == *audio)
    }
}

/// Whether a stream can be recorded yet, and for how long it may not.
struct Start {
    began: Instant,
    done: bool,
}

impl Start {
    fn new() -> Self {
        Self { began: Instant::now(), done: false }
    }

    fn check(&mut self, has_parameters: bool, is_key_frame: bool) -> Result<(), SessionError> {
        self.done |= has_parameters && is_key_frame;
        if self.done || self.began.elapsed() < CAMERA_KEY_FRAME_WAIT {
            return Ok(());
        }
        let what = if has_parameters { "no key frame" } else { "no parameter sets (SPS, PPS)" };
        Err(SessionError::NoStart { what, seconds: CAMERA_KEY_FRAME_WAIT.as_secs() })
    }
}

/// A connection that plays.
struct Opened {
    demuxed: Demuxed,
    streams: Streams,
    _relay: Option<Relay>,
}

async fn open(camera: &CameraConfig, ways: &mut Ways) -> Result<Opened, SessionError> {
    let (mut session, relay) = describe(camera, ways).await?;
    let video = video_of(&session).ok_or(SessionError::NoVideo)?;
    set_up_video(&mut session, video, camera, ways).await?;
    let audio = if camera.audio { audio_of(camera, session.streams()) } else { None };
    if let Some((stream, _)) = &audio {
        step("set its audio up", session.setup(*stream, setup_options(ways))).await?;
    }
    set_up_metadata(&mut session, ways).await;
    let playing = step("play", session.play(play_options())).await?;
    let demuxed = playing.demuxed().map_err(|source| SessionError::Refused { step: "demux", source })?;
    Ok(Opened { demuxed, streams: Streams { video, audio }, _relay: relay })
}

/// Connects and asks what streams there are.
pub(super) async fn describe(
    camera: &CameraConfig,
    ways: &Ways,
) -> Result<(Session<Described>, Option<Relay>), SessionError> {
    let mut url = camera_url(&camera.url)?;
    let relay = match ways.relay {
        true => Some(Relay::before(&mut url).await.map_err(SessionError::Relay)?),
        false => None,
    };
    let options = SessionOptions::default()
        .creds(credentials(camera).await?)
        .user_agent(format!("camnet/{}", env!("CARGO_PKG_VERSION")))
        // Over TCP: one attempt in the background on the old connection; nothing waits for it.
        .teardown(TeardownPolicy::Auto)
        // Some cameras give each stream an id of its own.
        .session_id(SessionIdPolicy::UseFirst)
        .unassigned_channel_data(UnassignedChannelDataPolicy::Ignore);
    let session = step("describe its streams", Session::describe(url, options)).await?;
    Ok((session, relay))
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

/// An address as it may be shown: nothing of one that may hold a password.
pub(super) fn without_secrets(url: &str) -> &str {
    if url.contains('@') { "rtsp://…" } else { url }
}

/// The stream that is recorded.
pub(super) fn video_of(session: &Session<Described>) -> Option<usize> {
    let is_video = |s: &retina::client::Stream| s.media() == "video" && codec_of(s).is_some();
    session.streams().iter().position(is_video)
}

/// The address of a camera, without secrets in it.
pub(super) fn camera_url(text: &str) -> Result<url::Url, SessionError> {
    let refused = |why: String| SessionError::Url { url: without_secrets(text).to_owned(), why };
    let url = url::Url::parse(text).map_err(|error| refused(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("user and password do not belong here".into()));
    }
    if url.scheme() != "rtsp" || url.host().is_none() {
        return Err(refused("it must be rtsp://host/path".into()));
    }
    Ok(url)
}

/// Sets the video up as the configuration says; what was taken is then in `ways`.
pub(super) async fn set_up_video(
    session: &mut Session<Described>,
    video: usize,
    camera: &CameraConfig,
    ways: &mut Ways,
) -> Result<(), SessionError> {
    // RFC 2326, 11.3.12.
    const UNSUPPORTED_TRANSPORT: u16 = 461;
    ways.udp = camera.transport == Transport::Udp;
    let set_up = step("set the stream up", session.setup(video, setup_options(ways))).await;
    match set_up {
        Err(refused) if refused.status() == Some(UNSUPPORTED_TRANSPORT) => match camera.transport {
            Transport::Auto => {
                ways.udp = true;
                step("set the stream up over UDP", session.setup(video, setup_options(ways))).await
            }
            Transport::Tcp => Err(SessionError::Transport { asked: "tcp" }),
            Transport::Udp => Err(SessionError::Transport { asked: "udp" }),
        },
        other => other,
    }
}

/// Sets the metadata stream up beside the video, if it is wanted, there, and did no harm lately. A camera that
/// refuses is recorded without it.
async fn set_up_metadata(session: &mut Session<Described>, ways: &mut Ways) {
    ways.has_metadata = false;
    if !ways.ask_metadata || ways.is_without_metadata() {
        return;
    }
    // The compressed kinds have other names; no common camera sends them.
    let is_metadata =
        |s: &retina::client::Stream| s.media() == "application" && s.encoding_name() == "vnd.onvif.metadata";
    let Some(metadata) = session.streams().iter().position(is_metadata) else { return };
    match step("set its metadata up", session.setup(metadata, setup_options(ways))).await {
        Ok(()) => ways.has_metadata = true,
        Err(error) => tracing::debug!(error = error.in_short(), "no metadata stream"),
    }
}

/// How a stream is set up: as the video was.
fn setup_options(ways: &Ways) -> SetupOptions {
    let transport = match ways.udp {
        true => retina::client::Transport::Udp(UdpTransportOptions::default()),
        false => retina::client::Transport::Tcp(TcpTransportOptions::default()),
    };
    SetupOptions::default().transport(transport).frame_format(FrameFormat::MP4)
}

pub(super) fn play_options() -> PlayOptions {
    PlayOptions::default()
        .initial_timestamp(InitialTimestampPolicy::Ignore)
        // Joining a stream that others watch reports false loss in half the cases otherwise.
        .initial_seq(InitialSequenceNumberPolicy::Ignore)
}

pub(super) async fn step<T>(
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
            let read = tokio::task::spawn_blocking(move || tls::read_secret(&path)).await;
            read.map_err(|e| e.to_string())
                .and_then(|read| read.map_err(|e| e.to_string()))
                .map_err(|why| SessionError::Password { path: shown, why })?
        }
    };
    Ok(Some(Credentials { username, password }))
}

/// The track by the newest parameter sets; none while there are none.
fn track_of(demuxed: &Demuxed, streams: &Streams) -> Result<Option<Track>, SessionError> {
    let Some(ParametersRef::Video(parameters)) = demuxed.streams()[streams.video].parameters() else {
        return Ok(None);
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
    Ok(Some(Track { sample_entry, width, height, audio }))
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

    use super::*;

    #[test]
    fn a_stream_without_a_start_is_given_up_in_the_end() {
        let long_ago =
            Instant::now().checked_sub(CAMERA_KEY_FRAME_WAIT).expect("the machine is up for longer");
        let start = |began| Start { began, done: false };
        for (parameters, key_frame) in [(false, false), (false, true), (true, false)] {
            assert!(start(Instant::now()).check(parameters, key_frame).is_ok());
            let error = start(long_ago).check(parameters, key_frame).unwrap_err();
            assert!(error.began() && error.in_short().contains("key frame interval"), "{error}");
        }
        let mut begun = start(long_ago);
        begun.check(true, true).unwrap();
        begun.check(true, false).unwrap();
    }
}
