//! What is wrong with a camera's pictures, from the small grey ones.
//!
//! Owns what the view usually looks like, by day and by night, and how long something must last before it counts. Pure:
//! no I/O, no clock, no decoder; times are what the caller passes in. May not know what moves, nor events.
//!
//! A view is known by where its edges are: light comes and goes, infrared turns contrasts over, people pass; the edges of
//! walls and kerbs stay. Nothing is learnt from a picture that is found wrong, so what lasts is not forgotten.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::PictureFault;

/// Pictures closer together are not looked at: faults last, and boxes are small.
pub const EVERY_NS: u64 = 2_000_000_000;
/// A finding counts when most pictures of this time agree: so long it must last to be raised, and to be cleared.
const WINDOW_NS: u64 = 30_000_000_000;
const WINDOW_PICTURES_MIN: usize = 5;
/// The picture stays the same for this long.
const FROZEN_NS: u64 = 60_000_000_000;
/// Pictures of the same for [`PictureFault::Frozen`].
const FROZEN_PICTURES_MIN: usize = 8;
/// Mean light below which nothing is seen; 16 is black (ITU-R BT.601).
const DARK_MEAN: f32 = 24.0;
/// A picture without edges: less than this step of light between neighbours, or than this share of what is usual.
const BLIND_EDGES: f32 = 0.9;
const BLIND_SHARE: f32 = 0.2;
/// Fine detail among all, against what is usual.
const BLURRED_SHARE: f32 = 0.55;
/// Likeness of edges (correlation) below which it is another view, and from which on the view is learnt.
const MOVED_LIKENESS: f32 = 0.25;
const LEARN_LIKENESS: f32 = 0.5;
/// Likeness of the edges of two pictures in a row, from which on there is something to be seen.
const STEADY_LIKENESS: f32 = 0.4;
/// A new picture's weight in what is usual.
const LEARN: f32 = 0.01;
/// Pictures before anything is compared with what is usual.
const LEARN_PICTURES: u32 = 10;
/// Looks of one view that are kept: day, dusk, night, infrared.
const LOOKS_MAX: usize = 4;
/// Columns and rows of the picture of edges.
const COLUMNS: usize = 32;
const ROWS: usize = 18;

/// What a view usually looks like. Kept across restarts, so that a camera which was turned meanwhile is found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    looks: Vec<Look>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Look {
    pictures: u32,
    edges: Vec<f32>,
    /// Mean step of light between neighbours, and the fine part of it.
    detail: f32,
    fineness: f32,
}

/// One camera's.
#[derive(Debug, Default)]
pub struct PictureJudge {
    usual: Usual,
    last_ns: Option<u64>,
    /// What was found wrong with the newest pictures, at most one thing with each.
    findings: VecDeque<(u64, Option<PictureFault>)>,
    before: Vec<u8>,
    edges_before: Vec<f32>,
    /// Since when the picture is the same, and how many times it was.
    same: Option<(u64, usize)>,
    faults: Vec<PictureFault>,
}

/// A picture in figures.
struct Measured {
    mean: f32,
    detail: f32,
    fineness: f32,
    edges: Vec<f32>,
}

impl PictureJudge {
    pub fn new(usual: Usual) -> Self {
        Self { usual, ..Self::default() }
    }

    /// What is usual by now.
    pub fn usual(&self) -> &Usual {
        &self.usual
    }

    /// What is wrong, in the order of [`PictureFault::ALL`].
    pub fn faults(&self) -> &[PictureFault] {
        &self.faults
    }

    /// The view is meant to be what it is now: somebody turned the camera on purpose.
    pub fn accept_view(&mut self) {
        *self = Self::default();
    }

    /// Pictures stopped: what comes next may be the same as before without being frozen.
    pub fn interrupted(&mut self) {
        self.findings.clear();
        self.before.clear();
        self.edges_before.clear();
        self.same = None;
    }

    /// Looks at a picture of `width` columns. True if what is wrong changed.
    pub fn look(&mut self, at_ns: u64, width: usize, pixels: &[u8]) -> bool {
        if self.last_ns.is_some_and(|last_ns| (last_ns..last_ns + EVERY_NS).contains(&at_ns)) {
            return false;
        }
        self.last_ns = Some(at_ns);
        let measured = Measured::of(width, pixels);
        let finding = self.find(&measured);
        self.note_same(at_ns, pixels, finding);
        self.edges_before.clone_from(&measured.edges);
        if finding.is_none() {
            self.usual.learn(&measured);
        }
        self.findings.push_back((at_ns, finding));
        while self.findings.len() > 1 && self.findings[1].0 + WINDOW_NS <= at_ns {
            self.findings.pop_front();
        }
        self.judge(at_ns)
    }

