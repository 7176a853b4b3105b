//! What the box finds of what moves, as a camera sends it: each setting of `demo::street::SETTINGS` drawn with seeds of its
//! own, encoded as H.264 and H.265, decoded and looked at as the box does; and the files of ../shared/videos between
//! still, noisy spans. Debian's `motion` looks at some of the same streams, in real time, which is all it can.
//!
//! `CAMNET_BENCH_SECONDS` (default 300: some 90 crossings of each setting) of each seed; streams are kept under
//! target/motion-streams, so a second run is quicker. `-- rain far` looks at these settings only; `-- real` at the files.

mod common;
#[path = "common/debian_motion.rs"]
mod debian_motion;
#[path = "common/stream.rs"]
mod stream;

use std::path::{Path, PathBuf};

use camnet::demo::street::{Crossing, Direction, Kind, SETTINGS, Setting, Street, Verdict};
use camnet::model::VideoCodec;
use common::{Figures, seconds_or};
use debian_motion::DebianMotion;
use serde_json::{Value, json};
use stream::{Encoding, Video};

const SIZE: (usize, usize) = (640, 360);
/// Seed (odd ones look along the street, even ones across), pictures a second, codec.
const STREAMS: [(u64, u32, VideoCodec); 5] = [
    (1, 10, VideoCodec::H264),
    (2, 10, VideoCodec::H264),
    (3, 25, VideoCodec::H264),
    (4, 10, VideoCodec::H264),
    (5, 10, VideoCodec::H265),
];
/// Debian's `motion` sees so much of the first two streams of each setting.
const DEBIAN_SECONDS_MAX: u64 = 240;
/// And begins to read each at most so late.
const DEBIAN_LATE_S_MAX: u32 = 20;
/// Before and after the real files: their first and last picture, seconds.
const STILL_S: f64 = 20.0;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let seconds = seconds_or(300);
    let mut out = Figures::append(Path::new(env!("CARGO_MANIFEST_DIR")));
    let mut scenes: Vec<Scene> = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| is_wanted(setting.name)) {
        scenes.push(Scene::drawn(setting, seconds));
    }
    if is_wanted("real") {
        scenes.extend([Scene::cars(), Scene::people()]);
    }
    let debian = look_with_debian(&scenes);
    for (scene, debian) in scenes.iter().zip(&debian) {
        scene.add(&mut out, debian);
    }
    let mut errors_ms: Vec<f64> = Vec::new();
    errors_ms.extend(scenes.iter().flat_map(|scene| &scene.ours.start_errors_s).map(|s| s.abs() * 1e3));
    errors_ms.sort_by(f64::total_cmp);
    if let Some(last) = errors_ms.len().checked_sub(1) {
        let p95 = errors_ms[last * 95 / 100];
        let baseline = json!({ "name": "the plans of all scenes: 95 of 100 starts are nearer", "value": 0.0,
            "median_ms": errors_ms[last / 2] });
        out.add("edge.motion.start_error_ms", p95, "ms", Some(500.0), "lower", baseline, errors_ms.len());
    }
}

/// One line of the table.
struct Scene {
    name: &'static str,
    ours: Verdict,
    units: u64,
    decoded: u64,
    cpu_s: f64,
    seconds: f64,
    /// What Debian's `motion` is shown of it too: file, pictures a second, seconds, and its truth.
    shown: Vec<Shown>,
}

struct Shown {
    path: PathBuf,
    fps: f64,
    seconds: f64,
    truth: Truth,
}

/// What there is to see.
#[derive(Clone)]
struct Truth {
    crossings: Vec<Crossing>,
    /// Somebody stands there: small movement is nobody's to judge.
    unjudged: Vec<(f64, f64)>,
}

