//! Real RTSP servers on loopback, for the demo and the tests: cameras that play a file's original
//! H.264 or H.265, or pictures that someone draws.
//!
//! Owns gst-rtsp-server and its threads. A mount's stream is shared by its clients and begins anew
//! when a client comes after the last one left. May not know what the pictures show.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use gst::glib;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans};
use gstreamer_rtsp_server::prelude::*;

use super::{MediaError, caps_name, init};
use crate::model::VideoCodec;

const PIPELINE: &str = "rtsp server";
/// Sender reports come this often, so that a box soon knows the camera's time.
const SENDER_REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long a file that was played once stays connected, so that its last pictures arrive.
const AFTER_END: Duration = Duration::from_secs(1);
/// Wait between looks at a flag; bounds how long a stop or a stall takes to work.
const TICK: Duration = Duration::from_millis(10);
/// A file's demultiplexer that gives nothing for this long has failed.
const FILE_SILENT_MAX: Duration = Duration::from_secs(10);
/// Access units that wait between a file and its clients.
const FILE_QUEUE_MAX: u64 = 16;
const DRAWN_KBIT_PER_S: u32 = 800;
const DRAWN_KEY_FRAME_S: u32 = 2;
const ROLE: &str = "viewer";

/// User and password that clients must know (RTSP Digest).
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// What a file mount does at the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The first whole play is the only one: then the clients are closed and the mount is gone.
    Once,
    /// The stream falls silent; who comes after the last client has left gets it from the start.
    PerClient,
    /// It goes on from the start, in one unbroken stream.
    Loop,
}

/// Someone who draws pictures.
pub trait Pictures: Send + 'static {
    fn width(&self) -> u32;
    fn height(&self) -> u32;
    fn fps(&self) -> u32;
    /// Picture `n` as I420. `n` counts from the moment of mounting, whether anybody looks or not.
    fn picture(&mut self, n: u64) -> Vec<u8>;
}

/// A server with its own thread. Dropping it closes all clients and frees the port.
pub struct RtspServer {
    server: gst_rtsp_server::RTSPServer,
    context: glib::MainContext,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
    port: u16,
    authenticated: bool,
}

/// A stream that is served; the server keeps it when this is dropped.
#[derive(Clone)]
pub struct Mount {
    path: String,
    shared: Arc<MountState>,
}

struct MountState {
    stalled: AtomicBool,
    gone: AtomicBool,
    plays: AtomicU64,
    started: Instant,
    started_at: SystemTime,
}

impl RtspServer {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub fn start(port: u16, credentials: Option<&Credentials>) -> Result<Self, MediaError> {
        init()?;
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&port.to_string());
        server.set_auth(credentials.map(digest).as_ref());
        let context = glib::MainContext::new();
        server.attach(Some(&context)).map_err(|_| {
            failed(format!("127.0.0.1:{port} can't be bound; is another program listening there?"))
        })?;
        let bound = u16::try_from(server.bound_port()).map_err(|_| failed("no port was bound".into()))?;
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let (run_context, run_loop) = (context.clone(), main_loop.clone());
        let thread = std::thread::Builder::new()
            .name(format!("rtsp-{bound}"))
            .spawn(move || {
                run_context.with_thread_default(|| run_loop.run()).expect("nobody else runs this context")
            })
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            server,
            context,
            main_loop,
            thread: Some(thread),
            port: bound,
            authenticated: credentials.is_some(),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a mount, without user and password.
    pub fn url(&self, path: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{}", self.port, path.trim_start_matches('/'))
    }

