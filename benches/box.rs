//! What a box costs: CPU of looking and recording beside what people would otherwise run, memory, and how soon it records.
//!
//! The stream is a day in a few minutes: something is in view a fifth of the time, an eighth of it is rain. The box is
//! the real `camnet edge`, built with what a box needs only; its camera is this process, so that its memory does not count.
//! `CAMNET_BENCH_SECONDS` (default 240) of the stream; `-- look live rss power` does these only. `-- flat` watches the
//! memory of a box for `CAMNET_SOAK_MINUTES` (`make soak OF=memory`).

mod common;
#[path = "common/debian_motion.rs"]
mod debian_motion;
#[path = "common/stream.rs"]
mod stream;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use camnet::demo::street::{Crossing, Crowd, Setting, Street, Verdict, Weather};
use camnet::media::rtsp_server::{Repeat, RtspServer};
use camnet::model::VideoCodec;
use common::{Figures, Running, cpu_s, seconds_or};
use debian_motion::DebianMotion;
use serde_json::json;
use stream::{Encoding, Video};

/// The day's mix, shares of the time.
const IN_VIEW: f64 = 0.2;
const RAIN: f64 = 0.125;
const SEED: u64 = 2;
/// What a large and a small camera send, and how much of full decoding looking may cost.
const LARGE: Size = Size { name: "1280x720at25", width: 1280, height: 720, fps: 25, kbit: 2500, aim: 0.35 };
const SMALL: Size = Size { name: "768x576at10", width: 768, height: 576, fps: 10, kbit: 1000, aim: 0.6 };
/// After the start, until everybody looks and has learnt what is still.
const SETTLE: Duration = Duration::from_secs(10);
/// A day has no start, in which every picture is looked at, seconds.
const START_S: f64 = 16.0;
const POWER_ON_MAX: Duration = Duration::from_secs(30);
/// The memory of this many small cameras is watched, so often, and is flat if it grows by less than this.
const FLAT_CAMERAS: usize = 4;
const FLAT_EVERY: Duration = Duration::from_secs(10);
const FLAT_RATIO_MAX: f64 = 1.05;

struct Size {
    name: &'static str,
    width: usize,
    height: usize,
    fps: u32,
    kbit: u32,
    aim: f64,
}

