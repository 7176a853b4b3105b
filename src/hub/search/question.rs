//! The question: what somebody asks, and what is understood of it.
//!
//! Owns its keys and limits. May not answer it.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::answer::{NameView, PointView};
use super::atlas::Atlas;
use super::geometry::{Bounds, Line, Polygon, line_of, polygons_of};
use super::token::{Token, digest_of};
use super::when::{self, Words};
use super::{SearchError, wrong};
use crate::hub::catalog::{ClipKey, Order, TimeRange};
use crate::limits::{
    ACCESS_POSITIONS_MAX, PAGE_CLIPS, PAGE_CLIPS_MAX, SEARCH_DEVICES_MAX, SEARCH_NEAR_RADIUS_M,
    SEARCH_POLYGON_POINTS_MAX, SEARCH_RADIUS_M_MAX, SEARCH_RANGE_MAX, SEARCH_ROUTE_POINTS_MAX,
    SEARCH_SITES_MAX, SEARCH_TEXT_CHARS_MAX, SEARCH_WIDTH_M, SEARCH_WIDTH_M_MAX, SEARCH_WINDOWS_MAX,
};
use crate::model::{DeviceId, Point, SiteId, Time};

/// A question as somebody asks it, in a query or as a body; every key is optional, and all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// Start of the time window (RFC 3339); without it and `when`, 24 hours before `to`.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[param(value_type = Option<String>, format = DateTime)]
    pub from: Option<Time>,
    /// End of the time window (RFC 3339); without it, now.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[param(value_type = Option<String>, format = DateTime)]
    pub to: Option<Time>,
    /// The time in words, Vietnamese or English: "tối qua 21–23h", "22:15 ± 20p", "each night 22-04 last week".
    pub when: Option<String>,
    /// Hours of every day, in the zone's civil time: "22:00-04:00".
    pub hours: Option<String>,
    /// Days on which the windows begin: mon, tue, wed, thu, fri, sat, sun; in a query with commas.
    #[serde(default, deserialize_with = "list")]
    #[param(style = Form, explode = false)]
    pub weekdays: Option<Vec<String>>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
    /// Around `lat` and `lon`, or `near`, metres.
    pub radius_m: Option<f64>,
    /// Coordinates as people paste them, a map link, or the name of a site, camera, street or address.
    pub near: Option<String>,
    /// GeoJSON Polygon or MultiPolygon; in a query as JSON text.
    #[serde(default, deserialize_with = "shape")]
    #[schema(value_type = Option<Object>)]
    #[param(value_type = Option<String>)]
    pub polygon: Option<Value>,
    /// GeoJSON LineString; in a query as JSON text.
    #[serde(default, deserialize_with = "shape")]
    #[schema(value_type = Option<Object>)]
    #[param(value_type = Option<String>)]
    pub route: Option<Value>,
    /// Whole width of the corridor along `route`, metres; 60 without it.
    pub width_m: Option<f64>,
    /// An area with everything below it: its id, or a name, present or former, that only one area has.
    pub area: Option<String>,
    /// Ids; in a query with commas.
    #[serde(default, deserialize_with = "list")]
    #[schema(value_type = Option<Vec<String>>)]
    #[param(style = Form, explode = false, value_type = Option<Vec<String>>)]
    pub site: Option<Vec<SiteId>>,
    /// Ids; in a query with commas.
    #[serde(default, deserialize_with = "list")]
    #[schema(value_type = Option<Vec<String>>)]
    #[param(style = Form, explode = false, value_type = Option<Vec<String>>)]
    pub device: Option<Vec<DeviceId>>,
    /// A place like `near`: only cameras whose view reaches it, ranked by distance and angle off the axis.
    pub sees: Option<String>,
    /// `newest` or `oldest`.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub order: Option<Order>,
    /// Clips on a page.
    pub limit: Option<usize>,
    /// `next` of the page before; the other keys stay as they were.
    pub page: Option<String>,
    /// Why: goes into the access log.
    pub purpose: Option<String>,
}

/// A list, or text with commas as it stands in a query.
pub fn list<'de, D: Deserializer<'de>, T>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: TryFrom<String, Error: std::fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        List(Vec<String>),
    }
    let form = Option::<Form>::deserialize(from).map_err(|_| wrong_form("a list of texts"))?;
    let texts = match form {
        None => return Ok(None),
        Some(Form::Text(text)) => text.split(',').map(|t| t.trim().to_owned()).collect(),
        Some(Form::List(texts)) => texts,
    };
    texts
        .into_iter()
        .map(|t| T::try_from(t).map_err(serde::de::Error::custom))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// GeoJSON as an object, or as text in a query.