    fn find(&self, measured: &Measured) -> Option<PictureFault> {
        if measured.mean < DARK_MEAN {
            return Some(PictureFault::Dark);
        }
        let known: Vec<&Look> = self.usual.looks.iter().filter(|l| l.pictures >= LEARN_PICTURES).collect();
        let usual_detail = known.iter().map(|look| look.detail).reduce(f32::min);
        let is_blind = |usual: f32| measured.detail < usual * BLIND_SHARE;
        if measured.detail < BLIND_EDGES || usual_detail.is_some_and(is_blind) {
            return Some(PictureFault::Covered);
        }
        let like = known.iter().map(|look| (look.likeness(measured), look));
        let (likeness, look) = like.max_by(|a, b| a.0.total_cmp(&b.0))?;
        if likeness < MOVED_LIKENESS {
            // Another view has edges that stay; noise before paint or a cloth has none.
            let is_steady = self.edges_before.is_empty()
                || correlation(&self.edges_before, &measured.edges) >= STEADY_LIKENESS;
            return Some(if is_steady { PictureFault::Moved } else { PictureFault::Covered });
        }
        if measured.fineness < look.fineness * BLURRED_SHARE {
            return Some(PictureFault::Blurred);
        }
        None
    }

    /// A dark or blind picture says nothing when it is the same again.
    fn note_same(&mut self, at_ns: u64, pixels: &[u8], finding: Option<PictureFault>) {
        let shows_nothing = matches!(finding, Some(PictureFault::Dark | PictureFault::Covered));
        if shows_nothing || pixels != self.before.as_slice() {
            self.same = None;
        } else {
            let (since_ns, times) = self.same.unwrap_or((at_ns, 0));
            self.same = Some((since_ns, times + 1));
        }
        self.before.clear();
        self.before.extend_from_slice(pixels);
    }

    fn judge(&mut self, at_ns: u64) -> bool {
        let is_whole =
            self.findings.front().is_some_and(|(first_ns, _)| first_ns + WINDOW_NS <= at_ns + EVERY_NS);
        if !is_whole || self.findings.len() < WINDOW_PICTURES_MIN {
            return false;
        }
        // Three of four, to be raised and to be cleared, so that nothing flickers.
        let are_most = |found: Option<PictureFault>| {
            self.findings.iter().filter(|(_, finding)| *finding == found).count() * 4
                >= self.findings.len() * 3
        };
        let is_frozen = self.same.is_some_and(|(since_ns, times)| {
            times >= FROZEN_PICTURES_MIN && at_ns.saturating_sub(since_ns) >= FROZEN_NS
        });
        let is_wrong = |fault: &PictureFault| match fault {
            PictureFault::Frozen => is_frozen,
            _ => are_most(Some(*fault)) || self.faults.contains(fault) && !are_most(None),
        };
        let faults: Vec<_> = PictureFault::ALL.into_iter().filter(is_wrong).collect();
        let is_news = faults != self.faults;
        self.faults = faults;
        is_news
    }
}

impl Usual {
    /// Learns from a picture that is well.
    fn learn(&mut self, measured: &Measured) {
        let is_full = self.looks.len() >= LOOKS_MAX;
        let like = self.looks.iter_mut().map(|look| (look.likeness(measured), look));
        if let Some((likeness, look)) = like.max_by(|a, b| a.0.total_cmp(&b.0))
            // One that is new becomes what it is going to be; when there are enough, the likest gives way slowly.
            && (likeness >= LEARN_LIKENESS || look.pictures < LEARN_PICTURES || is_full)
        {
            look.learn(measured);
            return;
        }
        let Measured { detail, fineness, ref edges, .. } = *measured;
        self.looks.push(Look { pictures: 1, edges: edges.clone(), detail, fineness });
    }
}

impl Look {
    fn learn(&mut self, measured: &Measured) {
        self.pictures = self.pictures.saturating_add(1);
        let weight = LEARN.max(1.0 / self.pictures as f32);
        let towards = |usual: &mut f32, now: f32| *usual += (now - *usual) * weight;
        towards(&mut self.detail, measured.detail);
        towards(&mut self.fineness, measured.fineness);
        for (usual, now) in self.edges.iter_mut().zip(&measured.edges) {
            towards(usual, *now);
        }
    }

    /// Correlation of the edges, -1 to 1.
    fn likeness(&self, measured: &Measured) -> f32 {
        correlation(&self.edges, &measured.edges)
    }
}

