//! A street at night, drawn: what moves in it, and when, is known to the frame.
//!
//! Owns the demo's pictures and their truth. Deterministic by seed, pure, cheap: the street itself
//! is computed once, a frame adds what moves and the noise of a sensor. May not know codecs, nor who looks.

mod judge;
mod scene;
mod things;
mod weather;

pub use judge::Verdict;
use scene::Scene;
use things::{Canvas, Thing};
pub use weather::Weather;

use crate::media::rtsp_server::Pictures;

/// The plan of crossings covers an hour and then repeats.
const PLAN_S: f64 = 3600.0;
const FIRST_CROSSING_S: f64 = 6.0;
/// At least this long nothing moves between two crossings.
const EMPTY_S_MIN: f64 = 6.5;
const EMPTY_S_MAX: f64 = 9.5;
const NOISE_TILE: usize = 1 << 16;
/// The lamp fails in the first empty span after this, unless the caller says otherwise.
const LAMP_FAILS_S: f64 = 75.0;

/// What the street is like, and who comes by: a table of truths for whoever looks for movement. To add one, add a line.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    pub crowd: Crowd,
    pub weather: Weather,
}

/// Who comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// People and motorbikes, across all of the picture.
    Mixed,
    /// People of 25 to 30 pixels who can be seen for two to three seconds.
    Far,
    Nobody,
}

/// Every setting.
pub const SETTINGS: [Setting; 10] = {
    const CLEAR: Weather = Weather::CLEAR;
    const fn of(name: &'static str, crowd: Crowd, weather: Weather) -> Setting {
        Setting { name, crowd, weather }
    }
    [
        of("clear", Crowd::Mixed, CLEAR),
        of("far", Crowd::Far, CLEAR),
        of("noise", Crowd::Mixed, Weather { noise: 6.0, ..CLEAR }),
        of("lamps", Crowd::Mixed, Weather { lamp_every_s: 24.0, ..CLEAR }),
        of("rain", Crowd::Mixed, Weather { rain: 70, noise: 3.0, ..CLEAR }),
        of("insects", Crowd::Mixed, Weather { insects_every_s: 4.0, ..CLEAR }),
        of("headlights", Crowd::Mixed, Weather { headlights_every_s: 9.0, ..CLEAR }),
        of("trees", Crowd::Mixed, Weather { trees: 2, ..CLEAR }),
        of(
            "all",
            Crowd::Mixed,
            Weather {
                noise: 3.0,
                rain: 40,
                insects_every_s: 9.0,
                headlights_every_s: 17.0,
                trees: 1,
                lamp_every_s: 40.0,
            },
        ),
        of(
            "empty",
            Crowd::Nobody,
            Weather {
                noise: 4.0,
                rain: 60,
                insects_every_s: 5.0,
                headlights_every_s: 11.0,
                trees: 2,
                lamp_every_s: 30.0,
            },
        ),
    ]
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Person,
    Motorbike,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToRight,
    ToLeft,
}

/// Something is to be seen in the frames `from_frame..=to_frame`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossing {
    pub kind: Kind,
    pub direction: Direction,
    /// Greatest height in the picture, pixels.
    pub height_px: f32,
    pub from_frame: u64,
    pub to_frame: u64,
    /// The same as seconds since frame 0.
    pub from_s: f64,
    pub to_s: f64,
}

/// One camera's street. An even seed looks across it, an odd one along it.
pub struct Street {
    width: usize,
    height: usize,
    fps: u32,
    lamp_fails_s: Option<f64>,
    lit: Picture,
    failed: Picture,
    scene: Scene,
    things: Vec<(Crossing, Thing)>,
    weather: Weather,
    /// Of luma, and of chroma.
    noise: [Vec<i8>; 2],
    seed: u64,
}

/// Planes of an I420 picture.
struct Picture {
    bytes: Vec<u8>,
}

impl Street {
    /// A street of `width` by `height` (both even) pixels on a clear night, on which a lamp fails.
    pub fn new(seed: u64, width: usize, height: usize, fps: u32) -> Self {
        let mut street = Self::of_setting(&SETTINGS[0], seed, width, height, fps);
        let mut crossings = street.things.iter().map(|(crossing, _)| crossing);
        let next = crossings.find(|crossing| crossing.from_s - EMPTY_S_MIN / 2.0 > LAMP_FAILS_S);
        street.lamp_fails_s = next.map(|crossing| (crossing.from_s - EMPTY_S_MIN / 2.0).round());
        street
    }

