//! Where somebody who was seen may be seen next.
//!
//! Owns the reckoning: the straight way, made longer by what streets turn; a range of speeds; for each camera the window
//! within which to look. No footage is read. Rules:
//!
//! - The earliest moment is the straight way to the edge of the camera's view at the highest speed, the latest the way
//!   past the camera and its view, 1.4 times as long, at the lowest.
//! - With a heading only cameras within 60° of it count, and those so near that the heading says nothing.
//! - `sees` says that the view takes in a part of the straight way to the camera, or of the way on in the heading.
//! - Next looks first: by the beginning of the window, then those that see, then by distance.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::{NameView, PointView, SiteView, ViewView, WindowView, point_view, site_view, view_view};
use super::atlas::Atlas;
use super::cameras::{Found, Stand, Which};
use super::question::Condition;
use super::{Search, SearchError, round, wrong};
use crate::hub::access::Pass;
use crate::hub::catalog::TimeRange;
use crate::limits::{
    FOLLOW_CAMERAS_MAX, FOLLOW_KMH_MAX, FOLLOW_KMH_MIN, FOLLOW_MINUTES, FOLLOW_MINUTES_MAX,
    SEARCH_RADIUS_M_MAX,
};
use crate::model::{DeviceId, Point, Time, View, bearing_deg, distance_m};

/// From what to follow: a clip, or a point and a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowAsked {
    /// Begins at its camera, when what moved left.
    pub clip: Option<Uuid>,
    pub point: Option<PointAsked>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Time>,
    /// Where to, degrees clockwise from north; without it, every way.
    pub heading_deg: Option<f64>,
    pub speed: Option<SpeedAsked>,
    /// How far ahead to look; 15 without it.
    pub minutes: Option<f64>,
    /// Why: goes into the access log.
    pub purpose: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointAsked {
    pub lat: f64,
    pub lon: f64,
}

/// `walking`, `bicycle`, `motorbike`, or a range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SpeedAsked {
    Named(SpeedName),
    Range(SpeedRange),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpeedName {
    Walking,
    Bicycle,
    Motorbike,
}

/// Kilometres an hour along the way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpeedRange {
    pub min_kmh: f64,
    pub max_kmh: f64,
}

impl SpeedName {
    /// From hesitating to hurrying: on foot 3 to 8, by bicycle 8 to 25, by motorbike in town 12 to 60 km/h.
    fn range(self) -> SpeedRange {
        let (min_kmh, max_kmh) = match self {
            Self::Walking => (3.0, 8.0),
            Self::Bicycle => (8.0, 25.0),
            Self::Motorbike => (12.0, 60.0),
        };
        SpeedRange { min_kmh, max_kmh }
    }
}

/// Where to look next.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Followed {
    pub from: FollowedFrom,
    pub speed: SpeedRange,
    pub minutes: f64,
    /// Next looks first.
    pub cameras: Vec<NextLook>,
    /// Cameras on the way that are not named because there are too many.
    pub left_out: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FollowedFrom {
    pub point: PointView,
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heading_deg: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NextLook {
    pub device: NameView,
    pub site: SiteView,
    pub point: PointView,
    pub distance_m: f64,
    pub bearing_deg: f64,
    pub window: WindowView,
    /// Its view takes in a part of the way.
    pub sees: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewView>,
    /// The search of this camera in this window.
    pub clips_url: String,
}

/// Streets turn: the way is up to so many times as long as the straight line.
const DETOUR: f64 = 1.4;
/// Half the opening of the ways that a heading means, degrees.
const HEADING_HALF_DEG: f64 = 60.0;
/// So near the heading says nothing, metres.
const NEAR_M: f64 = 30.0;
/// What a camera without a view may see, metres.
const REACH_M: f64 = 30.0;
/// Steps in which a way is looked along, metres.
const STEP_M: f64 = 2.0;
/// As far along a heading as whoever asked can be sure of it, metres.
const HEADING_WAY_M: f64 = 300.0;

/// A follow that is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Follow {
    clip: Option<Uuid>,
    start: Option<(Point, Time)>,
    heading_deg: Option<f64>,
    speed: SpeedRange,
    minutes: f64,
}