impl Measured {
    fn of(width: usize, pixels: &[u8]) -> Self {
        let height = pixels.len() / width.max(1);
        let mean = pixels.iter().map(|&p| u64::from(p)).sum::<u64>() as f32 / pixels.len().max(1) as f32;
        let mut edges = vec![0.0; COLUMNS * ROWS];
        let (mut coarse, mut fine) = (0u64, 0u64);
        let column: Vec<usize> = (0..width).map(|x| x * COLUMNS / width).collect();
        // Two rows added, and the same one row higher.
        let (mut pair, mut above) = (vec![0i32; width], vec![0i32; width]);
        for y in 1..height.saturating_sub(1) {
            let row = |y: usize| &pixels[y * width..][..width];
            let (up, here, down) = (row(y - 1), row(y), row(y + 1));
            for x in 0..width {
                above[x] = i32::from(up[x]) + i32::from(here[x]);
                pair[x] = i32::from(here[x]) + i32::from(down[x]);
            }
            let cells = &mut edges[y * ROWS / height * COLUMNS..][..COLUMNS];
            for x in 1..width.saturating_sub(1) {
                // Between means of two by two: noise of single pixels is no edge.
                let square = pair[x] + pair[x + 1];
                let step = (square - pair[x - 1] - pair[x]).abs() + (square - above[x] - above[x + 1]).abs();
                coarse += step as u64;
                // By how much a single pixel stands out from its row and its column.
                let twice = 2 * i32::from(here[x]);
                let stands_out = (twice - i32::from(here[x - 1]) - i32::from(here[x + 1])).abs()
                    + (twice - i32::from(up[x]) - i32::from(down[x])).abs();
                fine += stands_out as u64;
                // Against the light there: an edge is as strong in the shade.
                cells[column[x]] += step as f32 / (square + 64) as f32;
            }
        }
        for edge in &mut edges {
            *edge = edge.sqrt();
        }
        let looked_at = (width.saturating_sub(2) * height.saturating_sub(2)).max(1);
        let coarse = coarse as f32 / 4.0;
        Self { mean, detail: coarse / looked_at as f32, fineness: fine as f32 / coarse.max(1.0), edges }
    }
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().max(1) as f32;
    let (mean_a, mean_b) = (a.iter().sum::<f32>() / n, b.iter().sum::<f32>() / n);
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        both += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    both / (of_a * of_b).sqrt().max(f32::EPSILON)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const WIDTH: usize = 96;
    const HEIGHT: usize = 54;
    const SECOND_NS: u64 = 1_000_000_000;

    fn drawn(a: u64, b: u64) -> u64 {
        let x = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40
    }

    /// Walls and windows of a street, from a seed.
    static STREETS: LazyLock<[Vec<f32>; 3]> = LazyLock::new(|| {
        [0, 1, 2].map(|seed| {
            let (wide, high) = (17 + seed * 5 % 12, 13 + seed * 7 % 16);
            let wall = |i: usize| {
                let (x, y) = ((i % WIDTH) as u64, (i / WIDTH) as u64);
                let house = drawn(seed, x / wide * 31 + y / high);
                let window = drawn(seed ^ 7, x / (wide / 3) * 131 + y / (high / 3));
                60.0 + (house % 100) as f32 - if window.is_multiple_of(3) { 40.0 } else { 0.0 }
            };
            (0..WIDTH * HEIGHT).map(wall).collect()
        })
    });
    static NOISE: LazyLock<Vec<f32>> =
        LazyLock::new(|| (0..4093).map(|i| (drawn(5, i) % 5) as f32 - 2.0).collect());

    /// Picture `n` of a street in some light, with a sensor's noise.
    fn street(seed: usize, light: f32, n: u64) -> Vec<u8> {
        let noise = NOISE.iter().cycle().skip(n as usize * 7 % 4093);
        let pixels = STREETS[seed].iter().zip(noise);
        pixels.map(|(wall, noise)| (16.0 + wall * light + noise).clamp(0.0, 255.0) as u8).collect()
    }

    fn smeared(pixels: &[u8], reach: usize) -> Vec<u8> {
        let at = |x: usize, y: usize| u32::from(pixels[y.min(HEIGHT - 1) * WIDTH + x.min(WIDTH - 1)]);
        let mean = |i: usize| {
            let (x, y) = (i % WIDTH, i / WIDTH);
            let square = (0..reach).flat_map(|dy| (0..reach).map(move |dx| (dx, dy)));
            square.map(|(dx, dy)| at(x + dx, y + dy)).sum::<u32>() / (reach * reach) as u32
        };
        (0..pixels.len()).map(|i| mean(i) as u8).collect()
    }

