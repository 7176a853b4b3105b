//! The cameras, and the other devices, on the map: where each stood, and what it saw, at every time.
//!
//! Owns the index that turns a place into devices: R-trees over the points and the views, built once for each version
//! of the registry. Rules:
//!
//! - A camera counts where it stood, while it stood there. What changes nothing of point, site and view does not split
//!   its time.
//! - An area holds a camera whose site is filed under it or below it, as the registry was at any moment of the
//!   question's time or is now (for a site that did not move), and one that stands within the area's own boundary. So
//!   an area that was renamed, re-parented or merged is found under the old name and the new one.
//! - A sector sees a point within its reach and half its angle off the heading; a drawn view sees what is in it.
//!   Cameras that see a point are ranked by distance, lengthened with the angle off the axis: at 90° it counts double.
//!
//! May not know clips or coverage.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rstar::primitives::{GeomWithData, Rectangle};
use rstar::{AABB, RTree};

use super::geometry::{
    Bounds, Polygon, distance_to_line_m, is_in_polygon, is_inside, middle_of, polygon_from,
};
use super::question::Condition;
use super::round;
use crate::hub::catalog::TimeRange;
use crate::hub::registry::{History, Placement, Version};
use crate::model::{
    AreaId, DeviceId, DeviceKind, Point, Sector, SiteId, Time, View, ahead, bearing_deg, distance_m,
};

/// A device where it stood for some time.
#[derive(Debug, Clone)]
pub struct Stand {
    pub placement: Placement,
    view: Option<Shape>,
}

/// A view, made ready for questions.
#[derive(Debug, Clone)]
enum Shape {
    Sector(Sector),
    Polygon { polygon: Polygon, middle: Point },
}

/// How a camera sees a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sight {
    pub distance_m: f64,
    /// Angle between the middle of the view and the point, degrees; 0 for a camera that sees all around.
    pub off_axis_deg: f64,
}

impl Sight {
    /// The lower the better.
    pub fn rank(&self) -> f64 {
        self.distance_m * (1.0 + self.off_axis_deg / 90.0)
    }
}

/// Which devices a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Cameras,
    All,
}

/// A camera where the question found it.
#[derive(Debug, Clone)]
pub struct Found {
    pub stand: Arc<Stand>,
    /// From the question's point, if it has one.
    pub distance_m: Option<f64>,
    pub bearing_deg: Option<f64>,
    pub sight: Option<Sight>,
}

impl Found {
    /// To a tenth of a metre.
    pub fn shown_distance_m(&self) -> Option<f64> {
        self.distance_m.map(|m| round(m, 1))
    }

    /// To a tenth of a degree, below 360.
    pub fn shown_bearing_deg(&self) -> Option<f64> {
        self.bearing_deg.map(|deg| round(deg, 1) % 360.0)
    }
}

type Entry = GeomWithData<Rectangle<[f64; 2]>, u32>;

/// Every device of a history, where it stood.
#[derive(Debug, Default)]
pub struct Cameras {
    /// By device, then by time.
    stands: Vec<Arc<Stand>>,
    by_device: HashMap<DeviceId, Range<usize>>,
    by_site: HashMap<SiteId, Vec<u32>>,
    /// What was ever filed under an area itself.
    filed: HashMap<AreaId, Vec<Filed>>,
    points: RTree<Entry>,
    views: RTree<Entry>,
}

/// A site that was filed under an area for some time.
#[derive(Debug)]
struct Filed {
    site: SiteId,
    point: Point,
    from: Time,
    until: Option<Time>,
}

impl Filed {
    /// Whether it counts for a question's time: it was so within it, or is so now.
    fn counts_in(&self, range: TimeRange) -> bool {
        self.until.is_none_or(|until| self.from <= range.to && until > range.from)
    }
}

