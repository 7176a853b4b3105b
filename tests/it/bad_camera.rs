//! A camera of the tests' own: an RTSP server that sends real H.264 or H.265 and misbehaves as it is told, a knob per fault.
//!
//! Small on purpose (RFC 2326 as far as cameras are asked for, RFC 3550, RFC 6184 and RFC 7798 packets of single units and fragments), so
//! that it can be wrong where a good library can't. Its RTP time passes the turn of 32 bits one second after the start.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::world::run;

const FPS: u32 = 25;
/// Ticks of RTP time per picture.
const PICTURE_TICKS: u32 = 90_000 / FPS;
const FIRST_RTP_TIME: u32 = u32::MAX - 90_000;
const SSRC: u32 = 0x0ca3_e7a1;
const SESSION: &str = "7a3f";
const PACKET_BYTES_MAX: usize = 1400;
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_UNIX_SECONDS: u64 = 2_208_988_800;

/// One access unit in decode order, without parameter sets.
pub struct Unit {
    /// Ticks since the clip's first picture is shown.
    pub pts: i64,
    pub nals: Vec<Vec<u8>>,
}

/// How a clip is encoded.
#[derive(Clone, Copy, PartialEq)]
pub enum Codec {
    H264,
    H265,
}

impl Codec {
    fn nal_type(self, nal: &[u8]) -> u8 {
        if self == Self::H265 { nal[0] >> 1 & 0x3f } else { nal[0] & 0x1f }
    }

    fn is_key(self, unit: &Unit) -> bool {
        let keys = if self == Self::H265 { 16..=21 } else { 5..=5 };
        unit.nals.iter().any(|nal| keys.contains(&self.nal_type(nal)))
    }
}

/// Real video with its parameter sets.
pub struct Clip {
    pub codec: Codec,
    /// SPS and PPS; with H.265 the VPS before them.
    pub sets: Vec<Vec<u8>>,
    pub units: Vec<Unit>,
}

impl Clip {
    /// Draws and encodes: a key frame each second, `b_frames` between two others.
    pub fn encode(dir: &Path, size: &str, seconds: u32, b_frames: u32) -> Arc<Self> {
        let gop = FPS.to_string();
        let b = b_frames.to_string();
        let options = ["-g", &gop, "-bf", &b, "-b_strategy", "0", "-sc_threshold", "0"];
        Self::encode_with(dir, size, seconds, &format!("{b_frames}"), "libx264", &options)
    }

    /// What an FFmpeg filter graph makes of these files, a key frame each second.
    pub fn film(dir: &Path, name: &str, videos: &[&Path], graph: &str) -> Arc<Self> {
        let file = dir.join(format!("{name}.mp4"));
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y"]);
        for video in videos {
            ffmpeg.args(["-stream_loop", "-1", "-i"]).arg(video);
        }
        ffmpeg.args(["-filter_complex", graph, "-map", "[out]", "-an", "-r"]).arg(FPS.to_string());
        ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", "0"]);
        ffmpeg.args(["-g", &FPS.to_string(), "-sc_threshold", "0", "-video_track_timescale", "90000"]);
        run(ffmpeg.arg(&file));
        Arc::new(Self::read(&file))
    }

    /// The same as H.265, with CRA pictures for key frames and pictures that lead them.
    pub fn encode_h265(dir: &Path, size: &str, seconds: u32) -> Arc<Self> {
        let parameters =
            format!("keyint={FPS}:min-keyint={FPS}:scenecut=0:bframes=2:open-gop=1:log-level=error");
        let options = ["-tag:v", "hvc1", "-x265-params", &parameters];
        Self::encode_with(dir, size, seconds, "h265", "libx265", &options)
    }

    fn encode_with(
        dir: &Path,
        size: &str,
        seconds: u32,
        name: &str,
        encoder: &str,
        options: &[&str],
    ) -> Arc<Self> {
        let file = dir.join(format!("{size}-{seconds}-{name}.mp4"));
        let source = format!("testsrc2=size={size}:rate={FPS}:duration={seconds}");
        run(Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-f", "lavfi", "-i", &source])
            .args(["-c:v", encoder, "-preset", "veryfast", "-pix_fmt", "yuv420p"])
            .args(options)
            .args(["-video_track_timescale", "90000"])
            .arg(&file));
        Arc::new(Self::read(&file))
    }

