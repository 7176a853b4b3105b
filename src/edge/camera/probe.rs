//! What a camera can do and what is wrong with it, for the technician who puts it up.
//!
//! Asks by hand what the RTSP library keeps to itself (reach, server, authentication), then watches through the
//! recorder's own connection: what this says can be recorded was received by the code that records. Writes nothing.

use std::time::Duration;

use futures_util::StreamExt;
use jiff::SignedDuration;
use retina::client::{PacketItem, Session};
use retina::codec::ParametersRef;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::session::{self, AccessUnit, MetadataMessage, SenderReport, SessionError, SessionItem, Ways};
use crate::edge::config::{CameraConfig, Transport};
use crate::edge::fmp4::{self, TIMESCALE, Track};
use crate::limits::{
    CAMERA_CLOCK_OFFSET_MAX, CAMERA_CONNECT_MAX, FRAME_GAP_MAX, PROBE_PATHS_MAX, PROBE_SETS_WAIT,
    RTSP_MESSAGE_BYTES_MAX, RUN_CLOCK_SHIFT_MAX,
};
use crate::model::Time;

/// Further apart, key frames make clips begin early and motion start late.
const KEY_FRAMES_FAR_S: f64 = 4.0;
/// A figure that differs more from what it should be is worth a word.
const DIFFERS: f64 = 0.2;

/// What was found; `recordable` and `findings` are the verdict.
#[derive(Debug, Serialize)]
pub struct Report {
    pub url: String,
    pub recordable: bool,
    /// As the server names itself.
    pub server: Option<String>,
    /// `Digest`, `Basic`, or `none`; absent where it could not be learnt.
    pub authentication: Option<String>,
    pub streams: Vec<StreamSeen>,
    /// `tcp` or `udp`: what worked.
    pub transport: Option<&'static str>,
    pub parameter_sets: Option<ParameterSets>,
    pub watched: Option<Watched>,
    /// Another path of the camera with a smaller picture, cheaper to analyse.
    pub smaller: Option<Smaller>,
    pub findings: Vec<Finding>,
}

/// One stream as the camera describes it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSeen {
    /// `video`, `audio` or `application`.
    pub media: String,
    /// As in the media type registry, lower case: `h264`, `pcma`, `vnd.onvif.metadata`…
    pub codec: String,
    /// As in RFC 6381, where parameter sets came with the description.
    pub profile: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// As declared by the description or the parameter sets.
    pub declared_fps: Option<f64>,
}

/// Where the parameter sets (SPS, PPS) come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterSets {
    Sdp,
    InBand,
    Both,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Watched {
    pub seconds: f64,
    pub pictures: u64,
    pub fps: f64,
    pub kbit_per_s: f64,
    pub width: u32,
    pub height: u32,
    pub key_frames: u64,
    pub key_frame_interval_s: Option<f64>,
    /// Pictures that are shown before one that came earlier.
    pub reordered: u64,
    pub lost_packets: u64,
    pub sender_reports: u64,
    /// The camera's clock minus this machine's, by the last sender report.
    pub clock_offset_ms: Option<i64>,
    /// Times that the pictures' time went on by more than a run bears.
    pub time_jumps: u64,
    /// Seconds of the pictures' time for each second here.
    pub time_speed: Option<f64>,
    /// Messages of its ONVIF metadata stream; those that can't be read; what the others say.
    pub metadata_messages: u64,
    pub metadata_refused: u64,
    pub motion_notices: u64,
    pub objects: u64,
    /// How late the newest message came, less what the camera's clock is off where that is known.
    pub metadata_late_ms: Option<i64>,
    /// A connection with the metadata stream broke, the next one without it did not.
    pub metadata_breaks: bool,
    /// Its answers to keep-alives had to be given in its place.
    pub confuses_keep_alives: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Smaller {
    pub url: String,
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Good,
    WorthKnowing,
    Wrong,
}

/// One line of the verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub level: Level,
    pub text: String,
}

fn good(text: impl Into<String>) -> Finding {
    Finding { level: Level::Good, text: text.into() }
}
fn note(text: impl Into<String>) -> Finding {
    Finding { level: Level::WorthKnowing, text: text.into() }
}
fn wrong(text: impl Into<String>) -> Finding {
    Finding { level: Level::Wrong, text: text.into() }
}

