//! Where things stand: areas, streets, sites, devices, and the distance between points.

use serde::{Deserialize, Serialize};

use super::{AreaId, BoxId, DeviceId, SiteId, StreetId, Time};

/// A point on the earth, degrees, WGS 84.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub lat: f64,
    pub lon: f64,
}

impl Point {
    /// False for what no map has: not a number, or outside ±90, ±180.
    pub fn is_valid(&self) -> bool {
        (-90.0..=90.0).contains(&self.lat) && (-180.0..=180.0).contains(&self.lon)
    }
}

/// A point as the registry's lines and rings are written: `[lat, lon]`.
pub type LatLon = [f64; 2];

impl From<LatLon> for Point {
    fn from([lat, lon]: LatLon) -> Self {
        Self { lat, lon }
    }
}

/// Great-circle distance in metres: haversine formula on a sphere of 6,371,008.8 m (the mean radius
/// of the IUGG); it errs by at most 0.5 %.
pub fn distance_m(a: Point, b: Point) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let half_lat = ((lat_b - lat_a) / 2.0).sin();
    let half_lon = ((b.lon - a.lon).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lon * half_lon;
    2.0 * 6_371_008.8 * h.sqrt().min(1.0).asin()
}

/// The point so many metres from `from` on the great circle that leaves it at `bearing_deg`.
pub fn ahead(from: Point, bearing_deg: f64, metres: f64) -> Point {
    let angle = metres / 6_371_008.8;
    let (lat, bearing) = (from.lat.to_radians(), bearing_deg.to_radians());
    let end = (lat.sin() * angle.cos() + lat.cos() * angle.sin() * bearing.cos()).clamp(-1.0, 1.0).asin();
    let east = (bearing.sin() * angle.sin() * lat.cos()).atan2(angle.cos() - lat.sin() * end.sin());
    let lon = (from.lon + east.to_degrees() + 540.0).rem_euclid(360.0) - 180.0;
    Point { lat: end.to_degrees(), lon }
}

/// Initial bearing of the great circle from `a` to `b`, degrees clockwise from north, 0 to 360.
pub fn bearing_deg(a: Point, b: Point) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let lon = (b.lon - a.lon).to_radians();
    let y = lon.sin() * lat_b.cos();
    let x = lat_a.cos() * lat_b.sin() - lat_a.sin() * lat_b.cos() * lon.cos();
    // The remainder of a tiny negative angle rounds up to 360.
    y.atan2(x).to_degrees().rem_euclid(360.0) % 360.0
}

/// A node of the administrative tree (địa bàn): a province, a commune or ward, a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    pub id: AreaId,
    pub name: String,
    /// `province`, `ward`, `block`…: depth and kinds are data.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AreaId>,
    /// Names under which older footage was filed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_names: Vec<FormerName>,
    /// Its border: rings, each counted against the others (even-odd), so that a ring within a ring is a hole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boundary: Vec<Vec<LatLon>>,
    /// Since when, and until when, there is such an area; absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl Area {
    /// Whether, by its own word, there was such an area at a moment of the time from `from` to `to`.
    pub fn is_valid_in(&self, from: Time, to: Time) -> bool {
        self.from.is_none_or(|since| since <= to) && self.until.is_none_or(|until| until > from)
    }
}

/// A street (đường), to be found by its name and drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Street {
    pub id: StreetId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
    pub line: Vec<LatLon>,
}

/// A name that an area had until some day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormerName {
    pub name: String,
    pub until: Time,
}

/// A place where devices stand (điểm lắp đặt).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    pub id: SiteId,
    pub name: String,
    pub address: String,
    pub area: AreaId,
    /// Household, block or ward that owns what stands here.
    pub owner: String,
    pub point: Point,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Camera,
    /// A lighting cabinet or controller.
    Lamp,
    Gate,
}

/// A camera, a lamp controller, a gate sensor (thiết bị).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub id: DeviceId,
    pub name: String,
    pub kind: DeviceKind,
    pub site: SiteId,
    /// The box that speaks for the device; no other box is believed about it.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Since when the device is enrolled; its account of time starts here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
    /// Lamps that a lamp controller switches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lamps: Option<u32>,
    /// Circuits of a lamp controller, and the streets that they light.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub circuits: Vec<LampCircuit>,
}

/// A circuit of a lighting cabinet, as its events number it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LampCircuit {
    pub circuit: u16,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lamps: Option<u32>,
    /// The line along which its lamps stand.
    pub route: Vec<LatLon>,
}

/// What a camera sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ViewForm", into = "ViewForm")]
pub enum View {
    Sector(Sector),
    /// Drawn by hand; even-odd where it crosses itself.
    Polygon(Vec<LatLon>),
}

/// The view of a camera that sees the same in front of it as far as its reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sector {
    /// Degrees clockwise from north of the middle of the view.
    pub heading_deg: f64,
    /// Opening of the view, degrees; 360 for a camera that sees all around.
    pub angle_deg: f64,
    /// How far a person can be told from a bush, metres.
    pub reach_m: f64,
}

/// A view as it is written: a sector's three numbers, or `polygon`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ViewForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heading_deg: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    angle_deg: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach_m: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    polygon: Option<Vec<LatLon>>,
}

impl TryFrom<ViewForm> for View {
    type Error = &'static str;

    fn try_from(form: ViewForm) -> Result<Self, Self::Error> {
        match form {
            ViewForm {
                heading_deg: Some(heading_deg),
                angle_deg: Some(angle_deg),
                reach_m: Some(reach_m),
                polygon: None,
            } => Ok(Self::Sector(Sector { heading_deg, angle_deg, reach_m })),
            ViewForm { heading_deg: None, angle_deg: None, reach_m: None, polygon: Some(polygon) } => {
                Ok(Self::Polygon(polygon))
            }
            _ => Err("view: write all of heading_deg, angle_deg and reach_m, or polygon alone"),
        }
    }
}

impl From<View> for ViewForm {
    fn from(view: View) -> Self {
        match view {
            View::Sector(Sector { heading_deg, angle_deg, reach_m }) => Self {
                heading_deg: Some(heading_deg),
                angle_deg: Some(angle_deg),
                reach_m: Some(reach_m),
                polygon: None,
            },
            View::Polygon(polygon) => {
                Self { heading_deg: None, angle_deg: None, reach_m: None, polygon: Some(polygon) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_agree_with_known_ones() {
        let ben_thanh = Point { lat: 10.7725, lon: 106.6980 };
        let hoan_kiem = Point { lat: 21.0287, lon: 105.8524 };
        assert!((distance_m(ben_thanh, hoan_kiem) - 1_144_000.0).abs() < 6_000.0);
        let one_second_north = Point { lat: 10.7725 + 1.0 / 3600.0, ..ben_thanh };
        assert!((distance_m(ben_thanh, one_second_north) - 30.89).abs() < 0.1);
        assert_eq!(distance_m(ben_thanh, ben_thanh), 0.0);
    }

    #[test]
    fn bearings_agree_with_the_compass() {
        let centre = Point { lat: 10.74, lon: 106.69 };
        let table = [(0.01, 0.0, 0.0), (0.0, 0.01, 90.0), (-0.01, 0.0, 180.0), (0.0, -0.01, 270.0)];
        for (lat, lon, expected) in table {
            let to = Point { lat: centre.lat + lat, lon: centre.lon + lon };
            assert!((bearing_deg(centre, to) - expected).abs() < 0.1, "{to:?}");
        }
    }
}
