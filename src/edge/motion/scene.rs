//! What of a small grey picture is in front of what is usually there.
//!
//! Owns a picture of the background and of its unrest. Works on the logarithm of the light less its mean around each
//! pixel: light that comes or goes multiplies what it falls on, so a lamp, a headlight or dusk changes that little,
//! while a thing that stands before the background changes it at its edges. May not know what moves, nor events.
//!
//! Its loops count instead of zipping: tests run without optimisation, where an iterator costs several times its work.

use super::cluster::Cluster;

/// Grey value of black (ITU-R BT.601, 2.5.1), and what is added before the logarithm is taken: in the dark a difference
/// is the sensor's.
const BLACK: f32 = 16.0;
const DARK: f32 = 6.0;
/// Half the side of the square whose mean is taken for the light of its middle, as a share of the picture's width.
const LIGHT_REACH: f32 = 0.03;
/// And for the light of the whole neighbourhood, wide enough that no thing fills it.
const WIDE_REACH: f32 = 0.09;
/// Where the light of the neighbourhood changed, a difference must be so much of that change besides.
const LIGHT_SHARE: f32 = 0.6;
/// Pictures that only teach.
const LEARN_PICTURES: u32 = 20;
/// Least contrast that counts (0.1 is 10 % lighter or darker), and how many times the usual unrest it must be.
const CONTRAST_MIN: f32 = 0.055;
const UNREST_TIMES: f32 = 4.5;
const UNREST_MIN: f32 = CONTRAST_MIN / UNREST_TIMES / 2.0;
const UNREST_MAX: f32 = 2.0;
/// What differs much is worth a longer look, however restless it is there.
const GLANCE_UNREST_MAX: f32 = 0.12;
/// Neighbours of a pixel in front are in front at this share of the contrast.
pub const WEAK: f32 = 0.6;
/// Share of the picture that is in front at once when the picture itself changed: another view, a lens wiped.
const CHANGED_SHARE: f32 = 0.4;
/// "A moment ago" is at least so long ago, and less than twice that.
const MOMENT_NS: u64 = 200_000_000;
/// Time constants of the background, seconds: where nothing is in front, where only the light changed, where something
/// stands, and where something moves.
const QUIET_S: f32 = 3.0;
const LIGHT_S: f32 = 0.8;
const STANDING_S: f32 = 5.0;
const MOVING_S: f32 = 60.0;
/// The unrest is what the contrast exceeds in one picture of eleven: how fast it rises while it does and falls while it
/// does not (e-fold per second). What happens once moves it little, however large.
const UNREST_RISES: f32 = 0.3;
const UNREST_FALLS: f32 = 0.03;
/// While the picture is new, so many times as fast.
const SETTLE_S: f32 = 8.0;
const SETTLE_TIMES: f32 = 5.0;
/// Between pictures further apart nothing more is learnt than in this time, seconds.
const STEP_S_MAX: f32 = 0.5;

/// A picture as multiples of the contrast that is needed at each pixel.
#[derive(Clone, Copy)]
pub struct Front<'a> {
    /// Against the background.
    pub excess: &'a [f32],
    /// Against a moment ago.
    pub change: &'a [f32],
}

/// The background, its unrest, and the newest picture before it.
pub struct Scene {
    width: usize,
    learnt: u32,
    settled_s: f32,
    logarithm: [f32; 256],
    /// How much less (below 1) or more contrast a pixel needs; infinite where nobody looks.
    tolerance: Vec<f32>,
    /// The two pictures before the newest.
    before: [Vec<u8>; 2],
    light: Vec<f32>,
    background: Vec<f32>,
    unrest: Vec<f32>,
    /// Of the newest picture: light against the background; the same less its mean around; and its mean far around.
    difference: Vec<f32>,
    contrast: Vec<f32>,
    wide: Vec<f32>,
    excess: Vec<f32>,
    change: Vec<f32>,
    /// Contrasts of a moment ago, the older first.
    moments: [(u64, Vec<f32>); 2],
    /// 1 where something moves, else 0.
    moves: Vec<f32>,
    scratch: Vec<f32>,
    sums: Vec<f32>,
}

