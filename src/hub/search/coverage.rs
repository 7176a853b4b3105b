//! The accounts of cameras for the windows of a question.
//!
//! Owns what is told of a camera beside its clips. Every second of the windows, while the camera stood there, is recorded or a
//! gap with its cause.

use std::collections::HashMap;

use jiff::SignedDuration;

use super::account::fill;
use super::answer::{
    BoxSpanView, CameraCoverage, FetchView, NameView, SeesView, SpanView, point_view, site_view, span_view,
    view_view,
};
use super::cameras::Found;
use super::lamps::{LampWords, Lamps};
use super::{Search, SearchError, devices_of, round};
use crate::hub::access::Pass;
use crate::hub::catalog::{ClipQuery, ClipRow, Order, TimeRange};
use crate::hub::registry::Placement;
use crate::limits::{
    COVERAGE_HEARTBEAT, PAGE_CLIPS_MAX, SEARCH_CAMERA_DAYS, SEARCH_SPANS_MAX, SEARCH_STORED_CLIPS_MAX,
};
use crate::model::{CoverageSpan, DeviceId, Time};

impl Search {
    /// Gives each camera and its account of the windows, as far as it stood where it was found, to `take`, as long as
    /// that says true. Every second is told: where the camera's box was the last to speak and may still be heard, its
    /// last word holds unconfirmed; what else no report covers is not yet reported.
    pub(super) fn each_account(
        &self,
        _pass: &Pass,
        found: &[Found],
        windows: &[TimeRange],
        now: Time,
        mut take: impl FnMut(&Found, Vec<SpanView>) -> bool,
    ) -> Result<(), SearchError> {
        let range = windows.first().zip(windows.last());
        let range = range.map(|(first, last)| TimeRange { from: first.from, to: last.to.min(now) });
        // What is to come has no account.
        let range = range.filter(|range| range.from < range.to);
        let days = range.map_or(0, |range| range.to.duration_since(range.from).as_hours() / 24) as usize + 1;
        for group in found.chunks((SEARCH_CAMERA_DAYS / days).max(1)) {
            let known = range.map_or(Ok(HashMap::new()), |range| self.known(group, range, now))?;
            for camera in group {
                let placement = &camera.stand.placement;
                let windows = windows_there(placement, windows, now);
                let of_camera = known.get(&placement.device.id).map_or(&[][..], Vec::as_slice);
                if !take(camera, self.account(placement, of_camera, &windows, now)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What is known of the accounts of some cameras.
    fn known(
        &self,
        found: &[Found],
        range: TimeRange,
        now: Time,
    ) -> Result<HashMap<DeviceId, Vec<CoverageSpan>>, SearchError> {
        // A window in the present asks for more than itself: an open span may go on within it, though its
        // last word lies before it; or may have ended, which a word behind the window says.
        let trusted_from = trusted_from(now);
        let asked = match range.to > trusted_from {
            true => TimeRange { from: range.from.min(trusted_from), to: now },
            false => range,
        };
        let devices: Vec<DeviceId> = devices_of(found).into_iter().cloned().collect();
        let known = self.catalog.coverage(&devices, asked)?;
        Ok(devices.into_iter().zip(known).collect())
    }

    /// The account of the windows without a hole.
    fn account(
        &self,
        placement: &Placement,
        known: &[CoverageSpan],
        windows: &[TimeRange],
        now: Time,
    ) -> Vec<SpanView> {
        let Some(to) = windows.last().map(|last| last.to) else { return Vec::new() };
        let tail = known
            .last()
            .filter(|last| last.open && last.end > trusted_from(now) && last.end < to)
            .filter(|_| !(self.is_offline)(&placement.device.box_id))
            .map(|last| CoverageSpan { start: last.end, end: to, merkle_root: None, ..last.clone() });
        let is_confirmed =
            |span: &CoverageSpan| tail.as_ref().is_none_or(|tail: &CoverageSpan| span.start < tail.start);
        let mut spans = Vec::new();
        for window in windows {
            let begin = known.partition_point(|span| span.end <= window.from);
            let those = known[begin..].iter().chain(&tail).take_while(|span| span.start < window.to);
            let those = those.filter(|span| span.end > window.from);
            spans.extend(fill(those.cloned().collect(), window.from, window.to));
        }
        spans.iter().map(|span| span_view(span, is_confirmed(span))).collect()
    }

    /// Reads what the account tells beside the spans, for all cameras at once.
    pub(super) fn beside<'a>(
        &self,
        found: &[Found],
        lamps: &'a Lamps,
        windows: &[TimeRange],
    ) -> Result<Beside<'a>, SearchError> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(Beside { stored: Stored::default(), words: LampWords::default(), lamps });
        };
        let range = TimeRange { from: first.from, to: last.to };
        let (stored, words) = (self.stored(found, windows)?, self.lamp_words(found, lamps, range)?);
        Ok(Beside { stored, words, lamps })
    }

    /// What of the windows the hub has as clips, oldest first, as many as one answer may read.
    fn stored(&self, found: &[Found], windows: &[TimeRange]) -> Result<Stored, SearchError> {
        let mut stored = Stored::default();
        let devices: Vec<DeviceId> = devices_of(found).into_iter().cloned().collect();
        for device in &devices {
            if let Some(from) = self.catalog.ring_from(device)? {
                stored.ring_from.insert(device.clone(), from);
            }
        }
        let mut query = ClipQuery {
            devices,
            ranges: windows.to_vec(),
            order: Order::Oldest,
            after: None,
            limit: PAGE_CLIPS_MAX,
        };
        let mut left = SEARCH_STORED_CLIPS_MAX;
        loop {
            let rows = self.catalog.clips(&query)?;
            let is_last = rows.len() < query.limit;
            query.after = rows.last().map(ClipRow::key);
            left = left.saturating_sub(rows.len());
            if left == 0 && !is_last {
                stored.known_to = rows.last().map(|row| row.start);
            }
            for row in rows.into_iter().filter(|row| row.stored) {
                stored.spans.entry(row.device).or_default().push((row.start, row.end));
            }
            if is_last || left == 0 {
                return Ok(stored);
            }
        }
    }
}

/// An open span is believed to go on that was heard of since.
fn trusted_from(now: Time) -> Time {
    let trusted_for = SignedDuration::try_from(COVERAGE_HEARTBEAT * 2).expect("minutes fit");
    now.checked_sub(trusted_for).unwrap_or(Time::MIN)
}

/// What the account tells beside the spans.
pub struct Beside<'a> {
    stored: Stored,
    words: LampWords,
    lamps: &'a Lamps,
}

