//! The answer, as in the contract of the HTTP API.
//!
//! Owns its types and how a clip and a span are shown. May not read anything.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cameras::{Found, Sight};
use super::geometry::{Line, polygon_from};
use super::lamps::LampView;
use super::question::Condition;
use super::round;
use super::when::Words;
use crate::hub::catalog::{Basis, ClipRow, Order};
use crate::hub::copies::AVAILABLE;
use crate::hub::registry::Placement;
use crate::model::{
    ClockQuality, ClockSource, CoverageSpan, GapCause, Sha256Hash, SpanState, SyncState, Time, View,
};

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
    /// By time, without overlap; `from` and `to` are the first one's start and the last one's end.
    pub windows: Vec<WindowView>,
    /// The zone in which civil times are read: Asia/Ho_Chi_Minh.
    pub zone: &'static str,
    /// Its offset from UTC, for instance "+07:00".
    pub offset: String,
    /// The time as somebody would say it.
    pub words: Words,
    #[schema(value_type = String)]
    pub order: Order,
    pub place: PlaceView,
    /// How many cameras stood in the place within the windows.
    pub cameras: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct WindowView {
    #[schema(value_type = String, format = DateTime)]
    pub from: Time,
    #[schema(value_type = String, format = DateTime)]
    pub to: Time,
}

/// Where: all conditions hold; none means everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlaceView {
    pub conditions: Vec<Condition>,
}

/// What a camera sees: a sector, or a ring of positions, longitude first as in GeoJSON.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ViewView {
    Sector {
        /// Degrees clockwise from north of its middle.
        heading_deg: f64,
        /// Its opening; 360 sees all around.
        angle_deg: f64,
        reach_m: f64,
    },
    Polygon {
        #[schema(value_type = Vec<Vec<f64>>)]
        polygon: Line,
    },
}

impl From<&View> for ViewView {
    fn from(view: &View) -> Self {
        match view {
            View::Sector(s) => {
                Self::Sector { heading_deg: s.heading_deg, angle_deg: s.angle_deg, reach_m: s.reach_m }
            }
            View::Polygon(corners) => {
                let rings = polygon_from(std::slice::from_ref(corners));
                Self::Polygon { polygon: rings.into_iter().next().unwrap_or_default() }
            }
        }
    }
}

/// How a camera sees the point that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct SeesView {
    pub distance_m: f64,
    /// Between the middle of the view and the point; the picture is best near 0.
    pub off_axis_deg: f64,
}

impl From<Sight> for SeesView {
    fn from(sight: Sight) -> Self {
        Self { distance_m: round(sight.distance_m, 1), off_axis_deg: round(sight.off_axis_deg, 1) }
    }
}

/// So sure is the time by which a clip was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Only the uncertainty of its clock puts it into the window.
    Maybe,
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
    /// `maybe` where only the uncertainty of the clock puts the clip into a window; absent where it is sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certainty: Option<Certainty>,
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
    /// A small H.264 working copy, where the hub can make one.
    pub copy: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewView>,
    /// Where the question asks which cameras see a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sees: Option<SeesView>,
    /// Confirmed seconds only; with `gap_s` and `unconfirmed_s` they make up the window.
    pub recorded_s: f64,
    /// Confirmed seconds only.
    pub gap_s: f64,
    /// Seconds of the last span that the box has not confirmed yet.
    pub unconfirmed_s: f64,
    /// There are more spans than one answer holds; the sums count all of them.
    pub truncated: bool,
    pub spans: Vec<SpanView>,
    /// Recorded, and not in a clip that the hub has: the footage is on the box.
    pub at_box: Vec<BoxSpanView>,
    /// Seconds that were recorded, that the hub has not, and that the box has overwritten since.
    pub overwritten_s: f64,
    /// There are more of these than one answer holds, or than were looked for.
    pub at_box_truncated: bool,
    pub fetch: FetchView,
    /// Lamp circuits near the camera, nearest first.
    pub lamps: Vec<LampView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct BoxSpanView {
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    #[schema(value_type = String, format = DateTime)]
    pub end: Time,
}

/// Whether footage can be asked for that is on the box.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FetchView {
    pub available: bool,
    pub why: Words,
}

impl FetchView {
    /// Until the hub can ask a box for footage.
    pub fn not_yet() -> Self {
        let vi = "Chưa lấy được hình từ hộp biên qua mạng; hình còn nằm trên hộp biên tại điểm lắp đặt, hãy giữ hộp và \
                  lấy tại chỗ trước khi bị ghi đè.";
        let en = "Footage can't be fetched from the box yet; it lies on the box at the site: keep the box and take it \
                  there before it is overwritten.";
        Self { available: false, why: Words { vi: vi.into(), en: en.into() } }
    }
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

pub fn site_view(placement: &Placement) -> SiteView {
    let site = &placement.site;
    SiteView { id: site.id.to_string(), name: site.name.clone(), address: site.address.clone() }
}

pub fn point_view(placement: &Placement) -> PointView {
    PointView { lat: placement.site.point.lat, lon: placement.site.point.lon }
}

pub fn span_view(span: &CoverageSpan, confirmed: bool) -> SpanView {
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

/// The view of a placement's camera.
pub fn view_view(placement: &Placement) -> Option<ViewView> {
    placement.device.view.as_ref().map(ViewView::from)
}

pub fn clip_view(
    row: ClipRow,
    placement: Option<&Placement>,
    found: Option<&Found>,
    is_certain: bool,
) -> ClipView {
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
        distance_m: found.and_then(Found::shown_distance_m),
        bearing_deg: found.and_then(Found::shown_bearing_deg),
        certainty: (!is_certain).then_some(Certainty::Maybe),
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
            copy: link(row.stored && AVAILABLE, "copy.mp4"),
            thumbnail: link(row.thumbnail_stored, "thumbnail.jpg"),
        },
        audio_codec: row.audio_codec,
        video: VideoView { codec: row.video.codec, width: row.video.width, height: row.video.height },
        run: row.run,
        first_fragment: row.first_fragment,
        fragments: row.fragments,
    }
}