impl Scene {
    /// `tolerance` has a value for each pixel: 1 is usual, more is less sensitive, infinite is blind.
    pub fn new(width: usize, height: usize, tolerance: Vec<f32>) -> Self {
        let n = width * height;
        assert_eq!(tolerance.len(), n, "a tolerance for each pixel");
        let flat = || vec![0.0; n];
        Self {
            width,
            learnt: 0,
            settled_s: 0.0,
            logarithm: std::array::from_fn(|grey| ((grey as f32 - BLACK).max(0.0) + DARK).ln()),
            tolerance,
            before: [Vec::new(), Vec::new()],
            light: flat(),
            background: flat(),
            unrest: vec![CONTRAST_MIN / UNREST_TIMES; n],
            difference: flat(),
            contrast: flat(),
            wide: flat(),
            excess: flat(),
            change: flat(),
            moments: [(0, flat()), (0, flat())],
            moves: flat(),
            scratch: flat(),
            sums: vec![0.0; width],
        }
    }

    /// What comes has nothing to do with what was.
    pub fn forget(&mut self) {
        self.learnt = 0;
        self.settled_s = 0.0;
        self.before = [Vec::new(), Vec::new()];
    }

    /// Looks at a picture of `width * height` grey values. None while it only learns.
    pub fn look(&mut self, at_ns: u64, pixels: &[u8]) -> Option<Front<'_>> {
        self.take_light(pixels);
        if self.learnt == 0 {
            self.background.copy_from_slice(&self.light);
        }
        let in_front = self.compare(UNREST_MAX);
        if at_ns.saturating_sub(self.moments[1].0) >= MOMENT_NS {
            self.moments.swap(0, 1);
            self.moments[1].0 = at_ns;
            self.moments[1].1.copy_from_slice(&self.contrast);
        }
        if self.learnt < LEARN_PICTURES {
            self.learn();
            return None;
        }
        if in_front > CHANGED_SHARE * self.excess.len() as f32 {
            self.background.copy_from_slice(&self.light);
            return None;
        }
        Some(Front { excess: &self.excess, change: &self.change })
    }

    /// The logarithm of the median of three pictures: what is in one of them only, as rain is, is not seen.
    fn take_light(&mut self, pixels: &[u8]) {
        let [newer, older] = &self.before;
        let (newer, older) = match newer.is_empty() || older.is_empty() {
            true => (pixels, pixels),
            false => (&newer[..], &older[..]),
        };
        for i in 0..pixels.len() {
            let (a, b, c) = (pixels[i], newer[i], older[i]);
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            let median = if c < low {
                low
            } else if c > high {
                high
            } else {
                c
            };
            self.scratch[i] = self.logarithm[usize::from(median)];
        }
        self.before.swap(0, 1);
        self.before[0].clear();
        self.before[0].extend_from_slice(pixels);
        mean_around(&self.scratch, self.width, 1, &mut self.difference, &mut self.sums, &mut self.light);
    }

    /// Compares the light with the background, taking no pixel for more restless than that; how many are in front.
    fn compare(&mut self, unrest_max: f32) -> f32 {
        let n = self.light.len();
        let (light, background) = (&self.light[..n], &self.background[..n]);
        let difference = &mut self.difference[..n];
        for i in 0..n {
            difference[i] = light[i] - background[i];
        }
        let reach = ((self.width as f32 * LIGHT_REACH) as usize).max(2);
        mean_around(difference, self.width, reach, &mut self.scratch, &mut self.sums, &mut self.contrast);
        let wide = (self.width as f32 * WIDE_REACH) as usize;
        mean_around(difference, self.width, wide, &mut self.scratch, &mut self.sums, &mut self.wide);
        let (contrast, excess, change) =
            (&mut self.contrast[..n], &mut self.excess[..n], &mut self.change[..n]);
        let (unrest, tolerance, moment) = (&self.unrest[..n], &self.tolerance[..n], &self.moments[0].1[..n]);
        let wide = &self.wide[..n];
        let mut in_front = 0.0;
        for i in 0..n {
            contrast[i] = difference[i] - contrast[i];
            let usual = (unrest[i].min(unrest_max) * UNREST_TIMES).max(CONTRAST_MIN) * tolerance[i];
            let needed = 1.0 / (usual + wide[i].abs() * LIGHT_SHARE);
            // Beside a thing its own difference shifts the mean: what did not change itself is not in front.
            excess[i] = contrast[i].abs().min(difference[i].abs() * 1.5) * needed;
            change[i] = (contrast[i] - moment[i]).abs() * needed;
            in_front += if excess[i] > 1.0 { 1.0 } else { 0.0 };
        }
        in_front
    }

    fn learn(&mut self) {
        self.learnt += 1;
        let share = 1.0 / self.learnt as f32;
        for i in 0..self.background.len() {
            self.background[i] += self.difference[i] * share;
            self.unrest[i] += (self.contrast[i].abs().min(1.0) - self.unrest[i]) * share.min(0.3);
        }
    }

    /// A picture by itself, which needs `more` times the contrast. None while too little is known, or all changed.
    pub fn glance(&mut self, pixels: &[u8], more: f32) -> Option<Front<'_>> {
        if !self.is_settled() {
            return None;
        }
        self.before = [Vec::new(), Vec::new()];
        self.take_light(pixels);
        let in_front = self.compare(GLANCE_UNREST_MAX);
        self.before = [Vec::new(), Vec::new()];
        if in_front > CHANGED_SHARE * self.excess.len() as f32 {
            return None;
        }
        self.excess.iter_mut().for_each(|excess| *excess /= more);
        Some(Front { excess: &self.excess, change: &self.change })
    }

    /// The background and its unrest are known.
    pub fn is_settled(&self) -> bool {
        self.settled_s >= SETTLE_S
    }

    /// Says that something moves in this part of the newest picture.
    pub fn moving(&mut self, seen: &Cluster) {
        for row in seen.top as usize..seen.bottom as usize {
            self.moves[row * self.width..][seen.left as usize..seen.right as usize].fill(1.0);
        }
    }

    /// Learns from the newest picture, `step_s` after the one before.
    pub fn adapt(&mut self, step_s: f32) {
        self.settled_s += step_s;
        let times = if self.settled_s < SETTLE_S { SETTLE_TIMES } else { 1.0 };
        // What calmed down has calmed down, however seldom that is looked at.
        let falls = (-UNREST_FALLS * step_s * times).exp();
        let step_s = step_s.min(STEP_S_MAX);
        let rises = (UNREST_RISES * step_s * times).exp();
        let [quiet, light, standing, moving] =
            [QUIET_S, LIGHT_S, STANDING_S, MOVING_S].map(|constant_s| 1.0 - (-step_s / constant_s).exp());
        let n = self.background.len();
        let (background, unrest, moves) =
            (&mut self.background[..n], &mut self.unrest[..n], &mut self.moves[..n]);
        let (difference, contrast, excess) = (&self.difference[..n], &self.contrast[..n], &self.excess[..n]);
        let wide = &self.wide[..n];
        for i in 0..n {
            let differs = difference[i].abs() > CONTRAST_MIN * 2.0;
            // The inside of a thing that has one colour differs, but not at its own edges.
            let still = if wide[i].abs() > CONTRAST_MIN * 2.0 { light } else { standing };
            let rate = if excess[i] > WEAK {
                standing
            } else if differs {
                still
            } else {
                quiet
            };
            background[i] += difference[i] * if moves[i] > 0.5 { moving } else { rate };
            let factor = if contrast[i].abs() > unrest[i] { rises } else { falls };
            unrest[i] *= if moves[i] > 0.5 { 1.0 } else { factor };
            unrest[i] = unrest[i].clamp(UNREST_MIN, UNREST_MAX);
            moves[i] = 0.0;
        }
    }
}