    fn read(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        let listed = run(Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", "packet=pts,pos,size", "-of", "compact=p=0"])
            .arg(file));
        let mut units = Vec::new();
        for line in listed.lines().filter(|line| line.contains("pts=")) {
            let value = |key: &str| -> i64 {
                let found = line.split('|').find_map(|field| field.strip_prefix(key));
                found.unwrap_or_else(|| panic!("no {key} in {line:?}")).parse().unwrap()
            };
            let (at, size) = (value("pos=") as usize, value("size=") as usize);
            units.push(Unit { pts: value("pts="), nals: split_nals(&bytes[at..at + size]) });
        }
        let first = units.iter().map(|unit| unit.pts).min().unwrap();
        units.iter_mut().for_each(|unit| unit.pts -= first);
        let (codec, sets) = parameter_sets(&bytes);
        Self { codec, sets, units }
    }

    pub fn ticks(&self) -> i64 {
        self.units.len() as i64 * i64::from(PICTURE_TICKS)
    }

    /// Every NAL unit that must be found in a recording.
    pub fn nals(&self) -> Vec<Vec<u8>> {
        self.units.iter().flat_map(|unit| unit.nals.iter().cloned()).collect()
    }
}

/// Of an MP4 file (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1).
fn parameter_sets(file: &[u8]) -> (Codec, Vec<Vec<u8>>) {
    let behind = |name: &[u8; 4]| file.windows(4).position(|w| w == name).map(|at| &file[at + 4..]);
    let word = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    if let Some(avcc) = behind(b"avcC") {
        let sps = avcc[8..8 + word(&avcc[6..])].to_vec();
        let rest = &avcc[8 + sps.len() + 1..];
        return (Codec::H264, vec![sps, rest[2..2 + word(rest)].to_vec()]);
    }
    let hvcc = behind(b"hvcC").expect("the file is H.264 or H.265");
    let (mut sets, mut rest) = (Vec::new(), &hvcc[23..]);
    for _ in 0..hvcc[22] {
        let (kind, count) = (rest[0] & 0x3f, word(&rest[1..]));
        rest = &rest[3..];
        for _ in 0..count {
            let nal = rest[2..2 + word(rest)].to_vec();
            rest = &rest[2 + nal.len()..];
            // An encoder's own words stand here too.
            sets.extend((32..=34).contains(&kind).then_some(nal));
        }
    }
    (Codec::H265, sets)
}

/// NAL units with lengths of four bytes before them.
pub fn split_nals(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        nals.push(bytes[4..4 + length].to_vec());
        bytes = &bytes[4 + length..];
    }
    nals
}

/// Which transports a camera takes.
#[derive(Clone, Copy, PartialEq)]
pub enum Takes {
    Both,
    Tcp,
    Udp,
}

/// What goes wrong, and after how many access units.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Closes before a word was said.
    CloseAtOnce,
    /// Something else than RTSP.
    NotRtsp,
    /// No packet any more; the connection stays and keep-alives are answered.
    Stall(usize),
    /// Noise in place of messages.
    NoiseBytes(usize),
    /// Noise in place of RTP packets.
    NoisePackets(usize),
    Close(usize),
}

/// How a camera behaves; the default is well.
#[derive(Clone)]
pub struct Behaviour {
    /// Played one after the other as one stream, then silence; or from the start again.
    pub clips: Vec<Arc<Clip>>,
    pub repeat: bool,
    pub takes: Takes,
    pub sets_in_sdp: bool,
    /// Parameter sets stand before key frames from this access unit on.
    pub sets_in_band_from: Option<usize>,
    /// It joins the client in the middle of a group of pictures.
    pub first_unit: usize,
    /// Packets of the first access unit that the client does not get.
    pub joins_at_packet: u32,
    pub sender_reports: bool,
    /// The camera's clock minus the true one.
    pub clock_off_ms: i64,
    /// `timeout` of the session, seconds; who asks nothing for so long is thrown out.
    pub timeout_s: u32,
    /// Added to the CSeq of the answer to a keep-alive.
    pub keep_alive_off: i64,
    pub answers_keep_alives: bool,
    /// `user:password` (RTSP Basic).
    pub login: Option<String>,
    /// Every so many packets one is lost.
    pub drop_each: Option<u32>,
    /// The RTP time jumps by so many ticks at this access unit.
    pub jump: Option<(usize, u32)>,
    /// What is described at `/cam_sub`.
    pub sub_stream: Option<Arc<Clip>>,
    /// Messages of an ONVIF metadata stream, one behind each tenth access unit.
    pub metadata: Vec<String>,
    /// The RTP time changes inside a message.
    pub metadata_torn: bool,
    pub fault: Fault,
}

