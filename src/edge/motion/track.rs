//! Clusters that are the same thing from picture to picture, and whether that thing goes somewhere.
//!
//! Owns what is known of each thing. Rain is another cluster in each picture; an insect turns and is gone; leaves come
//! back to where they were; what a lamp lights stays where it is. People and vehicles go on, and on a line.
//! Pure: knows no pixels. May not decide what is an event.

use std::collections::VecDeque;

use super::cluster::Cluster;

/// Things that are followed at a time.
const TRACKS_MAX: usize = 64;
/// A thing that was not seen for this long is gone.
const LOST_NS: u64 = 600_000_000;
/// What was seen of it in this time is looked at; and how many looks at most, whatever the frame rate.
const WINDOW_NS: u64 = 1_300_000_000;
const LOOKS_MAX: usize = 40;
/// It is a thing when it was seen for so long, so often, and in this share of the pictures.
const SEEN_NS: u64 = 1_000_000_000;
const SEEN_LOOKS: usize = 5;
const SEEN_SHARE: f32 = 0.7;
/// With fewer looks its speed is anyone's guess.
const SPEED_LOOKS: usize = 3;
/// It is on a line when it is off it by less than this: pixels, and share of its size.
const OFF_LINE_PX: f32 = 0.9;
const OFF_LINE_SHARE: f32 = 0.22;
/// It goes somewhere when, within the window, it went at least this far: pixels, and share of its size up to a limit.
const GONE_PX: f32 = 2.5;
const GONE_SHARE: f32 = 0.2;
const GONE_SIZE_MAX: f32 = 20.0;
/// Mean deviation of its size from the mean, as a share of it.
const SIZE_DEVIATION: f32 = 0.5;
/// Share of its pixels that differ from a moment ago: over the window, and over its newest part.
const CHANGED_SHARE: f32 = 0.12;
const NEWEST_NS: u64 = 400_000_000;

/// One look at a thing.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub at_ns: u64,
    pub cluster: Cluster,
}

/// One thing.
#[derive(Debug)]
pub struct Track {
    /// The looks of the window, oldest first; never empty.
    looks: VecDeque<Look>,
    /// The pictures of the window since the first look: when, and whether it was seen.
    pictures: VecDeque<(u64, bool)>,
    /// Pixels per second to the right and down.
    pub speed: [f32; 2],
    /// Mean height within the window, pixels.
    pub height_px: f32,
    /// Since when it differs from picture to picture, without a pause.
    stirs_since_ns: u64,
    /// It is on a line so far.
    may_move: bool,
    /// It was once seen to go somewhere.
    went: bool,
    /// Since when it moves, if it does: it went somewhere, and stirs.
    pub moves_since_ns: Option<u64>,
}

/// All things in view.
#[derive(Debug, Default)]
pub struct Tracks {
    all: Vec<Track>,
    taken: Vec<bool>,
}

impl Tracks {
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// What goes somewhere and was seen in the picture of `at_ns`.
    pub fn moving(&self, at_ns: u64) -> impl Iterator<Item = &Track> {
        self.all.iter().filter(move |track| track.moves_since_ns.is_some() && track.last_ns() == at_ns)
    }

    /// Something may turn out to go somewhere.
    pub fn any_may_move(&self) -> bool {
        self.all.iter().any(|track| track.may_move)
    }

    /// Takes the clusters of a picture.
    pub fn follow(&mut self, at_ns: u64, clusters: &[Cluster]) {
        self.all.retain(|track| at_ns.saturating_sub(track.last_ns()) <= LOST_NS);
        self.taken.clear();
        self.taken.resize(clusters.len(), false);
        // Those that are surest choose first.
        self.all.sort_by_key(|track| (track.moves_since_ns.is_none(), std::cmp::Reverse(track.looks.len())));
        for track in &mut self.all {
            let seen = track.choose(at_ns, clusters, &mut self.taken);
            track.take(at_ns, seen);
        }
        for (cluster, _) in clusters.iter().zip(&self.taken).filter(|(_, taken)| !**taken) {
            if self.all.len() == TRACKS_MAX {
                break;
            }
            self.all.push(Track::new(at_ns, *cluster));
        }
    }
}

impl Track {
    fn new(at_ns: u64, cluster: Cluster) -> Self {
        Self {
            looks: VecDeque::from([Look { at_ns, cluster }]),
            pictures: VecDeque::from([(at_ns, true)]),
            speed: [0.0, 0.0],
            height_px: cluster.height(),
            stirs_since_ns: at_ns,
            may_move: false,
            went: false,
            moves_since_ns: None,
        }
    }

    pub fn looks(&self) -> impl Iterator<Item = &Look> {
        self.looks.iter()
    }

    /// What was seen of it last.
    pub fn last(&self) -> &Cluster {
        &self.looks.back().expect("a track has a look").cluster
    }

    fn last_ns(&self) -> u64 {
        self.looks.back().expect("a track has a look").at_ns
    }