/// Asks and watches for `seconds`; what fails is part of the report.
pub async fn probe(camera: &CameraConfig, seconds: Duration) -> Report {
    let mut report = Report {
        url: session::without_secrets(&camera.url).to_owned(),
        recordable: false,
        server: None,
        authentication: None,
        streams: Vec::new(),
        transport: None,
        parameter_sets: None,
        watched: None,
        smaller: None,
        findings: Vec::new(),
    };
    if let Err(finding) = look(camera, seconds, &mut report).await {
        report.findings.push(finding);
    }
    report.recordable = report.findings.iter().all(|finding| finding.level != Level::Wrong);
    report
}

async fn look(camera: &CameraConfig, seconds: Duration, report: &mut Report) -> Result<(), Finding> {
    let url = session::camera_url(&camera.url).map_err(|error| wrong(format!("{error}; {URL_HELP}")))?;
    greet(&url, report).await?;
    let mut ways = Ways::with_metadata();
    let described = session::describe(camera, &ways).await;
    let (described, _) = described.map_err(|error| wrong(why_not_described(camera, report, &error)))?;
    report.streams = described.streams().iter().map(stream_seen).collect();
    let video = session::video_of(&described).ok_or_else(|| wrong(no_video(&report.streams)))?;
    let sets_in_sdp = described.streams()[video].parameters().is_some();
    drop(described);
    report.findings.push(good("reachable, speaks RTSP and describes its streams"));

    let watch = watch(camera, &mut ways, seconds).await;
    report.transport = watch.began.then_some(if ways.udp { "udp" } else { "tcp" });
    let measured = watch.measured(seconds, &ways);
    if let Some(track) = &watch.track {
        let seen = &mut report.streams[video];
        (seen.width, seen.height) = (Some(track.width), Some(track.height));
        seen.profile = fmp4::codec_name(&track.sample_entry);
    }
    report.parameter_sets = match (sets_in_sdp, watch.track.is_some()) {
        (false, true) => Some(ParameterSets::InBand),
        (true, _) if watch.failed.is_none() => match sets_in_band(camera, &mut ways).await {
            Some(true) => Some(ParameterSets::Both),
            Some(false) => Some(ParameterSets::Sdp),
            None => None,
        },
        _ => None,
    };
    report.findings.extend(watch.failed.as_ref().map(|error| wrong(why_lost(error, watch.pictures))));
    report.findings.extend(judge(camera, &report.streams, video, &measured, report));
    report.smaller = smaller(camera, &measured).await;
    report.findings.extend(report.smaller.as_ref().map(|s| {
        note(format!(
            "a smaller picture is at {} ({}x{}), cheaper to analyse for motion",
            s.url, s.width, s.height
        ))
    }));
    report.watched = Some(measured);
    Ok(())
}

const URL_HELP: &str =
    "write it as rtsp://host:port/path, and user and password as --user and --password-file";

/// Connects and says OPTIONS and DESCRIBE by hand, without user and password.
async fn greet(url: &Url, report: &mut Report) -> Result<(), Finding> {
    let mut stream = reach(url).await?;
    let place = place(url);
    let options = ask(&mut stream, url, "OPTIONS", 1).await.map_err(|error| {
        wrong(format!(
            "{place} takes the connection, but does not answer OPTIONS: {error}; it may have too many viewers: close \
             others or restart it"
        ))
    })?;
    if !options.starts_with("RTSP/1.") {
        let said: String = options.lines().next().unwrap_or_default().chars().take(60).collect();
        return Err(wrong(format!(
            "something listens at {place}, but it does not speak RTSP (it said {said:?}); take the camera's RTSP port, \
             often 554"
        )));
    }
    report.server = header(&options, "server");
    // Who closes after OPTIONS keeps his way of authentication to himself.
    if let Ok(described) = ask(&mut stream, url, "DESCRIBE", 2).await {
        let scheme = header(&described, "www-authenticate")
            .and_then(|value| value.split_whitespace().next().map(str::to_owned));
        report.authentication = match status(&described) {
            Some(401) => scheme,
            Some(200..300) => Some("none".into()),
            _ => None,
        };
    }
    Ok(())
}

fn place(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(554))
}

