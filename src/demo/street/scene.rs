//! What stands in the street: ground, house fronts, lamps and their light. Drawn once by casting one
//! ray per pixel; things that move ask it for the light where they are.

use super::Random;

pub type Color = [f32; 3];

/// Focal length in widths of the picture, and how high the camera hangs.
const FOCAL_WIDTHS: f32 = 0.78;
const CAMERA_M: f32 = 4.5;
const LAMP_M: f32 = 6.2;
/// Glow of the city on everything, and the colour of the lamps.
const AMBIENT: Color = [0.010, 0.012, 0.018];
const LAMP_LIGHT: Color = [1.0, 0.70, 0.38];
const LAMP_STRENGTH: f32 = 15.0;
const EXPOSURE: f32 = 3.2;

pub struct Scene {
    pub width: usize,
    pub height: usize,
    pub view: View,
    focal: f32,
    center: f32,
    horizon: f32,
    lamps: Vec<Lamp>,
    fronts: Vec<Front>,
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum View {
    Across,
    Along,
}

struct Lamp {
    head: [f32; 3],
    foot: [f32; 3],
}

/// A house front on a row: where along the row, how high, how it looks.
struct Front {
    row: usize,
    from: f32,
    to: f32,
    height: f32,
    wall: Color,
    shutter: Color,
    lit_window: u64,
}

/// Where a ray ends.
struct Hit {
    point: [f32; 3],
    normal: [f32; 3],
    albedo: Color,
    glow: Color,
}

impl Scene {
    pub fn new(seed: u64, width: usize, height: usize) -> Self {
        let view = if seed.is_multiple_of(2) { View::Across } else { View::Along };
        let mut random = Random::new(seed ^ 0x5ce0e);
        let lamp = |x: f32, z: f32, arm_x: f32, arm_z: f32| Lamp {
            head: [x + arm_x, LAMP_M, z + arm_z],
            foot: [x, 0.0, z],
        };
        let lamps = match view {
            View::Across => {
                // The last two stand beside the camera, out of its sight, and light the near side.
                vec![
                    lamp(-11.5, 25.4, 0.0, -1.6),
                    lamp(0.8, 25.4, 0.0, -1.6),
                    lamp(12.5, 25.4, 0.0, -1.6),
                    lamp(-6.5, 7.0, 0.0, 0.0),
                    lamp(7.0, 7.0, 0.0, 0.0),
                ]
            }
            View::Along => {
                vec![lamp(5.6, 11.5, -1.7, 0.0), lamp(-5.4, 23.0, 1.7, 0.0), lamp(5.6, 37.0, -1.7, 0.0)]
            }
        };
        let fronts = (0..2).flat_map(|row| fronts(row, &mut random)).collect();
        Self {
            width,
            height,
            view,
            focal: width as f32 * FOCAL_WIDTHS,
            center: width as f32 / 2.0,
            horizon: height as f32 * 0.30,
            lamps,
            fronts,
            seed,
        }
    }

    /// The lamp that is to fail: its light reaches the road but not all of the picture.
    pub fn failing_lamp(&self) -> usize {
        match self.view {
            View::Across => 2,
            View::Along => 1,
        }
    }

    /// How deep into the scene things may cross, metres.
    pub fn crossing_depths(&self) -> (f32, f32) {
        match self.view {
            View::Across => (10.0, 21.5),
            View::Along => (12.6, 17.4),
        }
    }

    /// Half of what the picture spans at a depth, metres.
    pub fn half_width_m(&self, depth: f32) -> f32 {
        self.center * depth / self.focal
    }

    /// Middle and half of what lies between two columns of the picture at a depth, metres.
    pub fn span_m(&self, [left, right]: [f32; 2], depth: f32) -> (f32, f32) {
        let metres = |px: f32| px * depth / self.focal;
        (metres((left + right) / 2.0 - self.center), metres((right - left) / 2.0))
    }

    /// A point of the world in the picture, and pixels per metre there.
    pub fn project(&self, point: [f32; 3]) -> (f32, f32, f32) {
        let scale = self.focal / point[2];
        (self.center + point[0] * scale, self.horizon + (CAMERA_M - point[1]) * scale, scale)
    }