impl Follow {
    pub fn understand(asked: &FollowAsked) -> Result<Self, SearchError> {
        let start = match (asked.clip, asked.point, asked.time) {
            (Some(_), None, None) => None,
            (None, Some(PointAsked { lat, lon }), Some(time)) => {
                let point = Point { lat, lon };
                if !point.is_valid() {
                    return Err(wrong(format!(
                        "point: lat = {lat}, lon = {lon}: lat lies in -90..90, lon in -180..180"
                    )));
                }
                Some((point, time))
            }
            _ => return Err(wrong("follow from a clip, or from a point and a time".into())),
        };
        if let Some(deg) = asked.heading_deg.filter(|deg| !(0.0..=360.0).contains(deg)) {
            return Err(wrong(format!("heading_deg = {deg}: 0 to 360 degrees, clockwise from north")));
        }
        let speed = match asked.speed {
            None => SpeedName::Motorbike.range(),
            Some(SpeedAsked::Named(name)) => name.range(),
            Some(SpeedAsked::Range(range)) => range,
        };
        let SpeedRange { min_kmh, max_kmh } = speed;
        if !(FOLLOW_KMH_MIN <= min_kmh && min_kmh <= max_kmh && max_kmh <= FOLLOW_KMH_MAX) {
            return Err(wrong(format!(
                "speed: min_kmh = {min_kmh}, max_kmh = {max_kmh}: from {FOLLOW_KMH_MIN} up to {FOLLOW_KMH_MAX} km/h, \
                 the first not above the second"
            )));
        }
        let minutes = asked.minutes.unwrap_or(FOLLOW_MINUTES);
        if !(minutes > 0.0 && minutes <= FOLLOW_MINUTES_MAX) {
            return Err(wrong(format!("minutes = {minutes}: more than 0, at most {FOLLOW_MINUTES_MAX}")));
        }
        Ok(Self { clip: asked.clip, start, heading_deg: asked.heading_deg, speed, minutes })
    }

    /// The follow in the access log's words.
    pub fn subject(&self) -> serde_json::Value {
        let start = self.start.map(|(point, time)| serde_json::json!([point, time]));
        serde_json::json!({ "follow": { "clip": self.clip, "from": start, "heading_deg": self.heading_deg,
            "speed": self.speed, "minutes": self.minutes } })
    }
}

