//! Where in the picture somebody looks for movement, and for which.
//!
//! Owns zones and masks as configured, on the grid of the small picture. Pure.

use super::cluster::Cluster;
use super::track::Track;
use crate::edge::config::{MotionConfig, MotionDirection, MotionZone};

/// The part of a track's speed that must go in a zone's direction: within 60 degrees of it.
const DIRECTION_COSINE: f32 = 0.5;

pub struct Zones {
    width: f32,
    height: f32,
    height_min: f32,
    zones: Vec<MotionZone>,
}

impl Zones {
    pub fn new(width: usize, height: usize, config: &MotionConfig) -> Self {
        let zones = config.zones.clone();
        Self { width: width as f32, height: height as f32, height_min: config.height_min as f32, zones }
    }

    /// For each pixel how much less contrast than usual counts: the more sensitive, the lower; infinite in a mask, and
    /// outside all zones where there are some.
    pub fn tolerance(&self, config: &MotionConfig) -> Vec<f32> {
        let (width, height) = (self.width as usize, self.height as usize);
        let of = |sensitivity: f64| 2f64.powf(1.0 - 2.0 * sensitivity.clamp(0.0, 1.0)) as f32;
        let at = |i: usize| {
            let point = self.share([(i % width) as f32 + 0.5, (i / width) as f32 + 0.5]);
            if config.masks.iter().any(|mask| contains(&mask.points, point)) {
                return f32::INFINITY;
            }
            if config.zones.is_empty() {
                return of(config.sensitivity);
            }
            let around = config.zones.iter().filter(|zone| contains(&zone.points, point));
            around
                .map(|zone| of(zone.sensitivity.unwrap_or(config.sensitivity)))
                .fold(f32::INFINITY, f32::min)
        };
        (0..width * height).map(at).collect()
    }

    /// The least height that anything must have, pixels.
    pub fn height_px_min(&self) -> f32 {
        let heights = self.zones.iter().filter_map(|zone| zone.height_min).map(|share| share as f32);
        heights.fold(self.height_min, f32::min) * self.height
    }

    /// What moves there counts, and in which zone, if there are zones.
    pub fn counts(&self, track: &Track) -> Option<Option<usize>> {
        let seen = track.last();
        if self.zones.is_empty() {
            return (track.height_px >= self.height_min * self.height).then_some(None);
        }
        let fits = |zone: &MotionZone| {
            let least = zone.height_min.map_or(self.height_min, |share| share as f32);
            contains(&zone.points, self.share([seen.x, seen.y]))
                && track.height_px >= least * self.height
                && zone.direction.is_none_or(|direction| goes(direction, track.speed))
        };
        self.zones.iter().position(fits).map(Some)
    }

    pub fn name(&self, zone: usize) -> &str {
        &self.zones[zone].name
    }

    /// Left, top, width and height as shares of the picture's.
    pub fn region(&self, seen: &Cluster) -> [f64; 4] {
        let [left, top] = self.share([seen.left, seen.top]);
        let [width, height] = self.share([seen.width(), seen.height()]);
        [left, top, width, height]
    }

    fn share(&self, [x, y]: [f32; 2]) -> [f64; 2] {
        [f64::from(x / self.width), f64::from(y / self.height)]
    }
}

fn goes(direction: MotionDirection, [x, y]: [f32; 2]) -> bool {
    let along = match direction {
        MotionDirection::Left => -x,
        MotionDirection::Right => x,
        MotionDirection::Up => -y,
        MotionDirection::Down => y,
    };
    along > DIRECTION_COSINE * x.hypot(y)
}

/// A ray to the right crosses the rim an odd number of times.
fn contains(points: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let mut inside = false;
    for (i, a) in points.iter().enumerate() {
        let b = points[(i + 1) % points.len()];
        if (a[1] > y) != (b[1] > y) && x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
    }
    inside
}
