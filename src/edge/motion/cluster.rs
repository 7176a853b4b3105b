//! Pixels in front that hang together.
//!
//! Owns the rule by which they do. Pure; knows one picture only.

use super::scene::{Front, WEAK};

/// Pixels hang together over a gap of this many less one.
const REACH: usize = 2;
/// A cluster has at least this many pixels, and this many with full contrast.
const PIXELS_MIN: u32 = 6;
const STRONG_MIN: u32 = 3;
/// The largest ones of a picture; more is weather.
const CLUSTERS_MAX: usize = 96;

/// Where something is in a picture, in pixels: its rim, the last column and row not included, and its middle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
    pub x: f32,
    pub y: f32,
    pub pixels: u32,
    /// Of them, those with full contrast, and those that differ from a moment ago.
    strong: u32,
    pub changed: u32,
}

impl Cluster {
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    pub fn height(&self) -> f32 {
        self.bottom - self.top
    }

    /// The two as one.
    pub fn join(&self, other: &Self) -> Self {
        let (a, b) = (self.pixels as f32, other.pixels as f32);
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
            x: (self.x * a + other.x * b) / (a + b),
            y: (self.y * a + other.y * b) / (a + b),
            pixels: self.pixels + other.pixels,
            strong: self.strong + other.strong,
            changed: self.changed + other.changed,
        }
    }
}

/// Finds clusters; keeps its buffers.
#[derive(Default)]
pub struct Clusters {
    waiting: Vec<bool>,
    stack: Vec<usize>,
    found: Vec<Cluster>,
}

impl Clusters {
    /// The clusters of a picture, largest first.
    pub fn find(&mut self, front: Front<'_>, width: usize) -> &[Cluster] {
        self.found.clear();
        self.waiting.clear();
        self.waiting.extend(front.excess.iter().map(|&excess| excess > WEAK));
        for seed in 0..front.excess.len() {
            // A cluster is sought from where it is strong, so that noise costs little.
            if self.waiting[seed] && front.excess[seed] > 1.0 {
                let cluster = self.take(front, width, seed);
                if cluster.pixels >= PIXELS_MIN && cluster.strong >= STRONG_MIN {
                    self.found.push(cluster);
                }
            }
        }
        self.found.sort_unstable_by_key(|cluster| std::cmp::Reverse(cluster.pixels));
        self.found.truncate(CLUSTERS_MAX);
        &self.found
    }

    fn take(&mut self, front: Front<'_>, width: usize, seed: usize) -> Cluster {
        let height = front.excess.len() / width;
        let (mut left, mut right, mut top, mut bottom) = (width, 0, height, 0);
        let (mut x_sum, mut y_sum, mut pixels, mut strong, mut changes) = (0, 0, 0u32, 0, 0);
        self.waiting[seed] = false;
        self.stack.push(seed);
        while let Some(i) = self.stack.pop() {
            let (x, y) = (i % width, i / width);
            (left, right) = (left.min(x), right.max(x + 1));
            (top, bottom) = (top.min(y), bottom.max(y + 1));
            (x_sum, y_sum, pixels) = (x_sum + x, y_sum + y, pixels + 1);
            strong += u32::from(front.excess[i] > 1.0);
            changes += u32::from(front.change[i] > 1.0);
            for row in y.saturating_sub(REACH)..=(y + REACH).min(height - 1) {
                for column in x.saturating_sub(REACH)..=(x + REACH).min(width - 1) {
                    let neighbour = row * width + column;
                    if std::mem::take(&mut self.waiting[neighbour]) {
                        self.stack.push(neighbour);
                    }
                }
            }
        }
        let n = pixels as f32;
        Cluster {
            left: left as f32,
            top: top as f32,
            right: right as f32,
            bottom: bottom as f32,
            x: x_sum as f32 / n + 0.5,
            y: y_sum as f32 / n + 0.5,
            pixels,
            strong,
            changed: changes,
        }
    }
}
