//! Says when something starts and stops to move in a small grey picture.
//!
//! Owns a picture of the background and of its noise. Pure: no I/O, no clock, no GStreamer; times
//! are what the caller passes in. May not know cameras, clips or events.
//!
//! A pixel is in front when it differs from the background by more than the noise there. A cluster
//! of such pixels moves when enough of it also differs from the picture a moment ago: what stopped,
//! and the hole that something leaves behind, are in front but do not move, and are soon absorbed.
//! A lamp that goes on or off changes the picture for a moment only, and the start needs longer.

use std::collections::VecDeque;

use super::config::MotionConfig;

/// Pictures that only teach the background.
const LEARN_FRAMES: u32 = 10;
/// A start needs this many moving pictures, which span at least `START_SPAN_NS` and are most of the
/// pictures in that span.
const START_FRAMES: usize = 4;
const START_SPAN_NS: u64 = 400_000_000;
/// Moving pictures further apart than this do not count together.
const START_HOLE_NS: u64 = 350_000_000;
/// "A moment ago" is the newest picture at least this old.
const MOMENT_NS: u64 = 150_000_000;
/// Pictures kept to look back a moment, whatever the frame rate.
const MOMENT_FRAMES_MAX: usize = 8;
/// A pause in the pictures after which the background is learnt anew.
const PAUSE_NS_MAX: u64 = 5_000_000_000;
/// Share of the picture that changes at once when the light does, not a thing.
const LIGHT_SHARE: f32 = 0.5;
/// Least difference that counts, grey levels.
const THRESHOLD_MIN: f32 = 4.5;
/// A pixel is in front when it differs by this many mean deviations.
const THRESHOLD_DEVIATIONS: f32 = 5.5;
/// Neighbours of such pixels are in front when they differ by this share of it; a cluster has at
/// least `STRONG_PIXELS_MIN` that differ by all of it.
const THRESHOLD_WEAK: f32 = 0.6;
const STRONG_PIXELS_MIN: usize = 4;
/// An event goes on with this share of what it took to start.
const KEEP_SHARE: f64 = 0.5;
/// Two pictures have more noise between them than one has against the background: by the square
/// root of two, and some room.
const MOVING_THRESHOLD: f32 = 1.6;
/// Share of a cluster that must differ from a moment ago.
const MOVING_SHARE: f64 = 0.08;
const MOVING_PIXELS_MIN: usize = 4;
/// Time constants of the background, seconds: where nothing is in front, where something stands, and
/// where something moves.
const ADAPT_QUIET_S: f32 = 3.0;
const ADAPT_STANDING_S: f32 = 4.0;
const ADAPT_MOVING_S: f32 = 60.0;
/// Time constant of the noise, seconds.
const ADAPT_NOISE_S: f32 = 5.0;

/// What the detector found. Times are those of the pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MotionChange {
    /// Something began to move: `at_ns` is its first picture, some pictures ago.
    Start { at_ns: u64, score: f64 },
    /// It was last seen to move at `at_ns`; most of it at `peak_at_ns`.
    End { at_ns: u64, peak_at_ns: u64, peak_score: f64 },
}

/// The picture with most movement so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MotionPeak {
    pub at_ns: u64,
    /// Share of the picture that moves, 0 to 1.
    pub score: f64,
}

/// One camera's detector, for pictures of one size.
pub struct MotionDetector {
    width: usize,
    height: usize,
    start_score: f64,
    quiet_ns: u64,
    scene: Scene,
    last_ns: Option<u64>,
    /// Moving pictures that may become a start: time and score.
    rising: VecDeque<(u64, f64)>,
    event: Option<Running>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    last_moving_ns: u64,
    peak: MotionPeak,
}

impl MotionDetector {
    pub fn new(width: usize, height: usize, config: &MotionConfig) -> Self {
        Self {
            width,
            height,
            start_score: config.start_score.clamp(1e-5, 1.0),
            quiet_ns: u64::try_from(config.quiet.as_nanos().max(0)).unwrap_or(u64::MAX),
            scene: Scene::new(width, height),
            last_ns: None,
            rising: VecDeque::new(),
            event: None,
        }
    }

