//! Says when something starts and stops to move in a small grey picture.
//!
//! ```text
//! picture ─► scene: what is in front ─► cluster: what hangs together ─► track: what goes somewhere ─► event
//! ```
//!
//! Owns what one camera is seen to do. Pure: no I/O, no clock, no GStreamer; times are what the caller passes in. May not
//! know cameras, clips or events on the wire.
//!
//! Who saves decodes key frames only while nothing moves: [`MotionDetector::glance`] says whether one of them is worth
//! more. Then every picture since the last calm one goes to [`MotionDetector::observe`], so that a start is found where
//! it was.

mod cluster;
mod scene;
#[cfg(test)]
mod tests;
mod track;
mod zone;

use cluster::Clusters;
use scene::Scene;
use track::{Look, Tracks};
use zone::Zones;

use super::config::MotionConfig;

/// A pause in the pictures after which the background is learnt anew.
const PAUSE_NS_MAX: u64 = 5_000_000_000;
/// A glance has no pictures beside it to compare with: it needs more contrast.
const GLANCE_CONTRAST: f32 = 1.3;
/// Nothing is about to move when nothing was for this long.
const CALM_NS: u64 = 1_500_000_000;
/// What woke in vain must be larger to wake again, by this factor, but no larger than this share of the picture; half of
/// that is forgotten in this time.
const VAIN_FACTOR: f32 = 1.5;
const VAIN_SHARE_MAX: f32 = 0.002;
const VAIN_HALVES_S: f32 = 60.0;

/// What the detector found. Times are those of the pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum MotionChange {
    /// Something began to move: `at_ns` is its first picture, some pictures ago.
    Start { at_ns: u64, peak: Sighting },
    /// It was last seen to move at `at_ns`.
    End { at_ns: u64, peak: Sighting },
}

/// Something that moves, in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub at_ns: u64,
    /// Share of the picture that moves, 0 to 1.
    pub score: f64,
    /// Around it: left, top, width, height as shares of the picture's width and height.
    pub region: [f64; 4],
    /// The zone that its middle is in, if there are zones.
    pub zone: Option<String>,
}

/// One camera's detector, for pictures of one size.
pub struct MotionDetector {
    width: usize,
    height: usize,
    quiet_ns: u64,
    zones: Zones,
    scene: Scene,
    clusters: Clusters,
    tracks: Tracks,
    last_ns: Option<u64>,
    event: Option<Running>,
    /// When something last moved, or might have.
    stirred_ns: u64,
    wake: Wake,
}

struct Running {
    last_moving_ns: u64,
    peak: Sighting,
}

/// What it takes to wake, pixels.
#[derive(Default)]
struct Wake {
    /// Of what woke last.
    woken_by: f32,
    in_vain: bool,
    least: f32,
}

impl MotionDetector {
    pub fn new(width: usize, height: usize, config: &MotionConfig) -> Self {
        let zones = Zones::new(width, height, config);
        Self {
            width,
            height,
            quiet_ns: u64::try_from(config.quiet.as_nanos().max(0)).unwrap_or(u64::MAX),
            scene: Scene::new(width, height, zones.tolerance(config)),
            clusters: Clusters::default(),
            tracks: Tracks::default(),
            zones,
            last_ns: None,
            event: None,
            stirred_ns: 0,
            wake: Wake::default(),
        }
    }

    /// Looks at the next picture: `width * height` grey values, row by row.
    pub fn observe(&mut self, at_ns: u64, pixels: &[u8]) -> Option<MotionChange> {
        assert_eq!(pixels.len(), self.width * self.height, "pictures have the size given to new");
        let ended = self.after_pause(at_ns);
        let step_s = self.pass(at_ns);
        match self.scene.look(at_ns, pixels) {
            None => self.tracks.clear(),
            Some(front) => {
                self.tracks.follow(at_ns, self.clusters.find(front, self.width));
                for track in self.tracks.moving(at_ns) {
                    self.scene.moving(track.last());
                }
                self.scene.adapt(step_s);
            }
        }
        ended.or(match self.sighting(at_ns) {
            Some((since_ns, seen)) => self.see(at_ns, since_ns, seen),
            None => self.see_nothing(at_ns),
        })
    }