    /// Serves the H.264 or H.265 of an MP4, QuickTime or Matroska file as it stands, in real time, and its AAC or G.711
    /// if it has any.
    pub fn mount_file(&self, path: &str, file: &Path, repeat: Repeat) -> Result<Mount, MediaError> {
        let file = file.canonicalize().map_err(|e| failed(format!("{}: {e}", file.display())))?;
        let mount = Mount::new(path);
        let video = payloader(Demux::open(&file, Media::Video)?.codec()?);
        let audio = Demux::open(&file, Media::Audio)?.audio_payloader();
        // Parameter sets stand in the SDP; -1 would also put them between the slices of a key frame.
        let source = |name: &str| {
            let queue = format!("max-bytes=0 max-buffers={FILE_QUEUE_MAX}");
            format!("appsrc name={name} format=time is-live=false block=true {queue}")
        };
        let audio = audio.map(|payloader| format!("{} ! {payloader}", source("audio"))).unwrap_or_default();
        let video = format!("{} ! {video} name=pay0 pt=96 config-interval=0", source("source"));
        let factory = self.factory(&format!("( {video} {audio} )"));
        let at_end: Arc<dyn Fn() + Send + Sync> = match repeat {
            Repeat::Once => Arc::new(self.close_later(&mount)),
            Repeat::PerClient | Repeat::Loop => Arc::new(|| {}),
        };
        let shared = mount.shared.clone();
        factory.connect_media_configure(move |_, media| {
            shared.plays.fetch_add(1, Ordering::Relaxed);
            report_early(media);
            let Some(source) = source_of(media) else { return };
            hold_when_stalled(media, &shared);
            let again = repeat == Repeat::Loop;
            if let Some(source) = bin_of(media).and_then(|bin| bin.by_name("audio")?.downcast().ok()) {
                let (file, shared) = (file.clone(), shared.clone());
                spawn_feeder("rtsp-audio", move || {
                    if let Err(error) = feed_file(&file, Media::Audio, &source, again, &shared) {
                        tracing::error!(%error, file = %file.display(), "audio can't be served");
                    }
                });
            }
            let (file, shared, at_end) = (file.clone(), shared.clone(), at_end.clone());
            spawn_feeder("rtsp-file", move || {
                match feed_file(&file, Media::Video, &source, again, &shared) {
                    Ok(Fed::ToTheEnd) => at_end(),
                    Ok(Fed::NobodyLooks) => {}
                    Err(error) => {
                        tracing::error!(%error, file = %file.display(), "file can't be served");
                        let _ = source.end_of_stream();
                    }
                }
            });
        });
        self.add(&mount, factory)?;
        Ok(mount)
    }

    /// Serves pictures as they are drawn, encoded live as H.264.
    pub fn mount_drawn(&self, path: &str, pictures: impl Pictures) -> Result<Mount, MediaError> {
        self.mount_drawn_as(path, pictures, VideoCodec::H264)
    }

    /// Serves pictures as they are drawn, encoded live.
    pub fn mount_drawn_as(
        &self,
        path: &str,
        pictures: impl Pictures,
        codec: VideoCodec,
    ) -> Result<Mount, MediaError> {
        let mount = Mount::new(path);
        let fps = pictures.fps().max(1);
        let (width, height) = (pictures.width(), pictures.height());
        let factory = self.factory(&format!(
            "( appsrc name=source format=time is-live=true max-bytes=0 max-buffers=2 leaky-type=downstream \
             caps=video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 \
             ! {} ! {} name=pay0 pt=96 config-interval=-1 )",
            drawn_encoder(codec, fps * DRAWN_KEY_FRAME_S),
            payloader(codec)
        ));
        let shared = mount.shared.clone();
        let pictures: Arc<Mutex<dyn Pictures>> = Arc::new(Mutex::new(pictures));
        factory.connect_media_configure(move |_, media| {
            shared.plays.fetch_add(1, Ordering::Relaxed);
            report_early(media);
            let Some(source) = source_of(media) else { return };
            drop_when_stalled(media, &shared);
            let (pictures, shared) = (pictures.clone(), shared.clone());
            spawn_feeder("rtsp-drawn", move || feed_drawn(&pictures, &source, fps, &shared));
        });
        self.add(&mount, factory)?;
        Ok(mount)
    }

    /// Takes a mount away and closes the clients that look at it.
    pub fn unmount(&self, mount: &Mount) {
        close_mount(&self.server, mount);
    }

    pub fn stop(self) {
        drop(self);
    }

    fn factory(&self, launch: &str) -> gst_rtsp_server::RTSPMediaFactory {
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(launch);
        factory.set_shared(true);
        factory.set_protocols(RTSPLowerTrans::TCP);
        if self.authenticated {
            let rights = gst::Structure::builder(ROLE)
                .field("media.factory.access", true)
                .field("media.factory.construct", true)
                .build();
            factory.add_role_from_structure(&rights);
        }
        factory
    }