impl Cameras {
    pub fn of(history: &History) -> Self {
        let (mut stands, mut by_device) = (Vec::new(), HashMap::new());
        let mut by_site: HashMap<SiteId, Vec<u32>> = HashMap::new();
        for (id, _) in history.devices() {
            let begin = stands.len();
            for placement in history.placements(id) {
                by_site.entry(placement.site.id.clone()).or_default().push(stands.len() as u32);
                stands.push(Arc::new(Stand::new(placement)));
            }
            if stands.len() > begin {
                by_device.insert(id.clone(), begin..stands.len());
            }
        }
        let mut filed: HashMap<AreaId, Vec<Filed>> = HashMap::new();
        for (id, versions) in history.sites() {
            for Version { from, until, value } in versions {
                let (site, point) = (id.clone(), value.point);
                let entry = Filed { site, point, from: *from, until: *until };
                filed.entry(value.area.clone()).or_default().push(entry);
            }
        }
        let numbered = || stands.iter().enumerate();
        let point = |(n, stand): (usize, &Arc<Stand>)| {
            let Point { lat, lon } = stand.placement.site.point;
            Entry::new(Rectangle::from_corners([lon, lat], [lon, lat]), n as u32)
        };
        let view = |(n, stand): (usize, &Arc<Stand>)| {
            let b = stand.view_bounds()?;
            Some(Entry::new(Rectangle::from_corners([b.west, b.south], [b.east, b.north]), n as u32))
        };
        let points = RTree::bulk_load(numbered().map(point).collect());
        let views = RTree::bulk_load(numbered().filter_map(view).collect());
        Self { stands, by_device, by_site, filed, points, views }
    }

    /// Where a device stood, by time.
    pub fn stands_of(&self, device: &DeviceId) -> &[Arc<Stand>] {
        self.by_device.get(device).map_or(&[], |range| &self.stands[range.clone()])
    }

    /// Where it stood at `time`; before the first place, the first, and in a pause, the one before it.
    pub fn stand_at(&self, device: &DeviceId, time: Time) -> Option<&Arc<Stand>> {
        let stands = self.stands_of(device);
        let after = stands.partition_point(|s| s.placement.from <= time);
        stands.get(after.saturating_sub(1))
    }

    /// Every such device that meets all conditions within one of the windows. Nearest to the question's point first, or
    /// best placed to see it; without a point, by device.
    pub fn find(
        &self,
        which: Which,
        place: &[Condition],
        windows: &[TimeRange],
        centre: Option<Point>,
        history: &History,
    ) -> Vec<Found> {
        let tests: Vec<Test> = place.iter().map(|c| Test::new(c, windows, self, history)).collect();
        let mut candidates = self.candidates(&tests);
        candidates.sort_unstable();
        candidates.dedup();
        let mut found = Vec::new();
        for n in candidates {
            let stand = &self.stands[n as usize];
            if which == Which::Cameras && stand.placement.device.kind != DeviceKind::Camera {
                continue;
            }
            if !windows.iter().any(|w| stand.is_there_in(*w)) {
                continue;
            }
            if !tests.iter().all(|test| test.holds(stand)) {
                continue;
            }
            let seen = place.iter().find_map(|c| match c {
                Condition::Sees { point, .. } => Some(Point { lat: point.lat, lon: point.lon }),
                _ => None,
            });
            let at = stand.placement.site.point;
            found.push(Found {
                distance_m: centre.map(|c| distance_m(c, at)),
                bearing_deg: centre.map(|c| bearing_deg(c, at)),
                sight: seen.and_then(|point| stand.sight(point)),
                stand: stand.clone(),
            });
        }
        let rank = |f: &Found| f.sight.map_or(f.distance_m.unwrap_or(0.0), |s| s.rank());
        // Stable: what is equally far stays in the order of devices and times.
        found.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        found
    }

    /// Cameras that stand at `at` where they see the point.
    pub fn seeing(&self, point: Point, at: Time) -> impl Iterator<Item = &DeviceId> {
        let window = TimeRange { from: at, to: at };
        let near = within(&self.views, Bounds::around(point, 0.1)).into_iter();
        let stands = near.map(|n| &self.stands[n as usize]);
        let sees = move |stand: &&Arc<Stand>| stand.is_there_in(window) && stand.sight(point).is_some();
        stands.filter(sees).map(|stand| &stand.placement.device.id)
    }

