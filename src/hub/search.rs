//! Search: a time, a place, and what the hub can say about them: clips, and gaps with their causes.
//!
//! Owns the question, its answer (the HTTP contract's types) and exact paging; also the reads of events
//! and of what was refused. Reads the catalog and the registry's history, never the journal. May not
//! answer without the gate's [`Pass`]. Everything here blocks: call it on a thread that may wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Pass;
use super::catalog::{
    Basis, Catalog, CatalogError, ClipKey, ClipRow, EventPage, EventQuery, Order, RefusedCount, RefusedPage,
    RefusedQuery, TimeRange,
};
use super::registry::{History, Placement};
use crate::limits::{
    COVERAGE_HEARTBEAT, PAGE_CLIPS, PAGE_CLIPS_MAX, SEARCH_CAMERAS_MAX, SEARCH_DEVICES_MAX,
    SEARCH_RADIUS_M_MAX, SEARCH_RANGE_MAX, SEARCH_SPANS_MAX,
};
use crate::model::{
    AreaId, BoxId, ClockQuality, ClockSource, CoverageSpan, DeviceId, GapCause, Point, Sha256Hash, SpanState,
    SyncState, Time, distance_m,
};

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
    after: Option<ClipKey>,
    digest: [u8; 16],
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    Everywhere,
    Circle { point: PointView, radius_m: f64 },
    Area { area: NameView },
    Devices { devices: Vec<String> },
}

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

