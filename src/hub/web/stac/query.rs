//! What a STAC search means.
//!
//! Owns reading its two forms (query, body) into one, and that into a question of ours. What can't be understood is an
//! error that names the key.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::item::Fields;
use super::{COLLECTION, GEOJSON, Problem};
use crate::hub::catalog::{ClipKey, Order, TimeRange};
use crate::hub::search::answer::ClipView;
use crate::hub::search::geometry::{Polygon, is_inside, polygons_of};
use crate::hub::search::question::{Condition, Question, list};
use crate::hub::search::token::{Token, digest_of};
use crate::hub::search::when::Words;
use crate::limits::{PAGE_CLIPS_MAX, SEARCH_DEVICES_MAX, SEARCH_POLYGON_POINTS_MAX};
use crate::model::{Point, Time};

/// Items of a page, where nobody asks for another number.
const LIMIT: i64 = 10;
/// Half the width of what a point or line becomes, degrees: half a metre.
const HALF_WIDTH_DEG: f64 = 0.000_004_5;

/// The query of a search, and of a collection's items: clients (pystac-client) send every key to both.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// West, south, east, north.
    bbox: Option<String>,
    /// An instant or an interval; `..` is open.
    datetime: Option<String>,
    /// GeoJSON geometry as JSON text.
    intersects: Option<String>,
    /// With commas.
    ids: Option<String>,
    collections: Option<String>,
    limit: Option<String>,
    /// `-datetime` (default) or `+datetime`.
    sortby: Option<String>,
    /// With commas; `-` before a name leaves it out.
    fields: Option<String>,
    /// Of a `next` link.
    token: Option<String>,
}

/// The body of a search.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    bbox: Option<Vec<f64>>,
    datetime: Option<String>,
    #[schema(value_type = Option<Object>)]
    intersects: Option<Value>,
    ids: Option<Vec<String>>,
    /// Text with commas is taken too: stac-api-validator sends it.
    #[serde(default, deserialize_with = "list")]
    #[schema(value_type = Option<Vec<String>>)]
    collections: Option<Vec<String>>,
    limit: Option<i64>,
    sortby: Option<Vec<SortBody>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = FieldsBody, required = false)]
    fields: Option<FieldsBody>,
    token: Option<String>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SortBody {
    field: String,
    /// `asc` or `desc`.
    direction: String,
}

#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldsBody {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>)]
    include: Option<Option<Vec<String>>>,
    exclude: Option<Vec<String>>,
}

/// Present even as null, which means another thing than absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl From<FieldsBody> for Fields {
    fn from(body: FieldsBody) -> Self {
        let include = body.include.map(Option::unwrap_or_default);
        Self { include, exclude: body.exclude.unwrap_or_default() }
    }
}

/// A search that is understood.
#[derive(Debug, Clone, Default)]
pub struct Search {
    bbox: Option<Vec<f64>>,
    datetime: Option<String>,
    intersects: Option<Value>,
    pub ids: Option<BTreeSet<Uuid>>,
    asked_ids: Option<Vec<String>>,
    collections: Option<Vec<String>>,
    limit: usize,
    oldest_first: bool,
    pub fields: Option<Fields>,
    token: Option<String>,
}

/// What makes one search differ from another, whatever its page and its shape.
#[derive(Serialize)]
struct Same<'a> {
    bbox: &'a Option<Vec<f64>>,
    datetime: &'a Option<String>,
    intersects: &'a Option<Value>,
    ids: &'a Option<Vec<String>>,
    collections: &'a Option<Vec<String>>,
    oldest_first: bool,
}

fn wrong(text: impl Into<String>) -> Problem {
    Problem::bad_request(text)
}