    fn add(&self, mount: &Mount, factory: gst_rtsp_server::RTSPMediaFactory) -> Result<(), MediaError> {
        let mounts = self.server.mount_points().ok_or_else(|| failed("no mount points".into()))?;
        mounts.add_factory(&mount.path, factory);
        Ok(())
    }

    fn close_later(&self, mount: &Mount) -> impl Fn() + Send + Sync + 'static {
        let (server, context, mount) = (self.server.clone(), self.context.clone(), mount.clone());
        move || {
            if let Some(mounts) = server.mount_points() {
                mounts.remove_factory(&mount.path);
            }
            let (server, mount) = (server.clone(), mount.clone());
            let close = glib::timeout_source_new(AFTER_END, None, glib::Priority::DEFAULT, move || {
                close_mount(&server, &mount);
                glib::ControlFlow::Break
            });
            close.attach(Some(&context));
        }
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        for client in self.server.client_filter(None) {
            client.close();
        }
        // Quit from inside, so that it counts even if the loop has not begun to run yet.
        let main_loop = self.main_loop.clone();
        self.context.invoke(move || main_loop.quit());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(port = self.port, "rtsp server thread panicked");
        }
    }
}

impl Mount {
    fn new(path: &str) -> Self {
        let shared = MountState {
            stalled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            plays: AtomicU64::new(0),
            started: Instant::now(),
            started_at: SystemTime::now(),
        };
        Self { path: format!("/{}", path.trim_start_matches('/')), shared: Arc::new(shared) }
    }

    /// While true, clients stay connected and get no pictures, as when a camera's encoder hangs.
    pub fn set_stalled(&self, stalled: bool) {
        self.shared.stalled.store(stalled, Ordering::Relaxed);
    }

    /// How many times the stream began anew.
    pub fn plays(&self) -> u64 {
        self.shared.plays.load(Ordering::Relaxed)
    }

    /// When picture 0 of a drawn mount was due.
    pub fn started_at(&self) -> SystemTime {
        self.shared.started_at
    }
}

/// How feeding a file ended.
enum Fed {
    ToTheEnd,
    NobodyLooks,
}

fn payloader(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "rtph264pay",
        VideoCodec::H265 => "rtph265pay",
    }
}

/// A live encoder of one thread, as far as it lets itself be told, with a key frame every `key_frame` pictures.
fn drawn_encoder(codec: VideoCodec, key_frame: u32) -> String {
    match codec {
        VideoCodec::H264 => format!(
            "x264enc tune=zerolatency speed-preset=veryfast threads=1 key-int-max={key_frame} \
             bitrate={DRAWN_KBIT_PER_S} ! video/x-h264,profile=main"
        ),
        VideoCodec::H265 => format!(
            "x265enc tune=zerolatency speed-preset=ultrafast log-level=none key-int-max={key_frame} \
             bitrate={DRAWN_KBIT_PER_S} option-string=\"pools=none:frame-threads=1\" ! video/x-h265,profile=main"
        ),
    }
}

fn failed(detail: String) -> MediaError {
    MediaError::Pipeline { pipeline: PIPELINE, detail }
}

fn digest(credentials: &Credentials) -> gst_rtsp_server::RTSPAuth {
    let auth = gst_rtsp_server::RTSPAuth::new();
    let role = gst_rtsp_server::RTSP_TOKEN_MEDIA_FACTORY_ROLE;
    let token = gst_rtsp_server::RTSPToken::builder().field(role.as_str(), ROLE).build();
    auth.set_supported_methods(RTSPAuthMethod::Digest);
    auth.add_digest(&credentials.user, &credentials.password, &token);
    auth
}

fn close_mount(server: &gst_rtsp_server::RTSPServer, mount: &Mount) {
    mount.shared.gone.store(true, Ordering::Relaxed);
    if let Some(mounts) = server.mount_points() {
        mounts.remove_factory(&mount.path);
    }
    for client in server.client_filter(None) {
        let mut sessions = client.session_filter(None).into_iter();
        let looks = sessions.any(|s| s.filter(None).iter().any(|media| media.matches(&mount.path).is_some()));
        if looks {
            client.close();
        }
    }
}

