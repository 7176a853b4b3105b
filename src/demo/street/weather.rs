//! What changes in the picture and is no event: rain, insects, headlights from elsewhere, trees, lamps that switch.
//!
//! Owns how these look and when they are there, by seed; they are drawn over what moves. May not know the plan of
//! crossings: none of this is in the truth.

use std::f32::consts::TAU;

use super::Random;
use super::things::Canvas;

/// What the street is like besides what crosses it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Deviation of the sensor's noise, grey levels.
    pub noise: f32,
    /// Streaks of rain in a picture.
    pub rain: u32,
    /// An insect comes before the lens about this often, seconds; 0: never.
    pub insects_every_s: f64,
    /// Headlights sweep over the fronts about this often, seconds; 0: never.
    pub headlights_every_s: f64,
    /// Trees whose crowns sway in the wind.
    pub trees: u32,
    /// A lamp goes off and on again about this often, seconds; 0: never.
    pub lamp_every_s: f64,
}

impl Weather {
    /// A quiet night with a good camera.
    pub const CLEAR: Self = Self {
        noise: 2.2,
        rain: 0,
        insects_every_s: 0.0,
        headlights_every_s: 0.0,
        trees: 0,
        lamp_every_s: 0.0,
    };

    /// Draws what there is of it at `at_s` over a picture.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, seed: u64, n: u64, at_s: f64) {
        for tree in 0..self.trees {
            draw_tree(canvas, seed, tree, at_s);
        }
        for (began_s, lot) in recent(seed ^ 0x11, self.headlights_every_s, at_s, 3.5) {
            draw_headlights(canvas, lot, (at_s - began_s) as f32);
        }
        draw_rain(canvas, seed, n, self.rain);
        for (began_s, lot) in recent(seed ^ 0x22, self.insects_every_s, at_s, 1.6) {
            draw_insect(canvas, lot, (at_s - began_s) as f32);
        }
    }

    /// True while the lamp that switches is off.
    pub(super) fn lamp_is_off(&self, seed: u64, at_s: f64) -> bool {
        let off = recent(seed ^ 0x33, self.lamp_every_s, at_s, self.lamp_every_s);
        let is_off = |&(began_s, lot): &(f64, u64)| {
            let passed = at_s - began_s;
            // Off for a third of the time; a tube that starts flickers first.
            let dark_s = self.lamp_every_s / 3.0;
            let flicker = lot.is_multiple_of(2) && (dark_s..dark_s + 0.8).contains(&passed);
            passed < dark_s || flicker && (passed * 5.0) as u64 % 2 == 1
        };
        off.last().is_some_and(is_off)
    }
}

/// What began within the last `longest_s`: when, and a lot drawn for it. One begins in each span of `every_s`, at a
/// time that is drawn.
fn recent(seed: u64, every_s: f64, at_s: f64, longest_s: f64) -> Vec<(f64, u64)> {
    if every_s <= 0.0 {
        return Vec::new();
    }
    let span = |at_s: f64| (at_s.max(0.0) / every_s) as u64;
    let begins = |n: u64| {
        let mut random = Random::new(seed ^ n.wrapping_mul(0xd134_2543_de82_ef95));
        // None in the first quarter, so that two never begin at once.
        let began_s = (n as f64 + f64::from(random.between(0.25, 1.0))) * every_s;
        (began_s, random.next())
    };
    let all = (span(at_s - longest_s - every_s)..=span(at_s)).map(begins);
    all.filter(|&(began_s, _)| began_s <= at_s && at_s - began_s <= longest_s).collect()
}