impl Behaviour {
    pub fn good(clips: &[&Arc<Clip>]) -> Self {
        Self {
            clips: clips.iter().map(|clip| (*clip).clone()).collect(),
            repeat: false,
            takes: Takes::Both,
            sets_in_sdp: true,
            sets_in_band_from: Some(0),
            first_unit: 0,
            joins_at_packet: 0,
            sender_reports: true,
            clock_off_ms: 0,
            timeout_s: 60,
            keep_alive_off: 0,
            answers_keep_alives: true,
            login: None,
            drop_each: None,
            jump: None,
            sub_stream: None,
            metadata: Vec::new(),
            metadata_torn: false,
            fault: Fault::None,
        }
    }

    fn units(&self) -> usize {
        self.clips.iter().map(|clip| clip.units.len()).sum()
    }

    /// Access unit `n` of the endless stream: its clip, itself, and when it is shown.
    fn unit(&self, n: usize) -> Option<(&Clip, &Unit, i64)> {
        let count = self.units();
        let (round, mut at) = (n / count, n % count);
        if round > 0 && !self.repeat {
            return None;
        }
        let mut base = round as i64 * self.clips.iter().map(|clip| clip.ticks()).sum::<i64>();
        for clip in &self.clips {
            match clip.units.get(at) {
                Some(unit) => return Some((clip, unit, base + unit.pts)),
                None => (at, base) = (at - clip.units.len(), base + clip.ticks()),
            }
        }
        None
    }
}

/// What the camera saw of its clients.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub plays: AtomicUsize,
    pub keep_alives: AtomicUsize,
    /// Clients that were thrown out because they kept silent.
    pub thrown_out: AtomicUsize,
    /// Plays that came to the end of the clips.
    pub ended: AtomicUsize,
    pub over_udp: AtomicUsize,
}

/// A camera that runs until it is dropped.
pub struct BadCamera {
    pub port: u16,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl BadCamera {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let (of_clients, behaviour) = (seen.clone(), Arc::new(behaviour));
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_clients.connections.fetch_add(1, Ordering::Relaxed);
                while clients.try_join_next().is_some() {}
                let client = Client::new(stream, behaviour.clone(), of_clients.clone());
                clients.spawn(async move { drop(client.serve().await) });
            }
        });
        Self { port, seen, task }
    }

    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/cam", self.port)
    }

    pub fn count(&self, of: impl Fn(&Seen) -> &AtomicUsize) -> usize {
        of(&self.seen).load(Ordering::Relaxed)
    }
}

impl Drop for BadCamera {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the packets of one stream go.
enum Way {
    Tcp { channel: u8 },
    Udp { rtp: UdpSocket, rtcp: UdpSocket, to: SocketAddr },
}

struct Track {
    way: Way,
    payload_type: u8,
    sequence: u16,
    packets: u32,
    bytes: u32,
}

struct Client {
    stream: TcpStream,
    behaviour: Arc<Behaviour>,
    seen: Arc<Seen>,
    video: Option<Track>,
    metadata: Option<Track>,
    playing: Option<Playing>,
    last_asked: Instant,
}

struct Playing {
    began: Instant,
    next: usize,
    last_report: Option<Instant>,
    ended: bool,
}

type Done = Result<(), std::io::Error>;

impl Client {
    fn new(stream: TcpStream, behaviour: Arc<Behaviour>, seen: Arc<Seen>) -> Self {
        let last_asked = Instant::now();
        Self { stream, behaviour, seen, video: None, metadata: None, playing: None, last_asked }
    }

