//! Search: a time, a place, and what the hub can say about them: clips, and gaps with their causes.
//!
//! Owns the answering and exact paging; also the reads of events and of what was refused. Reads the catalog and the
//! registry's history, never the journal. May not answer without the gate's [`Pass`]. Everything here blocks: call it
//! on a thread that may wait.

mod account;
pub mod answer;
pub mod question;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use uuid::Uuid;

use super::access::Pass;
use super::catalog::{
    Catalog, CatalogError, ClipQuery, ClipRow, EventPage, EventQuery, RefusedCount, RefusedPage,
    RefusedQuery, TimeRange,
};
use super::registry::{History, Placement};
use crate::limits::{COVERAGE_HEARTBEAT, SEARCH_CAMERAS_MAX, SEARCH_SPANS_MAX};
use crate::model::{AreaId, BoxId, CoverageSpan, DeviceId, Point, Time, distance_m};
use account::fill;
use answer::{
    Answer, CameraCoverage, ClipView, NameView, SpanView, Understood, clip_view, point_view, site_view,
    span_view,
};
use question::{Place, Question};
use token::Token;

/// Why a question can't be answered; the texts are for who asked.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("{0}")]
    Question(String),
    #[error("{cameras} cameras; one search may touch {SEARCH_CAMERAS_MAX}: choose a smaller place")]
    TooManyCameras { cameras: usize },
    #[error("the page token {0}")]
    Page(&'static str),
    #[error("the index did not answer")]
    Catalog(#[from] CatalogError),
}

fn wrong(text: String) -> SearchError {
    SearchError::Question(text)
}

/// A camera where the question found it.
pub struct Found {
    pub placement: Placement,
    pub distance_m: Option<f64>,
    pub bearing_deg: Option<f64>,
}

/// The same, by what tells placements apart: the device and since when it stood there.
type ByPlace<'a> = BTreeMap<(&'a DeviceId, Time), &'a Found>;

/// Whether a box is known to be offline; search need not know how anybody knows.
pub type IsOffline = Arc<dyn Fn(&BoxId) -> bool + Send + Sync>;

/// Answers questions from the index and the registry.
#[derive(Clone)]
pub struct Search {
    catalog: Arc<dyn Catalog>,
    is_offline: IsOffline,
}

impl Search {
    pub fn new(catalog: Arc<dyn Catalog>, is_offline: IsOffline) -> Self {
        Self { catalog, is_offline }
    }

    /// Clips, and the account of every camera in the place for the whole window. Blocking.
    pub fn answer(
        &self,
        _pass: &Pass,
        question: &Question,
        history: &History,
        now: Time,
    ) -> Result<Answer, SearchError> {
        let found = find_cameras(question, history);
        let devices: BTreeSet<&DeviceId> = found.iter().map(|f| &f.placement.device.id).collect();
        let cameras = devices.len();
        if cameras > SEARCH_CAMERAS_MAX {
            return Err(SearchError::TooManyCameras { cameras });
        }
        let by_place: ByPlace =
            found.iter().map(|f| ((&f.placement.device.id, f.placement.from), f)).collect();
        let (rows, more) = self.page(question, &devices, &by_place, history)?;
        let next = rows
            .last()
            .filter(|_| more)
            .map(|last| Token::new(question.digest, question.range, last.key()).write());
        let mut clips = Vec::with_capacity(rows.len());
        for row in rows {
            let placement = placement_at(history, &row.device, row.start.max(question.range.from));
            let place = placement.as_ref().and_then(|p| by_place.get(&(&p.device.id, p.from)).copied());
            clips.push(clip_view(row, placement.as_ref(), place));
        }
        let coverage =
            found.iter().map(|f| self.coverage(f, question.range, now)).collect::<Result<_, _>>()?;
        let understood = Understood {
            from: question.range.from,
            to: question.range.to,
            order: question.order,
            place: question.place.clone(),
            cameras,
        };
        Ok(Answer { understood, clips, coverage, next })
    }