    /// Looks at the next picture: `width * height` grey values, row by row.
    pub fn observe(&mut self, at_ns: u64, pixels: &[u8]) -> Option<MotionChange> {
        assert_eq!(pixels.len(), self.width * self.height, "pictures have the size given to new");
        if let Some(change) = self.after_pause(at_ns) {
            self.last_ns = Some(at_ns);
            self.scene.look(at_ns, 0.0, pixels, 1.0);
            return change;
        }
        let step_s = self.last_ns.map_or(0.0, |last| (at_ns - last) as f32 / 1e9);
        self.last_ns = Some(at_ns);
        let needed = if self.event.is_some() { self.start_score * KEEP_SHARE } else { self.start_score };
        let score = self.scene.look(at_ns, step_s, pixels, needed);
        match self.event {
            Some(running) => self.go_on(running, at_ns, score),
            None => self.perhaps_start(at_ns, score),
        }
    }

    /// Ends the event that goes on, if one does: the stream ended.
    pub fn finish(&mut self) -> Option<MotionChange> {
        self.rising.clear();
        self.event.take().map(Running::end)
    }

    /// The peak of the event that goes on.
    pub fn peak(&self) -> Option<MotionPeak> {
        self.event.map(|running| running.peak)
    }

    /// Starts over when time jumped: outer None when it did not.
    fn after_pause(&mut self, at_ns: u64) -> Option<Option<MotionChange>> {
        let last = self.last_ns?;
        if at_ns > last && at_ns - last <= PAUSE_NS_MAX {
            return None;
        }
        self.scene.forget();
        Some(self.finish())
    }

    fn perhaps_start(&mut self, at_ns: u64, score: Option<f64>) -> Option<MotionChange> {
        if self.rising.back().is_some_and(|(last, _)| at_ns - last > START_HOLE_NS) {
            self.rising.clear();
        }
        self.rising.push_back((at_ns, score?));
        let (first, _) = *self.rising.front()?;
        if self.rising.len() < START_FRAMES || at_ns - first < START_SPAN_NS {
            return None;
        }
        let (peak_ns, peak) = self.rising.drain(..).max_by(|a, b| a.1.total_cmp(&b.1))?;
        let peak = MotionPeak { at_ns: peak_ns, score: peak };
        self.event = Some(Running { last_moving_ns: at_ns, peak });
        Some(MotionChange::Start { at_ns: first, score: peak.score })
    }

    fn go_on(&mut self, mut running: Running, at_ns: u64, score: Option<f64>) -> Option<MotionChange> {
        if let Some(score) = score {
            running.last_moving_ns = at_ns;
            if score > running.peak.score {
                running.peak = MotionPeak { at_ns, score };
            }
        } else if at_ns - running.last_moving_ns >= self.quiet_ns {
            return self.finish();
        }
        self.event = Some(running);
        None
    }
}

impl Running {
    fn end(self) -> MotionChange {
        MotionChange::End {
            at_ns: self.last_moving_ns,
            peak_at_ns: self.peak.at_ns,
            peak_score: self.peak.score,
        }
    }
}

/// The background, its noise, and what stands before it.
struct Scene {
    width: usize,
    height: usize,
    learnt: u32,
    /// The current picture, each pixel the mean of itself and its eight neighbours.
    smooth: Vec<f32>,
    background: Vec<f32>,
    /// Mean absolute deviation from the background, per pixel.
    noise: Vec<f32>,
    threshold: Vec<f32>,
    /// Smoothed pictures of the last moment, oldest first.
    moment: VecDeque<(u64, Vec<f32>)>,
    in_front: Vec<bool>,
    mark: Vec<Mark>,
    stack: Vec<usize>,
    cluster: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Quiet,
    Standing,
    Moving,
}

impl Scene {
    fn new(width: usize, height: usize) -> Self {
        let n = width * height;
        Self {
            width,
            height,
            learnt: 0,
            smooth: vec![0.0; n],
            background: vec![0.0; n],
            noise: vec![1.0; n],
            threshold: vec![THRESHOLD_MIN; n],
            moment: VecDeque::new(),
            in_front: vec![false; n],
            mark: vec![Mark::Quiet; n],
            stack: Vec::new(),
            cluster: Vec::new(),
        }
    }

    fn forget(&mut self) {
        self.learnt = 0;
        self.moment.clear();
    }