    /// Light that falls on something that stands at `point`.
    pub fn light_at(&self, point: [f32; 3], broken: Option<usize>) -> Color {
        let mut light = AMBIENT;
        for (i, lamp) in self.lamps.iter().enumerate() {
            if Some(i) != broken {
                // A body catches light from all sides.
                add(&mut light, LAMP_LIGHT, lamp.shine(point, None));
            }
        }
        light
    }

    /// The empty street as I420; `broken` is a lamp that gives no light.
    pub fn draw(&self, broken: Option<usize>) -> Vec<u8> {
        let mut pixels = vec![[0.0f32; 3]; self.width * self.height];
        for y in 0..self.height {
            for x in 0..self.width {
                pixels[y * self.width + x] = self.color_at(x as f32 + 0.5, y as f32 + 0.5, broken);
            }
        }
        self.draw_lamps(&mut pixels, broken);
        to_i420(&pixels, self.width, self.height)
    }

    fn color_at(&self, x: f32, y: f32, broken: Option<usize>) -> Color {
        let ray = [(x - self.center) / self.focal, (self.horizon - y) / self.focal, 1.0];
        let Some(hit) = self.cast(ray) else { return self.sky(x, y) };
        let mut light = AMBIENT;
        for (i, lamp) in self.lamps.iter().enumerate() {
            if Some(i) != broken {
                add(&mut light, LAMP_LIGHT, lamp.shine(hit.point, Some(hit.normal)));
            }
        }
        let haze = 1.0 - (-hit.point[2] / 140.0).exp();
        let far = [0.012, 0.013, 0.019];
        std::array::from_fn(|c| (hit.albedo[c] * light[c] + hit.glow[c]) * (1.0 - haze) + far[c] * haze)
    }

    fn sky(&self, x: f32, y: f32) -> Color {
        let low = (y / (self.horizon * 1.1)).clamp(0.0, 1.0);
        let cloud = self.grain(x / 90.0, y / 40.0) * 0.25 + 0.85;
        [
            (0.005 + 0.016 * low * low) * cloud,
            (0.006 + 0.013 * low * low) * cloud,
            (0.012 + 0.014 * low) * cloud,
        ]
    }

    fn cast(&self, ray: [f32; 3]) -> Option<Hit> {
        let at = |depth: f32| [ray[0] * depth, CAMERA_M + ray[1] * depth, depth];
        let ground = (ray[1] < -1e-4).then(|| CAMERA_M / -ray[1]);
        let mut nearest: Option<(f32, Hit)> = None;
        let mut offer = |depth: f32, hit: Option<Hit>| {
            if let Some(hit) = hit
                && nearest.as_ref().is_none_or(|(best, _)| depth < *best)
            {
                nearest = Some((depth, hit));
            }
        };
        match self.view {
            View::Across => offer(30.0, self.front_hit(0, at(30.0)[0], at(30.0), [0.0, 0.0, -1.0])),
            View::Along => {
                for (row, side) in [(0, -7.0f32), (1, 7.4)] {
                    let depth = side / ray[0];
                    let lane = (12.0..18.5).contains(&depth);
                    if depth > 0.0 && depth < 90.0 && !lane {
                        let normal = [-side.signum(), 0.0, 0.0];
                        offer(depth, self.front_hit(row, depth, at(depth), normal));
                    }
                    // The far side of the lane that crosses here.
                    let corner = at(18.5);
                    if corner[0] * side.signum() > side.abs() {
                        offer(18.5, self.front_hit(row, corner[0].abs() + 40.0, corner, [0.0, 0.0, -1.0]));
                    }
                }
                offer(90.0, self.front_hit(1, at(90.0)[0] * 0.5 + 20.0, at(90.0), [0.0, 0.0, -1.0]));
            }
        }
        if let Some(depth) = ground {
            offer(depth, Some(self.ground_hit(at(depth))));
        }
        nearest.map(|(_, hit)| hit)
    }