fn shape<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    match Option::<Value>::deserialize(from)? {
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(serde::de::Error::custom(format!("is not JSON: {error}"))),
        },
        other => Ok(other),
    }
}

fn wrong_form<E: serde::de::Error>(expected: &str) -> E {
    E::custom(format!("expected {expected}"))
}

/// A question that is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// By time, without overlap, at least one.
    pub windows: Vec<TimeRange>,
    /// The windows as somebody would say them.
    pub words: Words,
    /// Each must hold; none: everywhere.
    pub place: Vec<Condition>,
    pub order: Order,
    pub limit: usize,
    pub after: Option<ClipKey>,
    /// Tells one question from another, whatever its page and size of page.
    pub digest: [u8; 16],
    /// When it was first asked: what "now" means in it, on every page.
    pub at: Time,
}

/// One of the things that hold of a camera's place.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// Within a radius around a point.
    Circle {
        point: PointView,
        radius_m: f64,
        /// What `near` was found to be.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What whoever asked should know of how it was read, for instance that latitude and longitude were swapped.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<Words>,
    },
    /// In one of the polygons: GeoJSON coordinates of a MultiPolygon. Even-odd.
    Polygon {
        #[schema(value_type = Vec<Vec<Vec<Vec<f64>>>>)]
        polygons: Vec<Polygon>,
    },
    /// No farther than half the width from the line: GeoJSON coordinates of a LineString.
    Route {
        #[schema(value_type = Vec<Vec<f64>>)]
        line: Line,
        width_m: f64,
    },
    /// In an area or below it.
    Area {
        area: NameView,
        /// The name by which it was asked for, where that is not its name now.
        #[serde(skip_serializing_if = "Option::is_none")]
        former_name: Option<String>,
    },
    Sites {
        sites: Vec<String>,
    },
    Devices {
        devices: Vec<String>,
    },
    /// With this point in view.
    Sees {
        point: PointView,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<Words>,
    },
}

impl Condition {
    /// As the access log keeps it.
    fn logged(&self) -> Value {
        let (kind, positions): (_, Vec<&[f64; 2]>) = match self {
            Self::Polygon { polygons } => ("polygon", polygons.iter().flatten().flatten().collect()),
            Self::Route { line, .. } => ("route", line.iter().collect()),
            _ => return serde_json::json!(self),
        };
        if positions.len() <= ACCESS_POSITIONS_MAX {
            return serde_json::json!(self);
        }
        let bounds = Bounds::of(positions.iter().copied()).map(|b| [b.west, b.south, b.east, b.north]);
        let digest = hex::encode(digest_of(self));
        serde_json::json!({ "kind": kind, "positions": positions.len(), "bounds": bounds, "digest": digest })
    }
}

impl Question {
    /// Understands what was asked at `now`, against the registry.
    pub fn understand(asked: &Asked, atlas: &Atlas, now: Time) -> Result<Self, SearchError> {
        let limit = asked.limit.unwrap_or(PAGE_CLIPS);
        if !(1..=PAGE_CLIPS_MAX).contains(&limit) {
            return Err(wrong(format!("limit = {limit}: 1 to {PAGE_CLIPS_MAX} clips fit on a page")));
        }
        let digest = digest(asked);
        let token = asked.page.as_deref().map(|text| Token::<ClipKey>::read(text, digest)).transpose()?;
        let at = token.as_ref().map_or(now, |token| token.at);
        let windows = windows(asked, at)?;
        Ok(Self {
            words: when::words(&windows),
            windows,
            place: place(asked, atlas)?,
            order: asked.order.unwrap_or_default(),
            limit,
            after: token.map(|t| t.after),
            digest,
            at,
        })
    }

    /// From the first window's start to the last one's end.
    pub fn range(&self) -> TimeRange {
        let from = self.windows.first().map_or(self.at, |w| w.from);
        let to = self.windows.last().map_or(self.at, |w| w.to);
        TimeRange { from, to }
    }

    /// The point that distances are told from: that of the circle, else the one to be seen.
    pub fn centre(&self) -> Option<Point> {
        let circle = self.place.iter().find_map(|c| match c {
            Condition::Circle { point, .. } => Some(*point),
            _ => None,
        });
        circle.map(|p| Point { lat: p.lat, lon: p.lon }).or(self.seen())
    }