    /// The share of the picture that moves, if one moving cluster has at least `needed` of it.
    fn look(&mut self, at_ns: u64, step_s: f32, pixels: &[u8], needed: f64) -> Option<f64> {
        box_mean(pixels, self.width, self.height, &mut self.smooth);
        let found = if self.learnt < LEARN_FRAMES {
            self.learn();
            None
        } else if self.light_changed() {
            // The light changed, not the street: take the picture as it is, keep the noise.
            self.background.copy_from_slice(&self.smooth);
            self.moment.clear();
            None
        } else {
            let found = self.moving_share(needed);
            self.adapt(step_s);
            found
        };
        self.remember(at_ns);
        found
    }

    fn learn(&mut self) {
        self.learnt += 1;
        let share = 1.0 / self.learnt as f32;
        for i in 0..self.smooth.len() {
            let difference = self.smooth[i] - self.background[i];
            if self.learnt == 1 {
                self.background[i] = self.smooth[i];
                self.noise[i] = THRESHOLD_MIN / THRESHOLD_DEVIATIONS;
            } else {
                self.background[i] += difference * share;
                self.noise[i] += (difference.abs().min(20.0) - self.noise[i]) * share;
            }
        }
        self.set_threshold();
    }

    /// Most of the picture differs from the one just before.
    fn light_changed(&self) -> bool {
        let Some((_, before)) = self.moment.back() else { return false };
        let changed = (0..self.smooth.len())
            .filter(|&i| (self.smooth[i] - before[i]).abs() > self.threshold[i])
            .count();
        changed as f32 >= LIGHT_SHARE * self.smooth.len() as f32
    }

    fn moving_share(&mut self, needed: f64) -> Option<f64> {
        for i in 0..self.smooth.len() {
            let difference = (self.smooth[i] - self.background[i]).abs();
            self.in_front[i] = difference > self.threshold[i] * THRESHOLD_WEAK;
            self.mark[i] = Mark::Quiet;
        }
        let total = self.smooth.len();
        let least = ((needed * total as f64).ceil() as usize).max(MOVING_PIXELS_MIN);
        let (mut largest, mut moving) = (0, 0);
        for seed in 0..total {
            if !self.in_front[seed] {
                continue;
            }
            self.take_cluster(seed);
            let size = self.cluster.len();
            if !self.cluster_is_strong() {
                continue;
            }
            let moves = self.cluster_moves(least / 3);
            let mark = if moves { Mark::Moving } else { Mark::Standing };
            for &i in &self.cluster {
                self.mark[i] = mark;
            }
            // Small clusters beside a large one belong to it more often than to the noise.
            if moves && size * 2 >= least {
                largest = largest.max(size);
                moving += size;
            }
        }
        (largest >= least).then(|| moving as f64 / total as f64)
    }

    /// Moves the cluster that holds `seed` from `in_front` to `cluster`.
    fn take_cluster(&mut self, seed: usize) {
        self.cluster.clear();
        self.stack.push(seed);
        self.in_front[seed] = false;
        while let Some(i) = self.stack.pop() {
            self.cluster.push(i);
            let (x, y) = (i % self.width, i / self.width);
            for ny in y.saturating_sub(1)..=(y + 1).min(self.height - 1) {
                for nx in x.saturating_sub(1)..=(x + 1).min(self.width - 1) {
                    let neighbour = ny * self.width + nx;
                    if self.in_front[neighbour] {
                        self.in_front[neighbour] = false;
                        self.stack.push(neighbour);
                    }
                }
            }
        }
    }

    fn cluster_is_strong(&self) -> bool {
        let strong = |&&i: &&usize| (self.smooth[i] - self.background[i]).abs() > self.threshold[i];
        self.cluster.iter().filter(strong).take(STRONG_PIXELS_MIN).count() == STRONG_PIXELS_MIN
    }

    /// `enough` pixels are movement however large the cluster is: someone walks before what stands.
    fn cluster_moves(&self, enough: usize) -> bool {
        let Some((_, before)) = self.moment.front() else { return false };
        let changes =
            |&&i: &&usize| (self.smooth[i] - before[i]).abs() > self.threshold[i] * MOVING_THRESHOLD;
        let changed = self.cluster.iter().filter(changes).count();
        let share = (self.cluster.len() as f64 * MOVING_SHARE) as usize;
        changed >= MOVING_PIXELS_MIN.max(share.min(enough))
    }

