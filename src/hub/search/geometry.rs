//! Shapes on the map: GeoJSON in, and what lies in them or near them.
//!
//! Owns the rules. Inside a polygon is even-odd over all its rings, in degrees as they are written (RFC 7946, 3.1.6:
//! edges are straight in longitude and latitude): a ring within a ring is a hole, where a ring crosses itself every
//! second patch is out, and members of a multipolygon are counted each for itself. Distances to lines are taken in an
//! equirectangular plane whose origin is the point that asks, so the scale is exact where the point is: at 1 km it
//! errs by less than 0.02 % south of 24° N. Nothing here knows the antimeridian. Pure.

use serde_json::Value;

use crate::model::{LatLon, Point};

/// Mean radius of the earth (IUGG), metres; the same as in [`crate::model::distance_m`].
const EARTH_M: f64 = 6_371_008.8;

/// A ring or line, longitude first as in GeoJSON.
pub type Line = Vec<[f64; 2]>;

/// Outer ring and holes.
pub type Polygon = Vec<Line>;

/// West, south, east, north, degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub west: f64,
    pub south: f64,
    pub east: f64,
    pub north: f64,
}

impl Bounds {
    /// Around all of `positions`; None if there are none.
    pub fn of<'a>(positions: impl IntoIterator<Item = &'a [f64; 2]>) -> Option<Self> {
        let mut bounds: Option<Self> = None;
        for &[lon, lat] in positions {
            let b = bounds.get_or_insert(Self { west: lon, south: lat, east: lon, north: lat });
            b.west = b.west.min(lon);
            b.east = b.east.max(lon);
            b.south = b.south.min(lat);
            b.north = b.north.max(lat);
        }
        bounds
    }

    pub fn has(&self, point: Point) -> bool {
        (self.west..=self.east).contains(&point.lon) && (self.south..=self.north).contains(&point.lat)
    }

    /// Wider on every side by at least so many metres.
    pub fn widened(self, metres: f64) -> Self {
        // A thousandth more than needed: what is found by bounds is looked at exactly afterwards.
        let lat = (metres * 1.001 / EARTH_M).to_degrees();
        let widest = self.south.abs().max(self.north.abs()) + lat;
        let lon = if widest < 89.0 { lat / widest.to_radians().cos() * 1.001 } else { 360.0 };
        Self {
            west: self.west - lon,
            south: self.south - lat,
            east: self.east + lon,
            north: self.north + lat,
        }
    }

    pub fn around(point: Point, metres: f64) -> Self {
        let Point { lat, lon } = point;
        Self { west: lon, south: lat, east: lon, north: lat }.widened(metres)
    }
}

/// Why a text is not the shape that is needed.
pub type Wrong = String;

/// A GeoJSON Polygon or MultiPolygon, or a Feature with one; at most `most` positions.
pub fn polygons_of(value: &Value, most: usize) -> Result<Vec<Polygon>, Wrong> {
    let geometry = geometry_of(value)?;
    let coordinates = &geometry["coordinates"];
    let polygons: Vec<Polygon> = match geometry["type"].as_str() {
        Some("Polygon") => vec![rings_of(coordinates)?],
        Some("MultiPolygon") => {
            list(coordinates, "polygons")?.iter().map(rings_of).collect::<Result<_, _>>()?
        }
        _ => return Err("send a GeoJSON Polygon or MultiPolygon".into()),
    };
    let positions: usize = polygons.iter().flatten().map(Vec::len).sum();
    if positions > most {
        return Err(format!("{positions} positions, at most {most}; simplify the polygon"));
    }
    if positions == 0 {
        return Err("has no positions; draw at least three corners".into());
    }
    Ok(polygons)
}

/// A GeoJSON LineString, or a Feature with one; at most `most` positions.
pub fn line_of(value: &Value, most: usize) -> Result<Line, Wrong> {
    let geometry = geometry_of(value)?;
    if geometry["type"] != "LineString" {
        return Err("send a GeoJSON LineString".into());
    }
    let line = positions_of(&geometry["coordinates"])?;
    if !(2..=most).contains(&line.len()) {
        return Err(format!("{} positions; a route has 2 to {most}", line.len()));
    }
    Ok(line)
}