/// Looks the host up and connects, and says which of them failed.
async fn reach(url: &Url) -> Result<TcpStream, Finding> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(554));
    let host = host.trim_matches(['[', ']']);
    let place = place(url);
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| {
        wrong(format!("the name {host} is not known here ({error}); write the camera's IP address"))
    })?;
    let address = addresses.next().ok_or_else(|| wrong(format!("the name {host} has no address")))?;
    match tokio::time::timeout(CAMERA_CONNECT_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(wrong(format!(
            "the host is there, but nothing listens at {place}; switch RTSP on in the camera's settings and check the port"
        ))),
        Ok(Err(error)) => {
            Err(wrong(format!("no way to {place} ({error}); check cable, network and address")))
        }
        Err(_) => Err(wrong(format!(
            "{place} does not answer within {} s; is the camera on, the address right, a firewall in between?",
            CAMERA_CONNECT_MAX.as_secs()
        ))),
    }
}

/// One request without a body; the head of its answer.
async fn ask(stream: &mut TcpStream, url: &Url, method: &str, number: u32) -> Result<String, std::io::Error> {
    let agent = concat!("camnet/", env!("CARGO_PKG_VERSION"));
    let request = format!("{method} {url} RTSP/1.0\r\nCSeq: {number}\r\nUser-Agent: {agent}\r\n\r\n");
    let answered = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::Error::other("it closes the connection"));
            }
            let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
            // A greeting that is no RTSP has no such end.
            let is_foreign = !answer.starts_with(b"RTSP") && answer.contains(&b'\n');
            if head.is_some() || is_foreign || answer.len() > RTSP_MESSAGE_BYTES_MAX {
                answer.truncate(head.unwrap_or(answer.len()));
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
        }
    };
    let in_time = tokio::time::timeout(CAMERA_CONNECT_MAX, answered).await;
    in_time.unwrap_or_else(|_| Err(std::io::Error::other("it keeps silent")))
}