fn main() {
    camnet::tls::install_crypto();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|name| name == what);
    let mut out = Figures::append(root());
    let days = [Day::draw(&LARGE), Day::draw(&SMALL)];
    if is_wanted("look") {
        days.iter().for_each(|day| look(&mut out, day));
    }
    let is_long = wanted.iter().any(|name| name == "flat");
    if !(is_wanted("live") || is_wanted("rss") || is_wanted("power") || is_long) {
        return;
    }
    let server = RtspServer::start(0, None).expect("an RTSP server");
    for day in &days {
        server.mount_file(day.size.name, &day.video.path, Repeat::Loop).expect("a mount");
    }
    let site = Site::new(edge_binary());
    if is_long {
        flat(&mut out, &site, &server.url(SMALL.name));
    }
    if is_wanted("power") {
        power_on(&mut out, &site, &server.url(LARGE.name));
    }
    if is_wanted("rss") {
        for (cameras, aim_mb) in [(1, 80.0), (8, 160.0)] {
            rss(&mut out, &site, &server.url(LARGE.name), cameras, aim_mb);
        }
    }
    if is_wanted("live") {
        days.iter().for_each(|day| live(&mut out, &site, &server.url(day.size.name), day));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A day in a few minutes.
struct Day {
    size: &'static Size,
    video: Video,
    crossings: Vec<Crossing>,
    seconds: u64,
}

/// Frames from `from` on, of one street.
struct Stretch {
    from: u64,
    street: Street,
}

impl Day {
    fn draw(size: &'static Size) -> Self {
        let seconds = seconds_or(240);
        let count = seconds * u64::from(size.fps);
        let rain_from = count - (count as f64 * RAIN) as u64;
        let rain = Weather { rain: 70, noise: 3.0, ..Weather::CLEAR };
        let mut stretches = Vec::new();
        let mut crossings = Vec::new();
        let mut left_s = seconds as f64 * IN_VIEW;
        for (weather, from, to, share) in
            [(rain, rain_from, count, RAIN), (Weather::CLEAR, 0, rain_from, 1.0)]
        {
            let street = |crowd| {
                let setting = Setting { name: "day", crowd, weather };
                Street::of_setting(&setting, SEED, size.width, size.height, size.fps)
            };
            let (busy, calm) = (street(Crowd::Mixed), street(Crowd::Nobody));
            let seen = first_in_view(&busy, (from, to), size.fps, left_s * share);
            left_s -= in_view_s(&seen);
            let calm_from = seen.last().map_or(from, |last| last.to_frame + 1);
            crossings.extend(seen);
            stretches.extend([Stretch { from, street: busy }, Stretch { from: calm_from, street: calm }]);
        }
        stretches.sort_by_key(|stretch| stretch.from);
        crossings.sort_by(|a: &Crossing, b| a.from_s.total_cmp(&b.from_s));
        let encoding = Encoding {
            codec: VideoCodec::H264,
            width: size.width,
            height: size.height,
            fps: f64::from(size.fps),
            kbit: size.kbit,
        };
        let name = format!("day-{:.0}", in_view_s(&crossings) * 10.0);
        let video = encoding.draw(&name, count, |n, to| {
            let stretch =
                stretches.iter().rev().find(|stretch| stretch.from <= n).expect("the first is of 0");
            stretch.street.frame_into(n, to);
        });
        Self { size, video, crossings, seconds }
    }

    fn mix(&self) -> serde_json::Value {
        let in_view_s = in_view_s(&self.crossings);
        json!({ "seconds": self.seconds, "in_view": (in_view_s / self.video.seconds() * 1e3).round() / 1e3,
            "rain": RAIN, "crossings": self.crossings.len() })
    }
}

fn in_view_s(crossings: &[Crossing]) -> f64 {
    crossings.iter().map(|crossing| crossing.to_s - crossing.from_s).sum()
}

/// What crosses first between two frames, until something was in view for so long, as near as whole crossings allow.
fn first_in_view(street: &Street, (from, to): (u64, u64), fps: u32, mut left_s: f64) -> Vec<Crossing> {
    let fps = f64::from(fps);
    let all = street.crossings(from as f64 / fps, to as f64 / fps);
    let whole = all.into_iter().filter(|crossing| crossing.to_frame < to);
    let enough = |crossing: &Crossing| {
        let takes_s = crossing.to_s - crossing.from_s;
        let is_left = left_s > takes_s / 2.0;
        left_s -= takes_s;
        is_left
    };
    whole.take_while(enough).collect()
}

/// Looking beside decoding and looking at everything: the same code, the same stream.
fn look(out: &mut Figures, day: &Day) {
    let (all, ours) = (day.video.look(true, START_S), day.video.look(false, START_S));
    let verdict = Verdict::of(&ours.events, &day.crossings);
    let baseline = json!({
        "name": "every picture decoded and looked at (motion.every_picture), same stream", "value": 1.0,
        "mix": day.mix(), "cpu_s_per_min": all.cpu_s * 60.0 / (day.video.seconds() - START_S),
        "recall": verdict.recall(), "precision": verdict.precision(),
        "recall_of_all": Verdict::of(&all.events, &day.crossings).recall(),
        "decoded": ours.decoded as f64 / all.decoded as f64,
    });
    let name = format!("edge.motion.vs_full_decode.{}", day.size.name);
    out.add(
        &name,
        ours.cpu_s / all.cpu_s,
        "ratio",
        Some(day.size.aim),
        "lower",
        baseline,
        day.crossings.len(),
    );
}

/// Two boxes, ffmpeg and Debian's `motion` on one camera over the same minutes, one of which only records.
fn live(out: &mut Figures, site: &Site, url: &str, day: &Day) {
    let cameras = [url.to_owned()];
    let (records, looks) = (site.start(&cameras, false), site.start(&cameras, true));
    let ffmpeg = Command::new("ffmpeg")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-i", url, "-an", "-c", "copy"])
        .args(["-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "-y"])
        .arg(site.folder.path().join("ffmpeg.mp4"))
        .stdin(Stdio::null())
        .spawn()
        .expect("ffmpeg starts");
    let ffmpeg = Running(ffmpeg);
    let folder = tempfile::tempdir().expect("a folder");
    let mut debian = DebianMotion::new(folder.path());
    debian.add(url, f64::from(day.size.fps));
    let processes = [records.child.0.id(), looks.child.0.id(), ffmpeg.0.id(), debian.start()];
    // The measurement: a whole round of the file, from wherever it is.
    std::thread::sleep(SETTLE);
    let cpu = || processes.map(|id| cpu_s(&id.to_string()));
    let (before, began) = (cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(day.seconds));
    let (after, took_s) = (cpu(), began.elapsed().as_secs_f64());
    assert!(records.has_footage() && looks.has_footage(), "the boxes record");
    assert!(after.iter().zip(before).all(|(after, before)| *after > before), "everybody works");
    let per_min = |n: usize| (after[n] - before[n]) * 60.0 / took_s;
    let [records, looks, ffmpeg, debian] = [0, 1, 2, 3].map(per_min);
    let mut figure = |what: &str, value: f64, unit: &str, aim, better: &str, name: &str, of: f64| {
        let baseline = json!({ "name": name, "value": of, "mix": day.mix(),
            "cpu_s_per_min": { "record": records, "record+motion": looks, "ffmpeg": ffmpeg, "motion": debian } });
        out.add(&format!("edge.{what}.{}", day.size.name), value, unit, aim, better, baseline, 1);
    };
    let copy = "ffmpeg -c copy, same camera, same minutes";
    figure("record.vs_ffmpeg_copy", records / ffmpeg.max(0.01), "ratio", Some(1.0), "lower", copy, ffmpeg);
    let theirs = "Debian's motion 4.5, same camera, same minutes; ours: record+motion less record";
    figure("motion.vs_motion", (looks - records) / debian.max(0.01), "ratio", None, "lower", theirs, debian);
    let core = "one core; recording and motion of one camera";
    figure("cameras_per_core", 60.0 / looks.max(0.01), "cameras", None, "higher", core, 60.0);
}

fn rss(out: &mut Figures, site: &Site, url: &str, cameras: usize, aim_mb: f64) {
    let edge = site.start(&vec![url.to_owned(); cameras], true);
    std::thread::sleep(SETTLE + Duration::from_secs(seconds_or(240).min(60)));
    assert!(edge.has_footage(), "the box records");
    let baseline = json!({ "name": "cameras of 1280x720 at 25/s, recorded and looked at", "value": cameras,
        "peak_mb": edge.memory_mb("VmHWM:") });
    let name = format!("edge.rss_mb.{cameras}");
    out.add(&name, edge.memory_mb("VmRSS:"), "MiB", Some(aim_mb), "lower", baseline, 1);
}

/// Memory over a long time: its last quarter beside its second, by which everything has been in use once.
fn flat(out: &mut Figures, site: &Site, url: &str) {
    let minutes: u64 = std::env::var("CAMNET_SOAK_MINUTES").map_or(60, |n| n.parse().expect("minutes"));
    let edge = site.start(&vec![url.to_owned(); FLAT_CAMERAS], true);
    let mut seen_mb = Vec::new();
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < until {
        std::thread::sleep(FLAT_EVERY);
        seen_mb.push(edge.memory_mb("VmRSS:"));
        if seen_mb.len().is_multiple_of(30) {
            println!("{} min: {:.1} MiB", seen_mb.len() / 6, seen_mb[seen_mb.len() - 1]);
        }
    }
    assert!(edge.has_footage(), "the box records");
    let quarter = seen_mb.len() / 4;
    let median = |of: &[f64]| {
        let mut sorted = of.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let (second, last) = (median(&seen_mb[quarter..2 * quarter]), median(&seen_mb[3 * quarter..]));
    let baseline = json!({ "name": "median of the second quarter of these minutes", "value": second,
        "last_quarter_mb": last, "minutes": minutes, "cameras": FLAT_CAMERAS });
    out.add(
        "edge.rss_growth",
        last / second,
        "ratio",
        Some(FLAT_RATIO_MAX),
        "lower",
        baseline,
        seen_mb.len(),
    );
    assert!(last <= second * FLAT_RATIO_MAX, "memory grows: {second:.1} MiB, then {last:.1}");
}

/// From the start of the process to the first fragment in the ring.
fn power_on(out: &mut Figures, site: &Site, url: &str) {
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let began = Instant::now();
            let edge = site.start(&[url.to_owned()], true);
            while !edge.has_footage() {
                assert!(began.elapsed() < POWER_ON_MAX, "nothing is recorded");
                std::thread::sleep(Duration::from_millis(5));
            }
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let baseline = json!({ "name": "a fragment goes from key frame to key frame: this camera's are 2 s apart",
        "value": 2.0, "least_s": times[0], "most_s": times[times.len() - 1] });
    let median = times[times.len() / 2];
    out.add("edge.power_on_to_recording_s", median, "s", Some(2.0), "lower", baseline, times.len());
}

/// The folder of a box, with certificates.
struct Site {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

/// A box that runs; its folder goes with it.
struct Edge {
    child: Running,
    data_dir: tempfile::TempDir,
}

impl Site {
    fn new(binary: PathBuf) -> Self {
        // On the real disk, as a box.
        let folder = tempfile::tempdir_in(root().join("target")).expect("target/ takes a folder");
        camnet::hub::init(folder.path(), &[], &["box-01".parse().expect("an id")]).expect("certificates");
        Self { folder, binary }
    }

    fn start(&self, cameras: &[String], motion: bool) -> Edge {
        let data_dir = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let mut config = format!(
            "box = \"box-01\"\ndata_dir = {:?}\n[hub]\nmqtt = \"127.0.0.1:9\"\nurl = \"https://127.0.0.1:9\"\n\
             ca = \"ca.pem\"\ncertificate = \"box-01.pem\"\nkey = \"box-01.key\"\n",
            data_dir.path()
        );
        for (n, url) in cameras.iter().enumerate() {
            config += &format!(
                "[[camera]]\nid = \"cam-{n:02}\"\nurl = \"{url}\"\n[camera.motion]\nenabled = {motion}\n"
            );
        }
        // Beside the certificates that it names.
        let file = self.folder.path().join(format!("edge-{}-{motion}.toml", cameras.len()));
        std::fs::write(&file, config).expect("a file");
        let child = Command::new(&self.binary)
            .args(["edge", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the box starts");
        Edge { child: Running(child), data_dir }
    }
}

impl Edge {
    /// A field of proc(5)'s status, MiB.
    fn memory_mb(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") / 1024.0
    }

    /// A fragment of its first camera is in the ring: its entry stands before it (`src/edge/ring/segment.rs`).
    fn has_footage(&self) -> bool {
        let folder = self.data_dir.path().join("ring/cam-00");
        let Ok(files) = std::fs::read_dir(folder) else { return false };
        let has_entry = |file: std::fs::DirEntry| {
            std::fs::read(file.path()).is_ok_and(|bytes| bytes.windows(8).any(|eight| eight == b"freecnre"))
        };
        files.flatten().any(has_entry)
    }
}

/// `camnet edge` as it runs on boxes, in the same target folder as this bench.
fn edge_binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let status = Command::new("cargo")
        .args(["build", "--profile", "bench", "--locked", "-q", "--bin", "camnet"])
        .args(["--no-default-features", "--features", "edge,media"])
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root())
        .status()
        .expect("cargo");
    assert!(status.success());
    target.join("release/camnet")
}
