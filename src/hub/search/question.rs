//! The question: what somebody asks, and what is understood of it.
//!
//! Owns its keys and limits. May not answer it.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{NameView, PointView};
use super::token::{Token, digest_of};
use super::{SearchError, wrong};
use crate::hub::catalog::{ClipKey, Order, TimeRange};
use crate::hub::registry::History;
use crate::limits::{PAGE_CLIPS, PAGE_CLIPS_MAX, SEARCH_DEVICES_MAX, SEARCH_RADIUS_M_MAX, SEARCH_RANGE_MAX};
use crate::model::{AreaId, DeviceId, Point, Time};

/// A question as somebody asks it; every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Start of the time window; without it, 24 hours before `to`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Time>,
    /// End of the time window; without it, now.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Time>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
    pub radius_m: Option<f64>,
    /// An area with everything below it.
    #[schema(value_type = Option<String>)]
    pub area: Option<AreaId>,
    #[schema(value_type = Option<Vec<String>>)]
    pub device: Option<Vec<DeviceId>>,
    #[schema(value_type = Option<String>)]
    pub order: Option<Order>,
    pub limit: Option<usize>,
    /// `next` of the page before; the other keys stay as they were.
    pub page: Option<String>,
    /// Why: goes into the access log.
    pub purpose: Option<String>,
}

/// A question that is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub range: TimeRange,
    pub place: Place,
    pub order: Order,
    pub limit: usize,
    pub after: Option<ClipKey>,
    pub digest: [u8; 16],
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    Everywhere,
    Circle { point: PointView, radius_m: f64 },
    Area { area: NameView },
    Devices { devices: Vec<String> },
}

/// The time window that was asked for, or that a page's question had: the last 24 hours by default.
pub fn window(from: Option<Time>, to: Option<Time>, now: Time) -> Result<TimeRange, SearchError> {
    let to = to.unwrap_or(now);
    let day = SignedDuration::from_hours(24);
    let from = from.unwrap_or_else(|| to.checked_sub(day).unwrap_or(Time::MIN));
    if from >= to {
        return Err(wrong(format!("from = {from} must lie before to = {to}")));
    }
    if to.duration_since(from).unsigned_abs() > SEARCH_RANGE_MAX {
        let days = SEARCH_RANGE_MAX.as_secs() / 86_400;
        return Err(wrong(format!("from {from} to {to}: one search covers at most {days} days")));
    }
    Ok(TimeRange { from, to })
}

impl Question {
    /// Understands what was asked at `now`, against the registry's history.
    pub fn understand(asked: &Asked, history: &History, now: Time) -> Result<Self, SearchError> {
        let limit = asked.limit.unwrap_or(PAGE_CLIPS);
        if !(1..=PAGE_CLIPS_MAX).contains(&limit) {
            return Err(wrong(format!("limit = {limit}: 1 to {PAGE_CLIPS_MAX} clips fit on a page")));
        }
        let digest = digest(asked);
        let token = asked.page.as_deref().map(|text| Token::<ClipKey>::read(text, digest)).transpose()?;
        let range = match &token {
            Some(token) => window(Some(token.from), Some(token.to), now)?,
            None => window(asked.from, asked.to, now)?,
        };
        Ok(Self {
            range,
            place: place(asked, history)?,
            order: asked.order.unwrap_or_default(),
            limit,
            after: token.map(|t| t.after),
            digest,
        })
    }

    /// The question in the access log's words.
    pub fn subject(&self) -> serde_json::Value {
        serde_json::json!({
            "from": self.range.from, "to": self.range.to, "place": self.place, "order": self.order,
            "limit": self.limit, "after": self.after,
        })
    }
}

fn place(asked: &Asked, history: &History) -> Result<Place, SearchError> {
    let is_circle = asked.lat.is_some() || asked.lon.is_some() || asked.radius_m.is_some();
    let kinds = [is_circle, asked.area.is_some(), asked.device.is_some()];
    if kinds.iter().filter(|&&k| k).count() > 1 {
        return Err(wrong("ask by one place: lat, lon and radius_m, or area, or device".into()));
    }
    if let Some(area) = &asked.area {
        let known =
            history.area(area).ok_or_else(|| wrong(format!("area = {area}: there is no such area")))?;
        return Ok(Place::Area { area: NameView { id: area.to_string(), name: known.name.clone() } });
    }
    if let Some(devices) = &asked.device {
        if devices.is_empty() || devices.len() > SEARCH_DEVICES_MAX {
            return Err(wrong(format!("device: name 1 to {SEARCH_DEVICES_MAX} devices")));
        }
        if let Some(unknown) = devices.iter().find(|id| history.device(id).is_none()) {
            return Err(wrong(format!("device = {unknown}: there is no such device")));
        }
        let devices: BTreeSet<String> = devices.iter().map(ToString::to_string).collect();
        return Ok(Place::Devices { devices: devices.into_iter().collect() });
    }
    if !is_circle {
        return Ok(Place::Everywhere);
    }
    let (Some(lat), Some(lon), Some(radius_m)) = (asked.lat, asked.lon, asked.radius_m) else {
        return Err(wrong("a circle needs all of lat, lon and radius_m".into()));
    };
    if !(Point { lat, lon }).is_valid() {
        return Err(wrong(format!("lat = {lat}, lon = {lon}: lat lies in -90..90, lon in -180..180")));
    }
    if !(radius_m > 0.0 && radius_m <= SEARCH_RADIUS_M_MAX) {
        return Err(wrong(format!(
            "radius_m = {radius_m}: more than 0, at most {SEARCH_RADIUS_M_MAX} metres"
        )));
    }
    Ok(Place::Circle { point: PointView { lat, lon }, radius_m })
}

/// Tells one question from another, whatever its page and size of page.
fn digest(asked: &Asked) -> [u8; 16] {
    digest_of(&Asked { page: None, limit: None, purpose: None, ..asked.clone() })
}