fn status(head: &str) -> Option<u16> {
    head.split_whitespace().nth(1)?.parse().ok()
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn why_not_described(camera: &CameraConfig, report: &Report, error: &SessionError) -> String {
    let scheme = report.authentication.as_deref().unwrap_or("unknown scheme");
    match (error.status(), &camera.user) {
        (Some(401), None) => {
            format!("the camera wants user and password ({scheme}); give --user and --password-file")
        }
        (Some(401), Some(user)) => format!(
            "the camera does not take this password of user {user} ({scheme}); some cameras lock a user after a few tries"
        ),
        (Some(403), _) => "this user may not see the stream; give it the right to live view in the camera".into(),
        (Some(404), _) => "the camera has no stream at this path; look it up in its manual: often \
             /Streaming/Channels/101 (Hikvision), /cam/realmonitor?channel=1&subtype=0 (Dahua), /stream1 (TP-Link), \
             /h264Preview_01_main (Reolink)"
            .into(),
        (Some(453 | 503), _) => "the camera has too many viewers; close others or restart it".into(),
        _ => error.in_short(),
    }
}

fn no_video(streams: &[StreamSeen]) -> String {
    let codecs: Vec<&str> = streams.iter().filter(|s| s.media == "video").map(|s| s.codec.as_str()).collect();
    match codecs.is_empty() {
        true => "the camera has no video at this path".into(),
        false => format!(
            "video as {} can't be recorded; set the camera to H.264 or H.265 in its settings",
            codecs.join(", ")
        ),
    }
}

fn stream_seen(stream: &retina::client::Stream) -> StreamSeen {
    let mut seen = StreamSeen {
        media: stream.media().to_owned(),
        codec: stream.encoding_name().to_owned(),
        profile: None,
        width: None,
        height: None,
        declared_fps: stream.framerate().map(f64::from),
    };
    if let Some(ParametersRef::Video(video)) = stream.parameters() {
        let (width, height) = video.pixel_dimensions();
        (seen.width, seen.height) = (Some(width), Some(height));
        seen.profile = Some(video.rfc6381_codec().to_owned());
        let by_sets = video.frame_rate().filter(|(ticks, _)| *ticks > 0);
        let by_sets = by_sets.map(|(ticks, scale)| f64::from(scale) / f64::from(ticks));
        seen.declared_fps = seen.declared_fps.or(by_sets);
    }
    seen
}

/// What came while it was watched.
#[derive(Default)]
struct Watch {
    began: bool,
    track: Option<Track>,
    pictures: u64,
    bytes: u64,
    key_frames: Vec<i64>,
    first: Option<(i64, Time)>,
    last: Option<(i64, Time)>,
    newest_pts: i64,
    reordered: u64,
    lost_packets: u64,
    time_jumps: u64,
    sender_reports: u64,
    clock_offset_ms: Option<i64>,
    metadata_messages: u64,
    metadata_refused: u64,
    metadata_late_ms: Option<i64>,
    motion_notices: u64,
    objects: u64,
    failed: Option<SessionError>,
}

/// Watches through the recorder's connection; once more where keep-alives are confused.
async fn watch(camera: &CameraConfig, ways: &mut Ways, seconds: Duration) -> Watch {
    // A stall shows within the time that is watched.
    let stall = SignedDuration::try_from(seconds / 2).unwrap_or(camera.stall).min(camera.stall);
    let camera = CameraConfig { stall: stall.max(SignedDuration::from_secs(2)), ..camera.clone() };
    let mut watch = Watch::default();
    let mut ended = watch_once(&camera, ways, seconds, &mut watch).await;
    if ended.as_ref().is_err_and(|error| ways.learn(error)) {
        watch = Watch::default();
        ended = watch_once(&camera, ways, seconds, &mut watch).await;
    }
    watch.failed = ended.err();
    watch
}

async fn watch_once(
    camera: &CameraConfig,
    ways: &mut Ways,
    seconds: Duration,
    watch: &mut Watch,
) -> Result<(), SessionError> {
    let (items, mut queue) = mpsc::channel(1);
    let enough = CancellationToken::new();
    let take = async {
        // Connecting does not count.
        let Some(first) = queue.recv().await else { return };
        watch.take(first);
        let until_enough = async {
            while let Some(item) = queue.recv().await {
                watch.take(item);
            }
        };
        let _ = tokio::time::timeout(seconds, until_enough).await;
        enough.cancel();
        while queue.recv().await.is_some() {}
    };
    let session = async {
        let ended = session::run_once(camera, ways, &items, &enough).await;
        drop(items);
        ended
    };
    tokio::join!(session, take).0
}

impl Watch {
    fn take(&mut self, item: SessionItem) {
        self.began = true;
        match item {
            SessionItem::Track(track) => self.track = Some(track),
            SessionItem::Unit(unit) => self.unit(&unit),
            SessionItem::SenderReport(report) => self.report(report),
            SessionItem::Metadata(message) => self.metadata(&message),
            // The camera is asked for its pictures only.
            SessionItem::Audio(_) | SessionItem::AudioReport(_) => {}
        }
    }

    fn metadata(&mut self, message: &MetadataMessage) {
        let Ok(metadata) = &message.content else {
            self.metadata_refused += 1;
            return;
        };
        self.metadata_messages += 1;
        self.motion_notices += metadata.notices.len() as u64;
        self.objects += metadata.frames.iter().map(|frame| frame.objects.len() as u64).sum::<u64>();
        let frames = metadata.frames.iter().filter_map(|frame| frame.utc);
        if let Some(newest) = metadata.notices.iter().filter_map(|notice| notice.utc).chain(frames).max() {
            let late_ms = message.arrived.as_millisecond() - newest.as_millisecond();
            self.metadata_late_ms = Some(late_ms + self.clock_offset_ms.unwrap_or(0));
        }
    }

    fn unit(&mut self, unit: &AccessUnit) {
        let (first_pts, _) = *self.first.get_or_insert((unit.pts, unit.arrived));
        if self.pictures == 0 {
            self.newest_pts = first_pts;
        }
        self.pictures += 1;
        self.bytes += unit.data.len() as u64;
        self.lost_packets += u64::from(unit.lost_packets);
        let jump = i64::from(TIMESCALE) * FRAME_GAP_MAX.as_secs() as i64;
        if self.last.is_some_and(|(pts, _)| (unit.pts - pts).abs() > jump) {
            self.time_jumps += 1;
            self.newest_pts = unit.pts;
        }
        self.reordered += u64::from(unit.pts < self.newest_pts);
        self.newest_pts = self.newest_pts.max(unit.pts);
        self.last = Some((unit.pts, unit.arrived));
        if unit.sync {
            self.key_frames.push(unit.pts);
        }
    }

    fn report(&mut self, report: SenderReport) {
        self.sender_reports += 1;
        self.clock_offset_ms = Some(report.time.as_millisecond() - report.arrived.as_millisecond());
    }

    fn measured(&self, seconds: Duration, ways: &Ways) -> Watched {
        let (first, last) = (self.first.unwrap_or_default(), self.last.unwrap_or_default());
        let here_s = last.1.duration_since(first.1).as_secs_f64();
        let there_s = (last.0 - first.0) as f64 / f64::from(TIMESCALE);
        let per_second = |count: f64| if here_s > 0.0 { count / here_s } else { 0.0 };
        let between =
            self.key_frames.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / f64::from(TIMESCALE));
        let intervals = self.key_frames.len().saturating_sub(1);
        Watched {
            seconds: here_s.min(seconds.as_secs_f64()),
            pictures: self.pictures,
            fps: per_second(self.pictures.saturating_sub(1) as f64),
            kbit_per_s: per_second(self.bytes as f64 * 8.0 / 1000.0),
            width: self.track.as_ref().map_or(0, |track| track.width),
            height: self.track.as_ref().map_or(0, |track| track.height),
            key_frames: self.key_frames.len() as u64,
            key_frame_interval_s: (intervals > 0).then(|| between.sum::<f64>() / intervals as f64),
            reordered: self.reordered,
            lost_packets: self.lost_packets,
            sender_reports: self.sender_reports,
            clock_offset_ms: self.clock_offset_ms,
            time_jumps: self.time_jumps,
            time_speed: (here_s > 1.0 && self.time_jumps == 0).then(|| there_s / here_s),
            metadata_messages: self.metadata_messages,
            metadata_refused: self.metadata_refused,
            motion_notices: self.motion_notices,
            objects: self.objects,
            metadata_late_ms: self.metadata_late_ms,
            metadata_breaks: ways.is_without_metadata(),
            confuses_keep_alives: ways.relay,
        }
    }
}