    async fn serve(mut self) -> Done {
        let _ = self.stream.set_nodelay(true);
        match self.behaviour.fault {
            Fault::CloseAtOnce => return Ok(()),
            Fault::NotRtsp => return self.stream.write_all(b"SSH-2.0-dropbear\r\n").await,
            _ => {}
        }
        let mut asked = Vec::new();
        loop {
            let timeout = Duration::from_secs(self.behaviour.timeout_s.into());
            let wake = self.next_due().unwrap_or(self.last_asked + timeout).min(self.last_asked + timeout);
            tokio::select! {
                read = self.stream.read_buf(&mut asked) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            while let Some(end) = asked.windows(4).position(|w| w == b"\r\n\r\n") {
                let request = String::from_utf8_lossy(&asked[..end]).into_owned();
                asked.drain(..end + 4);
                self.last_asked = Instant::now();
                self.answer(&request).await?;
            }
            if self.last_asked.elapsed() >= timeout {
                self.seen.thrown_out.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            while self.next_due().is_some_and(|due| due <= Instant::now()) {
                self.send_unit().await?;
            }
        }
    }

    /// When the next access unit is to be sent: one picture after the other, in decode order.
    fn next_due(&self) -> Option<Instant> {
        let playing = self.playing.as_ref().filter(|playing| !playing.ended)?;
        let pictures = (playing.next - self.behaviour.first_unit) as u32;
        Some(playing.began + Duration::from_secs(1) * pictures / FPS)
    }

    async fn answer(&mut self, request: &str) -> Done {
        let (method, rest) = request.split_once(' ').unwrap_or((request, ""));
        let uri = rest.split(' ').next().unwrap_or_default().to_owned();
        let header = |name: &str| {
            let of =
                |line: &str| line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()));
            request.lines().filter_map(of).find(|(key, _)| key == name).map(|(_, value)| value)
        };
        let mut number: i64 = header("cseq").and_then(|value| value.parse().ok()).unwrap_or(0);
        let authorised = match &self.behaviour.login {
            Some(login) => header("authorization") == Some(format!("Basic {}", BASE64.encode(login))),
            None => true,
        };
        let (status, headers, body) = match method {
            _ if !authorised => {
                ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"cam\"\r\n".into(), String::new())
            }
            "OPTIONS" | "GET_PARAMETER" | "SET_PARAMETER" => {
                if self.playing.is_some() {
                    self.seen.keep_alives.fetch_add(1, Ordering::Relaxed);
                    number += self.behaviour.keep_alive_off;
                    if !self.behaviour.answers_keep_alives {
                        return Ok(());
                    }
                }
                let methods = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN\r\n";
                ("200 OK", methods.into(), String::new())
            }
            "DESCRIBE" => match self.clip_at(&uri) {
                Some(clip) => ("200 OK", "Content-Type: application/sdp\r\n".into(), self.sdp(&clip)),
                None => ("404 Not Found", String::new(), String::new()),
            },
            "SETUP" => match self.set_up(&uri, &header("transport").unwrap_or_default()).await? {
                Some(transport) => {
                    let timeout = self.behaviour.timeout_s;
                    let headers =
                        format!("Transport: {transport}\r\nSession: {SESSION};timeout={timeout}\r\n");
                    ("200 OK", headers, String::new())
                }
                None => ("461 Unsupported transport", String::new(), String::new()),
            },
            "PLAY" => {
                self.seen.plays.fetch_add(1, Ordering::Relaxed);
                let next = self.behaviour.first_unit;
                self.playing = Some(Playing { began: Instant::now(), next, last_report: None, ended: false });
                ("200 OK", format!("Session: {SESSION}\r\n"), String::new())
            }
            _ => ("200 OK", String::new(), String::new()),
        };
        let length = body.len();
        let head = format!(
            "RTSP/1.0 {status}\r\nCSeq: {number}\r\nServer: bad-camera/1.0\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        self.stream.write_all(format!("{head}{body}").as_bytes()).await
    }

    fn clip_at(&self, uri: &str) -> Option<Arc<Clip>> {
        match uri.rsplit('/').next() {
            Some("cam" | "cam_main") => Some(self.behaviour.clips[0].clone()),
            Some("cam_sub") => self.behaviour.sub_stream.clone(),
            _ => None,
        }
    }

    fn sdp(&self, clip: &Clip) -> String {
        let sets: Vec<String> = clip.sets.iter().map(|set| BASE64.encode(set)).collect();
        let (name, sets) = match (clip.codec, &sets[..]) {
            (Codec::H265, [vps, sps, pps]) => {
                ("H265", format!("sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}"))
            }
            (Codec::H264, sets) => {
                ("H264", format!("packetization-mode=1;sprop-parameter-sets={}", sets.join(",")))
            }
            _ => panic!("the clip has no VPS, SPS and PPS"),
        };
        let sets = if self.behaviour.sets_in_sdp { format!("a=fmtp:96 {sets}\r\n") } else { String::new() };
        let metadata = match self.behaviour.metadata.is_empty() {
            true => "",
            false => {
                "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:metadata\r\n"
            }
        };
        format!(
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\na=control:*\r\n\
             m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n{sets}\
             a=framerate:{FPS}\r\na=control:video\r\n{metadata}"
        )
    }