impl Scene {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            ours: Verdict::default(),
            units: 0,
            decoded: 0,
            cpu_s: 0.0,
            seconds: 0.0,
            shown: Vec::new(),
        }
    }

    fn drawn(setting: &Setting, seconds: u64) -> Self {
        let mut scene = Self::new(setting.name);
        for (n, (seed, fps, codec)) in STREAMS.into_iter().enumerate() {
            let street = Street::of_setting(setting, seed, SIZE.0, SIZE.1, fps);
            let encoding = Encoding { codec, width: SIZE.0, height: SIZE.1, fps: f64::from(fps), kbit: 1000 };
            let name = format!("{}-{seed}", setting.name);
            let video = encoding.draw(&name, seconds * u64::from(fps), |n, to| street.frame_into(n, to));
            let truth = |to_s: f64| Truth::until(to_s, street.crossings(0.0, to_s));
            scene.look(&video, &truth(seconds as f64));
            if n < 2 {
                let seconds = seconds.min(DEBIAN_SECONDS_MAX) as f64;
                scene.show(&video, seconds, truth(seconds));
            }
        }
        scene
    }

    /// Cars on a street, one or two at a time; seen on the pictures, to a tenth of a second.
    fn cars() -> Self {
        let spans = [(4.4, 8.5), (14.4, 18.9), (25.2, 27.8)];
        Self::real("real_cars", "car-detection.mp4", 12.5, &spans, &[])
    }

    /// People come in below, stand, and leave at the right.
    fn people() -> Self {
        let comes = [(6.0, 8.5), (22.7, 24.7), (50.2, 52.8), (74.4, 77.0), (92.1, 94.7), (123.4, 126.0)];
        let goes = [(18.0, 19.8), (43.4, 45.0), (68.3, 70.0), (85.0, 87.0), (118.0, 120.1), (134.2, 136.0)];
        let stands: Vec<_> = comes.iter().zip(goes).map(|(come, go)| (come.1, go.0)).collect();
        let mut moves: Vec<(f64, f64)> = comes.into_iter().chain(goes).collect();
        moves.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self::real("real_people", "one-by-one-person-detection.mp4", 10.0, &moves, &stands)
    }

    fn real(name: &'static str, file: &str, fps: f64, moves: &[(f64, f64)], stands: &[(f64, f64)]) -> Self {
        let mut scene = Self::new(name);
        let encoding = Encoding { codec: VideoCodec::H264, width: 768, height: 432, fps, kbit: 1000 };
        let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/videos").join(file);
        let filters = format!(
            "tpad=start_mode=clone:start_duration={STILL_S}:stop_mode=clone:stop_duration={STILL_S},\
             noise=alls=8:allf=t:all_seed=1"
        );
        let video = encoding.convert(name, &input, &filters);
        let later = |&(from, to): &(f64, f64)| (from + STILL_S, to + STILL_S);
        let crossings = moves.iter().map(later).map(|(from_s, to_s)| Crossing {
            kind: Kind::Person,
            direction: Direction::ToRight,
            height_px: 0.0,
            from_frame: (from_s * fps) as u64,
            to_frame: (to_s * fps) as u64,
            from_s,
            to_s,
        });
        let truth = Truth { crossings: crossings.collect(), unjudged: stands.iter().map(later).collect() };
        scene.look(&video, &truth);
        scene.show(&video, video.seconds(), truth);
        scene
    }

    fn look(&mut self, video: &Video, truth: &Truth) {
        let looked = video.look(false, 0.0);
        let verdict = truth.judge(&looked.events);
        println!(
            "{:<11} {}: {:>3} of {:>3} found, {:>3} of {:>3} right; missed {:.1?}, wrong {:.1?}",
            self.name,
            video.path.file_name().unwrap_or_default().to_string_lossy(),
            verdict.found,
            verdict.crossings,
            verdict.right,
            verdict.events,
            verdict.missed,
            verdict.wrong
        );
        self.ours.add(verdict);
        (self.units, self.decoded) = (self.units + looked.units, self.decoded + looked.decoded);
        (self.cpu_s, self.seconds) = (self.cpu_s + looked.cpu_s, self.seconds + video.seconds());
    }

    fn show(&mut self, video: &Video, seconds: f64, truth: Truth) {
        self.shown.push(Shown { path: video.path.clone(), fps: video.fps, seconds, truth });
    }

    fn add(&self, out: &mut Figures, debian: &Verdict) {
        let n = self.ours.crossings.max(self.ours.events);
        let compared = |value: f64| {
            json!({ "name": "Debian's motion 4.5 on the first of these streams, in real time, at the delay that suits it best", "value": value,
                "seconds": self.shown.iter().map(|shown| shown.seconds).sum::<f64>(),
                "n": debian.crossings.max(debian.events) })
        };
        let name = self.name;
        let mut figure = |what: &str, value: f64, unit: &str, aim: Option<f64>, better: &str, of: Value| {
            out.add(&format!("edge.motion.{what}.{name}"), value, unit, aim, better, of, n);
        };
        if self.ours.crossings > 0 {
            figure("recall", self.ours.recall(), "ratio", Some(0.98), "higher", compared(debian.recall()));
            let precision = compared(debian.precision());
            figure("precision", self.ours.precision(), "ratio", Some(0.95), "higher", precision);
        } else {
            // Where nobody comes there is nothing to find, and no share of it.
            let shown_s: f64 = self.shown.iter().map(|shown| shown.seconds).sum();
            let theirs = compared(debian.wrong.len() as f64 * 3600.0 / shown_s);
            let wrong = self.ours.wrong.len() as f64 * 3600.0 / self.seconds;
            figure("wrong_per_hour", wrong, "events", None, "lower", theirs);
        }
        if let Some(error_ms) = self.ours.start_error_ms() {
            let theirs = compared(debian.start_error_ms().unwrap_or(f64::NAN));
            figure("start_error_ms", error_ms, "ms", Some(500.0), "lower", theirs);
        }
        let all = json!({ "name": "every access unit of these streams", "value": 1.0,
            "cpu_s_per_min": self.cpu_s * 60.0 / self.seconds });
        figure("decoded", self.decoded as f64 / self.units as f64, "ratio", None, "lower", all);
    }
}