impl Beside<'_> {
    /// The account of a camera as an answer shows it.
    pub fn with(
        &self,
        found: &Found,
        spans: Vec<SpanView>,
        windows: &[TimeRange],
        now: Time,
    ) -> CameraCoverage {
        let placement = &found.stand.placement;
        let sum = |wanted: &dyn Fn(&SpanView) -> bool| {
            let seconds = |s: &SpanView| s.end.duration_since(s.start).as_secs_f64();
            // The sum of nothing would be -0.
            round(spans.iter().filter(|s| wanted(s)).map(seconds).fold(0.0, |a, b| a + b), 3)
        };
        let OnBox { spans: at_box, overwritten_s, truncated: at_box_truncated } =
            self.stored.on_box(&placement.device.id, &spans);
        CameraCoverage {
            device: NameView { id: placement.device.id.to_string(), name: placement.device.name.clone() },
            site: site_view(placement),
            point: point_view(placement),
            distance_m: found.shown_distance_m(),
            bearing_deg: found.shown_bearing_deg(),
            view: view_view(placement),
            sees: found.sight.map(SeesView::from),
            recorded_s: sum(&|s| s.confirmed && s.cause.is_none()),
            gap_s: sum(&|s| s.confirmed && s.cause.is_some()),
            unconfirmed_s: sum(&|s| !s.confirmed),
            truncated: spans.len() > SEARCH_SPANS_MAX,
            spans: spans.into_iter().take(SEARCH_SPANS_MAX).collect(),
            at_box,
            overwritten_s,
            at_box_truncated,
            fetch: FetchView::not_yet(),
            lamps: self.words.near(placement.site.point, self.lamps, &windows_there(placement, windows, now)),
        }
    }
}

/// What the hub has of each camera, by start.
#[derive(Default)]
struct Stored {
    spans: HashMap<DeviceId, Vec<(Time, Time)>>,
    /// Clips that begin later were not read.
    known_to: Option<Time>,
    /// From when on the ring of its box has a camera's footage, where a box has said so.
    ring_from: HashMap<DeviceId, Time>,
}

/// What of a camera's footage the hub has not.
struct OnBox {
    spans: Vec<BoxSpanView>,
    overwritten_s: f64,
    /// That is not all of it.
    truncated: bool,
}

/// Less than this beside a clip is its seam, nothing to fetch.
const SEAM: SignedDuration = SignedDuration::from_secs(1);

impl Stored {
    /// The recorded spans without what the hub has.
    fn on_box(&self, device: &DeviceId, spans: &[SpanView]) -> OnBox {
        let none = Vec::new();
        let stored = self.spans.get(device).unwrap_or(&none);
        let known_to = self.known_to.unwrap_or(Time::MAX);
        let mut at_box: Vec<BoxSpanView> = Vec::new();
        let mut put = |start: Time, end: Time| match at_box.last_mut() {
            // Runs follow each other at once; between them is nothing.
            Some(last) if last.end == start => last.end = end,
            _ => at_box.push(BoxSpanView { start, end }),
        };
        let mut rest = stored.as_slice();
        for span in spans.iter().filter(|span| span.cause.is_none()) {
            let mut at = span.start;
            let end = span.end.min(known_to);
            while rest.first().is_some_and(|(_, clip_end)| *clip_end <= span.start) {
                rest = &rest[1..];
            }
            for &(start, clip_end) in rest.iter().take_while(|(start, _)| *start < end) {
                if start > at {
                    put(at, start);
                }
                at = at.max(clip_end);
            }
            if at < end {
                put(at, end);
            }
        }
        at_box.retain(|span| span.end.duration_since(span.start) >= SEAM);
        let ring_from = self.ring_from.get(device).copied().unwrap_or(Time::MIN);
        let mut overwritten_s = 0.0;
        at_box.retain_mut(|span| {
            let kept_from = ring_from.clamp(span.start, span.end);
            overwritten_s += kept_from.duration_since(span.start).as_secs_f64();
            span.start = kept_from;
            span.start < span.end
        });
        let truncated = at_box.len() > SEARCH_SPANS_MAX || spans.iter().any(|span| span.end > known_to);
        at_box.truncate(SEARCH_SPANS_MAX);
        OnBox { spans: at_box, overwritten_s: round(overwritten_s, 3), truncated }
    }
}

/// What of the windows is past and within the time that the camera stood there.
fn windows_there(placement: &Placement, windows: &[TimeRange], now: Time) -> Vec<TimeRange> {
    let until = now.min(placement.until.unwrap_or(Time::MAX));
    super::when::cut(windows, TimeRange { from: placement.from, to: until })
}