    fn ground_hit(&self, point: [f32; 3]) -> Hit {
        let (across, along) = match self.view {
            View::Across => (point[2] - 18.0, point[0]),
            View::Along => (point[0] * 1.6, point[2]),
        };
        let grain = 0.85
            + 0.3 * self.grain(point[0] * 1.7, point[2] * 1.7) * self.grain(point[0] * 9.0, point[2] * 9.0);
        let lane = self.view == View::Along && (12.0..18.5).contains(&point[2]);
        let road = across.abs() < 7.6 || lane;
        let albedo = if !road {
            let tile = |v: f32| (v * 1.4).rem_euclid(1.0) < 0.05;
            let joint = if tile(point[0]) || tile(point[2]) { 0.75 } else { 1.0 };
            [0.20 * joint * grain, 0.185 * joint * grain, 0.165 * joint * grain]
        } else if across.abs() > 7.35 && !lane {
            [0.30 * grain; 3]
        } else if across.abs() < 0.12 && along.rem_euclid(4.0) < 2.0 && !lane {
            [0.42 * grain, 0.41 * grain, 0.37 * grain]
        } else {
            [0.085 * grain, 0.085 * grain, 0.088 * grain]
        };
        Hit { point, normal: [0.0, 1.0, 0.0], albedo, glow: [0.0; 3] }
    }

    /// The front of row `row` at `u` metres along it, if the point is not above its roof.
    fn front_hit(&self, row: usize, u: f32, point: [f32; 3], normal: [f32; 3]) -> Option<Hit> {
        let front = self.fronts.iter().find(|f| f.row == row && (f.from..f.to).contains(&u))?;
        let up = point[1];
        if up > front.height || up < 0.0 {
            return None;
        }
        let (albedo, glow) = front.look(u - front.from, up);
        let grain = 0.9 + 0.2 * self.grain(u * 2.3, up * 2.3);
        Some(Hit { point, normal, albedo: albedo.map(|c| c * grain), glow })
    }

