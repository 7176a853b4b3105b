//! What moves in the street: people and motorbikes, made of round strokes.

use std::f32::consts::TAU;

use super::scene::{Color, Scene, expose, smooth};
use super::{Crowd, Direction, Kind, Random};

/// Something on its way through the picture, at one speed on one line.
pub struct Thing {
    pub kind: Kind,
    pub direction: Direction,
    start_s: f64,
    speed: f32,
    depth_from: f32,
    depth_to: f32,
    height_m: f32,
    coat: Color,
    legs: Color,
    phase: f32,
    /// How much smaller than at its place it looks.
    shrink: f32,
    /// Left and right of what it can be seen in, pixels: it walks from behind one thing to behind another.
    gap: Option<[f32; 2]>,
}

/// A round stroke from one point to another, in metres from the thing's foot.
struct Stroke {
    from: [f32; 2],
    to: [f32; 2],
    radius: f32,
    color: Color,
}

/// The picture that is drawn on.
pub struct Canvas<'a> {
    width: usize,
    height: usize,
    luma: &'a mut [u8],
    blue: &'a mut [u8],
    red: &'a mut [u8],
    /// Columns that can be drawn on.
    columns: [usize; 2],
}

/// How far a thing reaches to either side of its middle, metres, its light on the road included.
const PERSON_REACH_M: f32 = 0.55;
const BIKE_REACH_M: f32 = 3.2;
/// Nothing is on the way longer than this.
const ON_THE_WAY_S_MAX: f64 = 40.0;
/// Whoever walks far away: height in pixels, and for how long they can be seen.
const FAR_PX: [f32; 2] = [25.0, 30.0];
const FAR_S: [f32; 2] = [2.0, 3.5];

impl Thing {
    /// Draws what comes next and how, so that it comes into view at about `start_s`.
    pub fn draw_lot(random: &mut Random, scene: &Scene, crowd: Crowd, start_s: f64) -> Self {
        const COATS: [Color; 6] = [
            [0.55, 0.52, 0.48],
            [0.50, 0.12, 0.10],
            [0.12, 0.22, 0.42],
            [0.48, 0.42, 0.12],
            [0.16, 0.34, 0.22],
            [0.60, 0.60, 0.62],
        ];
        const LEGS: [Color; 3] = [[0.07, 0.08, 0.12], [0.22, 0.18, 0.13], [0.10, 0.10, 0.10]];
        let kind = if random.next() % 5 < 2 && crowd != Crowd::Far { Kind::Motorbike } else { Kind::Person };
        let direction = if random.next().is_multiple_of(2) { Direction::ToRight } else { Direction::ToLeft };
        let (near, far) = scene.crossing_depths();
        let (depth, lean) = match kind {
            Kind::Person => (random.between(near, far), random.between(-0.6, 0.6)),
            Kind::Motorbike => (random.between(near + 1.5, far - 1.0), random.between(-0.3, 0.3)),
        };
        let speed = match kind {
            // Whoever is further away hurries, so that nobody is in view for ever.
            Kind::Person => random.between(1.25, 1.6) * (depth / 12.0).clamp(1.0, 2.0),
            Kind::Motorbike => random.between(5.5, 8.5),
        };
        let mut thing = Self {
            kind,
            direction,
            start_s,
            speed,
            depth_from: depth - lean,
            depth_to: depth + lean,
            height_m: random.between(1.58, 1.76),
            shrink: 1.0,
            gap: None,
            coat: COATS[random.next() as usize % COATS.len()],
            legs: LEGS[random.next() as usize % LEGS.len()],
            phase: random.between(0.0, 1.0),
        };
        if crowd == Crowd::Far {
            thing.walk_far_away(random, scene);
        }
        thing
    }