fn spawn_feeder(name: &str, feed: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(feed) {
        tracing::error!(%error, thread = name, "thread can't be started");
    }
}

fn bin_of(media: &gst_rtsp_server::RTSPMedia) -> Option<gst::Bin> {
    media.element().downcast::<gst::Bin>().ok()
}

fn source_of(media: &gst_rtsp_server::RTSPMedia) -> Option<gst_app::AppSrc> {
    bin_of(media)?.by_name("source")?.downcast().ok()
}

/// Of the video, and of the audio if there is any.
fn payload_pads(media: &gst_rtsp_server::RTSPMedia) -> Vec<gst::Pad> {
    let pad = |name: &str| bin_of(media)?.by_name(name)?.static_pad("src");
    ["pay0", "pay1"].into_iter().filter_map(pad).collect()
}

/// Lets sender reports go out at once and often; the default waits up to some seconds.
fn report_early(media: &gst_rtsp_server::RTSPMedia) {
    media.connect_prepared(|media| {
        let pipeline = media.element().parent().and_downcast::<gst::Bin>();
        let elements = pipeline.map(|p| p.children()).unwrap_or_default();
        let is_rtpbin = |e: &&gst::Element| e.factory().is_some_and(|f| f.name() == "rtpbin");
        let Some(rtpbin) = elements.iter().find(is_rtpbin) else { return };
        for stream in 0..media.n_streams() {
            let session = rtpbin.emit_by_name::<Option<glib::Object>>("get-internal-session", &[&stream]);
            if let Some(session) = session {
                session.set_property("rtcp-min-interval", SENDER_REPORT_EVERY.as_nanos() as u64);
            }
        }
    });
}

/// A file waits while its mount is stalled.
fn hold_when_stalled(media: &gst_rtsp_server::RTSPMedia, shared: &Arc<MountState>) {
    for pad in payload_pads(media) {
        let shared = shared.clone();
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, _| {
            let is_held = || shared.stalled.load(Ordering::Relaxed);
            while is_held() && !pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
                std::thread::sleep(TICK);
            }
            gst::PadProbeReturn::Ok
        });
    }
}

/// What is drawn while its mount is stalled is lost.
fn drop_when_stalled(media: &gst_rtsp_server::RTSPMedia, shared: &Arc<MountState>) {
    for pad in payload_pads(media) {
        let shared = shared.clone();
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
            match shared.stalled.load(Ordering::Relaxed) {
                true => gst::PadProbeReturn::Drop,
                false => gst::PadProbeReturn::Ok,
            }
        });
    }
}

/// Pushes a file's access units as they are. The clients' clock paces it: the queue is small and
/// pushing blocks.
fn feed_file(
    file: &Path,
    media: Media,
    source: &gst_app::AppSrc,
    again: bool,
    shared: &MountState,
) -> Result<Fed, MediaError> {
    let mut offset = gst::ClockTime::ZERO;
    loop {
        let demux = Demux::open(file, media)?;
        let mut end = gst::ClockTime::ZERO;
        let mut count = 0u64;
        while let Some(sample) = demux.next()? {
            let (Some(buffer), Some(segment)) = (sample.buffer_owned(), sample.segment()) else { continue };
            let segment = segment.downcast_ref::<gst::ClockTime>();
            let running = |t: Option<gst::ClockTime>| segment.and_then(|s| s.to_running_time(t)).or(t);
            let (pts, dts) = (running(buffer.pts()), running(buffer.dts()));
            let mut buffer = buffer;
            let fresh = buffer.make_mut();
            fresh.set_pts(pts.map(|t| t + offset));
            fresh.set_dts(dts.map(|t| t + offset));
            end = end.max(pts.unwrap_or(end) + fresh.duration().unwrap_or(gst::ClockTime::ZERO));
            if count == 0 && offset.is_zero() {
                source.set_caps(sample.caps().map(|caps| caps.to_owned()).as_ref());
            }
            count += 1;
            if shared.gone.load(Ordering::Relaxed) || source.push_buffer(buffer).is_err() {
                return Ok(Fed::NobodyLooks);
            }
        }
        if count == 0 {
            return Err(failed(format!("{media:?} is not in the file")));
        }
        if !again {
            let _ = source.end_of_stream();
            return Ok(wait_for_end(source));
        }
        offset += end;
    }
}