    /// The point that the cameras should see.
    pub fn seen(&self) -> Option<Point> {
        self.place.iter().find_map(|c| match c {
            Condition::Sees { point, .. } => Some(Point { lat: point.lat, lon: point.lon }),
            _ => None,
        })
    }

    /// The question in the access log's words. Of many windows the first are told, of long shapes bounds and a hash.
    pub fn subject(&self) -> Value {
        let range = self.range();
        let shown: Vec<_> = self.windows.iter().take(3).map(|w| [w.from, w.to]).collect();
        serde_json::json!({
            "from": range.from, "to": range.to, "windows": self.windows.len(), "first_windows": shown,
            "place": self.place.iter().map(Condition::logged).collect::<Vec<_>>(), "order": self.order, "limit": self.limit, "after": self.after,
        })
    }
}

/// The time window that was asked for: the last 24 hours by default.
pub fn window(from: Option<Time>, to: Option<Time>, now: Time) -> Result<TimeRange, SearchError> {
    let to = to.unwrap_or(now);
    let day = SignedDuration::from_hours(24);
    let from = from.unwrap_or_else(|| to.checked_sub(day).unwrap_or(Time::MIN));
    if from >= to {
        return Err(wrong(format!("from = {from} must lie before to = {to}")));
    }
    check_length(TimeRange { from, to })
}

fn check_length(range: TimeRange) -> Result<TimeRange, SearchError> {
    if range.to.duration_since(range.from).unsigned_abs() > SEARCH_RANGE_MAX {
        let (days, TimeRange { from, to }) = (SEARCH_RANGE_MAX.as_secs() / 86_400, range);
        return Err(wrong(format!("from {from} to {to}: one search covers at most {days} days")));
    }
    Ok(range)
}

/// The windows of `when`, or of `from` and `to`, cut to the hours and weekdays that were asked for.
pub fn windows(asked: &Asked, now: Time) -> Result<Vec<TimeRange>, SearchError> {
    let mut windows = match &asked.when {
        None => vec![window(asked.from, asked.to, now)?],
        Some(text) => {
            check_text("when", text)?;
            let told = when::understand(text, now).map_err(|why| wrong(format!("when = {text:?}: {why}")))?;
            let (from, to) = (asked.from.unwrap_or(Time::MIN), asked.to.unwrap_or(Time::MAX));
            when::cut(&told, TimeRange { from, to })
        }
    };
    if let (Some(first), Some(last)) = (windows.first(), windows.last()) {
        check_length(TimeRange { from: first.from, to: last.to })?;
    }
    if asked.hours.is_some() || asked.weekdays.is_some() {
        let days = asked.weekdays.as_deref().map(when::weekdays).transpose();
        let days = days.map_err(|why| wrong(format!("weekdays: {why}")))?;
        let hours = asked.hours.as_deref().map(when::hours).transpose();
        let hours = hours.map_err(|why| wrong(format!("hours: {why}")))?;
        windows = when::repeated(&windows, hours, days.as_ref());
    }
    if windows.len() > SEARCH_WINDOWS_MAX {
        let many = windows.len();
        return Err(wrong(format!(
            "{many} windows of time, at most {SEARCH_WINDOWS_MAX}; ask for fewer days"
        )));
    }
    if windows.is_empty() {
        return Err(wrong(
            "no time is left: `when`, `from`, `to`, `hours` and `weekdays` have no moment in common".into(),
        ));
    }
    Ok(windows)
}

/// Refuses a text that is longer than any name.
pub fn check_text(key: &str, text: &str) -> Result<(), SearchError> {
    if text.chars().count() > SEARCH_TEXT_CHARS_MAX {
        return Err(wrong(format!("{key}: at most {SEARCH_TEXT_CHARS_MAX} characters")));
    }
    Ok(())
}