    async fn set_up(&mut self, uri: &str, transport: &str) -> Result<Option<String>, std::io::Error> {
        let is_tcp = transport.contains("RTP/AVP/TCP");
        let refused = if is_tcp { Takes::Udp } else { Takes::Tcp };
        if self.behaviour.takes == refused {
            return Ok(None);
        }
        let asked = |key: &str| -> Option<u16> {
            let value = transport.split(';').find_map(|part| part.strip_prefix(key))?;
            value.split('-').next()?.parse().ok()
        };
        let (way, answer) = if is_tcp {
            let channel = asked("interleaved=").unwrap_or(0) as u8;
            let answer = format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1);
            (Way::Tcp { channel }, answer)
        } else {
            self.seen.over_udp.fetch_add(1, Ordering::Relaxed);
            let client = asked("client_port=").unwrap_or(0);
            let (rtp, rtcp) = udp_pair().await;
            let own = rtp.local_addr()?.port();
            let answer =
                format!("RTP/AVP;unicast;client_port={client}-{};server_port={own}-{}", client + 1, own + 1);
            (Way::Udp { rtp, rtcp, to: SocketAddr::new(self.stream.peer_addr()?.ip(), client) }, answer)
        };
        let is_metadata = uri.ends_with("metadata");
        let payload_type = if is_metadata { 107 } else { 96 };
        let track = Track { way, payload_type, sequence: 0xfff0, packets: 0, bytes: 0 };
        *(if is_metadata { &mut self.metadata } else { &mut self.video }) = Some(track);
        Ok(Some(answer))
    }

    async fn send_unit(&mut self) -> Done {
        let behaviour = self.behaviour.clone();
        let Some(playing) = &mut self.playing else { return Ok(()) };
        let n = playing.next;
        playing.next += 1;
        let fault_now = match behaviour.fault {
            Fault::Stall(at) | Fault::NoiseBytes(at) | Fault::NoisePackets(at) | Fault::Close(at) => n >= at,
            _ => false,
        };
        let Some((clip, unit, mut pts)) = behaviour.unit(n).filter(|_| !fault_now) else {
            playing.ended = !fault_now || matches!(behaviour.fault, Fault::Stall(_));
            if !fault_now {
                self.seen.ended.fetch_add(1, Ordering::Relaxed);
            }
            return if fault_now { self.fail().await } else { Ok(()) };
        };
        if let Some((at, ticks)) = behaviour.jump
            && n >= at
        {
            pts += i64::from(ticks);
        }
        let time = FIRST_RTP_TIME.wrapping_add(pts as u32);
        let report_due = playing.last_report.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        let mut nals: VecDeque<&[u8]> = unit.nals.iter().map(Vec::as_slice).collect();
        if clip.codec.is_key(unit) && behaviour.sets_in_band_from.is_some_and(|from| n >= from) {
            clip.sets.iter().rev().for_each(|set| nals.push_front(set));
        }
        if behaviour.sender_reports && report_due {
            playing.last_report = Some(Instant::now());
            self.send_report(time).await?;
        }
        let Some(video) = &mut self.video else { return Ok(()) };
        let count = nals.len();
        for (i, nal) in nals.into_iter().enumerate() {
            for (payload, is_last) in packets(clip.codec, nal) {
                let packet = video.packet(&payload, time, is_last && i + 1 == count);
                let is_lost = behaviour.drop_each.is_some_and(|each| video.packets.is_multiple_of(each));
                if !is_lost && video.packets > behaviour.joins_at_packet {
                    video.send(&mut self.stream, &packet).await?;
                }
            }
        }
        self.send_metadata(n, time).await
    }

    /// One message behind each tenth access unit, in as many packets as it takes.
    async fn send_metadata(&mut self, n: usize, time: u32) -> Done {
        let Some(track) = &mut self.metadata else { return Ok(()) };
        let Some(message) = self.behaviour.metadata.get(n / 10).filter(|_| n.is_multiple_of(10)) else {
            return Ok(());
        };
        let parts: Vec<&[u8]> = message.as_bytes().chunks(PACKET_BYTES_MAX).collect();
        for (i, part) in parts.iter().enumerate() {
            let time = if self.behaviour.metadata_torn { time + i as u32 } else { time };
            let packet = track.packet(part, time, i + 1 == parts.len());
            track.send(&mut self.stream, &packet).await?;
        }
        Ok(())
    }