    /// What of the clusters is this thing: those that touch where it should be now.
    fn choose(&self, at_ns: u64, clusters: &[Cluster], taken: &mut [bool]) -> Option<Cluster> {
        let last = self.last();
        let passed_s = (at_ns - self.last_ns()) as f32 / 1e9;
        let [dx, dy] = self.speed.map(|speed| speed * passed_s);
        let size = last.width().max(last.height());
        let slack = if self.looks.len() < SPEED_LOOKS { 2.0 + 0.5 * size } else { 1.5 + 0.12 * size };
        let (left, right) = (last.left + dx - slack, last.right + dx + slack);
        let (top, bottom) = (last.top + dy - slack, last.bottom + dy + slack);
        let mut seen: Option<Cluster> = None;
        // The largest first; what is smaller belongs to it if its middle lies inside.
        for (cluster, taken) in clusters.iter().zip(taken) {
            let touches =
                cluster.left < right && cluster.right > left && cluster.top < bottom && cluster.bottom > top;
            let inside = cluster.x > left && cluster.x < right && cluster.y > top && cluster.y < bottom;
            let is_too_large = cluster.pixels > last.pixels * 6 + 30;
            if *taken || !touches || is_too_large || seen.is_some() && !inside {
                continue;
            }
            *taken = true;
            seen = Some(seen.map_or(*cluster, |seen| seen.join(cluster)));
        }
        seen
    }

    fn take(&mut self, at_ns: u64, seen: Option<Cluster>) {
        let is_old = |then: u64| at_ns - then > WINDOW_NS;
        self.pictures.push_back((at_ns, seen.is_some()));
        while self.pictures.len() > LOOKS_MAX || self.pictures.front().is_some_and(|(at, _)| is_old(*at)) {
            self.pictures.pop_front();
        }
        self.looks.extend(seen.map(|cluster| Look { at_ns, cluster }));
        while self.looks.len() > LOOKS_MAX || self.looks.len() > 1 && is_old(self.looks[0].at_ns) {
            self.looks.pop_front();
        }
        let line = Line::through(&self.looks);
        self.may_move = line.as_ref().is_some_and(|line| self.is_steady(line));
        self.went |= self.may_move && line.as_ref().is_some_and(|line| self.goes_somewhere(line));
        let stirs = self.changes(NEWEST_NS);
        if !stirs {
            self.stirs_since_ns = at_ns;
        }
        self.moves_since_ns = (self.went && stirs).then_some(self.stirs_since_ns);
        if let Some(line) = line {
            self.speed = line.speed;
            self.height_px = line.height_px;
        }
    }

    /// It is the same thing in most pictures, and on a line.
    fn is_steady(&self, line: &Line) -> bool {
        let seen = self.pictures.iter().filter(|(_, seen)| *seen).count() as f32;
        self.looks.len() >= SEEN_LOOKS
            && seen >= SEEN_SHARE * self.pictures.len() as f32
            && line.size_deviation <= SIZE_DEVIATION
            && line.off_px <= OFF_LINE_PX + OFF_LINE_SHARE * self.size_px()
            && self.changes(WINDOW_NS)
    }

    fn goes_somewhere(&self, line: &Line) -> bool {
        line.span_ns >= SEEN_NS
            && line.gone_px >= GONE_PX + GONE_SHARE * self.size_px().min(GONE_SIZE_MAX)
            && self.changes(NEWEST_NS)
    }

    fn size_px(&self) -> f32 {
        (self.last().width() * self.last().height()).sqrt()
    }

    /// It differs from a moment ago, in the newest part of the window.
    fn changes(&self, newest_ns: u64) -> bool {
        let from_ns = self.last_ns().saturating_sub(newest_ns);
        let newest = self.looks.iter().filter(|look| look.at_ns >= from_ns).map(|look| look.cluster);
        let (all, changed) = newest.fold((0, 0), |sum, seen| (sum.0 + seen.pixels, sum.1 + seen.changed));
        changed as f32 >= CHANGED_SHARE * all as f32
    }
}

/// The straight way that is nearest to the looks, by least squares.
struct Line {
    /// Pixels per second.
    speed: [f32; 2],
    span_ns: u64,
    /// From its begin to its end.
    gone_px: f32,
    /// How far the looks are from where they should be by the line and the time.
    off_px: f32,
    height_px: f32,
    size_deviation: f32,
}

impl Line {
    fn through(looks: &VecDeque<Look>) -> Option<Self> {
        if looks.len() < SPEED_LOOKS {
            return None;
        }
        let first_ns = looks[0].at_ns;
        let span_ns = looks[looks.len() - 1].at_ns - first_ns;
        let mean = |of: &dyn Fn(&Look) -> f32| looks.iter().map(of).sum::<f32>() / looks.len() as f32;
        let time_s = |look: &Look| (look.at_ns - first_ns) as f32 / 1e9;
        let size = |look: &Look| (look.cluster.width() * look.cluster.height()).sqrt();
        let (t, x, y) = (mean(&time_s), mean(&|look| look.cluster.x), mean(&|look| look.cluster.y));
        let spread = mean(&|look| (time_s(look) - t).powi(2)).max(1e-6);
        let speed_x = mean(&|look| (time_s(look) - t) * (look.cluster.x - x)) / spread;
        let speed_y = mean(&|look| (time_s(look) - t) * (look.cluster.y - y)) / spread;
        let off_px = |look: &Look| {
            let passed_s = time_s(look) - t;
            (look.cluster.x - x - speed_x * passed_s).hypot(look.cluster.y - y - speed_y * passed_s)
        };
        let usual_size = mean(&size);
        Some(Self {
            speed: [speed_x, speed_y],
            span_ns,
            gone_px: speed_x.hypot(speed_y) * span_ns as f32 / 1e9,
            off_px: mean(&|look| off_px(look).powi(2)).sqrt(),
            height_px: mean(&|look| look.cluster.height()),
            size_deviation: mean(&|look| (size(look) - usual_size).abs()) / usual_size,
        })
    }
}