    /// Makes it a person of some [`FAR_PX`] pixels who is to be seen for some [`FAR_S`] seconds.
    fn walk_far_away(&mut self, random: &mut Random, scene: &Scene) {
        let middle = (self.depth_from + self.depth_to) / 2.0;
        (self.depth_from, self.depth_to) = (middle, middle);
        let (_, _, scale) = scene.project([0.0, 0.0, middle]);
        self.shrink = random.between(FAR_PX[0], FAR_PX[1]) / (self.height_m * scale);
        self.speed = random.between(1.3, 1.7) * self.shrink;
        let wide = random.between(FAR_S[0], FAR_S[1]) * self.speed * scale;
        let left = random.between(0.1, 0.9) * (scene.width as f32 - wide);
        self.gap = Some([left, left + wide]);
    }

    /// First and last frame in which it can be seen, and its greatest height in pixels.
    pub fn seen(&self, scene: &Scene, fps: u32) -> (u64, u64, f32) {
        let first = (self.start_s * fps as f64) as u64;
        let last = first + (ON_THE_WAY_S_MAX * fps as f64) as u64;
        let mut span: Option<(u64, u64)> = None;
        let mut height_px = 0.0f32;
        for n in first..last {
            let Some((left, right, tall)) = self.extent(scene, n as f64 / fps as f64) else { continue };
            let [first_px, end_px] = self.gap.unwrap_or([0.0, scene.width as f32]);
            if right >= first_px && left < end_px {
                span = Some((span.map_or(n, |(from, _)| from), n));
                height_px = height_px.max(tall);
            }
        }
        let (from, to) = span.unwrap_or((first, first));
        (from, to, height_px)
    }

    pub fn draw(&self, canvas: &mut Canvas<'_>, scene: &Scene, broken: Option<usize>, at_s: f64) {
        let Some(foot) = self.foot(scene, at_s) else { return };
        let (x, y, scale) = scene.project(foot);
        let scale = scale * self.shrink;
        canvas.show_only(self.gap);
        let light = scene.light_at([foot[0], 1.0, foot[2]], broken);
        let forward = self.forward();
        canvas.shade(x, y, 0.45 * scale, 0.10 * scale, 0.55);
        let strokes = match self.kind {
            Kind::Person => self.person(at_s),
            Kind::Motorbike => self.bike(at_s),
        };
        if self.kind == Kind::Motorbike {
            // The headlight on the road, then the bike before it.
            canvas.glow(
                x + forward * 1.9 * scale,
                y - 0.05 * scale,
                1.25 * scale,
                0.22 * scale,
                95.0,
                [-10.0, 3.0],
            );
        }
        canvas.strokes(&strokes, x, y, scale, forward, light);
        if self.kind == Kind::Motorbike {
            let (front, back) = (x + forward * 0.68 * scale, x - forward * 0.80 * scale);
            canvas.glow(front, y - 0.86 * scale, 0.34 * scale, 0.30 * scale, 210.0, [-6.0, 2.0]);
            canvas.glow(back, y - 0.66 * scale, 0.12 * scale, 0.10 * scale, 70.0, [-12.0, 70.0]);
        }
        canvas.show_only(None);
    }

    fn forward(&self) -> f32 {
        match self.direction {
            Direction::ToRight => 1.0,
            Direction::ToLeft => -1.0,
        }
    }

    fn reach_m(&self) -> f32 {
        match self.kind {
            Kind::Person => PERSON_REACH_M,
            Kind::Motorbike => BIKE_REACH_M,
        }
    }

    /// Where it stands; None before and after its way.
    fn foot(&self, scene: &Scene, at_s: f64) -> Option<[f32; 3]> {
        let passed = (at_s - self.start_s) as f32;
        // From just outside what it is seen in to just outside on the other side.
        let reach = self.reach_m() * self.shrink;
        let (middle, half) = match self.gap {
            None => (0.0, scene.half_width_m(self.depth_from.max(self.depth_to))),
            Some(gap) => scene.span_m(gap, self.depth_from),
        };
        let (wide, way) = (half + reach, passed * self.speed);
        if passed < 0.0 || way > 2.0 * wide {
            return None;
        }
        let depth = self.depth_from + (self.depth_to - self.depth_from) * way / (2.0 * wide);
        Some([middle + self.forward() * (way - wide), 0.0, depth])
    }