/// Waits until what was pushed has left the queue, or nobody looks any more.
fn wait_for_end(source: &gst_app::AppSrc) -> Fed {
    loop {
        // A media that is taken down sets its source to Null.
        if source.current_state() < gst::State::Paused {
            return Fed::NobodyLooks;
        }
        if source.property::<u64>("current-level-buffers") == 0 {
            return Fed::ToTheEnd;
        }
        std::thread::sleep(TICK);
    }
}

/// One of the two streams of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Video,
    Audio,
}

/// What GStreamer calls the audio that can be served, and its payloader. G.711 as cameras send it: 40 ms a packet.
const AUDIO_PAYLOADERS: [(&str, &str); 3] = [
    ("audio/mpeg", "rtpmp4gpay name=pay1 pt=97"),
    ("audio/x-alaw", "rtppcmapay name=pay1 max-ptime=40000000"),
    ("audio/x-mulaw", "rtppcmupay name=pay1 max-ptime=40000000"),
];

impl Media {
    fn has(self, caps: &gst::CapsRef) -> bool {
        let name = caps.structure(0).map(|s| s.name().as_str()).unwrap_or_default();
        match self {
            Self::Video => CODECS.into_iter().any(|codec| caps_name(codec) == name),
            Self::Audio => AUDIO_PAYLOADERS.iter().any(|(audio, _)| *audio == name),
        }
    }
}

/// One stream of a file, access unit by access unit.
struct Demux {
    pipeline: gst::Pipeline,
    out: gst_app::AppSink,
}

impl Demux {
    fn open(file: &Path, media: Media) -> Result<Self, MediaError> {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let demux = super::element(if extension == "mkv" { "matroskademux" } else { "qtdemux" })?;
        let source = super::element("filesrc")?;
        source.set_property("location", PathBuf::from(file));
        let out = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
        let pipeline = gst::Pipeline::new();
        super::chain(&pipeline, PIPELINE, &[&source, &demux])?;
        pipeline.add(&out).map_err(|e| failed(e.to_string()))?;
        let sink = out.static_pad("sink").expect("an appsink has a sink pad");
        demux.connect_pad_added(move |_, pad| {
            if pad.current_caps().is_some_and(|caps| media.has(&caps))
                && !sink.is_linked()
                && let Err(error) = pad.link(&sink)
            {
                tracing::error!(%error, "demultiplexer can't be linked");
            }
        });
        let opened = Self { pipeline, out };
        opened.pipeline.set_state(gst::State::Playing).map_err(|e| failed(e.to_string()))?;
        Ok(opened)
    }

    fn codec(&self) -> Result<VideoCodec, MediaError> {
        let first = self.next()?;
        let name = first.as_ref().and_then(caps_name_of);
        let codec = CODECS.into_iter().find(|codec| name == Some(caps_name(*codec)));
        codec.ok_or_else(|| failed("no H.264 or H.265 in the file".into()))
    }

    /// None if the file has no audio: a demultiplexer from which nobody takes anything fails.
    fn audio_payloader(&self) -> Option<&'static str> {
        let first = self.next().ok()??;
        let name = caps_name_of(&first)?;
        AUDIO_PAYLOADERS.iter().find(|(audio, _)| name == *audio).map(|(_, payloader)| *payloader)
    }

    /// The next access unit; None at the end.
    fn next(&self) -> Result<Option<gst::Sample>, MediaError> {
        let deadline = Instant::now() + FILE_SILENT_MAX;
        while Instant::now() < deadline {
            if let Some(sample) = self.out.try_pull_sample(gst::ClockTime::from_mseconds(200)) {
                return Ok(Some(sample));
            }
            if self.out.is_eos() {
                return Ok(None);
            }
            let bus = self.pipeline.bus().expect("a pipeline has a bus");
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                && let gst::MessageView::Error(error) = message.view()
            {
                return Err(failed(super::error_detail(error)));
            }
        }
        Err(MediaError::Timeout { pipeline: PIPELINE, waited: FILE_SILENT_MAX })
    }
}

impl Drop for Demux {
    fn drop(&mut self) {
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(%error, "demultiplexer does not stop");
        }
    }
}