    /// A street as in one of [`SETTINGS`].
    pub fn of_setting(setting: &Setting, seed: u64, width: usize, height: usize, fps: u32) -> Self {
        assert!(width.is_multiple_of(2) && height.is_multiple_of(2) && width > 0 && height > 0 && fps > 0);
        let scene = Scene::new(seed, width, height);
        let lit = Picture { bytes: scene.draw(None) };
        let failed = Picture { bytes: scene.draw(Some(scene.failing_lamp())) };
        let things = plan(seed, setting.crowd, &scene, fps);
        let weather = setting.weather;
        let luma = noise_tile(seed, weather.noise);
        let chroma = luma.iter().map(|noise| noise / 2).collect();
        let noise = [luma, chroma];
        Self { width, height, fps, lamp_fails_s: None, lit, failed, scene, things, weather, noise, seed }
    }

    /// Sets when one of the lamps fails, in seconds since frame 0; None: never.
    pub fn with_lamp_failure(mut self, at_s: Option<f64>) -> Self {
        self.lamp_fails_s = at_s;
        self
    }

    pub fn lamp_fails_s(&self) -> Option<f64> {
        self.lamp_fails_s
    }

    /// Bytes of one picture.
    pub fn frame_bytes(&self) -> usize {
        self.width * self.height * 3 / 2
    }

    /// Frame `n` as I420.
    pub fn frame(&self, n: u64) -> Vec<u8> {
        let mut out = vec![0; self.frame_bytes()];
        self.frame_into(n, &mut out);
        out
    }

    /// Draws frame `n` into a buffer of [`Self::frame_bytes`].
    pub fn frame_into(&self, n: u64, out: &mut [u8]) {
        let at_s = self.seconds(n);
        let dark =
            self.lamp_fails_s.is_some_and(|at| at_s >= at) || self.weather.lamp_is_off(self.seed, at_s);
        let background = if dark { &self.failed } else { &self.lit };
        out.copy_from_slice(&background.bytes);
        let within = n % self.plan_frames();
        let first = self.things.partition_point(|(crossing, _)| crossing.to_frame < within);
        let mut canvas = Canvas::new(out, self.width, self.height);
        let broken = dark.then(|| self.scene.failing_lamp());
        for (_, thing) in
            self.things[first..].iter().take_while(|(crossing, _)| crossing.from_frame <= within)
        {
            thing.draw(&mut canvas, &self.scene, broken, within as f64 / self.fps as f64);
        }
        self.weather.draw(&mut canvas, self.seed, n, at_s);
        self.add_noise(n, out);
    }

    /// Everything that is to be seen between two moments, whole or in part, in order.
    pub fn crossings(&self, from_s: f64, to_s: f64) -> Vec<Crossing> {
        let mut found = Vec::new();
        let first_round = (from_s.max(0.0) / PLAN_S) as u64;
        let last_round = (to_s.max(0.0) / PLAN_S) as u64;
        for round in first_round..=last_round {
            let later_frames = round * self.plan_frames();
            let later_s = round as f64 * PLAN_S;
            for (crossing, _) in &self.things {
                let moved = Crossing {
                    from_frame: crossing.from_frame + later_frames,
                    to_frame: crossing.to_frame + later_frames,
                    from_s: crossing.from_s + later_s,
                    to_s: crossing.to_s + later_s,
                    ..*crossing
                };
                if moved.to_s >= from_s && moved.from_s <= to_s {
                    found.push(moved);
                }
            }
        }
        found
    }

    fn plan_frames(&self) -> u64 {
        PLAN_S as u64 * u64::from(self.fps)
    }

    fn seconds(&self, n: u64) -> f64 {
        n as f64 / f64::from(self.fps)
    }

    fn add_noise(&self, n: u64, out: &mut [u8]) {
        let mut random = Random::new(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (luma, chroma) = out.split_at_mut(self.width * self.height);
        for (plane, width, tile) in
            [(luma, self.width, &self.noise[0]), (chroma, self.width / 2, &self.noise[1])]
        {
            for row in plane.chunks_exact_mut(width) {
                let start = random.next() as usize % (NOISE_TILE - width);
                let noise = &tile[start..start + width];
                for x in 0..width {
                    row[x] = row[x].saturating_add_signed(noise[x]);
                }
            }
        }
    }
}

impl Pictures for Street {
    fn width(&self) -> u32 {
        self.width as u32
    }

    fn height(&self) -> u32 {
        self.height as u32
    }

    fn fps(&self) -> u32 {
        self.fps
    }

    fn picture(&mut self, n: u64) -> Vec<u8> {
        self.frame(n)
    }
}

/// Draws up what crosses when, with empty spans between.
fn plan(seed: u64, crowd: Crowd, scene: &Scene, fps: u32) -> Vec<(Crossing, Thing)> {
    if crowd == Crowd::Nobody {
        return Vec::new();
    }
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x00c0_ffee);
    let mut things = Vec::new();
    let mut start_s = FIRST_CROSSING_S;
    loop {
        let thing = Thing::draw_lot(&mut random, scene, crowd, start_s);
        let (from_frame, to_frame, height_px) = thing.seen(scene, fps);
        let crossing = Crossing {
            kind: thing.kind,
            direction: thing.direction,
            height_px,
            from_frame,
            to_frame,
            from_s: from_frame as f64 / f64::from(fps),
            to_s: to_frame as f64 / f64::from(fps),
        };
        if crossing.to_s > PLAN_S - EMPTY_S_MIN {
            return things;
        }
        start_s = crossing.to_s + random.between(EMPTY_S_MIN as f32, EMPTY_S_MAX as f32) as f64;
        things.push((crossing, thing));
    }
}