    /// Looks at one picture by itself; true if something may move in it, and then nothing is learnt from it.
    pub fn glance(&mut self, at_ns: u64, pixels: &[u8]) -> bool {
        assert_eq!(pixels.len(), self.width * self.height, "pictures have the size given to new");
        let Some(front) = self.scene.glance(pixels, GLANCE_CONTRAST) else { return true };
        let height_px_min = self.zones.height_px_min();
        let found = self.clusters.find(front, self.width).iter();
        let largest =
            found.filter(|c| c.height() >= height_px_min).map(|c| c.pixels as f32).fold(0.0, f32::max);
        if largest > self.wake.least {
            self.wake.woken_by = largest;
            self.wake.in_vain = true;
            return true;
        }
        let step_s = self.pass(at_ns);
        self.wake.least *= 0.5f32.powf(step_s / VAIN_HALVES_S);
        self.scene.adapt(step_s);
        false
    }

    /// Nothing moves, and nothing is about to: a glance now and then is enough.
    pub fn is_calm(&self, at_ns: u64) -> bool {
        self.event.is_none() && self.scene.is_settled() && at_ns.saturating_sub(self.stirred_ns) >= CALM_NS
    }

    /// From here on come glances only.
    pub fn rest(&mut self) {
        self.tracks.clear();
        if std::mem::take(&mut self.wake.in_vain) {
            let most = VAIN_SHARE_MAX * (self.width * self.height) as f32;
            self.wake.least = self.wake.least.max((self.wake.woken_by * VAIN_FACTOR).min(most));
        }
    }

    /// Ends the event that goes on, if one does: the stream ended.
    pub fn finish(&mut self) -> Option<MotionChange> {
        let Running { last_moving_ns, peak } = self.event.take()?;
        Some(MotionChange::End { at_ns: last_moving_ns, peak })
    }

    /// The peak of the event that goes on.
    pub fn peak(&self) -> Option<&Sighting> {
        self.event.as_ref().map(|running| &running.peak)
    }

    /// Begins a new peak for the event that goes on: what it was cut into is looked at piece by piece.
    pub fn forget_peak(&mut self) {
        if let Some(running) = &mut self.event {
            running.peak.score = 0.0;
        }
    }

    /// Starts over when time jumped.
    fn after_pause(&mut self, at_ns: u64) -> Option<MotionChange> {
        let last_ns = self.last_ns?;
        if at_ns > last_ns && at_ns - last_ns <= PAUSE_NS_MAX {
            return None;
        }
        self.scene.forget();
        self.tracks.clear();
        self.last_ns = None;
        self.stirred_ns = at_ns;
        self.finish()
    }

    /// Seconds since the last picture.
    fn pass(&mut self, at_ns: u64) -> f32 {
        let last_ns = self.last_ns.replace(at_ns).unwrap_or(at_ns);
        at_ns.saturating_sub(last_ns) as f32 / 1e9
    }

    /// What moves in the newest picture and since when; the largest of it.
    fn sighting(&mut self, at_ns: u64) -> Option<(u64, Sighting)> {
        if self.tracks.any_may_move() {
            self.stirred_ns = at_ns;
        }
        let counts = |track| self.zones.counts(track).map(|zone| (track, zone));
        let moving: Vec<_> = self.tracks.moving(at_ns).filter_map(counts).collect();
        let since_ns = moving.iter().filter_map(|(track, _)| track.moves_since_ns).min()?;
        let looks = moving.iter().flat_map(|(track, zone)| track.looks().map(|look| (look, *zone)));
        // The pictures before the start was sure belong to it as well.
        let oldest_ns = if self.event.is_none() { since_ns } else { at_ns };
        let pixels = |(look, _): &(&Look, Option<usize>)| look.cluster.pixels;
        let (look, zone) = looks.filter(|(look, _)| look.at_ns >= oldest_ns).max_by_key(pixels)?;
        let sighting = Sighting {
            at_ns: look.at_ns,
            score: f64::from(look.cluster.pixels) / (self.width * self.height) as f64,
            region: self.zones.region(&look.cluster),
            zone: zone.map(|zone| self.zones.name(zone).to_owned()),
        };
        Some((since_ns, sighting))
    }

    fn see(&mut self, at_ns: u64, since_ns: u64, seen: Sighting) -> Option<MotionChange> {
        self.wake.in_vain = false;
        match &mut self.event {
            Some(running) => {
                running.last_moving_ns = at_ns;
                if seen.score > running.peak.score {
                    running.peak = seen;
                }
                None
            }
            None => {
                self.event = Some(Running { last_moving_ns: at_ns, peak: seen.clone() });
                Some(MotionChange::Start { at_ns: since_ns, peak: seen })
            }
        }
    }

    fn see_nothing(&mut self, at_ns: u64) -> Option<MotionChange> {
        let running = self.event.as_ref()?;
        if at_ns.saturating_sub(running.last_moving_ns) < self.quiet_ns {
            return None;
        }
        self.finish()
    }
}