/// The mean of the square of `2 * reach + 1` pixels around each; at the rim, of what there is of it.
fn mean_around(
    from: &[f32],
    width: usize,
    reach: usize,
    scratch: &mut [f32],
    sums: &mut [f32],
    to: &mut [f32],
) {
    let height = from.len() / width;
    for (row, out) in from.chunks_exact(width).zip(scratch.chunks_exact_mut(width)) {
        let mut sum: f32 = row[..reach.min(width)].iter().sum();
        let mut count = reach.min(width);
        for x in 0..width {
            if x + reach < width {
                sum += row[x + reach];
                count += 1;
            }
            if x > reach {
                sum -= row[x - reach - 1];
                count -= 1;
            }
            out[x] = sum / count as f32;
        }
    }
    sums.fill(0.0);
    for y in 0..reach.min(height) {
        add(sums, &scratch[y * width..][..width], 1.0);
    }
    for y in 0..height {
        if y + reach < height {
            add(sums, &scratch[(y + reach) * width..][..width], 1.0);
        }
        if y > reach {
            add(sums, &scratch[(y - reach - 1) * width..][..width], -1.0);
        }
        let share = 1.0 / ((y + reach).min(height - 1) - y.saturating_sub(reach) + 1) as f32;
        let out = &mut to[y * width..][..width];
        for x in 0..width {
            out[x] = sums[x] * share;
        }
    }
}

fn add(sums: &mut [f32], row: &[f32], sign: f32) {
    for x in 0..row.len() {
        sums[x] += sign * row[x];
    }
}