fn why_lost(error: &SessionError, pictures: u64) -> String {
    match error {
        SessionError::Stalled { seconds } if pictures == 0 => format!(
            "the camera says it plays, but no picture comes within {seconds} s; over UDP a firewall may keep the packets back"
        ),
        SessionError::Stalled { .. } => format!("the stream fell silent after {pictures} pictures"),
        SessionError::Closed => format!("the camera closed the stream after {pictures} pictures"),
        error if error.began() => format!("after {pictures} pictures: {}", error.in_short()),
        error => error.in_short(),
    }
}

/// Whether parameter sets come before key frames; none if no key frame came in time.
async fn sets_in_band(camera: &CameraConfig, ways: &mut Ways) -> Option<bool> {
    let looking = async {
        let (mut session, _relay) = session::describe(camera, ways).await.ok()?;
        let video = session::video_of(&session)?;
        let is_h265 = session.streams()[video].encoding_name() == "h265";
        session::set_up_video(&mut session, video, camera, ways).await.ok()?;
        let mut playing: Session<_> = session.play(session::play_options()).await.ok()?;
        let mut has_sets = false;
        while let Some(Ok(item)) = playing.next().await {
            let PacketItem::Rtp(packet) = item else { continue };
            for kind in nal_types(packet.payload(), is_h265) {
                // ITU-T H.264, table 7-1; H.265, table 7-1.
                let (is_set, is_key) = match is_h265 {
                    true => ((32..=34).contains(&kind), (16..=21).contains(&kind)),
                    false => (kind == 7 || kind == 8, kind == 5),
                };
                has_sets |= is_set;
                if is_key {
                    return Some(has_sets);
                }
            }
        }
        None
    };
    tokio::time::timeout(PROBE_SETS_WAIT, looking).await.ok().flatten()
}

/// Types of the NAL units that begin in an RTP payload (RFC 6184, 5.4; RFC 7798, 4.4).
fn nal_types(payload: &[u8], is_h265: bool) -> Vec<u8> {
    let (header, aggregate, fragment) = if is_h265 { (2, 48, 49) } else { (1, 24, 28) };
    let kind = |byte: u8| if is_h265 { byte >> 1 & 0x3f } else { byte & 0x1f };
    let Some(&first) = payload.first() else { return Vec::new() };
    match kind(first) {
        of if of == fragment => match payload.get(header) {
            Some(fu) if fu & 0x80 != 0 => vec![fu & if is_h265 { 0x3f } else { 0x1f }],
            _ => Vec::new(),
        },
        of if of == aggregate => {
            let (mut types, mut rest) = (Vec::new(), &payload[header.min(payload.len())..]);
            while let [high, low, unit @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                types.extend(unit.first().map(|byte| kind(*byte)));
                rest = unit.get(length..).unwrap_or_default();
            }
            types
        }
        of => vec![of],
    }
}