/// Drops that fall through the light before the camera: other ones in each picture.
fn draw_rain(canvas: &mut Canvas<'_>, seed: u64, n: u64, streaks: u32) {
    let mut random = Random::new(seed ^ 0x7a17 ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (width, height) = canvas.size();
    for _ in 0..streaks {
        let near = random.between(0.0, 1.0);
        let (x, y) = (random.between(0.0, width), random.between(-0.1 * height, height));
        let long = height * (0.02 + 0.07 * near);
        let slant = long * random.between(0.05, 0.2);
        let strength = random.between(10.0, 34.0);
        canvas.streak([x, y], [x - slant, y + long], 0.5 + 0.9 * near, strength);
    }
}

/// An insect flies past the lens, lit by the camera's own lamp: large, bright, out of focus and fast.
fn draw_insect(canvas: &mut Canvas<'_>, lot: u64, passed_s: f32) {
    let mut random = Random::new(lot);
    let (width, height) = canvas.size();
    let stays_s = random.between(0.25, 1.5);
    if passed_s > stays_s {
        return;
    }
    let share = passed_s / stays_s;
    let from = [random.between(-0.1, 1.1), random.between(-0.1, 1.0)];
    let to = [random.between(-0.1, 1.1), random.between(0.0, 1.1)];
    let (turns, wild) = (random.between(2.0, 7.0), random.between(0.04, 0.16));
    let radius = width * random.between(0.012, 0.05);
    let wobble = |phase: f32| (share * turns * TAU + phase).sin() * wild;
    let x = (from[0] + (to[0] - from[0]) * share + wobble(0.0)) * width;
    let y = (from[1] + (to[1] - from[1]) * share + wobble(1.3)) * height;
    // The wings beat faster than the pictures come.
    let beat = 0.7 + 0.3 * (passed_s * 61.0).sin();
    canvas.glow(x, y, radius * beat, radius, random.between(45.0, 120.0), [0.0, 0.0]);
}

/// A car that turns somewhere else: its light goes over the street, as bright as what it falls on.
fn draw_headlights(canvas: &mut Canvas<'_>, lot: u64, passed_s: f32) {
    let mut random = Random::new(lot);
    let (width, height) = canvas.size();
    let takes_s = random.between(1.2, 3.4);
    if passed_s > takes_s {
        return;
    }
    let share = passed_s / takes_s;
    let way = if random.next().is_multiple_of(2) { share } else { 1.0 - share };
    let (wide, tall) = (width * random.between(0.2, 0.45), height * random.between(0.3, 0.6));
    let x = -wide + way * (width + 2.0 * wide);
    let y = height * random.between(0.35, 0.6);
    let swell = (share * std::f32::consts::PI).sin();
    canvas.light(x, y, wide, tall, random.between(0.5, 1.6) * swell);
}

/// The crown of a tree in the wind: leaves that are lit from behind, each on its own way.
fn draw_tree(canvas: &mut Canvas<'_>, seed: u64, number: u32, at_s: f64) {
    const LEAVES: usize = 140;
    let mut random = Random::new(seed ^ 0x7ee ^ (u64::from(number) << 32));
    let (width, height) = canvas.size();
    let side = if number.is_multiple_of(2) { random.between(0.02, 0.2) } else { random.between(0.75, 0.95) };
    let middle = [side * width, random.between(0.12, 0.3) * height];
    let size = [width * random.between(0.07, 0.13), height * random.between(0.10, 0.2)];
    let at = at_s as f32;
    // Gusts come and go within some ten seconds.
    let gust = 0.35 + 0.65 * (at * 0.45 + random.between(0.0, TAU)).sin().max(0.0);
    for _ in 0..LEAVES {
        let (angle, out) = (random.between(0.0, TAU), random.between(0.0, 1.0).sqrt());
        let (pace, phase) = (random.between(3.0, 8.0), random.between(0.0, TAU));
        let sway = gust * width * 0.008 * out;
        let x = middle[0] + angle.cos() * out * size[0] + sway * (at * pace + phase).sin();
        let y = middle[1] + angle.sin() * out * size[1] + 0.5 * sway * (at * pace * 1.3 + phase).cos();
        let leaf = [random.between(24.0, 62.0), random.between(118.0, 126.0), random.between(118.0, 124.0)];
        let radius = width * random.between(0.004, 0.010);
        canvas.dot(x, y, radius, leaf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_now_and_then_comes_as_often_as_is_said() {
        for every_s in [3.0, 20.0] {
            let mut began: Vec<(f64, u64)> =
                (0..6000).flat_map(|n| recent(7, every_s, f64::from(n) / 10.0, 1.0)).collect();
            began.sort_by(|a, b| a.0.total_cmp(&b.0));
            began.dedup();
            let expected = 600.0 / every_s;
            assert!((began.len() as f64 - expected).abs() <= 1.0, "{} of {expected}", began.len());
        }
        assert_eq!(recent(7, 0.0, 100.0, 1.0), []);
    }

    #[test]
    fn a_lamp_that_switches_is_off_for_a_third_of_the_time() {
        let weather = Weather { lamp_every_s: 30.0, ..Weather::CLEAR };
        let off = (0..30_000).filter(|n| weather.lamp_is_off(5, f64::from(*n) / 10.0)).count();
        assert!((9_000..11_500).contains(&off), "{off} of 30000");
        assert!((0..1000).all(|n| !Weather::CLEAR.lamp_is_off(5, f64::from(n))));
    }
}