    fn adapt(&mut self, step_s: f32) {
        let share = |constant_s: f32| 1.0 - (-step_s / constant_s).exp();
        let (quiet, standing, moving) =
            (share(ADAPT_QUIET_S), share(ADAPT_STANDING_S), share(ADAPT_MOVING_S));
        let noise = share(ADAPT_NOISE_S);
        for i in 0..self.smooth.len() {
            let difference = self.smooth[i] - self.background[i];
            let background = match self.mark[i] {
                Mark::Quiet => quiet,
                Mark::Standing => standing,
                Mark::Moving => moving,
            };
            self.background[i] += difference * background;
            if self.mark[i] == Mark::Quiet {
                self.noise[i] += (difference.abs() - self.noise[i]) * noise;
            }
        }
        self.set_threshold();
    }

    fn set_threshold(&mut self) {
        for (threshold, noise) in self.threshold.iter_mut().zip(&self.noise) {
            *threshold = (noise * THRESHOLD_DEVIATIONS).max(THRESHOLD_MIN);
        }
    }

    /// Keeps this picture, and drops those that are older than the moment needs.
    fn remember(&mut self, at_ns: u64) {
        let old_enough = |at: u64| at_ns.saturating_sub(at) >= MOMENT_NS;
        let mut spare = None;
        while self.moment.len() >= MOMENT_FRAMES_MAX
            || self.moment.get(1).is_some_and(|(second, _)| old_enough(*second))
        {
            spare = self.moment.pop_front();
        }
        let mut picture = spare.map_or_else(|| vec![0.0; self.smooth.len()], |(_, picture)| picture);
        picture.copy_from_slice(&self.smooth);
        self.moment.push_back((at_ns, picture));
    }
}