/// The verdict on what was watched.
fn judge(
    camera: &CameraConfig,
    streams: &[StreamSeen],
    video: usize,
    seen: &Watched,
    report: &Report,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if report.transport == Some("udp") && camera.transport == Transport::Auto {
        findings.push(note(
            "it refuses TCP, UDP works: packets that the network drops are missing from the recording",
        ));
    }
    if seen.pictures > 0 {
        findings.extend(judge_pictures(streams.get(video), seen));
        findings.extend(judge_time(seen));
    }
    if report.parameter_sets == Some(ParameterSets::InBand) {
        findings.push(note("parameter sets come with the pictures only: a recording begins at a key frame"));
    }
    if seen.confuses_keep_alives {
        findings.push(note(
            "it answers keep-alives wrongly; the box loses it once and from then on works around it",
        ));
    }
    if streams.iter().any(|stream| stream.media == "audio") {
        findings.push(note("it sends audio"));
    }
    findings.extend(
        streams
            .iter()
            .find(|s| s.codec.starts_with("vnd.onvif.metadata"))
            .map(|stream| judge_metadata(stream, seen)),
    );
    findings
}

fn judge_pictures(stream: Option<&StreamSeen>, seen: &Watched) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.width == 0 {
        findings.push(wrong(
            "pictures come without parameter sets (SPS, PPS), neither in the SDP nor in-band; restart the camera or \
             update its firmware",
        ));
    } else if seen.key_frames == 0 {
        findings.push(wrong(format!(
            "no key frame within {:.0} s; set the key frame interval (I frame interval, GOP) to 2 s and look again",
            seen.seconds
        )));
    } else {
        let (width, height, fps) = (seen.width, seen.height, seen.fps);
        findings.push(good(format!(
            "{width}x{height} at {fps:.1} pictures per second, {:.0} kbit/s",
            seen.kbit_per_s
        )));
    }
    let declared = stream.and_then(|stream| stream.declared_fps).filter(|fps| *fps > 0.0);
    if let Some(declared) = declared.filter(|declared| (seen.fps / declared - 1.0).abs() > DIFFERS) {
        findings
            .push(note(format!("it declares {declared:.1} pictures per second and sends {:.1}", seen.fps)));
    }
    match seen.key_frame_interval_s {
        Some(interval) if interval > KEY_FRAMES_FAR_S => findings.push(note(format!(
            "a key frame only each {interval:.1} s: clips begin earlier than need be; 2 s is a good interval"
        ))),
        Some(interval) => findings.push(good(format!("a key frame each {interval:.1} s"))),
        None => {}
    }
    if seen.reordered > 0 {
        findings.push(note(
            "it uses B-frames: recorded as they are, but they cost memory and delay; switch them off",
        ));
    }
    if seen.lost_packets > 0 {
        findings.push(note(format!(
            "{} packets were lost in {:.0} s; look at the network, or at a camera that has too much to do",
            seen.lost_packets, seen.seconds
        )));
    }
    findings
}

/// What the camera's own analysis is worth.
fn judge_metadata(stream: &StreamSeen, seen: &Watched) -> Finding {
    let (messages, notices, objects) = (seen.metadata_messages, seen.motion_notices, seen.objects);
    if stream.codec != "vnd.onvif.metadata" {
        return note(format!("its metadata stream is compressed ({}), which is not read", stream.codec));
    }
    if seen.metadata_breaks {
        return note("its ONVIF metadata stream breaks the connection; the box records without it");
    }
    match (messages, seen.metadata_refused) {
        (0, 0) => note(
            "it has an ONVIF metadata stream, which said nothing; switch motion detection on in the camera, and walk",
        ),
        (_, 0) => good(format!(
            "ONVIF metadata: {messages} messages with {notices} motion notices and {objects} objects"
        )),
        (_, refused) => note(format!(
            "ONVIF metadata: {messages} messages were read, {refused} can't be read; update the camera's firmware"
        )),
    }
}