impl Search {
    pub fn of_query(query: SearchQuery) -> Result<Self, Problem> {
        let some = |t: &str| Some(t.trim().to_owned()).filter(|t| !t.is_empty());
        let list = |text: Option<String>| text.map(|t| t.split(',').filter_map(some).collect());
        let bbox = query.bbox.as_deref().map(|text| {
            let numbers = text.split(',').map(|n| n.trim().parse::<f64>());
            numbers.collect::<Result<Vec<f64>, _>>().map_err(|_| wrong("bbox: four numbers with commas"))
        });
        let limit = query
            .limit
            .as_deref()
            .map(|text| text.parse::<i64>().map_err(|_| wrong(format!("limit = {text:?} is not a number"))));
        let intersects = query.intersects.as_deref().map(|text| {
            serde_json::from_str::<Value>(text).map_err(|e| wrong(format!("intersects is not JSON: {e}")))
        });
        let search = Self::of_body(SearchBody {
            bbox: bbox.transpose()?,
            datetime: query.datetime,
            intersects: intersects.transpose()?,
            ids: list(query.ids),
            collections: list(query.collections),
            limit: limit.transpose()?,
            sortby: query.sortby.as_deref().map(sort_of),
            fields: None,
            token: query.token,
        })?;
        Ok(Self { fields: query.fields.as_deref().map(fields_of), ..search })
    }

    pub fn of_body(body: SearchBody) -> Result<Self, Problem> {
        let limit = body.limit.unwrap_or(LIMIT);
        if limit < 1 {
            return Err(wrong(format!("limit = {limit}: 1 or more; a page has at most {PAGE_CLIPS_MAX}")));
        }
        if body.bbox.is_some() && body.intersects.is_some() {
            return Err(wrong("bbox and intersects: send one of them"));
        }
        if let Some(ids) = body.ids.as_ref().filter(|ids| ids.len() > PAGE_CLIPS_MAX) {
            return Err(wrong(format!("{} ids, at most {PAGE_CLIPS_MAX}", ids.len())));
        }
        if body.collections.as_ref().is_some_and(|all| all.len() > SEARCH_DEVICES_MAX) {
            return Err(wrong(format!("collections: at most {SEARCH_DEVICES_MAX}")));
        }
        // An id that is no UUID is none of ours.
        let uuid = |id: &String| Uuid::parse_str(id).ok();
        let ids = body.ids.as_ref().map(|ids| ids.iter().filter_map(uuid).collect());
        Ok(Self {
            bbox: body.bbox,
            datetime: body.datetime,
            intersects: body.intersects,
            ids,
            asked_ids: body.ids,
            collections: body.collections.filter(|all| !all.is_empty()),
            limit: usize::try_from(limit).unwrap_or(PAGE_CLIPS_MAX).min(PAGE_CLIPS_MAX),
            oldest_first: oldest_first(body.sortby.unwrap_or_default())?,
            fields: body.fields.map(Fields::from),
            token: body.token,
        })
    }

    /// The collection of clips is among those that are searched.
    pub fn has_collection(&self) -> bool {
        self.collections.as_ref().is_none_or(|all| all.iter().any(|id| id == COLLECTION))
    }

    /// The search as a question of ours.
    pub fn question(&self, now: Time) -> Result<Question, Problem> {
        let Self { bbox, datetime, intersects, asked_ids, collections, oldest_first, .. } = self;
        let ids = asked_ids;
        let digest =
            digest_of(&Same { bbox, datetime, intersects, ids, collections, oldest_first: *oldest_first });
        let token = self.token.as_deref().map(|text| Token::<ClipKey>::read(text, digest)).transpose()?;
        let mut place = Vec::new();
        if let Some(bbox) = bbox {
            place.push(Condition::Polygon { polygons: polygons_of_bbox(bbox)? });
        }
        if let Some(geometry) = intersects {
            let mut polygons = Vec::new();
            shapes_of(geometry, &mut polygons).map_err(|why| wrong(format!("intersects: {why}")))?;
            place.push(Condition::Polygon { polygons });
        }
        Ok(Question {
            windows: vec![datetime.as_deref().map_or(Ok(EVER), interval)?],
            words: Words::default(),
            place,
            order: if *oldest_first { Order::Oldest } else { Order::Newest },
            limit: self.limit,
            after: token.as_ref().map(|token| token.after),
            digest,
            at: token.as_ref().map_or(now, |token| token.at),
        })
    }