fn noise_tile(seed: u64, deviation: f32) -> Vec<i8> {
    let mut random = Random::new(seed ^ 0x006e_6f69_7365);
    // Four uniform numbers make a good enough bell.
    let spread = deviation * (3.0f32).sqrt() / 2.0;
    (0..NOISE_TILE)
        .map(|_| (0..4).map(|_| random.between(-spread, spread)).sum::<f32>().round() as i8)
        .collect()
}

/// Small and repeatable (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (self.next() % (1 << 20)) as f32 / (1 << 20) as f32 * (high - low)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Writes frames for people to look at: `CAMNET_STREET_DIR=/tmp/x cargo test street_to_look_at`.
    #[test]
    fn street_to_look_at() {
        let Ok(dir) = std::env::var("CAMNET_STREET_DIR") else { return };
        for setting in &SETTINGS {
            for seed in [2, 1] {
                let street = Street::of_setting(setting, seed, 640, 360, 10);
                let all: Vec<u8> = (0..400).flat_map(|n| street.frame(n)).collect();
                std::fs::write(format!("{dir}/street-{}-{seed}.yuv", setting.name), all).unwrap();
                for crossing in street.crossings(0.0, 40.0) {
                    println!("{} {seed} {crossing:?}", setting.name);
                }
            }
        }
    }

    #[test]
    fn the_plan_is_what_is_drawn() {
        for seed in [1, 2] {
            let street = Street::new(seed, 320, 180, 10);
            let mut changed = Vec::new();
            for n in 0..900u64 {
                let drawn = street.frame(n);
                let mut empty = vec![0; street.frame_bytes()];
                let dark = street.lamp_fails_s().is_some_and(|at| n as f64 / 10.0 >= at);
                empty.copy_from_slice(if dark { &street.failed.bytes } else { &street.lit.bytes });
                street.add_noise(n, &mut empty);
                if drawn != empty {
                    changed.push(n);
                }
            }
            let crossings = street.crossings(0.0, 90.0);
            assert!(crossings.len() >= 4);
            let planned = |n: &u64| crossings.iter().any(|c| (c.from_frame..=c.to_frame).contains(n));
            assert!(changed.iter().all(planned), "seed {seed}: nothing moves outside the plan");
            for crossing in crossings.iter().filter(|c| c.to_frame < 900) {
                let shown = crossing.from_frame..=crossing.to_frame;
                let seen = changed.iter().filter(|n| shown.contains(*n));
                let length = crossing.to_frame - crossing.from_frame + 1;
                assert!(seen.count() as u64 * 10 >= length * 8, "seed {seed}: {crossing:?} is seen");
            }
        }
    }

    #[test]
    fn crossings_leave_empty_spans_between_them_hour_after_hour() {
        for seed in 0..6 {
            let street = Street::new(seed, 160, 90, 10);
            let crossings = street.crossings(0.0, 2.5 * PLAN_S);
            assert!(crossings.len() > 400, "{}", crossings.len());
            assert!((5.5..7.0).contains(&crossings[0].from_s), "{:?}", crossings[0]);
            for pair in crossings.windows(2) {
                let empty_s = pair[1].from_s - pair[0].to_s;
                assert!((6.0..50.0).contains(&empty_s), "seed {seed}: {pair:?}");
            }
            let fails_s = street.lamp_fails_s().unwrap();
            assert_eq!(
                street.crossings(fails_s - 2.0, fails_s + 2.0),
                [],
                "the lamp fails while nothing moves"
            );
            let part = street.crossings(100.0, 160.0);
            assert!(part.iter().all(|c| c.to_s >= 100.0 && c.from_s <= 160.0) && !part.is_empty());
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let frame = |seed| Street::new(seed, 160, 90, 10).frame(70);
        assert_eq!(frame(1), frame(1));
        assert_ne!(frame(1), frame(3));
    }

    #[test]
    fn a_frame_costs_little() {
        let street = Street::new(1, 640, 360, 10);
        let mut out = vec![0; street.frame_bytes()];
        let start = Instant::now();
        for n in 0..300 {
            street.frame_into(n, &mut out);
        }
        let per_frame_ms = start.elapsed().as_secs_f64() * 1000.0 / 300.0;
        println!("{per_frame_ms:.2} ms per frame");
        assert!(per_frame_ms < 40.0, "{per_frame_ms} ms, even on a busy machine");
    }
}