const CODECS: [VideoCodec; 2] = [VideoCodec::H264, VideoCodec::H265];

fn caps_name_of(sample: &gst::Sample) -> Option<&str> {
    Some(sample.caps()?.structure(0)?.name().as_str())
}

/// Draws each picture when it is due, until nobody looks.
fn feed_drawn(pictures: &Mutex<dyn Pictures>, source: &gst_app::AppSrc, fps: u32, shared: &MountState) {
    let interval = Duration::from_secs(1) / fps;
    let Some(running) = running_time_once_started(source) else { return };
    // Picture 0 was due when the mount began; the stream begins this much later.
    let zero = shared.started;
    let elapsed = zero.elapsed();
    let mut n = (elapsed.as_nanos() / interval.as_nanos()) as u64 + 1;
    while !shared.gone.load(Ordering::Relaxed) {
        let due = interval * u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(wait) = due.checked_sub(zero.elapsed()) {
            std::thread::sleep(wait);
        }
        let picture = match pictures.lock() {
            Ok(mut pictures) => pictures.picture(n),
            Err(_) => return,
        };
        let mut buffer = gst::Buffer::from_mut_slice(picture);
        let fresh = buffer.get_mut().expect("a new buffer has one owner");
        let since_start = due.saturating_sub(elapsed);
        fresh.set_pts(running + gst::ClockTime::from_nseconds(since_start.as_nanos() as u64));
        fresh.set_duration(gst::ClockTime::from_nseconds(interval.as_nanos() as u64));
        if source.push_buffer(buffer).is_err() {
            return;
        }
        n += 1;
    }
}