    /// The link to the next page: of a body it is merged into the body that was sent.
    pub fn next_link(&self, here: &str, token: &str, is_post: bool) -> Value {
        if is_post {
            return json!({ "rel": "next", "href": here, "type": GEOJSON, "method": "POST", "merge": true,
                "body": { "token": token } });
        }
        let mut query = vec![("token", token.to_owned()), ("limit", self.limit.to_string())];
        let numbers = |numbers: &Vec<f64>| numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        query.extend(self.bbox.as_ref().map(|bbox| ("bbox", numbers(bbox))));
        query.extend(self.datetime.as_ref().map(|datetime| ("datetime", datetime.clone())));
        query.extend(self.intersects.as_ref().map(|geometry| ("intersects", geometry.to_string())));
        query.extend(self.asked_ids.as_ref().map(|ids| ("ids", ids.join(","))));
        query.extend(self.collections.as_ref().map(|all| ("collections", all.join(","))));
        if self.oldest_first {
            query.push(("sortby", "+datetime".into()));
        }
        if let Some(Fields { include, exclude }) = &self.fields {
            let out = exclude.iter().map(|name| format!("-{name}"));
            let names = include.iter().flatten().cloned().chain(out).collect::<Vec<_>>();
            query.push(("fields", names.join(",")));
        }
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        json!({ "rel": "next", "href": format!("{here}?{}", query.join("&")), "type": GEOJSON, "method": "GET" })
    }
}

/// A value in a query (RFC 3986, 2.3: all but unreserved characters are encoded).
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Of a query: names with commas, `-` or `+` before them. A plus sign that was not encoded came as a space.
fn sort_of(text: &str) -> Vec<SortBody> {
    let sort = |field: &str| {
        let (direction, field) = match field.trim().split_at_checked(1) {
            Some(("-", field)) => ("desc", field),
            Some(("+", field)) => ("asc", field),
            _ => ("asc", field.trim()),
        };
        SortBody { field: field.to_owned(), direction: direction.to_owned() }
    };
    text.split(',').map(sort).collect()
}

/// Of a query: names with commas, `-` before those that are left out.
fn fields_of(text: &str) -> Fields {
    let mut fields = Fields::default();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name.strip_prefix('-') {
            Some(name) => fields.exclude.push(name.to_owned()),
            None => {
                let name = name.strip_prefix('+').unwrap_or(name).to_owned();
                fields.include.get_or_insert_default().push(name);
            }
        }
    }
    fields
}

fn oldest_first(sort: Vec<SortBody>) -> Result<bool, Problem> {
    let known = ["datetime", "properties.datetime", "start_datetime", "properties.start_datetime"];
    let [SortBody { field, direction }] = sort.as_slice() else {
        return if sort.is_empty() { Ok(false) } else { Err(wrong("sortby: one field, datetime")) };
    };
    if !known.contains(&field.as_str()) {
        return Err(wrong(format!("sortby = {field:?}: items are sorted by datetime only")));
    }
    match direction.as_str() {
        "asc" => Ok(true),
        "desc" => Ok(false),
        other => Err(wrong(format!("sortby: direction = {other:?} is neither asc nor desc"))),
    }
}

const EVER: TimeRange = TimeRange { from: Time::MIN, to: Time::MAX };

/// An instant or an interval (OGC API Features 1.0, 7.15.3), of times as in RFC 3339.
fn interval(text: &str) -> Result<TimeRange, Problem> {
    let wrong =
        |why: &str| wrong(format!("datetime = {text:?}: {why}; write 2026-11-20T22:15:00Z/.. for instance"));
    let time = |text: &str| {
        let time = text.parse::<Time>().ok().filter(|_| is_rfc_3339(text));
        time.ok_or_else(|| wrong("not a time as in RFC 3339"))
    };
    let Some((from, to)) = text.split_once('/') else {
        let instant = time(text)?;
        return Ok(TimeRange { from: instant, to: instant });
    };
    let is_open = |text: &str| text.is_empty() || text == "..";
    if is_open(from) && is_open(to) {
        return Err(wrong("one end must be a time"));
    }
    let from = if is_open(from) { Time::MIN } else { time(from)? };
    let to = if is_open(to) { Time::MAX } else { time(to)? };
    if from > to {
        return Err(wrong("it ends before it begins"));
    }
    Ok(TimeRange { from, to })
}