    /// One clip, as an answer shows it. Blocking.
    pub fn clip(&self, _pass: &Pass, clip: Uuid, history: &History) -> Result<Option<ClipView>, SearchError> {
        let Some(row) = self.catalog.clip(clip)? else { return Ok(None) };
        let placement = placement_at(history, &row.device, row.start);
        Ok(Some(clip_view(row, placement.as_ref(), None)))
    }

    /// What the boxes said. Blocking.
    pub fn events(&self, _pass: &Pass, query: &EventQuery) -> Result<EventPage, SearchError> {
        Ok(self.catalog.events(query)?)
    }

    /// What was set aside, newest first, and how much of it there is. Blocking.
    pub fn refused(
        &self,
        _pass: &Pass,
        query: &RefusedQuery,
    ) -> Result<(RefusedPage, Vec<RefusedCount>), SearchError> {
        let page = self.catalog.refused(query)?;
        let mut counts = self.catalog.refused_counts()?;
        counts.retain(|count| {
            query.box_id.as_ref().is_none_or(|box_id| *box_id == count.box_id)
                && query.reason.as_ref().is_none_or(|reason| *reason == count.reason)
        });
        Ok((page, counts))
    }

    /// The page's clips, and whether there are more. A camera that moved within the window is asked for only where it
    /// stood in the place.
    fn page(
        &self,
        question: &Question,
        devices: &BTreeSet<&DeviceId>,
        found: &ByPlace,
        history: &History,
    ) -> Result<(Vec<ClipRow>, bool), SearchError> {
        let places: BTreeMap<&DeviceId, Vec<Placement>> =
            devices.iter().map(|&device| (device, history.placements(device))).collect();
        let stood_there = |row: &ClipRow| {
            let places = &places[&row.device];
            place_index(places, row.start.max(question.range.from))
                .is_some_and(|n| found.contains_key(&(&row.device, places[n].from)))
        };
        let mut query = ClipQuery {
            devices: devices.iter().map(|&device| device.clone()).collect(),
            ranges: vec![question.range],
            order: question.order,
            after: question.after,
            limit: question.limit + 1,
        };
        let mut page = Vec::new();
        loop {
            let rows = self.catalog.clips(&query)?;
            let is_last = rows.len() < query.limit;
            query.after = rows.last().map(ClipRow::key).or(query.after);
            page.extend(rows.into_iter().filter(stood_there));
            if page.len() > question.limit || is_last {
                let more = page.len() > question.limit;
                page.truncate(question.limit);
                return Ok((page, more));
            }
        }
    }

    /// Fills every second of the camera's time in the window: where its box was the last to speak and may
    /// still be heard, its last word holds unconfirmed; what else no report covers is not yet reported.
    fn coverage(&self, found: &Found, range: TimeRange, now: Time) -> Result<CameraCoverage, SearchError> {
        let placement = &found.placement;
        let from = range.from.max(placement.from);
        let to = range.to.min(now).min(placement.until.unwrap_or(Time::MAX));
        let (spans, tail_from) = match from < to {
            true => self.account(placement, TimeRange { from, to }, now)?,
            false => (Vec::new(), None),
        };
        let spans: Vec<SpanView> = spans
            .iter()
            .map(|span| span_view(span, tail_from.is_none_or(|tail_from| span.start < tail_from)))
            .collect();
        let sum = |wanted: &dyn Fn(&SpanView) -> bool| {
            let seconds = |s: &SpanView| s.end.duration_since(s.start).as_secs_f64();
            // The sum of nothing would be -0.
            round(spans.iter().filter(|s| wanted(s)).map(seconds).fold(0.0, |a, b| a + b), 3)
        };
        Ok(CameraCoverage {
            device: NameView { id: placement.device.id.to_string(), name: placement.device.name.clone() },
            site: site_view(placement),
            point: point_view(placement),
            distance_m: found.distance_m,
            bearing_deg: found.bearing_deg,
            recorded_s: sum(&|s| s.confirmed && s.cause.is_none()),
            gap_s: sum(&|s| s.confirmed && s.cause.is_some()),
            unconfirmed_s: sum(&|s| !s.confirmed),
            truncated: spans.len() > SEARCH_SPANS_MAX,
            spans: spans.into_iter().take(SEARCH_SPANS_MAX).collect(),
        })
    }