    /// Shows a picture every two seconds for so long; what was said, with its second.
    fn show(
        judge: &mut PictureJudge,
        from_s: u64,
        to_s: u64,
        picture: impl Fn(u64) -> Vec<u8>,
    ) -> Vec<(u64, Vec<PictureFault>)> {
        let mut said = Vec::new();
        for second in (from_s..to_s).step_by(2) {
            if judge.look(second * SECOND_NS, WIDTH, &picture(second)) {
                said.push((second - from_s, judge.faults().to_vec()));
            }
        }
        said
    }

    /// After two minutes of a street something happens for two more, and then it is as before.
    fn check(name: &str, fault: PictureFault, picture: impl Fn(u64) -> Vec<u8>) {
        let mut judge = PictureJudge::default();
        let well = |n| street(1, 1.0, n);
        assert_eq!(show(&mut judge, 0, 120, well), [], "{name}: at first");
        let said = show(&mut judge, 120, 240, picture);
        let [(after_s, faults)] = &said[..] else { panic!("{name}: {said:?}") };
        assert_eq!(*faults, [fault], "{name}");
        assert!(*after_s <= 70, "{name}: after {after_s} s");
        let said = show(&mut judge, 240, 300, well);
        let [(after_s, faults)] = &said[..] else { panic!("{name}, cleared: {said:?}") };
        assert!(faults.is_empty() && *after_s <= 40, "{name}, cleared: {said:?}");
    }

    #[test]
    fn each_fault_is_found_by_its_name_and_clears() {
        check("night without a lamp", PictureFault::Dark, |n| street(1, 0.01, n));
        check("a bag over it", PictureFault::Covered, |n| vec![40 + (n % 2) as u8; WIDTH * HEIGHT]);
        check("sprayed grey", PictureFault::Covered, |n| smeared(&street(1, 0.6, n), 60));
        let noise = |n: u64| (0..WIDTH * HEIGHT).map(|i| 110 + (drawn(n, i as u64) % 40) as u8).collect();
        check("paint, and the sensor's noise before it", PictureFault::Covered, noise);
        check("out of focus", PictureFault::Blurred, |n| smeared(&street(1, 1.0, n), 4));
        check("frozen", PictureFault::Frozen, |_| street(1, 1.0, 0));
        check("turned", PictureFault::Moved, |n| street(2, 1.0, n));
    }

    #[test]
    fn light_people_and_infrared_are_no_faults() {
        let mut judge = PictureJudge::default();
        let evening = |n: u64| street(1, 1.0 - 0.85 * (n as f32 / 400.0), n);
        assert_eq!(show(&mut judge, 0, 400, evening), []);
        let infrared = |n| street(1, 0.8, n).into_iter().map(|p| 235 - p / 2).collect();
        assert_eq!(show(&mut judge, 400, 520, infrared), []);
        let with_truck = |n| {
            let mut pixels = street(1, 1.0, n);
            (0..pixels.len()).filter(|i| i % WIDTH > 55).for_each(|i| pixels[i] = 120 + (n % 3) as u8);
            pixels
        };
        assert_eq!(show(&mut judge, 520, 640, with_truck), []);
    }

    #[test]
    fn a_glimpse_is_no_fault() {
        let mut judge = PictureJudge::default();
        let hand = |n: u64| if n % 60 < 8 { vec![90; WIDTH * HEIGHT] } else { street(1, 1.0, n) };
        assert_eq!(show(&mut judge, 0, 300, hand), []);
    }

    #[test]
    fn what_was_usual_before_a_restart_finds_the_camera_turned_meanwhile() {
        let mut judge = PictureJudge::default();
        show(&mut judge, 0, 120, |n| street(1, 1.0, n));
        let kept = serde_json::to_vec(judge.usual()).unwrap();
        let mut judge = PictureJudge::new(serde_json::from_slice(&kept).unwrap());
        show(&mut judge, 0, 60, |n| street(2, 1.0, n));
        assert_eq!(judge.faults(), [PictureFault::Moved]);
        // It stays wrong until somebody says that the view is meant.
        assert_eq!(show(&mut judge, 60, 240, |n| street(2, 1.0, n)), []);
        judge.accept_view();
        assert_eq!(show(&mut judge, 240, 360, |n| street(2, 1.0, n)), []);
        assert_eq!(judge.faults(), []);
    }
}