fn place(asked: &Asked, atlas: &Atlas) -> Result<Vec<Condition>, SearchError> {
    let mut place = Vec::new();
    place.extend(circle(asked)?);
    if let Some(text) = &asked.near {
        let (point, name, note) = located("near", text, atlas)?;
        let radius_m = radius(asked.radius_m.unwrap_or(SEARCH_NEAR_RADIUS_M))?;
        place.push(Condition::Circle { point, radius_m, name, note });
    }
    if let Some(value) = &asked.polygon {
        let polygons = polygons_of(value, SEARCH_POLYGON_POINTS_MAX);
        let polygons = polygons.map_err(|why| wrong(format!("polygon: {why}")))?;
        place.push(Condition::Polygon { polygons });
    }
    place.extend(route(asked)?);
    if let Some(text) = &asked.area {
        check_text("area", text)?;
        let (area, former_name) = atlas.area(text).map_err(|why| wrong(format!("area = {text:?}: {why}")))?;
        place.push(Condition::Area { area, former_name });
    }
    if let Some(sites) = &asked.site {
        let known = |id: &SiteId| atlas.history().site(id).is_some();
        place.push(Condition::Sites { sites: ids("site", sites, SEARCH_SITES_MAX, known)? });
    }
    if let Some(devices) = &asked.device {
        let known = |id: &DeviceId| atlas.history().device(id).is_some();
        place.push(Condition::Devices { devices: ids("device", devices, SEARCH_DEVICES_MAX, known)? });
    }
    if let Some(text) = &asked.sees {
        let (point, name, note) = located("sees", text, atlas)?;
        place.push(Condition::Sees { point, name, note });
    }
    Ok(place)
}

fn located(
    key: &str,
    text: &str,
    atlas: &Atlas,
) -> Result<(PointView, Option<String>, Option<Words>), SearchError> {
    check_text(key, text)?;
    let found = atlas.locate(text).map_err(|why| wrong(format!("{key} = {text:?}: {why}")))?;
    Ok((PointView { lat: found.point.lat, lon: found.point.lon }, found.name, found.note))
}

fn circle(asked: &Asked) -> Result<Option<Condition>, SearchError> {
    let is_circle = asked.lat.is_some() || asked.lon.is_some();
    if !is_circle && (asked.radius_m.is_none() || asked.near.is_some()) {
        return Ok(None);
    }
    let (Some(lat), Some(lon), Some(radius_m)) = (asked.lat, asked.lon, asked.radius_m) else {
        return Err(wrong("a circle needs all of lat, lon and radius_m, or near".into()));
    };
    if !(Point { lat, lon }).is_valid() {
        return Err(wrong(format!("lat = {lat}, lon = {lon}: lat lies in -90..90, lon in -180..180")));
    }
    let (point, radius_m) = (PointView { lat, lon }, radius(radius_m)?);
    Ok(Some(Condition::Circle { point, radius_m, name: None, note: None }))
}

fn radius(radius_m: f64) -> Result<f64, SearchError> {
    if radius_m > 0.0 && radius_m <= SEARCH_RADIUS_M_MAX {
        return Ok(radius_m);
    }
    Err(wrong(format!("radius_m = {radius_m}: more than 0, at most {SEARCH_RADIUS_M_MAX} metres")))
}

fn route(asked: &Asked) -> Result<Option<Condition>, SearchError> {
    let Some(value) = &asked.route else {
        return match asked.width_m {
            Some(_) => Err(wrong("width_m belongs to a route: send route too".into())),
            None => Ok(None),
        };
    };
    let width_m = asked.width_m.unwrap_or(SEARCH_WIDTH_M);
    if !(width_m > 0.0 && width_m <= SEARCH_WIDTH_M_MAX) {
        return Err(wrong(format!("width_m = {width_m}: more than 0, at most {SEARCH_WIDTH_M_MAX} metres")));
    }
    let line = line_of(value, SEARCH_ROUTE_POINTS_MAX).map_err(|why| wrong(format!("route: {why}")))?;
    Ok(Some(Condition::Route { line, width_m }))
}

/// Ids that are known, each once, in order.
fn ids<I: ToString>(
    key: &str,
    asked: &[I],
    most: usize,
    is_known: impl Fn(&I) -> bool,
) -> Result<Vec<String>, SearchError> {
    if asked.is_empty() || asked.len() > most {
        return Err(wrong(format!("{key}: name 1 to {most} of them")));
    }
    if let Some(unknown) = asked.iter().find(|id| !is_known(id)) {
        return Err(wrong(format!("{key} = {}: there is no such {key}", unknown.to_string())));
    }
    let once: BTreeSet<String> = asked.iter().map(ToString::to_string).collect();
    Ok(once.into_iter().collect())
}

/// Tells one question from another, whatever its page and size of page.
fn digest(asked: &Asked) -> [u8; 16] {
    digest_of(&Asked { page: None, limit: None, purpose: None, ..asked.clone() })
}