    /// The account of the window without a hole, and from where on it is the box's last word only.
    fn account(
        &self,
        placement: &Placement,
        window: TimeRange,
        now: Time,
    ) -> Result<(Vec<CoverageSpan>, Option<Time>), SearchError> {
        let trusted_for = SignedDuration::try_from(COVERAGE_HEARTBEAT * 2).expect("minutes fit");
        let trusted_from = now.checked_sub(trusted_for).unwrap_or(Time::MIN);
        // A window in the present asks for more than itself: an open span may go on within it, though its
        // last word lies before it; or may have ended, which a word behind the window says.
        let asked = match window.to > trusted_from {
            true => TimeRange { from: window.from.min(trusted_from), to: now },
            false => window,
        };
        let devices = std::slice::from_ref(&placement.device.id);
        let mut known = self.catalog.coverage(devices, asked)?.pop().unwrap_or_default();
        let tail = known
            .last()
            .filter(|last| last.open && last.end > trusted_from && last.end < window.to)
            .filter(|_| !(self.is_offline)(&placement.device.box_id))
            .map(|last| CoverageSpan { start: last.end, end: window.to, merkle_root: None, ..last.clone() });
        let tail_from = tail.as_ref().map(|tail| tail.start);
        known.extend(tail);
        Ok((fill(known, window.from, window.to), tail_from))
    }
}

/// The placement that holds at `time`; before the first, the first.
fn place_index(places: &[Placement], time: Time) -> Option<usize> {
    let after = places.partition_point(|p| p.from <= time);
    if places.is_empty() { None } else { Some(after.saturating_sub(1)) }
}

fn placement_at(history: &History, device: &DeviceId, time: Time) -> Option<Placement> {
    let places = history.placements(device);
    place_index(&places, time).map(|n| places[n].clone())
}

fn find_cameras(question: &Question, history: &History) -> Vec<Found> {
    let areas = match &question.place {
        Place::Area { area } => {
            AreaId::new(area.id.clone()).ok().map(|id| history.areas_below(&id, question.range))
        }
        _ => None,
    };
    let mut found = Vec::new();
    for placement in history.cameras(question.range) {
        let (mut distance, mut bearing) = (None, None);
        let is_wanted = match &question.place {
            Place::Everywhere => true,
            Place::Circle { point, radius_m } => {
                let centre = Point { lat: point.lat, lon: point.lon };
                let metres = distance_m(centre, placement.site.point);
                distance = Some(round(metres, 1));
                bearing = Some(round(bearing_deg(centre, placement.site.point), 1) % 360.0);
                metres <= *radius_m
            }
            Place::Area { .. } => areas.as_ref().is_some_and(|areas| areas.contains(&placement.site.area)),
            Place::Devices { devices } => devices.iter().any(|id| *id == placement.device.id.as_str()),
        };
        if is_wanted {
            found.push(Found { placement, distance_m: distance, bearing_deg: bearing });
        }
    }
    // Nearest first; without a point, by device.
    let by = |f: &Found| (f.distance_m.map_or(0, |m| (m * 10.0) as u64), f.placement.device.id.clone());
    found.sort_by_key(by);
    found
}

/// Initial bearing of the great circle from `a` to `b`, degrees clockwise from north, 0 to 360.
fn bearing_deg(a: Point, b: Point) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let lon = (b.lon - a.lon).to_radians();
    let y = lon.sin() * lat_b.cos();
    let x = lat_a.cos() * lat_b.sin() - lat_a.sin() * lat_b.cos() * lon.cos();
    y.atan2(x).to_degrees().rem_euclid(360.0)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

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