fn judge_time(seen: &Watched) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.time_jumps > 0 {
        findings.push(note(format!(
            "the time of its pictures jumped {} times; each is a gap in the account",
            seen.time_jumps
        )));
    }
    if let Some(speed) = seen.time_speed.filter(|speed| (speed - 1.0).abs() > DIFFERS) {
        findings.push(note(format!("the time of its pictures runs at {speed:.2} times the true speed")));
    }
    let Some(offset_ms) = seen.clock_offset_ms else {
        findings.push(note("no sender reports (RTCP): the time of arrival at the box is what counts"));
        return findings;
    };
    let offset = Duration::from_millis(offset_ms.unsigned_abs());
    let offset_s = offset_ms as f64 / 1000.0;
    findings.push(if offset > CAMERA_CLOCK_OFFSET_MAX {
        note(format!("its clock is off by {offset_s:+.1} s, so the box's is used; set NTP up in the camera"))
    } else if offset > RUN_CLOCK_SHIFT_MAX {
        note(format!("its clock is off by {offset_s:+.1} s; set NTP up in the camera"))
    } else {
        good(format!("sender reports; its clock agrees within {} ms", offset_ms.abs().max(1)))
    });
    findings
}

/// Main and sub stream in the addresses of common makes.
const SUB_STREAMS: [(&str, &str); 8] = [
    ("/Streaming/Channels/101", "/Streaming/Channels/102"),
    ("subtype=0", "subtype=1"),
    ("/stream1", "/stream2"),
    ("_main", "_sub"),
    ("/main", "/sub"),
    ("stream=0", "stream=1"),
    ("/av0_0", "/av0_1"),
    ("/11", "/12"),
];

fn sub_stream_urls(url: &str) -> Vec<String> {
    let of = |(main, sub): &(&str, &str)| url.contains(main).then(|| url.replacen(main, sub, 1));
    SUB_STREAMS.iter().filter_map(of).take(PROBE_PATHS_MAX).collect()
}

/// Asks at the usual other path, where the address has one of the usual forms.
async fn smaller(camera: &CameraConfig, seen: &Watched) -> Option<Smaller> {
    for url in sub_stream_urls(&camera.url) {
        let other = CameraConfig { url: url.clone(), ..camera.clone() };
        let Ok((described, _)) = session::describe(&other, &Ways::default()).await else { continue };
        let video = session::video_of(&described).map(|video| stream_seen(&described.streams()[video]));
        let Some(StreamSeen { width: Some(width), height: Some(height), .. }) = video else { continue };
        if width * height < seen.width * seen.height {
            return Some(Smaller { url, width, height });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_types_are_read_from_each_form_of_payload() {
        type Case<'a> = (&'a [u8], bool, &'a [u8]);
        let cases: [Case; 11] = [
            (&[], false, &[]),
            (&[0x67, 1], false, &[7]),
            (&[0x7c, 0x85, 9], false, &[5]),
            (&[0x7c, 0x05, 9], false, &[]),
            (&[0x7c], false, &[]),
            (&[0x78, 0, 2, 0x67, 1, 0, 1, 0x68], false, &[7, 8]),
            (&[0x78, 0, 9, 0x67], false, &[7]),
            (&[0x40, 1, 0], true, &[32]),
            (&[0x62, 1, 0x93, 9], true, &[19]),
            (&[0x60, 1, 0, 2, 0x42, 1, 0, 2, 0x44, 1], true, &[33, 34]),
            (&[0x60], true, &[]),
        ];
        for (payload, is_h265, types) in cases {
            assert_eq!(nal_types(payload, is_h265), types, "{payload:02x?}");
        }
    }

    #[test]
    fn sub_streams_of_common_makes_are_known() {
        let cases = [
            ("rtsp://h/Streaming/Channels/101", "rtsp://h/Streaming/Channels/102"),
            ("rtsp://h/cam/realmonitor?channel=1&subtype=0", "rtsp://h/cam/realmonitor?channel=1&subtype=1"),
            ("rtsp://h/h264Preview_01_main", "rtsp://h/h264Preview_01_sub"),
        ];
        for (main, sub) in cases {
            assert_eq!(sub_stream_urls(main), [sub]);
        }
        assert!(sub_stream_urls("rtsp://h/live").is_empty());
    }
}