// --- the answer, as in the contract ---

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Answer {
    pub understood: Understood,
    pub clips: Vec<ClipView>,
    pub coverage: Vec<CameraCoverage>,
    /// Token of the next page; null at the end.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Understood {
    #[schema(value_type = String, format = DateTime)]
    pub from: Time,
    #[schema(value_type = String, format = DateTime)]
    pub to: Time,
    #[schema(value_type = String)]
    pub order: Order,
    pub place: Place,
    /// How many cameras stood in the place within the window.
    pub cameras: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NameView {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SiteView {
    pub id: String,
    pub name: String,
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct PointView {
    pub lat: f64,
    pub lon: f64,
}

/// How far a time can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ClockView {
    /// `camera` or `box`.
    #[schema(value_type = String)]
    pub source: ClockSource,
    /// `synced`, `unsynced` or `unknown`.
    #[schema(value_type = String)]
    pub sync: SyncState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClipView {
    pub id: Uuid,
    pub device: NameView,
    /// Where the camera stood when it recorded the clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<PointView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearing_deg: Option<f64>,
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    #[schema(value_type = String, format = DateTime)]
    pub end: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub motion_start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub motion_end: Option<Time>,
    /// The times as they were recorded, where `start` and `end` are better known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedView>,
    pub peak_score: f64,
    pub clock: ClockView,
    #[serde(rename = "where")]
    pub held: Held,
    pub bytes: u64,
    #[schema(value_type = String)]
    pub sha256: Sha256Hash,
    pub video: VideoView,
    /// As in RFC 6381: `mp4a.40.2`, `alaw`, `ulaw`. Absent: the clip has no audio. Browsers play only AAC (`mp4a`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<String>,
    pub run: Uuid,
    pub first_fragment: u64,
    pub fragments: u64,
    pub links: Links,
}

/// What the clock said, beside what is shown.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RecordedView {
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    #[schema(value_type = String, format = DateTime)]
    pub end: Time,
    /// `clock_correction`, or `arrival` where the recorded time is implausible.
    pub shown_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    Hub,
    Box,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VideoView {
    /// As in RFC 6381: `avc1.64001f`, `hvc1.1.6.L93.B0`. Not every browser plays H.265 (`hvc1`).
    pub codec: String,
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Links {
    pub video: Option<String>,
    pub thumbnail: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CameraCoverage {
    pub device: NameView,
    pub site: SiteView,
    pub point: PointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearing_deg: Option<f64>,
    /// Confirmed seconds only; with `gap_s` and `unconfirmed_s` they make up the window.
    pub recorded_s: f64,
    /// Confirmed seconds only.
    pub gap_s: f64,
    /// Seconds of the last span that the box has not confirmed yet.
    pub unconfirmed_s: f64,
    /// There are more spans than one answer holds; the sums count all of them.
    pub truncated: bool,
    pub spans: Vec<SpanView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SpanView {
    /// `recorded` or `gap`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cause: Option<GapCause>,
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    #[schema(value_type = String, format = DateTime)]
    pub end: Time,
    /// The box has not said yet that the span ended.
    pub open: bool,
    /// `false`: so by the box's last word, not yet confirmed. Absent where it is confirmed.
    #[serde(skip_serializing_if = "is_confirmed")]
    #[schema(required = false)]
    pub confirmed: bool,
}

fn is_confirmed(confirmed: &bool) -> bool {
    *confirmed
}

// --- understanding ---

/// What a page token holds: the question it belongs to, its window, and where to go on.
#[derive(Serialize, Deserialize)]
pub struct Token<K> {
    version: u8,
    digest: [u8; 16],
    pub from: Time,
    pub to: Time,
    pub after: K,
}

const TOKEN_VERSION: u8 = 1;
const TOKEN_BYTES_MAX: usize = 400;

impl<K: Serialize + DeserializeOwned> Token<K> {
    pub fn new(digest: [u8; 16], range: TimeRange, after: K) -> Self {
        Self { version: TOKEN_VERSION, digest, from: range.from, to: range.to, after }
    }

    pub fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(postcard::to_stdvec(self).expect("a token has only types that postcard knows"))
    }

    /// The token of `text`, if it belongs to the question with this digest.
    pub fn read(text: &str, digest: [u8; 16]) -> Result<Self, SearchError> {
        let unreadable = SearchError::Page("can't be read; use `next` of an answer as it is");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(unreadable);
        }
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(text) else { return Err(unreadable) };
        match postcard::from_bytes::<Self>(&bytes) {
            Ok(token) if token.version != TOKEN_VERSION => {
                Err(SearchError::Page("is of another version; ask again from the first page"))
            }
            Ok(token) if token.digest != digest => {
                Err(SearchError::Page("belongs to another question; repeat the question as it was"))
            }
            Ok(token) => Ok(token),
            Err(_) => Err(unreadable),
        }
    }
}

/// The time window that was asked for, or that a page's question had: the last 24 hours by default.
pub(super) fn window(from: Option<Time>, to: Option<Time>, now: Time) -> Result<TimeRange, SearchError> {
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

fn wrong(text: String) -> SearchError {
    SearchError::Question(text)
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

pub(super) fn digest_of(question: &impl Serialize) -> [u8; 16] {
    let json = serde_json::to_vec(question).expect("a question has only text keys");
    *Sha256::digest(json).first_chunk().expect("32 bytes have a first half")
}

// --- answering ---

/// A camera where the question found it.
struct Found {
    placement: Placement,
    distance_m: Option<f64>,
    bearing_deg: Option<f64>,
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

    /// Merges the cameras' clips by time: each camera's are read in small chunks, as far as needed.
    fn page(
        &self,
        question: &Question,
        devices: &BTreeSet<&DeviceId>,
        found: &ByPlace,
        history: &History,
    ) -> Result<(Vec<ClipRow>, bool), SearchError> {
        let mut feeds: Vec<Feed> = Vec::with_capacity(devices.len());
        for &device in devices {
            let places = history.placements(device);
            let wanted = places.iter().map(|p| found.contains_key(&(&p.device.id, p.from))).collect();
            let mut feed =
                Feed { device, places, wanted, rows: VecDeque::new(), after: question.after, done: false };
            feed.fill(&*self.catalog, question)?;
            feeds.push(feed);
        }
        let mut heads: BTreeMap<ClipKey, usize> =
            feeds.iter().enumerate().filter_map(|(n, feed)| feed.head().map(|key| (key, n))).collect();
        let mut page = Vec::new();
        while let Some((key, n)) = match question.order {
            Order::Newest => heads.pop_last(),
            Order::Oldest => heads.pop_first(),
        } {
            if page.len() == question.limit {
                return Ok((page, true));
            }
            let feed = &mut feeds[n];
            page.push(feed.rows.pop_front().expect("it has a head"));
            debug_assert_eq!(page.last().map(ClipRow::key), Some(key));
            feed.fill(&*self.catalog, question)?;
            heads.extend(feed.head().map(|key| (key, n)));
        }
        Ok((page, false))
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
        let mut known = self.catalog.coverage(&placement.device.id, asked)?;
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

/// One camera's clips on their way into a page.
struct Feed<'a> {
    device: &'a DeviceId,
    places: Vec<Placement>,
    /// Which of `places` the question asks for.
    wanted: Vec<bool>,
    rows: VecDeque<ClipRow>,
    after: Option<ClipKey>,
    done: bool,
}

/// Clips read from one camera at a time.
const FEED_CLIPS: usize = 16;

impl Feed<'_> {
    fn head(&self) -> Option<ClipKey> {
        self.rows.front().map(ClipRow::key)
    }

    fn fill(&mut self, catalog: &dyn Catalog, question: &Question) -> Result<(), SearchError> {
        while self.rows.is_empty() && !self.done {
            let rows = catalog.clips(self.device, question.range, question.order, self.after, FEED_CLIPS)?;
            self.done = rows.len() < FEED_CLIPS;
            self.after = rows.last().map(ClipRow::key).or(self.after);
            let from = question.range.from;
            let (places, wanted) = (&self.places, &self.wanted);
            self.rows.extend(
                rows.into_iter()
                    .filter(|row| place_index(places, row.start.max(from)).is_some_and(|n| wanted[n])),
            );
        }
        Ok(())
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

/// Cuts `known` to the window and puts a gap into every hole. `known` is by time, without overlap.
fn fill(known: Vec<CoverageSpan>, from: Time, to: Time) -> Vec<CoverageSpan> {
    let hole = |start: Time, end: Time| CoverageSpan {
        span: None,
        state: SpanState::Gap { cause: GapCause::NotYetReported },
        start,
        end,
        open: end == to,
        merkle_root: None,
    };
    let mut filled = Vec::new();
    let mut at = from;
    for mut span in known {
        span.start = span.start.max(at);
        let is_cut = span.end > to;
        span.end = span.end.min(to);
        if span.start >= span.end {
            continue;
        }
        if at < span.start {
            filled.push(hole(at, span.start));
        }
        // A span that ends before the window's end and goes on is shown open; so is one that is cut.
        span.open |= is_cut;
        at = span.end;
        filled.push(span);
    }
    if at < to {
        filled.push(hole(at, to));
    }
    filled
}

fn site_view(placement: &Placement) -> SiteView {
    let site = &placement.site;
    SiteView { id: site.id.to_string(), name: site.name.clone(), address: site.address.clone() }
}

fn point_view(placement: &Placement) -> PointView {
    PointView { lat: placement.site.point.lat, lon: placement.site.point.lon }
}

fn span_view(span: &CoverageSpan, confirmed: bool) -> SpanView {
    let (state, cause) = match span.state {
        SpanState::Recorded => ("recorded", None),
        SpanState::Gap { cause } => ("gap", Some(cause)),
    };
    SpanView { state, cause, start: span.start, end: span.end, open: span.open, confirmed }
}

impl From<ClockQuality> for ClockView {
    fn from(clock: ClockQuality) -> Self {
        let ClockQuality { source, sync, offset_ms, uncertainty_ms } = clock;
        Self { source, sync, offset_ms, uncertainty_ms }
    }
}

fn clip_view(row: ClipRow, placement: Option<&Placement>, found: Option<&Found>) -> ClipView {
    let link = |held: bool, name: &str| held.then(|| format!("/api/v1/clips/{}/{name}", row.clip));
    let recorded = |shown_by: &str, correction_ms| {
        let (start, end) = (row.recorded_start, row.recorded_end);
        Some(RecordedView { start, end, shown_by: shown_by.into(), correction_ms })
    };
    let name = placement.map_or_else(|| row.device.to_string(), |p| p.device.name.clone());
    ClipView {
        id: row.clip,
        device: NameView { id: row.device.to_string(), name },
        site: placement.map(site_view),
        point: placement.map(point_view),
        distance_m: found.and_then(|f| f.distance_m),
        bearing_deg: found.and_then(|f| f.bearing_deg),
        start: row.start,
        end: row.end,
        motion_start: row.motion_start,
        motion_end: row.motion_end,
        recorded: match row.basis {
            Basis::Recorded => None,
            Basis::Arrival => recorded("arrival", None),
            Basis::Corrected { correction_ms, .. } => recorded("clock_correction", Some(correction_ms)),
        },
        peak_score: row.peak_score,
        clock: row.clock.into(),
        held: if row.stored { Held::Hub } else { Held::Box },
        bytes: row.bytes,
        sha256: row.sha256,
        links: Links {
            video: link(row.stored, "video.mp4"),
            thumbnail: link(row.thumbnail_stored, "thumbnail.jpg"),
        },
        audio_codec: row.audio_codec,
        video: VideoView { codec: row.video.codec, width: row.video.width, height: row.video.height },
        run: row.run,
        first_fragment: row.first_fragment,
        fragments: row.fragments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time::from_second(1_800_000_000 + second).unwrap()
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

    #[test]
    fn every_second_of_the_window_is_told() {
        let span = |start: i64, end: i64, open: bool| CoverageSpan {
            span: Some(Uuid::nil()),
            state: SpanState::Recorded,
            start: at(start),
            end: at(end),
            open,
            merkle_root: None,
        };
        type Told = &'static [(i64, i64, bool)];
        let table: [(Vec<CoverageSpan>, Told); 4] = [
            (vec![], &[(0, 100, false)]),
            (vec![span(-5, 120, false)], &[(0, 100, true)]),
            (
                vec![span(10, 20, false), span(30, 40, true)],
                &[(0, 10, false), (10, 20, true), (20, 30, false), (30, 40, true), (40, 100, false)],
            ),
            (vec![span(-9, -1, false), span(101, 120, false)], &[(0, 100, false)]),
        ];
        for (known, expected) in table {
            let told: Vec<_> = fill(known, at(0), at(100))
                .iter()
                .map(|s| (s.start, s.end, s.state == SpanState::Recorded))
                .collect();
            let expected: Vec<_> = expected.iter().map(|&(s, e, r)| (at(s), at(e), r)).collect();
            assert_eq!(told, expected);
        }
    }
}