    /// Numbers of the stands that may meet all of `tests`: those of the test that leaves fewest.
    fn candidates(&self, tests: &[Test]) -> Vec<u32> {
        let mut fewest: Option<Vec<u32>> = None;
        for test in tests {
            let some = match test {
                Test::Devices(ids) => {
                    let ranges = ids.iter().filter_map(|id| self.by_device.get(id));
                    ranges.flat_map(|r| r.start as u32..r.end as u32).collect()
                }
                Test::Sites(ids) => {
                    ids.iter().filter_map(|id| self.by_site.get(id)).flatten().copied().collect()
                }
                Test::Area { sites, boundary } => {
                    let mut all: Vec<u32> =
                        sites.keys().filter_map(|id| self.by_site.get(id)).flatten().copied().collect();
                    for polygon in boundary {
                        all.extend(
                            Bounds::of(polygon.iter().flatten())
                                .map(|b| within(&self.points, b))
                                .unwrap_or_default(),
                        );
                    }
                    all
                }
                Test::Circle { centre, radius_m } => within(&self.points, Bounds::around(*centre, *radius_m)),
                Test::Polygon(polygons) => {
                    let bounds = Bounds::of(polygons.iter().flatten().flatten());
                    bounds.map(|b| within(&self.points, b)).unwrap_or_default()
                }
                Test::Route { line, width_m } => {
                    let mut all = Vec::new();
                    for segment in line.windows(2) {
                        let bounds = Bounds::of(segment).map(|b| b.widened(width_m / 2.0));
                        all.extend(bounds.map(|b| within(&self.points, b)).unwrap_or_default());
                    }
                    all
                }
                Test::Sees(point) => within(&self.views, Bounds::around(*point, 0.1)),
            };
            if fewest.as_ref().is_none_or(|f| some.len() < f.len()) {
                fewest = Some(some);
            }
        }
        fewest.unwrap_or_else(|| (0..self.stands.len() as u32).collect())
    }
}

fn within(tree: &RTree<Entry>, b: Bounds) -> Vec<u32> {
    let envelope = AABB::from_corners([b.west, b.south], [b.east, b.north]);
    tree.locate_in_envelope_intersecting(&envelope).map(|entry| entry.data).collect()
}

impl Stand {
    fn new(placement: Placement) -> Self {
        let view = placement.device.view.as_ref().map(|view| match view {
            View::Sector(sector) => Shape::Sector(*sector),
            View::Polygon(corners) => {
                let polygon = polygon_from(std::slice::from_ref(corners));
                let middle = polygon.first().and_then(|ring| middle_of(ring));
                Shape::Polygon { polygon, middle: middle.unwrap_or(placement.site.point) }
            }
        });
        Self { placement, view }
    }

    /// Whether it stood there at a moment of the window.
    pub fn is_there_in(&self, window: TimeRange) -> bool {
        let Placement { from, until, .. } = &self.placement;
        *from <= window.to && until.is_none_or(|until| until > window.from)
    }

    /// The middle of what it sees; its own place where it has no view, or one all around.
    pub fn middle(&self) -> Point {
        let at = self.placement.site.point;
        match &self.view {
            Some(Shape::Sector(sector)) if sector.angle_deg < 360.0 => {
                ahead(at, sector.heading_deg, sector.reach_m / 2.0)
            }
            Some(Shape::Polygon { middle, .. }) => *middle,
            Some(Shape::Sector(_)) | None => at,
        }
    }

    /// How it sees the point, if it does.
    pub fn sight(&self, point: Point) -> Option<Sight> {
        let at = self.placement.site.point;
        let metres = distance_m(at, point);
        let off = |axis_deg: f64| {
            let off = (bearing_deg(at, point) - axis_deg).rem_euclid(360.0);
            off.min(360.0 - off)
        };
        match self.view.as_ref()? {
            Shape::Sector(sector) if metres > sector.reach_m => None,
            // Right below the camera there is no direction.
            Shape::Sector(sector) if sector.angle_deg >= 360.0 || metres < 0.5 => {
                Some(Sight { distance_m: metres, off_axis_deg: 0.0 })
            }
            Shape::Sector(sector) => {
                let off_axis_deg = off(sector.heading_deg);
                let sees = off_axis_deg <= sector.angle_deg / 2.0;
                sees.then_some(Sight { distance_m: metres, off_axis_deg })
            }
            Shape::Polygon { polygon, middle } => is_in_polygon(point, polygon).then(|| Sight {
                distance_m: metres,
                off_axis_deg: if metres < 0.5 { 0.0 } else { off(bearing_deg(at, *middle)) },
            }),
        }
    }