/// Each pixel becomes the mean of the 3 x 3 pixels around it; the rim repeats.
fn box_mean(pixels: &[u8], width: usize, height: usize, out: &mut [f32]) {
    for y in 0..height {
        let rows =
            [y.saturating_sub(1), y, (y + 1).min(height - 1)].map(|row| &pixels[row * width..][..width]);
        let column = |x: usize| rows[0][x] as u32 + rows[1][x] as u32 + rows[2][x] as u32;
        let mut left = column(0);
        let mut middle = left;
        for x in 0..width {
            let right = column((x + 1).min(width - 1));
            out[y * width + x] = (left + middle + right) as f32 / 9.0;
            (left, middle) = (middle, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 160;
    const HEIGHT: usize = 90;
    const FRAME_NS: u64 = 100_000_000;

    /// When something moved, first and last picture.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Span {
        from_s: f64,
        to_s: f64,
    }

    /// What the detector says of pictures that are 100 ms apart.
    fn spans(frames: impl Iterator<Item = Vec<u8>>) -> Vec<Span> {
        let mut detector = MotionDetector::new(WIDTH, HEIGHT, &MotionConfig::default());
        let mut found: Vec<Span> = Vec::new();
        let mut open = None;
        let mut note = |change: Option<MotionChange>| match change {
            Some(MotionChange::Start { at_ns, score }) => {
                assert!(score > 0.0 && open.is_none(), "starts and ends alternate");
                open = Some(at_ns);
            }
            Some(MotionChange::End { at_ns, peak_at_ns, .. }) => {
                let from = open.take().expect("an end follows a start");
                assert!((from..=at_ns).contains(&peak_at_ns), "the peak lies within");
                found.push(Span { from_s: from as f64 / 1e9, to_s: at_ns as f64 / 1e9 });
            }
            None => {}
        };
        for (n, frame) in frames.enumerate() {
            note(detector.observe(n as u64 * FRAME_NS, &frame));
        }
        note(detector.finish());
        found
    }

    fn noise(seed: &mut u64) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            sum += (*seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 1.732
    }

    /// A picture made pixel by pixel, with sensor noise of the given deviation.
    fn picture(n: u64, deviation: f32, value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
        let mut seed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let at = |i: usize| value(i % WIDTH, i / WIDTH);
        (0..WIDTH * HEIGHT).map(|i| (at(i) + noise(&mut seed) * deviation).clamp(0.0, 255.0) as u8).collect()
    }

    fn texture(x: usize, y: usize) -> f32 {
        50.0 + 30.0 * ((x / 9 + y / 7) % 2) as f32
    }

    #[test]
    fn what_is_no_movement_makes_no_event() {
        type Scene = fn(u64, usize, usize) -> f32;
        let table: [(&str, f32, Scene); 7] = [
            ("a still picture", 0.0, |_, x, y| texture(x, y)),
            ("noise of a night", 6.0, |_, x, y| texture(x, y)),
            ("much noise", 15.0, |_, x, y| texture(x, y)),
            ("dusk falls in a minute", 2.0, |n, x, y| texture(x, y) * (1.0 - n as f32 / 800.0)),
            ("all lamps go on", 3.0, |n, x, y| texture(x, y) + if n >= 100 { 60.0 } else { 0.0 }),
            ("a lamp lights a quarter of the picture", 3.0, |n, x, y| {
                texture(x, y) + if n >= 100 && x < 80 && y > 45 { 40.0 } else { 0.0 }
            }),
            ("a lamp fails, the rest of the light stays", 3.0, |n, x, y| {
                texture(x, y) * if n >= 100 && x > 100 { 0.4 } else { 1.0 }
            }),
        ];
        for (name, deviation, scene) in table {
            let found = spans((0..350).map(|n| picture(n, deviation, |x, y| scene(n, x, y))));
            assert_eq!(found, [], "{name}");
        }
    }

    #[test]
    fn a_thing_that_crosses_is_found_when_it_does() {
        // (name, noise, width, height, contrast, pixels per picture)
        let table = [
            ("someone near", 3.0, 8, 20, 40.0, 1.0),
            ("someone far", 2.0, 3, 9, 40.0, 0.6),
            ("someone in the dark", 3.0, 6, 16, 18.0, 0.8),
            ("a motorbike", 3.0, 14, 12, 60.0, 6.0),
            ("a lorry", 3.0, 70, 60, 50.0, 5.0),
        ];
        for (name, deviation, wide, tall, contrast, speed) in table {
            let first = 100u64;
            let last = first + ((WIDTH + wide) as f32 / speed) as u64;
            let found = spans((0..last + 100).map(|n| {
                let right = (n as f32 - first as f32) * speed;
                picture(n, deviation, |x, y| {
                    let inside = n >= first
                        && (x as f32) < right
                        && x as f32 >= right - wide as f32
                        && (80 - tall..80).contains(&y);
                    texture(x, y) + if inside { contrast } else { 0.0 }
                })
            }));
            let [span] = found[..] else { panic!("{name}: {found:?}") };
            let (from_s, to_s) = (first as f64 / 10.0, last as f64 / 10.0);
            let edge_s = 0.5 + 6.0 / speed as f64 / 10.0;
            assert!((span.from_s - from_s).abs() < edge_s, "{name} {span:?} starts at {from_s}");
            assert!((span.to_s - to_s).abs() < edge_s + 0.5, "{name} {span:?} ends at {to_s}");
        }
    }

    #[test]
    fn what_stops_ends_the_event_and_becomes_background() {
        let found = spans((0..600).map(|n| {
            let x0 = (n.clamp(50, 100) - 50) as usize;
            picture(n, 3.0, |x, y| {
                let inside = n >= 50 && (x0..x0 + 16).contains(&x) && (50..70).contains(&y);
                if inside { 150.0 } else { texture(x, y) }
            })
        }));
        let [span] = found[..] else { panic!("{found:?}") };
        assert!(span.from_s < 5.7 && (9.8..11.0).contains(&span.to_s), "{span:?}");
    }

    #[test]
    fn a_jump_in_time_ends_the_event_and_learns_anew() {
        let mut detector = MotionDetector::new(WIDTH, HEIGHT, &MotionConfig::default());
        let bar =
            |n: u64| picture(n, 2.0, |x, y| if x / 12 == n as usize % 13 { 200.0 } else { texture(x, y) });
        let mut changes = Vec::new();
        for n in 0..40 {
            let frame = if n < 15 { picture(n, 2.0, texture) } else { bar(n) };
            changes.extend(detector.observe(n * FRAME_NS, &frame));
        }
        assert!(
            matches!(changes[..], [MotionChange::Start { .. }]) && detector.peak().is_some(),
            "{changes:?}"
        );
        // The stream comes again an hour later, with other light; or its clock goes back.
        for later in [36_000u64, 1] {
            let change = detector.observe(later * FRAME_NS, &picture(1, 2.0, |_, _| 120.0));
            assert_eq!(change.is_some(), later != 1, "{change:?}");
            assert!(detector.peak().is_none());
        }
    }

    /// Real footage between still spans of known length: a frozen picture with a sensor's noise.
    #[cfg(feature = "media")]
    #[test]
    fn real_footage_moves_and_the_still_spans_around_it_do_not() {
        use std::path::Path;
        const STILL: u64 = 150;
        for (name, events_least) in [("car-detection.mp4", 3), ("one-by-one-person-detection.mp4", 2)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/videos").join(name);
            assert!(path.is_file(), "{} is missing", path.display());
            let mut footage = crate::media::testing::grey_pictures(&path, WIDTH, HEIGHT);
            footage.truncate(700);
            let (first, last) = (&footage[0], &footage[footage.len() - 1]);
            let moving_to = STILL + footage.len() as u64;
            let joined = (0..moving_to + STILL).map(|n| {
                let frame = match n {
                    n if n < STILL => first,
                    n if n < moving_to => &footage[(n - STILL) as usize],
                    _ => last,
                };
                picture(n, 2.0, |x, y| f32::from(frame[y * WIDTH + x]))
            });
            let found = spans(joined);
            println!("{name}, moving from 15.0 to {:.1}: {found:.1?}", moving_to as f64 / 10.0);
            assert!(found.len() >= events_least, "{name}: {found:?}");
            let moving_to_s = moving_to as f64 / 10.0;
            for span in &found {
                assert!(
                    span.to_s > 15.0 && span.from_s < moving_to_s,
                    "{name}: {span:?} lies in a still span"
                );
                assert!(
                    span.from_s >= 14.9 && span.to_s <= moving_to_s + 0.5,
                    "{name}: {span:?} reaches out"
                );
            }
            let moving: f64 = found.iter().map(|s| s.to_s - s.from_s).sum();
            assert!(
                moving > 0.4 * footage.len() as f64 / 10.0,
                "{name}: {moving} s of {} pictures",
                footage.len()
            );
        }
    }

    #[cfg(feature = "demo")]
    #[test]
    fn every_crossing_of_the_drawn_street_is_found_and_nothing_else() {
        use crate::demo::street::Street;
        let mut crossings_total = 0;
        for seed in 1..=2 {
            let street = Street::new(seed, 640, 360, 10);
            let seconds = 80;
            let found = spans((0..seconds * 10).map(|n| shrink(&street.frame(n), 640, 360)));
            let mut truth = street.crossings(0.0, seconds as f64);
            truth.retain(|crossing| crossing.to_s < seconds as f64);
            crossings_total += truth.len();
            for crossing in &truth {
                let hits =
                    found.iter().filter(|s| s.from_s < crossing.to_s && s.to_s > crossing.from_s).count();
                assert_eq!(hits, 1, "seed {seed}: {crossing:?} in {found:?}");
            }
            for span in &found {
                let covered = street
                    .crossings(0.0, seconds as f64)
                    .iter()
                    .any(|c| span.from_s >= c.from_s - 0.3 && span.to_s <= c.to_s + 0.6);
                assert!(covered, "seed {seed}: {span:?} lies outside {truth:?}");
            }
        }
        assert!(crossings_total >= 8, "{crossings_total}");
    }

    /// The luma of an I420 picture as the decoder's small one: means of blocks.
    #[cfg(feature = "demo")]
    fn shrink(i420: &[u8], width: usize, height: usize) -> Vec<u8> {
        let (step_x, step_y) = (width / WIDTH, height / HEIGHT);
        let block = |i: usize| {
            let (x, y) = (i % WIDTH * step_x, i / WIDTH * step_y);
            let rows = (y..y + step_y).map(|row| &i420[row * width + x..][..step_x]);
            let sum: u32 = rows.flatten().map(|&p| u32::from(p)).sum();
            (sum / (step_x * step_y) as u32) as u8
        };
        (0..WIDTH * HEIGHT).map(block).collect()
    }
}
