//! Where things stand: areas, sites, devices, and the distance between points.

use serde::{Deserialize, Serialize};

use super::{AreaId, BoxId, DeviceId, SiteId, Time};

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

/// Great-circle distance in metres: haversine formula on a sphere of 6,371,008.8 m (the mean radius
/// of the IUGG); it errs by at most 0.5 %.
pub fn distance_m(a: Point, b: Point) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let half_lat = ((lat_b - lat_a) / 2.0).sin();
    let half_lon = ((b.lon - a.lon).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lon * half_lon;
    2.0 * 6_371_008.8 * h.sqrt().min(1.0).asin()
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
}

/// What a camera sees: a sector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Degrees clockwise from north of the middle of the view.
    pub heading_deg: f64,
    /// Opening of the view, degrees.
    pub angle_deg: f64,
    /// How far a person can be told from a bush, metres.
    pub reach_m: f64,
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
}