    fn view_bounds(&self) -> Option<Bounds> {
        match self.view.as_ref()? {
            Shape::Sector(sector) => Some(Bounds::around(self.placement.site.point, sector.reach_m)),
            Shape::Polygon { polygon, .. } => Bounds::of(polygon.iter().flatten()),
        }
    }
}

/// A condition, made ready to be looked at for many cameras.
enum Test<'a> {
    Circle { centre: Point, radius_m: f64 },
    Polygon(&'a [Polygon]),
    Route { line: &'a [[f64; 2]], width_m: f64 },
    Area { sites: HashMap<SiteId, Vec<Point>>, boundary: Vec<Polygon> },
    Sites(BTreeSet<SiteId>),
    Devices(BTreeSet<DeviceId>),
    Sees(Point),
}

impl<'a> Test<'a> {
    fn new(condition: &'a Condition, windows: &[TimeRange], cameras: &Cameras, history: &History) -> Self {
        match condition {
            Condition::Circle { point, radius_m, .. } => {
                Self::Circle { centre: Point { lat: point.lat, lon: point.lon }, radius_m: *radius_m }
            }
            Condition::Polygon { polygons } => Self::Polygon(polygons),
            Condition::Route { line, width_m } => Self::Route { line, width_m: *width_m },
            Condition::Area { area, .. } => Self::area(&area.id, windows, cameras, history),
            Condition::Sites { sites } => {
                Self::Sites(sites.iter().filter_map(|id| SiteId::new(id.as_str()).ok()).collect())
            }
            Condition::Devices { devices } => {
                Self::Devices(devices.iter().filter_map(|id| DeviceId::new(id.as_str()).ok()).collect())
            }
            Condition::Sees { point, .. } => Self::Sees(Point { lat: point.lat, lon: point.lon }),
        }
    }

    fn area(id: &str, windows: &[TimeRange], cameras: &Cameras, history: &History) -> Self {
        let mut sites: HashMap<SiteId, Vec<Point>> = HashMap::new();
        let (Ok(id), Some(first), Some(last)) = (AreaId::new(id), windows.first(), windows.last()) else {
            return Self::Area { sites, boundary: Vec::new() };
        };
        let range = TimeRange { from: first.from, to: last.to };
        for area in history.areas_below(&id, range) {
            for filed in cameras.filed.get(&area).map_or(&[][..], Vec::as_slice) {
                if filed.counts_in(range) {
                    sites.entry(filed.site.clone()).or_default().push(filed.point);
                }
            }
        }
        let boundary = &history.area(&id).map_or(&[][..], |area| &area.boundary);
        let boundary = if boundary.is_empty() { Vec::new() } else { vec![polygon_from(boundary)] };
        Self::Area { sites, boundary }
    }

    fn holds(&self, stand: &Stand) -> bool {
        let site = &stand.placement.site;
        match self {
            Self::Circle { centre, radius_m } => distance_m(*centre, site.point) <= *radius_m,
            Self::Polygon(polygons) => is_inside(site.point, polygons),
            Self::Route { line, width_m } => distance_to_line_m(site.point, line) <= width_m / 2.0,
            Self::Area { sites, boundary } => {
                let is_filed = sites.get(&site.id).is_some_and(|points| points.contains(&site.point));
                is_filed || is_inside(site.point, boundary)
            }
            Self::Sites(ids) => ids.contains(&site.id),
            Self::Devices(ids) => ids.contains(&stand.placement.device.id),
            Self::Sees(point) => stand.sight(*point).is_some(),
        }
    }
}