/// The source's running time, once its pipeline has a clock.
fn running_time_once_started(source: &gst_app::AppSrc) -> Option<gst::ClockTime> {
    let deadline = Instant::now() + FILE_SILENT_MAX;
    while Instant::now() < deadline {
        if source.current_state() == gst::State::Playing
            && let Some(running) = source.current_running_time()
        {
            return Some(running);
        }
        std::thread::sleep(TICK);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::testing::{run_to_end, run_until_eos};

    /// A player: GStreamer's own client, over TCP.
    struct Player {
        pipeline: gst::Pipeline,
        out: gst_app::AppSink,
    }

    impl Player {
        fn open(url: &str, credentials: Option<(&str, &str)>) -> Self {
            init().unwrap();
            let login = credentials.map(|(u, p)| format!("user-id={u} user-pw={p}")).unwrap_or_default();
            let pipeline = gst::parse::launch(&format!(
                "rtspsrc location={url} protocols=tcp latency=0 add-reference-timestamp-meta=true {login} \
                 ! application/x-rtp ! appsink name=out sync=false"
            ));
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            let out = pipeline.by_name("out").unwrap().downcast().unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            Self { pipeline, out }
        }

        /// The next RTP packet; None at the end, on an error, or after `wait`.
        fn next(&self, wait: Duration) -> Option<gst::Buffer> {
            let deadline = Instant::now() + wait;
            while Instant::now() < deadline && !self.ended() {
                if let Some(sample) = self.out.try_pull_sample(gst::ClockTime::from_mseconds(50)) {
                    return sample.buffer_owned();
                }
            }
            None
        }

        fn ended(&self) -> bool {
            let bus = self.pipeline.bus().unwrap();
            self.out.is_eos()
                || bus.peek().is_some_and(|_| bus.pop_filtered(&[gst::MessageType::Error]).is_some())
        }
    }

    impl Drop for Player {
        fn drop(&mut self) {
            self.pipeline.set_state(gst::State::Null).unwrap();
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Grey {
        asked: Arc<Mutex<Vec<(u64, SystemTime)>>>,
    }

    impl Pictures for Grey {
        fn width(&self) -> u32 {
            160
        }
        fn height(&self) -> u32 {
            120
        }
        fn fps(&self) -> u32 {
            20
        }
        fn picture(&mut self, n: u64) -> Vec<u8> {
            self.asked.lock().unwrap().push((n, SystemTime::now()));
            vec![(n % 200) as u8; 160 * 120 * 3 / 2]
        }
    }

    /// A small camera-like MP4, and its NAL units without parameter sets.
    fn file(dir: &Path, frames: u32) -> (PathBuf, Vec<Vec<u8>>) {
        let path = dir.join("street.mp4");
        run_until_eos(&format!(
            "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,width=320,height=240,framerate=20/1 \
             ! x264enc tune=zerolatency aud=true key-int-max=20 bitrate=400 ! h264parse \
             ! mp4mux ! filesink location={}",
            path.display()
        ));
        let samples = run_to_end(&format!(
            "filesrc location={} ! qtdemux ! video/x-h264,stream-format=avc ! appsink name=out sync=false",
            path.display()
        ));
        let mut nals = Vec::new();
        for sample in samples {
            let bytes = sample.buffer().unwrap().map_readable().unwrap().to_vec();
            let mut rest = &bytes[..];
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (nal, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
                nals.push(nal.to_vec());
                rest = tail;
            }
        }
        nals.retain(|nal| !is_parameter_set(nal));
        (path, nals)
    }

    fn is_parameter_set(nal: &[u8]) -> bool {
        matches!(nal[0] & 0x1f, 7 | 8)
    }

    /// NAL units without parameter sets until the stream ends or `count` have come. Taken from RTP by
    /// hand (RFC 6184): GStreamer's depayloader loses a delimiter before the first parameter sets.
    fn receive(player: &Player, count: usize) -> Vec<Vec<u8>> {
        const FU_A: u8 = 28;
        let mut nals: Vec<Vec<u8>> = Vec::new();
        let mut whole = true;
        while (nals.len() < count || !whole)
            && let Some(buffer) = player.next(PATIENCE)
        {
            let packet = buffer.map_readable().unwrap();
            let payload = &packet[12..];
            whole = true;
            match payload[0] & 0x1f {
                1..24 => nals.push(payload.to_vec()),
                FU_A => {
                    if payload[1] & 0x80 != 0 {
                        nals.push(vec![payload[0] & 0xe0 | payload[1] & 0x1f]);
                    }
                    nals.last_mut().expect("fragments begin with a start").extend_from_slice(&payload[2..]);
                    whole = payload[1] & 0x40 != 0;
                }
                other => panic!("packet of type {other}"),
            }
            if whole {
                nals.pop_if(|nal| is_parameter_set(nal));
            }
        }
        nals
    }

    #[test]
    fn a_file_comes_through_byte_for_byte_in_real_time_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = file(dir.path(), 60);
        let server = RtspServer::start(0, None).unwrap();
        let mount = server.mount_file("cam", &path, Repeat::Once).unwrap();
        let start = Instant::now();
        let player = Player::open(&server.url("cam"), None);
        let nals = receive(&player, usize::MAX);
        let kinds =
            |nals: &[Vec<u8>]| nals.iter().take(12).map(|nal| (nal[0] & 0x1f, nal.len())).collect::<Vec<_>>();
        assert!(nals == expected, "came {:?} of {:?}", kinds(&nals), kinds(&expected));
        assert!(start.elapsed() > Duration::from_millis(2500), "3 s of video took {:?}", start.elapsed());
        drop(player);
        let again = Player::open(&server.url("cam"), None);
        assert!(again.next(PATIENCE).is_none(), "the mount is gone");
        assert_eq!(mount.plays(), 1);
    }

    #[test]
    fn a_client_that_comes_back_gets_the_file_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = file(dir.path(), 60);
        let server = RtspServer::start(0, None).unwrap();
        let mount = server.mount_file("cam", &path, Repeat::PerClient).unwrap();
        for play in 1..=3 {
            let player = Player::open(&server.url("cam"), None);
            let nals = receive(&player, 10);
            assert!(nals == expected[..10], "play {play}");
            assert_eq!(mount.plays(), play);
        }
    }

    #[test]
    fn two_clients_share_a_stream_and_one_may_leave() {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = file(dir.path(), 40);
        let server = RtspServer::start(0, None).unwrap();
        let mount = server.mount_file("cam", &path, Repeat::Loop).unwrap();
        let first = Player::open(&server.url("cam"), None);
        assert_eq!(receive(&first, 5).len(), 5);
        let second = Player::open(&server.url("cam"), None);
        assert_eq!(receive(&second, 5).len(), 5);
        drop(first);
        // Longer than the file: it goes on from its start without a break.
        let more = receive(&second, expected.len() * 2);
        assert_eq!(more.len(), expected.len() * 2);
        assert_eq!(mount.plays(), 1);
        assert!(more.windows(3).any(|w| w[0] == expected[0] && w[1] == expected[1] && w[2] == expected[2]));
    }

    #[test]
    fn a_stalled_mount_falls_silent_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = file(dir.path(), 60);
        let server = RtspServer::start(0, None).unwrap();
        let drawn = server.mount_drawn("drawn", Grey { asked: Arc::default() }).unwrap();
        let filed = server.mount_file("filed", &path, Repeat::Loop).unwrap();
        for (name, mount) in [("drawn", drawn), ("filed", filed)] {
            let player = Player::open(&server.url(name), None);
            assert_eq!(receive(&player, 5).len(), 5, "{name}");
            mount.set_stalled(true);
            // What was on its way may still come.
            let silent = (0..200).any(|_| player.next(Duration::from_millis(800)).is_none());
            assert!(silent && !player.ended(), "{name} is silent but connected");
            mount.set_stalled(false);
            assert!(receive(&player, 5).len() == 5, "{name} goes on");
            server.unmount(&mount);
            while player.next(PATIENCE).is_some() {}
            assert!(player.next(Duration::from_millis(100)).is_none(), "{name} is closed");
        }
    }

    #[test]
    fn digest_is_asked_for_and_checked() {
        let credentials = Credentials { user: "ward".into(), password: "s3cret".into() };
        let server = RtspServer::start(0, Some(&credentials)).unwrap();
        server.mount_drawn("drawn", Grey { asked: Arc::default() }).unwrap();
        let url = server.url("drawn");
        for (login, expected) in [(None, 0), (Some(("ward", "wrong")), 0), (Some(("ward", "s3cret")), 5)] {
            let player = Player::open(&url, login);
            assert_eq!(receive(&player, 5).len(), expected, "{login:?}");
        }
    }

    #[test]
    fn drawn_pictures_carry_true_time_in_early_sender_reports() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let server = RtspServer::start(0, None).unwrap();
        let mount = server.mount_drawn("drawn", Grey { asked: asked.clone() }).unwrap();
        let start = Instant::now();
        let player = Player::open(&server.url("drawn"), None);
        let ntp = gst::Caps::builder("timestamp/x-ntp").build();
        let mut stamped = None;
        while stamped.is_none()
            && let Some(buffer) = player.next(PATIENCE)
        {
            let meta =
                buffer.iter_meta::<gst::ReferenceTimestampMeta>().find(|m| m.reference().can_intersect(&ntp));
            stamped = meta.map(|m| (m.timestamp(), SystemTime::now()));
        }
        let (stamp, arrived) = stamped.expect("a sender report came");
        assert!(start.elapsed() < Duration::from_secs(10), "after {:?}", start.elapsed());
        let unix = Duration::from_nanos(stamp.nseconds()) - Duration::from_secs(2_208_988_800);
        let age =
            arrived.duration_since(SystemTime::UNIX_EPOCH + unix).expect("a picture is not from the future");
        assert!(age < Duration::from_secs(2), "{age:?} old");
        // And it is the time at which that picture was due.
        let since_start =
            (SystemTime::UNIX_EPOCH + unix).duration_since(mount.started_at()).unwrap().as_secs_f64();
        let off_grid = (since_start * 20.0 - (since_start * 20.0).round()).abs() / 20.0;
        println!(
            "first report after {:?}, picture {age:?} old, {:.1} ms off its due time",
            start.elapsed(),
            off_grid * 1e3
        );
        assert!(off_grid < 0.012, "{off_grid}");
    }

    #[test]
    fn a_taken_port_and_a_missing_file_are_said() {
        let server = RtspServer::start(0, None).unwrap();
        let error = RtspServer::start(server.port(), None).err().expect("the port is taken").to_string();
        assert!(error.contains(&server.port().to_string()), "{error}");
        let error =
            server.mount_file("x", Path::new("/nowhere.mp4"), Repeat::Once).err().unwrap().to_string();
        assert!(error.contains("/nowhere.mp4"), "{error}");
        let port = server.port();
        server.stop();
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(), "the port is free again");
    }
}