fn geometry_of(value: &Value) -> Result<&Value, Wrong> {
    match value["type"].as_str() {
        Some("Feature") => Ok(&value["geometry"]),
        Some("FeatureCollection") => Err("a FeatureCollection holds many; send one of its features".into()),
        Some(_) => Ok(value),
        None => Err("is not GeoJSON: it has no type".into()),
    }
}

fn rings_of(value: &Value) -> Result<Polygon, Wrong> {
    let mut rings = Polygon::new();
    for ring in list(value, "rings")? {
        let ring = positions_of(ring)?;
        if ring.len() < 4 || ring.first() != ring.last() {
            return Err("a ring has at least 4 positions, and the last is the first again".into());
        }
        rings.push(ring);
    }
    if rings.is_empty() {
        return Err("a polygon needs an outer ring".into());
    }
    Ok(rings)
}

fn positions_of(value: &Value) -> Result<Line, Wrong> {
    let mut line = Line::new();
    for position in list(value, "positions")? {
        let number = |n: usize| position.get(n).and_then(Value::as_f64);
        let (Some(lon), Some(lat)) = (number(0), number(1)) else {
            return Err("a position is [longitude, latitude]".into());
        };
        if !(Point { lat, lon }).is_valid() {
            return Err(format!(
                "[{lon}, {lat}]: positions are [longitude, latitude], within -180..180 and -90..90"
            ));
        }
        line.push([lon, lat]);
    }
    Ok(line)
}

fn list<'a>(value: &'a Value, of: &str) -> Result<&'a Vec<Value>, Wrong> {
    value.as_array().ok_or_else(|| format!("its coordinates are not a list of {of}"))
}

/// The registry's `[lat, lon]` as GeoJSON has it.
pub fn line_from(points: &[LatLon]) -> Line {
    points.iter().map(|&[lat, lon]| [lon, lat]).collect()
}

/// The registry's rings, which need not be closed, as a polygon.
pub fn polygon_from(rings: &[Vec<LatLon>]) -> Polygon {
    let mut polygon = Polygon::new();
    for ring in rings {
        let mut ring = line_from(ring);
        if ring.first() != ring.last() {
            ring.extend(ring.first().copied());
        }
        polygon.push(ring);
    }
    polygon
}

/// Whether the point lies in one of the polygons, each by even-odd over its rings. A point on an edge belongs to the
/// patch north or east of it.
pub fn is_inside(point: Point, polygons: &[Polygon]) -> bool {
    polygons.iter().any(|polygon| is_in_polygon(point, polygon))
}

pub fn is_in_polygon(point: Point, polygon: &Polygon) -> bool {
    let mut inside = false;
    for ring in polygon {
        for edge in ring.windows(2) {
            let ([lon_a, lat_a], [lon_b, lat_b]) = (edge[0], edge[1]);
            if (lat_a > point.lat) == (lat_b > point.lat) {
                continue;
            }
            let lon = lon_a + (point.lat - lat_a) / (lat_b - lat_a) * (lon_b - lon_a);
            inside ^= point.lon < lon;
        }
    }
    inside
}

/// Metres east and north of `origin`.
fn metres_from(origin: Point, [lon, lat]: [f64; 2]) -> [f64; 2] {
    let east = (lon - origin.lon).to_radians() * origin.lat.to_radians().cos() * EARTH_M;
    let north = (lat - origin.lat).to_radians() * EARTH_M;
    [east, north]
}