    /// Left, right and height in the picture.
    fn extent(&self, scene: &Scene, at_s: f64) -> Option<(f32, f32, f32)> {
        let (x, _, scale) = scene.project(self.foot(scene, at_s)?);
        let scale = scale * self.shrink;
        let (ahead, behind) = match self.kind {
            Kind::Person => (PERSON_REACH_M, PERSON_REACH_M),
            Kind::Motorbike => (BIKE_REACH_M, 1.1),
        };
        let (left, right) = if self.forward() > 0.0 { (behind, ahead) } else { (ahead, behind) };
        Some((x - left * scale, x + right * scale, self.height_m * scale))
    }

    fn person(&self, at_s: f64) -> Vec<Stroke> {
        let tall = self.height_m / 1.7;
        let stride = ((at_s - self.start_s) as f32 * self.speed / self.shrink / 1.35 + self.phase) * TAU;
        let swing = stride.sin();
        let bob = 0.02 * (2.0 * stride).cos();
        let hip = [0.0, 0.88 * tall + bob];
        let neck = [0.05, 1.42 * tall + bob];
        let skin = [0.42, 0.28, 0.20];
        let shoe = [0.06, 0.06, 0.06];
        let mut strokes = Vec::with_capacity(12);
        let mut stroke = |from: [f32; 2], to: [f32; 2], radius: f32, color: Color| {
            strokes.push(Stroke { from, to, radius, color });
        };
        let limb = |side: f32| {
            let lift = (side * (stride.cos())).max(0.0) * 0.12;
            let knee = [side * swing * 0.20 + 0.05, 0.47 * tall + lift * 0.6];
            let ankle = [side * swing * 0.36 - 0.02, 0.07 + lift];
            (knee, ankle)
        };
        let dim = |color: Color| color.map(|c| c * 0.6);
        let (knee, ankle) = limb(-1.0);
        stroke(hip, knee, 0.085, dim(self.legs));
        stroke(knee, ankle, 0.065, dim(self.legs));
        stroke(ankle, [ankle[0] + 0.14, ankle[1] - 0.02], 0.045, shoe);
        stroke(neck, [-swing * -0.20, 1.02 * tall], 0.055, dim(self.coat));
        stroke(hip, [neck[0], neck[1] - 0.10], 0.155, self.coat);
        let (knee, ankle) = limb(1.0);
        stroke(hip, knee, 0.09, self.legs);
        stroke(knee, ankle, 0.07, self.legs);
        stroke(ankle, [ankle[0] + 0.15, ankle[1] - 0.02], 0.05, shoe);
        let hand = [-swing * 0.24 + 0.04, 0.98 * tall];
        stroke([neck[0], neck[1] - 0.06], hand, 0.06, self.coat.map(|c| c * 0.85));
        stroke(hand, hand, 0.05, skin);
        stroke([0.08, 1.57 * tall + bob], [0.09, 1.61 * tall + bob], 0.105, skin);
        stroke([0.05, 1.63 * tall + bob], [0.07, 1.66 * tall + bob], 0.10, [0.03, 0.03, 0.03]);
        strokes
    }