    async fn fail(&mut self) -> Done {
        let noise: Vec<u8> =
            (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        match self.behaviour.fault {
            Fault::Stall(_) => Ok(()),
            Fault::NoiseBytes(_) => self.stream.write_all(&noise).await,
            Fault::NoisePackets(_) => {
                let Some(video) = &mut self.video else { return Ok(()) };
                video.send(&mut self.stream, &noise[..1000]).await
            }
            _ => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// RFC 3550, 6.4.1.
    async fn send_report(&mut self, time: u32) -> Done {
        let Some(video) = &mut self.video else { return Ok(()) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ms = now.as_millis() as i64 + self.behaviour.clock_off_ms;
        let ntp = ((ms as u64 / 1000 + NTP_UNIX_SECONDS) << 32) + ((ms as u64 % 1000) << 32) / 1000;
        let mut packet = vec![0x80, 200, 0, 6];
        packet.extend(SSRC.to_be_bytes());
        packet.extend(ntp.to_be_bytes());
        for word in [time, video.packets, video.bytes] {
            packet.extend(word.to_be_bytes());
        }
        match &video.way {
            Way::Tcp { channel } => interleaved(&mut self.stream, channel + 1, &packet).await,
            Way::Udp { rtcp, to, .. } => {
                rtcp.send_to(&packet, SocketAddr::new(to.ip(), to.port() + 1)).await.map(drop)
            }
        }
    }
}

impl Track {
    fn packet(&mut self, payload: &[u8], time: u32, marker: bool) -> Vec<u8> {
        let mut packet = vec![0x80, self.payload_type | if marker { 0x80 } else { 0 }];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(time.to_be_bytes());
        packet.extend((SSRC + u32::from(self.payload_type) - 96).to_be_bytes());
        packet.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets += 1;
        self.bytes = self.bytes.wrapping_add(payload.len() as u32);
        packet
    }

    async fn send(&self, stream: &mut TcpStream, packet: &[u8]) -> Done {
        match &self.way {
            Way::Tcp { channel } => interleaved(stream, *channel, packet).await,
            Way::Udp { rtp, to, .. } => rtp.send_to(packet, to).await.map(drop),
        }
    }
}

async fn interleaved(stream: &mut TcpStream, channel: u8, packet: &[u8]) -> Done {
    let length = (packet.len() as u16).to_be_bytes();
    stream.write_all(&[&[b'$', channel][..], &length, packet].concat()).await
}

/// Two ports in a row, as RTP wants them; many tries, because others take ports too.
async fn udp_pair() -> (UdpSocket, UdpSocket) {
    for _ in 0..100 {
        let rtp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = rtp.local_addr().unwrap().port();
        if let Some(next) = port.checked_add(1)
            && let Ok(rtcp) = UdpSocket::bind(("127.0.0.1", next)).await
        {
            return (rtp, rtcp);
        }
    }
    panic!("no two UDP ports in a row");
}

/// RFC 6184, 5.6 and 5.8, and RFC 7798, 4.4.1 and 4.4.3: payloads of one NAL unit, and which is its last.
fn packets(codec: Codec, nal: &[u8]) -> Vec<(Vec<u8>, bool)> {
    if nal.len() <= PACKET_BYTES_MAX {
        return vec![(nal.to_vec(), true)];
    }
    let (header, body) = match codec {
        Codec::H264 => (vec![nal[0] & 0xe0 | 28], &nal[1..]),
        Codec::H265 => (vec![nal[0] & 0x81 | 49 << 1, nal[1]], &nal[2..]),
    };
    let parts: Vec<&[u8]> = body.chunks(PACKET_BYTES_MAX - 3).collect();
    let payload = |i: usize| {
        let first = if i == 0 { 0x80 } else { 0 };
        let last = if i + 1 == parts.len() { 0x40 } else { 0 };
        [&header[..], &[codec.nal_type(nal) | first | last], parts[i]].concat()
    };
    (0..parts.len()).map(|i| (payload(i), i + 1 == parts.len())).collect()
}