/// Shortest distance from the point to the line, metres. A line of one position is that position.
pub fn distance_to_line_m(point: Point, line: &[[f64; 2]]) -> f64 {
    let mut nearest = f64::INFINITY;
    if let [only] = line {
        let [x, y] = metres_from(point, *only);
        return x.hypot(y);
    }
    for segment in line.windows(2) {
        let a = metres_from(point, segment[0]);
        let b = metres_from(point, segment[1]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length_2 = dx * dx + dy * dy;
        // Where on the segment the origin's foot lies, 0 to 1.
        let foot = if length_2 > 0.0 { (-(a[0] * dx + a[1] * dy) / length_2).clamp(0.0, 1.0) } else { 0.0 };
        nearest = nearest.min((a[0] + foot * dx).hypot(a[1] + foot * dy));
    }
    nearest
}

/// The middle of the corners, for labels and for the axis of a drawn view.
pub fn middle_of(line: &[[f64; 2]]) -> Option<Point> {
    let corners = match line {
        [first, .., last] if first == last => &line[..line.len() - 1],
        _ => line,
    };
    if corners.is_empty() {
        return None;
    }
    let sum = corners.iter().fold([0.0, 0.0], |s, p| [s[0] + p[0], s[1] + p[1]]);
    let count = corners.len() as f64;
    Some(Point { lat: sum[1] / count, lon: sum[0] / count })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn point(lat: f64, lon: f64) -> Point {
        Point { lat, lon }
    }

    #[test]
    fn inside_is_even_odd() {
        let with_hole = json!({ "type": "Polygon", "coordinates": [
            [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], [[1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]] });
        let bow_tie = json!({ "type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]] });
        let star = json!({ "type": "Polygon", "coordinates": [
            [[2.0, 4.0], [3.2, 0.0], [0.0, 2.5], [4.0, 2.5], [0.8, 0.0], [2.0, 4.0]]] });
        let two = json!({ "type": "MultiPolygon", "coordinates": [
            [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]], [[[1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]]] });
        let table = [
            (&with_hole, 0.5, 0.5, true),
            (&with_hole, 2.0, 2.0, false),
            (&with_hole, 5.0, 2.0, false),
            (&bow_tie, 2.0, 1.0, true),
            (&bow_tie, 1.0, 2.0, false),
            // The middle of a pentagram is wound twice: out.
            (&star, 1.8, 2.0, false),
            (&star, 3.2, 2.0, true),
            // Where two members overlap, the place is in both: in.
            (&two, 1.5, 1.5, true),
        ];
        for (shape, lat, lon, expected) in table {
            let polygons = polygons_of(shape, 100).unwrap();
            assert_eq!(is_inside(point(lat, lon), &polygons), expected, "{shape} {lat} {lon}");
        }
    }

    #[test]
    fn the_distance_to_a_line_is_that_of_its_nearest_part() {
        let line = [[106.69, 10.74], [106.70, 10.74]];
        let north = point(10.7409, 106.695);
        assert!((distance_to_line_m(north, &line) - 100.07).abs() < 0.1);
        let beyond = point(10.74, 106.7009);
        let expected = crate::model::distance_m(beyond, point(10.74, 106.70));
        assert!((distance_to_line_m(beyond, &line) - expected).abs() < 0.05);
    }

    #[test]
    fn what_is_no_shape_says_what_is_needed() {
        let table = [
            (json!({}), "no type"),
            (json!({ "type": "Point", "coordinates": [1, 2] }), "Polygon or MultiPolygon"),
            (json!({ "type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]] }), "at least 4"),
            (json!({ "type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [3, 3]]] }), "first again"),
            (
                json!({ "type": "Polygon", "coordinates": [[[10, 106], [1, 1], [2, 2], [10, 106]]] }),
                "longitude, latitude",
            ),
            (json!({ "type": "Polygon", "coordinates": [[["x", 1]]] }), "longitude, latitude"),
            (json!({ "type": "Polygon", "coordinates": 7 }), "list of rings"),
            (json!({ "type": "Polygon", "coordinates": [] }), "outer ring"),
            (json!({ "type": "FeatureCollection" }), "one of its features"),
        ];
        for (value, expected) in table {
            let error = polygons_of(&value, 100).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