    fn bike(&self, at_s: f64) -> Vec<Stroke> {
        let turn = (at_s - self.start_s) as f32 * self.speed / 0.28;
        let tyre = [0.03, 0.03, 0.03];
        let skin = [0.42, 0.28, 0.20];
        let mut strokes = Vec::with_capacity(20);
        let mut stroke = |from: [f32; 2], to: [f32; 2], radius: f32, color: Color| {
            strokes.push(Stroke { from, to, radius, color });
        };
        for axle in [-0.62f32, 0.62] {
            stroke([axle, 0.28], [axle, 0.28], 0.28, tyre);
            stroke([axle, 0.28], [axle, 0.28], 0.17, [0.16, 0.16, 0.17]);
            let (sin, cos) = turn.sin_cos();
            stroke(
                [axle - cos * 0.15, 0.28 + sin * 0.15],
                [axle + cos * 0.15, 0.28 - sin * 0.15],
                0.02,
                tyre,
            );
        }
        stroke([0.62, 0.30], [0.46, 0.98], 0.05, [0.14, 0.14, 0.15]);
        stroke([-0.55, 0.52], [0.10, 0.42], 0.12, self.coat);
        stroke([0.10, 0.42], [0.46, 0.82], 0.10, self.coat);
        stroke([-0.62, 0.74], [0.02, 0.72], 0.09, [0.06, 0.06, 0.06]);
        // The rider: leg, body, arm, helmet.
        stroke([-0.20, 0.82], [0.20, 0.66], 0.10, self.legs);
        stroke([0.20, 0.66], [0.12, 0.30], 0.08, self.legs);
        stroke([-0.22, 0.90], [-0.10, 1.32], 0.16, self.coat.map(|c| (c * 0.7 + 0.1).min(0.6)));
        stroke([-0.06, 1.30], [0.16, 1.04], 0.06, self.coat.map(|c| c * 0.6 + 0.08));
        stroke([0.16, 1.04], [0.42, 1.02], 0.05, skin);
        stroke([-0.04, 1.54], [-0.02, 1.56], 0.10, skin);
        stroke([-0.06, 1.60], [-0.04, 1.62], 0.13, self.legs.map(|c| c + 0.25));
        strokes
    }
}

impl<'a> Canvas<'a> {
    pub fn new(i420: &'a mut [u8], width: usize, height: usize) -> Self {
        let (luma, chroma) = i420.split_at_mut(width * height);
        let (blue, red) = chroma.split_at_mut(width * height / 4);
        Self { width, height, luma, blue, red, columns: [0, width] }
    }

    /// Width and height, pixels.
    pub fn size(&self) -> (f32, f32) {
        (self.width as f32, self.height as f32)
    }

    /// Draws between these columns only; None: everywhere.
    fn show_only(&mut self, columns: Option<[f32; 2]>) {
        self.columns =
            columns.map_or([0, self.width], |columns| columns.map(|column| column.max(0.0) as usize));
    }

    /// A light line.
    pub fn streak(&mut self, from: [f32; 2], to: [f32; 2], radius: f32, strength: f32) {
        let (low, high) = ([to[0].min(from[0]), from[1]], [to[0].max(from[0]), to[1]]);
        let slant = (to[0] - from[0]) / (to[1] - from[1]).max(1.0);
        self.each(low, high, radius + 1.0, |canvas, px, py| {
            let middle = from[0] + slant * (py as f32 + 0.5 - from[1]);
            let cover = (radius + 0.5 - (px as f32 + 0.5 - middle).abs()).clamp(0.0, 1.0);
            let pixel = &mut canvas.luma[py * canvas.width + px];
            *pixel = (f32::from(*pixel) + strength * cover).min(235.0) as u8;
        });
    }

    /// A round spot of one colour.
    pub fn dot(&mut self, x: f32, y: f32, radius: f32, color: [f32; 3]) {
        self.stroke([x, y], [x, y], radius, color);
    }

    /// Light in a soft ellipse, as bright as what it falls on.
    pub fn light(&mut self, x: f32, y: f32, wide: f32, tall: f32, strength: f32) {
        self.each([x - wide, y - tall], [x + wide, y + tall], 0.0, |canvas, px, py| {
            let near = falloff(px, py, x, y, wide, tall);
            let pixel = &mut canvas.luma[py * canvas.width + px];
            *pixel = (16.0 + (f32::from(*pixel) - 16.0) * (1.0 + strength * near)).min(235.0) as u8;
        });
    }

    /// Strokes in order, each lit by `light`; `forward` -1 mirrors them.
    fn strokes(&mut self, strokes: &[Stroke], x: f32, y: f32, scale: f32, forward: f32, light: Color) {
        for stroke in strokes {
            let color = expose(std::array::from_fn(|c| stroke.color[c] * light[c]));
            let place = |p: [f32; 2]| [x + forward * p[0] * scale, y - p[1] * scale];
            self.stroke(place(stroke.from), place(stroke.to), (stroke.radius * scale).max(0.6), color);
        }
    }