/// The form of RFC 3339, 5.6: our own times may be written more freely.
fn is_rfc_3339(text: &str) -> bool {
    const TO_SECONDS: &[u8] = b"0000-00-00T00:00:00";
    let is_like = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                shape => byte.eq_ignore_ascii_case(shape),
            })
    };
    let Some((to_seconds, rest)) = text.as_bytes().split_at_checked(TO_SECONDS.len()) else { return false };
    let zone = match rest.split_first() {
        Some((b'.', rest)) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &rest[digits..]
        }
        _ => rest,
    };
    let is_zone = [b"Z".as_slice(), b"+00:00", b"-00:00"].iter().any(|shape| is_like(zone, shape));
    is_like(to_seconds, TO_SECONDS) && is_zone
}

/// Two rectangles where the box crosses the antimeridian (RFC 7946, 5.2).
fn polygons_of_bbox(bbox: &[f64]) -> Result<Vec<Polygon>, Problem> {
    let [west, south, east, north] = match *bbox {
        [west, south, east, north] | [west, south, _, east, north, _] => [west, south, east, north],
        _ => return Err(wrong("bbox: four numbers (or six with heights): west, south, east, north")),
    };
    let is_valid = |lat: f64, lon: f64| (Point { lat, lon }).is_valid();
    if !is_valid(south, west) || !is_valid(north, east) {
        return Err(wrong("bbox: longitudes lie in -180..180, latitudes in -90..90"));
    }
    if south > north {
        return Err(wrong("bbox: its south lies north of its north"));
    }
    let rectangle = |west: f64, east: f64| {
        // A border belongs to the box.
        let (w, s, e, n) = (west - 1e-9, south - 1e-9, east + 1e-9, north + 1e-9);
        vec![vec![[w, s], [e, s], [e, n], [w, n], [w, s]]]
    };
    Ok(if west <= east {
        vec![rectangle(west, east)]
    } else {
        vec![rectangle(west, 180.0), rectangle(-180.0, east)]
    })
}

/// Any GeoJSON geometry as polygons: cameras stand at points, so points and lines are a metre wide.
fn shapes_of(geometry: &Value, out: &mut Vec<Polygon>) -> Result<(), String> {
    let coordinates = &geometry["coordinates"];
    let all = |value: &Value| value.as_array().cloned().ok_or_else(|| "coordinates: not a list".to_owned());
    match geometry["type"].as_str() {
        Some("Polygon" | "MultiPolygon") => out.extend(polygons_of(geometry, SEARCH_POLYGON_POINTS_MAX)?),
        Some("Point") => out.push(square(position(coordinates)?)),
        Some("MultiPoint") => {
            for point in all(coordinates)? {
                out.push(square(position(&point)?));
            }
        }
        Some("LineString") => strips(&all(coordinates)?, out)?,
        Some("MultiLineString") => {
            for line in all(coordinates)? {
                strips(&all(&line)?, out)?;
            }
        }
        Some("GeometryCollection") => {
            let parts = geometry["geometries"].as_array().ok_or("geometries: not a list")?;
            for part in parts {
                if part["type"] == "GeometryCollection" {
                    return Err("a collection within a collection".into());
                }
                shapes_of(part, out)?;
            }
        }
        _ => return Err("not a GeoJSON geometry".into()),
    }
    let positions: usize = out.iter().flatten().map(Vec::len).sum();
    if positions > SEARCH_POLYGON_POINTS_MAX {
        return Err(format!("{positions} positions, at most {SEARCH_POLYGON_POINTS_MAX}; simplify it"));
    }
    Ok(())
}

fn position(value: &Value) -> Result<[f64; 2], String> {
    let number = |n: usize| value[n].as_f64();
    match (number(0), number(1)) {
        (Some(lon), Some(lat)) if (Point { lat, lon }).is_valid() => Ok([lon, lat]),
        _ => Err("a position is longitude and latitude".into()),
    }
}

fn square([lon, lat]: [f64; 2]) -> Polygon {
    let h = HALF_WIDTH_DEG;
    vec![vec![
        [lon - h, lat - h],
        [lon + h, lat - h],
        [lon + h, lat + h],
        [lon - h, lat + h],
        [lon - h, lat - h],
    ]]
}