impl Truth {
    /// Whoever is still there when the pictures end, and a moment before, may be found or not.
    fn until(end_s: f64, crossings: Vec<Crossing>) -> Self {
        let (whole, cut): (Vec<_>, Vec<_>) = crossings.into_iter().partition(|c| c.to_s + 1.0 < end_s);
        Self { crossings: whole, unjudged: cut.iter().map(|c| (c.from_s, c.to_s)).collect() }
    }

    fn judge(&self, events: &[(f64, f64)]) -> Verdict {
        let mut verdict = Verdict::of(events, &self.crossings);
        let is_judged = |event: &(f64, f64)| {
            !self.unjudged.iter().any(|(from, to)| (*from - 0.5..=*to + 0.5).contains(&event.0))
        };
        verdict.wrong.retain(is_judged);
        verdict.events = verdict.right + verdict.wrong.len();
        verdict
    }
}

/// The verdict on Debian's `motion` for each scene.
fn look_with_debian(scenes: &[Scene]) -> Vec<Verdict> {
    let shown: Vec<&Shown> = scenes.iter().flat_map(|scene| &scene.shown).collect();
    let seconds = shown.iter().map(|shown| shown.seconds).fold(0.0, f64::max);
    let folder = tempfile::tempdir().expect("a folder");
    let mut debian = DebianMotion::new(folder.path());
    let streams =
        shown.iter().map(|shown| debian.add(&format!("file://{}", shown.path.display()), shown.fps));
    let streams: Vec<usize> = streams.collect();
    println!("{} streams for {seconds} s in real time: Debian's motion", streams.len());
    let mut events = debian.watch(seconds).into_iter();
    let judge = |shown: &Shown| {
        let events = events.next().expect("events of each stream");
        // Nobody knows when it began to read this stream: what suits it best is taken.
        let later = (0..=DEBIAN_LATE_S_MAX * 4).map(|quarters| f64::from(quarters) / 4.0);
        let judged = later.map(|later_s| {
            let moved = events.iter().map(|event| (event.0 - later_s, event.1 - later_s));
            shown.truth.judge(&moved.filter(|event| event.0 < shown.seconds).collect::<Vec<_>>())
        });
        let error_ms = |verdict: &Verdict| verdict.start_error_ms().unwrap_or(0.0) as u64;
        let best = judged
            .max_by_key(|v| (v.found, std::cmp::Reverse(v.wrong.len()), std::cmp::Reverse(error_ms(v))));
        best.expect("at least no delay")
    };
    let mut verdicts = shown.into_iter().map(judge);
    let of = |scene: &Scene| {
        let mut all = Verdict::default();
        (0..scene.shown.len()).for_each(|_| all.add(verdicts.next().expect("one of each stream")));
        all
    };
    scenes.iter().map(of).collect()
}