impl Search {
    /// The cameras where to look next. None: there is no such clip. Blocking.
    pub fn follow(
        &self,
        _pass: &Pass,
        follow: &Follow,
        atlas: &Atlas,
    ) -> Result<Option<Followed>, SearchError> {
        let (point, time, device) = match (follow.start, follow.clip) {
            (Some((point, time)), _) => (point, time, None),
            (None, Some(clip)) => {
                let Some(row) = self.catalog.clip(clip)? else { return Ok(None) };
                let Some(stand) = atlas.cameras().stand_at(&row.device, row.start) else {
                    return Err(wrong(format!(
                        "{}: the registry does not know where this camera stood",
                        row.device
                    )));
                };
                (stand.placement.site.point, row.motion_end.unwrap_or(row.end), Some(row.device))
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(looks(follow, point, time, device, atlas)))
    }
}

fn looks(follow: &Follow, start: Point, time: Time, device: Option<DeviceId>, atlas: &Atlas) -> Followed {
    let metres_per_second = |kmh: f64| kmh / 3.6;
    let (slow, fast) = (metres_per_second(follow.speed.min_kmh), metres_per_second(follow.speed.max_kmh));
    let end = later(time, follow.minutes * 60.0);
    let radius_m = (fast * follow.minutes * 60.0).min(SEARCH_RADIUS_M_MAX);
    let point = PointView { lat: start.lat, lon: start.lon };
    let circle = [Condition::Circle { point, radius_m, name: None, note: None }];
    let windows = [TimeRange { from: time, to: end }];
    let found = atlas.cameras().find(Which::Cameras, &circle, &windows, Some(start), atlas.history());
    let mut cameras = Vec::new();
    for f in found {
        let placement = &f.stand.placement;
        if Some(&placement.device.id) == device.as_ref() {
            continue;
        }
        let (Some(metres), Some(bearing)) = (f.distance_m, f.bearing_deg) else { continue };
        if follow.heading_deg.is_some_and(|h| metres > NEAR_M && between(h, bearing) > HEADING_HALF_DEG) {
            continue;
        }
        let reach_m = reach(&f.stand);
        let from = later(time, (metres - reach_m).max(0.0) / fast).max(placement.from);
        let to = later(time, (metres + reach_m) * DETOUR / slow).min(end);
        let to = placement.until.map_or(to, |until| to.min(until));
        if from >= to {
            continue;
        }
        cameras.push(look(&f, TimeRange { from, to }, sees_way(&f.stand, start, follow.heading_deg)));
    }
    cameras.sort_by(|a, b| {
        let first = a.window.from.cmp(&b.window.from).then(b.sees.cmp(&a.sees));
        first.then(a.distance_m.total_cmp(&b.distance_m))
    });
    let left_out = cameras.len().saturating_sub(FOLLOW_CAMERAS_MAX);
    cameras.truncate(FOLLOW_CAMERAS_MAX);
    let from = FollowedFrom {
        point,
        time,
        heading_deg: follow.heading_deg,
        device: device.map(|device| device.to_string()),
    };
    Followed { from, speed: follow.speed, minutes: follow.minutes, cameras, left_out }
}

fn look(found: &Found, window: TimeRange, sees: bool) -> NextLook {
    let placement = &found.stand.placement;
    let device = &placement.device;
    let TimeRange { from, to } = window;
    NextLook {
        device: NameView { id: device.id.to_string(), name: device.name.clone() },
        site: site_view(placement),
        point: point_view(placement),
        distance_m: round(found.distance_m.unwrap_or(0.0), 1),
        bearing_deg: found.shown_bearing_deg().unwrap_or(0.0),
        window: WindowView { from, to },
        sees,
        view: view_view(placement),
        clips_url: format!("/api/v1/clips?device={}&from={from}&to={to}&order=oldest", device.id),
    }
}

fn later(time: Time, seconds: f64) -> Time {
    // To whole seconds: windows are for people.
    let seconds = SignedDuration::from_secs(seconds.round() as i64);
    time.checked_add(seconds).unwrap_or(Time::MAX)
}

/// The angle between two directions, 0 to 180 degrees.
fn between(a: f64, b: f64) -> f64 {
    let turn = (a - b).rem_euclid(360.0);
    turn.min(360.0 - turn)
}

/// How far from the camera its view goes, metres.
fn reach(stand: &Stand) -> f64 {
    let at = stand.placement.site.point;
    match &stand.placement.device.view {
        None => REACH_M,
        Some(View::Sector(sector)) => sector.reach_m,
        Some(View::Polygon(corners)) => corners.iter().map(|&c| distance_m(at, c.into())).fold(0.0, f64::max),
    }
}

/// Whether the view takes in a part of the straight way to the camera, or of the way on in the heading.
fn sees_way(stand: &Stand, start: Point, heading_deg: Option<f64>) -> bool {
    let at = stand.placement.site.point;
    let (reach_m, metres) = (reach(stand), distance_m(start, at));
    let back = bearing_deg(at, start);
    let mut away = STEP_M;
    while away <= reach_m.min(metres) {
        if stand.sight(moved(at, back, away)).is_some() {
            return true;
        }
        away += STEP_M;
    }
    let Some(heading) = heading_deg else { return false };
    let mut along = (metres - reach_m).max(0.0);
    while along <= (metres + reach_m).min(HEADING_WAY_M) {
        if stand.sight(moved(start, heading, along)).is_some() {
            return true;
        }
        along += STEP_M;
    }
    false
}

/// The point so many metres away in a direction; for short ways, in the plane.
fn moved(from: Point, bearing_deg: f64, metres: f64) -> Point {
    const METRES_PER_DEGREE: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
    let (east, north) = bearing_deg.to_radians().sin_cos();
    Point {
        lat: from.lat + north * metres / METRES_PER_DEGREE,
        lon: from.lon + east * metres / (METRES_PER_DEGREE * from.lat.to_radians().cos().max(0.01)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::hub::registry::{Registry, RegistryFile};

    fn ward() -> Atlas {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ward.toml");
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        registry
            .import(&RegistryFile::load(&path).unwrap(), "2026-01-01T00:00:00Z".parse().unwrap())
            .unwrap();
        Atlas::of(Arc::clone(&registry.history()))
    }

    fn follow(asked: serde_json::Value) -> Result<Follow, String> {
        let asked: FollowAsked = serde_json::from_value(asked).map_err(|e| e.to_string())?;
        Follow::understand(&asked).map_err(|e| e.to_string())
    }

    #[test]
    fn next_looks_come_first_with_their_windows() {
        let atlas = ward();
        let time: Time = "2026-11-20T14:00:00Z".parse().unwrap();
        // From the gate of 14 Hoa Phượng eastwards along the street, by motorbike.
        let start = json!({ "lat": 10.740480, "lon": 106.695310 });
        let asked = json!({ "point": start, "time": time, "heading_deg": 90.0, "speed": "motorbike", "minutes": 10.0 });
        let follow = follow(asked).unwrap();
        let (point, time) = follow.start.unwrap();
        let told = looks(&follow, point, time, Some(DeviceId::new("cam-01").unwrap()), &atlas);
        let order: Vec<&str> = told.cameras.iter().map(|c| c.site.id.as_str()).collect();
        assert_eq!(order[..2], ["hoa-phuong-52", "hoa-phuong-52"], "{order:?}");
        assert!(order.ends_with(&["tru-so"]), "{order:?}");
        let first = &told.cameras[0];
        // 121 m less a reach of 45 m at 60 km/h; 166 m × 1.4 at 12 km/h.
        assert!((first.distance_m - 121.0).abs() < 2.0, "{first:?}");
        let seconds = |t: Time| t.duration_since(time).as_secs();
        assert_eq!((seconds(first.window.from), seconds(first.window.to)), (5, 70), "{first:?}");
        assert!(
            first.clips_url.contains("device=cam-0") && first.clips_url.contains("from=2026-11-20T14:00:05Z")
        );
        // The camera of the office looks back along the street, the one of the school away from it.
        let sees = |id: &str| told.cameras.iter().find(|c| c.device.id == id).map(|c| c.sees);
        assert_eq!((sees("cam-06"), sees("cam-05")), (Some(true), Some(true)));
        // Westwards there is nothing.
        let west = Follow { heading_deg: Some(270.0), ..follow };
        let told = looks(&west, point, time, Some(DeviceId::new("cam-01").unwrap()), &atlas);
        assert!(told.cameras.is_empty(), "{:?}", told.cameras);
    }

    #[test]
    fn what_can_not_be_followed_is_told() {
        let at = json!({ "lat": 10.74, "lon": 106.69 });
        let time = "2026-11-20T14:00:00Z";
        let table = [
            (json!({}), "from a clip, or from a point and a time"),
            (json!({ "point": at }), "from a clip, or from a point and a time"),
            (json!({ "point": at, "time": time, "minutes": 0.0 }), "at most 120"),
            (json!({ "point": at, "time": time, "heading_deg": 400.0 }), "0 to 360"),
            (
                json!({ "point": at, "time": time, "speed": { "min_kmh": 9.0, "max_kmh": 3.0 } }),
                "up to 150 km/h",
            ),
            (json!({ "point": { "lat": 100.0, "lon": 0.0 }, "time": time }), "lat lies in"),
        ];
        for (asked, expected) in table {
            let error = follow(asked.clone()).unwrap_err();
            assert!(error.contains(expected), "{asked}: {error}");
        }
        assert!(follow(json!({ "point": at, "time": time, "speed": "flying" })).is_err());
    }
}