/// Each piece of a line as a strip.
fn strips(line: &[Value], out: &mut Vec<Polygon>) -> Result<(), String> {
    let line = line.iter().map(position).collect::<Result<Vec<_>, _>>()?;
    if line.len() < 2 {
        return Err("a line has two positions or more".into());
    }
    for pair in line.windows(2) {
        let ([x1, y1], [x2, y2]) = (pair[0], pair[1]);
        let length = (x2 - x1).hypot(y2 - y1);
        out.extend([square(pair[0]), square(pair[1])]);
        if length > 0.0 {
            let (dx, dy) = (-(y2 - y1) / length * HALF_WIDTH_DEG, (x2 - x1) / length * HALF_WIDTH_DEG);
            let ring = [[x1 + dx, y1 + dy], [x2 + dx, y2 + dy], [x2 - dx, y2 - dy], [x1 - dx, y1 - dy]];
            out.push(vec![ring.into_iter().chain([ring[0]]).collect()]);
        }
    }
    Ok(())
}

/// A clip that was found by its id is in the search's time and place too.
pub fn is_asked(clip: &ClipView, question: &Question) -> bool {
    let in_time = question.windows.iter().any(|window| window.overlaps(clip.start, clip.end));
    let in_place = question.place.iter().all(|condition| match (condition, clip.point) {
        (Condition::Polygon { polygons }, Some(at)) => {
            is_inside(Point { lat: at.lat, lon: at.lon }, polygons)
        }
        _ => false,
    });
    in_time && in_place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datetimes_are_read_as_the_standard_says() {
        let ok = [
            "2026-11-20T22:15:00Z",
            "2026-11-20T22:15:00.5+07:00",
            "2026-11-20t22:15:00.123456z",
            "2026-11-20T22:15:00Z/..",
            "../2026-11-20T22:15:00Z",
        ];
        for text in ok {
            assert!(interval(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "../..",
            "/",
            "2026-11-20",
            "2026-11-20T22:15:00",
            "2026-13-01T00:00:00Z",
            "2026-11-20 22:15:00Z",
            "2026-11-20T22:15:00,5Z",
            "2026-11-20T22:15:00.Z",
            "2026-11-20T22:15:00+0700",
            "2026-11-20T22:15:00Zé",
            "2026-11-20T22:15:00.5+07:00:00",
            "2026-11-20T22:15:00Z/2026-11-20T22:14:00Z",
            "a/b/c",
        ] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_geometry_meets_the_points_on_it() {
        let at = Point { lat: 10.0, lon: 106.0 };
        let line = json!([[105.0, 9.0], [107.0, 11.0]]);
        let ring = json!([[105.9, 9.9], [106.1, 9.9], [106.1, 10.1], [105.9, 10.1], [105.9, 9.9]]);
        let shapes = [
            json!({ "type": "Point", "coordinates": [106.0, 10.0] }),
            json!({ "type": "MultiPoint", "coordinates": [[1.0, 1.0], [106.0, 10.0]] }),
            json!({ "type": "LineString", "coordinates": line }),
            json!({ "type": "MultiLineString", "coordinates": [line] }),
            json!({ "type": "Polygon", "coordinates": [ring] }),
            json!({ "type": "MultiPolygon", "coordinates": [[ring]] }),
            json!({ "type": "GeometryCollection", "geometries": [{ "type": "Point", "coordinates": [106.0, 10.0] }] }),
        ];
        for shape in shapes {
            let mut polygons = Vec::new();
            shapes_of(&shape, &mut polygons).unwrap();
            assert!(is_inside(at, &polygons), "{shape}");
            assert!(!is_inside(Point { lat: 10.5, lon: 106.0 }, &polygons), "{shape}");
        }
        let mut polygons = Vec::new();
        shapes_of(&json!({ "type": "LineString", "coordinates": line }), &mut polygons).unwrap();
        for (lat, lon) in [(9.0, 105.0), (11.0, 107.0)] {
            assert!(is_inside(Point { lat, lon }, &polygons), "the ends belong to a line");
        }
        for bad in
            [json!({}), json!({ "type": "Point" }), json!({ "type": "LineString", "coordinates": [[1, 2]] })]
        {
            assert!(shapes_of(&bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }
}