    fn stroke(&mut self, from: [f32; 2], to: [f32; 2], radius: f32, color: [f32; 3]) {
        let way = [to[0] - from[0], to[1] - from[1]];
        let square = (way[0] * way[0] + way[1] * way[1]).max(1e-6);
        let (low, high) =
            ([from[0].min(to[0]), from[1].min(to[1])], [from[0].max(to[0]), from[1].max(to[1])]);
        self.each(low, high, radius + 1.0, |canvas, px, py| {
            let (dx, dy) = (px as f32 + 0.5 - from[0], py as f32 + 0.5 - from[1]);
            let t = ((dx * way[0] + dy * way[1]) / square).clamp(0.0, 1.0);
            let (ex, ey) = (dx - way[0] * t, dy - way[1] * t);
            let cover = (radius + 0.5 - (ex * ex + ey * ey).sqrt()).clamp(0.0, 1.0);
            if cover > 0.0 {
                canvas.blend(px, py, color, cover);
            }
        });
    }

    /// Darkens an ellipse softly: the shadow under a thing.
    fn shade(&mut self, x: f32, y: f32, wide: f32, tall: f32, strength: f32) {
        self.each([x - wide, y - tall], [x + wide, y + tall], 0.0, |canvas, px, py| {
            let near = falloff(px, py, x, y, wide, tall);
            let pixel = &mut canvas.luma[py * canvas.width + px];
            *pixel = (16.0 + (f32::from(*pixel) - 16.0) * (1.0 - strength * near)) as u8;
        });
    }

    /// Adds light in a soft ellipse; `tint` is added to Cb and Cr.
    pub fn glow(&mut self, x: f32, y: f32, wide: f32, tall: f32, strength: f32, tint: [f32; 2]) {
        self.each([x - wide, y - tall], [x + wide, y + tall], 0.0, |canvas, px, py| {
            let near = falloff(px, py, x, y, wide, tall);
            let pixel = &mut canvas.luma[py * canvas.width + px];
            *pixel = (f32::from(*pixel) + strength * near * near).min(235.0) as u8;
            if px.is_multiple_of(2) && py.is_multiple_of(2) {
                let i = (py / 2) * (canvas.width / 2) + px / 2;
                canvas.blue[i] = (f32::from(canvas.blue[i]) + tint[0] * near).clamp(16.0, 240.0) as u8;
                canvas.red[i] = (f32::from(canvas.red[i]) + tint[1] * near).clamp(16.0, 240.0) as u8;
            }
        });
    }

    fn blend(&mut self, x: usize, y: usize, color: [f32; 3], cover: f32) {
        let mix = |pixel: &mut u8, value: f32| {
            *pixel = (f32::from(*pixel) + (value - f32::from(*pixel)) * cover) as u8;
        };
        mix(&mut self.luma[y * self.width + x], color[0]);
        if x.is_multiple_of(2) && y.is_multiple_of(2) {
            let i = (y / 2) * (self.width / 2) + x / 2;
            mix(&mut self.blue[i], color[1]);
            mix(&mut self.red[i], color[2]);
        }
    }

    /// Calls for every pixel of the picture inside a rectangle, widened by `rim`.
    fn each(
        &mut self,
        low: [f32; 2],
        high: [f32; 2],
        rim: f32,
        mut draw: impl FnMut(&mut Self, usize, usize),
    ) {
        let span = |low: f32, high: f32, [first, end]: [usize; 2]| {
            let from = (low - rim).floor().clamp(first as f32, end as f32) as usize;
            let to = (high + rim).ceil().clamp(first as f32, end as f32) as usize;
            from..to
        };
        let columns = self.columns;
        for y in span(low[1], high[1], [0, self.height]) {
            for x in span(low[0], high[0], columns) {
                draw(self, x, y);
            }
        }
    }
}

/// 1 in the middle of an ellipse, 0 at its rim and outside.
fn falloff(px: usize, py: usize, x: f32, y: f32, wide: f32, tall: f32) -> f32 {
    let (dx, dy) = ((px as f32 + 0.5 - x) / wide, (py as f32 + 0.5 - y) / tall);
    smooth((1.0 - dx * dx - dy * dy).clamp(0.0, 1.0))
}