    /// Smooth noise between 0 and 1.
    fn grain(&self, x: f32, y: f32) -> f32 {
        let corner = |i: f32, j: f32| {
            let mut h = (i as i64 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ (j as i64 as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
                ^ self.seed;
            h ^= h >> 29;
            h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((h >> 40) & 0xffff) as f32 / 65535.0
        };
        let (i, j) = (x.floor(), y.floor());
        let (u, v) = (smooth(x - i), smooth(y - j));
        let low = corner(i, j) * (1.0 - u) + corner(i + 1.0, j) * u;
        let high = corner(i, j + 1.0) * (1.0 - u) + corner(i + 1.0, j + 1.0) * u;
        low * (1.0 - v) + high * v
    }

    /// Posts, wires, the bright heads and the light that the damp air shows under them.
    fn draw_lamps(&self, pixels: &mut [Color], broken: Option<usize>) {
        let mut order: Vec<usize> = (0..self.lamps.len()).collect();
        order.sort_by(|a, b| self.lamps[*b].foot[2].total_cmp(&self.lamps[*a].foot[2]));
        for i in order {
            let lamp = &self.lamps[i];
            let top = [lamp.foot[0], LAMP_M - 0.1, lamp.foot[2]];
            self.bar(pixels, lamp.foot, top, 0.09);
            self.bar(pixels, top, lamp.head, 0.05);
            if Some(i) != broken {
                self.air(pixels, lamp);
            }
        }
        if self.view == View::Across {
            for sag in [0.5f32, 0.75, 1.05] {
                self.wire(pixels, sag);
            }
        }
    }

    fn bar(&self, pixels: &mut [Color], from: [f32; 3], to: [f32; 3], radius_m: f32) {
        let (x0, y0, s0) = self.project(from);
        let (x1, y1, s1) = self.project(to);
        let steps = ((x1 - x0).abs().max((y1 - y0).abs()) * 2.0).ceil().max(1.0);
        for step in 0..=steps as usize {
            let t = step as f32 / steps;
            let (x, y) = (x0 + (x1 - x0) * t, y0 + (y1 - y0) * t);
            let radius = (radius_m * (s0 + (s1 - s0) * t)).max(0.8);
            self.blot(pixels, x, y, radius, [0.012, 0.012, 0.013]);
        }
    }

    fn blot(&self, pixels: &mut [Color], x: f32, y: f32, radius: f32, color: Color) {
        let y_row = y.floor();
        for px in (x - radius - 1.0).floor() as i32..=(x + radius + 1.0).ceil() as i32 {
            let cover = (radius + 0.5 - (px as f32 + 0.5 - x).abs()).clamp(0.0, 1.0);
            if let Some(pixel) = self.pixel(pixels, px, y_row as i32) {
                *pixel = std::array::from_fn(|c| pixel[c] * (1.0 - cover) + color[c] * cover);
            }
        }
    }

    fn wire(&self, pixels: &mut [Color], sag: f32) {
        for px in 0..self.width as i32 {
            let t = (px as f32 / self.width as f32 * 2.2 + sag).rem_euclid(1.0) * 2.0 - 1.0;
            let y = self.horizon * (0.42 + 0.12 * sag) + sag * 9.0 * (1.0 - t * t);
            if let Some(pixel) = self.pixel(pixels, px, y as i32) {
                *pixel = pixel.map(|c| c * 0.45);
            }
        }
    }

    fn air(&self, pixels: &mut [Color], lamp: &Lamp) {
        let (x0, y0, scale) = self.project(lamp.head);
        let (_, ground, _) = self.project([lamp.head[0], 0.0, lamp.head[2]]);
        let reach = ground - y0;
        for y in 0..self.height {
            for x in 0..self.width {
                let (dx, dy) = (x as f32 + 0.5 - x0, y as f32 + 0.5 - y0);
                let r = (dx * dx + dy * dy * 1.4).sqrt() / scale;
                let mut strength = 0.9 * (-(r / 0.16) * (r / 0.16)).exp() + 0.030 / (1.0 + (r / 0.5).powi(2));
                if dy > 0.0 {
                    let spread = dx.abs() / (dy * 0.75 + 0.15 * scale);
                    let fade = (1.0 - dy / (reach * 1.15)).max(0.0);
                    strength += 0.030 * smooth((1.0 - spread).clamp(0.0, 1.0)) * fade * fade.sqrt();
                }
                if strength > 1e-4 {
                    add(&mut pixels[y * self.width + x], LAMP_LIGHT, strength);
                }
            }
        }
    }

    fn pixel<'a>(&self, pixels: &'a mut [Color], x: i32, y: i32) -> Option<&'a mut Color> {
        let inside = (0..self.width as i32).contains(&x) && (0..self.height as i32).contains(&y);
        inside.then(|| &mut pixels[y as usize * self.width + x as usize])
    }
}

impl Lamp {
    /// How much light reaches a point; with a normal, a surface there.
    fn shine(&self, point: [f32; 3], normal: Option<[f32; 3]>) -> f32 {
        let to: [f32; 3] = std::array::from_fn(|i| self.head[i] - point[i]);
        let square = to.iter().map(|v| v * v).sum::<f32>().max(0.5);
        let distance = square.sqrt();
        let down = to[1] / distance;
        let cone = smooth(((down - 0.05) / 0.65).clamp(0.0, 1.0));
        let facing = match normal {
            Some(normal) => (0..3).map(|i| normal[i] * to[i]).sum::<f32>() / distance,
            None => 1.0,
        };
        LAMP_STRENGTH * cone * facing.max(0.0) / square
    }
}

impl Front {
    /// What stands at a place of the front: colour, and light of its own.
    fn look(&self, u: f32, up: f32) -> (Color, Color) {
        let wide = self.to - self.from;
        let storey = (up / 3.1).floor();
        let (x, y) = (u / wide, up - storey * 3.1);
        if !(0.02..=0.98).contains(&x) || up > self.height - 0.15 {
            return (self.wall.map(|c| c * 0.35), [0.0; 3]);
        }
        if storey == 0.0 {
            let opening = (0.10..0.90).contains(&x) && y < 2.6;
            let slat = if (y * 9.0).rem_euclid(1.0) < 0.25 { 0.6 } else { 1.0 };
            let sign = (0.06..0.94).contains(&x) && (2.68..3.05).contains(&y);
            return match (opening, sign) {
                (true, _) => (self.shutter.map(|c| c * slat), [0.0; 3]),
                (_, true) => (self.shutter.map(|c| (c * 1.6).min(0.8)), [0.0; 3]),
                _ => (self.wall, [0.0; 3]),
            };
        }
        let window = (0.28..0.72).contains(&x) && (0.7..2.3).contains(&y);
        if window {
            let frame = (x - 0.5).abs() < 0.02 || (y - 1.5).abs() < 0.05;
            let lit = self.lit_window == storey as u64;
            return match (frame, lit) {
                (true, _) => ([0.05; 3], [0.0; 3]),
                (false, true) => ([0.2; 3], [0.085, 0.060, 0.028]),
                (false, false) => ([0.03, 0.035, 0.04], [0.0; 3]),
            };
        }
        let rail = y < 0.75 && (0.08..0.92).contains(&x);
        if rail && ((u * 6.0).rem_euclid(1.0) < 0.35 || y > 0.66) {
            return ([0.06; 3], [0.0; 3]);
        }
        (self.wall, [0.0; 3])
    }
}

fn fronts(row: usize, random: &mut Random) -> Vec<Front> {
    const WALLS: [Color; 6] = [
        [0.42, 0.36, 0.24],
        [0.30, 0.34, 0.33],
        [0.44, 0.40, 0.36],
        [0.24, 0.33, 0.36],
        [0.40, 0.28, 0.20],
        [0.36, 0.38, 0.28],
    ];
    const SHUTTERS: [Color; 4] =
        [[0.20, 0.24, 0.28], [0.30, 0.30, 0.30], [0.14, 0.22, 0.20], [0.28, 0.18, 0.13]];
    let mut from = -60.0;
    let mut houses = Vec::new();
    while from < 130.0 {
        let to = from + random.between(3.6, 5.2);
        let storeys = random.between(1.6, 3.7).round();
        houses.push(Front {
            row,
            from,
            to,
            height: storeys * 3.1 + random.between(0.4, 0.9),
            wall: WALLS[random.next() as usize % WALLS.len()],
            shutter: SHUTTERS[random.next() as usize % SHUTTERS.len()],
            // Most windows of most houses are dark at this hour.
            lit_window: random.next() % 7,
        });
        from = to;
    }
    houses
}

fn add(sum: &mut Color, color: Color, strength: f32) {
    for c in 0..3 {
        sum[c] += color[c] * strength;
    }
}

pub fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Light to Y, Cb, Cr (BT.601, studio range), as the camera exposes it.
pub fn expose(light: Color) -> [f32; 3] {
    let [r, g, b] = light.map(|c| (1.0 - (-c * EXPOSURE).exp()).powf(1.0 / 2.2));
    [
        16.0 + 65.481 * r + 128.553 * g + 24.966 * b,
        128.0 - 37.797 * r - 74.203 * g + 112.0 * b,
        128.0 + 112.0 * r - 93.786 * g - 18.214 * b,
    ]
}

fn to_i420(pixels: &[Color], width: usize, height: usize) -> Vec<u8> {
    let mut out = vec![0u8; width * height * 3 / 2];
    let (luma, chroma) = out.split_at_mut(width * height);
    let (blue, red) = chroma.split_at_mut(width * height / 4);
    let mut sums = vec![[0.0f32; 2]; width * height / 4];
    for (i, pixel) in pixels.iter().enumerate() {
        let [y, cb, cr] = expose(*pixel);
        luma[i] = y.round() as u8;
        let sum = &mut sums[(i / width / 2) * (width / 2) + (i % width) / 2];
        sum[0] += cb / 4.0;
        sum[1] += cr / 4.0;
    }
    for (i, [cb, cr]) in sums.iter().enumerate() {
        blue[i] = cb.round() as u8;
        red[i] = cr.round() as u8;
    }
    out
}
